"""Observability: Prometheus metrics, structured logs, event loop lag."""

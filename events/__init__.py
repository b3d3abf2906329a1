"""The event store: the catalogue of event types and the append-only event log. Knows nothing of HTTP or models."""

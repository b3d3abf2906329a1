"""The HTTP server: connections, limits, listeners."""

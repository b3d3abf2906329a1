"""The HTTP client for model servers."""

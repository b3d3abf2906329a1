"""API keys: recorded ones, scopes, and what ends with a key."""

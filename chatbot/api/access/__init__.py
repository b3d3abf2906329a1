"""Who calls: API keys, and tickets in their place."""

"""What happened: the catalogue of events and the log that keeps them. Knows nothing of chat transport or the web."""

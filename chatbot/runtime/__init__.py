"""Process-level utilities: throttle, backoff, background tasks, signals, standard streams, timestamps, ids."""

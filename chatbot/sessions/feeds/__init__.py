"""Fan-out of recorded events to readers."""

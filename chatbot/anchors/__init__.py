"""Anchors: signed checkpoints of the log in places that nobody who writes the log can rewrite; and the witness."""

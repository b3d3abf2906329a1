"""The actor of a live session, and what it needs to run."""

"""The pure core of a session: commands, decisions, state."""

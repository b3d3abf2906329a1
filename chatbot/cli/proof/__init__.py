"""Commands that verify the log and prove events of it."""

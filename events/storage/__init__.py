"""How events are stored: group commit, and one folder for each database."""

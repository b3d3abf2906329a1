"""Settings: what they are, where they come from, and how they are shown. Imports nothing else of this project."""

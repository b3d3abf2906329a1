"""Logs copied: export, import, migration, backup, recovery."""

"""Copying logs: export, import, migration, online backup and recovery."""

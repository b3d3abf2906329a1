"""The read models in an SQLite file."""

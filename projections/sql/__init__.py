"""The SQL that both stores of the projections run, in the dialect of SQLite (`sql_dialect.py` translates it)."""

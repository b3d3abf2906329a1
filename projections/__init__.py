"""Projections: read models folded from the log, stored in projections.db, and rebuilt from the log at any time."""

"""What it means: folds over the log, kept in projections.db, rebuilt at will."""

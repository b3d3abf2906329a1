"""Pure folds over events: what the read models hold."""

"""Commands that copy, move and repair the log and rebuild the projections."""

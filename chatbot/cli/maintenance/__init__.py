"""Commands that copy, move and repair."""

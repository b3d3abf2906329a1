"""A reply while it is generated."""

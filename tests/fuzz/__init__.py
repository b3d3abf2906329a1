"""Arbitrary and damaged bytes for every parser of what others send."""

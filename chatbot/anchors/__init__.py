"""Anchors: signed checkpoints of the log in places that whoever can write the log cannot rewrite; and the witness."""

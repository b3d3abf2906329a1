"""Projections that one process keeps and several processes of the machine read."""

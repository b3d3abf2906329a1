"""Replaced names."""

FILES: dict[str, str] = {}
IDENTIFIERS: dict[str, str] = {"Leisure": "DutyCycleThrottle"}

"""Texts as PostgreSQL holds them: it refuses a NUL, which ids and names of an imported event can have."""

from typing import Any

NUL, REPLACEMENT = "\0", "\ufffd"


def storable(value: Any) -> Any:
    """A parameter of a statement, a text or rows of them, with each NUL replaced; any other value as it is."""
    if isinstance(value, str):
        return value.replace(NUL, REPLACEMENT) if NUL in value else value
    if isinstance(value, list | tuple):
        return [storable(one) for one in value]
    return value

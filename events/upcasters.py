"""Lift an old shape of an event to the current one, at read. Pure; the log itself is never migrated.

Each step takes the decoded JSON object of one schema version and returns that of the next. Steps run in order
until the current version is reached. A type whose newer versions only have more fields, with defaults, needs none.
"""

from collections.abc import Callable
from typing import Any

from events.catalogue import SCHEMA_VERSIONS

Fields = dict[str, Any]


def session_created_1(fields: Fields) -> Fields:
    """Version 1 counted the timeout in hours, always above zero, and had no title. 0 seconds mean no timeout now."""
    lifted = {**fields, "timeout_s": max(1, round(fields["timeout_hours"] * 3600))}
    del lifted["timeout_hours"]
    return lifted


STEPS: dict[tuple[str, int], Callable[[Fields], Fields]] = {("session_created", 1): session_created_1}


def upcast(event_type: str, schema_version: int, fields: Fields) -> Fields:
    """`fields` as the current schema version of `event_type` has them.

    Raises LookupError when a step is missing, which a test makes impossible for released shapes.
    """
    for version in range(schema_version, SCHEMA_VERSIONS[event_type]):
        fields = STEPS[event_type, version](fields)
    return fields

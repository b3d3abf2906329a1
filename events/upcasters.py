"""Upcasters: convert events of old schema versions to the current one when they are read. Pure. Logs are not migrated.

Each step takes the decoded JSON object of one schema version and returns that of the next. Steps run in order
until the current version is reached. A type whose newer versions only add fields with defaults needs no step.
"""

from collections.abc import Callable
from typing import Any

from events.catalogue import SCHEMA_VERSIONS

Fields = dict[str, Any]


def session_created_1(fields: Fields) -> Fields:
    """Version 1 had the timeout in hours, always above zero, and no title. Since version 2, 0 means no timeout."""
    upcast_fields = {**fields, "timeout_s": max(1, round(fields["timeout_hours"] * 3600))}
    del upcast_fields["timeout_hours"]
    return upcast_fields


STEPS: dict[tuple[str, int], Callable[[Fields], Fields]] = {("session_created", 1): session_created_1}


def upcast(event_type: str, schema_version: int, fields: Fields) -> Fields:
    """`fields`, which are of `schema_version`, converted to the current schema version of `event_type`.

    Raises LookupError if a step is missing; a test checks that none is, for all released versions.
    """
    for version in range(schema_version, SCHEMA_VERSIONS[event_type]):
        fields = STEPS[event_type, version](fields)
    return fields

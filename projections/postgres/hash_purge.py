"""Removal of erased hashes from the pages of the tables in PostgreSQL: a VACUUM on a connection of its own."""

import asyncio
from typing import Any

from events.storage.postgres.postgres_connection import Database, close_gracefully
from events.storage.postgres.vacuum import NOW, SEEN_BY
from projections.errors import ProjectionsUnavailable
from projections.postgres.projection_schema import PREFIX

PURGE_MAX_S = 600.0  # for a VACUUM: some seconds for a million hashes, more on a busy disk
LOOK_S = 0.2  # between looks whether a transaction can see what was erased
LOOKS_MAX = 10

# Entries of indexes, too, however few there are; the end of a table is not cut, which would lock readers out.
_PURGE = f"VACUUM (INDEX_CLEANUP ON, TRUNCATE FALSE) {PREFIX}labels, {PREFIX}keys"


async def vacuum_hashes(database: Database) -> bool:
    """Remove what was erased until now. Returns False while a transaction is open that can see it.

    Raises FAILURES, LogUnusable, ProjectionsUnavailable for tables that the server skips.
    """
    connection = await database.connect(statement_timeout="0")
    try:
        async with asyncio.timeout(PURGE_MAX_S):
            if await _is_seen(connection):
                return False
            await _vacuum(connection)
    finally:
        await close_gracefully(connection)
    return True


async def _is_seen(connection: Any) -> bool:
    now = await connection.fetchval(NOW)
    for _ in range(LOOKS_MAX):
        if not await connection.fetchval(SEEN_BY, now):
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _vacuum(connection: Any) -> None:
    warnings: list[str] = []

    def note(_connection: object, message: Any) -> None:
        if message.severity_en == "WARNING":
            warnings.append(message.message)

    connection.add_log_listener(note)
    try:
        await connection.execute(_PURGE)
    finally:
        connection.remove_log_listener(note)
    if warnings:
        what = f"let this program's role own the tables {PREFIX}labels and {PREFIX}keys"
        raise ProjectionsUnavailable(f"erased hashes cannot be removed: {warnings[0]}: {what}")

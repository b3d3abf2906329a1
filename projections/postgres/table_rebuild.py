"""Rebuild: fold the whole log into another set of tables, and put it in the place of the present one."""

from collections.abc import Callable
from functools import partial

from events.log import EventLog
from events.storage.postgres.postgres_connection import FAILURES, Database, explain
from projections.checkpoint import digest_at, fold_log
from projections.errors import LogReplaced, ProjectionsInUse, ProjectionsUnavailable
from projections.postgres.projection_schema import NAMES, NEXT_PREFIX, PREFIX, drop
from projections.postgres.projection_tables import LOCK, REBUILD_LOCK, create_set, swap_in, try_lock
from projections.postgres.server_session import ServerSession, Statements
from projections.postgres.table_writer import TableWriter

_PRESENT = "SELECT to_regclass(quote_ident(current_schema()) || '.' || $1) IS NOT NULL"
_CHECKPOINT = f"SELECT position, digest FROM {PREFIX}meta"  # noqa: S608  constants
_COMPLETE = f"UPDATE {NEXT_PREFIX}meta SET is_complete = true"  # noqa: S608  constants


async def rebuild_tables(
    database: Database, log: EventLog, batch_max: int, on_progress: Callable[[int], None]
) -> tuple[int, bool]:
    """Fold the whole log into new tables and put them in place, or leave them ready for the node that folds now.

    Returns the position reached and whether the tables are in place; until then nothing that is read changes. If
    interrupted, it leaves nothing behind; if killed, the next one drops what is left.

    Raises ProjectionsInUse while another rebuild is running, LogReplaced if the present tables have events that the log
    does not have, ProjectionsUnavailable, LogUnusable, LogUnavailable, UnknownEvent.
    """
    try:
        session = await ServerSession.open(database)
        try:
            if not await try_lock(session, REBUILD_LOCK):
                raise ProjectionsInUse(database.label)
            async with session.statements() as statements:
                await _require_replaceable(statements, log, database.label)
                try:
                    writer = await _fill(statements, log, batch_max, on_progress)
                except BaseException:
                    await statements.execute(drop(NEXT_PREFIX))
                    raise
            if not await try_lock(session, LOCK):
                return writer.checkpoint.position, False
            async with session.statements() as statements:
                is_swapped = await _put_in_place(statements, writer, log, batch_max)
            return writer.checkpoint.position, is_swapped
        finally:
            await session.close()
    except FAILURES as error:
        raise ProjectionsUnavailable(explain(error, database.label)) from error


async def _present(statements: Statements) -> list[tuple[int, bytes]]:
    """The checkpoint of the present tables, if there are any."""
    ((is_present,),) = await statements.fetch(_PRESENT, f"{PREFIX}meta")
    return await statements.fetch(_CHECKPOINT) if is_present else []


async def _require_replaceable(statements: Statements, log: EventLog, label: str) -> None:
    for position, digest in await _present(statements):
        if position and await digest_at(log, position) != digest:
            raise LogReplaced(label, f"the log's event at their checkpoint {position} is another or gone")


async def _fill(
    statements: Statements, log: EventLog, batch_max: int, on_progress: Callable[[int], None]
) -> TableWriter:
    await statements.execute(drop(NEXT_PREFIX))
    await create_set(statements, NEXT_PREFIX, is_complete=False)
    writer = await TableWriter.open(statements, NEXT_PREFIX)
    await fold_log(log, partial(writer.apply, statements), writer.checkpoint, batch_max, on_progress=on_progress)
    await statements.execute(f"ANALYZE {', '.join(NEXT_PREFIX + name for name in NAMES)}")
    await statements.execute(_COMPLETE)
    return writer


async def _put_in_place(statements: Statements, writer: TableWriter, log: EventLog, batch_max: int) -> bool:
    """Fold what the present tables have beyond the rebuilt ones, so that answers never go back in time, and exchange
    them. False while another transaction uses them. No other process folds meanwhile.
    """
    for position, _ in await _present(statements):
        await fold_log(log, partial(writer.apply, statements), writer.checkpoint, batch_max, position)
    return await swap_in(statements)

"""The PostgreSQL store of the projections: one set of tables for all nodes, kept by the process that holds the lock."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from secrets import token_bytes

from events.log import EventLog
from events.record import RecordedEvent
from events.storage.postgres.postgres_connection import FAILURES, Database, explain, is_damage
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from projections.checkpoint import find_mismatch, fold_log
from projections.errors import (
    InvalidProjection,
    InvalidRebuild,
    LogReplaced,
    ProjectionsInUse,
    ProjectionsUnavailable,
    ProjectionsUnusable,
)
from projections.folds.batch import changed_owners
from projections.folds.blind_index import LABEL_KEY_BYTES
from projections.port import Checkpoint
from projections.postgres.batch_statement import Notification
from projections.postgres.hash_purge import vacuum_hashes
from projections.postgres.projection_schema import NAMES, NEXT_PREFIX, PREFIX, SCHEMA_VERSION, drop, tables
from projections.postgres.server_session import ServerSession, Statements
from projections.postgres.table_queries import TableQueries
from projections.postgres.table_writer import FenceError, TableWriter

LOCK = 0x43485000 | SCHEMA_VERSION  # "CHP" and the format: with the schema's number, the right to fold
REBUILD_LOCK = 0x43485200 | SCHEMA_VERSION  # "CHR": one rebuild at a time

SWAP_LOCK_MS = 100  # for which reads wait behind an exchange of tables that others use, such as a backup
SWAP_PAUSE_S = 10.0  # between two attempts to exchange them

_TRY_LOCK = "SELECT pg_try_advisory_lock($1, current_schema()::regnamespace::oid::integer)"
_UNLOCK = "SELECT pg_advisory_unlock($1, current_schema()::regnamespace::oid::integer)"

_PRESENT = "SELECT count(to_regclass(quote_ident(current_schema()) || '.' || name)) FROM unnest($1::text[]) AS name"
_LACKING = """
SELECT format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), current_user)
 WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
UNION ALL
SELECT format('ALTER TABLE %I OWNER TO %I', relname, current_user) FROM pg_class
 WHERE relnamespace = current_schema()::regnamespace AND relname = ANY($1::text[])
   AND NOT pg_has_role(relowner, 'USAGE')
"""
_BEGIN = "INSERT INTO {p}meta VALUES (1, '', 0, '', '\\x{key}', false, {is_complete})"
_IS_OURS = "SELECT 1 FROM {p}meta WHERE label_key = $1"
_IS_COMPLETE = "SELECT is_complete FROM {p}meta"
_LOCKED = "55P03"
_BOUND = f"SET LOCAL lock_timeout = {SWAP_LOCK_MS}"
_CLEAR_STALE = "UPDATE {p}meta SET is_stale = false WHERE label_key = $1"
# Of the tables: they are missing or have other columns, or their content breaks a rule. Another set has none of that.
_DAMAGE_CODES = frozenset({"42P01", "42703", "42804"})

Notify = Callable[[frozenset[str], int], Sequence[Notification]]


class ProjectionTables:
    """Implements port.ProjectionStore, in whose words the methods are described."""

    purges_while_folding = True

    def __init__(self, database: Database, pool: PostgresReadPool) -> None:
        self.checkpoint = Checkpoint()
        self.has_erased_hashes = False
        self.on_trouble: Callable[[str | None], None] = _ignore
        self.notify: Notify = _nothing  # what to say, and where, in the transaction of a batch: owners, position
        self.queries = TableQueries(pool, self._report_trouble)
        self._database = database
        self._session: ServerSession | None = None
        self._writer: TableWriter | None = None
        self._swap_at_s = float("-inf")

    async def open(self, log: EventLog) -> str | None:
        if self._session is None:
            await self._open_session()
        try:
            with _store_errors(self._database.label):
                await self._prepare()
            await log.latest()  # the process that folded before may have folded what this one has not seen
            reason = await find_mismatch(self.checkpoint, log)
        except InvalidProjection as error:
            return str(error)
        except ProjectionsUnavailable as error:
            raise ProjectionsUnusable(str(error)) from error
        if reason is not None:
            raise LogReplaced(self._database.label, reason)
        return None

    async def _open_session(self) -> None:
        try:
            session = await ServerSession.open(self._database)
            try:
                await self.attach(session)
            except BaseException:
                await session.close()
                raise
        except FAILURES as error:
            raise ProjectionsUnusable(explain(error, self._database.label)) from error

    async def attach(self, session: ServerSession) -> None:
        """Take the lock with `session`, and use it from now on. Raises ProjectionsInUse, FAILURES."""
        if not await try_lock(session, LOCK):
            raise ProjectionsInUse(self._database.label)
        self._session = session

    async def _prepare(self) -> None:
        """Create the tables where there are none, and read the checkpoint.

        Raises FAILURES, InvalidProjection, ProjectionsUnusable.
        """
        async with self._require_session().statements() as statements:
            await self._require_privileges(statements)
            await self._drop_unfinished(statements)
            ((present,),) = await statements.fetch(_PRESENT, [PREFIX + name for name in NAMES])
            if not present:
                await create_set(statements, PREFIX, is_complete=True)
            elif present < len(NAMES):
                raise InvalidProjection("some of its tables are missing")
            self._note_writer(await TableWriter.open(statements, PREFIX))

    async def _require_privileges(self, statements: Statements) -> None:
        """Raises ProjectionsUnusable with what to run, for a role that could not create or replace the tables."""
        found = await statements.fetch(_LACKING, [prefix + name for prefix in (PREFIX, NEXT_PREFIX) for name in NAMES])
        if found:
            what = "this role may not create or replace the tables of the projections"
            raise ProjectionsUnusable(f"database {self._database.label}: {what}: {'; '.join(one for (one,) in found)}")

    async def _drop_unfinished(self, statements: Statements) -> None:
        """Drop what a rebuild has left that was killed. Raises FAILURES."""
        async with _rebuild_lock(statements) as is_locked:
            if is_locked and await _completeness(statements) is False:
                await statements.execute(drop(NEXT_PREFIX))

    async def replace(self) -> None:
        self._note_writer(None)
        with _store_errors(self._database.label):
            async with self._require_session().statements() as statements:
                async with statements.transaction():
                    await statements.execute(f"{_BOUND}; {drop(PREFIX)}")
                    await create_set(statements, PREFIX, is_complete=True)
                self._note_writer(await TableWriter.open(statements, PREFIX))

    async def adopt(self, log: EventLog, batch_max: int) -> bool:
        if time.monotonic() < self._swap_at_s:
            return False
        with _store_errors(self._database.label):
            async with self._require_session().statements() as statements, _rebuild_lock(statements) as is_locked:
                if not is_locked or not await _completeness(statements):
                    return False
                await log.latest()  # the rebuild may have folded events that this process has not seen
                await self._catch_up(statements, log, batch_max)
                if not await swap_in(statements):
                    self._swap_at_s = time.monotonic() + SWAP_PAUSE_S
                    return False
                self._note_writer(await TableWriter.open(statements, PREFIX))
        return True

    async def _catch_up(self, statements: Statements, log: EventLog, batch_max: int) -> None:
        """Fold into the rebuilt set what this one has folded beyond it. Raises InvalidRebuild, and drops it then."""
        try:
            writer = await TableWriter.open(statements, NEXT_PREFIX)
            reason = await find_mismatch(writer.checkpoint, log)
            if reason is None:
                reached = self.checkpoint.position
                await fold_log(log, partial(writer.apply, statements), writer.checkpoint, batch_max, reached)
        except InvalidProjection as error:
            reason = str(error)
        except FenceError:
            reason = "another process has written to them"
        if reason is not None:
            await statements.execute(drop(NEXT_PREFIX))
            raise InvalidRebuild(f"the rebuilt tables are of no use: {reason}")

    async def apply(self, batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> frozenset[str]:
        writer = self._writer
        if writer is None:
            raise InvalidProjection("it could not be replaced")
        with _store_errors(self._database.label):
            async with self._require_session().statements() as statements:
                changes = await writer.fold(statements, batch)
                owners = changed_owners(changes)
                try:
                    await writer.write(statements, changes, checkpoint, self.notify(owners, checkpoint.position))
                except FenceError:
                    self._note_writer(await TableWriter.open(statements, PREFIX))
                    raise ProjectionsUnavailable("the projections were replaced or restored: read them again") from None
        self._note_writer(writer)
        return owners

    async def purge_erased_hashes(self) -> bool:
        """On a connection of its own. Also False while a transaction is open that can see what was erased, and where
        more was erased meanwhile.
        """
        writer = self._writer
        if writer is None:
            return False
        erasures = writer.erasures
        with _store_errors(self._database.label):
            if not await vacuum_hashes(self._database):
                return False
            async with self._require_session().statements() as statements:
                if self._writer is not writer or writer.erasures != erasures:
                    return False
                await statements.fetch(_CLEAR_STALE.format(p=PREFIX), writer.label_key)
                self.has_erased_hashes = writer.has_erased_hashes = False
        return True

    async def is_in_place(self) -> bool:
        if self._writer is None:
            return False
        with _store_errors(self._database.label):
            async with self._require_session().statements() as statements:
                ((present,),) = await statements.fetch(_PRESENT, [PREFIX + name for name in NAMES])
                if present < len(NAMES):
                    return False
                return bool(await statements.fetch(_IS_OURS.format(p=PREFIX), self._writer.label_key))

    async def close(self) -> None:
        self.queries.close()
        self._note_writer(None)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _require_session(self) -> ServerSession:
        if self._session is None or self._session.is_lost:
            raise ProjectionsUnavailable("the connection to the database was lost: another node may fold now")
        return self._session

    def _note_writer(self, writer: TableWriter | None) -> None:
        self._writer = writer
        self.checkpoint = Checkpoint() if writer is None else writer.checkpoint
        self.has_erased_hashes = writer is not None and writer.has_erased_hashes

    def _report_trouble(self, reason: str | None) -> None:
        self.on_trouble(reason)


async def create_set(statements: Statements, prefix: str, *, is_complete: bool) -> None:
    """Create empty tables, with a new key for hashes. Raises FAILURES."""
    key = token_bytes(LABEL_KEY_BYTES).hex()
    begin = _BEGIN.format(p=prefix, key=key, is_complete=str(is_complete).lower())
    await statements.execute(f"{tables(prefix)};\n{begin}")


async def swap_in(statements: Statements) -> bool:
    """Put the rebuilt tables in the place of the present ones: readers see the old ones until the commit. False while
    other transactions use the present ones, such as a backup. Raises FAILURES.
    """
    renamed = "; ".join(f"ALTER TABLE {NEXT_PREFIX}{name} RENAME TO {PREFIX}{name}" for name in NAMES)
    try:
        await statements.execute(f"{_BOUND}; {drop(PREFIX)}; {renamed}")
    except FAILURES as error:
        if getattr(error, "sqlstate", None) != _LOCKED:
            raise
        return False
    return True


async def _completeness(statements: Statements) -> bool | None:
    """Whether the rebuilt set is complete; None if there is none. Raises FAILURES."""
    ((present,),) = await statements.fetch(_PRESENT, [NEXT_PREFIX + "meta"])
    return await statements.fetch(_IS_COMPLETE.format(p=NEXT_PREFIX)) == [(True,)] if present else None


@asynccontextmanager
async def _rebuild_lock(statements: Statements) -> AsyncIterator[bool]:
    """Whether no rebuild runs, nor begins meanwhile. Raises FAILURES."""
    ((is_locked,),) = await statements.fetch(_TRY_LOCK, REBUILD_LOCK)
    try:
        yield bool(is_locked)
    finally:
        if is_locked:
            with suppress(*FAILURES):  # a connection that is lost has no lock
                await statements.fetch(_UNLOCK, REBUILD_LOCK)


async def try_lock(session: ServerSession, lock: int) -> bool:
    """Whether this session has the lock now. Raises FAILURES."""
    ((is_locked,),) = await session.fetch(_TRY_LOCK, lock)
    return bool(is_locked)


def _ignore(_reason: str | None) -> None:
    """Until the runner sets its own."""


def _nothing(_owners: frozenset[str], _position: int) -> Sequence[Notification]:
    return ()


@contextmanager
def _store_errors(label: str) -> Iterator[None]:
    """Raises the port's errors in place of the server's."""
    try:
        yield
    except FAILURES as error:
        code = getattr(error, "sqlstate", None) or ""
        if code in _DAMAGE_CODES or code.startswith("23") or is_damage(error):
            raise InvalidProjection(f"it is damaged ({error})") from error
        if code == "42501":
            what = "this role may no longer write the projections, or replace their tables"
            raise ProjectionsUnusable(
                f"database {label}: {what} ({error}): start again to see what to grant"
            ) from error
        if code.startswith("22"):  # a value that no column holds
            raise OverflowError(str(error)) from error
        raise ProjectionsUnavailable(f"the projections cannot be written: {explain(error, label)}") from error

"""The write side of one set of tables: whole batches, each in one transaction with its checkpoint.

A batch is nearly always one statement, which is a transaction of its own. Rare changes, such as an erasure or a
withdrawn message, take statements of their own before and after it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import structs

from events.record import RecordedEvent
from events.storage.postgres.postgres_connection import FAILURES
from projections.errors import InvalidProjection
from projections.folds.batch import Changes, changed_owners, fold
from projections.folds.session import Session
from projections.port import Checkpoint
from projections.postgres.batch_statement import BatchStatement, Notification
from projections.postgres.storable_text import storable
from projections.session_states import SessionStates, require_following, require_found
from projections.sql import row_changes
from projections.sql.sql_dialect import to_postgres

_META = "SELECT position, digest, log_identity, label_key, is_stale FROM {p}meta"
_STATES = "SELECT state FROM {p}sessions WHERE session_id = ANY($1::text[])"
_DROP_LABELS = """
DELETE FROM {p}labels AS l USING unnest($1::bigint[]) AS n (no)
 WHERE l.no = n.no AND NOT EXISTS (
       SELECT FROM unnest($2::bigint[], $3::bigint[]) AS kept (label, no) WHERE kept.label = l.label AND kept.no = l.no)
"""
_MOVE_TEXT = "UPDATE {p}messages SET position = $1 WHERE session_no = $2 AND message_id = $3"
_SET_CALLS = "UPDATE {p}messages SET calls = $1 WHERE session_no = $2 AND message_id = $3 AND calls IS NOT NULL"

_NO_CHARACTER = ("22021", "22P05")  # in a text, in JSON

Query = tuple[str, Sequence[Any]]  # and its parameters

_decoder = msgspec.json.Decoder(Session)


class FenceError(Exception):
    """The tables have another checkpoint than the writer knows, or are others: they were restored or replaced."""


class Statements(Protocol):
    """A connection, for one statement at a time."""

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query."""
        ...

    def transaction(self) -> Any:
        """An asynchronous context manager: what is done in it is committed at its end, or not at all."""
        ...


class TableWriter:
    """Writes the set of tables with `prefix`. Made by `open`."""

    def __init__(self, prefix: str) -> None:
        self.checkpoint = Checkpoint()
        self.has_erased_hashes = False
        self.erasures = 0  # batches with some, by this writer
        self.label_key = b""
        self._prefix = prefix
        self._states = SessionStates()

    @classmethod
    async def open(cls, connection: Statements, prefix: str) -> "TableWriter":
        """Raises InvalidProjection for tables without a checkpoint, and what asyncpg raises."""
        writer = cls(prefix)
        found = await connection.fetch(_META.format(p=prefix))
        if not found:
            raise InvalidProjection("its checkpoint is missing")
        position, digest, identity, writer.label_key, writer.has_erased_hashes = found[0]
        writer.checkpoint = Checkpoint(position, digest, identity)
        return writer

    async def fold(self, connection: Statements, batch: Sequence[RecordedEvent]) -> Changes:
        """What `batch` changes. Raises LogUnusable if it does not follow the checkpoint, InvalidProjection."""
        require_following(batch, self.checkpoint)
        return fold(batch, await self._load_states(connection, batch), self.label_key)

    async def write(
        self,
        connection: Statements,
        changes: Changes,
        checkpoint: Checkpoint,
        notifications: Sequence[Notification] = (),
    ) -> None:
        """Write the changes and move to `checkpoint`: all or nothing. Raises FenceError, and what asyncpg raises."""
        checkpoints = (self.checkpoint, checkpoint)
        statement = BatchStatement(self._prefix, changes, checkpoints, self.label_key, notifications)
        before, after = self._rare_before(changes), self._rare_after(changes)
        try:
            await _write(connection, before, statement, after)
        except FAILURES as error:
            if getattr(error, "sqlstate", None) not in _NO_CHARACTER:
                raise
            # A text has a NUL: so rarely that no batch is searched for one beforehand.
            statement.values = [storable(value) for value in statement.values]
            await _write(connection, _storable(before), statement, _storable(after))
        self.checkpoint = checkpoint
        erases = any(one.erased and one.before is not None for one in changes.sessions)
        self.has_erased_hashes = self.has_erased_hashes or erases
        self.erasures += erases
        self._states.keep(changes)

    async def apply(
        self, connection: Statements, batch: Sequence[RecordedEvent], checkpoint: Checkpoint
    ) -> frozenset[str]:
        """`fold` and `write`. Returns the owners whose lists of sessions have changed."""
        changes = await self.fold(connection, batch)
        await self.write(connection, changes, checkpoint)
        return changed_owners(changes)

    async def _load_states(self, connection: Statements, batch: Sequence[RecordedEvent]) -> dict[str, Session]:
        states, missing = self._states.known(batch)
        if missing:
            for (text,) in await connection.fetch(_STATES.format(p=self._prefix), list(missing)):
                session = _state(text)
                states[session.session_id] = session
        require_found(missing.difference(states), batch)
        return states

    def _rare_before(self, changes: Changes) -> list[Query]:
        """Erased content, and labels that a session no longer has."""
        found: list[Query] = []
        for one in changes.sessions:
            if one.erased and one.before is not None:
                values = {"no": one.before.no, "owner": one.before.owner or ""}
                found += [self._named(statement, values) for statement in row_changes.ERASE_SESSION]
        labelled = [one for one in changes.sessions if one.labels is not None and one.before is not None]
        if labelled:
            kept = [(label, one.session.no) for one in labelled for label in one.labels or ()]
            columns = [list(column) for column in zip(*kept, strict=True)] or [[], []]
            found.append((_DROP_LABELS.format(p=self._prefix), [[one.session.no for one in labelled], *columns]))
        return found

    def _rare_after(self, changes: Changes) -> list[Query]:
        """Texts and calls of messages that may have changed in the same batch, withdrawn messages, emptied sums."""
        found: list[Query] = []
        for one in changes.sessions:
            no = one.session.no
            found += [(_MOVE_TEXT.format(p=self._prefix), (to, no, name)) for name, to in one.moves.items()]
            found += [(_SET_CALLS.format(p=self._prefix), (to, no, name)) for name, to in one.calls.items()]
        for one in changes.sessions:
            for withdrawn in one.withdrawn:
                values = {"no": one.session.no, **structs.asdict(withdrawn)}
                found += [self._named(statement, values) for statement in row_changes.WITHDRAW_MESSAGE]
        if any(n < 0 for n in changes.counts.values()):
            found.append(self._named(row_changes.DROP_EMPTY_COUNTS, {}))
        if any(one.erased for one in changes.sessions):
            found.append(self._named(row_changes.DROP_EMPTIED_USAGE, {}))
        return found

    def _named(self, statement: str, values: dict[str, Any]) -> Query:
        query, names = to_postgres(statement, self._prefix)
        return query, [values[name] for name in names]


async def _write(
    connection: Statements, before: Sequence[Query], statement: BatchStatement, after: Sequence[Query]
) -> None:
    if not before and not after:
        await _run(connection, statement)
        return
    async with connection.transaction():
        for query, values in before:
            await connection.fetch(query, *values)
        await _run(connection, statement)
        for query, values in after:
            await connection.fetch(query, *values)


def _storable(queries: Sequence[Query]) -> list[Query]:
    return [(query, [storable(value) for value in values]) for query, values in queries]


async def _run(connection: Statements, statement: BatchStatement) -> None:
    if not await connection.fetch(statement.query, *statement.parameters):
        raise FenceError


def _state(text: str) -> Session:
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidProjection(f"it is damaged ({error})") from error

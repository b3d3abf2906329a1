"""The write side of a log in PostgreSQL: one connection, used by the writer's task alone.

A connection may be lost after a batch was sent and before its answer came. Nobody knows then whether it was recorded,
so the log is asked: a row with our commitment, over our own random salt, can be nobody else's. A batch that is sent
again and meets a conflict may have met itself, so the same is asked before a conflict is believed.

A server that waits for a standby gives that up when the statement has taken too long, and answers that all is well,
with a warning. To us nothing is well then: a failover would forget what was recorded.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import asyncpg
from msgspec import Struct, field

from events.errors import LogUnavailable, OutcomeUnknown, VersionConflict
from events.storage.append_batch import Outcome, PendingAppend
from events.storage.postgres.append_procedure import Known, Placed, call, recorded
from events.storage.postgres.head_listener import HeadListener, read_head
from events.storage.postgres.postgres_connection import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    Database,
    DatabaseRewound,
    Unconfirmed,
    backoff_delays,
    close_gracefully,
    explain,
    is_damage,
    is_harmless,
    is_passing,
)
from events.storage.postgres.vacuum import Vacuum

T = TypeVar("T")

_WARNING = "01000"
UNKNOWN = "whether this was recorded is unknown: read the stream again"

_FLUSH = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
# A commit of its own, behind all others: once a standby has it, it has those, too. Inside a statement, which the server
# ends after a while; it would wait for ever in the commit that follows one.
_CONFIRM = "DO $$ BEGIN PERFORM pg_logical_emit_message(true, 'chatbot', ''); COMMIT; END $$"
_FIND = """
SELECT asked.place, events.position
  FROM unnest($1::text[], $2::bigint[], $3::bytea[]) WITH ORDINALITY AS asked (stream_id, version, commitment, place)
  JOIN events ON events.stream_id = asked.stream_id AND events.version = asked.version
       AND events.commitment = asked.commitment
"""


class _Batch(Struct):
    """Appends on their way. `in_doubt`: whether a call was sent whose answer never came."""

    appends: Sequence[PendingAppend]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    in_doubt: bool = False

    @property
    def missing(self) -> list[int]:
        return [number for number in range(len(self.appends)) if number not in self.outcomes]


class PostgresBatchStore:
    """Commits batches. After any failure it looks at what is recorded before it writes again."""

    def __init__(self, place: Database, head: HeadListener, vacuum: Vacuum) -> None:
        self.damage: str | None = None
        self._database = place
        self._head = head
        self._vacuum = vacuum
        self._connection: asyncpg.Connection | None = None
        self._warned = False  # by the server, while it answered

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        """As BatchStore.write. What database and network do to us refuses those of the batch that it concerns."""
        under_way = _Batch(batch)
        deadline_s = asyncio.get_running_loop().time() + self._database.options.busy_timeout_s
        for pause_s in backoff_delays():
            try:
                await self._try_commit(under_way)
                break
            except LogUnavailable as error:
                return self._refused(under_way, str(error))
            except FAILURES as error:
                self._drop_connection()
                if is_damage(error):
                    self.damage = explain(error, self._database.label)
                is_late = asyncio.get_running_loop().time() + pause_s > deadline_s
                if is_late or not (under_way.in_doubt or is_passing(error)):
                    return self._refused(under_way, explain(error, self._database.label))
            await asyncio.sleep(pause_s)
        return self._outcomes(under_way)

    async def probe(self) -> None:
        """As BatchStore.probe."""
        try:
            connection = await self._connected()
            if await _with_timeout(connection.fetchval("SHOW transaction_read_only")) == "on":
                raise LogUnavailable(f"database {self._database.label} is read-only")
            await self._await_confirmation(connection.execute(_CONFIRM))
        except FAILURES as error:
            self._drop_connection()
            raise LogUnavailable(explain(error, self._database.label)) from error

    async def maintain(self) -> float | None:
        """As BatchStore.tidy: nothing to do here."""
        return None

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        await close_gracefully(connection)

    async def _try_commit(self, batch: _Batch) -> None:
        """Settle what is missing of `batch`. Raises FAILURES, LogUnavailable."""
        connection = await self._connected()
        if batch.in_doubt:
            await self._await_confirmation(connection.execute(_CONFIRM))
            await self._find_recorded(connection, batch, batch.missing)
        asked = batch.missing
        if not asked:
            return
        was_in_doubt, batch.in_doubt = batch.in_doubt, True
        try:
            known = Known(self._head.live.current, self._head.table)
            placed = await self._await_confirmation(
                call(connection, [batch.appends[number] for number in asked], known)
            )
        except FAILURES as error:
            batch.in_doubt = was_in_doubt or not is_harmless(error)
            raise
        if was_in_doubt:
            lost = [number for number, first in zip(asked, placed.firsts, strict=True) if first is None]
            await self._find_recorded(connection, batch, lost)
        batch.in_doubt = False
        self._apply_placement(batch, asked, placed)

    def _apply_placement(self, batch: _Batch, asked: Sequence[int], placed: Placed) -> None:
        for number, first in zip(asked, placed.firsts, strict=True):
            append = batch.appends[number]
            if first is not None:
                self._set_recorded(batch, number, first)
            elif number not in batch.outcomes:
                batch.outcomes[number] = VersionConflict(append.stream_id, append.expected_version)
        self._head.advance(placed.head)

    async def _find_recorded(self, connection: asyncpg.Connection, batch: _Batch, numbers: Sequence[int]) -> None:
        """Those of `numbers` that are recorded."""
        if not numbers:
            return
        appends = [batch.appends[number] for number in numbers]
        streams = [append.stream_id for append in appends]
        versions = [append.expected_version + 1 for append in appends]
        commitments = [append.contents[0].commitment for append in appends]
        found = await _with_timeout(connection.fetch(_FIND, streams, versions, commitments))
        head = await read_head(connection)
        for place, position in found:
            self._set_recorded(batch, numbers[place - 1], position)
        self._head.advance(head)

    def _set_recorded(self, batch: _Batch, number: int, first: int) -> None:
        append = batch.appends[number]
        batch.outcomes[number] = recorded(append, first)
        if append.erases:
            self._vacuum.request()

    async def _await_confirmation(self, commit: Awaitable[T]) -> T:
        """The answer to what commits. Raises FAILURES, also where no standby has confirmed it."""
        self._warned = False
        answer = await _with_timeout(commit)
        if self._warned:
            raise Unconfirmed
        return answer

    def _on_server_message(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """Known before the answer that follows it. Its words depend on the server's language; there is no other one."""
        self._warned = self._warned or message.sqlstate == _WARNING

    async def _connected(self) -> asyncpg.Connection:
        if self.damage or self._head.damage:
            raise LogUnavailable(self.damage or self._head.damage)
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                await _with_timeout(connection.execute(_FLUSH))
                await _with_timeout(self._database.check_not_rewound(connection, self._head.live.current))
            except BaseException as error:
                connection.terminate()
                if isinstance(error, DatabaseRewound):
                    self.damage = str(error)
                raise
            connection.add_log_listener(self._on_server_message)
            self._connection = connection
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _refused(self, batch: _Batch, reason: str) -> list[Outcome]:
        """An exception of its own for each caller: raising adds a traceback to it."""
        kind, fate = (OutcomeUnknown, UNKNOWN) if batch.in_doubt else (LogUnavailable, "nothing was recorded")
        for number in batch.missing:
            batch.outcomes[number] = kind(f"{reason}; {fate}")
            if batch.in_doubt and batch.appends[number].erases:
                self._vacuum.request()
        return self._outcomes(batch)

    def _outcomes(self, batch: _Batch) -> list[Outcome]:
        return [batch.outcomes[number] for number in range(len(batch.appends))]


async def _with_timeout(question: Awaitable[T]) -> T:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return await question

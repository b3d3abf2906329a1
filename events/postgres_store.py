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

from events.batch import Outcome, Pending
from events.errors import LogUnavailable, OutcomeUnknown, VersionConflict
from events.postgres_append import Known, Placed, call, recorded
from events.postgres_connection import (
    ANSWER_S,
    FAILURES,
    HistoryLost,
    Place,
    Unconfirmed,
    explain,
    farewell,
    is_damage,
    is_harmless,
    is_passing,
    pauses,
)
from events.postgres_head import HeadWatch, ask_head
from events.postgres_vacuum import Vacuum

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

    appends: Sequence[Pending]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    in_doubt: bool = False

    @property
    def missing(self) -> list[int]:
        return [number for number in range(len(self.appends)) if number not in self.outcomes]


class PostgresStore:
    """Commits batches. After any failure it looks at what is recorded before it writes again."""

    def __init__(self, place: Place, head: HeadWatch, vacuum: Vacuum) -> None:
        self.damage: str | None = None
        self._place = place
        self._head = head
        self._vacuum = vacuum
        self._connection: asyncpg.Connection | None = None
        self._warned = False  # by the server, while it answered

    async def write(self, batch: Sequence[Pending]) -> list[Outcome]:
        """As BatchStore.write. What database and network do to us refuses those of the batch that it concerns."""
        under_way = _Batch(batch)
        deadline_s = asyncio.get_running_loop().time() + self._place.options.busy_timeout_s
        for pause_s in pauses():
            try:
                await self._attempt(under_way)
                break
            except LogUnavailable as error:
                return self._refused(under_way, str(error))
            except FAILURES as error:
                self._let_go()
                if is_damage(error):
                    self.damage = explain(error, self._place.label)
                is_late = asyncio.get_running_loop().time() + pause_s > deadline_s
                if is_late or not (under_way.in_doubt or is_passing(error)):
                    return self._refused(under_way, explain(error, self._place.label))
            await asyncio.sleep(pause_s)
        return self._all(under_way)

    async def probe(self) -> None:
        """As BatchStore.probe."""
        try:
            connection = await self._connected()
            if await _answer(connection.fetchval("SHOW transaction_read_only")) == "on":
                raise LogUnavailable(f"database {self._place.label} is read-only")
            await self._confirmed(connection.execute(_CONFIRM))
        except FAILURES as error:
            self._let_go()
            raise LogUnavailable(explain(error, self._place.label)) from error

    async def tidy(self) -> float | None:
        """As BatchStore.tidy: nothing to do here."""
        return None

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        await farewell(connection)

    async def _attempt(self, batch: _Batch) -> None:
        """Settle what is missing of `batch`. Raises FAILURES, LogUnavailable."""
        connection = await self._connected()
        if batch.in_doubt:
            await self._confirmed(connection.execute(_CONFIRM))
            await self._find(connection, batch, batch.missing)
        asked = batch.missing
        if not asked:
            return
        was_in_doubt, batch.in_doubt = batch.in_doubt, True
        try:
            known = Known(self._head.live.current, self._head.table)
            placed = await self._confirmed(call(connection, [batch.appends[number] for number in asked], known))
        except FAILURES as error:
            batch.in_doubt = was_in_doubt or not is_harmless(error)
            raise
        if was_in_doubt:
            lost = [number for number, first in zip(asked, placed.firsts, strict=True) if first is None]
            await self._find(connection, batch, lost)
        batch.in_doubt = False
        self._settle(batch, asked, placed)

    def _settle(self, batch: _Batch, asked: Sequence[int], placed: Placed) -> None:
        for number, first in zip(asked, placed.firsts, strict=True):
            append = batch.appends[number]
            if first is not None:
                self._recorded(batch, number, first)
            elif number not in batch.outcomes:
                batch.outcomes[number] = VersionConflict(append.stream_id, append.expected_version)
        self._head.advance(placed.head)

    async def _find(self, connection: asyncpg.Connection, batch: _Batch, numbers: Sequence[int]) -> None:
        """Those of `numbers` that are recorded."""
        if not numbers:
            return
        appends = [batch.appends[number] for number in numbers]
        streams = [append.stream_id for append in appends]
        versions = [append.expected_version + 1 for append in appends]
        commitments = [append.contents[0].commitment for append in appends]
        found = await _answer(connection.fetch(_FIND, streams, versions, commitments))
        head = await ask_head(connection)
        for place, position in found:
            self._recorded(batch, numbers[place - 1], position)
        self._head.advance(head)

    def _recorded(self, batch: _Batch, number: int, first: int) -> None:
        append = batch.appends[number]
        batch.outcomes[number] = recorded(append, first)
        if append.erases:
            self._vacuum.wanted()

    async def _confirmed(self, commit: Awaitable[T]) -> T:
        """The answer to what commits. Raises FAILURES, also where no standby has confirmed it."""
        self._warned = False
        answer = await _answer(commit)
        if self._warned:
            raise Unconfirmed
        return answer

    def _heard(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """Known before the answer that follows it. Its words depend on the server's language; there is no other one."""
        self._warned = self._warned or message.sqlstate == _WARNING

    async def _connected(self) -> asyncpg.Connection:
        if self.damage or self._head.damage:
            raise LogUnavailable(self.damage or self._head.damage)
        if self._connection is None or self._connection.is_closed():
            connection = await self._place.connect()
            try:
                await _answer(connection.execute(_FLUSH))
                await _answer(self._place.history_kept(connection, self._head.live.current))
            except BaseException as error:
                connection.terminate()
                if isinstance(error, HistoryLost):
                    self.damage = str(error)
                raise
            connection.add_log_listener(self._heard)
            self._connection = connection
        return self._connection

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _refused(self, batch: _Batch, reason: str) -> list[Outcome]:
        """An exception of its own for each caller: raising adds a traceback to it."""
        kind, fate = (OutcomeUnknown, UNKNOWN) if batch.in_doubt else (LogUnavailable, "nothing was recorded")
        for number in batch.missing:
            batch.outcomes[number] = kind(f"{reason}; {fate}")
            if batch.in_doubt and batch.appends[number].erases:
                self._vacuum.wanted()
        return self._all(batch)

    def _all(self, batch: _Batch) -> list[Outcome]:
        return [batch.outcomes[number] for number in range(len(batch.appends))]


async def _answer(question: Awaitable[T]) -> T:
    async with asyncio.timeout(ANSWER_S):
        return await question

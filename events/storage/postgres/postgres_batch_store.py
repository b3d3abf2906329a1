"""The write side of a log in PostgreSQL: one connection, used by the writer's task only.

A connection may be lost after a batch was sent and before its answer arrived: the batch is in doubt. The log is then
searched for it: a row with our commitment, over our own random salt, can only be ours. A batch in doubt that is sent
again and gets a conflict may conflict with itself, so the same search precedes every conflict that is reported.

A server that waits for a standby gives up when the statement has taken too long, and answers with success and a
warning. Here that is a failure: a failover would lose what was recorded.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar
from uuid import UUID

import asyncpg
from msgspec import Struct, field

from events.backoff import backoff_delays
from events.errors import LogUnavailable, OutcomeUnknown, VersionConflict
from events.media import MediaMissing
from events.record import Head
from events.storage.append_batch import Outcome, PendingAppend, recorded_events
from events.storage.postgres.append_procedure import CALL, ERASE
from events.storage.postgres.head_listener import HeadListener
from events.storage.postgres.postgres_connection import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    FLUSH,
    RETRY_S,
    Database,
    DatabaseRewound,
    Unconfirmed,
    close_gracefully,
    explain,
    is_damage,
    is_harmless,
    is_passing,
    read_head,
    unavailable,
)
from events.storage.postgres.stream_holders import OLD_NODES
from events.storage.postgres.vacuum import Vacuum
from events.subscriptions import is_broadcast

T = TypeVar("T")

_WARNING = "01000"
UNKNOWN = "whether this was recorded is unknown: read the stream again"

# A commit of its own, after all others: a standby that has it has those, too. It is inside a statement, for which the
# server has a timeout; in the commit that follows a statement it would wait without end.
_CONFIRM = "DO $$ BEGIN PERFORM pg_logical_emit_message(true, 'chatbot', ''); COMMIT; END $$"
_FIND = """
SELECT wanted.number, events.position
  FROM unnest($1::text[], $2::bigint[], $3::bytea[]) WITH ORDINALITY AS wanted (stream_id, version, commitment, number)
  JOIN events ON events.stream_id = wanted.stream_id AND events.version = wanted.version
       AND events.commitment = wanted.commitment
"""


class KnownLog(Struct, frozen=True):
    """What identifies the log to the procedure: `head`, some event of it, and while it has none the table's number; and
    `sender`, this process, which is not told of its own appends.
    """

    head: Head
    table: int
    sender: UUID


class Placement(Struct, frozen=True):
    """The procedure's answer: the first position of each append, None for a conflict or where it refers to one of the
    `missing` files; and the head after the batch.
    """

    firsts: list[int | None]
    missing: frozenset[bytes]
    head: Head


class _Batch(Struct):
    """Appends and the outcomes that are known. `in_doubt`: a call was sent whose answer never arrived."""

    appends: Sequence[PendingAppend]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    in_doubt: bool = False

    @property
    def missing(self) -> list[int]:
        """The numbers of the appends without an outcome."""
        return [number for number in range(len(self.appends)) if number not in self.outcomes]


class PostgresBatchStore:
    """Commits batches. After a failure it searches the log for the batch before it writes again."""

    def __init__(self, database: Database, head: HeadListener, vacuum: Vacuum) -> None:
        self.damage: str | None = None
        self.sender = UUID(OLD_NODES)  # this process, once it is registered
        self._database = database
        self._head = head
        self._vacuum = vacuum
        self._connection: asyncpg.Connection | None = None
        self._warned = False  # by the server, during the last answer

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        """As BatchStore.write. A failure of database or network refuses the appends whose outcome is not known."""
        pending = _Batch(batch)
        deadline_s = asyncio.get_running_loop().time() + self._database.options.busy_timeout_s
        for pause_s in backoff_delays(*RETRY_S):
            try:
                await self._try_commit(pending)
                break
            except LogUnavailable as error:
                return self._refused(pending, error)
            except FAILURES as error:
                self._drop_connection()
                if is_damage(error):
                    self.damage = explain(error, self._database.label)
                is_late = asyncio.get_running_loop().time() + pause_s > deadline_s
                if is_late or not (pending.in_doubt or is_passing(error)):
                    return self._refused(pending, unavailable(error, self._database.label))
            await asyncio.sleep(pause_s)
        return self._outcomes(pending)

    async def probe(self) -> None:
        """As BatchStore.probe."""
        try:
            connection = await self._connected()
            if await _with_timeout(connection.fetchval("SHOW transaction_read_only")) == "on":
                raise LogUnavailable(f"database {self._database.label} is read-only")
            await self._await_confirmation(connection.execute(_CONFIRM))
        except FAILURES as error:
            self._drop_connection()
            raise unavailable(error, self._database.label) from error

    async def maintain(self) -> float | None:
        """As BatchStore.maintain: nothing to do here."""
        return None

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        await close_gracefully(connection)

    async def erase_before(self, stream_id: str, version: int) -> None:
        """Erase the content of the stream's events before `version`, on a connection of its own. Raises FAILURES."""
        connection = await self._database.connect()
        try:
            await connection.execute(ERASE, stream_id, version)
        finally:
            await close_gracefully(connection)
        self._vacuum.request()

    async def _try_commit(self, batch: _Batch) -> None:
        """Find every missing outcome of `batch`. Raises FAILURES, LogUnavailable."""
        connection = await self._connected()
        was_in_doubt = batch.in_doubt
        if was_in_doubt:
            await self._find_earlier_outcomes(connection, batch)
        missing = batch.missing
        if not missing:
            return
        placement = await self._call_procedure(connection, batch, missing)
        if was_in_doubt:
            conflicts = [number for number, first in zip(missing, placement.firsts, strict=True) if first is None]
            await self._find_recorded(connection, batch, conflicts)
        batch.in_doubt = False
        self._apply_placement(batch, missing, placement)

    async def _find_earlier_outcomes(self, connection: asyncpg.Connection, batch: _Batch) -> None:
        """The earlier call may have been committed: find what it has recorded, once a standby has confirmed it."""
        await self._await_confirmation(connection.execute(_CONFIRM))
        await self._find_recorded(connection, batch, batch.missing)

    async def _call_procedure(self, connection: asyncpg.Connection, batch: _Batch, numbers: Sequence[int]) -> Placement:
        """Have the appends with these numbers recorded. Raises FAILURES; `batch` is then in doubt, unless the failure
        itself shows that nothing was committed.
        """
        was_in_doubt, batch.in_doubt = batch.in_doubt, True
        known = KnownLog(self._head.head.current, self._head.table, self.sender)
        appends = [batch.appends[number] for number in numbers]
        try:
            return await self._await_confirmation(_call(connection, appends, known))
        except FAILURES as error:
            batch.in_doubt = was_in_doubt or not is_harmless(error)
            raise

    def _apply_placement(self, batch: _Batch, numbers: Sequence[int], placement: Placement) -> None:
        for number, first in zip(numbers, placement.firsts, strict=True):
            append = batch.appends[number]
            if first is not None:
                self._set_recorded(batch, number, first)
            elif number not in batch.outcomes:
                absent = [sha256 for _, sha256 in append.media if sha256 in placement.missing]
                conflict = VersionConflict(append.stream_id, append.expected_version)
                batch.outcomes[number] = MediaMissing(absent[0].hex()) if absent else conflict
        self._head.advance(placement.head)

    async def _find_recorded(self, connection: asyncpg.Connection, batch: _Batch, numbers: Sequence[int]) -> None:
        """Set the outcome of those of `numbers` that are recorded already."""
        if not numbers:
            return
        appends = [batch.appends[number] for number in numbers]
        streams = [append.stream_id for append in appends]
        versions = [append.expected_version + 1 for append in appends]
        commitments = [append.contents[0].commitment for append in appends]
        found = await _with_timeout(connection.fetch(_FIND, streams, versions, commitments))
        head = await read_head(connection)
        for number, position in found:  # counted from 1
            self._set_recorded(batch, numbers[number - 1], position)
        self._head.advance(head)

    def _set_recorded(self, batch: _Batch, number: int, first: int) -> None:
        append = batch.appends[number]
        batch.outcomes[number] = recorded_events(append, first)
        if append.removes_content:
            self._vacuum.request()

    async def _await_confirmation(self, commit: Awaitable[T]) -> T:
        """The answer of a statement that commits. Raises FAILURES, also where no standby has confirmed the commit."""
        self._warned = False
        answer = await _with_timeout(commit)
        if self._warned:
            raise Unconfirmed
        return answer

    def _on_server_message(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """Called before the answer arrives. The text is in the server's language; no other warning is expected."""
        self._warned = self._warned or message.sqlstate == _WARNING

    async def _connected(self) -> asyncpg.Connection:
        if self.damage or self._head.damage:
            raise LogUnavailable(self.damage or self._head.damage)
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                await _with_timeout(connection.execute(FLUSH))
                await _with_timeout(self._database.check_not_rewound(connection, self._head.head.current))
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

    def _refused(self, batch: _Batch, reason: LogUnavailable) -> list[Outcome]:
        """An exception of its own for each caller: raising adds a traceback to it."""
        kind, fate = (OutcomeUnknown, UNKNOWN) if batch.in_doubt else (LogUnavailable, "nothing was recorded")
        for number in batch.missing:
            batch.outcomes[number] = kind(f"{reason}; {fate}", remedy=reason.remedy)
            if batch.in_doubt and batch.appends[number].removes_content:
                self._vacuum.request()
        return self._outcomes(batch)

    def _outcomes(self, batch: _Batch) -> list[Outcome]:
        return [batch.outcomes[number] for number in range(len(batch.appends))]


async def _with_timeout(answer: Awaitable[T]) -> T:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return await answer


async def _call(connection: asyncpg.Connection, batch: Sequence[PendingAppend], known: KnownLog) -> Placement:
    """Have `batch` recorded in the `known` log. Raises what asyncpg raises: it is unknown then whether it was."""
    log = known.head.position, known.head.digest, known.table, known.sender
    firsts, last, digest, missing = await connection.fetchrow(CALL, *log, *_arguments(batch))
    return Placement(firsts, frozenset(missing or ()), Head(last, digest))


def _arguments(batch: Sequence[PendingAppend]) -> tuple[object, ...]:
    """The procedure's arguments after those that identify the log, see append_procedure.CALL."""
    stream_numbers: dict[str, int] = {}
    appends: list[tuple[int, ...]] = []
    events: list[tuple[int, ...]] = []
    files: list[tuple[int, ...]] = []
    types, texts, salts, commitments, digests, owners = [], [], [], [], [], []
    for number, append in enumerate(batch, 1):
        stream_id, expected, unchanged = append.stream_id, append.expected_version, append.unchanged
        stream_number = stream_numbers.setdefault(stream_id, len(stream_numbers) + 1)
        depends, version = 0, 0
        if unchanged is not None:
            depends = stream_numbers.setdefault(unchanged.stream_id, len(stream_numbers) + 1)
            version = unchanged.version
        own = stream_number, expected, len(append.contents), len(events) + 1, append.recorded_at_us, int(append.erases)
        appends.append((*own, depends, version))
        for version, one in enumerate(append.contents, expected + 1):
            events.append((number, version, one.schema_version, int(is_broadcast(stream_id, one.type))))
            types.append(one.type)
            texts.append(one.data)
            salts.append(one.salt.hex())
            commitments.append(one.commitment)
        for index, sha256 in append.media:
            files.append((number, index))
            digests.append(sha256)
            owners.append(append.metadata.actor or "")
    return (
        any(append.erases for append in batch),
        any(told for *_, told in events),
        list(stream_numbers),
        _rows(appends),
        "\n".join([append.metadata_text for append in batch]),
        _rows(events),
        "\n".join(types),
        "\n".join(texts),
        "\n".join(salts),
        b"".join(commitments),
        *((_rows(files), b"".join(digests), owners) if files else (None, None, None)),
    )


def _rows(rows: list[tuple[int, ...]]) -> str:
    """As PostgreSQL writes an array of arrays."""
    return "{" + str(rows)[1:-1].replace("(", "{").replace(")", "}") + "}"

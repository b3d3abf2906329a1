"""One client of the process that writes a log: its connection, from the hello to its end."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import Any, Protocol, cast

import msgspec

from events.codec import decode_metadata
from events.errors import LogBusy, LogError, LogUnavailable, OutcomeUnknown, VersionConflict
from events.media import MediaMissing
from events.record import EventHeader
from events.remote.wire_format import (
    PROTOCOL,
    PROTOCOL_MIN,
    Answer,
    Appends,
    Failure,
    FrameReader,
    Hello,
    Holds,
    Kind,
    Request,
    Status,
    Welcome,
    frame,
    to_failure,
)
from events.storage.append_batch import PendingAppend
from events.storage.group_commit import GroupCommit, Recorded

UNREAD_BYTES_MAX = 8 * 1024 * 1024  # that a client has not read: beyond it the client is cut off, and connects again
REQUESTS_MAX = 1_000  # of one client that wait for their answers

_hello = msgspec.msgpack.Decoder(Hello)
_appends = msgspec.msgpack.Decoder(Appends)
_request = msgspec.msgpack.Decoder(Request)
_holds = msgspec.msgpack.Decoder(Holds)

Handler = Callable[["RemoteClient", bytes], Awaitable[bytes]]


class Service(Protocol):
    """What the clients share: implemented by AppendServer."""

    program: str
    writer: GroupCommit
    handlers: dict[str, Handler]

    def welcome(self, protocol: int) -> Welcome:
        """The answer to a hello."""
        ...

    def joined(self, client: "RemoteClient") -> Status:
        """The client has said hello. Returns what `report` has reported last."""
        ...

    def left(self, client: "RemoteClient") -> None:
        """The connection of a client that had said hello is closed."""
        ...

    def gone(self, client: "RemoteClient") -> None:
        """The connection is closed, whether or not there was a hello."""
        ...

    def hold(self, client: "RemoteClient", holds: Holds) -> None: ...

    def report(self) -> None:
        """Have all clients told of the log's state, if it has changed."""
        ...

    def failed(self, error: Exception) -> None:
        """A handler has raised what only a bug can cause."""
        ...

    async def find(self, append: PendingAppend) -> int:
        """The position of the first event of `append` where the log has it, else 0. Raises LogUnavailable."""
        ...


class AppendReply:
    """Sends the outcome of one append. Implements events.storage.group_commit.Reply."""

    __slots__ = ("_number", "client")

    def __init__(self, client: "RemoteClient", number: int) -> None:
        self.client = client
        self._number = number

    def done(self) -> bool:
        return False

    def set_result(self, recorded: Recorded) -> None:
        self.client.add_recorded(self._number, recorded[0].position if recorded else 0)

    def set_exception(self, error: Exception) -> None:
        self.client.add_refused(self._number, error)


class DoubtfulReply(AppendReply):
    """The same for an append that may be recorded already, by a process that is gone or over another connection.

    Nothing can be recorded twice, as each append names the version that it expects. A refusal may be due to the earlier
    attempt: the log is searched for our commitment, which has a random salt. What was queued over another connection is
    before this append in the writer's queue, so it is decided by now.
    """

    __slots__ = ("_append",)

    def __init__(self, client: "RemoteClient", number: int, append: PendingAppend) -> None:
        super().__init__(client, number)
        self._append = append

    def set_exception(self, error: Exception) -> None:
        self.client.start(self._search(error))

    async def _search(self, error: Exception) -> None:
        try:
            position = await self.client.service.find(self._append)
        except LogError as failure:
            error, position = failure, 0
        except Exception as failure:  # noqa: BLE001  reported
            self.client.service.failed(failure)
            error, position = LogUnavailable(f"the log failed in an unexpected way ({failure!r})"), 0
        if position:
            self.client.add_recorded(self._number, position)
        elif isinstance(error, VersionConflict | MediaMissing):
            self.client.add_refused(self._number, error)
        else:
            unknown = OutcomeUnknown(f"{error}; whether this was recorded is unknown: read the stream again")
            self.client.add_refused(self._number, unknown)


class RemoteClient(asyncio.Protocol):
    """`name` is that of the process, and `program` its version, once it has said hello."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.name = self.program = "unknown"
        self.held: set[str] = set()  # streams
        self._pending = 0  # appends without an outcome
        self._drained = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader()
        self._is_known = False
        self._recorded: list[int] = []
        self._refused: list[tuple[int, Failure]] = []
        self._appended: list[EventHeader] = []
        self._outgoing: list[bytes] = []
        self._is_flush_due = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._requests = 0

    def push(self, name: str, body: bytes) -> None:
        """Send a message that was not asked for. Never waits, never raises."""
        self.send(Kind.PUSH, (name, body))

    def add_appended(self, header: EventHeader) -> None:
        """Tell the client of an event that another process has appended."""
        self._appended.append(header)
        self._flush_soon()

    def send(self, kind: Kind, content: object) -> None:
        """Send a frame soon, with others."""
        self._outgoing.append(frame(kind, content))
        self._flush_soon()

    def add_recorded(self, number: int, position: int) -> None:
        self._recorded += (number, position)
        if not self._is_flush_due:
            self._flush_soon()

    def add_refused(self, number: int, error: Exception) -> None:
        self._refused.append((number, to_failure(error)))
        self._flush_soon()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` for as long as the client is connected."""
        task = self._loop.create_task(work, name="log-client-request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Take nothing more from the client (what it sends from now on, it sends again to the next writer), and wait
        for the outcomes of its appends.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        while self._pending and self._transport is not None:
            self._drained.clear()
            await self._drained.wait()

    def hang_up(self) -> None:
        """Close the connection once what is to be sent has been sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._drained.set()
        for task in self._tasks:
            task.cancel()
        if self._is_known:
            self.service.left(self)
        self.service.gone(self)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, content in self._frames.feed(data):
                self._take(kind, content)
        except (msgspec.DecodeError, ValueError) as error:
            self.service.failed(error)
            self._cut()

    def _take(self, kind: int, content: memoryview) -> None:
        """Raises DecodeError, ValueError."""
        if not self._is_known:
            self._greet(_hello.decode(content))
        elif kind == Kind.APPENDS:
            self._submit(_appends.decode(content))
        elif kind == Kind.REQUEST:
            self._serve(_request.decode(content))
        elif kind == Kind.HOLDS:
            self.service.hold(self, _holds.decode(content))
        else:
            raise ValueError(f"a client has sent a frame of kind {kind}")

    def _greet(self, hello: Hello) -> None:
        self.name, self.program = hello.name, hello.program
        protocol = min(hello.protocol, PROTOCOL)
        if protocol < max(hello.protocol_min, PROTOCOL_MIN):
            refusal = (
                f"the process that writes the log (version {self.service.program}) speaks protocols {PROTOCOL_MIN} to"
                f" {PROTOCOL}, this one (version {hello.program}) {hello.protocol_min} to {hello.protocol}: restart it"
            )
            self.send(Kind.WELCOME, Welcome(PROTOCOL, self.service.program, refusal))
            self.hang_up()
            return
        self._is_known = True
        self.send(Kind.WELCOME, self.service.welcome(protocol))
        self.send(Kind.STATUS, self.service.joined(self))

    def _submit(self, appends: Appends) -> None:
        number, in_doubt, submit = appends.first, appends.in_doubt, self.service.writer.submit_for
        self._pending += len(appends.appends)
        for received in appends.appends:
            append = _with_actor(received) if received.media else received
            reply = DoubtfulReply(self, number, append) if in_doubt else AppendReply(self, number)
            try:
                submit(reply, append, is_admitted=in_doubt)
            except (LogUnavailable, ValueError) as error:
                if in_doubt:
                    error = OutcomeUnknown(f"{error}; whether this was recorded is unknown: read the stream again")
                self.add_refused(number, error)
            number += 1

    def _serve(self, request: Request) -> None:
        handler = self.service.handlers.get(request.name)
        if handler is None:
            refusal = f"the process that writes the log (version {self.service.program}) has no {request.name!r}"
            self._answer(request.number, LogUnavailable(refusal))
        elif self._requests >= REQUESTS_MAX:
            self._answer(request.number, LogBusy(f"{REQUESTS_MAX} requests to the process that writes the log wait"))
        else:
            self._requests += 1
            self.start(self._run(request, handler))

    async def _run(self, request: Request, handler: Handler) -> None:
        try:
            self._answer(request.number, await handler(self, request.body))
        except LogError as error:
            self._answer(request.number, error)
        except Exception as error:  # noqa: BLE001  reported
            self.service.failed(error)
            self._answer(request.number, error)
        finally:
            self._requests -= 1

    def _answer(self, number: int, result: bytes | Exception) -> None:
        self.service.report()  # first: callers may look at the state of the log when they have the answer
        body, failure = (b"", to_failure(result)) if isinstance(result, Exception) else (result, None)
        self.send(Kind.ANSWER, Answer(number, body, failure))

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all that a commit has caused. The state of the log comes before the answers that show it."""
        self._is_flush_due = False
        if self._is_known:
            self.service.report()
        frames, self._outgoing = self._outgoing, []
        if self._appended:
            columns = [(one.position, one.stream_id, one.version, one.type) for one in self._appended]
            frames.append(frame(Kind.APPENDED, columns))
            self._appended = []
        if self._recorded or self._refused:
            frames.append(frame(Kind.OUTCOMES, (self._recorded, self._refused)))
            self._pending -= len(self._recorded) // 2 + len(self._refused)
            self._recorded, self._refused = [], []
            if not self._pending:
                self._drained.set()
        transport = self._transport
        if transport is None or not frames:
            return
        transport.write(b"".join(frames))
        if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._cut()

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _with_actor(append: PendingAppend) -> PendingAppend:
    """With the metadata, as the uploads that the append consumes are the actor's."""
    return msgspec.structs.replace(append, metadata=decode_metadata(append.metadata_text))


def find_recorded(append: PendingAppend, connection: sqlite3.Connection) -> int:
    """The position of the first event of `append`, 0 where the log does not have it."""
    if not append.contents:
        return 0
    query = "SELECT position FROM events WHERE stream_id = ? AND version = ? AND commitment = ?"
    values = append.stream_id, append.expected_version + 1, append.contents[0].commitment
    with closing(connection.execute(query, values)) as rows:
        found = rows.fetchone()
    return 0 if found is None else int(found[0])

"""A client's connection to the process that writes the log: one at a time, and a new one whenever it breaks.

What has no answer when a connection breaks is sent again over the next one, marked as in doubt; the writer finds out
whether it is recorded. If no writer answers for `busy_timeout_s`, callers get an error that says what is known.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import count

import msgspec

from events.backoff import backoff_delays
from events.errors import LogBusy, LogError, LogUnavailable, NodesOutdated, OutcomeUnknown
from events.log_observer import LogObserver
from events.options import LogOptions
from events.record import EventHeader
from events.remote.waiting_calls import Recorded, WaitingAppend, WaitingRequest, fail
from events.remote.wire_format import (
    APPEND_BYTES_MAX,
    APPENDS_BYTES,
    PROTOCOL,
    PROTOCOL_MIN,
    Answer,
    Hello,
    Holds,
    Kind,
    Outcomes,
    Push,
    Request,
    Status,
    Welcome,
    appends_frame,
    frame,
    to_error,
)
from events.remote.writer_protocol import WriterProtocol
from events.storage.append_batch import PendingAppend, recorded_events
from events.storage.group_commit import STALLED_S
from events.subscriptions import AppendListeners

RETRY_S = (0.01, 0.5)  # between attempts to connect: the first pause and the longest
EXPIRY_CHECK_S = 0.1  # between looks, without a connection, for callers that have waited too long
ANSWER_TIMEOUT_S = 30.0  # a writer that has said nothing for so long, while an append waits, is taken for dead
ANSWER_CHECK_S = 1.0  # between looks for that, while an append waits
REQUESTS_MAX = 1_000  # that may wait for their answers
NOTHING_RECORDED = "nothing was recorded"
UNKNOWN = "whether this was recorded is unknown: read the stream again"

_outcomes = msgspec.msgpack.Decoder(Outcomes)
_answer = msgspec.msgpack.Decoder(Answer)
_appended = msgspec.msgpack.Decoder(list[tuple[int, str, int, str]])
_held = msgspec.msgpack.Decoder(list[tuple[str, int]])
_push = msgspec.msgpack.Decoder(Push)
_status = msgspec.msgpack.Decoder(Status)

_ANSWERS = frozenset({Kind.OUTCOMES, Kind.ANSWER})


class WriterConnection:
    """`address` is the path of the writer's socket. `open` it, and `close` it."""

    def __init__(self, address: str, options: LogOptions, observe: LogObserver, name: str, program: str) -> None:
        self.status = Status()
        self.file: tuple[int, int] | None = None  # of the writer, as Welcome has it
        self.find_mismatch: Callable[[Welcome], str | None] = lambda _: None  # why a connection must not be used
        self.newest = 0  # a position up to which `listeners` were told of everything that all are told of
        self.listeners = AppendListeners()
        self.on_connected: list[Callable[[], None]] = []
        self.on_push: dict[str, Callable[[bytes], None]] = {}
        self._address = address
        self._options = options
        self._observe = observe
        self._hello = Hello(PROTOCOL, PROTOCOL_MIN, name, program)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None  # once the writer has said welcome
        self._lost_s = self._heard_s = self._loop.time()  # when there was a connection, and when it said something
        self._reason = "the process that writes the log does not answer"
        self._has_answered = False  # over this connection or the last one, or no append waited when it broke
        self._numbers = count(1)
        self._appends: dict[int, WaitingAppend] = {}  # by number; those from `_unsent` on are not sent yet
        self._append_bytes = 0
        self._next = self._unsent = 1
        self._requests: dict[int, WaitingRequest] = {}
        self._unsent_requests: list[int] = []
        self._held: set[str] = set()
        self._to_hold: dict[str, bool] = {}  # stream -> whether it is held or released, to be sent
        self._is_flush_due = False
        self._is_closing = False
        self._closed: str | None = None
        self._drained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._check: asyncio.TimerHandle | None = None  # while an append waits, or there is no connection

    @property
    def is_connected(self) -> bool:
        return self._transport is not None

    @property
    def oldest_append_s(self) -> float:
        """How long the oldest append has waited that has no answer; 0 if none waits."""
        return self._loop.time() - next(iter(self._appends.values())).since_s if self._appends else 0.0

    async def open(self) -> None:
        """Connect, within `busy_timeout_s`. Raises LogUnavailable."""
        connected = asyncio.Event()
        self.on_connected.append(connected.set)
        self._task = self._loop.create_task(self._stay_connected(), name="log-connection")
        self._check_after(EXPIRY_CHECK_S)
        try:
            async with asyncio.timeout(self._options.busy_timeout_s):
                await connected.wait()
        except TimeoutError as error:
            raise LogUnavailable(self._reason) from error
        finally:
            self.on_connected.remove(connected.set)

    def submit(self, append: PendingAppend) -> asyncio.Future[Recorded]:
        """Have the writer record an append; the future gets its outcome. Raises as GroupCommit.submit."""
        if self._is_closing:
            raise self._refuse(LogUnavailable("the log is closing"), "closing")
        if len(append.contents) > self._options.append_batch_max:
            raise ValueError(f"an append may hold at most {self._options.append_batch_max} events")
        if append.size > APPEND_BYTES_MAX:
            raise ValueError(f"an append may hold at most {APPEND_BYTES_MAX:,} bytes")
        waiting = len(self._appends)
        full = self._append_bytes + append.size > self._options.append_queue_bytes
        if waiting >= self._options.append_queue_max or (waiting and full):
            raise self._refuse(LogBusy(f"{waiting} appends wait already"), "busy")
        future: asyncio.Future[Recorded] = self._loop.create_future()
        self._appends[self._next] = WaitingAppend(append, future, self._loop.time())
        self._append_bytes += append.size
        self._next += 1
        if self._check is None:
            self._check_after(ANSWER_CHECK_S)
        if not self._is_flush_due:
            self._flush_soon()
        return future

    async def request(self, name: str, body: bytes, timeout_s: float | None = None) -> bytes:
        """The writer's answer; it may get the request twice. Raises the LogError that it answers with, LogBusy,
        LogUnavailable after `busy_timeout_s` without a writer or after `timeout_s`.
        """
        if self._is_closing:
            raise LogUnavailable(self._closed or "the log is closing")
        if len(self._requests) >= REQUESTS_MAX:
            raise LogBusy(f"{REQUESTS_MAX} requests to the process that writes the log wait already")
        future: asyncio.Future[bytes] = self._loop.create_future()
        number = next(self._numbers)
        self._requests[number] = WaitingRequest(name, body, future, self._loop.time())
        self._unsent_requests.append(number)
        self._flush_soon()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise LogUnavailable("the process that writes the log does not answer in time") from error
        finally:
            self._requests.pop(number, None)

    def hold(self, stream_id: str) -> None:
        """As EventLog.hold."""
        self._held.add(stream_id)
        self._note_hold(stream_id, is_held=True)

    def release(self, stream_id: str) -> None:
        """As EventLog.release."""
        if stream_id in self._held:
            self._held.discard(stream_id)
            self._note_hold(stream_id, is_held=False)

    def _note_hold(self, stream_id: str, *, is_held: bool) -> None:
        if self._transport is not None:  # else the next connection begins with all that are held
            self._to_hold[stream_id] = is_held
            self._flush_soon()

    def refuse(self) -> None:
        """From now on refuse appends and requests."""
        self._is_closing = True

    async def close(self) -> None:
        """Refuse what comes, wait for the outcomes of the appends that wait, and hang up."""
        self.refuse()
        while self._appends:
            self._drained.clear()
            await self._drained.wait()
        self._closed = "the log is closed"
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._check_after(0.0)
        for request in self._requests.values():
            fail(request.future, LogUnavailable(self._closed))
        if self._transport is not None:
            self._transport.close()

    async def _stay_connected(self) -> None:
        delays = backoff_delays(*RETRY_S)
        while True:
            protocol = WriterProtocol(self)
            try:
                await self._loop.create_unix_connection(lambda protocol=protocol: protocol, self._address)  # type: ignore[misc]
            except OSError as error:
                self._reason = f"the process that writes the log cannot be reached ({error.strerror or error})"
            else:
                try:
                    protocol.send(frame(Kind.HELLO, self._hello))
                    is_welcome = await protocol.welcomed
                    await protocol.lost
                    if is_welcome and self._has_answered:
                        delays = backoff_delays(*RETRY_S)
                finally:
                    protocol.close()
            await asyncio.sleep(next(delays))

    def welcomed(self, welcome: Welcome, transport: asyncio.Transport) -> bool:
        """As Receiver.welcomed."""
        refusal = welcome.refusal or self.find_mismatch(welcome)
        if refusal is not None:
            self._reason = refusal
            return False
        self.file = welcome.file
        self._transport = transport
        self._has_answered = False
        self._renumber()
        self._unsent_requests = list(self._requests)
        self._to_hold = dict.fromkeys(self._held, True)
        self._flush()
        for on_connected in self.on_connected:
            on_connected()
        return True

    def lost(self) -> None:
        """As Receiver.lost."""
        if self._transport is None:
            return
        self._transport = None
        self._check_after(EXPIRY_CHECK_S)
        self._lost_s = self._loop.time()
        self._reason = "the process that writes the log has ended"
        self._has_answered = self._has_answered or not self._appends
        self._to_hold = {}
        self._doubt_sent()

    def _doubt_sent(self) -> None:
        """What the lost connection has not answered is sent again, but only for `busy_timeout_s`: the writer may fail
        at just that.
        """
        latest_s = self._loop.time() - self._options.busy_timeout_s
        given_up = []
        for number, waiting in self._appends.items():
            if number >= self._unsent:
                break
            if waiting.is_in_doubt and waiting.since_s <= latest_s:
                given_up.append(number)
            waiting.is_in_doubt = True
        self._give_up(given_up)
        unsent = set(self._unsent_requests)
        for number, request in self._requests.items():
            if number not in unsent:
                if request.is_in_doubt and request.since_s <= latest_s:
                    fail(request.future, LogUnavailable(self._reason))
                request.is_in_doubt = True

    def received(self, kind: int, content: memoryview) -> None:
        """As Receiver.received."""
        self._heard_s = self._loop.time()
        self._has_answered = self._has_answered or kind in _ANSWERS
        if kind == Kind.OUTCOMES:
            self._resolve(_outcomes.decode(content))
        elif kind == Kind.ANSWER:
            self._answer(_answer.decode(content))
        elif kind == Kind.APPENDED:
            headers = [EventHeader(*columns) for columns in _appended.decode(content)]
            self.newest = max(self.newest, headers[-1].position)
            self.listeners.on_appended(headers)
        elif kind == Kind.HELD:
            for stream_id, version in _held.decode(content):
                self.listeners.on_held(stream_id, version)
        elif kind == Kind.STATUS:
            self.status = _status.decode(content)
        elif kind == Kind.PUSH:
            push = _push.decode(content)
            if push.name in self.on_push:
                self.on_push[push.name](push.body)

    def _resolve(self, outcomes: Outcomes) -> None:
        pairs = iter(outcomes.recorded)
        for number, position in zip(pairs, pairs, strict=True):
            waiting = self._take(number)
            if not waiting.future.done():  # else its caller was cancelled
                waiting.future.set_result(recorded_events(waiting.append, position))
            self.newest = max(self.newest, position)
        for number, failure in outcomes.refused:
            error = to_error(failure)
            if isinstance(error, LogUnavailable) and not isinstance(error, (LogBusy, NodesOutdated)):
                self._observe.refused_by_writer()
            fail(self._take(number).future, error)
        if not self._appends:
            self._drained.set()

    def _take(self, number: int) -> WaitingAppend:
        waiting = self._appends.pop(number)
        self._append_bytes -= waiting.append.size
        return waiting

    def _answer(self, answer: Answer) -> None:
        request = self._requests.pop(answer.number, None)
        if request is None or request.future.done():  # its caller is gone
            return
        if answer.failure is None:
            request.future.set_result(answer.body)
        else:
            request.future.set_exception(to_error(answer.failure))

    def _renumber(self) -> None:
        """Number the appends of a new connection from 1, those in doubt first: they are the oldest."""
        self._appends = dict(enumerate(self._appends.values(), 1))
        self._next, self._unsent = len(self._appends) + 1, 1

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all that the callers of one iteration of the event loop have asked for."""
        self._is_flush_due = False
        transport = self._transport
        if transport is None:
            return
        frames: list[bytes] = []
        if self._to_hold:
            held = [stream_id for stream_id, is_held in self._to_hold.items() if is_held]
            released = [stream_id for stream_id, is_held in self._to_hold.items() if not is_held]
            frames.append(frame(Kind.HOLDS, Holds(held, released)))
            self._to_hold = {}
        if self._unsent < self._next:
            frames += self._append_frames()
        for number in self._unsent_requests:
            if request := self._requests.get(number):
                frames.append(frame(Kind.REQUEST, Request(number, request.name, request.body)))
        self._unsent_requests = []
        if frames:
            transport.write(b"".join(frames))

    def _append_frames(self) -> Iterable[bytes]:
        first, is_in_doubt, size = self._unsent, False, 0
        batch: list[PendingAppend] = []
        for number in range(self._unsent, self._next):
            waiting = self._appends[number]
            if batch and (size > APPENDS_BYTES or waiting.is_in_doubt != is_in_doubt):
                yield appends_frame(first, batch, in_doubt=is_in_doubt)
                batch, first, size = [], number, 0
            is_in_doubt = waiting.is_in_doubt
            batch.append(waiting.append)
            size += waiting.append.size
        self._unsent = self._next
        yield appends_frame(first, batch, in_doubt=is_in_doubt)

    def _check_after(self, seconds: float) -> None:
        """Once closed, only cancel the check."""
        if self._check is not None:
            self._check.cancel()
        self._check = None if self._closed else self._loop.call_later(seconds, self._check_waiting)

    def _check_waiting(self) -> None:
        """Whether a writer that is connected still answers; without one, who has waited for too long."""
        self._check = None
        if self._transport is None:
            self._expire()
            self._check_after(EXPIRY_CHECK_S)
        elif self._appends:
            if self.oldest_append_s >= STALLED_S:
                self._observe.refused_by_writer()
            if min(self.oldest_append_s, self._loop.time() - self._heard_s) > ANSWER_TIMEOUT_S:
                self._transport.abort()
            self._check_after(ANSWER_CHECK_S)

    def _expire(self) -> None:
        """Refuse what has waited for a writer for `busy_timeout_s`."""
        latest_s = self._loop.time() - self._options.busy_timeout_s
        if self._lost_s <= latest_s:
            self._give_up([number for number, waiting in self._appends.items() if waiting.since_s <= latest_s])
            for request in self._requests.values():
                if request.since_s <= latest_s:
                    fail(request.future, LogUnavailable(self._reason))

    def _give_up(self, numbers: Iterable[int]) -> None:
        """Refuse appends, while there is no connection."""
        for number in numbers:
            waiting = self._take(number)
            kind, fate = (OutcomeUnknown, UNKNOWN) if waiting.is_in_doubt else (LogUnavailable, NOTHING_RECORDED)
            fail(waiting.future, self._refuse(kind(f"{self._reason}; {fate}"), "unavailable"))
        if not self._appends:
            self._drained.set()

    def _refuse(self, error: LogError, reason: str) -> LogError:
        self._observe.refused(reason)
        return error

"""Streamed answers: headers, Server-Sent Events, backpressure, pings (heartbeat), the write timeout, and the fan-out of
growing texts to their readers.

The fan-out is one round of writes at the end of each tick of the event loop: a signal that something has changed leads
to a socket write without waking a task.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Literal, Protocol, Self, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from chatbot.api.access.authorization import PRINCIPAL
from chatbot.api.problems import problem_of
from chatbot.api.server.connection_limits import PING_S as PROBE_PING_S
from chatbot.api.server.connection_limits import BoundedProtocol, HalfClosableProtocol, StreamLimit, note_cut
from chatbot.api.streaming.frames import FeedFrame, Frame
from chatbot.config.settings import Settings
from chatbot.keys.key_registry import KeyRegistry
from chatbot.observability.metrics import Metrics
from chatbot.sessions.domain.rejections import Rejection
from chatbot.sessions.feeds.channels import Signal

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # proxies may neither keep it nor compress it, which would buffer
    "X-Accel-Buffering": "no",
}
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_encode_json = msgspec.json.Encoder().encode


def encode_event(event_id: bytes, data: bytes, retry_ms: int | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, 9.2). `retry_ms`: milliseconds after which a browser is to reconnect."""
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return b"%bid: %b\ndata: %b\n\n" % (retry, event_id, data)


def encode_frame(frame: Frame | FeedFrame, version: int, offset: int, *, retry_ms: int | None = None) -> bytes:
    """`frame` as a server-sent event whose id is the cursor after it."""
    return encode_event(b"%d:%d" % (version, offset), _encode_json(frame), retry_ms)


class Progress(Enum):
    """Why a subscription stopped writing."""

    OVER = auto()  # there will be no more news of this kind
    BEHIND = auto()  # the sink has not taken all that was pushed


News = bytes | Literal[Progress.OVER]
TakeNews = Callable[[], News]


class Sink(Protocol):
    """Where the frames of one reader go."""

    def push(self, frames: bytes) -> bool:
        """Write without waiting. False: the sink did not take all; await `drain` before the next push.

        Raises ConnectionError.
        """
        ...

    async def drain(self) -> None:
        """Return when the sink has taken all that was pushed. Raises ConnectionError."""
        ...


class FlushScheduler:
    """Writes to the readers that have news, one after the other, once in each tick of the event loop.

    Not immediately when the news come: all news of one tick go out as one frame, and one round of writes disturbs
    neither our own reading nor the receivers as often. With 256 replies at 50 tokens a second a write took 19 us when
    it followed each read, most of it to wake a receiver that had just gone to sleep, and 11 us in rounds.
    """

    def __init__(self) -> None:
        self._due: list[_Subscription] = []

    async def stream_updates(self, sink: Sink, take_news: TakeNews, *signals: Signal) -> None:
        """Push what `take_news` returns to `sink` whenever one of `signals` is notified, until it returns OVER.

        `take_news` returns everything new as bytes, b"" if there is nothing. It is not called for a reader that is
        behind: once its socket has room, the reader gets everything that is new by then as one frame.
        Raises ConnectionError when the reader has left.
        """
        while True:
            with _Subscription(self, sink, take_news, signals) as subscription:
                subscription.flush()
                progress = await subscription.result
            if progress is Progress.OVER:
                return
            await sink.drain()

    def schedule(self, subscription: "_Subscription") -> None:
        """Flush `subscription` at the end of this tick."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush_due)
        self._due.append(subscription)

    def _flush_due(self) -> None:
        due, self._due = self._due, []
        for subscription in due:
            subscription.flush()


class _Subscription:
    """A reader's subscription to signals, from a moment when it has taken everything until it falls behind or is over.

    As a context manager it listens to the signals inside of the block. `result` says why it ended.
    """

    # there is one for each reader that waits
    __slots__ = ("_flush_scheduler", "_is_scheduled", "_signals", "_sink", "_take_news", "result")

    def __init__(
        self, flush_scheduler: FlushScheduler, sink: Sink, take_news: TakeNews, signals: tuple[Signal, ...]
    ) -> None:
        self.result: asyncio.Future[Progress] = asyncio.get_running_loop().create_future()
        self._flush_scheduler = flush_scheduler
        self._sink = sink
        self._take_news = take_news
        self._signals = signals
        self._is_scheduled = False

    def __enter__(self) -> Self:
        for signal in self._signals:
            signal.listeners.add(self.notify)
        return self

    def __exit__(self, *_: object) -> None:
        for signal in self._signals:
            signal.listeners.discard(self.notify)

    def notify(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._flush_scheduler.schedule(self)

    def flush(self) -> None:
        self._is_scheduled = False
        if self.result.done():
            return
        try:
            news = self._take_news()
            if news is Progress.OVER:
                self.result.set_result(Progress.OVER)
            elif news and not self._sink.push(news):
                self.result.set_result(Progress.BEHIND)
        except Exception as error:  # noqa: BLE001  raised in the reader's handler, not where the text grows
            self.result.set_exception(error)


class StreamContext(msgspec.Struct, frozen=True):
    """What all streams of one application share. `ping_s` and the timeouts are seconds, `retry_ms` milliseconds."""

    keys: KeyRegistry
    limit: StreamLimit
    flush_scheduler: FlushScheduler
    metrics: Metrics
    logger: structlog.stdlib.BoundLogger
    ping_s: float
    write_timeout_s: float
    document_timeout_s: float
    retry_ms: int

    @classmethod
    def create(
        cls, settings: Settings, keys: KeyRegistry, metrics: Metrics, logger: structlog.stdlib.BoundLogger
    ) -> Self:
        return cls(
            keys=keys,
            limit=StreamLimit(settings.stream.readers_max, owner_max=settings.stream.owner_readers_max),
            flush_scheduler=FlushScheduler(),
            metrics=metrics,
            logger=logger,
            ping_s=settings.stream.sse_ping_s,
            write_timeout_s=settings.stream.write_timeout_s,
            document_timeout_s=settings.server.write_timeout_s,
            retry_ms=settings.stream.retry_ms,
        )


STREAMS: web.AppKey[StreamContext] = web.AppKey("streams", StreamContext)


class ReaderConnection(msgspec.Struct, frozen=True):
    """The connection to one reader: aiohttp's writer, and the transport below it."""

    writer: AbstractStreamWriter
    transport: asyncio.Transport


FIRST_PROBE_S = 0.001  # between the first two pings to a reader that may have left; then doubled
CLIENT_LEFT_STATUS = 499  # nobody reads this answer; what nginx logs for a client that has left


async def stream_response(
    request: web.Request,
    write: Callable[["ResponseStream"], Awaitable[None]],
    *,
    first: bytes = b"",
    headers: Mapping[str, str] = HEADERS,
    ping_s: float | None = None,
) -> web.StreamResponse:
    """Open an event stream, let `write` fill it, and end it. It also ends when the reader leaves, and, by an aborted
    connection, when the reader's key is no longer valid.

    `first`: frames that are sent in one piece with the headers. Streams of another type have other `headers`. `ping_s`
    (seconds) None: as in the settings; infinite: no pings.
    """
    streams = request.app[STREAMS]
    if ping_s is None:
        ping_s = streams.ping_s
    # A stream without pings is a document, whose client is to read it, not to wait for news.
    timeout_s = streams.document_timeout_s if math.isinf(ping_s) else streams.write_timeout_s
    protocol = request.protocol
    if isinstance(protocol, BoundedProtocol):
        protocol.write_timeout_s = timeout_s
    stream: ResponseStream | None = None
    principal = request.get(PRINCIPAL)  # other nodes have none
    streams.metrics.stream_opened()
    try:
        stream = await ResponseStream.open(request, headers, first, ping_s, timeout_s)
        if isinstance(protocol, HalfClosableProtocol):
            protocol.on_half_close = stream.probe_reader
            if protocol.is_half_closed:
                stream.probe_reader()
        if principal is not None:
            streams.keys.begin_use(principal, stream.abort)
        await stream.drain()
        await write(stream)
        await stream.close()
    except ConnectionError as error:
        # The reader has left. The reply goes on, and the reader may return for the rest.
        streams.logger.debug("stream.left", reason=type(error).__name__)
    except Exception:
        if stream is not None:
            stream.abort("failed")  # or the problem document would look like a part of this answer
        raise
    finally:
        streams.metrics.stream_ended()
        if stream is not None:
            stream.stop_timer()
            if principal is not None:
                streams.keys.end_use(principal, stream.abort)
    return stream.response if stream is not None else web.Response(status=CLIENT_LEFT_STATUS)


class ResponseStream:
    """An open, streamed answer. Times are seconds.

    aiohttp writes the answer's head and its end. The frames between are written directly to the transport, as chunks
    (RFC 9112, 7.1), which is possible in any callback. The transport's buffer has a high-water mark of 0
    (`BoundedProtocol`): a reader that does not take a frame immediately is behind. One timer per stream, not per
    frame, sends pings after `ping_s` of silence and disconnects a reader that has taken nothing for `timeout_s`.
    """

    __slots__ = (
        "_has_ended",
        "_is_chunked",
        "_last_s",
        "_loop",
        "_ping_s",
        "_probe_ping_max_s",
        "_timeout_s",
        "_timer",
        "_transport",
        "_writer",
        "response",
    )

    def __init__(
        self, response: web.StreamResponse, connection: ReaderConnection, ping_s: float, timeout_s: float
    ) -> None:
        self.response = response
        self._writer, self._transport = connection.writer, connection.transport
        self._ping_s = ping_s
        self._probe_ping_max_s: float | None = None  # the interval that pings to a reader that may have left grow to
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()  # when the last write began
        self._has_ended = False
        self._is_chunked = response.chunked
        self._timer = self._loop.call_later(min(ping_s, timeout_s), self._check_reader)

    @classmethod
    async def open(
        cls, request: web.Request, headers: Mapping[str, str], first: bytes, ping_s: float, write_timeout_s: float
    ) -> "ResponseStream":
        """Send the headers and `first`. Raises ConnectionError if the reader has left."""
        response = web.StreamResponse(headers=headers)
        await cast(BoundedProtocol, request.protocol).begin_stream(request, response, first)
        if request.transport is None:
            raise ConnectionResetError("the reader has left")
        return cls(response, ReaderConnection(request.writer, request.transport), ping_s, write_timeout_s)

    def push(self, frames: bytes) -> bool:
        """Write without waiting. False: the socket did not take all of it; await `drain` before the next push.

        Raises ConnectionError if the reader has left.
        """
        transport = self._transport
        if transport.is_closing():
            raise ConnectionResetError("the reader has left")
        self._last_s = self._loop.time()
        self._writer.output_size += len(frames)
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._is_chunked else frames)
        return transport.get_write_buffer_size() == 0

    async def drain(self) -> None:
        """Return when the socket has taken all. Raises ConnectionError if the reader left or was disconnected."""
        await self._writer.drain()

    async def send(self, frames: bytes) -> None:
        """Write, and wait until it is taken. Raises ConnectionError if the reader left or was disconnected."""
        if not self.push(frames):
            await self.drain()

    async def close(self, frames: bytes = b"") -> None:
        """End the answer, unless it has ended. `frames` are sent in one write with its end.

        Raises ConnectionError if the reader left or was disconnected.
        """
        if not self._has_ended:
            self._has_ended, self._last_s = True, self._loop.time()
            await self.response.write_eof(frames)

    def break_off(self, reason: Exception) -> None:
        """Abort the connection, so that the client does not take a part for the whole. Raises ConnectionError."""
        self.abort("failed")
        raise ConnectionAbortedError from reason

    def abort(self, reason: str = "key_ended") -> None:
        """Abort the connection; the access log has the reason."""
        note_cut(self._transport, reason)
        self._transport.abort()

    def probe_reader(self) -> None:
        """Ping a reader that has closed its sending side now, after a millisecond, and then less and less often.

        It may have left, which only a write shows: the second one fails, after the reader's system refused the first.
        """
        if math.isfinite(self._ping_s):
            self._probe_ping_max_s = min(self._ping_s, PROBE_PING_S)
            self._ping_s = min(FIRST_PROBE_S, self._probe_ping_max_s)
            self._timer.cancel()
            self._last_s = self._loop.time() - self._ping_s
            self._check_reader()

    def stop_timer(self) -> None:
        """Stop the timer. To be called however the stream ended."""
        self._timer.cancel()

    def _check_reader(self) -> None:
        """Ping a silent stream, and disconnect a reader that has left what was sent unread for too long."""
        silent_s, is_stuck = self._loop.time() - self._last_s, self._transport.get_write_buffer_size() > 0
        if is_stuck and silent_s >= self._timeout_s:
            self.abort("write_timeout")  # a waiting `drain` raises ConnectionError
            return
        if not is_stuck and silent_s >= self._ping_s and not self._has_ended:
            self._ping()
            silent_s = 0.0
            if self._probe_ping_max_s is not None:
                self._ping_s = min(self._ping_s * 2, self._probe_ping_max_s)
        # A write that begins after this check may stall immediately: check again before its timeout, too.
        next_s = self._timeout_s - silent_s if is_stuck else min(self._ping_s - silent_s, self._timeout_s)
        self._timer = self._loop.call_later(max(next_s, 0.001), self._check_reader)

    def _ping(self) -> None:
        """Without waiting: there is no other ping before the socket has taken this one."""
        with suppress(ConnectionError):  # the handler is cancelled with the connection
            self.push(PING)


def ask_to_reconnect(request: web.Request, error: Exception) -> web.Response:
    """Ask a browser's EventSource to reconnect after a temporary `error`: any status but 200 would stop it permanently.

    Raises `error` if it is not temporary, and for all other clients, which can read a problem.
    """
    streams, problem = request.app[STREAMS], problem_of(error)
    is_event_source = "text/event-stream" in request.headers.get("Accept", "")
    is_temporary = problem is not None and (problem.status == 503 or problem.kind == "over-share")
    if problem is None or not is_temporary or not is_event_source:
        raise error
    if not isinstance(error, Rejection):
        streams.logger.warning("feed.unavailable", reason=str(error))
    text = f"retry: {streams.retry_ms}\n: {problem.detail}\n\n"
    return web.Response(body=text.encode(), headers=HEADERS)

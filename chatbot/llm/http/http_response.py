"""Bodies that a model server, or a proxy before it, compresses although we ask for `identity` (RFC 9110, 8.4). Pure.

One answer of a model server while it arrives: events of a stream, or one bounded JSON document.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from chatbot.llm.http.http_connection import ConnectionLost, HttpConnection
from chatbot.llm.http.lenient_json import BOM
from chatbot.llm.http.sse_parser import EventTooLong, SseParser
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmFailed
from events.catalogue import Usage

GZIP_MAGIC = b"\x1f\x8b"
START_BYTES = 8  # enough to tell what a body is: no whole one is shorter
PIECE_BYTES = 65_536  # inflated at a time: what reads it has bounds of its own
INFLATED_MAX_BYTES = 16_777_216  # of one read, of at most 256 KiB: a stream of text grows less than fifty-fold
_TEXT_STARTS = (b"{", b"[", b":", b"data", b"event", b"id", b"retry")  # of JSON and of event streams


class ContentDecoder:
    """Gives the plain bytes of a body, in order. The first bytes decide, not the label, which proxies get wrong."""

    def __init__(self, label: str) -> None:
        """`label`: the value of Content-Encoding, '' where there is none."""
        self._label = label.strip().lower()
        self._inflater: zlib._Decompress | None = None
        self._start = b""
        self._is_known = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes in `data`, in bounded pieces. Raises LlmFailed."""
        if not self._is_known:
            self._start += data
            if len(self._start) < START_BYTES:
                return
            data, self._start = self._start, b""
            self._inflater = self._choose_decoder(data)
            self._is_known = True
        if self._inflater is None:
            yield data
        else:
            yield from _inflate(self._inflater, data)

    def end(self) -> bytes:
        """A body that is too short to tell what it is."""
        return self._start

    def _choose_decoder(self, data: bytes) -> "zlib._Decompress | None":
        if data.startswith(GZIP_MAGIC):
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        if data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0:  # the head of zlib's format (RFC 1950)
            return zlib.decompressobj()
        is_text = data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_TEXT_STARTS)
        if is_text or self._label in ("", "identity", "gzip", "x-gzip"):
            return None
        if self._label == "deflate":  # some servers leave out the head
            return zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        raise LlmFailed(f"The model server's answer is compressed as {self._label[:32]!r}, which was not asked for")


def _inflate(inflater: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    inflated = 0
    has_more = bool(data)
    while has_more and not inflater.eof:
        try:
            piece = inflater.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise LlmFailed("The model server's compressed answer is damaged") from error
        inflated += len(piece)
        if inflated > INFLATED_MAX_BYTES:
            raise LlmFailed(f"The model server's compressed answer exceeds {INFLATED_MAX_BYTES} bytes in one read")
        data = inflater.unconsumed_tail
        has_more = bool(data) or len(piece) == PIECE_BYTES  # a full piece: the inflater may hold the rest of a match
        if piece:
            yield piece


TRUNCATED = "The model server's answer was cut before its end"
MALFORMED = "The model server's answer is malformed"
DONE = b"[DONE]"

END_SILENCE_S = 5.0  # after the end that a server names: then nothing follows, though its body has not ended
END_WAIT_S = 0.05  # after [DONE], for the end of the body, which lets the connection be used again

TOKENS_MAX = 2**31 - 1  # of one reply; sums of such counts fit in 64 bits for as long as anyone will look

DOCUMENT_REST_BYTES = 65_536  # of a document: what surrounds the reply
START_MAX_BYTES = 1024  # of white space before the first character that says what a body is

EventConsumer = Callable[[list[bytes]], bool]


# The names of the two counts: OpenAI's, Anthropic's, Ollama's.
USAGE_NAMES = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("prompt_eval_count", "eval_count"),
)


def read_usage(told: Any) -> Usage | None:
    """None for anything but two counts: a reply is not lost because its usage is odd."""
    if not isinstance(told, dict):
        return None
    pairs = ((_count(told.get(first)), _count(told.get(second))) for first, second in USAGE_NAMES)
    prompt, completion = next((pair for pair in pairs if None not in pair), (None, None))
    total = _count(told.get("total_tokens"))
    if prompt is None or completion is None:
        return None
    return Usage(prompt, completion, prompt + completion if total is None else total)


def _count(told: Any) -> int | None:
    """What is recorded stays for ever: a count that is none must not get that far."""
    return told if type(told) is int and 0 <= told <= TOKENS_MAX else None


class _BodyReader:
    """A body that is being read: an event stream, or JSON where its first bytes say so."""

    def __init__(self, parser: SseParser, add_events: EventConsumer, document_max_bytes: int) -> None:
        self.is_plain_stream = False  # known by its first bytes: nothing has to be decoded or found out
        self._is_event_stream = False  # as far as is known
        self._parser = parser
        self._consume_events = add_events
        self._document_max_bytes = document_max_bytes
        self._document: bytearray | None = None
        self._start = b""
        self._has_events = False

    def take(self, data: bytes) -> bool:
        """Whether the reader has enough. Raises LlmFailed, EventTooLong, and what `absorb` raises."""
        if self._document is not None:
            self._document += data
            if len(self._document) > self._document_max_bytes:
                raise LlmFailed(f"The model server's answer exceeds {self._document_max_bytes} bytes")
            return False
        if self._is_event_stream:
            return self.take_events(data)
        self._start += data
        first = self._start.removeprefix(BOM).lstrip()[:1]
        if first in (b"", BOM[:1]) and len(self._start) < START_MAX_BYTES:
            return False
        data, self._start = self._start, b""
        if first in (b"{", b"["):
            self._document = bytearray()
        else:
            self._is_event_stream = True
        return self.take(data)

    def start(self, data: bytes) -> bool:
        """Whether the body's first bytes are those of an event stream that is not compressed."""
        self.is_plain_stream = self._is_event_stream = data.startswith(b"data:")
        return self.is_plain_stream

    def take_events(self, data: bytes) -> bool:
        """As take(), of a body that is known to be an event stream."""
        events = self._parser.feed(data)
        if not events:
            return False
        self._has_events = True
        return self._consume_events(events)

    def end(self) -> bytes | None:
        """The body has ended: its JSON, if it is that. Raises LlmFailed for what is neither."""
        if self._document is not None:
            return bytes(self._document)
        events = self._parser.end()
        if events:
            self._consume_events(events)
        elif self._is_event_stream and not self._has_events:
            raise LlmFailed(MALFORMED)
        return None


class HttpResponse:
    """An answer whose head has come. Whoever holds it closes it, at any point."""

    def __init__(
        self, connection: HttpConnection, options: LlmOptions, release: Callable[[HttpConnection], None]
    ) -> None:
        self._connection = connection
        self._release = release
        self._parser = SseParser(options.line_max_bytes)
        # A code point is at most 12 bytes in JSON (two \uXXXX).
        self._document_max_bytes = 12 * options.reply_max_chars + DOCUMENT_REST_BYTES
        self.status = connection.status
        self._end_timer: asyncio.TimerHandle | None = None
        self._decoder: ContentDecoder | None = None

    def header(self, name: str) -> str | None:
        """The value of a header of the answer."""
        value = self._connection.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    async def read(self, add_events: EventConsumer) -> bytes | None:
        """Give `absorb` the data of all events that one read of the socket completes, in that read's own callback,
        until it says that it has enough or the body ends.

        A body that begins as JSON does is no event stream, whatever its label: all of it is returned.
        Raises LlmFailed, also when the body is cut before its end, and what `absorb` raises.
        """
        body = _BodyReader(self._parser, add_events, self._document_max_bytes)

        def take(data: bytes) -> bool:
            if body.is_plain_stream or (self._decoder is None and body.start(data)):
                return body.take_events(data)
            return any(map(body.take, self._decode(data)))

        try:
            if not await self._connection.body(take):
                body.take(self._decode_end())
                return body.end()
        except EventTooLong as error:
            raise LlmFailed(str(error)) from error
        except ConnectionLost as error:
            raise LlmFailed(TRUNCATED) from error
        finally:
            self.end_after(None)
        return None

    @property
    def is_ending(self) -> bool:
        """read() is to end after a silence."""
        return self._end_timer is not None

    def end_after(self, silence_s: float | None) -> None:
        """Have read() end in so many seconds, as if `absorb` had enough, unless this is called again; None: not."""
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
        if silence_s is not None:
            self._end_timer = asyncio.get_running_loop().call_later(silence_s, self._connection.stop)

    def allow_coalescing(self) -> None:
        """The reply has begun to come: what follows may be read together with other replies."""
        self._connection.allow_coalescing()

    async def end(self) -> None:
        """After [DONE]: takes the end of the body if it comes at once, so that the connection is kept."""
        if not self._connection.is_complete:
            with suppress(ConnectionLost, TimeoutError):
                async with asyncio.timeout(END_WAIT_S):
                    await self._connection.body(lambda _data: False)

    async def document(self, max_bytes: int | None = None) -> bytes:
        """The whole body. Raises LlmFailed, also when it is longer than `max_bytes` (None: than any reply may be)."""
        bound = max_bytes or self._document_max_bytes
        body = await self.read_prefix(bound)
        if len(body) > bound:
            raise LlmFailed(f"The model server's answer exceeds {bound} bytes")
        return body

    async def read_prefix(self, enough_bytes: int) -> bytes:
        """The body up to the read that goes beyond `enough_bytes`. Raises LlmFailed."""
        body = bytearray()

        def take(data: bytes) -> bool:
            for piece in self._decode(data):
                body.extend(piece)
                if len(body) > enough_bytes:
                    return True
            return False

        try:
            if not await self._connection.body(take):
                body.extend(self._decode_end())
        except ConnectionLost as error:
            raise LlmFailed(TRUNCATED) from error
        return bytes(body)

    def _decode(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            self._decoder = ContentDecoder(self.header("Content-Encoding") or "")
        return self._decoder.feed(data)

    def _decode_end(self) -> bytes:
        return self._decoder.end() if self._decoder is not None else b""

    def close(self) -> None:
        """Closes the connection at once unless the body has ended: the server sees it and can stop writing."""
        if self._connection.is_reusable:
            self._release(self._connection)
        else:
            self._connection.abort()

"""One response of a model server while it arrives: events of a stream, or one bounded JSON document.

Server-sent events (WHATWG HTML, 9.2.6) are parsed here. Only their `data` is kept: model servers use nothing else.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from chatbot.llm.http.content_decoder import ContentDecoder
from chatbot.llm.http.http_connection import ConnectionLost, HttpConnection
from chatbot.llm.http.lenient_json import BOM
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmFailed
from events.catalogue import Usage

TRUNCATED = "The model server's answer was cut before its end"
MALFORMED = "The model server's answer is malformed"
DONE = b"[DONE]"
CR = 13  # as a number it is found in bytes at a tenth of the cost

END_SILENCE_S = 5.0  # after a finish reason: then the reply counts as complete, though its body has not ended
END_WAIT_S = 0.05  # after [DONE], for the end of the body, which allows the connection to be used again

TOKENS_MAX = 2**31 - 1  # of one reply; four billion such counts can be added in 64 bits

DOCUMENT_REST_BYTES = 65_536  # of a document: what surrounds the reply
START_MAX_BYTES = 1024  # of white space before the first character, which tells JSON from an event stream

EventConsumer = Callable[[list[bytes]], bool]  # takes the data of several events; True: it needs no more


# The names of the two counts: OpenAI's, Anthropic's, Ollama's.
USAGE_NAMES = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("prompt_eval_count", "eval_count"),
)
# Where the tokens of reasoning and those of a cached prompt are told: OpenAI's two APIs, Anthropic's, DeepSeek's.
REASONING_NAMES = (("completion_tokens_details", "reasoning_tokens"), ("output_tokens_details", "reasoning_tokens"))
CACHED_NAMES = (
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("", "cache_read_input_tokens"),
    ("", "prompt_cache_hit_tokens"),
)


def read_usage(fields: Any) -> Usage | None:
    """None for anything but two counts: a reply is not lost because its usage is odd."""
    if not isinstance(fields, dict):
        return None
    for prompt_name, completion_name in USAGE_NAMES:
        prompt, completion = _count(fields.get(prompt_name)), _count(fields.get(completion_name))
        if prompt is not None and completion is not None:
            total = _count(fields.get("total_tokens"))
            reasoning, cached = _first_count(fields, REASONING_NAMES), _first_count(fields, CACHED_NAMES)
            return Usage(prompt, completion, prompt + completion if total is None else total, reasoning, cached)
    return None


def _first_count(fields: dict[str, Any], names: tuple[tuple[str, str], ...]) -> int | None:
    for group, name in names:
        found = fields.get(group) if group else fields
        count = _count(found.get(name)) if isinstance(found, dict) else None
        if count is not None:
            return count
    return None


def _count(value: Any) -> int | None:
    """`value` if it is a count of tokens: events are permanent, so nothing else may be recorded."""
    return value if type(value) is int and 0 <= value <= TOKENS_MAX else None


class EventTooLong(ValueError):
    """A line or an event of the model server exceeds the bound."""


class SseParser:
    """Parses server-sent events incrementally: feed() returns the data of each event that is complete.

    Data stays bytes until an event is complete, so a character that the network splits is decoded correctly. Raises
    EventTooLong.
    """

    def __init__(self, line_max_bytes: int) -> None:
        self._line_max_bytes = line_max_bytes
        self._unfinished = bytearray()  # the beginning of a line whose end has not come
        self._data: list[bytes] = []  # the data lines of an event whose blank line has not come
        self._data_bytes = 0
        self._after_cr = False  # the last byte was \r: a \n that comes next belongs to it
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return []
        # The usual form is parsed faster: complete events, each with one line of data.
        is_plain = data.startswith(b"data: ") and data.endswith(b"\n\n") and CR not in data
        if is_plain and not self._unfinished and not self._data and len(data) <= self._line_max_bytes:
            line_ends = data.count(b"\n")
            events = [data[6:-2]] if line_ends == 2 else data[6:-2].split(b"\n\ndata: ")
            if line_ends == 2 * len(events):  # no others than those of the events
                self._at_start = False
                return events
        lines = data.splitlines()
        unfinished = b"" if data.endswith((b"\n", b"\r")) else lines.pop()
        self._after_cr = data.endswith(b"\r")
        if lines and self._unfinished:
            lines[0] = bytes(self._unfinished) + lines[0]
            self._unfinished.clear()
        events = self._parse_lines(lines) if lines else []
        self._unfinished += unfinished
        if len(self._unfinished) > self._line_max_bytes:
            raise EventTooLong(f"A line of the model server exceeds {self._line_max_bytes} bytes")
        return events

    def end(self) -> list[bytes]:
        """The last event, if the server has left out the blank line after it."""
        return self.feed(b"\n\n")

    def _parse_lines(self, lines: list[bytes]) -> list[bytes]:
        events = []
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        for line in lines:
            if line.startswith(b"data:"):
                self._add_data(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if self._data:
                    events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data = []
                    self._data_bytes = 0
            elif line == b"data":
                self._add_data(b"")
            elif len(line) > self._line_max_bytes:
                raise EventTooLong(f"A line of the model server exceeds {self._line_max_bytes} bytes")
        return events

    def _add_data(self, value: bytes) -> None:
        self._data_bytes += len(value) + 6
        if self._data_bytes > self._line_max_bytes:
            raise EventTooLong(f"An event of the model server exceeds {self._line_max_bytes} bytes")
        self._data.append(value)


class _BodyReader:
    """A body that is being read: an event stream, or JSON if its first character says so.

    `decode`: decompresses what arrives, where the body's first bytes are not those of an event stream.
    """

    def __init__(
        self,
        parser: SseParser,
        add_events: EventConsumer,
        document_max_bytes: int,
        decode: Callable[[bytes], Iterator[bytes]],
    ) -> None:
        self._is_plain_stream: bool | None = None  # an event stream that is not compressed, by its first bytes
        self._is_event_stream = False
        self._parser = parser
        self._consume_events = add_events
        self._document_max_bytes = document_max_bytes
        self._decode = decode
        self._document: bytearray | None = None
        self._start = b""
        self._has_events = False

    def take(self, data: bytes) -> bool:
        """Take what one read brings; whether the consumer needs no more.

        Raises LlmFailed, EventTooLong, and what the consumer raises.
        """
        if self._is_plain_stream is None:
            self._is_plain_stream = self._is_event_stream = data.startswith(b"data:")
        if not self._is_plain_stream:
            return any(map(self.take_decoded, self._decode(data)))
        events = self._parser.feed(data)  # the path of most tokens
        if not events:
            return False
        self._has_events = True
        return self._consume_events(events)

    def take_decoded(self, data: bytes) -> bool:
        """As take(), of bytes that are not compressed."""
        if self._document is None and not self._is_event_stream:
            self._start += data
            if not self._detect_format():
                return False
            data, self._start = self._start, b""
        if self._document is not None:
            return self._take_document(self._document, data)
        events = self._parser.feed(data)
        self._has_events = self._has_events or bool(events)
        return bool(events) and self._consume_events(events)

    def _detect_format(self) -> bool:
        """Tell JSON from an event stream by the first character; False if that has not come yet."""
        first = self._start.removeprefix(BOM).lstrip()[:1]
        if first in (b"", BOM[:1]) and len(self._start) < START_MAX_BYTES:
            return False
        if first in (b"{", b"["):
            self._document = bytearray()
        else:
            self._is_event_stream = True
        return True

    def _take_document(self, document: bytearray, data: bytes) -> bool:
        document += data
        if len(document) > self._document_max_bytes:
            raise LlmFailed(f"The model server's answer exceeds {self._document_max_bytes} bytes")
        return False

    def end(self) -> bytes | None:
        """After the end of the body: its JSON if it is a document. Raises LlmFailed if it is neither."""
        if self._document is not None:
            return bytes(self._document)
        events = self._parser.end()
        if events:
            self._consume_events(events)
        elif self._is_event_stream and not self._has_events:
            raise LlmFailed(MALFORMED)
        return None


class HttpResponse:
    """A response whose head has come. Its owner must close it; that is possible at any point.

    `is_ending`: end_after() is in effect. `may_coalesce`: allow_coalescing() was called.
    """

    def __init__(
        self, connection: HttpConnection, options: LlmOptions, release: Callable[[HttpConnection], None]
    ) -> None:
        self._connection = connection
        self._release = release
        self._line_max_bytes = options.line_max_bytes
        # A code point is at most 12 bytes in JSON (two \uXXXX).
        self._document_max_bytes = 12 * options.reply_max_chars + DOCUMENT_REST_BYTES
        self.status = connection.status
        self.is_ending = self.may_coalesce = False
        self._end_timer: asyncio.TimerHandle | None = None
        self._decoder: ContentDecoder | None = None

    def header(self, name: str) -> str | None:
        """The value of a header of the response."""
        value = self._connection.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    async def read(self, add_events: EventConsumer) -> bytes | None:
        """Pass the data of all events that one read of the socket completes to `add_events`, in that read's callback,
        until it returns True or the body ends.

        A body that begins like JSON is a document, whatever its Content-Type: it is returned as a whole.
        Raises LlmFailed, also if the body is cut before its end, and what `add_events` raises.
        """
        body = _BodyReader(SseParser(self._line_max_bytes), add_events, self._document_max_bytes, self._decode)
        try:
            if not await self._connection.read_body(body.take):
                body.take_decoded(self._decode_end())
                return body.end()
        except EventTooLong as error:
            raise LlmFailed(str(error)) from error
        except ConnectionLost as error:
            raise LlmFailed(TRUNCATED) from error
        finally:
            if self.is_ending:
                self.end_after(None)
        return None

    def end_after(self, silence_s: float | None) -> None:
        """Let read() end in so many seconds as if its consumer needed no more; the last call counts, None cancels."""
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
        self.is_ending = silence_s is not None
        if silence_s is not None:
            self._end_timer = asyncio.get_running_loop().call_later(silence_s, self._connection.stop_reading_body)

    def allow_coalescing(self) -> None:
        """The reply's text has begun: later reads may be coalesced with those of other replies."""
        self.may_coalesce = True
        self._connection.allow_coalescing()

    async def end(self) -> None:
        """After [DONE]: wait END_WAIT_S for the end of the body, so that the connection can be reused."""
        if not self._connection.is_complete:
            with suppress(ConnectionLost, TimeoutError):
                async with asyncio.timeout(END_WAIT_S):
                    await self._connection.read_body(lambda _data: False)

    async def document(self, max_bytes: int | None = None) -> bytes:
        """The whole body. Raises LlmFailed, also if it is longer than `max_bytes` (None: the bound on a reply)."""
        bound = max_bytes or self._document_max_bytes
        body = await self.read_prefix(bound)
        if len(body) > bound:
            raise LlmFailed(f"The model server's answer exceeds {bound} bytes")
        return body

    async def read_prefix(self, enough_bytes: int) -> bytes:
        """The body up to the read that exceeds `enough_bytes`. Raises LlmFailed."""
        body = bytearray()

        def take(data: bytes) -> bool:
            for piece in self._decode(data):
                body.extend(piece)
                if len(body) > enough_bytes:
                    return True
            return False

        try:
            if not await self._connection.read_body(take):
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
        """Release the connection if the body has ended, else abort it: the server sees that and can stop writing."""
        if self._connection.is_reusable:
            self._release(self._connection)
        else:
            self._connection.abort()

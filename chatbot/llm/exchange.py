"""One answer of a model server while it arrives: events of a stream, or one bounded JSON document."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from chatbot.llm.errors import LlmFailed
from chatbot.llm.options import LlmOptions
from chatbot.llm.refusal import NO_JSON
from chatbot.llm.sse import EventTooLong, SseParser
from chatbot.llm.wire import Cut, Wire
from events.catalogue import Usage

CUT = "The model server's answer was cut before its end"
MALFORMED = "The model server's answer is malformed"
DONE = b"[DONE]"

# Once the reply itself is complete: how long to wait for the usage that may follow it, and after [DONE] for the end
# of the body, which lets the connection be used again.
USAGE_WAIT_S = 1.0
END_WAIT_S = 0.05

TOKENS_MAX = 2**31 - 1  # of one reply; sums of such counts fit in 64 bits for as long as anyone will look

T = TypeVar("T")
Absorb = Callable[[list[bytes]], bool]


def decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Raises LlmFailed."""
    try:
        return decoder.decode(data)
    except NO_JSON as error:
        raise LlmFailed(MALFORMED) from error


def read_usage(told: Any) -> Usage | None:
    """None for anything but two counts: a reply is not lost because its usage is odd."""
    if not isinstance(told, dict):
        return None
    prompt, completion, total = (_count(told.get(f"{each}_tokens")) for each in ("prompt", "completion", "total"))
    if prompt is None or completion is None:
        return None
    return Usage(prompt, completion, prompt + completion if total is None else total)


def _count(told: Any) -> int | None:
    """What is recorded stays for ever: a count that is none must not get that far."""
    return told if type(told) is int and 0 <= told <= TOKENS_MAX else None


class Exchange:
    """An answer whose head has come. Whoever holds it closes it, at any point."""

    def __init__(self, wire: Wire, options: LlmOptions, give_back: Callable[[Wire], None]) -> None:
        self._wire = wire
        self._give_back = give_back
        self._parser = SseParser(options.line_max_bytes)
        # A code point is at most 12 bytes in JSON (two \uXXXX); the rest is for what surrounds the reply.
        self._document_max_bytes = 12 * options.reply_max_chars + 65_536
        self.status = wire.status
        self.is_event_stream = wire.headers.get(b"content-type", b"").partition(b";")[0].strip() == b"text/event-stream"

    def header(self, name: str) -> str | None:
        """The value of a header of the answer."""
        value = self._wire.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    async def events(self, absorb: Absorb) -> None:
        """Give `absorb` the data of all events that one read of the socket completes, in that read's own callback,
        until it says that it has enough.

        Raises LlmFailed, also when the body ends before that, and what `absorb` raises.
        """

        def take(data: bytes) -> bool:
            events = self._parser.feed(data)
            return bool(events) and absorb(events)

        try:
            if await self._wire.body(take) or absorb(self._parser.end()):
                return
        except EventTooLong as error:
            raise LlmFailed(str(error)) from error
        except Cut as error:
            raise LlmFailed(CUT) from error
        raise LlmFailed(CUT)

    def ride(self) -> None:
        """The reply has begun to come: what follows may be read together with other replies."""
        self._wire.ride()

    async def events_after_the_reply(self, absorb: Callable[[list[bytes]], object]) -> None:
        """What still comes when the reply is complete: at most its usage and [DONE]. Nothing here can spoil the reply,
        so nothing is raised."""
        loop = asyncio.get_running_loop()

        def take(events: list[bytes]) -> bool:
            absorb(events)
            if DONE in events:
                patience.reschedule(loop.time() + END_WAIT_S)
            return False  # up to the end of the body

        with suppress(LlmFailed, TimeoutError):
            async with asyncio.timeout(USAGE_WAIT_S) as patience:
                await self.events(take)

    async def end(self) -> None:
        """After [DONE]: takes the end of the body if it comes at once, so that the connection is kept."""
        if not self._wire.is_complete:
            with suppress(Cut, TimeoutError):
                async with asyncio.timeout(END_WAIT_S):
                    await self._wire.body(lambda _data: False)

    async def document(self, max_bytes: int | None = None) -> bytes:
        """The whole body. Raises LlmFailed, also when it is longer than `max_bytes` (None: than any reply may be)."""
        bound = max_bytes or self._document_max_bytes
        body = await self.beginning(bound)
        if len(body) > bound:
            raise LlmFailed(f"The model server's answer exceeds {bound} bytes")
        return body

    async def beginning(self, enough_bytes: int) -> bytes:
        """The body up to the read that goes beyond `enough_bytes`. Raises LlmFailed."""
        body = bytearray()

        def take(data: bytes) -> bool:
            body.extend(data)
            return len(body) > enough_bytes

        try:
            await self._wire.body(take)
        except Cut as error:
            raise LlmFailed(CUT) from error
        return bytes(body)

    def close(self) -> None:
        """Closes the connection at once unless the body has ended: the server sees it and can stop writing."""
        if self._wire.is_reusable:
            self._give_back(self._wire)
        else:
            self._wire.abort()

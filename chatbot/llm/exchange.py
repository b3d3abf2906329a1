"""One answer of a model server while it arrives: events of a stream, or one bounded JSON document."""

import asyncio
from typing import Any, TypeVar

import aiohttp
import msgspec

from chatbot.llm.errors import LlmFailed
from chatbot.llm.options import LlmOptions
from chatbot.llm.sse import EventTooLong, SseParser
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


def decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Raises LlmFailed. ValueError covers bytes that are no UTF-8, too."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
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
    """An open response with status 200. Whoever holds it closes it, at any point."""

    def __init__(self, response: aiohttp.ClientResponse, options: LlmOptions) -> None:
        self._response = response
        self._content = response.content
        self._parser = SseParser(options.line_max_bytes)
        self._ended = False
        # A code point is at most 12 bytes in JSON (two \uXXXX); the rest is for what surrounds the reply.
        self._document_max_bytes = 12 * options.reply_max_chars + 65_536
        self.is_event_stream = response.content_type == "text/event-stream"

    async def events(self) -> list[bytes] | None:
        """The data of all events that one read of the socket completes, often none; None at the end of the body.

        Raises LlmFailed.
        """
        if self._ended:
            return None
        try:
            data = await self._content.readany()
            if data:
                return self._parser.feed(data)
            self._ended = True
            return self._parser.end()
        except EventTooLong as error:
            raise LlmFailed(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise LlmFailed(CUT) from error

    async def events_after_the_reply(self) -> list[bytes]:
        """What still comes when the reply is complete: at most its usage and [DONE]. Nothing here can spoil the reply,
        so nothing is raised."""
        found: list[bytes] = []
        try:
            async with asyncio.timeout(USAGE_WAIT_S) as patience:
                while (events := await self.events()) is not None:
                    found += events
                    if DONE in events:
                        patience.reschedule(asyncio.get_running_loop().time() + END_WAIT_S)
        except (LlmFailed, TimeoutError):
            pass
        return found

    async def end(self) -> None:
        """After [DONE]: takes the end of the body if it comes at once, so that the connection is kept."""
        if not self._content.is_eof():
            try:
                async with asyncio.timeout(END_WAIT_S):
                    while await self.events() is not None:
                        pass
            except (LlmFailed, TimeoutError):
                pass

    async def document(self) -> bytes:
        """The whole body. Raises LlmFailed, also when it is longer than any reply may be."""
        body = bytearray()
        try:
            while data := await self._content.readany():
                body += data
                if len(body) > self._document_max_bytes:
                    raise LlmFailed(f"The model server's answer exceeds {self._document_max_bytes} bytes")
        except (aiohttp.ClientError, OSError) as error:
            raise LlmFailed(CUT) from error
        return bytes(body)

    def close(self) -> None:
        """Closes the connection at once unless the body has ended: the server sees it and can stop writing."""
        self._response.close()

"""What clients of both protocols send: a transcript's messages and files, with their places in the request. Pure."""

import re
from collections.abc import Sequence

from msgspec import Struct

from chatbot.api.requests import check_text
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.schema.parts import Part, ToolResult

_PATH = re.compile(r"^\$\.messages\[(\d+)\]")


class SentMessage(Struct, frozen=True):
    """A message of a transcript, and which of the request's messages it is from: one may have several."""

    message: TranscriptMessage
    index: int


def checked_text(text: str, path: str) -> str:
    """Raises RequestFault for NUL characters."""
    check_text(text, path, len(text), blank=True)
    return text


def checked_id(text: str, path: str) -> str:
    """A call's id or a function's name. Raises RequestFault."""
    check_text(text, path, len(text))
    return text


class ReplyMessages:
    """Splits what a client shows as one assistant's message, with the results of its tools, into replies and tool
    messages: a reply ends where something follows its results.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._parts: list[Part] = []
        self._results: list[ToolResult] = []
        self._found: list[SentMessage] = []

    def add(self, part: Part) -> None:
        """The next part of the assistant's message."""
        if self._results:
            self._close()
        self._parts.append(part)

    def add_call(self, call: Part, result: ToolResult | None) -> None:
        """A tool call, and its result if it has one: calls that follow one another are of one reply."""
        self._parts.append(call)
        if result is not None:
            self._results.append(result)

    def finish(self) -> list[SentMessage]:
        self._close()
        return self._found

    def _close(self) -> None:
        if self._parts:
            self._found.append(SentMessage(TranscriptMessage("assistant", tuple(self._parts)), self._index))
        self._found += [SentMessage(TranscriptMessage("tool", (one,)), self._index) for one in self._results]
        self._parts, self._results = [], []


def path_in_request(path: str | None, messages: Sequence[SentMessage]) -> str | None:
    """The path of a fault of the transcript's message, in the request."""
    match = _PATH.match(path or "")
    if match is None or int(match[1]) >= len(messages):
        return path
    return f"$.messages[{messages[int(match[1])].index}]"

"""Puts the parts of a reply in an order in which none begins before the one before it has ended. Pure.

Model servers send tool calls in pieces, name them by an id, an index or not at all, and mix the pieces of several.
"""

import json
import secrets
from collections.abc import Callable
from typing import Any, Literal, Protocol, assert_never

import msgspec
from msgspec import Struct

from chatbot.llm.http import lenient_json
from chatbot.llm.http.error_mapping import JSON_ERRORS
from chatbot.llm.http.http_response import MALFORMED
from chatbot.llm.provider import LlmFailed, OnText, ReplySink
from chatbot.llm.providers.completion_chunk import PartKind, TextKind
from chatbot.llm.providers.json_progress import JsonProgress
from chatbot.llm.resilient_provider import ReplyTooLong
from events.schema.parts import CALL_ID_MAX_CHARS, NAME_MAX_CHARS, PARTS_MAX

TOOL_CALL: Literal["tool_call"] = "tool_call"

_decode_json = msgspec.json.Decoder().decode


class TakesTexts(Protocol):
    """What a sink and an assembler have in common."""

    @property
    def text(self) -> OnText: ...

    def reasoning(self, piece: str) -> None: ...

    def refusal(self, piece: str) -> None: ...


def pass_text(sink: TakesTexts, kind: TextKind, piece: str) -> None:
    """Give `sink` a piece of a part of that kind."""
    match kind:
        case "text":
            sink.text(piece)
        case "reasoning":
            sink.reasoning(piece)
        case "refusal":
            sink.refusal(piece)
        case _:
            assert_never(kind)


class _Part(Struct):
    """A part as far as it has come. `passed_on` of its `pieces` are with the sink; those of a call are kept, because
    its end shows only in all of them. `index` and `server_id` are what the server knows a call by.
    """

    kind: PartKind
    pieces: list[str]
    passed_on: int = 0
    held_chars: int = 0
    call_id: str = ""
    server_id: str = ""
    name: str = ""
    index: int | None = None
    has_begun: bool = False
    is_closed: bool = False
    joiner: lenient_json.TextJoiner | None = None
    progress: JsonProgress | None = None  # of its first `looked_at` pieces; None once they cannot become JSON
    looked_at: int = 0

    def is_whole(self) -> bool:
        """Whether its arguments are a complete JSON object or array, so that no more of them can come."""
        if self.progress is None:
            return False
        self.progress.add("".join(self.pieces[self.looked_at :]))
        self.looked_at = len(self.pieces)
        if not self.progress.has_closed:
            return False
        try:
            _decode_json("".join(self.pieces))
        except JSON_ERRORS:
            self.progress = None
            return False
        return True


def make_call_id() -> str:
    """For a call whose server gives it none."""
    return f"call_{secrets.token_hex(8)}"


class ToolCallAssembler:
    """Takes the parts of a reply from its first tool call on, and passes them on to `sink`.

    The first part that is not closed streams; those after it are held until it is closed, which is known when another
    one begins and its arguments are whole, or else at the end. At most `held_max_chars` are held: more raise
    ReplyTooLong, as more than PARTS_MAX parts do. What cannot be told apart raises LlmFailed.
    """

    def __init__(self, sink: ReplySink, held_max_chars: int, make_id: Callable[[], str] = make_call_id) -> None:
        self.has_calls = False
        self._sink = sink
        self._make_id = make_id
        self._held_max_chars = held_max_chars
        self._held_chars = 0
        self._calls: list[_Part] = []
        self._queue: list[_Part] = []  # those that are not closed, in order
        self._parts = 0

    def text(self, piece: str) -> None:
        self._add_text("text", piece)

    def reasoning(self, piece: str) -> None:
        self._add_text("reasoning", piece)

    def refusal(self, piece: str) -> None:
        self._add_text("refusal", piece)

    def add_call(self, delta: dict[str, Any], *, is_clean: bool = True) -> None:
        """The next piece of a call, as an element of `tool_calls` has it. Raises LlmFailed, ReplyTooLong."""
        function = delta.get("function")
        fields: dict[str, Any] = function if isinstance(function, dict) else delta
        name, id_, index = _string(fields.get("name")), _string(delta.get("id")), delta.get("index")
        arguments = _read_arguments(fields.get("arguments"))
        call = self._find(id_, index if type(index) is int else None, name, arguments)
        if not call.name and name:
            if len(name) > NAME_MAX_CHARS:
                raise LlmFailed(MALFORMED)
            call.name = lenient_json.without_surrogates(name)
        if call.joiner is not None or not is_clean:
            call.joiner = call.joiner or lenient_json.TextJoiner()
            arguments = call.joiner.join(arguments)
        if call.is_closed:
            if arguments.strip():
                raise LlmFailed(MALFORMED)
            return
        if isinstance(fields.get("arguments"), dict | list) and call.pieces:
            raise LlmFailed(MALFORMED)
        self._add(call, arguments)

    def end(self) -> None:
        """The reply has ended: pass on what is held. Raises LlmFailed for a call without a name."""
        queue, self._queue = self._queue, []
        for part in queue:
            if part.joiner is not None and (rest := part.joiner.end()):
                part.pieces.append(rest)
            self._pass_on(part)
        if any(part.kind == TOOL_CALL and not part.name for part in queue):
            raise LlmFailed(MALFORMED)

    def _find(self, id_: str, index: int | None, name: str, arguments: str) -> _Part:
        """The call that a piece belongs to, which may begin with it.

        The id decides, also against the index, which some servers give as 0 for every call; an id that changes within
        a call comes without a name. Without an id the index decides, and without both it is the last call. Whatever
        decides: a name and arguments after whole ones begin another call.
        """
        known = self._last(lambda call: call.server_id == id_) if id_ else None
        if known is None and index is not None and not (id_ and name):
            known = self._last(lambda call: call.index == index)
        if known is None and index is None and not id_:
            known = self._last(lambda _call: True)
        if known is None or (name and (arguments.strip() or name != known.name) and known.is_whole()):
            return self._begin(id_, index)
        return known

    def _last(self, is_meant: Callable[[_Part], bool]) -> _Part | None:
        return next(filter(is_meant, reversed(self._calls)), None)

    def _begin(self, server_id: str, index: int | None) -> _Part:
        call_id = lenient_json.without_surrogates(server_id)
        if not 0 < len(call_id) <= CALL_ID_MAX_CHARS or any(one.call_id == call_id for one in self._calls):
            call_id = self._make_id()
        call = _Part(TOOL_CALL, [], call_id=call_id, server_id=server_id, index=index, progress=JsonProgress())
        self.has_calls = True
        self._calls.append(call)
        self._enqueue(call)
        return call

    def _add_text(self, kind: TextKind, piece: str) -> None:
        if not self._queue or self._queue[-1].kind != kind:
            self._enqueue(_Part(kind, []))
        self._add(self._queue[-1], piece)

    def _enqueue(self, part: _Part) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise ReplyTooLong
        self._queue.append(part)
        while len(self._queue) > 1 and self._ends(self._queue[0]):
            self._queue[0].is_closed = True
            del self._queue[0]
            self._pass_on(self._queue[0])

    @staticmethod
    def _ends(part: _Part) -> bool:
        """Whether `part` cannot grow any more, now that another one has begun."""
        return part.kind != TOOL_CALL or (bool(part.name) and part.is_whole())

    def _add(self, part: _Part, piece: str) -> None:
        if piece:
            part.pieces.append(piece)
        if part is self._queue[0] and (part.kind != TOOL_CALL or part.name):
            self._pass_on(part)
            return
        self._sink.text("")  # the server is alive
        part.held_chars += len(piece)
        self._held_chars += len(piece)
        if self._held_chars > self._held_max_chars:
            raise ReplyTooLong

    def _pass_on(self, part: _Part) -> None:
        """What the sink does not have of `part`. A call begins when its name is known."""
        if part.kind == TOOL_CALL and not part.name:
            return
        self._held_chars -= part.held_chars
        part.held_chars = 0
        new = "".join(part.pieces[part.passed_on :])
        part.passed_on = len(part.pieces)
        if part.kind != TOOL_CALL:
            if new:
                pass_text(self._sink, part.kind, new)
            part.pieces.clear()
            part.passed_on = 0
        elif new or not part.has_begun:
            part.has_begun = True
            self._sink.tool_call(part.call_id, part.name, new)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read_arguments(value: Any) -> str:
    """As the model wrote them; of an object (Ollama's own form), its JSON. Raises LlmFailed for anything else."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(value, str | None):
        raise LlmFailed(MALFORMED)
    return value or ""

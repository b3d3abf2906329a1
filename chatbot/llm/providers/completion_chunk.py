"""One chunk of /v1/chat/completions, or one whole completion, in any of the shapes that servers send. Pure.

A strict decoder reads what servers should send; what it refuses is read again leniently, as long as its text is clear.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from chatbot.llm.http import lenient_json
from chatbot.llm.http.error_mapping import JSON_ERRORS
from chatbot.llm.http.http_response import MALFORMED
from chatbot.llm.provider import LlmFailed
from chatbot.llm.providers.finish_reasons import read_finish_reason

TextKind = Literal["text", "reasoning", "refusal"]
PartKind = TextKind | Literal["tool_call"]
TextPiece = tuple[TextKind, str]

_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")  # DeepSeek and llama.cpp; vLLM and OpenRouter; Ollama
_OTHER_NAMES = (*_REASONING_NAMES, "reasoning_details", "thinking_blocks", "refusal", "tool_calls", "function_call")


class Delta(Struct):
    """A delta or a message. `content` is null in a delta that only names the role. `pieces`: what a `content` that is
    a list holds, in its order; `content` is empty then.
    """

    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    pieces: tuple[TextPiece, ...] = ()

    def texts(self) -> Iterator[TextPiece]:
        """All its text: reasoning, what the model says, a refusal."""
        if reasoning := self._reasoning():
            yield "reasoning", reasoning
        yield from self.pieces
        if self.content:
            yield "text", self.content
        if self.refusal and isinstance(self.refusal, str):
            yield "refusal", self.refusal

    def _reasoning(self) -> str:
        """Of one field only: some servers send the same text under two names, and again in a structured form."""
        for one in (self.reasoning_content, self.reasoning, self.thinking):
            if one and isinstance(one, str):
                return one
        return _joined(self.reasoning_details, "text", "summary") or _joined(self.thinking_blocks, "thinking")

    def call_deltas(self) -> list[dict[str, Any]]:
        """What it has of tool calls. Raises LlmFailed for an unknown shape."""
        if not self.tool_calls:
            return [{"index": 0, "function": self.function_call}] if self.function_call else []
        listed = [self.tool_calls] if isinstance(self.tool_calls, dict) else self.tool_calls
        if not isinstance(listed, list) or not all(isinstance(one, dict | None) for one in listed):
            raise LlmFailed(MALFORMED)
        return [one for one in listed if one]


def _joined(blocks: Any, *names: str) -> str:
    """The strings with one of these names in a list of objects; encrypted ones have others, and are passed over."""
    listed = blocks if isinstance(blocks, list) else ()
    found = (one.get(name) for one in listed if isinstance(one, dict) for name in names)
    return "".join(text for text in found if isinstance(text, str))


class Choice(Struct):
    """One of the replies in a chunk."""

    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    index: int = 0


class Chunk(Struct):
    """A chunk of a stream, a whole completion, or an error in place of either."""

    choices: list[Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    detail: Any = None
    code: Any = None
    type: Any = None

    def as_error(self) -> Any:
        """The error that a chunk itself is, in the shape of {"error": ...}."""
        if not (self.code or self.type):
            return self.message or self.detail or ""
        return {"message": self.message or self.detail, "code": self.code, "type": self.type}


decode_chunk = msgspec.json.Decoder(Chunk).decode


def read_chunk(document: bytes) -> tuple[Chunk | None, bool]:
    """Reads a document leniently; also whether its text is clean: without a half of a character. None if it is no JSON
    object.

    Raises LlmFailed for text in an unknown shape, and JSON_ERRORS.
    """
    try:
        return decode_chunk(document), True
    except JSON_ERRORS:
        fields = lenient_json.load(document)
    if not isinstance(fields, dict):
        return None, True
    choices = fields.get("choices") or None
    if not isinstance(choices, list | None):
        raise LlmFailed(MALFORMED)
    name, kind = fields.get("model"), fields.get("object")
    chunk = Chunk(
        choices=[_read_choice(one) for one in choices or () if isinstance(one, dict)],
        usage=fields.get("usage"),
        model=lenient_json.without_surrogates(name) if isinstance(name, str) else None,
        error=fields.get("error"),
        object=kind if isinstance(kind, str) else None,
        message=fields.get("message"),
        detail=fields.get("detail"),
        code=fields.get("code"),
        type=fields.get("type"),
    )
    return chunk, False


def _read_choice(fields: dict[str, Any]) -> Choice:
    index, reason = fields.get("index"), read_finish_reason(fields.get("finish_reason"))
    return Choice(
        delta=_read_delta(fields.get("delta")),
        message=_read_delta(fields.get("message")),
        finish_reason=(reason.detail or reason.reason) if reason is not None else None,
        index=index if type(index) is int else 0,
    )


def _read_delta(fields: Any) -> Delta | None:
    if not isinstance(fields, dict):
        return None
    content = fields.get("content")
    others: dict[str, Any] = {name: fields.get(name) for name in _OTHER_NAMES}
    if isinstance(content, list | dict):
        parts = content if isinstance(content, list) else [content]
        return Delta(pieces=tuple(piece for part in parts if (piece := _piece_of(part))[1]), **others)
    text = lenient_json.text_of(content)
    if text is None:
        raise LlmFailed(MALFORMED)
    return Delta(content=text, **others)


def _piece_of(part: Any) -> TextPiece:
    """What a part of a `content` list says; the text is empty for one that is no text, such as an image."""
    if isinstance(part, dict):
        kind = part.get("type")
        if kind in ("thinking", "reasoning"):  # Mistral; a string, or a list of texts
            return "reasoning", lenient_json.text_of(part.get(kind) or part.get("text")) or ""
        if kind == "refusal":
            return "refusal", lenient_json.text_of(part.get("refusal")) or ""
    return "text", lenient_json.text_of([part]) or ""

"""Parses a reply of /v1/chat/completions: chunks of a stream, or one complete document; and its finish reason. Pure.

A strict decoder reads what servers should send; what it refuses is read again leniently, as long as its text is clear.
"""

import re
from typing import Any

import msgspec
from msgspec import Struct

from chatbot.llm.http import lenient_json
from chatbot.llm.http.error_mapping import JSON_ERRORS, error_from_event, excerpt_of
from chatbot.llm.http.http_response import DONE, MALFORMED, TRUNCATED, read_usage
from chatbot.llm.provider import Finish, LlmError, LlmFailed
from events.catalogue import Usage

DETAIL_MAX_CHARS = 64  # of a server's word that is kept: the longest known one has 28


class FinishReason(Struct, frozen=True):
    """`reason` is stop, length, tool_calls, content_filter or error; `detail` is the server's own word, '' where it is
    the same."""

    reason: str
    detail: str = ""


STOP = FinishReason("stop")

NO_REASON = ("", "null", "none")  # some servers say so in every chunk until the last one

# The parts of a word, in order of precedence: "malformed_function_call" is a fault, not a tool call.
_FAULTS = """abort aborted cancel canceled cancelled crash crashed disconnected error exception fail failed failure
    insufficient interrupted killed malformed overload overloaded preempted quota rate rejected timed timeout
    unavailable unexpected"""
_FILTERS = """blocked blocklist censored filter filtered guardrail moderation policy prohibited recitation refusal
    refused safety sensitive spii"""
_LENGTHS = "budget exceeded incomplete length limit max maximum overflow partial truncated window"
_PARTS = tuple(
    (reason, frozenset(parts.split()))
    for reason, parts in (
        ("error", _FAULTS),
        ("content_filter", _FILTERS),
        ("length", _LENGTHS),
        ("tool_calls", "function functions tool tools"),
    )
)


def read_finish_reason(word: Any) -> FinishReason | None:
    """The reason that a server gives; None if it gives none. Of an object, its `type` is read.

    An unknown word counts as stop: the server has ended the reply and reports no fault. `detail` keeps the word.
    """
    if word == "stop":
        return STOP
    if isinstance(word, dict):
        word = word.get("type")
    if word is None or word is False:
        return None
    text = " ".join(lenient_json.without_surrogates(str(word)).split())
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()  # maxTokens, FinishReason.MAX_TOKENS
    parts = [part for part in re.split(r"[^a-z0-9]+", spelt) if part]
    if parts[:2] == ["finish", "reason"]:
        parts = parts[2:]
    if "_".join(parts) in NO_REASON and spelt.isascii():
        return None
    reason = next((reason for reason, marks in _PARTS if not marks.isdisjoint(parts)), "stop")
    return FinishReason(reason, "" if text == reason else text[:DETAIL_MAX_CHARS])


def more_severe(known: FinishReason | None, new: FinishReason) -> FinishReason:
    """The one to keep of two reasons of one reply: a later stop does not replace another reason."""
    return known if known is not None and new.reason == "stop" and known.reason != "stop" else new


class _Text(Struct):
    """A delta or a message. `content` is null in a delta that only names the role. What a reply may have instead of
    text is only looked at when it has none."""

    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    refusal: Any = None
    tool_calls: Any = None


class _Choice(Struct):
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None
    index: int = 0


class _Chunk(Struct):
    """A chunk of a stream, a whole completion, or an error in place of either."""

    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    detail: Any = None
    code: Any = None
    type: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Completion:
    """A reply as far as it has been received.

    `is_final`: a finish reason has come, and no text after it. Only then may the reply end without [DONE] and without
    the end of its body: some servers name a reason in every chunk.
    """

    def __init__(self, model: str, secret: str) -> None:
        self.model = model
        self.usage: Usage | None = None
        self.reason: FinishReason | None = None
        self.done = False
        self.failure: LlmError | None = None
        self._bare_error: Any = None  # a sentence in place of choices: an error, should no end of the reply follow
        self._secret = secret
        self._text_after_reason = False  # text came after a finish reason
        self._has_text = False
        self._has_message_text = False  # its text comes in messages, not in deltas
        self._non_text_kind = ""  # what came that is no text
        self._joiner: lenient_json.TextJoiner | None = None  # from the first split character on

    @property
    def is_final(self) -> bool:
        return self.reason is not None and not self._text_after_reason

    def add_events(self, events: list[bytes]) -> str:
        """The text in these events, up to a `failure`: text that came in one read with it is kept."""
        text = ""
        for event in events:
            if event == DONE:
                self.done = True
                break
            try:
                try:
                    chunk = _decode(event)
                except JSON_ERRORS:
                    text += self._add_leniently(event)
                else:
                    text += self._add_chunk(chunk)
            except LlmError as failure:
                self.failure = failure
                if self.usage is not None:
                    failure.finish = Finish("error", self.model, self.usage)
                break
        return text

    def add_document(self, document: bytes) -> str:
        """The text of a completion in one document. Raises LlmError."""
        try:
            chunk, is_clean = _read(document)
        except JSON_ERRORS as error:
            raise LlmFailed(MALFORMED) from error
        if chunk is None or not (chunk.choices or chunk.error or chunk.object == "error"):
            raise LlmFailed(f"{MALFORMED}: {excerpt_of(document, self._secret)}")
        return self._add_chunk(chunk, is_clean=is_clean)

    def check_ended(self) -> None:
        """The body has ended without [DONE]. Raises LlmError if no finish reason has come either."""
        self._raise_bare_error()
        if self.reason is None:
            raise LlmFailed(TRUNCATED)

    def end(self) -> str:
        """The rest of the text: a replacement for a character whose second part has not come."""
        return "" if self._joiner is None else self._joiner.end()

    def finish(self) -> Finish:
        """How the reply ended. Raises LlmError where the server says that it could not finish it."""
        self._raise_bare_error()
        reason = self.reason or FinishReason("stop")
        no_text_reason = "" if self._has_text else self._no_text_reason(reason)
        finish = Finish(reason.reason, self.model, self.usage, reason.detail, no_text_reason)
        if reason.reason == "error":
            word = f": {reason.detail}" if reason.detail else ""
            message = f"The model server ended the reply with an error{word}"
            raise LlmFailed(message, retryable=True, finish=finish)
        return finish

    def _add_leniently(self, event: bytes) -> str:
        """The text of an event that the strict decoder refuses. Raises LlmFailed."""
        if event.strip() == DONE:
            self.done = True
        if not event.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
            return ""  # a heartbeat: empty, `ping`, a comment, an array
        try:
            chunk, is_clean = _read(event)
        except JSON_ERRORS as error:
            raise LlmFailed(MALFORMED) from error
        return "" if chunk is None else self._add_chunk(chunk, is_clean=is_clean)

    def _add_chunk(self, chunk: _Chunk, *, is_clean: bool = True) -> str:
        """`is_clean`: its text holds no half of a character. Raises LlmError."""
        if chunk.error or chunk.object == "error":
            raise error_from_event(chunk.error or _error_of(chunk), self._secret)
        if chunk.usage is not None:
            self.usage = read_usage(chunk.usage) or self.usage
            self._note_reasoning_tokens(chunk.usage)
        self.model = chunk.model or self.model
        if not chunk.choices:
            if chunk.message or chunk.detail:
                self._bare_error = _error_of(chunk)
            return ""
        choice = chunk.choices[0]
        if choice.index != 0:
            found = next((one for one in chunk.choices if one.index == 0), None)
            if found is None:
                return ""
            choice = found
        delta = choice.delta
        text = (delta.content if delta is not None else None) or self._message_text(choice)
        if text:
            if not is_clean or self._joiner is not None:
                self._joiner = self._joiner or lenient_json.TextJoiner()
                text = self._joiner.join(text)
            self._has_text = True
            if self.reason is not None:
                self._text_after_reason = True
        if choice.finish_reason:
            reason = read_finish_reason(choice.finish_reason)
            self.reason = more_severe(self.reason, reason) if reason is not None else self.reason
        return text

    def _message_text(self, choice: _Choice) -> str:
        """The text of a choice whose delta has none. A message beside deltas only repeats their text."""
        message = choice.message
        for one in (choice.delta, message):
            if one is not None and not one.content:
                self._non_text_kind = self._non_text_kind or _non_text_kind_of(one)
        if message is None or not message.content or (self._has_text and not self._has_message_text):
            return ""
        self._has_message_text = True
        return message.content

    def _raise_bare_error(self) -> None:
        """Some servers end a reply with {"message": "..."} or {"detail": "..."} and nothing else. Raises LlmError."""
        if self._bare_error and self.reason is None:
            raise error_from_event(self._bare_error, self._secret)

    def _note_reasoning_tokens(self, usage: Any) -> None:
        details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
        if not self._has_text and isinstance(details, dict) and details.get("reasoning_tokens"):
            self._non_text_kind = self._non_text_kind or "reasoning"

    def _no_text_reason(self, reason: FinishReason) -> str:
        match (self._non_text_kind, reason.reason):
            case (_, "content_filter"):
                return "The model server filtered the whole reply"
            case ("reasoning", "length"):
                return "The model used all its tokens for reasoning, and none were left for the reply"
            case ("reasoning", _):
                return "The model gave its reasoning, and no reply"
            case ("refusal", _):
                return "The model refused to reply"
            case ("tool_calls", _) | (_, "tool_calls"):
                return "The model asked for tool calls, and gave no text"
            case (_, "length"):
                return "The reply reached its length limit before its first character"
            case _:
                return ""


def _error_of(chunk: _Chunk) -> Any:
    """The error that a chunk itself is, in the shape of {"error": ...}."""
    if not (chunk.code or chunk.type):
        return chunk.message or chunk.detail or ""
    return {"message": chunk.message or chunk.detail, "code": chunk.code, "type": chunk.type}


def _non_text_kind_of(part: _Text) -> str:
    """What a delta or message has that is no text: reasoning, refusal, tool_calls or ''."""
    if part.reasoning_content or part.reasoning or part.thinking:
        return "reasoning"
    if part.refusal:
        return "refusal"
    return "tool_calls" if part.tool_calls else ""


def _read(document: bytes) -> tuple[_Chunk | None, bool]:
    """Reads a document leniently; also whether its text is clean. None if it is no JSON object.

    Raises LlmFailed for text in an unknown shape, and JSON_ERRORS.
    """
    try:
        return _decode(document), True
    except JSON_ERRORS:
        fields = lenient_json.load(document)
    if not isinstance(fields, dict):
        return None, True
    choices = fields.get("choices") or None
    if not isinstance(choices, list | None):
        raise LlmFailed(MALFORMED)
    name, kind = fields.get("model"), fields.get("object")
    chunk = _Chunk(
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


def _read_choice(fields: dict[str, Any]) -> _Choice:
    index, reason = fields.get("index"), read_finish_reason(fields.get("finish_reason"))
    return _Choice(
        delta=_read_text(fields.get("delta")),
        message=_read_text(fields.get("message")),
        finish_reason=(reason.detail or reason.reason) if reason is not None else None,
        index=index if type(index) is int else 0,
    )


def _read_text(fields: Any) -> _Text | None:
    if not isinstance(fields, dict):
        return None
    content = fields.get("content")
    text = lenient_json.text_of(content)
    if text is None:
        raise LlmFailed(MALFORMED)
    reasons = {
        name: fields.get(name) for name in ("reasoning_content", "reasoning", "thinking", "refusal", "tool_calls")
    }
    if isinstance(content, list) and not text and any(isinstance(one, dict) and "thinking" in one for one in content):
        reasons["thinking"] = True
    return _Text(content=text, **reasons)

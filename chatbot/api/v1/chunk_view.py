"""A reply as the stream of POST /v1/chat/completions: chunks in OpenAI's form, then [DONE]. Pure."""

from collections.abc import Sequence
from typing import assert_never

import msgspec

from chatbot.api.problems import Problem
from chatbot.api.streaming.reply_writer import UNRECORDED, failure_of
from chatbot.api.streaming.response_stream import DONE
from chatbot.api.v1.completion_views import completion_id, finish_word, usage_view
from chatbot.api.v1.error_form import error_of
from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.reply import Outcome

_encode = msgspec.json.Encoder().encode


class ChunkView:
    """Makes the chunks of one reply. `created`: Unix seconds. `include_usage`: the request asks for the tokens.

    All of a chunk but its delta is encoded once: a reply has thousands of them.
    """

    def __init__(self, reply_id: str, model: str, created: int, reasoning_field: str, *, include_usage: bool) -> None:
        fields = b'"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b' % (
            _encode(completion_id(reply_id)),
            created,
            _encode(model),
        )
        usage = b',"usage":null' if include_usage else b""
        self._head = b'data: {%b,"choices":[{"index":0,"delta":{' % fields
        self._tail = b'},"logprobs":null,"finish_reason":null}]%b}\n\n' % usage
        self._content_head = self._head + b'"content":'
        self._fields, self._usage = fields, usage
        self._reasoning_key = _encode(reasoning_field)
        self._includes_usage = include_usage
        self._calls: dict[int, int] = {}  # which of the tool calls a part is

    def start(self, version: int, offset: int) -> bytes:
        return self._head + b'"role":"assistant","content":""' + self._tail

    def text(self, piece: str, version: int, offset: int) -> bytes:
        return self._content_head + _encode(piece) + self._tail

    def segments(self, segments: Sequence[Segment], version: int) -> bytes:
        return b"".join([self._head + self._delta(one) + self._tail for one in segments])

    def end(self, outcome: Outcome, offset: int) -> bytes:
        if outcome.status == "cancelled":
            return encode_failure(cancelled_problem())
        if outcome.status != "complete":
            return encode_failure(failure_of(outcome))
        last = b'data: {%b,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":%b}]%b}\n\n' % (
            self._fields,
            _encode(finish_word(outcome)),
            self._usage,
        )
        if self._includes_usage and outcome.usage is not None:
            usage = _encode(usage_view(outcome.usage))
            last += b'data: {%b,"choices":[],"usage":%b}\n\n' % (self._fields, usage)
        return last + DONE

    def unrecorded(self, version: int, length: int, offset: int) -> bytes:
        return encode_failure(Problem(503, "log-unavailable", "Cannot record just now", UNRECORDED))

    def nothing_new(self) -> bytes:
        return DONE

    def _delta(self, segment: Segment) -> bytes:
        match segment.kind:
            case "text":
                return b'"content":' + _encode(segment.text)
            case "reasoning":
                return self._reasoning_key + b":" + _encode(segment.text)
            case "refusal":
                return b'"refusal":' + _encode(segment.text)
            case "tool_call":
                return self._call_delta(segment)
            case _:
                assert_never(segment.kind)

    def _call_delta(self, segment: Segment) -> bytes:
        """The first one of a call has its id and name, all have its index: clients drop a call without one."""
        index = self._calls.get(segment.part)
        if index is not None:
            return b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (index, _encode(segment.text))
        index = self._calls[segment.part] = len(self._calls)
        return b'"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":%b}}]' % (
            index,
            _encode(segment.call_id),
            _encode(segment.name),
            _encode(segment.text),
        )


def encode_failure(problem: Problem) -> bytes:
    """An error in the middle of a stream: clients raise it."""
    return b"data: %b\n\n" % _encode(error_of(problem)) + DONE


def cancelled_problem() -> Problem:
    """The reply was cancelled, by another client or because a newer message took its place."""
    return Problem(409, "reply-cancelled", "Reply cancelled", "the reply was cancelled")

"""A reply as the UI message stream of Vercel's AI SDK (version 1), then [DONE]. Pure.

Only chunk types that every version of the SDK from 5 on reads: an unknown one fails the whole stream.
https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import msgspec

from chatbot.api.streaming.outcome_details import outcome_detail
from chatbot.api.streaming.reply_writer import UNRECORDED
from chatbot.api.streaming.response_stream import DONE, HEADERS
from chatbot.api.ui_protocols.part_view import PartView
from chatbot.api.ui_protocols.ui_message_bodies import UiPart
from chatbot.api.ui_protocols.ui_messages import input_of
from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.reply import Outcome

UI_STREAM_HEADERS = {**HEADERS, "X-Vercel-AI-UI-Message-Stream": "v1"}
FINISH_REASONS = frozenset({"stop", "length", "content-filter", "tool-calls"})

_encode = msgspec.json.Encoder().encode


class UiChunkView(PartView):
    """Makes the chunks of a reply, which is or continues the assistant's message `message_id`, with this `metadata`.

    A client that comes back gets the same chunks from the start: it replaces the message that has the same id. So
    `earlier_steps` are then the parts that the message has before this reply.
    """

    def __init__(self, message_id: str, metadata: Mapping[str, Any], earlier_steps: Sequence[UiPart] = ()) -> None:
        super().__init__()
        self._message_id = message_id
        self._metadata = metadata
        self._earlier_steps = earlier_steps
        self._arguments: list[str] = []  # of the open part, if it is a tool call

    def start(self, version: int, offset: int) -> bytes:
        start = _chunk("start", messageId=self._message_id, messageMetadata=self._metadata)
        return start + _chunks_of(self._earlier_steps) + _chunk("start-step")

    def end(self, outcome: Outcome, offset: int) -> bytes:
        closed = self._close()
        if outcome.status == "cancelled":
            return closed + _chunk("abort", reason=outcome_detail(outcome)) + DONE
        if outcome.status != "complete":
            return closed + _chunk("error", errorText=outcome_detail(outcome)) + DONE
        reason = (outcome.finish_reason or "other").replace("_", "-")
        reason = reason if reason in FINISH_REASONS else "other"
        return closed + _chunk("finish-step") + _chunk("finish", finishReason=reason) + DONE

    def unrecorded(self, version: int, length: int, offset: int) -> bytes:
        return self._close() + _chunk("error", errorText=UNRECORDED) + DONE

    def nothing_new(self) -> bytes:
        return DONE

    def _grow(self, segment: Segment) -> bytes:
        grown = super()._grow(segment)
        if segment.kind == "tool_call":
            self._arguments.append(segment.text)
        return grown

    def _begin_part(self, segment: Segment) -> bytes:
        self._arguments = []
        match segment.kind:
            case "text" | "refusal" | "reasoning":
                kind = _block_kind(segment)
                self._delta_head = b'data: {"type":"%s-delta","id":"%d","delta":' % (kind.encode(), segment.part)
                return _chunk(f"{kind}-start", id=str(segment.part))
            case "tool_call":
                call_id = segment.call_id
                head = b'data: {"type":"tool-input-delta","toolCallId":%b,"inputTextDelta":'
                self._delta_head = head % _encode(call_id)
                return _chunk("tool-input-start", toolCallId=call_id, toolName=segment.name, dynamic=True)
            case _:
                assert_never(segment.kind)

    def _end_part(self, part: Segment) -> bytes:
        if part.kind != "tool_call":
            return _chunk(f"{_block_kind(part)}-end", id=str(part.part))
        call = {"toolCallId": part.call_id, "toolName": part.name, "dynamic": True}
        return _chunk("tool-input-available", input=input_of("".join(self._arguments)), **call)


def _block_kind(segment: Segment) -> str:
    """The SDK has no refusals: what the model says in place of an answer is text."""
    return "reasoning" if segment.kind == "reasoning" else "text"


def _chunks_of(parts: Sequence[UiPart]) -> bytes:
    """Chunks of which a client makes these parts: steps that are over."""
    chunks: list[bytes] = []
    for number, part in enumerate(parts):
        block_id, call_id = str(number), part.tool_call_id
        match part.type:
            case "step-start":
                chunks.append(_chunk("start-step"))
            case "text" | "reasoning":
                chunks.append(_chunk(f"{part.type}-start", id=block_id))
                chunks.append(_chunk(f"{part.type}-delta", id=block_id, delta=part.text))
                chunks.append(_chunk(f"{part.type}-end", id=block_id))
            case "dynamic-tool":
                call = {"toolCallId": call_id, "toolName": part.tool_name, "input": part.input, "dynamic": True}
                chunks.append(_chunk("tool-input-available", **call))
            case _:  # a reply has no others
                pass
        if part.state == "output-available":
            chunks.append(_chunk("tool-output-available", toolCallId=call_id, output=part.output, dynamic=True))
        elif part.state == "output-error":
            text = part.error_text or ""
            chunks.append(_chunk("tool-output-error", toolCallId=call_id, errorText=text, dynamic=True))
        is_last = number + 1 == len(parts) or parts[number + 1].type == "step-start"
        if is_last:
            chunks.append(_chunk("finish-step"))
    return b"".join(chunks)


def _chunk(kind: str, **members: Any) -> bytes:
    return b"data: %b\n\n" % _encode({"type": kind, **members})

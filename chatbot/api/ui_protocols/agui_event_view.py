"""A run of AG-UI: its events from RUN_STARTED to RUN_FINISHED or RUN_ERROR. Pure.

https://docs.ag-ui.com/spec/1.0: one event for each `data:`, everything that is open is closed before the run ends.
"""

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from chatbot.api.streaming.outcome_details import outcome_detail
from chatbot.api.streaming.reply_writer import UNRECORDED
from chatbot.api.ui_protocols.agui_messages import part_message_id
from chatbot.api.ui_protocols.part_view import PartView
from chatbot.sessions.replies.growing_parts import Segment
from chatbot.sessions.replies.reply import Outcome
from events.catalogue import Usage

PROTOCOL_VERSION = "1.0"

_encode = msgspec.json.Encoder().encode


class Run(Struct, frozen=True):
    """What the events of a run repeat of its request."""

    thread_id: str
    run_id: str
    parent_run_id: str | None = None

    def started(self) -> bytes:
        parent = {} if self.parent_run_id is None else {"parentRunId": self.parent_run_id}
        return agui_event("RUN_STARTED", **self._ids, **parent, protocolVersion=PROTOCOL_VERSION)

    def finished(self, outcome: str, usage: Sequence[dict[str, Any]] = ()) -> bytes:
        members: dict[str, Any] = {"outcome": {"type": outcome}}
        if usage:
            members["usage"] = list(usage)
        return agui_event("RUN_FINISHED", **self._ids, **members)

    @property
    def _ids(self) -> dict[str, str]:
        return {"threadId": self.thread_id, "runId": self.run_id}


class AguiEventView(PartView):
    """Makes the events of the run in which `reply_id` is written.

    A reply is one message of the assistant: texts that its reasoning interrupts are messages of their own, with the
    part's number in their ids, as are its thoughts.
    """

    def __init__(self, run: Run, reply_id: str) -> None:
        super().__init__()
        self._run = run
        self._reply_id = reply_id
        self._text_id = ""  # of the newest text's message

    def start(self, version: int, offset: int) -> bytes:
        return self._run.started()

    def end(self, outcome: Outcome, offset: int) -> bytes:
        closed = self._close()
        if outcome.status == "complete":
            return closed + self._run.finished("success", usage_entries(outcome.usage, outcome.model))
        if outcome.status == "cancelled":
            return closed + self._run.finished("cancelled")
        return closed + agui_event("RUN_ERROR", message=outcome_detail(outcome), code=outcome.cause or outcome.status)

    def unrecorded(self, version: int, length: int, offset: int) -> bytes:
        return self._close() + agui_event("RUN_ERROR", message=UNRECORDED, code="unrecorded")

    def nothing_new(self) -> bytes:
        return b""

    def _begin_part(self, segment: Segment) -> bytes:
        match segment.kind:
            case "text" | "refusal":
                return self._begin_text(segment.part)
            case "reasoning":
                message_id = part_message_id(self._reply_id, segment.part)
                self._set_delta("REASONING_MESSAGE_CONTENT", "messageId", message_id)
                begin = agui_event("REASONING_START", messageId=message_id)
                return begin + agui_event("REASONING_MESSAGE_START", messageId=message_id, role="reasoning")
            case "tool_call":
                self._set_delta("TOOL_CALL_ARGS", "toolCallId", segment.call_id)
                call = {"toolCallId": segment.call_id, "toolCallName": segment.name}
                return agui_event("TOOL_CALL_START", **call, parentMessageId=self._reply_id)
            case _:
                assert_never(segment.kind)

    def _begin_text(self, part: int) -> bytes:
        """The first text has the reply's own id."""
        self._text_id = part_message_id(self._reply_id, part) if self._text_id else self._reply_id
        self._set_delta("TEXT_MESSAGE_CONTENT", "messageId", self._text_id)
        return agui_event("TEXT_MESSAGE_START", messageId=self._text_id, role="assistant")

    def _end_part(self, part: Segment) -> bytes:
        match part.kind:
            case "text" | "refusal":
                return agui_event("TEXT_MESSAGE_END", messageId=self._text_id)
            case "reasoning":
                message_id = part_message_id(self._reply_id, part.part)
                end = agui_event("REASONING_MESSAGE_END", messageId=message_id)
                return end + agui_event("REASONING_END", messageId=message_id)
            case "tool_call":
                return agui_event("TOOL_CALL_END", toolCallId=part.call_id)
            case _:
                assert_never(part.kind)

    def _set_delta(self, kind: str, id_name: str, id_text: str) -> None:
        head = b'data: {"type":%b,"%b":%b,"delta":'
        self._delta_head = head % (_encode(kind), id_name.encode(), _encode(id_text))


def usage_entries(usage: Usage | None, model: str | None) -> list[dict[str, Any]]:
    """Tokens as the model server counts them; absent where it does not tell."""
    if usage is None:
        return []
    counted = {
        "model": model,
        "inputTokens": usage.prompt_tokens,
        "outputTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_tokens,
    }
    return [{name: value for name, value in counted.items() if value is not None}]


def agui_event(kind: str, **members: Any) -> bytes:
    """One event. No `id:` or `event:`: the protocol ignores both."""
    return b"data: %b\n\n" % _encode({"type": kind, **members})

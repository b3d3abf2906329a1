"""A reply as the stream of events of a response. Pure: the events and their numbers follow from the reply's parts and
its end alone.

    response.created, response.in_progress
    for each part: response.output_item.added, response.content_part.added, its deltas, its done event,
        response.content_part.done, response.output_item.done (a call of a function has no content part)
    response.completed, response.incomplete or response.failed

A cancelled response ends with response.incomplete, whose `response` has the status cancelled: clients know no event of
its own for that.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from chatbot.api.openai_responses.delta_rules import DELTA_RULES
from chatbot.api.openai_responses.item_views import (
    FunctionCallItem,
    OutputTextView,
    ReasoningTextView,
    RefusalView,
    output_item,
)
from chatbot.api.openai_responses.response_objects import RequestedResponse, response_view
from chatbot.api.problems import Problem
from chatbot.api.streaming.reply_writer import UNRECORDED
from chatbot.api.streaming.response_stream import DONE
from chatbot.sessions.replies.growing_parts import PartKind, Segment
from chatbot.sessions.replies.reply import Outcome
from events.schema.parts import Part, Reasoning, Refusal, Text, ToolCall

NO_EVENT = -1  # the number before that of the first event

_encode = msgspec.json.Encoder().encode
_DELTAS = {
    "text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning": "response.reasoning_text",
    "tool_call": "response.function_call_arguments",
}
_ENDS = {"completed": "response.completed", "incomplete": "response.incomplete", "cancelled": "response.incomplete"}


class _OpenPart:
    """The part that grows. `index`: of its item in the output."""

    def __init__(self, segment: Segment, index: int) -> None:
        self.number, self.kind = segment.part, segment.kind
        self.call_id, self.name = segment.call_id, segment.name
        self.index = index
        self.pieces: list[str] = []
        self.rest = ""  # what is not sent yet, because the delta may go on

    def part(self, text: str) -> Part:
        kind: PartKind = self.kind
        match kind:
            case "tool_call":
                return ToolCall(self.call_id, self.name, text)
            case "reasoning":
                return Reasoning(text)
            case "refusal":
                return Refusal(text)
            case "text":
                return Text(text)


class EventView:
    """Makes the events of one response. `after`: the number of the last event that the reader has. Raises Problem for
    a rule that is not known here: other numbers would mislead readers.
    """

    def __init__(self, requested: RequestedResponse, after: int = NO_EVENT) -> None:
        self._requested = requested
        self._after = after
        self._number = 0  # of the next event
        self._items = 0
        self._open: _OpenPart | None = None
        self._delta_head = b""
        rule = requested.options.delta_rule
        cut = DELTA_RULES.get(rule)
        if cut is None:
            why = f"a newer version of the service numbers this response's events, by rule {rule}: read it whole"
            raise Problem(503, "node-outdated", "This node must be updated", why)
        self._cut = cut

    def start(self, version: int, offset: int) -> bytes:
        if self._after >= 1:
            self._number = 2
            return b""
        response = response_view(self._requested, None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def text(self, piece: str, version: int, offset: int) -> bytes:
        return self._grow(Segment(0, piece))

    def segments(self, segments: Sequence[Segment], version: int) -> bytes:
        return b"".join([self._grow(one) for one in segments])

    def end(self, outcome: Outcome, offset: int) -> bytes:
        response = response_view(self._requested, outcome)
        after, first_lost = self._after, self._number  # if the reply had more text, its events began with this number
        last = self._flush()
        is_complete = response.status == "completed"
        closing = self._close(is_complete=is_complete)
        is_lost = outcome.status == "interrupted" and after >= first_lost  # it may have had text that is not on disk
        if is_lost or after > self._number:
            last = closing = b""
            self._number = after + 1
        kind = _ENDS.get(response.status, "response.failed")
        return last + closing + self._event(kind, response=response) + DONE

    def unrecorded(self, version: int, length: int, offset: int) -> bytes:
        """The error is none of the response's events, and has the number of the last one: after that the reader goes
        on.
        """
        number = max(self._number - 1, self._after, 0)
        error = {
            "type": "error",
            "sequence_number": number,
            "code": "server_error",
            "message": UNRECORDED,
            "param": None,
        }
        return b"event: error\ndata: %b\n\n" % _encode(error) + DONE

    def nothing_new(self) -> bytes:
        return DONE

    def _grow(self, segment: Segment) -> bytes:
        made = b""
        if self._open is None or self._open.number != segment.part:
            made = self._flush() + self._close(is_complete=True) + self._begin(segment)
        part = self._open
        if part is None or not segment.text:
            return made
        part.pieces.append(segment.text)
        cut = self._cut(part.rest + segment.text)
        part.rest = cut.rest
        return made + b"".join([self._delta(one) for one in cut.deltas])

    def _begin(self, segment: Segment) -> bytes:
        part = self._open = _OpenPart(segment, self._items)
        self._items += 1
        item = output_item(self._requested.reply_id, part.number, part.part(""), "in_progress")
        made = self._event("response.output_item.added", output_index=part.index, item=item)
        place = self._place(item.id)
        if not isinstance(item, FunctionCallItem):
            made += self._event("response.content_part.added", **place, part=_content_part(part.part("")))
        self._delta_head = b",".join([b'"%b":%b' % (name.encode(), _encode(value)) for name, value in place.items()])
        return made

    def _place(self, item_id: str) -> dict[str, Any]:
        part = self._open
        if part is None:
            raise RuntimeError("no part is open")
        place: dict[str, Any] = {"item_id": item_id, "output_index": part.index}
        return place if part.kind == "tool_call" else {**place, "content_index": 0}

    def _delta(self, text: str) -> bytes:
        """The most frequent event: all of it but the text and the number is encoded once."""
        number, part = self._number, self._open
        self._number += 1
        if number <= self._after or part is None:
            return b""
        kind = _DELTAS[part.kind].encode()
        logprobs = b',"logprobs":[]' if part.kind == "text" else b""
        return b'event: %b.delta\ndata: {"type":"%b.delta","sequence_number":%d,%b,"delta":%b%b}\n\n' % (
            kind,
            kind,
            number,
            self._delta_head,
            _encode(text),
            logprobs,
        )

    def _flush(self) -> bytes:
        """The text that was held back, now that its part ends."""
        part = self._open
        if part is None or not part.rest:
            return b""
        rest, part.rest = part.rest, ""
        return self._delta(rest)

    def _close(self, *, is_complete: bool) -> bytes:
        part = self._open
        if part is None:
            return b""
        text = "".join(part.pieces)
        ended = part.part(text)
        item = output_item(self._requested.reply_id, part.number, ended, "completed" if is_complete else "incomplete")
        place = self._place(item.id)
        name = f"{_DELTAS[part.kind]}.done"
        match part.kind:
            case "tool_call":
                made = self._event(name, **place, name=part.name, arguments=text)
            case "refusal":
                made = self._event(name, **place, refusal=text)
            case "reasoning":
                made = self._event(name, **place, text=text)
            case "text":
                made = self._event(name, **place, text=text, logprobs=[])
        if not isinstance(item, FunctionCallItem):
            made += self._event("response.content_part.done", **place, part=_content_part(ended))
        made += self._event("response.output_item.done", output_index=part.index, item=item)
        self._open = None
        return made

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number += 1
        if number <= self._after:
            return b""
        data = _encode({"type": kind, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _content_part(part: Part) -> OutputTextView | RefusalView | ReasoningTextView:
    match part:
        case Refusal():
            return RefusalView(part.text)
        case Reasoning():
            return ReasoningTextView(part.text)
        case Text():
            return OutputTextView(part.text)
        case _:
            raise ValueError("such a part is no content")

"""An assistant message while it is generated: one growing text, read by any number of cursors; and its outcome.

Its parts follow each other in that text; marks say where they begin (`growing_parts.py`).

A reader asks for the text after its offset, gets all of it as one piece, waits until its socket has room, and asks
again: backpressure without queues. A slow reader delays neither the model nor other readers.
"""

from bisect import bisect_right

from msgspec import Struct

from chatbot.llm.provider import Route
from chatbot.llm.resilient_provider import ReplyTooLong
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.feeds.channels import Signal, wait_any
from chatbot.sessions.replies.growing_parts import (
    NO_PART,
    Mark,
    PartKind,
    Segment,
    build_parts,
    content_of,
    cut_segments,
    flat_text,
    marks_of,
    with_ends,
)
from events.catalogue import (
    MessagePosted,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    Usage,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent
from events.schema.parts import PARTS_MAX, Parts
from projections.folds.message import ENDINGS, FINISH_REASONS

_PLAIN_MARK = Mark(0, 0)  # of the text that a reply begins with, once another part follows


class ReplyTiming(Struct):
    """When the model was asked, when its first text came and when it ended, in seconds of a monotonic clock."""

    asked_s: float
    first_s: float | None = None
    ended_s: float | None = None


class Outcome(Struct, frozen=True):
    """How a reply ended, as recorded. `status` is complete, failed, cancelled or interrupted.

    `detail` may contain the model server's own words, which clients must not see. `request_id`: of the request that
    asked for the reply.
    """

    status: str
    content: str
    version: int
    created_at_us: int
    cause: str = ""
    detail: str = ""
    finish_reason: str | None = None
    finish_detail: str = ""
    model: str | None = None
    usage: Usage | None = None
    request_id: str | None = None
    parts: Parts = ()
    duration_us: int | None = None
    time_to_first_token_us: int | None = None


class FrozenReply(Struct, frozen=True):
    """What the event that ends a reply records of it."""

    content: str
    parts: Parts = ()


class Reply:
    """A reply of a live session. Offsets count code points of `text`. `stream` False: its caller waits for the end.

    `last_part`: the number of the part that grows; NO_PART while the reply is text alone. `durations_us`: how long the
    model reasoned, by part. `usage`: the tokens that the model server has told so far.
    """

    def __init__(
        self, message_id: str, reply_id: str, parameters: Parameters, caller: Caller, *, stream: bool = True
    ) -> None:
        self.message_id = message_id
        self.reply_id = reply_id
        self.parameters = parameters
        self.caller = caller
        self.stream = stream
        self.length = 0
        self.last_part = NO_PART
        self.durations_us: dict[int, int] = {}
        self.usage: Usage | None = None
        self._marks: list[Mark] = []
        self._pieces: list[str] = []
        self._starts: list[int] = []  # the offset at which each piece begins
        self.model: str | None = None
        self.route = Route()
        self.posted_version = 0  # of the event that asked for it
        self.version = 0  # of reply_started; 0 while it is queued
        self.started_at_us = 0
        self.outcome: Outcome | None = None
        self.unrecorded: LogUnavailable | None = None  # why its end cannot be recorded at the moment
        self._frozen = False
        self.signal = Signal()  # notified at every change
        self._settled = Signal()  # notified once its end is recorded, or cannot be

    @property
    def text(self) -> str:
        """The whole text so far, with reasoning, refusals and the arguments of tool calls."""
        return "".join(self._pieces)

    @property
    def content(self) -> str:
        """The text of the parts of text."""
        return content_of(self.text, self._marks)

    @property
    def part_lengths(self) -> tuple[int, ...]:
        """Code points of each part; empty while the reply is text alone."""
        return tuple(end - mark.start for mark, end in with_ends(self._marks, self.length))

    def since(self, offset: int) -> str:
        """The text after `offset`. Costs time in proportion to the result, not to the reply."""
        if self._starts and self._starts[-1] == offset:  # the usual case: a reader that keeps up
            return self._pieces[-1]
        first = max(bisect_right(self._starts, offset) - 1, 0)
        tail = "".join(self._pieces[first:])
        return tail[offset - self._starts[first] :] if tail else ""

    def start(self, version: int, started_at_us: int, model: str) -> None:
        self.version = version
        self.started_at_us = started_at_us
        self.model = model
        self.signal.notify()

    def grow(self, piece: str) -> None:
        """Append to the part that grows, which is text at first; ignored once the text is frozen. Notifies readers."""
        if not self._frozen:
            self._starts.append(self.length)
            self._pieces.append(piece)
            self.length += len(piece)
            self.signal.notify()

    def grow_part(self, kind: PartKind, piece: str, call_id: str = "", name: str = "") -> None:
        """Append to a part of this kind and call: to the last one, or to a new one. Of a tool call the first piece may
        be empty. Raises ReplyTooLong if the reply has PARTS_MAX parts already.
        """
        if self._frozen or not (piece or kind == "tool_call"):
            return
        last = self._marks[-1] if self._marks else _PLAIN_MARK
        if (last.kind, last.call_id) != (kind, call_id):
            if self._next_part >= PARTS_MAX:
                raise ReplyTooLong
            self._begin_part(kind, call_id, name)
        self.grow(piece)

    def extend(self, segment: Segment) -> None:
        """Take over what `segment` has beyond this reply, which is a copy of the reply that the segment comes from."""
        is_empty = not segment.text and segment.kind != "tool_call"  # such a part begins with its first text
        if self._frozen or is_empty or segment.offset > self.length:  # after a gap
            return
        is_known = segment.part <= max(self.last_part, 0) and (bool(self._marks) or segment.kind == "text")
        if not is_known:
            if segment.offset != self.length or segment.part != self._next_part:
                return
            self._begin_part(segment.kind, segment.call_id, segment.name)
        if segment.part == max(self.last_part, 0) and (segment.end > self.length or not is_known):
            self.grow(segment.text[self.length - segment.offset :])

    @property
    def _next_part(self) -> int:
        return len(self._marks) or int(self.length > 0)

    def _begin_part(self, kind: PartKind, call_id: str, name: str) -> None:
        number = self._next_part
        if number and not self._marks:
            self._marks.append(_PLAIN_MARK)
        self._marks.append(Mark(number, self.length, kind, call_id, name))
        self.last_part = number

    def segments(self, offset: int, after_part: int = NO_PART) -> list[Segment]:
        """What a reader at `offset` does not have; `after_part` is the last part that it was sent there."""
        return cut_segments(self.since(offset) if offset < self.length else "", offset, self._marks, after_part)

    def compact(self) -> None:
        """Join the pieces: thousands of small strings take many times the memory of the text."""
        if len(self._pieces) > 1:
            self._pieces, self._starts = [self.text], [0]

    def freeze(self) -> FrozenReply:
        """The final text: nothing may follow what the ending event records."""
        self._frozen = True
        text = self.text
        if not self._marks:
            return FrozenReply(text)
        return FrozenReply(content_of(text, self._marks), build_parts(text, self._marks, self.durations_us))

    def end(self, outcome: Outcome) -> None:
        """The ending is on disk. What it has replaces the text, whatever was shown before."""
        self._frozen = True
        text = flat_text(outcome.parts) if outcome.parts else outcome.content
        if text != self.text:
            self._pieces, self._starts, self.length = [text], [0], len(text)
        if outcome.parts or self._marks:
            self._marks = list(marks_of(outcome.parts))
            self.last_part = self._marks[-1].part if self._marks else NO_PART
        self.outcome = outcome
        self.signal.notify()
        self._settled.notify()

    def stall(self, error: LogUnavailable) -> None:
        """The end cannot be recorded: fail those who wait for it now, while the actor keeps trying."""
        self.unrecorded = error
        self.signal.notify()
        self._settled.notify()

    async def wait_end(self) -> Outcome:
        """The outcome, once recorded. Raises LogUnavailable when it cannot be recorded."""
        while self.outcome is None:
            if self.unrecorded is not None:
                raise self.unrecorded
            await wait_any(self._settled)
        return self.outcome


def requested_reply(request: RecordedEvent, caller: Caller, *, stream: bool = True) -> Reply | None:
    """The reply that a recorded event asks for; None when it asks for none."""
    event = request.event
    if isinstance(event, MessagePosted) and event.reply_id is not None:
        reply = Reply(event.message_id, event.reply_id, event.parameters, caller, stream=stream)
    elif isinstance(event, ReplyRequested):
        reply = Reply(event.parent_id, event.reply_id, event.parameters, caller, stream=stream)
    else:
        return None
    reply.posted_version = request.version
    return reply


def status_of(event: ReplyEnded) -> str:
    """complete, failed, cancelled or interrupted."""
    match event:
        case ReplyCompleted():
            return ENDINGS["reply_completed"]
        case ReplyFailed():
            return ENDINGS["reply_failed"]
        case ReplyCancelled():
            return ENDINGS["reply_cancelled"]
        case ReplyInterrupted():
            return ENDINGS["reply_interrupted"]


def reply_outcome(event: ReplyEnded, recorded: RecordedEvent, reply: Reply) -> Outcome:
    """The outcome of `reply` by its recorded ending."""
    return recorded_outcome(event, recorded, reply.started_at_us, reply.model)


def recorded_outcome(
    event: ReplyEnded, recorded: RecordedEvent, started_at_us: int, model: str | None = None
) -> Outcome:
    """The outcome by a reply's recorded ending. The reply was created when it started, or, if it never did (0), when it
    ended.
    """
    created_at_us = started_at_us or recorded.recorded_at_us
    status = status_of(event)
    if isinstance(event, ReplyCompleted):
        return Outcome(
            status=status,
            content=event.content,
            version=recorded.version,
            created_at_us=created_at_us,
            finish_reason=event.finish_reason,
            finish_detail=event.finish_detail,
            model=event.model,
            usage=event.usage,
            parts=event.parts,
            duration_us=event.duration_us,
            time_to_first_token_us=event.time_to_first_token_us,
        )
    failed = event if isinstance(event, ReplyFailed) else None
    return Outcome(
        status=status,
        content=event.content,
        version=recorded.version,
        created_at_us=created_at_us,
        cause=event.cause,
        detail=failed.detail if failed is not None else "",
        finish_reason=FINISH_REASONS[status],
        finish_detail=failed.finish_detail if failed is not None else "",
        model=model,
        usage=event.usage,
        request_id=recorded.metadata.request_id,
        parts=event.parts,
    )

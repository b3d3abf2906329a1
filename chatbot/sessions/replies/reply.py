"""An assistant message while it is generated: one growing text, read by any number of cursors; and its outcome.

A reader asks for the text after its offset, gets all of it as one piece, waits until its socket has room, and asks
again: backpressure without queues. A slow reader delays neither the model nor other readers.
"""

from bisect import bisect_right

from msgspec import Struct

from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.feeds.channels import Signal, wait_any
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
from projections.folds.message import ENDINGS, FINISH_REASONS


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


class Reply:
    """A reply of a live session. Offsets count code points of `text`. `stream` False: its caller waits for the end."""

    def __init__(
        self, message_id: str, reply_id: str, parameters: Parameters, caller: Caller, *, stream: bool = True
    ) -> None:
        self.message_id = message_id
        self.reply_id = reply_id
        self.parameters = parameters
        self.caller = caller
        self.stream = stream
        self.length = 0
        self._pieces: list[str] = []
        self._starts: list[int] = []  # the offset at which each piece begins
        self.model: str | None = None
        self.posted_version = 0  # of the event that asked for it
        self.version = 0  # of reply_started; 0 while it is queued
        self.started_at_us = 0
        self.outcome: Outcome | None = None
        self.unrecorded: LogUnavailable | None = None  # why its end cannot be recorded at the moment
        self._frozen = False
        self.signal = Signal()  # notified at every change

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self._pieces)

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
        """Append text from the model; ignored once the text is frozen."""
        if not self._frozen:
            self._starts.append(self.length)
            self._pieces.append(piece)
            self.length += len(piece)
            self.signal.notify()

    def compact(self) -> None:
        """Join the pieces: thousands of small strings take many times the memory of the text."""
        if len(self._pieces) > 1:
            self._pieces, self._starts = [self.text], [0]

    def freeze(self) -> str:
        """The final text: nothing may follow what the ending event records."""
        self._frozen = True
        return self.text

    def end(self, outcome: Outcome) -> None:
        """The ending is on disk. Its content replaces the text, whatever was shown before."""
        self._frozen = True
        if outcome.content != self.text:
            self._pieces, self._starts, self.length = [outcome.content], [0], len(outcome.content)
        self.outcome = outcome
        self.signal.notify()

    def stall(self, error: LogUnavailable) -> None:
        """The end cannot be recorded: fail those who wait for it now, while the actor keeps trying."""
        self.unrecorded = error
        self.signal.notify()

    async def wait_end(self) -> Outcome:
        """The outcome, once recorded. Raises LogUnavailable when it cannot be recorded."""
        while self.outcome is None:
            await self._changed()
        return self.outcome

    async def _changed(self) -> None:
        if self.unrecorded is not None:
            raise self.unrecorded
        await wait_any(self.signal)


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
        usage=failed.usage if failed is not None else None,
        request_id=recorded.metadata.request_id,
    )

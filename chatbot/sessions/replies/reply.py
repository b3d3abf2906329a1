"""The assistant's message in the making: one growing text, and any number of readers that hold only a cursor.

A reader asks for what lies after its offset, gets all of it as one piece, waits for its socket, and asks again. So
a slow reader costs neither the model nor the others anything, and needs no queue.

How a recorded ending reads: one table from event to status. Pure.
"""

from bisect import bisect_right

from msgspec import Struct

from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.replies.change_signal import Signal, wait_any
from events.catalogue import Parameters, ReplyCompleted, ReplyEnded, Usage
from events.codec import event_type
from events.errors import LogUnavailable
from events.record import RecordedEvent
from projections.folds.message import ENDINGS, FINISH_REASONS


class Outcome(Struct, frozen=True):
    """How a reply ended, as recorded. `status` is complete, failed, cancelled or interrupted.

    `detail` may hold the model server's own words, which are not for clients. `request_id` is the request's that asked.
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
    """A reply of a live session. Offsets count code points of `text`."""

    def __init__(
        self, message_id: str, reply_id: str, parameters: Parameters, caller: Caller, *, stream: bool = True
    ) -> None:
        self.message_id = message_id
        self.reply_id = reply_id
        self.parameters = parameters
        self.caller = caller
        self.stream = stream  # False: no client reads it while it grows
        self.length = 0
        self._pieces: list[str] = []
        self._starts: list[int] = []  # offset at which each piece begins
        self.model: str | None = None
        self.posted_version = 0  # of the message that it answers
        self.version = 0  # of reply_started; 0 while it waits its turn
        self.started_at_us = 0
        self.outcome: Outcome | None = None
        self.unrecorded: LogUnavailable | None = None  # why its end cannot be recorded just now
        self._frozen = False
        self.signal = Signal()  # rings whenever there is something new to see

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._pieces)

    def since(self, offset: int) -> str:
        """What lies after `offset`, at a cost that grows with the answer, not with the reply."""
        if self._starts and self._starts[-1] == offset:  # as it is for whoever keeps up
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
        """More text from the model; ignored once the text is frozen."""
        if not self._frozen:
            self._starts.append(self.length)
            self._pieces.append(piece)
            self.length += len(piece)
            self.signal.notify()

    def compact(self) -> None:
        """Keep what has come so far as one piece: thousands of small ones take many times the text's own memory."""
        if len(self._pieces) > 1:
            self._pieces, self._starts = [self.text], [0]

    def freeze(self) -> str:
        """The text as it stands, for good: nothing follows what the ending event records."""
        self._frozen = True
        return self.text

    def end(self, outcome: Outcome) -> None:
        """The ending is on disk. Its content is the text, whatever had been shown of it."""
        self._frozen = True
        if outcome.content != self.text:
            self._pieces, self._starts, self.length = [outcome.content], [0], len(outcome.content)
        self.outcome = outcome
        self.signal.notify()

    def stall(self, error: LogUnavailable) -> None:
        """The end cannot be recorded: tell those who wait now; the actor goes on trying."""
        self.unrecorded = error
        self.signal.notify()

    async def wait_end(self) -> Outcome:
        """How it ended. Raises LogUnavailable when that cannot be recorded."""
        while self.outcome is None:
            await self._changed()
        return self.outcome

    async def _changed(self) -> None:
        if self.unrecorded is not None:
            raise self.unrecorded
        await wait_any(self.signal)


def status_of(event: ReplyEnded) -> str:
    """complete, failed, cancelled or interrupted."""
    return ENDINGS[event_type(event)]


def reply_outcome(event: ReplyEnded, recorded: RecordedEvent, reply: Reply) -> Outcome:
    """What those who wait for `reply` are told."""
    return recorded_outcome(event, recorded, reply.started_at_us, reply.model)


def recorded_outcome(
    event: ReplyEnded, recorded: RecordedEvent, started_at_us: int, model: str | None = None
) -> Outcome:
    """What a reply's recorded ending says. It was created when it started, or, if it never did (0), when it ended."""
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
    return Outcome(
        status=status,
        content=event.content,
        version=recorded.version,
        created_at_us=created_at_us,
        cause=event.cause,
        detail=getattr(event, "detail", ""),
        finish_reason=FINISH_REASONS[status],
        finish_detail=getattr(event, "finish_detail", ""),
        model=model,
        usage=getattr(event, "usage", None),
        request_id=recorded.metadata.request_id,
    )

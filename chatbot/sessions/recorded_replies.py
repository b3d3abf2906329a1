"""Replies and the requests that they answer, from the log, so that each can be shown again as long as it is kept."""

from msgspec import Struct

from chatbot.sessions.domain.message_events import as_message_event
from chatbot.sessions.replies.reply import Outcome, recorded_outcome
from events.catalogue import LoggedEvent, MessageCopied, MessagePosted, Parameters, ReplyEnded, ReplyRequested
from events.log import EventLog
from events.record import RecordedEvent
from events.schema.parts import Redacted
from projections.folds.batch import ROWS_PER_EVENT_MAX
from projections.folds.message import COMPLETE, QUEUED, MessageRow
from projections.folds.session import Session
from projections.port import ProjectionQueries


class RecordedTurn(Struct, frozen=True):
    """A reply and its request. `requested_at_us`: Unix microseconds. `request`: the event that asks for it, if that is
    one of this session. `outcome` None: it runs or waits.
    """

    session: Session
    row: MessageRow
    parameters: Parameters
    requested_at_us: int
    request: RecordedEvent | None
    outcome: Outcome | None

    @property
    def is_queued(self) -> bool:
        return self.row.status == QUEUED


async def find_turn(log: EventLog, queries: ProjectionQueries, session: Session, reply_id: str) -> RecordedTurn | None:
    """The reply `reply_id` of the session; None if the session does not have it, or its content is erased or redacted.

    The projections must have all of the session. Raises LogUnavailable, ProjectionError.
    """
    row = await queries.message(session.no, reply_id)
    if row is None or row.role != "assistant":
        return None
    asked_at = row.no // ROWS_PER_EVENT_MAX
    events = await log.read_at(sorted({asked_at, row.position} - {0}))
    asked, ended = events.get(asked_at), events.get(row.position)
    parameters = _requested_parameters(asked.event, reply_id) if asked is not None else None
    request = asked if parameters is not None else None
    outcome: Outcome | None = None
    if row.position:
        outcome = _outcome(ended, row)
        if outcome is None or (outcome.parts and all(isinstance(part, Redacted) for part in outcome.parts)):
            return None
    requested_at_us = row.created_at_us if request is None else request.recorded_at_us
    return RecordedTurn(session, row, parameters or Parameters(), requested_at_us, request, outcome)


def _requested_parameters(event: LoggedEvent | None, reply_id: str) -> Parameters | None:
    match event:
        case MessagePosted() | ReplyRequested() if event.reply_id == reply_id:
            return event.parameters
        case _:
            return None


def _outcome(ended: RecordedEvent | None, row: MessageRow) -> Outcome | None:
    """How a reply ended; one that a client or a copy says was written is complete."""
    event = as_message_event(ended.event) if ended is not None else None
    if ended is None or event is None:
        return None
    if isinstance(event, ReplyEnded):
        return recorded_outcome(event, ended, row.created_at_us, row.model)
    copied = event if isinstance(event, MessageCopied) else None
    return Outcome(
        status=COMPLETE,
        content=event.content,
        version=ended.version,
        created_at_us=row.created_at_us,
        finish_reason=(copied.finish_reason if copied is not None else None) or "stop",
        finish_detail=copied.finish_detail if copied is not None else "",
        model=copied.model if copied is not None else row.model,
        usage=copied.usage if copied is not None else None,
        parts=event.parts,
        duration_us=copied.duration_us if copied is not None else None,
        time_to_first_token_us=copied.time_to_first_token_us if copied is not None else None,
    )

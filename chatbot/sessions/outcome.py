"""How a recorded ending reads: one table from event to status. Pure."""

from chatbot.sessions.reply import Outcome, Reply
from events.catalogue import ReplyCompleted, ReplyEnded
from events.codec import event_type
from events.record import RecordedEvent
from projections.message import ENDINGS, FINISH_REASONS


def status_of(event: ReplyEnded) -> str:
    """complete, failed, cancelled or interrupted."""
    return ENDINGS[event_type(event)]


def outcome_of(event: ReplyEnded, recorded: RecordedEvent, reply: Reply) -> Outcome:
    """What those who wait for `reply` are told."""
    return outcome_at(event, recorded, reply.started_at_us, reply.model)


def outcome_at(event: ReplyEnded, recorded: RecordedEvent, started_at_us: int, model: str | None = None) -> Outcome:
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

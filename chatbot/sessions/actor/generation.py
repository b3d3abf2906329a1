"""A reply's child task: ask the model, let the text grow, say how it ended. Knows nothing of the log."""

from collections.abc import Callable

from msgspec import Struct

from chatbot.llm.concurrency_limiter import Slot
from chatbot.llm.provider import ChatMessage, LlmError, Provider
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Parameters, ReplyCompleted, ReplyFailed

Timer = Callable[[], float]


DETAIL_MAX_CHARS = 500  # a sentence; the model server's share of it is bounded already


class ModelRequest(Struct, frozen=True):
    """What the model is asked."""

    messages: tuple[ChatMessage, ...]
    parameters: Parameters


class ReplyTiming(Struct):
    """When the model was asked and first answered, in seconds of a monotonic clock."""

    asked_s: float
    first_s: float | None = None
    ended_s: float | None = None


async def generate(
    reply: Reply, request: ModelRequest, provider: Provider, slot: Slot, timing: ReplyTiming, timer: Timer
) -> ReplyCompleted | ReplyFailed:
    """The event that ends the reply by itself: completed or failed. Being cancelled is the caller's to record."""

    def on_text(piece: str) -> None:
        if timing.first_s is None:
            timing.first_s = timer()
        reply.grow(piece)

    try:
        await slot.ready()
        timing.asked_s = timer()
        finish = await provider.stream(request.messages, request.parameters, on_text, stream=reply.stream)
    except LlmError as error:
        return _failed_event(reply, error, timing, timer)
    finally:
        slot.release()
    timing.ended_s = timer()
    return ReplyCompleted(
        reply_id=reply.reply_id,
        content=reply.freeze(),
        finish_reason=finish.reason,
        finish_detail=finish.detail,
        model=finish.model,
        usage=finish.usage,
        refused_parameters=finish.refused_parameters,
        duration_us=_microseconds(timing.ended_s - timing.asked_s),
        time_to_first_token_us=None if timing.first_s is None else _microseconds(timing.first_s - timing.asked_s),
    )


def _failed_event(reply: Reply, error: LlmError, timing: ReplyTiming, timer: Timer) -> ReplyFailed:
    timing.ended_s = timer()
    finish = error.finish
    usage = finish.usage if finish is not None else None
    return ReplyFailed(
        reply_id=reply.reply_id,
        content=reply.freeze(),
        cause=error.cause,
        detail=str(error)[:DETAIL_MAX_CHARS],
        duration_us=_microseconds(timing.ended_s - timing.asked_s),
        finish_detail=finish.detail if finish is not None else "",
        usage=usage,
        model=finish.model if finish is not None and usage is not None else None,
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)

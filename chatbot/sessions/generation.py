"""A reply's child task: ask the model, let the text grow, say how it ended. Knows nothing of the log."""

from collections.abc import Callable

from msgspec import Struct

from chatbot.llm.errors import LlmError
from chatbot.llm.gate import Ticket
from chatbot.llm.protocol import ChatMessage, Provider
from chatbot.sessions.reply import Reply
from events.catalogue import Parameters, ReplyCompleted, ReplyFailed

Timer = Callable[[], float]


DETAIL_MAX_CHARS = 500  # a sentence; the model server's share of it is bounded already


class Request(Struct, frozen=True):
    """What the model is asked."""

    messages: tuple[ChatMessage, ...]
    parameters: Parameters


class Timing(Struct):
    """When the model was asked and first answered, in seconds of a monotonic clock."""

    asked_s: float
    first_s: float | None = None
    ended_s: float | None = None


async def generate(
    reply: Reply, request: Request, provider: Provider, ticket: Ticket, timing: Timing, timer: Timer
) -> ReplyCompleted | ReplyFailed:
    """The event that ends the reply by itself: completed or failed. Being cancelled is the caller's to record."""

    def hear(piece: str) -> None:
        if timing.first_s is None:
            timing.first_s = timer()
        reply.grow(piece)

    try:
        await ticket.ready()
        timing.asked_s = timer()
        finish = await provider.stream(request.messages, request.parameters, hear, whole=reply.whole)
    except LlmError as error:
        return _failed(reply, error, timing, timer)
    finally:
        ticket.leave()
    timing.ended_s = timer()
    return ReplyCompleted(
        reply_id=reply.reply_id,
        content=reply.freeze(),
        finish_reason=finish.reason,
        finish_detail=finish.detail,
        model=finish.model,
        usage=finish.usage,
        refused_parameters=finish.refused_parameters,
        duration_us=_us(timing.ended_s - timing.asked_s),
        time_to_first_token_us=None if timing.first_s is None else _us(timing.first_s - timing.asked_s),
    )


def _failed(reply: Reply, error: LlmError, timing: Timing, timer: Timer) -> ReplyFailed:
    timing.ended_s = timer()
    finish = error.finish
    usage = finish.usage if finish is not None else None
    return ReplyFailed(
        reply_id=reply.reply_id,
        content=reply.freeze(),
        cause=error.cause,
        detail=str(error)[:DETAIL_MAX_CHARS],
        duration_us=_us(timing.ended_s - timing.asked_s),
        finish_detail=finish.detail if finish is not None else "",
        usage=usage,
        model=finish.model if finish is not None and usage is not None else None,
    )


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)

"""The child task of one running reply, and the call to the model, which knows nothing of the log."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from chatbot.llm.concurrency_limiter import Slot
from chatbot.llm.provider import LlmError, Provider, TextSink
from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.actor.request_builder import ModelRequest
from chatbot.sessions.domain.commands import CheckpointReply, EndReply
from chatbot.sessions.ports import ReplyTaskPorts
from chatbot.sessions.replies.reply import Reply, ReplyTiming
from events.catalogue import ReplyCancelled, ReplyCompleted, ReplyFailed, ReplyInterrupted, ReplyStarted

CHECKPOINT_SLOTS = 10  # moments in each checkpoint interval at which all replies of the process record theirs together
DETAIL_MAX_CHARS = 500  # of an error's text in reply_failed; the model server's share of it is bounded already

Timer = Callable[[], float]
EarlyEnd = TypeVar("EarlyEnd", bound=ReplyCancelled | ReplyInterrupted)


class ReplyTask:
    """Generates, records checkpoints, ends. Talks to the actor by its mailbox."""

    def __init__(self, reply: Reply, started: ReplyStarted, ports: ReplyTaskPorts, mailbox: Mailbox) -> None:
        self.reply = reply
        self.started = started
        self.timing = ReplyTiming(asked_s=ports.timer())
        self.ended: ReplyCompleted | ReplyFailed | None = None  # sent to the actor, but maybe not recorded yet
        self._ports = ports
        self._mailbox = mailbox
        self._checkpoint_offset = 0
        self._checkpoint_is_pending = False
        self._task: asyncio.Task[None] | None = None
        self._slot: Slot | None = None
        self._checkpoint_timer: asyncio.TimerHandle | None = None

    def start(self, request: ModelRequest) -> None:
        """Ask the model. Raises LlmOverloaded when too many replies run and wait already."""
        self._slot = self._ports.limiter.acquire()
        self._task = asyncio.create_task(self._run(request, self._slot), name=f"reply {self.reply.reply_id}")
        self._schedule_checkpoint()

    async def stop(self) -> None:
        """Freeze the text and stop the model: when this returns, the connection to it is closed."""
        self.reply.freeze()
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._slot is not None:
            self._slot.release()  # a task that was cancelled before its first step has not released it

    def on_checkpoint_recorded(self, offset: int | None) -> None:
        """The log has the text up to `offset`; None: the last checkpoint was refused, and the next one tries again."""
        self._checkpoint_is_pending = False
        if offset is not None:
            self._checkpoint_offset = offset

    def build_early_end(self, event_class: type[EarlyEnd], cause: str) -> EarlyEnd:
        """The event to record when the service, not the model, ends this reply."""
        duration_us = _microseconds(self._ports.timer() - self.timing.asked_s)
        return event_class(self.reply.reply_id, self.reply.freeze(), cause, duration_us)

    async def _run(self, request: ModelRequest, slot: Slot) -> None:
        ended: ReplyCompleted | ReplyFailed
        try:
            ended = await generate(self.reply, request, self._ports.provider, slot, self.timing, self._ports.timer)
        except Exception as error:
            self._ports.logger.exception("reply.crashed", error=type(error).__name__)
            ended = ReplyFailed(self.reply.reply_id, self.reply.freeze(), "internal", "internal error")
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
        self.ended = ended
        self._send_to_actor(EndReply(ended))

    def _schedule_checkpoint(self) -> None:
        """Have the text so far recorded once per interval: a crash loses no more than that."""
        loop, interval_s = asyncio.get_running_loop(), self._ports.limits.checkpoint_interval_s
        # Aligned to slots of the loop's clock that all replies share, so that one batch has many checkpoints.
        slot_s = interval_s / CHECKPOINT_SLOTS
        self._checkpoint_timer = loop.call_at((loop.time() + interval_s) // slot_s * slot_s, self._schedule_checkpoint)
        if self.reply.length > self._checkpoint_offset and not self._checkpoint_is_pending:
            self._checkpoint_is_pending = True
            text = self.reply.since(self._checkpoint_offset)
            self.reply.compact()
            self._send_to_actor(CheckpointReply(self.reply.reply_id, self._checkpoint_offset, text))

    def _send_to_actor(self, command: CheckpointReply | EndReply) -> None:
        try:
            self._mailbox.tell(Envelope(command, self.reply.caller))
        except MailboxClosed:
            # The actor has stopped and recorded this reply's end, or it has failed: then recovery closes the reply.
            self._ports.logger.debug("reply.unheard")


async def generate(
    reply: Reply, request: ModelRequest, provider: Provider, slot: Slot, timing: ReplyTiming, timer: Timer
) -> ReplyCompleted | ReplyFailed:
    """Ask the model and grow `reply`; returns the ending event. When it is cancelled, the caller records the end."""

    def on_text(piece: str) -> None:
        if timing.first_s is None:
            timing.first_s = timer()
        reply.grow(piece)

    try:
        await slot.ready()
        timing.asked_s = timer()
        finish = await provider.stream(request.messages, request.parameters, TextSink(on_text), stream=reply.stream)
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

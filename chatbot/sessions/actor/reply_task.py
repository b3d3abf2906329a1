"""The child task of one running reply, and the call to the model, which knows nothing of the log."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from chatbot.llm.concurrency_limiter import Slot
from chatbot.llm.provider import Finish, LlmError, LlmFailed
from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.actor.media_loader import loaded_messages
from chatbot.sessions.domain.commands import CheckpointReply, EndReply
from chatbot.sessions.domain.model_request import ModelRequest
from chatbot.sessions.ports import ReplyLog, ReplyTaskPorts
from chatbot.sessions.replies.growing_parts import NO_PART, PartKind, Segment
from chatbot.sessions.replies.reply import Reply, ReplyTiming
from events.catalogue import (
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyStarted,
    Usage,
)
from events.codec import VERSIONS_WITH_PARTS
from events.errors import LogUnavailable
from events.schema.parts import CALL_ID_MAX_CHARS, NAME_MAX_CHARS

# Moments in each checkpoint interval at which all replies of the process record theirs together, by how many replies
# run at most: fewer moments make fewer commits, more of them keep the work at each one short.
CHECKPOINT_SLOTS = ((16, 2), (40, 5))
CHECKPOINT_SLOTS_MAX = 10
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
        self._checkpoint_part = NO_PART
        self._checkpoint_is_pending = False
        self._task: asyncio.Task[None] | None = None
        self._slot: Slot | None = None
        self._checkpoint_timer: asyncio.TimerHandle | None = None

    def start(self, request: ModelRequest, end_user: str | None) -> None:
        """Ask the model, once it is the turn of the caller's owner, and of this end user of theirs."""
        self._slot = self._ports.limiter.acquire(self.reply.caller.owner, end_user, reply_id=self.reply.reply_id)
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

    def on_checkpoint_recorded(self, event: ReplyProgressed | None) -> None:
        """The log has this checkpoint; None: the last one was refused, and the next one tries again."""
        self._checkpoint_is_pending = False
        if event is not None:
            self._checkpoint_offset, self._checkpoint_part = event.offset + len(event.text), event.part

    def build_early_end(self, event_class: type[EarlyEnd], cause: str) -> EarlyEnd:
        """The event to record when the service, not the model, ends this reply."""
        duration_us = _microseconds(self._ports.timer() - self.timing.asked_s)
        frozen, usage = self.reply.freeze(), self.reply.usage
        return event_class(
            reply_id=self.reply.reply_id,
            content=frozen.content,
            cause=cause,
            duration_us=duration_us,
            parts=frozen.parts,
            usage=usage,
            model=self.reply.model if usage is not None else None,
            server=self.reply.route.server or None,
            provider=self.reply.route.provider or None,
        )

    async def _run(self, request: ModelRequest, slot: Slot) -> None:
        ended: ReplyCompleted | ReplyFailed
        try:
            ended = await generate(self.reply, request, self._ports, slot, self.timing)
        except Exception as error:
            self._ports.logger.exception("reply.crashed", error=type(error).__name__)
            frozen, usage = self.reply.freeze(), self.reply.usage
            model = self.reply.model if usage is not None else None
            ended = ReplyFailed(
                self.reply.reply_id, frozen.content, "internal", "internal error",
                usage=usage, model=model, parts=frozen.parts, server=self.reply.route.server or None,
                provider=self.reply.route.provider or None,
            )  # fmt: skip
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
        self.ended = ended
        self._send_to_actor(EndReply(ended, started=self.reply.version))

    def _schedule_checkpoint(self) -> None:
        """Have the text so far recorded once per interval: a crash loses no more than that."""
        loop, interval_s = asyncio.get_running_loop(), self._ports.limits.checkpoint_interval_s
        # Aligned to slots of the loop's clock that all replies share, so that one batch has many checkpoints.
        slot_s = interval_s / checkpoint_slots(self._ports.limiter.running)
        self._checkpoint_timer = loop.call_at((loop.time() + interval_s) // slot_s * slot_s, self._schedule_checkpoint)
        reply, offset, part = self.reply, self._checkpoint_offset, self._checkpoint_part
        if (reply.length > offset or reply.last_part > part) and not self._checkpoint_is_pending:
            self._checkpoint_is_pending = True
            segments = reply.segments(offset, part)
            reply.compact()
            events = _checkpoint_events(reply.reply_id, segments)
            self._send_to_actor(CheckpointReply(reply.reply_id, events, reply.version))

    def _send_to_actor(self, command: CheckpointReply | EndReply) -> None:
        try:
            self._mailbox.tell(Envelope(command, self.reply.caller))
        except MailboxClosed:
            # The actor has stopped and recorded this reply's end, or it has failed: then recovery closes the reply.
            self._ports.logger.debug("reply.unheard")


def checkpoint_slots(running: int) -> int:
    """Moments for checkpoints in each interval, while so many replies run. Each number divides the largest, so moments
    stay common to replies that have seen different numbers. Pure.
    """
    for replies_max, slots in CHECKPOINT_SLOTS:
        if running <= replies_max:
            return slots
    return CHECKPOINT_SLOTS_MAX


async def _keeps_parts(log: ReplyLog) -> bool:
    """Whether a reply may have other parts than text: every process over the log can read them."""
    try:
        return await log.admits(VERSIONS_WITH_PARTS)
    except LogUnavailable:  # not known: what the model says is not thrown away, its end is appended again and again
        return True


class ReplyGrower:
    """The sink of a model's reply: grows `reply`, and notes when its first piece came.

    `keeps_parts` False: an older process over the same log could not read parts, so only the text is kept.
    """

    def __init__(self, reply: Reply, timing: ReplyTiming, timer: Timer, *, keeps_parts: bool) -> None:
        self._reply = reply
        self._timing = timing
        self._timer = timer
        self._keeps_parts = keeps_parts
        self._reasoning_began_s = 0.0

    def text(self, piece: str) -> None:
        reply = self._reply
        if reply.last_part != NO_PART:
            reply.grow_part("text", piece)
            return
        if not reply.length:  # its first piece: a part would have come before it otherwise
            self._timing.first_s = self._timer()
        reply.grow(piece)

    def reasoning(self, piece: str) -> None:
        if not piece or not self._keeps_parts:
            return
        reply, now_s = self._reply, self._timer()
        before = reply.last_part
        self._grow_part("reasoning", piece)
        if reply.last_part != before:
            self._reasoning_began_s = now_s
        reply.durations_us[reply.last_part] = _microseconds(now_s - self._reasoning_began_s)

    def refusal(self, piece: str) -> None:
        self._grow_part("refusal", piece)

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        """Raises LlmFailed for a call that no event may hold."""
        if not (0 < len(call_id) <= CALL_ID_MAX_CHARS and 0 < len(name) <= NAME_MAX_CHARS):
            raise LlmFailed("The model server sent a tool call whose id or name is missing or too long")
        self._grow_part("tool_call", arguments, call_id, name)

    def usage(self, usage: Usage) -> None:
        self._reply.usage = usage

    def _grow_part(self, kind: PartKind, piece: str, call_id: str = "", name: str = "") -> None:
        if not self._keeps_parts:
            return
        if self._timing.first_s is None:
            self._timing.first_s = self._timer()
        self._reply.grow_part(kind, piece, call_id, name)


async def generate(
    reply: Reply, request: ModelRequest, ports: ReplyTaskPorts, slot: Slot, timing: ReplyTiming
) -> ReplyCompleted | ReplyFailed:
    """Ask the model and grow `reply`; returns the ending event. When it is cancelled, the caller records the end."""
    try:
        await slot.ready()
        sink = ReplyGrower(reply, timing, ports.timer, keeps_parts=await _keeps_parts(ports.log))
        timing.asked_s = ports.timer()
        if request.media:
            finish = await _ask_with_media(reply, request, ports, sink)
        else:
            finish = await ports.provider.stream(
                request.messages, request.parameters, sink, stream=reply.stream, route=reply.route
            )
        if not reply.length and reply.last_part == NO_PART:
            raise LlmFailed("The model server gave no text", finish=finish)
    except LlmError as error:
        timing.ended_s = ports.timer()
        return _failed_event(reply, error, timing)
    finally:
        slot.release()
    timing.ended_s = ports.timer()
    frozen = reply.freeze()
    return ReplyCompleted(
        reply_id=reply.reply_id,
        content=frozen.content,
        finish_reason=finish.reason,
        finish_detail=finish.detail,
        model=finish.model,
        usage=finish.usage or reply.usage,
        refused_parameters=finish.refused_parameters,
        duration_us=_microseconds(timing.ended_s - timing.asked_s),
        time_to_first_token_us=None if timing.first_s is None else _microseconds(timing.first_s - timing.asked_s),
        parts=frozen.parts,
        server=reply.route.server or None,
        provider=reply.route.provider or None,
    )


async def _ask_with_media(reply: Reply, request: ModelRequest, ports: ReplyTaskPorts, sink: ReplyGrower) -> Finish:
    """Raises LlmError, LogUnavailable if the request's files cannot be read."""
    async with loaded_messages(request, ports) as messages:
        return await ports.provider.stream(messages, request.parameters, sink, stream=reply.stream, route=reply.route)


def _failed_event(reply: Reply, error: LlmError, timing: ReplyTiming) -> ReplyFailed:
    finish = error.finish
    usage = (finish.usage if finish is not None else None) or reply.usage
    model = finish.model if finish is not None else reply.model
    frozen, ended_s = reply.freeze(), timing.ended_s or timing.asked_s
    return ReplyFailed(
        reply_id=reply.reply_id,
        content=frozen.content,
        cause=error.cause,
        detail=str(error)[:DETAIL_MAX_CHARS],
        duration_us=_microseconds(ended_s - timing.asked_s),
        finish_detail=finish.detail if finish is not None else "",
        usage=usage,
        model=model if usage is not None else None,
        parts=frozen.parts,
        server=reply.route.server or None,
        provider=reply.route.provider or None,
    )


def _checkpoint_events(reply_id: str, segments: Iterable[Segment]) -> tuple[ReplyProgressed, ...]:
    return tuple(
        ReplyProgressed(reply_id, one.offset, one.text, one.part, one.kind, one.call_id, one.name) for one in segments
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)

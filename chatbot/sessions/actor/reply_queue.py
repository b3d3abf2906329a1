"""The replies of one live session: the queue, the running reply's task, and the call to the model.

`ReplyQueue` reacts to recorded events and never before. `ReplyTask` runs one reply as a child task. `generate` asks the
model and knows nothing of the log.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar, assert_never

from msgspec import Struct

from chatbot.llm.concurrency_limiter import Slot
from chatbot.llm.provider import (
    ChatMessage,
    LlmError,
    LlmOverloaded,
    ModelMessage,
    Provider,
    TextSink,
)
from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.domain.commands import (
    Caller,
    CheckpointReply,
    EndReply,
    PostMessage,
    Regenerate,
    StartReply,
)
from chatbot.sessions.domain.state import State, join_consecutive
from chatbot.sessions.ports import Ports, ReplyTaskPorts
from chatbot.sessions.replies.reply import Outcome, Reply, ReplyTiming, reply_outcome, requested_reply
from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    MessageCopied,
    MessagePosted,
    MetadataChanged,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    ToolCallsClosed,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent

CHECKPOINT_SLOTS = 10  # moments in each checkpoint interval at which all replies of the process record theirs together
DETAIL_MAX_CHARS = 500  # of an error's text in reply_failed; the model server's share of it is bounded already

Timer = Callable[[], float]
EarlyEnd = TypeVar("EarlyEnd", bound=ReplyCancelled | ReplyInterrupted)


class ReplyQueue:
    """Keeps the queued and running replies in step with the log. `by_id` has both, oldest first."""

    def __init__(self, ports: Ports, mailbox: Mailbox) -> None:
        self.by_id: dict[str, Reply] = {}
        self.task: ReplyTask | None = None  # of the running reply
        self.shutting_down = False  # then no reply starts
        self._ports = ports
        self._mailbox = mailbox

    @property
    def queued(self) -> list[Reply]:
        """The replies that have not started, last first: ended in this order, none of them starts in between."""
        running = self.task.reply if self.task else None
        return [reply for reply in reversed(self.by_id.values()) if reply is not running]

    def on_recorded(self, recorded: RecordedEvent, envelope: Envelope, state: State) -> Reply | None:
        """React to a recorded event; returns the reply that it concerns."""
        event = recorded.event
        match event:
            case MessagePosted() | ReplyRequested():
                if self.shutting_down:
                    return None
                command = envelope.command
                stream = command.stream if isinstance(command, PostMessage | Regenerate) else True
                return self.enqueue(recorded, envelope.caller, stream=stream)
            case ReplyStarted():
                return self._start_reply(event, recorded, state)
            case ReplyProgressed():
                if self.task is not None:
                    self.task.on_checkpoint_recorded(event.offset + len(event.text))
                return None
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                return self._close_reply(event, recorded, state)
            case (
                SessionCreated()
                | MetadataChanged()
                | SessionAccessed()
                | SessionExpired()
                | SessionDeleted()
                | ToolCallsClosed()
                | BranchSelected()
                | HistoryAdopted()
                | MessageCopied()
                | ContentErased()
                | IgnoredEvent()
                | None
            ):
                return None
            case _:
                assert_never(event)

    def enqueue(self, request: RecordedEvent, caller: Caller, *, stream: bool = True) -> Reply | None:
        """Queue the reply that `request` asks for; None when it asks for none."""
        reply = requested_reply(request, caller, stream=stream)
        if reply is not None:
            self.by_id[reply.reply_id] = reply
        return reply

    def start_next(self, state: State) -> None:
        """Have the first queued reply started, unless one runs."""
        pending = state.session.pending
        if pending and state.session.open_reply is None and self.task is None and pending[0].reply_id in self.by_id:
            next_reply = self.by_id[pending[0].reply_id]
            self._mailbox.tell(Envelope(StartReply(next_reply.parameters, next_reply.reply_id), next_reply.caller))

    def retry_requests(self, state: State) -> tuple[ReplyRequested, ...]:
        """New requests for the running and queued replies, to be recorded once these are closed as interrupted."""
        session, attempts_max = state.session, self._ports.rules.retry_interrupted
        open_here = ([session.open_reply] if session.open_reply else []) + [*session.pending]
        return tuple(
            ReplyRequested(
                one.reply_id,
                one.message_id,
                self.by_id[one.reply_id].parameters,
                one.attempt + 1,
                node=self._ports.rules.owner_node,
            )
            for one in open_here
            if one.attempt <= attempts_max and one.reply_id in self.by_id
        )

    async def reconcile(self, state: State, ended: Mapping[str, RecordedEvent]) -> None:
        """Drop replies that other nodes have ended (`ended`, by reply), erased or taken over; first stop the model."""
        open_reply, node = state.session.open_reply, self._ports.rules.node
        pending_ids = {one.reply_id for one in state.session.pending}
        for reply_id, reply in list(self.by_id.items()):
            task = self.task if self.task is not None and self.task.reply is reply else None
            if task is None:
                is_ours = reply_id in pending_ids
            else:
                is_ours = open_reply is not None and (open_reply.reply_id, open_reply.node) == (reply_id, node)
            if is_ours:
                continue
            if task is not None:
                await task.stop()
            recorded = ended.get(reply_id)
            if recorded is not None and isinstance(recorded.event, ReplyEnded):
                self._close_reply(recorded.event, recorded, state)
            else:
                self._drop_reply(reply, state)
        self.start_next(state)

    def _drop_reply(self, reply: Reply, state: State) -> None:
        """Another node writes the reply now, or its end was erased with the session."""
        del self.by_id[reply.reply_id]
        if self.task is not None and self.task.reply is reply:
            self.task = None
        open_reply = state.session.open_reply
        if open_reply is not None and open_reply.reply_id == reply.reply_id:
            reply.stall(LogUnavailable("another node writes this reply now; follow the session for it"))
        else:
            reply.end(Outcome("cancelled", "", state.session.version, reply.started_at_us, cause="deleted"))

    def _start_reply(self, started: ReplyStarted, recorded: RecordedEvent, state: State) -> Reply | None:
        reply = self.by_id.get(started.reply_id)
        if reply is None:  # another node had taken it over and it came back: recovery closes it
            return None
        reply.start(recorded.version, recorded.recorded_at_us, started.model)
        self.task = ReplyTask(reply, started, self._ports, self._mailbox)
        try:
            self.task.start(model_request(state, started))
        except LlmOverloaded as error:
            failed = ReplyFailed(reply.reply_id, "", error.cause, str(error))
            self._mailbox.tell(Envelope(EndReply(failed), reply.caller))
        return reply

    def _close_reply(self, event: ReplyEnded, recorded: RecordedEvent, state: State) -> Reply | None:
        reply = self.by_id.pop(event.reply_id, None)
        task = self.task if self.task is not None and self.task.reply is reply else None
        if task is None:
            self._ports.observer.reply_closed(self._ports.provider.name, event)
        if reply is None:  # a crash had left it open
            return None
        if task is not None:
            self.task = None
        reply.end(reply_outcome(event, recorded, reply))  # first: its callers get the outcome whatever fails next
        if task is not None:
            self._ports.observer.reply_ended(task.started, event, task.timing, reply.caller.request_id)
        self.start_next(state)
        return reply

    async def abandon(self) -> None:
        """The actor has stopped with open replies: stop the model; recovery records their ends."""
        if self.task is not None:
            await self.task.stop()
        for reply in self.by_id.values():
            reply.stall(LogUnavailable("the session's actor has stopped; the reply's end is recorded when it is back"))


class ModelRequest(Struct, frozen=True):
    """A request to the model."""

    messages: tuple[ModelMessage, ...]
    parameters: Parameters


def model_request(state: State, started: ReplyStarted) -> ModelRequest:
    """The request that `started` records. Its messages must be in `state.recent`."""
    prompt = state.settings.system_prompt
    system = (ChatMessage("system", prompt),) if prompt else ()
    context = tuple(ChatMessage(state.recent[id_].role, state.recent[id_].content) for id_ in started.context_ids)
    return ModelRequest(system + (join_consecutive(context) if started.joined else context), started.parameters)


class ReplyTask:
    """The child task of one running reply: generates, records checkpoints, ends. Talks to the actor by its mailbox."""

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

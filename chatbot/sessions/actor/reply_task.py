"""The reply that an actor is having generated: its task, its checkpoints, its end."""

import asyncio
from typing import TypeVar

from chatbot.llm.concurrency_limiter import Slot
from chatbot.llm.provider import ChatMessage
from chatbot.sessions.actor.generation import ModelRequest, ReplyTiming, generate
from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.domain.commands import CheckpointReply, EndReply
from chatbot.sessions.domain.state import State, joined
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ReplyCancelled, ReplyCompleted, ReplyFailed, ReplyInterrupted, ReplyStarted

CHECKPOINT_SLOTS = 10  # moments, in each interval between a reply's checkpoints, at which all replies have theirs

Ending = TypeVar("Ending", bound=ReplyCancelled | ReplyInterrupted)


def model_request(state: State, started: ReplyStarted) -> ModelRequest:
    """The very request that `started` records."""
    prompt = state.settings.system_prompt
    system = (ChatMessage("system", prompt),) if prompt else ()
    said = tuple(ChatMessage(state.recent[id_].role, state.recent[id_].content) for id_ in started.context_ids)
    return ModelRequest(messages=system + (joined(said) if started.joined else said), parameters=started.parameters)


class ReplyTask:
    """One reply's child task. What it has to say reaches the actor through the mailbox, like everything else."""

    def __init__(self, reply: Reply, started: ReplyStarted, ports: Ports, mailbox: Mailbox) -> None:
        self.reply = reply
        self.started = started
        self.timing = ReplyTiming(asked_s=ports.timer())
        self.ended: ReplyCompleted | ReplyFailed | None = None  # by itself; told, but perhaps not recorded yet
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
        """Freeze the text and stop the model's work: when this returns, the connection to it is closed."""
        self.reply.freeze()
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._slot is not None:
            self._slot.release()  # a task that was cancelled before its first step has not done it

    def on_checkpoint_recorded(self, offset: int | None) -> None:
        """The log has the text up to `offset`; None: it has refused the last checkpoint, and the next tries again."""
        self._checkpoint_is_pending = False
        if offset is not None:
            self._checkpoint_offset = offset

    def build_early_end(self, ending: type[Ending], cause: str) -> Ending:
        """What to record when the service, not the model, ends this reply."""
        duration_us = round((self._ports.timer() - self.timing.asked_s) * 1_000_000)
        return ending(self.reply.reply_id, self.reply.freeze(), cause, duration_us)

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
        """About once a second, have the text so far recorded: a crash loses no more than that."""
        loop, interval_s = asyncio.get_running_loop(), self._ports.limits.checkpoint_interval_s
        # On the beat of a clock that all replies share: their checkpoints are written together.
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
            # The actor has stopped and recorded this reply's end, or failed: then recovery closes it.
            self._ports.logger.debug("reply.unheard")

"""The reply that an actor is having generated: its task, its checkpoints, its end."""

import asyncio
from typing import TypeVar

from chatbot.llm.gate import Ticket
from chatbot.llm.protocol import ChatMessage
from chatbot.sessions.commands import CheckpointReply, EndReply
from chatbot.sessions.context import joined
from chatbot.sessions.generation import Request, Timing, generate
from chatbot.sessions.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.ports import Ports
from chatbot.sessions.reply import Reply
from chatbot.sessions.state import State
from events.catalogue import ReplyCancelled, ReplyCompleted, ReplyFailed, ReplyInterrupted, ReplyStarted

BEATS = 10  # moments, in each interval between a reply's checkpoints, at which all replies have theirs

Ending = TypeVar("Ending", bound=ReplyCancelled | ReplyInterrupted)


def request_of(state: State, started: ReplyStarted) -> Request:
    """The very request that `started` records."""
    prompt = state.settings.system_prompt
    system = (ChatMessage("system", prompt),) if prompt else ()
    said = tuple(ChatMessage(state.recent[id_].role, state.recent[id_].content) for id_ in started.context_ids)
    return Request(messages=system + (joined(said) if started.joined else said), parameters=started.parameters)


class Running:
    """One reply's child task. What it has to say reaches the actor through the mailbox, like everything else."""

    def __init__(self, reply: Reply, started: ReplyStarted, ports: Ports, mailbox: Mailbox) -> None:
        self.reply = reply
        self.started = started
        self.timing = Timing(asked_s=ports.timer())
        self.ended: ReplyCompleted | ReplyFailed | None = None  # by itself; told, but perhaps not recorded yet
        self._ports = ports
        self._mailbox = mailbox
        self._checkpointed = 0
        self._checkpoint_under_way = False
        self._task: asyncio.Task[None] | None = None
        self._ticket: Ticket | None = None
        self._clock: asyncio.TimerHandle | None = None

    def start(self, request: Request) -> None:
        """Ask the model. Raises LlmOverloaded when too many replies run and wait already."""
        self._ticket = self._ports.gate.enter()
        self._task = asyncio.create_task(self._run(request, self._ticket), name=f"reply {self.reply.reply_id}")
        self._tick()

    async def stop(self) -> None:
        """Freeze the text and stop the model's work: when this returns, the connection to it is closed."""
        self.reply.freeze()
        if self._clock is not None:
            self._clock.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._ticket is not None:
            self._ticket.leave()  # a task that was cancelled before its first step has not done it

    def checkpointed(self, offset: int | None) -> None:
        """The log has the text up to `offset`; None: it has refused the last checkpoint, and the next tries again."""
        self._checkpoint_under_way = False
        if offset is not None:
            self._checkpointed = offset

    def ended_early(self, ending: type[Ending], cause: str) -> Ending:
        """What to record when the service, not the model, ends this reply."""
        duration_us = round((self._ports.timer() - self.timing.asked_s) * 1_000_000)
        return ending(self.reply.reply_id, self.reply.freeze(), cause, duration_us)

    async def _run(self, request: Request, ticket: Ticket) -> None:
        ended: ReplyCompleted | ReplyFailed
        try:
            ended = await generate(self.reply, request, self._ports.provider, ticket, self.timing, self._ports.timer)
        except Exception as error:
            self._ports.logger.exception("reply.crashed", error=type(error).__name__)
            ended = ReplyFailed(self.reply.reply_id, self.reply.freeze(), "internal", "internal error")
        if self._clock is not None:
            self._clock.cancel()
        self.ended = ended
        self._tell(EndReply(ended))

    def _tick(self) -> None:
        """About once a second, have the text so far recorded: a crash loses no more than that."""
        loop, interval_s = asyncio.get_running_loop(), self._ports.limits.checkpoint_interval_s
        # On the beat of a clock that all replies share: their checkpoints are written together.
        beat_s = interval_s / BEATS
        self._clock = loop.call_at((loop.time() + interval_s) // beat_s * beat_s, self._tick)
        if self.reply.length > self._checkpointed and not self._checkpoint_under_way:
            self._checkpoint_under_way = True
            text = self.reply.since(self._checkpointed)
            self.reply.compact()
            self._tell(CheckpointReply(self.reply.reply_id, self._checkpointed, text))

    def _tell(self, command: CheckpointReply | EndReply) -> None:
        try:
            self._mailbox.tell(Envelope(command, self.reply.asker))
        except MailboxClosed:
            # The actor has stopped and recorded this reply's end, or failed: then recovery closes it.
            self._ports.logger.debug("reply.unheard")

"""The replies of one live session: those that wait their turn and the one that runs, kept in step with the log."""

from collections.abc import Mapping

from chatbot.llm.provider import LlmOverloaded
from chatbot.sessions.actor.mailbox import Envelope, Mailbox
from chatbot.sessions.actor.reply_task import ReplyTask, model_request
from chatbot.sessions.domain.commands import Caller, EndReply, StartReply
from chatbot.sessions.domain.state import State
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Outcome, Reply, reply_outcome
from events.catalogue import (
    MessagePosted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent


def requested_reply(asked: RecordedEvent, caller: Caller, *, stream: bool = True) -> Reply | None:
    """The reply that a recorded event asks for; None when it asks for none."""
    event = asked.event
    if isinstance(event, MessagePosted) and event.reply_id is not None:
        reply = Reply(event.message_id, event.reply_id, event.parameters, caller, stream=stream)
    elif isinstance(event, ReplyRequested):
        reply = Reply(event.parent_id, event.reply_id, event.parameters, caller, stream=stream)
    else:
        return None
    reply.posted_version = asked.version
    return reply


class ReplyQueue:
    """Acts on what has been recorded, never before. `by_id` has running and waiting replies, oldest first."""

    def __init__(self, ports: Ports, mailbox: Mailbox) -> None:
        self.by_id: dict[str, Reply] = {}
        self.running: ReplyTask | None = None
        self.shutting_down = False  # the service is going down: nothing starts any more
        self._ports = ports
        self._mailbox = mailbox

    @property
    def waiting(self) -> list[Reply]:
        """Those whose turn has not come, last first: ended in this order, none of them starts meanwhile."""
        running = self.running.reply if self.running else None
        return [reply for reply in reversed(self.by_id.values()) if reply is not running]

    def on_recorded(self, recorded: RecordedEvent, envelope: Envelope, state: State) -> Reply | None:
        """Do what the fact asks for; returns the reply that it concerns."""
        event = recorded.event
        match event:
            case MessagePosted(reply_id=str()) | ReplyRequested() if not self.shutting_down:
                return self.wait(recorded, envelope.caller, stream=getattr(envelope.command, "stream", True))
            case ReplyStarted():
                return self._start_reply(event, recorded, state)
            case ReplyProgressed():
                if self.running is not None:
                    self.running.on_checkpoint_recorded(event.offset + len(event.text))
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                return self._close_reply(event, recorded, state)
        return None

    def wait(self, asked: RecordedEvent, caller: Caller, *, stream: bool = True) -> Reply | None:
        """The reply that `asked` asks for, until its turn comes."""
        reply = requested_reply(asked, caller, stream=stream)
        if reply is not None:
            self.by_id[reply.reply_id] = reply
        return reply

    def start_next(self, state: State) -> None:
        """Have the reply that waits first started, unless one runs."""
        pending = state.session.pending
        if pending and state.session.open_reply is None and self.running is None and pending[0].reply_id in self.by_id:
            next_reply = self.by_id[pending[0].reply_id]
            self._mailbox.tell(Envelope(StartReply(next_reply.parameters, next_reply.reply_id), next_reply.caller))

    def retry_requests(self, state: State) -> tuple[ReplyRequested, ...]:
        """Requests for what runs and waits here, to be recorded once these attempts are closed as interrupted."""
        session, most, owner_node = state.session, self._ports.rules.retry_interrupted, self._ports.rules.owner_node
        here = ([session.open_reply] if session.open_reply else []) + [*session.pending]
        return tuple(
            ReplyRequested(
                one.reply_id, one.message_id, self.by_id[one.reply_id].parameters, one.attempt + 1, node=owner_node
            )
            for one in here
            if one.attempt <= most and one.reply_id in self.by_id
        )

    async def reconcile(self, state: State, ended: Mapping[str, RecordedEvent]) -> None:
        """Let go of what other nodes have ended (`ended`, by reply), erased or taken over, stopping the model first."""
        written = state.session.open_reply
        for reply_id, reply in list(self.by_id.items()):
            running = self.running if self.running is not None and self.running.reply is reply else None
            if running is None:
                is_ours = any(waiting.reply_id == reply_id for waiting in state.session.pending)
            else:
                is_ours = written is not None and (written.reply_id, written.node) == (reply_id, self._ports.rules.node)
            if is_ours:
                continue
            if running is not None:
                await running.stop()
            recorded = ended.get(reply_id)
            if recorded is not None and isinstance(recorded.event, ReplyEnded):
                self._close_reply(recorded.event, recorded, state)
            else:
                self._drop_reply(reply, state)
        self.start_next(state)

    def _drop_reply(self, reply: Reply, state: State) -> None:
        """Another node writes the reply now, or its end is erased with the session."""
        del self.by_id[reply.reply_id]
        if self.running is not None and self.running.reply is reply:
            self.running = None
        written = state.session.open_reply
        if written is not None and written.reply_id == reply.reply_id:
            reply.stall(LogUnavailable("another node writes this reply now; follow the session for it"))
        else:
            reply.end(Outcome("cancelled", "", state.session.version, reply.started_at_us, cause="deleted"))

    def _start_reply(self, started: ReplyStarted, recorded: RecordedEvent, state: State) -> Reply | None:
        reply = self.by_id.get(started.reply_id)
        if reply is None:  # it was another node's by then, and has come back: who recovers the session closes it
            return None
        reply.start(recorded.version, recorded.recorded_at_us, started.model)
        self.running = ReplyTask(reply, started, self._ports, self._mailbox)
        try:
            self.running.start(model_request(state, started))
        except LlmOverloaded as error:
            failed = ReplyFailed(reply.reply_id, "", error.cause, str(error))
            self._mailbox.tell(Envelope(EndReply(failed), reply.caller))
        return reply

    def _close_reply(self, event: ReplyEnded, recorded: RecordedEvent, state: State) -> Reply | None:
        reply = self.by_id.pop(event.reply_id, None)
        running = self.running
        if reply is None or running is None or running.reply is not reply:
            self._ports.observe.reply_closed(self._ports.provider.name, event)
        if reply is None:  # a crash had left it open
            return None
        if running is not None and running.reply is reply:
            self.running = None
        reply.end(reply_outcome(event, recorded, reply))  # first: those who wait must hear it whatever else goes wrong
        if running is not None and running.reply is reply:
            self._ports.observe.reply_ended(running.started, event, running.timing, reply.caller.request_id)
        self.start_next(state)
        return reply

    async def abandon(self) -> None:
        """The actor has stopped under its replies: stop the model; recovery records their ends."""
        if self.running is not None:
            await self.running.stop()
        for reply in self.by_id.values():
            reply.stall(LogUnavailable("the session's actor has stopped; the reply's end is recorded when it is back"))

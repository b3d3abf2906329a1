"""The queued and running replies of one live session. Reacts to recorded events and never before."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from chatbot.llm.provider import Route
from chatbot.sessions.actor.mailbox import Envelope, Mailbox
from chatbot.sessions.actor.reply_task import ReplyTask
from chatbot.sessions.domain.commands import Caller, ReplyRequest, StartReply
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.model_request import model_request
from chatbot.sessions.domain.state import State, end_user_of
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Outcome, Reply, reply_outcome, requested_reply
from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    ReservedEvent,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent


class ReplyQueue:
    """Keeps the queued and running replies in step with the log. `by_id` has both, oldest first."""

    def __init__(self, session_id: str, ports: Ports, mailbox: Mailbox) -> None:
        self.by_id: dict[str, Reply] = {}
        self.task: ReplyTask | None = None  # of the running reply
        self.shutting_down = False  # then no reply starts
        self._session_id = session_id
        self._cluster = ports.cluster if ports.rules.is_shared else None
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
                stream = command.stream if isinstance(command, ReplyRequest) else True
                reply = self.enqueue(recorded, envelope.caller, stream=stream)
                self._hold_if_waiting(state)
                return reply
            case ReplyStarted():
                return self._start_reply(event, recorded, state, envelope.messages)
            case ReplyProgressed():
                if self.task is not None:
                    self.task.on_checkpoint_recorded(event)
                return None
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                return self._close_reply(event, recorded, state)
            case MessageWithdrawn():
                return self._withdraw_reply(event, recorded)
            case ToolCallsClosed():
                envelope.closed_calls = event
                return None
            case (
                SessionCreated()
                | MetadataChanged()
                | SessionAccessed()
                | SessionRead()
                | SessionViewed()
                | SessionExpired()
                | SessionDeleted()
                | BranchSelected()
                | HistoryAdopted()
                | MessageCopied()
                | MessageRedacted()
                | ContentErased()
                | ReservedEvent()
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
            if self._cluster is not None:
                self._cluster.begin_replies(self._session_id, is_waiting=False)
        return reply

    def start_next(self, state: State) -> None:
        """Have the first queued reply started, unless one runs."""
        pending = state.session.pending
        if pending and state.session.open_reply is None and self.task is None and pending[0].reply_id in self.by_id:
            next_reply = self.by_id[pending[0].reply_id]
            self._mailbox.tell(Envelope(StartReply(next_reply.parameters, next_reply.reply_id), next_reply.caller))
        else:
            self._hold_if_waiting(state)

    def _hold_if_waiting(self, state: State) -> None:
        """Of the end of another process's reply, for which one of this process waits, this process is to be told."""
        if self._cluster is None or self.task is not None or not self.by_id:
            return
        open_reply, pending = state.session.open_reply, state.session.pending
        if open_reply is None:
            is_waiting = bool(pending) and pending[0].reply_id not in self.by_id
        else:
            is_waiting = open_reply.node != self._ports.rules.node
        if is_waiting:
            self._cluster.begin_replies(self._session_id, is_waiting=True)

    def _on_removed(self) -> None:
        if self._cluster is not None and not self.by_id:
            self._cluster.end_replies(self._session_id)

    def retry_requests(self, state: State) -> tuple[ReplyRequested, ...]:
        """New requests for the running and queued replies, to be recorded once these are closed as interrupted. None
        for responses of /v1/responses: see plan_recovery.
        """
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
            if one.attempt <= attempts_max
            and one.reply_id in self.by_id
            and self.by_id[one.reply_id].parameters.response is None
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
        self._on_removed()
        if self.task is not None and self.task.reply is reply:
            self.task = None
        open_reply = state.session.open_reply
        if open_reply is not None and open_reply.reply_id == reply.reply_id:
            reply.stall(LogUnavailable("another node writes this reply now; follow the session for it"))
        else:
            reply.end(Outcome("cancelled", "", state.session.version, reply.started_at_us, cause="deleted"))

    def _start_reply(
        self,
        started: ReplyStarted,
        recorded: RecordedEvent,
        state: State,
        messages: Sequence[ContextMessage],
    ) -> Reply | None:
        reply = self.by_id.get(started.reply_id)
        if reply is None:  # another node had taken it over and it came back: recovery closes it
            return None
        reply.start(recorded.version, recorded.recorded_at_us, started.model)
        reply.route = Route(recorded.stream_id, reply.caller.owner)
        self.task = ReplyTask(reply, started, self._ports, self._mailbox)
        self.task.start(model_request(state, started, messages), end_user_of(state))
        return reply

    def _close_reply(self, event: ReplyEnded, recorded: RecordedEvent, state: State) -> Reply | None:
        reply = self.by_id.pop(event.reply_id, None)
        self._on_removed()
        if not state.session.is_busy:  # as long as it was, it could not expire
            self._ports.notify_deadline(state.session.expires_at_us)
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

    def _withdraw_reply(self, event: MessageWithdrawn, recorded: RecordedEvent) -> Reply | None:
        """The reply is not to be written any more: tell those who wait for it."""
        reply = self.by_id.pop(event.reply_id, None)
        self._on_removed()
        if reply is not None:
            reply.end(Outcome("cancelled", "", recorded.version, recorded.recorded_at_us, cause="withdrawn"))
        return reply

    async def abandon(self) -> None:
        """The actor has stopped with open replies: stop the model; recovery records their ends."""
        if self._cluster is not None:
            self._cluster.end_replies(self._session_id)  # before an await: the next actor may begin some
        if self.task is not None:
            await self.task.stop()
        for reply in self.by_id.values():
            reply.stall(LogUnavailable("the session's actor has stopped; the reply's end is recorded when it is back"))

"""Crash recovery of one session: close or requeue the replies that no process will finish."""

from collections.abc import Container

from chatbot.sessions.actor.mailbox import Envelope
from chatbot.sessions.domain.commands import Caller, EndReply
from chatbot.sessions.domain.state import State
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.recorded_text import recorded_reply
from events.catalogue import ReplyInterrupted, ReplyRequested, ReplyStarted
from events.record import RecordedEvent
from projections.folds.session import OpenReply, PendingReply


async def plan_recovery(ports: Ports, state: State | None, in_memory: Container[str]) -> list[Envelope]:
    """The commands that close orphaned replies; the running one keeps the text that was recorded of it.

    Orphaned: neither `in_memory`, in the session's actor, nor owned by another node that is alive. With
    `sessions.interrupted_retries_max` the running one is requested again, and queued ones stay queued. Not a response
    of /v1/responses: its readers resume by numbers of events, which another text would contradict.
    """
    if state is None:
        return []
    planned: list[Envelope] = []
    session_id, open_reply = state.session.session_id, state.session.open_reply
    attempts_max = ports.rules.retry_interrupted
    if open_reply is not None and await _is_orphaned(ports, open_reply, in_memory):
        recorded = await recorded_reply(ports.log, session_id, open_reply, page=ports.limits.read_page_max)
        started = await _opening_event(ports, session_id, open_reply)
        again: ReplyRequested | None = None
        is_started = isinstance(started.event, ReplyStarted) and started.event.parameters.response is None
        if open_reply.attempt <= attempts_max and is_started and isinstance(started.event, ReplyStarted):
            parameters, attempt = started.event.parameters, open_reply.attempt + 1
            node = ports.rules.owner_node
            again = ReplyRequested(open_reply.reply_id, open_reply.message_id, parameters, attempt, node=node)
        content, parts = recorded.content, recorded.parts
        interrupted = ReplyInterrupted(open_reply.reply_id, content, "crash", parts=parts)
        planned.append(_recovery_envelope(EndReply(interrupted, again, open_reply.version), started))
    for pending in state.session.pending if not attempts_max else ():
        if await _is_orphaned(ports, pending, in_memory):
            request = await _opening_event(ports, session_id, pending)
            planned.append(_recovery_envelope(EndReply(ReplyInterrupted(pending.reply_id, "", "crash")), request))
    return planned


async def orphaned_requests(ports: Ports, state: State, in_memory: Container[str]) -> list[RecordedEvent]:
    """The events that requested the queued replies that this node should take over, in their order."""
    requests: list[RecordedEvent] = []
    for pending in state.session.pending:
        is_ours = ports.rules.is_shared and pending.node == ports.rules.node and pending.reply_id not in in_memory
        if is_ours or await _is_orphaned(ports, pending, in_memory):
            requests.append(await _opening_event(ports, state.session.session_id, pending))
    return requests


def caller_of(recorded: RecordedEvent) -> Caller:
    """The caller that caused `recorded`, for what the service does about it later on its own."""
    return Caller(owner=recorded.metadata.actor, request_id=recorded.metadata.request_id, is_service=True)


async def _is_orphaned(ports: Ports, reply: OpenReply | PendingReply, in_memory: Container[str]) -> bool:
    return reply.reply_id not in in_memory and await ports.cluster.is_gone(reply.node)


async def _opening_event(ports: Ports, session_id: str, reply: OpenReply | PendingReply) -> RecordedEvent:
    """The event that started the reply, or requested it while it is queued."""
    (recorded,) = await ports.log.read(session_id, after=reply.version - 1, limit=1)
    return recorded


def _recovery_envelope(command: EndReply, cause: RecordedEvent) -> Envelope:
    return Envelope(command, caller_of(cause), cause="recovery")

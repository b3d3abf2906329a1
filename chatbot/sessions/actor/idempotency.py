"""Idempotency: a repeated request is found by its Idempotency-Key among recorded events and gets its first answer.

The key and a fingerprint of the request are in the event that it caused, recorded in one transaction with its effect.
So this holds across crashes and restarts (after the IETF draft "The Idempotency-Key HTTP Header Field").
"""

from collections.abc import Mapping

from msgspec.structs import replace

from chatbot.sessions.actor.mailbox import CommandResult, Envelope
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, Fork, IdempotencyKey
from chatbot.sessions.domain.decide import authorise
from chatbot.sessions.domain.state import Rules, State, fold_history
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply, reply_outcome, requested_reply
from events.catalogue import (
    BranchSelected,
    Event,
    HistoryAdopted,
    MessagePosted,
    Parameters,
    ReplyCancelled,
    ReplyEnded,
    ReplyRequested,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    ToolCallsClosed,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent
from events.schema.parts import is_redacted

REPLAY_PAGE = 64  # events per read between a message and the end of its reply: most turns have fewer


def matches_request(event: Event | None, idempotency_key: IdempotencyKey) -> bool:
    """Whether the request with this key caused `event`. Raises KeyReused if another request with its key did,
    KeyConsumed if its message was redacted.
    """
    if getattr(event, "idempotency_key", None) != idempotency_key.key:
        return False
    if isinstance(event, MessagePosted) and is_redacted(event.parts):
        raise rejections.KeyConsumed("the message that this Idempotency-Key made was redacted: use a new key")
    if getattr(event, "fingerprint", None) != idempotency_key.fingerprint:
        raise rejections.KeyReused("this Idempotency-Key came with another request before")
    return True


async def find_earlier_result(
    ports: Ports,
    state: State | None,
    rules: Rules,
    idempotency_key: IdempotencyKey,
    envelope: Envelope,
    open_replies: Mapping[str, Reply],
) -> CommandResult | None:
    """The first answer to the same request; None when it is new, or must be refused. `open_replies`: this process's, by
    id.

    Raises KeyReused.
    """
    command, caller = envelope.command, envelope.caller
    if state is None or authorise(state, command, ports.clock(), rules, caller, state.session.session_id) is not None:
        return None
    if isinstance(command, Fork):  # its key is in the stream that it created
        return await fork_as_created(ports, command)
    recorded = await find_request_event(ports, state, idempotency_key)
    if recorded is None:
        return None
    event = recorded.event
    match event:
        case SessionCreated():
            return CommandResult(await session_as_created(ports, state.session.session_id, idempotency_key))
        case BranchSelected(message_id):
            then = replace(state.session, head=message_id, version=recorded.version)
            return CommandResult(replace(state, session=then))
        case SessionAccessed():
            return CommandResult(state)
        case ToolCallsClosed():
            return CommandResult(state, closed_calls=event)
        case MessagePosted(reply_id=None):  # the last of those that a request added
            then = replace(state.session, head=event.message_id)
            return CommandResult(replace(state, session=then), request_version=recorded.version)
        case _:
            reply_id = event.reply_id if isinstance(event, MessagePosted | ReplyRequested | ReplyCancelled) else None
            reply = open_replies.get(reply_id) if reply_id is not None else None
            reply = reply or await recorded_reply(ports, state, recorded, envelope.caller)
            return CommandResult(state, reply, recorded.version)


async def find_request_event(ports: Ports, state: State, idempotency_key: IdempotencyKey) -> RecordedEvent | None:
    """The event that the first request with this key caused. Raises KeyReused."""
    await ports.runner.wait_for(state.session.position)
    positions = await ports.queries.positions_of_key(state.session.no, idempotency_key.key)
    if not positions:
        return None
    found = await ports.log.read_at(positions)
    return next((recorded for recorded in found.values() if matches_request(recorded.event, idempotency_key)), None)


async def fork_as_created(ports: Ports, command: Fork) -> CommandResult | None:
    """The fork that the first request with this key created; None when it is new. Raises KeyReused, KeyConsumed."""
    if command.idempotency_key is None or not await ports.log.read(command.session_id, limit=1):
        return None
    return CommandResult(await session_as_created(ports, command.session_id, command.idempotency_key))


async def session_as_created(ports: Ports, session_id: str, idempotency_key: IdempotencyKey | None) -> State:
    """A session as it was when the request with this key created it. Raises KeyReused, KeyConsumed."""
    first, *more = await ports.log.read(session_id, limit=2)
    if not isinstance(first.event, SessionCreated):
        raise rejections.KeyConsumed("the session that this Idempotency-Key made is gone: use a new key")
    if idempotency_key is None or not matches_request(first.event, idempotency_key):
        raise rejections.KeyReused("there is a session of this id already")
    return fold_history([first, *(one for one in more if isinstance(one.event, HistoryAdopted))])


async def recorded_reply(ports: Ports, state: State, request: RecordedEvent, caller: Caller) -> Reply:
    """The reply that `request` asked for or ended, replayed from the log: this process does not have it in memory."""
    event = request.event
    if isinstance(event, ReplyEnded):
        ended = Reply("", event.reply_id, Parameters(), caller)
        ended.end(reply_outcome(event, request, ended))
        return ended
    reply = requested_reply(request, caller)
    row = await ports.queries.message(state.session.no, reply.reply_id) if reply else None
    if reply is not None and row is None:
        raise rejections.KeyConsumed("the message that this Idempotency-Key made was removed: use a new key")
    if reply is not None and not (row is not None and row.position):
        mirrored = await ports.cluster.await_reply(state.session.session_id, request, caller)
        if mirrored is not None:
            return mirrored
        await ports.runner.wait_for((await ports.log.latest()).position)  # it may have ended meanwhile
        row = await ports.queries.message(state.session.no, reply.reply_id)
    if reply is None or row is None or not row.position:
        raise rejections.Draining("the reply was interrupted and is to be written again; try again in a moment")
    after = request.version
    while reply.outcome is None:
        page = await ports.log.read(state.session.session_id, after=after, limit=REPLAY_PAGE)
        if not page:
            raise LogUnavailable("the reply's end is not on record any more")
        for one in page:
            _apply_recorded(reply, one, row.version)
        after = page[-1].version
    return reply


def _apply_recorded(reply: Reply, recorded: RecordedEvent, ended_at: int) -> None:
    """Replay one event on `reply`. Earlier attempts may have ends, too; the last one is at version `ended_at`."""
    event = recorded.event
    if isinstance(event, ReplyStarted) and event.reply_id == reply.reply_id:
        reply.start(recorded.version, recorded.recorded_at_us, event.model)
    elif isinstance(event, ReplyEnded) and recorded.version == ended_at:
        reply.end(reply_outcome(event, recorded, reply))

"""The same request again: found by its Idempotency-Key among recorded events, and answered as it was the first time.

The key and the fingerprint are in the event that the request caused, recorded in one transaction with its effect, so
that this holds across crashes and restarts (after the IETF draft "The Idempotency-Key HTTP Header Field").
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions.actor.mailbox import Envelope
from chatbot.sessions.actor.reply_queue import requested_reply
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, Command, Fork, IdempotencyKey
from chatbot.sessions.domain.state import State, fold_history
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply, reply_outcome
from events.catalogue import (
    BranchSelected,
    Event,
    HistoryAdopted,
    Parameters,
    ReplyEnded,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent

REPLAY_PAGE = 64  # events read at once between a message and the end of its reply: most turns have fewer


def idempotency_key_of(command: Command) -> IdempotencyKey | None:
    idempotency_key: IdempotencyKey | None = getattr(command, "idempotency_key", None)
    return idempotency_key


def matches_request(event: Event | None, idempotency_key: IdempotencyKey) -> bool:
    """Whether `once` is the request that caused `event`. Raises KeyReused when another one came with its key."""
    if getattr(event, "idempotency_key", None) != idempotency_key.key:
        return False
    if getattr(event, "fingerprint", None) != idempotency_key.fingerprint:
        raise rejections.KeyReused("this Idempotency-Key came with another request before")
    return True


class CommandResult(Struct, frozen=True):
    """The session after a command; `reply` is the one that a message or a request gets, or that was cancelled.

    `asked_version`: for a repeated request, the version of the event that it caused when it came first; else 0.
    """

    state: State
    reply: Reply | None = None
    asked_version: int = 0


async def find_earlier_result(
    ports: Ports, state: State, envelope: Envelope, live: Mapping[str, Reply]
) -> CommandResult | None:
    """What the same request was answered when it came first; None when it is new. `live`: replies not ended yet.

    Raises KeyReused.
    """
    idempotency_key = idempotency_key_of(envelope.command)
    recorded = await find_request_event(ports, state, idempotency_key) if idempotency_key else None
    if idempotency_key is None or recorded is None:
        return None
    match recorded.event:
        case SessionCreated():
            return CommandResult(await created(ports, state.session.session_id, idempotency_key))
        case BranchSelected(message_id):
            then = replace(state.session, head=message_id, version=recorded.version)
            return CommandResult(replace(state, session=then))
        case SessionAccessed():
            return CommandResult(state)
    reply = live.get(getattr(recorded.event, "reply_id", ""))
    return CommandResult(
        state, reply or await recorded_reply(ports, state, recorded, envelope.caller), recorded.version
    )


async def find_request_event(ports: Ports, state: State, idempotency_key: IdempotencyKey) -> RecordedEvent | None:
    """The event that this request caused when it came first. Raises KeyReused."""
    await ports.runner.wait_for(state.session.position)
    positions = await ports.queries.positions_of_key(state.session.no, idempotency_key.key)
    if not positions:
        return None
    found = await ports.log.read_at(positions)
    return next((recorded for recorded in found.values() if matches_request(recorded.event, idempotency_key)), None)


async def fork_as_created(ports: Ports, command: Fork) -> CommandResult | None:
    """The fork that this request made when it came first; None when it is new. Raises KeyReused, KeySpent."""
    if command.idempotency_key is None or not await ports.log.read(command.session_id, limit=1):
        return None
    return CommandResult(await created(ports, command.session_id, command.idempotency_key))


async def created(ports: Ports, session_id: str, idempotency_key: IdempotencyKey | None) -> State:
    """A session as it was when the request `once` made it. Raises KeyReused, KeySpent."""
    first, *more = await ports.log.read(session_id, limit=2)
    if not isinstance(first.event, SessionCreated):
        raise rejections.KeyConsumed("the session that this Idempotency-Key made is gone: use a new key")
    if idempotency_key is None or not matches_request(first.event, idempotency_key):
        raise rejections.KeyReused("there is a session of this id already")
    return fold_history([first, *(one for one in more if isinstance(one.event, HistoryAdopted))])


async def recorded_reply(ports: Ports, state: State, recorded: RecordedEvent, caller: Caller) -> Reply:
    """The reply that `recorded` asked for or ended, as its readers were told. It is not in this process's hands."""
    event = recorded.event
    if isinstance(event, ReplyEnded):
        reply = Reply("", event.reply_id, Parameters(), caller)
        reply.end(reply_outcome(event, recorded, reply))
        return reply
    asked = requested_reply(recorded, caller)
    row = await ports.queries.message(state.session.no, asked.reply_id) if asked else None
    if asked is not None and not (row is not None and row.position):
        mirrored = await ports.nodes.await_reply(state.session.session_id, recorded, caller)
        if mirrored is not None:
            return mirrored
        await ports.runner.wait_for((await ports.log.latest()).position)  # it may have ended meanwhile
        row = await ports.queries.message(state.session.no, asked.reply_id)
    if asked is None or row is None or not row.position:
        raise rejections.Draining("the reply was interrupted and is to be written anew; try again in a moment")
    after = recorded.version
    while asked.outcome is None:
        page = await ports.log.read(state.session.session_id, after=after, limit=REPLAY_PAGE)
        for one in page:
            _apply_recorded(asked, one, row.version)
        if not page:
            raise LogUnavailable("the reply's end is not on record any more")
        after = page[-1].version
    return asked


def _apply_recorded(reply: Reply, recorded: RecordedEvent, ended_at: int) -> None:
    """Let `reply` hear what happened to it; only its last attempt ends at version `ended_at`."""
    event = recorded.event
    if isinstance(event, ReplyStarted) and event.reply_id == reply.reply_id:
        reply.start(recorded.version, recorded.recorded_at_us, event.model)
    elif isinstance(event, ReplyEnded) and recorded.version == ended_at:
        reply.end(reply_outcome(event, recorded, reply))

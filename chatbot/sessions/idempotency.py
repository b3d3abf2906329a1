"""The same request again: found by its Idempotency-Key among recorded events, and answered as it was the first time.

The key and the fingerprint are in the event that the request caused, recorded in one transaction with its effect, so
that this holds across crashes and restarts (after the IETF draft "The Idempotency-Key HTTP Header Field").
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions import errors
from chatbot.sessions.commands import Asker, Command, Fork, Once
from chatbot.sessions.mailbox import Envelope
from chatbot.sessions.outcome import outcome_of
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies import reply_asked_by
from chatbot.sessions.reply import Reply
from chatbot.sessions.state import State, folded
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


def once_of(command: Command) -> Once | None:
    once: Once | None = getattr(command, "once", None)
    return once


def check(event: Event | None, once: Once) -> bool:
    """Whether `once` is the request that caused `event`. Raises KeyReused when another one came with its key."""
    if getattr(event, "idempotency_key", None) != once.key:
        return False
    if getattr(event, "fingerprint", None) != once.fingerprint:
        raise errors.KeyReused("this Idempotency-Key came with another request before")
    return True


class Answer(Struct, frozen=True):
    """The session after a command; `reply` is the one that a message or a request gets, or that was cancelled.

    `asked_version`: for a repeated request, the version of the event that it caused when it came first; else 0.
    """

    state: State
    reply: Reply | None = None
    asked_version: int = 0


async def answer_again(ports: Ports, state: State, envelope: Envelope, live: Mapping[str, Reply]) -> Answer | None:
    """What the same request was answered when it came first; None when it is new. `live`: replies not ended yet.

    Raises KeyReused.
    """
    once = once_of(envelope.command)
    recorded = await find(ports, state, once) if once else None
    if once is None or recorded is None:
        return None
    match recorded.event:
        case SessionCreated():
            return Answer(await created(ports, state.session.session_id, once))
        case BranchSelected(message_id):
            then = replace(state.session, head=message_id, version=recorded.version)
            return Answer(replace(state, session=then))
        case SessionAccessed():
            return Answer(state)
    reply = live.get(getattr(recorded.event, "reply_id", ""))
    return Answer(state, reply or await told(ports, state, recorded, envelope.asker), recorded.version)


async def find(ports: Ports, state: State, once: Once) -> RecordedEvent | None:
    """The event that this request caused when it came first. Raises KeyReused."""
    await ports.runner.wait_for(state.session.position)
    positions = await ports.queries.keyed(state.session.no, once.key)
    if not positions:
        return None
    found = await ports.log.read_at(positions)
    return next((recorded for recorded in found.values() if check(recorded.event, once)), None)


async def forked(ports: Ports, command: Fork) -> Answer | None:
    """The fork that this request made when it came first; None when it is new. Raises KeyReused, KeySpent."""
    if command.once is None or not await ports.log.read(command.session_id, limit=1):
        return None
    return Answer(await created(ports, command.session_id, command.once))


async def created(ports: Ports, session_id: str, once: Once | None) -> State:
    """A session as it was when the request `once` made it. Raises KeyReused, KeySpent."""
    first, *more = await ports.log.read(session_id, limit=2)
    if not isinstance(first.event, SessionCreated):
        raise errors.KeySpent("the session that this Idempotency-Key made is gone: use a new key")
    if once is None or not check(first.event, once):
        raise errors.KeyReused("there is a session of this id already")
    return folded([first, *(one for one in more if isinstance(one.event, HistoryAdopted))])


async def told(ports: Ports, state: State, recorded: RecordedEvent, asker: Asker) -> Reply:
    """The reply that `recorded` asked for or ended, as its readers were told. It is not in this process's hands."""
    event = recorded.event
    if isinstance(event, ReplyEnded):
        reply = Reply("", event.reply_id, Parameters(), asker)
        reply.end(outcome_of(event, recorded, reply))
        return reply
    asked = reply_asked_by(recorded, asker)
    row = await ports.queries.message(state.session.no, asked.reply_id) if asked else None
    if asked is not None and not (row is not None and row.position):
        mirrored = await ports.nodes.await_reply(state.session.session_id, recorded, asker)
        if mirrored is not None:
            return mirrored
        await ports.runner.wait_for((await ports.log.latest()).position)  # it may have ended meanwhile
        row = await ports.queries.message(state.session.no, asked.reply_id)
    if asked is None or row is None or not row.position:
        raise errors.Draining("the reply was interrupted and is to be written anew; try again in a moment")
    after = recorded.version
    while asked.outcome is None:
        page = await ports.log.read(state.session.session_id, after=after, limit=REPLAY_PAGE)
        for one in page:
            _replay(asked, one, row.version)
        if not page:
            raise LogUnavailable("the reply's end is not on record any more")
        after = page[-1].version
    return asked


def _replay(reply: Reply, recorded: RecordedEvent, ended_at: int) -> None:
    """Let `reply` hear what happened to it; only its last attempt ends at version `ended_at`."""
    event = recorded.event
    if isinstance(event, ReplyStarted) and event.reply_id == reply.reply_id:
        reply.start(recorded.version, recorded.recorded_at_us, event.model)
    elif isinstance(event, ReplyEnded) and recorded.version == ended_at:
        reply.end(outcome_of(event, recorded, reply))

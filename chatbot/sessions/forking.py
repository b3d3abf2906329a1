"""Forks: a session that begins with another's history. It copies no text; it points at the events that hold them.

When the session that it came from is deleted, the texts that forks still read there are copied into them first.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from chatbot.sessions import errors, idempotency
from chatbot.sessions.commands import SERVICE, Asker, CopyTexts, Fork
from chatbot.sessions.decide import keyed
from chatbot.sessions.ports import Ports
from chatbot.sessions.state import State, folded
from events.catalogue import (
    AdoptedMessage,
    Event,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    Origin,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    SessionCreated,
)
from events.errors import VersionConflict
from events.record import Metadata
from projections.borrowed import Borrowed, Borrower
from projections.message import Message
from projections.session import Session

COPY_AT_ONCE = 64  # texts copied in one round: what an erasure holds in memory
LENT_PAGE = 500  # messages looked at for readers in one query: half a millisecond
FORKS_PAGE = 500  # forks that read one text, looked up in one query
Ask = Callable[..., Awaitable[Any]]


async def history(ports: Ports, state: State, command: Fork) -> tuple[AdoptedMessage, ...]:
    """The messages that the fork begins with, root first.

    Raises UnknownMessage, SessionBusy when one that is asked for is still being written, TooLarge.
    """
    session = state.session
    leaf = command.message_id or session.head
    if leaf is None:
        return ()
    await ports.runner.wait_for(session.position)
    rows = await ports.queries.path(session.no, leaf, limit=command.messages_max + 1)
    if not rows:
        raise errors.UnknownMessage(leaf)
    if len(rows) > command.messages_max:
        raise errors.TooLarge(f"the history has more than {command.messages_max} messages")
    unfinished = next((index for index, row in enumerate(rows) if not row.position), None)
    if unfinished is not None and command.message_id is not None:
        raise errors.SessionBusy("a reply in that history is still being written")
    if unfinished is not None:
        rows = rows[: unfinished - 1]  # nor the question that it answers
    return tuple(_adopted(row) for row in rows)


def fork_events(state: State, command: Fork, messages: Sequence[AdoptedMessage], asker: Asker) -> tuple[Event, ...]:
    """What the new session begins with. Pure."""
    session = state.session
    created = SessionCreated(
        owner=asker.owner,
        metadata=state.metadata,
        timeout_s=session.timeout_s,
        title=state.title,
        system_prompt=state.settings.system_prompt,
        parameters=state.settings.parameters,
        forked_from=Origin(session.session_id, session.version, messages[-1].message_id if messages else None),
    )
    created = keyed(created, command.once)
    return (created, HistoryAdopted(tuple(messages))) if messages else (created,)


async def fork(ports: Ports, state: State, command: Fork, asker: Asker, metadata: Metadata) -> State:
    """The new session. Raises what `history` does, KeyReused, SessionDeleted."""
    events = fork_events(state, command, await history(ports, state, command), asker)
    try:
        recorded = await ports.log.append(command.session_id, 0, events, metadata)
    except VersionConflict:  # its id was made from the request's Idempotency-Key
        return await idempotency.created(ports, command.session_id, command.once)
    return folded(recorded)


async def hand_over(ports: Ports, origin: Session, ask: Ask, texts_max: int | None = None) -> bool:
    """Have every fork copy what it still reads from `origin`, which is about to be erased; whether all of it is done.

    With `texts_max` not all of it is, where more texts than that are read. No fork of `origin` can be made meanwhile:
    they are made in the turn of its actor, in which this runs, or the session is closed to all but its erasure.

    Walks the session's texts, and for each that is read, all that its readers read: linear in the texts that are
    copied, in steps of a page each.
    """
    left, after = texts_max, ""
    await _see_all(ports)
    while (page := await ports.queries.texts.lent(origin.no, after=after, limit=LENT_PAGE)) is not None:
        after = page.last
        for position in page.positions:
            copied = await _copy_from(ports, origin, position, ask, left)
            if copied is None:
                return False
            if copied:
                left = None if left is None else left - copied
                await _see_all(ports)  # what is copied is no longer read here
    return True


async def _see_all(ports: Ports) -> None:
    await ports.runner.wait_for((await ports.log.latest()).position)


async def _copy_from(ports: Ports, origin: Session, position: int, ask: Ask, left: int | None) -> int | None:
    """Have all that read the text at `position` copy what they read of `origin`. Returns how many texts that were; None
    where they are more than `left`.
    """
    copied, after = 0, 0
    while forks := await ports.queries.texts.borrowers(position, after=after, limit=FORKS_PAGE):
        after = forks[-1].no
        for fork in forks:
            async for copies in _copies(ports, origin, fork):
                if left is not None and copied + len(copies) > left:
                    return None
                copied += len(copies)
                with suppress(errors.SessionDeleted):  # meanwhile: then it reads nothing any more
                    await ask(fork.session_id, CopyTexts(copies), SERVICE, cause="origin_deleted")
    return copied


async def _copies(ports: Ports, origin: Session, fork: Borrower) -> AsyncIterator[tuple[MessageCopied, ...]]:
    """What `fork` reads of `origin`, page by page. It may read texts of other sessions, too."""
    after = origin.no
    while borrowed := await ports.queries.texts.borrowed_by(fork.no, after=after, limit=COPY_AT_ONCE):
        after = borrowed[-1].position
        texts = await ports.log.read_at([one.position for one in borrowed])
        own = [(one, texts[one.position]) for one in borrowed if one.position in texts]
        copies = tuple(
            _copy(one, recorded.event)
            for one, recorded in own
            if recorded.stream_id == origin.session_id and recorded.event is not None
        )
        if copies:
            yield copies


def _adopted(row: Message) -> AdoptedMessage:
    return AdoptedMessage(
        message_id=row.message_id,
        parent_id=row.parent_id,
        role=row.role,
        status=row.status,
        position=row.position,
        created_at_us=row.created_at_us,
        model=row.model,
    )


def _copy(one: Borrowed, event: Event | None) -> MessageCopied:
    message_id = one.message_id
    match event:
        case MessagePosted():
            return MessageCopied(message_id, event.role, event.content)
        case MessageCopied():
            return event
        case ReplyCompleted():
            said = (message_id, "assistant", event.content)
            return MessageCopied(*said, event.finish_reason, event.model, event.usage, event.finish_detail)
        case ReplyFailed():
            said = (message_id, "assistant", event.content)
            return MessageCopied(*said, None, one.model, event.usage, event.finish_detail)
    if isinstance(event, ReplyEnded):
        return MessageCopied(message_id, "assistant", event.content, model=one.model)
    raise LookupError(f"the text of message {message_id} is not where its row says")

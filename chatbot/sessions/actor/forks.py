"""Forks: a session that begins with the history of another, its origin. It refers to the origin's events and copies no
text. Before the origin is erased, or loses a message that is taken back, the texts that forks still read are copied
into them.
"""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import assert_never

from msgspec.structs import replace

from chatbot.sessions.actor.idempotency import session_as_created
from chatbot.sessions.actor.mailbox import CommandResult, Envelope
from chatbot.sessions.actor.stream_writer import SessionStream
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, Caller, CopyTexts, Fork, WithdrawMessage
from chatbot.sessions.domain.message_events import as_message_event
from chatbot.sessions.domain.model_request import changed_media
from chatbot.sessions.domain.state import State, fold_history, with_idempotency_key
from chatbot.sessions.ports import AskSession, Ports
from events.catalogue import (
    AdoptedMessage,
    Event,
    HistoryAdopted,
    LoggedEvent,
    MessageCopied,
    MessagePosted,
    Origin,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    SessionCreated,
)
from events.errors import VersionConflict
from events.record import Metadata
from events.schema.parts import Text, media_of, stored_parts, text_of
from projections.folds.message import MessageRow
from projections.folds.session import Session
from projections.fork_texts import ForkReference, ReferencingFork

COPY_BATCH_TEXTS = 64  # texts copied by one command: bounds the memory of an erasure
LENT_PAGE = 500  # messages checked for reading forks in one query: half a millisecond
FORKS_PAGE = 500  # forks that read one text, per query


async def adopted_history(ports: Ports, state: State, command: Fork) -> tuple[AdoptedMessage, ...]:
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
        raise rejections.UnknownMessage(leaf)
    if len(rows) > command.messages_max:
        raise rejections.TooLarge(f"the history has more than {command.messages_max} messages")
    unfinished = next((index for index, row in enumerate(rows) if not row.position), None)
    if unfinished is not None and command.message_id is not None:
        raise rejections.SessionBusy("a reply in that history is still being written")
    if unfinished is not None:
        rows = rows[: unfinished - 1]  # without the question that it answers, too
    return tuple(_adopted(row) for row in rows)


def fork_events(state: State, command: Fork, messages: Sequence[AdoptedMessage], caller: Caller) -> tuple[Event, ...]:
    """The first events of the new session. Pure."""
    session = state.session
    created = SessionCreated(
        owner=caller.owner,
        metadata=state.metadata,
        timeout_s=session.timeout_s,
        title=state.title,
        system_prompt=state.settings.system_prompt,
        parameters=state.settings.parameters,
        forked_from=Origin(session.session_id, session.version, messages[-1].message_id if messages else None),
    )
    created = with_idempotency_key(created, command.idempotency_key)
    return (created, HistoryAdopted(tuple(messages))) if messages else (created,)


async def fork(ports: Ports, state: State, command: Fork, caller: Caller, metadata: Metadata) -> State:
    """The new session. Raises what `history` does, KeyReused, SessionDeleted."""
    events = fork_events(state, command, await adopted_history(ports, state, command), caller)
    try:
        recorded = await ports.log.append(command.session_id, 0, events, metadata)
    except VersionConflict:  # the id is computed from the Idempotency-Key: the same request, or another with its key
        return await session_as_created(ports, command.session_id, command.idempotency_key)
    return fold_history(recorded)


async def copy_texts_to_forks(ports: Ports, origin: Session, ask: AskSession, texts_max: int | None = None) -> bool:
    """Have every fork copy the texts that it still reads from `origin`, which is about to be erased.

    Returns whether all are copied: False if they are more than `texts_max`. No fork of `origin` can be created
    meanwhile: this runs in the origin's actor, which creates them, or the session is closed to all but its erasure.

    For each text of the session that is read, copies all that its readers read: linear in the copied texts, page by
    page.
    """
    left, after = texts_max, ""
    await _await_projections(ports)
    while (page := await ports.queries.texts_read_by_forks(origin.no, after=after, limit=LENT_PAGE)) is not None:
        after = page.last
        for position in page.positions:
            copied = await _copy_from(ports, origin, position, ask, left)
            if copied is None:
                return False
            if copied:
                left = None if left is None else left - copied
                await _await_projections(ports)  # so that the next query no longer finds the copied texts
    return True


async def withdraw_message(
    ports: Ports, stream: SessionStream, envelope: Envelope, command: WithdrawMessage, ask: AskSession
) -> CommandResult:
    """Forks that read the text of the message copy it first: once it is out of the tree, the erasure of its session
    would not find them.
    """
    await stream.authorise(envelope)
    session = stream.existing_state.session
    if any(one.message_id == command.message_id for one in session.pending):
        await _await_projections(ports)
        message = await ports.queries.message(session.no, command.message_id)
        if message is not None and message.position > session.no:
            await _copy_one(ports, session, message.position, ask)
    return await stream.record(envelope)


async def _await_projections(ports: Ports) -> None:
    await ports.runner.wait_for((await ports.log.latest()).position)


async def _copy_from(ports: Ports, origin: Session, position: int, ask: AskSession, left: int | None) -> int | None:
    """Have all forks that read the text at `position` copy what they read of `origin`. Returns how many texts; None if
    they are more than `left`.
    """
    copied = 0
    async for fork in _forks_reading(ports, position):
        async for copies in _read_copies(ports, origin, fork):
            if left is not None and copied + len(copies) > left:
                return None
            copied += len(copies)
            await _send_copies(ask, fork, copies, "origin_deleted")
    return copied


async def _copy_one(ports: Ports, origin: Session, position: int, ask: AskSession) -> None:
    """Have all forks that read the text at `position`, which is `origin`'s, copy it."""
    async for fork in _forks_reading(ports, position):
        borrowed = await ports.queries.texts_read_by(fork.no, after=position - 1, limit=1)
        await _send_copies(ask, fork, await _make_copies(ports, origin, borrowed), "message_withdrawn")


async def _forks_reading(ports: Ports, position: int) -> AsyncIterator[ReferencingFork]:
    after = 0
    while forks := await ports.queries.forks_reading(position, after=after, limit=FORKS_PAGE):
        after = forks[-1].no
        for fork in forks:
            yield fork


async def _send_copies(ask: AskSession, fork: ReferencingFork, copies: tuple[MessageCopied, ...], cause: str) -> None:
    with suppress(rejections.SessionDeleted):  # a deleted fork reads nothing any more
        await ask(fork.session_id, CopyTexts(copies), SERVICE, cause=cause)


async def _read_copies(
    ports: Ports, origin: Session, fork: ReferencingFork
) -> AsyncIterator[tuple[MessageCopied, ...]]:
    """Copies of what `fork` reads of `origin`, page by page. It may read texts of other sessions, too."""
    after = origin.no
    while borrowed := await ports.queries.texts_read_by(fork.no, after=after, limit=COPY_BATCH_TEXTS):
        after = borrowed[-1].position
        if copies := await _make_copies(ports, origin, borrowed):
            yield copies


async def _make_copies(ports: Ports, origin: Session, borrowed: Sequence[ForkReference]) -> tuple[MessageCopied, ...]:
    """Copies of those texts that are `origin`'s."""
    texts = await ports.log.read_at([one.position for one in borrowed])
    own = [(one, texts[one.position]) for one in borrowed if one.position in texts]
    copies = tuple(
        _copy(one, recorded.event)
        for one, recorded in own
        if recorded.stream_id == origin.session_id and recorded.event is not None
    )
    return await _without_lost_files(ports, copies) if copies else ()


async def _without_lost_files(ports: Ports, copies: tuple[MessageCopied, ...]) -> tuple[MessageCopied, ...]:
    """`copies` with a text in place of each file that the log has lost: a copy may not refer to it, and without its
    copies the origin could not be erased.
    """
    wanted = {media.sha256 for copied in copies if copied.parts for media in media_of(copied.parts)}
    kept = await ports.log.media.stat(sorted(wanted)) if wanted else {}
    if wanted <= kept.keys():
        return copies
    return tuple(_with_files(copied, kept.keys()) for copied in copies)


def _with_files(copied: MessageCopied, kept: AbstractSet[str]) -> MessageCopied:
    parts = changed_media(copied.parts, lambda one: one if one.sha256 in kept else Text(f"[lost file {one.sha256}]"))
    return copied if parts == copied.parts else replace(copied, content=text_of(parts), parts=stored_parts(parts))


def _adopted(row: MessageRow) -> AdoptedMessage:
    return AdoptedMessage(
        message_id=row.message_id,
        parent_id=row.parent_id,
        role=row.role,
        status=row.status,
        position=row.position,
        created_at_us=row.created_at_us,
        model=row.model,
        calls=row.calls,
    )


def _copy(reference: ForkReference, recorded: LoggedEvent | None) -> MessageCopied:
    """The text of the event that `reference` names, for the fork. Raises LookupError if that event has no text."""
    message_id, event = reference.message_id, as_message_event(recorded)
    match event:
        case MessagePosted():
            return MessageCopied(message_id, event.role, event.content, parts=event.parts, imported=event.imported)
        case MessageCopied():
            return event
        case ReplyCompleted():
            return MessageCopied(
                message_id,
                "assistant",
                event.content,
                event.finish_reason,
                event.model,
                event.usage,
                event.finish_detail,
                event.parts,
                duration_us=event.duration_us,
                time_to_first_token_us=event.time_to_first_token_us,
            )
        case ReplyFailed():
            ended = (None, reference.model, event.usage, event.finish_detail, event.parts)
            duration_us = event.duration_us or None
            return MessageCopied(message_id, "assistant", event.content, *ended, duration_us=duration_us)
        case ReplyCancelled() | ReplyInterrupted():
            cut = (None, reference.model, event.usage, "", event.parts)
            duration_us = event.duration_us or None
            return MessageCopied(message_id, "assistant", event.content, *cut, duration_us=duration_us)
        case None:
            raise LookupError(f"the text of message {message_id} is not where its row says")
        case _:
            assert_never(event)

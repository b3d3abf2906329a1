"""Reads: answered by projections and the log's texts, never by an actor, so that a busy session is as readable."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, RecordAccess
from chatbot.sessions.domain.decide import may_access
from chatbot.sessions.domain.state import settings_after
from chatbot.sessions.history_chunks import UNMEASURED_MAX, newest_within_bytes, split_into_chunks
from chatbot.sessions.ports import AskSession, Ports
from chatbot.sessions.replies.recorded_text import RunningText, recorded_text
from events.catalogue import (
    MessageCopied,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplySettings,
    SessionCreated,
    Usage,
)
from events.catalogue import MessagePosted as Posted
from events.errors import LogUnavailable
from events.record import RecordedEvent
from projections.folds.message import FINISH_REASONS, MessageRow
from projections.folds.session import Session
from projections.sqlite.queries import Snapshot


class SessionWithMetadata(Struct, frozen=True):
    """A session with the texts that describe it."""

    session: Session
    metadata: dict[str, Any]
    title: str | None
    settings: ReplySettings = ReplySettings()


class MessageWithText(Struct, frozen=True):
    """A message with its text."""

    row: MessageRow
    content: str
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    finish_detail: str = ""


class History(Struct, frozen=True):
    """Messages of a branch that has `total`, as of the session's version.

    `written` is what was recorded by then of the reply that runs, wherever it is. `said` are the first of the messages,
    nearly always all; `rest` are those after them, in pieces, for `Reader.further`: their texts are not read yet.
    """

    session: Session
    said: list[MessageWithText]
    total: int
    written: str
    rest: Sequence[Sequence[MessageRow]] = ()

    @property
    def offset(self) -> int:
        """Code points of `written`."""
        return len(self.written)


class SessionQueries:
    """Reads see everything recorded before they began."""

    def __init__(self, ports: Ports, ask: AskSession) -> None:
        self._ports = ports
        self._ask_session = ask
        self._logger = ports.logger

    async def catch_up(self) -> None:
        """Wait until the projections have all that the log has now. Raises ProjectionLag, LogUnavailable."""
        await self._ports.runner.wait_for((await self._ports.log.latest()).position)

    async def session(self, session_id: str, caller: Caller) -> Session:
        """A live session that `asker` may see; reading it counts as an access. Raises SessionNotFound."""
        return await self._record_access(await self.find_recorded(session_id, caller), caller)

    async def _record_access(self, session: Session, caller: Caller) -> Session:
        """The session once it is recorded that `asker` reads it, which is seldom due. Raises SessionNotFound."""
        session_id = session.session_id
        if session.is_deleted:
            raise rejections.SessionDeleted(session_id)
        now_us = self._ports.clock()
        is_stale = now_us - session.accessed_at_us >= self._ports.rules.access_resolution_us
        if session.status == "expired" or now_us >= session.expires_at_us:
            return (
                await self._ask_session(session_id, RecordAccess(), caller)
            ).state.session  # refuses what has expired
        if is_stale:
            try:
                return (await self._ask_session(session_id, RecordAccess(), caller)).state.session
            except (rejections.Overloaded, rejections.Draining, LogUnavailable) as error:
                # It can be read all the same; the next read notes the access.
                self._logger.debug("access.not_recorded", reason=type(error).__name__)
        return session

    def now_us(self) -> int:
        """The time by which sessions expire, in microseconds."""
        return self._ports.clock()

    async def find_recorded(self, session_id: str, caller: Caller, *, any_owner: bool = False) -> Session:
        """A session, whatever has become of it. Looking at it is no access. Raises SessionNotFound."""
        await self.catch_up()
        return self._require_visible(
            await self._ports.queries.session(session_id), session_id, None if any_owner else caller
        )

    def _require_visible(self, session: Session | None, session_id: str, caller: Caller | None) -> Session:
        """The session if there is one that `asker` (None: anyone) may see. Raises SessionNotFound."""
        if session is None or not (caller is None or may_access(session.owner, self._ports.rules, caller)):
            raise rejections.SessionNotFound(session_id)
        return session

    async def peek(self, session_id: str, caller: Caller) -> Session:
        """As `session`, but no access, so that nothing is appended. Raises SessionNotFound."""
        session = await self.find_recorded(session_id, caller)
        if session.is_deleted:
            raise rejections.SessionDeleted(session_id)
        is_idle = session.open_reply is None and not session.pending
        if session.status == "expired" or (is_idle and self._ports.clock() >= session.expires_at_us):
            raise rejections.SessionExpired(session_id)
        return session

    async def described(self, sessions: Sequence[Session]) -> list[SessionWithMetadata]:
        """Those of `sessions` whose description has not been erased meanwhile."""
        places = {place for one in sessions if one.described_at for place in (one.no, one.described_at)}
        texts = await self._ports.log.read_at(sorted(places))
        described: list[SessionWithMetadata] = []
        for one in sessions:
            recorded, first = texts.get(one.described_at), texts.get(one.no)
            event, created = recorded.event if recorded else None, first.event if first else None
            settings = created.settings if isinstance(created, SessionCreated) else ReplySettings()
            if isinstance(event, MetadataChanged):
                described.append(SessionWithMetadata(one, event.metadata, event.title, settings_after(event, settings)))
            elif isinstance(event, SessionCreated):
                described.append(SessionWithMetadata(one, event.metadata, event.title, settings))
        return described

    async def history(
        self, session_id: str, branch: str | None, limit: int, before: str | None, caller: Caller | None = None
    ) -> History:
        """The newest `limit` messages of a branch (that ends in `branch`; None: the selected one), oldest first; fewer
        where they have more than `history_max_bytes` together.

        With `before`, those before that message. All is as of one version of the session, also what is written of a
        running reply: that much was recorded by then. With `asker` it is an access, as `session` is; without one,
        `session` was asked before. Raises SessionNotFound, UnknownMessage.
        """
        snapshot = await self._snapshot(session_id, branch, limit, before)
        if caller is not None:
            session = self._require_visible(snapshot.session if snapshot else None, session_id, caller)
            if await self._record_access(session, caller) is not session:  # what is answered shows the access
                snapshot = await self._snapshot(session_id, branch, limit, before)
        pieces, texts = await self._first_chunk(snapshot)
        if any(recorded.event is None for recorded in texts.values()):
            # What this session was forked from has just been erased; by then its texts had been copied here.
            snapshot = await self._snapshot(session_id, branch, limit, before)
            pieces, texts = await self._first_chunk(snapshot)
        if snapshot is None:
            raise rejections.SessionNotFound(session_id)
        session = snapshot.session
        if session.is_deleted:
            raise rejections.SessionDeleted(session_id)
        if branch is not None and snapshot.depth is None:
            raise rejections.UnknownMessage(branch)
        if before is not None and not snapshot.knows_before:
            raise rejections.UnknownMessage(before)
        written = await self._recorded_running_text(session)
        said = _with_texts(pieces[0] if pieces else (), texts, session, written)
        return History(session, said, snapshot.depth or 0, written, pieces[1:])

    async def remaining_messages(self, history: History) -> AsyncIterator[list[MessageWithText]]:
        """The messages of `history.rest`, a piece at a time. Raises LogUnavailable where they are erased meanwhile."""
        for piece in history.rest:
            # Not by way of the texts that are kept: a long page would take the place of all that is asked for often.
            texts = await self._ports.log.read_at(_positions(piece))
            if any(recorded.event is None for recorded in texts.values()):
                raise LogUnavailable("the messages were erased while they were read")
            yield _with_texts(piece, texts, history.session, history.written)

    async def _first_chunk(self, snapshot: Snapshot | None) -> tuple[list[list[MessageRow]], dict[int, RecordedEvent]]:
        """The pieces in which a snapshot's messages are answered, and the texts of the first of them."""
        rows: Sequence[MessageRow] = snapshot.messages if snapshot is not None else ()
        sizes: dict[int, int] = {}
        if len(rows) > UNMEASURED_MAX:
            sizes = await self._ports.texts.sizes(_positions(rows))
            rows = newest_within_bytes(rows, sizes, self._ports.limits.history_max_bytes)
        pieces = split_into_chunks(rows, lambda row: sizes.get(row.position, 0))
        return pieces, await self._ports.texts.at(_positions(pieces[0])) if pieces else {}

    async def _snapshot(self, session_id: str, branch: str | None, limit: int, before: str | None) -> Snapshot | None:
        """The session and its messages as of one moment, which is after this call began."""
        await self.catch_up()
        return await self._ports.queries.snapshot(session_id, branch=branch, limit=limit, before=before)

    async def _recorded_running_text(self, session: Session) -> str:
        """What is on record of the running reply at the session's version. Who reads again reads only what is new."""
        running, session_id, texts = session.open_reply, session.session_id, self._ports.texts
        erasures = texts.erasures
        if running is None:
            texts.keep_running(session_id, None, erasures)
            return ""
        log, page = self._ports.log, self._ports.limits.read_page_max
        known = texts.running(session_id, running.version, session.version)
        text = await recorded_text(log, session_id, running, page=page, up_to=session.version, known=known)
        texts.keep_running(session_id, RunningText(session.version, text), erasures)
        return text


def _positions(rows: Sequence[MessageRow]) -> list[int]:
    return [row.position for row in rows if row.position]


def _with_texts(
    rows: Sequence[MessageRow], texts: Mapping[int, RecordedEvent], session: Session, written: str
) -> list[MessageWithText]:
    running = session.open_reply.reply_id if session.open_reply else None
    return [_with_text(row, texts.get(row.position), written if row.message_id == running else "") for row in rows]


def _with_text(row: MessageRow, recorded: RecordedEvent | None, written: str) -> MessageWithText:
    event = recorded.event if recorded else None
    match event:
        case ReplyCompleted() | MessageCopied():
            reason = event.finish_reason or FINISH_REASONS.get(row.status)
            return MessageWithText(row, event.content, reason, event.model, event.usage, event.finish_detail)
        case ReplyFailed():
            reason = FINISH_REASONS.get(row.status)
            return MessageWithText(row, event.content, reason, row.model, event.usage, event.finish_detail)
        case Posted() | ReplyCancelled() | ReplyInterrupted():
            return MessageWithText(row, event.content, FINISH_REASONS.get(row.status), row.model)
    return MessageWithText(row, written, model=row.model)

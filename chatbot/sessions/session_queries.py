"""The query side of sessions (CQRS): answered from the read model and the log's texts, never by an actor, so that a
busy session can be read as fast as an idle one.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, assert_never

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, RecordAccess
from chatbot.sessions.domain.message_events import as_message_event
from chatbot.sessions.domain.state import may_access, settings_after
from chatbot.sessions.history_chunks import UNMEASURED_MAX, newest_within_bytes, split_into_chunks
from chatbot.sessions.ports import AskSession, QueryPorts
from chatbot.sessions.replies.recorded_text import RecordedReply, recorded_reply
from chatbot.sessions.session_previews import Preview, read_previews
from events.catalogue import (
    MESSAGE_REDACTED,
    ConversationName,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplySettings,
    SessionCreated,
    Usage,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent
from events.schema.hold_events import Hold
from events.schema.parts import Parts, media_of
from projections.folds.message import FINISH_REASONS, MessageRow
from projections.folds.session import Session
from projections.port import Snapshot


class SessionWithMetadata(Struct, frozen=True):
    """A session with its title, metadata and settings. `preview` is unset where none was asked for;
    `named_by`: what a client of /v1 calls it.
    """

    session: Session
    metadata: dict[str, Any]
    title: str | None
    settings: ReplySettings = ReplySettings()
    preview: Preview | UnsetType | None = UNSET
    named_by: ConversationName | None = None


class MessageWithText(Struct, frozen=True):
    """A message with its text. `parts`: as events hold them, none of a message of text alone. `imported`: only a client
    says that it was written. The times of a reply are from its request to the model server on; None: not recorded.
    """

    row: MessageRow
    content: str
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    finish_detail: str = ""
    parts: Parts = ()
    imported: bool = False
    duration_us: int | None = None
    time_to_first_token_us: int | None = None


class History(Struct, frozen=True):
    """Messages of a branch of `total` messages, as of the session's version.

    `running` is what is recorded of the running reply at that version, whichever node writes it; None if none runs.
    `messages` are the first ones, nearly always all. `remaining` are the chunks after them, for
    `SessionQueries.remaining_messages`, whose texts are not read yet.
    """

    session: Session
    messages: list[MessageWithText]
    total: int
    running: RecordedReply | None
    remaining: Sequence[Sequence[MessageRow]] = ()

    @property
    def offset(self) -> int:
        """Code points of `running`."""
        return len(self.running.text) if self.running is not None else 0


class HistoryQuery(Struct, frozen=True):
    """The newest `limit` messages of the branch that ends in `branch` (None: the selected one); with `before`, of those
    before that message.
    """

    session_id: str
    branch: str | None
    limit: int
    before: str | None


class HistoryPage(Struct, frozen=True):
    """A snapshot, its messages in chunks, and the texts of the first chunk."""

    snapshot: Snapshot | None
    chunks: list[list[MessageRow]]
    texts: Mapping[int, RecordedEvent]

    @property
    def has_erased_texts(self) -> bool:
        return any(recorded.event is None for recorded in self.texts.values())


class SessionQueries:
    """Every read sees everything that was recorded before it began."""

    def __init__(self, ports: QueryPorts, ask: AskSession) -> None:
        self._ports = ports
        self._ask_session = ask
        self._logger = ports.logger

    async def catch_up(self) -> None:
        """Wait until the projections have everything that the log has now. Raises ProjectionLag, LogUnavailable."""
        await self._ports.runner.wait_for((await self._ports.log.latest()).position)

    async def session(self, session_id: str, caller: Caller) -> Session:
        """A live session that `caller` may see; reading it counts as an access. Raises SessionNotFound."""
        return await self._record_access(await self.find_recorded(session_id, caller), caller)

    async def _record_access(self, session: Session, caller: Caller) -> Session:
        """The session after an access by `caller`, which is recorded only if the last one is stale.

        Raises SessionNotFound.
        """
        session_id = session.session_id
        if session.is_deleted:
            raise rejections.SessionDeleted(session_id)
        now_us = self._ports.clock()
        if session.status == "expired" or now_us >= session.expires_at_us:
            result = await self._ask_session(session_id, RecordAccess(), caller)  # raises if it has expired
            return result.state.session
        if now_us - session.accessed_at_us < self._ports.rules.access_resolution_us:
            return session
        try:
            return (await self._ask_session(session_id, RecordAccess(), caller)).state.session
        except (rejections.Overloaded, rejections.Draining, LogUnavailable) as error:
            # It can be read all the same; the next read records the access.
            self._logger.debug("access.not_recorded", reason=type(error).__name__)
            return session

    def now_us(self) -> int:
        """The time by which sessions expire, in microseconds."""
        return self._ports.clock()

    async def find_recorded(self, session_id: str, caller: Caller, *, any_owner: bool = False) -> Session:
        """A session in any status. This read is no access. Raises SessionNotFound."""
        await self.catch_up()
        return self._require_visible(
            await self._ports.queries.session(session_id), session_id, None if any_owner else caller
        )

    def _require_visible(self, session: Session | None, session_id: str, caller: Caller | None) -> Session:
        """The session, if it exists and `caller` (None: anyone) may see it. Raises SessionNotFound."""
        if session is None or not (caller is None or may_access(session.owner, caller)):
            raise rejections.SessionNotFound(session_id)
        return session

    async def peek(self, session_id: str, caller: Caller) -> Session:
        """As `session`, but not an access, so that nothing is appended. Raises SessionNotFound."""
        session = await self.find_recorded(session_id, caller)
        if session.is_deleted:
            raise rejections.SessionDeleted(session_id)
        is_idle = session.open_reply is None and not session.pending
        if session.status == "expired" or (is_idle and self._ports.clock() >= session.expires_at_us):
            raise rejections.SessionExpired(session_id)
        return session

    async def with_metadata(self, sessions: Sequence[Session]) -> list[SessionWithMetadata]:
        """Those of `sessions` whose metadata has not been erased meanwhile, in their order."""
        positions = {position for one in sessions if one.described_at for position in (one.no, one.described_at)}
        texts = await self._ports.log.read_at(sorted(positions))
        found: list[SessionWithMetadata] = []
        for one in sessions:
            recorded, first = texts.get(one.described_at), texts.get(one.no)
            event, created = recorded.event if recorded else None, first.event if first else None
            settings, named_by = ReplySettings(), None
            if isinstance(created, SessionCreated):
                settings, named_by = created.settings, created.named_by
            if isinstance(event, MetadataChanged):
                settings = settings_after(event, settings)
            if isinstance(event, MetadataChanged | SessionCreated):
                found.append(SessionWithMetadata(one, event.metadata, event.title, settings, named_by=named_by))
        return found

    async def find_hold(self, session: Session) -> Hold | None:
        """A legal hold that covers the session now; None: an erasure would not be refused. Raises LogUnavailable."""
        described = await self.with_metadata([session])
        metadata = described[0].metadata if described else {}
        return (await self._ports.holds.find(session.session_id, session.owner, metadata)).hold

    async def with_previews(self, described: Sequence[SessionWithMetadata]) -> list[SessionWithMetadata]:
        """`described` with the previews of the sessions."""
        sessions = [one.session for one in described]
        previews = await read_previews(self._ports.log, self._ports.queries, sessions)
        return [replace(one, preview=previews.get(one.session.no)) for one in described]

    async def shows_kept_file(self, session: Session, sha256: str, positions: Sequence[int]) -> bool:
        """Whether the session shows a message of another one that has the file, and of which something else is
        redacted: then the redaction, at one of `positions`, refers to the file in place of the message.
        """
        log, queries = self._ports.log, self._ports.queries
        for position in positions:
            (header,) = await log.event_headers(after=position - 1, limit=1)
            if header.type != MESSAGE_REDACTED:
                continue
            event = (await log.read_at([position]))[position].event
            row = await queries.message(session.no, event.message_id) if isinstance(event, MessageRedacted) else None
            shown = (await log.read_at([row.position])).get(row.position) if row is not None else None
            if shown is not None and shown.stream_id == header.stream_id:
                parts = getattr(as_message_event(shown.event), "parts", ())
                if any(media.sha256 == sha256 for media in media_of(parts)):
                    return True
        return False

    async def history(
        self, session_id: str, branch: str | None, limit: int, before: str | None, caller: Caller | None = None
    ) -> History:
        """The messages that `HistoryQuery` describes, oldest first; fewer if they exceed `history_max_bytes`.

        Everything is as of one version of the session, the running reply's recorded text included. With `caller` the
        read is an access, as in `session`; without, `session` was called before. Raises SessionNotFound,
        UnknownMessage.
        """
        query = HistoryQuery(session_id, branch, limit, before)
        snapshot = await self._snapshot(query, caller)
        if caller is not None:
            session = self._require_visible(snapshot.session if snapshot else None, session_id, caller)
            if await self._record_access(session, caller) is not session:  # the answer has to show the access
                snapshot = await self._snapshot(query)
        page = await self._read_page(snapshot)
        if page.has_erased_texts:
            # The session's origin has just been erased; its texts were copied here before, so a new snapshot has them.
            page = await self._read_page(await self._snapshot(query))
        found = _require_messages(page.snapshot, query)
        running = await self._recorded_running_reply(found.session)
        first, *remaining = page.chunks or [[]]
        messages = _with_texts(first, page.texts, found.session, running)
        return History(found.session, messages, found.depth or 0, running, remaining)

    async def remaining_messages(self, history: History) -> AsyncIterator[list[MessageWithText]]:
        """The messages of `history.remaining`, chunk by chunk. Raises LogUnavailable if they are erased meanwhile."""
        for rows in history.remaining:
            # Not through the cache: one long page would evict the texts that are read often.
            texts = await self._ports.log.read_at(_positions(rows))
            if any(recorded.event is None for recorded in texts.values()):
                raise LogUnavailable("the messages were erased while they were read")
            yield _with_texts(rows, texts, history.session, history.running)

    async def _snapshot(self, query: HistoryQuery, caller: Caller | None = None) -> Snapshot | None:
        """The session and its messages at one moment after the start of this call; nothing of a session that `caller`
        may not see.
        """
        await self.catch_up()
        sees_all = caller is None or caller.any_owner or caller.is_service
        return await self._ports.queries.snapshot(
            query.session_id,
            branch=query.branch,
            limit=query.limit,
            before=query.before,
            owner=None if sees_all or caller is None else caller.owner or "",
        )

    async def _read_page(self, snapshot: Snapshot | None) -> HistoryPage:
        """Splits the snapshot's messages into chunks and reads the texts of the first one."""
        rows: Sequence[MessageRow] = snapshot.messages if snapshot is not None else ()
        sizes: dict[int, int] = {}
        if len(rows) > UNMEASURED_MAX:
            sizes = await self._ports.texts.sizes(_positions(rows))
            rows = newest_within_bytes(rows, sizes, self._ports.limits.history_max_bytes)
        chunks = split_into_chunks(rows, lambda row: sizes.get(row.position, 0))
        return HistoryPage(snapshot, chunks, await self._ports.texts.read(_positions(chunks[0])) if chunks else {})

    async def _recorded_running_reply(self, session: Session) -> RecordedReply | None:
        """What is recorded of the running reply at the session's version. A repeated read reads only what is new."""
        open_reply, session_id, texts = session.open_reply, session.session_id, self._ports.texts
        erasures = texts.erasures
        if open_reply is None:
            texts.keep_running_reply(session_id, None, erasures)
            return None
        log, page = self._ports.log, self._ports.limits.read_page_max
        known = texts.running_reply(session_id, open_reply.version, session.version)
        running = await recorded_reply(log, session_id, open_reply, page=page, up_to=session.version, known=known)
        texts.keep_running_reply(session_id, running, erasures)
        return running


def _require_messages(snapshot: Snapshot | None, query: HistoryQuery) -> Snapshot:
    """The snapshot, if it has what the query names. Raises SessionNotFound, UnknownMessage."""
    if snapshot is None:
        raise rejections.SessionNotFound(query.session_id)
    if snapshot.session.is_deleted:
        raise rejections.SessionDeleted(query.session_id)
    if query.branch is not None and snapshot.depth is None:
        raise rejections.UnknownMessage(query.branch)
    if query.before is not None and not snapshot.knows_before:
        raise rejections.UnknownMessage(query.before)
    return snapshot


def _positions(rows: Sequence[MessageRow]) -> list[int]:
    return [row.position for row in rows if row.position]


def _with_texts(
    rows: Sequence[MessageRow], texts: Mapping[int, RecordedEvent], session: Session, running: RecordedReply | None
) -> list[MessageWithText]:
    open_id = session.open_reply.reply_id if session.open_reply else None
    return [_with_text(row, texts.get(row.position), running if row.message_id == open_id else None) for row in rows]


def _with_text(row: MessageRow, recorded: RecordedEvent | None, running: RecordedReply | None) -> MessageWithText:
    event = as_message_event(recorded.event if recorded else None)
    match event:
        case ReplyCompleted():
            return MessageWithText(
                row,
                event.content,
                event.finish_reason or FINISH_REASONS.get(row.status),
                event.model,
                event.usage,
                event.finish_detail,
                event.parts,
                duration_us=event.duration_us,
                time_to_first_token_us=event.time_to_first_token_us,
            )
        case MessageCopied():
            reason = event.finish_reason or FINISH_REASONS.get(row.status)
            return MessageWithText(
                row,
                event.content,
                reason,
                event.model,
                event.usage,
                event.finish_detail,
                event.parts,
                event.imported,
                event.duration_us,
                event.time_to_first_token_us,
            )
        case ReplyFailed():
            reason, duration_us = FINISH_REASONS.get(row.status), event.duration_us or None
            detail, parts = event.finish_detail, event.parts
            return MessageWithText(
                row, event.content, reason, row.model, event.usage, detail, parts, duration_us=duration_us
            )
        case ReplyCancelled() | ReplyInterrupted():
            reason, duration_us = FINISH_REASONS.get(row.status), event.duration_us or None
            return MessageWithText(
                row, event.content, reason, row.model, event.usage, parts=event.parts, duration_us=duration_us
            )
        case MessagePosted():
            reason, parts = FINISH_REASONS.get(row.status), event.parts
            return MessageWithText(row, event.content, reason, row.model, parts=parts, imported=event.imported)
        case None:
            if running is None:
                return MessageWithText(row, "", model=row.model)
            return MessageWithText(row, running.content, model=row.model, parts=running.parts)
        case _:
            assert_never(event)

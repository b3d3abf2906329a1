"""Who may read a file, and refer to it: the holder of an upload, and readers of a session with a message that refers to
it. Nobody else learns whether the log has it.
"""

from chatbot.api.media.media_uploads import upload_holder
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import SessionNotFound
from chatbot.sessions.session_queries import SessionQueries
from events.media import MediaReference, MediaStore
from projections.folds.session import Session
from projections.port import ProjectionQueries

REFERENCES_TRIED_MAX = 100  # of one file: a reader who names no session may have to be let in by each of them
SESSIONS_TRIED_MAX = 200  # for one request, however many files it names


class MediaAccess:
    """What one caller may read, for the time of one request. Reading a file is no access to a session."""

    def __init__(self, media: MediaStore, queries: ProjectionQueries, sessions: SessionQueries, caller: Caller) -> None:
        self._media = media
        self._queries = queries
        self._sessions = sessions
        self._caller = caller
        self._found: dict[str, Session | None] = {}

    async def may_read(self, sha256: str, session_id: str | None) -> bool:
        """With `session_id`: as an upload of the caller's, or in this session. Without: in any session that is among
        the newest references to the file. Raises LogUnavailable, ProjectionError.
        """
        if await self._is_own_upload(sha256):
            return True
        if session_id is not None:
            session = await self._session(session_id)
            return session is not None and await self.is_in_session(sha256, session)
        return await self._is_in_any_session(sha256)

    async def may_refer(self, sha256: str, session: Session) -> bool:
        """Whether a message in `session`, which the caller may write to, may refer to the file."""
        if await self._is_own_upload(sha256) or await self.is_in_session(sha256, session):
            return True
        return await self._is_in_any_session(sha256)

    async def is_in_session(self, sha256: str, session: Session) -> bool:
        """Whether a message of the session refers to the file: its own, or one that it has from the session that it
        was forked from.
        """
        own = await self._media.references(sha256, limit=1, holder=session.session_id)
        if any(one.position for one in own):
            return True
        references = await self._event_references(sha256)
        for reference in references:
            borrowed = await self._queries.texts_read_by(session.no, after=reference.position - 1, limit=1)
            if any(one.position == reference.position for one in borrowed):
                return True
        return await self._sessions.shows_kept_file(session, sha256, [one.position for one in references])

    async def _is_own_upload(self, sha256: str) -> bool:
        held = await self._media.references(sha256, limit=1, holder=upload_holder(self._caller))
        return any(one.position == 0 for one in held)

    async def _is_in_any_session(self, sha256: str) -> bool:
        for session_id in dict.fromkeys(one.holder for one in await self._event_references(sha256)):
            if await self._session(session_id) is not None:
                return True
        return False

    async def _event_references(self, sha256: str) -> list[MediaReference]:
        found = await self._media.references(sha256, limit=REFERENCES_TRIED_MAX)
        return [one for one in found if one.position]

    async def _session(self, session_id: str) -> Session | None:
        """The session, where the caller may read it now."""
        if session_id not in self._found:
            if len(self._found) >= SESSIONS_TRIED_MAX:
                return None
            try:
                self._found[session_id] = await self._sessions.peek(session_id, self._caller)
            except SessionNotFound:
                self._found[session_id] = None
        return self._found[session_id]

"""Redacts a message wherever the log has it: in the session that has its text, and in all forks that show it.

The text goes with the first of these sessions, as most forks read it there; forks with a copy lose theirs. Each of them
records the redaction, so that its readers learn of it and its owner finds it. What was not done before a crash, or
because a session was busy, is done by the same request once more.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, RedactMessage
from chatbot.sessions.ports import AskSession
from chatbot.sessions.session_queries import SessionQueries
from events.errors import LogUnavailable
from events.log import EventLog
from events.message_content import read_content
from events.record import RecordedEvent
from projections.fork_texts import ForkedMessage
from projections.port import ProjectionQueries

ROUNDS_MAX = 8  # checks, and searches for forks that were made meanwhile, before giving up
PAGE = 500  # sessions found at once
BUSY_ORIGIN = "a session that this one was forked from is being erased; try again in a moment"


class _Place(Struct, frozen=True):
    """A session that shows the message; `has_text`: its stream has the text that others read, too."""

    session_id: str
    has_text: bool


class _HoldsChanged(Exception):
    """A legal hold was added or released since the sessions were checked."""


class MessageRedaction:
    """For any session. All methods raise LogUnavailable, ProjectionError."""

    def __init__(
        self,
        log: EventLog,
        queries: ProjectionQueries,
        session_queries: SessionQueries,
        ask: AskSession,
        holds_version: Callable[[], Awaitable[int]],
    ) -> None:
        self._log = log
        self._holds_version = holds_version
        self._queries = queries
        self._session_queries = session_queries
        self._ask_session = ask

    async def redact(
        self, session_id: str, command: RedactMessage, caller: Caller, *, if_versions: frozenset[int] | None = None
    ) -> list[RecordedEvent]:
        """The message_redacted of the session, then those of the other sessions that show the message. Repeated, it
        gives the same ones.

        Raises SessionNotFound, MessageNotFound, InvalidMessage, SessionBusy, SessionHeld, VersionMismatch. One of the
        latter may be about another session that shows the message; then nothing is redacted, unless the session
        changes meanwhile.
        """
        done: dict[str, RecordedEvent | None] = {}
        for _ in range(ROUNDS_MAX):
            versions = None if done else if_versions  # of the session before anything is recorded in it
            command = replace(command, holds_version=await self._check(session_id, command, caller, versions))
            places = await self._places(session_id, command.message_id, caller)
            left = [place for place in places if place.session_id not in done]
            if not left:
                break
            with suppress(_HoldsChanged):  # check all sessions again
                for place in left:
                    done[place.session_id] = await self._record(place, session_id, command, caller)
        else:
            raise LogUnavailable("others keep forking this session, or change legal holds; try again")
        own = done.pop(session_id)
        return [recorded for recorded in (own, *done.values()) if recorded is not None]

    async def _places(self, session_id: str, message_id: str, caller: Caller) -> list[_Place]:
        """The sessions that show the message, those first whose text others read."""
        session = await self._session_queries.find_recorded(session_id, caller)
        if session.is_deleted:
            raise rejections.SessionDeleted(session_id)
        message = await self._queries.message(session.no, message_id)
        texts: dict[str, None] = {}
        if message is None:  # one that was taken back is no message any more, but the log has it
            if not (await read_content(self._log, session_id, message_id)).versions:
                raise rejections.MessageNotFound(message_id)
            texts[session_id] = None
        forks = await self._forks(message_id)
        positions = {0 if message is None else message.position, *(fork.position for fork in forks)} - {0}
        for position in sorted(positions):
            texts |= {one.stream_id: None for one in await self._log.event_headers(after=position - 1, limit=1)}
        others = {session_id: None} | dict.fromkeys(fork.session_id for fork in forks)
        return [_Place(one, True) for one in texts] + [_Place(one, False) for one in others if one not in texts]

    async def _forks(self, message_id: str) -> list[ForkedMessage]:
        found: list[ForkedMessage] = []
        after = 0
        while page := await self._queries.forked_messages(message_id, after=after, limit=PAGE):
            found += page
            after = page[-1].no
        return found

    async def _check(
        self, session_id: str, command: RedactMessage, caller: Caller, if_versions: frozenset[int] | None
    ) -> int:
        """Raises what refuses the redaction in one of the sessions. Returns the version of the legal holds that were
        looked at.
        """
        holds_version = await self._holds_version()
        command = replace(command, checks_only=True, holds_version=None)
        for place in await self._places(session_id, command.message_id, caller):
            await self._ask(place, session_id, command, caller, if_versions)
        return holds_version

    async def _record(
        self, place: _Place, session_id: str, command: RedactMessage, caller: Caller
    ) -> RecordedEvent | None:
        """The message_redacted of this session; None if it has been deleted. Raises _HoldsChanged."""
        result = await self._ask(place, session_id, command, caller, None)
        if result is None:
            return None
        if not result.request_version:
            raise _HoldsChanged
        (recorded,) = await self._log.read(place.session_id, after=result.request_version - 1, limit=1)
        return recorded

    async def _ask(
        self,
        place: _Place,
        session_id: str,
        command: RedactMessage,
        caller: Caller,
        if_versions: frozenset[int] | None,
    ) -> CommandResult | None:
        """None if the session has been deleted. `if_versions` are for the session `session_id` alone."""
        is_other = place.session_id != session_id  # what it shows came from the session of which the caller disposes
        asking = replace(caller, any_owner=True) if is_other else caller
        try:
            return await self._ask_session(
                place.session_id, command, asking, if_versions=None if is_other else if_versions
            )
        except rejections.SessionNotFound:
            if not is_other:
                raise
            if place.has_text and await self._is_there(place.session_id):
                raise rejections.SessionBusy(BUSY_ORIGIN) from None
            return None

    async def _is_there(self, session_id: str) -> bool:
        """Whether the session's content is not erased yet."""
        session = await self._queries.session(session_id)
        return session is not None and session.status != "deleted"

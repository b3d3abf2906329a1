"""Reads: answered by projections and the log's texts, never by an actor, so that a busy session is as readable."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from chatbot.sessions import errors
from chatbot.sessions.commands import Asker, Touch
from chatbot.sessions.decide import may_touch
from chatbot.sessions.ports import Ports
from chatbot.sessions.reply import Reply
from chatbot.sessions.supervisor import Supervisor
from events.catalogue import MessagePosted as Posted
from events.catalogue import (
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    SessionCreated,
    Usage,
)
from events.errors import LogUnavailable
from events.record import RecordedEvent
from projections.message import Message
from projections.session import Session


class Described(Struct, frozen=True):
    """A session with the texts that describe it."""

    session: Session
    metadata: dict[str, Any]
    title: str | None


class Said(Struct, frozen=True):
    """A message with its text."""

    row: Message
    content: str
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None


class Reader:
    """Reads see everything recorded before they began."""

    def __init__(self, ports: Ports, supervisor: Supervisor) -> None:
        self._ports = ports
        self._supervisor = supervisor
        self._logger = ports.logger

    async def catch_up(self) -> None:
        """Wait until the projections have what the log has now. Raises ProjectionLag."""
        await self._ports.runner.wait_for(self._ports.log.head().position)

    async def session(self, session_id: str, asker: Asker) -> Session:
        """A live session that `asker` may see; reading it counts as an access. Raises SessionNotFound."""
        await self.catch_up()
        session = await self._ports.queries.session(session_id)
        if session is None or not may_touch(session.owner, self._ports.rules, asker):
            raise errors.SessionNotFound(session_id)
        if session.status == "deleted":
            raise errors.SessionDeleted(session_id)
        now_us = self._ports.clock()
        is_stale = now_us - session.accessed_at_us >= self._ports.rules.access_resolution_us
        if session.status == "expired" or now_us >= session.expires_at_us:
            return (await self._supervisor.ask(session_id, Touch(), asker)).state.session  # refuses what has expired
        if is_stale:
            try:
                return (await self._supervisor.ask(session_id, Touch(), asker)).state.session
            except (errors.Overloaded, errors.Draining, LogUnavailable) as error:
                # It can be read all the same; the next read notes the access.
                self._logger.debug("access.not_recorded", reason=type(error).__name__)
        return session

    async def described(self, sessions: Sequence[Session]) -> list[Described]:
        """Those of `sessions` whose description has not been erased meanwhile."""
        texts = await self._ports.log.read_at([one.described_at for one in sessions if one.described_at])
        described: list[Described] = []
        for one in sessions:
            recorded = texts.get(one.described_at)
            event = recorded.event if recorded else None
            if isinstance(event, SessionCreated | MetadataChanged):
                described.append(Described(one, event.metadata, event.title))
        return described

    async def messages(self, session: Session, leaf: str | None, limit: int, before: str | None) -> list[Said]:
        """The newest `limit` messages of the branch that ends in `leaf`, oldest first; those before `before` if given.

        Raises UnknownMessage when the session has not got them.
        """
        if leaf is None:
            return []
        await self.catch_up()
        for named in (leaf, before):
            if named is not None and await self._ports.queries.message(session.no, named) is None:
                raise errors.UnknownMessage(named)
        live = self._supervisor.replies(session.session_id)  # held, so that one that ends meanwhile keeps its text
        rows = await self._ports.queries.path(session.no, leaf, limit=limit, before=before)
        if any(not row.position and row.message_id not in live for row in rows):
            live = self._supervisor.replies(session.session_id)
            await self.catch_up()  # one has started since, and may have ended: then its row says so by now
            rows = await self._ports.queries.path(session.no, leaf, limit=limit, before=before)
        texts = await self._ports.log.read_at([row.position for row in rows if row.position])
        return [_said(row, texts.get(row.position), live) for row in rows]

    async def depth(self, session: Session, leaf: str | None) -> int:
        """How many messages the branch has that ends in `leaf`."""
        last = await self._ports.queries.message(session.no, leaf) if leaf else None
        return last.depth if last else 0


def _said(row: Message, recorded: RecordedEvent | None, live: Mapping[str, Reply]) -> Said:
    event = recorded.event if recorded else None
    match event:
        case ReplyCompleted():
            return Said(row, event.content, event.finish_reason, event.model, event.usage)
        case Posted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return Said(row, event.content, model=row.model)
    reply = live.get(row.message_id)
    return Said(row, reply.text if reply else "", model=row.model)

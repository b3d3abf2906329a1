"""The stream of changes in one owner's lists of sessions: a reader is a log position, without a queue.

What has changed after it is asked of the projections, so a session that changed often in the meantime is sent once, as
it is now, and any worker or node can go on from the position.
"""

import asyncio
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct

from chatbot.api.response_bodies import SessionView
from chatbot.api.services import Services
from chatbot.api.streaming.change_frames import (
    CHANGED_MAX,
    ChangeFrame,
    ChangesDraining,
    ChangesReady,
    ChangesResync,
    SessionChanged,
    SessionGone,
)
from chatbot.api.streaming.response_stream import ResponseStream, encode_event
from chatbot.runtime.throttle import PIECE_BYTES
from chatbot.sessions.feeds.channels import Channel, wait_any
from chatbot.sessions.feeds.owner_channels import ANY_OWNER, owner_key
from chatbot.sessions.session_queries import SessionWithMetadata
from events.errors import LogError
from projections.errors import ProjectionError
from projections.folds.session import Session
from projections.port import ChangedSessions, ChangesQuery

PAGE_SESSIONS = 20  # that are read at once, so that a reader which takes nothing holds no more
ROUND_S = 0.2  # between two looks at what has changed, while it goes on changing

_encode_json = msgspec.json.Encoder().encode


class ChangesScope(Struct, frozen=True):
    """Whose sessions: those of `owner` (None: without one), or with `any_owner` all."""

    owner: str | None
    any_owner: bool

    @property
    def channel_key(self) -> str:
        return ANY_OWNER if self.any_owner else owner_key(self.owner)


class ChangesWriter:
    """One reader. `begin` first; `channel` must be open before. `view`: how lists show a session."""

    def __init__(
        self,
        services: Services,
        scope: ChangesScope,
        channel: Channel,
        view: Callable[[SessionWithMetadata], SessionView],
    ) -> None:
        self._services = services
        self._scope = scope
        self._channel = channel
        self._view = view
        self._position = 0
        self._has_lost_track = False
        self._retry_ms: int | None = services.settings.stream.retry_ms  # sent with the first frame only

    async def begin(self, after: int | None) -> None:
        """Read from position `after`; None: from now. Raises LogError, ProjectionError."""
        await self._services.session_queries.catch_up()
        folded = self._services.runner.position
        self._position = folded if after is None else after
        if after is not None and after <= folded:
            counted = await self._services.queries.count_changed(self._query(CHANGED_MAX + 1))
            self._has_lost_track = counted > CHANGED_MAX
        elif after is not None:
            self._has_lost_track = True  # the log has lost events, or is another one

    async def write(self, stream: ResponseStream) -> None:
        """Until the service ends or the reader leaves, which raises ConnectionError."""
        try:
            if self._has_lost_track:
                await stream.send(self._encode(ChangesResync(), self._services.runner.position))
                return
            await stream.send(self._encode(ChangesReady(), self._position))
            while await self._send_next(stream):
                pass
        except (LogError, ProjectionError) as error:
            # The reader returns with its position, as if the connection had broken.
            self._services.logger.warning("feed.cut", reason=str(error))

    async def _send_next(self, stream: ResponseStream) -> bool:
        """Send the next changes, or wait for some; False at the end of the stream."""
        seen = self._channel.latest
        page = await self._services.queries.changed_sessions(self._query(PAGE_SESSIONS))
        if page.sessions:
            await self._send_page(stream, page)
            return True
        self._position = max(self._position, page.position)
        if self._services.feeds.closed:
            self._retry_ms = self._services.settings.stream.retry_ms
            await stream.send(self._encode(ChangesDraining(), self._position))
            return False
        if self._channel.latest == seen:
            await wait_any(self._channel.signal)
        return True

    async def _send_page(self, stream: ResponseStream, page: ChangedSessions) -> None:
        is_last = len(page.sessions) < PAGE_SESSIONS
        frames = b""
        for session, frame in await self._frames(page.sessions):
            frames += self._encode(frame, session.changed_at)
            if len(frames) >= PIECE_BYTES:
                await stream.send(frames)
                frames = b""
        if frames:
            await stream.send(frames)
        self._position = max(self._position, page.position) if is_last else page.sessions[-1].changed_at
        del page, frames
        if is_last and not self._services.feeds.closed:
            await asyncio.sleep(ROUND_S)

    async def _frames(self, sessions: list[Session]) -> list[tuple[Session, ChangeFrame]]:
        """The sessions' frames, in the order of their changes. None for a session that is erased meanwhile: that is its
        next change.
        """
        queries, now_us = self._services.session_queries, self._services.session_queries.now_us()
        listed = [one for one in sessions if _reason_gone(one, now_us) is None]
        described = await queries.with_previews(await queries.with_metadata(listed)) if listed else []
        views = {one.session.no: self._view(one) for one in described}
        frames: list[tuple[Session, ChangeFrame]] = []
        for one in sessions:
            reason = _reason_gone(one, now_us)
            if reason is not None:
                frames.append((one, SessionGone(one.session_id, reason)))
            elif one.no in views:
                frames.append((one, SessionChanged(views[one.no])))
        return frames

    def _query(self, limit: int) -> ChangesQuery:
        return ChangesQuery(self._scope.owner, self._scope.any_owner, self._position, limit)

    def _encode(self, frame: ChangeFrame, position: int) -> bytes:
        retry_ms, self._retry_ms = self._retry_ms, None
        return encode_event(b"%d" % position, _encode_json(frame), retry_ms)


def _reason_gone(session: Session, now_us: int) -> Literal["expired", "deleted"] | None:
    """Why lists of active sessions do not show the session; None if they do."""
    if session.is_deleted:
        return "deleted"
    is_idle = session.open_reply is None and not session.pending
    if session.status == "expired" or (is_idle and now_us >= session.expires_at_us):
        return "expired"
    return None

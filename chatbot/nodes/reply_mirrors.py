"""Mirrors of replies that other nodes write: the text comes from the writing node, the end from the log.

A mirror is a Reply like those of this node's own sessions, so readers need not know the difference. While the other
node cannot be reached, the mirror grows by the recorded checkpoints.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from enum import Enum

import structlog
from msgspec import Struct

from chatbot.nodes.held_streams import HeldStreams
from chatbot.nodes.node_client import NodeClient, NodeObserver, NodeUnreachable, PartHeader, ReplyNotFound
from chatbot.nodes.node_id import NodeAddress, parse_node_id
from chatbot.sessions.domain.commands import SERVICE, Caller
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.replies.growing_parts import Segment, segment_of
from chatbot.sessions.replies.reply import Outcome, Reply, reply_outcome, requested_reply
from events.backoff import backoff_delays
from events.catalogue import ERASURE_TYPES, MessageWithdrawn, Parameters, ReplyEnded, ReplyProgressed, ReplyStarted
from events.errors import LogUnavailable
from events.log import EventLog
from events.record import RecordedEvent
from projections.folds.session import OpenReply, node_of

PAGE = 64  # events read at once to catch up with a reply
RETRY_S = (0.1, 2.0)  # between attempts to follow a text: the first pause and the longest, see backoff_delays
UNREAD_MIRROR_S = 30.0  # how long a mirror without readers is kept


class MirrorState(Enum):
    """CATCHING_UP -> WAITING -> STREAMING -> OVER; a state may be left out, and OVER may follow each."""

    CATCHING_UP = "catching up"  # reads the session's earlier events; counts those that are appended meanwhile
    WAITING = "waiting"  # the reply has not started
    STREAMING = "streaming"  # follows the text at the writing node
    OVER = "over"  # ended, failed or no longer read: not in the registry any more


class ReplyMirror:
    """One reply of another node. `version` is that of the newest event of its session that was applied; `skipped`
    counts the events that were appended while it was catching up.
    """

    def __init__(self, session_id: str, reply: Reply, version: int) -> None:
        self.session_id = session_id
        self.reply = reply
        self.version = version
        self.state = MirrorState.WAITING
        self.skipped = 0
        self.node: str | None = None
        self.caught_up = asyncio.Event()
        self.task: asyncio.Task[None] | None = None  # of CATCHING_UP or STREAMING
        self.read_at_s = 0.0  # when it was last seen to have readers, by the context's timer


class MirrorContext(Struct, frozen=True):
    """What mirrors need. `own_name` is this node's; `timer` gives monotonic seconds.

    `on_node_lost` is called when a node that writes a reply stops answering: it should be probed.
    """

    own_name: str
    log: EventLog
    feeds: ChannelRegistry
    held_streams: HeldStreams
    node_client: NodeClient
    mirrors_max: int
    timer: Callable[[], float]
    on_node_lost: Callable[[], None]
    observe: NodeObserver


class ReplyMirrors:
    """The registry of this node's mirrors, by session."""

    def __init__(self, context: MirrorContext) -> None:
        self._context = context
        self._log = context.log
        self._mirrors_max = context.mirrors_max
        self._timer = context.timer
        self._logger = structlog.get_logger("nodes")
        self._by_session: dict[str, dict[str, ReplyMirror]] = {}
        self._count = 0

    def has(self, session_id: str) -> bool:
        return session_id in self._by_session

    def version(self, session_id: str) -> int | None:
        """The version up to which all mirrors of the session have applied its events; None if it has none."""
        mirrors = self._by_session.get(session_id, {}).values()
        return min((one.version for one in mirrors), default=None)

    def running_reply(self, session_id: str) -> Reply | None:
        """The mirrored reply of the session that has started and not ended."""
        mirrors = self._by_session.get(session_id, {}).values()
        return next((one.reply for one in mirrors if one.reply.version and one.reply.outcome is None), None)

    async def mirror_running(self, session_id: str, written: OpenReply) -> Reply | None:
        """Mirror a reply that another node writes. None: too many mirrors, or it is over. Raises LogUnavailable."""
        known = self._by_session.get(session_id, {}).get(written.reply_id)
        if known is not None:
            return await self._await_catch_up(known)
        reply = Reply(written.message_id, written.reply_id, Parameters(), SERVICE)
        return await self._start_catch_up(session_id, reply, written.version - 1)

    async def mirror_pending(self, session_id: str, asked: RecordedEvent, caller: Caller) -> Reply | None:
        """Mirror a reply that another node owes. None: too many mirrors, or it is over. Raises LogUnavailable."""
        reply = requested_reply(asked, caller)
        if reply is None:
            return None
        known = self._by_session.get(session_id, {}).get(reply.reply_id)
        if known is not None:
            return await self._await_catch_up(known)
        return await self._start_catch_up(session_id, reply, asked.version)

    def on_remote_append(self, recorded: RecordedEvent) -> None:
        """The session's next event was appended, by any node. Events that are known already are ignored."""
        mirrors = self._by_session.get(recorded.stream_id, {})
        event = recorded.event
        is_new = isinstance(event, ReplyStarted) and node_of(recorded) != self._context.own_name
        if isinstance(event, ReplyStarted) and is_new and event.reply_id not in mirrors and self._has_room:
            mirror = ReplyMirror(recorded.stream_id, Reply(event.parent_id, event.reply_id, Parameters(), SERVICE), 0)
            mirror.version = recorded.version - 1
            self._add(mirror)
            mirrors = self._by_session[recorded.stream_id]
        for mirror in list(mirrors.values()):
            if mirror.state is MirrorState.CATCHING_UP:
                mirror.skipped += 1
            else:
                self._apply_all(mirror, (recorded,))

    async def close(self) -> None:
        """Stop following; readers are told to reconnect."""
        mirrors = [mirror for of_session in self._by_session.values() for mirror in of_session.values()]
        for mirror in mirrors:
            self._remove(mirror)
            mirror.reply.stall(LogUnavailable("the service is shutting down; follow the session for the reply"))
        await asyncio.gather(*(one.task for one in mirrors if one.task is not None), return_exceptions=True)

    async def _start_catch_up(self, session_id: str, reply: Reply, after: int) -> Reply | None:
        """Register a mirror, and have it apply the session's events after version `after`."""
        if not self._has_room:
            return None
        mirror = ReplyMirror(session_id, reply, after)
        mirror.state = MirrorState.CATCHING_UP
        self._add(mirror)
        # A task of its own: the caller may be cancelled, and others may share the mirror already.
        mirror.task = asyncio.create_task(self._catch_up(mirror), name=f"mirror {reply.reply_id}")
        return await self._await_catch_up(mirror)

    async def _await_catch_up(self, mirror: ReplyMirror) -> Reply | None:
        """The mirror's reply; None: it is over. Raises LogUnavailable."""
        reply = mirror.reply
        if mirror.state is MirrorState.CATCHING_UP:
            await mirror.caught_up.wait()
        if reply.outcome is None and reply.unrecorded is not None:
            raise LogUnavailable(str(reply.unrecorded))
        return reply if reply.outcome is None else None

    async def _catch_up(self, mirror: ReplyMirror) -> None:
        """Read until no event was skipped meanwhile: applying appended events before all earlier ones would leave a
        gap.
        """
        is_current = False
        try:
            while not is_current:
                skipped = mirror.skipped
                page = await self._log.read(mirror.session_id, after=mirror.version, limit=PAGE)
                self._apply_all(mirror, page)
                is_current = len(page) < PAGE and mirror.skipped == skipped
        except Exception as error:  # noqa: BLE001  raised in _await_catch_up
            mirror.reply.stall(LogUnavailable(str(error)))
            self._remove(mirror)
        if mirror.state is MirrorState.CATCHING_UP:
            mirror.state = MirrorState.WAITING
            mirror.caught_up.set()
            if mirror.reply.version:
                self._start_stream(mirror)

    @property
    def _has_room(self) -> bool:
        return self._count < self._mirrors_max

    def _apply_all(self, mirror: ReplyMirror, page: Sequence[RecordedEvent]) -> None:
        for recorded in page:
            if recorded.version > mirror.version and mirror.reply.outcome is None:
                mirror.version = recorded.version
                self._apply(mirror, recorded)

    def _apply(self, mirror: ReplyMirror, recorded: RecordedEvent) -> None:
        event, reply = recorded.event, mirror.reply
        if recorded.type in ERASURE_TYPES or event is None:
            reply.end(Outcome("cancelled", "", recorded.version, reply.started_at_us, cause="deleted"))
            self._remove(mirror)
        elif getattr(event, "reply_id", None) != reply.reply_id:
            return
        elif isinstance(event, ReplyStarted):
            reply.start(recorded.version, recorded.recorded_at_us, event.model)
            mirror.node = node_of(recorded)
            if channel := self._context.feeds.find(mirror.session_id):
                channel.signal.notify()  # for readers that have read its start in the log and did not find the mirror
            if mirror.state is MirrorState.WAITING:
                self._start_stream(mirror)
        elif isinstance(event, ReplyProgressed):
            reply.extend(segment_of(event))
            reply.compact()
        elif isinstance(event, ReplyEnded):
            reply.end(reply_outcome(event, recorded, reply))
            self._remove(mirror)
        elif isinstance(event, MessageWithdrawn):
            reply.end(Outcome("cancelled", "", recorded.version, recorded.recorded_at_us, cause="withdrawn"))
            self._remove(mirror)

    def _start_stream(self, mirror: ReplyMirror) -> None:
        mirror.state, mirror.read_at_s = MirrorState.STREAMING, self._timer()
        mirror.task = asyncio.create_task(self._stream_text(mirror), name=f"mirror {mirror.reply.reply_id}")

    async def _stream_text(self, mirror: ReplyMirror) -> None:
        """Follow the text, with retries, until the reply's end is recorded or the mirror has no readers."""
        address, delays = parse_node_id(mirror.node), backoff_delays(*RETRY_S)
        while address is not None and mirror.state is MirrorState.STREAMING:
            if await self._stream_once(mirror, address):
                delays = backoff_delays(*RETRY_S)
            await asyncio.sleep(next(delays))  # the end is being recorded, or the node is in trouble: see the log

    async def _stream_once(self, mirror: ReplyMirror, address: NodeAddress) -> bool:
        """Follow the text until the connection ends. Returns whether the node sent any of it."""
        reply, has_answered = mirror.reply, False
        where, offset, part = (mirror.session_id, reply.reply_id), reply.length, PartHeader()
        try:
            async with aclosing(self._context.node_client.text(address, where, offset)) as text:
                async for line in text:
                    has_answered = True
                    part, piece = (line, "") if isinstance(line, PartHeader) else (part, line)
                    # A checkpoint in the log may have brought it meanwhile.
                    reply.extend(Segment(offset, piece, part.part, part.kind, part.call_id, part.name))
                    offset += len(piece)
                    if self._is_read(mirror):
                        mirror.read_at_s = self._timer()
                    elif self._timer() - mirror.read_at_s > UNREAD_MIRROR_S:
                        # A reader whose socket is blocked does not listen, but may come back.
                        reply.stall(LogUnavailable("nobody has read this reply here; follow the session for it"))
                        self._remove(mirror)
                        break
        except ReplyNotFound:
            pass  # not started or already ended: the log has the end
        except NodeUnreachable as error:
            self._logger.debug("mirror.lost", reason=str(error))
            self._context.on_node_lost()
        return has_answered

    def _is_read(self, mirror: ReplyMirror) -> bool:
        return bool(mirror.reply.signal.listeners) or self._context.feeds.find(mirror.session_id) is not None

    def _add(self, mirror: ReplyMirror) -> None:
        self._by_session.setdefault(mirror.session_id, {})[mirror.reply.reply_id] = mirror
        self._count += 1
        self._context.held_streams.hold(mirror.session_id)
        self._context.observe.mirrors(self._count)

    def _remove(self, mirror: ReplyMirror) -> None:
        mirrors = self._by_session.get(mirror.session_id, {})
        if mirrors.get(mirror.reply.reply_id) is mirror:
            del mirrors[mirror.reply.reply_id]
            self._count -= 1
            self._context.held_streams.release(mirror.session_id)
            self._context.observe.mirrors(self._count)
        if not mirrors:
            self._by_session.pop(mirror.session_id, None)
        mirror.state = MirrorState.OVER
        mirror.caught_up.set()
        if mirror.task is not None and mirror.task is not asyncio.current_task():
            mirror.task.cancel()

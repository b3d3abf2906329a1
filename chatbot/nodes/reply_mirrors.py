"""Replies that other nodes write, mirrored for who reads them here: the text comes from there, the end from the log.

A mirror is a Reply like those of our own sessions, so readers need not know the difference. While the other node cannot
be reached, it grows by the checkpoints that are recorded.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import structlog
from msgspec import Struct

from chatbot.nodes.node_client import NodeClient, NodeObserver, NodeUnreachable, ReplyNotFound
from chatbot.nodes.node_id import parse_node_id
from chatbot.sessions.domain.commands import SERVICE, Caller
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.replies.reply import Outcome, Reply, reply_outcome, requested_reply
from events.catalogue import ERASURE_TYPES, Parameters, ReplyEnded, ReplyProgressed, ReplyStarted
from events.errors import LogUnavailable
from events.log import EventLog
from events.record import RecordedEvent
from projections.folds.session import OpenReply, node_of

PAGE = 64  # events read at once to learn what has become of a reply
RETRY_S = (0.1, 2.0)  # between attempts to follow: the first pause, doubled up to the last
UNREAD_MIRROR_S = 30.0  # for which a mirror that nobody looks at is kept


class ReplyMirror:
    """One reply of another node. `version` is that of the newest event of its session that it has heard.

    While it is `learning` what came before, it is not told what comes; `missed` counts that.
    """

    def __init__(self, session_id: str, reply: Reply, version: int) -> None:
        self.session_id = session_id
        self.reply = reply
        self.version = version
        self.skipped = 0
        self.node: str | None = None
        self.catch_up_task: asyncio.Task[None] | None = None
        self.stream_task: asyncio.Task[None] | None = None


class MirrorContext(Struct, frozen=True):
    """What mirrors work with. `own_name` is this node's; `timer` gives monotonic seconds.

    `lost` is called when a node that writes a reply stops answering: somebody should look whether it lives.
    """

    own_name: str
    log: EventLog
    feeds: ChannelRegistry
    node_client: NodeClient
    mirrors_max: int
    timer: Callable[[], float]
    on_node_lost: Callable[[], None]
    observe: NodeObserver


class ReplyMirrors:
    """All of this node's, by session."""

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

    def running_reply(self, session_id: str) -> Reply | None:
        """The mirrored reply of the session that has started and not ended."""
        mirrors = self._by_session.get(session_id, {}).values()
        return next((one.reply for one in mirrors if one.reply.version and one.reply.outcome is None), None)

    async def mirror_running(self, session_id: str, written: OpenReply) -> Reply | None:
        """Mirror a reply that runs elsewhere. None: too many are mirrored, or it is over. Raises LogUnavailable."""
        known = self._by_session.get(session_id, {}).get(written.reply_id)
        if known is not None:
            return await self._await_catch_up(known)
        reply = Reply(written.message_id, written.reply_id, Parameters(), SERVICE)
        return await self._start_catch_up(session_id, reply, written.version - 1)

    async def mirror_pending(self, session_id: str, asked: RecordedEvent, caller: Caller) -> Reply | None:
        """Mirror a reply that waits elsewhere. None: too many are mirrored, or it is over. Raises LogUnavailable."""
        reply = requested_reply(asked, caller)
        if reply is None:
            return None
        known = self._by_session.get(session_id, {}).get(reply.reply_id)
        if known is not None:
            return await self._await_catch_up(known)
        return await self._start_catch_up(session_id, reply, asked.version)

    def on_remote_append(self, recorded: RecordedEvent) -> None:
        """The session's next event is recorded, by whichever node."""
        mirrors = self._by_session.get(recorded.stream_id, {})
        event = recorded.event
        is_new = isinstance(event, ReplyStarted) and node_of(recorded) != self._context.own_name
        if isinstance(event, ReplyStarted) and is_new and event.reply_id not in mirrors and self._has_room:
            mirror = ReplyMirror(recorded.stream_id, Reply(event.parent_id, event.reply_id, Parameters(), SERVICE), 0)
            self._add(mirror)
            mirrors = self._by_session[recorded.stream_id]
        for mirror in list(mirrors.values()):
            if mirror.catch_up_task is not None and not mirror.catch_up_task.done():
                mirror.skipped += 1
            else:
                self._apply_all(mirror, (recorded,))

    async def close(self) -> None:
        """Stop following; who still reads is told to come back."""
        mirrors = [mirror for of_session in self._by_session.values() for mirror in of_session.values()]
        for mirror in mirrors:
            self._remove(mirror)
            mirror.reply.stall(LogUnavailable("the service is shutting down; follow the session for the reply"))
        tasks = [task for one in mirrors for task in (one.catch_up_task, one.stream_task) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_catch_up(self, session_id: str, reply: Reply, after: int) -> Reply | None:
        """Register a mirror, and let it hear what has come before."""
        if not self._has_room:
            return None
        mirror = ReplyMirror(session_id, reply, after)
        self._add(mirror)
        # A task of its own: whoever asked may leave, and others may share the mirror already.
        mirror.catch_up_task = asyncio.create_task(self._catch_up(mirror), name=f"mirror {reply.reply_id}")
        return await self._await_catch_up(mirror)

    async def _await_catch_up(self, mirror: ReplyMirror) -> Reply | None:
        """The mirror's reply; None: it is over. Raises LogUnavailable."""
        reply = mirror.reply
        if mirror.catch_up_task is not None:
            await asyncio.wait([mirror.catch_up_task])
        if reply.outcome is None and reply.unrecorded is not None:
            raise LogUnavailable(str(reply.unrecorded))
        return reply if reply.outcome is None else None

    async def _catch_up(self, mirror: ReplyMirror) -> None:
        """Read until nothing has come meanwhile: to be told of that before all that precedes it would leave a gap."""
        is_current = False
        try:
            while not is_current:
                skipped = mirror.skipped
                page = await self._log.read(mirror.session_id, after=mirror.version, limit=PAGE)
                self._apply_all(mirror, page)
                is_current = len(page) < PAGE and mirror.skipped == skipped
        except Exception as error:  # noqa: BLE001  raised where it was asked for
            mirror.reply.stall(LogUnavailable(str(error)))
            self._remove(mirror)

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
                channel.signal.notify()  # who has read its start already, from the log, did not find it
            mirror.stream_task = asyncio.create_task(self._stream_text(mirror), name=f"mirror {reply.reply_id}")
        elif isinstance(event, ReplyProgressed):
            self._append_text(reply, event.offset, event.text)
            reply.compact()
        elif isinstance(event, ReplyEnded):
            reply.end(reply_outcome(event, recorded, reply))
            self._remove(mirror)

    def _append_text(self, reply: Reply, offset: int, text: str) -> None:
        """`text` continues the reply at `offset`; what is known of it already is passed over."""
        if offset <= reply.length < offset + len(text):
            reply.grow(text[reply.length - offset :])

    async def _stream_text(self, mirror: ReplyMirror) -> None:
        """Until the reply's end is recorded, or nobody reads it any more."""
        pause_s, read_at_s = RETRY_S[0], self._timer()
        address, reply = parse_node_id(mirror.node), mirror.reply
        while address is not None and reply.outcome is None:
            try:
                where, offset = (mirror.session_id, reply.reply_id), reply.length
                async with aclosing(self._context.node_client.text(address, where, offset)) as text:
                    async for piece in text:
                        pause_s = RETRY_S[0]
                        self._append_text(reply, offset, piece)  # which the log may have brought meanwhile
                        offset += len(piece)
                        read_at_s = self._timer() if self._is_read(mirror) else read_at_s
                        if self._timer() - read_at_s > UNREAD_MIRROR_S:
                            # One whose socket takes nothing does not listen, but may come back.
                            reply.stall(LogUnavailable("nobody has read this reply here; follow the session for it"))
                            self._remove(mirror)
                            return
            except ReplyNotFound:
                pass  # not yet, or not any more: the log will tell
            except NodeUnreachable as error:
                self._logger.debug("mirror.lost", reason=str(error))
                self._context.on_node_lost()
            await asyncio.sleep(pause_s)  # the end is being recorded, or the node is in trouble: the log will tell
            pause_s = min(2 * pause_s, RETRY_S[1])

    def _is_read(self, mirror: ReplyMirror) -> bool:
        return bool(mirror.reply.signal.listeners) or self._context.feeds.find(mirror.session_id) is not None

    def _add(self, mirror: ReplyMirror) -> None:
        self._by_session.setdefault(mirror.session_id, {})[mirror.reply.reply_id] = mirror
        self._count += 1
        self._context.observe.mirrors(self._count)

    def _remove(self, mirror: ReplyMirror) -> None:
        mirrors = self._by_session.get(mirror.session_id, {})
        if mirrors.get(mirror.reply.reply_id) is mirror:
            del mirrors[mirror.reply.reply_id]
            self._count -= 1
            self._context.observe.mirrors(self._count)
        if not mirrors:
            self._by_session.pop(mirror.session_id, None)
        for task in (mirror.catch_up_task, mirror.stream_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

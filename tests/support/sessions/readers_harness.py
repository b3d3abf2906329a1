"""Readers of a session's feed: the real Follower, a socket that can be held and cut, and a correct client."""

import asyncio
import copy
import json
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from chatbot.api.requests import Cursor
from chatbot.api.routes.feed_routes import make_feed_sources
from chatbot.api.services import Services
from chatbot.api.streaming.feed_writer import FeedWriter
from chatbot.api.streaming.response_stream import FlushScheduler, ResponseStream
from chatbot.config.settings import Settings
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import SessionNotFound
from chatbot.sessions.feeds.channels import KEPT_MAX
from events.errors import LogUnavailable
from events.record import RecordedEvent
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.http.frame_types import FRAME_TYPES, RECORDED_FRAME_TYPES
from tests.support.sessions.sessions_harness import SessionsHarness

GROWTH_TYPES = frozenset({"chunk", "reasoning", "refusal", "tool_call"})

FrameSummary = tuple[str, int, str | None]


def expected_frames(events: Iterable[RecordedEvent]) -> list[FrameSummary]:
    """What a client that follows is told of `events`: type, version, and which message or reply it is about."""
    told: list[FrameSummary] = []
    for one in events:
        if one.type in FRAME_TYPES:
            is_about_reply = one.type.startswith("reply") or one.type == "tool_calls_closed"
            about = getattr(one.event, "reply_id" if is_about_reply else "message_id", None)
            told.append((FRAME_TYPES[one.type], one.version, about))
    return told


class Span(Struct):
    """A stretch of a reply's flat text, which is of part `part`."""

    part: int
    kind: str
    call_id: str
    name: str
    begin: int
    end: int


class ReceivedReply(Struct):
    """What a client has of one reply: `text`, which begins after `missed` code points that it never was to get. It is
    flat: the texts of all parts, which `spans` tell apart.
    """

    text: str = ""
    spans: list[Span] = []
    missed: int = 0
    ended: bool = False
    may_restart: bool = False  # it was interrupted: another attempt may begin, or end before it began

    @property
    def length(self) -> int:
        return self.missed + len(self.text)

    def add(self, frame: dict[str, Any]) -> None:
        text = frame["arguments" if frame["type"] == "tool_call" else "content"]
        part, kind = frame.get("part", 0), frame["type"].replace("chunk", "text")
        span = Span(part, kind, frame.get("call_id", ""), frame.get("name", ""), self.length, self.length + len(text))
        assert not self.spans or self.spans[-1].part <= part, "a part after a later one"
        self.spans.append(span)
        self.text += text

    def cut(self, length: int) -> None:
        """Keep so many code points of the flat text."""
        self.text = self.text[: max(0, length - self.missed)]
        self.missed = min(self.missed, length)
        self.spans = [replace(span, end=min(span.end, length)) for span in self.spans if span.begin < length]


class FeedClient:
    """A correct client of a feed. Raises AssertionError at the first frame that no correct server would send.

    `cursor` is what it says when it comes back, `held` what it has of each reply by id, `origin` the version after
    which it has been told everything, `told` what it was told of recorded events.
    """

    def __init__(
        self, cursor: str | None = None, held: dict[str, ReceivedReply] | None = None, missed: int = 0
    ) -> None:
        self.cursor = cursor
        self.held = held or {}
        self.missed = missed  # code points, of the reply that was open where it came in
        self.origin = None if cursor is None else int(cursor.partition(":")[0])
        self.told: list[FrameSummary] = []
        self.cuts: list[str] = []  # replies of which a crash took something back
        self.draining = False
        self.retry_ms = 0
        self.resyncs = 0
        self.over = False

    def at(self) -> tuple[int, int]:
        version, _, offset = (self.cursor or "").partition(":")
        return int(version or 0), int(offset or -1)

    def take(self, data: bytes) -> None:
        for block in data.decode().split("\n\n")[:-1]:
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            self.retry_ms = int(lines.get("retry", self.retry_ms))
            if "data" not in lines:
                continue  # a ping, or a service that asks to come back
            assert not self.over, "a frame after [DONE]"
            assert not self.draining, "a frame after draining"
            if lines["data"] == "[DONE]":
                self.over = True
            else:
                self._take(lines["id"], json.loads(lines["data"]))

    def _take(self, cursor: str, frame: dict[str, Any]) -> None:
        kind, before = frame["type"], self.at()
        self.cursor = cursor
        version, offset = self.at()
        assert kind in ("draining", "resync") or (version, offset) > before, f"{cursor} after {before}"
        assert frame.get("version", version) == version
        if kind in GROWTH_TYPES:
            self._chunk(frame, offset)
        elif kind == "start":
            self.held[frame["message_id"]] = ReceivedReply()
        elif kind in ("complete", "error"):
            self._end(frame)
        elif kind == "draining":
            assert (version, offset) >= before
            self.draining = True
        elif kind == "resync":
            self.resyncs += 1
        if self.origin is None or kind == "resync":  # the first frame: the session, or what is left of it, as of now
            self.origin, self.missed = version, offset
        elif kind in RECORDED_FRAME_TYPES:
            self.told.append((kind, version, frame.get("message_id")))

    def _chunk(self, frame: dict[str, Any], offset: int) -> None:
        held = self.held.setdefault(frame["message_id"], ReceivedReply(missed=self.missed))
        assert not held.ended, "text after the end"
        assert frame.get("content", frame.get("arguments")), "a frame for nothing"
        held.add(frame)
        assert held.length == offset, f"has {held.length} code points, and is told that it has {offset}"

    def _end(self, frame: dict[str, Any]) -> None:
        known = frame["message_id"] in self.held
        held = self.held.setdefault(frame["message_id"], ReceivedReply(missed=self.missed))
        kept = sum(frame.get("part_lengths", [])) or frame.get("length", 0)
        given_up = held.ended and held.may_restart and not kept
        assert not held.ended or given_up, "ended twice"
        held.ended, held.may_restart = True, frame.get("status") == "interrupted"
        if frame["type"] == "complete":
            if all((span.part, span.kind) == (0, "text") for span in held.spans) and not held.missed:
                assert frame["full_response"] == held.text
        elif not known and not kept:
            held.missed = 0  # one that waited, most likely: nothing is known of it
        elif given_up:
            held.text, held.missed = "", 0
        else:
            assert held.length >= kept, "text is missing at the end"
            if held.length > kept:
                self.cuts.append(f"{frame['status']} {frame['message_id']}")
                held.cut(kept)


class ReaderSocket:
    """The reader's socket. Held, it takes nothing; `early`: what it does not take yet the client has seen all the same.

    Stands where EventStream does.
    """

    def __init__(self, client: FeedClient, handed_out: list[FeedClient], *, early: bool) -> None:
        self.client = client
        self.waiting: bytes | None = None  # the one frame that it holds up
        self.is_cut = False
        self._client_states = handed_out
        self._delivers_early = early
        self._seen = False
        self._is_first = True
        self._free = asyncio.Event()
        self._free.set()

    def push(self, frames: bytes) -> bool:
        assert self.waiting is None, "two frames at once"
        assert frames.startswith(b"retry: ") or not self._is_first, "the first frame says when to come back"
        if self.is_cut:
            raise ConnectionResetError("the reader has left")
        self._is_first = False
        self.waiting, self._seen = frames, False
        if self._delivers_early or self._free.is_set():
            self._deliver()
        if self._free.is_set():
            self.waiting = None
        return self.waiting is None

    async def drain(self) -> None:
        try:
            await self._free.wait()
            if self.is_cut:
                raise ConnectionResetError("the reader has left")
            self._deliver()
        finally:
            self.waiting = None

    async def send(self, frames: bytes) -> None:
        if not self.push(frames):
            await self.drain()

    @property
    def is_stuck(self) -> bool:
        return self.waiting is not None and not self._free.is_set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def cut(self, *, seen: bool) -> None:
        """No more reaches the client, but perhaps what is on its way. The next who writes is told."""
        if self.waiting is not None and seen:
            self._deliver()
        self.is_cut = True
        self._free.set()

    def _deliver(self) -> None:
        if self.waiting is not None and not self._seen and not self.is_cut:
            self._seen = True
            self.client.take(self.waiting)
            self._client_states.append(copy.deepcopy(self.client))


class FeedLog:
    """The log as a feed sees it: for reading. `closed`: the disk cannot be read."""

    def __init__(self, log: SqliteLog, *, closed: bool) -> None:
        self.closed = closed
        self._log = log

    async def read(self, *arguments: Any, **options: Any) -> list[RecordedEvent]:
        if self.closed:
            raise LogUnavailable("the disk cannot be read")
        return await self._log.read(*arguments, **options)


class FeedServices(Struct):
    """What a feed needs of the service."""

    settings: Settings
    log: FeedLog
    runner: Any
    queries: Any
    supervisor: Any
    session_queries: Any
    feeds: Any
    logger: Any


class FeedRequest:
    """One request for the feed. `task` ends when the feed does, or the reader leaves."""

    def __init__(self, real: SessionsHarness, session_id: str, wire: ReaderSocket, caller: Caller) -> None:
        self.wire = wire
        self.feed: FeedWriter | None = None
        self._real = real
        self._session_id = session_id
        self._asker = caller
        self.task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self.task is not None and not self.task.done()

    def open(self, *, bad_disk: bool = False) -> None:
        shelf = FeedLog(self._real.log, closed=bad_disk)
        self.task = asyncio.create_task(self._follow(_cursor(self.wire.client.cursor), shelf))

    async def _follow(self, cursor: Cursor | None, shelf: FeedLog) -> None:
        """As the handler does."""
        real, client = self._real, self.wire.client
        parts = FeedServices(
            Settings(), shelf, real.runner, real.runner.queries,
            real.supervisor, real.reader, real.ports.feeds, real.ports.logger,
        )  # fmt: skip
        sources = make_feed_sources(cast(Services, parts), FlushScheduler())
        with real.ports.feeds.open(self._session_id) as channel:
            try:
                session = await real.reader.session(self._session_id, self._asker)
                channel.advance_to(session.version)
                self.feed = FeedWriter(sources, session, channel)
                await self.feed.begin(session, cursor)
            except SessionNotFound:
                client.over = True
                return
            except LogUnavailable:
                return
            try:
                await self.feed.write(cast(ResponseStream, self.wire))
            except ConnectionError:
                return
        assert client.over or client.draining or shelf.closed, "the feed has ended without a word"

    def check_memory(self) -> None:
        """Nothing in it can grow while its reader takes nothing."""
        if self.feed is not None:
            growing = (list, dict, set, deque, bytearray, asyncio.Queue)
            assert not [value for value in vars(self.feed).values() if isinstance(value, growing)]
            kept = self.feed._channel._kept
            assert len(kept) <= KEPT_MAX


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    version, _, offset = text.partition(":")
    return Cursor(int(version), int(offset) if offset else None)

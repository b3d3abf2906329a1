"""The real supervisor, actors, log and projections on real files, with hand-made model, clock and passing of time."""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import structlog

from chatbot.holds.hold_registry import HoldRegistry
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.runtime.clock import NextDeadline
from chatbot.runtime.ids import Ids
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.conversations import ConversationOptions, Conversations
from chatbot.sessions.domain.state import Rules
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.ports import Limits, Ports
from chatbot.sessions.replies.reply import ReplyTiming
from chatbot.sessions.session_queries import SessionQueries
from events.catalogue import Event, ReplyEnded, ReplyStarted
from events.errors import LogUnavailable
from events.options import LogOptions
from events.record import Metadata, RecordedEvent, StreamVersion
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.factory import create_runner
from projections.runner import ProjectionRunner
from tests.support.model.manual_provider import ManualProvider

DATABASE_FILES = ("log.db", "log.db-wal", "projections.db", "projections.db-wal")
PENDING_MAX, CONTEXT_MAX, ACCESS_US = 3, 4, 60_000_000
CONVERSATIONS = ConversationOptions(timeout_s=3600, retention_s=60, stateless_max_bytes=10_000)
CHECKPOINT_S, IDLE_S = 50.0, 5_000.0  # of the loop's time, which only `skip` moves so far


class TimeTravelLoop(asyncio.SelectorEventLoop):
    """Time passes as it does, and leaps ahead where a test says so."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


class FailingStore(SqliteLog):
    """A real log whose disk refuses while `refusing`."""

    refusing = False

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        self._check_available()
        return await super().append(stream_id, expected_version, events, metadata)

    async def erase(
        self,
        stream_id: str,
        expected_version: int,
        event: Event,
        metadata: Metadata,
        *,
        unchanged: StreamVersion | None = None,
    ) -> tuple[RecordedEvent, ...]:
        self._check_available()
        return await super().erase(stream_id, expected_version, event, metadata, unchanged=unchanged)

    def _check_available(self) -> None:
        if self.refusing:
            raise LogUnavailable("the disk is full")


class CountingObserver:
    """A SessionObserver that only counts."""

    def __init__(self) -> None:
        self.live = 0
        self.failed = 0
        self.early = 0
        self.held = 0
        self.ended: list[str] = []

    def actors(self, live: int) -> None:
        self.live = live

    def refused(self, reason: str) -> None: ...

    def actor_failed(self) -> None:
        self.failed += 1

    def erasure_held(self) -> None:
        self.held += 1

    def erased_early(self) -> None:
        self.early += 1

    def reply_closed(self, provider: str, ended: ReplyEnded) -> None: ...

    def reply_ended(
        self, started: ReplyStarted, ended: ReplyEnded, timing: ReplyTiming, request_id: str | None
    ) -> None:
        self.ended.append(ended.reply_id)


class SessionsHarness:
    """The service without its web; made by `open`, ended by `close` or `crash`, which may be followed by `open`."""

    log: FailingStore
    runner: ProjectionRunner
    supervisor: Supervisor
    reader: SessionQueries
    ports: Ports
    conversations: Conversations

    def __init__(self, folder: Path, **rules: Any) -> None:
        self.folder = folder
        self.restarts = 0
        self.told_deadlines: list[int] = []
        self.next_deadline = NextDeadline()
        self.now_us = 1_800_000_000_000_000
        self.seen = CountingObserver()
        self.provider = ManualProvider()
        self._rules = {"max_context_messages": CONTEXT_MAX, "pending_max": PENDING_MAX, **rules}

    @property
    def room(self) -> Path:
        """Where this life's files are."""
        return self.folder / str(self.restarts)

    async def open(self) -> None:
        self.room.mkdir(exist_ok=True)
        self.seen, self.provider = CountingObserver(), ManualProvider()
        options = LogOptions(read_connections=1)
        opened = await FailingStore.open(self.room / "log.db", options, clock=self.clock)
        self.log = cast(FailingStore, opened)
        self.runner = create_runner(self.room / "projections.db", self.log)
        await self.runner.start()
        await self.runner.wait_for(self.log.head().position)
        self.ports = self._ports()
        self.supervisor = Supervisor(self.ports)
        self.reader = SessionQueries(self.ports, self.supervisor.ask)
        self.conversations = Conversations(self.supervisor.ask, CONVERSATIONS, Ids().uuid, self.told_deadlines.append)

    async def close(self) -> None:
        """As the service stops, with no grace for running replies."""
        await self.supervisor.drain(grace_s=0)
        await self._release()

    async def crash(self) -> None:
        """What `kill -9` leaves is in the next room; what this life still does there is lost."""
        before = self.room
        self.restarts += 1
        self.room.mkdir()
        for name in DATABASE_FILES:
            if (before / name).exists():
                shutil.copy(before / name, self.room)
        await self._release()

    def forget_projections(self) -> None:
        for path in self.room.glob("projections.db*"):
            path.unlink()

    def clock(self) -> int:
        return self.now_us

    def skip(self, seconds: float) -> None:
        """Let time leap: timers within are due now."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, TimeTravelLoop)
        loop.skipped_s += seconds

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        """Raises AssertionError when it does not come about in half a real minute."""
        give_up_s = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < give_up_s, f"waited in vain until {what}"
            await asyncio.sleep(0.0005)

    async def _release(self) -> None:
        await self.supervisor.close()
        await self.runner.stop()
        await self.log.close()

    def _ports(self) -> Ports:
        return Ports(
            log=self.log,
            runner=self.runner,
            queries=self.runner.queries,
            provider=self.provider,
            limiter=ConcurrencyLimiter(64, 64),
            rules=Rules(
                node="node", provider="hand", model="hand-model", access_resolution_us=ACCESS_US, **self._rules
            ),
            limits=Limits(
                live_max=100,
                mailbox_max=64,
                idle_timeout_s=IDLE_S,
                ask_timeout_s=1e6,
                checkpoint_interval_s=CHECKPOINT_S,
                read_page_max=3,
            ),
            texts=TextCache(self.log, 1_000_000),
            feeds=ChannelRegistry(),
            observer=self.seen,
            clock=self.clock,
            holds=HoldRegistry(self.log),
            timer=asyncio.get_running_loop().time,
            logger=structlog.get_logger("test"),
            notify_deadline=self.next_deadline.notify,
        )

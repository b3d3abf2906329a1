"""Projections that one process keeps are read by others as if they were their own."""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from events.catalogue import SessionAccessed
from events.errors import LogBusy, LogUnavailable, UnknownEvent
from projections.errors import ProjectionLag, ProjectionsStopped, ProjectionsUnavailable
from projections.factory import create_runner
from projections.runner import ProjectionRunner
from projections.shared import projection_follower
from projections.shared.projection_follower import ProjectionFollower
from projections.shared.projection_publisher import ProjectionPublisher
from projections.shared.shared_progress import SharedProgress, create_progress_file
from projections.sqlite.schema import SCHEMA_VERSION
from tests.integration.projections.test_projection_runner import garble_middle
from tests.support.log.event_builders import created, turns
from tests.support.log.log_files import foreign
from tests.support.log.memory_log import MemoryLog
from tests.support.sessions.projection_harness import OPTIONS, RecordingObserver


class Link:
    """What is between the two processes, without a socket: both ends of one connection."""

    def __init__(self) -> None:
        self._publisher: ProjectionPublisher | None = None
        self._pushed: defaultdict[str, list[Callable[[bytes], None]]] = defaultdict(list)
        self._connected: list[Callable[[], None]] = []
        self.names: list[str] = []  # of the requests
        self.refusals = 0  # of the next requests

    def connect(self, publisher: ProjectionPublisher | None) -> None:
        """None: the process that keeps the projections is gone."""
        if self._publisher is not None:
            self._publisher.forget(self)
        self._publisher = publisher
        if publisher is not None:
            for callback in self._connected:
                callback()

    def push(self, name: str, body: bytes) -> None:
        for callback in self._pushed[name]:
            asyncio.get_running_loop().call_soon(callback, body)

    async def request(self, name: str, body: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        self.names.append(name)
        if self.refusals:
            self.refusals -= 1
            raise LogBusy("too many requests wait")
        if self._publisher is None:
            raise LogUnavailable("nobody writes the log now")
        return await self._publisher.handlers[name](self, body)

    def on_push(self, name: str, callback: Callable[[bytes], None]) -> None:
        self._pushed[name].append(callback)

    def on_connected(self, callback: Callable[[], None]) -> None:
        self._connected.append(callback)
        if self._publisher is not None:
            callback()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "projections.db"


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    for name in "abc":
        log.record(name, created("alice"), *turns(20))
    return log


@pytest.fixture
def descriptor() -> Iterator[int]:
    number = create_progress_file()
    yield number
    os.close(number)


@asynccontextmanager
async def kept(
    path: Path, log: MemoryLog, descriptor: int, link: Link, told: RecordingObserver | None = None
) -> AsyncIterator[ProjectionRunner]:
    """The projections as the process that keeps them has them, connected with `link`."""
    progress = SharedProgress(descriptor)
    runner = create_runner(path, log, told, OPTIONS, progress.set_available)
    publisher = ProjectionPublisher(runner, progress)
    await runner.start()
    link.connect(publisher)
    try:
        yield runner
    finally:
        link.connect(None)
        await runner.stop()


@asynccontextmanager
async def read(path: Path, log: MemoryLog, descriptor: int, link: Link) -> AsyncIterator[ProjectionFollower]:
    """The same, as another process reads them."""
    follower = ProjectionFollower(path, log, link, SharedProgress(descriptor), wait_s=5)
    await follower.start()
    try:
        yield follower
    finally:
        await follower.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_reader_sees_what_it_waits_for_and_asks_only_if_that_is_not_folded(path: Path, descriptor: int) -> None:
    log, link = MemoryLog(), Link()
    async with kept(path, log, descriptor, link), read(path, log, descriptor, link) as follower:
        for n in range(5):
            log.record(f"s{n}", created())
            await follower.wait_for(log.head().position)
            assert await follower.queries.counts() == {"active": n + 1}
        assert (follower.position, follower.lag, follower.rebuilding) == (5, 0, False)
        asked = len(link.names)
        await follower.wait_for(5)
        assert len(link.names) == asked


async def test_what_never_comes_is_not_waited_for_longer_than_allowed(path: Path, descriptor: int) -> None:
    log, link = MemoryLog(), Link()
    async with kept(path, log, descriptor, link), read(path, log, descriptor, link) as follower:
        with pytest.raises(ProjectionLag):
            await follower.wait_for(1, timeout_s=0.05)


async def test_a_reader_waits_while_another_process_takes_over(path: Path, log: MemoryLog, descriptor: int) -> None:
    link = Link()
    async with read(path, log, descriptor, link) as follower:
        assert follower.rebuilding
        async with kept(path, log, descriptor, link):
            await follower.wait_for(log.head().position)
            await until(lambda: not follower.rebuilding)
        log.record("d", created())
        waiting = asyncio.create_task(follower.wait_for(log.head().position))
        await asyncio.sleep(0.05)
        assert await follower.queries.counts() == {"active": 3}
        seen: list[bool] = []
        async with kept(path, log, descriptor, link):
            while not waiting.done():
                seen.append(follower.rebuilding)
                await asyncio.sleep(0)
            await waiting
            assert await follower.queries.counts() == {"active": 4}
        assert not any(seen)  # the new one is behind for a moment, which is no rebuild


async def test_a_file_that_is_replaced_is_opened_again(path: Path, log: MemoryLog, descriptor: int) -> None:
    link, told = Link(), RecordingObserver()
    async with kept(path, log, descriptor, link, told), read(path, log, descriptor, link) as follower:
        for times in range(1, 4):
            await follower.wait_for(log.head().position)
            await until(lambda: not follower.rebuilding)
            assert await follower.queries.counts() == {"active": 2 + times}
            path.unlink()
            log.record(f"another {times}", created())
            await until(lambda times=times: len(told.reasons) == times and follower.lag == 0)  # type: ignore[misc]  # default
        assert await follower.queries.counts() == {"active": 6}


async def test_damage_that_a_reader_finds_has_the_file_replaced(path: Path, log: MemoryLog, descriptor: int) -> None:
    link, told = Link(), RecordingObserver()
    async with kept(path, log, descriptor, link):
        pass
    async with kept(path, log, descriptor, link, told), read(path, log, descriptor, link) as follower:
        await follower.wait_for(log.head().position)
        garble_middle(path)
        with pytest.raises(ProjectionsUnavailable):
            await follower.queries.path(1, "r20", limit=200)
        await until(lambda: told.reasons != [] and not follower.rebuilding)
        assert await follower.queries.counts() == {"active": 3}
    assert len(told.reasons) == 1


async def test_the_file_of_another_version_is_not_read(path: Path, log: MemoryLog, descriptor: int) -> None:
    """As of a writer that was replaced by one of a newer program, before the workers are."""
    link, told = Link(), RecordingObserver()
    async with kept(path, log, descriptor, link, told) as runner, read(path, log, descriptor, link) as follower:
        await until(lambda: not runner.rebuilding)
        foreign(path, f"UPDATE meta SET schema_version = {SCHEMA_VERSION + 1}", "DROP TABLE sessions").close()
        for _ in range(2):
            with pytest.raises(ProjectionsUnavailable, match=f"version {SCHEMA_VERSION + 1}"):
                await follower.queries.counts()
        assert told.reasons == []
        path.unlink()
        log.record("another", created())
        await until(lambda: len(told.reasons) == 1 and follower.lag == 0)
        assert await follower.queries.counts() == {"active": 4}


async def test_an_event_of_a_newer_program_stops_readers_too(path: Path, log: MemoryLog, descriptor: int) -> None:
    link = Link()
    async with kept(path, log, descriptor, link), read(path, log, descriptor, link) as follower:
        await follower.wait_for(log.head().position)
        log.fails_with = UnknownEvent("from_the_future", 9)
        log.record("a", SessionAccessed())
        with pytest.raises(ProjectionsStopped):
            await follower.wait_for(log.head().position)
        assert follower.unknown_event is not None
        assert follower.unknown_event.event_type == "from_the_future"
        assert await follower.queries.counts() == {"active": 3}
    async with read(path, log, descriptor, link) as late:
        link.connect(None)
        assert late.failure is None


async def test_trouble_is_told_and_goes_away(path: Path, log: MemoryLog, descriptor: int) -> None:
    link = Link()
    async with kept(path, log, descriptor, link), read(path, log, descriptor, link) as follower:
        await follower.wait_for(log.head().position)
        log.fails_with = LogUnavailable("for a while")
        log.record("a", SessionAccessed())
        await until(lambda: follower.trouble is not None)
        log.fails_with = None
        follower.retry()
        await until(lambda: follower.trouble is None and follower.lag == 0)


async def test_changes_of_lists_are_told_only_to_those_with_readers_of_lists(
    path: Path, log: MemoryLog, descriptor: int
) -> None:
    link = Link()
    async with kept(path, log, descriptor, link) as runner, read(path, log, descriptor, link) as follower:
        told: list[tuple[frozenset[str] | None, int]] = []
        follower.on_changed(lambda owners, position: told.append((owners, position)))
        await follower.wait_for(log.head().position)
        log.record("a", SessionAccessed())
        await follower.wait_for(log.head().position)
        await asyncio.sleep(0.02)
        assert told == []
        follower.set_list_readers(has_readers=True)
        await until(lambda: told == [(None, log.head().position)])
        assert runner._has_list_readers
        log.record("a", SessionAccessed())
        await until(lambda: told[1:] == [(frozenset({"alice"}), log.head().position)])
        follower.set_list_readers(has_readers=False)
        log.record("a", SessionAccessed())
        await follower.wait_for(log.head().position)
        await asyncio.sleep(0.02)
        assert len(told) == 2
        assert not runner._has_list_readers


async def test_a_process_with_readers_of_lists_that_has_ended_has_none(
    path: Path, log: MemoryLog, descriptor: int
) -> None:
    link = Link()
    async with kept(path, log, descriptor, link) as runner, read(path, log, descriptor, link) as follower:
        follower.set_list_readers(has_readers=True)
        await until(lambda: runner._has_list_readers)
        link.connect(None)
        assert not runner._has_list_readers


async def test_readers_of_lists_are_announced_until_that_succeeds(
    path: Path, log: MemoryLog, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_follower, "LISTS_RETRY_S", 0.01)
    link = Link()
    async with kept(path, log, descriptor, link), read(path, log, descriptor, link) as follower:
        told: list[tuple[frozenset[str] | None, int]] = []
        follower.on_changed(lambda owners, position: told.append((owners, position)))
        await follower.wait_for(log.head().position)
        link.refusals = 2
        follower.set_list_readers(has_readers=True)
        await until(lambda: told == [(None, log.head().position)])

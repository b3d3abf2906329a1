"""Each store against a model in memory: whatever is appended, raced, erased and reopened, in whatever order."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from events.catalogue import SCHEMA_VERSIONS, Event
from events.errors import VersionConflict
from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.record import Head
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_EVENT, deleted, posted
from tests.support.nightly import scaled
from tests.support.programs.postgres_server import PostgresServer

T = TypeVar("T")

streams = st.sampled_from(["a", "b", "c"])
events = st.lists(st.one_of(st.sampled_from(EVERY_EVENT), st.text(max_size=40).map(posted)), min_size=1, max_size=3)
offsets = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1, 5])  # mostly the right version
OPTIONS = LogOptions(append_batch_max=6, read_connections=1)
NONE: list[Event | None] = []


class LogAgainstModel(RuleBasedStateMachine):
    """The model: each stream is a list of events, None where the content was erased; `order` is the log's."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.streams: dict[str, list[Event | None]] = {}
        self.order: list[tuple[str, int]] = []
        self.log: SqliteLog | PostgresLog = self.run(self.opened())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def opened(self) -> SqliteLog | PostgresLog:
        log = await SqliteLog.open(self.directory / "log.db", OPTIONS)
        await put_sample_files(log)
        return log

    def teardown(self) -> None:
        self.run(self.log.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    def version(self, stream_id: str) -> int:
        return len(self.streams.get(stream_id, NONE))

    def record(self, stream_id: str, appended: list[Event]) -> None:
        for event in appended:
            self.streams.setdefault(stream_id, []).append(event)
            self.order.append((stream_id, self.version(stream_id)))

    @rule(stream_id=streams, appended=events, offset=offsets)
    def append(self, stream_id: str, appended: list[Event], offset: int) -> None:
        self.race([(stream_id, appended, offset)])

    @rule(appends=st.lists(st.tuples(streams, events, offsets), min_size=2, max_size=6))
    def race(self, appends: list[tuple[str, list[Event], int]]) -> None:
        """Appends that wait together. An offset of 0 is right after those before it in the queue."""
        expected, conflicts, asked = dict[str, int](), [], []
        for stream_id, appended, offset in appends:
            version = expected.setdefault(stream_id, self.version(stream_id))
            wrong = max(version + offset, 0) != version
            asked.append((stream_id, max(version + offset, 0), appended))
            conflicts.append(wrong)
            if not wrong:
                expected[stream_id] += len(appended)
                self.record(stream_id, appended)

        async def together() -> list[Any]:
            # Known in advance: an append that waits for this lets others go ahead.
            assert await self.log.admits(SCHEMA_VERSIONS)
            return await asyncio.gather(
                *(self.log.append(stream_id, version, appended, ASKED) for stream_id, version, appended in asked),
                return_exceptions=True,
            )

        results = self.run(together())
        assert [isinstance(result, VersionConflict) for result in results] == conflicts
        for (stream_id, version, appended), result, conflict in zip(asked, results, conflicts, strict=True):
            if not conflict:
                assert [(event.stream_id, event.version, event.event) for event in result] == [
                    (stream_id, version + place, event) for place, event in enumerate(appended, 1)
                ]

    @rule(stream_id=streams, offset=offsets)
    def erase(self, stream_id: str, offset: int) -> None:
        version = self.version(stream_id)
        asked = max(version + offset, 0)
        try:
            self.run(self.log.erase(stream_id, asked, deleted(), ASKED))
        except VersionConflict:
            assert asked != version
        else:
            assert asked == version
            self.streams[stream_id] = [None] * version
            self.record(stream_id, [deleted()])
            assert not self.log.erasure_pending

    @precondition(lambda self: self.order)
    @rule()
    def reopen(self) -> None:
        self.run(self.log.close())
        self.log = self.run(self.opened())

    @rule(stream_id=streams, after=st.integers(0, 12), limit=st.integers(1, 12), backwards=st.booleans())
    def read(self, stream_id: str, after: int, limit: int, backwards: bool) -> None:
        expected = list(enumerate(self.streams.get(stream_id, NONE), 1))[after:]
        if backwards:
            expected.reverse()
        found = self.run(self.log.read(stream_id, after=after, limit=limit, backwards=backwards))
        assert [(event.version, event.event) for event in found] == expected[:limit]

    @rule(positions=st.lists(st.integers(-1, 40), max_size=8))
    def read_at(self, positions: list[int]) -> None:
        found = self.run(self.log.read_at(positions))
        assert set(found) == {position for position in positions if 1 <= position <= len(self.order)}
        for position, event in found.items():
            assert (event.stream_id, event.version) == self.order[position - 1]

    @invariant()
    def the_log_is_the_model(self) -> None:
        found = self.run(self.log.read_all(limit=10_000))
        assert [event.position for event in found] == list(range(1, len(self.order) + 1))
        assert [(event.stream_id, event.version) for event in found] == self.order
        assert [event.event for event in found] == [
            self.streams[stream_id][version - 1] for stream_id, version in self.order
        ]

    @invariant()
    def the_chain_is_whole(self) -> None:
        walk, fault = self.run(verify(self.log))
        assert fault is None
        assert self.log.head() == Head(walk.position, walk.digest)
        assert self.log.failure is None


LogAgainstModel.TestCase.settings = settings(
    max_examples=scaled(40),
    stateful_step_count=25,
    deadline=None,  # the disk decides how long an fsync takes
    suppress_health_check=[HealthCheck.too_slow],
)
TestLogAgainstModel = LogAgainstModel.TestCase


class PostgresAgainstModel(LogAgainstModel):
    """In a new schema each time."""

    server: PostgresServer

    def __init__(self) -> None:
        self.url = ""
        super().__init__()

    async def opened(self) -> SqliteLog | PostgresLog:
        self.url = self.url or await self.server.schema()
        log = await PostgresLog.open(self.url, OPTIONS)
        await put_sample_files(log)
        return log


PostgresAgainstModel.TestCase.settings = settings(LogAgainstModel.TestCase.settings, max_examples=scaled(10))


@pytest.fixture
def server(postgres: PostgresServer) -> None:
    PostgresAgainstModel.server = postgres


TestPostgresAgainstModel = pytest.mark.timeout(600)(  # a schema for each example, on a machine that may be busy
    pytest.mark.real_part(pytest.mark.usefixtures("server")(PostgresAgainstModel.TestCase))
)

"""Projections in PostgreSQL: one node folds for all, and another takes over when it is gone."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from events.errors import LogUnavailable, UnknownEvent
from events.options import LogOptions
from events.record import Metadata, RecordedEvent
from events.storage.postgres.postgres_connection import Database
from events.storage.postgres.postgres_log import PostgresLog
from projections.checkpoint import checkpoint_at
from projections.errors import ProjectionLag, ProjectionsUnavailable, ProjectionsUnusable
from projections.port import ChangesQuery, SessionListQuery
from projections.postgres import node_projections
from projections.postgres.node_projections import NodeProjections
from projections.postgres.projection_schema import PREFIX
from projections.postgres.projection_tables import LOCK, ProjectionTables
from projections.postgres.server_session import ServerSession
from projections.postgres.table_rebuild import rebuild_tables
from projections.postgres.table_writer import FenceError, TableWriter
from projections.runner import RunnerOptions
from tests.support.log.event_builders import created, turn
from tests.support.programs.postgres_server import PostgresServer
from tests.support.sessions.projection_harness import RecordingObserver

pytestmark = pytest.mark.real_part
OPTIONS = RunnerOptions(retry_first_s=0.01, retry_max_s=0.05, file_check_s=0.0)


class Node:
    """A node's log and projections."""

    def __init__(self, log: PostgresLog) -> None:
        self.log = log
        self.told = RecordingObserver()
        self.projections = NodeProjections(log, log.database, log.pool, self.told, OPTIONS)

    async def append(self, stream_id: str, expected: int, *events: Any) -> int:
        recorded = await self.log.append(stream_id, expected, events, Metadata())
        return recorded[-1].position

    @property
    def folds(self) -> bool:
        return self.projections._runner is not None

    async def shown(self, session_id: str) -> object:
        """The session, as a node answers that believes to have everything up to position 4."""
        await self.projections.wait_for(4, timeout_s=0.5)
        return await self.projections.queries.session(session_id)

    async def version(self, session_id: str) -> int:
        """Of the session, as the projections show it once they have everything that is recorded."""
        await self.projections.wait_for((await self.log.latest()).position, timeout_s=20)
        session = await self.projections.queries.session(session_id)
        return 0 if session is None else session.version


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


@asynccontextmanager
async def node(url: str, log: PostgresLog | None = None) -> AsyncIterator[Node]:
    log = log or await PostgresLog.open(url)
    one = Node(log)
    try:
        await one.projections.start()
        yield one
        await one.projections.stop()
    finally:
        await log.close()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def end_sessions(url: str, of: Node) -> None:
    """The server ends the session of the node that folds, as after a failure of its host."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::bigint::oid"
            " AND objid = current_schema()::regnamespace::oid",
            LOCK,
        )
    finally:
        await connection.close()


async def test_one_node_folds_and_each_reads_what_any_has_written(url: str) -> None:
    async with node(url) as first, node(url) as second:
        assert (first.folds, second.folds) == (True, False)
        for writer, version, events in ((first, 1, [created()]), (second, 4, turn(4)), (first, 7, turn(7))):
            await writer.append("s", version - len(events), *events)
            assert [await one.version("s") for one in (second, first)] == [version, version]
        assert second.told.batches == [], "it folds nothing"
        assert [one.projections.rebuilding for one in (first, second)] == [False, False]


async def test_another_node_takes_over_from_one_that_stops(url: str) -> None:
    async with node(url) as second_at_first, node(url) as other:
        await second_at_first.append("s", 0, created())
        assert await other.version("s") == 1
        await second_at_first.projections.stop()
        await other.append("s", 1, *turn(1))
        assert await other.version("s") == 4
        assert other.folds


async def test_a_node_that_loses_its_connection_folds_no_more_until_it_has_the_lock_again(url: str) -> None:
    async with node(url) as first, node(url) as second:
        await first.append("s", 0, created())
        assert await second.version("s") == 1
        await end_sessions(url, first)
        await second.append("s", 1, *turn(1))
        assert [await first.version("s"), await second.version("s")] == [4, 4]
        assert first.folds is not second.folds


async def test_readers_of_lists_on_a_node_that_does_not_fold_are_told_of_changes(url: str) -> None:
    async with node(url) as first, node(url) as second:
        changes: list[frozenset[str] | None] = []
        second.projections.on_changed(lambda owners, _: changes.append(owners))
        await first.append("before", 0, created("alice"))
        await second.version("before")
        assert changes == [], "no list has readers"
        second.projections.set_list_readers(has_readers=True)
        await eventually(lambda: None in changes)  # whatever it has missed
        await eventually(lambda: first.projections._asking.has_list_readers)
        await first.append("after", 0, created("bob"))
        await eventually(lambda: frozenset({"bob"}) in changes)
        found = await second.projections.queries.changed_sessions(ChangesQuery(owner="bob"))
        assert [one.session_id for one in found.sessions] == ["after"]


async def test_a_node_that_folds_hurries_only_while_it_has_readers_of_lists(url: str) -> None:
    async with node(url) as only:
        await eventually(lambda: only.folds)
        runner = only.projections._runner
        assert runner is not None
        only.projections.set_list_readers(has_readers=True)
        await eventually(lambda: runner._has_list_readers)
        only.projections.set_list_readers(has_readers=False)
        await eventually(lambda: not runner._has_list_readers)


async def test_a_table_that_is_lost_is_made_again_from_the_log(url: str) -> None:
    async with node(url) as first, node(url) as second:
        await first.append("s", 0, created(), *turn(1))
        assert await second.version("s") == 4
        connection = await asyncpg.connect(url)
        await connection.execute(f"DROP TABLE {PREFIX}messages")
        await connection.close()
        with pytest.raises(ProjectionsUnavailable):
            await second.projections.queries.snapshot("s", limit=9)
        await eventually(lambda: first.told.reasons)
        await eventually(lambda: not first.projections.rebuilding)
        snapshot = await second.projections.queries.snapshot("s", limit=9)
        assert snapshot is not None
        assert len(snapshot.messages) == 2


async def test_nodes_answer_while_the_tables_are_rebuilt(url: str) -> None:
    async with node(url) as first, node(url) as second:
        await first.append("s", 0, created(), *turn(1))
        assert await second.version("s") == 4

        async def read() -> int:
            count = 0
            while not rebuilding.done():
                assert await second.version("s") == 4
                count += 1
            return count

        rebuilding = asyncio.create_task(rebuild_tables(first.log.database, first.log, 1, lambda _: None))
        assert await read() > 0
        assert await rebuilding == (4, False), "the node that folds puts them in place"
        await second.append("s", 4, *turn(2))
        assert await second.version("s") == 7
        await eventually(lambda: first.told.adoptions)
        listed = await second.projections.queries.list_sessions(SessionListQuery(any_owner=True))
        assert [one.version for one in listed.sessions] == [7]


async def test_a_rebuild_without_a_node_puts_the_tables_in_place(url: str) -> None:
    async with node(url) as one:
        await one.append("s", 0, created(), *turn(1))
        await one.version("s")
    log = await PostgresLog.open(url)
    assert await rebuild_tables(log.database, log, 100, lambda _: None) == (4, True)
    async with node(url, log) as one:
        assert await one.version("s") == 4
        assert one.told.batches == [], "nothing is folded again"


async def test_of_two_writers_one_has_no_effect(url: str) -> None:
    """Even if both believed that they may write: the transaction compares the checkpoint."""
    async with node(url) as one:
        await one.append("s", 0, created(), *turn(1))
        log, batch = one.log, await one.log.read_all(limit=4)
        database = Database(url, LogOptions())
        await one.version("s")
        await one.projections.stop()
        store = ProjectionTables(database, log.pool)
        assert await store.open(log) is None
        await store.replace()
        rival = await ServerSession.open(database)
        async with rival.statements() as statements:
            writer = await TableWriter.open(statements, PREFIX)
            await store.apply(batch[:2], await checkpoint_at(log, 2))
            with pytest.raises(FenceError):
                await writer.apply(statements, batch[:1], await checkpoint_at(log, 1))
            counted = await statements.fetch(f"SELECT count(*) FROM {PREFIX}messages")
        assert [tuple(row) for row in counted] == [(2,)], "those of the first writer"
        await store.apply(batch[2:], await checkpoint_at(log, 4))
        assert store.checkpoint.position == 4
        await rival.close()
        await store.close()


class OlderLog(PostgresLog):
    """As a program of an older version reads it, which does not know an event."""

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        found = await super().read_all(after=after, limit=limit)
        if any(recorded.stream_id == "new" for recorded in found):
            raise UnknownEvent("of_a_newer_version", 1)
        return found


async def test_a_node_that_does_not_know_an_event_leaves_the_role_to_one_that_does(url: str) -> None:
    async with node(url, await OlderLog.open(url)) as older, node(url) as newer:
        await older.append("s", 0, created())
        assert await newer.version("s") == 1
        assert older.folds
        await newer.append("new", 0, created())
        assert await newer.version("new") == 1
        assert (older.folds, newer.folds) == (False, True)
        await older.append("s", 1, *turn(1))
        assert await older.version("s") == 4
        assert older.projections.unknown_event is None, "another node has folded it"


async def test_a_node_that_does_not_know_an_event_says_so_while_nobody_does(url: str) -> None:
    async with node(url, await OlderLog.open(url)) as older:
        await older.append("new", 0, created())
        await eventually(lambda: older.projections.unknown_event)


async def test_a_node_that_folds_no_more_although_it_is_asked_is_replaced(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_projections, "SILENT_S", 0.3)
    async with node(url) as frozen, node(url) as other:
        await frozen.append("s", 0, created())
        assert await other.version("s") == 1
        session = frozen.projections._session
        assert session is not None
        async with session.statements():
            await other.append("s", 1, *turn(1))
            assert await other.version("s") == 4
            assert other.folds
        assert await frozen.version("s") == 4


class UnreadableLog(PostgresLog):
    """As a node reads it whose host or network has a fault of its own."""

    is_broken = False

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        if self.is_broken:
            raise LogUnavailable("this node cannot read the log")
        return await super().read_all(after=after, limit=limit)


@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_node_that_cannot_fold_leaves_the_role_to_another(
    url: str, monkeypatch: pytest.MonkeyPatch, *, is_asked: bool
) -> None:
    log = await UnreadableLog.open(url)
    assert isinstance(log, UnreadableLog)
    async with node(url, log) as sick, node(url) as other:
        await sick.append("s", 0, created())
        assert await other.version("s") == 1
        assert sick.folds
        monkeypatch.setattr(node_projections, "SILENT_S", 0.2)
        monkeypatch.setattr(node_projections, "LOOK_S", 0.1)
        log.is_broken = True
        await other.append("s", 1, *turn(1))
        if is_asked:
            assert await other.version("s") == 4
        await eventually(lambda: other.folds)
        assert await sick.version("s") == 4


async def test_readers_of_lists_on_a_node_that_takes_over_are_told_that_any_list_may_have_changed(url: str) -> None:
    async with node(url) as first, node(url) as second:
        changes: list[frozenset[str] | None] = []
        second.projections.on_changed(lambda owners, _: changes.append(owners))
        second.projections.set_list_readers(has_readers=True)
        await eventually(lambda: None in changes)
        second.projections._lists_checked_s = float("inf")  # it asks no more
        changes.clear()
        await first.append("s", 0, created("bob"))
        await first.version("s")
        await first.projections.stop()
        await eventually(lambda: second.folds and None in changes)


class GatedLog(PostgresLog):
    """Whose events can be read while `gate` is open."""

    gate: asyncio.Event | None = None

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        if self.gate is not None:
            await self.gate.wait()
        return await super().read_all(after=after, limit=limit)


async def test_a_node_does_not_answer_from_tables_that_were_emptied_to_be_folded_again(url: str) -> None:
    log = await GatedLog.open(url)
    assert isinstance(log, GatedLog)
    async with node(url, log) as first, node(url) as second:
        await first.append("s", 0, created(), *turn(1))
        assert await second.version("s") == 4
        log.gate = asyncio.Event()
        first.projections._report_trouble("it is damaged")
        query = f"SELECT position FROM {PREFIX}meta"
        async with asyncio.timeout(20):
            while not first.told.reasons or await log.pool.fetch(query) != [(0,)]:
                await asyncio.sleep(0.01)
        with pytest.raises((ProjectionsUnavailable, ProjectionLag)):
            await second.shown("s")
        with pytest.raises(ProjectionLag):
            await second.projections.wait_for(4, timeout_s=0.5)
        assert second.projections.rebuilding
        log.gate.set()
        assert await second.version("s") == 4


async def test_a_node_does_not_answer_from_tables_of_a_server_that_is_behind_what_it_has_shown(url: str) -> None:
    """After a failover its queries may go to the new server before it knows that its session's server has vanished."""
    async with node(url) as first, node(url) as second:
        await first.append("s", 0, created(), *turn(1))
        assert await second.version("s") == 4
        session = second.projections._newest_session
        connection = await asyncpg.connect(url)
        await connection.execute(f"UPDATE {PREFIX}meta SET position = 1; DELETE FROM {PREFIX}messages")
        await connection.close()
        with pytest.raises((ProjectionsUnavailable, ProjectionLag)):
            await second.shown("s")
        await eventually(lambda: second.projections._newest_session is not session)


async def test_a_node_whose_role_may_not_read_the_tables_is_told_what_to_grant(url: str) -> None:
    async with node(url):
        connection = await asyncpg.connect(url)
        name, schema = f"r{uuid.uuid4().hex[:12]}", await connection.fetchval("SELECT current_schema()")
        await connection.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {name}")
        log = await PostgresLog.open(url)
        database = Database(url.replace("postgres@", f"{name}@"), LogOptions())
        refused = NodeProjections(log, database, log.pool)
        with pytest.raises(ProjectionsUnusable, match=f"GRANT SELECT ON .*{PREFIX}meta.* TO {name}; ALTER DEFAULT"):
            await refused.start()
        assert refused._newest_session is not None
        assert refused._newest_session.is_lost
        await connection.close()
        await log.close()


async def test_a_node_that_waits_for_nothing_is_told_nothing(url: str) -> None:
    async with node(url) as first, node(url) as second:
        said: list[Sequence[tuple[str, str]]] = []
        notifications = first.projections._asking.notifications

        def note(owners: frozenset[str], position: int) -> Sequence[tuple[str, str]]:
            said.append(notifications(owners, position))
            return said[-1]

        runner = first.projections._runner
        assert runner is not None
        runner._store.notify = note  # type: ignore[attr-defined]  # that of the tables
        await first.append("s", 0, created())
        assert await first.version("s") == 1
        assert said == [()]
        await second.append("s", 1, *turn(1))
        assert await second.version("s") == 4
        assert len([one for one in said if one]) == 1

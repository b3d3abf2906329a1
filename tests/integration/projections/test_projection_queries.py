"""What the projections answer, from a real projections.db."""

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from events.catalogue import (
    BranchSelected,
    Event,
    MetadataChanged,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    UsageTotal,
)
from projections.factory import create_runner
from projections.folds.message import MessageRow
from projections.folds.session import Session
from projections.port import ListOrder, ProjectionQueries, SessionListQuery, UsageRow
from projections.sql import session_list
from projections.sql.common_queries import DUE, NEXT_DEADLINE, OPEN_SESSIONS
from projections.sql.erase_candidates import ERASING, LONG_EXPIRED, OLDEST_EXPIRED
from projections.sql.session_list import LabelCount, scan_end_sql, session_list_sql
from projections.sqlite.queries import (
    MESSAGES,
    PATH,
    SNAPSHOT,
    SqliteQueries,
    _read_session_list,
)
from projections.sqlite.schema import TABLES
from tests.support.log.event_builders import TIMEOUT_S, completed, created, emptied, posted, started, turn, turns
from tests.support.log.memory_log import START_US, STEP_US, MemoryLog


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@asynccontextmanager
async def asking(log: MemoryLog, path: Path) -> AsyncIterator[ProjectionQueries]:
    runner = create_runner(path / "projections.db", log)
    await runner.start()
    try:
        await runner.wait_for(log.head().position, timeout_s=20)
        yield runner.queries
    finally:
        await runner.stop()


def ids(sessions: list[Session]) -> list[str]:
    return [session.session_id for session in sessions]


async def test_a_session_is_found_by_its_id_whatever_became_of_it(log: MemoryLog, tmp_path: Path) -> None:
    log.record("kept", created("alice"), *turn(1))
    log.record("gone", created("alice"), SessionDeleted("asked", "alice"))
    async with asking(log, tmp_path) as queries:
        kept, gone = await queries.session("kept"), await queries.session("gone")
        assert kept is not None
        assert (kept.version, kept.head, kept.message_count) == (4, "r1", 2)
        assert gone is not None
        assert gone.status == "deleted"
        assert await queries.session("never") is None


async def listed(queries: ProjectionQueries, wanted: SessionListQuery) -> list[Session]:
    return (await queries.list_sessions(wanted)).sessions


async def test_the_list_shows_the_latest_access_first_and_goes_on_after_a_cursor(
    log: MemoryLog, tmp_path: Path
) -> None:
    for name in "abcde":
        log.record(name, created("alice"))
    log.record("b", SessionAccessed())
    async with asking(log, tmp_path) as queries:
        first = await listed(queries, SessionListQuery(owner="alice", limit=3))
        assert ids(first) == ["b", "e", "d"]
        after = (first[-1].accessed_at_us, first[-1].no)
        assert ids(await listed(queries, SessionListQuery(owner="alice", limit=3, after=after))) == ["c", "a"]


async def test_a_list_by_creation_is_not_moved_by_an_access(log: MemoryLog, tmp_path: Path) -> None:
    for name in "abcde":
        log.record(name, created("alice"))
    log.record("b", SessionAccessed())
    async with asking(log, tmp_path) as queries:
        first = await listed(queries, SessionListQuery(owner="alice", order="created", limit=3))
        assert ids(first) == ["e", "d", "c"]
        rest = SessionListQuery(owner="alice", order="created", limit=3, after=(0, first[-1].no))
        assert ids(await listed(queries, rest)) == ["b", "a"]


async def test_the_list_is_of_one_owner_of_nobody_or_of_all(log: MemoryLog, tmp_path: Path) -> None:
    log.record("a", created("alice"))
    log.record("b", created("bob"))
    log.record("n", created(None))
    async with asking(log, tmp_path) as queries:
        assert ids(await listed(queries, SessionListQuery(owner="alice"))) == ["a"]
        assert ids(await listed(queries, SessionListQuery())) == ["n"]
        assert ids(await listed(queries, SessionListQuery(any_owner=True))) == ["n", "b", "a"]


async def test_the_list_has_one_status(log: MemoryLog, tmp_path: Path) -> None:
    log.record("a", created(None))
    log.record("e", created(None), SessionExpired(0))
    async with asking(log, tmp_path) as queries:
        assert ids(await listed(queries, SessionListQuery(status="expired"))) == ["e"]
        assert await queries.counts() == {"active": 1, "expired": 1}


@pytest.mark.parametrize("rare", [1, 1_000], ids=["along the list", "by label"])
async def test_sessions_are_found_by_their_newest_metadata(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rare: int
) -> None:
    monkeypatch.setattr(session_list, "RARE_LABEL_MAX", rare)
    log.record("a", created("alice", user_id="u1", plan=1))
    log.record("b", created("alice", user_id="u1", plan=2))
    log.record("c", created("alice", user_id="u2", plan=1))
    log.record("d", created("bob", user_id="u1", plan=1))
    log.record("a", MetadataChanged({"user_id": "u1", "plan": 1, "more": [1]}))
    log.record("c", MetadataChanged({"user_id": "u1", "plan": True}))
    async with asking(log, tmp_path) as queries:

        async def found(**metadata: str) -> list[str]:
            return ids(await listed(queries, SessionListQuery(owner="alice", metadata=metadata)))

        assert await found(user_id="u1") == ["c", "a", "b"]
        assert await found(user_id="u1", plan="1") == ["a"]
        assert await found(user_id="u2") == []
        assert await found(plan="true") == ["c"]


async def walked(queries: ProjectionQueries, wanted: SessionListQuery) -> tuple[list[str], int]:
    """All sessions of a list, and how many pages it had."""
    found: list[str] = []
    for pages in itertools.count(1):
        page = await queries.list_sessions(wanted)
        found += ids(page.sessions)
        if page.after is None:
            return found, pages
        wanted = replace(wanted, after=page.after)
    raise AssertionError("a list without an end")


@pytest.mark.parametrize("order", ["accessed", "created"])
@pytest.mark.parametrize("owner", ["alice", None])
async def test_a_request_looks_at_few_sessions_and_the_next_goes_on(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: ListOrder, owner: str | None
) -> None:
    """Half have one value, half the other, and three both."""
    monkeypatch.setattr(session_list, "RARE_LABEL_MAX", 1)
    monkeypatch.setattr(session_list, "SESSIONS_SCANNED_MAX", 10)
    for number in range(95):
        both = number in (3, 40, 94)
        values = {name: "x" for name, has in (("a", number % 2), ("b", not number % 2)) if has or both}
        log.record(f"s{number}", created("alice", **values))
    every = owner is None
    async with asking(log, tmp_path) as queries:
        wanted = SessionListQuery(owner=owner, any_owner=every, order=order, metadata={"a": "x", "b": "x"}, limit=2)
        assert await walked(queries, wanted) == (["s94", "s40", "s3"], 10)
        assert await walked(queries, replace(wanted, metadata={"a": "y", "b": "x"})) == ([], 1), (
            "a rare one is looked up"
        )
        found, pages = await walked(queries, replace(wanted, metadata={"b": "x"}, limit=7))
        assert len(found) == 49
        assert len(set(found)) == 49
        assert pages <= 20
        found, pages = await walked(queries, replace(wanted, metadata={}, limit=50))
        assert (len(found), pages) == (95, 2), "without metadata nothing is passed over"


async def test_a_walk_that_finds_nothing_costs_the_same_however_many_sessions_there_are(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_list, "RARE_LABEL_MAX", 10)
    monkeypatch.setattr(session_list, "SESSIONS_SCANNED_MAX", 100)
    for number in range(2_000):
        log.record(f"s{number}", created("alice", **{"a" if number % 2 else "b": "x"}))
    async with asking(log, tmp_path) as queries:
        assert (
            await queries.list_sessions(SessionListQuery(owner="alice", metadata={"a": "x", "b": "x"}))
        ).after is not None
    connection = sqlite3.connect(tmp_path / "projections.db")

    def cost(count: int) -> int:
        """How many hundreds of SQLite's instructions a page of so many sessions takes."""
        connection.execute("DELETE FROM sessions WHERE no <= (SELECT max(no) FROM sessions) - ?", (count,))
        steps: list[int] = []
        connection.set_progress_handler(lambda: steps.append(1), 100)
        wanted = SessionListQuery(owner="alice", metadata={"a": "x", "b": "x"})
        assert _read_session_list(connection, wanted)[0] == []
        connection.set_progress_handler(None, 100)
        return len(steps)

    connection.isolation_level = None
    many, few = cost(2_000), cost(200)
    assert many <= few + 5
    connection.close()


async def test_a_list_does_not_keep_a_session_waiting(log: MemoryLog, tmp_path: Path) -> None:
    log.record("s", created("alice"))
    async with asking(log, tmp_path) as queries:
        may_end = threading.Event()
        assert isinstance(queries, SqliteQueries)
        long = asyncio.create_task(queries._reader.ask(lambda _: may_end.wait(20), is_long=True))
        await asyncio.sleep(0)
        listing_ = asyncio.create_task(queries.list_sessions(SessionListQuery(owner="alice")))
        async with asyncio.timeout(10):
            assert await queries.session("s") is not None
        assert not long.done()
        assert not listing_.done()
        may_end.set()
        assert await long
        assert ids((await listing_).sessions) == ["s"]


async def test_erased_metadata_finds_nothing(log: MemoryLog, tmp_path: Path) -> None:
    log.record("a", created("alice", user_id="u1"))
    log.erase_now("a", emptied())
    async with asking(log, tmp_path) as queries:
        assert await listed(queries, SessionListQuery(owner="alice", metadata={"user_id": "u1"})) == []


async def test_a_path_is_the_newest_part_of_one_branch_in_time_order(log: MemoryLog, tmp_path: Path) -> None:
    log.record("s", created(), *turn(1), *turn(2, "r1"), *turn(3, "r1"), *turn(4, "r2"))
    async with asking(log, tmp_path) as queries:
        path = await queries.path(1, "r4", limit=10)
        assert [row.message_id for row in path] == ["m1", "r1", "m2", "r2", "m4", "r4"]
        assert [row.depth for row in path] == [1, 2, 3, 4, 5, 6]
        assert [row.siblings for row in path[:3]] == [("m1",), ("r1",), ("m2", "m3")]
        assert [row.message_id for row in await queries.path(1, "r3", limit=3)] == ["r1", "m3", "r3"]
        assert [row.message_id for row in await queries.path(1, "r4", limit=2, before="m4")] == ["m2", "r2"]
        assert await queries.path(1, "r4", limit=2, before="m1") == []
        assert await queries.path(1, "never", limit=2) == []
        assert await queries.path(2, "r4", limit=2) == []


async def test_a_snapshot_has_the_messages_of_a_path(log: MemoryLog, tmp_path: Path) -> None:
    log.record("s", created("alice"), *turn(1), *turn(2, "r1"), *turn(3, "r1"), *turn(4, "r2"), BranchSelected("r4"))
    log.record("empty", created(None))
    async with asking(log, tmp_path) as queries:

        async def found(
            branch: str | None = None, before: str | None = None
        ) -> tuple[int | None, bool, list[MessageRow]]:
            snapshot = await queries.snapshot("s", branch=branch, limit=3, before=before)
            assert snapshot is not None
            assert snapshot.session == await queries.session("s")
            return snapshot.depth, snapshot.knows_before, snapshot.messages

        assert await found() == (6, True, await queries.path(1, "r4", limit=3))
        assert await found("r3") == (4, True, await queries.path(1, "r3", limit=3))
        assert await found(before="m4") == (6, True, await queries.path(1, "r4", limit=3, before="m4"))
        assert await found("r3", before="m1") == (4, True, [])
        assert await found("never", "never") == (None, False, [])
        empty = await queries.snapshot("empty", limit=3)
        assert empty is not None
        assert (empty.depth, empty.knows_before, empty.messages) == (None, True, [])
        assert await queries.snapshot("none", limit=3) is None
        assert await queries.snapshot("empty", limit=3, owner="bob") is not None  # it has no owner
        for owner, may_see in (("alice", True), ("bob", False), ("", False), (None, True)):
            assert (await queries.snapshot("s", limit=3, owner=owner) is not None) == may_see


async def test_a_message_says_where_its_text_is_and_what_it_cost(log: MemoryLog, tmp_path: Path) -> None:
    log.record("s", created(), *turn(1), posted("m2", "r1", "r2"))
    async with asking(log, tmp_path) as queries:
        user, reply, waiting = [await queries.message(1, m) for m in ("m1", "r1", "r2")]
        assert user
        assert reply
        assert waiting
        assert (user.position, user.version, user.status, user.role) == (2, 2, "complete", "user")
        assert (reply.position, reply.version, reply.status, reply.role) == (4, 4, "complete", "assistant")
        assert reply.created_at_us == START_US + 3 * STEP_US
        assert (reply.model, reply.prompt_tokens, reply.completion_tokens) == ("small", 10, 20)
        assert (waiting.position, waiting.version, waiting.status) == (0, 5, "queued")
        assert await queries.message(1, "never") is None


async def test_a_branch_goes_on_to_its_newest_message(log: MemoryLog, tmp_path: Path) -> None:
    log.record("s", created(), *turn(1), *turn(2, "r1"), *turn(3, "r1"), *turn(4, "r2"))
    async with asking(log, tmp_path) as queries:
        asked = ("m1", "m2", "m3", "r4", "never")
        assert [await queries.newest_leaf(1, m) for m in asked] == ["r4", "r4", "r3", "r4", None]


async def test_sessions_with_a_reply_to_come_are_found_in_pages(log: MemoryLog, tmp_path: Path) -> None:
    log.record("waits", created(), posted("m1", None, "r1"))
    log.record("runs", created(), posted("m1", None, "r1"), started("r1", "m1"))
    log.record("done", created(), *turn(1))
    async with asking(log, tmp_path) as queries:
        (first,) = await queries.open_sessions(limit=1)
        assert first.session_id == "waits"
        assert ids(await queries.open_sessions(limit=5, after=first.no)) == ["runs"]


async def test_sessions_whose_replies_others_owe_are_found_in_pages(log: MemoryLog, tmp_path: Path) -> None:
    mine, theirs = posted("m1", None, "r1"), replace(posted("m2", "r1", "r2"), node="other")
    log.record("waits there", created(), replace(mine, node="other"))
    log.record("waits here", created(), replace(mine, node="node"))
    log.record("runs here", created(), mine, started("r1", "m1"))
    log.record("runs here, waits there", created(), mine, started("r1", "m1"), theirs)
    log.record("was alone", created(), mine)
    log.record("runs there", created(), mine, replace(started("r1", "m1"), node="other"))
    log.record("done", created(), *turn(1))
    async with asking(log, tmp_path) as queries:
        first = await queries.owed_by_other_nodes("node", limit=2)
        assert ids(first) == ["waits there", "runs here, waits there"]
        assert ids(await queries.owed_by_other_nodes("node", limit=5, after=first[-1].no)) == [
            "was alone",
            "runs there",
        ]


async def test_the_next_deadline_is_the_earliest_of_the_active(log: MemoryLog, tmp_path: Path) -> None:
    log.record("over", created(), SessionExpired(0))
    log.record("first", created())
    log.record("second", created())
    log.record("busy", created(), posted("m1", None, "r1"))
    timeout_us = TIMEOUT_S * 1_000_000
    async with asking(log, tmp_path) as queries:
        deadline_us = START_US + 3 * STEP_US + timeout_us
        assert await queries.next_deadline() == deadline_us
        assert await queries.due(deadline_us - 1, limit=9) == []
        assert ids(await queries.due(deadline_us, limit=9)) == ["first"]
        assert ids(await queries.due(deadline_us + 9 * STEP_US, limit=9)) == ["first", "second"]


async def test_a_session_without_a_timeout_is_never_due(log: MemoryLog, tmp_path: Path) -> None:
    endless = SessionCreated(owner=None, metadata={}, timeout_s=0)
    log.record("endless", endless)
    async with asking(log, tmp_path) as queries:
        assert await queries.next_deadline() is None
        assert await queries.due(log.now_us + 10**15, limit=9) == []
        long_after = SessionListQuery(any_owner=True, now_us=log.now_us + 10**15)
        assert ids((await queries.list_sessions(long_after)).sessions) == ["endless"]
    log.record("brief", created())
    async with asking(log, tmp_path) as queries:
        assert ids(await queries.due(log.now_us + 10**15, limit=9)) == ["brief"]


async def test_without_active_sessions_there_is_no_deadline(log: MemoryLog, tmp_path: Path) -> None:
    async with asking(log, tmp_path) as queries:
        assert await queries.next_deadline() is None


async def test_usage_is_told_by_day_owner_and_model(log: MemoryLog, tmp_path: Path) -> None:
    log.record("a", created("alice"), *turn(1))
    log.now_us += 86_400_000_000
    big: tuple[Event, ...] = (posted("m2", None, "r2"), started("r2", "m2"), completed("r2", 1, 2, "large"))
    log.record("b", created("bob"), *big)
    async with asking(log, tmp_path) as queries:
        days = ("2025-01-01", "2025-01-02")
        assert await queries.usage("day", *days) == [UsageRow(days[0], 1, 10, 20), UsageRow(days[1], 1, 1, 2)]
        assert await queries.usage("model", *days) == [UsageRow("large", 1, 1, 2), UsageRow("small", 1, 10, 20)]
        assert await queries.usage("owner", *days, owner="bob") == [UsageRow("bob", 1, 1, 2)]
        assert await queries.usage("day", days[1], days[1]) == [UsageRow(days[1], 1, 1, 2)]


async def test_what_a_session_used_includes_what_was_erased_of_it(log: MemoryLog, tmp_path: Path) -> None:
    log.record("s", created(), *turn(1))
    log.erase_now("s", emptied(UsageTotal("2025-01-01", "small", 1, 10, 20)))
    log.record("s", *turn(2))
    async with asking(log, tmp_path) as queries:
        assert await queries.usage_of(1) == (UsageTotal("2025-01-01", "small", 2, 20, 40),)
        assert await queries.usage("day", "2025-01-01", "2025-01-01") == [UsageRow("2025-01-01", 2, 20, 40)]


async def test_the_end_of_a_long_conversation_costs_no_more_than_that_of_a_short_one(
    log: MemoryLog, tmp_path: Path
) -> None:
    log.record("long", created(), *turns(10_000))
    log.record("short", created(), *turns(10))
    async with asking(log, tmp_path) as queries:
        assert len(await queries.path(1, "r10000", limit=10)) == 10
    connection = sqlite3.connect(tmp_path / "projections.db")

    def cost(no: int, leaf: str) -> int:
        """How many hundreds of SQLite's instructions the newest ten messages take."""
        steps = []
        connection.set_progress_handler(lambda: steps.append(1), 100)
        connection.execute(PATH, {"no": no, "leaf": leaf, "before": None, "limit": 10}).fetchall()
        return len(steps)

    long_no, short_no = (no for (no,) in connection.execute("SELECT no FROM sessions ORDER BY no"))
    assert cost(long_no, "r10000") <= cost(short_no, "r10") + 1 <= 30
    connection.close()


LISTS = {
    "an owner's list by creation": session_list_sql(SessionListQuery(owner="a", order="created"), []),
    "everyone's list by creation, continued": session_list_sql(
        SessionListQuery(any_owner=True, order="created", after=(0, 1)), [LabelCount(1_000, 6)]
    ),
    "an owner's list": session_list_sql(SessionListQuery(owner="a"), []),
    "everyone's list, continued": session_list_sql(SessionListQuery(any_owner=True, after=(1, 1)), []),
    "a list with a common label": session_list_sql(SessionListQuery(owner="a", after=(1, 1)), [LabelCount(1_000, 6)]),
    "a list with common labels, to the end of its walk": session_list_sql(
        SessionListQuery(any_owner=True, after=(9, 9)), [LabelCount(1_000, 6), LabelCount(1_000, 7)], (1, 1)
    ),
    "the end of a scan": scan_end_sql(SessionListQuery(owner="a", after=(9, 9))),
    "the end of a scan by creation": scan_end_sql(SessionListQuery(any_owner=True, order="created", after=(0, 9))),
    "what is due": (DUE, (1, 1)),
    "the next deadline": (NEXT_DEADLINE, ()),
    "what expired long ago": (LONG_EXPIRED, (1, "[]", 1)),
    "what expired first": (OLDEST_EXPIRED, ("[]",)),
    "deleted sessions that wait": (ERASING, (1, 1)),
    "open sessions": (OPEN_SESSIONS, (1, 1)),
}
LOOKUPS = {
    "expired sessions": session_list_sql(SessionListQuery(owner="a", status="expired", now_us=1), []),
    "expired sessions by creation, continued": session_list_sql(
        SessionListQuery(any_owner=True, status="expired", order="created", after=(0, 1), now_us=1),
        [LabelCount(1_000, 6)],
    ),
    "expired sessions with a rare label": session_list_sql(
        SessionListQuery(status="expired", now_us=1), [LabelCount(1, 5)]
    ),
    "a list with a rare label": session_list_sql(SessionListQuery(owner="a"), [LabelCount(1, 5), LabelCount(1_000, 6)]),
    "a path": (PATH, {"no": 1, "leaf": "m", "before": None, "limit": 1}),
    "a snapshot": (SNAPSHOT, {"session_id": "s", "branch": None, "before": None, "limit": 1, "owner": "a"}),
    "a message": (MESSAGES, (1, "m")),
}


@pytest.mark.parametrize("name", [*LISTS, *LOOKUPS])
def test_no_query_walks_a_table_and_lists_are_in_their_order_already(name: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    query, parameters = (LISTS | LOOKUPS)[name]
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]
    connection.close()
    tables = ("sessions", "messages", "labels", "s", "m", "p", "d")
    partial = (
        "sessions_by_expiry",
        "sessions_expired",
        "sessions_erasing",
    )  # walked in their own order, and left at the limit
    walks = [
        step for step in plan if step.startswith("SCAN ") and step.split()[1] in tables and not step.endswith(partial)
    ]
    sorts = [step for step in plan if "TEMP B-TREE" in step and name in LISTS]
    assert walks + sorts == [], plan

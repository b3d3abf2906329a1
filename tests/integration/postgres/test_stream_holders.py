"""Which notifications PostgreSQL sends to whom, and that holders miss nothing where one is lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

import asyncpg
import pytest

from events.catalogue import HOLDS, HoldAdded
from events.log_observer import NoObserver
from events.record import EventHeader
from events.storage.postgres import append_notifications
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.postgres.stream_holders import NAME
from tests.support.log.log_texts import fill
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
GIVE_UP_S = 20.0

# As a process of version 0.8 appends: it does not turn off the trigger.
APPEND = """
INSERT INTO events SELECT coalesce(max(position), 0) + 1, $1, $2, $3, 1, 0, '{}', '{}', ''::bytea,
                          decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex') FROM events
"""


class Told:
    """What a log reports."""

    def __init__(self, log: PostgresLog, *held: str) -> None:
        self.headers: list[EventHeader] = []
        self.held: list[tuple[str, int]] = []
        log.listen(self)
        for stream_id in held:
            log.hold(stream_id)

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        self.headers += headers

    def on_held(self, stream_id: str, version: int) -> None:
        self.held.append((stream_id, version))

    def version(self, stream_id: str) -> int:
        """The newest that was reported."""
        appended = [one.version for one in self.headers if one.stream_id == stream_id]
        return max([*appended, *(version for held, version in self.held if held == stream_id)], default=0)


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


@pytest.fixture
async def logs(url: str) -> AsyncIterator[tuple[PostgresLog, PostgresLog]]:
    opened = await PostgresLog.open(url), await PostgresLog.open(url)
    yield opened
    for log in opened:
        await log.close()


@pytest.fixture
async def plain(logs: object, url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with settings of another program."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not reached():
            await asyncio.sleep(0.001)


async def test_a_commit_that_concerns_no_held_stream_is_notified_to_nobody(
    logs: tuple[PostgresLog, PostgresLog], plain: asyncpg.Connection
) -> None:
    told = Told(logs[1], "held")
    await until(lambda: told.held == [("held", 0)])
    channels: list[str] = []
    table = await plain.fetchval("SELECT 'events'::regclass::oid")
    nodes = [row[0] for row in await plain.fetch("SELECT id FROM events_nodes")]
    for channel in [f"events_{table}", *(f"events_{table}_{node.hex}" for node in nodes)]:
        await plain.add_listener(channel, lambda *heard: channels.append(heard[2]))
    await fill(logs[0], "other", "1", "2")
    await logs[1].append("held", 0, [posted("own")], ASKED)
    await logs[0].append("held", 1, [posted("x")], ASKED)
    await until(lambda: len(told.headers) == 1)
    await plain.fetchval("SELECT 1")
    assert len(channels) == 1
    assert [(one.stream_id, one.version) for one in told.headers] == [("held", 2)]


async def test_an_older_program_beside_is_told_of_every_commit_and_its_commits_are_told(
    logs: tuple[PostgresLog, PostgresLog], plain: asyncpg.Connection, url: str
) -> None:
    told, heard = Told(logs[0], "held"), list[str]()
    await until(lambda: told.held == [("held", 0)])
    await plain.execute("INSERT INTO events_nodes (version) SELECT version FROM events_nodes LIMIT 1")
    table = await plain.fetchval("SELECT 'events'::regclass::oid")
    await plain.add_listener(f"events_{table}", lambda *told: heard.append(told[3]))
    third = await PostgresLog.open(url)  # sees the older one
    await fill(third, "other", "1")
    await until(lambda: heard == ["1"])
    for stream_id, version, kind in (("held", 1, "x"), ("other", 2, "x"), ("other", 3, "session_deleted")):
        await plain.execute(APPEND, stream_id, version, kind)
    await until(lambda: len(told.headers) == 2)
    assert told.headers == [EventHeader(2, "held", 1, "x"), EventHeader(4, "other", 3, "session_deleted")]
    await third.close()


async def test_holders_of_a_lost_table_hold_again(
    logs: tuple[PostgresLog, PostgresLog], plain: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash of the server, or its standby's promotion: the table is not logged."""
    monkeypatch.setattr(append_notifications, "POLL_S", 0.02)
    told = Told(logs[1], "a")
    await until(lambda: told.held == [("a", 0)])
    await plain.execute(f"TRUNCATE {NAME}")
    await fill(logs[0], "a", "1")
    await fill(logs[0], "b", "1")
    await logs[0].erase("b", 1, deleted(), ASKED)
    await until(lambda: told.version("a") == 1 and "session_deleted" in [one.type for one in told.headers])
    monkeypatch.setattr(append_notifications, "POLL_S", 60.0)
    await asyncio.sleep(0.05)
    await logs[0].append("a", 1, [posted("2")], ASKED)
    await until(lambda: ("a", 2) in [(one.stream_id, one.version) for one in told.headers])


async def test_what_is_appended_while_the_connection_is_lost_is_reported_afterwards(
    logs: tuple[PostgresLog, PostgresLog], plain: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_notifications, "RETRY_S", 0.01)
    monkeypatch.setattr(append_notifications, "MISSED_SPAN", 2)
    told = Told(logs[1], "a")
    await until(lambda: told.held == [("a", 0)])
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%events_hold_1%' AND pid <> $1"
    await plain.fetch(ended, plain.get_server_pid())
    await fill(logs[0], "a", "1", "2")
    await logs[0].append(HOLDS, 0, [HoldAdded("h", "a reason")], ASKED)
    await until(lambda: told.version("a") == 2)
    await until(lambda: HOLDS in [one.stream_id for one in told.headers])


async def test_long_and_many_reports_fit_into_notifications(logs: tuple[PostgresLog, PostgresLog]) -> None:
    long = "x" * 7500
    told = Told(logs[1], long, *(f"stream {number} é\n" for number in range(200)))
    await until(lambda: len(told.held) == 201)
    await asyncio.gather(*(logs[0].append(f"stream {n} é\n", 0, [posted("x")] * 3, ASKED) for n in range(200)))
    await logs[0].append(long, 0, [posted("x")], ASKED)
    await until(lambda: (long, 1) in told.held and len(told.headers) == 600)
    assert [one.position for one in told.headers] == sorted({one.position for one in told.headers})


async def test_a_process_that_ends_holds_nothing(url: str, plain: asyncpg.Connection) -> None:
    log = await PostgresLog.open(url)
    told = Told(log, "ended's")
    await until(lambda: bool(told.held))
    await log.close()
    assert await plain.fetchval(f"SELECT count(*) FROM {NAME} WHERE stream_id = 'ended''s'") == 0


async def test_what_the_full_queue_dropped_before_the_last_look_is_found_by_one_more(
    logs: tuple[PostgresLog, PostgresLog], plain: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_notifications, "POLL_S", 0.2)
    monkeypatch.setattr(append_notifications, "QUEUE_FULL", -1.0)
    told = Told(logs[1], "a")
    await until(lambda: told.held == [("a", 0)])
    await plain.execute("SET chatbot.notifies = 'on'")  # nothing is notified
    await plain.execute(APPEND, "b", 1, "session_deleted")
    await until(lambda: told.version("b") == 1)
    await plain.execute(APPEND, "b", 2, "session_deleted")
    monkeypatch.setattr(append_notifications, "QUEUE_FULL", 1.0)
    await until(lambda: told.version("b") == 2)


@pytest.fixture
async def role(url: str, postgres: PostgresServer) -> str:
    """A role that may use the schema and create in it."""
    name = f"r{uuid.uuid4().hex[:12]}"
    await postgres.execute(
        f"CREATE ROLE {name} LOGIN", f"GRANT USAGE, CREATE ON SCHEMA {schema_of(url)} TO {name}", url=url
    )
    return name


def schema_of(url: str) -> str:
    return url.partition("search_path=")[2]


async def test_a_role_of_an_older_program_appends_and_holders_are_told(
    logs: tuple[PostgresLog, PostgresLog], role: str, url: str, plain: asyncpg.Connection
) -> None:
    told = Told(logs[1], "a")
    await until(lambda: told.held == [("a", 0)])
    await plain.execute(f"GRANT SELECT, INSERT, UPDATE ON events TO {role}")
    older = await asyncpg.connect(url.replace("postgres@", f"{role}@"))
    await older.execute(APPEND, "a", 1, "x")
    await until(lambda: told.headers == [EventHeader(1, "a", 1, "x")])
    await older.close()


class Warnings(NoObserver):
    """Remembers the subjects of warnings."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.notified_as: list[bool] = []

    def warned(self, subject: str, reason: str) -> None:
        self.subjects.append(subject)

    def notified(self, *, is_notified: bool) -> None:
        self.notified_as.append(is_notified)


async def test_without_a_connection_that_listens_it_is_looked_over_those_for_reading(
    logs: tuple[PostgresLog, PostgresLog],
    role: str,
    url: str,
    plain: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(append_notifications, "POLL_S", 0.05)
    monkeypatch.setattr(append_notifications, "RETRY_S", 0.01)
    observer = Warnings()
    await plain.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema_of(url)} TO {role}")
    for table in ("events", "media", "media_chunks", "media_references"):
        await plain.execute(f"ALTER TABLE {table} OWNER TO {role}")
    log = await PostgresLog.open(url.replace("postgres@", f"{role}@"), observe=observer)
    try:
        await log.read("a", limit=1)
        told = Told(log, "a")
        await until(lambda: told.held == [("a", 0)])
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
        await plain.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
            " AND (query LIKE '%events_hold%' OR query LIKE '%unnest%')"
        )
        await until(lambda: observer.subjects == ["notifications_lost"])
        assert observer.notified_as == [False]
        await fill(logs[0], "a", "1")
        await logs[0].append(HOLDS, 0, [HoldAdded("h", "a reason")], ASKED)
        log.hold("b")
        await until(lambda: told.version("a") == 1 and told.version(HOLDS) == 1 and ("b", 0) in told.held)
        await plain.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
        told.held.clear()
        await until(lambda: ("b", 0) in told.held)
        await logs[0].append("b", 0, [posted("1")], ASKED)
        await until(lambda: told.headers[-1].stream_id == "b")
        await until(lambda: observer.notified_as == [False, True])
        assert observer.subjects == ["notifications_lost"]
    finally:
        await log.close()

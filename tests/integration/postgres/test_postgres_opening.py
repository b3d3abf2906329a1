"""Opening a log in PostgreSQL: what is refused and how it is said, what is waited for, how connections are set."""

import asyncio
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from chatbot.cli.remedies import with_remedy
from events.errors import LogUnavailable, LogUnusable
from events.factory import open_log
from events.log import EventLog
from events.options import LogOptions
from events.storage.postgres.postgres_connection import without_credentials
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_EVENT, deleted, posted
from tests.support.log.stores import SteppingClock
from tests.support.programs.external_programs import free_port
from tests.support.programs.faulty_proxy import FaultyProxy
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.3, erase_wait_s=0.3)
SECRET = "hunter2"


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


async def test_both_stores_write_the_very_same_rows(url: str, tmp_path: Path) -> None:
    """Salts and times being equal, so is every byte: text that is no ASCII, NULs in JSON, erased rows, the chain."""

    def salts() -> Callable[[int], bytes]:
        numbers = itertools.count(1)
        return lambda size: next(numbers).to_bytes(size)

    rows = []
    logs: tuple[EventLog, ...] = (
        await SqliteLog.open(tmp_path / "log.db", clock=SteppingClock(), random_bytes=salts()),
        await PostgresLog.open(url, clock=SteppingClock(), random_bytes=salts()),
    )
    for log in logs:
        await put_sample_files(log)
        await log.append("바다 👋", 0, EVERY_EVENT, ASKED)
        await log.append("a", 0, [posted("\0 é \u2028 '\"\\ 끝")] * 3, ASKED)
        await log.erase("a", 3, deleted(), ASKED)
        await log.append("a", 4, [posted("")], ASKED)
        rows.append(await log.rows(limit=ALL))
        await log.close()
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(EVERY_EVENT) + 5


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("CREATE TABLE events (id int)", "another program: choose another database, or another schema"),
        ("CREATE VIEW events AS SELECT 1", "another program"),
        ("CREATE TABLE events (id int); COMMENT ON TABLE events IS 'chatbot event log, format 2'", "newer version"),
    ],
)
async def test_a_table_of_another_program_or_a_newer_one_is_left_alone(
    url: str, postgres: PostgresServer, statement: str, says: str
) -> None:
    await postgres.execute(statement, url=url)
    for read_only in (False, True):
        with pytest.raises(LogUnusable) as refusal:
            await open_log(url, SHORT_TIMEOUTS, read_only=read_only)
        assert says in with_remedy(refusal.value)


async def test_what_cannot_be_opened_is_told_with_the_reason_and_never_the_password(postgres: PostgresServer) -> None:
    place = f"127.0.0.1:{postgres.port}"
    wrong = {
        f"postgresql://postgres:{SECRET}@127.0.0.1:{free_port()}/postgres": "cannot be reached",
        f"postgresql://postgres:{SECRET}@{place}/nowhere": "there is no such database",
        f"postgresql://nobody:{SECRET}@{place}/postgres": "does not let this user in",
        f"postgresql://postgres:{SECRET}/x@{place}/postgres": "special characters",
        f"postgresql://postgres:{SECRET}?x@{place}/postgres": "does not let|cannot be|special characters",
        f"postgresql://postgres@{place}/postgres?search_path=missing": "none of the schemas",
        f"postgresql://postgres@{place}/postgres?no_such_setting={SECRET}": "no_such_setting",
    }
    for url, says in wrong.items():
        with pytest.raises(LogUnusable) as refusal:
            await open_log(url, SHORT_TIMEOUTS)
        told = with_remedy(refusal.value)
        assert re.search(says, told)
        assert SECRET not in told
        assert SECRET not in without_credentials(url)


async def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    await postgres.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(LogUnusable, match="keeps texts as SQL_ASCII"):
        await open_log(postgres.url.removesuffix("postgres") + "ascii", SHORT_TIMEOUTS)


async def test_a_server_that_is_just_starting_is_waited_for(url: str, postgres: PostgresServer) -> None:
    async with FaultyProxy(postgres.port) as proxy:
        proxy.down = True
        place = url.replace(str(postgres.port), str(proxy.port))
        opening = asyncio.create_task(open_log(place, LogOptions(busy_timeout_s=5)))
        await asyncio.sleep(0.3)
        assert not opening.done()
        proxy.down = False
        await (await opening).close()


async def test_opened_for_reading_it_writes_nothing_and_its_head_stands_still(url: str) -> None:
    with pytest.raises(LogUnusable, match="holds no log"):
        await open_log(url, SHORT_TIMEOUTS, read_only=True)
    log = await PostgresLog.open(url)
    await fill(log, "a", "1")
    reading = await PostgresLog.open(url, SHORT_TIMEOUTS, read_only=True)
    await log.append("a", 1, [posted("2")], ASKED)
    assert (reading.head().position, (await reading.latest()).position) == (1, 1)
    assert texts(await reading.read_all(limit=ALL)) == ["1", "2"]
    with pytest.raises(LogUnavailable, match="reading only"):
        await reading.append("a", 2, [posted("3")], ASKED)
    with pytest.raises(LogUnavailable, match="reading only"):
        await reading.wait(2)
    with pytest.raises(LogUnavailable, match="takes no writes"):
        await reading._pool.fetch("DROP TABLE events")
    await reading.close()
    await log.close()


async def test_commits_are_flushed_whatever_the_database_says(url: str) -> None:
    log = await PostgresLog.open(f"{url}&synchronous_commit=off&default_transaction_isolation=serializable")
    await fill(log, "a", "1")
    connection = log._store._connection
    assert connection is not None
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
    await log.close()


async def until_connected(other: asyncpg.Connection, wanted: int) -> None:
    """A connection that has been ended stays in the list for a moment."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'chatbot'"
    async with asyncio.timeout(10):
        while await other.fetchval(count) != wanted:
            await asyncio.sleep(0.02)


async def test_any_number_of_reads_share_a_few_connections(url: str, postgres: PostgresServer) -> None:
    log = await PostgresLog.open(url, LogOptions(read_connections=3))
    await fill(log, "a", "1")
    other = await asyncpg.connect(url)
    before = await asyncio.gather(*(log.read_all(limit=1 + number * 7) for number in range(100)))
    await until_connected(other, 3 + 2)  # the readers, the writer and the one that listens
    assert {len(events) for events in before} == {1}
    leaving = [asyncio.create_task(log.read_all(limit=1)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in leaving[::2]:
        task.cancel()
    await asyncio.wait(leaving)
    assert [len(task.result()) for task in leaving[1::2]] == [1] * 10
    slow = asyncio.create_task(log._pool.fetch("SELECT pg_sleep(5)"))
    await asyncio.sleep(0.1)
    slow.cancel()
    async with asyncio.timeout(2):
        assert len(await asyncio.gather(*(log.read_all(limit=1) for _ in range(10)))) == 10
    await until_connected(other, 3 + 2)
    await other.close()
    await log.close()


async def test_erased_content_leaves_the_pages_once_no_transaction_can_see_it(
    url: str, postgres: PostgresServer
) -> None:
    await postgres.execute("CREATE EXTENSION IF NOT EXISTS pageinspect SCHEMA public")
    log = await PostgresLog.open(url, SHORT_TIMEOUTS)
    await fill(log, "a", "a word to forget", "2")
    other = await asyncpg.connect(url)
    inside = """SELECT count(*) FROM public.heap_page_items(public.get_raw_page('events', 0))
                WHERE position('a word to forget'::bytea IN t_data) > 0"""
    before = other.transaction(isolation="repeatable_read")
    await before.start()
    assert await other.fetchval(inside) == 1
    await log.erase("a", 2, deleted(), ASKED)
    assert log.erasure_pending
    assert await other.fetchval(inside) == 1
    await before.rollback()
    async with asyncio.timeout(10):
        await log._vacuum.clean.wait()
    assert not log.erasure_pending
    assert await other.fetchval(inside) == 0
    await other.close()
    await log.close()


async def test_a_table_of_files_of_another_program_is_refused_and_left_alone(postgres: PostgresServer) -> None:
    url = await postgres.schema()
    await postgres.execute("CREATE TABLE media (id integer)", url=url)
    with pytest.raises(LogUnusable, match=r"has a table \w+\.media of another program"):
        await PostgresLog.open(url)
    with pytest.raises(LogUnusable, match="holds no log"):
        await PostgresLog.open(url, read_only=True)

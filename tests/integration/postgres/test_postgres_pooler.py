"""A log in PostgreSQL behind PgBouncer: session mode serves, the other modes are refused with the reason."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from events.errors import LogUnusable
from events.factory import open_log
from events.options import LogOptions
from events.storage.postgres.postgres_log import PostgresLog
from tests.support.log.log_texts import ALL, texts
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.external_programs import requires_program
from tests.support.programs.pgbouncer import pgbouncer
from tests.support.programs.postgres_server import PostgresServer

pytestmark = [pytest.mark.real_part, requires_program("pgbouncer")]
SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.3)


@pytest.fixture(scope="module")
def pooled(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a PgBouncer in session mode, as the README sets it up."""
    with pgbouncer(postgres) as url:
        yield url


async def behind(pooler: str, postgres: PostgresServer) -> str:
    """A schema of its own, reached through the pooler."""
    return f"{pooler}?{(await postgres.schema()).partition('?')[2]}"


async def test_in_session_mode_nodes_append_hear_of_each_other_and_erase(pooled: str, postgres: PostgresServer) -> None:
    url = await behind(pooled, postgres)
    first, second = await PostgresLog.open(url), await PostgresLog.open(url)
    waiting = asyncio.create_task(second.wait(0))
    await first.append("a", 0, [posted("1"), posted("2")], ASKED)
    async with asyncio.timeout(10):
        assert (await waiting).position == 2
        await second.erase("a", 2, deleted(), ASKED)
    assert [event.event for event in await first.read("a", limit=ALL)] == [None, None, deleted()]
    assert not second.erasure_pending
    await first.close()
    await second.close()


async def test_in_session_mode_the_settings_of_url_and_program_are_in_force(
    pooled: str, postgres: PostgresServer
) -> None:
    url = await behind(pooled, postgres)
    log = await PostgresLog.open(f"{url}&synchronous_commit=off&work_mem=7MB&application_name=it's%20\\us")
    await log.append("a", 0, [posted("1")], ASKED)
    connection = log._store._connection
    assert connection is not None
    shown = {
        name: await connection.fetchval(f"SHOW {name}")
        for name in ("work_mem", "synchronous_commit", "enable_seqscan", "statement_timeout", "application_name")
    }
    assert shown == {
        "work_mem": "7MB",
        "synchronous_commit": "on",
        "enable_seqscan": "off",
        "statement_timeout": "10s",
        "application_name": "it's \\us",
    }
    await log.close()


async def test_a_reader_needs_no_more_than_session_mode(pooled: str, postgres: PostgresServer) -> None:
    url = await behind(pooled, postgres)
    log = await PostgresLog.open(url)
    await log.append("a", 0, [posted("1")], ASKED)
    reading = await open_log(url, read_only=True)
    assert texts(await reading.read_all(limit=ALL)) == ["1"]
    await reading.close()
    await log.close()


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("transaction", "pool_mode = session"),
        ("statement", "pool_mode = session|not allowed in statement pooling mode"),
    ],
)
async def test_a_pooler_that_shares_servers_between_clients_is_refused(
    postgres: PostgresServer, mode: str, says: str
) -> None:
    name = f"pooled_{mode}"
    await postgres.execute(f"CREATE DATABASE {name}")
    await (await PostgresLog.open(postgres.url.removesuffix("postgres") + name)).close()
    with pgbouncer(postgres, name, pool_mode=mode) as url:
        for read_only in (False, True):
            with pytest.raises(LogUnusable, match=says):
                await open_log(url, SHORT_TIMEOUTS, read_only=read_only)


async def test_what_a_pooler_says_is_passed_on(pooled: str) -> None:
    nowhere = pooled.rpartition("/")[0] + "/nowhere"
    with pytest.raises(LogUnusable, match="no such database: nowhere"):
        await open_log(nowhere, SHORT_TIMEOUTS)


async def test_a_server_process_is_told_from_a_pooler(pooled: str, postgres: PostgresServer) -> None:
    """What the check of the mode rests on: two connections at once have two server processes in session mode."""
    found = []
    for _ in range(2):
        one, other = await asyncpg.connect(pooled), await asyncpg.connect(pooled)
        found.append(
            len({await one.fetchval("SELECT pg_backend_pid()"), await other.fetchval("SELECT pg_backend_pid()")})
        )
        await one.close()
        await other.close()
    assert found == [2, 2]

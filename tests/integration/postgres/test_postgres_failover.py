"""A standby takes over: a URL that names all servers finds it, and one that lacks acknowledged events is refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from events.options import LogOptions
from events.storage.postgres.postgres_connection import NEXT_HOST_S
from events.storage.postgres.postgres_log import PostgresLog
from tests.support.log.log_texts import ALL, texts
from tests.support.log.sample_events import ASKED, posted
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer, postgres_server
from tests.support.service import serving

pytestmark = pytest.mark.real_part


@pytest.fixture
async def vanished_host() -> AsyncIterator[str]:
    """Accepts connections and never answers."""

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def with_first_host(url: str, host: str) -> str:
    """`url` with `host` before its own."""
    return url.replace("@", f"@{host},")


async def test_a_host_that_does_not_answer_delays_the_next_one_for_a_moment_and_once(
    postgres: PostgresServer, vanished_host: str
) -> None:
    url = with_first_host(await postgres.schema(), vanished_host)
    async with asyncio.timeout(60 * NEXT_HOST_S):
        log = await PostgresLog.open(url, LogOptions(busy_timeout_s=0.1))
        await log.append("a", 0, [posted("1")], ASKED)
    assert texts(await log.read_all(limit=ALL)) == ["1"]
    assert str(postgres.port) in log._database._last_dsn  # where the next connection begins
    await log.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary, and a standby that no commit waits for."""
    with postgres_server() as primary, postgres_server(primary=primary) as standby:
        yield primary, standby


async def test_nodes_refuse_a_promoted_standby_that_lacks_acknowledged_events(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the projections are a file of the current folder
    primary, standby = pair
    url = with_first_host(primary.url, f"127.0.0.1:{standby.port}")
    async with serving(tmp_path, model.url, DATABASE_URL=url, CHATBOT_DATABASE_BUSY_TIMEOUT_S="5") as running:
        session = await running.session()
        async with asyncio.timeout(30):
            while await _head(standby) < running.services.log.head().position:
                await asyncio.sleep(0.02)
        await standby.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        async with asyncio.timeout(30):
            while await _fetch(primary, "SELECT count(*) FROM pg_stat_replication"):
                await asyncio.sleep(0.02)
        await running.chat(session, "only the primary has this")
        primary.kill()
        await standby.execute("SELECT pg_promote()")
        for _ in range(2):
            refused = await running.client.post("/api/chat", json={"session_id": session, "message": "and this?"})
            assert refused.status_code == 503, refused.text
        ready = await running.client.get("/readyz")
        assert ready.status_code == 503
        assert "has lost events that were recorded" in (running.services.log.damage or "")
        lacking = await running.client.get(f"/api/sessions/{session}/messages")
        assert lacking.status_code == 503, "what was acknowledged is not told to be missing"
    assert await _fetch(standby, "SELECT count(*) FROM events WHERE type = 'message_posted'") == 0


async def _head(server: PostgresServer) -> int:
    return await _fetch(server, "SELECT coalesce(max(position), 0) FROM events")


async def _fetch(server: PostgresServer, sql: str) -> int:
    connection = await asyncpg.connect(server.url)
    try:
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()

"""A change of the keys in one process is in force in all others: workers of one machine, nodes of one database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.keys import key_registry
from chatbot.keys.key_errors import KeyExists
from chatbot.keys.key_registry import KeyRegistry
from chatbot.keys.key_state import AddKey, RevokeKey
from chatbot.runtime.background_tasks import run_in_background
from events.errors import LogUnavailable
from events.factory import now_us
from events.log import EventLog
from events.record import Metadata, RecordedEvent
from tests.support.command_processes import run_command
from tests.support.http.feed_reader import FeedReader
from tests.support.log.memory_log import MemoryLog
from tests.support.log.stores import PostgresStores, RemoteSqliteStores, Stores
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.worker_processes import two_workers

ROOT = {"X-API-Key": "the-secret-of-root"}
SETTINGS = {
    "CHATBOT_API_KEYS": "root:the-secret-of-root",
    "CHATBOT_AUTH_ADMINS": "root",
    "CHATBOT_AUTH_FAILURES_PER_MINUTE": "1000000",  # what is asked until a change is in force
}
KEYS, SESSIONS, CHANGES = "/api/keys", "/api/sessions", "/api/sessions/changes"
GIVE_UP_S = 20.0


@pytest.fixture(params=["sqlite-remote", pytest.param("postgres", marks=pytest.mark.real_part)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    opened: Stores
    if request.param == "postgres":
        opened = PostgresStores(await request.getfixturevalue("postgres").schema())
    else:
        opened = RemoteSqliteStores(tmp_path)
    yield opened
    await opened.close()


async def registry(log: EventLog) -> KeyRegistry:
    made = KeyRegistry(AuthSettings(), log, now_us)
    await made.refresh()
    return made


async def until(reached: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            found = reached()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


async def test_what_one_process_records_is_in_force_in_another_that_follows(stores: Stores) -> None:
    one, other = await registry(await stores.open()), await registry(await stores.open())
    async with run_in_background(other.follow(), "follow"):
        _, secret = await one.change(AddKey("app", ("chat",)), Metadata())
        assert one.find(secret) is not None
        await until(lambda: other.find(secret) is not None)
        assert not other.is_open
        await one.change(RevokeKey("app"), Metadata())
        await until(lambda: other.find(secret) is None)


async def test_of_two_that_take_one_name_at_once_one_is_refused(stores: Stores) -> None:
    registries = [await registry(await stores.open()), await registry(await stores.open())]
    for number in range(5):
        command = AddKey(f"app{number}", ("chat",))
        outcomes = await asyncio.gather(
            *(one.change(command, Metadata()) for one in registries), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in outcomes) == [KeyExists.__name__, "tuple"]
    many = [AddKey(f"other{number}", ("chat",)) for number in range(6)]
    made = await asyncio.gather(*(registries[n % 2].change(one, Metadata()) for n, one in enumerate(many)))
    for one in registries:
        await one.refresh()
        assert all(one.find(secret) is not None for _, secret in made)
    assert registries[0].recorded == registries[1].recorded


class FailingLog(MemoryLog):
    """Another process writes it, too. Cannot be read while `is_down`."""

    is_down = False
    is_shared = True

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        if self.is_down:
            raise LogUnavailable("the disk is gone")
        return await super().read(stream_id, after=after, limit=limit)


async def test_while_the_log_cannot_be_read_the_last_known_keys_stay_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_registry, "READ_INTERVAL_S", 0.0)
    monkeypatch.setattr(key_registry, "READ_RETRY_S", 0.0)
    log = FailingLog()
    one, other = await registry(log), await registry(log)
    _, secret = await one.change(AddKey("app", ("chat",)), Metadata())
    with capture_logs() as lines:
        async with run_in_background(other.follow(), "follow"):
            await until(lambda: other.find(secret) is not None)
            log.is_down = True
            await until(lambda: not other.is_current)
            assert other.find(secret) is not None
            log.is_down = False
            await until(lambda: other.is_current)
    assert [line["event"] for line in lines] == ["keys.outdated"]


def client_of(url: str) -> httpx.AsyncClient:
    """One that keeps no connection, so that each request may come to either worker."""
    return httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))


@asynccontextmanager
async def followed(client: httpx.AsyncClient, secret: str) -> AsyncIterator[FeedReader]:
    async with client.stream("GET", CHANGES, headers={"X-API-Key": secret}) as answer:
        reader = FeedReader(answer)
        assert (await reader.next())["type"] == "ready"
        yield reader


async def check_everywhere(admin: httpx.AsyncClient, others: list[httpx.AsyncClient]) -> None:
    """A key that is made at `admin` opens the service at all of `others`, and nowhere once it is revoked."""
    body = {"name": "app", "scopes": ["chat"]}
    secret = (await admin.post(KEYS, json=body, headers=ROOT)).json()["secret"]

    async def statuses() -> set[int]:
        answers = await asyncio.gather(*(one.get(SESSIONS, headers={"X-API-Key": secret}) for one in others))
        return {answer.status_code for answer in answers}

    async def is_open() -> bool:
        return await statuses() == {200}

    async def is_shut() -> bool:
        return await statuses() == {401}

    await until(is_open)
    async with followed(others[0], secret) as first, followed(others[-1], secret) as last:
        await admin.delete(f"{KEYS}/app", headers=ROOT)
        for reader in (first, last):
            with pytest.raises(httpx.RemoteProtocolError):
                await reader.next()
    await until(is_shut)


async def test_workers_agree_on_the_keys(tmp_path: Path, model: ModelServer) -> None:
    async with two_workers(tmp_path, model, **SETTINGS) as started, client_of(started.url) as client:
        await check_everywhere(client, [client] * 8)


@pytest.mark.real_part
async def test_nodes_agree_on_the_keys_and_a_command_changes_them_meanwhile(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    url = await postgres.schema()
    async with nodes(tmp_path, url, model.url, **SETTINGS) as running:
        clients = [one.client for one in running]
        await check_everywhere(clients[0], clients)
        told = await run_command(tmp_path, "key", "rotate", "app", DATABASE_URL=url)
        secret = told.stdout.strip()
        assert secret.startswith("cb_"), told.stderr

        async def is_known() -> bool:
            answers = [await one.get(SESSIONS, headers={"X-API-Key": secret}) for one in clients]
            return {answer.status_code for answer in answers} == {200}

        await until(is_known)

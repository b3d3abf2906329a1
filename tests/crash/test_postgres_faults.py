"""What a log in PostgreSQL makes of servers that die, lines that are cut, and nodes that freeze: what was acknowledged
is there, and nothing is there twice.
"""

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import pytest

from events.errors import LogUnavailable, OutcomeUnknown, VersionConflict
from events.integrity.chain_verifier import verify
from events.log import EventLog
from events.options import LogOptions
from events.record import RecordedEvent
from events.storage.postgres import postgres_connection
from events.storage.postgres.append_procedure import LOCK
from events.storage.postgres.postgres_log import PostgresLog
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.programs.faulty_proxy import FaultyProxy
from tests.support.programs.postgres_server import PostgresServer, postgres_server
from tests.support.service import ROOT

pytestmark = pytest.mark.real_part

LONG_TIMEOUTS = LogOptions(busy_timeout_s=60.0)
SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.5)
REQUEST_BYTES = 400  # an append's call has more, a question fewer


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that tests may kill."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(postgres.port) as proxy:
        proxy.request_bytes = REQUEST_BYTES
        yield proxy


async def open_through(proxy: FaultyProxy, url: str, options: LogOptions = LONG_TIMEOUTS) -> PostgresLog:
    head, _, tail = url.rpartition("@")[2].partition("/")
    assert head
    return await PostgresLog.open(f"postgresql://postgres@127.0.0.1:{proxy.port}/{tail}", options)


class Appender:
    """Appends numbered texts to a stream of its own; when it cannot know, it looks before it appends again."""

    def __init__(self, log: EventLog, stream_id: str) -> None:
        self.acknowledged: list[str] = []
        self.unknown = 0
        self.stream_id = stream_id
        self._log = log

    async def run(self, goes_on: Callable[[], bool]) -> None:
        version = number = 0
        while goes_on():
            text = f"{self.stream_id}:{number}"
            try:
                await self._log.append(self.stream_id, version, [posted(text)], ASKED)
            except LogUnavailable:
                self.unknown += 1
                version, found = await self._look()
                if found != text:
                    continue
            else:
                version += 1
            self.acknowledged.append(text)
            number += 1

    async def _look(self) -> tuple[int, str | None]:
        while True:
            try:
                tail = await self._log.read(self.stream_id, limit=1, backwards=True)
            except LogUnavailable:
                await asyncio.sleep(0.05)
            else:
                return (tail[0].version, texts(tail)[0]) if tail else (0, None)


async def checked(log: EventLog, appenders: list[Appender]) -> None:
    """Each stream is exactly what its appender was told."""
    assert (await verify(log))[1] is None
    for appender in appenders:
        assert appender.acknowledged
        recorded: list[RecordedEvent] = []
        while page := await log.read(appender.stream_id, after=len(recorded), limit=1000):
            recorded += page
        assert texts(recorded) == appender.acknowledged


async def test_a_server_that_is_killed_during_appends_keeps_what_was_acknowledged_and_doubles_nothing(
    own_server: PostgresServer,
) -> None:
    url = await own_server.schema()
    nodes = await asyncio.gather(PostgresLog.open(url, LONG_TIMEOUTS), PostgresLog.open(url, SHORT_TIMEOUTS))
    is_over = False
    appenders = [Appender(nodes[number % 2], f"s{number}") for number in range(8)]
    work = [asyncio.create_task(appender.run(lambda: not is_over)) for appender in appenders]
    for _ in range(3):
        await asyncio.sleep(random.uniform(0.3, 0.5))
        await asyncio.to_thread(own_server.kill)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own_server.start)
    await asyncio.sleep(0.3)
    is_over = True
    await asyncio.gather(*work)
    await checked(nodes[0], appenders)
    assert not any(appender.unknown for appender in appenders[::2]), "a node that waits long enough tells for certain"
    for node in nodes:
        assert node.damage is None
        assert node.failure is None
        await node.close()


async def test_connections_that_are_ended_at_random_during_appends_cost_nothing(postgres: PostgresServer) -> None:
    url = await postgres.schema()
    nodes = await asyncio.gather(PostgresLog.open(url, LONG_TIMEOUTS), PostgresLog.open(url, LONG_TIMEOUTS))
    is_over = False
    appenders = [Appender(nodes[number % 2], f"s{number}") for number in range(8)]
    work = [asyncio.create_task(appender.run(lambda: not is_over)) for appender in appenders]
    for _ in range(40):
        await asyncio.sleep(0.04)
        await postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'chatbot' AND random() < 0.4"
        )
    is_over = True
    await asyncio.gather(*work)
    await checked(nodes[1], appenders)
    assert not any(appender.unknown for appender in appenders)
    for node in nodes:
        assert node.failure is None
        await node.close()


async def test_an_answer_that_was_lost_is_looked_up_not_written_again(
    postgres: PostgresServer, proxy: FaultyProxy
) -> None:
    log = await open_through(proxy, await postgres.schema())
    await fill(log, "a", "1")
    proxy.drops_answer = True
    (recorded,) = await log.append("a", 1, [posted("2")], ASKED)
    assert (recorded.position, recorded.version, proxy.cuts) == (2, 2, 1)
    assert log.head().position == 2
    proxy.drops_answer = True
    (recorded,) = await log.erase("a", 2, deleted(), ASKED)
    assert (recorded.position, proxy.cuts) == (3, 2)
    assert [event.event for event in await log.read("a", limit=ALL)] == [None, None, deleted()]
    await log.close()


async def test_a_request_that_was_lost_is_sent_again(postgres: PostgresServer, proxy: FaultyProxy) -> None:
    log = await open_through(proxy, await postgres.schema())
    await fill(log, "a", "1")
    proxy.drops_request = True
    (recorded,) = await log.append("a", 1, [posted("2")], ASKED)
    assert (recorded.position, proxy.cuts) == (2, 1)
    await log.close()


async def test_of_a_batch_whose_answer_was_lost_each_append_learns_its_own_fate(
    postgres: PostgresServer, proxy: FaultyProxy
) -> None:
    log = await open_through(proxy, await postgres.schema())
    await fill(log, "a", "1")
    proxy.drops_answer = True
    results = await asyncio.gather(
        log.append("a", 0, [posted("stale")], ASKED),
        log.append("a", 1, [posted("2"), posted("3")], ASKED),
        log.append("a", 3, [posted("4")], ASKED),
        log.append("b", 1, [posted("ahead")], ASKED),
        return_exceptions=True,
    )
    assert proxy.cuts == 1
    assert [isinstance(result, VersionConflict) for result in results] == [True, False, False, True]
    assert texts(await log.read_all(limit=ALL)) == ["1", "2", "3", "4"]
    await log.close()


async def test_a_call_that_still_waits_in_the_server_and_its_repetition_are_one_append(
    postgres: PostgresServer, proxy: FaultyProxy
) -> None:
    """The line is cut while the call waits for the log's lock: the server does not notice, and carries it out."""
    url = await postgres.schema()
    log = await open_through(proxy, url)
    await fill(log, "a", "1")
    other = await asyncpg.connect(url)
    for _ in range(3):
        version = log.head().position
        lock = other.transaction()
        await lock.start()
        await other.execute(LOCK)
        proxy.drops_answer = proxy.keeps_server_side = True
        append = asyncio.create_task(log.append("a", version, [posted("next")], ASKED))
        await asyncio.sleep(0.3)
        await lock.rollback()
        (recorded,) = await append
        assert recorded.version == version + 1
        await asyncio.sleep(0.1)
        assert len(await log.read("a", limit=ALL)) == version + 1
    assert proxy.cuts == 3
    assert (await verify(log))[1] is None
    await other.close()
    await log.close()


async def test_an_outcome_that_stays_unknown_is_told_as_unknown(postgres: PostgresServer, proxy: FaultyProxy) -> None:
    log = await open_through(proxy, await postgres.schema(), SHORT_TIMEOUTS)
    await fill(log, "a", "1")
    proxy.drops_answer = proxy.down = True
    with pytest.raises(OutcomeUnknown, match="unknown: read the stream again"):
        await log.append("a", 1, [posted("2")], ASKED)
    with pytest.raises(LogUnavailable, match="nothing was recorded"):
        await log.append("b", 0, [posted("3")], ASKED)
    proxy.down = False
    assert texts(await log.read_all(limit=ALL)) == ["1", "2"]
    await log.append("a", 2, [posted("3")], ASKED)
    assert (await verify(log))[1] is None
    await log.close()


async def test_a_client_that_froze_while_it_sent_does_not_hold_the_lock(
    postgres: PostgresServer, proxy: FaultyProxy
) -> None:
    """The server has the call, but not the message that ends the transaction."""
    url = await postgres.schema()
    frozen, log = await open_through(proxy, url), await PostgresLog.open(url, SHORT_TIMEOUTS)
    proxy.delays_sync = asyncio.Event()
    append = asyncio.create_task(frozen.append("frozen", 0, [posted("1")], ASKED))
    async with asyncio.timeout(5):
        assert (await log.wait(0)).position == 1, "it was committed all the same"
        await log.append("mine", 0, [posted("2")], ASKED)
    assert not append.done()
    proxy.delays_sync.set()
    assert (await append)[0].position == 1
    await log.close()
    await frozen.close()


async def test_what_was_recorded_is_told_as_recorded_even_if_nothing_can_be_recorded_any_more(
    postgres: PostgresServer, proxy: FaultyProxy
) -> None:
    url = await postgres.schema()
    log = await open_through(proxy, url, LogOptions(busy_timeout_s=3.0))
    await fill(log, "a", "1")
    other = await asyncpg.connect(url)
    proxy.drops_answer = proxy.down = True
    append = asyncio.create_task(log.append("a", 1, [posted("2")], ASKED))
    while not proxy.cuts:
        await asyncio.sleep(0.01)
    async with other.transaction():
        await other.execute(LOCK)
        proxy.down = False
        assert (await append)[0].position == 2
    async with other.transaction():
        await other.execute(LOCK)
        with pytest.raises(LogUnavailable, match=r"keeps the log locked .*nothing was recorded"):
            await log.append("a", 2, [posted("3")], ASKED)
    await other.close()
    await log.close()


FROZEN = """
import asyncio, sys
from events.storage.postgres.postgres_log import PostgresLog
from events.storage.postgres.append_procedure import LOCK
from tests.support.log.sample_events import ASKED, posted

async def main():
    log = await PostgresLog.open(sys.argv[1])
    print("ready", flush=True)
    async def appending(stream):
        version = 0
        while True:
            await log.append(stream, version, [posted("x" * 20000)] * 8, ASKED)
            version += 8
    await asyncio.gather(*(appending(f"frozen-{n}") for n in range(16)))

asyncio.run(main())
"""


async def test_a_node_that_freezes_at_any_moment_holds_up_nobody(postgres: PostgresServer) -> None:
    """Its calls are big, so that it is often stopped while it sends one."""
    url = await postgres.schema()
    log = await PostgresLog.open(url, LONG_TIMEOUTS)
    frozen = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FROZEN, url, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert frozen.stdout is not None
        await frozen.stdout.readline()
        version, slowest_s = 0, 0.0
        for _ in range(25):
            frozen.send_signal(signal.SIGSTOP)
            began_s = time.monotonic()
            await log.append("mine", version, [posted("x")], ASKED)
            slowest_s, version = max(slowest_s, time.monotonic() - began_s), version + 1
            frozen.send_signal(signal.SIGCONT)
            await asyncio.sleep(random.uniform(0.005, 0.03))
        assert slowest_s < 10.0
    finally:
        frozen.kill()
        await frozen.wait()
    assert (await verify(log))[1] is None
    await log.close()


async def test_a_server_that_was_restarted_while_nobody_asked_is_not_noticed(own_server: PostgresServer) -> None:
    log = await PostgresLog.open(await own_server.schema(), LONG_TIMEOUTS)
    await fill(log, "a", "1")
    assert texts(await log.read_all(limit=ALL)) == ["1"]
    await asyncio.to_thread(own_server.stop)
    await asyncio.to_thread(own_server.start)
    assert texts(await log.read_all(limit=ALL)) == ["1"]
    assert (await log.latest()).position == 1
    waiting = asyncio.create_task(log.wait(1))
    await log.append("a", 1, [posted("2")], ASKED)
    assert (await waiting).position == 2
    await log.close()


async def test_a_database_that_has_forgotten_what_it_acknowledged_is_written_no_more(postgres: PostgresServer) -> None:
    """A standby that took over without the last commits; or an old copy."""
    url = await postgres.schema()
    log = await PostgresLog.open(url, SHORT_TIMEOUTS)
    await fill(log, "a", "1", "2", "3")
    await postgres.execute("SET session_replication_role = replica", "DELETE FROM events WHERE position = 3", url=url)
    await postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chatbot'")
    with pytest.raises(LogUnavailable, match="has lost events that were recorded"):
        await log.append("a", 3, [posted("4")], ASKED)
    assert "has lost events" in str(log.damage)
    with pytest.raises(LogUnavailable, match="has lost events"):
        await log.append("b", 0, [posted("5")], ASKED)
    await log.close()
    again = await PostgresLog.open(url, SHORT_TIMEOUTS)
    assert again.head().position == 2
    await again.close()


@pytest.fixture
def server_on_small_disk() -> Iterator[PostgresServer]:
    with postgres_server() as server, server.small_disk(3000):
        yield server


async def test_a_full_disk_refuses_and_records_nothing_until_there_is_space(
    server_on_small_disk: PostgresServer,
) -> None:
    url = f"{await server_on_small_disk.schema()}&default_tablespace=small"
    await server_on_small_disk.execute(
        "CREATE TABLE ballast AS SELECT repeat('x', 1000) FROM generate_series(1, 800)", url=url
    )
    log = await PostgresLog.open(url, SHORT_TIMEOUTS)
    version = 0

    async def fill_up() -> None:
        nonlocal version
        while version < 200:
            await log.append("a", version, [posted(random.randbytes(20_000).hex())], ASKED)
            version += 1

    with pytest.raises(LogUnavailable, match=r"disk is full: free some space .*; nothing was recorded"):
        await fill_up()
    assert version > 1
    assert (await log.latest()).position == version
    await server_on_small_disk.execute("DROP TABLE ballast", url=url)
    await log.append("a", version, [posted("again")], ASKED)
    assert (await verify(log))[1] is None
    assert (log.damage, log.failure) == (None, None)
    await log.close()


async def test_a_standby_refuses_and_tells_that_nothing_was_recorded_until_it_is_the_primary(
    own_server: PostgresServer,
) -> None:
    url = await own_server.schema()
    log = await PostgresLog.open(url, SHORT_TIMEOUTS)
    await fill(log, "a", "1")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chatbot'"
    await own_server.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    await own_server.execute(end)
    async with asyncio.timeout(10):  # else the call may be on its way on the old connection: then nobody could know
        while (connection := log._store._connection) is not None and not connection.is_closed():
            await asyncio.sleep(0.01)
    with pytest.raises(LogUnavailable, match=r"takes no writes .* nothing was recorded"):
        await log.append("a", 1, [posted("2")], ASKED)
    await own_server.execute("SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET ALL")
    await log.append("a", 1, [posted("2")], ASKED)
    assert texts(await log.read_all(limit=ALL)) == ["1", "2"]
    await log.close()


async def test_what_no_standby_has_confirmed_is_not_acknowledged(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL gives up waiting for a standby when a statement has taken too long, and then says that all is well."""
    url = await own_server.schema()
    await (await PostgresLog.open(url)).close()  # its table is there
    monkeypatch.setitem(postgres_connection._SETTINGS, "statement_timeout", "300")
    log = await PostgresLog.open(url, SHORT_TIMEOUTS)
    await log.append("a", 0, [posted("1")], ASKED)
    await own_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'", "SELECT pg_reload_conf()")
    try:
        await asyncio.sleep(1.0)
        with pytest.raises(OutcomeUnknown, match="no standby confirms"):
            await log.append("a", 1, [posted("2")], ASKED)
    finally:
        await own_server.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    await asyncio.sleep(1.0)
    await log.append("a", 2, [posted("3")], ASKED)
    await log.close()


async def test_what_was_recorded_unconfirmed_is_acknowledged_once_a_standby_confirms(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await own_server.schema()
    await (await PostgresLog.open(url)).close()  # its table is there
    monkeypatch.setitem(postgres_connection._SETTINGS, "statement_timeout", "300")
    log = await PostgresLog.open(url, LONG_TIMEOUTS)
    await log.append("a", 0, [posted("1")], ASKED)
    await own_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'", "SELECT pg_reload_conf()")
    try:
        await asyncio.sleep(1.0)
        appending = asyncio.create_task(log.append("a", 1, [posted("2")], ASKED))
        await asyncio.sleep(1.5)
        assert not appending.done(), "it is recorded, but nobody has confirmed it"
    finally:
        await own_server.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    assert [one.version for one in await appending] == [2]
    assert texts(await log.read_all(limit=ALL)) == ["1", "2"]
    await log.close()

"""Readiness: no requests are wanted where nothing can be recorded or read, and again as soon as it works."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import httpx
import pytest
import structlog

from chatbot.api import readiness as readiness_module
from chatbot.api.readiness import PROBE_S, WriteProbe
from chatbot.observability.metrics import LogMetrics, Metrics
from events.errors import LogUnavailable, VersionConflict
from events.options import LogOptions
from events.remote import writer_connection
from events.storage import group_commit
from events.storage.append_batch import Outcome, PendingAppend
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.errors import ProjectionsUnavailable
from projections.runner import ProjectionRunner
from tests.support.log.log_files import foreign
from tests.support.log.log_service import LogService
from tests.support.log.memory_log import MemoryLog
from tests.support.log.sample_events import ASKED, posted
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running, serving


async def readiness(client: httpx.AsyncClient) -> tuple[int, str]:
    answer = await client.get("/readyz")
    said = answer.json()
    assert (said["status"] == "ready") == ("reason" not in said) == (answer.status_code == 200)
    return answer.status_code, said["status"]


async def until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while await readiness(client) != (200, "ready"):
            await asyncio.sleep(0.05)


async def test_a_service_that_cannot_record_is_not_ready_until_it_can(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_DATABASE_BUSY_TIMEOUT_S="0.1") as service:
        assert await readiness(service.client) == (200, "ready")
        other = await asyncio.to_thread(foreign, tmp_path / "chatbot.db", "BEGIN IMMEDIATE")
        try:
            assert (await service.client.post("/api/sessions")).status_code == 503
            assert await readiness(service.client) == (503, "unwritable")
            assert (await service.client.get("/api/health")).json()["status"] == "degraded"
        finally:
            other.execute("ROLLBACK")
            other.close()
        await until_ready(service.client)
        assert (await service.client.get("/api/health")).json()["status"] == "healthy"
        assert service.services.log.head().position == 0


async def test_a_service_whose_disk_does_not_answer_is_not_ready_until_it_does(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "STALLED_S", 0.1)
    log = service.services.log
    assert isinstance(log, SqliteLog)
    assert log.write_side is not None
    write, answers = log.write_side.store.write, asyncio.Event()

    async def write_late(batch: Sequence[PendingAppend]) -> list[Outcome]:
        await answers.wait()
        return await write(batch)

    assert "chatbot_append_pending_seconds 0.0" in (await service.client.get("/metrics")).text
    monkeypatch.setattr(log.write_side.store, "write", write_late)
    creation = asyncio.create_task(service.client.post("/api/sessions"))
    try:
        await asyncio.sleep(0.3)
        assert await readiness(service.client) == (503, "unwritable")
        (line,) = [
            line
            for line in (await service.client.get("/metrics")).text.splitlines()
            if line.startswith("chatbot_append_pending_seconds ")
        ]
        assert float(line.split()[1]) > 0.3
    finally:
        answers.set()  # the service cannot end before
    assert (await creation).status_code == 201
    await until_ready(service.client)
    assert "chatbot_append_pending_seconds 0.0" in (await service.client.get("/metrics")).text


async def test_a_service_whose_projections_cannot_follow_is_not_ready(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = service.services.runner
    assert isinstance(runner, ProjectionRunner)
    runner.trouble = OSError("the disk is full")
    assert await readiness(service.client) == (200, "ready"), "nothing is missing in them yet"
    await service.services.session_queries.catch_up()
    behind = asyncio.Event()

    async def fail(*_: object) -> None:
        behind.set()
        raise ProjectionsUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(runner._store, "apply", fail)
        await service.session()
        await behind.wait()
        assert await readiness(service.client) == (503, "unreadable")
        assert (await service.client.get("/api/health")).json()["status"] == "degraded"
    await until_ready(service.client)


async def test_a_service_whose_projections_have_stopped_says_so(service: Running) -> None:
    runner = service.services.runner
    assert isinstance(runner, ProjectionRunner)
    runner.failure = RuntimeError("x")
    assert await readiness(service.client) == (503, "failed")


async def test_a_worker_whose_writer_cannot_write_says_so_until_it_can(tmp_path: Path) -> None:
    options = LogOptions(busy_timeout_s=0.1)
    service = LogService(tmp_path / "log.db")
    await service.start(options)
    observer = LogMetrics(Metrics("1"), structlog.get_logger("test"))
    log = await service.connect(options, observer)
    try:
        now_s = 100.0
        write_probe = WriteProbe(log, observer, lambda: now_s)
        other = await asyncio.to_thread(foreign, service.path, "BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable):
            await log.append("a", 0, [posted("x")], ASKED)
        assert not await write_probe.is_writable()
        other.execute("ROLLBACK")
        other.close()
        now_s += PROBE_S
        assert await write_probe.is_writable()
        with pytest.raises(VersionConflict):
            await log.append("a", 1, [posted("x")], ASKED)
        assert await write_probe.is_writable()
    finally:
        await service.close()


async def test_a_worker_whose_writer_does_not_answer_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_connection, "STALLED_S", 0.1)
    monkeypatch.setattr(writer_connection, "ANSWER_CHECK_S", 0.02)
    monkeypatch.setattr(readiness_module, "DATABASE_TIMEOUT_S", 0.05)
    service = LogService(tmp_path / "log.db")
    of_writer = await service.start()
    observer = LogMetrics(Metrics("1"), structlog.get_logger("test"))
    log = await service.connect(observe=observer)
    answers = asyncio.Event()
    try:
        write_probe = WriteProbe(log, observer)
        assert await write_probe.is_writable()
        assert of_writer.write_side is not None
        stuck = of_writer.write_side.writer.run(answers.wait)
        append = asyncio.create_task(log.append("a", 0, [posted("x")], ASKED))
        await asyncio.sleep(0.3)
        assert log.oldest_append_s > 0.2
        assert not await write_probe.is_writable()
        answers.set()
        await asyncio.gather(stuck, append)
        assert log.oldest_append_s == 0
        async with asyncio.timeout(20):
            while not await write_probe.is_writable():
                await asyncio.sleep(0.05)
    finally:
        answers.set()  # the writer cannot end before
        await service.close()


@pytest.mark.real_part
async def test_a_database_that_has_become_read_only_takes_no_requests(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the projections are a file of the current folder
    admin = await asyncpg.connect(postgres.url)
    ours = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    )
    url = await postgres.schema()
    async with serving(tmp_path, model.url, DATABASE_URL=url, CHATBOT_DATABASE_BUSY_TIMEOUT_S="0.2") as service:
        await until_ready(service.client)
        try:
            await admin.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
            await admin.execute(ours)
            async with asyncio.timeout(20):
                while (await service.client.post("/api/sessions")).status_code != 503:
                    await asyncio.sleep(0.05)
            status, state = await readiness(service.client)
            assert (status, state) in ((503, "unwritable"), (503, "unreadable"))
        finally:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
            await admin.execute(ours)
            await admin.close()
        await until_ready(service.client)


async def test_a_log_that_has_refused_is_probed_now_and_then_only() -> None:
    class Log(MemoryLog):
        probes = 0
        refuses = True

        async def check_writable(self) -> None:
            self.probes += 1
            if self.refuses:
                raise LogUnavailable

    now_s = 100.0
    log, watch = Log(), LogMetrics(Metrics("1"), structlog.get_logger("test"))
    write_probe = WriteProbe(log, watch, lambda: now_s)
    assert await write_probe.is_writable()
    assert log.probes == 0, "as long as appends go well there is nothing to ask"
    watch.refused("unavailable")
    for _ in range(3):
        assert not await write_probe.is_writable()
    assert log.probes == 1
    now_s += PROBE_S
    log.refuses = False
    assert await write_probe.is_writable()
    assert await write_probe.is_writable()
    assert log.probes == 2

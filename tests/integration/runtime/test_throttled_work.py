"""Big work goes step by step, each of them bounded, and between any two of them the loop serves others."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain.commands import Expire
from events.catalogue import RESERVED_STREAMS, SessionCreated
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.sqlite.projection_file import ProjectionFile
from tests.support.log.event_builders import created, turn
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

TURNS = 400
ROWS, TEXTS = 250, 50  # of a step: a millisecond at most, to prove them or with their texts


class Steps:
    """Each read of a page: how often the loop has gone round by then, and how much was asked for."""

    def __init__(self) -> None:
        self.rounds = 0
        self.reads: list[tuple[int, int]] = []

    def spy(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        read: Callable[..., Awaitable[Any]] = getattr(SqliteLog, name)

        async def spied(log: SqliteLog, *arguments: Any, **options: Any) -> Any:
            if not RESERVED_STREAMS.keys() & set(map(str, arguments)):  # keys are followed by a task of their own
                self.reads.append((self.rounds, options["limit"]))
            return await read(log, *arguments, **options)

        monkeypatch.setattr(SqliteLog, name, spied)

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        async def go_round() -> None:
            while True:
                self.rounds += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(go_round())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def check(self, most: int, at_least: int) -> None:
        """At least so many reads, of at most `most`, and the loop went round between any two."""
        assert len(self.reads) >= at_least
        assert max(limit for _, limit in self.reads) <= most
        at = [rounds for rounds, _ in self.reads]
        assert all(one < later for one, later in itertools.pairwise(at))


async def conversation(service: Running) -> str:
    """A session of TURNS turns, written straight into the log."""
    session_id, version, parent = str(uuid.uuid4()), 1, None
    log = service.services.log
    await log.append(session_id, 0, [created(owner=None)], Metadata())
    for number in range(TURNS):
        recorded = await log.append(session_id, version, turn(number, parent), Metadata())
        version, parent = recorded[-1].version, f"r{number}"
    await service.services.session_queries.catch_up()
    return session_id


async def get(service: Running, path: str) -> Any:
    answer = await service.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer


async def test_a_walk_along_the_chain_lets_others_in_after_each_page(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await conversation(service)
    steps = Steps()
    steps.spy(monkeypatch, "rows")
    async with steps.counted():
        assert (await get(service, "/api/audit/verify")).json()["holds"]
    steps.check(ROWS, 3 * TURNS // ROWS)


async def test_an_export_of_a_long_conversation_lets_others_in_after_each_page(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await conversation(service)
    steps = Steps()
    steps.spy(monkeypatch, "read")
    async with steps.counted():
        exported = (await get(service, f"/api/sessions/{session_id}/export")).json()
    assert [one["message_id"] for one in exported["messages"]] == [
        f"{kind}{number}" for number in range(TURNS) for kind in "mr"
    ]
    steps.check(TEXTS, 3 * TURNS // TEXTS)
    assert steps.rounds - steps.reads[-1][0] > 2 * TURNS // 100  # and while it was folded and written, page by page


async def test_a_reader_of_the_whole_log_lets_others_in_after_each_page(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await conversation(service)
    steps = Steps()
    steps.spy(monkeypatch, "rows")
    async with steps.counted():
        lines = (await get(service, "/api/events?limit=10000")).text.splitlines()
    assert len(lines) == 3 * TURNS + 1
    steps.check(TEXTS, 3 * TURNS // TEXTS)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_who_reads_a_trail_rests_for_its_writing_as_for_its_reading(
    service: Running, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    session_id = await conversation(service)
    charged, charge = 0, DutyCycleThrottle.charge

    def spied(throttle: DutyCycleThrottle, worked_s: float) -> None:
        nonlocal charged
        charged += 1
        charge(throttle, worked_s)

    monkeypatch.setattr(DutyCycleThrottle, "charge", spied)
    path = f"/api/sessions/{session_id}/events?limit=500"
    answer = await service.client.get(path, headers={"Accept": accept})
    assert answer.status_code == 200
    assert charged == 2 * 500 // TEXTS


async def test_a_rebuild_in_the_service_lets_others_in_after_each_batch(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_DATABASE_PROJECTION_BATCH_MAX="100") as service:
        session_id = await conversation(service)
        steps = Steps()
        steps.spy(monkeypatch, "read_all")
        replaced = asyncio.Event()
        replace = ProjectionFile.replace

        async def spied(custody: ProjectionFile) -> None:
            await replace(custody)
            steps.reads.clear()
            replaced.set()

        monkeypatch.setattr(ProjectionFile, "replace", spied)
        (tmp_path / "projections.db").unlink()
        async with steps.counted(), asyncio.timeout(60):
            while not replaced.is_set():
                await service.session()  # the runner looks at its file when there is news
            while (answer := await service.client.get(f"/api/sessions/{session_id}/messages")).status_code != 200:
                await asyncio.sleep(0.01)  # until all of it is counted
        assert answer.json()["messages"][-1]["message_id"] == f"r{TURNS - 1}"
    steps.check(100, 3 * TURNS // 100)


async def test_sessions_that_are_due_at_once_expire_one_by_one(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    expiry = service.services.expiry
    ask = expiry._ask_session

    async def spied(session_id: str, command: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal running, most
        is_expiry = isinstance(command, Expire)
        running += is_expiry
        most = max(most, running)
        try:
            return await ask(session_id, command, *arguments, **options)
        finally:
            running -= is_expiry

    monkeypatch.setattr(expiry, "_ask_session", spied)
    services = service.services
    for _ in range(10):
        await services.log.append(str(uuid.uuid4()), 0, [SessionCreated(None, {}, 1)], Metadata())
    services.expiry.notify(services.clock() + 1_000_000)
    async with asyncio.timeout(30):
        while (await services.queries.counts()).get("expired", 0) < 10:
            await service.chat(await service.session(), "hello")  # chat goes on meanwhile
    assert most == 1

"""Erasures that go on after the answer: DELETE of a session whose texts many forks read."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from chatbot.sessions import erasure_job
from chatbot.sessions.actor import actor
from chatbot.sessions.actor import forks as forking
from chatbot.sessions.cluster_port import SingleNode
from chatbot.sessions.domain.commands import SERVICE, Caller, DeleteSession, Fork
from chatbot.sessions.domain.rejections import SessionDeleted
from chatbot.sessions.erasure_job import ErasureJob
from events.catalogue import SessionDeleted as SessionDeletedEvent
from events.integrity.chain_verifier import verify
from tests.support.http.feed_reader import following
from tests.support.http.service_requests import bytes_on_disk, event_counts, recorded, said
from tests.support.log.forked_log import fork_of, origin_of
from tests.support.service import Running
from tests.support.sessions.sessions_harness import SessionsHarness

TEXTS, FORKS = 6, 3
ALL = [f"text {n} of it" for n in range(TEXTS)]


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "COPY_INLINE_TEXTS_MAX", 2)
    monkeypatch.setattr(forking, "COPY_BATCH_TEXTS", 2)
    monkeypatch.setattr(erasure_job, "POLL_S", 0.02)


class World(SessionsHarness):
    """A log in which forks read the texts of `origin`."""

    async def filled(self) -> None:
        adopted = await origin_of(self.log, "origin", TEXTS)
        for fork in range(FORKS):
            await fork_of(self.log, f"fork{fork}", "origin", adopted)
        await self.runner.wait_for(self.log.head().position)

    async def begin(self) -> None:
        answer = await self.supervisor.ask("origin", DeleteSession(may_wait=True), Caller())
        assert answer.state.session.status == "expired"
        assert answer.state.session.is_deleted

    async def event_counts(self) -> Counter[str]:
        return Counter(one.type for one in await self.log.read_all(limit=1_000))

    async def until_erased(self) -> None:
        async with asyncio.timeout(20):
            while not (await self.event_counts())["session_deleted"]:
                await asyncio.sleep(0.005)

    async def check(self) -> None:
        """All forks are whole, nothing was copied twice, and the log holds."""
        assert await self.event_counts() >= Counter(message_copied=TEXTS * FORKS, session_deleted=1)
        for fork in range(FORKS):
            history = await self.reader.history(f"fork{fork}", None, 100, None)
            assert [one.content for one in history.messages] == ALL
        assert (await self.event_counts())["message_copied"] == TEXTS * FORKS
        assert (await verify(self.log))[1] is None


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.open()
    await made.filled()
    yield made
    await made.close()


@asynccontextmanager
async def going_on(sessions: SessionsHarness) -> AsyncIterator[ErasureJob]:
    working = ErasureJob(sessions.ports, sessions.supervisor.ask)
    task = asyncio.create_task(working.run())
    try:
        yield working
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def held(service: Running) -> AsyncIterator[None]:
    """What goes on after the answer waits meanwhile."""
    working, may_go_on = cast(ErasureJob, service.services.erasures), asyncio.Event()
    finish_all = working._finish_all

    async def wait() -> None:
        await may_go_on.wait()
        await finish_all()

    working._finish_all = wait  # type: ignore[method-assign]
    yield
    working._finish_all = finish_all  # type: ignore[method-assign]
    may_go_on.set()


async def test_the_session_is_gone_at_once_and_its_content_soon(service: Running, tmp_path: Path) -> None:
    client = service.client
    session_id = await service.session(title="SECRET title")
    for text in ("one", "two"):
        await service.chat(session_id, text)
    forks = [(await client.post(f"/api/sessions/{session_id}/fork", json={})).json()["session_id"] for _ in range(2)]
    for fork in forks:
        await client.patch(f"/api/sessions/{fork}", json={"title": None})
    path = f"/api/sessions/{session_id}"
    async with held(service):
        async with following(client, session_id) as feed:
            answer = await client.delete(path)
            assert (await feed.until("deleted"))[-1]["type"] == "deleted"
        assert (answer.status_code, answer.json()["status"]) == (202, "erasing")
        assert (await client.delete(path)).status_code == 202
        for refused in (
            await client.get(path),
            await client.get(f"{path}/messages"),
            await client.get(f"{path}/export"),
            await client.post(f"{path}/fork", json={}),
            await client.post("/api/chat", json={"session_id": session_id, "message": "x"}),
        ):
            assert (refused.status_code, refused.json()["type"]) == (404, "/problems/session-deleted")
        for status in ("active", "expired"):
            listed = (await client.get("/api/sessions", params={"status": status})).json()["sessions"]
            assert session_id not in [one["session_id"] for one in listed]
        assert "chatbot_erasure_pending 1.0" in (await client.get("/metrics")).text
    async with asyncio.timeout(20):
        while (await client.delete(path)).status_code == 202:
            await asyncio.sleep(0.01)
    assert (await client.delete(path)).json()["type"] == "/problems/session-deleted"
    for fork in forks:
        assert await said(client, fork) == ["one", "You said: one", "two", "You said: two"]
    assert event_counts(tmp_path)["message_copied"] == 8
    assert next(data for name, data in recorded(tmp_path) if name == "session_created") == {}
    async with asyncio.timeout(20):
        while service.services.erasures.pending:
            await asyncio.sleep(0.01)
    assert (await verify(service.services.log))[1] is None


async def test_few_texts_are_copied_before_the_answer(service: Running, tmp_path: Path) -> None:
    session_id = await service.session(title="SECRET")
    await service.chat(session_id, "one")
    fork = (await service.client.post(f"/api/sessions/{session_id}/fork", json={})).json()["session_id"]
    await service.client.patch(f"/api/sessions/{fork}", json={"title": None})
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    assert await said(service.client, fork) == ["one", "You said: one"]
    assert event_counts(tmp_path)["session_expired"] == 0
    created = [data for name, data in recorded(tmp_path) if name == "session_created"]
    assert created[0] == {}
    assert b"SECRET" in bytes_on_disk(tmp_path), "the fork has had that title"


@pytest.mark.parametrize("asked", [0, 1, 4])
async def test_after_a_crash_it_goes_on_and_copies_nothing_twice(sessions: World, asked: int) -> None:
    await sessions.begin()
    assert (await sessions.event_counts())["message_copied"] == 2, "before the answer"
    async with going_on(sessions) as working:
        ask, left, stuck = working._ask_throttled, [asked], asyncio.Event()

        async def ask_some(*command: Any, **said: Any) -> Any:
            if not left[0]:
                stuck.set()
                await asyncio.Event().wait()
            left[0] -= 1
            return await ask(*command, **said)

        working._ask_throttled = ask_some  # type: ignore[method-assign]
        await stuck.wait()
    assert (await sessions.event_counts())["message_copied"] == 2 + 2 * asked
    await sessions.crash()
    await sessions.open()
    async with going_on(sessions):
        await sessions.until_erased()
    await sessions.check()


async def test_projections_that_are_lost_meanwhile_lose_no_erasure(sessions: World) -> None:
    await sessions.begin()
    await sessions.crash()
    sessions.forget_projections()
    await sessions.open()
    async with going_on(sessions):
        await sessions.until_erased()
    await sessions.check()


async def test_what_stands_in_the_way_is_waited_for(sessions: World) -> None:
    await sessions.begin()
    sessions.log.refusing = True
    async with going_on(sessions) as working:
        await sessions.until(lambda: working.pending == 1, "it is tried")
        sessions.log.refusing = False
        await sessions.until_erased()
        await sessions.until(lambda: working.pending == 0, "it is done")
    await sessions.check()


async def test_the_reason_is_kept_and_others_are_left_alone(sessions: World) -> None:
    await sessions.begin()
    with pytest.raises(SessionDeleted):
        await sessions.supervisor.ask("origin", Fork("another"), Caller())
    async with going_on(sessions):
        await sessions.until_erased()
    recorded = await sessions.log.read_all(limit=1_000)
    assert [one.event.reason for one in recorded if isinstance(one.event, SessionDeletedEvent)] == ["request"]
    assert {one.stream_id for one in recorded if one.type == "session_expired"} == {"origin"}


class TwoNodes(SingleNode):
    """This one, and b until that is gone."""

    restarts = True

    async def is_gone(self, node: str | None) -> bool:
        return not (node == "b" and self.restarts)


async def test_another_nodes_erasure_is_taken_up_only_when_that_node_is_gone(sessions: World) -> None:
    nodes = TwoNodes()
    sessions.ports = replace(
        sessions.ports, cluster=nodes, rules=replace(sessions.ports.rules, node="b", is_shared=True)
    )
    await sessions.supervisor.close()
    sessions.supervisor = type(sessions.supervisor)(sessions.ports)
    await sessions.begin()
    sessions.ports = replace(sessions.ports, rules=replace(sessions.ports.rules, node="a"))
    looked = ErasureJob(sessions.ports, sessions.supervisor.ask)
    await looked._finish_all()
    assert not (await sessions.event_counts())["session_deleted"]
    nodes.restarts = False
    await looked._finish_all()
    await sessions.check()


async def test_the_command_erase_waits_for_the_whole_erasure(sessions: World) -> None:
    await sessions.begin()
    answer = await sessions.supervisor.ask("origin", DeleteSession("erasure: session"), SERVICE)
    assert answer.state.session.status == "deleted"
    await sessions.check()

"""Nodes of two versions over one log: new types wait for the last old node; an old node that meets one says so."""

import asyncio

import pytest
from structlog.testing import capture_logs

from chatbot import __version__
from events.codec import VERSIONS_WITH_PARTS
from events.compatibility import new_types
from events.errors import NodesOutdated
from events.log import EventLog
from events.storage.postgres import node_registry
from events.storage.postgres.postgres_log import PostgresLog
from tests.support.log.log_texts import ALL
from tests.support.log.media import put_sample_files
from tests.support.log.newer_event_types import MoodNoted, newer_program, older_program
from tests.support.log.sample_events import ASKED, EVENTS_WITH_PARTS, EVERY_EVENT, posted
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


@pytest.mark.real_part
async def test_a_new_type_waits_until_the_last_older_node_is_gone(url: str) -> None:
    older = await PostgresLog.open(url, program="0.5.0")
    with newer_program():
        newer = await PostgresLog.open(url, program="0.6.0")
        with pytest.raises(NodesOutdated, match=r"mood_noted.*update .*\(version 0\.5\.0\)$"):
            await newer.append("a", 0, [MoodNoted("fine")], ASKED)
        await newer.append("a", 0, [posted("1")], ASKED)
        await older.close()
        await newer.append("a", 1, [MoodNoted("fine")], ASKED)
        await newer.close()


@pytest.mark.real_part
async def test_messages_with_parts_wait_until_the_last_older_node_is_gone_and_plain_ones_do_not(url: str) -> None:
    with older_program():
        older = await PostgresLog.open(url, program="0.5.0")
    newer = await PostgresLog.open(url, program="0.6.0")
    assert not await newer.admits(VERSIONS_WITH_PARTS)
    with_parts = [event for event in EVENTS_WITH_PARTS if new_types([event])]
    for event in with_parts:
        with pytest.raises(NodesOutdated, match=r"update .*\(version 0\.5\.0\)$"):
            await newer.append("a", 0, [event], ASKED)
    plain = [event for event in EVERY_EVENT if not new_types([event])]
    await newer.append("a", 0, plain, ASKED)
    read = await older.read("a", limit=ALL)
    assert [one.event for one in read] == plain
    assert {one.schema_version for one in read if one.type == "message_posted"} == {1}
    await older.close()
    assert await newer.admits(VERSIONS_WITH_PARTS)
    await put_sample_files(newer)
    await newer.append("a", len(plain), with_parts, ASKED)
    await newer.close()


@pytest.mark.real_part
async def test_a_node_that_was_killed_counts_for_a_while_and_one_that_lives_is_renewed(
    url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = "UPDATE events_nodes SET seen_at = now() - interval '1 hour'"
    killed = await PostgresLog.open(url)
    assert killed._registry is not None
    assert killed._registry._renewing is not None
    killed._registry._renewing.cancel()
    with newer_program():
        newer = await PostgresLog.open(url)
        assert await versions(newer) == 2
        await postgres.execute(past, url=url)
        assert await versions(newer) == 0
        await newer.append("a", 0, [MoodNoted("fine")], ASKED)
        monkeypatch.setattr(node_registry, "RENEW_S", 0.01)
        living = await PostgresLog.open(url)
        await postgres.execute(past, url=url)
        async with asyncio.timeout(10):
            while not await versions(newer):
                await asyncio.sleep(0.01)
        assert await versions(newer) == 1
        await living.close()
        await newer.close()
    await killed.close()


async def versions(log: PostgresLog) -> int:
    assert log._registry is not None
    return len(await log._registry.versions())


@pytest.mark.real_part
async def test_who_only_reads_is_no_node(url: str) -> None:
    log = await PostgresLog.open(url)
    reading = await PostgresLog.open(url, read_only=True)
    assert await versions(log) == 1
    await reading.close()
    await log.close()


async def met_an_unknown_event(service: Running, session_id: str) -> None:
    """A newer node has appended to the session, and this one has found out."""
    log: EventLog = service.services.log
    version = len(await log.read(session_id, limit=ALL))
    with newer_program():
        await log.append(session_id, version, [MoodNoted("fine")], ASKED)
    async with asyncio.timeout(10):
        while service.services.runner.failure is None:
            await asyncio.sleep(0.01)


async def test_a_node_that_meets_an_unknown_event_says_that_it_must_be_updated(service: Running) -> None:
    created = (await service.client.post("/api/sessions", json={})).json()["session_id"]
    assert (await service.client.get("/api/health")).json()["status"] == "healthy"
    with capture_logs() as lines:
        await met_an_unknown_event(service, created)
        health = (await service.client.get("/api/health")).json()
        ready = await service.client.get("/readyz")
        answers = [
            await service.client.get(f"/api/sessions/{created}"),
            await service.client.get(f"/api/sessions/{created}/messages"),
            await service.client.get("/api/sessions"),
        ]
    says = "this program does not know event type 'mood_noted' with schema version 1: update it"
    assert (health["status"], health["detail"], health["version"]) == ("degraded", says, __version__)
    assert (ready.status_code, ready.json()["status"]) == (503, "outdated")
    assert "update it" in ready.json()["reason"]
    for answer in answers:
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/node-outdated")
        assert answer.json()["detail"] == says
    assert [line["reason"] for line in lines if line["event"] == "projections.failed"] == [says]
    assert "chatbot_node_outdated 1.0" in (await service.client.get("/metrics")).text


async def test_a_refusal_for_other_nodes_sake_tells_clients_no_names(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise NodesOutdated("events of type x are not written before every node can read them: update web-1")

    monkeypatch.setattr(service.services.log, "append", refuse)
    answer = await service.client.post("/api/sessions", json={})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/other-node-outdated")
    assert "nothing was changed" in answer.json()["detail"]
    assert "web-1" not in answer.text

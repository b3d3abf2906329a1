"""What goes wrong though all nodes live: an answer of the database that never came, a cancel that comes too late."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from chatbot.api.server.shutdown import hand_over
from chatbot.nodes.node_id import format_node_id, parse_node_id
from chatbot.sessions.actor.mailbox import Envelope
from chatbot.sessions.actor.reply_closing import ReplyCloser
from chatbot.sessions.domain.commands import SERVICE, InterruptReplies
from events.catalogue import Event, MessagePosted, Parameters, ReplyInterrupted, ReplyRequested, ReplyStarted
from events.errors import LogUnavailable, OutcomeUnknown
from events.record import Head, Metadata, RecordedEvent
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import known, nodes
from tests.support.programs.external_programs import free_port
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running, frames

pytestmark = pytest.mark.real_part


@pytest.fixture
async def pair(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[list[Running]]:
    async with nodes(tmp_path, await postgres.schema(), model.url) as running:
        yield running


def forget_an_answer(node: Running, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """The next append of `node` that has a `wanted` event is recorded, but nobody hears so."""
    log = node.services.log
    append = log.append

    async def cut(
        stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        recorded = await append(stream_id, expected_version, events, metadata)
        if any(one.type == wanted for one in recorded):
            monkeypatch.setattr(log, "append", append)
            raise OutcomeUnknown("the connection was lost; whether this was recorded is unknown")
        return recorded

    monkeypatch.setattr(log, "append", cut)


async def settled(node: Running, session_id: str) -> list[Any]:
    """The messages, once no reply is owed any more: role and status."""
    async with asyncio.timeout(10):
        while (await node.client.get(f"/api/sessions/{session_id}")).json()["status"] != "active":
            await asyncio.sleep(0.05)
    return [(one["role"], one["status"]) for one in (await node.history(session_id))["messages"]]


async def test_a_reply_whose_start_was_recorded_unknown_to_its_node_ends_and_the_next_is_answered(
    pair: list[Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    session_id = await first.session()
    forget_an_answer(first, monkeypatch, "reply_started")
    keyed = {"Idempotency-Key": "sure"}
    body = {"session_id": session_id, "message": "lost"}
    answer = await first.client.post("/api/chat", json=body, headers=keyed)
    assert answer.json()["type"] == "/problems/outcome-unknown"
    async with asyncio.timeout(10):
        again = await first.client.post("/api/chat", json=body, headers=keyed)
    assert again.status_code == 503, again.text
    assert await settled(second, session_id) == [("user", "complete"), ("assistant", "interrupted")]
    assert (await first.chat(session_id, "next"))["content"] == "You said: next"


async def test_a_reply_that_waited_and_whose_start_is_unknown_to_its_node_ends_too(
    pair: list[Running], model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.chat(session_id, "runs"))
    await model.wait_requests()
    waiting = asyncio.create_task(first.client.post("/api/chat", json={"session_id": session_id, "message": "waits"}))
    async with asyncio.timeout(5):
        while len((await second.history(session_id))["messages"]) < 4:
            await asyncio.sleep(0.01)
    forget_an_answer(first, monkeypatch, "reply_started")
    model.release()
    await running
    assert (await waiting).status_code == 503
    assert (await settled(second, session_id))[-1] == ("assistant", "interrupted")
    assert (await second.chat(session_id, "next"))["content"] == "You said: next"


async def test_a_cancel_from_another_node_that_comes_too_late_leaves_the_next_reply_alone(
    pair: list[Running], model: ModelServer
) -> None:
    first, _ = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.chat(session_id, "one"))
    await model.wait_requests()
    model.script(pieces=("b", "c"), stepwise=True)
    following = asyncio.create_task(first.chat(session_id, "two"))
    address = parse_node_id(first.services.cluster.name)
    assert address is not None
    async with asyncio.timeout(5):
        while len(first.services.supervisor.replies(session_id)) < 2:
            await asyncio.sleep(0.01)
    reply_id = next(iter(first.services.supervisor.replies(session_id)))

    async def late() -> AsyncIterator[bytes]:
        yield b'{"cause":"client"'
        model.release()
        await running
        await model.wait_requests(2)
        yield b"}"

    url = f"/replies/{session_id}/{reply_id}/cancel"
    async with httpx.AsyncClient(base_url=address.url) as peer:
        headers = await known(peer, "POST", url, b'{"cause":"client"}')
        answer = await peer.post(url, content=late(), headers=headers)
    for _ in range(3):
        model.step()
    assert (await following)["status"] == "complete"
    assert answer.status_code == 404


async def test_who_reads_here_what_another_node_writes_is_told_to_come_back_when_this_one_retires(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    brief = {"CHATBOT_SERVER_RELOAD_GRACE_S": "0.2"}
    async with nodes(tmp_path, await postgres.schema(), model.url, **brief) as (first, second):
        session_id = await first.session()
        model.script(pieces=("a",), hold_after=1)
        body, keyed = {"session_id": session_id, "message": "hi"}, {"Idempotency-Key": "once"}
        writing = asyncio.create_task(first.client.post("/api/chat", json=body, headers=keyed))
        await model.wait_requests()
        joined = asyncio.create_task(second.client.post("/api/chat/stream", json=body, headers=keyed))
        async with asyncio.timeout(5):
            while second.services.cluster.running_reply(session_id) is None:
                await asyncio.sleep(0.01)
        await hand_over(second.services, web.AppRunner(web.Application()), asyncio.Event())
        async with asyncio.timeout(2):
            last, done = frames((await joined).text)[-2:]
        assert (last["type"], last["status"], done["type"]) == ("error", "unrecorded", "done")
        model.release()
        assert (await writing).json()["status"] == "complete"


@pytest.mark.parametrize("call", ["chat", "delete"])
async def test_if_match_holds_also_while_replies_are_being_ended_for_it(
    pair: list[Running], model: ModelServer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    first, second = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.chat(session_id, "one"))
    await model.wait_requests()
    end_all = ReplyCloser.end_all_replies

    async def meanwhile(endings: ReplyCloser, cause: str, envelope: Envelope) -> None:
        monkeypatch.setattr(ReplyCloser, "end_all_replies", end_all)
        renamed = await second.client.patch(f"/api/sessions/{session_id}", json={"title": "by another"})
        assert renamed.status_code == 200
        await end_all(endings, cause, envelope)

    monkeypatch.setattr(ReplyCloser, "end_all_replies", meanwhile)
    version = (await first.client.get(f"/api/sessions/{session_id}")).headers["ETag"]
    if call == "delete":
        answer = await first.client.delete(f"/api/sessions/{session_id}", headers={"If-Match": version})
    else:
        body = {"session_id": session_id, "message": "two", "on_busy": "interrupt"}
        answer = await first.client.post("/api/chat", json=body, headers={"If-Match": version})
    assert answer.status_code == 412, answer.text
    model.release()
    await running


async def test_a_message_that_waits_is_answered_though_the_log_could_not_be_read_when_its_turn_came(
    pair: list[Running], model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.chat(session_id, "runs"))
    await model.wait_requests()
    waiting = asyncio.create_task(second.chat(session_id, "waits"))
    async with asyncio.timeout(5):
        while len((await first.history(session_id))["messages"]) < 4:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    refused: list[str] = []

    async def refuse(*asked: Any, **_: Any) -> list[RecordedEvent]:
        refused.append(asked[0])
        raise LogUnavailable("the database is away")

    monkeypatch.setattr(second.services.log, "read", refuse)
    model.release()
    await running
    async with asyncio.timeout(5):
        while not refused:
            await asyncio.sleep(0.01)
    monkeypatch.undo()
    async with asyncio.timeout(5):
        assert (await waiting)["content"] == "You said: waits"


async def test_a_session_that_is_deleted_while_another_node_closes_its_replies_is_gone_there(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, await postgres.schema(), model.url, CHATBOT_NODES_SWEEP_INTERVAL_S="60") as (
        first,
        second,
    ):
        session_id = await first.session()
        dead = format_node_id("127.0.0.1", free_port(), "00000000")
        left: list[Event] = [
            MessagePosted("m", None, "user", "hi", reply_id="r", node=dead),
            ReplyStarted("r", "m", dead, "openai", "fake-model", Parameters(), ("m",)),
        ]
        await first.services.log.append(session_id, 1, left, Metadata())
        append = second.services.log.append

        async def too_late(*asked: Any) -> tuple[RecordedEvent, ...]:
            monkeypatch.undo()
            assert (await first.client.delete(f"/api/sessions/{session_id}")).status_code == 204
            return await append(*asked)

        monkeypatch.setattr(second.services.log, "append", too_late)
        answer = await second.client.patch(f"/api/sessions/{session_id}", json={"title": "a"})
        assert answer.status_code == 404, answer.text


async def test_a_reply_that_another_node_has_cancelled_keeps_its_text_though_the_log_broke_off_meanwhile(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    brisk = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05"}
    stranger = {"CHATBOT_NODES_SECRET": "another-secret-of-its-own"}
    async with nodes(tmp_path, await postgres.schema(), model.url, {}, stranger, **brisk) as (first, second):
        session_id = await first.session()
        model.script(pieces=("some ", "text"), hold_after=2)
        running = asyncio.create_task(first.chat(session_id, "hi"))
        async with asyncio.timeout(5):
            while "some text" not in [one["content"] for one in (await second.history(session_id))["messages"]]:
                await asyncio.sleep(0.02)
        log = first.services.log

        async def away() -> Head:
            monkeypatch.undo()
            raise LogUnavailable("the database is away")

        monkeypatch.setattr(log, "latest", away)
        monkeypatch.setattr(log, "head", lambda: Head(0, b""))
        assert (await second.client.post(f"/api/sessions/{session_id}/cancel")).status_code == 202
        async with asyncio.timeout(5):
            told = await running
        assert (told["status"], told["content"]) == ("cancelled", "some text")


async def test_a_cancel_that_meets_the_next_attempt_at_a_reply_answers_what_it_has_recorded(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrying = {"CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1"}
    async with nodes(tmp_path, await postgres.schema(), model.url, **retrying) as (first, second):
        session_id = await first.session()
        model.script(pieces=("a",), hold_after=1)
        running = asyncio.create_task(first.client.post("/api/chat", json={"session_id": session_id, "message": "hi"}))
        await model.wait_requests()

        async def unreachable(*_: Any) -> bool:
            await first.services.supervisor.ask(session_id, InterruptReplies(), SERVICE)
            return False

        monkeypatch.setattr(second.services.cluster, "cancel", unreachable)
        answer = await second.client.post(f"/api/sessions/{session_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert [one.type for one in await second.services.log.read(session_id, after=3, limit=100)] == [
            "reply_interrupted",
            "reply_requested",
            "reply_cancelled",
        ]
        await running


async def test_a_cancel_of_an_attempt_that_another_node_has_ended_answers_what_it_has_recorded(
    pair: list[Running], model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.client.post("/api/chat", json={"session_id": session_id, "message": "hi"}))
    await model.wait_requests()
    (reply,) = first.services.supervisor.replies(session_id).values()
    append = first.services.log.append

    async def too_late(*asked: Any) -> tuple[RecordedEvent, ...]:
        monkeypatch.undo()
        ended = ReplyInterrupted(reply.reply_id, "", "crash")
        again = ReplyRequested(reply.reply_id, reply.message_id, Parameters(), 2, node=second.services.cluster.name)
        await second.services.log.append(session_id, 3, (ended, again), Metadata())
        return await append(*asked)

    monkeypatch.setattr(first.services.log, "append", too_late)
    answer = await first.client.post(f"/api/sessions/{session_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert (await first.services.log.read(session_id, after=5, limit=100))[-1].type == "reply_cancelled"
    await running


async def test_a_message_is_not_unknown_but_deleted_in_a_session_that_another_node_has_just_deleted(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(tmp_path, await postgres.schema(), model.url, MAX_CONTEXT_MESSAGES="2") as (first, second):
        runner = second.services.runner
        for asked in ("chat", "regenerate", "fork"):
            session_id = await first.session()
            oldest = (await first.chat(session_id, "one"))["message_id"]
            for text in ("two", "three"):  # then an actor that is activated finds the oldest messages in projections
                await first.chat(session_id, text)
            wait_for = runner.wait_for
            await wait_for((await second.services.log.latest()).position)

            async def behind(
                position: int, session_id: str = session_id, wait_for: Callable[[int], Awaitable[None]] = wait_for
            ) -> None:
                """The session is deleted, and the projections know it, after its actor has last read the log."""
                await wait_for(position)
                monkeypatch.undo()
                assert (await first.client.delete(f"/api/sessions/{session_id}")).status_code == 204
                await wait_for((await second.services.log.latest()).position)

            monkeypatch.setattr(runner, "wait_for", behind)
            path, body = f"/api/sessions/{session_id}/{asked}", {"message_id": oldest}
            if asked == "chat":
                path, body = "/api/chat", {"session_id": session_id, "message": "four", "parent_id": oldest}
            answer = await second.client.post(path, json=body, headers={"Idempotency-Key": asked})
            assert (answer.status_code, answer.json()["type"]) == (404, "/problems/session-deleted"), answer.text

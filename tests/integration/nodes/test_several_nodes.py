"""Several nodes over one PostgreSQL log: any of them serves any session, and the log decides every race."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from events.storage.postgres import head_listener
from tests.support.http.feed_reader import following, kinds_of, text_of
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running, frames

pytestmark = pytest.mark.real_part
PIECES = ("안", "녕", "e\u0301", "👩‍👩", " ok")
TEXT = "".join(PIECES)
THINKING: tuple[dict[str, Any], ...] = (
    {"reasoning_content": "Which weather? "},
    {"content": "Let me look."},
    {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": '{"city":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Seoul"}'}}]},
)
RARE_CHECKPOINTS = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "60"}  # what is seen elsewhere before comes from the node


@pytest.fixture
async def pair(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[list[Running]]:
    async with nodes(tmp_path, await postgres.schema(), model.url, **RARE_CHECKPOINTS) as running:
        yield running


async def held(node: Running, model: ModelServer, session_id: str, **body: Any) -> asyncio.Task[dict[str, Any]]:
    """A plain chat on `node` whose reply has all of its text and does not end until `model.release()`."""
    model.script(pieces=PIECES, hold_after=len(PIECES))
    chatting = asyncio.create_task(node.chat(session_id, "hi", **body))
    async with following(node.client, session_id, 0) as feed:
        seen = await feed.until("start")
        while text_of(seen) != TEXT:
            seen.append(await feed.next())
    return chatting


async def test_what_one_node_has_answered_the_other_one_knows(pair: list[Running]) -> None:
    first, second = pair
    session_id = await first.session(metadata={"user_id": "mina"})
    answer = await first.chat(session_id, "hello")
    history = await second.history(session_id)
    assert [one["content"] for one in history["messages"]] == ["hello", answer["content"]]
    assert history["version"] == answer["version"]
    again = await second.chat(session_id, "and again")
    assert again["version"] > answer["version"]
    listed = (await first.client.get("/api/sessions", params={"metadata.user_id": "mina"})).json()
    assert [one["message_count"] for one in listed["sessions"]] == [4]


async def test_readers_follow_a_reply_of_another_node_by_the_character(pair: list[Running], model: ModelServer) -> None:
    first, second = pair
    session_id = await first.session()
    chatting = await held(first, model, session_id)
    async with following(second.client, session_id, 0) as feed, following(second.client, session_id) as late:
        seen = await feed.until("start")
        while text_of(seen) != TEXT:
            seen.append(await feed.next())
        assert (await late.next())["type"] == "session"
        model.release()
        answer = await chatting
        (complete,) = await feed.until("complete")
        assert complete["full_response"] == TEXT
        assert complete["message_id"] == answer["message_id"]
        (late_end,) = await late.until("complete")
        assert late_end["full_response"] == TEXT


async def test_readers_follow_the_parts_of_a_reply_of_another_node(pair: list[Running], model: ModelServer) -> None:
    first, second = pair
    model.script(deltas=THINKING, hold_after=len(THINKING))
    session_id = await first.session()
    chatting = asyncio.create_task(first.chat(session_id, "hi"))
    async with following(second.client, session_id, 0) as feed:
        seen = await feed.until("tool_call")
        while (seen[-1]["type"], seen[-1].get("arguments", "")[-1:]) != ("tool_call", "}"):
            seen.append(await feed.next())
        parts = [frame for frame in seen if frame["type"] in ("reasoning", "chunk", "tool_call")]
        assert {(one["type"], one.get("part", 0)) for one in parts} == {
            ("reasoning", 0),
            ("chunk", 1),
            ("tool_call", 2),
        }
        assert "".join(one["content"] for one in parts if one["type"] == "reasoning") == "Which weather? "
        assert "".join(one["arguments"] for one in parts if one["type"] == "tool_call") == '{"city":"Seoul"}'
        assert {(one["call_id"], one["name"]) for one in parts if one["type"] == "tool_call"} == {("call_1", "weather")}
        assert (await second.client.post(f"/api/sessions/{session_id}/cancel")).status_code == 202
        (error,) = await feed.until("error")
    assert error["part_lengths"] == [15, 12, 16], "the node that writes it records all of it"
    assert (await chatting)["status"] == "cancelled"


async def test_a_message_waits_for_a_reply_of_another_node_and_is_answered_by_its_own(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    session_id = await first.session()
    chatting = await held(first, model, session_id)
    waiting = asyncio.create_task(second.chat(session_id, "next"))
    async with asyncio.timeout(5):
        while len((await second.history(session_id))["messages"]) < 4:
            await asyncio.sleep(0.01)
    assert not waiting.done()
    model.release()
    one, two = await asyncio.gather(chatting, waiting)
    assert one["version"] < two["version"]
    told = [(said["role"], said["content"], said["status"]) for said in (await first.history(session_id))["messages"]]
    assert told == [
        ("user", "hi", "complete"),
        ("assistant", TEXT, "complete"),
        ("user", "next", "complete"),
        ("assistant", "You said: next", "complete"),
    ]


async def test_two_nodes_post_at_once_and_each_message_is_answered_once(pair: list[Running]) -> None:
    first, second = pair
    session_id = await first.session()
    nodes_in_turn = [first, second] * 4
    answers = await asyncio.gather(*(node.chat(session_id, f"m{at}") for at, node in enumerate(nodes_in_turn)))
    messages = (await second.history(session_id))["messages"]
    assert len(messages) == 16
    assert {one["message_id"] for one in messages if one["role"] == "assistant"} == {
        one["message_id"] for one in answers
    }
    trail = (await first.client.get(f"/api/sessions/{session_id}/events", params={"limit": 1000})).json()["events"]
    ends = [one["data"]["reply_id"] for one in trail if one["type"] == "reply_completed"]
    assert sorted(ends) == sorted(one["message_id"] for one in answers)


async def test_cancel_on_another_node_stops_the_model_and_keeps_all_of_the_text(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    session_id = await first.session()
    chatting = await held(first, model, session_id)
    answer = await second.client.post(f"/api/sessions/{session_id}/cancel", headers={"Idempotency-Key": "stop"})
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    await model.wait_aborted()
    ended = await chatting
    assert (ended["status"], ended["content"]) == ("cancelled", TEXT)
    assert answer.json()["reply_id"] == ended["message_id"]
    again = await second.client.post(f"/api/sessions/{session_id}/cancel", headers={"Idempotency-Key": "stop"})
    assert again.json() == answer.json()


async def test_a_cancel_that_cannot_reach_the_other_node_is_an_append_which_that_node_sees(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    brisk = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05"}
    stranger = {"CHATBOT_NODES_SECRET": "another-secret-of-its-own"}
    async with nodes(tmp_path, await postgres.schema(), model.url, {}, stranger, **brisk) as (first, second):
        session_id = await first.session()
        chatting = await held(first, model, session_id)
        async with following(second.client, session_id, 0) as feed:
            seen = await feed.until("start")
            while text_of(seen) != TEXT:  # by the checkpoints in the log
                seen.append(await feed.next())
            answer = await second.client.post(f"/api/sessions/{session_id}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
            await model.wait_aborted()
            assert (await chatting)["status"] == "cancelled"
            (error,) = await feed.until("error")
            assert (error["status"], error["length"]) == ("cancelled", len(TEXT))


async def test_a_reply_that_waits_on_another_node_is_withdrawn_from_here(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    session_id = await first.session()
    chatting = await held(first, model, session_id)
    waiting = asyncio.create_task(second.chat(session_id, "next"))
    async with asyncio.timeout(5):
        while not (queued := (await first.client.get(f"/api/sessions/{session_id}")).json()["queued_replies"]):
            await asyncio.sleep(0.01)
    cancelled = await first.client.post(f"/api/sessions/{session_id}/cancel", json={"reply_id": queued[0]})
    assert (cancelled.status_code, cancelled.json()) == (202, {"reply_id": queued[0], "status": "cancelled"})
    assert (await waiting)["status"] == "cancelled"
    running = (await second.client.get(f"/api/sessions/{session_id}")).json()["active_reply"]
    late = await second.client.post(f"/api/sessions/{session_id}/cancel", json={"reply_id": queued[0]})
    assert (late.status_code, late.json()) == (200, {"reply_id": queued[0], "status": "cancelled"})
    stopped = await second.client.post(f"/api/sessions/{session_id}/cancel", json={"reply_id": running})
    assert (stopped.status_code, (await chatting)["content"]) == (202, TEXT)
    assert len(model.requests) == 1


async def test_interrupt_on_another_node_cancels_what_runs_and_waits_there(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    session_id = await first.session()
    chatting = await held(first, model, session_id)
    waiting = asyncio.create_task(first.chat(session_id, "next"))
    async with asyncio.timeout(5):
        while len((await second.history(session_id))["messages"]) < 4:
            await asyncio.sleep(0.01)
    answer = await second.chat(session_id, "stop that", on_busy="interrupt")
    assert answer["content"] == "You said: stop that"
    assert (await chatting)["status"] == (await waiting)["status"] == "cancelled"


async def test_deletion_on_another_node_ends_what_runs_and_is_final_on_both(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    session_id = await first.session()
    chatting = await held(first, model, session_id)
    async with following(first.client, session_id) as feed:
        assert (await feed.next())["type"] == "session"
        assert (await second.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        await model.wait_aborted()
        assert (await chatting)["status"] == "cancelled"
        assert kinds_of(await feed.until("done"))[-2:] == ["deleted", "done"]
    for node in pair:
        assert (await node.client.get(f"/api/sessions/{session_id}")).status_code == 404
        assert (await node.client.delete(f"/api/sessions/{session_id}")).status_code == 404


async def test_one_key_on_two_nodes_takes_effect_once_and_joins_the_running_reply(
    pair: list[Running], model: ModelServer
) -> None:
    first, second = pair
    session_id = await first.session()
    model.script(pieces=PIECES, hold_after=len(PIECES))
    body = {"session_id": session_id, "message": "once"}
    keyed = {"Idempotency-Key": "only-once"}
    streams = [asyncio.create_task(node.client.post("/api/chat/stream", json=body, headers=keyed)) for node in pair]
    async with following(second.client, session_id, 0) as feed:
        seen = await feed.until("start")
        while text_of(seen) != TEXT:
            seen.append(await feed.next())
    model.release()
    answers = [await stream for stream in streams]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    one, two = [frames(answer.text) for answer in answers]
    assert one[-2]["full_response"] == two[-2]["full_response"] == TEXT
    assert one[-2]["message_id"] == two[-2]["message_id"]
    assert len((await first.history(session_id))["messages"]) == 2


async def test_if_match_holds_across_nodes(pair: list[Running]) -> None:
    first, second = pair
    session_id = await first.session()
    answer = await first.chat(session_id, "hello")
    etag = {"If-Match": f'"{answer["version"]}"'}
    renamed = await second.client.patch(f"/api/sessions/{session_id}", json={"title": "a"}, headers=etag)
    assert renamed.status_code == 200
    stale = await first.client.patch(f"/api/sessions/{session_id}", json={"title": "b"}, headers=etag)
    assert stale.status_code == 412


async def test_a_fork_on_one_node_keeps_its_history_when_the_other_deletes_the_origin(pair: list[Running]) -> None:
    first, second = pair
    session_id = await first.session()
    answer = await first.chat(session_id, "hello")
    forked = (await first.client.post(f"/api/sessions/{session_id}/fork")).json()["session_id"]
    assert (await second.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    for node in pair:
        assert [one["content"] for one in (await node.history(forked))["messages"]] == ["hello", answer["content"]]


async def test_an_auditor_finds_at_one_node_what_another_has_just_recorded(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_listener, "POLL_S", 60.0)  # nothing but the request has the second node read the head
    async with nodes(tmp_path, await postgres.schema(), model.url) as (first, second):
        await first.session()
        newest = (await first.client.get("/api/audit/head")).json()["position"]
        assert second.services.log.head().position < newest
        follow = {"Accept": "text/event-stream", "Last-Event-ID": str(newest)}
        async with second.client.stream("GET", "/api/events", headers=follow) as stream:
            assert stream.status_code == 200
        await first.session()
        found = await second.client.get("/api/events", params={"type": "session_created"})
        assert len(found.text.splitlines()) == 2 + 1  # events, and the end of the page
        await first.session()
        assert (await second.client.get("/api/audit/head")).json()["position"] == newest + 2
        await first.session()
        assert (await second.client.get("/api/audit/verify")).json()["to"] == newest + 3
        session_id = await first.session()
        report = await second.client.get("/api/audit/report", params={"session_id": session_id, "format": "ndjson"})
        assert report.status_code == 200

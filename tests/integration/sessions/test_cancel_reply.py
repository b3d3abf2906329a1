"""Cancel a reply by its id, also one that has not started."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.feed_reader import following
from tests.support.http.service_requests import event_counts, messages, sent
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

Chats = list[asyncio.Task[dict[str, Any]]]


async def cancel(service: Running, session_id: str, reply_id: str | None = None, key: str = "") -> httpx.Response:
    body, headers = {} if reply_id is None else {"reply_id": reply_id}, {"Idempotency-Key": key} if key else {}
    return await service.client.post(f"/api/sessions/{session_id}/cancel", json=body, headers=headers)


async def view(service: Running, session_id: str) -> dict[str, Any]:
    return dict((await service.client.get(f"/api/sessions/{session_id}")).json())


@asynccontextmanager
async def three_messages(service: Running, model: ModelServer) -> AsyncIterator[tuple[str, list[str], Chats]]:
    """A session, the ids of its replies, of which the first runs and two wait, and the requests for them."""
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    chats = [asyncio.create_task(service.chat(session_id, "one"))]
    await model.wait_requests()
    for number, text in enumerate(("two", "three"), 1):
        chats.append(asyncio.create_task(service.chat(session_id, text)))
        async with asyncio.timeout(10):
            while len((await view(service, session_id))["queued_replies"]) < number:
                await asyncio.sleep(0.01)
    said = await messages(service.client, session_id)
    yield session_id, [one["message_id"] for one in said if one["role"] == "assistant"], chats
    model.release()
    await asyncio.gather(*chats)


async def test_a_queued_reply_is_shown_as_queued(service: Running, model: ModelServer) -> None:
    async with three_messages(service, model) as (session_id, replies, _):
        said = await messages(service.client, session_id)
        assert [one["status"] for one in said[1::2]] == ["streaming", "queued", "queued"]
        session = await view(service, session_id)
        assert (session["status"], session["active_reply"]) == ("replying", replies[0])
        assert session["queued_replies"] == replies[1:]
        exported = (await service.client.get(f"/api/sessions/{session_id}/export")).json()["messages"]
        assert [one["status"] for one in exported[1::2]] == ["streaming", "queued", "queued"]


async def test_a_queued_reply_is_withdrawn_alone(service: Running, model: ModelServer) -> None:
    async with three_messages(service, model) as (session_id, replies, chats):
        withdrawn = await cancel(service, session_id, replies[1])
        assert (withdrawn.status_code, withdrawn.json()) == (202, {"reply_id": replies[1], "status": "cancelled"})
        assert ((await chats[1])["status"], (await chats[1])["content"]) == ("cancelled", "")
        session = await view(service, session_id)
        assert (session["active_reply"], session["queued_replies"]) == (replies[0], [replies[2]])
        again = await cancel(service, session_id, replies[1])
        assert (again.status_code, again.json()) == (200, {"reply_id": replies[1], "status": "cancelled"})
    assert [(await chat)["status"] for chat in chats] == ["complete", "cancelled", "complete"]
    assert sent(model) == ["one", "a b", "three"]
    assert len(model.requests) == 2


async def test_a_second_click_on_stop_leaves_the_next_reply_alone(service: Running, model: ModelServer) -> None:
    async with three_messages(service, model) as (session_id, replies, chats):
        model.script(pieces=("c ", "d"), hold_after=1)
        assert (await cancel(service, session_id, replies[0])).status_code == 202
        await model.wait_requests(2)
        second = await cancel(service, session_id, replies[0])
        assert (second.status_code, second.json()) == (200, {"reply_id": replies[0], "status": "cancelled"})
        session = await view(service, session_id)
        assert (session["active_reply"], session["queued_replies"]) == (replies[1], [replies[2]])
    assert [(await chat)["status"] for chat in chats] == ["cancelled", "complete", "complete"]


async def test_a_reply_that_has_ended_by_itself_stays_as_it_is(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    reply = await service.chat(session_id, "one")
    before = event_counts(tmp_path)
    late = await cancel(service, session_id, reply["message_id"])
    assert (late.status_code, late.json()) == (200, {"reply_id": reply["message_id"], "status": "complete"})
    for unknown in ("nowhere", reply["user_message_id"]):
        refused = await cancel(service, session_id, unknown)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-reply")
        assert refused.json()["errors"][0]["path"] == "$.reply_id"
    assert event_counts(tmp_path) == before


async def test_a_named_cancel_with_a_key_takes_effect_once(service: Running, model: ModelServer) -> None:
    async with three_messages(service, model) as (session_id, replies, chats):
        first = [await cancel(service, session_id, one, key=f"k{one}") for one in (replies[1], replies[0])]
        await asyncio.wait_for(asyncio.shield(chats[0]), 10)
        late = await cancel(service, session_id, replies[0], key="late")
        assert late.json() == {"reply_id": replies[0], "status": "cancelled"}
        again = [await cancel(service, session_id, one, key=f"k{one}") for one in (replies[1], replies[0])]
        assert [one.json() for one in again] == [one.json() for one in first]
        assert (await cancel(service, session_id, replies[0], key="late")).json() == late.json()
        assert (await cancel(service, session_id, replies[2], key="late")).json()["type"] == "/problems/key-reused"


async def test_a_withdrawn_reply_is_remembered_over_a_restart(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service, three_messages(service, model) as (session_id, replies, _):
        await cancel(service, session_id, replies[2])
    async with serving(tmp_path, model.url) as service:
        said = await messages(service.client, session_id)
        assert [one["status"] for one in said[1::2]] == ["complete", "complete", "cancelled"]
        await service.chat(session_id, "four")
        assert sent(model) == ["one", "a b", "two", "You said: two", "four"]


async def test_the_feed_tells_what_is_queued_and_withdrawn(service: Running, model: ModelServer) -> None:
    async with three_messages(service, model) as (session_id, replies, _):
        path = f"/api/sessions/{session_id}/regenerate"
        another = asyncio.create_task(service.client.post(path, json={"message_id": replies[0]}))
        async with following(service.client, session_id, 0) as feed:
            queued = (await feed.until("queued"))[-1]
            assert queued["message_id"] == (await view(service, session_id))["queued_replies"][-1]
            await cancel(service, session_id, queued["message_id"])
            end = (await feed.until("error"))[-1]
            assert (end["message_id"], end["status"], end["length"]) == (queued["message_id"], "cancelled", 0)
        assert (await another).json()["status"] == "cancelled"


@pytest.mark.parametrize("wrong", [{"reply_id": 1}, {"reply_id": "x" * 65}, {"reply": "x"}])
async def test_a_wrong_body_is_refused(service: Running, wrong: dict[str, Any]) -> None:
    session_id = await service.session()
    refused = await service.client.post(f"/api/sessions/{session_id}/cancel", json=wrong)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, f"$.{next(iter(wrong))}")

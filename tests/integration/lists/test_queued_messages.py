"""Queued messages over real sockets: listed, and taken back before the model sees them."""

import asyncio
from typing import Any

import pytest

from tests.support.http.feed_reader import following
from tests.support.model.model_server import ModelServer
from tests.support.service import Running


async def post(service: Running, session_id: str, message: str, **headers: str) -> dict[str, Any]:
    answer = await service.client.post(
        "/api/chat",
        json={"session_id": session_id, "message": message},
        headers={"Prefer": "respond-async", **headers},
    )
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def busy(service: Running, model: ModelServer, *queued: str) -> tuple[str, list[dict[str, Any]]]:
    """A session with a reply that runs until `model.release()`, and these messages after it."""
    model.script(pieces=["ok"], hold_after=1)
    session_id = await service.session()
    made = [await post(service, session_id, message) for message in ("first", *queued)]
    async with following(service.client, session_id, 0) as feed:
        await feed.until("chunk")
    return session_id, made


async def remove(service: Running, session_id: str, made: dict[str, Any], **headers: str) -> Any:
    address = f"/api/sessions/{session_id}/messages/{made['user_message_id']}"
    return await service.client.delete(address, headers=headers)


async def posted(service: Running, session_id: str) -> list[str]:
    """The texts of a person's messages, each of which has one reply after it."""
    history = await service.history(session_id)
    assert [one["role"] for one in history["messages"]] == ["user", "assistant"] * (history["total_count"] // 2)
    assert history["total_count"] == len(history["messages"])
    assert [one["parent_id"] for one in history["messages"]] == [
        None,
        *(one["message_id"] for one in history["messages"][:-1]),
    ]
    return [one["content"] for one in history["messages"] if one["role"] == "user"]


async def idle(service: Running, session_id: str) -> dict[str, Any]:
    while True:
        view = (await service.client.get(f"/api/sessions/{session_id}")).json()
        if view["status"] == "active":
            return dict(view)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("removed", [1, 2, 3])
async def test_a_removed_message_leaves_neither_history_nor_context(
    service: Running, model: ModelServer, removed: int
) -> None:
    session_id, made = await busy(service, model, "second", "third", "fourth")
    said = ["first", "second", "third", "fourth"]
    answer = await remove(service, session_id, made[removed])
    assert answer.status_code == 200, answer.text
    view = answer.json()
    assert view["queued_replies"] == [one["message_id"] for at, one in enumerate(made) if at not in (0, removed)]
    assert answer.headers["ETag"] == f'"{view["version"]}"'
    del said[removed]
    assert view["message_count"] == 2 * len(said)
    assert await posted(service, session_id) == said
    model.release()
    view = await idle(service, session_id)
    assert (view["message_count"], view["queued_replies"]) == (2 * len(said), [])
    assert await posted(service, session_id) == said
    sent = [[one["content"] for one in request.body["messages"] if one["role"] == "user"] for request in model.requests]
    assert sent == [said[:at] for at in range(1, len(said) + 1)]
    await service.chat(session_id, "last")
    assert await posted(service, session_id) == [*said, "last"]


async def test_removing_all_leaves_the_running_reply_at_the_end(service: Running, model: ModelServer) -> None:
    session_id, made = await busy(service, model, "second", "third")
    async with following(service.client, session_id, made[-1]["cursor"]) as feed:
        for one, parent in ((made[1], made[0]), (made[2], made[0])):
            assert (await remove(service, session_id, one)).status_code == 200
            *_, frame = await feed.until("removed")
            assert (frame["message_id"], frame["reply_id"]) == (one["user_message_id"], one["message_id"])
            assert frame["parent_id"] == parent["message_id"]
    assert await posted(service, session_id) == ["first"]
    preview = (await service.client.get("/api/sessions", params={"preview": "true"})).json()["sessions"][0]["preview"]
    assert preview["text"] == "first"
    model.release()
    assert (await idle(service, session_id))["message_count"] == 2


async def test_who_waits_for_a_removed_message_is_told(service: Running, model: ModelServer) -> None:
    session_id, _ = await busy(service, model)
    waiting = asyncio.create_task(
        service.client.post("/api/chat", json={"session_id": session_id, "message": "second"})
    )
    while not (queued := (await service.client.get(f"/api/sessions/{session_id}")).json()["queued_replies"]):
        await asyncio.sleep(0.01)
    history = (await service.history(session_id))["messages"]
    (message,) = [one for one in history if one["content"] == "second"]
    assert (await remove(service, session_id, {"user_message_id": message["message_id"]})).status_code == 200
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["message_id"] == queued[0]
    model.release()


async def test_only_queued_messages_are_removed(service: Running, model: ModelServer) -> None:
    session_id, made = await busy(service, model, "second")
    running = await remove(service, session_id, made[0])
    assert (running.status_code, running.json()["type"]) == (409, "/problems/not-queued")
    reply = await remove(service, session_id, {"user_message_id": made[1]["message_id"]})
    assert reply.status_code == 409
    unknown = await remove(service, session_id, {"user_message_id": "m"})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/message-not-found")
    version = (await service.client.get(f"/api/sessions/{session_id}")).json()["version"]
    stale = await remove(service, session_id, made[1], **{"If-Match": f'"{version - 1}"'})
    assert stale.status_code == 412
    model.release()
    await idle(service, session_id)
    assert (await remove(service, session_id, made[1])).status_code == 409
    assert await posted(service, session_id) == ["first", "second"]


async def test_a_removed_message_is_not_posted_again_by_its_key(service: Running, model: ModelServer) -> None:
    session_id, _ = await busy(service, model)
    made = await post(service, session_id, "second", **{"Idempotency-Key": "k"})
    assert (await remove(service, session_id, made)).status_code == 200
    again = await service.client.post(
        "/api/chat", json={"session_id": session_id, "message": "second"}, headers={"Idempotency-Key": "k"}
    )
    assert (again.status_code, again.json()["type"]) == (422, "/problems/key-spent")
    assert await posted(service, session_id) == ["first"]
    model.release()


async def test_records_show_the_removal_as_of_any_time(service: Running, model: ModelServer) -> None:
    session_id, made = await busy(service, model, "second", "third")
    before = (await service.client.get(f"/api/sessions/{session_id}")).json()["version"]
    await remove(service, session_id, made[1])
    model.release()
    await idle(service, session_id)
    export = f"/api/sessions/{session_id}/export"
    now = (await service.client.get(export)).json()
    assert [one["content"] for one in now["messages"] if one["role"] == "user"] == ["first", "third"]
    then = (await service.client.get(export, params={"as_of": str(before)})).json()
    assert "second" in [one["content"] for one in then["messages"]]
    trail = (await service.client.get(f"/api/sessions/{session_id}/events")).json()["events"]
    (withdrawn,) = [one for one in trail if one["type"] == "message_withdrawn"]
    assert withdrawn["data"]["message_id"] == made[1]["user_message_id"]

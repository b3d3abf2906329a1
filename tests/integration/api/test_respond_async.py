"""`Prefer: respond-async`: 202 once the request is on disk, with what it takes to follow the reply."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.feed_reader import FeedReader, kinds_of, text_of
from tests.support.http.service_requests import PostRequest, event_counts, told, wait_for_last_message
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

ASYNC = {"Prefer": "respond-async"}
NOBODY = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
PATHS = ["/api/chat", "/api/chat/stream", "regenerate", "regenerate, streamed"]


async def asked(service: Running, path: str, **headers: str) -> PostRequest:
    """A request with the preference, in a session of its own that has one turn."""
    session_id = await service.session()
    await service.chat(session_id, "one")
    headers = {**ASYNC, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if path.startswith("regenerate"):
        if "streamed" in path:
            headers["Accept"] = "text/event-stream"
        return PostRequest(f"/api/sessions/{session_id}/regenerate", {}, headers)
    return PostRequest(path, {"session_id": session_id, "message": "two"}, headers)


async def followed(service: Running, answer: httpx.Response) -> list[dict[str, Any]]:
    """The session's feed from where the answer says, up to the end of the reply."""
    accepted = answer.json()
    feed_url = httpx.URL(answer.headers["Location"])
    assert feed_url.params["after"] == accepted["cursor"]
    async with service.client.stream("GET", feed_url) as opened:
        feed = FeedReader(opened)
        seen = await feed.until("complete")
        while seen[-1]["message_id"] != accepted["message_id"]:
            seen += await feed.until("complete")
    return seen


@pytest.mark.parametrize("path", PATHS)
async def test_the_answer_comes_before_the_reply_and_leads_to_it(
    service: Running, model: ModelServer, path: str
) -> None:
    request = await asked(service, path)
    model.script(pieces=("three ", "four"), hold_after=0)
    answer = await request.send(service.client)
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    accepted = answer.json()
    assert accepted.keys() == {"session_id", "message_id", "user_message_id", "version", "cursor"}
    model.release()
    seen = await followed(service, answer)
    assert kinds_of(seen) == ["start", "chunk", "complete"], "the cursor is that of the request itself"
    assert seen[0]["message_id"] == accepted["message_id"]
    assert seen[0]["user_message_id"] == accepted["user_message_id"]
    assert text_of(seen) == "three four"
    reply = await wait_for_last_message(service.client, accepted["session_id"], status="complete")
    assert (reply["message_id"], reply["parent_id"]) == (accepted["message_id"], accepted["user_message_id"])


async def test_a_message_behind_a_running_reply_is_accepted_at_once(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    model.script(pieces=("one ", "two"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "first"))
    await wait_for_last_message(service.client, session_id, status="streaming")
    body = {"session_id": session_id, "message": "second"}
    answer = await service.client.post("/api/chat", json=body, headers=ASYNC)
    assert answer.status_code == 202
    assert not running.done()
    model.release()
    await running
    seen = await followed(service, answer)
    assert text_of(seen, answer.json()["message_id"]) == "You said: second"


@pytest.mark.parametrize("path", ["/api/chat", "regenerate, streamed"])
async def test_a_repetition_is_answered_the_same_whatever_has_become_of_the_reply(
    tmp_path: Path, model: ModelServer, path: str
) -> None:
    async with serving(tmp_path, model.url) as service:
        request = await asked(service, path, Idempotency_Key="k")
        model.script(pieces=("three ", "four"), hold_after=1)
        first = await request.send(service.client)
        assert told(await request.send(service.client)) == told(first), "the reply runs"
        model.release()
        accepted = first.json()
        await wait_for_last_message(service.client, accepted["session_id"], status="complete")
        assert told(await request.send(service.client)) == told(first), "the reply has ended"
        events = event_counts(tmp_path)
    async with serving(tmp_path, model.url) as service:
        assert told(await request.send(service.client)) == told(first), "the service was restarted"
        waiting = PostRequest(request.path, request.body, {"Idempotency-Key": "k"})
        whole = await waiting.send(service.client)
        assert whole.status_code == 200, "the same request without the preference waits for the reply"
        assert "three four" in whole.text
    assert event_counts(tmp_path) == events
    assert len(model.requests) == 2


async def test_a_repetition_after_the_reply_was_begun_anew_is_answered_the_same(
    tmp_path: Path, model: ModelServer
) -> None:
    settings = {"CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1", "CHATBOT_SERVER_DRAIN_GRACE_S": "0"}
    async with serving(tmp_path, model.url, **settings) as service:
        request = await asked(service, "/api/chat", Idempotency_Key="k")
        model.script(pieces=("lost",), hold_after=1)
        first = await request.send(service.client)
        await wait_for_last_message(service.client, first.json()["session_id"], status="streaming")
    model.script(pieces=("written ", "again"), hold_after=1)
    async with serving(tmp_path, model.url, **settings) as service:
        await model.wait_requests(3)
        assert told(await request.send(service.client)) == told(first), "the reply is being generated again"
        model.release()
        await wait_for_last_message(
            service.client, first.json()["session_id"], content="written again", status="complete"
        )
        assert told(await request.send(service.client)) == told(first)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"message": " "}, {}, 422),
        ({"message": "hi", "parent_id": "none"}, {}, 422),
        ({"message": "hi"}, {"If-Match": '"7"'}, 412),
        ({"message": "hi", "session_id": NOBODY}, {}, 404),
    ],
)
async def test_what_is_refused_is_refused_as_without_the_preference(
    service: Running, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    whole = {"session_id": await service.session(), **body}
    answer = await service.client.post("/api/chat", json=whole, headers={**ASYNC, **headers})
    assert answer.status_code == status
    assert "Preference-Applied" not in answer.headers


async def test_a_reply_that_fails_later_does_not_change_the_answer(service: Running, model: ModelServer) -> None:
    model.script(status=500, body={"error": "x"}, times=None)
    body = {"session_id": await service.session(), "message": "hi"}
    answers = []
    for _ in range(2):
        answers.append(await service.client.post("/api/chat", json=body, headers={**ASYNC, "Idempotency-Key": "k"}))
        await wait_for_last_message(service.client, body["session_id"], status="failed")
    assert [one.status_code for one in answers] == [202, 202]
    assert told(answers[0]) == told(answers[1])

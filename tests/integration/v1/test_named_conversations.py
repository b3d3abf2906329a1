"""Requests to /v1 that name a conversation go on with it; those that do not are sessions of their own."""

import base64
import uuid
from typing import Any

import pytest

from tests.support.http.completion_requests import chunks_of, complete, completion_body, error_of, joined
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE: dict[str, Any] = {
    "type": "image_url",
    "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}", "detail": "low"},
}


def said(*texts: str) -> list[dict[str, Any]]:
    """Messages such as "u:Hello"."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[one[0]], "content": one[2:]} for one in texts]


async def ask(service: Running, *texts: str, headers: Any = None, **fields: Any) -> str:
    """The session that has the reply."""
    answer = await complete(service, json=completion_body(messages=said(*texts), **fields), headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-session-id"])


async def history(service: Running, session_id: str) -> list[str]:
    messages = (await service.history(session_id))["messages"]
    return [f"{one['role'][0]}:{one['content']}" for one in messages]


def named() -> dict[str, str]:
    return {"X-Conversation-Id": str(uuid.uuid4())}


async def test_a_conversation_grows_by_what_is_new(service: Running, model: ModelServer) -> None:
    headers = named()
    first = await ask(service, "s:Be kind", "u:One", headers=headers)
    second = await ask(service, "s:Be brief", "u:One", "a:You said: One", "u:Two", headers=headers, stream=True)
    assert first == second
    assert await history(service, first) == ["u:One", "a:You said: One", "u:Two", "a:You said: Two"]
    sent = [[f"{one['role'][0]}:{one['content']}" for one in request.body["messages"]] for request in model.requests]
    assert sent == [["s:Be kind", "u:One"], ["s:Be brief", "u:One", "a:You said: One", "u:Two"]]


async def test_the_same_messages_again_are_another_reply(service: Running) -> None:
    headers = named()
    session_id = await ask(service, "u:One", headers=headers)
    await ask(service, "u:One", headers=headers)
    question, reply = (await service.history(session_id))["messages"]
    assert (question["content"], len(reply["siblings"])) == ("One", 2)


async def test_what_we_did_not_write_is_the_clients_claim(service: Running) -> None:
    session_id = await ask(service, "u:One", "a:Never said", "u:Two", headers=named())
    messages = (await service.history(session_id))["messages"]
    assert [one.get("imported", False) for one in messages] == [True, True, False, False]


async def test_the_metadata_of_the_body_names_a_conversation_too(service: Running) -> None:
    metadata = {"session_id": str(uuid.uuid4()), "other": "x"}
    assert await ask(service, "u:One", metadata=metadata) == await ask(service, "u:One", metadata=metadata)


async def test_our_own_session_is_continued_by_its_id(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "One")
    headers = {"X-Session-Id": session_id}
    assert await ask(service, "u:One", "a:You said: One", "u:Two", headers=headers) == session_id
    assert (await history(service, session_id))[-2:] == ["u:Two", "a:You said: Two"]
    answer = await complete(service, headers={"X-Session-Id": str(uuid.uuid4())})
    assert error_of(answer, 404)["code"] == "session_not_found"


async def test_without_a_name_each_request_is_a_session_that_lists_do_not_show(service: Running) -> None:
    sessions = {await ask(service, "u:One") for _ in range(2)}
    assert len(sessions) == 2
    listed = (await service.client.get("/api/sessions", params={"limit": 1000})).json()["sessions"]
    assert not sessions & {one["session_id"] for one in listed}


async def test_tasks_of_open_webui_leave_the_conversation_alone(service: Running) -> None:
    chat = {"X-OpenWebUI-Chat-Id": str(uuid.uuid4()), "X-OpenWebUI-Task": ""}
    session_id = await ask(service, "u:One", headers=chat, stream=True)
    title = await ask(service, "u:Make a title", headers={**chat, "X-OpenWebUI-Task": "title_generation"})
    tags = await ask(service, "u:Make tags", headers=chat)
    assert len({session_id, title, tags}) == 3
    assert await history(service, session_id) == ["u:One", "a:You said: One"]


async def test_the_id_of_a_reply_makes_a_repetition_harmless(service: Running, model: ModelServer) -> None:
    chat = {
        "X-OpenWebUI-Chat-Id": str(uuid.uuid4()),
        "X-OpenWebUI-Message-Id": "m1",
        "X-OpenWebUI-User-Message-Id": "u1",
    }
    answers = [await complete(service, headers=chat, stream=True) for _ in range(2)]
    first, second = (chunks_of(answer.text) for answer in answers)
    assert joined(first) == joined(second)
    assert first[0]["id"] == second[0]["id"]
    assert len(model.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_idempotency_key_makes_a_repetition_harmless(
    service: Running, model: ModelServer, *, stream: bool
) -> None:
    for name in ({}, named()):
        headers = {**name, "Idempotency-Key": str(uuid.uuid4())}
        answers = [await complete(service, headers=headers, stream=stream) for _ in range(2)]
        assert answers[0].headers["x-session-id"] == answers[1].headers["x-session-id"]
        assert answers[0].headers["content-location"] == answers[1].headers["content-location"]
        other = await complete(service, headers=headers, stream=stream, text="Something else")
        assert error_of(other, 400)["code"] == "key_reused"
    assert len(model.requests) == 2


async def test_a_turn_with_a_tool(service: Running, model: ModelServer) -> None:
    headers, tool = named(), {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    model.script(deltas=({"tool_calls": [{"index": 0, **call}]},), finish_reason="tool_calls")
    model.script(pieces=("21 degrees",))
    session_id = await ask(service, "u:How warm?", headers=headers, tools=[tool])
    asked = said("u:How warm?")
    messages = [
        *asked,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "21"},
    ]
    answer = await complete(service, json=completion_body(messages=messages, tools=[tool]), headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "21 degrees"
    assert answer.headers["x-session-id"] == session_id
    roles = [one["role"] for one in (await service.history(session_id))["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert model.requests[1].body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "21"},
    ]


async def test_images_are_kept_once_and_sent_each_time(service: Running, model: ModelServer) -> None:
    headers, content = named(), [{"type": "text", "text": "What is it?"}, IMAGE]
    messages = [{"role": "user", "content": content}]
    model.script(times=2, pieces=("A dot",))
    first = await complete(service, json=completion_body(messages=messages), headers=headers)
    assert first.status_code == 200, first.text
    messages += said("a:A dot", "u:Sure?")
    second = await complete(service, json=completion_body(messages=messages), headers=headers)
    assert second.headers["x-session-id"] == first.headers["x-session-id"]
    history = (await service.history(first.headers["x-session-id"]))["messages"]
    assert [one["role"] for one in history] == ["user", "assistant", "user", "assistant"]
    media = history[0]["parts"][1]
    assert (media["media_type"], media["bytes"]) == ("image/png", len(PNG))
    for request in model.requests:
        assert request.body["messages"][0]["content"][1]["image_url"]["url"] == IMAGE["image_url"]["url"]


async def test_two_first_requests_at_once_make_one_conversation(service: Running) -> None:
    headers = named()
    answers = [complete(service, headers=headers, text=text) for text in ("One", "Two")]
    sessions = {answer.headers["x-session-id"] for answer in [await answers[0], await answers[1]]}
    assert len(sessions) == 1


async def test_a_deleted_conversation_begins_again(service: Running) -> None:
    headers = named()
    first = await ask(service, "u:One", headers=headers)
    assert (await service.client.delete(f"/api/sessions/{first}")).status_code == 204
    second = await ask(service, "u:One", headers=headers)
    assert first != second
    assert await history(service, second) == ["u:One", "a:You said: One"]

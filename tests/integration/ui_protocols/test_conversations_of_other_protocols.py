"""One record: what one API writes, the others read, continue and erase; and what is another's stays so."""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, started

KEYS = "mina:minas-secret-for-tests,jisu:jisus-secret-for-tests"
MINA, JISU = ({"X-API-Key": f"{name}s-secret-for-tests"} for name in ("mina", "jisu"))


def ui_message(text: str, message_id: str = "m1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


async def post_ui(client: httpx.AsyncClient, chat_id: str, *messages: dict[str, Any], **headers: str) -> httpx.Response:
    return await client.post("/api/ui/chat", json={"id": chat_id, "messages": list(messages)}, headers=headers)


async def run_agui(client: httpx.AsyncClient, thread_id: str, *messages: dict[str, Any], **headers: str) -> str:
    body = {"threadId": thread_id, "runId": "run", "messages": list(messages), "tools": [], "context": []}
    return (await client.post("/api/agui", json=body, headers=headers)).text


def texts(history: dict[str, Any]) -> list[str]:
    return [message["content"] for message in history["messages"]]


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with started(tmp_path, model.url) as running:
        yield running


async def test_a_session_of_the_api_goes_on_in_a_ui_chat_and_in_an_agui_thread(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "One.")
    shown = (await service.client.get(f"/api/ui/chat/{session_id}")).json()
    assert [part["text"] for message in shown["messages"] for part in message["parts"] if "text" in part] == [
        "One.",
        "You said: One.",
    ]
    answer = await post_ui(service.client, session_id, *shown["messages"], ui_message("Two."))
    assert answer.headers["X-Session-Id"] == session_id
    history = await service.history(session_id)
    thread = [{"id": one["message_id"], "role": one["role"], "content": one["content"]} for one in history["messages"]]
    await run_agui(service.client, session_id, *thread, {"id": "m3", "role": "user", "content": "Three."})
    history = await service.history(session_id)
    assert texts(history) == ["One.", "You said: One.", "Two.", "You said: Two.", "Three.", "You said: Three."]
    assert not [message for message in history["messages"] if message.get("imported")]


async def test_a_deleted_chat_is_gone_and_its_name_begins_another_one(service: Running) -> None:
    first = (await post_ui(service.client, "mine", ui_message("Hello."))).headers["X-Session-Id"]
    assert (await service.client.delete(f"/api/sessions/{first}")).status_code == 204
    assert (await service.client.get("/api/ui/chat/mine")).status_code == 404
    second = (await post_ui(service.client, "mine", ui_message("Hello again."))).headers["X-Session-Id"]
    assert second != first
    assert texts(await service.history(second)) == ["Hello again.", "You said: Hello again."]
    assert (await service.client.get("/api/ui/chat/mine")).json()["session_id"] == second


async def test_anothers_session_is_a_name_like_any_other(tmp_path: Path) -> None:
    async with ModelServer() as model, started(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as service:
        client = service.client
        session_id = (await client.post("/api/sessions", json={}, headers=MINA)).json()["session_id"]
        other = await post_ui(client, session_id, ui_message("Let me in."), **JISU)
        assert other.headers["X-Session-Id"] != session_id
        await run_agui(client, session_id, {"id": "m", "role": "user", "content": "Let me in."}, **JISU)
        history = await client.get(f"/api/sessions/{session_id}/messages", headers=MINA)
        assert history.json()["messages"] == []
        same_name = await post_ui(client, "mine", ui_message("Mine."), **MINA)
        others = await client.get("/api/ui/chat/mine", headers=JISU)
        assert (same_name.status_code, others.status_code) == (200, 404)


async def test_a_read_by_a_chats_name_is_recorded(tmp_path: Path) -> None:
    settings = {"CHATBOT_AUTH_RECORD_READS": "true", "CHATBOT_API_KEYS": KEYS}
    async with ModelServer() as model, started(tmp_path, model.url, **settings) as service:
        sent = await post_ui(service.client, "mine", ui_message("Hello."), **MINA)
        for _ in range(2):
            assert (await service.client.get("/api/ui/chat/mine", headers=MINA)).status_code == 200
        path = f"/api/sessions/{sent.headers['X-Session-Id']}/events"
        events = (await service.client.get(path, headers=MINA)).json()["events"]
        assert [event["data"]["what"] for event in events if event["type"] == "session_viewed"] == ["history", "events"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"id": "", "messages": [ui_message("Hi.")]}, "$.id"),
        ({"id": "a", "messages": []}, "$.messages"),
        ({"id": "a", "messages": [{**ui_message("Hi."), "role": "robot"}]}, "$.messages[0].role"),
        ({"id": "a", "messages": [ui_message("Hi."), ui_message("\0")]}, "$.messages[1].parts[0].text"),
        (
            {
                "id": "a",
                "messages": [{**ui_message("Hi."), "parts": [{"type": "file", "url": "https://a.test/b.png"}]}],
            },
            "$.messages[0].parts[0].url",
        ),
        ({"id": "a", "messages": [ui_message("Hi.")], "temperature": 9}, "$.temperature"),
    ],
)
async def test_a_refusal_of_a_ui_chat_has_the_path_of_its_fault(service: Running, body: Any, path: str) -> None:
    answer = await service.client.post("/api/ui/chat", json=body)
    assert (answer.status_code, [one["path"] for one in answer.json()["errors"]]) == (422, [path])


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"threadId": "\n"}, "$.threadId"),
        ({"runId": ""}, "$.runId"),
        ({"resume": [{"interruptId": "a"}]}, "$.resume"),
        ({"messages": [{"id": "m", "role": "tool", "toolCallId": "c", "content": "1"}]}, "$.messages[0]"),
        (
            {"messages": [{"id": "m", "role": "user", "content": [{"type": "audio"}]}]},
            "$.messages[0].content[0].type",
        ),
    ],
)
async def test_a_refusal_of_a_run_has_the_path_of_its_fault(service: Running, changed: Any, path: str) -> None:
    message = {"id": "m", "role": "user", "content": "Hi."}
    body = {"threadId": "a", "runId": "r", "messages": [message], "tools": [], "context": [], **changed}
    answer = await service.client.post("/api/agui", json=body)
    assert (answer.status_code, [one["path"] for one in answer.json()["errors"]]) == (422, [path])


async def test_a_session_with_a_system_message_and_a_redacted_one_goes_on_in_both(service: Running) -> None:
    """What a client reads here it can send back: nothing of it is recorded a second time."""
    client = service.client
    items = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "My secret is 7."}]
    made = (await client.post("/v1/conversations", json={"items": items})).json()["id"]
    session_id = str(uuid.UUID(made.removeprefix("conv_")))
    await service.chat(session_id, "Forget it.")
    secret = (await service.history(session_id))["messages"][1]["message_id"]
    path = f"/api/sessions/{session_id}/messages/{secret}/redact"
    assert (await client.post(path, json={"reason_code": "request"})).status_code == 200

    shown = (await client.get(f"/api/ui/chat/{session_id}")).json()["messages"]
    await post_ui(client, session_id, *shown, ui_message("Go on."))
    snapshot = next(
        json.loads(line.removeprefix("data: "))["messages"]
        for line in (await run_agui(client, session_id)).splitlines()
        if "MESSAGES_SNAPSHOT" in line
    )
    assert snapshot[0] == {"id": snapshot[0]["id"], "role": "system", "content": "Be short."}
    await run_agui(client, session_id, *snapshot, {"id": "m", "role": "user", "content": "And on."})
    history = await service.history(session_id)
    contents = ["Be short.", "", "Forget it.", "You said: Forget it.", "Go on.", "You said: Go on.", "And on."]
    assert texts(history) == [*contents, "You said: And on."]
    assert all(len(message["siblings"]) <= 1 for message in history["messages"])


async def test_messages_of_a_user_between_an_agents_are_kept(service: Running, model: ModelServer) -> None:
    messages: list[dict[str, Any]] = [
        {"id": "r1", "role": "assistant", "content": "A"},
        {"id": "u1", "role": "user", "content": "said"},
        {"id": "r1-2", "role": "assistant", "content": "B"},
        {"id": "r1-2-3", "role": "assistant", "content": "C"},
        {"id": "u2", "role": "user", "content": "Go on."},
    ]
    await run_agui(service.client, "mixed", *messages)
    sent = model.requests[-1].body["messages"]
    assert [(one["role"], one["content"]) for one in sent] == [
        ("assistant", "A"),
        ("user", "said"),
        ("assistant", "BC"),
        ("user", "Go on."),
    ]


async def test_arguments_that_are_nested_too_deeply_are_shown_as_text(service: Running) -> None:
    deep = "[" * 50_000
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": deep}}
    messages: list[dict[str, Any]] = [
        {"id": "u", "role": "user", "content": "Hello."},
        {"id": "r", "role": "assistant", "toolCalls": [call]},
        {"id": "t", "role": "tool", "toolCallId": "c1", "content": "no"},
    ]
    await run_agui(service.client, "deep", *messages)
    shown = (await service.client.get(f"/api/ui/chat/{await session_of(service, 'deep')}")).json()
    assert [part["input"] for part in shown["messages"][1]["parts"] if part["type"] == "dynamic-tool"] == [deep]


async def session_of(service: Running, thread_id: str) -> str:
    body = {"threadId": thread_id, "runId": "run", "messages": [], "tools": [], "context": []}
    return (await service.client.post("/api/agui", json=body)).headers["X-Session-Id"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/agui", {"threadId": "a", "runId": "r", "messages": [{"id": "m", "role": "activity"}] * 5}, "messages"),
        ("/api/agui", {"threadId": "a", "runId": "r", "messages": [], "tools": [{"name": "t"}] * 200}, "tools"),
        ("/api/ui/chat", {"id": "a", "messages": [ui_message("Hi.")] * 5}, "messages"),
        ("/api/ui/chat", {"id": "a", "messages": [ui_message("Hi.")], "tools": [{}] * 2_000_000}, None),
        ("/api/agui", {"threadId": "a", "runId": "r", "messages": [], "state": ["x"] * 2_000_000}, None),
    ],
)
async def test_what_is_too_large_is_refused_before_it_is_looked_at(
    tmp_path: Path, path: str, body: Any, field: str | None
) -> None:
    async with ModelServer() as model, started(tmp_path, model.url, CHATBOT_V1_MESSAGES_MAX="4") as service:
        answer = await service.client.post(path, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, f"$.{field}" if field else "$")

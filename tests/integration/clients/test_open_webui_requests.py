"""The requests that Open WebUI 0.12.4 sent for two people: a title, two turns, a reply regenerated, a question edited.

They are in tests/support/clients/openai/open_webui.json in their order, as its page caused them; of its tools two are
left, of the prompts of its tasks the first lines.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.programs.openai_clients import SCRIPTS
from tests.support.service import Running, serving

REQUESTS: list[dict[str, Any]] = json.loads((SCRIPTS / "openai" / "open_webui.json").read_text())
FRONT_END, OTHER = "a-secret-of-open-webui", "a-secret-of-others"
TURNS = [each for each in REQUESTS if each["body"]["stream"]]
TASKS = [each for each in REQUESTS if not each["body"]["stream"]]
MINA, JUN = (each["headers"]["X-OpenWebUI-User-Id"] for each in (REQUESTS[0], REQUESTS[-1]))
FIRST, SECOND, REGENERATED, EDITED, JUNS = TURNS


@pytest.fixture
async def front(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    """A service for which a front end's key says who its people are."""
    settings = {"CHATBOT_API_KEYS": f"front:{FRONT_END},other:{OTHER}", "CHATBOT_AUTH_FRONT_ENDS": "front"}
    async with serving(tmp_path, model.url, **settings) as running:
        running.client.headers["Authorization"] = f"Bearer {FRONT_END}"
        yield running


async def send(service: Running, request: dict[str, Any], **headers: str) -> httpx.Response:
    answer = await service.client.post(
        "/v1/chat/completions", json=request["body"], headers={**request["headers"], **headers}
    )
    assert answer.status_code == 200, answer.text
    return answer


def text_of(answer: httpx.Response) -> str:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def sessions(service: Running, **query: str) -> list[dict[str, Any]]:
    answer = await service.client.get("/api/sessions", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["sessions"])


def said(history: dict[str, Any]) -> list[str]:
    return [each["content"] for each in history["messages"]]


async def test_each_persons_chat_becomes_a_session_with_its_branches(front: Running) -> None:
    answers = [await send(front, each) for each in REQUESTS]
    by_session: dict[str, list[str]] = {}
    for request, answer in zip(REQUESTS, answers, strict=True):
        by_session.setdefault(answer.headers["X-Session-Id"], []).append(request["body"]["messages"][-1]["content"])
    minas, juns = (
        await sessions(front, order="created", **{"metadata.user_id": MINA}),
        await sessions(front, **{"metadata.user_id": JUN}),
    )
    (mina,), (jun,) = minas, juns
    assert len(by_session[mina["session_id"]]) == 4
    history = await front.history(mina["session_id"])
    assert said(history) == [
        "My name is Mina. Say hello.",
        "You said: My name is Mina. Say hello.",
        "What was my name again?",
        "You said: What was my name again?",
    ]
    assert not [each for each in history["messages"] if each.get("imported")], "all of it was written here"
    edited = history["messages"][2]
    assert len(edited["siblings"]) == 2, "an edited question is another one under the same reply"
    (earlier,) = set(edited["siblings"]) - {edited["message_id"]}
    other = await front.history(mina["session_id"], branch=earlier)
    assert other["messages"][2]["content"] == "What is my name?"
    branch = await front.history(mina["session_id"], branch=other["messages"][-1]["message_id"])
    assert len(branch["messages"][-1]["siblings"]) == 2, "a regenerated reply is another one to the same question"
    assert said(await front.history(jun["session_id"])) == [
        "My name is Jun. Say hello.",
        "You said: My name is Jun. Say hello.",
    ]


async def test_tasks_leave_the_conversation_alone_and_are_recorded_apart(front: Running) -> None:
    for each in REQUESTS:
        await send(front, each)
    tasks = await sessions(front, kind="task")
    assert len(tasks) == len(TASKS)
    assert {task["metadata"]["user_id"] for task in tasks} == {MINA, JUN}
    listed = await sessions(front)
    assert len(listed) == 2
    for session in listed:
        texts = said(await front.history(session["session_id"]))
        assert not [text for text in texts if text.startswith("### Task")]


async def test_a_repeated_request_gets_the_same_reply_and_records_nothing(front: Running, model: ModelServer) -> None:
    first = await send(front, FIRST)
    (session,) = await sessions(front)
    again = await send(front, FIRST)
    assert text_of(again) == text_of(first) == "You said: My name is Mina. Say hello."
    assert again.headers["X-Session-Id"] == first.headers["X-Session-Id"]
    assert len(model.requests) == 1
    assert (await front.history(session["session_id"]))["version"] == session["version"]


async def test_the_headers_of_other_keys_name_no_person(front: Running) -> None:
    await send(front, FIRST)
    await send(front, FIRST, Authorization=f"Bearer {OTHER}")
    front.client.headers["Authorization"] = f"Bearer {OTHER}"
    (session,) = await sessions(front)
    assert session["metadata"] == {}


async def test_the_same_chat_id_of_another_person_is_another_session(front: Running) -> None:
    mine = await send(front, FIRST)
    others = await send(front, FIRST, **{"X-OpenWebUI-User-Id": JUN})
    assert mine.headers["X-Session-Id"] != others.headers["X-Session-Id"]


async def test_without_forwarded_headers_each_request_is_a_session_of_its_own(front: Running) -> None:
    for each in REQUESTS:
        await send(front, {**each, "headers": {}})
    assert await sessions(front) == []
    assert len(await sessions(front, kind="stateless")) == len(REQUESTS)


async def test_a_person_is_erased_with_all_chats_and_tasks(front: Running) -> None:
    for each in REQUESTS:
        await send(front, each)
    for kind in ("conversation", "task", "stateless"):
        for session in await sessions(front, kind=kind, **{"metadata.user_id": MINA}):
            assert (await front.client.delete(f"/api/sessions/{session['session_id']}")).status_code == 204
    left = [session for kind in ("conversation", "task") for session in await sessions(front, kind=kind)]
    assert {session["metadata"]["user_id"] for session in left} == {JUN}


async def test_a_temporary_chat_is_a_session_for_each_request(front: Running) -> None:
    for _ in range(2):
        await send(
            front, FIRST, **{"X-OpenWebUI-Chat-Id": "temporary:KLw8DXhy1V5eUsrsAAAH", "X-OpenWebUI-Message-Id": ""}
        )
    assert await sessions(front) == []
    assert len(await sessions(front, kind="stateless")) == 2


async def test_continuing_a_reply_adds_another_one_behind_it(front: Running, model: ModelServer) -> None:
    """Continue Response sends the transcript with the reply at its end, and the same id of the reply as before."""
    said = text_of(await send(front, FIRST))
    model.script(pieces=(" And", " more."))
    messages = [*FIRST["body"]["messages"], {"role": "assistant", "content": said}]
    continued = await send(front, {**FIRST, "body": {**FIRST["body"], "messages": messages}})
    assert text_of(continued) == " And more."
    assert [each["role"] for each in model.requests[-1].body["messages"]] == ["user", "assistant"]
    (session,) = await sessions(front)
    history = await front.history(session["session_id"])
    assert [each["content"] for each in history["messages"]] == [messages[0]["content"], said, " And more."]

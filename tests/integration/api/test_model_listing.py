"""Which models are listed, and that no other one is accepted where all of them are known."""

from pathlib import Path
from typing import Any

import pytest

from chatbot.llm.model_names import is_offered
from tests.support.http.service_requests import event_counts
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


async def listed(service: Running) -> dict[str, Any]:
    answer = await service.client.get("/api/models")
    assert answer.status_code == 200
    return dict(answer.json())


def shown(name: str, *, default: bool, tokens: int = 4096) -> dict[str, Any]:
    return {"id": name, "default": default, "suggested_max_new_tokens": tokens}


async def refusals(service: Running, session_id: str, name: str) -> list[tuple[int, str]]:
    """What each call that takes a model answers to this one."""
    client, path = service.client, f"/api/sessions/{session_id}"
    answers = [
        await client.post("/api/chat", json={"session_id": session_id, "message": "hi", "model": name}),
        await client.post("/api/chat/stream", json={"session_id": session_id, "message": "hi", "model": name}),
        await client.post(f"{path}/regenerate", json={"model": name}),
        await client.post("/api/sessions", json={"model": name}),
        await client.patch(path, json={"model": name}),
    ]
    return [(one.status_code, one.json()["errors"][0]["path"]) for one in answers]


async def test_the_models_of_the_server_are_listed_and_others_refused(
    service: Running, model: ModelServer, tmp_path: Path
) -> None:
    assert await listed(service) == {"models": [shown("fake-model", default=True)], "complete": True}
    session_id = await service.session()
    await service.chat(session_id, "hi", model="fake-model")
    before = event_counts(tmp_path)
    assert await refusals(service, session_id, "unknown") == [(422, "$.model")] * 5
    assert (event_counts(tmp_path), len(model.requests)) == (before, 1)


async def test_a_configured_model_is_listed_first_and_accepted_though_the_server_does_not_list_it(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_LLM_MODEL="mine") as service:
        told = await listed(service)
        assert told["models"] == [shown("mine", default=True), shown("fake-model", default=False)]
        await service.chat(await service.session(), "hi", model="mine")


@pytest.mark.parametrize(("context", "tokens"), [("1000", 500), ("100000", 4096)])
async def test_half_of_the_context_is_suggested_for_a_reply_up_to_the_ceiling(
    tmp_path: Path, model: ModelServer, context: str, tokens: int
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_CHAT_CONTEXT_TOKENS=context) as service:
        assert (await listed(service))["models"] == [shown("fake-model", default=True, tokens=tokens)]


async def test_any_model_is_passed_on_to_a_server_that_does_not_tell_its_list(
    tmp_path: Path, model: ModelServer
) -> None:
    model.status = 404
    async with serving(tmp_path, model.url) as service:
        assert await listed(service) == {"models": [], "complete": False}
        await service.chat(await service.session(model="unknown"), "hi")
        assert model.requests[-1].body["model"] == "unknown"


async def test_a_repeated_request_is_answered_though_its_model_is_not_offered_any_more(
    tmp_path: Path, model: ModelServer
) -> None:
    async def ask(service: Running, path: str, key: str, **body: Any) -> tuple[int, str | None]:
        answer = await service.client.post(path, json={"model": "fake-model", **body}, headers={"Idempotency-Key": key})
        said = answer.json()
        return answer.status_code, said.get("message_id") or said.get("session_id")

    async with serving(tmp_path, model.url) as service:
        made = await ask(service, "/api/sessions", "create-1")
        session_id = made[1] or ""
        told = await ask(service, "/api/chat", "chat-1", session_id=session_id, message="hi")
        other = await ask(service, f"/api/sessions/{session_id}/regenerate", "again-1")
    assert (made[0], told[0], other[0]) == (201, 200, 200)
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="midm") as service:
        assert await ask(service, "/api/sessions", "create-1") == made
        assert await ask(service, "/api/chat", "chat-1", session_id=session_id, message="hi") == told
        assert await ask(service, f"/api/sessions/{session_id}/regenerate", "again-1") == other
        assert (await ask(service, "/api/chat", "chat-2", session_id=session_id, message="hi"))[0] == 422


async def test_midm_has_one_model(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="midm") as service:
        assert await listed(service) == {"models": [shown("midm", default=True)], "complete": True}
        session_id = await service.session()
        await service.chat(session_id, "hi", model="midm")
        assert await refusals(service, session_id, "unknown") == [(422, "$.model")] * 5


async def test_the_embedded_model_is_the_only_one(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    settings = {"CHATBOT_LLM_PROVIDER": "embedded", "CHATBOT_LLM_HEALTH_INTERVAL_S": "60"}
    async with serving(tmp_path, "", **settings) as service:
        told = await listed(service)
        assert ([one["default"] for one in told["models"]], told["complete"]) == ([True], True)
        refused = await service.client.post("/api/sessions", json={"model": "gpt-9"})
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.model")


@pytest.mark.parametrize(
    ("name", "offered", "expected"),
    [
        ("a", {"a", "b"}, True),
        ("c", {"a", "b"}, False),
        ("llama3", {"llama3:latest"}, True),
        ("llama3", {"llama3:8b"}, False),
        ("openai/gpt", {"openai/*"}, True),
        ("other/gpt", {"openai/*"}, False),
        ("anything", {"*"}, True),
        ("a", {"[a-z]"}, False),
    ],
)
def test_a_name_is_offered_by_itself_by_its_latest_tag_or_by_a_pattern(
    name: str, offered: set[str], expected: bool
) -> None:
    assert is_offered(name, offered) is expected

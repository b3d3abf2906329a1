"""System prompt, model and parameters of a session, and which of them a reply is made with."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.service_requests import event_counts, forget_projections, sent
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SETTINGS = ("system_prompt", "model", "parameters")
ASKED: dict[str, Any] = {
    "system_prompt": "Be kind.",
    "model": "fake-model",
    "parameters": {"temperature": 0.2, "stop": ["END"], "max_new_tokens": 9},
}


async def settings_of(service: Running, session_id: str) -> dict[str, Any]:
    view = (await service.client.get(f"/api/sessions/{session_id}")).json()
    return {name: view[name] for name in SETTINGS}


async def change(service: Running, session_id: str, **body: Any) -> httpx.Response:
    return await service.client.patch(f"/api/sessions/{session_id}", json=body)


def used(model: ModelServer, number: int = -1) -> dict[str, Any]:
    """How the model was asked."""
    body = model.requests[number].body
    names = ("model", "temperature", "stop", "max_tokens", "top_p", "seed")
    return {name: body[name] for name in names if name in body}


async def test_a_session_without_settings_uses_those_of_the_service(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    assert await settings_of(service, session_id) == {"system_prompt": None, "model": None, "parameters": {}}
    await service.chat(session_id, "hi")
    assert used(model) == {"model": "fake-model", "temperature": 0.7, "max_tokens": 256}


async def test_settings_are_set_at_the_creation_and_read(service: Running, model: ModelServer) -> None:
    created = (await service.client.post("/api/sessions", json=ASKED)).json()
    assert {name: created[name] for name in SETTINGS} == ASKED
    assert await settings_of(service, created["session_id"]) == ASKED
    (listed,) = (await service.client.get("/api/sessions")).json()["sessions"]
    assert {name: listed[name] for name in SETTINGS} == ASKED
    await service.chat(created["session_id"], "hi")
    assert used(model) == {"model": "fake-model", "temperature": 0.2, "stop": ["END"], "max_tokens": 9}


async def test_a_request_comes_before_the_session(service: Running, model: ModelServer) -> None:
    session_id = await service.session(**ASKED)
    await service.chat(session_id, "hi", temperature=0, stop=[], top_p=0.5)
    assert used(model) == {"model": "fake-model", "temperature": 0, "max_tokens": 9, "top_p": 0.5}
    await service.chat(session_id, "hi", stop=["X"], max_new_tokens=3)
    assert used(model) == {"model": "fake-model", "temperature": 0.2, "stop": ["X"], "max_tokens": 3}


async def test_settings_are_changed_and_removed(service: Running, model: ModelServer) -> None:
    session_id = await service.session(**ASKED, title="kept", metadata={"a": 1})
    changed = await change(service, session_id, system_prompt="Be brief.", parameters={"temperature": None, "seed": 4})
    assert changed.status_code == 200
    wanted = {**ASKED, "system_prompt": "Be brief.", "parameters": {"stop": ["END"], "max_new_tokens": 9, "seed": 4}}
    assert {name: changed.json()[name] for name in SETTINGS} == wanted
    assert (changed.json()["title"], changed.json()["metadata"]) == ("kept", {"a": 1})
    await service.chat(session_id, "hi")
    assert sent(model) == ["Be brief.", "hi"]
    assert used(model)["temperature"] == 0.7
    await change(service, session_id, title="other")
    assert await settings_of(service, session_id) == wanted
    await change(service, session_id, parameters=None, model=None, system_prompt="")
    assert await settings_of(service, session_id) == {"system_prompt": None, "model": None, "parameters": {}}
    await service.chat(session_id, "more")
    assert sent(model) == ["hi", "You said: hi", "more"]
    back = await change(service, session_id, **ASKED)
    assert {name: back.json()[name] for name in SETTINGS} == ASKED
    assert await settings_of(service, session_id) == ASKED


async def test_a_change_that_changes_nothing_is_not_recorded(service: Running, tmp_path: Path) -> None:
    session_id = await service.session(**ASKED)
    before = event_counts(tmp_path)
    assert (await change(service, session_id, **ASKED)).status_code == 200
    assert (await change(service, session_id, parameters={"seed": None})).status_code == 200
    assert event_counts(tmp_path) == before


@pytest.mark.parametrize("without_projections", [False, True])
async def test_settings_are_remembered_over_a_restart(
    tmp_path: Path, model: ModelServer, without_projections: bool
) -> None:
    async with serving(tmp_path, model.url) as service:
        same, other = await service.session(**ASKED), await service.session(**ASKED)
        await change(service, same, title="only the title")
        await change(service, other, parameters={"temperature": 1.5})
    if without_projections:
        forget_projections(tmp_path)
    async with serving(tmp_path, model.url) as service:
        await service.services.session_queries.catch_up()
        for session_id, temperature in ((same, 0.2), (other, 1.5)):
            await service.chat(session_id, "hi")
            assert (used(model)["temperature"], sent(model)[0]) == (temperature, "Be kind.")
            assert (await settings_of(service, session_id))["parameters"]["temperature"] == temperature


async def test_a_fork_has_the_settings_of_its_origin(service: Running, model: ModelServer) -> None:
    session_id = await service.session(**ASKED)
    await change(service, session_id, parameters={"temperature": 0.9})
    fork = (await service.client.post(f"/api/sessions/{session_id}/fork")).json()
    assert {name: fork[name] for name in SETTINGS} == await settings_of(service, session_id)
    await change(service, session_id, system_prompt=None)
    await service.chat(fork["session_id"], "hi")
    assert (used(model)["temperature"], sent(model)) == (0.9, ["Be kind.", "hi"])


async def test_the_record_shows_the_settings_of_each_moment(service: Running) -> None:
    session_id = await service.session(**ASKED)
    await change(service, session_id, system_prompt=None, parameters={"temperature": None})
    path = f"/api/sessions/{session_id}/export"
    for as_of, prompt, temperature in (("1", "Be kind.", 0.2), ("2", None, None)):
        told = (await service.client.get(path, params={"as_of": as_of})).json()
        assert (told["system_prompt"], told["parameters"].get("temperature")) == (prompt, temperature)
        assert told["parameters"]["model"] == "fake-model"
    text = (await service.client.get(path, params={"format": "markdown"})).text
    assert '- parameters: {"max_new_tokens":9,"stop":["END"],"model":"fake-model"}' in text


async def test_regenerate_takes_the_turns_parameters_but_for_its_seed(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    turn = await service.chat(session_id, "hi", temperature=0.1, top_p=0.4, seed=7, max_new_tokens=5)
    await change(service, session_id, parameters={"temperature": 1.9, "stop": ["END"]})
    path = f"/api/sessions/{session_id}/regenerate"
    for named in ({}, {"message_id": turn["message_id"]}, {"message_id": turn["user_message_id"]}):
        assert (await service.client.post(path, json=named)).status_code == 200
        expected = {"model": "fake-model", "temperature": 0.1, "top_p": 0.4, "max_tokens": 5, "stop": ["END"]}
        assert used(model) == expected
    hotter = (await service.client.post(path, json={"temperature": 1.2, "stop": []})).json()
    assert used(model) == {"model": "fake-model", "temperature": 1.2, "top_p": 0.4, "max_tokens": 5}
    await service.client.post(path, json={"message_id": hotter["message_id"]})
    assert used(model)["temperature"] == 1.2
    await service.client.post(path, json={"message_id": turn["message_id"]})
    assert used(model)["temperature"] == 0.1


async def test_regenerate_in_a_fork_takes_the_parameters_of_the_origins_turn(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hi", temperature=0.1)
    fork_id = (await service.client.post(f"/api/sessions/{session_id}/fork")).json()["session_id"]
    await service.client.post(f"/api/sessions/{fork_id}/regenerate")
    assert used(model)["temperature"] == 0.1
    other = (await service.client.post(f"/api/sessions/{session_id}/fork")).json()["session_id"]
    await service.client.delete(f"/api/sessions/{session_id}")  # only the texts are copied
    assert (await service.client.post(f"/api/sessions/{other}/regenerate")).status_code == 200
    assert used(model)["temperature"] == 0.7


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"system_prompt": "x" * 8001}, "$.system_prompt"),
    ({"system_prompt": "a\0"}, "$.system_prompt"),
    ({"model": ""}, "$.model"),
    ({"parameters": {"temperature": 3}}, "$.parameters.temperature"),
    ({"parameters": {"max_new_tokens": 4097}}, "$.parameters.max_new_tokens"),
    ({"parameters": {"model": "x"}}, "$.parameters.model"),
    ({"parameters": []}, "$.parameters"),
]


@pytest.mark.parametrize(("body", "path"), FAULTS, ids=[path for _, path in FAULTS])
async def test_wrong_settings_are_refused_by_both_calls(service: Running, body: Any, path: str) -> None:
    session_id = await service.session()
    for answer in (await service.client.post("/api/sessions", json=body), await change(service, session_id, **body)):
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)


async def test_an_unknown_parameter_is_refused_with_the_names_that_parameters_have(service: Running) -> None:
    answer = await service.client.post("/api/sessions", json={"parameters": {"tokens": 1}})
    names = (
        "do_sample, extra_body, max_new_tokens, parallel_tool_calls, reasoning_effort, response_format, seed,"
        " send_reasoning, stop, temperature, top_p"
    )
    assert answer.json()["detail"].endswith(f"unknown field `tokens`; known are {names}")


async def test_a_lower_ceiling_of_tokens_holds_for_older_settings_and_turns(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id, other = await service.session(parameters={"max_new_tokens": 4000}), await service.session()
        await service.chat(other, "hi", max_new_tokens=4000)
    limits = {"CHATBOT_CHAT_MAX_TOKENS_CEILING": "100", "DEFAULT_MAX_TOKENS": "50"}
    async with serving(tmp_path, model.url, **limits) as service:
        await service.chat(session_id, "hi")
        assert used(model)["max_tokens"] == 100
        await service.client.post(f"/api/sessions/{other}/regenerate", json={})
        assert used(model)["max_tokens"] == 100
        await service.chat(other, "hi")
        assert used(model)["max_tokens"] == 50


async def test_settings_are_erased_with_the_session(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session(system_prompt="SECRET-1", parameters={"stop": ["SECRET-2"]})
        await change(service, session_id, system_prompt="SECRET-3", parameters={"stop": ["SECRET-4"]})
        assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        found = [path for path in tmp_path.iterdir() if path.is_file() and b"SECRET" in path.read_bytes()]
    assert found == []

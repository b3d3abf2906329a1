"""If-Match on every write: it takes effect at the version that the client has seen, or not at all."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.service_requests import event_counts
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

WRITES = ["change", "delete", "chat", "stream", "interrupt", "cancel", "regenerate", "branch", "fork"]
KEYS = {"CHATBOT_API_KEYS": "mina:a-long-secret-of-hers,jun:another-long-secret"}


async def write(
    client: httpx.AsyncClient, name: str, session_id: str, message_id: str, headers: dict[str, str]
) -> httpx.Response:
    path, chat = f"/api/sessions/{session_id}", {"session_id": session_id, "message": "two"}
    writes: dict[str, tuple[str, str, dict[str, Any] | None]] = {
        "change": ("PATCH", path, {"title": "new"}),
        "delete": ("DELETE", path, None),
        "chat": ("POST", "/api/chat", chat),
        "stream": ("POST", "/api/chat/stream", chat),
        "interrupt": ("POST", "/api/chat", {**chat, "on_busy": "interrupt"}),
        "cancel": ("POST", f"{path}/cancel", None),
        "regenerate": ("POST", f"{path}/regenerate", {}),
        "branch": ("POST", f"{path}/branch", {"message_id": message_id}),
        "fork": ("POST", f"{path}/fork", {}),
    }
    method, where, body = writes[name]
    return await client.request(method, where, json=body, headers=headers)


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_is_refused_when_the_session_has_moved_on_and_nothing_is_recorded(
    service: Running, model: ModelServer, tmp_path: Path, name: str
) -> None:
    session_id = await service.session()
    message_id = (await service.chat(session_id, "one"))["user_message_id"]
    before = event_counts(tmp_path)
    for version in (0, 3, 5):
        refused = await write(service.client, name, session_id, message_id, {"If-Match": f'"{version}"'})
        assert (refused.status_code, refused.json()["type"]) == (412, "/problems/version-mismatch")
    assert event_counts(tmp_path) == before
    assert len(model.requests) == 1
    fits = await write(service.client, name, session_id, message_id, {"If-Match": '"9", W/"4-gzip"'})
    assert fits.is_success, fits.text


@pytest.mark.parametrize("name", WRITES)
async def test_an_asterisk_passes_at_any_version_and_another_form_is_refused_with_its_path(
    service: Running, tmp_path: Path, name: str
) -> None:
    session_id = await service.session()
    message_id = (await service.chat(session_id, "one"))["user_message_id"]
    before = event_counts(tmp_path)
    for text in ("4", '"4', '*, "4"', '"four"', '"-1"', ""):
        refused = await write(service.client, name, session_id, message_id, {"If-Match": text})
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["path"] == "header.If-Match"
    assert event_counts(tmp_path) == before
    assert (await write(service.client, name, session_id, message_id, {"If-Match": "*"})).is_success


@pytest.mark.parametrize("name", WRITES)
async def test_a_session_that_is_not_there_or_a_strangers_answers_404_whatever_is_asked_of_it(
    tmp_path: Path, model: ModelServer, name: str
) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        mina, jun = ({"X-API-Key": one.split(":")[1]} for one in KEYS["CHATBOT_API_KEYS"].split(","))
        hers, deleted = [(await service.client.post("/api/sessions", headers=mina)).json()["session_id"] for _ in "12"]
        assert (await service.client.delete(f"/api/sessions/{deleted}", headers=mina)).status_code == 204
        for session_id, caller in ((hers, jun), (deleted, mina), ("5b4f2c1e-0000-4000-8000-000000000001", mina)):
            for condition in ({}, {"If-Match": '"7"'}, {"If-Match": "*"}):
                answer = await write(service.client, name, session_id, "no-message", {**caller, **condition})
                assert answer.status_code == 404, answer.text
                assert answer.json()["detail"] == f"Session {session_id} not found"


async def test_an_answer_has_at_least_the_version_that_is_asked_for(service: Running) -> None:
    session_id = await service.session()
    version = (await service.chat(session_id, "hi"))["version"]
    for path in ("", "/messages"):
        url = f"/api/sessions/{session_id}{path}"
        assert (await service.client.get(url, params={"at_least": version})).json()["version"] >= version
        behind = await service.client.get(url, params={"at_least": version + 1})
        assert (behind.status_code, behind.json()["detail"]) == (
            412,
            f"the session is at version {version}, not yet at {version + 1}",
        )
        odd = await service.client.get(url, params={"at_least": "-1"})
        assert (odd.status_code, odd.json()["errors"][0]["path"]) == (422, "query.at_least")

"""What a model server says of a failure may name its hosts and accounts: clients get its class and a request id."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from chatbot.audit import event_view
from events.catalogue import ReplyFailed
from events.codec import encode
from events.integrity.hash_chain import commit
from events.record import StoredRow
from tests.support.http.stream_reader import reading
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, frames, serving

KEYS = "mina:a-long-secret-of-hers,eve:a-long-secret-of-the-auditor"
MINA = {"Authorization": "Bearer a-long-secret-of-hers"}
EVE = {"Authorization": "Bearer a-long-secret-of-the-auditor"}
PRIVATE = "PRIVATE org-42 http://gpu7.internal:8000/srv/models of <what is my name?>"
FAILURES = [
    pytest.param({"status": 400, "body": {"error": {"message": PRIVATE}}}, 502, "answered 400", id="openai"),
    pytest.param({"status": 422, "body": {"detail": [{"msg": PRIVATE}]}}, 502, "answered 422", id="fastapi"),
    pytest.param({"status": 500, "body": f"Traceback: {PRIVATE}"}, 502, "answered 500", id="text"),
    pytest.param({"status": 429, "body": {"error": PRIVATE}}, 503, "answered 429", id="overloaded"),
    pytest.param({"status": 503, "body": {"error": PRIVATE}}, 503, "LLM server not available", id="unavailable"),
    pytest.param({"pieces": (), "then": "error", "error": PRIVATE}, 502, "server failed", id="stream"),
    pytest.param({"pieces": ("par", "tial"), "then": "error", "error": PRIVATE}, 502, "server failed", id="mid-stream"),
]


@pytest.fixture
async def keyed(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    settings = {"CHATBOT_API_KEYS": KEYS, "CHATBOT_AUTH_AUDITORS": "eve", "CHATBOT_LLM_RETRIES_MAX": "0"}
    async with serving(tmp_path, model.url, **settings) as running:
        yield running


async def failed_turn(service: Running, path: str) -> tuple[str, httpx.Response]:
    created = await service.client.post("/api/sessions", headers=MINA)
    session_id = str(created.json()["session_id"])
    body = {"session_id": session_id, "message": "what is my name?"}
    answer = await service.client.post(path, json=body, headers={**MINA, "X-Request-ID": "find-me"})
    return session_id, answer


async def failure_in_trail(service: Running, session_id: str, key: dict[str, str]) -> dict[str, Any]:
    answer = await service.client.get(f"/api/sessions/{session_id}/events", headers=key)
    (event,) = [one for one in answer.json()["events"] if one["type"] == "reply_failed"]
    return dict(event)


@pytest.mark.parametrize(("script", "status", "says"), FAILURES)
async def test_a_client_gets_the_class_and_an_auditor_the_text(
    keyed: Running, model: ModelServer, script: dict[str, Any], status: int, says: str
) -> None:
    model.script(times=None, **script)
    with capture_logs() as lines:
        session_id, answer = await failed_turn(keyed, "/api/chat")
    assert answer.status_code == status
    problem = answer.json()
    assert says in problem["detail"]
    if status == 502:
        assert "find-me" in problem["detail"]
    seen = [answer.text]
    for path in ("", "/messages", "/events", "/export?format=json", "/export?format=markdown"):
        got = await keyed.client.get(f"/api/sessions/{session_id}{path}", headers=MINA)
        assert got.status_code == 200
        seen.append(got.text)
    ndjson = {**MINA, "Accept": "application/x-ndjson"}
    seen.append((await keyed.client.get(f"/api/sessions/{session_id}/events", headers=ndjson)).text)
    for key in (MINA, {}):
        seen.append((await keyed.client.get("/api/health", headers=key)).text)
    assert "PRIVATE" not in json.dumps(seen)
    assert "PRIVATE" not in str(lines), "it may quote the prompt, as this one does"
    (ended,) = [line for line in lines if line["event"] == "reply.ended"]
    assert ended["request_id"] == "find-me"

    shown, whole = [await failure_in_trail(keyed, session_id, key) for key in (MINA, EVE)]
    assert PRIVATE in whole["data"]["detail"].replace("\\", "")
    assert (whole["request_id"], "withheld" in whole) == ("find-me", False)
    assert (shown["withheld"], shown["salt"], shown["digest"]) == (True, None, whole["digest"])
    assert shown["data"] == {**whole["data"], "detail": whole["data"]["detail"].partition(": ")[0]}
    log = await keyed.client.get("/api/events", headers=EVE)
    assert "PRIVATE" in log.text


@pytest.mark.parametrize(("script", "says"), [(one.values[0], one.values[2]) for one in FAILURES[2:]])
async def test_error_frames_of_a_stream_and_of_the_feed_say_no_more(
    keyed: Running, model: ModelServer, script: dict[str, Any], says: Any
) -> None:
    model.script(times=None, **script)
    session_id, answer = await failed_turn(keyed, "/api/chat/stream")
    error = frames(answer.text)[-2]
    keyed.client.headers.update(MINA)
    async with reading(keyed.client, f"/api/sessions/{session_id}/stream?after=0:0") as feed:
        again = await feed.until("error")
    for frame in (error, again):
        assert says in frame["detail"]
        assert frame["message"] == frame["detail"]
        assert "PRIVATE" not in json.dumps(frame)


def row(event: ReplyFailed) -> StoredRow:
    data, salt = encode(event).decode(), bytes(16)
    return StoredRow(7, "s", 3, "reply_failed", 1, 0, "{}", data, salt, commit(salt, data.encode()), bytes(32))


def test_a_failure_in_our_own_words_is_shown_whole_and_an_older_programs_is_cut_as_well() -> None:
    ours = row(ReplyFailed("r", "text: kept", "llm_timeout", "The model server sent nothing for 60 s"))
    assert event_view.encode_row_for_client(ours) == event_view.encode_row(ours)
    theirs = row(ReplyFailed("r", "text: kept", "llm_failed", 'The model server answered 500: "a: b" at /srv'))
    shown = json.loads(event_view.encode_row_for_client(theirs))
    assert (shown["data"]["detail"], shown["data"]["content"]) == ("The model server answered 500", "text: kept")
    assert shown["withheld"]

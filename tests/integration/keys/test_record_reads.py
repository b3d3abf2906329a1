"""auth.record_reads: who read which session is in its stream, and without a record nothing is read."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.api.access.view_records import VIEWED_ROUTES
from chatbot.api.openapi.document import build_openapi_document
from chatbot.config.settings import Settings
from tests.support.log.log_files import fill, small_disk
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

MINA, JUN, EVA = "a-secret-of-minas-own", "a-secret-of-juns-own", "a-secret-of-evas-own"
SETTINGS = {
    "CHATBOT_AUTH_RECORD_READS": "true",
    "CHATBOT_API_KEYS": f"mina:{MINA},jun:{JUN},eva:{EVA}",
    "CHATBOT_AUTH_AUDITORS": "eva",
}
DISK_KIB, SESSIONS = 6 * 1024, 30
READS = ("", "/messages", "/export", "/events")


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, **SETTINGS) as running:
        running.client.headers["X-API-Key"] = MINA
        yield running


async def views(service: Running, session_id: str) -> list[tuple[str | None, Any]]:
    """Who has read what of the session, by its events in the log."""
    events = await service.services.log.read(session_id, limit=100)
    return [
        (one.metadata.actor, one.event and getattr(one.event, "what", None))
        for one in events
        if one.type == "session_viewed"
    ]


async def read(service: Running, path: str, secret: str = MINA) -> httpx.Response:
    return await service.client.get(path, headers={"X-API-Key": secret})


async def test_each_kind_of_read_is_recorded_once(service: Running) -> None:
    session_id = await service.session()
    for _ in range(2):
        for path in READS:
            assert (await read(service, f"/api/sessions/{session_id}{path}")).status_code == 200
    assert await views(service, session_id) == [
        ("mina", "session"), ("mina", "history"), ("mina", "export"), ("mina", "events"),
    ]  # fmt: skip
    async with service.client.stream("GET", f"/api/sessions/{session_id}/stream") as answer:
        assert answer.status_code == 200
    assert (await views(service, session_id))[-1] == ("mina", "feed")
    trail = (await read(service, f"/api/sessions/{session_id}/events")).json()
    assert [one["type"] for one in trail["events"]].count("session_viewed") == 5


async def test_the_answer_has_the_version_after_its_record(service: Running) -> None:
    session_id = await service.session()
    shown = (await read(service, f"/api/sessions/{session_id}")).json()["version"]
    events = await service.services.log.read(session_id, limit=100)
    assert (events[-1].type, events[-1].version) == ("session_viewed", shown)


async def test_simultaneous_reads_share_a_record(service: Running) -> None:
    session_id = await service.session()
    path = f"/api/sessions/{session_id}/messages"
    answers = await asyncio.gather(*(read(service, path) for _ in range(8)))
    assert {one.status_code for one in answers} == {200}
    assert await views(service, session_id) == [("mina", "history")]


async def test_an_auditor_is_recorded_and_a_stranger_reads_nothing(service: Running) -> None:
    session_id = await service.session()
    assert (await read(service, f"/api/sessions/{session_id}/events", EVA)).status_code == 200
    assert (await read(service, f"/api/sessions/{session_id}/messages", EVA)).status_code == 404
    assert (await read(service, f"/api/sessions/{session_id}/export", EVA)).status_code == 200
    for path in READS:
        assert (await read(service, f"/api/sessions/{session_id}{path}", JUN)).status_code == 404
    assert await views(service, session_id) == [("eva", "events"), ("eva", "export")]


async def test_a_view_is_no_access_and_changes_nothing_of_the_session(service: Running) -> None:
    session_id = await service.session(title="T")
    before = (await read(service, f"/api/sessions/{session_id}")).json()
    await read(service, f"/api/sessions/{session_id}/messages")
    after = (await read(service, f"/api/sessions/{session_id}")).json()
    assert after.pop("version") == before.pop("version") + 1
    assert after == before


async def test_views_are_erased_with_the_session(service: Running) -> None:
    session_id = await service.session()
    await read(service, f"/api/sessions/{session_id}/messages")
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    assert await views(service, session_id) == [("mina", None)]
    assert (await read(service, f"/api/sessions/{session_id}/events")).status_code == 200
    assert await views(service, session_id) == [("mina", None)], "there is nothing left to read"


async def test_what_cannot_be_recorded_is_not_read(tmp_path: Path, model: ModelServer) -> None:
    with small_disk(tmp_path / "disk", DISK_KIB) as disk:
        elsewhere = {"CHATBOT_DATABASE_PROJECTIONS_PATH": str(tmp_path / "projections.db")}
        async with serving(disk, model.url, **SETTINGS, **elsewhere) as service:
            service.client.headers["X-API-Key"] = MINA
            sessions = [await service.session(title="private", metadata={"x": "x" * 2000}) for _ in range(SESSIONS)]
            fill(disk)
            answers = [await read(service, f"/api/sessions/{one}/messages") for one in sessions]
            refused = [one for one in answers if one.status_code == 503]
            assert refused
            assert {one.json()["type"] for one in refused} == {"/problems/log-unavailable"}
            unread = next(one for one, answer in zip(sessions, answers, strict=True) if answer.status_code == 503)
            event_source = {"Accept": "text/event-stream"}  # it would not come back after a 503
            feed = await service.client.get(f"/api/sessions/{unread}/stream", headers=event_source)
            assert (feed.status_code, feed.text.partition(":")[0]) == (200, "retry")
            recorded = [bool(await views(service, one)) for one in sessions]
            assert recorded == [one.status_code == 200 for one in answers]
            (disk / "ballast").unlink()
            assert (await read(service, f"/api/sessions/{sessions[-1]}/messages")).status_code == 200


async def test_it_is_off_by_default(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        await service.client.get(f"/api/sessions/{session_id}/messages")
        assert await views(service, session_id) == []


def test_each_route_that_reads_a_session_is_recorded() -> None:
    paths = build_openapi_document(Settings(), "0")["paths"]
    ids = ("{session_id}", "{conversation_id}", "{response_id}")
    reads = {path for path, methods in paths.items() if "get" in methods and any(one in path for one in ids)}
    without_content = {"/api/sessions/{session_id}/receipt"}  # of an erasure: what is left is in the envelopes
    assert reads == set(VIEWED_ROUTES) - {"/api/media/{sha256}"} | without_content


async def test_conversations_and_responses_are_recorded_as_their_sessions(service: Running) -> None:
    session_id = await service.session()
    conversation = f"conv_{session_id.replace('-', '')}"
    asked = {"model": "fake-model", "input": "Hi", "conversation": conversation}
    response = (await service.client.post("/v1/responses", json=asked)).json()
    assert await views(service, session_id) == []
    for path, what in (("", "session"), ("/items", "history")):
        assert (await read(service, f"/v1/conversations/{conversation}{path}")).status_code == 200
        assert (await views(service, session_id))[-1] == ("mina", what)
    for path, secret in ((f"/v1/responses/{response['id']}", EVA), (f"/v1/conversations/{conversation}", JUN)):
        assert (await read(service, path, secret)).status_code == 404
    assert len(await views(service, session_id)) == 2, "a stranger has read nothing"


@pytest.mark.parametrize("path", ["items/{item}", "", "?stream=true", "/input_items"])
async def test_each_read_of_a_response_is_one_of_the_history(service: Running, path: str) -> None:
    answer = await service.client.post("/v1/responses", json={"model": "fake-model", "input": "Hi"})
    response = answer.json()
    session_id = str(uuid.UUID(response["id"][len("resp_") :][:32]))
    if path.startswith("items"):
        path = f"/v1/conversations/{session_id}/{path.format(item=response['output'][0]['id'])}"
    else:
        path = f"/v1/responses/{response['id']}{path}"
    assert (await read(service, path)).status_code == 200
    assert await views(service, session_id) == [("mina", "history")]


async def test_an_id_in_another_form_is_unknown(service: Running) -> None:
    session_id = await service.session()
    digits = session_id.replace("-", "")
    others = (
        f"CONV_{digits}",
        f"conv_{digits.upper()}",
        f"conv_{session_id}",
        f"conv_-{digits}",
        digits,
        f"resp_{digits}",
    )
    for one in others:
        assert (await read(service, f"/v1/conversations/{one}/items")).status_code == 404, one
    assert await views(service, session_id) == []
    assert (await read(service, f"/v1/conversations/{session_id}")).status_code == 200
    assert await views(service, session_id) == [("mina", "session")]


@pytest.mark.parametrize(
    ("call", "body", "what"),
    [
        ("responses/{response}/cancel", None, "history"),
        ("conversations/{conversation}", {"metadata": {}}, "session"),
        ("responses/input_tokens", {"previous_response_id": "{response}"}, "history"),
        ("responses/input_tokens", {"conversation": "{conversation}"}, "history"),
        (
            "responses",
            {"model": "fake-model", "input": "x", "previous_response_id": "{response}", "store": False},
            "history",
        ),
    ],
)
async def test_a_post_that_answers_what_is_recorded_is_a_read(
    service: Running, call: str, body: dict[str, Any] | None, what: str
) -> None:
    response = (await service.client.post("/v1/responses", json={"model": "fake-model", "input": "Hi"})).json()
    digits = response["id"][len("resp_") :][:32]
    ids = {"{response}": response["id"], "{conversation}": f"conv_{digits}"}
    named = {name: ids.get(str(value), value) for name, value in (body or {}).items()}
    path = call.format(response=response["id"], conversation=f"conv_{digits}")
    answer = await service.client.post(f"/v1/{path}", json=named if body is not None else None)
    assert answer.status_code == 200, answer.text
    assert await views(service, str(uuid.UUID(digits))) == [("mina", what)]


async def test_a_report_is_a_read_of_each_of_its_sessions(service: Running) -> None:
    named, other = [await service.session() for _ in range(3)], await service.session()
    path = f"/api/audit/report?format=ndjson&session_id={','.join(named)}"
    assert (await read(service, path)).status_code == 403
    answer = await read(service, path, EVA)
    assert answer.status_code == 200
    assert [await views(service, one) for one in (*named, other)] == [[("eva", "report")]] * 3 + [[]]


async def test_a_file_read_through_a_session_is_recorded(service: Running) -> None:
    session_id = await service.session()
    png = b"\x89PNG\r\n\x1a\n" + bytes(16) + uuid.uuid4().bytes
    uploaded = await service.client.post("/api/media", content=png, headers={"Content-Type": "image/png"})
    sha256 = uploaded.json()["sha256"]
    await read(service, f"/api/media/{sha256}?session_id={session_id}")
    assert await views(service, session_id) == [("mina", "media")]
    await read(service, f"/api/media/{sha256}")
    assert await views(service, session_id) == [("mina", "media")]

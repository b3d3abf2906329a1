"""Filters of event histories over real sockets."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.api import request_limits
from chatbot.api.routes import event_history_routes
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

NDJSON = {"Accept": "application/x-ndjson"}
SSE = {"Accept": "text/event-stream"}
KEYS = "mina:key-of-mina-0123456789,jun:key-of-jun-0123456789,eve:key-of-eve-0123456789"


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-of-{name}-0123456789"}


async def follow(client: httpx.AsyncClient, headers: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    """All events that a filter lets through, page by page."""
    found: list[dict[str, Any]] = []
    after, more = 0, True
    while more:
        answer = await client.get("/api/events", params={**query, "after": after}, headers={**headers, **NDJSON})
        assert answer.status_code == 200, answer.text
        *lines, end = [json.loads(line) for line in answer.text.splitlines()]
        assert end.keys() == {"next", "more"}
        found += lines
        after, more = end["next"], end["more"]
    return found


async def test_an_auditor_finds_events_by_key_request_type_time_owner_and_metadata(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_history_routes, "SCANNED_MAX", 3)  # so that pages without events come, too
    settings = {"CHATBOT_API_KEYS": KEYS, "CHATBOT_AUTH_AUDITORS": "eve"}
    async with serving(tmp_path, model.url, **settings) as service:
        client = service.client
        ids: dict[str, str] = {}
        for name, user in (("mina", "42"), ("jun", "43")):
            body = {"metadata": {"user_id": user}}
            ids[name] = (await client.post("/api/sessions", json=body, headers=key(name))).json()["session_id"]
            asked = {"session_id": ids[name], "message": "hi"}
            await client.post("/api/chat", json=asked, headers=key(name) | {"X-Request-ID": f"of-{name}"})
        await client.patch(f"/api/sessions/{ids['mina']}", json={"metadata": {"user_id": "44"}}, headers=key("mina"))
        every = [
            json.loads(line)
            for line in (await client.get("/api/events", headers=key("eve") | NDJSON)).text.splitlines()
        ]
        expected: dict[tuple[tuple[str, str], ...], Any] = {
            (("key", "mina"),): lambda one: one["actor"] == "mina",
            (("request_id", "of-jun"),): lambda one: one["request_id"] == "of-jun",
            (("type", "message_posted,reply_completed"),): lambda one: (
                one["type"] in ("message_posted", "reply_completed")
            ),
            (("since", every[4]["recorded_at"]),): lambda one: one["recorded_at"] >= every[4]["recorded_at"],
            (("until", every[4]["recorded_at"]),): lambda one: one["recorded_at"] <= every[4]["recorded_at"],
            (("since", "2020-01-01"), ("until", "2020-01-31")): lambda one: False,
            (("owner", "jun"),): lambda one: one["session_id"] == ids["jun"],
            (("metadata.user_id", "43"),): lambda one: one["session_id"] == ids["jun"],
            (("metadata.user_id", "42"),): lambda one: False,
            (("metadata.user_id", "42"), ("ever", "true")): lambda one: one["session_id"] == ids["mina"],
            (("owner", "mina"), ("type", "session_created")): lambda one: (
                one["session_id"] == ids["mina"] and one["type"] == "session_created"
            ),
        }
        for query, is_wanted in expected.items():
            found = await follow(client, key("eve"), **dict(query))
            assert found == [one for one in every if is_wanted(one)], query
        assert (await client.get("/api/events?key=mina", headers=key("mina"))).status_code == 403


async def test_a_trail_is_filtered_and_says_where_to_go_on_even_without_events(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_history_routes, "SCANNED_MAX", 2)
    session_id = await service.session()
    for n in range(3):
        await service.chat(session_id, f"hi {n}")
    every = (await service.client.get(f"/api/sessions/{session_id}/events")).json()["events"]
    found, after = [], 0
    while True:
        query: dict[str, Any] = {"type": "reply_completed", "after": after, "limit": 2}
        page = (await service.client.get(f"/api/sessions/{session_id}/events", params=query)).json()
        found += page["events"]
        if "next" not in page:
            break
        after = page["next"]
    assert found == [one for one in every if one["type"] == "reply_completed"]
    lines = (
        await service.client.get(
            f"/api/sessions/{session_id}/events", params={"type": "session_created"}, headers=NDJSON
        )
    ).text.splitlines()
    assert [json.loads(line).get("type") for line in lines] == ["session_created", None]
    assert json.loads(lines[-1]) == {"next": 2, "more": True}


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("type=mesage_posted", "query.type"),
        ("since=yesterday", "query.since"),
        ("since=2026-01-31T09:30:00", "query.since"),
        ("since=2026-02-01&until=2026-01-31", "query.until"),
        ("ever=true", "query.ever"),
        ("key=", "query.key"),
        ("metadata.=x&unknown=1", "query.unknown"),
        ("&".join(f"metadata.k{n}=1" for n in range(request_limits.FILTERS_MAX + 1)), "query"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused_with_its_name(service: Running, query: str, path: str) -> None:
    answer = await service.client.get(f"/api/events?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == path


async def test_a_stream_of_the_log_has_only_matching_events_and_moves_its_id_past_the_others(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hi")
    head = service.services.log.head().position
    async with service.client.stream("GET", "/api/events?type=message_posted&after=1", headers=SSE) as answer:
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            if f"id: {head}\n\n" in text:
                break
    assert text.count("data: ") == 1, "one event"
    refused = await service.client.get("/api/events?owner=mina", headers=SSE)
    assert refused.status_code == 422

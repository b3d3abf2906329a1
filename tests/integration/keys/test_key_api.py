"""Keys over HTTP: made, rotated and revoked while the service runs, each with its scopes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.http.feed_reader import FeedReader
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

ROOT = {"X-API-Key": "the-secret-of-root"}
SETTINGS = {"CHATBOT_API_KEYS": "root:the-secret-of-root", "CHATBOT_AUTH_ADMINS": "root"}
SESSIONS, KEYS, CHANGES = "/api/sessions", "/api/keys", "/api/sessions/changes"


@pytest.fixture
async def locked(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, **SETTINGS) as running:
        yield running


async def add(service: Running, name: str, *scopes: str, **body: Any) -> str:
    """The secret of a new key."""
    answer = await service.client.post(KEYS, json={"name": name, "scopes": scopes or ["chat"], **body}, headers=ROOT)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return str(answer.json()["secret"])


async def rotate(service: Running, name: str, **body: Any) -> str:
    answer = await service.client.post(f"{KEYS}/{name}/rotate", json=body, headers=ROOT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["secret"])


async def status(service: Running, secret: str, path: str = SESSIONS) -> int:
    return (await service.client.get(path, headers={"Authorization": f"Bearer {secret}"})).status_code


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition("/")[2]


async def test_a_key_is_valid_at_once_and_owns_what_is_made_with_it(locked: Running) -> None:
    secret = await add(locked, "app")
    assert secret.startswith("cb_")
    assert len(secret) == 46
    headers = {"X-API-Key": secret}
    session_id = (await locked.client.post(SESSIONS, headers=headers)).json()["session_id"]
    assert [one["session_id"] for one in (await locked.client.get(SESSIONS, headers=headers)).json()["sessions"]] == [
        session_id
    ]
    assert (await locked.client.get(f"{SESSIONS}/{session_id}", headers=ROOT)).status_code == 404
    new = await rotate(locked, "app")
    assert (await locked.client.get(f"{SESSIONS}/{session_id}", headers={"X-API-Key": new})).status_code == 200


async def test_a_rotated_secret_lasts_as_long_as_was_said(locked: Running) -> None:
    first = await add(locked, "app")
    second = await rotate(locked, "app", overlap_seconds=3600)
    third = await rotate(locked, "app")
    assert [await status(locked, one) for one in (first, second, third)] == [200, 200, 200]
    (app,) = [one for one in (await locked.client.get(KEYS, headers=ROOT)).json()["keys"] if one["name"] == "app"]
    assert [one["prefix"] for one in app["earlier"]] == [first[:9], second[:9]]
    assert app["earlier"][0]["valid_until"] < app["earlier"][1]["valid_until"]
    fourth = await rotate(locked, "app", overlap_seconds=0)
    assert [await status(locked, one) for one in (first, second, third, fourth)] == [401, 401, 401, 200]


async def test_a_revoked_key_opens_nothing_and_its_name_stays_its_own(locked: Running) -> None:
    secret = await add(locked, "app")
    session_id = (await locked.client.post(SESSIONS, headers={"X-API-Key": secret})).json()["session_id"]
    assert (await locked.client.delete(f"{KEYS}/app", headers=ROOT)).status_code == 204
    assert await status(locked, secret) == 401
    again = await locked.client.delete(f"{KEYS}/app", headers=ROOT)
    assert kind(again) == (409, "key-revoked")
    taken = await locked.client.post(KEYS, json={"name": "app", "scopes": ["audit"]}, headers=ROOT)
    assert kind(taken) == (409, "key-exists")
    back = await rotate(locked, "app")
    assert await status(locked, secret) == 401
    assert await status(locked, back, f"{SESSIONS}/{session_id}") == 200


async def test_a_key_expires(locked: Running) -> None:
    secret = await add(locked, "guest", expires_at="2999-12-31")
    (guest,) = [one for one in (await locked.client.get(KEYS, headers=ROOT)).json()["keys"] if one["name"] == "guest"]
    assert guest["expires_at"] == "2999-12-31T23:59:59.999999Z"
    soon = "2001-01-01T00:00:00Z"
    past = await locked.client.post(KEYS, json={"name": "late", "scopes": ["chat"], "expires_at": soon}, headers=ROOT)
    assert kind(past) == (422, "invalid")
    assert past.json()["errors"][0]["path"] == "$.expires_at"
    epoch = await locked.client.post(f"{KEYS}/guest/rotate", json={"expires_at": "1970-01-01T00:00:00Z"}, headers=ROOT)
    assert epoch.json()["errors"][0]["path"] == "$.expires_at"
    key = locked.services.keys
    key._clock = lambda: 32_503_680_000_000_000  # the year 3000
    assert await status(locked, secret) == 401
    refused = await locked.client.post(f"{KEYS}/guest/rotate", headers=ROOT)
    assert "has expired" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"name": "App", "scopes": ["chat"]}, "$.name"),
        ({"name": "app", "scopes": []}, "$.scopes"),
        ({"name": "app", "scopes": ["root"]}, "$.scopes"),
        ({"name": "app", "scopes": ["chat"], "expires_at": "soon"}, "$.expires_at"),
        ({"name": "app", "scopes": ["chat"], "expires_at": "9999-12-31T23:59:59-23:00"}, "$.expires_at"),
        ({"name": "app", "scopes": ["chat"], "secret": "my own"}, None),
    ],
)
async def test_a_wrong_request_is_refused_where_it_is_wrong(locked: Running, body: Any, path: str | None) -> None:
    answer = await locked.client.post(KEYS, json=body, headers=ROOT)
    assert kind(answer) == (422, "invalid")
    if path is not None:
        assert answer.json()["errors"][0]["path"] == path


async def test_a_configured_key_is_the_settings_own(locked: Running) -> None:
    body = {"name": "root", "scopes": ["chat"]}
    assert kind(await locked.client.post(KEYS, json=body, headers=ROOT)) == (409, "key-configured")
    assert kind(await locked.client.post(f"{KEYS}/root/rotate", headers=ROOT)) == (409, "key-configured")
    assert kind(await locked.client.delete(f"{KEYS}/root", headers=ROOT)) == (409, "key-configured")
    assert kind(await locked.client.delete(f"{KEYS}/nobody", headers=ROOT)) == (404, "key-not-found")
    listed = (await locked.client.get(KEYS, headers=ROOT)).json()["keys"]
    assert [(one["name"], one["source"], one["scopes"]) for one in listed] == [
        ("root", "settings", ["admin", "chat", "metrics"])
    ]


async def test_a_name_that_is_configured_later_is_the_settings_own(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **SETTINGS) as service:
        secret = await add(service, "app", "chat", "audit")
    both = {**SETTINGS, "CHATBOT_API_KEYS": "root:the-secret-of-root,app:a-configured-secret"}
    async with serving(tmp_path, model.url, **both) as service:
        assert await status(service, secret) == 401
        assert await status(service, "a-configured-secret") == 200
        assert await status(service, "a-configured-secret", "/api/audit/head") == 403
        listed = (await service.client.get(KEYS, headers=ROOT)).json()["keys"]
        assert [one["status"] for one in listed if one["name"] == "app"] == ["valid", "overridden"]


PATHS = {
    "chat": SESSIONS,
    "metrics": "/metrics",
    "audit": "/api/audit/head",
    "admin": KEYS,
}


@pytest.mark.parametrize("scope", ["chat", "metrics", "audit", "erase", "hold", "admin"])
async def test_a_key_may_do_what_its_scope_says_and_nothing_else(locked: Running, scope: str) -> None:
    secret = await add(locked, "one", scope)
    for needed, path in PATHS.items():
        may = needed == scope or (path, scope) == (KEYS, "audit")  # who can do what is an auditor's question
        assert await status(locked, secret, path) == (200 if may else 403), (needed, path)
    for path in ("/api/health", "/livez", "/openapi.json"):
        assert await status(locked, secret, path) == 200
    assert await status(locked, secret, "/nothing") == 404
    refused = await locked.client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})
    assert refused.status_code == (200 if scope == "chat" else 403)
    if scope != "chat":
        assert f"scope chat; this key has {scope}" in refused.json()["error"]["message"]


async def test_the_scope_erase_deletes_sessions_of_any_owner_and_reads_none(locked: Running) -> None:
    officer = {"X-API-Key": await add(locked, "officer", "erase")}
    app = {"X-API-Key": await add(locked, "app")}
    session_id = (await locked.client.post(SESSIONS, headers=app)).json()["session_id"]
    path = f"{SESSIONS}/{session_id}"
    for read in (path, f"{path}/messages", f"{path}/events", f"{path}/export", "/api/events"):
        assert (await locked.client.get(read, headers=officer)).status_code == 403
    assert (await locked.client.delete(path, headers=ROOT)).status_code == 404
    assert (await locked.client.delete(path, headers=officer)).status_code == 204
    assert (await locked.client.get(path, headers=app)).status_code == 404


async def test_a_recorded_key_may_be_an_auditor_a_front_end_and_an_admin_by_settings(
    tmp_path: Path, model: ModelServer
) -> None:
    named = {**SETTINGS, "CHATBOT_AUTH_AUDITORS": "eve", "CHATBOT_AUTH_ADMINS": "root,eve"}
    async with serving(tmp_path, model.url, **named) as service:
        secret = await add(service, "eve")
        assert [await status(service, secret, path) for path in PATHS.values()] == [200, 403, 200, 200]


async def test_a_stream_ends_with_its_key(locked: Running) -> None:
    secret = await add(locked, "app")
    headers = {"X-API-Key": secret}
    async with locked.client.stream("GET", CHANGES, headers=headers) as answer:
        reader = FeedReader(answer)
        assert (await reader.next())["type"] == "ready"
        await rotate(locked, "app")  # the earlier secret is still valid, and so is its stream
        session_id = (await locked.client.post(SESSIONS, headers=headers)).json()["session_id"]
        assert (await reader.next())["session"]["session_id"] == session_id
        await locked.client.delete(f"{KEYS}/app", headers=ROOT)
        with pytest.raises(httpx.RemoteProtocolError):
            async with asyncio.timeout(10):
                await reader.next()
    assert await status(locked, secret, CHANGES) == 401
    async with locked.client.stream("GET", CHANGES, headers=ROOT) as answer:  # others' streams go on
        assert (await FeedReader(answer).next())["type"] == "ready"


async def test_a_ticket_lasts_no_longer_than_the_secret_it_was_made_with(locked: Running) -> None:
    first = await add(locked, "app")
    ticket = (await locked.client.post("/api/tickets", headers={"X-API-Key": first})).json()["ticket"]

    async def opens() -> int:
        async with locked.client.stream("GET", CHANGES, params={"ticket": ticket}) as answer:
            return answer.status_code

    assert await opens() == 200
    second = await rotate(locked, "app", overlap_seconds=3600)
    assert await opens() == 200
    await rotate(locked, "app", overlap_seconds=0)
    assert await opens() == 401
    assert await status(locked, second) == 401


async def test_an_open_service_lets_nobody_make_the_first_key(service: Running) -> None:
    answer = await service.client.post(KEYS, json={"name": "mine", "scopes": ["admin"]})
    assert kind(answer) == (403, "first-key")
    assert "chatbot key add" in answer.json()["detail"]
    assert (await service.client.get(KEYS)).json() == {"keys": []}
    assert (await service.client.post(SESSIONS)).status_code == 201


async def test_a_secret_is_nowhere_but_in_the_answer(locked: Running, tmp_path: Path) -> None:
    with capture_logs() as logged:
        secret = await add(locked, "app")
    events = await locked.client.get("/api/events", headers={"X-API-Key": await add(locked, "eve", "audit")})
    recorded = [json.loads(line) for line in events.text.splitlines()]
    assert [one["type"] for one in recorded] == ["key_added", "key_added"]
    assert recorded[0]["session_id"] == "keys"
    assert recorded[0]["data"]["secret_sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    listed = await locked.client.get(KEYS, headers=ROOT)
    metrics = await locked.client.get("/metrics", headers=ROOT)
    assert logged == [{"event": "key.added", "log_level": "info", "name": "app", "prefix": secret[:9], "by": "root"}]
    shown = str(logged) + events.text + listed.text + metrics.text
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert secret not in shown
    assert secret[9:] not in shown
    assert secret.encode() not in files
    assert secret[9:].encode() not in files

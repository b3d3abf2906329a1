"""Tickets over real sockets: they open feeds and files for a while, and nothing else."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatbot.api.access.tickets import Ticket, sign_ticket, verify_ticket
from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.keys.key_registry import KeyRegistry
from chatbot.keys.secrets import hash_secret, ticket_key
from events.factory import now_us
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.http.feed_reader import FeedReader
from tests.support.log.sample_events import IMAGE_BYTES
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SECRETS = {"mina": "a-long-secret-of-hers", "jun": "another-long-secret"}
HASHES = {name: hash_secret(secret) for name, secret in SECRETS.items()}


def keys_of(bucket: int) -> dict[bytes, bytes]:
    """Those of the secrets here are in the bucket of configured keys."""
    return {} if bucket else {one: ticket_key(one) for one in HASHES.values()}


KEYS = ",".join(f"{name}:{secret}" for name, secret in SECRETS.items())
MINA, JUN = ({"X-API-Key": secret} for secret in SECRETS.values())
SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
CHANGES = "/api/sessions/changes"


@pytest.fixture
async def locked(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as running:
        yield running


async def ticket(service: Running, headers: dict[str, str] = MINA, **body: Any) -> str:
    answer = await service.client.post("/api/tickets", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


async def session_of(service: Running, headers: dict[str, str] = MINA) -> str:
    return str((await service.client.post("/api/sessions", headers=headers)).json()["session_id"])


async def status_of(service: Running, path: str, **query: str) -> tuple[int, str]:
    """The status, and the type of the problem if it is one. A stream is left at once."""
    async with service.client.stream("GET", path, params=query) as answer:
        if answer.status_code == 200:
            return 200, ""
        await answer.aread()
        return answer.status_code, answer.json()["type"].rpartition("/")[2]


@pytest.mark.parametrize("session_id", [None, SESSION, "00000000-0000-0000-0000-000000000000"])
def test_a_ticket_says_whose_it_is_and_for_what(session_id: str | None) -> None:
    signed = Ticket(HASHES["jun"], session_id, 1_800_000_000_000_000)
    text = sign_ticket(signed, 0)
    assert verify_ticket(text, keys_of) == signed
    assert len(text) == 76
    assert "jun" not in base64.urlsafe_b64decode(text).decode("latin-1")


async def test_a_ticket_ends_with_its_key(tmp_path: Path) -> None:
    text, other = sign_ticket(Ticket(HASHES["mina"], None, 1), 0), hash_secret("a-new-secret-of-hers")
    assert verify_ticket(text, lambda _: {HASHES["jun"]: ticket_key(HASHES["jun"])}) is None
    assert verify_ticket(text, lambda _: {other: ticket_key(other)}) is None
    log = await SqliteLog.open(tmp_path / "log.db")
    renamed = KeyRegistry(AuthSettings(keys={"mina2": SECRETS["mina"]}), log, now_us)
    await log.close()
    found = verify_ticket(text, renamed.ticket_keys)
    assert found is not None
    principal = renamed.find_by_hash(found.secret_sha256)  # the secret is the key, the name only its label
    assert principal is not None
    assert principal.name == "mina2"


def test_no_changed_bit_goes_unnoticed() -> None:
    raw = base64.urlsafe_b64decode(sign_ticket(Ticket(HASHES["mina"], SESSION, 1_800_000_000_000_000), 0))
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert verify_ticket(base64.urlsafe_b64encode(changed).decode(), keys_of) is None


@pytest.mark.parametrize("text", ["", "=", "x", "é" * 76, "A" * 76, "A" * 128, "A" * 100_000, " " * 76])
def test_what_is_no_ticket_is_none(text: str) -> None:
    assert verify_ticket(text, keys_of) is None


async def test_a_ticket_opens_feeds_and_files_of_its_key(locked: Running) -> None:
    session_id = await session_of(locked)
    uploaded = await locked.client.post("/api/media", content=IMAGE_BYTES, headers=MINA)
    assert uploaded.status_code == 201
    text, paths = await ticket(locked), [CHANGES, f"/api/sessions/{session_id}/stream", uploaded.headers["Location"]]
    for path in paths:
        assert await status_of(locked, path, ticket=text) == (200, "")
        assert await status_of(locked, path) == (401, "unauthorized")
    assert (await locked.client.head(paths[2], params={"ticket": text})).status_code == 200
    async with locked.client.stream("GET", CHANGES, params={"ticket": text, "after": "0"}) as answer:
        feed = FeedReader(answer)
        assert [(await feed.next())["type"] for _ in range(2)] == ["ready", "session"]
    others = await ticket(locked, JUN)
    assert await status_of(locked, paths[1], ticket=others) == (404, "session-not-found")
    assert await status_of(locked, paths[2], ticket=others) == (404, "no-such-file")


async def test_a_ticket_of_a_session_opens_nothing_else(locked: Running) -> None:
    session_id, other = await session_of(locked), await session_of(locked)
    file = (await locked.client.post("/api/media", content=IMAGE_BYTES, headers=MINA)).headers["Location"]
    text = await ticket(locked, session_id=session_id.upper())
    assert await status_of(locked, f"/api/sessions/{session_id}/stream", ticket=text) == (200, "")
    assert await status_of(locked, file, ticket=text, session_id=session_id) == (200, "")
    for path, query in (
        (f"/api/sessions/{other}/stream", {}),
        (CHANGES, {}),
        (file, {}),
        (file, {"session_id": other}),
    ):
        assert await status_of(locked, path, ticket=text, **query) == (403, "ticket-scope")


async def test_a_ticket_opens_no_other_path_and_writes_nothing(locked: Running) -> None:
    session_id, text = await session_of(locked), await ticket(locked)
    for method, path in (
        ("GET", "/api/sessions"),
        ("GET", f"/api/sessions/{session_id}"),
        ("GET", f"/api/sessions/{session_id}/messages"),
        ("GET", "/api/usage"),
        ("GET", "/metrics"),
        ("POST", "/api/tickets"),
        ("POST", "/api/media"),
        ("DELETE", f"/api/sessions/{session_id}"),
        ("PATCH", CHANGES),
    ):
        answer = await locked.client.request(method, path, params={"ticket": text})
        assert answer.status_code == 401, (method, path)
    assert (await locked.client.get("/api/sessions", params={"ticket": text}, headers=MINA)).status_code == 422


async def test_a_header_counts_and_not_the_ticket_beside_it(locked: Running) -> None:
    session_id, text = await session_of(locked), await ticket(locked)
    path = f"/api/sessions/{session_id}/stream"
    assert (await locked.client.get(path, params={"ticket": text}, headers=JUN)).status_code == 404
    wrong = await locked.client.get(path, params={"ticket": text}, headers={"X-API-Key": "wrong-secret-wrong"})
    assert wrong.status_code == 401


async def test_an_expired_ticket_is_refused_in_words(locked: Running, capsys: pytest.CaptureFixture[str]) -> None:
    session_id = await session_of(locked)
    path = f"/api/sessions/{session_id}/stream"
    expired = sign_ticket(Ticket(HASHES["mina"], None, locked.services.clock() - 1), 0)
    answer = await locked.client.get(path, params={"ticket": expired}, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    problem = answer.json()
    assert problem["type"].endswith("/problems/ticket-expired")
    assert "/api/tickets" in problem["detail"]
    forged = await locked.client.get(path, params={"ticket": expired[:-1] + ("A" if expired[-1] != "A" else "B")})
    assert forged.json()["type"].endswith("/problems/unauthorized")
    metrics = (await locked.client.get("/metrics", headers=MINA)).text
    for seen in (answer.text, forged.text, metrics, "".join(capsys.readouterr())):
        assert expired[:20] not in seen


async def test_a_ticket_lives_as_long_as_the_setting_says(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_API_KEYS": KEYS, "CHATBOT_AUTH_TICKET_SECONDS": "7"}
    async with serving(tmp_path, model.url, **settings) as service:
        before = service.services.clock()
        found = verify_ticket(await ticket(service), keys_of)
        assert found is not None
        assert before + 7_000_000 <= found.expires_at_us <= service.services.clock() + 7_000_000


async def test_without_keys_no_ticket_is_needed(service: Running) -> None:
    answer = await service.client.post("/api/tickets")
    assert answer.json() == {"ticket": None, "expires_at": None}
    assert "securitySchemes" not in (await service.client.get("/openapi.json")).json()["components"]
    assert await status_of(service, CHANGES, ticket="") == (200, "")  # a page need not know


async def test_wrong_requests_for_tickets_are_refused(locked: Running) -> None:
    for body in ({"session_id": "x"}, {"session_id": 1}, {"seconds": 9}):
        assert (await locked.client.post("/api/tickets", json=body, headers=MINA)).status_code == 422
    assert (await locked.client.post("/api/tickets")).status_code == 401


async def test_the_document_names_tickets_where_they_count(locked: Running) -> None:
    document = (await locked.client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["ticket"]["in"] == "query"
    takes = {
        path
        for path, operations in document["paths"].items()
        if {"ticket": ["chat"]} in operations.get("get", {}).get("security", [])
    }
    assert takes == {CHANGES, "/api/sessions/{session_id}/stream", "/api/media/{sha256}"}

"""Streams that are no sessions are in no list and no owner's export, and no erasure and no expiry touches them."""

import json
from pathlib import Path

import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.settings import Settings
from events.catalogue import RESERVED_STREAMS
from events.factory import open_log
from events.integrity.chain_verifier import verify
from events.record import Metadata
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.event_builders import created, turns
from tests.support.log.sample_events import RESERVED_EVENTS
from tests.support.model.model_server import ModelServer
from tests.support.service import started
from tests.unit.config.test_config_check import changed

SECRET = "the-secret-of-carol"
KEYS = {
    "CHATBOT_API_KEYS": f"carol:{SECRET},root:the-secret-of-root",
    "CHATBOT_AUTH_AUDITORS": "root",
    "CHATBOT_AUTH_ADMINS": "root",
}
CAROL, ROOT = {"X-API-Key": SECRET}, {"X-API-Key": "the-secret-of-root"}
SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
RESERVED = sum(map(len, RESERVED_EVENTS.values()))
PROJECTION = """
class Streams:
    def __init__(self):
        self.seen = {}
    def apply(self, recorded):
        self.seen[recorded.stream_id] = self.seen.get(recorded.stream_id, 0) + 1
    def result(self):
        return self.seen
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log with a session of carol between events of every reserved stream."""
    url = str(tmp_path / "chatbot.db")
    if request.param == "postgres":
        url = await request.getfixturevalue("postgres").schema()
    log = await open_log(settings_of(tmp_path, url).database.place)
    for stream_id, events in RESERVED_EVENTS.items():
        await log.append(stream_id, 0, events[:1], Metadata(actor="carol"))
    await log.append(SESSION, 0, (created("carol"), *turns(2)), Metadata(actor="carol"))
    for stream_id, events in RESERVED_EVENTS.items():
        if rest := events[1:]:
            await log.append(stream_id, 1, rest, Metadata(actor="carol"))
    await log.close()
    return url


def settings_of(folder: Path, url: str) -> Settings:
    return changed(database={"url": url, "projections_path": str(folder / "projections.db")})


async def run(folder: Path, url: str, *arguments: str) -> FakeConsole:
    console = FakeConsole(settings_of(folder, url))
    assert await run_in_process(console, *arguments) == 0, console.stderr_lines
    return console


def test_each_reserved_stream_is_tried() -> None:
    assert RESERVED_EVENTS.keys() == RESERVED_STREAMS.keys()


async def test_over_http_they_are_no_sessions(tmp_path: Path, model: ModelServer, place: str) -> None:
    projections = str(tmp_path / "projections.db")
    async with started(
        tmp_path, model.url, DATABASE_URL=place, CHATBOT_DATABASE_PROJECTIONS_PATH=projections, **KEYS
    ) as service:
        client = service.client
        officer = await client.post("/api/keys", json={"name": "o", "scopes": ["erase", "hold", "audit"]}, headers=ROOT)
        all_powers = {"X-API-Key": officer.json()["secret"]}
        for name in RESERVED_STREAMS:
            path = f"/api/sessions/{name}"
            for asked in (path, f"{path}/events", f"{path}/messages", f"{path}/export", f"{path}/stream"):
                for headers in (CAROL, ROOT, all_powers):
                    answer = await client.get(asked, headers=headers)
                    assert answer.status_code in (403, 404), asked
                    assert headers is all_powers or answer.status_code == 404, asked
            assert (await client.delete(path, headers=all_powers)).status_code == 404
            assert (await client.delete(path, headers=CAROL)).status_code == 404
            body = {"session_id": name, "message": "hi"}
            assert (await client.post("/api/chat", json=body, headers=CAROL)).status_code in (404, 422)
        for query in ("", "?status=expired", "?order=created", "?kind=task"):
            listed = (await client.get(f"/api/sessions{query}", headers=CAROL)).json()["sessions"]
            assert {one["session_id"] for one in listed} <= {SESSION}
        read = (await client.get("/api/events", headers=ROOT)).text.splitlines()
        assert len([line for line in read if json.loads(line)["session_id"] in RESERVED_STREAMS]) == RESERVED + 1
        await service.services.expiry._expire_due()
        await service.services.expiry._erase_due()
        log = service.services.log
        assert (await verify(log))[1] is None
        for name, events in RESERVED_EVENTS.items():
            recorded = await log.read(name, limit=100)
            assert tuple(one.event for one in recorded)[: len(events)] == events


async def test_commands_on_sessions_pass_them_over(tmp_path: Path, place: str) -> None:
    (tmp_path / "mine.py").write_text(PROJECTION)
    projected = await run(tmp_path, place, "project", str(tmp_path / "mine.py"))
    assert json.loads(projected.stdout_lines[0]).keys() == {SESSION}
    for name in RESERVED_STREAMS:
        console = FakeConsole(settings_of(tmp_path, place))
        assert await run_in_process(console, "erase", "--session", name) == 1
        assert console.stdout_lines == []
        with pytest.raises(CommandFailed):
            await run(tmp_path, place, "replay", "--session", name)
    preview = await run(tmp_path, place, "erase", "--owner", "carol", "--dry-run")
    assert [json.loads(line)["session_id"] for line in preview.stdout_lines] == [SESSION]
    erased = await run(tmp_path, place, "erase", "--owner", "carol")
    assert [json.loads(line)["session_id"] for line in erased.stdout_lines] == [SESSION]
    log = await open_log(settings_of(tmp_path, place).database.place, read_only=True)
    assert (await verify(log))[1] is None
    for name, events in RESERVED_EVENTS.items():
        assert tuple(one.event for one in await log.read(name, limit=100)) == events
    assert [one.event for one in await log.read(SESSION, limit=100)][:-1] == [None] * 7
    await log.close()


async def test_an_owners_export_leaves_keys_out_and_the_whole_log_takes_them_along(
    tmp_path: Path, model: ModelServer
) -> None:
    url = str(tmp_path / "chatbot.db")
    log = await open_log(Path(url))
    await log.append(SESSION, 0, (created("carol"), *turns(1)), Metadata())
    await log.close()
    secret = (await run(tmp_path, url, "key", "add", "carol", "--scope", "chat")).stdout_lines[0]
    part, whole = tmp_path / "part.ndjson", tmp_path / "whole.ndjson"
    await run(tmp_path, url, "export", "--owner", "carol", "--output", str(part))
    await run(tmp_path, url, "export", "--output", str(whole))
    assert "key_added" not in part.read_text()
    assert "key_added" in whole.read_text()
    assert secret not in whole.read_text()
    copy = str(tmp_path / "copy.db")
    told = await run(tmp_path, copy, "import", str(whole))
    assert any("carol" in line and "chatbot key list" in line for line in told.stderr_lines)
    async with started(tmp_path, model.url, DATABASE_URL=copy) as service:
        assert (await service.client.get("/api/sessions")).status_code == 401
        answer = await service.client.get("/api/sessions", headers={"X-API-Key": secret})
        assert [one["session_id"] for one in answer.json()["sessions"]] == [SESSION]
    other = str(tmp_path / "other.db")
    own = (await run(tmp_path, other, "key", "add", "carol", "--scope", "admin")).stdout_lines[0]
    with pytest.raises(CommandFailed, match="keys"):
        await run(tmp_path, other, "import", str(whole))
    await run(tmp_path, other, "import", str(whole), "--skip-existing")
    listed = json.loads((await run(tmp_path, other, "key", "list", "--json")).stdout_lines[0])
    assert (listed["prefix"], listed["scopes"]) == (own[:9], ["admin"])

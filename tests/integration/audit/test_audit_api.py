"""The log's proof over HTTP: its head, and walks along its chain, on whole logs and on ones that were tampered with."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatbot.api.request_limits import VERIFICATIONS_MAX
from chatbot.runtime.throttle import PIECE_ROWS
from events.integrity import chain_verifier
from events.integrity.hash_chain import GENESIS, link
from events.record import StoredRow
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


async def walk(service: Running, **query: Any) -> dict[str, Any]:
    answer = await service.client.get("/api/audit/verify", params={name.strip("_"): at for name, at in query.items()})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def digests(service: Running) -> list[str]:
    return ["00" * 32, *(row.digest.hex() for row in await service.services.log.rows(limit=1000))]


def tamper(folder: Path, statement: str, *values: object) -> None:
    """As someone does who can write the file and knows how to remove its triggers."""
    with closing(sqlite3.connect(folder / "chatbot.db", isolation_level=None)) as file:
        for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            file.execute(f"DROP TRIGGER {name}")
        file.execute(statement, values)


async def fill(service: Running) -> list[str]:
    sessions = [await service.session() for _ in range(3)]
    for session_id in sessions:
        await service.chat(session_id, "hi")
    return sessions


async def test_the_head_is_the_last_event_and_names_the_log(service: Running) -> None:
    empty = (await service.client.get("/api/audit/head")).json()
    assert empty == {"position": 0, "digest": "00" * 32, "origin": "chatbot-log/empty"}
    await fill(service)
    known = await digests(service)
    head = (await service.client.get("/api/audit/head")).json()
    assert head == {"position": 12, "digest": known[12], "origin": f"chatbot-log/{known[1][:32]}"}


async def test_a_whole_log_holds_in_whole_and_in_any_span(service: Running) -> None:
    assert await walk(service) == {"holds": True, "from": 0, "to": 0, "events": 0, "erased": 0, "digest": "00" * 32}
    await fill(service)
    known = await digests(service)
    for start in range(13):
        for end in range(start, 13):
            found = await walk(service, from_=start, to=end)
            expected = {"holds": True, "from": start, "to": end, "events": end - start, "erased": 0}
            assert found == {**expected, "digest": known[end]}
    assert await walk(service) == await walk(service, from_=0, to=12)


@pytest.mark.parametrize(
    ("query", "path"),
    [("from=13", "from"), ("to=13", "to"), ("from=5&to=4", "from"), ("from=-1", "from"), ("since=1", "since")],
)
async def test_a_span_that_the_log_has_not_got_is_refused(service: Running, query: str, path: str) -> None:
    await fill(service)
    refused = await service.client.get(f"/api/audit/verify?{query}")
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, f"query.{path}")


@pytest.mark.parametrize("page", [1, 200])
async def test_an_erasure_is_explained_also_by_an_event_behind_the_span(
    service: Running, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(chain_verifier, "PAGE_ROWS", page)
    sessions = await fill(service)
    await service.client.delete(f"/api/sessions/{sessions[0]}")
    assert await walk(service) == await walk(service, to=13)
    assert (await walk(service))["erased"] == 4
    for end in range(13):
        assert (await walk(service, to=end))["holds"], f"up to {end}"


async def test_an_erasure_in_the_midst_of_a_walk_is_explained(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = await fill(service)
    slow = SlowLog(service, monkeypatch)
    walking = asyncio.create_task(walk(service))
    await slow.until_asked(1)
    await service.client.delete(f"/api/sessions/{sessions[1]}")
    slow.go_on.set()
    found = await walking
    assert (found["holds"], found["to"], found["erased"]) == (True, 12, 4)


async def test_an_erasure_that_nothing_explains_is_found(tmp_path: Path, service: Running) -> None:
    await fill(service)
    tamper(tmp_path, "UPDATE events SET data = NULL, salt = NULL WHERE position = 5")
    found = await walk(service, to=10)
    assert not found["holds"]
    assert found["fault"] == {
        "position": 5,
        "reason": "content is gone and no later event of the stream says why",
    }
    assert (await walk(service, from_=5))["holds"], "a walk says nothing of what it does not pass"


@pytest.mark.parametrize(
    ("statement", "position", "holds_from"),
    [
        ("UPDATE events SET data = replace(data, 'hi', 'ho') WHERE type = 'message_posted' AND position = 4", 4, 4),
        ("UPDATE events SET metadata = '{}' WHERE position = 7", 7, 7),
        ("UPDATE events SET recorded_at = recorded_at + 1 WHERE position = 12", 12, None),
        ("UPDATE events SET digest = zeroblob(32) WHERE position = 12", 12, None),
        ("DELETE FROM events WHERE position = 6", 6, 7),
        ("DELETE FROM events WHERE position = 12", 12, None),
        ("DELETE FROM events WHERE position > 9", 10, None),
    ],
)
async def test_tampering_with_the_file_under_the_service_is_found(
    tmp_path: Path, service: Running, statement: str, position: int, holds_from: int | None
) -> None:
    await fill(service)
    tamper(tmp_path, statement)
    found = await walk(service)
    assert (found["holds"], found["fault"]["position"], found["events"]) == (False, position, position - 1)
    assert found["digest"] == (await digests(service))[position - 1]
    assert (await walk(service, to=position - 1))["holds"]
    assert not (await walk(service, from_=position - 1, to=position))["holds"]
    if holds_from is not None:
        assert (await walk(service, from_=holds_from))["holds"]


async def test_a_span_that_begins_at_a_deleted_event_does_not_hold(tmp_path: Path, service: Running) -> None:
    await fill(service)
    tamper(tmp_path, "DELETE FROM events WHERE position = 6")
    for end in (6, 7, 12):
        found = await walk(service, from_=6, to=end)
        assert (found["holds"], found["fault"]["position"]) == (False, 6)


async def test_a_chain_computed_anew_is_found_because_the_service_remembers_the_head(
    tmp_path: Path, service: Running
) -> None:
    """The file alone would pass: only the digest of the head, which the running service knows, tells."""
    await fill(service)
    rows, previous = await service.services.log.rows(limit=100), GENESIS
    for row in rows:
        numbers = (row.position, row.version, row.schema_version, row.recorded_at_us + 1)
        previous = link(previous, numbers, (row.stream_id, row.type, row.metadata), row.commitment)
        statement = "UPDATE events SET recorded_at = recorded_at + 1, digest = ? WHERE position = ?"
        tamper(tmp_path, statement, previous, row.position)
    assert (await walk(service, to=11))["holds"]
    found = await walk(service)
    assert (found["holds"], found["fault"]["position"]) == (False, 12)
    assert "recomputed" in found["fault"]["reason"]


class SlowLog:
    """The service's log, of which a walk's pages come when the test says so."""

    def __init__(self, service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()
        self._rows = service.services.log.rows
        monkeypatch.setattr(service.services.log, "rows", self.rows)

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        if limit == PIECE_ROWS:  # not what others read meanwhile
            self.asked += 1
            await self.go_on.wait()
        return await self._rows(after=after, limit=limit, bytes_max=bytes_max)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.asked < times:
                await asyncio.sleep(0.005)


async def test_only_so_many_walks_go_on_at_once_and_the_service_answers_all_the_while(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(service)
    slow = SlowLog(service, monkeypatch)
    walks = [asyncio.create_task(walk(service)) for _ in range(VERIFICATIONS_MAX)]
    await slow.until_asked(VERIFICATIONS_MAX)
    refused = await service.client.get("/api/audit/verify")
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
    assert "Retry-After" in refused.headers
    await service.chat(await service.session(), "hi")
    slow.go_on.set()
    assert all(found["holds"] and found["to"] == 12 for found in await asyncio.gather(*walks))
    assert (await walk(service))["to"] == 16


async def test_a_walk_ends_when_its_client_leaves(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(service)
    slow = SlowLog(service, monkeypatch)
    walks = [asyncio.create_task(walk(service)) for _ in range(VERIFICATIONS_MAX)]
    await slow.until_asked(VERIFICATIONS_MAX)
    for one in walks:
        one.cancel()
    await asyncio.gather(*walks, return_exceptions=True)
    slow.go_on.set()
    async with asyncio.timeout(5):
        while (await service.client.get("/api/audit/verify")).status_code == 503:
            await asyncio.sleep(0.01)


async def test_other_requests_are_answered_between_the_pages_of_a_walk(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(service)
    monkeypatch.setattr(chain_verifier, "PAGE_ROWS", 1)
    walking = asyncio.create_task(walk(service))
    turns = 0
    while not walking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 12
    assert (await walking)["holds"]


async def test_a_walk_after_a_restart_agrees_with_what_was_noted_before(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        await fill(service)
        noted = (await service.client.get("/api/audit/head")).json()
    async with serving(tmp_path, model.url) as service:
        await fill(service)
        found = await walk(service, to=noted["position"])
        assert (found["holds"], found["digest"]) == (True, noted["digest"])
        assert (await service.client.get("/api/audit/head")).json()["origin"] == noted["origin"]

"""A log that cannot be trusted is not served: the real program, started on real damage, says what and what to do."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from chatbot.cli.remedies import with_remedy
from events.catalogue import MessagePosted
from events.errors import LogUnavailable, LogUnusable
from events.integrity.startup_check import PROBES, TAIL_ROWS, check_integrity
from events.log import EventLog
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import FORMAT
from tests.support.command_processes import run_command
from tests.support.log.corruption import alter_row, delete, flip_bit, leaf_pages, overwrite_page, page_of, truncate
from tests.support.log.log_files import foreign, log_with
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.sample_log import created
from tests.support.model.model_server import ModelServer
from tests.support.service import program, serving

ROWS = 300


async def fill(path: Path, rows: int = ROWS) -> None:
    log = await SqliteLog.open(path)
    await log.append("a", 0, [created("alice")], ASKED)
    for version in range(1, rows, 100):
        more = [posted(f"<{n}>" + "x" * 900) for n in range(version, min(version + 100, rows))]
        await log.append("a", version, more, ASKED)
    await log.close()


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a torn page": (lambda path: overwrite_page(path, page_of(path, b"<290>")), "damaged"),
    "the torn last page": (lambda path: overwrite_page(path, leaf_pages(path)[-1]), "damaged"),
    "a truncated file": (lambda path: truncate(path, 0.7), "damaged"),
    "a bit flip in a page": (lambda path: flip_bit(path, b"<200>", bit=3), "at position 201: content"),
    "a bit flip in a column": (lambda path: alter_row(path, "recorded_at = recorded_at + 1", 150), "at position 150"),
    "an event gone": (lambda path: delete(path, "position = 20"), "no event is at position 20"),
    "the first gone": (lambda path: delete(path, "position = 1"), "no event is at position 1"),
    "the digest": (lambda path: alter_row(path, "digest = randomblob(32)", ROWS), f"at position {ROWS}: the digest"),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_a_damaged_log_is_refused_with_what_is_wrong_and_how_to_go_on(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "chatbot.db"
    await fill(path)
    do, reason = HARMS[harm]
    do(path)
    before = path.read_bytes()
    for _ in range(2):
        refused = await run_command(tmp_path)
        assert refused.returncode == 3, refused.stderr
        assert reason in refused.error_line
        assert "chatbot salvage" in refused.error_line
        assert str(path) in refused.error_line
    assert path.read_bytes() == before, "it is not repaired silently"
    assert not (tmp_path / "projections.db").exists()


async def chatted(folder: Path, model: ModelServer) -> None:
    """A log and projections of a short conversation."""
    async with serving(folder, model.url) as running:
        session_id = await running.session()
        await running.chat(session_id, "hello")
        await running.history(session_id)  # the projections have folded it


async def test_a_lost_write_ahead_log_shows_by_what_the_projections_had_folded(
    tmp_path: Path, model: ModelServer
) -> None:
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        await client.post("/api/chat", json={"session_id": session_id, "message": "hello"})
        await client.get(f"/api/sessions/{session_id}/messages")
        await running.kill()
    (tmp_path / "chatbot.db-wal").unlink()
    (tmp_path / "chatbot.db-shm").unlink(missing_ok=True)
    for _ in range(2):
        refused = await run_command(tmp_path)
        assert refused.returncode == 3
        for part in ("projections.db", "write-ahead log deleted", "restore a backup", "chatbot salvage", "on purpose"):
            assert part in refused.error_line
    for path in tmp_path.glob("projections.db*"):
        path.unlink()
    async with program(tmp_path, model.url) as running:  # deleting it is the operator's consent
        assert (await running.stop()) == 0


async def test_an_older_copy_in_the_logs_place_is_refused_until_the_projections_are_deleted(
    tmp_path: Path, model: ModelServer
) -> None:
    await chatted(tmp_path, model)
    older = await run_command(tmp_path, "backup", "older.db")
    assert older.returncode == 0
    await chatted(tmp_path, model)
    (tmp_path / "older.db").replace(tmp_path / "chatbot.db")
    refused = await run_command(tmp_path)
    assert refused.returncode == 3
    assert "beyond the log's end" in refused.error_line
    (tmp_path / "projections.db").unlink()
    async with program(tmp_path, model.url) as running:
        assert (await running.stop()) == 0


@pytest.mark.parametrize(("kind", "schema_version"), [("mood_changed", 1), ("message_posted", 99)])
async def test_events_of_a_newer_program_stop_the_start_though_the_projections_have_folded_them(
    tmp_path: Path, model: ModelServer, kind: str, schema_version: int
) -> None:
    await chatted(tmp_path, model)
    path = tmp_path / "chatbot.db"
    alter_row(path, f"type = '{kind}', schema_version = {schema_version}", 3)
    refused = await run_command(tmp_path)
    assert refused.returncode == 3
    for part in (kind, str(schema_version), "newer version of this program", "update it"):
        assert part in refused.error_line
    assert "server.listening" not in refused.stderr


async def test_a_newer_format_stops_the_start(tmp_path: Path) -> None:
    await log_with(tmp_path / "chatbot.db", "1")
    foreign(tmp_path / "chatbot.db", f"PRAGMA user_version={FORMAT + 1}").close()
    refused = await run_command(tmp_path)
    assert refused.returncode == 3
    assert "update the program" in refused.error_line


async def test_damage_that_shows_while_serving_turns_readyz_and_refuses_what_must_be_recorded(
    tmp_path: Path, model: ModelServer
) -> None:
    path, session_id = tmp_path / "chatbot.db", "11111111-2222-4333-8444-555555555555"
    log = await SqliteLog.open(path)
    await log.append(session_id, 0, [created(None)], ASKED)
    for first in range(0, 2000, 200):
        said = [
            MessagePosted(f"m{n}", f"m{n - 1}" if n else None, "user", "x" * 900) for n in range(first, first + 200)
        ]
        await log.append(session_id, first + 1, said, ASKED)
    await log.close()
    small = {"CHATBOT_DATABASE_CACHE_KIB": "100"}  # so that pages are read from the file again
    async with program(tmp_path, model.url, **small) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            assert (await client.get("/readyz")).status_code == 200
            for page in leaf_pages(path)[:200]:
                overwrite_page(path, page)
            old = await client.get(f"/api/sessions/{session_id}/messages", params={"limit": 200, "before": "m200"})
            assert old.status_code == 503, old.text
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "damaged")
            assert "restarted" in ready.json()["reason"]
            assert (await client.post("/api/sessions")).status_code == 503
        await running.stop()


async def test_what_sqlite_finds_corrupt_refuses_appends_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await fill(path)
    log = await SqliteLog.open(path)
    assert log.damage is None
    overwrite_page(path, page_of(path, b"<5>"))
    with pytest.raises(LogUnavailable) as refused:
        await log.read_all(limit=ROWS)
    assert "damaged (SQLITE_CORRUPT): restore a copy, or see `chatbot salvage`" in with_remedy(refused.value)
    assert log.damage is not None
    with pytest.raises(LogUnavailable, match="damaged"):
        await log.append("b", 0, [posted("1")], ASKED)
    await log.close()


async def test_the_look_at_the_start_is_bounded_and_reaches_all_over_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    await fill(path, 5000)
    log = await SqliteLog.open(path, read_only=True)
    asked: list[int] = []
    rows = log.rows

    async def counted(*, after: int = 0, limit: int) -> object:
        page = await rows(after=after, limit=limit)
        asked.append(len(page))
        return page

    monkeypatch.setattr(log, "rows", counted)
    await check_integrity(log, path)
    assert sum(asked) <= TAIL_ROWS + 3 * PROBES + 1
    await log.close()


async def refused(path: Path) -> str:
    log: EventLog = await SqliteLog.open(path, read_only=True)
    try:
        with pytest.raises(LogUnusable) as error:
            await check_integrity(log, path)
        return str(error.value)
    finally:
        await log.close()


async def test_every_event_of_the_tail_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await fill(path, TAIL_ROWS + 200)
    for position in (TAIL_ROWS + 200, TAIL_ROWS + 199, TAIL_ROWS, 201, 1):
        whole = path.read_bytes()
        alter_row(path, "recorded_at = recorded_at + 1", position)
        assert f"at position {position}" in await refused(path)
        path.write_bytes(whole)


async def test_an_index_that_leads_elsewhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await fill(path, 3000)
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        (root,) = log.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'index'").fetchone()
    overwrite_page(path, root)
    assert "damaged" in await refused(path)

"""Deleted sessions of which content is still there: verify names them, start warns, `erase` and DELETE finish them."""

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.catalogue import MetadataChanged, SessionCreated, SessionDeleted
from events.factory import open_log
from events.record import Metadata
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.log_texts import ALL
from tests.support.log.sample_events import deleted, posted
from tests.support.log.sample_log import created
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running, serving

NOBODY = Metadata()
SECRET = "a text that should be gone"
LEFT, OPEN, WHOLE, NAMED = (f"00000000-0000-4000-8000-00000000000{number}" for number in range(4))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log with a session whose content precedes its session_deleted, an open one, and one that was deleted whole."""
    if request.param == "sqlite":
        url = str(tmp_path / "chatbot.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = await server.schema()
    log = await open_log(url if request.param == "postgres" else Path(url))
    await log.append(LEFT, 0, [created(None), posted(SECRET)], NOBODY)
    await log.append(OPEN, 0, [created(None), posted("kept")], NOBODY)
    await log.append(WHOLE, 0, [created(None), posted("gone")], NOBODY)
    await log.erase(WHOLE, 2, deleted(), NOBODY)
    await log.append(LEFT, 2, [deleted()], NOBODY)
    await log.close()
    return url


@pytest.fixture
def console(url: str, tmp_path: Path) -> FakeConsole:
    database = DatabaseSettings(url=url, projections_path=str(tmp_path / "projections.db"))
    return FakeConsole(Settings(database=database))


async def contents(url: str) -> list[str | None]:
    log = await open_log(url if url.startswith("postgresql:") else Path(url), read_only=True)
    try:
        return [row.data for row in await log.rows(limit=ALL)]
    finally:
        await log.close()


async def test_verify_names_such_sessions_and_erase_finishes_them(url: str, console: FakeConsole) -> None:
    with pytest.raises(CommandFailed) as failed:
        await run_in_process(console, "verify")
    assert failed.value.code == 1
    assert f"content of 1 deleted sessions is still there, before their session_deleted: {LEFT} (position 1)" in str(
        failed.value
    )
    assert f"chatbot erase --session {LEFT}" in str(failed.value)
    assert console.stdout_lines[0].startswith("the log holds: 8 events, 2 of them erased")
    console.stdout_lines.clear()
    assert await run_in_process(console, "erase", "--session", LEFT, WHOLE) == 0
    (receipt,) = [json.loads(line) for line in console.stdout_lines]
    assert (receipt["session_id"], receipt["events_erased"], receipt["position"]) == (LEFT, 2, 8)
    assert [data is None for data in await contents(url)] == [True, True, False, False, True, True, False, False]
    console.stdout_lines.clear()
    assert await run_in_process(console, "verify") == 0
    assert await run_in_process(console, "erase", "--session", LEFT) == 0
    assert len(console.stdout_lines) == 1, "there is nothing left to erase"


async def test_a_backup_tells_what_it_copies(url: str, console: FakeConsole, tmp_path: Path) -> None:
    if url.startswith("postgresql:"):
        return  # backup is for files
    assert await run_in_process(console, "backup", str(tmp_path / "copy.db")) == 0
    assert any(f"chatbot erase --session {LEFT}" in line for line in console.stderr_lines)


async def test_erase_finds_such_sessions_by_owner_and_metadata(url: str, console: FakeConsole) -> None:
    """As they were when they were deleted; with --ever, as they were at any time."""
    log = await open_log(url if url.startswith("postgresql:") else Path(url))
    earlier = SessionCreated(owner="jun", metadata={"user_id": "41"}, timeout_s=60)
    gone = SessionDeleted(reason="asked", owner="jun")
    await log.append(NAMED, 0, [earlier, MetadataChanged({"user_id": "42"}), posted(SECRET), gone], NOBODY)
    await log.close()
    by_metadata = ("erase", "--metadata", "user_id=42")
    for nobodys in (("erase", "--owner", "mina"), ("erase", "--metadata", "user_id=41")):
        assert await run_in_process(console, *nobodys) == 0
    assert console.stdout_lines == []
    for wanted in (by_metadata, ("erase", "--owner", "jun")):
        assert await run_in_process(console, *wanted, "--dry-run") == 0
    assert [json.loads(line)["session_id"] for line in console.stdout_lines] == [NAMED, NAMED]
    assert SECRET in str((await contents(url))[-2])
    console.stdout_lines.clear()
    for words in (by_metadata, ("erase", "--owner", "jun"), ("erase", "--metadata", "user_id=41", "--ever")):
        assert await run_in_process(console, *words) == 0
    assert [json.loads(line)["session_id"] for line in console.stdout_lines] == [NAMED]
    assert [data is None for data in (await contents(url))[-4:]] == [True, True, True, False]
    with pytest.raises(CommandFailed, match=LEFT):
        await run_in_process(console, "verify")


async def test_erase_ever_finds_such_a_session(url: str, console: FakeConsole) -> None:
    log = await open_log(url if url.startswith("postgresql:") else Path(url))
    earlier = SessionCreated(owner=None, metadata={"user_id": "41"}, timeout_s=60)
    await log.append(NAMED, 0, [earlier, MetadataChanged({}), posted(SECRET), deleted()], NOBODY)
    await log.close()
    assert await run_in_process(console, "erase", "--metadata", "user_id=41") == 0
    assert console.stdout_lines == []
    assert await run_in_process(console, "erase", "--metadata", "user_id=41", "--ever") == 0
    assert [json.loads(line)["session_id"] for line in console.stdout_lines] == [NAMED]


async def test_a_start_warns_and_delete_finishes_the_erasure(url: str, tmp_path: Path, model: ModelServer) -> None:
    settings = {"DATABASE_URL": url, "CHATBOT_DATABASE_PROJECTIONS_PATH": str(tmp_path / "projections.db")}
    with capture_logs() as lines:
        async with serving(tmp_path, model.url, **settings) as running:
            assert "chatbot_erasure_pending 1.0" in (await running.client.get("/metrics")).text
            walk = (await running.client.get("/api/audit/verify")).json()
            assert (walk["holds"], walk["unfinished_erasures"]) == (True, 1)
            assert await deleting(running, WHOLE) == 404
            assert await deleting(running, LEFT) == 204
            assert await deleting(running, LEFT) == 404
            assert "unfinished_erasures" not in (await running.client.get("/api/audit/verify")).json()
            assert (await running.client.get(f"/api/sessions/{OPEN}")).status_code == 200
    (warning,) = [line for line in lines if line["event"] == "log.unfinished_erasures"]
    assert (warning["log_level"], warning["sessions"], warning["first_position"]) == ("warning", 1, 1)
    assert LEFT not in str(lines)
    assert SECRET not in str(await contents(url))
    if not url.startswith("postgresql:"):
        assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    with capture_logs() as lines:
        async with serving(tmp_path, model.url, **settings) as running, asyncio.timeout(30):
            while "chatbot_erasure_pending 0.0" not in (await running.client.get("/metrics")).text:
                await asyncio.sleep(0.02)  # PostgreSQL's VACUUM may still be under way
    assert [line for line in lines if line["event"] == "log.unfinished_erasures"] == []


async def deleting(running: Running, session_id: str) -> int:
    return (await running.client.delete(f"/api/sessions/{session_id}")).status_code


async def test_a_stranger_neither_finishes_an_erasure_nor_learns_of_it(
    url: str, tmp_path: Path, model: ModelServer
) -> None:
    """The session belongs to nobody; with keys, one of another owner is not found."""
    log = await open_log(url if url.startswith("postgresql:") else Path(url))
    theirs = "00000000-0000-4000-8000-000000000009"
    await log.append(theirs, 0, [created("jun"), posted(SECRET), SessionDeleted(reason="asked", owner="jun")], NOBODY)
    await log.close()
    settings = {
        "DATABASE_URL": url,
        "CHATBOT_DATABASE_PROJECTIONS_PATH": str(tmp_path / "projections.db"),
        "CHATBOT_API_KEYS": "mina:a-long-secret-of-hers,jun:another-long-secret",
    }
    async with serving(tmp_path, model.url, **settings) as running:
        answers = []
        for secret in ("a-long-secret-of-hers", "another-long-secret"):
            headers = {"Authorization": f"Bearer {secret}"}
            answers.append((await running.client.delete(f"/api/sessions/{theirs}", headers=headers)).status_code)
        assert answers == [404, 204]

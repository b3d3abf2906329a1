"""Files that a command makes belong to the service's user, also when root ran the command."""

import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.storage.database_lock import DatabaseLock
from events.storage.private_file import create_private, open_companion, open_private
from projections.sqlite.projection_paths import temporary_path
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.log_files import log_with

SERVICE, GROUP = 61_234, 61_235
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def given(path: Path) -> Path:
    os.chown(path, SERVICE, GROUP)
    return path


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}


def console(log: Path) -> FakeConsole:
    return FakeConsole(replace(Settings(), database=DatabaseSettings(url=str(log))))


@pytest.fixture
async def log(tmp_path: Path) -> Path:
    """A service's log; its folder is root's, as a mounted one may be."""
    await log_with(tmp_path / "chatbot.db", "one", "two")
    for path in tmp_path.iterdir():
        given(path)
    return tmp_path / "chatbot.db"


async def test_projections_that_root_makes_belong_to_the_logs_owner(log: Path) -> None:
    assert await run_in_process(console(log), "rebuild") == 0
    assert {"projections.db", "projections.db-making-lock"} <= set(owners(log.parent))
    assert set(owners(log.parent).values()) == {(SERVICE, GROUP)}


async def test_projections_that_root_makes_again_keep_their_owner_and_mode(log: Path) -> None:
    assert await run_in_process(console(log), "rebuild") == 0
    projections = log.with_name("projections.db")
    os.chown(projections, SERVICE + 1, GROUP)
    projections.chmod(0o640)
    assert await run_in_process(console(log), "rebuild") == 0
    assert owners(log.parent)["projections.db"] == (SERVICE + 1, GROUP)
    assert stat.S_IMODE(projections.stat().st_mode) == 0o640


async def test_locks_that_root_takes_belong_to_the_logs_owner(log: Path) -> None:
    log.with_name("chatbot.db-lock").unlink()
    lock = DatabaseLock(log)
    lock.acquire()
    lock.release()
    assert "chatbot.db-lock" in owners(log.parent)
    assert set(owners(log.parent).values()) == {(SERVICE, GROUP)}


def test_a_file_beside_no_database_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    given(folder)
    create_private(folder / "projections.db")
    os.close(open_companion(folder / "a-b.db-lock", os.O_WRONLY))
    os.close(open_private(folder / "export.ndjson", os.O_WRONLY))
    found = owners(folder)
    assert found.pop("export.ndjson") == (0, 0), "what root exports is root's"
    assert set(found.values()) == {(SERVICE, GROUP)}


def test_files_that_exist_are_given_to_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    create_private(folder / "mine.db")
    given(folder)
    create_private(folder / "mine.db")
    os.close(open_companion(folder / "mine.db", os.O_WRONLY))
    with pytest.raises(FileExistsError):
        open_companion(folder / "mine.db", os.O_WRONLY | os.O_EXCL)
    assert owners(folder) == {"mine.db": (0, 0)}


def test_the_file_that_a_rebuild_works_on_is_named_after_its_database(tmp_path: Path) -> None:
    create_private(given(tmp_path) / "p.db")
    os.chown(tmp_path / "p.db", SERVICE + 1, GROUP)
    create_private(temporary_path(tmp_path / "p.db"))
    assert set(owners(tmp_path).values()) == {(SERVICE + 1, GROUP)}

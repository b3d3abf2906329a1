"""One process at a time opens a database to write, under whatever name; files with dangerous names are reported."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatbot.cli.startup import find_file_risks
from chatbot.config.sections.database_settings import DatabaseSettings
from events.errors import LogInUse, LogUnusable
from events.storage.database_lock import DatabaseLock, database_file
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.file_aliases import is_mount_point, link_count
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_migration_target import SqliteMigrationTarget
from events.transfer.import_target import ImportTarget
from tests.support.log.sample_events import ASKED, EVERY_EVENT

OTHERS_SQLITE_MAY_LOCK = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SQLite's SHARED bytes
except OSError:
    print("locked")
else:
    print("free")
"""


async def test_a_second_name_of_a_served_file_is_refused(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    (tmp_path / "other0.db").hardlink_to(tmp_path / "log.db")
    (tmp_path / "other1.db").symlink_to(tmp_path / "log.db")
    for other in (tmp_path / "other0.db", tmp_path / "other1.db"):
        with pytest.raises(LogInUse, match="in use by"):
            await SqliteLog.open(other)
        with pytest.raises(LogInUse, match="in use by"):
            await ImportTarget.open(other, WritingCommand.IMPORT)
        with pytest.raises(LogInUse, match="in use by"):
            await SqliteMigrationTarget.open(other)
    await log.append("a", 0, [EVERY_EVENT[0]], ASKED)
    await log.close()
    again = await SqliteLog.open(tmp_path / "other0.db")
    assert again.head().position == 1
    await again.close()


async def test_a_served_file_is_not_read_by_a_second_name(tmp_path: Path) -> None:
    """The write-ahead file of the first, with what was recorded last, would be missing there."""
    path, other = tmp_path / "log.db", tmp_path / "other.db"
    log = await SqliteLog.open(path)
    other.hardlink_to(path)
    await log.append("a", 0, [EVERY_EVENT[0]], ASKED)
    with pytest.raises(LogUnusable, match="in use under another name"):
        await SqliteLog.open(other, read_only=True)
    beside = await SqliteLog.open(path, read_only=True)
    assert beside.head().position == 1
    await beside.close()
    unknown = other.with_name("other.db-lock")
    unknown.symlink_to(unknown)  # as good as one that this user may not read
    assert database_file(other, read_only=True) == other
    unknown.unlink()
    await log.close()
    alone = await SqliteLog.open(other, read_only=True)
    assert alone.head().position == 1
    await alone.close()


async def test_refused_opens_and_reads_leave_the_locks_of_sqlite(tmp_path: Path) -> None:
    """Closing any descriptor of the file in this process would drop them."""
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [EVERY_EVENT[0]], ASKED)
    with pytest.raises(LogInUse):
        await SqliteLog.open(tmp_path / "log.db")
    reader = await SqliteLog.open(tmp_path / "log.db", read_only=True)
    await reader.close()
    command = [sys.executable, "-c", OTHERS_SQLITE_MAY_LOCK, str(tmp_path / "log.db")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "locked\n"
    await log.close()


async def test_a_copy_renamed_into_its_place_is_opened(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [EVERY_EVENT[0]], ASKED)
    await log.close()
    (tmp_path / "copy.db").write_bytes((tmp_path / "log.db").read_bytes())
    (tmp_path / "copy.db").replace(tmp_path / "log.db")
    again = await SqliteLog.open(tmp_path / "log.db")
    assert again.head().position == 1
    await again.close()


def test_a_file_replaced_between_opening_and_locking_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "log.db"
    database.touch()
    opened = DatabaseLock._open_database

    def replaced_then(self: DatabaseLock) -> int:
        descriptor = opened(self)
        (tmp_path / "new.db").touch()
        (tmp_path / "new.db").replace(database)
        return descriptor

    monkeypatch.setattr(DatabaseLock, "_open_database", replaced_then)
    with pytest.raises(LogUnusable, match="was replaced"):
        DatabaseLock(database).acquire()


def test_where_the_systems_locks_conflict_the_name_alone_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conflicting(*_: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "lockf", conflicting)
    lock = DatabaseLock(tmp_path / "log.db")
    lock.acquire()
    file = os.open(tmp_path / "log.db", os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(file)
    assert lock.database_descriptor is None
    with pytest.raises(LogInUse, match=str(os.getpid())):
        DatabaseLock(tmp_path / "log.db").acquire()
    lock.release()


def test_several_names_of_a_file_are_a_risk(tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    settings = DatabaseSettings(url=str(file))
    assert (link_count(file), find_file_risks(settings)) == (0, ())
    file.touch()
    assert find_file_risks(settings) == ()
    os.link(file, tmp_path / "other.db")
    (risk,) = find_file_risks(settings)
    assert "has 2 names" in risk


@pytest.mark.parametrize("name", ["log.db", "two words.db", "back\\slash.db"])
def test_a_mounted_file_is_refused_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, mounts = tmp_path / name, tmp_path / "mountinfo"
    file.touch()
    escaped = str(file).replace("\\", "\\134").replace(" ", "\\040")
    mounts.write_text(f"36 35 98:0 / / rw - ext4 /dev/root rw\n37 36 98:0 /x {escaped} rw - ext4 /dev/root rw\nodd\n")
    assert is_mount_point(file, mounts)
    assert not is_mount_point(tmp_path, mounts)
    assert not is_mount_point(tmp_path / "absent.db", mounts)
    assert not is_mount_point(file, tmp_path / "no mountinfo")
    monkeypatch.setattr("chatbot.cli.startup.is_mount_point", lambda path: is_mount_point(path, mounts))
    with pytest.raises(LogUnusable, match="Mount the folder"):
        find_file_risks(DatabaseSettings(url=str(file)))
    (risk,) = find_file_risks(DatabaseSettings(url=str(file), allow_file_mount=True))
    assert "is a mount point" in risk


def test_a_log_in_postgresql_has_no_file() -> None:
    assert find_file_risks(DatabaseSettings(url="postgresql://localhost/x")) == ()

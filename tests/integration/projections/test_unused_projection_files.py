"""Projections that nobody folds any more do not stay: they would keep hashes of what was erased since."""

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.erasure import erasure_check as erased_module
from chatbot.cli.erasure.erase import erase
from chatbot.cli.erasure.erasure_check import erased
from chatbot.config.loader import load
from events.catalogue import SessionCreated
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.sqlite.projection_paths import (
    PathLock,
    delete_leftovers,
    delete_unused,
    list_databases,
    list_projection_files,
)
from projections.sqlite.projection_writer import ProjectionWriter
from tests.support.fake_console import FakeConsole
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, environment, serving

TEXT = "a sentence of somebody"


def made(folder: Path, *names: str) -> None:
    """Projections, and bare files where the name is not that of a database."""
    for name in names:
        if name.endswith(".db"):
            ProjectionWriter(folder / name).close()
        else:
            (folder / name).touch()


def names_in(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir() if not one.name.endswith("-lock")}


def test_every_file_of_the_pattern_is_known_and_no_other(tmp_path: Path) -> None:
    ours = ["projections.db", "projections.db-making-wal", "projections-2.db", "projections-12.db-taken"]
    made(tmp_path, *ours, "projections-3.db-wal", "projections-a.db-x", "other-2.db-wal", "projections.dbx")
    first = tmp_path / "projections.db"
    assert {one.name for one in list_projection_files(first)} == {*ours, "projections-3.db-wal"}
    numbers = ["-12", "-2", "-3", ""]
    assert list_databases(first) == sorted(tmp_path / f"projections{number}.db" for number in numbers)
    assert list_projection_files(tmp_path / "nowhere" / "projections.db") == []


def test_what_nobody_keeps_goes_with_all_that_lies_beside_it(tmp_path: Path) -> None:
    first = tmp_path / "projections.db"
    made(
        tmp_path, "projections.db", "projections-2.db", "projections-2.db-next", "projections-3.db", "projections-4.db"
    )
    made(tmp_path, "projections-4.db-making", "projections-5.db-copy", "projections.db-next")
    with closing(sqlite3.connect(tmp_path / "projections-6.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    lock = PathLock(tmp_path / "projections-3.db")
    deleted = delete_unused(first, {first})
    lock.release()
    assert [one.name for one in deleted] == ["projections-2.db", "projections-4.db", "projections-5.db"]
    assert names_in(tmp_path) == {"projections.db", "projections.db-next", "projections-3.db", "projections-6.db"}


def test_the_draft_of_a_rebuild_under_way_stays(tmp_path: Path) -> None:
    first = tmp_path / "projections.db"
    made(
        tmp_path,
        "projections.db-making",
        "projections.db-making-journal",
        "projections.db-copy",
        "projections.db-taken",
    )
    lock = PathLock(tmp_path / "projections.db-making")
    delete_leftovers(first)
    assert names_in(tmp_path) == {"projections.db-making", "projections.db-making-journal"}
    lock.release()
    delete_leftovers(first)
    assert names_in(tmp_path) == set()


async def test_a_process_that_serves_alone_deletes_what_workers_have_left(tmp_path: Path, model: ModelServer) -> None:
    made(tmp_path, "projections-2.db", "projections-2.db-wal", "projections-3.db", "projections.db-making")
    async with serving(tmp_path, model.url):
        assert not {name for name in names_in(tmp_path) if name.startswith("projections-") or "making" in name}
        assert "projections.db" in names_in(tmp_path)


def tray_of(folder: Path) -> FakeConsole:
    return FakeConsole(load({}, environment=environment(folder, "http://127.0.0.1:9"), folder=ROOT).settings)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """With a log."""
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    await log.append("a", 0, [SessionCreated(None, {"user_id": "42"}, 3600)], Metadata())
    await log.close()
    return tmp_path


async def test_the_command_erase_deletes_the_projections_of_other_workers(folder: Path) -> None:
    made(folder, "projections-2.db", "projections-3.db", "projections-3.db-copy")
    options: dict[str, Any] = {"sessions": None, "owner": None, "metadata": ["user_id=42"], "expired_before": None}
    options |= {"ever": False, "url": None, "key": None, "dry_run": False}
    options |= {"reason_code": None, "ticket": None, "sign_with": None}
    assert await erase(tray_of(folder), argparse.Namespace(**options)) == 0
    assert not {name for name in names_in(folder) if name.startswith("projections-")}


@pytest.mark.parametrize(
    "name",
    [
        "chatbot.db-wal",
        "chatbot.db-journal",
        "projections.db-shm",
        "projections.db-making",
        "projections.db-making-journal",
        "projections-3.db",
        "projections-3.db-wal",
        "projections-12.db-taken",
        "projections-2.db-next",
        "copy.db.partial",
    ],
)
async def test_every_file_that_was_made_of_the_log_is_searched(folder: Path, name: str) -> None:
    (folder / "notes.txt").write_text(TEXT)
    assert await erased(tray_of(folder), argparse.Namespace(texts=[TEXT], files=[])) == 0
    (folder / name).write_text(f"before {TEXT} after")
    console = tray_of(folder)
    assert await erased(console, argparse.Namespace(texts=[TEXT], files=[])) == 1
    assert name in "".join(console.stdout_lines)


async def test_a_file_that_is_renamed_meanwhile_is_searched_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready_path, taken = folder / "projections.db-next", folder / "projections.db"
    ready_path.write_text(TEXT)
    in_file = erased_module._search_file

    def renamed_first(file: Path, patterns: Any) -> Any:
        if file == ready_path and not taken.exists():
            ready_path.rename(taken)
        return in_file(file, patterns)

    monkeypatch.setattr(erased_module, "_search_file", renamed_first)
    assert await erased(tray_of(folder), argparse.Namespace(texts=[TEXT], files=[])) == 1


async def test_of_many_files_each_is_told_once(folder: Path) -> None:
    (folder / "projections-2.db").write_text(TEXT)
    console = tray_of(folder)
    assert await erased(console, argparse.Namespace(texts=[TEXT], files=[])) == 1
    assert len(console.stdout_lines) == 1

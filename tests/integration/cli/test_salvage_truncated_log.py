"""Of a log whose end is gone `salvage` says so, whatever is left to tell of it, and its exit code is 1."""

import asyncio
import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.maintenance.salvage import salvage
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.sqlite_page_reader import SqlitePageReader
from projections.factory import create_runner
from projections.observer import NoObserver
from tests.support.fake_console import FakeConsole
from tests.support.log.corruption import PAGE_BYTES, overwrite_page, page_of
from tests.support.log.log_files import log_with
from tests.support.log.sample_events import ASKED, posted

EVENTS = 240
CUTS = [0.999, 0.98, 0.9, 0.75, 0.5, 0.25, 0.15]  # a tenth would be less than the schema, some 13 pages at the front


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 240 events in twelve streams, some longer than a page, and projections of it. The names of the streams
    are long, so that the index has many pages, too.
    """
    folder = tmp_path_factory.mktemp("whole")
    asyncio.run(tell(folder))
    return folder


async def tell(folder: Path) -> None:
    log = await SqliteLog.open(folder / "log.db")
    for number in range(EVENTS):
        text = f"<{number}>" + "x" * (5000 if number % 20 == 7 else 900)
        await log.append(f"s{number % 12}" + "-" * 120, number // 12, [posted(text)], ASKED)
    runner = create_runner(folder / "projections.db", log, NoObserver())
    await runner.start()
    await runner.wait_for(EVENTS)
    await runner.stop()
    await log.close()


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    shutil.copy(whole / "log.db", tmp_path / "log.db")
    return tmp_path / "log.db"


async def salvaged(log: Path) -> tuple[int, dict[str, Any], str]:
    """The exit code, the report, and what else is said."""
    console = FakeConsole(Settings(database=DatabaseSettings(url=str(log))))
    new = log.with_name("new.db")
    new.unlink(missing_ok=True)
    code = await salvage(console, Namespace(source=None, destination=new, rest=None))
    return code, json.loads(console.stdout_lines[0]), console.stderr_lines[-1]


def cut(log: Path, share: float) -> None:
    pages = log.stat().st_size // PAGE_BYTES
    with log.open("r+b") as file:
        file.truncate(int(pages * share) * PAGE_BYTES)


@pytest.mark.parametrize("share", CUTS)
async def test_a_file_cut_at_its_end_is_no_whole_log(damaged: Path, share: float) -> None:
    cut(damaged, share)
    code, report, noted = await salvaged(damaged)
    if report["copied"] == EVENTS:  # only pages of the index were cut off
        assert (code, report["lost"]) == (0, 0)
        return
    assert code == 1
    assert 0 < report["lost"] <= EVENTS - report["copied"]
    assert report["end"] <= EVENTS
    if report["end_is_known"]:  # the index is whole
        assert report["copied"] + report["lost"] == report["end"] == EVENTS
    assert ("perhaps others after position" in noted) is not report["end_is_known"]


@pytest.mark.parametrize("share", CUTS)
async def test_projections_beside_it_know_how_much_is_lost(whole: Path, damaged: Path, share: float) -> None:
    shutil.copy(whole / "projections.db", damaged.with_name("projections.db"))
    cut(damaged, share)
    code, report, _ = await salvaged(damaged)
    assert report["copied"] + report["lost"] == report["end"] == EVENTS
    assert code == (0 if report["copied"] == EVENTS else 1)


async def test_a_lost_write_ahead_file_shows_by_the_projections(whole: Path, tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("x")], ASKED)
    runner = create_runner(tmp_path / "projections.db", log, NoObserver())
    await runner.start()
    await runner.wait_for(1)
    await log.close()  # the first event is in the file
    later = await SqliteLog.open(tmp_path / "log.db")
    await runner.stop()
    following = create_runner(tmp_path / "projections.db", later, NoObserver())
    await following.start()
    await later.append("a", 1, [posted("y"), posted("z")], ASKED)
    await following.wait_for(3)
    (tmp_path / "crashed").mkdir()
    shutil.copy(tmp_path / "log.db", tmp_path / "crashed" / "log.db")  # without what is in the write-ahead file
    await following.stop()
    await later.close()
    shutil.copy(tmp_path / "projections.db", tmp_path / "crashed" / "projections.db")
    code, report, _ = await salvaged(tmp_path / "crashed" / "log.db")
    assert (code, report["copied"], report["lost"], report["end"]) == (1, 1, 2, 3)
    shutil.copy(whole / "projections.db", tmp_path / "crashed" / "projections.db")  # of another log
    code, report, _ = await salvaged(tmp_path / "crashed" / "log.db")
    assert (code, report["copied"], report["end"]) == (0, 1, 1)


async def test_a_torn_last_page_is_a_loss(damaged: Path) -> None:
    overwrite_page(damaged, page_of(damaged, f"<{EVENTS - 1}>".encode()))
    code, report, _ = await salvaged(damaged)
    assert (code, report["end"], report["end_is_known"]) == (1, EVENTS, True)  # the index knows
    assert report["copied"] + report["lost"] == EVENTS


async def test_a_whole_log_is_whole(damaged: Path) -> None:
    assert (await salvaged(damaged))[:1] == (0,)
    await log_with(damaged.with_name("small.db"), "1")
    code, report, noted = await salvaged(damaged.with_name("small.db"))
    assert (code, report["end"], report["end_is_known"]) == (0, 1, True)
    assert "perhaps" not in noted


@pytest.mark.parametrize("share", CUTS)
def test_what_pages_tell_is_never_more_than_there_was(damaged: Path, share: float) -> None:
    cut(damaged, share)
    leaves = SqlitePageReader(damaged)
    assert leaves.end <= leaves.last_known_position <= EVENTS
    leaves.close()


def test_noise_claims_no_more_than_a_file_can_hold(damaged: Path) -> None:
    size = damaged.stat().st_size
    with damaged.open("r+b") as file:
        for page, kind in ((10, 0x05), (11, 0x0A), (12, 0x0D)):
            file.seek(page * PAGE_BYTES)
            file.write(bytes([kind]) + b"\xff" * (PAGE_BYTES - 1))
    leaves = SqlitePageReader(damaged)
    assert leaves.last_known_position <= size // 64
    leaves.close()

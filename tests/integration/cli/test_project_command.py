"""project: a class of the user's own, run over the whole log."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from events.catalogue import SessionDeleted, UsageTotal
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.command_processes import CommandResult, log_digest, run_command
from tests.support.documents import marked
from tests.support.log.event_builders import created, turns

USAGE = marked("example projection")
COUNTS = """
class Base:
    def apply(self, recorded):
        self.seen = getattr(self, "seen", []) + [recorded.position]

class Positions(Base):
    def result(self):
        return self.seen
"""


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Two sessions of alice and mina, with two and three turns, and one of jun that is erased."""
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    try:
        for owner, count in (("alice", 2), ("mina", 3), ("jun", 1)):
            await log.append(owner, 0, (created(owner), *turns(count)), Metadata())
        used = UsageTotal(f"{datetime.now(UTC).year}-01-01", "small", 1, 10, 20)
        await log.erase("jun", 4, SessionDeleted("test", "jun", (used,)), Metadata())
    finally:
        await log.close()
    return tmp_path


async def project(folder: Path, code: str, *arguments: str) -> CommandResult:
    (folder / "mine.py").write_text(code)
    return await run_command(folder, "project", "mine.py", *arguments)


async def test_usage_by_todays_rule_as_the_documents_show_it(folder: Path) -> None:
    before = log_digest(folder)
    assert (await project(folder, USAGE)).json == {}
    told = await project(folder, USAGE.replace(".year - 1)", ".year)"))
    cost = 0.03 * 0.5
    assert told.json == pytest.approx({"alice": 2 * cost, "mina": 3 * cost, "jun": cost}, abs=0.006)  # it rounds
    assert log_digest(folder) == before


async def test_every_event_comes_once_in_order_erased_ones_too(folder: Path) -> None:
    assert (await project(folder, COUNTS)).json == list(range(1, 23))
    assert (await project(folder, COUNTS, "--after", "20")).json == [21, 22]


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("x = 1", 2, "it holds none"),
        (COUNTS + "\nclass Two(Positions): pass", 2, "it holds Positions, Two"),
        ("def f(:", 1, "cannot be imported"),
        ("import events.nowhere", 1, "No module named 'events.nowhere'"),
        (COUNTS + "\n    def __init__(self): 1 / 0", 1, "Positions cannot be made"),
        (COUNTS.replace("return self.seen", "return {(1, 2): self}"), 1, "JSON cannot say it"),
        (COUNTS.replace("return self.seen", "raise KeyError('mine')"), 1, "KeyError: 'mine'"),
    ],
)
async def test_a_file_that_is_no_projection_is_refused_with_the_reason(
    folder: Path, code: str, exit_code: int, words: str
) -> None:
    told = await project(folder, code)
    assert told.returncode == exit_code
    assert words in told.stderr
    assert told.stdout == ""


async def test_a_fault_in_it_is_shown_with_the_event_and_the_line(folder: Path) -> None:
    code = COUNTS.replace("self.seen = ", "assert recorded.position < 9, 'nine'\n        self.seen = ")
    told = await project(folder, code)
    assert told.returncode == 1
    assert re.search(r"failed at position 9 \(message_posted, session mina\)", told.stderr)
    assert "assert recorded.position < 9, 'nine'" in told.stderr
    assert told.stderr.rstrip().endswith("AssertionError: nine")
    assert "events/" not in told.stderr


async def test_a_missing_file_is_named(folder: Path) -> None:
    told = await run_command(folder, "project", "none.py")
    assert (told.returncode, "none.py is no Python file" in told.stderr) == (2, True)

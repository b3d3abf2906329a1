"""A log that a command has not finished is no log to be used: whatever opens it names the command to run again."""

import io
import sqlite3
from argparse import Namespace
from pathlib import Path

import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.maintenance import export_import
from chatbot.cli.maintenance import salvage as salvaging
from chatbot.cli.maintenance.export_import import export_log, import_command, import_file
from chatbot.cli.maintenance.salvage import salvage
from chatbot.cli.remedies import with_remedy
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.factory import open_log
from events.storage.incomplete_log import FORMAT_MIN, LogIncomplete, WritingCommand, writing_command_of
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import FORMAT
from events.transfer.import_target import ImportTarget
from events.transfer.importer import ImportRules
from events.transfer.migration import migrate, open_target
from tests.support.command_processes import run_command
from tests.support.fake_console import FakeConsole
from tests.support.log.log_files import log_with
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.sample_log import content, rows_of
from tests.support.programs.postgres_server import PostgresServer


class PowerCut(Exception):
    """Stops a command."""


async def cut(*_: object, **__: object) -> None:
    raise PowerCut


def console(path: Path) -> FakeConsole:
    return FakeConsole(Settings(database=DatabaseSettings(url=str(path))))


async def exported(path: Path) -> bytes:
    out = io.BytesIO()
    log = await SqliteLog.open(path, read_only=True)
    await export_log(log, None, out)
    await log.close()
    return out.getvalue()


@pytest.fixture(params=["sqlite", "postgres"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "target.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return await server.schema()


async def test_a_target_of_migrate_is_marked_from_its_first_moment(target: Path | str, tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db", "1", "2")
    source = await open_log(tmp_path / "log.db", read_only=True)
    writing = await open_target(target)
    await writing.close()  # killed before a row was written
    for _ in range(2):
        with pytest.raises(LogIncomplete) as refused:
            await open_log(target)
        assert "run the same `chatbot migrate` again" in with_remedy(refused.value)
    writing = await open_target(target)
    assert (await migrate(source, writing, lambda _: None)).events == 2
    await writing.close()
    log = await open_log(target)
    await log.append("a", 2, [posted("3")], ASKED)
    await log.close()
    await source.close()


async def test_a_move_that_has_nothing_to_copy_is_finished_too(target: Path | str, tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db")
    source = await open_log(tmp_path / "log.db", read_only=True)
    writing = await open_target(target)
    assert (await migrate(source, writing, lambda _: None)).events == 0
    await writing.close()
    await source.close()
    await (await open_log(target)).close()


async def test_a_log_that_was_whole_is_marked_only_once_something_is_added(tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db", "1")
    writing = await open_target(tmp_path / "log.db")
    await writing.close()
    await log_with_more(tmp_path / "log.db")


async def log_with_more(path: Path) -> None:
    log = await SqliteLog.open(path)
    await log.append("more", 0, [posted("x")], ASKED)
    await log.close()


@pytest.mark.parametrize("at", ["interrupt_open_replies", "mark_complete"])
async def test_an_import_is_unfinished_until_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await log_with(tmp_path / "log.db", "1", "2")
    data = await exported(tmp_path / "log.db")
    monkeypatch.setattr(export_import, "_sessions_with_open_replies", lambda _: iter(["a"]))
    with monkeypatch.context() as patch:
        patch.setattr(export_import, at, cut)
        with pytest.raises(PowerCut):
            await import_file(io.BytesIO(data), tmp_path / "new.db", ImportRules())
    for again in (ImportRules(), ImportRules(skip_existing=True)):
        with pytest.raises(LogIncomplete) as refused:
            await import_file(io.BytesIO(data), tmp_path / "new.db", again)
        assert "--resume" in with_remedy(refused.value)
    with pytest.raises(LogIncomplete) as refused:
        await SqliteLog.open(tmp_path / "new.db")
    assert "--accept-partial" in with_remedy(refused.value)
    done = await import_file(io.BytesIO(data), tmp_path / "new.db", ImportRules(resume=True))
    assert (done["imported"], done["skipped"]) == (0, 2)
    assert [content(row) for row in await rows_of(tmp_path / "new.db")] == [
        content(row) for row in await rows_of(tmp_path / "log.db")
    ]


async def test_what_an_import_has_written_may_be_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await log_with(tmp_path / "log.db", "1", "2")
    await log_with_more(tmp_path / "mine.db")
    data = await exported(tmp_path / "log.db")
    with monkeypatch.context() as patch:
        patch.setattr(export_import, "mark_complete", cut)
        with pytest.raises(PowerCut):
            await import_file(io.BytesIO(data), tmp_path / "mine.db", ImportRules())
    accepting = Namespace(file=None, accept_partial=True, skip_existing=False, resume=False)
    assert await import_command(console(tmp_path / "mine.db"), accepting) == 0
    assert len(await rows_of(tmp_path / "mine.db")) == 3
    with pytest.raises(CommandFailed, match="no import that was interrupted"):
        await import_command(console(tmp_path / "mine.db"), accepting)
    for file, accept in ((None, False), (tmp_path / "log.ndjson", True)):
        wrong = Namespace(file=file, accept_partial=accept, skip_existing=False, resume=False)
        with pytest.raises(CommandFailed, match="or --accept-partial alone"):
            await import_command(console(tmp_path / "mine.db"), wrong)


async def test_an_import_that_is_refused_marks_nothing(tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db", "1")
    data = await exported(tmp_path / "log.db")
    with pytest.raises(Exception, match="nothing was written"):
        await import_file(io.BytesIO(data), tmp_path / "log.db", ImportRules())
    await log_with_more(tmp_path / "log.db")


@pytest.mark.parametrize("at", ["_close_erased", "mark_complete"])
async def test_a_salvage_that_was_interrupted_starts_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    await log_with(tmp_path / "log.db", "1", "2", "3")
    options = Namespace(source=None, destination=tmp_path / "new.db", rest=tmp_path / "rest")
    with monkeypatch.context() as patch:
        patch.setattr(salvaging, at, cut)
        with pytest.raises(PowerCut):
            await salvage(console(tmp_path / "log.db"), options)
    with pytest.raises(LogIncomplete) as refused:
        await SqliteLog.open(tmp_path / "new.db")
    assert "starts from the beginning" in with_remedy(refused.value)
    assert await salvage(console(tmp_path / "log.db"), options) == 0
    assert len(await rows_of(tmp_path / "new.db")) == 3
    with pytest.raises(CommandFailed, match="salvage writes a new log"):
        await salvage(console(tmp_path / "log.db"), options)


async def test_a_salvage_does_not_replace_one_that_is_still_at_work(tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db", "1")
    at_work = await ImportTarget.open(tmp_path / "new.db", WritingCommand.SALVAGE)
    options = Namespace(source=None, destination=tmp_path / "new.db", rest=None)
    with pytest.raises(Exception, match="in use by process"):
        await salvage(console(tmp_path / "log.db"), options)
    await at_work.close()


async def test_another_commands_unfinished_log_is_not_gone_on_with(tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db", "1")
    begun = await ImportTarget.open(tmp_path / "new.db", WritingCommand.IMPORT)
    await begun.close()
    with pytest.raises(LogIncomplete) as refused:
        await open_target(tmp_path / "new.db")
    assert "chatbot import" in with_remedy(refused.value)
    options = Namespace(source=None, destination=tmp_path / "new.db", rest=None)
    with pytest.raises(CommandFailed, match="exists"):
        await salvage(console(tmp_path / "log.db"), options)


async def test_the_program_refuses_it_with_a_sentence(tmp_path: Path) -> None:
    await (await open_target(tmp_path / "chatbot.db")).close()
    ended = await run_command(tmp_path, PORT="0")
    assert (ended.returncode, "`chatbot migrate` has not finished it" in ended.error_line) == (3, True)
    with sqlite3.connect(tmp_path / "chatbot.db") as database:
        (number,) = database.execute("PRAGMA user_version").fetchone()
    database.close()
    assert number > FORMAT, "version 0.4 takes it for a newer program's log, and refuses it, too"


def test_the_marks_of_the_commands_differ_and_stay() -> None:
    assert [work.format for work in (WritingCommand.MIGRATE, WritingCommand.IMPORT, WritingCommand.SALVAGE)] == [
        1001,
        1002,
        1003,
    ]
    assert [writing_command_of(number) for number in (FORMAT, FORMAT_MIN - 1, FORMAT_MIN + len(WritingCommand))] == [
        None
    ] * 3

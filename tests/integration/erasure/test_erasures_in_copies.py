"""Erasures that come with a copy: imports, resumed imports and salvages leave no content before its session_deleted."""

import asyncio
import io
import json
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from chatbot.cli.maintenance.export_import import export_log, import_file
from chatbot.cli.maintenance.salvage import salvage
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.factory import open_log
from events.integrity.chain_verifier import verify
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_migration_target import SqliteMigrationTarget
from events.transfer.import_target import ImportRefused, ImportTarget
from events.transfer.importer import ImportRules
from events.transfer.migration import migrate
from tests.support.fake_console import FakeConsole
from tests.support.log.log_texts import ALL
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.sample_log import created, is_imported
from tests.support.service import ROOT

SECRET = "a text that should be gone"
TEXTS = 4
RESUME = ImportRules(resume=True)


async def source_of(path: Path, *, erases: bool) -> None:
    """Sessions `gone` and `kept`; the first is deleted, or its deletion lacks the erasure, as in exports of 0.4."""
    log = await SqliteLog.open(path)
    for name in ("gone", "kept"):
        await log.append(name, 0, [created(None)], ASKED)
    for version in range(1, TEXTS + 1):
        await log.append("gone", version, [posted(SECRET)], ASKED)
        await log.append("kept", version, [posted("kept")], ASKED)
    await (log.erase("gone", TEXTS + 1, deleted(), ASKED) if erases else _deleted(log))
    await log.append("kept", TEXTS + 1, [posted("kept after")] * 3, ASKED)
    await log.close()


async def _deleted(log: SqliteLog) -> None:
    await log.append("gone", TEXTS + 1, [deleted()], ASKED)


async def exported(path: Path) -> bytes:
    out = io.BytesIO()
    log = await SqliteLog.open(path, read_only=True)
    await export_log(log, None, out)
    await log.close()
    return out.getvalue()


async def check(path: Path, length: int = 2 * TEXTS + 6) -> None:
    """The log holds, nothing is left of `gone`, also not in the file, and `kept` is whole."""
    log = await open_log(path, read_only=True)
    walk, fault = await verify(log)
    rows = await log.rows(limit=ALL)
    await log.close()
    assert (fault, walk.incomplete_erasures, len(rows)) == (None, [], length)
    assert [row.version for row in rows if row.data is None] == list(range(1, TEXTS + 2))
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("rows_max", [1, 3, 500])
async def test_an_import_erases_what_its_file_still_holds_before_a_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    """With pages of any size: what came with an earlier page, and what comes with the same one."""
    monkeypatch.setattr("events.transfer.importer.ROWS_MAX", rows_max)
    await source_of(tmp_path / "source.db", erases=False)
    data = await exported(tmp_path / "source.db")
    assert data.count(SECRET.encode()) == TEXTS
    (tmp_path / "new").mkdir()
    await import_file(io.BytesIO(data), tmp_path / "new" / "log.db", ImportRules())
    await check(tmp_path / "new" / "log.db")


async def test_a_salvage_erases_what_the_log_still_holds_before_a_deletion(tmp_path: Path) -> None:
    await source_of(tmp_path / "source.db", erases=False)
    (tmp_path / "new").mkdir()
    options = Namespace(source=None, destination=tmp_path / "new" / "log.db", rest=None)
    settings = Settings(database=DatabaseSettings(url=str(tmp_path / "source.db")))
    assert await salvage(FakeConsole(settings), options) == 0
    await check(tmp_path / "new" / "log.db")


class Interrupted(Exception):
    """As by a power cut."""


async def begun(data: bytes, target: Path, monkeypatch: pytest.MonkeyPatch, pages: int = 2) -> None:
    """An import that was interrupted."""
    add, left = ImportTarget.add, [pages]

    async def cut(self: ImportTarget, *arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        await add(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ImportTarget, "add", cut)
        with pytest.raises(Interrupted):
            await import_file(io.BytesIO(data), target, ImportRules())


async def test_resume_refuses_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer export of the same log: its session_deleted would follow texts that are there already."""
    monkeypatch.setattr("events.transfer.importer.ROWS_MAX", 3)
    source, target = tmp_path / "source.db", tmp_path / "log.db"
    log = await SqliteLog.open(source)
    await log.append("gone", 0, [created(None), *[posted(SECRET)] * TEXTS, posted("more")], ASKED)
    await log.close()
    older = await exported(source)
    log = await SqliteLog.open(source)
    await log.erase("gone", TEXTS + 2, deleted(), ASKED)
    await log.close()
    newer = await exported(source)
    await begun(older, target, monkeypatch, pages=1)
    with pytest.raises(ImportRefused, match=f"was of another file .*{json.loads(older.splitlines()[-1])['sha256']}"):
        await import_file(io.BytesIO(newer), target, RESUME)
    assert (await import_file(io.BytesIO(older), target, RESUME))["imported"] == TEXTS - 1
    before = target.read_bytes()
    with pytest.raises(ImportRefused, match=r"6 events of this file are in the log, 1 are not.*--resume"):
        await import_file(io.BytesIO(newer), target, RESUME)
    again = await import_file(io.BytesIO(older), target, RESUME)
    assert (again["imported"], again["skipped"]) == (0, TEXTS + 2)
    log = await SqliteLog.open(target, read_only=True)
    assert all(is_imported(row) and row.data is not None for row in await log.rows(limit=ALL))
    await log.close()
    assert target.read_bytes()[100:] == before[100:]


async def test_resume_of_an_import_that_wrote_nothing_takes_any_file(tmp_path: Path) -> None:
    await source_of(tmp_path / "source.db", erases=True)
    await import_file(io.BytesIO(await exported(tmp_path / "source.db")), tmp_path / "log.db", RESUME)
    await check(tmp_path / "log.db")


KILLED = """
import asyncio, io, os, signal, sys
from pathlib import Path
import events.transfer.importer, events.transfer.migration
from chatbot.cli.maintenance.export_import import import_file
from events.transfer.importer import ImportRules
from events.transfer.migration import migrate
from events.factory import open_log
from events.storage.sqlite.sqlite_migration_target import SqliteMigrationTarget
from events.transfer.import_target import ImportTarget
events.transfer.importer.ROWS_MAX = events.transfer.migration.PAGE_ROWS = 3
what, source, target, pages = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
left = [pages]

def killing(add):
    async def wrapped(self, *arguments):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        await add(self, *arguments)
    return wrapped

ImportTarget.add, SqliteMigrationTarget.add = killing(ImportTarget.add), killing(SqliteMigrationTarget.add)

async def run():
    if what == "import":
        await import_file(io.BytesIO(source.read_bytes()), target, ImportRules())
    else:
        log = await open_log(source, read_only=True)
        await events.transfer.migration.migrate(log, await SqliteMigrationTarget.open(target), lambda position: None)

asyncio.run(run())
"""


@pytest.mark.parametrize(("what", "pages"), [("import", 2), ("import", 4), ("migrate", 2), ("migrate", 4)])
async def test_a_copy_that_is_killed_between_two_pages_ends_as_any_other(tmp_path: Path, what: str, pages: int) -> None:
    """The deletion is in the fourth page."""
    await source_of(tmp_path / "source.db", erases=False)
    data = await exported(tmp_path / "source.db")
    (tmp_path / "log.ndjson").write_bytes(data)
    target = tmp_path / "new" / "log.db"
    target.parent.mkdir()
    source = tmp_path / ("log.ndjson" if what == "import" else "source.db")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, what, str(source), str(target), str(pages), cwd=ROOT
    )
    assert await process.wait() == -signal.SIGKILL
    if what == "import":
        done = await import_file(io.BytesIO(data), target, RESUME)
        assert done["skipped"] == 3 * pages
    else:
        log, writing = await open_log(source, read_only=True), await SqliteMigrationTarget.open(target)
        assert writing.head.position == 3 * pages
        await migrate(log, writing, lambda _: None)
        await writing.close()
        await log.close()
    await check(target)

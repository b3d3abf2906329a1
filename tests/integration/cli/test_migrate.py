"""`run.py migrate`: a log moved up to PostgreSQL and down again, row by row the same."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from chatbot.cli.remedies import with_remedy
from events.errors import MigrationRefused
from events.factory import open_log
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import NotedReferences, check_files
from events.log import EventLog
from events.media import MediaReference, MediaStat
from events.record import Columns, Head, StoredRow
from events.storage.incomplete_log import LogIncomplete
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import TRIGGERS
from events.transfer.migration import MigrationTarget, migrate, open_target
from tests.support.command_processes import run_command
from tests.support.log.log_texts import ALL, fill
from tests.support.log.media import file_bytes, put, read, shown
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.sample_log import rows_of, write_sample_log
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.schema()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.transfer.migration.PAGE_ROWS", 4)


async def rows_at(place: Path | str) -> list[StoredRow]:
    log = await open_log(place, read_only=True)
    try:
        assert (await verify(log))[1] is None
        return await log.rows(limit=ALL)
    finally:
        await log.close()


async def half_at(place: Path | str) -> list[StoredRow]:
    """As `rows_at`, of a target that is not finished, which nothing else opens."""
    with pytest.raises(LogIncomplete) as refused:
        await open_log(place, read_only=True)
    assert "`chatbot migrate` has not finished it" in with_remedy(refused.value)
    with pytest.raises(LogIncomplete):
        await open_log(place)

    async def is_log(*_: object) -> bool:
        return False

    with (
        patch("events.storage.sqlite.sqlite_log.check_format", is_log),
        patch("events.storage.postgres.postgres_log.check_format", is_log),
    ):
        return await rows_at(place)


async def move(source: Path | str, target: Path | str, pages: int | None = None) -> int:
    """What `run.py migrate` does; stopped after `pages`."""
    log = await open_log(source, read_only=True)
    writing = await open_target(target)
    try:
        return (await migrate(log, Stopping(writing, pages), lambda _: None)).events
    finally:
        await writing.close()
        await log.close()


class Stopping(MigrationTarget):
    """A target at which somebody presses Ctrl-C after `pages`."""

    def __init__(self, target: MigrationTarget, pages: int | None) -> None:
        self._target = target
        self._pages = pages

    async def close(self) -> None:
        await self._target.close()

    async def finish_erasures(self) -> None:
        await self._target.finish_erasures()

    async def finish(self) -> None:
        await self._target.finish()

    @property
    def head(self) -> Head:  # type: ignore[override]  # only looked at
        return self._target.head

    async def missing_media(self, digests: Collection[bytes]) -> frozenset[bytes]:
        return await self._target.missing_media(digests)

    async def add_media(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        await self._target.add_media(stat, pieces)

    async def add(self, rows: Sequence[Columns]) -> None:
        if self._pages == 0:
            raise asyncio.CancelledError
        if self._pages is not None:
            self._pages -= 1
        await self._target.add(rows)


async def test_up_and_down_every_row_stays_as_it_was(url: str, tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "log.db")
    rows = await rows_of(tmp_path / "log.db")
    up = await run_command(tmp_path, "migrate", "--from", "log.db", "--to", url)
    assert (up.returncode, up.json["copied"], up.json["position"]) == (0, len(rows), len(rows))
    assert up.json["digest"] == rows[-1].digest.hex()
    assert await rows_at(url) == rows
    down = await run_command(tmp_path, "migrate", "--to", "back.db", DATABASE_URL=url)
    assert (down.returncode, down.json["digest"]) == (0, rows[-1].digest.hex())
    assert await rows_of(tmp_path / "back.db") == rows
    again = await run_command(tmp_path, "migrate", "--from", "log.db", "--to", url)
    assert (again.returncode, again.json["copied"]) == (0, 0)


async def test_a_log_that_was_moved_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "log.db")
    await move(tmp_path / "log.db", url)
    log = await open_log(url)
    head = log.head()
    await log.append("open", 3, [posted("goes on")], ASKED)
    assert log.head().position == head.position + 1
    assert (await verify(log))[1] is None
    await log.close()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_an_interrupted_move_goes_on_where_it_stopped_and_erases_what_was_erased_meanwhile(
    url: str, tmp_path: Path, direction: str
) -> None:
    source, target = (tmp_path / "log.db", url) if direction == "up" else (url, tmp_path / "log.db")
    log = await open_log(source)
    await fill(log, "a", *"123456")
    await fill(log, "b", *"123456")
    await log.close()
    with pytest.raises(asyncio.CancelledError):
        await move(source, target, pages=2)
    assert len(await half_at(target)) == 8
    log = await open_log(source)
    await log.erase("a", 6, deleted(), ASKED)
    await log.append("b", 6, [posted("7")], ASKED)
    await log.close()
    assert await move(source, target) == 6
    rows = await rows_at(target)
    assert [row.data is None for row in rows[:7]] == [True] * 6 + [False]
    assert rows == await rows_at(source)


async def both_ways(url: str, tmp_path: Path, direction: str) -> tuple[Path | str, Path | str]:
    """A source in which session `a`, among others, was deleted, and an empty target."""
    source, target = (tmp_path / "log.db", url) if direction == "up" else (url, tmp_path / "log.db")
    log = await open_log(source)
    await fill(log, "a", *"123456")
    await fill(log, "b", "1")
    await log.close()
    return source, target


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("pages", [1, 2, 3])
async def test_an_erasure_is_in_the_transaction_that_adds_its_event(
    url: str, tmp_path: Path, direction: str, pages: int
) -> None:
    """Wherever the move stops, no content precedes its session_deleted; and a move that is run again ends as usual."""
    source, target = await both_ways(url, tmp_path, direction)
    with pytest.raises(asyncio.CancelledError):
        await move(source, target, pages=1)
    log = await open_log(source)
    await log.erase("a", 6, deleted(), ASKED)
    await log.append("b", 1, [posted(text) for text in "2345678"], ASKED)
    await log.close()
    with pytest.raises(asyncio.CancelledError):
        await move(source, target, pages=pages - 1)
    rows = await half_at(target)
    assert len(rows) == 4 * pages
    if any(row.type == "session_deleted" for row in rows):
        assert all(row.data is None for row in rows[:6])
    await move(source, target)
    assert await rows_at(target) == await rows_at(source)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_content_that_the_source_still_holds_before_its_deletion_is_not_copied(
    url: str, tmp_path: Path, direction: str
) -> None:
    """As version 0.4 left it where a move was stopped and run again: in earlier pages, and in the same one."""
    source, target = await both_ways(url, tmp_path, direction)
    log = await open_log(source)
    await log.append("a", 6, [deleted()], ASKED)
    await log.append("b", 1, [posted("2"), deleted(), posted("after")], ASKED)
    await log.close()
    assert await move(source, target) == len(await rows_at(source))
    assert [row.version for row in await rows_at(target) if row.stream_id == "a" and row.data is None] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert [row.data is None for row in await rows_at(target) if row.stream_id == "b"] == [True, True, False, False]
    back = tmp_path / "back.db"
    await move(target, back)
    assert await rows_at(back) == await rows_at(target)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_move_that_goes_on_finishes_erasures_that_an_older_one_left(
    url: str, tmp_path: Path, direction: str
) -> None:
    source, target = await both_ways(url, tmp_path, direction)
    log = await open_log(source)
    await log.append("a", 6, [deleted()], ASKED)
    await log.close()
    await move(source, target)
    log = await open_log(target)
    await log.append("b", 1, [deleted()], ASKED)  # an event that explains an erasure, without the erasure
    await log.close()
    assert [row.data is None for row in await rows_at(target)] == [True] * 6 + [False] * 3
    await move(target, tmp_path / "copy.db")
    log = await open_log(source)
    await log.append("b", 1, [deleted()], ASKED)
    await log.close()
    with pytest.raises(MigrationRefused):  # another salt, so another log
        await move(source, target)
    assert [row.data is None for row in await rows_at(target)] == [True] * 6 + [False] * 3, "nothing is erased there"
    assert await move(tmp_path / "copy.db", target) == 0
    assert [row.data is None for row in await rows_at(target)] == [True] * 7 + [False] * 2


async def test_a_target_that_holds_another_log_or_more_is_left_alone(url: str, tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "log.db")
    other: EventLog = await open_log(url)
    await fill(other, "open", "another")
    await other.close()
    before = await rows_at(url)
    told = await run_command(tmp_path, "migrate", "--from", "log.db", "--to", url)
    assert (told.returncode, "the target holds another log" in told.stderr) == (1, True)
    assert await rows_at(url) == before
    await move(url, tmp_path / "other.db")
    log = await SqliteLog.open(tmp_path / "other.db")
    await log.append("open", 1, [posted("more")], ASKED)
    await log.close()
    with pytest.raises(MigrationRefused, match="or more of this one"):
        await move(url, tmp_path / "other.db")


async def test_a_file_that_is_served_is_not_moved(url: str, tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await fill(log, "a", "1")
    told = await run_command(tmp_path, "migrate", "--from", "log.db", "--to", url)
    assert (told.returncode, "in use by process" in told.stderr) == (3, True)
    assert (await run_command(tmp_path, "migrate", "--from", "log.db", "--to", "log.db")).returncode == 2
    await log.close()


async def test_a_target_to_which_a_node_appends_meanwhile_is_told(url: str, tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "log.db")
    log = await open_log(tmp_path / "log.db", read_only=True)
    node = await open_log(url)
    writing = await open_target(url)
    await fill(node, "other", "1")
    with pytest.raises(MigrationRefused, match="something else appends to it"):
        await migrate(log, writing, lambda _: None)
    for one in (writing, node, log):
        await one.close()


async def test_a_source_that_does_not_hold_is_copied_no_further_than_it_holds(url: str, tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "log.db")
    rows = await rows_of(tmp_path / "log.db")
    connection = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    for name in TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE events SET data = replace(data, 'words', 'wards') WHERE position = 5")
    connection.close()
    with pytest.raises(MigrationRefused, match="content, salt or commitment was changed"):
        await move(tmp_path / "log.db", url)
    assert await half_at(url) == rows[:4]


async def test_every_command_works_on_postgresql_or_says_why_not(url: str, tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "log.db")
    await move(tmp_path / "log.db", url)
    (tmp_path / "x.ndjson").write_text("")
    works = {
        "verify": ("the log holds", ("verify",)),
        "export": ("", ("export",)),
        "rebuild": ("events folded", ("rebuild",)),
        "replay": ("words of m2", ("replay", "--session", "bobs")),
        "erase": ("bobs", ("erase", "--session", "bobs")),
    }
    refuses = {
        "backup": ("pg_dump", ("backup", "copy.db")),
        "salvage": ("--from", ("salvage", "new.db")),
        "erased": ("VACUUM FULL", ("erased", "--check", "a text to find")),
        "import": ("migrate", ("import", "x.ndjson")),
        "part": ("export all of it", ("export", "--owner", "bob")),
    }
    for says, arguments in works.values():
        told = await run_command(tmp_path, *arguments, DATABASE_URL=url)
        assert (told.returncode, says in told.stdout) == (0, True), (arguments, told)
    for says, arguments in refuses.values():
        told = await run_command(tmp_path, *arguments, DATABASE_URL=url)
        assert (told.returncode, says in told.stderr) == (2, True), (arguments, told)
    events = {row.stream_id: row for row in await rows_at(url)}
    assert events["bobs"].type == "session_deleted"


async def test_files_of_messages_are_moved_up_and_down_and_no_others(url: str, tmp_path: Path) -> None:
    contents = [file_bytes(size, size) for size in (70, 200_000)]
    log = await open_log(tmp_path / "log.db")
    kept, gone = [await put(log, content, holder=str(ASKED.actor)) for content in contents]
    await put(log, file_bytes(9, 9))
    await log.append("a", 0, [shown(kept)], ASKED)
    await log.append("b", 0, [shown(kept, gone)], ASKED)
    await log.erase("b", 1, deleted(), ASKED)
    await log.close()
    for source, target in (("log.db", url), (url, "back.db")):
        done = await run_command(tmp_path, "migrate", "--from", source, "--to", target)
        assert (done.returncode, done.json["copied"]) == (0, 3), done.stderr
        log = await open_log(target if target == url else tmp_path / target, read_only=True)
        noted = NotedReferences()
        assert (await verify(log, ChainVerifier(references=noted)))[1] is None
        report = await check_files(log, noted)
        assert (report.files, report.faults, report.left_bytes) == (1, [], 0)
        assert await read(log, kept.sha256) == contents[0]
        assert await log.media.references(kept.sha256, limit=9) == [MediaReference(1, "a")]
        await log.close()
    out = await run_command(tmp_path, "export", "--output", "out.ndjson", DATABASE_URL=url)
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "out.ndjson").read_bytes().count(b'{"media":') == 1


async def test_a_file_that_is_damaged_in_postgresql_stops_no_move(url: str, tmp_path: Path) -> None:
    log = await open_log(tmp_path / "log.db")
    stat = await put(log, file_bytes(1000))
    await log.append("a", 0, [shown(stat)], ASKED)
    await log.close()
    damage = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    damage.execute("DROP TRIGGER media_chunks_refuse_update")
    damage.execute("UPDATE media_chunks SET data = zeroblob(length(data))")
    damage.close()
    moved = await run_command(tmp_path, "migrate", "--from", "log.db", "--to", url)
    assert (moved.returncode, stat.sha256 in moved.stderr) == (1, True)
    log = await open_log(url, read_only=True)
    assert (log.head().position, await log.media.stat([stat.sha256]), await log.media.left_bytes()) == (1, {}, 0)
    await log.close()

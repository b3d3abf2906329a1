"""`run.py salvage`: what still holds of a damaged log comes out, and nothing else; the rest is named."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatbot.cli.maintenance.salvage import _close_erased
from events.catalogue import HOLDS, HoldAdded, HoldReleased
from events.errors import LogUnusable
from events.record import StoredRow
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.log_recovery import CorruptLog
from tests.support.command_processes import run_command_blocking
from tests.support.log.corruption import (
    alter_row,
    delete,
    flip_bit,
    inner_pages,
    leaf_pages,
    overwrite_page,
    page_of,
    truncate,
)
from tests.support.log.log_files import log_with
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.sample_log import content, imported, rows_of, write_sample_log

STREAMS = 40
EACH = 30


async def fill(path: Path) -> list[StoredRow]:
    """1,200 events in 40 streams, appended in turns, on some 500 pages; its rows."""
    await fill_into(path)
    return await rows_of(path)


async def fill_into(path: Path) -> None:
    log = await SqliteLog.open(path)
    for version in range(EACH):
        await asyncio.gather(
            *(log.append(f"s{n}", version, [posted(f"<{n}.{version}>" + "x" * 1500)], ASKED) for n in range(STREAMS))
        )
    await log.close()


def salvage(folder: Path, *arguments: str) -> dict[str, Any]:
    done = run_command_blocking(folder, "salvage", "new.db", *arguments)
    assert done.returncode in (0, 1), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if told["lost"] else 0)
    return told


def prefixes(rows: list[StoredRow], lost: set[int]) -> list[StoredRow]:
    """The rows before the first lost one of their stream."""
    broken: set[str] = set()
    kept = []
    for row in rows:
        if row.position in lost:
            broken.add(row.stream_id)
        elif row.stream_id not in broken:
            kept.append(row)
    return kept


async def check(folder: Path, rows: list[StoredRow], lost: set[int], told: dict[str, Any]) -> None:
    """The new log has what it should; the report adds up; the damaged file is as it was."""
    kept = prefixes(rows, lost)
    new = await rows_of(folder / "new.db")
    assert [content(row) for row in new] == [content(row) for row in kept]
    assert [int(imported(row).rpartition(":")[2]) for row in new] == [row.position for row in kept]
    assert told["copied"] == len(kept)
    assert told["unreadable"] + told["altered"] == len(lost)
    assert told["left_out"] == len(rows) - len(kept) - len(lost)
    assert {n for one in told["faults"] for n in range(one["first"], one["last"] + 1)} == lost


async def test_a_log_that_is_whole_comes_out_whole(tmp_path: Path) -> None:
    await write_sample_log(tmp_path / "chatbot.db")
    rows = await rows_of(tmp_path / "chatbot.db")
    told = salvage(tmp_path)
    await check(tmp_path, rows, set(), told)
    assert told["lost"] == told["after_gap"] == 0


async def test_torn_pages_cost_the_events_on_them_and_the_later_ones_of_their_sessions(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    rows = await fill(path)
    torn = leaf_pages(path)[40:300:90]
    data = path.read_bytes()
    pages = [data[(page - 1) * 4096 : page * 4096] for page in torn]
    lost = {row.position for row in rows if any(json.loads(row.data or "")["content"][:8].encode() in p for p in pages)}
    for page in torn:
        overwrite_page(path, page)
    before = path.read_bytes()
    told = salvage(tmp_path, "--rest", "rest.ndjson")
    assert len(lost) >= 2 * len(torn)
    assert told["after_gap"] == len(torn)
    await check(tmp_path, rows, lost, told)
    assert path.read_bytes() == before
    rest = [json.loads(line) for line in (tmp_path / "rest.ndjson").read_text().splitlines()]
    kept = {row.position for row in prefixes(rows, lost)}
    assert {one["position"] for one in rest} == {row.position for row in rows} - kept - lost
    assert {one["reason"] for one in rest} == {"an earlier event of its session is lost"}
    assert set(told["sessions"]) == {one["stream_id"] for one in rest}
    assert told["sessions_incomplete"] == len(told["sessions"])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
async def test_of_a_truncated_file_what_is_left_comes_out(tmp_path: Path, share: float) -> None:
    path = tmp_path / "chatbot.db"
    rows = await fill(path)
    truncate(path, share)
    told = salvage(tmp_path)
    new = await rows_of(tmp_path / "new.db")
    originals = {row.position: row for row in rows}
    for row in new:
        assert content(row) == content(originals[int(imported(row).rpartition(":")[2])])
    assert len(new) == told["copied"] > len(rows) * share * 0.9 - 20


def alter_two(path: Path) -> None:
    alter_row(path, "data = '{}'", 100)
    alter_row(path, "recorded_at = 7", 101)


ALTERED: dict[str, tuple[Callable[[Path], object], set[int]]] = {
    "a bit of a text": (lambda path: flip_bit(path, b"<7.3>"), {3 * STREAMS + 8}),
    "content": (lambda path: alter_row(path, "data = replace(data, 'x', 'y')", 100), {100}),
    "commitment": (lambda path: alter_row(path, "commitment = randomblob(32)", 100), {100}),
    "salt": (lambda path: alter_row(path, "salt = randomblob(16)", 100), {100}),
    "time": (lambda path: alter_row(path, "recorded_at = 7", 100), {100}),
    "metadata": (lambda path: alter_row(path, "metadata = '{}'", 100), {100}),
    "metadata that is no JSON": (lambda path: alter_row(path, "metadata = 'x'", 100), {100}),
    "metadata that is no UTF-8": (lambda path: alter_row(path, "metadata = CAST(x'ff' AS TEXT)", 100), {100}),
    "type": (lambda path: alter_row(path, "type = 'session_expired'", 100), {100}),
    "schema version": (lambda path: alter_row(path, "schema_version = 9", 100), {100}),
    "the first": (lambda path: alter_row(path, "recorded_at = 7", 1), {1}),
    "the last": (lambda path: alter_row(path, "recorded_at = 7", STREAMS * EACH), {STREAMS * EACH}),
    "digest": (lambda path: alter_row(path, "digest = randomblob(32)", 100), {100}),
    "digest of the last but one": (
        lambda path: alter_row(path, "digest = randomblob(32)", STREAMS * EACH - 1),
        {STREAMS * EACH - 1, STREAMS * EACH},
    ),
    "content, then time beside it": (
        alter_two, {100, 101}
    ),
    "erased with no reason": (lambda path: alter_row(path, "data = NULL, salt = NULL", STREAMS * EACH), set()),
    "a row gone": (lambda path: delete(path, "position = 100"), {100}),
    "the last before a gap, then one": (lambda path: delete(path, f"position = {STREAMS * EACH - 1}"),
                                        {STREAMS * EACH - 1, STREAMS * EACH}),
}  # fmt: skip


@pytest.mark.parametrize("harm", ALTERED)
async def test_an_altered_event_is_left_and_named_and_its_neighbours_come_out(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "chatbot.db"
    rows = await fill(path)
    do, lost = ALTERED[harm]
    do(path)
    told = salvage(tmp_path, "--rest", "rest.ndjson")
    if harm == "erased with no reason":
        new = await rows_of(tmp_path / "new.db")  # which holds: a session_deleted says why
        assert told["closed"] == 1
        assert (new[-1].type, len(new)) == ("session_deleted", len(rows) + 1)
        return
    await check(tmp_path, rows, lost, told)
    rest = [json.loads(line) for line in (tmp_path / "rest.ndjson").read_text().splitlines()]
    assert len(rest) == told["left_out"] + told["altered"]


async def test_a_session_whose_erasing_event_is_lost_stays_erased_and_the_new_log_holds(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    await write_sample_log(path)
    alter_row(path, "recorded_at = 7", next(r.position for r in await rows_of(path) if r.type == "session_deleted"))
    told = salvage(tmp_path)
    new = [row for row in await rows_of(tmp_path / "new.db") if row.stream_id == "gone"]
    assert told["closed"] == 1
    assert [row.data is None for row in new] == [True, True, True, False]
    assert msgspec.json.decode(new[-1].data or "")["reason"].startswith("salvage")


async def test_forgotten_holds_whose_event_is_lost_make_no_session(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db", command=WritingCommand.SALVAGE)
    await log.append(HOLDS, 0, [HoldAdded("h1", "litigation", owner="mina"), HoldReleased("h1", "settled")], ASKED)
    await log.close()
    await _close_erased(tmp_path / "log.db", [(HOLDS, 2)])
    log = await SqliteLog.open(tmp_path / "log.db", command=WritingCommand.SALVAGE)
    rows = await log.stream_rows(HOLDS, limit=10)
    await log.close()
    assert [(row.type, row.data is None) for row in rows][-2:] == [("hold_released", True), ("holds_forgotten", False)]


async def test_a_fork_keeps_the_texts_that_came_out(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    await write_sample_log(path)
    alter_row(path, "recorded_at = 7", 3)
    told = salvage(tmp_path)
    assert told["without_text"] == 1
    (adopted,) = [r for r in await rows_of(tmp_path / "new.db") if r.type == "history_adopted"]
    assert [one["position"] for one in msgspec.json.decode(adopted.data or "")["messages"]] == [2, 0]


async def test_what_is_left_is_served_once_it_takes_the_logs_place(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    await fill(path)
    overwrite_page(path, page_of(path, b"<3.9>"))
    salvage(tmp_path)
    path.rename(tmp_path / "damaged.db")
    (tmp_path / "new.db").rename(path)
    assert run_command_blocking(tmp_path, "verify").returncode == 0


async def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    await log_with(path, "1")
    (tmp_path / "new.db").write_text("precious")
    assert "new.db exists" in run_command_blocking(tmp_path, "salvage", "new.db").error_line
    assert (tmp_path / "new.db").read_text() == "precious"
    assert "does not exist" in run_command_blocking(tmp_path, "salvage", "other.db", "--from", "none.db").error_line
    (tmp_path / "notes.txt").write_text("my notes\n" * 2000)
    nothing = run_command_blocking(tmp_path, "salvage", "other.db", "--from", "notes.txt")
    assert nothing.returncode == 3
    assert "restore a backup" in nothing.error_line
    assert not (tmp_path / "other.db").exists()


async def test_a_wreck_whose_first_page_is_torn_is_refused(tmp_path: Path) -> None:
    await log_with(tmp_path / "log.db", "1")
    overwrite_page(tmp_path / "log.db", 1)
    with pytest.raises(LogUnusable, match="not even its first pages"):
        CorruptLog(tmp_path / "log.db")


async def test_rows_to_which_no_tree_leads_any_more_are_found_on_their_pages(tmp_path: Path) -> None:
    """Long ones, too, which go on over several pages, and erased ones."""
    path = tmp_path / "chatbot.db"
    log = await SqliteLog.open(path)
    for version in range(40):
        await log.append("long", version, [posted("가" * 371 * version)], ASKED)
    await log.close()
    await fill_into(path)
    rows = await rows_of(path)
    for page in inner_pages(path):
        overwrite_page(path, page)
    told = salvage(tmp_path)
    assert told["lost"] == 0
    await check(tmp_path, rows, set(), told)

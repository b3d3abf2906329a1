"""Files of messages in exports, imports, migrations, salvaged logs and backups: all of them, and no others."""

import hashlib
import io
import json
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from chatbot.cli.maintenance.export_import import ExportedPart, export_log, import_file
from events.catalogue import MessagePosted
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import FileReport, NotedReferences, check_files
from events.integrity.hash_chain import SALT_BYTES, link
from events.log import EventLog
from events.media import COPY_HOLDER, MEDIA_CHUNK_BYTES, MediaReference
from events.schema.parts import Media, ToolResult
from events.storage.incomplete_log import LogIncomplete, WritingCommand
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.changed_rows import with_data
from events.transfer.export_format import (
    EXPORT_CHUNK_BYTES,
    ExportFileError,
    ExportLine,
    to_export_line,
    to_stored_row,
)
from events.transfer.import_target import ImportTarget, mark_complete
from events.transfer.importer import ImportRules
from events.transfer.migration import Migrated, migrate, open_target
from tests.support.command_processes import run_command
from tests.support.log.media import digest_of, file_bytes, put, read, shown
from tests.support.log.sample_events import ASKED, deleted
from tests.support.log.sample_log import created, said

PICTURE = file_bytes(3 * MEDIA_CHUNK_BYTES + 1000, 1)
ICON = file_bytes(700, 2)
GONE = file_bytes(50_000, 3)
UNSENT = file_bytes(60_000, 4)


async def write_log(path: Path) -> None:
    """`alices` shows the picture and the icon, `bobs` has the icon from a tool, `gone` was erased, one was not sent."""
    log = await SqliteLog.open(path)
    picture, icon, gone = [await put(log, content, holder=str(ASKED.actor)) for content in (PICTURE, ICON, GONE)]
    await put(log, UNSENT)
    await log.append("plain", 0, [created(None), *said("m1")], ASKED)
    await log.append("alices", 0, [created("alice"), shown(picture, icon)], ASKED)
    result = ToolResult("call_1", (Media(icon.sha256, "image/png", icon.bytes),))
    answered = MessagePosted("m3", "m2", "tool", "", reply_id="r3", parts=(result,))
    await log.append("bobs", 0, [created("bob"), answered], ASKED)
    await log.append("gone", 0, [created("alice"), shown(gone)], ASKED)
    await log.erase("gone", 2, deleted(), ASKED)
    await log.close()


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    await write_log(tmp_path / "source.db")
    return tmp_path / "source.db"


class Kept(Struct, frozen=True):
    """What a log keeps of files: the content by stream, and what holds what else."""

    shown: dict[str, list[bytes]]
    files: set[str]
    report: FileReport


async def kept_in(log: EventLog) -> Kept:
    """The log must hold."""
    noted = NotedReferences()
    assert (await verify(log, ChainVerifier(references=noted)))[1] is None
    shown: dict[str, list[bytes]] = {}
    files = await log.media.files(limit=100)
    for stat in files:
        content = await read(log, stat.sha256)
        assert digest_of(content) == stat.sha256
        for held in await log.media.references(stat.sha256, limit=100):
            shown.setdefault(held.holder, []).append(content)
    return Kept(shown, {stat.sha256 for stat in files}, await check_files(log, noted))


async def kept_at(path: Path) -> Kept:
    log = await SqliteLog.open(path, read_only=True)
    try:
        return await kept_in(log)
    finally:
        await log.close()


def assert_same_files(kept: Kept) -> None:
    """Those of messages, and not the one that no message has."""
    assert {holder: set(contents) for holder, contents in kept.shown.items()} == {
        "alices": {PICTURE, ICON},
        "bobs": {ICON},
    }
    assert kept.files == {digest_of(PICTURE), digest_of(ICON)}
    assert (kept.report.files, kept.report.faults, kept.report.left_bytes) == (2, [], 0)


async def exported(path: Path, **part: str) -> bytes:
    log = await SqliteLog.open(path, read_only=True)
    try:
        out = io.BytesIO()
        await export_log(log, path, out, ExportedPart(owner=part.get("owner"), session=part.get("session")))
        return out.getvalue()
    finally:
        await log.close()


async def take(data: bytes, path: Path, *, resume: bool = False) -> dict[str, object]:
    return await import_file(io.BytesIO(data), path, ImportRules(resume=resume))


def sealed(lines: list[bytes]) -> bytes:
    """`lines` with a trailer that fits them."""
    text = b"".join(line + b"\n" for line in lines)
    events = sum(b'"position"' in line for line in lines[1:])
    trailer = {"events": events, "sha256": hashlib.sha256(text).hexdigest()}
    return text + json.dumps(trailer, separators=(",", ":")).encode() + b"\n"


async def test_an_export_has_each_file_before_its_first_event_and_an_import_keeps_them(
    source: Path, tmp_path: Path
) -> None:
    data = await exported(source)
    lines = [json.loads(line) for line in data.splitlines()]
    assert lines[0]["version"] == 2
    named = [line["media"]["sha256"] for line in lines if "media" in line]
    assert sorted(named) == sorted([digest_of(PICTURE), digest_of(ICON)])
    assert max(len(line["chunk"]) for line in lines if "chunk" in line) <= EXPORT_CHUNK_BYTES * 4 // 3 + 4
    done = await take(data, tmp_path / "new.db")
    assert (done["without_file"], done["imported"]) == (0, 10)
    assert_same_files(await kept_at(tmp_path / "new.db"))


async def test_an_export_without_files_is_one_that_older_programs_read(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("plain", 0, [created(None), *said("m1")], ASKED)
    await log.close()
    assert json.loads((await exported(tmp_path / "log.db")).splitlines()[0])["version"] == 1


async def test_an_owners_export_has_the_owners_files_alone(source: Path, tmp_path: Path) -> None:
    await take(await exported(source, owner="bob"), tmp_path / "bob.db")
    kept = await kept_at(tmp_path / "bob.db")
    assert (kept.shown, kept.files) == ({"bobs": [ICON]}, {digest_of(ICON)})


async def test_an_import_into_a_log_with_the_same_file_and_uploads_keeps_these(source: Path, tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "new.db")
    await put(log, ICON, holder="carol")
    await log.close()
    await take(await exported(source), tmp_path / "new.db")
    log = await SqliteLog.open(tmp_path / "new.db", read_only=True)
    held = await log.media.references(digest_of(ICON), limit=100)
    assert MediaReference(0, "carol") in held
    assert await log.media.references(digest_of(ICON), limit=100, holder=COPY_HOLDER) == []
    await log.close()


async def test_an_event_whose_file_is_missing_is_imported_without_it_and_counted(source: Path, tmp_path: Path) -> None:
    lines = (await exported(source)).splitlines()[:-1]
    start = next(index for index, line in enumerate(lines) if digest_of(ICON).encode() in line and b'{"media"' in line)
    without = sealed([*lines[:start], *lines[start + 2 :]])
    done = await take(without, tmp_path / "new.db")
    assert done["without_file"] == 2
    kept = await kept_at(tmp_path / "new.db")
    assert kept.shown == {"alices": [PICTURE]}
    (fault,) = kept.report.faults
    assert digest_of(ICON) in fault
    assert "the log does not have it" in fault


async def test_a_file_that_was_changed_cut_or_moved_in_an_export_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    lines = (await exported(source)).splitlines()[:-1]
    start = next(index for index, line in enumerate(lines) if b'{"media"' in line)
    swapped = lines[start + 2 : start + 3] + lines[start + 1 : start + 2]
    changed = {
        "are not those": [*lines[: start + 1], *swapped, *lines[start + 3 :]],
        "no bytes of a file": [*lines[: start + 2], *lines[start + 3 :]],
        "not more than there are": [*lines[: start + 1], b'{"chunk":""}', *lines[start + 1 :]],
        "no log keeps such a file": [lines[0], lines[start].replace(b'"bytes":', b'"bytes":-'), *lines[1:]],
        "names no file": [lines[0], b'{"media":{}}', *lines[1:]],
        "this is no event": [lines[0].replace(b'"version":2', b'"version":1'), *lines[1:]],
    }
    for reason, text in changed.items():
        with pytest.raises(ExportFileError, match=reason):
            await take(sealed(text), tmp_path / "new.db")
        assert not (tmp_path / "new.db").exists()
    whole = await exported(source)
    for size in (whole.index(b'{"chunk"') + 40_000, whole.index(b'{"chunk"')):
        with pytest.raises(ExportFileError, match="cut off here"):
            await take(whole[:size], tmp_path / "new.db")


class Stopped(Exception):
    """Somebody pressed Ctrl-C."""


async def test_an_interrupted_import_goes_on_and_keeps_the_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = await exported(source)
    monkeypatch.setattr("events.transfer.importer.ROWS_MAX", 2)
    writes: list[Callable[..., Awaitable[None]]] = [ImportTarget.add, ImportTarget.add_media]
    stops = 0
    for stop in range(20):
        path, left = tmp_path / f"{stop}.db", [stop]

        def stopping(write: Callable[..., Awaitable[None]], left: list[int] = left) -> Callable[..., Awaitable[None]]:
            async def stop_or_write(*arguments: object) -> None:
                if left[0] == 0:
                    raise Stopped
                left[0] -= 1
                await write(*arguments)

            return stop_or_write

        with monkeypatch.context() as patched:
            for write in writes:
                patched.setattr(ImportTarget, write.__name__, stopping(write))
            with suppress(Stopped):
                await take(data, path)
                break
        stops += 1
        await take(data, path, resume=True)
        assert_same_files(await kept_at(path))
    assert stops == 7  # five pages and two files


async def test_a_partial_import_that_is_accepted_keeps_no_file_without_event(source: Path, tmp_path: Path) -> None:
    target = await ImportTarget.open(tmp_path / "new.db", WritingCommand.IMPORT)
    log = await SqliteLog.open(source, read_only=True)
    (stat,) = (await log.media.stat([digest_of(PICTURE)])).values()
    await target.add_media(stat, log.media.read(stat.sha256))
    await target.close()
    await log.close()
    with pytest.raises(LogIncomplete):
        await SqliteLog.open(tmp_path / "new.db")
    await mark_complete(tmp_path / "new.db", WritingCommand.IMPORT)
    kept = await kept_at(tmp_path / "new.db")
    assert (kept.files, kept.report.left_bytes) == (set(), 0)
    assert PICTURE[1000:1050] not in (tmp_path / "new.db").read_bytes()


async def moved(source: Path, target: Path) -> Migrated:
    """What `chatbot migrate` does."""
    log = await SqliteLog.open(source, read_only=True)
    writing = await open_target(target)
    try:
        return await migrate(log, writing, lambda _: None)
    finally:
        await writing.close()
        await log.close()


async def test_a_migration_takes_the_files_of_messages_with_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.transfer.migration.PAGE_ROWS", 3)
    done = await moved(source, tmp_path / "new.db")
    assert (done.events, done.lost, done.lost_in_all) == (10, [], 0)
    assert_same_files(await kept_at(tmp_path / "new.db"))
    assert (await moved(source, tmp_path / "new.db")).events == 0


def damage_file(path: Path, content: bytes) -> None:
    """Change a byte of a file, past the triggers; a damaged disk does the same."""
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[data.index(content[1000:1048])] ^= 1
    path.write_bytes(data)


def delete_file(path: Path, content: bytes) -> None:
    """Delete a file and what refers to it, past the triggers."""
    with closing(sqlite3.connect(path, isolation_level=None)) as log:
        triggers = log.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            log.execute(f"DROP TRIGGER {name}")
        (media_id,) = log.execute(
            "SELECT id FROM media WHERE sha256 = ?", (bytes.fromhex(digest_of(content)),)
        ).fetchone()
        log.execute("DELETE FROM media_references WHERE media_id = ?", (media_id,))
        log.execute("DELETE FROM media WHERE id = ?", (media_id,))
        for _, sql in triggers:
            log.execute(sql)


@pytest.mark.parametrize("harm", [damage_file, delete_file])
async def test_a_damaged_file_stops_no_copy_is_named_and_is_not_copied(
    source: Path, tmp_path: Path, harm: Callable[[Path, bytes], None]
) -> None:
    harm(source, PICTURE)
    move = await run_command(tmp_path, "migrate", "--from", "source.db", "--to", "moved.db")
    assert move.returncode == 1
    assert "1 files that messages refer to were not" in move.error_line
    assert f"file {digest_of(PICTURE)} is missing or damaged; the event at 5 refers to it" in move.stderr
    rescue = await run_command(tmp_path, "salvage", "rescued.db", "--from", "source.db")
    assert rescue.returncode == 1
    (report,) = rescue.lines
    assert (report["lost"], report["files_lost"], report["files"]) == (0, 1, [digest_of(PICTURE)])
    for name in ("moved.db", "rescued.db"):
        kept = await kept_at(tmp_path / name)
        assert kept.shown == {"alices": [ICON], "bobs": [ICON]}
        assert [digest_of(PICTURE) in fault for fault in kept.report.faults] == [True]
        assert PICTURE[100_000:100_050] not in (tmp_path / name).read_bytes()


async def test_a_salvaged_log_has_the_files(source: Path, tmp_path: Path) -> None:
    done = (await run_command(tmp_path, "salvage", "new.db", "--from", "source.db")).json
    assert (done["lost"], done["files_lost"]) == (0, 0)
    assert_same_files(await kept_at(tmp_path / "new.db"))


async def test_verify_names_the_files_that_do_not_hold(source: Path, tmp_path: Path) -> None:
    good = await run_command(tmp_path, "verify", DATABASE_URL="source.db")
    size = len(PICTURE) + len(ICON) + len(UNSENT)
    assert (good.returncode, good.stdout.splitlines()[1]) == (0, f"3 files of {size:,} bytes hold")
    kept = "1 of these files is an upload that no message refers to; such a file is deleted 24 hours after it was sent"
    assert kept in good.stderr
    copy = await run_command(tmp_path, "backup", "copy.db", DATABASE_URL="source.db")
    assert (copy.returncode, copy.stderr) == (0, "")
    damage_file(source, PICTURE)
    bad = await run_command(tmp_path, "verify", DATABASE_URL="source.db")
    assert bad.returncode == 1
    assert f"file {digest_of(PICTURE)}: its bytes were changed" in bad.stderr
    assert (await run_command(tmp_path, "verify", "--no-files", DATABASE_URL="source.db")).returncode == 0
    copy = await run_command(tmp_path, "backup", "later.db", DATABASE_URL="source.db")
    assert copy.returncode == 0
    assert f"file {digest_of(PICTURE)}: its bytes were changed" in copy.stderr
    delete_file(source, ICON)
    bad = await run_command(tmp_path, "verify", DATABASE_URL="source.db")
    assert "2 files do not hold" in bad.stderr
    assert f"file {digest_of(ICON)}: the event at position 5 refers to it, and the log does not have it" in bad.stderr


async def test_verify_tells_deleted_files_from_uploads_that_wait(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as log:
        triggers = log.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            log.execute(f"DROP TRIGGER {name}")
        (media_id,) = log.execute("SELECT id FROM media WHERE bytes = ?", (len(UNSENT),)).fetchone()
        log.execute("DELETE FROM media_references WHERE media_id = ?", (media_id,))
        log.execute("UPDATE media SET sha256 = NULL, is_unused = 1 WHERE id = ?", (media_id,))
        for _, sql in triggers:
            log.execute(sql)
    verified = await run_command(tmp_path, "verify", DATABASE_URL="source.db")
    assert "60,000 bytes of deleted files are still there; the service deletes them within a minute" in verified.stderr
    assert "is an upload" not in verified.stderr


async def test_verify_finds_references_that_keep_a_file_for_nothing_or_are_missing(source: Path) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as log:
        log.execute("DROP TRIGGER media_references_refuse_delete")
        (media_id,) = log.execute("SELECT id FROM media WHERE bytes = ?", (len(ICON),)).fetchone()
        (picture_id,) = log.execute("SELECT id FROM media WHERE bytes = ?", (len(PICTURE),)).fetchone()
        log.execute("INSERT INTO media_references VALUES (?, 2, 'plain', NULL)", (media_id,))
        log.execute("INSERT INTO media_references VALUES (?, 0, 'x', 1)", (picture_id,))
        log.execute("DELETE FROM media_references WHERE media_id = ? AND position = 5", (picture_id,))
    faults = (await kept_at(source)).report.faults
    assert len(faults) == 2
    assert any("kept for the event at position 2, which does not refer to it" in fault for fault in faults)
    assert any("not kept for the event at position 5, which refers to it" in fault for fault in faults)


def forged(lines: list[bytes], change: Callable[[dict[str, Any]], None]) -> bytes:
    """The export with another event with parts in it, whose hashes fit: as somebody makes it who wants in."""
    digest, out = bytes(32), []
    for line in lines:
        fields = json.loads(line)
        if "position" in fields and "stream_id" in fields:
            row = to_stored_row(msgspec.convert(fields, ExportLine), b"")
            if row.data is not None and row.salt is not None and len(row.salt) > SALT_BYTES:
                data = json.loads(row.data)
                change(data)
                row = with_data(row, msgspec.json.encode(data), random_bytes)
            numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
            digest = link(digest, numbers, (row.stream_id, row.type, row.metadata), row.commitment)
            out.append(msgspec.json.encode(to_export_line(replace(row, digest=digest))))
        else:
            out.append(line)
    header = json.loads(out[0])
    header["digest"] = digest.hex()
    return sealed([json.dumps(header).encode(), *out[1:]])


def random_bytes(count: int) -> bytes:
    return bytes(range(count))


async def test_an_export_with_parts_that_no_log_writes_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    lines = (await exported(source)).splitlines()[:-1]
    changes: dict[str, tuple[str, Any]] = {
        r"parts\[\d\].*\.sha256 must be 64": ("sha256", "zz"),
        r"parts\[\d\].*\.bytes must be at least": ("bytes", 0),
        r"parts\[\d\].*\.name must have between": ("name", "n" * 256),
    }
    assert (await take(forged(lines, lambda _: None), tmp_path / "same.db"))["without_file"] == 0
    for reason, (field, value) in changes.items():

        def change(data: dict[str, Any], field: str = field, value: object = value) -> None:
            last = data["parts"][-1]
            (last["parts"][0] if "parts" in last else last)[field] = value

        with pytest.raises(ExportFileError, match=reason):
            await take(forged(lines, change), tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("media_type", ["image/png\\r\\nX: y", "text", "IMAGE/PNG", "image/" + "x" * 127, "image/é"])
async def test_a_type_of_a_file_that_a_browser_must_not_be_told_is_refused(
    source: Path, tmp_path: Path, media_type: str
) -> None:
    lines = (await exported(source)).splitlines()[:-1]
    start = next(index for index, line in enumerate(lines) if b'{"media":' in line)
    lines[start] = lines[start].replace(b"image/png", media_type.encode())
    with pytest.raises(ExportFileError, match="no log keeps such a file"):
        await take(sealed(lines), tmp_path / "new.db")


async def test_a_damaged_file_cannot_be_exported(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source, isolation_level=None)) as log:
        log.execute("DROP TRIGGER media_chunks_refuse_delete")
        log.execute("DELETE FROM media_chunks WHERE id & 1048575 = 2")
    failed = await run_command(tmp_path, "export", "--output", "out.ndjson", DATABASE_URL="source.db")
    assert (failed.returncode, f"SHA-256 {digest_of(PICTURE)} is damaged" in failed.error_line) == (1, True)
    assert not (tmp_path / "out.ndjson").exists()

"""A picture that a person sent is gone from every file once their session is erased, and stays while others show it."""

import asyncio
from pathlib import Path

import pytest

from events.catalogue import SessionDeleted
from events.media import MediaReference
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.command_processes import CommandResult, run_command
from tests.support.log.media import digest_of, file_bytes, pieces_found, put, read, shown
from tests.support.log.sample_events import ASKED
from tests.support.log.sample_log import created, said

PICTURE = file_bytes(10 * 2**20, 1)
SHARED = file_bytes(300_000, 2)
UNSENT = file_bytes(40, 3)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A log with `theirs`, which shows both pictures, and `others`, which shows one of them."""
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    picture, shared = [await put(log, content, holder=str(ASKED.actor)) for content in (PICTURE, SHARED)]
    await put(log, UNSENT, holder="carol")
    await log.append("theirs", 0, [created("mina"), shown(picture, shared), *said("m2", parent="m")], ASKED)
    await log.append("others", 0, [created("jun"), shown(shared)], ASKED)
    await log.close()
    (tmp_path / "sent").mkdir()
    for name, content in (("picture", PICTURE), ("shared", SHARED), ("unsent", UNSENT), ("zeros", bytes(9_000))):
        (tmp_path / "sent" / name).write_bytes(content)
    return tmp_path


async def check(folder: Path, *names: str) -> CommandResult:
    return await run_command(folder, "erased", *(word for name in names for word in ("--check-file", f"sent/{name}")))


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_ten_megabytes_are_gone_from_every_file_and_the_log_holds(folder: Path) -> None:
    assert pieces_found(PICTURE, bytes_on_disk(folder)) > 2000
    found = await check(folder, "picture")
    assert found.returncode == 1
    assert {line.get("position") for line in found.lines} >= {2}
    assert {line.get("session_id") for line in found.lines} == {None, "theirs"}
    places = [line["file"] for line in found.lines if "offset" in line]
    assert (len(set(places)), len(found.lines)) == (len(places), len(places) + 1), "one for each file, and the event"
    assert max(line.get("pieces", 0) for line in found.lines) == 100
    erased = await run_command(folder, "erase", "--owner", "mina")
    assert (erased.returncode, len(erased.lines)) == (0, 1)
    left = await check(folder, "picture")
    assert (left.returncode, left.stdout) == (0, ""), left.stdout[:300]
    assert pieces_found(PICTURE, bytes_on_disk(folder)) == 0
    verified = await run_command(folder, "verify")
    assert (verified.returncode, verified.stdout.splitlines()[1]) == (0, f"2 files of {300_040:,} bytes hold")
    log = await SqliteLog.open(folder / "chatbot.db", read_only=True)
    assert await read(log, digest_of(SHARED)) == SHARED
    assert await log.media.references(digest_of(SHARED), limit=9) == [MediaReference(6, "others")]
    await log.close()


async def test_a_check_of_several_files_and_texts_names_each(folder: Path) -> None:
    found = await run_command(
        folder, "erased", "--check", "words of m2", "--check-file", "sent/unsent", "--check-file", "sent/picture"
    )
    assert {line["check"] for line in found.lines} == {1, 2, 3}
    (upload,) = [line for line in found.lines if line["check"] == 2 and "owner" in line]
    assert upload == {"check": 2, "file": str(folder / "chatbot.db"), "owner": "carol"}
    assert not any(line.get("is_piece") for line in found.lines if line["check"] == 2), "a small file is searched whole"
    assert (folder / "sent" / "picture").exists()


async def test_a_file_that_cannot_be_told_from_others_or_read_is_refused(folder: Path) -> None:
    (folder / "sent" / "empty").touch()
    for name, reason in (("zeros", "could be told"), ("empty", "could be told"), ("nowhere", "cannot read")):
        refused = await check(folder, name)
        assert (refused.returncode, reason in refused.error_line) == (2, True), refused.stderr
    nothing = await run_command(folder, "erased")
    assert (nothing.returncode, "--check-file" in nothing.error_line) == (2, True)


@pytest.mark.parametrize("kills", [0, 1, 3])
async def test_what_is_left_of_a_file_after_a_crash_goes_when_the_log_is_opened(folder: Path, kills: int) -> None:
    """The session was erased, and the process ended before all bytes of its file were deleted."""
    log = await SqliteLog.open(folder / "chatbot.db")
    erasing = asyncio.create_task(log.erase("theirs", 4, SessionDeleted(reason="asked", owner="mina"), ASKED))
    while not await log.read("theirs", after=4, limit=1):
        await asyncio.sleep(0)
    for _ in range(kills):
        await asyncio.sleep(0)
    erasing.cancel()
    await log.close()
    again = await SqliteLog.open(folder / "chatbot.db")
    await again.media.delete_due(0)
    await again.close()
    assert pieces_found(PICTURE, bytes_on_disk(folder)) == 0
    assert (await check(folder, "picture")).returncode == 0

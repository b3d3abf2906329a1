"""A full disk keeps nobody from being forgotten: room for that is kept aside."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.sessions import disk_reserve
from chatbot.sessions.disk_reserve import DiskReserve
from tests.support.command_processes import run_command
from tests.support.http.service_requests import bytes_on_disk
from tests.support.log.log_files import small_disk
from tests.support.model.model_server import ModelServer
from tests.support.service import program

DISK_KIB = 12 * 1024
KEPT = {"CHATBOT_DATABASE_ERASE_RESERVE_BYTES": "33554432"}  # as by default; the disk can spare less
LONG = "x" * 30_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_KIB) as directory:
        yield directory


def fill(directory: Path) -> Path:
    """Take all the room there is."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk has no end")


async def session_of(client: httpx.AsyncClient, *texts: str, **body: Any) -> str:
    session_id = str((await client.post("/api/sessions", json=body)).json()["session_id"])
    for text in texts:
        assert (await post(client, session_id, text)).status_code == 200
    return session_id


async def post(client: httpx.AsyncClient, session_id: str, text: str) -> httpx.Response:
    return await client.post("/api/chat", json={"session_id": session_id, "message": text})


async def until_refused(client: httpx.AsyncClient, session_id: str) -> None:
    """What room the files still hold is used up."""
    refused = 0
    async with asyncio.timeout(30):
        while refused < 3:
            refused += (await post(client, session_id, LONG)).status_code == 503


async def test_sessions_are_erased_while_nothing_else_can_be_recorded(disk: Path, model: ModelServer) -> None:
    async with program(disk, model.url, **KEPT) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            others = [await session_of(client, f"SECRET {number}", LONG) for number in range(3)]
            person = await session_of(client, "SECRET of 42", metadata={"user_id": "42"})
            origin = await session_of(client, "SHARED")
            fork = (await client.post(f"/api/sessions/{origin}/fork", json={})).json()["session_id"]
            busy = await session_of(client)
            ballast = fill(disk)
            await until_refused(client, busy)
            for session_id in (*others, origin):
                assert (await client.delete(f"/api/sessions/{session_id}")).status_code == 204
            assert (disk / "chatbot.db-reserve").exists(), "for the next one"
            assert (await client.get("/api/sessions")).status_code == 200, "the projections have folded it"
            history = (await client.get(f"/api/sessions/{fork}/messages")).json()["messages"]
            assert [one["content"] for one in history] == ["SHARED", "You said: SHARED"]
        assert running.log("disk.reserve_used")
        await running.stop()
    ballast.unlink()
    fill(disk)  # what stopping gave back
    done = await run_command(disk, "erase", "--metadata", "user_id=42", **KEPT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["session_id"] == person
    assert b"SECRET" not in bytes_on_disk(disk)
    ballast.unlink()
    assert (await run_command(disk, "verify")).returncode == 0


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How much room the disk is said to have."""
    room = {"bytes": 10_000_000}
    monkeypatch.setattr(disk_reserve, "_free", lambda _: room["bytes"])
    return room


async def test_the_reserve_is_given_only_on_a_full_disk_and_taken_again(tmp_path: Path, free: dict[str, int]) -> None:
    file = tmp_path / "log.db-reserve"
    reserve = DiskReserve(tmp_path / "log.db", 500_000)
    await reserve.allocate()
    assert file.stat().st_size == 500_000
    async with reserve.released_if_full() as is_full:
        assert (is_full, file.exists()) == (False, True)
    free["bytes"] = 499_999
    async with reserve.released_if_full() as first:
        assert (first, file.exists()) == (True, False)
        async with reserve.released_if_full() as second:
            assert second
        assert not file.exists(), "one still erases"
    assert file.stat().st_size == 500_000
    with pytest.raises(KeyError):
        async with reserve.released_if_full():
            raise KeyError
    assert file.exists()


async def test_a_small_disk_keeps_an_eighth_at_most(tmp_path: Path, free: dict[str, int]) -> None:
    free["bytes"] = 800_000
    await DiskReserve(tmp_path / "log.db", 500_000).allocate()
    assert (tmp_path / "log.db-reserve").stat().st_size == 100_000
    free["bytes"] = 8 * disk_reserve.MIN_BYTES - 8
    await DiskReserve(tmp_path / "other.db", 500_000).allocate()
    assert not (tmp_path / "other.db-reserve").exists()


async def test_what_does_not_fit_any_more_is_taken_in_part(
    tmp_path: Path, free: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated, reserve = disk_reserve._try_allocate, DiskReserve(tmp_path / "log.db", 400_000)
    await reserve.allocate()
    free["bytes"] = 0
    monkeypatch.setattr(disk_reserve, "_try_allocate", lambda path, size: size < 200_001 and allocated(path, size))
    async with reserve.released_if_full():
        pass
    assert (tmp_path / "log.db-reserve").stat().st_size == 200_000


async def test_without_a_size_or_a_file_there_is_no_reserve(tmp_path: Path) -> None:
    for reserve in (DiskReserve(tmp_path / "log.db", 0), DiskReserve(None, 500_000)):
        await reserve.allocate()
        async with reserve.released_if_full() as is_full:
            assert not is_full
    assert not list(tmp_path.iterdir())

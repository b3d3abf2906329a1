"""A connection in a thread of its own: every call is run and answered, and the thread ends."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from events.storage.sqlite.batched_connection import ThreadConnection


async def opened(tmp_path: Path) -> ThreadConnection:
    return await ThreadConnection.open((tmp_path / "any.db").as_uri())


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "sqlite"]


async def until_no_thread_is_left() -> None:
    async with asyncio.timeout(5):
        while threads():
            await asyncio.sleep(0.01)


async def test_calls_run_in_its_thread_in_order(tmp_path: Path) -> None:
    connection = await opened(tmp_path)
    assert await connection.fetch("SELECT ?", (7,)) == [(7,)]
    ran: list[int] = []
    numbers = await asyncio.gather(*(connection.run(lambda _, n=n: ran.append(n)) for n in range(20)))  # type: ignore[misc]  # default
    assert (ran, len(numbers)) == (list(range(20)), 20)
    (thread,) = threads()
    assert await connection.run(lambda _: threading.current_thread()) is thread
    await connection.close()
    await until_no_thread_is_left()


async def test_what_a_call_raises_is_raised_to_who_asked(tmp_path: Path) -> None:
    connection = await opened(tmp_path)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        await connection.fetch("SELECT missing")
    assert await connection.fetch("SELECT 1") == [(1,)]
    await connection.close()


async def test_a_file_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await ThreadConnection.open((tmp_path / "missing" / "any.db").as_uri())
    await until_no_thread_is_left()


async def test_a_call_whose_caller_is_gone_is_run_all_the_same(tmp_path: Path) -> None:
    connection = await opened(tmp_path)
    may_go_on, ran = threading.Event(), list[int]()

    def slow(_: sqlite3.Connection) -> None:
        may_go_on.wait(5)
        ran.append(1)

    first, second = connection.run(slow), connection.run(slow)
    first.cancel()
    second.cancel()
    may_go_on.set()
    await connection.close()
    assert ran == [1, 1]


async def test_a_close_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    connection = await opened(tmp_path)
    may_go_on = threading.Event()
    _ = connection.run(lambda _: may_go_on.wait(5))
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    may_go_on.set()
    await connection.close()
    await until_no_thread_is_left()


async def test_nothing_runs_on_one_that_is_closed(tmp_path: Path) -> None:
    connection = await opened(tmp_path)
    await connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="is closed"):
        await connection.fetch("SELECT 1")
    await connection.close()


async def test_one_that_nobody_closes_is_reported_and_leaves_no_thread(tmp_path: Path) -> None:
    connection = await opened(tmp_path)
    with pytest.warns(ResourceWarning, match="was not closed"):
        connection.__del__()
    await until_no_thread_is_left()


def test_an_event_loop_that_ends_first_keeps_no_thread(tmp_path: Path) -> None:
    may_go_on = threading.Event()

    async def leave() -> ThreadConnection:
        connection = await opened(tmp_path)
        _ = connection.run(lambda _: may_go_on.wait(5))
        connection.stop()
        return connection

    _ = asyncio.run(leave())
    may_go_on.set()
    for thread in threads():
        thread.join(5)
    assert not threads()

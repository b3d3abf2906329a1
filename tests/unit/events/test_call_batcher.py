"""Questions to one connection: who waits shares a hop, each gets its own answer, nobody is forgotten."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest

from events.errors import LogBusy
from events.storage.sqlite import batched_connection
from events.storage.sqlite.batched_connection import CallableConnection, CallBatcher


class Counting(CallBatcher):
    """Notes how many questions each hop took."""

    hops: list[int]

    async def _run_batch(self, questions):  # type: ignore[no-untyped-def]
        self.hops.append(len(questions))
        return await super()._run_batch(questions)


@pytest.fixture
async def batcher(tmp_path: Path) -> AsyncIterator[Counting]:
    connection = await aiosqlite.connect(tmp_path / "any.db", isolation_level=None, factory=CallableConnection)
    made = Counting(connection, batch_max=3)
    made.hops = []
    yield made
    await made.close()


def number(value: int):  # type: ignore[no-untyped-def]
    return lambda connection: connection.execute("SELECT ?", (value,)).fetchall()[0][0]


async def test_who_waits_shares_a_hop_up_to_its_bound_and_each_gets_its_own_answer(batcher: Counting) -> None:
    assert await asyncio.gather(*(batcher.run(number(value)) for value in range(8))) == list(range(8))
    assert batcher.hops == [1, 3, 3, 1]
    assert await batcher.run(number(8)) == 8  # and the next goes at once


async def test_a_question_is_asked_in_the_thread_of_the_connection(batcher: Counting) -> None:
    names = await asyncio.gather(*(batcher.run(lambda _: threading.get_ident()) for _ in range(3)))
    assert len(set(names)) == 1
    assert names[0] != threading.get_ident()


async def test_an_error_is_told_to_who_asked_and_to_nobody_else(batcher: Counting) -> None:
    def wrong(connection: sqlite3.Connection) -> int:
        return len(connection.execute("SELECT nothing").fetchall())

    for first in (number(1), wrong):
        answers = await asyncio.gather(
            batcher.run(first),
            batcher.run(wrong),
            batcher.run(number(2)),
            batcher.run(number(3)),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers[1:]] == [sqlite3.OperationalError, int, int]


async def test_who_goes_away_disturbs_nobody_and_is_not_answered(batcher: Counting) -> None:
    answered: list[int] = []

    async def asking(value: int) -> None:
        answered.append(await batcher.run(number(value)))

    tasks = [asyncio.create_task(asking(value)) for value in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # whose hop is under way
    tasks[2].cancel()  # who waits
    await asyncio.wait(tasks)
    assert answered == [1, 3]
    assert batcher.hops == [1, 2]


async def test_closing_answers_what_was_asked(tmp_path: Path) -> None:
    batcher = CallBatcher(await aiosqlite.connect(tmp_path / "any.db", factory=CallableConnection), batch_max=2)
    asked = [asyncio.create_task(batcher.run(number(value))) for value in range(7)]
    await asyncio.sleep(0)
    await batcher.close()
    assert await asyncio.gather(*asked) == list(range(7))


async def test_more_than_so_many_are_refused(batcher: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched_connection, "WAITING_MAX", 2)
    answers = await asyncio.gather(*(batcher.run(number(value)) for value in range(4)), return_exceptions=True)
    assert answers[:3] == [0, 1, 2]
    assert isinstance(answers[3], LogBusy)


async def test_a_connection_that_fails_tells_all_who_asked(batcher: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_statement: str, _values: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(batcher.connection, "execute_fetchall", fail)
        answers = await asyncio.gather(*(batcher.run(number(value)) for value in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [sqlite3.OperationalError] * 4
    assert await batcher.run(number(1)) == 1

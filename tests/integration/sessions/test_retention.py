"""Retention: expired sessions are erased by the timer once their expiry is long enough ago, by a clock we move."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from chatbot.llm.provider import Finish
from chatbot.runtime.clock import NextDeadline
from chatbot.sessions import expiry_timer
from chatbot.sessions.domain.commands import SERVICE, Caller, CreateSession, Fork, PostMessage
from chatbot.sessions.expiry_timer import ExpiryTimer
from events.catalogue import Parameters, SessionDeleted
from events.integrity.chain_verifier import verify
from events.record import RecordedEvent
from projections.folds.session import NEVER_US, Session
from projections.sqlite.queries import SqliteQueries
from tests.support.sessions.sessions_harness import SessionsHarness

HOUR_S = 3_600
HOUR_US = HOUR_S * 1_000_000
AFTER_HOURS = 24.0


class World(SessionsHarness):
    """Sessions with an expiry timer, and a log that can be asked what was erased."""

    timer: ExpiryTimer

    def later(self, us: int) -> None:
        """The clock leaps; the timer, which sleeps by the true one, looks at it again."""
        self.now_us += us
        self.timer.notify(0)

    async def history(self) -> list[RecordedEvent]:
        return await self.log.read_all(limit=10_000)

    async def erased(self) -> list[str]:
        return [one.stream_id for one in await self.history() if one.type == "session_deleted"]

    async def made(self, session_id: str, timeout_s: int = HOUR_S) -> None:
        command = CreateSession(None, {"user_id": "SECRET"}, timeout_s, None, None)
        await self.supervisor.ask(session_id, command, Caller())

    async def comes(self, reached: Callable[[list[RecordedEvent]], bool]) -> list[RecordedEvent]:
        """The history, once it is so."""
        async with asyncio.timeout(60):
            while not reached(history := await self.history()):
                await asyncio.sleep(0.02)
        return history


@asynccontextmanager
async def world(folder: Path, after_hours: float = AFTER_HOURS) -> AsyncIterator[World]:
    sessions = World(folder)
    await sessions.open()
    told = sessions.next_deadline
    sessions.timer = ExpiryTimer(sessions.ports, sessions.supervisor.ask, after_hours, next_deadline=told)
    running = asyncio.create_task(sessions.timer.run())
    try:
        yield sessions
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await sessions.close()


def count(history: list[RecordedEvent], kind: str) -> int:
    return sum(one.type == kind for one in history)


async def test_a_session_is_erased_that_long_after_its_expiry_and_not_before(tmp_path: Path) -> None:
    async with world(tmp_path) as sessions:
        await sessions.made("short")
        await sessions.made("long", timeout_s=10 * HOUR_S)
        sessions.later(HOUR_US)
        await sessions.comes(lambda history: count(history, "session_expired") == 1)
        sessions.later(24 * HOUR_US - 2)
        await asyncio.sleep(3 * expiry_timer.SLEEP_MIN_S)
        assert await sessions.erased() == []
        sessions.later(2)
        history = await sessions.comes(lambda history: count(history, "session_deleted") == 1)
        (gone,) = [one for one in history if one.type == "session_deleted"]
        assert (gone.stream_id, gone.metadata.cause, gone.metadata.actor) == ("short", "retention", None)
        assert gone.event == SessionDeleted(reason="retention")
        assert [one.event for one in history if one.stream_id == "short"][:-1] == [None, None]
        assert (await verify(sessions.log))[1] is None
        state = await sessions.runner.queries.session("long")
        assert state is not None
        assert state.status == "expired", "its own time has not come"
    content = b"".join(path.read_bytes() for path in sessions.room.iterdir())
    assert content.count(b"SECRET") == 1


async def test_without_the_setting_nothing_is_ever_erased(tmp_path: Path) -> None:
    async with world(tmp_path, 0.0) as sessions:
        await sessions.made("short")
        sessions.later(100_000 * HOUR_US)
        await sessions.comes(lambda history: count(history, "session_expired") == 1)
        await asyncio.sleep(3 * expiry_timer.SLEEP_MIN_S)
        assert await sessions.erased() == []


async def test_a_backlog_goes_in_bounded_rounds_while_chat_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 2 * expiry_timer.ERASE_BATCH_MAX + 5
    rounds: list[int] = []
    long_expired = SqliteQueries.long_expired

    async def counted(self: SqliteQueries, by_us: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        found = await long_expired(self, by_us, limit=limit, without=without)
        rounds.append(len(found))
        return found

    monkeypatch.setattr(SqliteQueries, "long_expired", counted)
    async with world(tmp_path) as sessions:
        for number in range(many):
            await sessions.made(f"s{number}")
        sessions.later(26 * HOUR_US)
        await sessions.comes(lambda history: count(history, "session_deleted") >= 1)
        began_at = len(await sessions.erased())
        await sessions.made("meanwhile")
        message = PostMessage("m", "r", "hello", Parameters())
        await sessions.supervisor.ask("meanwhile", message, Caller())
        assert began_at < many
        assert len(await sessions.erased()) < many, "chat did not wait for the last of them"
        history = await sessions.comes(lambda history: count(history, "session_deleted") == many)
        assert max(rounds) == expiry_timer.ERASE_BATCH_MAX
        assert "meanwhile" not in {one.stream_id for one in history if one.type == "session_deleted"}


async def test_of_a_round_forks_go_before_what_they_were_made_from(tmp_path: Path) -> None:
    """So no text is copied into a fork that goes next."""
    async with world(tmp_path) as sessions:
        await sessions.made("origin")
        message = PostMessage("m", "r", "hello", Parameters())
        answer = await sessions.supervisor.ask("origin", message, Caller())
        assert answer.reply is not None
        await sessions.until(lambda: bool(sessions.provider.calls), "the model is asked")
        sessions.provider.calls[0].given.put_nowait("an answer")
        sessions.provider.calls[0].given.put_nowait(Finish("stop", "hand-model"))
        await sessions.comes(lambda history: count(history, "reply_completed") == 1)
        await sessions.supervisor.ask("origin", Fork("fork"), SERVICE)
        await sessions.runner.wait_for(sessions.log.head().position)
        sessions.later(26 * HOUR_US)
        history = await sessions.comes(lambda history: count(history, "session_deleted") == 2)
        assert [one.stream_id for one in history if one.type == "session_deleted"] == ["fork", "origin"]
        assert count(history, "message_copied") == 0


async def test_a_session_expires_at_the_deadline_that_it_has_after_its_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry_timer, "SLEEP_MAX_S", float(HOUR_S))  # it does not look again before
    async with world(tmp_path, 0.0) as sessions:
        await sessions.made("busy", timeout_s=1)
        await sessions.supervisor.ask("busy", PostMessage("m", "r", "hello", Parameters()), Caller())
        await sessions.until(lambda: bool(sessions.provider.calls), "the model is asked")
        sessions.later(2 * 1_000_000)
        await asyncio.sleep(3 * expiry_timer.SLEEP_MIN_S)
        assert count(await sessions.history(), "session_expired") == 0
        sessions.provider.calls[0].given.put_nowait("an answer")
        sessions.provider.calls[0].given.put_nowait(Finish("stop", "hand-model"))
        await sessions.comes(lambda history: count(history, "reply_completed") == 1)
        sessions.now_us += 2 * 1_000_000
        await sessions.comes(lambda history: count(history, "session_expired") == 1)


async def test_a_deadline_that_the_timer_is_told_while_it_reads_others_is_kept() -> None:
    deadline, now_us = NextDeadline(), 1_000_000
    deadline.forget()
    deadline.notify(now_us)
    async with asyncio.timeout(30):
        await deadline.sleep(now_us + 60_000_000, lambda: now_us, 60.0)


async def test_a_later_deadline_does_not_wake_the_timer() -> None:
    deadline, now_us = NextDeadline(), 1_000_000
    sleeping = asyncio.create_task(deadline.sleep(now_us + 60_000_000, lambda: now_us, 60.0))
    for told_us in (NEVER_US, now_us + 61_000_000):
        await asyncio.sleep(0)
        deadline.notify(told_us)
        assert not deadline._earlier.is_set()
    deadline.notify(now_us)
    async with asyncio.timeout(30):
        await sleeping

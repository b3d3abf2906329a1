"""Sessions outlive a wall clock that is wrong for a while, with retention and when they are used meanwhile."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from chatbot.runtime.clock import DeadlineClock, Reading
from chatbot.sessions import expiry_timer
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.domain.commands import Caller, CreateSession, RecordAccess
from chatbot.sessions.domain.rejections import SessionExpired
from chatbot.sessions.expiry_timer import ExpiryTimer, open_deadline_clock
from chatbot.sessions.session_queries import SessionQueries
from tests.support.model.model_server import ModelServer
from tests.support.service import serving
from tests.support.sessions.sessions_harness import SessionsHarness

HOUR_S = 3_600
DAY_US = 86_400_000_000


class Machine(SessionsHarness):
    """Sessions whose deadlines go by a DeadlineClock. `wrong_us`: by how much the wall clock is wrong."""

    wrong_us = 0
    boot_us = 0

    def clock(self) -> int:
        """What the log records."""
        return self.now_us + self.boot_us + self.wrong_us

    async def open(self) -> None:
        await super().open()
        self.jumps: list[float] = []
        self.deadlines = DeadlineClock(lambda: Reading(self.clock(), self.boot_us), None, self.jumps.append)
        self.ports = replace(self.ports, clock=self.deadlines)
        await self.supervisor.close()
        self.supervisor = Supervisor(self.ports)
        self.reader = SessionQueries(self.ports, self.supervisor.ask)

    async def made(self, session_id: str) -> None:
        await self.supervisor.ask(session_id, CreateSession(None, {}, HOUR_S, None, None), Caller())

    async def kinds(self) -> set[str]:
        return {one.type for one in await self.log.read_all(limit=1000)}


async def test_a_wrong_clock_expires_nothing_by_timer_read_or_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry_timer, "SLEEP_MIN_S", 0.01)
    machine = Machine(tmp_path)
    await machine.open()
    rounds = 0

    def may_erase() -> bool:
        nonlocal rounds
        rounds += 1
        return machine.deadlines.is_consistent(1)

    timer = ExpiryTimer(machine.ports, machine.supervisor.ask, 1.0, may_erase)
    running = asyncio.create_task(timer.run())
    for name in ("idle", "read", "called"):
        await machine.made(name)
    machine.wrong_us = 2 * DAY_US
    await machine.reader.session("read", Caller())
    await machine.supervisor.ask("called", RecordAccess(), Caller())
    seen = rounds
    async with asyncio.timeout(30):
        while rounds < seen + 6:
            timer.notify(0)
            await asyncio.sleep(0.01)
    machine.wrong_us = 0
    for name in ("idle", "read", "called"):
        assert (await machine.reader.session(name, Caller())).status == "active"
    assert (await machine.kinds()).isdisjoint({"session_expired", "session_deleted"})
    assert machine.jumps == [172_800.0, -172_800.0]
    machine.boot_us += 2 * HOUR_S * 1_000_000
    with pytest.raises(SessionExpired):  # true time expires it all the same
        await machine.supervisor.ask("idle", RecordAccess(), Caller())
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await machine.close()


async def test_the_start_holds_the_clock_against_the_newest_event(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    await machine.open()
    jumps: list[float] = []
    empty = await open_deadline_clock(machine.log, jumps.append)
    machine.wrong_us = 3650 * DAY_US  # recorded ten years ahead of this machine's clock, or more
    await machine.made("a")
    await open_deadline_clock(machine.log, jumps.append)
    assert [seconds < 0 for seconds in jumps] == [True]
    assert empty.is_consistent(0)
    await machine.close()


async def test_a_jump_is_counted_and_logged(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as running:
        clock = cast(Supervisor, running.services.supervisor)._ports.clock
        assert isinstance(clock, DeadlineClock)
        reading = clock._read()
        clock._read = lambda: Reading(reading.wall_us + DAY_US, reading.boot_us)
        clock()
        assert "chatbot_clock_jumps_total 1.0" in (await running.client.get("/metrics")).text

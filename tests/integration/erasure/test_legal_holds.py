"""Legal holds: while one covers a session, nothing of it is erased, whoever asks; afterwards it is."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from chatbot.holds.hold_registry import HoldRegistry
from chatbot.sessions import erasure_job, expiry_timer, stateless_limit
from chatbot.sessions.actor import actor
from chatbot.sessions.domain.commands import SERVICE, Caller, ChangeMetadata, CreateSession, DeleteSession, PostMessage
from chatbot.sessions.domain.rejections import SessionDeleted, SessionHeld, SessionNotFound
from chatbot.sessions.erasure_job import ErasureJob
from chatbot.sessions.expiry_timer import ExpiryTimer
from chatbot.sessions.stateless_limit import StatelessLimit
from events.catalogue import HoldAdded, HoldReleased, Parameters
from events.errors import VersionConflict
from events.record import Metadata
from tests.support.log.forked_log import fork_of, origin_of
from tests.support.sessions.sessions_harness import SessionsHarness

MINA, JUN = Caller("mina"), Caller("jun")
LEGAL = Metadata(actor="lena")
HOUR_US = 3_600_000_000


class World(SessionsHarness):
    """Sessions, and the holds on them."""

    @property
    def holds(self) -> HoldRegistry:
        assert isinstance(self.ports.holds, HoldRegistry)
        return self.ports.holds

    async def make(self, session_id: str, *, kind: str = "", owner: str = "mina", user: str = "42") -> None:
        command = CreateSession(owner, {"user_id": user}, 3_600, None, None, kind=kind)
        await self.supervisor.ask(session_id, command, Caller(owner))

    async def hold(self, **what: object) -> None:
        await self.holds.add(HoldAdded("h1", "litigation", **what), LEGAL)  # type: ignore[arg-type]

    async def release(self) -> None:
        await self.holds.release(HoldReleased("h1", "settled"), LEGAL)

    async def delete(self, session_id: str, caller: Caller = MINA, **command: str) -> None:
        await self.supervisor.ask(session_id, DeleteSession(may_wait=True, **command), caller)  # type: ignore[arg-type]

    async def types(self) -> Counter[str]:
        return Counter(one.type for one in await self.log.read_all(limit=10_000))

    async def until_deleted(self, number: int) -> None:
        async with asyncio.timeout(20):
            while (await self.types())["session_deleted"] < number:
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.open()
    yield world
    await world.close()


@pytest.mark.parametrize("what", [{"session_id": "s1"}, {"owner": "mina"}, {"metadata": {"user_id": "42"}}])
async def test_delete_is_refused_while_the_session_is_held_and_ends_no_reply(
    world: World, what: dict[str, object]
) -> None:
    await world.make("s1")
    await world.make("free", owner="jun", user="7")
    message = PostMessage("m", "r", "hello", Parameters())
    await world.supervisor.ask("s1", message, MINA)
    await world.hold(**what)
    with pytest.raises(SessionHeld, match="litigation") as refused:
        await world.delete("s1")
    assert refused.value.members == {"hold_id": "h1", "reason": "litigation"}
    assert world.supervisor.count_replies() == 1
    assert world.seen.held == 1
    await world.delete("free", JUN)
    await world.release()
    await world.delete("s1")
    with pytest.raises(SessionDeleted):
        await world.delete("s1")


async def test_another_owner_does_not_learn_of_a_hold(world: World) -> None:
    await world.make("s1")
    await world.hold(session_id="s1")
    with pytest.raises(SessionNotFound):
        await world.delete("s1", JUN)


async def test_changed_metadata_do_not_end_a_hold(world: World) -> None:
    await world.make("s1")
    await world.supervisor.ask("s1", ChangeMetadata(metadata={"user_id": None}), MINA)
    await world.hold(metadata={"user_id": "42"})
    with pytest.raises(SessionHeld):
        await world.delete("s1")


async def test_a_hold_that_is_recorded_after_the_decision_and_before_the_erasure_wins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.make("s1")
    true_erase = world.log.erase

    async def held_at_the_last_moment(*arguments: object, **named: object) -> object:
        monkeypatch.setattr(world.log, "erase", true_erase)
        await HoldRegistry(world.log).add(HoldAdded("h1", "litigation", session_id="s1"), LEGAL)
        with pytest.raises(VersionConflict):
            await true_erase(*arguments, **named)  # type: ignore[arg-type]
        raise VersionConflict("holds", 0)

    monkeypatch.setattr(world.log, "erase", held_at_the_last_moment)
    with pytest.raises(SessionHeld):
        await world.delete("s1")
    assert (await world.types())["session_deleted"] == 0


async def test_a_background_erasure_waits_for_the_release_and_keeps_its_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "COPY_INLINE_TEXTS_MAX", 1)
    monkeypatch.setattr(erasure_job, "POLL_S", 0.02)
    adopted = await origin_of(world.log, "origin", 4)
    await fork_of(world.log, "fork", "origin", adopted)
    await world.runner.wait_for(world.log.head().position)
    await world.supervisor.ask(
        "origin", DeleteSession(may_wait=True, reason_code="gdpr-17", ticket="DSR-7"), Caller(any_owner=True)
    )
    await world.hold(session_id="origin")
    job = ErasureJob(world.ports, world.supervisor.ask)
    running = asyncio.create_task(job.run())
    try:
        job.notify()
        await asyncio.sleep(0.2)
        assert job.pending == 0
        assert (await world.types())["session_deleted"] == 0
        assert (await world.types())["message_copied"] == 0
        await world.release()
        await world.until_deleted(1)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    (last,) = await world.log.read("origin", limit=1, backwards=True)
    assert last.event is not None
    assert (last.event.reason_code, last.event.ticket) == ("gdpr-17", "DSR-7")  # type: ignore[union-attr]


async def test_after_a_crash_a_begun_erasure_is_still_held_and_goes_on_after_the_release(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "COPY_INLINE_TEXTS_MAX", 1)
    await fork_of(world.log, "fork", "origin", await origin_of(world.log, "origin", 4))
    await world.runner.wait_for(world.log.head().position)
    await world.supervisor.ask("origin", DeleteSession(may_wait=True), Caller(any_owner=True))
    await world.hold(session_id="origin")
    await world.crash()
    await world.open()
    job = ErasureJob(world.ports, world.supervisor.ask)
    await job._finish_all()
    assert (job.pending, (await world.types())["session_deleted"]) == (0, 0)
    with pytest.raises(SessionHeld):
        await world.supervisor.ask("origin", DeleteSession(), SERVICE)
    await world.release()
    await world.crash()
    await world.open()
    await ErasureJob(world.ports, world.supervisor.ask)._finish_all()
    assert (await world.types())["session_deleted"] == 1
    assert (await world.types())["message_copied"] == 4


async def test_a_held_session_expires_and_is_erased_after_the_release_without_delaying_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry_timer, "ERASE_BATCH_MAX", 2)
    monkeypatch.setattr(expiry_timer, "SLEEP_MIN_S", 0.01)
    for number in range(3):
        await world.make(f"held{number}")
    await world.make("free", owner="jun", user="7")
    await world.hold(owner="mina")
    timer = ExpiryTimer(world.ports, world.supervisor.ask, erase_after_hours=1)
    running = asyncio.create_task(timer.run())
    try:
        world.now_us += HOUR_US
        timer.notify(0)
        async with asyncio.timeout(20):
            while (await world.types())["session_expired"] < 4:
                await asyncio.sleep(0.01)
        world.now_us += HOUR_US
        timer.notify(0)
        await world.until_deleted(1)
        await asyncio.sleep(0.3)
        asked = world.seen.held
        assert 3 <= asked <= 6
        await asyncio.sleep(0.1)
        assert world.seen.held == asked  # it does not ask again and again
        await world.release()
        timer.notify(0)
        await world.until_deleted(4)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_the_limit_of_requests_without_a_conversation_passes_over_held_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stateless_limit, "ERASE_BATCH_MAX", 2)
    for number in range(3):
        await world.make(f"held{number}", kind="stateless")
    for number in range(2):
        await world.make(f"free{number}", kind="stateless", user="7")
    await world.hold(metadata={"user_id": "42"})
    limit = StatelessLimit(world.ports, world.supervisor.ask, 0)
    erased = [await limit.erase_batch() for _ in range(4)]
    assert sum(erased) == 2
    asked = world.seen.held
    assert 3 <= asked <= 6
    assert await limit.erase_batch() == 0
    assert world.seen.held == asked
    await world.release()
    assert sum([await limit.erase_batch() for _ in range(2)]) == 3


async def test_the_services_own_erasures_are_refused_too(world: World) -> None:
    await world.make("s1")
    await world.hold(session_id="s1")
    with pytest.raises(SessionHeld):
        await world.supervisor.ask("s1", DeleteSession("retention"), SERVICE, cause="retention")

"""Legal holds against what the log says: whatever is held, released, deleted, redacted, expired and changed, in
whatever order or at the same time, no event that erases follows a hold that covers its session; and what nothing holds
can be erased.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.holds.hold_registry import HoldRegistry
from chatbot.sessions.actor import actor
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    Caller,
    CancelReply,
    ChangeMetadata,
    CreateSession,
    DeleteSession,
    Expire,
    Fork,
    PostMessage,
    RedactMessage,
)
from chatbot.sessions.erasure_job import ErasureJob
from chatbot.sessions.expiry_timer import ExpiryTimer
from chatbot.sessions.stateless_limit import StatelessLimit
from events.catalogue import (
    ERASURE_TYPES,
    HOLDS,
    HoldAdded,
    HoldReleased,
    HoldsForgotten,
    MetadataChanged,
    Parameters,
    SessionCreated,
)
from events.integrity.chain_verifier import verify
from events.record import Metadata
from events.schema.hold_events import Hold
from tests.support.log.log_texts import ALL
from tests.support.nightly import scaled
from tests.support.sessions.sessions_harness import SessionsHarness

OWNERS, USERS = ("mina", "jun"), ("1", "2")
LEGAL = Metadata(actor="lena")
HOUR_US = 3_600_000_000
ACTIONS = (
    "create",
    "post",
    "redact",
    "redact",
    "fork",
    "rename",
    "hold",
    "hold",
    "release",
    "delete",
    "delete",
    "expire",
    "retain",
    "limit",
    "finish",
    "forget",
)

Step = tuple[str, int, int]
steps = st.lists(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=3),
    max_size=25,
)


class World(SessionsHarness):
    """Each action is tried; whether it is refused is the service's affair."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ids: list[str] = []  # of sessions that exist
        self.made = 0
        self.messages: list[tuple[str, str]] = []  # sessions and messages
        self.hold_ids: list[str] = []

    @property
    def registry(self) -> HoldRegistry:
        return cast(HoldRegistry, self.ports.holds)

    async def start(self) -> None:
        await self.open()
        self.timer = ExpiryTimer(self.ports, self.supervisor.ask, erase_after_hours=1)
        self.job = ErasureJob(self.ports, self.supervisor.ask)
        self.stateless = StatelessLimit(self.ports, self.supervisor.ask, 0)

    async def do(self, step: Step) -> None:
        action, one, two = step
        act: Callable[[int, int], Awaitable[None]] = getattr(self, action)
        with suppress(rejections.Rejection):
            await act(one, two)

    def new_id(self) -> str:
        self.made += 1
        return f"s{self.made}"

    def pick(self, number: int) -> str:
        return self.ids[number % len(self.ids)] if self.ids else "none"

    async def create(self, one: int, two: int) -> None:
        session_id = self.new_id()
        kind = "stateless" if two > 3 else ""
        owner = OWNERS[one % 2]
        command = CreateSession(owner, {"user_id": USERS[two % 2]}, 3_600, None, None, kind=kind)
        await self.supervisor.ask(session_id, command, Caller(owner))
        self.ids.append(session_id)

    async def post(self, one: int, two: int) -> None:
        ids = (f"m{self.log.head().position}-{two}", f"r{self.log.head().position}-{two}")
        await self.supervisor.ask(self.pick(one), PostMessage(*ids, "text", Parameters()), Caller(any_owner=True))

        if two > 2:
            await self.supervisor.ask(self.pick(one), CancelReply(), Caller(any_owner=True))
        self.messages.append((self.pick(one), ids[0]))

    async def redact(self, one: int, two: int) -> None:
        if self.messages:
            session_id, message_id = self.messages[(one * 6 + two) % len(self.messages)]
            await self.supervisor.ask(session_id, RedactMessage(message_id, "leaked"), Caller(any_owner=True))

    async def fork(self, one: int, two: int) -> None:
        session_id = self.new_id()
        await self.supervisor.ask(self.pick(one), Fork(session_id), Caller(OWNERS[two % 2], any_owner=True))
        self.ids.append(session_id)

    async def rename(self, one: int, two: int) -> None:
        command = ChangeMetadata(metadata={"user_id": USERS[two % 2]})
        await self.supervisor.ask(self.pick(one), command, Caller(any_owner=True))

    async def hold(self, one: int, two: int) -> None:
        self.hold_ids.append(f"h{len(self.hold_ids)}")
        held = HoldAdded(self.hold_ids[-1], "litigation", session_id=self.pick(one))
        if two == 0:
            held = HoldAdded(self.hold_ids[-1], "litigation", owner=OWNERS[one % 2])
        if two == 1:
            held = HoldAdded(self.hold_ids[-1], "litigation", metadata={"user_id": USERS[one % 2]})
        await HoldRegistry(self.log).add(held, LEGAL)  # as of another node

    async def release(self, one: int, two: int) -> None:
        active = list((await self.registry.read()).holds)
        if active:
            with suppress(Exception):  # another one released it at the same time
                await self.registry.release(HoldReleased(active[one % len(active)], "settled"), LEGAL)

    async def delete(self, one: int, two: int) -> None:
        await self.supervisor.ask(self.pick(one), DeleteSession(may_wait=two % 2 == 0), Caller(any_owner=True))

    async def expire(self, one: int, two: int) -> None:
        self.now_us += HOUR_US
        for session_id in self.ids:
            with suppress(rejections.Rejection):
                await self.supervisor.ask(session_id, Expire(), Caller(is_service=True), cause="expiry")

    async def retain(self, one: int, two: int) -> None:
        self.now_us += HOUR_US
        await self.caught_up()
        await self.timer._held.refresh()
        await self.timer._erase_due()

    async def limit(self, one: int, two: int) -> None:
        await self.stateless.erase_batch()

    async def finish(self, one: int, two: int) -> None:
        await self.job._finish_all()

    async def forget(self, one: int, two: int) -> None:
        await self.registry.forget(LEGAL)

    async def caught_up(self) -> None:
        await self.runner.wait_for(self.log.head().position)


def covers(hold: HoldAdded | Hold, session_id: str, owner: str | None, users: set[str]) -> bool:
    wanted = (hold.metadata or {}).get("user_id")
    return hold.session_id == session_id or (hold.owner is not None and hold.owner == owner) or wanted in users


async def check_history(world: World, seen: dict[int, object]) -> None:
    """No erasure of a session follows a hold on it that is in force. `seen` keeps events that were erased since; of
    those that were never seen nothing is known.
    """
    owners: dict[str, str | None] = {}
    users: dict[str, set[str]] = {}
    holds: dict[str, HoldAdded | Hold] = {}
    for recorded in await world.log.read_all(limit=ALL):
        event = seen.setdefault(recorded.position, recorded.event) if recorded.event is None else recorded.event
        seen[recorded.position] = event
        stream = recorded.stream_id
        match event:
            case SessionCreated():
                owners[stream] = event.owner
                users[stream] = {event.metadata["user_id"]}
            case MetadataChanged():
                users.setdefault(stream, set()).add(event.metadata["user_id"])
            case HoldAdded():
                holds[event.hold_id] = event
            case HoldReleased():
                holds.pop(event.hold_id, None)
            case HoldsForgotten():
                holds = {hold.hold_id: hold for hold in event.holds}
            case _:
                pass
        if recorded.type in {*ERASURE_TYPES, "message_redacted"} and stream != HOLDS:
            broken = [
                one for one in holds.values() if covers(one, stream, owners.get(stream), users.get(stream, set()))
            ]
            assert not broken, f"event {recorded.position} erases {stream} under {broken}"
    assert (await world.registry.read()).holds.keys() == holds.keys()


@pytest.fixture(autouse=True, scope="module")
def copies_in_background() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(actor, "COPY_INLINE_TEXTS_MAX", 0)
        yield


@given(steps)
@settings(max_examples=scaled(25), deadline=None)
def test_no_erasure_follows_a_hold_and_without_holds_everything_can_go(rounds: list[list[Step]]) -> None:
    async def run(folder: Path) -> None:
        world, seen = World(folder), dict[int, object]()
        await world.start()
        try:
            await world.create(0, 0)
            for round_ in rounds:
                await asyncio.gather(*map(world.do, round_))
                await check_history(world, seen)
            for hold_id in list((await world.registry.read()).holds):
                await world.registry.release(HoldReleased(hold_id, "settled"), LEGAL)
            for session_id in world.ids:
                with suppress(rejections.SessionNotFound):
                    await world.supervisor.ask(session_id, DeleteSession(), Caller(any_owner=True))
            await check_history(world, seen)
            for session_id in world.ids:
                rows = await world.log.stream_rows(session_id, limit=ALL)
                assert all(row.data is None for row in rows[:-1])
                assert not rows or rows[-1].type == "session_deleted"
            assert (await verify(world.log))[1] is None
        finally:
            await world.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))

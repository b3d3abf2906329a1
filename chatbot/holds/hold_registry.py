"""The legal holds of a log: adds and releases them, and says whether a session is held.

Nothing is cached that could be stale: each question first reads what the stream `holds` has got since the last one.
An erasure gives the version that was read to the log, which checks it in the erasing transaction. So a hold that
was recorded before an erasure prevents it, whichever node decides.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from chatbot.holds.hold_state import HoldCheck, HoldState, evolve, find_hold
from events.catalogue import HOLDS, HoldAdded, HoldEvent, HoldReleased, HoldsForgotten, MetadataChanged, SessionCreated
from events.errors import LogUnavailable, VersionConflict
from events.log import EventLog
from events.paging import read_pages
from events.record import Metadata, RecordedEvent, StreamVersion
from events.schema.hold_events import Hold

HOLDS_MAX = 1_000  # in force: each erasure compares its session with all of them, and an append may say them all
PAGE = 500  # events read at once
ROUNDS_MAX = 8  # lost races with other writers of the stream before giving up
CONTENDED = "others keep writing to the holds; try again"


class TooManyHolds(Exception):
    """There are HOLDS_MAX holds: release some, or hold an owner or metadata in place of single sessions."""


class HoldNotFound(Exception):
    """No hold of this id is in force."""


class HoldRegistry:
    """For one log. All methods raise LogUnavailable."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._state = HoldState()
        self._lock = asyncio.Lock()

    async def read(self) -> HoldState:
        """The holds in force now."""
        async with self._lock:
            async for page in read_pages(self._log, HOLDS, after=self._state.version, page_max=PAGE):
                for recorded in page:
                    self._state = evolve(self._state, recorded)
        return self._state

    async def version(self) -> int:
        """The version of the stream: another one after each hold and release."""
        return (await self.read()).version

    async def find(self, session_id: str, owner: str | None, metadata: Mapping[str, Any]) -> HoldCheck:
        """Whether it is held: by its id, its owner, its present `metadata`, or metadata that it had earlier."""
        state = await self.read()
        hold = find_hold(state, session_id, owner, metadata)
        if hold is None and any(one.metadata for one in state.holds.values()):
            hold = await self._find_by_past_metadata(state, session_id, owner)
        return HoldCheck(hold, StreamVersion(HOLDS, state.version))

    async def _find_by_past_metadata(self, state: HoldState, session_id: str, owner: str | None) -> Hold | None:
        """Reads the session's whole stream, which is about to be erased."""
        async for page in read_pages(self._log, session_id, after=0, page_max=PAGE):
            for recorded in page:
                if isinstance(recorded.event, SessionCreated | MetadataChanged):
                    hold = find_hold(state, session_id, owner, recorded.event.metadata)
                    if hold is not None:
                        return hold
        return None

    async def add(self, added: HoldAdded, origin: Metadata) -> Hold:
        """Record the hold. Raises TooManyHolds."""

        def decide(state: HoldState) -> HoldEvent:
            if len(state.holds) >= HOLDS_MAX:
                raise TooManyHolds(f"there are {HOLDS_MAX} holds already: release some")
            return added

        await self._record(decide, origin)
        held = added.hold_id
        return self._state.holds.get(held) or Hold(held, added.reason, 0)  # released by another one already

    async def release(self, released: HoldReleased, origin: Metadata) -> Hold:
        """End the hold. Returns it as it was. Raises HoldNotFound."""
        ended: list[Hold] = []

        def decide(state: HoldState) -> HoldEvent:
            hold = state.holds.get(released.hold_id)
            if hold is None:
                raise HoldNotFound(f"no hold {released.hold_id} is in force")
            ended[:] = [hold]
            return released

        await self._record(decide, origin)
        return ended[0]

    async def forget(self, origin: Metadata) -> RecordedEvent | None:
        """Erase what the log says of released holds, for good. None: it says nothing of any."""
        for _ in range(ROUNDS_MAX):
            state = await self.read()
            if not state.released:
                return None
            forgotten = HoldsForgotten(tuple(state.holds.values()))
            try:
                (recorded,) = await self._log.erase(HOLDS, state.version, forgotten, origin)
            except VersionConflict:
                continue
            await self.read()
            return recorded
        raise LogUnavailable(CONTENDED)

    async def _record(self, decide: Callable[[HoldState], HoldEvent], origin: Metadata) -> None:
        for _ in range(ROUNDS_MAX):
            state = await self.read()
            try:
                await self._log.append(HOLDS, state.version, [decide(state)], origin)
            except VersionConflict:
                continue
            await self.read()
            return
        raise LogUnavailable(CONTENDED)

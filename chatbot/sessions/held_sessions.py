"""The sessions whose erasure was refused because of a legal hold. Without this a background task would ask for the same
ones again and again, and for no others.
"""

from collections.abc import Awaitable, Callable, Sequence

HELD_MAX = 100_000  # sessions; a query that leaves out so many takes some 20 ms


class HeldSessions:
    """Of one task. `holds_version` is that of `Holds`."""

    def __init__(self, holds_version: Callable[[], Awaitable[int]]) -> None:
        self._holds_version = holds_version
        self._version = 0
        self._held: dict[int, None] = {}

    @property
    def numbers(self) -> Sequence[int]:
        """The positions of their session_created, in a new tuple."""
        return tuple(self._held)

    async def refresh(self) -> None:
        """Forget the sessions if a hold was added or released since: ask for them again. Raises LogUnavailable."""
        if not self._held:
            return  # nearly always: nothing is read
        version = await self._holds_version()
        if version != self._version:
            self._version = version
            self._held.clear()

    def add(self, no: int) -> None:
        """The erasure of this session was refused. Of too many, the earliest are forgotten and asked for again."""
        self._held[no] = None
        if len(self._held) > HELD_MAX:
            del self._held[next(iter(self._held))]

    def __contains__(self, no: int) -> bool:
        return no in self._held

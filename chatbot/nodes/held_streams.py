"""The streams that this process holds: it is told of what other processes append to these, and of nothing else.

Held are the sessions with feeds or mirrors here, those in which a reply of this process waits for another process's,
and those in which a reply of this process has run for a while. A shorter one needs no hold: its next append finds what
others have recorded, by a conflict; and every process is told of removed content.
"""

import asyncio
import time
from collections.abc import Callable

from events.log import EventLog

REPLY_HELD_AFTER_S = 2.0  # a hold for each turn would cost more than it is worth
CHECK_S = 1.0  # between checks which replies have run for so long


class HeldStreams:
    """Counts who needs a stream, and holds it in the log from the first to the last. `timer`: monotonic seconds."""

    def __init__(self, log: EventLog, timer: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._timer = timer
        self._counts: dict[str, int] = {}
        self._replying: dict[str, float | None] = {}  # sessions with replies: when to hold them; None: they are held
        self._has_begun = asyncio.Event()  # a reply, since the last check

    def hold(self, stream_id: str) -> None:
        """One more needs the stream."""
        count = self._counts.get(stream_id, 0)
        self._counts[stream_id] = count + 1
        if not count:
            self._log.hold(stream_id)

    def release(self, stream_id: str) -> None:
        """One of those that need the stream has ended."""
        count = self._counts.pop(stream_id) - 1
        if count:
            self._counts[stream_id] = count
        else:
            self._log.release(stream_id)

    def begin_replies(self, session_id: str, *, is_waiting: bool) -> None:
        """As Cluster.begin_replies."""
        self._has_begun.set()
        due_s = self._replying.setdefault(session_id, self._timer() + REPLY_HELD_AFTER_S)
        if is_waiting and due_s is not None:
            self._replying[session_id] = None
            self.hold(session_id)

    def end_replies(self, session_id: str) -> None:
        """As Cluster.end_replies."""
        if self._replying.pop(session_id, 0.0) is None:
            self.release(session_id)

    def hold_long_replies(self) -> None:
        """Hold the sessions whose replies have run for long."""
        now_s = self._timer()
        for session_id in [one for one, due_s in self._replying.items() if due_s is not None and due_s <= now_s]:
            self.begin_replies(session_id, is_waiting=True)

    async def run(self) -> None:
        """Check while replies run, until cancelled."""
        while True:
            await self._has_begun.wait()
            self._has_begun.clear()
            while self._replying:
                await asyncio.sleep(CHECK_S)
                self.hold_long_replies()

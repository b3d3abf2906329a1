"""The expiry timer: one timer for all deadlines. Each session decides by its own state whether it expires.

With a retention setting it also has sessions erased that have expired long ago.
"""

import asyncio
from collections.abc import Callable

from chatbot.runtime.clock import DeadlineClock, NextDeadline, system_reading
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, DeleteSession, Expire
from chatbot.sessions.held_sessions import HeldSessions
from chatbot.sessions.ports import AskSession, RetentionPorts
from events.errors import LogUnavailable
from events.log import EventLog
from projections.errors import ProjectionError

SLEEP_MAX_S = 60.0  # a clock that jumps is noticed within this time
SLEEP_MIN_S = 0.5  # between rounds: a session that refuses to expire must not busy-loop
EXPIRE_BATCH_MAX = 64  # sessions per query, expired one by one; then the projections must catch up
EXPIRE_REST = 16.0  # seconds of rest per second of expiring: chat's commits wait for these
FOLLOWER_PAUSE_S = 2.0  # after a deadline, in which the worker that leads expires the session
ERASE_BATCH_MAX = 32  # sessions erased one by one before the timer sleeps, which leaves the disk to chat
RETENTION = "retention"  # the reason and the cause that are recorded


class ExpiryTimer:
    """Sleeps until the next deadline and sends `Expire` to the sessions that are due.

    `erase_after_hours`: how long after its expiry a session is erased; 0: never. None is erased while `may_erase()` is
    False. `is_leader`: whether this is the one process of several on a machine that does the work; the others only do
    what it leaves. `next_deadline` is told of sessions whose replies have ended.
    """

    def __init__(
        self,
        ports: RetentionPorts,
        ask: AskSession,
        erase_after_hours: float = 0.0,
        may_erase: Callable[[], bool] = lambda: True,
        is_leader: Callable[[], bool] = lambda: True,
        next_deadline: NextDeadline | None = None,
    ) -> None:
        self._next = next_deadline or NextDeadline()
        self._may_erase = may_erase
        self._is_leader = is_leader
        self._ports = ports
        self._ask_session = ask
        self._erase_after_us = round(erase_after_hours * 3_600_000_000)
        self._held = HeldSessions(ports.holds.version)
        self._throttle = DutyCycleThrottle(EXPIRE_REST)

    def notify(self, deadline_us: int) -> None:
        """As NextDeadline.notify."""
        self._next.notify(deadline_us)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self._next.forget()
                await self._ports.runner.wait_for(self._ports.log.head().position)
                await self._held.refresh()
                await self._next.sleep(self._bounded(await self._deadline()), self._ports.clock, SLEEP_MAX_S)
                if not self._is_leader():  # it may not know of this deadline: then the session is still due afterwards
                    await asyncio.sleep(FOLLOWER_PAUSE_S)
                await self._expire_due()
                await self._erase_due()
            except ProjectionError as error:  # being rebuilt, or stopped
                self._ports.logger.warning("expiry.waits", reason=str(error))
                await asyncio.sleep(SLEEP_MIN_S)
            except Exception as error:  # the timer must not die: the next round tries again
                self._ports.logger.exception("expiry.failed", error=type(error).__name__)
                await asyncio.sleep(SLEEP_MIN_S)

    async def _deadline(self) -> int | None:
        """The time of the next expiry or erasure, in microseconds."""
        expires_us = await self._ports.queries.next_deadline()
        if not self._erase_after_us or not self._may_erase() or not self._is_leader():
            return expires_us
        oldest_us = await self._ports.queries.oldest_expired(without=self._held.numbers)
        erases_us = None if oldest_us is None else oldest_us + self._erase_after_us
        return min((at_us for at_us in (expires_us, erases_us) if at_us is not None), default=None)

    def _bounded(self, deadline_us: int | None) -> int:
        """When to look again."""
        now_us = self._ports.clock()
        least_us, most_us = now_us + round(SLEEP_MIN_S * 1e6), now_us + round(SLEEP_MAX_S * 1e6)
        return most_us if deadline_us is None else min(max(deadline_us, least_us), most_us)

    async def _expire_due(self) -> None:
        while due := await self._ports.queries.due(self._ports.clock(), limit=EXPIRE_BATCH_MAX):
            for session in due:
                await self._throttle.wait()
                with self._throttle.measure():
                    await self._expire(session.session_id)
            await self._ports.runner.wait_for(self._ports.log.head().position)
            if len(due) < EXPIRE_BATCH_MAX:
                return

    async def _expire(self, session_id: str) -> None:
        try:
            await self._ask_session(session_id, Expire(), SERVICE, cause="expiry")
        except rejections.Rejection as refused:
            self._ports.logger.debug("expiry.refused", reason=type(refused).__name__)

    async def _erase_due(self) -> None:
        """One batch of erasures; if more are due, the next sleep is the shortest."""
        if not self._erase_after_us or not self._may_erase() or not self._is_leader():
            return
        by_us = self._ports.clock() - self._erase_after_us
        due = await self._ports.queries.long_expired(by_us, limit=ERASE_BATCH_MAX, without=self._held.numbers)
        # Newest first: a fork is newer than its origin, so no text is copied into a fork that is erased next.
        erased = 0
        due = [one for one in due if one.erasure is None]  # the erasure job finishes those that DELETE has begun
        for session in sorted(due, key=lambda one: one.no, reverse=True):
            try:
                await self._ask_session(session.session_id, DeleteSession(RETENTION), SERVICE, cause=RETENTION)
                erased += 1
            except rejections.SessionHeld:
                self._held.add(session.no)  # until a hold is released
            except (rejections.Rejection, LogUnavailable) as refused:
                self._ports.logger.warning("retention.refused", reason=type(refused).__name__)
        if erased:
            self._ports.logger.info("retention.erased", sessions=erased)
            await self._ports.runner.wait_for(self._ports.log.head().position)


async def open_deadline_clock(log: EventLog, on_jump: Callable[[float], None]) -> DeadlineClock:
    """The clock of this machine, checked against the log's newest event. Raises LogUnavailable."""
    newest = await log.rows(after=log.head().position - 1, limit=1)
    return DeadlineClock(system_reading, newest[0].recorded_at_us if newest else None, on_jump)

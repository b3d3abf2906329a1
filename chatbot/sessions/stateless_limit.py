"""Bounds what is kept of requests without a conversation: where an API key has too much, the oldest are erased."""

import asyncio
from collections.abc import Callable

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, DeleteSession
from chatbot.sessions.held_sessions import HeldSessions
from chatbot.sessions.ports import AskSession, Ports
from events.errors import LogUnavailable
from projections.errors import ProjectionError

CHECK_S = 10.0  # between checks: what comes meanwhile may be kept above the limit
ERASE_BATCH_MAX = 32  # sessions erased one by one before the next check; then that comes soon
BATCH_PAUSE_S = 0.5  # leaves the disk to chat
WARNING_S = 60.0  # at most one warning in that time
REASON = "stateless_limit"  # the recorded reason and cause


class StatelessLimit:
    """Erases sessions of requests without a conversation and of tasks, of each API key the oldest ones that have ended,
    until it has at most `bytes_max` of them. `is_leader` as for ExpiryTimer.
    """

    def __init__(
        self, ports: Ports, ask: AskSession, bytes_max: int, is_leader: Callable[[], bool] = lambda: True
    ) -> None:
        self._ports = ports
        self._ask_session = ask
        self._bytes_max = bytes_max
        self._is_leader = is_leader
        self._held = HeldSessions(ports.holds.version)
        self._warned_s = -WARNING_S
        self._unreported = 0  # erased since the last warning

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            erased = 0
            try:
                if self._is_leader():
                    erased = await self.erase_batch()
            except (ProjectionError, LogUnavailable) as error:
                self._ports.logger.warning("stateless.waits", reason=str(error))
            except Exception as error:  # the task must not die: the next round tries again
                self._ports.logger.exception("stateless.failed", error=type(error).__name__)
            await asyncio.sleep(BATCH_PAUSE_S if erased == ERASE_BATCH_MAX else CHECK_S)

    async def erase_batch(self) -> int:
        """Erase some of what is too much; returns how many sessions. Raises ProjectionError, LogUnavailable."""
        await self._ports.runner.wait_for(self._ports.log.head().position)
        await self._held.refresh()
        erased, held = 0, self._held.numbers
        for session in await self._ports.queries.above_limit(self._bytes_max, limit=ERASE_BATCH_MAX, without=held):
            try:
                await self._ask_session(session.session_id, DeleteSession(REASON, may_wait=True), SERVICE, cause=REASON)
            except rejections.SessionHeld:
                self._held.add(session.no)  # until a hold is released
            except rejections.Rejection as refused:  # another process was faster, or the service is busy
                self._ports.logger.debug("stateless.refused", reason=type(refused).__name__)
            else:
                erased += 1
                self._ports.observer.erased_early()
        self._unreported += erased
        if self._unreported and self._ports.timer() - self._warned_s >= WARNING_S:
            self._ports.logger.warning("stateless.erased_early", sessions=self._unreported, bytes_max=self._bytes_max)
            self._warned_s, self._unreported = self._ports.timer(), 0
        return erased

"""Background erasure of deleted sessions whose texts many forks read: first the texts are copied into the forks.

Meanwhile the session is closed to all callers. The pending erasure is on record: after a crash any process that serves
the log continues it, from the first text that is not copied yet.
"""

import asyncio
from contextlib import suppress

from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.actor.forks import copy_texts_to_forks
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, Caller, Command, DeleteSession
from chatbot.sessions.held_sessions import HeldSessions
from chatbot.sessions.ports import AskSession, Ports
from events.errors import LogUnavailable
from projections.errors import ProjectionError
from projections.folds.session import Session

POLL_S = 30.0  # between checks for work of dead nodes, and before a failed erasure is retried
PAGE = 100  # sessions per query
REST = 1.0  # seconds of rest per second of copying: half of the time is left to requests
CAUSE = "erasure"  # what is recorded in the envelope of session_deleted


class ErasureJob:
    """One task that finishes the erasures begun by this node or by dead nodes. `pending` counts those left."""

    def __init__(self, ports: Ports, ask: AskSession) -> None:
        self.pending = 0
        self._ports = ports
        self._ask_session = ask
        self._throttle = DutyCycleThrottle(REST)
        self._held = HeldSessions(ports.holds.version)
        self._wake = asyncio.Event()

    def notify(self) -> None:
        """An erasure has begun."""
        self.pending += 1  # until the next round counts them
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._finish_all()
            except (ProjectionError, LogUnavailable) as error:
                self._ports.logger.warning("erasure.waits", reason=str(error))
            except Exception as error:  # the task must not die: the next round tries again
                self._ports.logger.exception("erasure.failed", error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()

    async def _finish_all(self) -> None:
        await self._ports.runner.wait_for((await self._ports.log.latest()).position)
        await self._held.refresh()
        after, failed = 0, 0
        while page := await self._ports.queries.erasing(limit=PAGE, after=after):
            after = page[-1].no
            ours = [one for one in page if one.no not in self._held and await self._is_ours(one)]
            self.pending = failed + len(ours)
            for session in ours:
                failed += not await self._finish(session)
        self.pending = failed

    async def _is_ours(self, session: Session) -> bool:
        node = session.erasure.node if session.erasure is not None else None
        return node == self._ports.rules.owner_node or await self._ports.cluster.is_gone(node)

    async def _finish(self, session: Session) -> bool:
        """Whether its content is erased; a refusal may be temporary. Raises ProjectionError, LogUnavailable."""
        erasure = session.erasure
        if erasure is None:
            return True
        try:
            await self._check_holds(session)
            async with self._ports.reserve.released_if_full():
                await copy_texts_to_forks(self._ports, session, self._ask_throttled)
            await self._ask_session(session.session_id, DeleteSession(erasure.reason), SERVICE, cause=CAUSE)
        except rejections.SessionDeleted:  # by another node, or by the command erase
            return True
        except rejections.SessionHeld:
            self._held.add(session.no)  # it stays deleted, and its content is kept until the hold is released
            self._ports.logger.info("erasure.held")
            return True
        except (rejections.Rejection, rejections.ActorFailed) as refused:
            self._ports.logger.warning("erasure.refused", reason=type(refused).__name__)
            return False
        self._ports.logger.info("erasure.done")
        return True

    async def _check_holds(self, session: Session) -> None:
        """Before texts are copied in vain. Raises SessionHeld, LogUnavailable."""
        hold = (await self._ports.holds.find(session.session_id, session.owner, {})).hold
        if hold is not None:
            raise rejections.SessionHeld(session.session_id, hold.hold_id, hold.reason)

    async def _ask_throttled(
        self,
        session_id: str,
        command: Command,
        caller: Caller,
        *,
        if_versions: frozenset[int] | None = None,
        cause: str | None = None,
    ) -> CommandResult:
        await self._throttle.wait()
        with self._throttle.measure():
            return await self._ask_session(session_id, command, caller, if_versions=if_versions, cause=cause)

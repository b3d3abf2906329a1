"""Erasures that DELETE has begun and could not finish at once: texts that forks read are copied into them first.

The session is closed to everybody meanwhile, and what is to be done is on record: whoever serves the log after a crash
goes on with it, from the first text that is not copied yet.
"""

import asyncio
from contextlib import suppress
from typing import Any

from chatbot.sessions import errors
from chatbot.sessions.commands import SERVICE, DeleteSession
from chatbot.sessions.forking import hand_over
from chatbot.sessions.leisure import Leisure
from chatbot.sessions.ports import Ports
from chatbot.sessions.supervisor import Supervisor
from events.errors import LogUnavailable
from projections.errors import ProjectionError
from projections.session import Session

LOOK_S = 30.0  # between looks at what other nodes have left, and before the next attempt at what failed
PAGE = 100  # sessions looked up at once
REST = 1.0  # seconds of rest for each second of copying: half of the time is for who waits for an answer
CAUSE = "erasure"  # what is recorded in the envelope of session_deleted


class Erasures:
    """One task that finishes what DELETE has begun here, or at a node that is gone. `pending` is how many are left."""

    def __init__(self, ports: Ports, supervisor: Supervisor) -> None:
        self.pending = 0
        self._ports = ports
        self._supervisor = supervisor
        self._leisure = Leisure(REST)
        self._begun = asyncio.Event()

    def nudge(self) -> None:
        """One has just begun."""
        self.pending += 1  # until the next look counts them
        self._begun.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._begun.clear()
            try:
                await self._finish_all()
            except (ProjectionError, LogUnavailable) as error:
                self._ports.logger.warning("erasure.waits", reason=str(error))
            except Exception as error:  # the task must not die: the next look tries again
                self._ports.logger.exception("erasure.failed", error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._begun.wait()

    async def _finish_all(self) -> None:
        await self._ports.runner.wait_for((await self._ports.log.latest()).position)
        after, failed = 0, 0
        while page := await self._ports.queries.erasing(limit=PAGE, after=after):
            after = page[-1].no
            ours = [one for one in page if await self._is_ours(one)]
            self.pending = failed + len(ours)
            for session in ours:
                failed += not await self._finish(session)
        self.pending = failed

    async def _is_ours(self, session: Session) -> bool:
        node = session.erasure.node if session.erasure is not None else None
        return node == self._ports.rules.owes or await self._ports.nodes.is_gone(node)

    async def _finish(self, session: Session) -> bool:
        """Whether its content is erased. What stands in the way may pass. Raises ProjectionError, LogUnavailable."""
        erasure = session.erasure
        if erasure is None:
            return True
        try:
            async with self._ports.reserve.made():
                await hand_over(self._ports, session, self._ask)
            await self._supervisor.ask(session.session_id, DeleteSession(erasure.reason), SERVICE, cause=CAUSE)
        except errors.SessionDeleted:  # by another node, or by the command erase
            return True
        except (errors.Rejection, errors.ActorFailed) as refused:
            self._ports.logger.warning("erasure.refused", reason=type(refused).__name__)
            return False
        self._ports.logger.info("erasure.done")
        return True

    async def _ask(self, *command: Any, **said: Any) -> Any:
        await self._leisure.turn()
        with self._leisure.work():
            return await self._supervisor.ask(*command, **said)

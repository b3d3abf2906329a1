"""The service's own anchors, at an interval. A failed target is tried again sooner, and delays no other."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, cast

import structlog

from chatbot.anchors.anchor_target import AnchorTarget
from chatbot.anchors.anchor_writer import AnchorResult, AnchorWriter, LogNotIntact, Outcome, TargetState
from chatbot.anchors.anchoring import AnchorStatus
from chatbot.runtime.throttle import DutyCycleThrottle, ThrottledLog
from events.errors import LogError
from events.integrity.log_identity import log_identity
from events.log import EventLog

RETRY_S = 60.0  # after a failure, if the interval is longer


class AnchorObserver(Protocol):
    """Told of failures: metrics. Targets are known by their number, as names may be long."""

    def anchor_failed(self, target: int) -> None: ...


class AnchorSchedule:
    """A background task of one process. `signer` is a secret key as `keygen` writes it."""

    def __init__(
        self,
        log: EventLog,
        targets: Sequence[AnchorTarget],
        signer: str,
        interval_s: float,
        observer: AnchorObserver,
    ) -> None:
        """Raises InvalidCheckpoint if `signer` is no secret key."""
        throttled = ThrottledLog(log, DutyCycleThrottle())
        rows = cast(EventLog, throttled)  # `verify` calls only `rows` and `stream_rows` of it
        self._log = log
        self._writer = AnchorWriter(log, targets, signer, rows, throttled.passed)
        self._interval_s = interval_s
        self._observer = observer
        self._contradicted: set[str] = set()
        self._logger = structlog.get_logger("anchors")

    async def run(self) -> None:
        """Never returns. The first anchor is due an interval after the newest one, also after a restart."""
        try:
            await self._wait_until_due()
            while True:
                is_done = await self._anchor()
                await asyncio.sleep(self._interval_s if is_done else min(RETRY_S, self._interval_s))
        finally:
            await self._writer.close()

    def status(self) -> list[AnchorStatus]:
        """Of each target, in the order of the setting."""
        head, now_s = self._log.head().position, time.time()
        return [self._status(number, state, head, now_s) for number, state in enumerate(self._writer.states)]

    def _status(self, number: int, state: TargetState, head: int, now_s: float) -> AnchorStatus:
        newest = state.newest
        age_s = None if newest is None else max(0.0, now_s - _seconds(newest.time))
        missing = head if newest is None else max(0, head - newest.size)
        return AnchorStatus(number, age_s, missing, state.target.name in self._contradicted)

    async def _wait_until_due(self) -> None:
        try:
            if self._log.head().position:
                await self._writer.read_newest(await log_identity(self._log))
            head = (await self._log.latest()).position  # after that: other nodes anchor what they append
        except LogError as error:
            self._logger.warning("anchor.failed", reason=str(error))
            return
        newest = [state.newest for state in self._writer.states]
        known = [one.age_s for one in self.status() if one.age_s is not None]
        is_rolled_back = any(one is not None and one.size > head for one in newest)
        if len(known) == len(newest) and not is_rolled_back:
            await asyncio.sleep(max(0.0, self._interval_s - max(known)))

    async def _anchor(self) -> bool:
        """Whether every target has an anchor of the log as it is now."""
        try:
            results = await self._writer.anchor()
        except (LogNotIntact, LogError) as error:
            for number in range(len(self._writer.states)):
                self._observer.anchor_failed(number)
            # The log cannot be read just now, or it was tampered with.
            write = self._logger.critical if isinstance(error, LogNotIntact) else self._logger.warning
            write("anchor.failed", reason=str(error))
            return False
        for number, result in enumerate(results):
            self._report(number, result)
        return bool(results) and all(one.outcome in (Outcome.WRITTEN, Outcome.PRESENT) for one in results)

    def _report(self, number: int, result: AnchorResult) -> None:
        match result.outcome:
            case Outcome.WRITTEN:
                newest = self._writer.states[number].newest
                self._logger.info("anchor.written", target=result.target, events=newest.size if newest else 0)
            case Outcome.PRESENT:
                pass
            case Outcome.FAILED:
                self._observer.anchor_failed(number)
                self._logger.warning("anchor.failed", target=result.target, reason=result.reason)
            case Outcome.CONTRADICTED:
                self._observer.anchor_failed(number)
                self._logger.critical("anchor.contradicted", target=result.target, reason=result.reason)
        if result.outcome is Outcome.CONTRADICTED:
            self._contradicted.add(result.target)
        else:
            self._contradicted.discard(result.target)


def _seconds(time_text: str) -> float:
    """The time of a checkpoint, in Unix seconds; 0 for one that no calendar has."""
    try:
        return datetime.fromisoformat(time_text).timestamp()
    except (ValueError, OverflowError):
        return 0.0

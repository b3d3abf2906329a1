"""The orphan reaper: closes replies of nodes that are gone. Every node does so: no leader is elected for it."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from chatbot.nodes.failure_detector import ANSWER_VALID_S, FailureDetector
from chatbot.nodes.held_streams import HeldStreams
from chatbot.nodes.node_client import NodeState
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, CloseOrphans
from chatbot.sessions.ports import LiveSessions, Ports
from events.errors import LogError
from events.record import EventHeader
from projections.errors import ProjectionError
from projections.folds.session import Session

PAGE = 200  # sessions of a query: a millisecond or two
CLOSE_CONCURRENCY = 16  # sessions whose replies are closed concurrently
SUSPECTS_MAX = 100  # sessions of one silent node that are held: one of so many replies records soon if it lives
LOST_NODE_DELAY_S = 0.05  # after a node was lost: its other connections break about now, and need one sweep


class OrphanReaper:
    """Probes the nodes that are responsible for replies, every `sweep_interval_s` and when `node_lost` is set."""

    def __init__(
        self,
        ports: Ports,
        supervisor: LiveSessions,
        failure_detector: FailureDetector,
        held_streams: HeldStreams,
        node_lost: asyncio.Event,
        sweep_interval_s: float,
    ) -> None:
        self._ports = ports
        self._supervisor = supervisor
        self._failure_detector = failure_detector
        self._held_streams = held_streams
        self._sweep_interval_s = sweep_interval_s
        self._node_lost = node_lost
        self._suspects: dict[str, str] = {}  # session: the silent node that writes in it; all are held

    def on_remote_append(self, one: EventHeader) -> None:
        """A node that appends text of a reply is alive, even if it does not answer probes."""
        if one.type == "reply_progressed" and one.stream_id in self._suspects:
            self._failure_detector.note_activity(self._suspects[one.stream_id])

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.sweep()
            except (LogError, ProjectionError) as error:
                self._ports.logger.warning("watch.waits", reason=str(error))
            except Exception as error:  # the reaper must not end: the next sweep retries
                self._ports.logger.exception("watch.failed", error=type(error).__name__)
            swept_s = self._ports.timer()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sweep_interval_s):
                    await self._node_lost.wait()
            if self._node_lost.is_set():
                await asyncio.sleep(max(LOST_NODE_DELAY_S, swept_s + ANSWER_VALID_S - self._ports.timer()))
                self._node_lost.clear()

    async def sweep(self) -> None:
        """Close the open and queued replies of nodes that are gone. Raises LogUnavailable, ProjectionError."""
        after, verdicts, suspects = 0, dict[str | None, NodeState](), dict[str, str]()
        own = self._ports.rules.node
        while page := await self._ports.queries.owed_by_other_nodes(own, limit=PAGE, after=after):
            after = page[-1].no
            for node in {node for one in page for node in self._others(one)} - verdicts.keys():
                verdicts[node] = await self._failure_detector.node_state(node)
            left = [one for one in page if any(verdicts[node] is NodeState.GONE for node in self._others(one))]
            suspects |= _writers(page, verdicts)
            for start in range(0, len(left), CLOSE_CONCURRENCY):
                await asyncio.gather(*(self._close(one) for one in left[start : start + CLOSE_CONCURRENCY]))
        self._suspect(_limited(suspects))

    def _suspect(self, suspects: dict[str, str]) -> None:
        """Be told of what is recorded in these sessions, and no longer in those suspected before."""
        before, self._suspects = self._suspects, suspects
        for session_id in suspects.keys() - before.keys():
            self._held_streams.hold(session_id)
        for session_id in before.keys() - suspects.keys():
            self._held_streams.release(session_id)

    def _others(self, session: Session) -> set[str | None]:
        """The other nodes that owe or write replies in this session."""
        nodes = {waiting.node for waiting in session.pending}
        if session.open_reply is not None:
            nodes.add(session.open_reply.node)
        return nodes - {self._ports.rules.node}

    async def _close(self, session: Session) -> None:
        try:
            await self._supervisor.ask(session.session_id, CloseOrphans(), SERVICE, cause="recovery")
        except (rejections.Rejection, rejections.ActorFailed, LogError, ProjectionError) as error:
            self._ports.logger.warning("recovery.waits", reason=str(error))  # the next sweep retries


def _writers(page: list[Session], verdicts: Mapping[str | None, NodeState]) -> dict[str, str]:
    """The sessions in which a silent node writes, with that node."""
    written = {one.session_id: one.open_reply.node for one in page if one.open_reply}
    return {session_id: node for session_id, node in written.items() if node and verdicts.get(node) is NodeState.SILENT}


def _limited(suspects: Mapping[str, str]) -> dict[str, str]:
    """The last SUSPECTS_MAX sessions of each node: the newest replies are the most likely to run."""
    counts, limited = Counter[str](), dict[str, str]()
    for session_id, node in reversed(list(suspects.items())):
        counts[node] += 1
        if counts[node] <= SUSPECTS_MAX:
            limited[session_id] = node
    return limited

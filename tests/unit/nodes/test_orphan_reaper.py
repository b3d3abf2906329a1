"""A node that does not answer, and records: its replies are left alone, in sessions that nobody reads here."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from chatbot.nodes.append_dispatcher import AppendDispatcher
from chatbot.nodes.failure_detector import FailureDetector
from chatbot.nodes.held_streams import HeldStreams
from chatbot.nodes.node_client import NodeClient, NodeState
from chatbot.nodes.node_id import NodeAddress, format_node_id
from chatbot.nodes.orphan_reaper import SUSPECTS_MAX, OrphanReaper
from chatbot.nodes.reply_mirrors import ReplyMirrors
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.ports import LiveSessions, Ports
from events.catalogue import ReplyProgressed
from projections.folds.session import OpenReply, Session
from tests.support.clocks import ManualClock
from tests.support.log.memory_log import MemoryLog

OWN = format_node_id("127.0.0.1", 80, "00000000")
OTHER = format_node_id("127.0.0.2", 80, "11111111")
FAILURE_TIMEOUT_S = 10.0


class SilentNodes(NodeClient):
    """Other nodes are as `state` says."""

    def __init__(self) -> None:
        self.state = NodeState.SILENT

    async def probe(self, address: NodeAddress) -> NodeState:
        return self.state


class Sweeps:
    """The orphan reaper of one node, with what it is told of and what it closes."""

    def __init__(self) -> None:
        self.log, self.clock, self.nodes = MemoryLog(), ManualClock(), SilentNodes()
        self.owed = [self._session(1)]
        self.closed: list[str] = []
        ports = cast(
            Ports,
            SimpleNamespace(
                log=self.log,
                feeds=ChannelRegistry(),
                queries=self,
                rules=SimpleNamespace(node=OWN),
                timer=self.clock,
                logger=structlog.get_logger("test"),
            ),
        )
        detector = FailureDetector(OWN, self.nodes, FAILURE_TIMEOUT_S, self.clock)
        self.reaper = OrphanReaper(
            ports, cast(LiveSessions, self), detector, HeldStreams(cast(Any, self.log)), asyncio.Event(), 1.0
        )
        mirrors = cast(ReplyMirrors, SimpleNamespace(has=lambda _: False, version=lambda _: None))
        self.dispatcher = AppendDispatcher(ports, cast(LiveSessions, self), mirrors, self.reaper)

    @staticmethod
    def _session(no: int) -> Session:
        written = OpenReply(f"r{no}", f"m{no}", 3, node=OTHER)
        return Session(no, f"s{no}", None, 60, 0, 0, version=3, position=3, described_at=1, open_reply=written)

    def write_replies(self, count: int) -> None:
        """The other node writes so many replies."""
        self.owed = [self._session(no) for no in range(1, count + 1)]

    async def owed_by_other_nodes(self, _node: str, *, limit: int, after: int = 0) -> list[Session]:
        return [one for one in self.owed if one.no > after][:limit]

    def on_remote_append(self, *_appended: object) -> None: ...

    async def ask(self, session_id: str, *_command: object, **_cause: object) -> None:
        self.closed.append(session_id)

    async def sweep_after(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await self.reaper.sweep()


@pytest.fixture
async def sweeps() -> AsyncIterator[Sweeps]:
    made = Sweeps()
    running = asyncio.create_task(made.dispatcher.run())
    await asyncio.sleep(0)
    yield made
    running.cancel()


async def test_a_silent_node_lives_for_as_long_as_it_records_though_nobody_reads(sweeps: Sweeps) -> None:
    for number in range(5):
        await sweeps.sweep_after(0.9 * FAILURE_TIMEOUT_S)
        sweeps.log.record("s1", ReplyProgressed("r1", number, "x"))
    assert sweeps.closed == []
    await sweeps.sweep_after(FAILURE_TIMEOUT_S)
    assert sweeps.closed == ["s1"]
    assert sweeps.log.held == set()


async def test_the_sessions_of_a_node_that_answers_again_are_held_no_longer(sweeps: Sweeps) -> None:
    await sweeps.sweep_after(0)
    await sweeps.sweep_after(1)
    assert sweeps.log.held == {"s1"}
    sweeps.nodes.state = NodeState.ALIVE
    await sweeps.sweep_after(1)
    assert sweeps.log.held == set()


async def test_of_a_silent_node_with_many_replies_the_newest_are_held(sweeps: Sweeps) -> None:
    sweeps.write_replies(SUSPECTS_MAX + 150)
    await sweeps.sweep_after(0)
    assert sweeps.log.held == {f"s{no}" for no in range(151, SUSPECTS_MAX + 151)}

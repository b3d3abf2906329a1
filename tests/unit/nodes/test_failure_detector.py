"""Which nodes count as gone: told by them, by nobody listening, or by silence for too long."""

import asyncio

from chatbot.nodes.failure_detector import ANSWER_VALID_S, GONE_MAX, FailureDetector
from chatbot.nodes.node_client import NodeClient, NodeState
from chatbot.nodes.node_id import NodeAddress, format_node_id
from tests.support.clocks import ManualClock

OWN = format_node_id("127.0.0.1", 80, "00000000")
OTHER = format_node_id("127.0.0.2", 80, "11111111")
SUSPECT_S = 10.0


class FakeNodeClient(NodeClient):
    """Answers as it is told, once it may."""

    def __init__(self, node_state: NodeState = NodeState.ALIVE) -> None:
        self.node_state = node_state
        self.probes = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def probe(self, address: NodeAddress) -> NodeState:
        self.probes += 1
        await self.may_answer.wait()
        return self.node_state


def watching(peers: FakeNodeClient) -> tuple[FailureDetector, ManualClock]:
    clock = ManualClock()
    return FailureDetector(OWN, peers, SUSPECT_S, clock), clock


async def test_a_node_that_answers_lives_and_is_not_asked_again_at_once() -> None:
    peers = FakeNodeClient()
    liveness, clock = watching(peers)
    assert not await liveness.is_gone(OTHER)
    assert not await liveness.is_gone(OTHER)
    assert peers.probes == 1
    clock.now_s += ANSWER_VALID_S
    peers.node_state = NodeState.GONE
    assert await liveness.is_gone(OTHER)


async def test_who_is_gone_stays_gone() -> None:
    peers = FakeNodeClient(NodeState.GONE)
    liveness, clock = watching(peers)
    assert await liveness.is_gone(OTHER)
    peers.node_state, clock.now_s = NodeState.ALIVE, clock.now_s + 100
    assert await liveness.is_gone(OTHER)
    assert peers.probes == 1


async def test_a_silent_node_is_gone_only_after_a_while() -> None:
    peers = FakeNodeClient(NodeState.SILENT)
    liveness, clock = watching(peers)
    assert await liveness.node_state(OTHER) is NodeState.SILENT
    clock.now_s += SUSPECT_S - 1
    assert not await liveness.is_gone(OTHER)
    clock.now_s += 1
    assert await liveness.is_gone(OTHER)


async def test_a_silent_node_that_records_lives() -> None:
    peers = FakeNodeClient(NodeState.SILENT)
    liveness, clock = watching(peers)
    await liveness.node_state(OTHER)
    clock.now_s += SUSPECT_S - 1
    liveness.note_activity(OTHER)
    clock.now_s += SUSPECT_S - 1
    assert await liveness.node_state(OTHER) is NodeState.SILENT
    clock.now_s += 1
    assert await liveness.is_gone(OTHER)


async def test_a_node_that_answers_again_begins_anew() -> None:
    peers = FakeNodeClient(NodeState.SILENT)
    liveness, clock = watching(peers)
    await liveness.node_state(OTHER)
    clock.now_s += SUSPECT_S - 1
    peers.node_state = NodeState.ALIVE
    assert await liveness.node_state(OTHER) is NodeState.ALIVE
    peers.node_state, clock.now_s = NodeState.SILENT, clock.now_s + 2
    assert await liveness.node_state(OTHER) is NodeState.SILENT


async def test_all_who_ask_at_once_share_one_probe() -> None:
    peers = FakeNodeClient()
    peers.may_answer.clear()
    liveness, _ = watching(peers)
    asking = [asyncio.create_task(liveness.is_gone(OTHER)) for _ in range(20)]
    await asyncio.sleep(0)
    asking.pop().cancel()
    await asyncio.sleep(0)
    peers.may_answer.set()
    assert await asyncio.gather(*asking) == [False] * 19
    assert peers.probes == 1


async def test_what_served_alone_and_earlier_lives_at_our_address_are_gone_unasked() -> None:
    peers = FakeNodeClient()
    liveness, _ = watching(peers)
    for name in (None, "some-machine", format_node_id("127.0.0.1", 80, "22222222")):
        assert await liveness.is_gone(name)
    assert peers.probes == 0


async def test_those_remembered_as_gone_are_bounded() -> None:
    peers = FakeNodeClient(NodeState.GONE)
    liveness, _ = watching(peers)
    for number in range(GONE_MAX + 5):
        assert await liveness.is_gone(format_node_id("127.0.0.2", 80, f"{number:08x}"))
    assert len(liveness._gone) == GONE_MAX


async def test_who_was_refused_once_is_asked_again_after_a_while() -> None:
    """A network may refuse for the node, which lives: it must not count as gone for as long as this process runs."""
    peers = FakeNodeClient(NodeState.REFUSED)
    liveness, clock = watching(peers)
    assert await liveness.is_gone(OTHER)
    peers.node_state = NodeState.ALIVE
    assert await liveness.is_gone(OTHER)
    clock.now_s += ANSWER_VALID_S
    assert not await liveness.is_gone(OTHER)

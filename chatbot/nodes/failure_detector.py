"""Which nodes still live. Being wrong harms no record: what a node appends is decided by the log alone."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from chatbot.nodes.node_client import NodeClient, NodeState
from chatbot.nodes.node_id import parse_node_id

ANSWER_VALID_S = 0.5  # for which an answer counts
GONE_MAX = 1024  # nodes that are remembered as gone; the longest known is forgotten first, and asked again


class FailureDetector:
    """Asks nodes whether they live, each at most once in a while. `timer` gives monotonic seconds."""

    def __init__(
        self, own_name: str, node_client: NodeClient, failure_timeout_s: float, timer: Callable[[], float]
    ) -> None:
        self._own = parse_node_id(own_name)
        self._node_client = node_client
        self._failure_timeout_s = failure_timeout_s
        self._timer = timer
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._answers: dict[str, tuple[NodeState, float]] = {}
        self._silent_since_s: dict[str, float] = {}
        self._probes: dict[str, asyncio.Task[NodeState]] = {}

    async def is_gone(self, node: str | None) -> bool:
        """Whether it is known that this life of `node` has ended, or that it has been silent for too long."""
        return await self.node_state(node) is NodeState.GONE

    async def node_state(self, node: str | None) -> NodeState:
        """What is known of `node` by now; a node that is silent counts as gone after `failure_timeout_s`."""
        address = parse_node_id(node)
        if node is None or address is None or node in self._gone:
            return NodeState.GONE
        if self._own is not None and address.url == self._own.url:
            return NodeState.GONE  # an earlier life of ours; of this one, what is in no actor's hands
        node_state, until_s = self._answers.get(node, (NodeState.SILENT, 0.0))
        if self._timer() >= until_s:
            node_state = await self._share_probe(node)
        if node_state is NodeState.SILENT and self._timer() - self._silent_since_s[node] >= self._failure_timeout_s:
            return NodeState.GONE
        return node_state

    def note_activity(self, node: str) -> None:
        """It has recorded something: it lives, whether or not it answers us."""
        if node in self._silent_since_s:
            self._silent_since_s[node] = self._timer()

    async def _share_probe(self, node: str) -> NodeState:
        asking = self._probes.get(node)
        if asking is None:
            asking = self._probes[node] = asyncio.create_task(self._probe(node), name="probe")
        return await asyncio.shield(asking)

    async def _probe(self, node: str) -> NodeState:
        address = parse_node_id(node)
        try:
            node_state = NodeState.GONE if address is None else await self._node_client.probe(address)
        finally:
            del self._probes[node]
        remembered = node_state is NodeState.GONE
        if node_state is NodeState.REFUSED:
            node_state = NodeState.GONE  # for now
        if len(self._answers) >= GONE_MAX:
            self._answers = {node: heard for node, heard in self._answers.items() if heard[1] > self._timer()}
        self._answers[node] = node_state, self._timer() + ANSWER_VALID_S
        if node_state is NodeState.SILENT:
            self._silent_since_s.setdefault(node, self._timer())
        else:
            self._silent_since_s.pop(node, None)
        if remembered:
            self._answers.pop(node)
            self._gone[node] = None
            if len(self._gone) > GONE_MAX:
                self._gone.popitem(last=False)
        return node_state

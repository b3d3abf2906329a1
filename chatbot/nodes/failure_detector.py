"""The failure detector: probes nodes (heartbeat) to tell which are alive. A wrong verdict corrupts nothing: the log
decides every append.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from chatbot.nodes.node_client import NodeClient, NodeState
from chatbot.nodes.node_id import parse_node_id

ANSWER_VALID_S = 0.5  # how long the result of a probe is used
GONE_MAX = 1024  # nodes remembered as gone; the oldest is forgotten first, and probed again


class FailureDetector:
    """Probes nodes, each at most once in ANSWER_VALID_S. `timer` gives monotonic seconds."""

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
        """Whether this incarnation of `node` has ended, or has been silent for the failure timeout."""
        return await self.node_state(node) is NodeState.GONE

    async def node_state(self, node: str | None) -> NodeState:
        """The state of `node`; a silent node counts as gone after the failure timeout."""
        address = parse_node_id(node)
        if node is None or address is None or node in self._gone:
            return NodeState.GONE
        if self._own is not None and address.url == self._own.url:
            return NodeState.GONE  # an earlier incarnation of this node, or a reply of this one that no actor has
        node_state, until_s = self._answers.get(node, (NodeState.SILENT, 0.0))
        if self._timer() >= until_s:
            node_state = await self._share_probe(node)
        if node_state is NodeState.SILENT and self._timer() - self._silent_since_s[node] >= self._failure_timeout_s:
            return NodeState.GONE
        return node_state

    def note_activity(self, node: str) -> None:
        """The node appended an event, so it is alive even if it does not answer probes."""
        if node in self._silent_since_s:
            self._silent_since_s[node] = self._timer()

    async def _share_probe(self, node: str) -> NodeState:
        probe = self._probes.get(node)
        if probe is None:
            probe = self._probes[node] = asyncio.create_task(self._probe(node), name="probe")
        return await asyncio.shield(probe)

    async def _probe(self, node: str) -> NodeState:
        address = parse_node_id(node)
        try:
            node_state = NodeState.GONE if address is None else await self._node_client.probe(address)
        finally:
            del self._probes[node]
        is_permanent = node_state is NodeState.GONE
        if node_state is NodeState.REFUSED:
            node_state = NodeState.GONE  # for now
        if len(self._answers) >= GONE_MAX:
            self._answers = {node: answer for node, answer in self._answers.items() if answer[1] > self._timer()}
        self._answers[node] = node_state, self._timer() + ANSWER_VALID_S
        if node_state is NodeState.SILENT:
            self._silent_since_s.setdefault(node, self._timer())
        else:
            self._silent_since_s.pop(node, None)
        if is_permanent:
            self._answers.pop(node)
            self._gone[node] = None
            if len(self._gone) > GONE_MAX:
                self._gone.popitem(last=False)
        return node_state

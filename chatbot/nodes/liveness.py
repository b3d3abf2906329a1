"""Which nodes still live. Being wrong harms no record: what a node appends is decided by the log alone."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from chatbot.nodes.name import address_of
from chatbot.nodes.peers import Peers, Verdict

KEPT_S = 0.5  # for which an answer counts
GONE_MAX = 1024  # nodes that are remembered as gone; the longest known is forgotten first, and asked again


class Liveness:
    """Asks nodes whether they live, each at most once in a while. `timer` gives monotonic seconds."""

    def __init__(self, own_name: str, peers: Peers, suspect_s: float, timer: Callable[[], float]) -> None:
        self._own = address_of(own_name)
        self._peers = peers
        self._suspect_s = suspect_s
        self._timer = timer
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._heard: dict[str, tuple[Verdict, float]] = {}
        self._silent_since_s: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[Verdict]] = {}

    async def is_gone(self, node: str | None) -> bool:
        """Whether it is known that this life of `node` has ended, or that it has been silent for too long."""
        return await self.verdict(node) is Verdict.GONE

    async def verdict(self, node: str | None) -> Verdict:
        """What is known of `node` by now; a node that is silent counts as gone after `suspect_s`."""
        address = address_of(node)
        if node is None or address is None or node in self._gone:
            return Verdict.GONE
        if self._own is not None and address.url == self._own.url:
            return Verdict.GONE  # an earlier life of ours; of this one, what is in no actor's hands
        verdict, until_s = self._heard.get(node, (Verdict.SILENT, 0.0))
        if self._timer() >= until_s:
            verdict = await self._ask(node)
        if verdict is Verdict.SILENT and self._timer() - self._silent_since_s[node] >= self._suspect_s:
            return Verdict.GONE
        return verdict

    def seen(self, node: str) -> None:
        """It has recorded something: it lives, whether or not it answers us."""
        if node in self._silent_since_s:
            self._silent_since_s[node] = self._timer()

    async def _ask(self, node: str) -> Verdict:
        asking = self._asking.get(node)
        if asking is None:
            asking = self._asking[node] = asyncio.create_task(self._probe(node), name="probe")
        return await asyncio.shield(asking)

    async def _probe(self, node: str) -> Verdict:
        address = address_of(node)
        try:
            verdict = Verdict.GONE if address is None else await self._peers.probe(address)
        finally:
            del self._asking[node]
        remembered = verdict is Verdict.GONE
        if verdict is Verdict.REFUSED:
            verdict = Verdict.GONE  # for now
        if len(self._heard) >= GONE_MAX:
            self._heard = {node: heard for node, heard in self._heard.items() if heard[1] > self._timer()}
        self._heard[node] = verdict, self._timer() + KEPT_S
        if verdict is Verdict.SILENT:
            self._silent_since_s.setdefault(node, self._timer())
        else:
            self._silent_since_s.pop(node, None)
        if remembered:
            self._heard.pop(node)
            self._gone[node] = None
            if len(self._gone) > GONE_MAX:
                self._gone.popitem(last=False)
        return verdict

"""The nodes that want to be told what is folded, as the node that folds remembers them."""

import time
from collections.abc import Sequence

from projections.postgres.batch_statement import Notification
from projections.postgres.node_messages import Ask, Reached, encode

NODES_MAX = 1_000  # that are remembered: more nodes than any log has
LISTS_S = 10.0  # for which a node with readers of lists is told; it repeats that it has some more often


class AskingNodes:
    """Tells each node that waits once, and nodes with readers of lists whenever lists have changed."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._waiting: dict[str, int] = {}
        self._lists: dict[str, float] = {}  # until when

    @property
    def has_list_readers(self) -> bool:
        """Whether a node has readers of lists."""
        return bool(self._lists)

    @property
    def are_waiting(self) -> bool:
        """Whether a node waits that was not told yet."""
        return bool(self._waiting)

    def note(self, ask: Ask) -> None:
        """Remember what a node wants."""
        if ask.position and (ask.node in self._waiting or len(self._waiting) < NODES_MAX):
            self._waiting[ask.node] = max(ask.position, self._waiting.get(ask.node, 0))
        if ask.has_list_readers and (ask.node in self._lists or len(self._lists) < NODES_MAX):
            self._lists[ask.node] = time.monotonic() + LISTS_S

    def notifications(self, owners: frozenset[str], position: int) -> Sequence[Notification]:
        """What to say once a batch up to `position` is written, which has changed the lists of `owners`."""
        if not self._waiting and not self._lists:
            return ()
        self._forget_old()
        told = [node for node, wanted in self._waiting.items() if wanted <= position]
        for node in told:
            del self._waiting[node]
        said = dict.fromkeys(told, encode(Reached(position)))
        if owners and self._lists:
            said.update(dict.fromkeys(self._lists, encode(Reached(position, tuple(owners)))))
        return [(f"{self._channel}_{node}", text) for node, text in said.items()]

    def _forget_old(self) -> None:
        now_s = time.monotonic()
        for node in [node for node, until_s in self._lists.items() if until_s < now_s]:
            del self._lists[node]

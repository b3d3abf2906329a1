"""Replies that wait for a server with room, served round robin by owner."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from chatbot.llm.provider import LlmError


class HasKind(Protocol):
    """What a reply needs of a server."""

    @property
    def kind(self) -> Hashable:
        """Equal for replies that the same servers may serve."""
        ...


Required = TypeVar("Required", bound=HasKind)
Granted = TypeVar("Granted")


class WaitingReply(Struct, Generic[Required, Granted]):
    """`required`: what kind of server. `granted`: gets the server, or the error for there being none any more."""

    required: Required
    owner: str | None
    granted: asyncio.Future[Granted]


class WaitingReplies(Generic[Required, Granted]):
    """First in, first out for each owner, and the owners take turns.

    It has no bound of its own: each reply in it has a slot of the concurrency limiter, which bounds them.
    """

    def __init__(self) -> None:
        self._queues: dict[str | None, deque[WaitingReply[Required, Granted]]] = {}  # by owner, next turn first

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, required: Required, owner: str | None) -> WaitingReply[Required, Granted]:
        waiting = WaitingReply(required, owner, asyncio.get_running_loop().create_future())
        self._queues.setdefault(owner, deque()).append(waiting)
        return waiting

    def remove(self, waiting: WaitingReply[Required, Granted]) -> None:
        """Once it is served, or its client has left."""
        queue = self._queues[waiting.owner]
        queue.remove(waiting)
        if not queue:
            del self._queues[waiting.owner]

    def serve(self, grant: Callable[[Required], Granted | None]) -> None:
        """Give the replies what `grant` has for them, in turn, until it has nothing (None) for any. An LlmError that it
        raises is the reply's.
        """
        without_room: set[Hashable] = set()  # kinds for which it has nothing: thousands may wait for one server
        while self._serve_one(grant, without_room):
            pass

    def _serve_one(self, grant: Callable[[Required], Granted | None], without_room: set[Hashable]) -> bool:
        for waiting in self._round_robin():
            kind = waiting.required.kind
            # A reply that was cancelled in this very tick has not removed itself yet.
            if kind in without_room or waiting.granted.cancelled():
                continue
            try:
                granted = grant(waiting.required)
            except LlmError as error:
                waiting.granted.set_exception(error)
            else:
                if granted is None:
                    without_room.add(kind)
                    continue
                waiting.granted.set_result(granted)
            self.remove(waiting)
            if (queue := self._queues.pop(waiting.owner, None)) is not None:
                self._queues[waiting.owner] = queue  # its next turn comes last
            return True
        return False

    def _round_robin(self) -> Iterator[WaitingReply[Required, Granted]]:
        """Owner by owner, each from its oldest: those behind it may wait for another model, whose server has room."""
        for queue in self._queues.values():
            yield from queue

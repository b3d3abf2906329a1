"""What a client has asked of the process that writes the log and has no answer to yet.

`is_in_doubt`: it was sent over a connection that has broken since, without an answer.
"""

import asyncio

from events.errors import LogError
from events.record import RecordedEvent
from events.storage.append_batch import PendingAppend

Recorded = tuple[RecordedEvent, ...]


class WaitingAppend:
    """`since_s` is on the clock of the event loop."""

    __slots__ = ("append", "future", "is_in_doubt", "since_s")

    def __init__(self, append: PendingAppend, future: asyncio.Future[Recorded], since_s: float) -> None:
        self.append = append
        self.future = future
        self.since_s = since_s
        self.is_in_doubt = False


class WaitingRequest:
    """`since_s` as above."""

    __slots__ = ("body", "future", "is_in_doubt", "name", "since_s")

    def __init__(self, name: str, body: bytes, future: asyncio.Future[bytes], since_s: float) -> None:
        self.name = name
        self.body = body
        self.future = future
        self.since_s = since_s
        self.is_in_doubt = False


def fail(future: asyncio.Future[object] | asyncio.Future[Recorded] | asyncio.Future[bytes], error: LogError) -> None:
    """Have the caller get `error`, unless it was cancelled."""
    if not future.done():
        future.set_exception(error)

"""The worker's side: a process that is one of several workers."""

import asyncio
import signal

from msgspec.structs import replace

from chatbot.config.settings import Settings
from chatbot.workers.connection_counts import ConnectionCounts, FairShare
from chatbot.workers.control_channel import ControlChannel
from chatbot.workers.inherited_fds import InheritedFds, WriterFds, keep_private


class Worker:
    """The inherited resources of a worker, opened. To be created inside the event loop.

    `stop` is the service's: it is set when the master orders it, or has ended.
    """

    def __init__(self, inheritance: InheritedFds, stop: asyncio.Event) -> None:
        keep_private(inheritance)
        self.slot = inheritance.slot
        self.listeners = inheritance.open_listeners()
        self.share = FairShare(ConnectionCounts(inheritance.connection_counts), self.slot)
        self.writer: WriterFds | None = inheritance.writer
        self.database = inheritance.database
        self.control = ControlChannel(inheritance.control, stop)
        # Only the master reloads, even if a terminal's hang-up reaches all processes.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)

    def is_leader(self) -> bool:
        """Whether this worker does what only one of them needs to do: the first that serves."""
        return min(self.control.siblings, default=self.slot) >= self.slot

    async def wait_until_told_to_leave(self) -> None:
        """Wait until the master orders to retire or to stop."""
        orders = [asyncio.create_task(event.wait()) for event in (self.control.retire, self.control.stop)]
        try:
            await asyncio.wait(orders, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for order in orders:
                order.cancel()


def worker_settings(settings: Settings, inheritance: InheritedFds | None) -> Settings:
    """`settings` of a worker: with the secret that all workers share, and any free port for requests of the others."""
    if inheritance is None:
        return settings
    return replace(settings, nodes=replace(settings.nodes, secret=inheritance.secret, listen_port=0))

"""A listening socket that several processes accept from, each its fair share of the connections."""

import asyncio
import socket

from aiohttp import web

from chatbot.workers.listening import url_of
from chatbot.workers.tally import Share

PAUSE_S = 1.0  # after a refusal of the system, such as too many open files
SLACK = 4  # connections that a process may have more than the one that has least
STAND_BACK_S = 0.002  # that one with more leaves a connection to the others; then it takes it all the same


class SharedSite(web.BaseSite):
    """Takes one connection in each turn of the event loop, and leaves it to others while they have fewer. The loop's
    own servers take all that wait, so that the first to wake would have them, for as long as they stay open.
    """

    def __init__(self, runner: web.AppRunner, shared: socket.socket, share: Share) -> None:
        super().__init__(runner)
        self._shared = shared
        self._share = share
        self._stood_back = False
        self._handlers = runner.server
        self._accepted: set[asyncio.Task[object]] = set()
        self._resuming: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Its address."""
        return url_of(self._shared.getsockname())

    async def start(self) -> None:
        """Begin to accept."""
        await super().start()
        self._share.is_fair(0, SLACK)
        self._shared.setblocking(False)
        self._listen()

    async def stop(self) -> None:
        """Accept no more; what waits is for the others."""
        asyncio.get_running_loop().remove_reader(self._shared)
        if self._resuming is not None:
            self._resuming.cancel()
        self._shared.close()
        self._share.leave()
        await super().stop()

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._shared, self._accept)

    def _pause(self, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._shared)
        self._resuming = loop.call_later(pause_s, self._listen)

    def _accept(self) -> None:
        handlers = self._handlers
        if handlers is None:
            raise RuntimeError("the runner is not set up")
        is_fair = self._share.is_fair(len(handlers.connections), SLACK)
        if not is_fair and not self._stood_back:
            self._stood_back = True
            self._pause(STAND_BACK_S)
            return
        self._stood_back = False
        try:
            connection, _ = self._shared.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client has left
        except OSError:
            self._pause(PAUSE_S)
            return
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(handlers, connection))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

"""A listening socket shared with other processes: fair accepting, and a pause when the system refuses connections."""

import asyncio
import errno
import socket

import structlog
from aiohttp import web

from chatbot.api.server.connection_limits import LOG_INTERVAL_S, Connections
from chatbot.workers.connection_counts import FairShare
from chatbot.workers.server_sockets import service_url

ACCEPT_RETRY_S = 1.0  # after a refusal of the system, such as too many open files: an immediate retry would fail, too
FAIRNESS_SLACK = 4  # connections that a process may have more than the process with the fewest
YIELD_S = 0.002  # for which a process with more leaves a connection to the others; then it accepts it itself
ACCEPTED_MAX = 64  # connections accepted in one tick of the event loop, if there are no other processes
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class SharedListener(web.BaseSite):
    """Accepts connections itself, because asyncio's servers log a traceback for each one that the system refuses.

    With a `share` it accepts one connection in each tick of the event loop, and leaves it to other processes while they
    have fewer: asyncio's server accepts the whole backlog, so the first process to wake would own every connection.
    """

    def __init__(
        self, runner: web.AppRunner, listener: socket.socket, connections: Connections, share: FairShare | None = None
    ) -> None:
        super().__init__(runner)
        self._listener = listener
        self._connections = connections
        self._share = share
        self._has_yielded = False
        self._handlers = runner.server
        self._accepted: set[asyncio.Task[object]] = set()
        self._resume_timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._logged_at_s = float("-inf")

    @property
    def name(self) -> str:
        """The service's URL at this socket."""
        return service_url(self._listener.getsockname())

    async def start(self) -> None:
        """Start to accept connections."""
        await super().start()
        if self._share is not None:
            self._share.should_accept(0, FAIRNESS_SLACK)
        self._listener.setblocking(False)
        self._listen()

    async def stop(self) -> None:
        """Stop accepting; connections in the backlog are for the other processes."""
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        self._listener.close()
        if self._share is not None:
            self._share.leave()
        await super().stop()

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _pause(self, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        self._resume_timer = loop.call_later(pause_s, self._listen)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_MAX if self._share is None else 1):
            if self._yields_to_others() or not self._accept_one():
                return

    def _yields_to_others(self) -> bool:
        """Whether to leave the next connection to other processes, which have fewer."""
        if (
            self._share is None
            or self._share.should_accept(self._connections.count, FAIRNESS_SLACK)
            or self._has_yielded
        ):
            self._has_yielded = False
            return False
        self._has_yielded = True
        self._pause(YIELD_S)
        return True

    def _accept_one(self) -> bool:
        """Accept one connection; False: there is none, or the system refuses it."""
        handlers = self._handlers
        if handlers is None:
            raise RuntimeError("the runner is not set up")
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another process was faster, or the client has left
        except OSError as error:
            self._on_accept_error(error)
            return False
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(handlers, connection))
        self._accepted.add(task)
        task.add_done_callback(self._on_accepted)
        return True

    def _on_accepted(self, task: asyncio.Task[object]) -> None:
        self._accepted.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            self._on_accept_error(error)
        elif error is not None:
            structlog.get_logger("api").error("accept.failed", error=type(error).__name__, exc_info=error)

    def _on_accept_error(self, error: OSError) -> None:
        """The system has no descriptor or memory for another connection: close an idle one and pause."""
        if self._listener.fileno() >= 0:
            self._pause(ACCEPT_RETRY_S)
        self._connections.accept_failed()
        if error.errno in EXHAUSTED:
            self._connections.close_idle()
        self._failures += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._logged_at_s >= LOG_INTERVAL_S:
            self._logged_at_s = now_s
            structlog.get_logger("api").error(
                "accept.failed", reason=str(error), failures=self._failures, open=self._connections.count
            )
            self._failures = 0

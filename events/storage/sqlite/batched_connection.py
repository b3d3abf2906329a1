"""A connection that lives in a thread of its own, and calls that run there in batches: switching to the thread and back
costs more than most queries.
"""

import asyncio
import sqlite3
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from events.errors import LogBusy

T = TypeVar("T")

BATCH_MAX = 32  # calls in one switch to the thread: each result waits for all of them, so a millisecond or two
WAITING_MAX = 10_000  # calls that wait for one connection; the next one is refused with LogBusy

Call = Callable[[sqlite3.Connection], T]  # run in the connection's thread
_Waiting = tuple[Call[Any] | None, asyncio.Future[Any]]  # None: close the connection


class ThreadConnection:
    """A connection whose thread runs one call after the other. Made by `open`, for one event loop; must be closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, calls: "SimpleQueue[_Waiting]") -> None:
        self._loop = loop
        self._calls = calls
        self._closed: asyncio.Future[None] | None = None

    def __del__(self) -> None:
        if self._closed is None:
            self.stop()
            warnings.warn("a connection was not closed", ResourceWarning, stacklevel=1, source=self)

    @classmethod
    async def open(cls, database: str, *, timeout_s: float = 5.0) -> "ThreadConnection":
        """Connect to `database`, a URI; transactions are the caller's. Raises sqlite3.Error."""
        loop, calls = asyncio.get_running_loop(), SimpleQueue[_Waiting]()
        opened = loop.create_future()

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(database, uri=True, isolation_level=None, timeout=timeout_s)

        Thread(target=_run_thread, args=(loop, connect, opened, calls), name="sqlite").start()
        connection = cls(loop, calls)
        try:
            await opened
        except BaseException:
            connection.stop()
            raise
        return connection

    def run(self, call: Call[T]) -> asyncio.Future[T]:
        """The result of `call`, run in the thread, or what it raises; it is run also if nobody waits for it any more.
        Raises sqlite3.ProgrammingError once closed.
        """
        if self._closed is not None:
            raise sqlite3.ProgrammingError("the connection is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((call, future))
        return future

    async def fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of one query. Raises sqlite3.Error."""
        return await self.run(lambda raw: raw.execute(query, parameters).fetchall())

    async def close(self) -> None:
        """Run the calls that wait, then close the connection and end the thread."""
        self.stop()
        if self._closed is not None:
            await asyncio.shield(self._closed)

    def stop(self) -> None:
        """As `close`, without waiting for that."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            self._calls.put((None, self._closed))


def _run_thread(
    loop: asyncio.AbstractEventLoop,
    connect: Callable[[], sqlite3.Connection],
    opened: asyncio.Future[None],
    calls: "SimpleQueue[_Waiting]",
) -> None:
    """Until the connection is to be closed, also where it could not be opened."""
    raw: sqlite3.Connection | None = None
    try:
        raw = connect()
    except BaseException as error:  # noqa: BLE001  raised by the caller's await
        _tell(loop, opened, None, error)
    else:
        _tell(loop, opened, None, None)
    while True:
        call, future = calls.get()
        result = failure = None
        try:
            if call is None:
                if raw is not None:
                    raw.close()
            elif raw is not None:
                result = call(raw)
        except BaseException as error:  # noqa: BLE001  raised by the caller's await
            failure = error
        _tell(loop, future, result, failure)
        if call is None:
            return
        del call, future, result, failure  # not kept until the next call


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, failure: BaseException | None
) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, future, result, failure)
    except RuntimeError:  # the event loop is closed: nobody waits
        return


def _resolve(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():  # its caller is gone
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)


class CallBatcher:
    """Runs calls on one connection. For one event loop."""

    def __init__(self, connection: ThreadConnection, batch_max: int = BATCH_MAX) -> None:
        self.connection = connection
        self._batch_max = batch_max
        self._waiting: deque[tuple[Call[Any], asyncio.Future[Any]]] = deque()
        self._is_running = False
        self._task: asyncio.Task[None] | None = None

    async def run(self, call: Call[T]) -> T:
        """The result of `call`, run in the connection's thread. Raises what `call` raises, sqlite3.Error, or LogBusy.

        Calls that arrive while a batch runs share the next one. On an idle connection the call runs at once, in the
        caller's own task: another task would cost a fifth more.
        """
        if self._is_running:
            if len(self._waiting) >= WAITING_MAX:
                raise LogBusy(f"{WAITING_MAX} reads wait already")
            result = await self._enqueue(call)
        else:
            self._is_running = True
            try:
                (result,) = await self._run_batch([call])
            finally:
                self._start_next()
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Finish the calls that wait, then close the connection. `run` must not be called any more."""
        while self._is_running:
            await asyncio.wait([self._enqueue(lambda _: None)])
        await self.connection.close()

    def _enqueue(self, call: Call[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        return future

    def _start_next(self) -> None:
        self._is_running = bool(self._waiting)
        if self._waiting:
            self._task = asyncio.create_task(self._run_waiting(), name="connection-calls")

    async def _run_waiting(self) -> None:
        """Run batches until no call waits. A future gets the result or the exception; `run` raises the latter."""
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_max))]
                batch = [(call, future) for call, future in batch if not future.done()]  # the others' callers are gone
                if batch:
                    results = await self._run_batch([call for call, _ in batch])
                    for (_, future), result in zip(batch, results, strict=True):
                        if not future.done():  # cancelled while the batch ran
                            future.set_result(result)
        finally:
            self._is_running, self._task = False, None

    async def _run_batch(self, calls: list[Call[Any]]) -> Sequence[Any]:
        try:
            return await self.connection.run(lambda raw: [_run(call, raw) for call in calls])
        except Exception as error:  # noqa: BLE001  of the connection itself
            return [error] * len(calls)


def _run(call: Call[Any], raw: sqlite3.Connection) -> Any:
    try:
        return call(raw)
    except Exception as error:  # noqa: BLE001  raised by the caller's await
        return error

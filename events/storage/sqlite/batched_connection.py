"""Calls that run in a connection's thread, in batches: switching to the thread and back costs more than most queries.

aiosqlite sends nothing but SQL to its thread. `CallableConnection`, the connection class that it is given, executes
functions as well, so that aiosqlite's queue stays the only way to a connection.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import aiosqlite

from events.errors import LogBusy

T = TypeVar("T")

BATCH_MAX = 32  # calls in one switch to the thread: each result waits for all of them, so a millisecond or two
WAITING_MAX = 10_000  # calls that wait for one connection; the next one is refused with LogBusy
_RUN_CALLS = "run these calls"

Call = Callable[[sqlite3.Connection], T]  # run in the connection's thread


class CallableConnection(sqlite3.Connection):
    """Executes `_RUN_CALLS`, whose parameters are functions, as if it were SQL whose rows are their results."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if sql is _RUN_CALLS:
            return _Results(_run(call, self) for call in parameters)
        return super().execute(sql, parameters)


class _Results(list[Any]):
    def fetchall(self) -> list[Any]:
        return self


def _run(call: Call[Any], connection: sqlite3.Connection) -> Any:
    try:
        return call(connection)
    except Exception as error:  # noqa: BLE001  raised by the caller's await
        return error


async def run_in_thread(connection: aiosqlite.Connection, call: Call[T]) -> T:
    """The result of `call`, run in the thread of a connection that only the caller uses. Raises what `call` raises,
    and sqlite3.Error.
    """
    (result,) = await connection.execute_fetchall(_RUN_CALLS, [call])
    if isinstance(result, Exception):
        raise result
    return result  # type: ignore[return-value]  # of the call's type


class CallBatcher:
    """Runs calls on one connection, whose class is `CallableConnection`. For one event loop."""

    def __init__(self, connection: aiosqlite.Connection, batch_max: int = BATCH_MAX) -> None:
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
            return await self.connection.execute_fetchall(_RUN_CALLS, calls)  # type: ignore[return-value]  # _Results
        except Exception as error:  # noqa: BLE001  of the connection itself
            return [error] * len(calls)

"""One hop to a connection's thread for all who ask at that moment: the hop costs more than most answers.

aiosqlite takes nothing but SQL to its thread. `AskableConnection`, which it is told to make there, executes questions
as well, so that its queue stays the only way to a connection.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import aiosqlite

from events.errors import LogBusy
from events.storage.futures import resolve

T = TypeVar("T")

GROUP_MAX = 32  # questions in one hop: each answer waits for them all, so a millisecond or two
WAITING_MAX = 10_000  # questions that wait for one connection; the next one is refused with LogBusy
_ANSWER = "answer these questions"

Question = Callable[[sqlite3.Connection], T]  # asked in the connection's thread


class CallableConnection(sqlite3.Connection):
    """Answers `_ANSWER`, with questions for parameters, as if it were SQL whose rows are the answers."""

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if sql is _ANSWER:
            return _Answers(_answer(question, self) for question in parameters)
        return super().execute(sql, parameters)


class _Answers(list[Any]):
    def fetchall(self) -> list[Any]:
        return self


def _answer(question: Question[Any], connection: sqlite3.Connection) -> Any:
    try:
        return question(connection)
    except Exception as error:  # noqa: BLE001  raised where it was asked
        return error


async def run_in_thread(connection: aiosqlite.Connection, question: Question[T]) -> T:
    """What `question` makes of a connection that is the caller's alone. Raises what it raises, and sqlite3.Error."""
    (answer,) = await connection.execute_fetchall(_ANSWER, [question])
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[return-value]  # of the question's type


class CallBatcher:
    """The way to one connection, which was made by `AskableConnection`. For one event loop."""

    def __init__(self, connection: aiosqlite.Connection, group_max: int = GROUP_MAX) -> None:
        self.connection = connection
        self._group_max = group_max
        self._waiting: deque[tuple[Question[Any], asyncio.Future[Any]]] = deque()
        self._is_running = False
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Question[T]) -> T:
        """What `question` makes of the connection. Raises what it raises, sqlite3.Error, or LogBusy.

        Who asks while a hop is under way shares the next one. Who finds none goes at once, in the caller's own task:
        another would cost a fifth more.
        """
        if self._is_running:
            if len(self._waiting) >= WAITING_MAX:
                raise LogBusy(f"{WAITING_MAX} reads wait already")
            return await self._queue(question)
        self._is_running = True
        try:
            (answer,) = await self._answers([question])
        finally:
            self._start_next()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]  # of the question's type

    async def close(self) -> None:
        """Answer what was asked, then close the connection. From now on nobody may ask."""
        while self._is_running:
            await asyncio.wait([self._queue(lambda _: None)])
        await self.connection.close()

    def _queue(self, question: Question[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        return future

    def _start_next(self) -> None:
        self._is_running = bool(self._waiting)
        if self._waiting:
            self._task = asyncio.create_task(self._answer_all(), name="shared-hop")

    async def _answer_all(self) -> None:
        """Hop until nobody waits."""
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._group_max))]
                group = [asked for asked in group if not asked[1].done()]  # who has gone needs no answer
                if group:
                    answers = await self._answers([question for question, _ in group])
                    for (_, future), answer in zip(group, answers, strict=True):
                        resolve(future, answer)
        finally:
            self._is_running, self._task = False, None

    async def _answers(self, questions: list[Question[Any]]) -> Sequence[Any]:
        try:
            return await self.connection.execute_fetchall(_ANSWER, questions)  # type: ignore[return-value]  # _Answers
        except Exception as error:  # noqa: BLE001  of the connection itself
            return [error] * len(questions)

"""The time limits of one reply, for the price of one timer: it looks at when a wait began instead of being reset."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar, cast

from chatbot.llm.errors import LlmTimeout
from chatbot.llm.options import LlmOptions

LOOK_AGAIN_S = 0.5  # past the limit on the whole reply, while its reader is busy with the last piece

T = TypeVar("T")


class Watchdog:
    """Interrupts an await on the model server that lasts too long. Used by one task at a time, as a context manager.

    Only waits count: time that the reader takes to store a piece is not the model's. The timer is set to the earliest
    moment at which a limit can be hit; when it fires early, it is set again. A piece of text costs one clock read.
    """

    def __init__(self, options: LlmOptions) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._limit_s = options.first_token_timeout_s
        self._whole_until = self._loop.time() + options.reply_timeout_s
        self._waiting: asyncio.Task[object] | None = None
        self._cancels_before = 0
        self._since = 0.0
        self._too_slow = ""  # what was hit; '' while nothing was
        self._timer: asyncio.TimerHandle

    def __enter__(self) -> Self:
        self._arm(self._loop.time())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    @property
    def remaining_s(self) -> float:
        """Seconds until the limit on the whole reply."""
        return self._whole_until - self._loop.time()

    def text_came(self) -> None:
        """From the first piece on, the limit between pieces holds."""
        self._limit_s = self._options.between_tokens_timeout_s
        self._timer.cancel()
        self._arm(self._loop.time())

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """What the awaitable gives. Raises LlmTimeout; being cancelled from outside stays a cancellation."""
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancels_before = task.cancelling()
        self._since = self._loop.time()
        self._waiting = task
        try:
            return await awaitable
        except asyncio.CancelledError:
            # The bookkeeping of asyncio.timeout(): if someone else has cancelled the task, too, theirs comes first.
            if not self._too_slow or task.uncancel() > self._cancels_before:
                raise
            raise LlmTimeout(self._too_slow) from None
        finally:
            self._waiting = None

    def _arm(self, since: float) -> None:
        """Sets the timer to the earliest limit of a wait that began then."""
        self._timer = self._loop.call_at(min(since + self._limit_s, self._whole_until), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if self._waiting is None:
            # Nobody waits, so nobody can be too late; a wait that begins now has its whole limit before it.
            if now < self._whole_until:
                self._arm(now)
            else:
                self._timer = self._loop.call_at(now + LOOK_AGAIN_S, self._look)
        elif now >= self._whole_until:
            self._interrupt(self._waiting, f"The reply took longer than {self._options.reply_timeout_s:g} s")
        elif now >= self._since + self._limit_s:
            self._interrupt(self._waiting, f"The model server was silent for {self._limit_s:g} s")
        else:
            self._arm(self._since)

    def _interrupt(self, waiting: "asyncio.Task[object]", reason: str) -> None:
        # The task is suspended inside wait(), so that is where the cancellation arrives, never in its caller's code.
        self._too_slow = reason
        waiting.cancel()

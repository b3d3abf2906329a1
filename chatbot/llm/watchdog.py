"""The time limits of one reply, for the price of one timer: it looks at when a sign of life came last instead of being
reset by each."""

import asyncio
from types import TracebackType
from typing import Self

from chatbot.llm.errors import LlmTimeout
from chatbot.llm.options import LlmOptions


class Watchdog:
    """Ends what runs inside of it, an asynchronous context manager, with LlmTimeout when the model is too slow.

    `since_s` is the loop's time at the model's last sign of life: whoever hears one sets it. The timer is set to the
    earliest moment at which a limit can be hit; when it fires early, it is set again. So a piece of text costs one
    clock read. Being cancelled from outside stays a cancellation.
    """

    def __init__(self, options: LlmOptions) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._limit_s = options.first_token_timeout_s
        self.since_s = self._loop.time()
        self._whole_until_s = self.since_s + options.reply_timeout_s
        self._too_slow = ""  # what was hit; '' while nothing was
        self._patience = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle

    async def __aenter__(self) -> Self:
        await self._patience.__aenter__()
        self._arm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        try:
            await self._patience.__aexit__(kind, error, trace)
        except TimeoutError:
            raise LlmTimeout(self._too_slow) from None

    @property
    def remaining_s(self) -> float:
        """Seconds until the limit on the whole reply."""
        return self._whole_until_s - self._loop.time()

    async def pause(self, seconds: float) -> None:
        """Wait before the model is asked anew: its silence counts from then."""
        self.since_s = self._loop.time() + seconds
        await asyncio.sleep(seconds)

    def text_came(self) -> None:
        """From the first piece on, the limit between pieces holds."""
        self._limit_s = self._options.between_tokens_timeout_s
        if self._limit_s < self._options.first_token_timeout_s:  # else the timer looks early, and is set again then
            self._timer.cancel()
            self._arm()

    def _arm(self) -> None:
        self._timer = self._loop.call_at(min(self.since_s + self._limit_s, self._whole_until_s), self._look)

    def _look(self) -> None:
        now_s = self._loop.time()
        if now_s >= self._whole_until_s:
            self._end(f"The reply took longer than {self._options.reply_timeout_s:g} s")
        elif now_s >= self.since_s + self._limit_s:
            self._end(f"The model server was silent for {self._limit_s:g} s")
        else:
            self._arm()

    def _end(self, reason: str) -> None:
        self._too_slow = reason
        self._patience.reschedule(self._loop.time())

"""What every provider is wrapped in: time limits, another try before the first piece of text, a bounded length."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from chatbot.llm.errors import LlmError, LlmFailed
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import ChatMessage, Finish, Health, Provider
from chatbot.llm.watchdog import Watchdog
from events.catalogue import Parameters

RETRY_WAIT_MAX_S = 10.0  # a server that asks for more is left alone: a person is waiting

_log = structlog.get_logger(__name__)


class GuardedProvider:
    """A provider whose every reply ends: with a Finish after at least some text, or with an error of errors.py."""

    def __init__(self, provider: Provider, options: LlmOptions) -> None:
        self._provider = provider
        self._options = options
        self._take_names()

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, *, whole: bool = False
    ) -> AsyncGenerator[str | Finish, None]:
        """Never gives an empty piece; those of the inner provider only say that the server lives."""
        attempt = 0
        with Watchdog(self._options) as watchdog:
            while True:
                length = 0
                try:
                    stream = self._provider.stream(messages, parameters, whole=whole)
                    async with aclosing(self._attempt(stream, watchdog, parameters)) as pieces:
                        async for piece in pieces:
                            if isinstance(piece, str):
                                length += len(piece)
                            yield piece
                except LlmError as error:
                    wait_s = self._retry_wait_s(error, attempt)
                    if length or wait_s is None or wait_s >= watchdog.remaining_s:
                        raise
                    attempt += 1
                    reason = type(error.__cause__ or error).__name__
                    _log.info("llm.retried", provider=self.name, reason=reason, status=error.status, attempt=attempt)
                else:
                    return
                await asyncio.sleep(wait_s)

    async def health(self) -> Health:
        health = await self._provider.health()
        self._take_names()
        return health

    async def close(self) -> None:
        await self._provider.close()

    async def _attempt(
        self, stream: AsyncGenerator[str | Finish, None], watchdog: Watchdog, parameters: Parameters
    ) -> AsyncGenerator[str | Finish, None]:
        room = self._options.reply_max_chars
        empty = True
        async with aclosing(stream) as pieces:
            while True:
                try:
                    piece = await watchdog.wait(anext(pieces))
                except StopAsyncIteration:
                    raise LlmFailed("The model server's answer was cut before its end") from None
                if isinstance(piece, Finish):
                    break
                if not piece:
                    continue
                if empty:
                    empty = False
                    watchdog.text_came()
                    self._take_names()
                if len(piece) > room:
                    yield piece[:room]
                    piece = Finish(reason="length", model=parameters.model or self.model)
                    break
                room -= len(piece)
                yield piece
        if empty:
            raise LlmFailed("The model server gave an empty reply")
        yield piece

    def _retry_wait_s(self, error: LlmError, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none.

        Doubling, with jitter from half to one and a half, so that replies which failed together do not return together.
        """
        asked_s = error.retry_after_s or 0.0
        if not error.retryable or attempt >= self._options.retries_max or asked_s > RETRY_WAIT_MAX_S:
            return None
        backoff_s = min(self._options.retry_backoff_s * 2.0**attempt, RETRY_WAIT_MAX_S)
        return max(asked_s, backoff_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter is no secret

    def _take_names(self) -> None:
        """They may become known only by asking the server."""
        self.name = self._provider.name
        self.model = self._provider.model

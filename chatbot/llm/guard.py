"""What every provider is wrapped in: time limits, another try before the first piece of text, a bounded length."""

import asyncio
import random
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from chatbot.llm.address import shown_origin
from chatbot.llm.errors import LlmError, LlmFailed, loggable_reason
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import ChatMessage, Finish, Health, Hear, Provider
from chatbot.llm.watchdog import Watchdog
from events.catalogue import Parameters

BACKOFF_MAX_S = 10.0

_log = structlog.get_logger(__name__)


Note = Callable[[LlmError | None], None]


def _ignore(_: LlmError | None) -> None: ...


class Full(Exception):
    """The reply is as long as a reply may be."""


class Listener:
    """Between a provider and who hears the reply: notes signs of life, passes on text, up to `room` code points."""

    def __init__(self, hear: Hear, watchdog: Watchdog, room: int) -> None:
        self.has_text = False
        self._pass_on = hear
        self._time = asyncio.get_running_loop().time
        self._watchdog = watchdog
        self._room = room

    def hear(self, piece: str) -> None:
        """Raises Full when the piece has to be cut. An empty one only says that the server lives."""
        self._watchdog.since_s = self._time()
        if not piece:
            return
        if not self.has_text:
            self.has_text = True
            self._watchdog.text_came()
        length = len(piece)
        if length <= self._room:
            self._room -= length
            self._pass_on(piece)
            return
        if self._room:
            self._pass_on(piece[: self._room])
        raise Full


def _without_text(finish: Finish) -> LlmFailed:
    """The failure of a reply that ended before its first character, with all that the server told of it."""
    detail = finish.detail or ("" if finish.reason == "stop" else finish.reason)
    message = finish.no_text_reason or "The model server gave an empty reply"
    return LlmFailed(message, finish=replace(finish, reason="error", detail=detail))


class GuardedProvider:
    """A provider whose every reply ends: with a Finish after at least some text, or with an error of errors.py."""

    def __init__(self, provider: Provider, options: LlmOptions) -> None:
        self._provider = provider
        self._options = options
        self._note: Note = _ignore
        self._server = shown_origin(options.server_url) if options.server_url else "the embedded model"

    def observe(self, note: Note) -> None:
        """Have `note` told of each attempt: how it failed, or None once it was answered in full."""
        self._note = note

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def model(self) -> str:
        """It may become known only by asking the server."""
        return self._provider.model

    @property
    def models(self) -> frozenset[str]:
        return self._provider.models

    @property
    def lists_models(self) -> bool:
        return self._provider.lists_models

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool = False
    ) -> Finish:
        """`hear` never gets an empty piece."""
        try:
            return await self._reply(messages, parameters, hear, whole=whole)
        except LlmError as error:
            self._log_failure(error)
            raise

    async def _reply(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool
    ) -> Finish:
        """As stream(): asks again until there is text, or no use in it."""
        attempt = 0
        async with Watchdog(self._options) as watchdog:
            while True:
                listener = Listener(hear, watchdog, self._options.reply_max_chars)
                try:
                    finish = await self._provider.stream(messages, parameters, listener.hear, whole=whole)
                    if not listener.has_text:
                        raise _without_text(finish)
                except Full:
                    return Finish(reason="length", model=parameters.model or self.model)
                except LlmError as error:
                    self._note(error)
                    wait_s = self._retry_wait_s(error, attempt)
                    if listener.has_text or wait_s is None or wait_s >= watchdog.remaining_s:
                        raise
                    attempt += 1
                    self._log_failure(error, attempt)
                else:
                    self._note(None)
                    return finish
                await watchdog.pause(wait_s)

    async def health(self) -> Health:
        return await self._provider.health()

    async def close(self) -> None:
        await self._provider.close()

    def _log_failure(self, error: LlmError, next_attempt: int | None = None) -> None:
        """Which address was asked and why it failed; None: for good."""
        error.asked = error.asked or self._server
        failed = {"provider": self.name, "reason": loggable_reason(error), "status": error.status}
        if next_attempt is None:
            _log.warning("llm.failed", **failed)
        else:
            _log.info("llm.retried", **failed, attempt=next_attempt)

    def _retry_wait_s(self, error: LlmError, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none.

        Doubling, with jitter from half to one and a half, so that replies which failed together do not return together.
        """
        asked_s = error.retry_after_s or 0.0
        if not error.retryable or attempt >= self._options.retries_max:
            return None
        if asked_s > self._options.first_token_timeout_s:  # a person waits, and for the first token no longer than that
            return None
        backoff_s = min(self._options.retry_backoff_s * 2.0**attempt, BACKOFF_MAX_S)
        return max(asked_s, backoff_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter is no secret

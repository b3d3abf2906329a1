"""Wraps a provider for resilience: timeouts, retries with backoff before the first text, and a bounded reply length."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from msgspec import Struct
from msgspec.structs import replace

from chatbot.llm.http.server_address import shown_origin
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    Finish,
    Health,
    LlmError,
    LlmFailed,
    LlmTimeout,
    ModelMessage,
    OnText,
    Provider,
    ReplySink,
    Route,
    log_safe_reason,
)
from chatbot.runtime.backoff import Backoff
from events.catalogue import Parameters


class DeadlineTimer:
    """One timer for the deadlines of a provider's replies, set to the earliest: one for each reply would nearly always
    be made and cancelled for nothing.
    """

    def __init__(self) -> None:
        self._watchdogs: set[Watchdog] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0  # when the timer fires

    def add(self, watchdog: "Watchdog") -> None:
        """Call `watchdog.check()` at its deadline, which may be postponed until then."""
        self._watchdogs.add(watchdog)
        self.note_deadline(watchdog.deadline_s)

    def note_deadline(self, deadline_s: float) -> None:
        """Be there at `deadline_s` (the loop's time), which is new or earlier than it was."""
        if self._timer is not None and self._due_s <= deadline_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = deadline_s
        self._timer = asyncio.get_running_loop().call_at(deadline_s, self._check_all)

    def remove(self, watchdog: "Watchdog") -> None:
        """The timer goes on: mostly another reply comes before it fires."""
        self._watchdogs.discard(watchdog)

    def _check_all(self) -> None:
        self._timer = None
        for watchdog in tuple(self._watchdogs):
            if watchdog.check():
                self.note_deadline(watchdog.deadline_s)
            else:
                self._watchdogs.discard(watchdog)


class Watchdog:
    """The timeouts of one reply: a context manager that raises LlmTimeout if the model is too slow.

    `last_sign_of_life_s` (the loop's time) is set by BoundedListener at each text, and postpones the deadline. So a
    text costs one clock read. Cancellation from outside stays a cancellation, as with asyncio.timeout().
    """

    def __init__(self, options: LlmOptions, timer: DeadlineTimer) -> None:
        self._time = asyncio.get_running_loop().time
        self._options = options
        self._timer = timer
        self._limit_s = options.first_token_timeout_s
        self.last_sign_of_life_s = self._time()
        self._reply_deadline_s = self.last_sign_of_life_s + options.reply_timeout_s
        self._has_text = False
        self._timeout_reason = ""  # which limit was exceeded; '' while none was
        self._task: asyncio.Task[object]
        self._cancelling = 0  # of the task, from outside, before

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a reply is generated in a task")
        self._task, self._cancelling = task, task.cancelling()
        self._timer.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.remove(self)
        if self._timeout_reason and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            too_slow = LlmTimeout(self._timeout_reason)
            too_slow.has_text = self._has_text
            raise too_slow from None

    @property
    def remaining_s(self) -> float:
        """Seconds until the limit on the whole reply."""
        return self._reply_deadline_s - self._time()

    @property
    def deadline_s(self) -> float:
        """The earliest time at which a limit is exceeded, as far as is known now."""
        return min(self.last_sign_of_life_s + self._limit_s, self._reply_deadline_s)

    async def wait_before_retry(self, seconds: float) -> None:
        """Wait before the next attempt; its silence counts from then."""
        self.last_sign_of_life_s = self._time() + seconds
        await asyncio.sleep(seconds)

    def text_started(self) -> None:
        """From the first text on, the limit between texts applies."""
        self._has_text = True
        self._limit_s = self._options.between_tokens_timeout_s
        if self._limit_s < self._options.first_token_timeout_s:
            self._timer.note_deadline(self.deadline_s)

    def check(self) -> bool:
        """End the reply if it is too slow; False if that was so."""
        now_s = self._time()
        if now_s >= self._reply_deadline_s:
            self._timeout_reason = f"The reply took longer than {self._options.reply_timeout_s:g} s"
        elif now_s >= self.last_sign_of_life_s + self._limit_s:
            self._timeout_reason = f"The model server was silent for {self._limit_s:g} s"
        else:
            return True
        self._task.cancel()
        return False


BACKOFF_MAX_S = 10.0
JITTER = (0.5, 1.5)  # of a delay, so that replies which failed together do not return together

_log = structlog.get_logger(__name__)


class RetryPolicy(Struct, frozen=True):
    """Which failed attempts are repeated, and when."""

    backoff: Backoff
    retries_max: int  # after the first attempt
    retry_after_max_s: float  # a server that asks for a longer wait is not waited for

    def wait_s(self, error: LlmError, retries: int, jitter: float = 1.0) -> float | None:
        """Seconds to wait after `error`, when so many retries were made; None: no further attempt.

        A person waits, and for the first token no longer than `retry_after_max_s`.
        """
        retry_after_s = error.retry_after_s or 0.0
        if not error.retryable or retries >= self.retries_max or retry_after_s > self.retry_after_max_s:
            return None
        return max(retry_after_s, self.backoff.delay_s(retries + 1) * jitter)


OnAttempt = Callable[[LlmError | None], None]  # None: the attempt succeeded


def _ignore_attempt(_: LlmError | None) -> None: ...


class ReplyTooLong(Exception):
    """The reply has reached its maximum length, or its maximum number of parts."""


class BoundedListener:
    """A ReplySink between a provider and another sink: notes signs of life, passes on what comes, up to
    `remaining_chars` code points in all.
    """

    def __init__(self, sink: ReplySink, watchdog: Watchdog, remaining_chars: int) -> None:
        self.has_text = False
        self._sink = sink
        self._pass_on_text = sink.text
        self.usage = sink.usage
        self._time = asyncio.get_running_loop().time
        self._watchdog = watchdog
        self._remaining_chars = remaining_chars

    def text(self, piece: str) -> None:
        """Raises ReplyTooLong when the piece has to be cut."""
        # A method: stored as a bound one, it would keep each reply's objects until the garbage collector finds them.
        length = len(piece)
        if not 0 < length <= self._remaining_chars:
            self._receive(self._pass_on_text, piece)
            return
        self._watchdog.last_sign_of_life_s = self._time()  # called for each token: the usual case of _receive
        if not self.has_text:
            self.has_text = True
            self._watchdog.text_started()
        self._remaining_chars -= length
        self._pass_on_text(piece)

    def reasoning(self, piece: str) -> None:
        """As `text`."""
        self._receive(self._sink.reasoning, piece)

    def refusal(self, piece: str) -> None:
        """As `text`."""
        self._receive(self._sink.refusal, piece)

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        """As `text`."""
        if arguments:
            self._receive(partial(self._sink.tool_call, call_id, name), arguments)
        else:
            self._note_part()
            self._sink.tool_call(call_id, name, "")

    def _receive(self, pass_on: OnText, piece: str) -> None:
        if not piece:  # it only says that the server is alive
            self._watchdog.last_sign_of_life_s = self._time()
            return
        self._note_part()
        length = len(piece)
        if length <= self._remaining_chars:
            self._remaining_chars -= length
            pass_on(piece)
            return
        if self._remaining_chars:
            pass_on(piece[: self._remaining_chars])
        raise ReplyTooLong

    def _note_part(self) -> None:
        self._watchdog.last_sign_of_life_s = self._time()
        if not self.has_text:
            self.has_text = True
            self._watchdog.text_started()


def _without_text(finish: Finish) -> LlmFailed:
    """The error for a reply that ended before its first character, with what the server said about it."""
    detail = finish.detail or ("" if finish.reason == "stop" else finish.reason)
    message = finish.no_text_reason or "The model server gave an empty reply"
    return LlmFailed(message, finish=replace(finish, reason="error", detail=detail))


class ResilientProvider:
    """A provider whose every reply ends: with a Finish after at least some text, or with an LlmError."""

    def __init__(self, provider: Provider, options: LlmOptions, *, logs_failures: bool = True) -> None:
        """`logs_failures`: False in a pool of servers, which knows whether another one is asked."""
        self._provider = provider
        self._options = options
        self._logs_failures = logs_failures
        self._on_attempt: OnAttempt = _ignore_attempt
        self._deadline_timer = DeadlineTimer()
        self._retry_policy = RetryPolicy(
            Backoff(options.retry_backoff_s, BACKOFF_MAX_S), options.retries_max, options.first_token_timeout_s
        )
        self._server = shown_origin(options.server_url) if options.server_url else "the embedded model"

    def use(self, provider: Provider) -> None:
        """Ask `provider` from now on: it is known what the server speaks."""
        self._provider = provider

    def observe(self, on_attempt: OnAttempt) -> None:
        """Call `on_attempt` after each attempt: with its error, or with None if it succeeded."""
        self._on_attempt = on_attempt

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def model(self) -> str:
        """'' until the server was asked, if none is configured."""
        return self._provider.model

    @property
    def models(self) -> frozenset[str]:
        return self._provider.models

    @property
    def lists_models(self) -> bool:
        return self._provider.lists_models

    @property
    def takes(self) -> frozenset[str] | None:
        return self._provider.takes

    def context_tokens(self, model: str) -> int | None:
        return self._provider.context_tokens(model)

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        """`sink` never gets an empty piece, except of a tool call that begins.

        Retries until there is text, or the policy or the deadline allows no further attempt.
        """
        retries = 0
        try:
            with Watchdog(self._options, self._deadline_timer) as watchdog:
                while True:
                    listener = BoundedListener(sink, watchdog, self._options.reply_max_chars)
                    try:
                        finish = await self._provider.stream(messages, parameters, listener, stream=stream)
                        if not listener.has_text:
                            raise _without_text(finish)
                    except ReplyTooLong:
                        return Finish(reason="length", model=parameters.model or self.model)
                    except LlmError as error:
                        error.has_text = listener.has_text
                        self._on_attempt(error)
                        jitter = random.uniform(*JITTER)  # noqa: S311  no secret
                        wait_s = self._retry_policy.wait_s(error, retries, jitter)
                        if listener.has_text or wait_s is None or wait_s >= watchdog.remaining_s:
                            raise
                        retries += 1
                        self._log_failure(error, retries)
                    else:
                        self._on_attempt(None)
                        return finish
                    await watchdog.wait_before_retry(wait_s)
        except LlmError as error:
            self._log_failure(error)
            raise

    async def health(self) -> Health:
        return await self._provider.health()

    async def close(self) -> None:
        await self._provider.close()

    def _log_failure(self, error: LlmError, next_attempt: int | None = None) -> None:
        """`next_attempt` None: there is none."""
        error.requested_url = error.requested_url or self._server
        if not self._logs_failures:
            return
        failed = {"provider": self.name, "reason": log_safe_reason(error), "status": error.status}
        if next_attempt is None:
            _log.warning("llm.failed", **failed)
        else:
            _log.info("llm.retried", **failed, attempt=next_attempt)

"""The guard around a provider: time limits, retries before the first piece, bounded length, no empty reply."""

import asyncio
import time
import weakref
from collections.abc import Callable

import pytest
import structlog

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    TAKES_ALL,
    Finish,
    Health,
    LlmError,
    LlmFailed,
    LlmOverloaded,
    LlmTimeout,
    LlmUnavailable,
    ModelMessage,
    ReplySink,
    Route,
    TextSink,
)
from chatbot.llm.resilient_provider import ResilientProvider, Watchdog
from chatbot.runtime.gc_tuning import collection_paused
from events.catalogue import Parameters
from tests.support.model.provider_client import Answer, ask

Step = str | float | Exception | Finish
END = Finish(reason="stop", model="m")


class Scripted:
    """A provider that plays a list of steps for each attempt: a piece, seconds to wait, an error, a finish."""

    name = "scripted"
    model = "m"
    models = frozenset({model})
    lists_models = False
    takes: frozenset[str] | None = TAKES_ALL

    def __init__(self, *attempts: list[Step]) -> None:
        self.attempts = list(attempts)
        self.asked_at: list[float] = []
        self.closed = 0

    def context_tokens(self, model: str) -> int | None:
        return None

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        self.asked_at.append(time.monotonic())
        try:
            for step in self.attempts.pop(0):
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                elif isinstance(step, Finish):
                    return step
                else:
                    sink.text(step)
            raise AssertionError("a script ends with a finish or an error")
        finally:
            self.closed += 1

    async def health(self) -> Health:
        return Health(available=True)

    async def close(self) -> None: ...


def guard(provider: Scripted, **options: float) -> ResilientProvider:
    defaults: dict[str, float] = {
        "retry_backoff_s": 0.01,
        "first_token_timeout_s": 2.0,
        "between_tokens_timeout_s": 1.0,
    }
    return ResilientProvider(provider, LlmOptions(**(defaults | options)))  # type: ignore[arg-type]  # one dict, many types


async def test_pieces_and_finish_pass_through() -> None:
    answer = await ask(guard(Scripted(["a", "b", END])))
    assert answer == Answer(["a", "b"], END)


async def test_empty_pieces_are_signs_of_life_and_go_no_further() -> None:
    provider = Scripted(["", 1.1, "", 1.1, "a", END])
    assert (await ask(guard(provider))).pieces == ["a"]


async def test_no_text_at_all_is_a_failure() -> None:
    with pytest.raises(LlmFailed, match="empty reply"):
        await ask(guard(Scripted(["", END])))


@pytest.mark.parametrize(
    ("steps", "limits", "text"),
    [
        ([60.0, "a", END], {"first_token_timeout_s": 0.2}, "silent for 0.2 s"),
        (["a", 60.0, "b", END], {"between_tokens_timeout_s": 0.1}, "silent for 0.1 s"),
        (["a", 0.05, "b", 0.05, "c", 0.05, "d", 60.0, END], {"reply_timeout_s": 0.12}, "longer than 0.12 s"),
    ],
)
async def test_each_limit_ends_the_reply(steps: list[Step], limits: dict[str, float], text: str) -> None:
    provider = Scripted(steps)
    started = time.monotonic()
    with pytest.raises(LlmTimeout, match=text):
        await ask(guard(provider, **limits))
    assert time.monotonic() - started < 10
    assert provider.closed == 1
    assert len(provider.asked_at) == 1


async def test_a_short_wait_after_a_long_one_is_measured_by_itself() -> None:
    provider = Scripted(["a", 0.4, "b", 0.4, "c", 0.4, END])
    assert (await ask(guard(provider))).text == "abc"


async def test_the_wait_before_another_attempt_is_not_the_models() -> None:
    provider = Scripted([LlmOverloaded("429", retryable=True, retry_after_s=1.5)], [0.8, "a", END])
    assert (await ask(guard(provider))).text == "a"


async def test_what_the_listener_raises_ends_the_reply() -> None:
    provider = Scripted(["a", 5.0, END])

    def on_text(_piece: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await guard(provider).stream((), Parameters(), TextSink(on_text))
    assert provider.closed == 1


async def test_being_cancelled_stays_a_cancellation_and_closes_the_provider() -> None:
    provider = Scripted(["a", 5.0, END])
    reading = asyncio.create_task(ask(guard(provider, between_tokens_timeout_s=9.0)))
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert provider.closed == 1


async def test_a_timeout_leaves_its_task_uncancelled() -> None:
    with pytest.raises(LlmTimeout):
        await ask(guard(Scripted([60.0, END]), first_token_timeout_s=0.1))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize(
    "make",
    [
        LlmUnavailable,
        lambda: LlmFailed("500", retryable=True),
        lambda: LlmOverloaded("429", retryable=True),
    ],
)
async def test_what_may_succeed_next_time_is_asked_again(make: Callable[[], LlmError]) -> None:
    provider = Scripted([make()], ["", make()], ["a", END])
    assert (await ask(guard(provider, retries_max=2))).text == "a"
    assert len(provider.asked_at) == 3


async def test_attempts_are_bounded_and_the_last_error_is_told() -> None:
    provider = Scripted([LlmUnavailable("one")], [LlmUnavailable("two")], ["a", END])
    with pytest.raises(LlmUnavailable, match="two"):
        await ask(guard(provider, retries_max=1))


async def test_the_waits_between_attempts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    wait_before_retry = Watchdog.wait_before_retry

    async def noted(watchdog: Watchdog, seconds: float) -> None:
        waits.append(seconds)
        await wait_before_retry(watchdog, seconds)

    monkeypatch.setattr(Watchdog, "wait_before_retry", noted)
    away: list[Step] = [LlmUnavailable()]
    provider = Scripted(away, away, away, away)
    with pytest.raises(LlmUnavailable):
        await ask(guard(provider, retries_max=3, retry_backoff_s=0.04))
    for wait_s, about_s in zip(waits, (0.04, 0.08, 0.16), strict=True):
        assert 0.5 * about_s <= wait_s <= 1.5 * about_s
    asked_at = provider.asked_at
    assert all(
        later - earlier > 0.9 * wait_s for earlier, later, wait_s in zip(asked_at, asked_at[1:], waits, strict=False)
    )


@pytest.mark.parametrize("error", [LlmFailed("400"), LlmTimeout(), LlmOverloaded()])
async def test_what_would_fail_again_is_not_asked_again(error: LlmError) -> None:
    provider = Scripted([error], ["a", END])
    with pytest.raises(type(error)):
        await ask(guard(provider))
    assert len(provider.asked_at) == 1


async def test_nothing_is_asked_again_once_text_has_come() -> None:
    provider = Scripted(["a", LlmUnavailable()], ["a", END])
    answer = Answer([])
    with pytest.raises(LlmUnavailable):
        await ask(guard(provider), into=answer)
    assert answer.pieces == ["a"]
    assert len(provider.asked_at) == 1


async def test_a_server_that_asks_for_time_gets_it_or_is_left_alone() -> None:
    provider = Scripted([LlmOverloaded("429", retryable=True, retry_after_s=0.1)], ["a", END])
    await ask(guard(provider))
    assert provider.asked_at[1] - provider.asked_at[0] >= 0.1
    too_long = Scripted([LlmOverloaded("429", retryable=True, retry_after_s=1.1)], ["a", END])
    with pytest.raises(LlmOverloaded):
        await ask(guard(too_long, first_token_timeout_s=1.0))
    assert len(too_long.asked_at) == 1


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([LlmFailed("The model server failed: PRIVATE")], "The model server failed (asked http://host:8000)"),
        (["a", 60.0, END], "The model server was silent for 0.1 s (asked http://host:8000)"),
    ],
)
async def test_the_log_says_which_server_was_asked_and_why_it_failed(steps: list[Step], reason: str) -> None:
    options = LlmOptions(server_url="http://me:hidden@host:8000/v1?key=hidden", between_tokens_timeout_s=0.1)
    with structlog.testing.capture_logs() as lines, pytest.raises(LlmError):
        await ask(ResilientProvider(Scripted(steps), options))
    (line,) = lines
    assert (line["event"], line["reason"]) == ("llm.failed", reason)


async def test_a_reply_that_grows_too_long_ends_with_the_reason_length() -> None:
    provider = Scripted(["abc", "defg", 5.0, END])
    answer = await ask(guard(provider, reply_max_chars=5))
    assert answer == Answer(["abc", "de"], Finish(reason="length", model="m"))
    assert provider.closed == 1


async def test_a_reply_of_just_the_bound_is_whole() -> None:
    answer = await ask(guard(Scripted(["abc", "de", END]), reply_max_chars=5))
    assert answer == Answer(["abc", "de"], END)


async def test_replies_after_each_other_share_one_timer() -> None:
    script: list[Step] = ["a", "b", "c", END]
    loop, provider = asyncio.get_running_loop(), guard(Scripted(*[script] * 100))
    before = len(loop._scheduled)  # type: ignore[attr-defined]  # there is no public way to see timers
    for _ in range(100):
        await ask(provider)
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert len(timers) <= before + 1


async def test_a_reply_is_watched_by_the_timer_of_an_earlier_one() -> None:
    provider = guard(Scripted(["a", END]), first_token_timeout_s=0.2, between_tokens_timeout_s=0.2)
    await ask(provider)
    await asyncio.sleep(0.1)  # the timer is due before this reply's deadline, and sets itself again
    provider.use(Scripted(["a", 5.0, END]))
    with pytest.raises(LlmTimeout, match=r"silent for 0\.2 s"):
        await ask(provider)


async def test_replies_of_one_provider_have_their_own_deadlines() -> None:
    fast: list[Step] = ["a", 0.15, "b", 0.15, "c", 0.15, "d", END]
    silent: list[Step] = ["a", 60.0, END]  # its deadline becomes the earliest with its first text
    provider = guard(Scripted(fast, silent, [0.3, *fast]), first_token_timeout_s=1.0, between_tokens_timeout_s=0.3)
    started = time.monotonic()
    kept, ended, late = await asyncio.gather(ask(provider), ask(provider), ask(provider), return_exceptions=True)
    assert isinstance(ended, LlmTimeout)
    assert isinstance(kept, Answer)
    assert isinstance(late, Answer)
    assert (kept.text, late.text) == ("abcd", "abcd")
    assert time.monotonic() - started < 10


async def test_each_attempt_is_reported_to_the_observer() -> None:
    provider = guard(Scripted([LlmUnavailable("down")], ["a", END], [LlmTimeout("slow")]))
    noted: list[str] = []
    provider.observe(lambda error: noted.append(str(error)))
    await ask(provider)
    with pytest.raises(LlmTimeout):
        await ask(provider)
    assert noted == ["down", "None", "slow"]


async def test_a_reply_is_freed_when_it_ends_and_not_by_the_garbage_collector() -> None:
    pieces: list[str] = []
    sink = TextSink(pieces.append)
    reply = weakref.ref(sink)
    with collection_paused():
        await guard(Scripted(["a", END])).stream((), Parameters(), sink)
        del sink
        assert (pieces, reply()) == (["a"], None)

"""A circuit breaker opens after failures in a row, and lets one probe through after a pause that grows."""

from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.servers.circuit_breaker import (
    FAILURES_MAX,
    PAUSES,
    REQUESTED_PAUSE_MAX_S,
    CircuitBreaker,
    pause_requested,
    request_abandoned,
    request_failed,
    request_started,
    request_succeeded,
)


def failed(breaker: CircuitBreaker, now_s: float, times: int = 1) -> CircuitBreaker:
    for _ in range(times):
        breaker = request_failed(breaker, now_s, is_probe=breaker.is_probing)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = failed(CircuitBreaker(), 0.0, FAILURES_MAX - 1)
    assert breaker.state(0.0) == "closed"
    assert failed(breaker, 0.0).state(0.0) == "open"
    after_success = request_succeeded(breaker, is_probe=False)
    assert failed(after_success, 0.0).state(0.0) == "closed"


def test_it_lets_one_probe_through_and_closes_if_that_succeeds() -> None:
    breaker = failed(CircuitBreaker(), 0.0, FAILURES_MAX)
    assert breaker.wait_s(0.0) == PAUSES.first_s
    assert breaker.state(PAUSES.first_s) == "half_open"
    probing = request_started(breaker, PAUSES.first_s)
    assert probing.state(PAUSES.first_s) == "open"
    assert request_succeeded(probing, is_probe=True).state(PAUSES.first_s) == "closed"


def test_a_failed_probe_opens_it_for_twice_as_long() -> None:
    breaker, now_s = failed(CircuitBreaker(), 0.0, FAILURES_MAX), 0.0
    for pause_s in (1.0, 2.0, 4.0, 8.0, 16.0, PAUSES.max_s, PAUSES.max_s):
        assert breaker.wait_s(now_s) == pause_s
        now_s += pause_s
        breaker = failed(request_started(breaker, now_s), now_s)
        assert breaker.state(now_s) == "open"


def test_an_abandoned_probe_leaves_the_next_request_to_probe() -> None:
    breaker = request_started(failed(CircuitBreaker(), 0.0, FAILURES_MAX), 1.0)
    assert request_abandoned(breaker, is_probe=True).state(1.0) == "half_open"


def test_requests_that_began_before_it_opened_neither_close_it_nor_prolong_its_pause() -> None:
    breaker = failed(CircuitBreaker(), 0.0, FAILURES_MAX)
    assert request_succeeded(breaker, is_probe=False) == breaker
    assert request_failed(breaker, 0.9, is_probe=False) == breaker


def test_a_server_that_asks_for_a_pause_gets_it_but_not_for_ever() -> None:
    breaker = pause_requested(CircuitBreaker(), 10.0, 5.0)
    assert (breaker.state(14.9), breaker.wait_s(12.0), breaker.state(15.0)) == ("open", 3.0, "closed")
    assert request_succeeded(breaker, is_probe=False).state(14.9) == "open"
    assert pause_requested(CircuitBreaker(), 0.0, 1e9).state(REQUESTED_PAUSE_MAX_S) == "closed"


STEPS = st.lists(
    st.tuples(st.sampled_from(("start", "succeed", "fail", "leave", "pause")), st.floats(0, 40)), max_size=60
)


@given(STEPS)
def test_whatever_happens_it_lets_one_probe_through_at_a_time_and_never_shuts_a_server_out(
    steps: list[tuple[str, float]],
) -> None:
    breaker, now_s = CircuitBreaker(), 0.0
    under_way: list[bool] = []  # of each request, whether it is the probe
    in_a_row = 0  # failures of requests that began while it was closed
    for step, seconds in steps:
        now_s += seconds
        if step == "start" and breaker.state(now_s) != "open":
            was_half_open = breaker.state(now_s) == "half_open"
            breaker = request_started(breaker, now_s)
            under_way.append(was_half_open)
        elif step == "pause":
            breaker = pause_requested(breaker, now_s, seconds)
        elif step != "start" and under_way:
            is_probe = under_way.pop()
            was_open = breaker.opens_until_s is not None
            if step == "succeed":
                breaker = request_succeeded(breaker, is_probe=is_probe)
                in_a_row = in_a_row if was_open and not is_probe else 0
                assert not is_probe or breaker.opens_until_s is None
            elif step == "fail":
                breaker = request_failed(breaker, now_s, is_probe=is_probe)
                in_a_row += not was_open
                assert (breaker.opens_until_s is not None) == (was_open or in_a_row >= FAILURES_MAX)
            else:
                breaker = request_abandoned(breaker, is_probe=is_probe)
        assert sum(under_way) == breaker.is_probing
        assert breaker.is_probing or breaker.wait_s(now_s) <= max(PAUSES.max_s, 40.0)
    if not breaker.is_probing:
        assert breaker.state(now_s + breaker.wait_s(now_s)) != "open"

"""A delay doubles with each failure in a row, up to a bound."""

from chatbot.runtime.backoff import Backoff


def test_a_delay_doubles_up_to_its_bound() -> None:
    backoff = Backoff(0.5, 30.0)
    assert [backoff.delay_s(failures) for failures in (0, 1, 2, 3, 6, 7, 8)] == [0.0, 0.5, 1.0, 2.0, 16.0, 30.0, 30.0]


def test_any_number_of_failures_has_a_delay() -> None:
    assert Backoff(0.5, 30.0).delay_s(5000) == 30.0

"""The states of the projection runner follow each other in a known order only."""

import pytest

from projections.runner_state import State, transition


def test_the_way_of_a_start() -> None:
    assert transition(State.OPENING, State.CATCHING_UP) is State.CATCHING_UP
    assert transition(State.CATCHING_UP, State.CURRENT) is State.CURRENT


@pytest.mark.parametrize("present", [State.CATCHING_UP, State.CURRENT, State.REBUILDING_IN_SUBPROCESS])
def test_a_damaged_store_is_replaced_whatever_is_being_done(present: State) -> None:
    assert transition(present, State.REPLACING) is State.REPLACING


@pytest.mark.parametrize("present", [state for state in State if state is not State.STOPPED])
def test_a_stop_is_possible_at_any_time(present: State) -> None:
    assert transition(present, State.STOPPED) is State.STOPPED


@pytest.mark.parametrize("following", list(State))
def test_nothing_follows_a_stop(following: State) -> None:
    assert transition(State.STOPPED, following) is State.STOPPED


@pytest.mark.parametrize(
    ("present", "following"),
    [
        (State.REPLACING, State.CURRENT),
        (State.CURRENT, State.CATCHING_UP),
        (State.CURRENT, State.REBUILDING_IN_SUBPROCESS),
        (State.FAILED, State.CATCHING_UP),
    ],
)
def test_a_change_that_no_case_needs_is_refused(present: State, following: State) -> None:
    with pytest.raises(RuntimeError, match=f"from {present.value} to {following.value}"):
        transition(present, following)

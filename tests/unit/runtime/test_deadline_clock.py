"""A wall clock that jumps neither expires nor erases a session before it has been right for a while."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.runtime.clock import BELIEVED_AFTER_US, GAP_US, JUMP_US, DeadlineClock, Reading, system_reading

SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000
START = 1_800_000_000 * SECOND


class Machine:
    """Two clocks that we move. `wrong_us` is by how much the wall clock is wrong."""

    def __init__(self, newest_us: int | None = None, wrong_us: int = 0) -> None:
        self.boot_us, self.wrong_us = 5 * HOUR, wrong_us
        self.jumps: list[float] = []
        self.clock = DeadlineClock(self.read, newest_us, self.jumps.append)

    @property
    def true_us(self) -> int:
        return START + self.boot_us

    def read(self) -> Reading:
        return Reading(self.true_us + self.wrong_us, self.boot_us)

    def runs(self, us: int, step_us: int = 30 * SECOND) -> None:
        """Time passes, and the clock is looked at now and then."""
        for _ in range(us // step_us):
            self.boot_us += step_us
            self.clock()


def test_a_clock_that_never_jumps_is_the_wall_clock() -> None:
    machine = Machine()
    machine.runs(2 * HOUR)
    assert machine.clock() == machine.true_us
    assert machine.jumps == []


def test_a_clock_that_is_corrected_slowly_is_followed() -> None:
    machine = Machine()
    for _ in range(1000):
        machine.wrong_us += 15_000  # 0.5 ms a second
        machine.runs(30 * SECOND)
    assert machine.clock() == machine.true_us + machine.wrong_us
    assert machine.jumps == []


@pytest.mark.parametrize("wrong_us", [2 * DAY, 3650 * DAY, JUMP_US, 90 * SECOND])
@pytest.mark.parametrize("lasts_us", [3 * SECOND, BELIEVED_AFTER_US - SECOND])
def test_a_jump_forward_moves_no_deadline_until_it_is_believed(wrong_us: int, lasts_us: int) -> None:
    machine = Machine()
    machine.runs(HOUR)
    machine.wrong_us = wrong_us
    assert machine.clock() == machine.true_us
    machine.runs(lasts_us, step_us=SECOND)
    assert machine.clock() == machine.true_us
    machine.wrong_us = 0
    assert machine.clock() == machine.true_us
    assert machine.jumps == [wrong_us / SECOND, -wrong_us / SECOND]


def test_a_jump_forward_that_stays_is_believed_in_the_end() -> None:
    machine = Machine()
    machine.wrong_us = 2 * DAY  # a machine that was suspended, where the boot clock does not count that
    machine.clock()
    machine.runs(BELIEVED_AFTER_US)
    assert machine.clock() == machine.true_us + 2 * DAY
    assert machine.jumps == [172_800.0]


def test_each_jump_begins_the_wait_again() -> None:
    machine = Machine()
    for days in (2, 4, 6):
        machine.wrong_us = days * DAY
        machine.runs(BELIEVED_AFTER_US - 60 * SECOND)
        assert machine.clock() == machine.true_us
    assert len(machine.jumps) == 3


def test_a_clock_that_was_ahead_and_goes_back_makes_deadlines_late() -> None:
    machine = Machine(wrong_us=DAY)
    machine.runs(HOUR)
    machine.wrong_us = 0
    assert machine.clock() == machine.true_us
    machine.runs(HOUR)
    assert machine.clock() == machine.true_us


def test_a_clock_far_ahead_of_the_log_at_the_start_goes_on_where_the_log_ends() -> None:
    newest_us = START + 5 * HOUR - 2 * DAY
    machine = Machine(newest_us)
    assert machine.clock() == newest_us
    machine.runs(60 * SECOND)
    assert machine.clock() == newest_us + 60 * SECOND
    machine.runs(BELIEVED_AFTER_US)
    assert machine.clock() == machine.true_us
    assert machine.jumps == []  # a long stop looks the same, and is nothing to warn of


def test_a_start_soon_after_the_newest_event_believes_the_clock() -> None:
    machine = Machine(START + 5 * HOUR - GAP_US)
    assert machine.clock() == machine.true_us


def test_a_clock_behind_the_newest_event_at_the_start_is_reported() -> None:
    machine = Machine(START + 5 * HOUR + DAY)
    assert machine.jumps == [-86_400.0]
    assert machine.clock() == machine.true_us
    assert Machine(START + 5 * HOUR + SECOND).jumps == []  # another node's clock may be a second ahead


def test_it_is_consistent_since_the_start_or_the_last_jump() -> None:
    machine = Machine()
    assert machine.clock.is_consistent(0)
    machine.runs(HOUR - 30 * SECOND)
    assert not machine.clock.is_consistent(1)
    machine.runs(30 * SECOND)
    assert machine.clock.is_consistent(1)
    machine.wrong_us = DAY
    assert not machine.clock.is_consistent(1)  # found by this very question
    machine.runs(HOUR)
    assert machine.clock.is_consistent(1)


@given(st.lists(st.tuples(st.integers(-10 * DAY, 10 * DAY), st.integers(1, BELIEVED_AFTER_US // 20)), max_size=8))
def test_whatever_the_wall_clock_does_for_minutes_deadlines_are_never_early(moves: list[tuple[int, int]]) -> None:
    machine = Machine()
    machine.runs(HOUR)
    for number, (wrong_us, lasts_us) in enumerate(moves, start=1):
        machine.wrong_us = wrong_us
        machine.boot_us += lasts_us
        assert machine.clock() < machine.true_us + number * JUMP_US  # less than a jump passes for a correction


def test_the_machines_clocks_run_forward() -> None:
    readings = [system_reading() for _ in range(3)]
    assert all(earlier.boot_us <= later.boot_us for earlier, later in pairwise(readings))

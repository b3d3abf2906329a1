"""The figures of tests/bench/owners.py: a difference in time is found if there is one."""

import random

from tests.bench.owners import difference


def test_a_shift_is_outside_of_the_interval_and_noise_is_inside() -> None:
    choose = random.Random(7)
    noise = [choose.gauss(0, 100) for _ in range(1000)]
    found = difference(noise)
    assert found.low <= 0 <= found.high
    shifted = difference([one + 30 for one in noise])
    assert shifted.low > 0
    assert shifted.median == found.median + 30

"""The noise band: which answers lie outside, and how many chance explains."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.audit.noise_band import (
    TurnSample,
    chance_of,
    is_outside,
    quantile,
    summarize,
    summarize_by_session,
)

SIMILARITY = st.floats(0, 1)


@given(SIMILARITY, st.lists(SIMILARITY, min_size=1, max_size=9))
def test_an_answer_is_outside_only_if_every_sample_is_more_similar(similarity: float, noise: list[float]) -> None:
    assert is_outside(similarity, noise) == all(similarity < one for one in noise)
    assert not is_outside(max(noise), noise)


@given(st.lists(SIMILARITY, min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_first_value_that_enough_values_do_not_exceed(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(one <= found for one in values) >= share * len(values) - 1e-6
    assert sum(one < found for one in values) <= share * len(values) + 1e-6
    assert quantile([], share) is None


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9))
def test_the_chance_is_the_tail_of_the_binomial_distribution(turns: int, outside: int, repeats: int) -> None:
    outside = min(turns, outside)
    p = 1 / (repeats + 1)
    exact = sum(math.comb(turns, k) * p**k * (1 - p) ** (turns - k) for k in range(outside, turns + 1))
    assert chance_of(outside, turns, repeats) == pytest.approx(exact)


@pytest.mark.parametrize("repeats", [1, 3, 9])
@pytest.mark.parametrize("noise", ["continuous", "with ties", "none"])
def test_a_model_like_the_recorded_one_is_rarely_called_worse(repeats: int, noise: str) -> None:
    """Of runs with the same model on both sides at most the significance, and some tolerance, are called worse."""
    source = random.Random(7)

    def similarity() -> float:
        drawn = source.betavariate(5, 2)
        return {"continuous": drawn, "with ties": round(drawn, 1), "none": 1.0}[noise]

    runs = 400
    worse = 0
    for _ in range(runs):
        samples = [TurnSample("s", similarity(), tuple(similarity() for _ in range(repeats))) for _ in range(20)]
        band = summarize(samples, repeats)
        worse += band.outside > 0 and band.chance <= 0.05
    assert worse / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_worse_model_is_found_and_told_by_session() -> None:
    samples = [TurnSample(f"s{n % 2}", 0.4 if n % 2 else 0.9, (0.9, 0.8, 0.95)) for n in range(20)]
    band = summarize(samples, 3)
    assert (band.turns, band.outside, band.expected) == (20, 10, 5.0)
    assert band.chance < 0.02
    assert (band.noise.p05, band.noise.p50, band.answers.p05) == (0.8, 0.9, 0.4)
    by_session = summarize_by_session(samples, 3)
    assert [(name, one.turns, one.outside) for name, one in by_session.items()] == [("s0", 10, 0), ("s1", 10, 10)]


def test_a_model_without_noise_makes_every_difference_stand_out() -> None:
    assert is_outside(0.999, (1.0, 1.0))
    assert not is_outside(1.0, (1.0, 1.0))


def test_a_hundred_thousand_turns_are_summed_up_in_bounded_time() -> None:
    assert chance_of(25_000, 100_000, 3) == pytest.approx(0.5, abs=0.01)
    assert chance_of(40_000, 100_000, 3) < 1e-300

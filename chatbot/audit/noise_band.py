"""The noise band of a model: how much its own answers to one request differ. Pure.

The recorded model answers each request again `repeats` times. The similarity of each answer to the recorded one is a
sample of the noise. The band of a turn reaches from the lowest of its samples up to 1. The new model's answer lies
outside if it is less similar to the recorded one than that.

If the new model answered as the recorded one does, its similarity and the samples would be drawn from the same
distribution, so that each of these repeats + 1 values is the lowest one with the same probability. A turn is then
outside with probability 1 / (repeats + 1) at most (less where values are equal: a model that always answers the same
has no noise, and then every difference lies outside). Of many turns some are therefore outside by chance; how many,
a binomial distribution tells. `chance` is the probability of so many or more.

Limits. Similarity compares words, not meaning. Turns of one conversation share their context and are not independent,
so that `chance` is approximate. The samples are of today: a server that has changed since the record was made has a
wider band. With few repeats single turns prove little, and their number counts.
"""

import math
from collections.abc import Sequence

from msgspec import Struct


class Spread(Struct, frozen=True):
    """Quantiles of similarities, 0 to 1; None of an empty sample."""

    p05: float | None
    p50: float | None
    p95: float | None


class BandSummary(Struct, frozen=True):
    """Of `turns` that were measured, `outside` lie outside of their bands; by noise alone at most `expected` would.

    `chance`: the probability of at least so many by noise alone. `noise` is the spread of the recorded model's own
    answers, `answers` that of the new model's.
    """

    turns: int
    outside: int
    expected: float
    chance: float
    noise: Spread
    answers: Spread


def is_outside(similarity: float, noise: Sequence[float]) -> bool:
    """Whether an answer is less similar to the recorded one than every sample. Raises ValueError without samples."""
    return similarity < min(noise)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None without values.

    The inverse of the empirical distribution: definition 1 of Hyndman and Fan (1996), Sample Quantiles.
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> Spread:
    """The quantiles of a sample."""
    return Spread(quantile(values, 0.05), quantile(values, 0.5), quantile(values, 0.95))


def chance_of(outside: int, turns: int, repeats: int) -> float:
    """The probability that at least `outside` of `turns` are outside by noise alone: an upper tail of the binomial
    distribution with probability 1 / (repeats + 1).
    """
    if outside <= 0:
        return 1.0
    p = 1 / (repeats + 1)
    terms = (
        math.exp(
            math.lgamma(turns + 1)
            - math.lgamma(k + 1)
            - math.lgamma(turns - k + 1)
            + k * math.log(p)
            + (turns - k) * math.log1p(-p)
        )
        for k in range(outside, turns + 1)
    )
    return min(1.0, math.fsum(terms))


class TurnSample(Struct, frozen=True):
    """The similarities of one turn to its recorded answer: of the new model, and of the recorded model's repeats."""

    session_id: str
    similarity: float
    noise: tuple[float, ...]

    @property
    def is_outside(self) -> bool:
        return is_outside(self.similarity, self.noise)


def summarize(samples: Sequence[TurnSample], repeats: int) -> BandSummary:
    """The summary of turns that were each measured `repeats` times."""
    outside = sum(one.is_outside for one in samples)
    return BandSummary(
        turns=len(samples),
        outside=outside,
        expected=round(len(samples) / (repeats + 1), 2),
        chance=chance_of(outside, len(samples), repeats),
        noise=spread([value for one in samples for value in one.noise]),
        answers=spread([one.similarity for one in samples]),
    )


def summarize_by_session(samples: Sequence[TurnSample], repeats: int) -> dict[str, BandSummary]:
    """A summary for each session, in the order of their first turns."""
    sessions: dict[str, list[TurnSample]] = {}
    for one in samples:
        sessions.setdefault(one.session_id, []).append(one)
    return {session_id: summarize(found, repeats) for session_id, found in sessions.items()}

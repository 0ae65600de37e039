"""Shrunken rates: the beta distribution against exact sums, the fit and its intervals against simulated districts."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.statistics.shrinkage import UNFITTED, Prior, beta_distribution, beta_quantile, fit, shrunk

COMMUNITIES = 171


def exactly(x: Fraction, alpha: int, beta: int) -> Fraction:
    """The beta distribution of whole parameters as a sum of binomial probabilities (DLMF 8.17.5)."""
    n = alpha + beta - 1
    return sum((math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(alpha, n + 1)), Fraction(0))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 99))
def test_the_beta_distribution_is_the_sum_of_binomials(alpha: int, beta: int, percent: int) -> None:
    x = Fraction(percent, 100)
    assert beta_distribution(float(x), alpha, beta) == pytest.approx(float(exactly(x, alpha, beta)), abs=1e-11)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.5, 0.5), (0.5, 40.5), (12, 30), (1, 9000), (5000, 70_000), (4e5, 4.9e5)]
)
@pytest.mark.parametrize("share", [0.025, 0.5, 0.975])
def test_a_quantile_is_where_the_distribution_reaches_it(alpha: float, beta: float, share: float) -> None:
    assert beta_distribution(beta_quantile(share, alpha, beta), alpha, beta) == pytest.approx(share, abs=1e-6)


def test_outside_the_interval_from_0_to_1_nothing_lies() -> None:
    assert (beta_distribution(-0.1, 2, 3), beta_distribution(0, 2, 3), beta_distribution(1.5, 2, 3)) == (0, 0, 1)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)).map(sorted), min_size=1, max_size=30))
def test_every_rate_is_pulled_towards_the_mean_and_lies_in_its_interval(counts: list[list[int]]) -> None:
    prior = fit([(k, n) for k, n in counts])
    assert 0 < prior.mean < 1
    assert prior.weight >= 1
    for k, n in counts:
        if n:
            found = shrunk(prior, k, n)
            low, high = sorted((k / n, prior.mean))
            assert low - 1e-9 <= found.rate <= high + 1e-9
            assert 0 <= found.low <= found.rate <= found.high <= 1


def test_with_too_few_peers_nothing_is_pulled() -> None:
    assert fit([(3, 10), (90, 100)]) == UNFITTED
    assert fit([(3, 10), (0, 0), (90, 100)]) == UNFITTED
    assert shrunk(UNFITTED, 90, 100).rate == pytest.approx(0.9, abs=0.005)


def test_where_chance_explains_all_differences_everybody_is_at_the_mean() -> None:
    prior = fit([(200, 1000), (201, 1000), (199, 1000), (4, 20)])
    assert prior.weight == 3020
    assert shrunk(prior, 12, 20).rate == pytest.approx(0.2, abs=0.003)


def test_a_district_where_nobody_or_everybody_takes_part_has_rates_too() -> None:
    assert shrunk(fit([(0, 100)] * 9), 0, 100).rate < 0.001
    assert shrunk(fit([(100, 100)] * 9), 100, 100).rate > 0.999


def simulated(chance: random.Random) -> list[tuple[float, int, int]]:
    """True rate, participants and residents of each community: rates of Beta(6, 24), sizes from dozens to thousands."""
    found = []
    for _ in range(COMMUNITIES):
        rate, residents = chance.betavariate(6, 24), 20 + int(chance.lognormvariate(5.5, 1.3))
        found.append((rate, _draw(chance, rate, residents), residents))
    return found


def _draw(chance: random.Random, rate: float, residents: int) -> int:
    return sum(chance.random() < rate for _ in range(residents))


def test_intervals_cover_the_truth_and_shrunken_rates_are_nearer_to_it_than_raw_ones() -> None:
    chance = random.Random(20261122)
    covered = seen = 0
    of_shrunken = of_raw = 0.0
    weights = []
    for _ in range(12):
        district = simulated(chance)
        prior = fit([(k, n) for _, k, n in district])
        weights.append(prior.weight)
        for rate, k, n in district:
            found = shrunk(prior, k, n)
            seen, covered = seen + 1, covered + (found.low <= rate <= found.high)
            of_shrunken += (found.rate - rate) ** 2
            of_raw += (k / n - rate) ** 2
    assert 0.93 <= covered / seen <= 0.97
    assert of_shrunken < 0.85 * of_raw
    assert sum(weights) / len(weights) == pytest.approx(30, rel=0.15), "alpha + beta of the truth"


def test_a_community_of_40_does_not_head_the_table_by_chance() -> None:
    chance = random.Random(7)
    heads_raw = heads_shrunken = 0
    for _ in range(40):
        # Thirty large communities that differ, thirty of 40 residents that do not stand out.
        district = [(chance.betavariate(20, 80), 1500) for _ in range(30)] + [(0.2, 40)] * 30
        counts = [(_draw(chance, rate, n), n) for rate, n in district]
        prior = fit(counts)
        heads_raw += max(range(60), key=lambda i: counts[i][0] / counts[i][1]) >= 30
        heads_shrunken += max(range(60), key=lambda i: shrunk(prior, *counts[i]).rate) >= 30
    assert heads_raw >= 28
    assert heads_shrunken <= heads_raw / 3


def test_the_weight_says_how_many_residents_the_mean_counts_for() -> None:
    assert (Prior(6, 24, 171).mean, Prior(6, 24, 171).weight) == (0.2, 30)

"""Shrunken rates: what a community's participation rate would tell if chance were taken out of it. Pure functions.

A community of 40 is at the head or the foot of a table by chance alone far more often than one of 8,000. So each rate
is pulled towards the mean of its peers, the more the fewer people stand behind it: empirical Bayes with a beta-binomial
model. The peers' mean and spread are fitted by the method of moments with Kleinman's iterated weights (J. C. Kleinman,
"Proportions with extraneous variance: single and independent samples", JASA 68 (1973) 46-54); the shrunken rate is the
posterior mean (alpha + k) / (alpha + beta + n), the interval the central INTERVAL of the posterior. The interval takes
the fitted mean and spread as known: with a dozen peers it is a little too short (C. N. Morris, JASA 78 (1983) 47-55).

The quantiles of the beta distribution are computed here, because of all the libraries in use none has them and scipy
weighs 100 MB: the incomplete beta function by its continued fraction (DLMF 8.17.22, by Lentz's method), the quantile by
Newton's method held inside a bracket.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Fewer peers than this say nothing of their spread, so nothing is pulled anywhere.
PEERS_MIN = 3
INTERVAL = 0.95

_ROUNDS_MAX = 50
_FRACTION_TERMS_MAX = 20_000  # the fraction converges within some multiples of the root of the larger parameter
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Prior:
    """The spread of the peers' rates as Beta(alpha, beta). `peers` is how many it was fitted over; 0: not fitted."""

    alpha: float
    beta: float
    peers: int

    @property
    def mean(self) -> float:
        """The rate towards which others are pulled."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def weight(self) -> float:
        """How many residents the peers' mean counts for beside a community's own."""
        return self.alpha + self.beta


# Jeffreys' prior: it pulls by one resident, so it leaves the rate nearly as it is and still gives an interval.
UNFITTED = Prior(0.5, 0.5, 0)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A shrunken rate and its interval, as shares of 1."""

    rate: float
    low: float
    high: float


def fit(counts: Sequence[tuple[int, int]]) -> Prior:
    """The prior of peers, given (participants, residents) of each. Peers without residents do not speak.

    The weight is held between one resident and all residents of the peers together: where chance alone explains the
    differences there is no finite estimate, and a mean is never surer than the people that it was computed from.
    """
    seen = [(k, n) for k, n in counts if n > 0]
    total = sum(n for _, n in seen)
    if len(seen) < PEERS_MIN:
        return UNFITTED
    mean, correlation = _moments(seen)
    edge = 0.5 / (total + 1)
    mean = min(max(mean, edge), 1 - edge)
    weight = total if correlation <= 0 else (1 - correlation) / correlation
    weight = min(max(weight, 1.0), float(total))
    return Prior(mean * weight, (1 - mean) * weight, len(seen))


def _moments(seen: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The mean rate, and the correlation of two residents of one community: 0 when chance explains all differences.

    With weights w of the rates k/n: E Σ w (k/n − p)² = p (1 − p) (r A + (1 − r) B), where A = Σ w (1 − w/W) and
    B = Σ (w/n) (1 − w/W). The best weights n / (1 + r (n − 1)) depend on r, hence the rounds.
    """
    correlation = mean = 0.0
    for _ in range(_ROUNDS_MAX):
        weights = [n / (1 + correlation * (n - 1)) for _, n in seen]
        whole = sum(weights)
        mean = sum(w * k / n for w, (k, n) in zip(weights, seen, strict=True)) / whole
        spread = sum(w * (k / n - mean) ** 2 for w, (k, n) in zip(weights, seen, strict=True))
        between = sum(w * (1 - w / whole) for w in weights)
        within = sum(w / n * (1 - w / whole) for w, (_, n) in zip(weights, seen, strict=True))
        by_chance = mean * (1 - mean)
        if by_chance <= 0 or between <= within:
            return mean, 0.0
        found = min(max((spread - by_chance * within) / (by_chance * (between - within)), 0.0), 1.0)
        if abs(found - correlation) < 1e-9:
            return mean, found
        correlation = found
    return mean, correlation


def shrunk(prior: Prior, participants: int, residents: int) -> Shrunk:
    """The rate of one community under the prior of its peers, with its interval."""
    alpha = prior.alpha + participants
    beta = prior.beta + residents - participants
    tail = (1 - INTERVAL) / 2
    return Shrunk(
        rate=alpha / (alpha + beta),
        low=beta_quantile(tail, alpha, beta),
        high=beta_quantile(1 - tail, alpha, beta),
    )


def beta_distribution(x: float, alpha: float, beta: float) -> float:
    """The probability that a Beta(alpha, beta) variable is at most `x`: the regularised incomplete beta function."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(_log_front(x, alpha, beta))
    # The fraction converges quickly on this side of the mean, and the other side mirrors it.
    if x < (alpha + 1) / (alpha + beta + 2):
        return front * _fraction(x, alpha, beta) / alpha
    return 1.0 - front * _fraction(1 - x, beta, alpha) / beta


def _log_front(x: float, alpha: float, beta: float) -> float:
    return (
        math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta) + alpha * math.log(x) + beta * math.log1p(-x)
    )


def _fraction(x: float, alpha: float, beta: float) -> float:
    """The continued fraction of DLMF 8.17.22, from front to back by the modified method of Lentz."""
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (alpha + beta) * x / (alpha + 1))
    value = d
    for m in range(1, _FRACTION_TERMS_MAX):
        even = m * (beta - m) * x / ((alpha + 2 * m - 1) * (alpha + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + even * d)
        c = _away_from_zero(1.0 + even / c)
        value *= d * c
        odd = -(alpha + m) * (alpha + beta + m) * x / ((alpha + 2 * m) * (alpha + 2 * m + 1))
        d = 1.0 / _away_from_zero(1.0 + odd * d)
        c = _away_from_zero(1.0 + odd / c)
        step = d * c
        value *= step
        if abs(step - 1.0) < 1e-12:
            return value
    raise ArithmeticError(f"the incomplete beta function of {alpha} and {beta} does not converge")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """The value below which a Beta(alpha, beta) variable lies with probability `share`, to nine places."""
    low, high = 0.0, 1.0
    mean = alpha / (alpha + beta)
    deviation = math.sqrt(mean * (1 - mean) / (alpha + beta + 1))
    # Two deviations to the side are near both ends of a 95 % interval, so a few rounds do.
    x = min(max(mean + (2 if share > 0.5 else -2) * deviation, mean / 10), 1 - (1 - mean) / 10)
    for _ in range(200):
        off = beta_distribution(x, alpha, beta) - share
        low, high = (low, x) if off > 0 else (x, high)
        slope = math.exp(_log_front(x, alpha, beta)) / (x * (1 - x))
        step = x - off / slope if slope > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - x) < 1e-10 or high - low < 1e-10:
            return following
        x = following
    return x

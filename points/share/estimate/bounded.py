"""Raking that keeps every weight's factor within bounds: what `svy` checks and cannot do.

The factor is a truncated exponential, exp(x'λ) cut at the bounds (Deville, Särndal and Sautory, J. Am. Stat. Assoc. 88,
1993, "truncated raking"). Without a bound that binds it is raking itself. λ minimises a convex function, whose Newton
steps are halved until it falls, so the search cannot wander.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

HALVINGS_MAX = 40
ETA_MAX = 50.0  # exp(50) is no factor of a weight; it only keeps an early step from overflowing


@dataclass(frozen=True, slots=True)
class Raked:
    """A factor for each cell; `inner` marks those that no bound holds."""

    factors: Floats
    inner: Flags
    converged: bool
    iterations: int


def rake_within(
    weights: Floats, dummies: Floats, targets: Floats, *, bounds: tuple[float, float], tolerance: float, limit: int
) -> Raked:
    """Factors by cell with Σ weights · factors · dummies = targets, as near as the bounds allow.

    `weights` are sums over cells of like margins, (cells,); `dummies` (cells, columns); `targets` (columns,) > 0.
    """
    low, high = np.log(bounds[0]), np.log(bounds[1])
    steps = np.zeros(len(targets))
    reached = False
    rounds = 0
    while rounds < limit and not reached:
        rounds += 1
        exponent = dummies @ steps
        factors = _cut(exponent, low, high)
        gap = targets - dummies.T @ (weights * factors)
        reached = bool(np.max(np.abs(gap) / targets) <= tolerance)
        inner = (exponent > low) & (exponent < high)
        curvature = (dummies * (weights * factors * inner)[:, None]).T @ dummies
        # A column whose cells all stand at a bound has no curvature; a trace of it lets the others go on.
        curvature[np.diag_indices_from(curvature)] += 1e-9 * float(weights.sum())
        direction = np.linalg.solve(curvature, gap)
        steps = _descend(steps, direction, gap, weights, dummies, targets, (low, high))
    exponent = dummies @ steps
    return Raked(_cut(exponent, low, high), (exponent > low) & (exponent < high), reached, rounds)


def _cut(exponent: Floats, low: float, high: float) -> Floats:
    return np.exp(np.clip(exponent, max(low, -ETA_MAX), min(high, ETA_MAX)))


def _descend(
    steps: Floats,
    direction: Floats,
    gap: Floats,
    weights: Floats,
    dummies: Floats,
    targets: Floats,
    logs: tuple[float, float],
) -> Floats:
    """The first half, quarter, … of the way along `direction` at which the convex function is lower."""
    before = _dual(steps, weights, dummies, targets, logs)
    slope = float(gap @ direction)
    length = 1.0
    for _ in range(HALVINGS_MAX):
        tried = steps + length * direction
        if _dual(tried, weights, dummies, targets, logs) <= before - 1e-4 * length * slope:
            return tried
        length /= 2
    return steps + length * direction


def _dual(steps: Floats, weights: Floats, dummies: Floats, targets: Floats, logs: tuple[float, float]) -> float:
    """The function whose gradient is the gap: the integral of the cut exponential, straight beyond the bounds."""
    low, high = max(logs[0], -ETA_MAX), min(logs[1], ETA_MAX)
    exponent = dummies @ steps
    cut = np.clip(exponent, low, high)
    integral = np.exp(cut) * (1 + exponent - cut)
    return float(weights @ integral - targets @ steps)

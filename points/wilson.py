"""The interval of a share by Wilson (JASA 22 (1927) 209-212). Pure."""

import math

# The 97.5th percentile of the normal distribution.
NORMAL_QUANTILE = 1.959964


def wilson(rate: float, number: float) -> tuple[float, float]:
    """Between what a share can lie, at 95 %, that `number` independent pieces of evidence showed to be `rate`.

    The number need not be whole: it can be the effective one of a sample with weights. In floating point the ends can
    lie beyond 0, 1 and the rate by a little.
    """
    squared = NORMAL_QUANTILE**2
    middle = (rate + squared / (2 * number)) / (1 + squared / number)
    half = NORMAL_QUANTILE / (1 + squared / number) * math.sqrt(rate * (1 - rate) / number + squared / (4 * number**2))
    return middle - half, middle + half

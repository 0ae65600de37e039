"""How far a phone is from a point. The position is used once and kept nowhere."""

import math
from dataclasses import dataclass

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG 1980


@dataclass(frozen=True, slots=True)
class Point:
    """A position in degrees, in the system of phones in China (GCJ-02), as `wx.getLocation` gives it."""

    latitude: float
    longitude: float


def distance_m(one: Point, other: Point) -> float:
    """The great-circle distance in metres by the haversine formula, exact to 0.5 % (the Earth is no sphere)."""
    latitudes = math.radians(one.latitude), math.radians(other.latitude)
    north = math.sin((latitudes[1] - latitudes[0]) / 2)
    east = math.sin(math.radians(other.longitude - one.longitude) / 2)
    square = north**2 + math.cos(latitudes[0]) * math.cos(latitudes[1]) * east**2
    # Rounding can push the square past 1 at opposite ends of the Earth.
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(square, 1.0)))

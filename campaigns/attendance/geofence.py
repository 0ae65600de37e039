"""How far a phone is from a point. The position is used once and kept nowhere."""

from dataclasses import dataclass

from server.places import positions
from server.places.positions import Datum, Position


@dataclass(frozen=True, slots=True)
class Point:
    """A position in degrees, in the system of phones in China (GCJ-02), as `wx.getLocation` gives it."""

    latitude: float
    longitude: float


def distance_m(one: Point, other: Point) -> float:
    """The great-circle distance in metres, exact to 0.5 %."""
    return positions.distance_m(
        Position(one.latitude, one.longitude, Datum.GCJ_02), Position(other.latitude, other.longitude, Datum.GCJ_02)
    )

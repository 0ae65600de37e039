"""Positions in the two systems that are in use in China, and how far apart two of them are."""

import enum
import math
from dataclasses import dataclass

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG 1980

# The ellipsoid of the published transformation from WGS-84 to GCJ-02 (Krasovsky 1940).
_AXIS_M = 6_378_245.0
_ECCENTRICITY_SQUARED = 0.00669342162296594323


class Datum(enum.StrEnum):
    """In which system a position is given: WGS-84 as browsers do, GCJ-02 as phones and maps in China do."""

    WGS_84 = "wgs-84"
    GCJ_02 = "gcj-02"


@dataclass(frozen=True, slots=True)
class Position:
    """A position in degrees of its datum."""

    latitude: float
    longitude: float
    datum: Datum

    def in_gcj_02(self) -> "Position":
        """The same place in GCJ-02, in which maps in China are drawn.

        The transformation is not official but well known (as in coordtransform and eviltransform) and agrees with the
        maps to some metres. It is meant for China alone: elsewhere the systems are the same.
        """
        if self.datum is Datum.GCJ_02 or not _in_china(self.latitude, self.longitude):
            return Position(self.latitude, self.longitude, Datum.GCJ_02)
        north, east = _shift(self.latitude, self.longitude)
        return Position(self.latitude + north, self.longitude + east, Datum.GCJ_02)


def distance_m(one: Position, other: Position) -> float:
    """The great-circle distance in metres by the haversine formula, exact to 0.5 % (the Earth is no sphere)."""
    one, other = one.in_gcj_02(), other.in_gcj_02()
    latitudes = math.radians(one.latitude), math.radians(other.latitude)
    north = math.sin((latitudes[1] - latitudes[0]) / 2)
    east = math.sin(math.radians(other.longitude - one.longitude) / 2)
    square = north**2 + math.cos(latitudes[0]) * math.cos(latitudes[1]) * east**2
    # Rounding can push the square past 1 at opposite ends of the Earth.
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(square, 1.0)))


def _in_china(latitude: float, longitude: float) -> bool:
    return 0.8293 <= latitude <= 55.8271 and 72.004 <= longitude <= 137.8347


def _shift(latitude: float, longitude: float) -> tuple[float, float]:
    """By how many degrees GCJ-02 lies north and east of WGS-84."""
    x, y = longitude - 105.0, latitude - 35.0
    root = math.sqrt(abs(x))
    waves = 20.0 * math.sin(6.0 * x * math.pi) + 20.0 * math.sin(2.0 * x * math.pi)
    north = -100.0 + 2.0 * x + 3.0 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root
    north += (waves + 20.0 * math.sin(y * math.pi) + 40.0 * math.sin(y / 3.0 * math.pi)) * 2.0 / 3.0
    north += (160.0 * math.sin(y / 12.0 * math.pi) + 320.0 * math.sin(y * math.pi / 30.0)) * 2.0 / 3.0
    east = 300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root
    east += (waves + 20.0 * math.sin(x * math.pi) + 40.0 * math.sin(x / 3.0 * math.pi)) * 2.0 / 3.0
    east += (150.0 * math.sin(x / 12.0 * math.pi) + 300.0 * math.sin(x / 30.0 * math.pi)) * 2.0 / 3.0
    sine = math.sin(math.radians(latitude))
    magic = 1 - _ECCENTRICITY_SQUARED * sine * sine
    degrees_north = math.degrees(north / (_AXIS_M * (1 - _ECCENTRICITY_SQUARED) / (magic * math.sqrt(magic))))
    degrees_east = math.degrees(east / (_AXIS_M / math.sqrt(magic) * math.cos(math.radians(latitude))))
    return degrees_north, degrees_east

"""Fixes as a phone sends them, packed for sealing: 19 bytes each."""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from points.travel.motion import Fix, local

_FORM = struct.Struct("<qiiHB")
_SCALE = 10_000_000  # of a degree: a centimetre
_VAGUE_DM = 65_535


class RawFix(NamedTuple):
    """One fix: milliseconds since 1970, degrees of the track's datum, the phone's own accuracy and suspicion."""

    at_ms: int
    latitude: float
    longitude: float
    accuracy_m: float
    mock: bool

    @property
    def at(self) -> datetime:
        """The instant."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)


def pack(fixes: Sequence[RawFix]) -> bytes:
    """The fixes as bytes, positions to a centimetre and accuracies to a decimetre."""
    return b"".join(
        _FORM.pack(
            fix.at_ms,
            round(fix.latitude * _SCALE),
            round(fix.longitude * _SCALE),
            min(round(fix.accuracy_m * 10), _VAGUE_DM),
            fix.mock,
        )
        for fix in fixes
    )


def unpack(packed: bytes) -> list[RawFix]:
    """The fixes again."""
    return [
        RawFix(at_ms, latitude / _SCALE, longitude / _SCALE, accuracy / 10, bool(mock))
        for at_ms, latitude, longitude, accuracy, mock in _FORM.iter_unpack(packed)
    ]


def exact_mark(fixes: Sequence[RawFix], key: bytes) -> bytes:
    """A keyed hash of the steps from fix to fix, in time and place.

    It is the same wherever and whenever the recording is said to have been made, and tells no place.
    """
    first = fixes[0]
    origin = first.at_ms, round(first.latitude * _SCALE), round(first.longitude * _SCALE)
    told = hmac.new(key, digestmod=hashlib.sha256)
    for fix in fixes:
        told.update(
            struct.pack(
                "<qqq",  # half a world apart in ten-millionths of a degree is more than four bytes hold
                fix.at_ms - origin[0],
                round(fix.latitude * _SCALE) - origin[1],
                round(fix.longitude * _SCALE) - origin[2],
            )
        )
    return told.digest()


def in_metres(fixes: Sequence[RawFix]) -> list[Fix]:
    """The fixes in local metres, for the figures of their motion; either datum serves, for it bends little."""
    return local([(fix.at_ms / 1000, fix.latitude, fix.longitude, fix.accuracy_m) for fix in fixes])

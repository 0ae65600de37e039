"""The dated thresholds that a track is checked by, from `tracks-*.toml` in the district's folder.

A track keeps the id and the hash of the edition that judged it, so that a file changed in place shows.
"""

import hashlib
import math
import re
from dataclasses import dataclass, fields
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from points.travel.models import TrackMode
from server.clock import SHANGHAI_FIXED
from server.data_files import parse_toml, read_text

FILE_BYTES_MAX = 50_000
EDITIONS_MAX = 50
_DAY_S = 86_400


class CheckDataError(Exception):
    """A file of thresholds cannot be used; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class ModeChecks:
    """What a track of one way of travelling must be like. Speeds m/s, acceleration m/s²; hours as of `service_day`.

    At most `…_max…` is clear; above `…_refused…` is refused; in between a person decides.
    """

    duration_min_s: int
    distance_min_m: int
    fixes_min: int
    gap_max_s: int
    rest_after_s: int
    from_s: int
    to_s: int
    slow_mps: float
    median_max_mps: float
    upper_max_mps: float
    peak_max_mps: float
    coarse_upper_max_mps: float
    coarse_peak_max_mps: float
    median_refused_mps: float
    upper_refused_mps: float
    moving_min_share: float
    acceleration_max: float


@dataclass(frozen=True, slots=True)
class Checks:
    """One dated edition."""

    id: str
    valid_from: date
    source: str
    sha256: bytes
    window_s: int
    accuracy_max_m: float
    moving_mps: float
    jump_mps: float
    jump_min_m: float
    spikes_max_share: float
    coarse_s: float
    coarse_gap_share: float
    steady_window_s: int
    steady_refused_spread: float
    steady_held_spread: float
    steady_windows_min: int
    copy_window_s: int
    copy_window_fixes: int
    copy_m: float
    copy_together_refused_m: float
    copy_together_held_m: float
    copy_together_s: int
    copy_overlap_min_s: int
    stop_near_m: float
    station_near_m: float
    stops_min: int
    stops_slow_share: float
    stop_slow_mps: float
    line_near_m: float
    line_near_share: float
    walk: ModeChecks
    bicycle: ModeChecks
    bus: ModeChecks
    metro: ModeChecks

    def of(self, mode: TrackMode) -> ModeChecks:
        """The thresholds of one way of travelling."""
        found: ModeChecks = getattr(self, mode.value)
        return found


_OWN = ("id", "valid_from", "source", "sha256", *(mode.value for mode in TrackMode))


def read(path: Path) -> Checks:
    """Read and check one edition. Raises CheckDataError."""
    text = read_text(path, bytes_max=FILE_BYTES_MAX, fault=CheckDataError)
    content = parse_toml(path.name, text, fault=CheckDataError)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,39}", str(content.get("id"))):
        raise CheckDataError(f"{path.name}: id must be lower-case letters, digits, dots and hyphens")
    if type(content.get("valid_from")) is not date or not isinstance(content.get("source"), str):
        raise CheckDataError(f"{path.name}: valid_from must be a day and source a text")
    wanted = {field.name for field in fields(Checks)} - {"sha256"}
    if content.keys() != wanted:
        raise CheckDataError(f"{path.name}: lacks or does not know {sorted(content.keys() ^ wanted)[0]}")
    numbers = {name: _number(path.name, name, content[name]) for name in wanted - set(_OWN)}
    modes = {mode.value: _mode(path.name, mode.value, content[mode.value]) for mode in TrackMode}
    return Checks(
        id=content["id"],
        valid_from=content["valid_from"],
        source=content["source"],
        sha256=hashlib.sha256(text.encode()).digest(),
        **numbers,
        **modes,  # type: ignore[arg-type]  # mypy cannot see which names
    )


def _mode(name: str, mode: str, table: Any) -> ModeChecks:
    if not isinstance(table, dict):
        raise CheckDataError(f"{name}: {mode} must be a table")
    values = {("from_s" if key == "from" else "to_s" if key == "to" else key): value for key, value in table.items()}
    wanted = {field.name for field in fields(ModeChecks)}
    if values.keys() != wanted:
        raise CheckDataError(f"{name}: {mode} lacks or does not know {sorted(values.keys() ^ wanted)[0]}")
    for key in ("from_s", "to_s"):
        values[key] = second_of_day(name, mode, values[key])
    made = ModeChecks(**{key: _number(name, f"{mode}.{key}", value) for key, value in values.items()})
    check_hours(name, mode, made.from_s, made.to_s)
    return made


def second_of_day(name: str, what: str, text: Any) -> int:
    """The second of the day that "05:30" means, "24:00" its end. Raises CheckDataError with the file's name."""
    if text == "24:00":
        return _DAY_S
    try:
        moment = time.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise CheckDataError(f"{name}: {what}: hours are written as 05:30") from error
    return moment.hour * 3600 + moment.minute * 60


def check_hours(name: str, what: str, from_s: int, to_s: int) -> None:
    """Refuse hours that say nothing: equal ones, and a beginning at a day's end. Raises CheckDataError."""
    if from_s in (to_s, _DAY_S):
        raise CheckDataError(f"{name}: {what}: hours begin before 24:00, do not end at once; 00:00 to 24:00 is all day")


def service_day(instant: datetime, *, from_s: int, to_s: int) -> date | None:
    """The day in Asia/Shanghai to whose hours an instant belongs, both ends included; None outside of them.

    Hours whose end comes before their beginning run past midnight: what is left of the night belongs to the evening
    before.
    """
    here = instant.astimezone(SHANGHAI_FIXED)
    second = here.hour * 3600 + here.minute * 60 + here.second
    if from_s <= second <= (to_s if from_s < to_s else _DAY_S):
        return here.date()
    return here.date() - timedelta(days=1) if second <= to_s < from_s else None


def _number(name: str, key: str, value: Any) -> Any:
    if type(value) not in (int, float) or not (math.isfinite(value) and 0 <= value <= 1_000_000):
        raise CheckDataError(f"{name}: {key} must be a number from 0 to 1,000,000")
    return value


@lru_cache(maxsize=8)
def editions(folder: Path) -> tuple[Checks, ...]:
    """Every edition of a district's folder, the newest first; read once in a process. Raises CheckDataError."""
    paths = sorted(folder.glob("tracks-*.toml"))
    if not 0 < len(paths) <= EDITIONS_MAX:
        raise CheckDataError(f"{folder}: needs 1 to {EDITIONS_MAX} files tracks-*.toml")
    found = sorted((read(path) for path in paths), key=lambda each: each.valid_from, reverse=True)
    if len({each.valid_from for each in found}) < len(found) or len({each.id for each in found}) < len(found):
        raise CheckDataError(f"{folder}: two editions of tracks-*.toml begin on one day or share an id")
    return tuple(found)


def on(folder: Path, day: date) -> Checks:
    """The edition in force on a business day; before the first, the first. Raises CheckDataError."""
    known = editions(folder)
    return next((each for each in known if each.valid_from <= day), known[-1])

"""What the district decided about review, from dated files `review-*.toml` of its data folder.

An edition holds from its day until the next one's. It is immutable once loaded: a case can be explained by the figures
that were in force when it was opened.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.review.models import Edition
from server.clock import business_day
from server.data_files import read_toml
from server.places.models import Confidence

FILE_BYTES_MAX = 65_536
FILES_MAX = 100

Figures = Mapping[str, float]

# Each figure with its least and its greatest value; whole but for _FRACTIONS.
_REVIEW: Mapping[str, tuple[int, int]] = {
    "two_people_points": (0, 100_000),
    "target_days": (1, 60),
    "appeal_days": (7, 366),
    "appeal_text_days": (30, 1100),
    "hold_days": (1, 30),
}
_DETECTORS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "same-place-and-second": {
        "people_min": (2, 100),
        "coarse_people_min": (2, 1000),
        "pair_days_min": (2, 30),
        "days": (1, 30),
    },
    "relayed-code": {"seconds": (5, 600), "people_min": (2, 1000)},
    "identical-track": {"people_min": (2, 100), "distance_min_m": (1, 100_000)},
    "burst": {
        "minutes": (1, 60),
        "resident_acts_min": (2, 1000),
        "resident_day_acts_min": (2, 1000),
        "staff_acts_min": (2, 10_000),
        "device_acts_min": (2, 10_000),
    },
    "shared-device": {"households_min": (2, 1000), "days": (1, 30)},
    "impossible-pair": {
        "speed_max_kmh": (10, 1000),
        "distance_min_m": (100, 100_000),
        "margin_s": (0, 3600),
        "pairs_min": (1, 100),
        "days": (1, 30),
    },
    "weight-outlier": {
        "weighings_min": (5, 100_000),
        "norm_days": (7, 92),
        "deviations": (1, 100),
        "deviation_ln_min": (0, 10),
        "outliers_min": (1, 100),
        "single_deviations": (1, 100),
        "days": (1, 30),
    },
    "steps-unnatural": {
        "day_steps_max": (1000, 200_000),
        "steps_per_minute_max": (50, 1000),
        "round_steps": (2, 100_000),
        "round_from_steps": (0, 200_000),
        "round_days_min": (1, 30),
        "round_alone_from_steps": (0, 200_000),
        "same_days_min": (2, 30),
        "same_from_steps": (0, 200_000),
        "days": (1, 30),
    },
}
_FRACTIONS = frozenset({"deviations", "deviation_ln_min", "single_deviations"})
_TEXTS = ("id", "title_zh", "title_en", "source", "confidence")


class ReviewDataError(Exception):
    """A file of the district's data folder cannot be loaded; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Terms:
    """One edition as the rules of this room want it. `detectors` has the figures of each detector that is on."""

    id: str
    two_people_points: int
    target_days: int
    appeal_days: int
    appeal_text_days: int
    hold_days: int
    detectors: Mapping[str, Figures]


# Without any edition nobody decides alone, and no detector runs.
CAUTIOUS = Terms("", 0, 5, 60, 730, 7, {})


@dataclass(frozen=True, slots=True)
class EditionFile:
    """One file, checked."""

    id: str
    valid_from: date
    content: dict[str, Any]
    content_sha256: bytes


def read_folder(folder: Path) -> list[EditionFile]:
    """The files `review-*.toml` of a district's data folder, the oldest first. Raises ReviewDataError."""
    found = [read_file(path) for path in sorted(folder.glob("review-*.toml"))[: FILES_MAX + 1]]
    if not 0 < len(found) <= FILES_MAX:
        raise ReviewDataError(f"{folder}: needs 1 to {FILES_MAX} files review-*.toml")
    return sorted(found, key=lambda each: each.valid_from)


def read_file(path: Path) -> EditionFile:
    """Read and check one file. Raises ReviewDataError."""
    content = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=ReviewDataError)
    valid_from = _check_head(path.name, content)
    _check_figures(path.name, "review", content.get("review"), _REVIEW)
    detectors = content.get("detectors", {})
    if not isinstance(detectors, dict) or detectors.keys() - _DETECTORS.keys():
        raise ReviewDataError(f"{path.name}: detectors must be some of {', '.join(_DETECTORS)}")
    for name, figures in detectors.items():
        _check_figures(path.name, name, figures, _DETECTORS[name])
    stored = {**content, "valid_from": valid_from.isoformat()}
    canonical = json.dumps(stored, sort_keys=True, ensure_ascii=False)
    return EditionFile(content["id"], valid_from, stored, hashlib.sha256(canonical.encode()).digest())


def _check_head(file: str, content: dict[str, Any]) -> date:
    """The day from which an edition holds."""
    unknown = content.keys() - {*_TEXTS, "valid_from", "review", "detectors"}
    if unknown:
        raise ReviewDataError(f"{file}: unknown key {sorted(unknown)[0]}")
    for key in _TEXTS:
        if not isinstance(content.get(key), str) or not 0 < len(content[key]) <= 300:
            raise ReviewDataError(f"{file}: {key} must be a text of 1 to 300 characters")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,39}", content["id"]):
        raise ReviewDataError(f"{file}: id must be lower-case letters, digits, dots and hyphens")
    if content["confidence"] not in {each.value for each in Confidence}:
        raise ReviewDataError(f"{file}: confidence must be one of {', '.join(each.value for each in Confidence)}")
    valid_from = content.get("valid_from")
    if not isinstance(valid_from, date) or isinstance(valid_from, datetime):
        raise ReviewDataError(f"{file}: valid_from must be a date")
    return valid_from


def _check_figures(file: str, name: str, figures: Any, wanted: Mapping[str, tuple[int, int]]) -> None:
    if not isinstance(figures, dict) or figures.keys() != wanted.keys():
        raise ReviewDataError(f"{file}: {name} needs exactly {', '.join(wanted)}")
    for key, (least, greatest) in wanted.items():
        kinds = (int, float) if key in _FRACTIONS else (int,)
        value = figures[key]
        # type() and not isinstance(): true is an int to Python. NaN fails the comparison.
        if type(value) not in kinds or not least <= value <= greatest:
            raise ReviewDataError(f"{file}: {name}.{key} must be from {least} to {greatest}")


def load(session: Session, files: list[EditionFile]) -> list[str]:
    """Add the editions that the database does not have; their ids.

    Raises ReviewDataError for one that is loaded with other content.
    """
    added = []
    for file in files:
        stored = session.get(Edition, file.id)
        if stored is not None:
            if stored.content_sha256 != file.content_sha256:
                raise ReviewDataError(f"{file.id} is loaded with other content: give the change a new id")
            continue
        session.add(
            Edition(
                id=file.id,
                valid_from=file.valid_from,
                two_people_points=file.content["review"]["two_people_points"],
                content=file.content,
                content_sha256=file.content_sha256,
            )
        )
        added.append(file.id)
    session.flush()
    return added


def terms_of(content: Mapping[str, Any]) -> Terms:
    """The terms in an edition's content."""
    return Terms(id=content["id"], **content["review"], detectors=content.get("detectors", {}))


def terms_at(session: Session, now: datetime) -> Terms:
    """The terms in force on the business day of `now`; cautious ones when no edition is loaded."""
    found = session.scalar(
        sa.select(Edition.content)
        .where(Edition.valid_from <= business_day(now))
        .order_by(Edition.valid_from.desc())
        .limit(1)
    )
    return CAUTIOUS if found is None else terms_of(found)

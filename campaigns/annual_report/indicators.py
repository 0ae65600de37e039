"""Reading `indicators.toml` of a district's data folder: what the plan asks for, and where each figure comes from.

Everything is checked at reading, and a fault names the file, for an operator has to mend it.
"""

import enum
from datetime import date
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Annotated

import msgspec

from points.earning.models import Behaviour
from server.data_files import read_toml
from server.places.models import Confidence

FILE_NAME = "indicators.toml"
FILE_BYTES_MAX = 100_000
THEMES_MAX = 12
INDICATORS_MAX = 20
TARGETS_MAX = 10
TITLE_WORDS = ("district", "code", "year")

Code = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]{0,39}$")]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
Sentence = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class IndicatorsError(Exception):
    """The district's indicators cannot be read; the message names the file and the fault."""


class Origin(enum.StrEnum):
    """Where an indicator's figures come from."""

    SHARE = "share"
    CREATION = "creation"
    ENTERED = "entered"
    STATISTICS = "statistics"
    THEME_DAYS = "theme-days"
    NONE = "none"


class Measure(enum.StrEnum):
    """What is read of the frozen statistics."""

    ACTIVITIES = "activities"
    RESIDENTS = "residents"
    WEIGHT = "weight"
    SAVINGS = "savings"


class TargetEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure that the plan names, to be reached by the end of a year."""

    year: Annotated[int, msgspec.Meta(ge=2000, le=2100)]
    value: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    about: bool = False
    text_zh: Sentence
    source: Sentence
    confidence: Confidence


class IndicatorEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One indicator; `programme` goes with `creation` and `entered`, `behaviour` and `measure` with `statistics`."""

    code: Code
    title_zh: Title
    title_en: Title
    unit: Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
    origin: Origin = msgspec.field(name="from")
    programme: Code | None = None
    behaviour: Behaviour | None = None
    measure: Measure | None = None
    targets: Annotated[list[TargetEntry], msgspec.Meta(max_length=TARGETS_MAX)] = []


class ThemeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A theme of the plan."""

    code: Code
    title_zh: Title
    title_en: Title
    indicators: Annotated[list[IndicatorEntry], msgspec.Meta(min_length=1, max_length=INDICATORS_MAX)]


class IndicatorsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: the plan that the targets come from, and the themes. Titles may name {district}, {code} and {year}."""

    title_zh: Title
    title_en: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    document: Sentence
    document_number: Sentence
    document_on: date
    confidence: Confidence
    themes: Annotated[list[ThemeEntry], msgspec.Meta(min_length=1, max_length=THEMES_MAX)]


@lru_cache(maxsize=8)
def read_indicators(folder: Path) -> IndicatorsFile:
    """The indicators of a district's folder. Raises IndicatorsError."""
    path = folder / FILE_NAME
    content = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=IndicatorsError)
    try:
        found = msgspec.convert(content, IndicatorsFile)
        named = {field for title in (found.title_zh, found.title_en) for _, field, _, _ in Formatter().parse(title)}
    except ValueError as error:  # not the shape, or a brace without its other
        raise IndicatorsError(f"{path.name}: {error}") from error
    if named - {None, *TITLE_WORDS}:
        raise IndicatorsError(f"{path.name}: a title names something other than {', '.join(TITLE_WORDS)}")
    _check(found)
    return found


def _check(file: IndicatorsFile) -> None:
    """Refuse codes that stand twice, and indicators that do not say all that their origin needs."""
    seen: set[str] = set()
    for theme in file.themes:
        for code in (theme.code, *(indicator.code for indicator in theme.indicators)):
            if code in seen:
                # A theme and an indicator may not share a code either: both name files.
                raise IndicatorsError(f"{FILE_NAME}: {code} stands here twice")
            seen.add(code)
        for indicator in theme.indicators:
            wants_programme = indicator.origin in {Origin.CREATION, Origin.ENTERED}
            if wants_programme != (indicator.programme is not None):
                raise IndicatorsError(
                    f"{FILE_NAME}: {indicator.code}: `programme` goes with creation and entered alone"
                )
            if (indicator.origin is Origin.STATISTICS) != (indicator.measure is not None):
                raise IndicatorsError(f"{FILE_NAME}: {indicator.code}: `measure` goes with statistics alone")
            if indicator.behaviour is not None and indicator.origin is not Origin.STATISTICS:
                raise IndicatorsError(f"{FILE_NAME}: {indicator.code}: `behaviour` goes with statistics alone")
            if indicator.origin in {Origin.SHARE, Origin.CREATION} and indicator.targets:
                raise IndicatorsError(f"{FILE_NAME}: {indicator.code}: its targets stand in another file")
            years = [target.year for target in indicator.targets]
            if sorted(set(years)) != years:
                raise IndicatorsError(f"{FILE_NAME}: {indicator.code}: one target for each year, the earliest first")

"""A rubric as somebody writes it: the district through the API, or a data file of the district's folder.

Everything is checked before anything is loaded, and a fault names its file, for an operator has to mend it.
"""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from campaigns.creation.models import ItemType, LiveMeasure, SubjectKind, TargetBase
from server.data_files import read_toml
from server.places.models import AgencyRank, Confidence, OrganisationKind

FILE_BYTES_MAX = 200_000
AREAS_MAX = 20
ITEMS_MAX = 200
PRECONDITIONS_MAX = 20
FILES_MAX = 200

Code = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9.-]{0,19}$")]
ProgrammeCode = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]{0,39}$")]
Year = Annotated[int, msgspec.Meta(ge=2000, le=2100)]
Source = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
Sentence = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
Unit = Annotated[str, msgspec.Meta(min_length=1, max_length=20)]

Content = TypeVar("Content")


class CreationDataError(Exception):
    """A data file of the creation programmes cannot be loaded; the message names the file and the fault."""


class ItemEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item; `source` and `confidence` where they differ from the rubric's."""

    code: Code
    text_zh: Sentence
    type: ItemType
    maximum: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    must_meet: bool = False
    evidence_required: bool = False
    threshold: Annotated[Decimal, msgspec.Meta()] | None = None
    unit: Unit | None = None
    live_measure: LiveMeasure | None = None
    source: Source | None = None
    confidence: Confidence | None = None


class AreaEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the rubric and its items, in their order."""

    code: Code
    title_zh: Title
    items: Annotated[list[ItemEntry], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]
    source: Source | None = None
    confidence: Confidence | None = None


class PreconditionEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be so before anything is scored."""

    code: Code
    text_zh: Sentence
    source: Source | None = None
    confidence: Confidence | None = None


class RubricEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of one version of a rubric. `difference_max` is in points, the days are calendar days."""

    title_zh: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    minimum_score: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    difference_max: Decimal
    notice_days: Annotated[int, msgspec.Meta(ge=1, le=60)] = 7
    validity_months: Annotated[int, msgspec.Meta(ge=1, le=120)] = 36
    recheck_months: Annotated[int, msgspec.Meta(ge=1, le=120)] = 12
    site_visit_required: bool = True
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    confidence: Confidence
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""
    areas: Annotated[list[AreaEntry], msgspec.Meta(min_length=1, max_length=AREAS_MAX)]
    preconditions: Annotated[list[PreconditionEntry], msgspec.Meta(max_length=PRECONDITIONS_MAX)] = []


class RubricFile(RubricEntry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data file: one version of one programme's rubric for one year."""

    programme: ProgrammeCode
    year: Year
    revision: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class ProgrammeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One creation of the district's plan; without a subject it has an indicator."""

    code: ProgrammeCode
    title_zh: Title
    title_en: Title
    number_prefix: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2,4}$")]
    subject_kind: SubjectKind | None = None
    organisation_kind: OrganisationKind | None = None
    indicator_zh: Annotated[str, msgspec.Meta(min_length=1, max_length=120)] | None = None
    indicator_unit: Unit | None = None
    document: Source
    confidence: Confidence


class TargetEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the plan wants of a programme by the end of a year."""

    programme: ProgrammeCode
    year: Year
    text_zh: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    share_min_percent: Decimal | None = None
    is_about: bool = False
    base: TargetBase | None = None
    floor_area_min_m2: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    agency_rank_min: AgencyRank | None = None
    source: Source
    confidence: Confidence


class ProgrammesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`programmes.toml` of a district's folder."""

    programmes: Annotated[list[ProgrammeEntry], msgspec.Meta(min_length=1, max_length=50)]
    targets: Annotated[list[TargetEntry], msgspec.Meta(max_length=200)] = []


def read_programmes(folder: Path) -> ProgrammesFile:
    """The programmes and targets of a district's folder. Raises CreationDataError."""
    return _read(folder / "programmes.toml", ProgrammesFile)


def read_rubrics(folder: Path) -> Sequence[tuple[RubricFile, bytes]]:
    """Every `rubrics/*.toml` of a district's folder with the SHA-256 of its content, in the order of their years.

    Raises CreationDataError.
    """
    paths = sorted((folder / "rubrics").glob("*.toml"))
    if len(paths) > FILES_MAX:
        raise CreationDataError(f"{folder / 'rubrics'}: more than {FILES_MAX} files")
    read = [(_read(path, RubricFile), path) for path in paths]
    known: dict[tuple[str, int, int], str] = {}
    for file, path in read:
        key = (file.programme, file.year, file.revision)
        if known.setdefault(key, path.name) != path.name:
            raise CreationDataError(f"{path.name}: the same programme, year and revision as {known[key]}")
    read.sort(key=lambda each: (each[0].programme, each[0].year, each[0].revision))
    return [(file, digest(file)) for file, _ in read]


def digest(file: RubricFile) -> bytes:
    """SHA-256 of what the file says, whatever its spaces and comments."""
    return hashlib.sha256(msgspec.json.encode(file, order="deterministic")).digest()


def _read(path: Path, shape: type[Content]) -> Content:
    content = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=CreationDataError)
    try:
        return msgspec.convert(content, shape)
    except msgspec.ValidationError as error:
        raise CreationDataError(f"{path.name}: {error}") from error

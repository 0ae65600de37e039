"""How a survey's tables are to be read: which column is what, and what its values mean. A TOML file beside the tables.

What no line of it names is never stored. `docs/walks/data` has an example with every table.
"""

import tomllib
from datetime import date
from typing import Annotated

import msgspec

from points.share.survey.models import AGE_MAX, ATTRIBUTES_MAX, CATEGORY_LENGTH_MAX, LEGS_MAX, WaveKind
from server.errors import DomainError
from server.places.models import Confidence

FILE_BYTES_MAX = 60_000
STORED_BYTES_MAX = 150_000
VALUES_MAX = 1_000
BANDS_MAX = 30

_Column = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Value = Annotated[str, msgspec.Meta(max_length=100)]
_Values = Annotated[list[_Value], msgspec.Meta(max_length=VALUES_MAX)]
_Category = Annotated[str, msgspec.Meta(max_length=CATEGORY_LENGTH_MAX, pattern=r"^[^*\x00-\x1f\x7f]*$")]
_Recode = Annotated[dict[_Value, _Category], msgspec.Meta(max_length=VALUES_MAX)]
_Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,39}$")]
_Mode = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z-]{0,39}$")]


class MappingInvalid(DomainError):
    """The mapping file does not say how the tables are to be read; the detail says why."""

    code, status, title_zh, title_en = (
        "wave-mapping-invalid",
        422,
        "字段对应文件不符合要求",
        "The mapping file does not fit",
    )


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a mapping file; a name that nobody knows is a fault and not a wish."""


class WaveEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of the whole wave. `year` is the year that it counts to, by default that of its last day."""

    code: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,39}$")]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    kind: WaveKind = WaveKind.HOUSEHOLD_SURVEY
    first_on: date
    last_on: date
    year: Annotated[int, msgspec.Meta(ge=1990, le=2100)] | None = None
    definition: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    frame: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    confidence: Confidence
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    delimiter: Annotated[str, msgspec.Meta(pattern="^[,;\t|]$")] = ","


class CategoryEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of categories.

    `recode` gives each value its category; without it a value is its own. `bands` are the lowest whole numbers of
    bands: [6, 18, 60] makes "6-17", "18-59" and "60+". `unknown` are values that mean that nobody knows; an empty cell
    always does.
    """

    column: _Column
    recode: _Recode = {}
    bands: Annotated[list[int], msgspec.Meta(max_length=BANDS_MAX)] = []
    unknown: _Values = []


class AnswerEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column that says who answered: the values that mean yes, and those that mean no."""

    column: _Column
    yes: Annotated[_Values, msgspec.Meta(min_length=1)]
    no: Annotated[_Values, msgspec.Meta(min_length=1)]


class StreetEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of streets: official codes of 9 digits, or what `recode` makes into them."""

    column: _Column
    recode: Annotated[
        dict[_Value, Annotated[str, msgspec.Meta(pattern="^[0-9]{9}$")]], msgspec.Meta(max_length=VALUES_MAX)
    ] = {}


class HouseholdsEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of households. Its street and attributes are those of all its people."""

    key: _Column
    street: StreetEntry | None = None
    attributes: Annotated[dict[_Name, CategoryEntry], msgspec.Meta(max_length=ATTRIBUTES_MAX)] = {}


class PersonsEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of everybody who was drawn.

    The weight is one over the probability of being drawn: a column, or a constant. A design that asked nobody younger
    says so by `ages_at_least` and needs no column of ages. Without `answered` everybody did.
    """

    key: _Column
    household: _Column | None = None
    weight: _Column | None = None
    weight_constant: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    stratum: _Column | None = None
    cluster: _Column | None = None
    cluster_is_household: bool = False
    age: _Column | None = None
    ages_at_least: Annotated[int, msgspec.Meta(ge=0, le=AGE_MAX)] | None = None
    answered: AnswerEntry | None = None
    street: StreetEntry | None = None
    day: _Column | None = None
    attributes: Annotated[dict[_Name, CategoryEntry], msgspec.Meta(max_length=ATTRIBUTES_MAX)] = {}


class DistanceEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of distances, in kilometres or metres."""

    column: _Column
    metres_per_unit: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class ModesEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The modes of a trip's legs: one column for each leg, or one column with a separator; `recode` names our modes.

    `none` are values that mean that there was no such leg; an empty cell always does.
    """

    columns: Annotated[list[_Column], msgspec.Meta(min_length=1, max_length=LEGS_MAX)]
    separator: Annotated[str, msgspec.Meta(min_length=1, max_length=5)] | None = None
    recode: Annotated[dict[_Value, _Mode], msgspec.Meta(max_length=VALUES_MAX)] = {}
    none: _Values = []


class TripsEntry(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of trips. Without `position` they are in their order.

    `rows_are_legs`: a row is one leg, and the rows of one person with the same number are one trip.
    """

    person: _Column
    position: _Column | None = None
    rows_are_legs: bool = False
    modes: ModesEntry
    day: _Column | None = None
    distance: DistanceEntry | None = None
    started: _Column | None = None
    purpose: CategoryEntry | None = None


class Mapping(_Entry, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole mapping file."""

    wave: WaveEntry
    households: HouseholdsEntry | None = None
    persons: PersonsEntry
    trips: TripsEntry

    @property
    def year(self) -> int:
        """The year that the wave counts to."""
        return self.wave.year if self.wave.year is not None else self.wave.last_on.year

    @property
    def attributes(self) -> list[str]:
        """The names of all categories that a person of the wave has, the street's too."""
        names = {*self.persons.attributes, *(self.households.attributes if self.households else ())}
        return sorted(names | ({"street"} if self.has_streets else set()))

    @property
    def has_streets(self) -> bool:
        """Whether people's streets are known, their own or their household's."""
        return self.persons.street is not None or (self.households is not None and self.households.street is not None)


def read_mapping(content: bytes) -> Mapping:
    """Read and check a mapping file. Raises MappingInvalid."""
    if len(content) > FILE_BYTES_MAX:
        raise MappingInvalid(f"More than {FILE_BYTES_MAX} bytes")
    try:
        mapping = msgspec.convert(tomllib.loads(content.decode("utf-8-sig")), Mapping)
    except (ValueError, RecursionError) as error:
        raise MappingInvalid(str(error)[:300]) from error
    # What is stored as JSON can hold no NUL, and PostgreSQL says so only after everything has been read.
    stored = msgspec.json.encode(mapping)
    if b"\\u0000" in stored or len(stored) > STORED_BYTES_MAX:
        raise MappingInvalid(f"A NUL, or more than {STORED_BYTES_MAX} bytes with all that is meant")
    _check_wave(mapping)
    _check_persons(mapping)
    if mapping.trips.rows_are_legs and mapping.trips.position is None:
        raise MappingInvalid("trips: rows that are legs need the trip's number, `position`")
    return mapping


def _check_wave(mapping: Mapping) -> None:
    wave = mapping.wave
    if not 0 <= (wave.last_on - wave.first_on).days <= 400:
        raise MappingInvalid("wave: last_on must be 0 to 400 days after first_on")
    if not wave.first_on.year <= mapping.year <= wave.last_on.year:
        raise MappingInvalid("wave: the year must be one of its days'")


def _check_persons(mapping: Mapping) -> None:
    persons, households = mapping.persons, mapping.households
    if (persons.weight is None) == (persons.weight_constant is None):
        raise MappingInvalid("persons: give either weight, a column, or weight_constant")
    if persons.age is None and persons.ages_at_least is None:
        raise MappingInvalid("persons: give age, a column, or ages_at_least, what the design says")
    if persons.cluster is not None and persons.cluster_is_household:
        raise MappingInvalid("persons: the cluster is a column or the household, not both")
    if (households is not None or persons.cluster_is_household) and persons.household is None:
        raise MappingInvalid("persons: needs household, the column with the household's key")
    if persons.street is not None and households is not None and households.street is not None:
        raise MappingInvalid("persons and households both have streets")
    shared = households.attributes if households is not None else {}
    if set(persons.attributes) & set(shared):
        raise MappingInvalid("persons and households have an attribute of the same name")
    _check_attributes(mapping, {**persons.attributes, **shared})


def _check_attributes(mapping: Mapping, entries: dict[str, CategoryEntry]) -> None:
    if mapping.has_streets and "street" in entries:
        raise MappingInvalid("the attribute street is made from the street's code")
    if len(mapping.attributes) > ATTRIBUTES_MAX:
        raise MappingInvalid(f"More than {ATTRIBUTES_MAX} attributes")
    for name, entry in entries.items():
        if entry.bands and (entry.recode or entry.bands != sorted(set(entry.bands))):
            raise MappingInvalid(f"{name}: bands must rise, and have no recode beside them")

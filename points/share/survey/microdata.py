"""The people and trips of waves: the one way in, `write_wave`, and the one way out to an estimate, `estimate_input`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.orm import Session

from points.share.estimate.exchange import READINGS, Input, Margin, Options, WaveInput
from points.share.survey.definition import Definition, definition_of, is_green, main_mode
from points.share.survey.models import MarginCell, MarginSet, SurveyPerson, SurveyTrip, SurveyWave, WaveKind, WaveState
from server.database import new_id
from server.errors import Conflict, DomainError
from server.places.models import Confidence

WAVES_MAX = 24
PERSONS_MAX = 500_000
# A million trips are one statement of up to half a minute; a request's statements have no longer.
STATEMENT_TIMEOUT = "SET LOCAL statement_timeout = '150s'"


class WaveCodeTaken(Conflict):
    """Another wave, not undone, has this code."""

    code, title_zh, title_en = "wave-code-taken", "已有此编号的调查批次", "There is a wave with this code"
    constraints = ("survey_wave_code_key",)


class WaveUnknown(DomainError):
    """No wave that is not undone has this code."""

    code, status, title_zh, title_en = "wave-unknown", 422, "没有此调查批次", "There is no such wave"


class WavesOfSeveralYears(DomainError):
    """One estimate is of one year."""

    code, status, title_zh, title_en = (
        "waves-of-several-years",
        422,
        "调查批次不属于同一年",
        "The waves are not of one year",
    )


class TooMuchForOneEstimate(DomainError):
    """More waves or people than one estimate takes, or none at all."""

    code, status, title_zh, title_en = (
        "too-much-for-one-estimate",
        422,
        "调查批次或人数超出一次估计的范围",
        "No wave, or more waves or people than one estimate takes",
    )


class MarginsUnknown(DomainError):
    """No set of margins has this code."""

    code, status, title_zh, title_en = "margins-unknown", 422, "没有此人口边际数据", "There are no such margins"


class MarginsDoNotFit(DomainError):
    """The margins count people of other ages than the definition asks, or a variable that a wave knows nothing of."""

    code, status, title_zh, title_en = (
        "margins-do-not-fit",
        422,
        "人口边际数据与口径或调查不匹配",
        "The margins do not fit the definition or a wave",
    )


class WaveOfOtherModes(DomainError):
    """A wave has trips by a mode that the definition does not know."""

    code, status, title_zh, title_en = (
        "wave-of-other-modes",
        422,
        "调查批次中有此口径未列出的出行方式",
        "The wave has trips by a mode that the definition does not know",
    )


@dataclass(frozen=True, slots=True)
class HouseholdRow:
    """A household: a key of this wave alone, and the categories that its people share."""

    key: str
    street_code: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PersonRow:
    """A person who was drawn. The key is of this wave alone and says nothing of anybody.

    `attributes` has a category for every name in the wave's `attributes`, '' where unknown.
    """

    key: str
    base_weight: float
    responded: bool
    cluster: str
    stratum: str = ""
    household_key: str | None = None
    street_code: str | None = None
    age: int | None = None
    day: date | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TripRow:
    """One trip: the modes of its legs in their order."""

    person_key: str
    position: int
    legs: tuple[str, ...]
    distance_m: int | None = None
    started_minute: int | None = None
    purpose: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveRows:
    """A whole wave, checked by whoever made it; the database checks what it can once more.

    `year` is the reporting year. `frame` says which population was drawn from. `attributes` names what every person
    has a category of. `mapping`, `files` and `warnings` say how a file was read; a round of diaries has none.
    """

    code: str
    year: int
    name: str
    kind: WaveKind
    first_on: date
    last_on: date
    definition_id: str
    frame: str
    source: str
    confidence: Confidence
    attributes: Sequence[str]
    persons: Sequence[PersonRow]
    trips: Sequence[TripRow]
    households: Sequence[HouseholdRow] = ()
    mapping: dict[str, Any] = field(default_factory=dict)
    files: Sequence[dict[str, Any]] = ()
    warnings: Sequence[dict[str, Any]] = ()
    seed: int | None = None


def write_wave(session: Session, rows: WaveRows, *, imported_by: UUID | None, now: datetime) -> SurveyWave:
    """Store a wave with all its people and trips, and accept it: from then on it only stands or is undone.

    `imported_by` is the member of staff, None for a command or a job. The caller records the act.

    Raises DefinitionUnknown, WaveCodeTaken; ValueError for a trip whose modes the definition does not know.
    """
    definition = definition_of(session, rows.definition_id)
    session.execute(sa.text(STATEMENT_TIMEOUT))
    wave = SurveyWave(
        id=new_id(),
        code=rows.code,
        year=rows.year,
        name=rows.name,
        kind=rows.kind,
        first_on=rows.first_on,
        last_on=rows.last_on,
        definition_id=definition.id,
        frame=rows.frame,
        source=rows.source,
        confidence=rows.confidence,
        state=WaveState.DRAFT,
        locked=False,
        mapping=rows.mapping,
        files=list(rows.files),
        warnings=list(rows.warnings),
        attributes=sorted(rows.attributes),
        households=len(rows.households),
        persons=len(rows.persons),
        respondents=sum(person.responded for person in rows.persons),
        trips=len(rows.trips),
        seed=rows.seed,
        imported_by=imported_by,
        imported_at=now,
    )
    session.add(wave)
    session.flush()
    _copy(
        session,
        "survey_household (wave_id, key, street_code, attributes)",
        ((wave.id, each.key, each.street_code, Jsonb(each.attributes)) for each in rows.households),
    )
    _copy(
        session,
        "survey_person (wave_id, key, household_key, stratum, cluster, street_code, age, base_weight, responded, day, "
        "attributes)",
        (
            (
                wave.id,
                each.key,
                each.household_key,
                each.stratum,
                each.cluster,
                each.street_code,
                each.age,
                each.base_weight,
                each.responded,
                each.day,
                Jsonb(each.attributes),
            )
            for each in rows.persons
        ),
    )
    mode_of = _ModeOfLegs(definition)
    _copy(
        session,
        "survey_trip (wave_id, person_key, position, main_mode, legs, distance_m, started_minute, purpose)",
        (
            (
                wave.id,
                each.person_key,
                each.position,
                mode_of[each.legs],
                list(each.legs),
                each.distance_m,
                each.started_minute,
                each.purpose,
            )
            for each in rows.trips
        ),
    )
    wave.state = WaveState.ACCEPTED
    session.flush()
    return wave


class _ModeOfLegs(dict[tuple[str, ...], str]):
    """The main mode by legs: the same few ways of travelling come again and again."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        self._definition = definition

    def __missing__(self, legs: tuple[str, ...]) -> str:
        self[legs] = mode = main_mode(self._definition, legs)
        return mode


def _copy(session: Session, target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Send rows by COPY, in the session's own transaction: a tenth of what inserts cost."""
    connection = session.connection().connection.driver_connection
    if connection is None:
        raise TypeError("the session has no connection")
    with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def estimate_input(
    session: Session,
    wave_codes: Sequence[str],
    *,
    definition_id: str,
    margin_set_code: str | None,
    options: Options,
) -> Input:
    """Everything that enters an estimate from the accepted waves named, all of one year, under a definition.

    The margins of `options` are replaced by those of the set; without a set they are none. People younger than the
    definition's age are left out; whose age is unknown stays, for the survey drew them as people of these ages. Main
    modes and readings are computed here, so that an old wave can be read under a new definition. The order of
    everything depends on the data alone: the same waves give the same bytes.

    Raises WaveUnknown, WavesOfSeveralYears, TooMuchForOneEstimate, WaveOfOtherModes, DefinitionUnknown,
    MarginsUnknown, MarginsDoNotFit.
    """
    definition = definition_of(session, definition_id)
    waves = _waves(session, wave_codes)
    population, margins = _margins(session, margin_set_code, definition, waves)
    return Input(
        definition_id=definition.id,
        population=population,
        waves=[_wave_input(session, wave, definition) for wave in waves],
        options=msgspec.structs.replace(options, margins=margins),
    )


def _waves(session: Session, codes: Sequence[str]) -> list[SurveyWave]:
    if not 1 <= len(codes) <= WAVES_MAX:
        raise TooMuchForOneEstimate(f"1 to {WAVES_MAX} waves")
    waves = session.scalars(
        sa.select(SurveyWave)
        .where(SurveyWave.code.in_(codes), SurveyWave.state == WaveState.ACCEPTED)
        .order_by(SurveyWave.first_on, SurveyWave.code)
    ).all()
    missing = sorted(set(codes) - {wave.code for wave in waves})
    if missing:
        raise WaveUnknown(f"There is no wave {missing[0]!r}")
    if len({wave.year for wave in waves}) > 1:
        raise WavesOfSeveralYears
    if sum(wave.persons for wave in waves) > PERSONS_MAX:
        raise TooMuchForOneEstimate(f"More than {PERSONS_MAX} people")
    return list(waves)


def _margins(
    session: Session, code: str | None, definition: Definition, waves: Sequence[SurveyWave]
) -> tuple[str, list[Margin]]:
    """The population's description and its margins; '' and none without a set."""
    if code is None:
        return "", []
    found = session.get(MarginSet, code)
    if found is None:
        raise MarginsUnknown(f"There are no margins {code!r}")
    if found.age_min != definition.age_min:
        raise MarginsDoNotFit(
            f"{code} counts people from the age of {found.age_min}, {definition.id} from {definition.age_min}"
        )
    cells = session.execute(
        sa.select(MarginCell.variable, MarginCell.category, MarginCell.persons)
        .where(MarginCell.set_code == code)
        .order_by(MarginCell.variable.collate("C"), MarginCell.category.collate("C"))
    )
    by_variable: dict[str, dict[str, float]] = {}
    for variable, category, persons in cells:
        by_variable.setdefault(variable, {})[category] = float(persons)
    for wave in waves:
        for variable in by_variable:
            unknown = sorted(set(variable.split("*")) - set(wave.attributes))
            if unknown:
                raise MarginsDoNotFit(f"The wave {wave.code} has no attribute {unknown[0]!r}, which {code} has")
    population = f"{found.population}; {found.source}; {found.as_of.isoformat()} [{found.confidence}]"
    return population, [Margin(variable=name, persons=persons) for name, persons in by_variable.items()]


def _wave_input(session: Session, wave: SurveyWave, definition: Definition) -> WaveInput:
    """One wave's columns, by person in the order of their keys."""
    persons = session.execute(
        sa.select(
            SurveyPerson.key,
            SurveyPerson.stratum,
            SurveyPerson.cluster,
            SurveyPerson.street_code,
            SurveyPerson.base_weight,
            SurveyPerson.responded,
            SurveyPerson.attributes,
        )
        .where(
            SurveyPerson.wave_id == wave.id,
            sa.or_(SurveyPerson.age.is_(None), SurveyPerson.age >= definition.age_min),
        )
        .order_by(SurveyPerson.key.collate("C"))
    ).all()
    modes = _modes_by_person(session, wave, definition)
    counted = [modes.get(person.key, Counter()) for person in persons]
    names = [*definition.modes]
    return WaveInput(
        id=wave.code,
        kind=wave.kind,
        name=wave.name,
        first_on=wave.first_on.isoformat(),
        last_on=wave.last_on.isoformat(),
        stratum=[person.stratum for person in persons],
        cluster=[person.cluster for person in persons],
        street=[person.street_code or "" for person in persons],
        base_weight=[person.base_weight for person in persons],
        responded=[person.responded for person in persons],
        attributes={name: [person.attributes.get(name, "") for person in persons] for name in wave.attributes},
        trips=[sum(each.values()) for each in counted],
        green={
            reading: [
                sum(number for mode, number in each.items() if is_green(definition, mode, reading)) for each in counted
            ]
            for reading in READINGS
        },
        trips_by_mode={
            name: [each[name] for each in counted] for name in names if any(name in each for each in counted)
        },
    )


def _modes_by_person(session: Session, wave: SurveyWave, definition: Definition) -> dict[str, Counter[str]]:
    """How many trips by which main mode each person made, under the definition asked for. Raises WaveOfOtherModes."""
    mode_of = _ModeOfLegs(definition)
    grouped = session.execute(
        sa.select(SurveyTrip.person_key, SurveyTrip.legs, sa.func.count())
        .where(SurveyTrip.wave_id == wave.id)
        .group_by(SurveyTrip.person_key, SurveyTrip.legs)
    )
    found: dict[str, Counter[str]] = {}
    for key, legs, number in grouped:
        try:
            mode = mode_of[tuple(legs)]
        except ValueError as error:
            raise WaveOfOtherModes(f"{wave.code}: {error}") from error
        found.setdefault(key, Counter())[mode] += number
    return found

"""What the tests of releases are built from: small waves, answers of the estimator made up, releases on their way."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.estimate.exchange import (
    READINGS,
    STRICT,
    Caution,
    Estimate,
    Options,
    ReadingResult,
    Result,
    StreetEstimate,
    WaveResult,
    Weighting,
)
from points.share.releases import releases
from points.share.releases.models import ShareRelease
from points.share.releases.platform_records import platform_records
from points.share.releases.releases import Computed, Wanted, canonical
from points.share.survey.microdata import PersonRow, TripRow, WaveRows, estimate_input, write_wave
from points.share.survey.models import MarginCell, MarginSet, SurveyWave, WaveKind
from server.access import Actor, Role
from server.clock import business_day, now
from server.database import new_id
from server.places.models import Confidence

DISTRICT = "120104"
STREETS = ("120104001", "120104002", "120104003")
DEFINITION = "green-travel-2020"
MARGINS = "census-2020"
E_BIKE_MORE = 0.04


def small_wave(session: Session, code: str = "hts-2025", year: int = 2025, *, persons: int = 90) -> SurveyWave:
    """A wave of so many people: every fourth drives, one in ten rides an e-bike, the rest walks; nobody refused."""
    people, trips = [], []
    for number in range(persons):
        key = f"p{number:04}"
        street = STREETS[number % 3]
        attributes = {"sex": "female" if number % 2 else "male", "street": street}
        people.append(
            PersonRow(
                key=key,
                base_weight=100.0,
                responded=True,
                cluster=f"h{number // 2:04}",
                street_code=street,
                age=30,
                attributes=attributes,
            )
        )
        mode = "car-driver" if number % 4 == 0 else "e-bike" if number % 10 == 1 else "walk"
        trips += [TripRow(person_key=key, position=position, legs=(mode,)) for position in (1, 2)]
    return write_wave(
        session,
        WaveRows(
            code=code,
            year=year,
            name=f"居民出行调查 {year}",
            kind=WaveKind.HOUSEHOLD_SURVEY,
            first_on=date(year, 10, 13),
            last_on=date(year, 10, 17),
            definition_id=DEFINITION,
            frame="户籍抽样框",
            source="测试",
            confidence=Confidence.RECALLED,
            attributes=["sex", "street"],
            persons=people,
            trips=trips,
        ),
        imported_by=None,
        now=now(),
    )


def some_margins(session: Session, code: str = MARGINS) -> str:
    """Margins by sex of 9,000 people of six and older."""
    session.add(
        MarginSet(
            code=code,
            population="南开区6岁及以上常住人口",
            source="测试",
            confidence=Confidence.RECALLED,
            as_of=date(2020, 11, 1),
            age_min=6,
            persons=9000,
            content_sha256=bytes(32),
            locked=False,
            loaded_at=now(),
        )
    )
    session.flush()
    session.add_all(
        MarginCell(set_code=code, variable="sex", category=category, persons=persons)
        for category, persons in (("female", 4600), ("male", 4400))
    )
    session.flush()
    return code


def estimate(share: float, se: float = 0.01, *, n: int = 1800) -> Estimate:
    return Estimate(
        share=share,
        se=se,
        low=round(share - 1.96 * se, 6),
        high=round(share + 1.96 * se, 6),
        n=n,
        trips=n * 2,
        n_effective=n / 1.5,
        design_effect=1.5,
    )


def street(code: str, n: int, share: float = 0.7) -> StreetEstimate:
    return StreetEstimate(street=code, n=n, modelled=n < 100, share=share, se=0.03, low=share - 0.06, high=share + 0.06)


def made_up(
    share: float,
    se: float = 0.01,
    *,
    wave_codes: tuple[str, ...] = ("hts-2025",),
    weighted: bool = True,
    n: int = 1800,
    streets: tuple[StreetEstimate, ...] = (),
    cautions: tuple[str, ...] = (),
) -> Result:
    """An answer of the estimator: the share strictly read, and somewhat more with e-bikes."""
    readings = [
        ReadingResult(
            reading=reading,
            naive=share + 0.1,
            estimate=estimate(share if reading == STRICT else share + E_BIKE_MORE, se, n=n),
            untrimmed=None,
            streets=list(streets),
        )
        for reading in READINGS
    ]
    weighting = Weighting(
        drawn=n * 2,
        responded=n,
        response_rate=0.5,
        adjustment_cells=4,
        cells_collapsed=0,
        raked=weighted,
        converged=True,
        iterations=12,
        factor_min=0.6,
        factor_max=1.9,
        at_bound=0,
        trimmed=3,
        trimmed_weight_share=0.01,
        margin_gap_max=0.001,
        weight_sum=850_000.0,
    )
    waves = [
        WaveResult(
            id=code,
            kind="household-survey",
            weighting=weighting,
            readings=readings,
            mode_shares={"walk": 0.4, "car-driver": 0.2},
            combining_weight=dict.fromkeys(READINGS, 1 / len(wave_codes)),
        )
        for code in wave_codes
    ]
    return Result(
        definition_id=DEFINITION,
        weighted=weighted,
        combined=readings,
        waves=waves,
        cautions=[Caution(code=code, wave="", text_zh="注意", text_en="Careful") for code in cautions],
        libraries={"svy": "0.35"},
    )


def district_actor(staff_id: UUID) -> Actor:
    return Actor(id=staff_id, role=Role.DISTRICT, session_id=new_id(), division=DISTRICT)


def draft(
    session: Session, computed_by: UUID, result: Result, *, at: datetime | None = None, **wanted: Any
) -> ShareRelease:
    """A computed release, its answer made up; the wave `hts-YEAR` is added where it is missing."""
    at = at or now()
    year = wanted.setdefault("year", 2025)
    codes = wanted.setdefault("waves", [wave.id for wave in result.waves])
    for code in codes:
        if (
            session.scalar(sa.select(SurveyWave.id).where(SurveyWave.code == code, SurveyWave.state == "accepted"))
            is None
        ):
            small_wave(session, code, year)
    if result.weighted and wanted.setdefault("margin_set_code", MARGINS) == MARGINS:
        session.get(MarginSet, MARGINS) or some_margins(session)
    options = Options(margins=[], adjustment_cells=[], seed=year)
    release = releases.request(
        session,
        district_actor(computed_by),
        Wanted(options=options, **wanted),
        district_code=DISTRICT,
        jobs=None,
        now=at,
    )
    begun = releases.begin(session, release.id, now=at)
    assert begun is not None
    given = estimate_input(
        session,
        codes,
        definition_id=release.definition_id,
        margin_set_code=release.margin_set_code,
        options=releases.options_of(release),
    )
    records = platform_records(session, district_code=DISTRICT, year=year, today=business_day(at))
    computed = Computed(canonical(given), result, "test", records)
    assert releases.finish(session, release.id, computed, attempt=begun.attempts, now=at)
    return releases.release_named(session, release.name)


def published(
    session: Session, computed_by: UUID, reviewed_by: UUID, result: Result, *, at: datetime | None = None, **wanted: Any
) -> ShareRelease:
    """A published release, computed by one and reviewed and published by another."""
    made, at = draft(session, computed_by, result, at=at, **wanted), at or now()
    other = district_actor(reviewed_by)
    place = {"district_code": DISTRICT, "now": at}
    made = releases.review(session, other, made.id, remark="核对了权重与边际", version=made.version, **place)
    return releases.publish(session, other, made.id, version=made.version, **place)

"""What the public reads of the share: the published releases, whether the goal is met, the trend over the years.

Nothing of a draft is here. A street with fewer than ten respondents has no figures, and where hiding one would leave it
to be worked out from the rest, the next smallest has none either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.estimate.exchange import READINGS, Caution, Estimate, ReadingResult, Result, StreetEstimate
from points.share.releases import goal, trend
from points.share.releases.goal import GoalAnswer, GoalLine
from points.share.releases.models import ReleaseState, ShareRelease, ShareReleaseWave
from points.share.releases.releases import (
    CORRECTION,
    RESPONDENTS_MIN,
    current_releases,
    options_of,
    release_for,
    release_named,
    result_of,
)
from points.share.releases.trend import Trend, YearEstimate
from points.share.survey.definition import DefinitionEntry, definition_of
from points.share.survey.models import MarginSet, SurveyWave
from server.access import Actor
from server.errors import NotFound
from server.paging import Page, decode, page_of
from server.places.models import Confidence, Division

# What the columns of a cursor's key can hold.
_Small = Annotated[int, msgspec.Meta(ge=0, le=32_767)]

TREND_YEARS_MAX = 40

# With one of these the estimate may be off by more than its interval says: then it answers nothing about the goal.
DOUBTS = frozenset({"selection-on-outcome", "not-converged"})


@dataclass(frozen=True, slots=True)
class StreetSeen:
    """One street's share. `modelled`: borrowed from other streets. All None where it is withheld."""

    street_code: str
    street_name: str
    withheld: bool
    n: int | None
    modelled: bool | None
    share: float | None
    se: float | None
    low: float | None
    high: float | None
    direct_share: float | None
    direct_se: float | None


@dataclass(frozen=True, slots=True)
class ReadingSeen:
    """One reading of the definition: the estimate, what it would be without weighting or trimming, and by street."""

    reading: str
    estimate: Estimate
    naive: float
    untrimmed_share: float | None
    streets: tuple[StreetSeen, ...]


@dataclass(frozen=True, slots=True)
class WaveReadingSeen:
    """One wave's own estimate under one reading, and its part in the whole."""

    reading: str
    share: float
    low: float
    high: float
    combining_weight: float | None


@dataclass(frozen=True, slots=True)
class WaveSeen:
    """A wave that entered: who asked whom, how many answered, what was done to its weights."""

    code: str
    name: str
    kind: str
    first_on: date
    last_on: date
    frame: str
    source: str
    confidence: Confidence
    drawn: int
    responded: int
    response_rate: float
    raked: bool
    converged: bool
    at_bound: int
    trimmed: int
    trimmed_weight_share: float
    margin_gap_max: float
    readings: tuple[WaveReadingSeen, ...]
    mode_shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MarginsSeen:
    """The population that the estimate stands on."""

    code: str
    population: str
    source: str
    confidence: Confidence
    as_of: date
    persons: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What it takes to compute a release again and get the same."""

    input_sha256: str
    result_sha256: str
    code_version: str
    libraries: Mapping[str, str]
    seed: int
    options: Mapping[str, Any]
    computed_at: datetime
    reviewed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Headline:
    """A published release in a line. `corrected_by`: no longer the current one."""

    id: UUID
    name: str
    year: int
    revision: int
    published_at: datetime | None
    corrects: UUID | None
    corrected_by: UUID | None
    reason: str
    definition_id: str
    weighted: bool
    readings: tuple[ReadingSeen, ...]


@dataclass(frozen=True, slots=True)
class ReleaseSeen:
    """A release with all that stands behind it; of a draft the same, for whoever reviews it."""

    headline: Headline
    definition: DefinitionEntry
    margins: MarginsSeen | None
    waves: tuple[WaveSeen, ...]
    cautions: tuple[Caution, ...]
    proof: Proof
    goal: GoalAnswer
    platform_records: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the goal is met, by the current release of the newest year that has one; None without any."""

    release: Headline | None
    answer: GoalAnswer


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One year's current published estimate. `left_out` says why it is not in the trend, None if it is."""

    year: int
    release: str
    share: float
    low: float
    high: float
    left_out: str | None


@dataclass(frozen=True, slots=True)
class ReadingTrend:
    """One reading over the years; `trend` is None with fewer than `trend.YEARS_MIN` comparable years.

    `definition_id` is that of the newest year, '' without any: the trend is of its years alone.
    """

    reading: str
    definition_id: str
    points: tuple[TrendPoint, ...]
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The public page: the newest release, whether the goal is met, the years."""

    line: GoalLine
    answer: GoalAnswer
    latest: ReleaseSeen | None
    trends: tuple[ReadingTrend, ...]


def overview(session: Session, line: GoalLine, *, today: date) -> Overview:
    """All of it at once. The trend runs to the last year of the plan."""
    latest = newest_release(session, line)
    answer = goal.answer(line, today.year, None, weighted=False) if latest is None else latest.goal
    until = max((point.year for point in line.points), default=today.year)
    return Overview(line, answer, latest, trends(session, until=until))


# What others of the house ask


def current_release(session: Session, year: int) -> Headline | None:
    """The current published release of a year."""
    found = session.scalar(current_releases().where(ShareRelease.year == year))
    return None if found is None else headline(found, corrected_by=None, names={})


def standing(session: Session, line: GoalLine, *, today: date) -> Standing:
    """Whether the goal is met, from the newest year that has a published release; without any, of today's year."""
    found = session.scalar(current_releases().order_by(ShareRelease.year.desc()).limit(1))
    if found is None:
        return Standing(None, goal.answer(line, today.year, None, weighted=False))
    return Standing(headline(found, corrected_by=None, names=_street_names(session)), goal_of(found, line))


def goal_of(release: ShareRelease, line: GoalLine) -> GoalAnswer:
    """A computed release set against the line of its year."""
    result = result_of(release)
    return goal.answer(
        line,
        release.year,
        {each.reading: each.estimate for each in result.combined},
        weighted=result.weighted,
        doubted={each.code for each in result.cautions} & DOUBTS,
        confidence=options_of(release).confidence,
    )


def trends(session: Session, *, until: int) -> tuple[ReadingTrend, ...]:
    """The published years and their trend, for each reading.

    In the trend are weighted estimates of the newest year's definition: under another one another thing was measured.
    """
    found = session.scalars(current_releases().order_by(ShareRelease.year.desc()).limit(TREND_YEARS_MAX)).all()
    results = [(release, result_of(release)) for release in reversed(found)]
    definition_id = found[0].definition_id if found else ""
    return tuple(_trend(results, reading, definition_id, until=until) for reading in READINGS)


def _trend(
    results: Sequence[tuple[ShareRelease, Result]], reading: str, definition_id: str, *, until: int
) -> ReadingTrend:
    points, years = [], []
    for release, result in results:
        estimate = next((each.estimate for each in result.combined if each.reading == reading), None)
        if estimate is None:
            continue
        left_out = _left_out(release, result, estimate, definition_id)
        points.append(TrendPoint(release.year, release.name, estimate.share, estimate.low, estimate.high, left_out))
        if left_out is None:
            years.append(YearEstimate(release.year, estimate.share, estimate.se))
    return ReadingTrend(reading, definition_id, tuple(points), trend.trend_of(years, until=until))


def _left_out(release: ShareRelease, result: Result, estimate: Estimate, definition_id: str) -> str | None:
    if not result.weighted:
        return "unweighted"
    if release.definition_id != definition_id:
        return "other-definition"
    if {each.code for each in result.cautions} & DOUBTS:
        return "estimate-doubted"
    # Without scatter, or at an end of the scale, there is no logit and no weight.
    return None if 0 < estimate.share < 1 and estimate.se > 0 else "no-error-known"


# Releases


def list_published(session: Session, *, limit: int, cursor: str | None) -> Page[Headline]:
    """The published releases, the newest year and its newest revision first. Raises BadCursor."""
    wanted = (
        sa.select(ShareRelease, CORRECTION.id)
        .outerjoin(
            CORRECTION,
            sa.and_(CORRECTION.corrects == ShareRelease.id, CORRECTION.state == ReleaseState.PUBLISHED),
        )
        .where(ShareRelease.state == ReleaseState.PUBLISHED)
        .order_by(ShareRelease.year.desc(), ShareRelease.revision.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        year, revision = decode(cursor, tuple[_Small, _Small])
        wanted = wanted.where(sa.tuple_(ShareRelease.year, ShareRelease.revision) < (year, revision))
    rows = session.execute(wanted).all()
    seen = [headline(release, corrected_by=corrected_by, names={}) for release, corrected_by in rows]
    return page_of(seen, limit, lambda row: (row.year, row.revision))


def published_release(session: Session, release_id: UUID, line: GoalLine) -> ReleaseSeen:
    """A published release with all that stands behind it. Raises NotFound for any other."""
    found = session.get(ShareRelease, release_id, populate_existing=True)
    if found is None or found.state is not ReleaseState.PUBLISHED:
        raise NotFound
    return _seen(session, found, line)


def newest_release(session: Session, line: GoalLine) -> ReleaseSeen | None:
    """The current release of the newest year that has one."""
    found = session.scalar(current_releases().order_by(ShareRelease.year.desc()).limit(1))
    return None if found is None else _seen(session, found, line)


def release_to_review(
    session: Session, actor: Actor, release_id: UUID, line: GoalLine
) -> tuple[ShareRelease, ReleaseSeen | None]:
    """A release for those who make them, with its answer as it would be published; None while there is none.

    Raises NotFound outside the actor's district.
    """
    found = release_for(session, actor, release_id, district_code=line.district_code)
    return found, None if found.result is None else _seen(session, found, line)


def release_called(session: Session, name: str, line: GoalLine) -> tuple[ShareRelease, ReleaseSeen | None]:
    """The same by name, for commands on the machine itself. Raises NotFound."""
    found = release_named(session, name)
    return found, None if found.result is None else _seen(session, found, line)


def _seen(session: Session, release: ShareRelease, line: GoalLine) -> ReleaseSeen:
    result = result_of(release)
    corrected_by = session.scalar(
        sa.select(ShareRelease.id).where(
            ShareRelease.corrects == release.id, ShareRelease.state == ReleaseState.PUBLISHED
        )
    )
    kept = session.get(MarginSet, release.margin_set_code) if release.margin_set_code is not None else None
    options = options_of(release)
    return ReleaseSeen(
        headline=headline(release, corrected_by=corrected_by, names=_street_names(session)),
        definition=definition_of(session, release.definition_id).entry,
        margins=None
        if kept is None
        else MarginsSeen(kept.code, kept.population, kept.source, kept.confidence, kept.as_of, kept.persons),
        waves=_waves(session, release, result),
        cautions=tuple(result.cautions),
        proof=Proof(
            input_sha256=(release.input_sha256 or b"").hex(),
            result_sha256=(release.result_sha256 or b"").hex(),
            code_version=release.code_version or "",
            libraries=result.libraries,
            seed=options.seed,
            options=release.options,
            computed_at=release.computed_at or release.requested_at,
            reviewed_at=release.reviewed_at,
        ),
        goal=goal_of(release, line),
        platform_records=release.platform_records or {},
    )


def headline(release: ShareRelease, *, corrected_by: UUID | None, names: Mapping[str, str]) -> Headline:
    """A computed release in a line, its small streets withheld."""
    result = result_of(release)
    return Headline(
        id=release.id,
        name=release.name,
        year=release.year,
        revision=release.revision,
        published_at=release.published_at,
        corrects=release.corrects,
        corrected_by=corrected_by,
        reason=release.reason,
        definition_id=release.definition_id,
        weighted=result.weighted,
        readings=tuple(_reading(each, names) for each in result.combined),
    )


def _reading(result: ReadingResult, names: Mapping[str, str]) -> ReadingSeen:
    withheld = withheld_streets(result.streets)
    return ReadingSeen(
        reading=result.reading,
        estimate=result.estimate,
        naive=result.naive,
        untrimmed_share=None if result.untrimmed is None else result.untrimmed.share,
        streets=tuple(
            StreetSeen(
                each.street, names.get(each.street, each.street), True, None, None, None, None, None, None, None, None
            )
            if each.street in withheld
            else StreetSeen(
                each.street,
                names.get(each.street, each.street),
                False,
                each.n,
                each.modelled,
                each.share,
                each.se,
                each.low,
                each.high,
                each.direct_share,
                each.direct_se,
            )
            for each in sorted(result.streets, key=lambda street: street.street)
        ),
    )


def withheld_streets(streets: Sequence[StreetEstimate]) -> frozenset[str]:
    """The streets that have no figures in public: fewer than RESPONDENTS_MIN respondents, and what gives them away.

    The whole is published, so hidden streets are the rest of it: further ones are hidden, the smallest first, until
    they have RESPONDENTS_MIN respondents together. So one is never hidden alone.
    """
    by_size = sorted(streets, key=lambda street: (street.n, street.street))
    hidden = [street for street in by_size if street.n < RESPONDENTS_MIN]
    spare = by_size[len(hidden) :]
    while hidden and spare and sum(street.n for street in hidden) < RESPONDENTS_MIN:
        hidden.append(spare.pop(0))
    return frozenset(street.street for street in hidden)


def _waves(session: Session, release: ShareRelease, result: Result) -> tuple[WaveSeen, ...]:
    rows = session.scalars(
        sa.select(SurveyWave)
        .join(ShareReleaseWave, ShareReleaseWave.wave_id == SurveyWave.id)
        .where(ShareReleaseWave.release_id == release.id)
        .order_by(ShareReleaseWave.position)
    ).all()
    by_code = {each.id: each for each in result.waves}
    return tuple(
        WaveSeen(
            code=wave.code,
            name=wave.name,
            kind=wave.kind.value,
            first_on=wave.first_on,
            last_on=wave.last_on,
            frame=wave.frame,
            source=wave.source,
            confidence=wave.confidence,
            drawn=found.weighting.drawn,
            responded=found.weighting.responded,
            response_rate=found.weighting.response_rate,
            raked=found.weighting.raked,
            converged=found.weighting.converged,
            at_bound=found.weighting.at_bound,
            trimmed=found.weighting.trimmed,
            trimmed_weight_share=found.weighting.trimmed_weight_share,
            margin_gap_max=found.weighting.margin_gap_max,
            readings=tuple(
                WaveReadingSeen(
                    each.reading,
                    each.estimate.share,
                    each.estimate.low,
                    each.estimate.high,
                    found.combining_weight.get(each.reading),
                )
                for each in found.readings
            ),
            mode_shares=found.mode_shares,
        )
        for wave in rows
        if (found := by_code.get(wave.code)) is not None
    )


def _street_names(session: Session) -> dict[str, str]:
    """The streets' names by code; some hundreds at most."""
    rows = session.execute(sa.select(Division.code, Division.name).where(sa.func.length(Division.code) == 9))
    return {row.code: row.name for row in rows}

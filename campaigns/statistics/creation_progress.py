"""How far the creation programmes are against the plan's targets: named, applied or neither, of all that count.

The subjects are few (communities, schools, agencies, malls), so they are counted at reading. Drafts are the applicants'
own affair and count as nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation.models import IndicatorFigure, Programme, ProgrammeTarget, SubjectKind, TargetBase
from points.open_data.disclosure import RESIDENTS_MIN
from server.access import Actor
from server.errors import NotFound
from server.places.models import AgencyRank, OrganisationKind

Answer = Literal["met", "not-met", "cannot-be-told"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Subjects of one place: those whose name is valid, those under way, the others; and those of unknown size or rank.

    `unclassified` may or may not belong to the target, because nobody has entered their floor area or rank.
    """

    place_code: str
    place_name: str
    total: int
    named: int
    applied: int
    none: int
    unclassified: int


@dataclass(frozen=True, slots=True)
class TargetProgress:
    """One target of the plan and where it stands. A target said to be 左右 is never judged."""

    year: int
    text: str
    share_min: float | None
    is_about: bool
    source: str
    confidence: str
    share: float | None
    answer: Answer
    whole: Standing | None
    streets: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Indicator:
    """The newest published figure of a programme that takes no applications."""

    name: str
    unit: str
    measured_on: date | None
    value: Decimal | None
    source: str | None
    confidence: str | None


@dataclass(frozen=True, slots=True)
class ProgrammeProgress:
    """One programme: all its possible subjects, its targets, or its indicator; households by number alone."""

    code: str
    title_zh: str
    title_en: str
    subjects: Standing | None  # whatever their size or rank
    targets: tuple[TargetProgress, ...]
    households_named: int | None
    households_applied: int | None
    indicator: Indicator | None


# What a subject's applications come to: a valid name first, then one under way.
_SUBJECTS_STATE = """
    SELECT a.division, a.organisation_id, a.resident_id,
           bool_or(n.application_id IS NOT NULL AND a.state IN ('named', 'recheck', 'grace')
                   AND n.named_on <= :on AND n.valid_until >= :on) AS named,
           bool_or(a.submitted_at IS NOT NULL
                   AND a.state NOT IN ('named', 'recheck', 'grace', 'withdrawn', 'rejected', 'cancelled')) AS applied
    FROM application a LEFT JOIN naming n ON n.application_id = a.id
    WHERE a.programme_code = :programme AND starts_with(a.division, :within) GROUP BY 1, 2, 3"""

_STANDINGS = """
WITH state AS (%(state)s)
SELECT left(subject.division, 9) AS street, count(*) FILTER (WHERE counts) AS total,
       count(*) FILTER (WHERE counts AND state.named) AS named,
       count(*) FILTER (WHERE counts AND state.applied AND NOT state.named) AS applied,
       count(*) FILTER (WHERE NOT counts) AS unclassified
FROM (%(subjects)s) subject LEFT JOIN state ON %(joined)s
GROUP BY 1 ORDER BY 1
"""

_COMMUNITIES = """
    SELECT code AS division, true AS counts FROM division
    WHERE level = 'community' AND starts_with(code, :within)
          AND valid_from <= :on AND (valid_to IS NULL OR valid_to >= :on)"""

# Whose size or rank nobody has entered stays visible as unknown; who is known to be too small is left out.
_ORGANISATIONS = """
    SELECT id, community_code AS division,
           (cast(:area AS int) IS NULL OR floor_area_m2 IS NOT NULL)
           AND (cast(:ranks AS text[]) IS NULL OR agency_rank IS NOT NULL) AS counts
    FROM organisation
    WHERE kind = :kind AND starts_with(community_code, :within)
          AND valid_from <= :on AND (valid_to IS NULL OR valid_to >= :on)
          AND (cast(:area AS int) IS NULL OR floor_area_m2 IS NULL OR floor_area_m2 >= :area)
          AND (cast(:ranks AS text[]) IS NULL OR agency_rank IS NULL OR agency_rank = ANY(:ranks))"""

_OF_COMMUNITIES = sa.text(
    _STANDINGS % {"state": _SUBJECTS_STATE, "subjects": _COMMUNITIES, "joined": "state.division = subject.division"}
)
_OF_ORGANISATIONS = sa.text(
    _STANDINGS % {"state": _SUBJECTS_STATE, "subjects": _ORGANISATIONS, "joined": "state.organisation_id = subject.id"}
)
_HOUSEHOLDS = sa.text(
    f"""SELECT count(*) FILTER (WHERE named), count(*) FILTER (WHERE applied AND NOT named)
        FROM ({_SUBJECTS_STATE}) state"""  # noqa: S608 -- composed of constants of this module
)

_NAMES = sa.text(
    "SELECT code, name FROM division"
    " WHERE starts_with(code, left(:within, 6)) AND (level <> 'community' OR code = :within)"
)

_KINDS: Mapping[TargetBase | None, OrganisationKind] = {
    TargetBase.SCHOOLS: OrganisationKind.SCHOOL,
    TargetBase.AGENCIES: OrganisationKind.AGENCY,
    TargetBase.MALLS: OrganisationKind.MALL,
}


def progress(session: Session, actor: Actor, *, on: date) -> list[ProgrammeProgress]:
    """Every programme in the actor's scope, as it stands on a day. Raises NotFound for staff of one organisation."""
    if actor.division is None:
        raise NotFound
    return progress_within(session, actor.division, on=on)


def progress_within(session: Session, within: str, *, on: date) -> list[ProgrammeProgress]:
    """Every programme in one division, as it stands on a day: counts of organisations and places, not of people."""
    programmes = session.scalars(sa.select(Programme).order_by(Programme.position, Programme.code)).all()
    targets: dict[str, list[ProgrammeTarget]] = {}
    for target in session.scalars(sa.select(ProgrammeTarget).order_by(ProgrammeTarget.year)):
        targets.setdefault(target.programme_code, []).append(target)
    names: dict[str, str] = dict(session.execute(_NAMES, {"within": within}).all())
    return [
        ProgrammeProgress(
            code=programme.code,
            title_zh=programme.title_zh,
            title_en=programme.title_en,
            subjects=_subjects(session, programme, within, names, on=on),
            targets=tuple(
                _target_progress(session, target, within, names, on=on) for target in targets.get(programme.code, ())
            ),
            **_households(session, programme, within, on=on),
            indicator=_indicator(session, programme),
        )
        for programme in programmes
    ]


def published(session: Session, district: str, *, on: date) -> list[ProgrammeProgress]:
    """What everybody may read of it: the district as a whole.

    A single application in a street would name its applicant before the public notice does; and a few households are
    residents, who are never counted out in public.
    """
    return [
        replace(
            programme,
            targets=tuple(replace(target, streets=()) for target in programme.targets),
            households_named=_unless_small(programme.households_named),
            households_applied=_unless_small(programme.households_applied),
        )
        for programme in progress_within(session, district, on=on)
    ]


def _unless_small(count: int | None) -> int | None:
    return None if count is None or 0 < count < RESIDENTS_MIN else count


def _target_progress(
    session: Session, target: ProgrammeTarget, within: str, names: dict[str, str], *, on: date
) -> TargetProgress:
    streets = _standings(session, target, within, names, on=on)
    whole = _sum(within, names.get(within, ""), streets) if streets is not None else None
    share = whole.named / whole.total if whole is not None and whole.total else None
    wanted = None if target.share_min_percent is None else float(target.share_min_percent) / 100
    return TargetProgress(
        year=target.year,
        text=target.text_zh,
        share_min=wanted,
        is_about=target.is_about,
        source=target.source,
        confidence=target.confidence.value,
        share=None if share is None else round(share, 6),
        answer=_answer(target, whole),
        whole=whole,
        streets=tuple(streets or ()),
    )


def _answer(target: ProgrammeTarget, whole: Standing | None) -> Answer:
    """Whether a target is met. Subjects of unknown size decide nothing when they could turn the answer either way."""
    if target.is_about or target.share_min_percent is None or whole is None:
        return "cannot-be-told"
    share = target.share_min_percent / 100
    # All unknown ones are counted as not named when asking for met; as not there when asking for not met.
    if whole.total and whole.named >= share * (whole.total + whole.unclassified):
        return "met"
    if whole.total and whole.named + whole.unclassified < share * (whole.total + whole.unclassified):
        return "not-met"
    return "cannot-be-told"


def _standings(
    session: Session, target: ProgrammeTarget, within: str, names: dict[str, str], *, on: date
) -> list[Standing] | None:
    """The subjects of a target by street; None for a target that counts no subjects."""
    if target.base is TargetBase.COMMUNITIES:
        return _communities(session, target.programme_code, within, names, on=on)
    if target.base not in _KINDS:
        return None
    ranks = None
    if target.agency_rank_min is not None:
        ranks = [each.value for each in list(AgencyRank)[list(AgencyRank).index(target.agency_rank_min) :]]
    limits = {"kind": _KINDS[target.base].value, "area": target.floor_area_min_m2, "ranks": ranks}
    return _organisations(session, target.programme_code, within, names, limits, on=on)


def _subjects(
    session: Session, programme: Programme, within: str, names: dict[str, str], *, on: date
) -> Standing | None:
    """Everybody who could be named under a programme; None for households, whose number nobody keeps."""
    streets = None
    if programme.subject_kind is SubjectKind.COMMUNITY:
        streets = _communities(session, programme.code, within, names, on=on)
    elif programme.organisation_kind is not None:
        limits = {"kind": programme.organisation_kind.value, "area": None, "ranks": None}
        streets = _organisations(session, programme.code, within, names, limits, on=on)
    return None if streets is None else _sum(within, names.get(within, ""), streets)


def _communities(
    session: Session, programme_code: str, within: str, names: dict[str, str], *, on: date
) -> list[Standing]:
    values = {"programme": programme_code, "within": within, "on": on}
    return [_standing(row, names) for row in session.execute(_OF_COMMUNITIES, values)]


def _organisations(
    session: Session,
    programme_code: str,
    within: str,
    names: dict[str, str],
    limits: Mapping[str, Any],
    *,
    on: date,
) -> list[Standing]:
    values = {"programme": programme_code, "within": within, "on": on, **limits}
    return [_standing(row, names) for row in session.execute(_OF_ORGANISATIONS, values)]


def _standing(row: Sequence[Any], names: Mapping[str, str]) -> Standing:
    street, total, named, applied, unknown = row
    return Standing(street, names.get(street, ""), total, named, applied, total - named - applied, unknown)


def _sum(code: str, name: str, parts: Sequence[Standing]) -> Standing:
    return Standing(
        code,
        name,
        *(
            sum(getattr(part, column) for part in parts)
            for column in ("total", "named", "applied", "none", "unclassified")
        ),
    )


def _households(session: Session, programme: Programme, within: str, *, on: date) -> dict[str, int | None]:
    if programme.subject_kind is not SubjectKind.HOUSEHOLD:
        return {"households_named": None, "households_applied": None}
    values = {"programme": programme.code, "within": within, "on": on}
    named, applied = session.execute(_HOUSEHOLDS, values).one()
    return {"households_named": named, "households_applied": applied}


def _indicator(session: Session, programme: Programme) -> Indicator | None:
    if programme.indicator_zh is None:
        return None
    newest = session.scalars(
        sa.select(IndicatorFigure)
        .where(IndicatorFigure.programme_code == programme.code)
        .order_by(IndicatorFigure.measured_on.desc())
        .limit(1)
    ).first()
    return Indicator(
        name=programme.indicator_zh,
        unit=programme.indicator_unit or "",
        measured_on=newest.measured_on if newest else None,
        value=newest.value if newest else None,
        source=newest.source if newest else None,
        confidence=newest.confidence.value if newest else None,
    )

"""How far two independent assessors agree, by rubric and by item.

The two seats are interchangeable and different people sit in them each time, so the measures are those for raters drawn
anew for each subject: ICC(1,1), one-way random effects (Shrout and Fleiss 1979, case 1), for totals, and for items
the chance-corrected agreement with one common distribution of marks (Scott 1955) and squared distances, which for met
or not met is Scott's pi and in general the same thing as an intraclass correlation (Fleiss and Cohen 1973).
Only complete assessments count: an open one must not be told by its difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation.assessment import differ
from campaigns.creation.models import Application, Assessment, AssessmentMark, ItemType, RubricItem
from campaigns.creation.rubrics import RubricContent, is_met, points_of, rubric_for
from server.access import Actor
from server.people.models import Staff

APPLICATIONS_MAX = 5000
ASSESSORS_MAX = 500


@dataclass(frozen=True, slots=True)
class ItemAgreement:
    """How far the first two assessors agree about one item. `kappa` is None when nobody's marks vary."""

    item_code: str
    text_zh: str
    pairs: int
    same_share: float | None
    mean_difference_points: float | None
    kappa: float | None


@dataclass(frozen=True, slots=True)
class AssessorLeaning:
    """How an assessor's totals lie to the other assessors' of the same applications: above 0 is milder."""

    staff_id: UUID
    name: str
    applications: int
    mean_difference_points: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement between assessors under one rubric. Figures are None when there is too little to compute them from.

    Differences are absolute, in points and in percent of the rubric's maximum.
    """

    rubric_id: UUID
    applications: int
    third_wanted: int
    maximum: int
    mean_difference_points: float | None
    mean_difference_percent: float | None
    icc: float | None
    items: Sequence[ItemAgreement]
    assessors: Sequence[AssessorLeaning]


def agreement_of(session: Session, actor: Actor, rubric_id: UUID) -> Agreement:
    """The agreement over the newest APPLICATIONS_MAX completely assessed applications of a rubric. Raises NotFound."""
    content = rubric_for(session, actor, rubric_id)
    assessments = _complete(session, rubric_id, content.rubric.difference_max)
    pairs = [(of_one[0], of_one[1]) for of_one in assessments.values()]
    totals = [(_points(first), _points(second)) for first, second in pairs]
    apart = [abs(first - second) for first, second in totals]
    mean_points = sum(apart) / len(apart) if apart else None
    return Agreement(
        rubric_id=rubric_id,
        applications=len(pairs),
        third_wanted=sum(differ(first, second, content.rubric.difference_max) for first, second in pairs),
        maximum=content.maximum,
        mean_difference_points=_rounded(mean_points),
        mean_difference_percent=(
            _rounded(100 * mean_points / content.maximum) if mean_points is not None and content.maximum else None
        ),
        icc=_rounded(intraclass_correlation(totals)),
        items=_items(session, content, pairs),
        assessors=_leanings(session, assessments),
    )


def intraclass_correlation(ratings: Sequence[Sequence[float]]) -> float | None:
    """ICC(1,1): the share of the variance that lies between the subjects; each subject has the same number of ratings.

    (MSB - MSW) / (MSB + (k - 1) MSW) with mean squares between and within n subjects of k ratings. None for fewer than
    two subjects or ratings, or when nothing varies.
    """
    n, k = len(ratings), len(ratings[0]) if ratings else 0
    if n < 2 or k < 2:
        return None
    means = [sum(row) / k for row in ratings]
    grand = sum(means) / n
    between = k * sum((mean - grand) ** 2 for mean in means) / (n - 1)
    within = sum((value - mean) ** 2 for row, mean in zip(ratings, means, strict=True) for value in row) / (n * (k - 1))
    whole = between + (k - 1) * within
    return None if whole == 0 else (between - within) / whole


def chance_corrected(pairs: Sequence[tuple[float, float]]) -> float | None:
    """1 - D_observed / D_expected, squared distances, both raters' marks in one distribution (Scott's pi for 0 and 1).

    None when there are no pairs or all marks are the same: then chance alone agrees too.
    """
    if not pairs:
        return None
    marks = [mark for pair in pairs for mark in pair]
    mean = sum(marks) / len(marks)
    # The mean squared distance of two marks drawn from the distribution is twice its variance.
    expected = 2 * sum((mark - mean) ** 2 for mark in marks) / len(marks)
    observed = sum((first - second) ** 2 for first, second in pairs) / len(pairs)
    return None if expected == 0 else 1 - observed / expected


def _complete(session: Session, rubric_id: UUID, difference_max: Decimal) -> Mapping[UUID, Sequence[Assessment]]:
    """The assessments in the order of their seats, of the applications that are completely assessed."""
    newest = (
        sa.select(Application.id)
        .join(Assessment, Assessment.application_id == Application.id)
        .where(Application.rubric_id == rubric_id)
        .group_by(Application.id)
        # Two or three, and none of them open.
        .having(sa.func.count() >= 2, sa.func.count() == sa.func.count(Assessment.submitted_at))
        .order_by(Application.id.desc())
        .limit(APPLICATIONS_MAX)
    )
    rows = session.scalars(
        sa.select(Assessment)
        .where(Assessment.application_id.in_(newest))
        .order_by(Assessment.application_id, Assessment.seat)
        .execution_options(populate_existing=True)
    )
    found: dict[UUID, list[Assessment]] = {}
    for row in rows:
        found.setdefault(row.application_id, []).append(row)
    return {
        application_id: of_one
        for application_id, of_one in found.items()
        if len(of_one) > 2 or not differ(of_one[0], of_one[1], difference_max)
    }


def _items(
    session: Session, content: RubricContent, pairs: Sequence[tuple[Assessment, Assessment]]
) -> Sequence[ItemAgreement]:
    marks = {
        (row.application_id, row.staff_id, row.item_code): row.value
        for row in session.execute(
            sa.select(
                AssessmentMark.application_id, AssessmentMark.staff_id, AssessmentMark.item_code, AssessmentMark.value
            ).where(AssessmentMark.application_id.in_([first.application_id for first, _ in pairs]))
        )
    }
    made = []
    for item in content.items:
        values = [
            tuple(marks[each.application_id, each.staff_id, item.code] for each in (first, second))
            for first, second in pairs
        ]
        made.append(_of_item(item, [(first, second) for first, second in values]))
    return made


def _of_item(item: RubricItem, values: Sequence[tuple[Decimal, Decimal]]) -> ItemAgreement:
    read = [(_as_read(item, first), _as_read(item, second)) for first, second in values]
    apart = [abs(float(points_of(item, first) - points_of(item, second))) for first, second in values]
    return ItemAgreement(
        item_code=item.code,
        text_zh=item.text_zh,
        pairs=len(values),
        same_share=_rounded(sum(first == second for first, second in read) / len(read)) if read else None,
        mean_difference_points=_rounded(sum(apart) / len(apart)) if apart else None,
        kappa=_rounded(chance_corrected(read)),
    )


def _as_read(item: RubricItem, value: Decimal) -> float:
    """A score as it is; a yes-no or a number as met or not, for that is all it decides."""
    return float(value) if item.type is ItemType.SCORE else float(is_met(item, value))


def _leanings(session: Session, assessments: Mapping[UUID, Sequence[Assessment]]) -> Sequence[AssessorLeaning]:
    leanings: dict[UUID, list[float]] = {}
    for of_one in assessments.values():
        for each in of_one:
            others = [_points(other) for other in of_one if other is not each]
            leanings.setdefault(each.staff_id, []).append(_points(each) - sum(others) / len(others))
    names = session.execute(
        sa.select(Staff.id, Staff.name).where(Staff.id.in_(leanings)).order_by(Staff.name).limit(ASSESSORS_MAX)
    )
    return [
        AssessorLeaning(
            staff_id, name, len(leanings[staff_id]), round(sum(leanings[staff_id]) / len(leanings[staff_id]), 4)
        )
        for staff_id, name in names
    ]


def _points(assessment: Assessment) -> float:
    return float(assessment.total or 0)


def _rounded(value: float | None) -> float | None:
    """Four places: more would pretend."""
    return None if value is None else float(Decimal(value).quantize(Decimal("0.0001"), ROUND_HALF_UP))

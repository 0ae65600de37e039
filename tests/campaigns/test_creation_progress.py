"""How far the creation programmes are: named, applied or neither, against targets judged only where they can be."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from creation_builders import START, Case, case_of, load_data, put_small_rubric_in_force
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from campaigns.creation.models import ProgrammeTarget, TargetBase
from campaigns.creation.steps import ApplicationState
from campaigns.statistics import creation_progress
from campaigns.statistics.creation_progress import ProgrammeProgress, Standing
from server.access import Role
from server.clock import business_day
from server.database import new_id
from server.embedded import EmbeddedValkey
from server.places.models import AgencyRank, Confidence, Organisation, OrganisationKind

DISTRICT, STREET, OTHER_STREET, COMMUNITY = "120104", "120104001", "120104002", "120104001001"
PROGRESS = "/api/v1/report/creation"
PUBLIC = "/api/v1/report/public/creation"

SignIn = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def rubrics_in_force(session: Session, clock: Any, valkey: EmbeddedValkey) -> Iterator[None]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    load_data(session)
    put_small_rubric_in_force(session)
    session.commit()
    return


@pytest.fixture
def case(session: Session) -> Case:
    return case_of(session)


def programme(session: Session, code: str, *, within: str = DISTRICT, on: date | None = None) -> ProgrammeProgress:
    found = creation_progress.progress_within(session, within, on=on or business_day(START))
    return next(each for each in found if each.code == code)


def organisation(session: Session, kind: OrganisationKind, **values: Any) -> None:
    name = f"单位{new_id().hex[-8:]}"
    made = {"id": new_id(), "kind": kind, "name": name, "community_code": COMMUNITY, "valid_from": date(2026, 1, 1)}
    session.add(Organisation(**{**made, **values}))
    session.flush()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (ApplicationState.DRAFT, (0, 0)),
        (ApplicationState.SELF_ASSESSMENT, (0, 0)),
        (ApplicationState.CANCELLED, (0, 0)),
        (ApplicationState.SUBMITTED, (0, 1)),
        (ApplicationState.RETURNED, (0, 1)),
        (ApplicationState.DISTRICT_REVIEW, (0, 1)),
        (ApplicationState.REJECTED, (0, 0)),
        (ApplicationState.NOTICE, (0, 1)),
        (ApplicationState.OBJECTIONS, (0, 1)),
        (ApplicationState.NAMED, (1, 0)),
        (ApplicationState.RECHECK, (1, 0)),
        (ApplicationState.GRACE, (1, 0)),
        (ApplicationState.WITHDRAWN, (0, 0)),
    ],
)
def test_a_community_is_named_or_applied_or_neither_of_171(
    session: Session, case: Case, state: ApplicationState, expected: tuple[int, int]
) -> None:
    case.to(state)
    (target,) = programme(session, "green-community", on=case.at.date()).targets
    named, applied = expected
    assert target.whole == Standing(DISTRICT, "南开区", 171, named, applied, 171 - named - applied, 0)
    assert (target.year, target.share, target.answer) == (2025, round(named / 171, 6), "not-met")
    assert len(target.streets) == 12
    assert next(each for each in target.streets if each.place_code == STREET).named == named


def test_a_name_that_has_run_out_counts_no_more(session: Session, case: Case) -> None:
    case.to(ApplicationState.NAMED)
    day = case.at.date()
    for on, named in ((day, 1), (day + timedelta(days=36 * 31 + 10), 0), (day - timedelta(days=30), 0)):
        (target,) = programme(session, "green-community", on=on).targets
        assert target.whole is not None
        assert target.whole.named == named


def test_a_part_of_the_district_is_counted_for_itself(session: Session, case: Case) -> None:
    case.to(ApplicationState.NAMED)
    for within, named in ((STREET, 1), (OTHER_STREET, 0), (COMMUNITY, 1)):
        (target,) = programme(session, "green-community", within=within, on=case.at.date()).targets
        assert target.whole is not None
        assert (target.whole.named, {each.place_code for each in target.streets}) == (named, {within[:9]})
    (target,) = programme(session, "green-community", within=COMMUNITY, on=case.at.date()).targets
    assert (target.whole and target.whole.total, target.answer) == (1, "met")


def test_only_large_malls_and_agencies_of_rank_count_and_those_of_unknown_size_stay_visible(session: Session) -> None:
    for area in (100_000, 250_000, 99_999, None):
        organisation(session, OrganisationKind.MALL, floor_area_m2=area)
    for rank in (AgencyRank.SECTION, AgencyRank.COUNTY, AgencyRank.BUREAU, None, None):
        organisation(session, OrganisationKind.AGENCY, agency_rank=rank)
    organisation(session, OrganisationKind.MALL, floor_area_m2=500_000, valid_to=date(2026, 5, 1))
    mall, agency = programme(session, "green-mall"), programme(session, "frugal-agency")
    (of_malls,), (of_agencies,) = mall.targets, agency.targets
    assert of_malls.whole == Standing(DISTRICT, "南开区", 2, 0, 0, 2, 1)
    assert of_agencies.whole == Standing(DISTRICT, "南开区", 2, 0, 0, 2, 2)
    assert (mall.subjects and mall.subjects.total, agency.subjects and agency.subjects.total) == (4, 5)
    assert programme(session, "green-school").subjects == Standing(DISTRICT, "南开区", 0, 0, 0, 0, 0)


def _target(percent: int, *, is_about: bool = False) -> ProgrammeTarget:
    return ProgrammeTarget(
        programme_code="green-mall",
        year=2025,
        text_zh="x",
        share_min_percent=Decimal(percent),
        is_about=is_about,
        base=TargetBase.MALLS,
        source="x",
        confidence=Confidence.VERIFIED,
    )


@pytest.mark.parametrize(
    ("total", "named", "unclassified", "percent", "answer"),
    [
        (4, 2, 0, 50, "met"),
        (4, 1, 0, 50, "not-met"),
        (4, 4, 0, 100, "met"),
        (171, 170, 0, 100, "not-met"),
        # Two of four, and one whose size nobody knows: with it, it may be two of five.
        (4, 2, 1, 50, "cannot-be-told"),
        (4, 1, 2, 50, "cannot-be-told"),
        (4, 1, 1, 50, "not-met"),
        (4, 4, 1, 50, "met"),
        (0, 0, 0, 50, "cannot-be-told"),
    ],
)
def test_a_target_is_judged_only_when_no_unknown_could_turn_the_answer(
    total: int, named: int, unclassified: int, percent: int, answer: str
) -> None:
    whole = Standing(DISTRICT, "南开区", total, named, 0, total - named, unclassified)
    assert creation_progress._answer(_target(percent), whole) == answer
    assert creation_progress._answer(_target(percent, is_about=True), whole) == "cannot-be-told"


def test_indicators_are_shown_with_their_goal_and_never_judged_here(session: Session) -> None:
    travel = programme(session, "green-travel")
    assert [(each.year, each.share_min, each.is_about, each.answer) for each in travel.targets] == [
        (2025, 0.75, False, "cannot-be-told"),
        (2030, 0.8, True, "cannot-be-told"),
    ]
    assert travel.indicator is not None
    assert (travel.indicator.unit, travel.indicator.value) == ("%", None)
    assert (travel.subjects, travel.households_named) == (None, None)


def test_households_are_counted_and_a_few_of_them_are_not_published(session: Session) -> None:
    family = programme(session, "green-family")
    assert (family.households_named, family.households_applied, family.subjects) == (0, 0, None)
    for count, shown in ((None, None), (0, 0), (9, None), (10, 10)):
        assert creation_progress._unless_small(count) == shown


def test_staff_read_their_scope_by_street_and_everybody_the_district_as_a_whole(
    session: Session, client: FlaskClient, sign_in_staff: SignIn, case: Case
) -> None:
    case.to(ApplicationState.SUBMITTED)
    session.commit()

    def communities(answer: Any) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        found = next(each for each in answer.json["programmes"] if each["code"] == "green-community")
        return dict(found["targets"][0])

    district = communities(client.get(PROGRESS, headers=sign_in_staff(Role.DISTRICT, division=DISTRICT)))
    other = communities(client.get(PROGRESS, headers=sign_in_staff(Role.STREET, division=OTHER_STREET)))
    public = communities(client.get(PUBLIC))
    assert (district["whole"]["applied"], len(district["streets"]), district["confidence"]) == (1, 12, "V")
    assert (other["whole"]["applied"], len(other["streets"])) == (0, 1)
    # Which street the one applicant is in would name it before the public notice does.
    assert (public["whole"], public["streets"]) == (district["whole"], [])

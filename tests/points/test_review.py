"""The queue of review, decisions by one and by two people, appeals, leads, holds, and what the database refuses."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask.testing import FlaskClient
from points_builders import NOON, claim, drop, owner, transferred, wrong
from review_builders import (
    CASES,
    COMMUNITY,
    DISTRICT,
    ELSEWHERE,
    MANY,
    STREET,
    Reviewer,
    activity,
    actor_of,
    cases_of,
    code,
    decide,
    declared,
    held_claims,
    paid,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from points.earning import counts, holds
from points.earning.award import award
from points.earning.claims import Reason
from points.earning.models import HoldOrder, SubjectKind
from points.review import appeals, cases, editions, exported, held, leads
from points.review.editions import ReviewDataError
from points.review.leads import Finding
from points.review.models import Appeal, Case, CaseDecision, CaseKind, CaseState, DeviceUse
from server.access import Role
from server.database import new_id
from server.notices.models import Notice
from server.people import code_limits
from server.people.models import CodeLimits, Household, HouseholdMember, HouseholdStay
from server.places.models import Division
from server.settings import PLACES_DATA

Headers = dict[str, str]

pytestmark = pytest.mark.usefixtures("clock", "edition")


@pytest.fixture
def edition(session: Session) -> None:
    editions.load(session, editions.read_folder(PLACES_DATA / "nankai"))
    code_limits.load(session, code_limits.read_limits(PLACES_DATA / "nankai"))
    session.commit()


@pytest.fixture
def make_reviewer(
    session: Session, make_staff: Callable[..., UUID], headers_of: Callable[..., Headers]
) -> Callable[..., Reviewer]:
    def make(division: str = COMMUNITY, role: Role = Role.COMMUNITY_STAFF, *, link: bool = True) -> Reviewer:
        staff_id = make_staff(role, division=division)
        if link:
            declared(session, staff_id)
        return Reviewer(staff_id, headers_of(staff_id, is_resident=False), actor_of(staff_id, division, role))

    return make


@pytest.fixture
def reviewer(make_reviewer: Callable[..., Reviewer]) -> Reviewer:
    return make_reviewer()


@pytest.fixture
def alice(make_resident: Callable[..., UUID]) -> UUID:
    return make_resident()


@pytest.fixture
def as_alice(alice: UUID, headers_of: Callable[..., Headers]) -> Headers:
    return headers_of(alice, is_resident=True)


def ids(answer: Any) -> list[UUID]:
    assert answer.status_code == 200, answer.text
    return [UUID(each["id"]) for each in answer.json["items"]]


def told(session: Session, person_id: UUID) -> list[str]:
    return list(session.scalars(sa.select(Notice.kind).where(Notice.person_id == person_id).order_by(Notice.id)))


# Claims that wait


def test_a_held_claim_is_paid_when_a_person_releases_it_and_the_resident_is_told(
    client: FlaskClient, session: Session, alice: UUID, as_alice: Headers, reviewer: Reviewer
) -> None:
    (claim_id,) = held_claims(session, alice)
    assert held.open_waiting(session, now=NOON) == 0  # one case for each claim, however often it is looked
    assert (ids(client.get(CASES, headers=reviewer.headers)), transferred(session, alice)) == ([claim_id], 0)
    shown = client.get(f"{CASES}/{claim_id}", headers=reviewer.headers).json
    assert shown is not None
    assert (shown["reason"], shown["points"], shown["two_people"]) == ("burst", 40, False)
    assert [each["weight_g"] for each in shown["activities"]] == [1000]
    answer = decide(client, reviewer, claim_id)
    assert (answer.status_code, answer.json["state"]) == (200, "decided"), answer.text  # type: ignore[index]
    assert (activity(session, alice, claim_id), transferred(session, alice)) == (("awarded", None), 40)
    assert told(session, alice) == ["claim-held", "review-decided"]
    assert code(decide(client, reviewer, claim_id)) == (409, "case-ended")
    own = client.get("/api/v1/me/reviews", headers=as_alice).json["items"][0]  # type: ignore[index]
    assert (own["verdict"], own["answer"], own["activity_ids"]) == ("granted", "核对无误", [str(claim_id)])
    assert wrong(session) == {}


def test_staff_of_another_street_find_no_case_and_residents_no_queue(
    client: FlaskClient, session: Session, alice: UUID, as_alice: Headers, make_reviewer: Callable[..., Reviewer]
) -> None:
    (claim_id,) = held_claims(session, alice)
    stranger = make_reviewer(ELSEWHERE, Role.STREET)
    assert ids(client.get(CASES, headers=stranger.headers)) == []
    assert client.get(CASES, query_string={"within": COMMUNITY}, headers=stranger.headers).status_code == 404
    for call in (
        client.get(f"{CASES}/{claim_id}", headers=stranger.headers),
        client.post(f"{CASES}/{claim_id}/assignment", headers=stranger.headers),
        decide(client, stranger, claim_id),
    ):
        assert code(call) == (404, "not-found")
    assert client.get(CASES, headers=as_alice).status_code == 403
    for division, role in ((STREET, Role.STREET), (DISTRICT, Role.DISTRICT)):
        assert ids(client.get(CASES, headers=make_reviewer(division, role).headers)) == [claim_id]


def test_the_queue_is_filtered_and_paged_oldest_first(
    client: FlaskClient, session: Session, alice: UUID, make_resident: Callable[..., UUID], reviewer: Reviewer
) -> None:
    bob = make_resident()
    old = held_claims(session, alice, 3)
    new = held_claims(session, bob, reason=Reason.SHARED_DEVICE, weight_g=2000)

    def found(**query: Any) -> list[UUID]:
        return ids(client.get(CASES, query_string=query, headers=reviewer.headers))

    assert found() == [*old, *new]
    assert found(reason="shared-device") == found(points_min=41) == found(resident_id=str(bob)) == new
    assert found(points_max=40, kind="held-claim", assigned="nobody", within=COMMUNITY) == old
    assert found(older_than_days=1) == found(kind="appeal") == found(state="decided") == found(assigned="me") == []
    page = client.get(CASES, query_string={"limit": 2}, headers=reviewer.headers).json
    assert page is not None
    rest = client.get(CASES, query_string={"limit": 2, "cursor": page["next_cursor"]}, headers=reviewer.headers)
    assert ids(rest) == [old[2], new[0]]
    client.post(f"{CASES}/{new[0]}/assignment", headers=reviewer.headers)
    assert (found(assigned="me"), found(assigned="nobody")) == (new, old)


def test_a_case_in_a_colleagues_hands_is_left_to_them_for_a_day(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    reviewer: Reviewer,
    make_reviewer: Callable[..., Reviewer],
    clock: time_machine.Traveller,
) -> None:
    first, second = held_claims(session, alice, 2)
    colleague = make_reviewer()
    for case_id in (first, second):
        assert client.post(f"{CASES}/{case_id}/assignment", headers=colleague.headers).status_code == 200
    assert code(client.post(f"{CASES}/{first}/assignment", headers=reviewer.headers))[1] == "case-assigned-to-another"
    assert code(decide(client, reviewer, first)) == (409, "case-assigned-to-another")
    assert client.delete(f"{CASES}/{first}/assignment", headers=colleague.headers).status_code == 200
    assert decide(client, reviewer, first).status_code == 200
    clock.shift(timedelta(hours=25))
    fresh = Reviewer(reviewer.id, reviewer.headers, reviewer.actor)
    with session.begin_nested():
        taken = cases.take(session, fresh.actor, second, now=NOON + timedelta(hours=25))
    assert taken.case.assigned_to == reviewer.id


def test_what_was_settled_by_another_hand_leaves_the_queue(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer
) -> None:
    waiting, settled = held_claims(session, alice, 2)
    held.releasing.refuse(session, alice, settled, reason=Reason.REVIEW_REFUSED)
    session.commit()
    both = [{"case_id": str(each), "verdict": "granted", "reason": "批量核对"} for each in (settled, waiting)]
    answer = client.post(MANY, json={"decisions": both}, headers=reviewer.headers).json
    assert answer is not None
    assert [(each["state"], each["code"]) for each in answer["outcomes"]] == [(None, "not-held"), ("decided", None)]
    # What could not be done is not written down as decided, nor was anybody told.
    assert told(session, alice) == ["claim-held", "review-decided"]
    assert held.supersede_settled(session, now=NOON) == 1
    states = {case.id: case.state for case in cases_of(session, CaseKind.HELD_CLAIM, alice)}
    assert states == {waiting: CaseState.DECIDED, settled: CaseState.SUPERSEDED}


# Two people, and nobody about their own


def test_above_the_limit_two_different_people_must_agree(
    client: FlaskClient, session: Session, alice: UUID, as_alice: Headers, make_reviewer: Callable[..., Reviewer]
) -> None:
    (claim_id,) = held_claims(session, alice, weight_g=4000)  # 160 points
    one, other = make_reviewer(), make_reviewer()
    assert decide(client, one, claim_id).json["state"] == "proposed"  # type: ignore[index]
    assert code(decide(client, one, claim_id)) == (409, "second-person-needed")
    assert activity(session, alice, claim_id)[0] == "held"
    own = client.get("/api/v1/me/reviews", headers=as_alice).json["items"][0]  # type: ignore[index]
    assert (own["state"], own["verdict"]) == ("open", None)  # a first word is no decision
    assert decide(client, other, claim_id, "denied").json["state"] == "proposed"  # type: ignore[index]
    assert decide(client, one, claim_id, "denied", "重量不实").json["state"] == "decided"  # type: ignore[index]
    assert activity(session, alice, claim_id) == ("refused", "review-refused")
    shown = client.get(f"{CASES}/{claim_id}", headers=one.headers).json
    assert shown is not None
    assert [(each["verdict"], each["final"]) for each in shown["decisions"]] == [
        ("granted", False),
        ("denied", False),
        ("denied", True),
    ]


def test_a_stake_that_is_raised_past_the_limit_takes_two_people(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer
) -> None:
    (case_id,) = held_claims(session, alice)
    for points, stake in ((39, (40, False)), (100, (100, False)), (101, (101, True)), (7, (101, True))):
        cases.raise_stake(session, alice, case_id, points, now=NOON)
        (case,) = cases_of(session, CaseKind.HELD_CLAIM, alice)
        assert (case.points, case.two_people) == stake
    session.commit()
    assert decide(client, reviewer, case_id).json["state"] == "proposed"  # type: ignore[index]


def test_two_accounts_of_one_person_are_one_person(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    as_alice: Headers,
    make_resident: Callable[..., UUID],
    make_reviewer: Callable[..., Reviewer],
) -> None:
    one, same, other, person = make_reviewer(link=False), make_reviewer(link=False), make_reviewer(), make_resident()
    for account in (one, same):
        declared(session, account.id, person)
    (large,) = held_claims(session, alice, weight_g=4000)
    (confirmed,) = held_claims(session, alice, staff_id=one.id)
    (small,) = held_claims(session, alice)
    assert decide(client, one, large).json["state"] == "proposed"  # type: ignore[index]
    assert code(decide(client, same, large)) == (409, "second-person-needed")
    assert code(decide(client, same, confirmed)) == (403, "own-work")
    assert decide(client, one, small, "denied").status_code == 200
    assert appeal(client, as_alice, small).status_code == 201
    (case,) = cases_of(session, CaseKind.APPEAL, alice)
    assert code(decide(client, same, case.id)) == (403, "decided-before")
    order = holds.place(
        session,
        subject_kind=SubjectKind.STAFF,
        subject=str(one.id),
        reason=Reason.BURST,
        until=NOON + timedelta(days=1),
        case_id=None,
        now=NOON,
    )
    session.commit()
    lifted = f"/api/v1/review/holds/{order}/lift"
    assert client.post(lifted, json={"reason": "已核实"}, headers=same.headers).status_code == 404
    # Nor do they keep from others, by taking it in hand again and again, what is not theirs to decide.
    for case_id in (large, confirmed, case.id):
        assert client.post(f"{CASES}/{case_id}/assignment", headers=same.headers).status_code in {403, 409}
        assert client.post(f"{CASES}/{case_id}/assignment", headers=other.headers).status_code == 200


def test_nobody_decides_about_themself_their_household_or_what_they_confirmed(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    make_resident: Callable[..., UUID],
    make_reviewer: Callable[..., Reviewer],
) -> None:
    reviewer, unlinked, mother = make_reviewer(), make_reviewer(link=False), make_reviewer(link=False)
    son = make_resident()
    household = new_id()
    with owner(session, unguarded=True):
        session.add_all(
            HouseholdMember(resident_id=each, household_id=household, member_id=new_id(), joined_at=NOON)
            for each in (alice, son)
        )
        session.flush()
    declared(session, mother.id, alice)
    (his,) = held_claims(session, son)
    (confirmed,) = held_claims(session, son, staff_id=reviewer.id)
    assert code(decide(client, unlinked, his)) == (409, "staff-unlinked")
    assert code(decide(client, mother, his)) == (403, "serves-own-household")
    assert code(decide(client, reviewer, confirmed)) == (403, "own-work")
    outcomes = client.post(
        MANY,
        json={
            "decisions": [
                {"case_id": str(case_id), "verdict": "granted", "reason": "批量核对"}
                for case_id in (confirmed, his, new_id())
            ]
        },
        headers=reviewer.headers,
    ).json
    assert outcomes is not None
    # Each by itself: what one was refused for did not keep the others.
    assert [(each["state"], each["code"]) for each in outcomes["outcomes"]] == [
        (None, "own-work"),
        ("decided", None),
        (None, "not-found"),
    ]
    assert (activity(session, son, his)[0], activity(session, son, confirmed)[0]) == ("awarded", "held")
    twice = {"decisions": [{"case_id": str(his), "verdict": "denied", "reason": "两次"}] * 2}
    assert client.post(MANY, json=twice, headers=reviewer.headers).status_code == 422


@pytest.mark.parametrize("how", ["themself", "together", "left-lately", "reviewer-left-lately"])
def test_cases_about_ones_own_household_are_not_read_either(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    make_resident: Callable[..., UUID],
    make_reviewer: Callable[..., Reviewer],
    how: str,
) -> None:
    mother, unlinked, colleague = make_reviewer(link=False), make_reviewer(link=False), make_reviewer()
    son, neighbour, long_gone = (alice if how == "themself" else make_resident()), make_resident(), make_resident()
    household, theirs = new_id(), new_id()
    left_at = {alice: how == "reviewer-left-lately", son: how == "left-lately"}
    stays = {each: NOON - timedelta(days=1) for each, lately in left_at.items() if lately} | {
        long_gone: NOON - timedelta(days=300)
    }
    with owner(session, unguarded=True):
        session.add(Household(id=household, created_at=NOON - timedelta(days=400), member_count=1))
        session.add_all(
            HouseholdMember(resident_id=each, household_id=home, member_id=new_id(), joined_at=NOON)
            for each, home in {alice: household, son: household, neighbour: theirs}.items()
            if each not in stays
        )
        session.flush()
        session.add_all(
            HouseholdStay(resident_id=each, household_id=household, joined_at=left - timedelta(days=9), left_at=left)
            for each, left in stays.items()
        )
        session.flush()
    declared(session, mother.id, alice)
    (his,), (next_door,), (old,) = (held_claims(session, each) for each in (son, neighbour, long_gone))

    def listed(by: Reviewer, **query: Any) -> list[UUID]:
        return ids(client.get(CASES, query_string=query, headers=by.headers))

    def read(by: Reviewer, case_id: UUID) -> int:
        return client.get(f"{CASES}/{case_id}", headers=by.headers).status_code

    def filed(by: Reviewer) -> list[Any]:
        (producer,) = exported.PRODUCERS
        arguments = {"within": None, "from": "2026-11-18", "to": "2026-11-18"}
        return [row[0] for row in producer.rows(session, by.actor, arguments)]

    assert listed(mother) == filed(mother) == [next_door, old]
    assert listed(mother, resident_id=str(son)) == []
    # A page is whole without what is left out.
    assert listed(mother, limit=1) == [next_door]
    assert [read(mother, each) for each in (his, next_door, old)] == [404, 200, 200]
    # Giving a case back shows it as well.
    gave_back = [client.delete(f"{CASES}/{each}/assignment", headers=mother.headers) for each in (his, next_door)]
    assert [each.status_code for each in gave_back] == [404, 200]
    assert code(decide(client, mother, his)) == (403, "serves-own-household")
    for other in (colleague, unlinked):
        assert listed(other) == filed(other) == [his, next_door, old]
        assert read(other, his) == 200
    # Plain counts tell nothing of anybody.
    times = client.get("/api/v1/review/service-times", headers=mother.headers).json
    assert times is not None
    assert times["kinds"][0]["standing"] == 3


def test_a_district_without_limits_of_households_reviews_all_the_same(
    client: FlaskClient, session: Session, alice: UUID, make_reviewer: Callable[..., Reviewer]
) -> None:
    reviewer = make_reviewer(link=False)
    declared(session, reviewer.id, alice)
    with owner(session, unguarded=True):
        session.execute(sa.delete(CodeLimits))
    assert client.get(CASES, headers=reviewer.headers).status_code == 200


# Appeals


def appeal(client: FlaskClient, headers: Headers, activity_id: UUID, text: str = "当天确实是我本人投递") -> Any:
    return client.post(f"/api/v1/me/activities/{activity_id}/appeal", json={"text": text}, headers=headers)


def test_an_appeal_is_made_once_and_answered_by_somebody_else(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    as_alice: Headers,
    reviewer: Reviewer,
    make_reviewer: Callable[..., Reviewer],
) -> None:
    (claim_id,) = held_claims(session, alice)
    assert code(appeal(client, as_alice, claim_id)) == (409, "not-appealable")  # a person is about to decide
    decide(client, reviewer, claim_id, "denied", "照片不清")
    made = appeal(client, as_alice, claim_id)
    assert (made.status_code, made.json["case"]["state"]) == (201, "open"), made.text
    assert code(appeal(client, as_alice, claim_id)) == (409, "appealed-already")
    (case,) = cases_of(session, CaseKind.APPEAL, alice)
    assert (case.points, case.reason) == (40, "review-refused")
    assert code(decide(client, reviewer, case.id)) == (403, "decided-before")
    assert decide(client, make_reviewer(), case.id, "granted", "补充照片清楚").status_code == 200
    assert (activity(session, alice, claim_id), transferred(session, alice)) == (("awarded", None), 40)
    answered = client.get(f"/api/v1/me/activities/{claim_id}/appeal", headers=as_alice).json
    assert answered is not None
    assert (answered["case"]["verdict"], answered["case"]["answer"]) == ("granted", "补充照片清楚")
    assert "decided_by" not in answered["case"]
    assert wrong(session) == {}


def test_what_was_taken_back_is_paid_again_and_whoever_took_it_does_not_answer(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    as_alice: Headers,
    make_reviewer: Callable[..., Reviewer],
) -> None:
    (paid_id,) = paid(session, claim(alice, "recycling", mode="aluminium_can", weight_g=4000))
    assert code(appeal(client, as_alice, paid_id)) == (409, "not-appealable")
    district = make_reviewer(DISTRICT, Role.DISTRICT)
    taken = client.post(
        f"/api/v1/residents/{alice}/activities/{paid_id}/revocation",
        json={"reason": "抽查不符"},
        headers={**district.headers, "Idempotency-Key": "revocation-1"},
    )
    assert (taken.status_code, transferred(session, alice)) == (200, 0), taken.text
    assert appeal(client, as_alice, paid_id).status_code == 201
    (case,) = cases_of(session, CaseKind.APPEAL, alice)
    assert (case.points, case.two_people) == (160, True)  # what it would pay is more than one person may give
    assert code(decide(client, district, case.id)) == (403, "decided-before")
    for answering in (make_reviewer(), make_reviewer()):
        assert decide(client, answering, case.id).status_code == 200
    assert transferred(session, alice) == 160
    assert wrong(session) == {}


def test_a_rejected_appeal_changes_nothing_and_the_time_for_appeals_ends(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    as_alice: Headers,
    reviewer: Reviewer,
    make_resident: Callable[..., UUID],
) -> None:
    first, second = (
        each.activity_id
        for each in award(session, [drop(alice, refusal=Reason.UNSORTED), drop(alice, "gold")], now=NOON)
    )
    session.commit()
    assert first is not None
    assert second is not None
    assert appeal(client, as_alice, first).status_code == 201
    (case,) = cases_of(session, CaseKind.APPEAL, alice)
    assert decide(client, reviewer, case.id, "denied", "照片显示混投").status_code == 200
    assert activity(session, alice, first) == ("refused", "unsorted")
    with pytest.raises(appeals.AppealTooLate):
        appeals.make(session, alice, second, text="晚了", now=NOON + timedelta(days=100))
    with pytest.raises(appeals.NotFound):
        appeals.make(session, make_resident(), second, text="别人的", now=NOON)
    session.rollback()
    assert appeals.forget_old_texts(session, now=NOON + timedelta(days=731)) == 1
    assert session.scalars(sa.select(Appeal.text)).all() == [""]


# Leads


def lead_about(session: Session, resident_id: UUID, activity_ids: list[UUID], *, now: Any = NOON) -> int:
    finding = Finding(
        resident_id,
        Reason.BURST,
        tuple(activity_ids),
        ((SubjectKind.RESIDENT, str(resident_id)),),
        {"resident_acts": len(activity_ids)},
    )
    return leads.bring(session, [finding, finding], terms=editions.terms_at(session, now), now=now)


def test_a_lead_holds_what_comes_next_and_what_was_judged_is_not_brought_again(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer
) -> None:
    activities = paid(session, drop(alice), drop(alice, "residual"))
    assert (lead_about(session, alice, activities), lead_about(session, alice, activities)) == (1, 0)
    session.commit()
    assert told(session, alice) == ["records-in-review"]
    waits = award(session, [drop(alice, "recyclable")], now=NOON)[0]
    assert (waits.code, waits.reason) == ("held", Reason.BURST)
    (case,) = cases_of(session, CaseKind.LEAD, alice)
    assert (case.points, case.detail["figures"]) == (7, {"resident_acts": 2})
    session.commit()
    assert decide(client, reviewer, case.id, "granted", "邻里代投").status_code == 200
    assert [activity(session, alice, each)[0] for each in activities] == ["awarded", "awarded"]
    assert session.scalars(sa.select(HoldOrder.id).where(HoldOrder.lifted_at.is_(None))).all() == []
    assert award(session, [drop(alice, "hazardous")], now=NOON)[0].code == "awarded"
    assert lead_about(session, alice, activities) == 0


def test_a_lead_that_grows_past_the_limit_takes_two_people_and_a_denied_one_takes_the_points_back(
    client: FlaskClient, session: Session, alice: UUID, make_reviewer: Callable[..., Reviewer]
) -> None:
    one, two = paid(
        session,
        claim(alice, "recycling", mode="aluminium_can", weight_g=2000),
        claim(alice, "recycling", mode="aluminium_can", weight_g=1500, start=NOON - timedelta(hours=2)),
    )
    assert lead_about(session, alice, [one]) == 1
    (case,) = cases_of(session, CaseKind.LEAD, alice)
    assert (case.points, case.two_people) == (80, False)
    assert lead_about(session, alice, [one, two]) == 1
    (case,) = cases_of(session, CaseKind.LEAD, alice)
    assert (case.points, case.two_people) == (140, True)
    counts.revoke(session, alice, two, why="另行处理", now=NOON)  # by another hand, meanwhile
    session.commit()
    for by in (make_reviewer(), make_reviewer()):
        answer = decide(client, by, case.id, "denied", "与监控不符")
        assert answer.status_code == 200, answer.text
    assert activity(session, alice, one) == ("reversed", "review-refused")
    assert (activity(session, alice, two), transferred(session, alice)) == (("reversed", "revoked"), 0)
    # Never a ban: the hold stands, and ends by itself.
    standing = session.scalars(sa.select(HoldOrder).where(HoldOrder.lifted_at.is_(None))).one()
    assert standing.until == NOON + timedelta(days=7)
    assert award(session, [drop(alice)], now=NOON)[0].code == "held"
    holds.forget()
    assert award(session, [drop(alice, start=NOON + timedelta(days=8))], now=NOON + timedelta(days=9))[0].code == (
        "awarded"
    )
    assert wrong(session) == {}


def test_a_device_stays_held_while_another_lead_about_it_stands(
    client: FlaskClient, session: Session, alice: UUID, make_resident: Callable[..., UUID], reviewer: Reviewer
) -> None:
    people = [alice, make_resident()]
    hold = ((SubjectKind.DEVICE, "phone:abc"),)
    findings = [Finding(each, Reason.SHARED_DEVICE, tuple(paid(session, drop(each))), hold) for each in people]
    assert leads.bring(session, findings, terms=editions.terms_at(session, NOON), now=NOON) == 2
    session.commit()
    standing = sa.select(sa.func.count()).select_from(HoldOrder).where(HoldOrder.lifted_at.is_(None))
    for person, left in zip(people, (1, 0), strict=True):
        (case,) = cases_of(session, CaseKind.LEAD, person)
        assert decide(client, reviewer, case.id).status_code == 200
        assert session.scalar(standing) == left


def test_whom_people_have_cleared_is_looked_at_again_and_not_held_again(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer
) -> None:
    first, second = paid(session, drop(alice), drop(alice, "residual"))
    lead_about(session, alice, [first])
    grown = Finding(alice, Reason.BURST, (second,), ((SubjectKind.DEVICE, "phone:abc"),))
    assert leads.bring(session, [grown], terms=editions.terms_at(session, NOON), now=NOON) == 1
    session.commit()
    standing = sa.select(sa.func.count()).select_from(HoldOrder).where(HoldOrder.lifted_at.is_(None))
    assert session.scalar(standing) == 2
    (case,) = cases_of(session, CaseKind.LEAD, alice)
    assert decide(client, reviewer, case.id).status_code == 200
    assert session.scalar(standing) == 0  # also what it came to hold as it grew
    for days, held_again in ((1, 0), (8, 1)):
        later = NOON + timedelta(days=days)
        again = [each.activity_id for each in award(session, [drop(alice, start=later)], now=later)]
        assert lead_about(session, alice, [each for each in again if each], now=later) == 1
        assert session.scalar(standing) == held_again
        session.commit()
        if days == 1:
            (_, case) = cases_of(session, CaseKind.LEAD, alice)
            assert (case.state, case.opened_at) == (CaseState.OPEN, later)


def test_what_an_appeal_won_is_no_lead_for_there_is_no_second_appeal(
    client: FlaskClient, session: Session, alice: UUID, as_alice: Headers, make_reviewer: Callable[..., Reviewer]
) -> None:
    (claim_id,) = held_claims(session, alice)
    assert decide(client, make_reviewer(), claim_id, "denied").status_code == 200
    assert appeal(client, as_alice, claim_id).status_code == 201
    (case,) = cases_of(session, CaseKind.APPEAL, alice)
    assert decide(client, make_reviewer(), case.id).status_code == 200
    assert activity(session, alice, claim_id)[0] == "awarded"
    assert lead_about(session, alice, [claim_id]) == 0


def test_nobody_lifts_the_hold_of_a_phone_that_their_household_uses(
    client: FlaskClient, session: Session, alice: UUID, make_reviewer: Callable[..., Reviewer]
) -> None:
    mother, district = make_reviewer(DISTRICT, Role.DISTRICT, link=False), make_reviewer(DISTRICT, Role.DISTRICT)
    declared(session, mother.id, alice)
    session.add(DeviceUse(resident_id=alice, device="phone:abc", first_at=NOON, last_at=NOON))
    order = holds.place(
        session,
        subject_kind=SubjectKind.DEVICE,
        subject="phone:abc",
        reason=Reason.SHARED_DEVICE,
        until=NOON + timedelta(days=1),
        case_id=None,
        now=NOON,
    )
    session.commit()
    path, entry = f"/api/v1/review/holds/{order}/lift", {"reason": "已核实"}
    assert code(client.post(path, json=entry, headers=mother.headers)) == (403, "serves-own-household")
    assert client.post(path, json=entry, headers=district.headers).status_code == 200


def test_holds_are_seen_and_lifted_by_those_in_scope(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer, make_reviewer: Callable[..., Reviewer]
) -> None:
    until = NOON + timedelta(days=3)

    def place(kind: SubjectKind, subject: str) -> UUID:
        return holds.place(
            session, subject_kind=kind, subject=subject, reason=Reason.BURST, until=until, case_id=None, now=NOON
        )

    hers, device = place(SubjectKind.RESIDENT, str(alice)), place(SubjectKind.DEVICE, "bins:7")
    own = place(SubjectKind.STAFF, str(reviewer.id))
    session.commit()
    stranger, district = make_reviewer(ELSEWHERE, Role.STREET), make_reviewer(DISTRICT, Role.DISTRICT)
    with owner(session):
        elsewhere = {"code": "120103", "level": "district", "name": "别区", "edition_on": NOON, "valid_from": NOON}
        session.execute(sa.insert(Division).values(elsewhere))
        session.commit()
    foreign = make_reviewer("120103", Role.DISTRICT)

    def lift(by: Reviewer, hold_id: UUID) -> int:
        path = f"/api/v1/review/holds/{hold_id}/lift"
        return client.post(path, json={"reason": "已核实"}, headers=by.headers).status_code

    assert ids(client.get("/api/v1/review/holds", headers=reviewer.headers)) == [hers], "what holds their own work"
    for by in (stranger, foreign):
        assert ids(client.get("/api/v1/review/holds", headers=by.headers)) == []
    assert set(ids(client.get("/api/v1/review/holds", headers=district.headers))) == {hers, device, own}
    outside = [(stranger, hers), (foreign, hers), (foreign, device), (reviewer, device), (reviewer, own)]
    assert [lift(by, hold_id) for by, hold_id in outside] == [404] * 5
    assert [lift(reviewer, hers), lift(district, own)] == [200, 200]
    assert ids(client.get("/api/v1/review/holds", headers=district.headers)) == [device]


def test_holds_of_ones_own_household_and_work_are_not_seen_either(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    make_resident: Callable[..., UUID],
    make_reviewer: Callable[..., Reviewer],
) -> None:
    """What is left out of the list is what cannot be lifted: the district sees and lifts all else."""
    mother, same, colleague, unlinked = (make_reviewer(DISTRICT, Role.DISTRICT, link=False) for _ in range(4))
    son, neighbour, home, theirs = make_resident(), make_resident(), new_id(), new_id()
    with owner(session, unguarded=True):
        session.add_all(
            HouseholdMember(resident_id=each, household_id=household, member_id=new_id(), joined_at=NOON)
            for each, household in {alice: home, son: home, neighbour: theirs}.items()
        )
        session.flush()
    for account in (mother, same):
        declared(session, account.id, alice)
    declared(session, colleague.id, neighbour)
    phones = {"phone:ours": [*(make_resident() for _ in range(60)), son], "phone:theirs": [neighbour]}
    session.add_all(
        DeviceUse(resident_id=each, device=device, first_at=NOON, last_at=NOON)
        for device, users in phones.items()
        for each in users
    )

    def placed(*subjects: tuple[SubjectKind, object]) -> set[UUID]:
        until = NOON + timedelta(days=3)
        return {
            holds.place(
                session, subject_kind=kind, subject=str(each), reason=Reason.BURST, until=until, case_id=None, now=NOON
            )
            for kind, each in subjects
        }

    kind = SubjectKind
    ours = placed((kind.RESIDENT, alice), (kind.RESIDENT, son), (kind.HOUSEHOLD, home), (kind.DEVICE, "phone:ours"))
    work = placed((kind.STAFF, mother.id), (kind.STAFF, same.id))
    next_door = placed((kind.RESIDENT, neighbour), (kind.HOUSEHOLD, theirs), (kind.DEVICE, "phone:theirs"))
    others = placed((kind.DEVICE, "bins:7"), (kind.SITE, "nk-site-01"), (kind.PARTNER, "bins"))
    unlinked_work = placed((kind.STAFF, unlinked.id))
    session.commit()

    def listed(by: Reviewer) -> set[UUID]:
        return set(ids(client.get("/api/v1/review/holds", headers=by.headers)))

    def refused(by: Reviewer, orders: set[UUID]) -> set[tuple[int, str | None]]:
        paths = [f"/api/v1/review/holds/{each}/lift" for each in orders]
        return {code(client.post(path, json={"reason": "已核实"}, headers=by.headers)) for path in paths}

    assert listed(mother) == listed(same) == next_door | others | unlinked_work
    assert listed(colleague) == ours | work | others | unlinked_work
    assert listed(unlinked) == ours | work | next_door | others
    assert refused(mother, ours) == refused(colleague, next_door) == {(403, "serves-own-household")}
    assert refused(mother, work) == {(404, "not-found")}
    assert refused(unlinked, ours | next_door) == {(409, "staff-unlinked")}
    assert refused(mother, next_door | others) == refused(colleague, ours | work) == {(200, None)}


# Figures and files


def test_service_times_tell_how_long_people_wait(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer, make_reviewer: Callable[..., Reviewer]
) -> None:
    claims = held_claims(session, alice, 5)
    for hours, case_id in zip((1, 2, 3, 200), claims, strict=False):
        session.execute(
            sa.update(Case)
            .where(Case.id == case_id)
            .values(
                state="decided",
                verdict="granted",
                answer="好",
                decided_by=reviewer.id,
                ended_at=NOON + timedelta(hours=hours),
            )
        )
    session.commit()
    path, query = "/api/v1/review/service-times", {"from": "2026-11-18", "to": "2026-11-30"}
    answer = client.get(path, query_string=query, headers=reviewer.headers)
    assert answer.status_code == 200, answer.text
    shown = answer.json["kinds"][0]  # type: ignore[index]
    assert (shown["kind"], shown["decided"], shown["median_hours"], shown["p90_hours"]) == ("held-claim", 4, 2.5, 140.9)
    assert (shown["late"], shown["standing"], shown["overdue"], shown["oldest_hours"]) == (1, 1, 0, 0.0)
    elsewhere = make_reviewer(ELSEWHERE, Role.STREET)
    assert client.get(path, headers=elsewhere.headers).json["kinds"][0]["decided"] == 0  # type: ignore[index]
    assert client.get(path, query_string={"within": COMMUNITY}, headers=elsewhere.headers).status_code == 404
    too_long = {"from": "2024-01-01", "to": "2026-11-18"}
    assert client.get(path, query_string=too_long, headers=reviewer.headers).status_code == 422


def test_the_cases_of_ones_scope_are_exported_and_no_others(
    client: FlaskClient, session: Session, alice: UUID, reviewer: Reviewer, make_reviewer: Callable[..., Reviewer]
) -> None:
    (claim_id,) = held_claims(session, alice)
    (producer,) = exported.PRODUCERS
    arguments = {"within": None, "from": "2026-11-18", "to": "2026-11-18"}
    (row,) = producer.rows(session, reviewer.actor, arguments)
    assert row[:4] == (claim_id, "待审记录", "burst", "短时间内记录过多, 等待人工审核")
    assert len(row) == len(producer.columns(session, reviewer.actor, arguments))
    stranger = make_reviewer(ELSEWHERE, Role.STREET)
    assert list(producer.rows(session, stranger.actor, arguments)) == []
    body = {"from": "2026-11-18", "to": "2026-11-18", "format": "csv"}
    assert client.post("/api/v1/review/exports", json=body, headers=reviewer.headers).status_code == 202
    outside = {**body, "within": COMMUNITY}
    assert client.post("/api/v1/review/exports", json=outside, headers=stranger.headers).status_code == 404
    endless = {**body, "to": "2028-11-18"}
    assert code(client.post("/api/v1/review/exports", json=endless, headers=reviewer.headers))[0] == 422


# What the database and the data folder refuse


def test_the_database_itself_keeps_two_people_and_what_was_decided(
    session: Session, alice: UUID, reviewer: Reviewer, make_reviewer: Callable[..., Reviewer]
) -> None:
    large, small = held_claims(session, alice, weight_g=4000), held_claims(session, alice, staff_id=reviewer.id)
    other = make_reviewer()

    def refused(statement: str, **values: Any) -> str:
        with pytest.raises(DBAPIError) as caught, session.begin_nested():
            session.execute(sa.text(statement), values)
        return str(caught.value.orig)

    decided = (
        "UPDATE review_case SET state = 'decided', verdict = 'granted', answer = '好', decided_by = :by, "
        "ended_at = opened_at {more} WHERE id = :id"
    )
    alone = refused(decided.format(more=""), by=reviewer.id, id=large[0])
    proposed = ", proposed_by = :by, proposed_verdict = 'granted', proposed_at = opened_at"
    assert "two_people" in alone
    assert "two_people" in refused(decided.format(more=proposed), by=reviewer.id, id=large[0])
    assert "stays" in refused("UPDATE review_case SET two_people = false WHERE id = :id", id=large[0])
    assert "stays" in refused("UPDATE review_case SET reason = 'other' WHERE id = :id", id=large[0])
    word = (
        "INSERT INTO review_decision (resident_id, case_id, number, verdict, reason, final, decided_by, decided_at) "
        "VALUES (:who, :id, 1, 'granted', '好', true, :by, now())"
    )
    assert "own work" in refused(word, who=alice, id=small[0], by=reviewer.id)
    session.execute(sa.text(word), {"who": alice, "id": small[0], "by": other.id})
    session.execute(sa.text(decided.format(more="")), {"by": other.id, "id": small[0]})
    assert "no case goes" in refused("UPDATE review_case SET answer = '改' WHERE id = :id", id=small[0])
    with owner(session):
        for table in ("review_case", "review_decision", "review_edition"):
            assert "append-only" in refused(f"DELETE FROM {table}")
            assert "append-only" in refused(f"TRUNCATE {table} CASCADE")
        assert "append-only" in refused("UPDATE review_decision SET reason = '改'")
        assert "append-only" in refused("UPDATE review_edition SET two_people_points = 1")
    assert session.scalars(sa.select(CaseDecision.decided_by)).all() == [other.id]


def test_an_appeal_keeps_its_place_and_is_not_answered_by_who_decided_before(
    session: Session, client: FlaskClient, alice: UUID, as_alice: Headers, reviewer: Reviewer
) -> None:
    (claim_id,) = held_claims(session, alice)
    decide(client, reviewer, claim_id, "denied", "不符")
    appeal(client, as_alice, claim_id)
    (case,) = cases_of(session, CaseKind.APPEAL, alice)
    for statement in (
        "UPDATE appeal SET text = '换一个说法'",
        "INSERT INTO appeal (resident_id, activity_id, case_id, text, made_at) SELECT resident_id, activity_id, "
        "case_id, '再来', made_at FROM appeal",
        "INSERT INTO review_decision (resident_id, case_id, number, verdict, reason, final, decided_by, decided_at) "
        f"VALUES ('{alice}', '{case.id}', 1, 'denied', '好', true, '{reviewer.id}', now())",
    ):
        with pytest.raises(DBAPIError), session.begin_nested():
            session.execute(sa.text(statement))


def test_a_file_with_a_fault_is_named_and_an_edition_never_changes(session: Session, tmp_path: Any) -> None:
    text = (PLACES_DATA / "nankai" / "review-2026.toml").read_text("utf-8")
    for old, new in (
        ("two_people_points = 100", "two_people_points = -1"),
        ("people_min = 3", "people_min = true"),
        ("people_min = 3", ""),
        ("[detectors.burst]", "[detectors.bursts]"),
        ("valid_from = 2026-11-01", 'valid_from = "2026-11-01"'),
    ):
        assert old in text
        (tmp_path / "review-bad.toml").write_text(text.replace(old, new, 1), "utf-8")
        with pytest.raises(ReviewDataError, match=r"review-bad\.toml"):
            editions.read_folder(tmp_path)
    (tmp_path / "review-bad.toml").write_text(text.replace("target_days = 5", "target_days = 6"), "utf-8")
    with pytest.raises(ReviewDataError, match="other content"):
        editions.load(session, editions.read_folder(tmp_path))
    before = editions.terms_at(session, NOON - timedelta(days=60))
    assert (before, editions.terms_at(session, NOON).two_people_points) == (editions.CAUTIOUS, 100)

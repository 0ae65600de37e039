"""Decision and appeal at once, two decisions, two appeals, and a lead that grows while people decide about it.

Two real connections, the first transaction held open, so that nothing depends on luck.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from district import COMMUNITY, District
from sqlalchemy.orm import Session

from points.earning.award import award
from points.earning.claims import Claim, Reason
from points.earning.models import Activity, Behaviour, Grade
from points.ledger.models import Transfer
from points.review import appeals, decisions, editions, held, leads
from points.review.appeals import AppealedAlready, NotAppealable
from points.review.cases import CaseEnded
from points.review.leads import Finding
from points.review.models import Case, CaseActivity, CaseKind, CaseState, Verdict
from server.access import Actor, Role
from server.clock import now
from server.database import new_id
from server.people.models import StaffLink

WAIT_S_MAX = 10.0
KINDS = {kind.code: kind for kind in (held.KIND, leads.KIND, appeals.KIND)}


@dataclass
class Desk:
    """A district that is not served, two of its staff who may decide, and a resident."""

    district: District
    one: Actor
    other: Actor
    resident_id: UUID

    def claim(self, **values: Any) -> UUID:
        """A kilogram of cans (40 points), or more, of an hour ago; its activity."""
        at = now() - timedelta(hours=1)
        made = Claim(
            resident_id=self.resident_id,
            behaviour=Behaviour.RECYCLING,
            mode="aluminium_can",
            grade=Grade.PARTNER_SIGNED,
            source="scales",
            external_id=str(new_id()),
            started_at=at,
            ended_at=at,
            received_at=at,
            **{"weight_g": 1000, **values},
        )
        with self.district.session() as session:
            activity_id = award(session, [made], now=now())[0].activity_id
            held.open_waiting(session, now=now())
            assert activity_id is not None
            return activity_id

    def decide(self, session: Session, by: Actor, case_id: UUID, verdict: Verdict = Verdict.DENIED) -> None:
        """Decide a case."""
        decisions.decide(session, by, KINDS, case_id, verdict=verdict, reason="核对", now=now())

    def appeal(self, session: Session, activity_id: UUID) -> None:
        """Appeal against what became of an activity."""
        appeals.make(session, self.resident_id, activity_id, text="确实是我", now=now())

    def lead(self, session: Session, *activity_ids: UUID) -> int:
        """Bring a finding about activities."""
        finding = Finding(self.resident_id, Reason.BURST, activity_ids)
        return leads.bring(session, [finding], terms=editions.terms_at(session, now()), now=now())

    def case_of(self, kind: CaseKind) -> Case:
        """The resident's newest case of a kind."""
        with self.district.session() as session:
            wanted = sa.select(Case).where(Case.resident_id == self.resident_id, Case.kind == kind)
            return session.scalars(wanted.order_by(Case.id.desc()).limit(1)).one()

    def stands(self, activity_id: UUID) -> tuple[str, int]:
        """What became of an activity, and what the resident has been paid."""
        with self.district.session() as session:
            points = session.scalar(sa.select(sa.func.sum(Transfer.points)).filter_by(resident_id=self.resident_id))
            return session.get_one(Activity, (self.resident_id, activity_id)).outcome.value, int(points or 0)


@pytest.fixture
def desk(quiet_district: District) -> Desk:
    staff = [
        Actor(
            id=quiet_district.staff(Role.COMMUNITY_STAFF, division=COMMUNITY),
            role=Role.COMMUNITY_STAFF,
            session_id=new_id(),
            division=COMMUNITY,
        )
        for _ in range(2)
    ]
    with quiet_district.session() as session:
        session.add_all(StaffLink(staff_id=each.id, statement="没有居民账号", made_at=now()) for each in staff)
    return Desk(quiet_district, *staff, quiet_district.residents(1)[0])


@pytest.mark.parametrize(
    ("verdict", "appealed", "stands"),
    [(Verdict.DENIED, "done", ("refused", 0)), (Verdict.GRANTED, NotAppealable.code, ("awarded", 40))],
)
def test_an_appeal_waits_for_the_decision_and_is_judged_by_it(
    desk: Desk, verdict: Verdict, appealed: str, stands: tuple[str, int]
) -> None:
    claim = desk.claim(hold=Reason.BURST)
    with desk.district.after_the_first(
        lambda session: desk.decide(session, desk.one, claim, verdict),
        lambda session: desk.appeal(session, claim),
    ) as later:
        assert later.result(WAIT_S_MAX) == appealed
    assert desk.stands(claim) == stands


def test_an_upheld_appeal_pays_once_though_two_people_decide_it_at_once(desk: Desk) -> None:
    claim = desk.claim(refusal=Reason.UNSORTED)
    with desk.district.session() as session:
        desk.appeal(session, claim)
    case_id = desk.case_of(CaseKind.APPEAL).id
    with desk.district.after_the_first(
        lambda session: desk.decide(session, desk.one, case_id, Verdict.GRANTED),
        lambda session: desk.decide(session, desk.other, case_id, Verdict.GRANTED),
    ) as later:
        assert later.result(WAIT_S_MAX) == CaseEnded.code
    assert desk.stands(claim) == ("awarded", 40)


def test_of_two_appeals_at_once_one_stands(desk: Desk) -> None:
    claim = desk.claim(refusal=Reason.UNSORTED)
    with desk.district.after_the_first(
        lambda session: desk.appeal(session, claim), lambda session: desk.appeal(session, claim)
    ) as later:
        assert later.result(WAIT_S_MAX) == AppealedAlready.code


def test_two_people_who_decide_at_once_above_the_limit_are_two(desk: Desk) -> None:
    claim = desk.claim(hold=Reason.BURST, weight_g=4000)
    with desk.district.after_the_first(
        lambda session: desk.decide(session, desk.one, claim, Verdict.GRANTED),
        lambda session: desk.decide(session, desk.other, claim, Verdict.GRANTED),
    ) as later:
        assert later.result(WAIT_S_MAX) == "done"
    case = desk.case_of(CaseKind.HELD_CLAIM)
    assert (case.state, case.proposed_by, case.decided_by) == (CaseState.DECIDED, desk.one.id, desk.other.id)
    assert desk.stands(claim) == ("awarded", 160)


def test_what_is_found_while_a_lead_is_being_decided_becomes_a_lead_of_its_own(desk: Desk) -> None:
    first, second = desk.claim(), desk.claim()
    with desk.district.session() as session:
        assert desk.lead(session, first) == 1
    decided = desk.case_of(CaseKind.LEAD).id
    with desk.district.after_the_first(
        lambda session: desk.decide(session, desk.one, decided), lambda session: desk.lead(session, second)
    ) as later:
        assert later.result(WAIT_S_MAX) == "done"
    opened = desk.case_of(CaseKind.LEAD)
    assert (opened.id != decided, opened.state, opened.points) == (True, CaseState.OPEN, 40)
    with desk.district.session() as session:
        listed = session.execute(
            sa.select(CaseActivity.case_id, CaseActivity.activity_id).where(
                CaseActivity.resident_id == desk.resident_id
            )
        )
        assert {tuple(row) for row in listed} == {(decided, first), (opened.id, second)}
    assert [desk.stands(each)[0] for each in (first, second)] == ["reversed", "awarded"]

"""Budgets of campaigns: proposed by staff, decided by somebody else in the district office, never overdrawn."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from attendance_builders import (
    COMMUNITY,
    DISTRICT,
    NEIGHBOUR,
    STREET,
    Headers,
    a_campaign,
    a_slot,
    a_task,
    joined,
    ledger_faults,
    points_of,
    refused,
    walked,
    was_there,
    with_budget,
)
from flask.testing import FlaskClient
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignState, RewardMode, TaskKind
from campaigns.settlement import payments
from campaigns.settlement.models import ALONE_POINTS_MAX, BudgetRequest, CampaignPayment
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade
from points.ledger import budgets, entries
from points.ledger.models import Lot, Transfer
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.database import new_id

SignIn = Callable[..., Headers]
MakeStaff = Callable[..., UUID]

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def campaign(session: Session, make_staff: MakeStaff) -> Campaign:
    return a_campaign(session, make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY), mode=RewardMode.ON_COMPLETION)


@pytest.fixture
def staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def officer(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def other_officer(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


def url(campaign: Campaign, *more: object) -> str:
    return "/".join(["/api/v1/campaigns", str(campaign.id), *map(str, more)])


def propose(client: FlaskClient, headers: Headers, campaign: Campaign, points: int = 5_000) -> Any:
    body = {"points": points, "reason": "社区步行周奖励"}
    return client.post(url(campaign, "budget-requests"), json=body, headers=headers)


def decide(client: FlaskClient, headers: Headers, campaign: Campaign, request_id: str, *, approve: bool = True) -> Any:
    body = {"approve": approve, "decision": "同意" if approve else "活动规模过小"}
    return client.post(url(campaign, "budget-requests", request_id, "decision"), json=body, headers=headers)


def budget(client: FlaskClient, headers: Headers, campaign: Campaign) -> tuple[int, int, int]:
    found = client.get(url(campaign, "budget"), headers=headers).json
    return found["allotted_points"], found["paid_points"], found["held_points"]  # type: ignore[index]


# Proposing and deciding


def test_staff_propose_and_the_district_approves_which_allots_the_points(
    client: FlaskClient, session: Session, campaign: Campaign, staff: Headers, officer: Headers
) -> None:
    proposed = propose(client, staff, campaign, 50_000)
    assert (proposed.status_code, proposed.json["state"], proposed.json["limit_points"]) == (201, "proposed", 0)
    assert budget(client, staff, campaign) == (0, 0, 0)
    approved = decide(client, officer, campaign, proposed.json["id"])
    assert (approved.status_code, approved.json["state"], approved.json["decision"]) == (200, "approved", "同意")
    assert budget(client, staff, campaign) == (50_000, 0, 50_000)
    again = propose(client, staff, campaign, 1_000)
    decide(client, officer, campaign, again.json["id"])
    assert budget(client, staff, campaign) == (51_000, 0, 51_000), "a second allotment goes to the same account"
    listed = client.get(url(campaign, "budget-requests"), headers=staff).json
    assert [item["points"] for item in listed["items"]] == [1_000, 50_000]  # type: ignore[index]
    acts = session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.act.startswith("campaign-budget")).order_by(AuditEntry.id)
    ).all()
    assert acts == ["campaign-budget.propose", "campaign-budget.approve"] * 2
    assert ledger_faults(session) == {}


def test_a_refusal_allots_nothing_and_stands(
    client: FlaskClient, campaign: Campaign, staff: Headers, officer: Headers, other_officer: Headers
) -> None:
    request_id = propose(client, staff, campaign).json["id"]
    refusal = decide(client, officer, campaign, request_id, approve=False)
    assert (refusal.json["state"], refusal.json["decision"]) == ("refused", "活动规模过小")
    refused(decide(client, other_officer, campaign, request_id), 409, "budget-request-decided")
    assert budget(client, staff, campaign) == (0, 0, 0)


@pytest.mark.parametrize(
    ("points", "state", "held"),
    [(1, "approved", 1), (ALONE_POINTS_MAX, "approved", ALONE_POINTS_MAX), (ALONE_POINTS_MAX + 1, "proposed", 0)],
)
def test_a_member_of_the_district_office_spends_alone_up_to_the_limit(
    client: FlaskClient, campaign: Campaign, officer: Headers, points: int, state: str, held: int
) -> None:
    answer = propose(client, officer, campaign, points)
    assert (answer.json["state"], answer.json["decided_by"]) == (state, None)
    assert budget(client, officer, campaign) == (held, 0, held)


def test_small_requests_of_one_person_or_two_do_not_add_up_to_a_large_one(
    client: FlaskClient, campaign: Campaign, officer: Headers, other_officer: Headers
) -> None:
    assert propose(client, officer, campaign, ALONE_POINTS_MAX).json["state"] == "approved"
    second = propose(client, officer, campaign, 1)
    assert second.json["state"] == propose(client, other_officer, campaign, 1).json["state"] == "proposed"
    assert budget(client, officer, campaign)[2] == ALONE_POINTS_MAX
    assert decide(client, other_officer, campaign, second.json["id"]).json["state"] == "approved"


def test_a_proposer_takes_a_request_back_and_nobody_else_does(
    client: FlaskClient, campaign: Campaign, staff: Headers, officer: Headers
) -> None:
    request_id = propose(client, staff, campaign).json["id"]
    back = url(campaign, "budget-requests", request_id, "withdrawal")
    refused(client.post(back, headers=officer), 404, "not-found")
    assert client.post(back, headers=staff).json["state"] == "withdrawn"  # type: ignore[index]
    refused(client.post(back, headers=staff), 409, "budget-request-decided")
    refused(decide(client, officer, campaign, request_id), 409, "budget-request-decided")


@pytest.mark.parametrize("state", [CampaignState.CLOSED, CampaignState.CANCELLED])
def test_a_campaign_that_is_over_gets_no_budget(
    client: FlaskClient, session: Session, campaign: Campaign, staff: Headers, officer: Headers, state: CampaignState
) -> None:
    request_id = propose(client, staff, campaign).json["id"]
    session.execute(sa.update(Campaign).values(state=state, closed_at=now()))
    session.commit()
    refused(propose(client, staff, campaign), 409, "campaign-needs-no-budget")
    refused(decide(client, officer, campaign, request_id), 409, "campaign-needs-no-budget")
    assert decide(client, officer, campaign, request_id, approve=False).status_code == 200


@pytest.mark.parametrize("points", [0, -1, 10_000_001, "5", 1.5, True])
def test_points_out_of_bounds_are_refused(client: FlaskClient, campaign: Campaign, staff: Headers, points: Any) -> None:
    refused(propose(client, staff, campaign, points), 422, "invalid-request")


def test_not_more_than_twenty_requests_wait(client: FlaskClient, campaign: Campaign, staff: Headers) -> None:
    assert {propose(client, staff, campaign).status_code for _ in range(20)} == {201}
    refused(propose(client, staff, campaign), 409, "too-many-budget-requests")


def test_who_is_not_of_the_district_office_decides_nothing_and_who_is_elsewhere_sees_nothing(
    client: FlaskClient, campaign: Campaign, staff: Headers, sign_in_staff: SignIn
) -> None:
    request_id = propose(client, staff, campaign).json["id"]
    for role, division in ((Role.COMMUNITY_STAFF, COMMUNITY), (Role.STREET, STREET)):
        refused(decide(client, sign_in_staff(role, division=division), campaign, request_id), 403, "forbidden")
    neighbour = sign_in_staff(Role.COMMUNITY_STAFF, division=NEIGHBOUR)
    for method, path, body in (
        ("GET", "budget", None),
        ("GET", "budget-requests", None),
        ("POST", "budget-requests", {"points": 1, "reason": "测试"}),
        ("POST", f"budget-requests/{request_id}/withdrawal", None),
        ("GET", "payments", None),
        ("GET", "settlement", None),
        ("POST", "settlement", None),
        ("GET", "certificates", None),
        ("POST", "certificates/0000000000/revocation", {"reason": "测试"}),
        ("POST", "exports", {"kind": "participants"}),
    ):
        answer = client.open(url(campaign, path), method=method, json=body, headers=neighbour)
        assert (answer.status_code, answer.json["code"]) == (404, "not-found"), (path, answer.text)  # type: ignore[index]
    elsewhere = a_request_of_another_campaign(client, campaign, staff)
    refused(decide(client, sign_in_staff(Role.DISTRICT, division=DISTRICT), campaign, elsewhere), 404, "not-found")


def a_request_of_another_campaign(client: FlaskClient, campaign: Campaign, staff: Headers) -> str:
    today = business_day(now())
    body = {
        "kind": "challenge",
        "title": "另一个",
        "division": COMMUNITY,
        "starts_on": today.isoformat(),
        "ends_on": (today + timedelta(days=1)).isoformat(),
    }
    other = client.post("/api/v1/campaigns", json=body, headers=staff)
    assert other.status_code == 201, other.text
    answer = client.post(
        f"/api/v1/campaigns/{other.json['id']}/budget-requests",  # type: ignore[index]
        json={"points": 1, "reason": "测试"},
        headers=staff,
    )
    return str(answer.json["id"])  # type: ignore[index]


# Four eyes: a hundred attempts, none through


def test_nobody_approves_their_own_proposal_in_sixty_attempts_over_http(
    client: FlaskClient, session: Session, campaign: Campaign, officer: Headers, other_officer: Headers
) -> None:
    request_id = propose(client, officer, campaign, ALONE_POINTS_MAX + 1).json["id"]
    for attempt in range(60):
        headers = officer if attempt % 2 else {**officer, "Idempotency-Key": f"attempt-{attempt:04}"}
        refused(decide(client, headers, campaign, request_id, approve=bool(attempt % 3)), 403, "proposer-decides")
    assert budget(client, officer, campaign) == (0, 0, 0)
    assert decide(client, other_officer, campaign, request_id).status_code == 200


ATTACKS = [
    ("decided_by = proposed_by, state = 'approved', decided_at = now()", "budget_request_four_eyes_check"),
    ("decided_by = proposed_by, state = 'refused', decided_at = now()", "budget_request_four_eyes_check"),
    ("state = 'approved', decided_at = now()", "budget_request_second_person_check"),
    ("state = 'approved'", "budget_request_decided_check"),
    ("state = 'approved', decided_at = now(), limit_points = 20001", "never rewritten"),
    ("points = 20000, limit_points = 20000, state = 'approved', decided_at = now()", "never rewritten"),
    ("proposed_by = '{other}', decided_by = proposed_by, state = 'approved', decided_at = now()", "never rewritten"),
    ("proposed_by = '{other}'", "never rewritten"),
    ("points = points + 1, state = 'approved', decided_at = now(), decided_by = '{other}'", "never rewritten"),
    ("campaign_id = gen_random_uuid()", "never rewritten"),
]


@pytest.mark.parametrize("as_owner", [False, True])
@pytest.mark.parametrize(("change", "refusal"), ATTACKS)
def test_no_update_through_sql_approves_what_nobody_else_decided(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    officer: Headers,
    make_staff: MakeStaff,
    change: str,
    refusal: str,
    as_owner: bool,
) -> None:
    propose(client, officer, campaign, ALONE_POINTS_MAX + 1)
    other = make_staff(Role.DISTRICT, division=DISTRICT)
    session.execute(sa.text(f"SET LOCAL ROLE {'NONE' if as_owner else 'tanpuhui_app'}"))
    for _ in range(2):
        with pytest.raises(DBAPIError, match=refusal), session.begin_nested():
            session.execute(sa.text(f"UPDATE budget_request SET {change.format(other=other)}"))
    assert session.scalar(sa.select(BudgetRequest.state)) == "proposed"


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"decided_by": ":a"}, "never rewritten"),
        ({"decided_by": ":b"}, "never rewritten"),
        ({"limit_points": "20000"}, "second_person"),
        ({"limit_points": "30000"}, "limit_points_check"),
        ({"points": "0", "limit_points": "20000"}, "points_check"),
        ({"state": "'refused'"}, "never rewritten"),
    ],
)
def test_no_insert_through_sql_is_approved_above_the_limit(
    session: Session, campaign: Campaign, make_staff: MakeStaff, values: dict[str, str], refusal: str
) -> None:
    people = {name: make_staff(Role.DISTRICT, division=DISTRICT) for name in ("a", "b")}
    row = {
        "id": "gen_random_uuid()",
        "campaign_id": f"'{campaign.id}'",
        "points": "25000",
        "reason": "'x'",
        "state": "'approved'",
        "limit_points": "0",
        "proposed_by": ":a",
        "proposed_at": "now()",
        "decided_by": "NULL",
        "decided_at": "now()",
        **values,
    }
    statement = f"INSERT INTO budget_request ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    named = {name: person for name, person in people.items() if f":{name}" in statement}
    with pytest.raises(DBAPIError, match=refusal), session.begin_nested():
        session.execute(sa.text(statement), named)


def test_a_second_request_approved_alone_is_refused_by_the_index(
    client: FlaskClient, session: Session, campaign: Campaign, officer: Headers
) -> None:
    propose(client, officer, campaign, 10)
    with pytest.raises(IntegrityError, match="budget_request_alone_key"), session.begin_nested():
        session.execute(
            sa.text(
                "INSERT INTO budget_request (id, campaign_id, points, reason, state, limit_points, proposed_by, "
                "proposed_at, decided_at) SELECT gen_random_uuid(), campaign_id, 10, 'x', state, limit_points, "
                "proposed_by, now(), now() FROM budget_request"
            )
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE budget_request SET state = 'refused'",
        "UPDATE budget_request SET decision = 'x'",
        "DELETE FROM budget_request",
        "TRUNCATE budget_request",
        "UPDATE campaign_payment SET points = 1",
        "DELETE FROM campaign_payment",
        "TRUNCATE campaign_payment",
    ],
)
def test_decisions_and_payments_stand_against_the_application_and_the_owner(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    officer: Headers,
    make_resident: Callable[..., UUID],
    statement: str,
) -> None:
    propose(client, officer, campaign, 100)
    paid_visit(session, campaign, make_resident())
    for role in ("tanpuhui_app", "NONE"):
        session.execute(sa.text(f"SET LOCAL ROLE {role}"))
        with pytest.raises(DBAPIError) as stopped, session.begin_nested():
            session.execute(sa.text(statement))
        is_barred = isinstance(stopped.value.orig, InsufficientPrivilege)
        assert is_barred or "never rewritten" in str(stopped.value) or "append-only" in str(stopped.value)


def paid_visit(session: Session, campaign: Campaign, resident_id: UUID) -> CampaignPayment:
    session.refresh(campaign)
    with_budget(session, campaign, 10)
    task = a_task(session, campaign)
    joined(session, campaign, resident_id)
    was_there(session, a_slot(session, campaign), resident_id)
    actor = an_actor(resident_id)
    made = payments.claim(session, actor, campaign.id, task.id, now=now())
    session.commit()
    return made


def an_actor(resident_id: UUID) -> Actor:

    return Actor(id=resident_id, role=Role.RESIDENT, session_id=new_id())


# Claiming


@pytest.fixture
def resident(session: Session, campaign: Campaign, sign_in_resident: SignIn) -> Headers:
    headers = sign_in_resident("alice")
    joined(session, campaign, sign_in_resident.known["alice"])  # type: ignore[attr-defined]
    return headers


@pytest.fixture
def alice(resident: Headers, sign_in_resident: SignIn) -> UUID:
    found: UUID = sign_in_resident.known["alice"]  # type: ignore[attr-defined]
    return found


def test_a_completed_task_is_paid_once_out_of_the_campaigns_budget(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, alice: UUID, staff: Headers
) -> None:
    task = a_task(session, campaign, kind=TaskKind.BEHAVIOUR, target=5_000, reward=30)
    account = with_budget(session, campaign, 100)
    claim = url(campaign, "tasks", task.id, "claim")
    refused(client.post(claim, headers=resident), 409, "task-not-completed")
    walked(session, alice, 4_999)
    refused(client.post(claim, headers=resident), 409, "task-not-completed")
    session.execute(sa.text("UPDATE resident_day SET distance_m = 5000"))
    session.commit()
    paid = client.post(claim, headers=resident)
    assert (paid.status_code, paid.json["points"], paid.json["way"]) == (201, 30, "claim"), paid.text  # type: ignore[index]
    refused(client.post(claim, headers=resident), 409, "reward-paid")
    assert points_of(session, alice) == 30
    transfer = session.get_one(Transfer, (alice, UUID(paid.json["transfer_id"])))  # type: ignore[index]
    assert (transfer.account_id, transfer.reason) == (account, "步行周 · 任务 1")
    assert client.get(url(campaign, "payments", "mine"), headers=resident).json["items"] == [paid.json]  # type: ignore[index]
    listed = client.get(url(campaign, "payments"), headers=staff).json["items"]  # type: ignore[index]
    assert [(row["resident_id"], row["task_title"], row["points"]) for row in listed] == [(str(alice), "任务 1", 30)]
    assert ledger_faults(session) == {}


def test_points_of_a_campaign_end_on_the_day_on_which_points_of_an_award_end(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, alice: UUID
) -> None:
    task = a_task(session, campaign, kind=TaskKind.BEHAVIOUR, target=1, reward=30)
    with_budget(session, campaign, 100)
    ended = now() - timedelta(minutes=5)
    ride = Claim(
        resident_id=alice,
        behaviour=Behaviour.BUS,
        mode="bus",
        grade=Grade.PARTNER_SIGNED,
        source="metro-card",
        external_id="ride-1",
        started_at=ended - timedelta(minutes=20),
        ended_at=ended,
        received_at=now(),
        distance_m=5_000,
    )
    assert award(session, [ride], now=now())[0].points > 0
    walked(session, alice, 1)
    assert client.post(url(campaign, "tasks", task.id, "claim"), headers=resident).status_code == 201
    assert len(session.scalars(sa.select(Lot.expires_on).where(Lot.resident_id == alice)).all()) == 1


def test_claims_are_for_campaigns_that_pay_on_completion_for_tasks_with_a_reward_and_for_participants(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, alice: UUID, sign_in_resident: SignIn
) -> None:
    with_budget(session, campaign, 100)
    slot = a_slot(session, campaign)
    was_there(session, slot, alice)
    paid, unpaid = a_task(session, campaign), a_task(session, campaign, position=2, reward=0)
    refused(client.post(url(campaign, "tasks", unpaid.id, "claim"), headers=resident), 409, "no-reward")
    refused(client.post(url(campaign, "tasks", new_id(), "claim"), headers=resident), 404, "not-found")
    refused(client.post(url(campaign, "tasks", paid.id, "claim"), headers=sign_in_resident("bob")), 404, "not-joined")
    session.execute(sa.update(Campaign).values(reward_mode=RewardMode.AT_SETTLEMENT))
    session.commit()
    refused(client.post(url(campaign, "tasks", paid.id, "claim"), headers=resident), 409, "paid-at-settlement")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (CampaignState.RUNNING, 201),
        (CampaignState.SETTLING, 201),
        (CampaignState.CLOSED, 409),
        (CampaignState.CANCELLED, 409),
    ],
)
def test_claims_end_when_the_campaign_is_closed(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    resident: Headers,
    alice: UUID,
    state: CampaignState,
    status: int,
) -> None:
    with_budget(session, campaign, 100)
    task = a_task(session, campaign)
    was_there(session, a_slot(session, campaign), alice)
    session.execute(sa.update(Campaign).values(state=state, closed_at=now()))
    session.commit()
    answer = client.post(url(campaign, "tasks", task.id, "claim"), headers=resident)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("held", [None, 9])
def test_a_budget_that_is_used_up_or_was_never_given_pays_nobody(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, alice: UUID, held: int | None
) -> None:
    if held:
        with_budget(session, campaign, held)
    task = a_task(session, campaign)
    was_there(session, a_slot(session, campaign), alice)
    claim = url(campaign, "tasks", task.id, "claim")
    refused(client.post(claim, headers=resident), 409, "budget-exhausted")
    assert session.scalar(sa.select(sa.func.count()).select_from(CampaignPayment)) == 0
    session.refresh(campaign)
    with_budget(session, campaign, 1 if held else 10)
    assert client.post(claim, headers=resident).status_code == 201


def test_a_reversed_payment_goes_back_to_the_budget_and_is_not_paid_again(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, alice: UUID, staff: Headers
) -> None:
    account = with_budget(session, campaign, 10)
    task = a_task(session, campaign)
    was_there(session, a_slot(session, campaign), alice)
    claim = url(campaign, "tasks", task.id, "claim")
    paid = client.post(claim, headers=resident)
    entries.reverse(session, alice, UUID(paid.json["transfer_id"]), reason="代签", now=now())  # type: ignore[index]
    session.commit()
    assert budgets.held_by(session, account) == 10
    refused(client.post(claim, headers=resident), 409, "reward-paid")
    assert points_of(session, alice) == 0
    assert ledger_faults(session) == {}

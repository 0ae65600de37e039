"""The settlement: every completed task paid once, however often it is run and wherever it is stopped."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from attendance_builders import (
    COMMUNITY,
    DISTRICT,
    Headers,
    a_campaign,
    a_slot,
    a_task,
    a_team,
    joined,
    ledger_faults,
    points_of,
    refused,
    walked,
    was_there,
    with_budget,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignState, CampaignTask, RewardMode, TaskKind, TaskSubject
from campaigns.settlement import jobs, payments, settling
from campaigns.settlement.models import CampaignPayment, Settlement, SettlementState
from points.earning import pricing
from points.earning.pricing import Tariffs
from points.ledger import budgets
from points.ledger.models import Transfer
from server.access import Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.exports.models import Export

SignIn = Callable[..., Headers]
Settle = Callable[[Campaign], None]

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def campaign(session: Session, make_staff: Callable[..., UUID]) -> Campaign:
    """Over, and to be settled."""
    staff = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    return a_campaign(session, staff, state=CampaignState.SETTLING)


@pytest.fixture
def staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def task(session: Session, campaign: Campaign) -> CampaignTask:
    """Ten points for having been there."""
    return a_task(session, campaign)


@pytest.fixture
def people(session: Session, campaign: Campaign, task: CampaignTask, make_resident: Callable[..., UUID]) -> list[UUID]:
    """Seven who take part, by id; all but the last were there."""
    slot = a_slot(session, campaign)
    everybody = sorted(joined(session, campaign, make_resident()) for _ in range(7))
    for person in everybody[:-1]:
        was_there(session, slot, person)
    return everybody


@pytest.fixture
def settle(app: Flask, session: Session) -> Settle:
    """A function that does what the worker does with the job."""

    def run(campaign: Campaign) -> None:
        with app.app_context():
            jobs.settle(str(campaign.id))
        session.expire_all()

    return run


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(jobs, "CHUNK_RESIDENTS", 2)
    return


def url(campaign: Campaign, *more: object) -> str:
    return "/".join(["/api/v1/campaigns", str(campaign.id), *map(str, more)])


def start(client: FlaskClient, staff: Headers, campaign: Campaign) -> Any:
    return client.post(url(campaign, "settlement"), headers=staff)


def state_of(client: FlaskClient, staff: Headers, campaign: Campaign) -> dict[str, Any]:
    found = client.get(url(campaign, "settlement"), headers=staff).json
    return {name: found[name] for name in ("state", "residents", "payments", "points", "short_points")}  # type: ignore[index]


@pytest.mark.usefixtures("small_chunks")
def test_a_campaign_pays_no_more_on_one_day_than_the_district_allows_and_goes_on_the_next(
    session: Session, campaign: Campaign, people: list[UUID], settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = with_budget(session, campaign, 1_000)
    tariff = pricing.current(session).on(business_day(now()))
    assert tariff is not None
    bounded = Tariffs((replace(tariff, bounds={"drive": 35}),))
    monkeypatch.setattr(pricing, "read", lambda session: bounded)
    pricing.forget()
    session.add(Settlement(campaign_id=campaign.id, state=SettlementState.QUEUED, requested_at=now()))
    session.flush()
    settle(campaign)
    assert [points_of(session, person) for person in people] == [10, 10, 10, 0, 0, 0, 0]
    settle(campaign)
    assert budgets.held_by(session, account) == 970
    with time_machine.travel(now() + timedelta(days=1), tick=False):
        settle(campaign)
        assert [points_of(session, person) for person in people] == [10, 10, 10, 10, 10, 10, 0]
        assert session.get_one(Campaign, campaign.id).state is CampaignState.CLOSED


@pytest.mark.usefixtures("small_chunks")
def test_a_settlement_pays_who_completed_what_closes_the_campaign_and_writes_the_sheet(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    far = a_task(session, campaign, position=2, kind=TaskKind.BEHAVIOUR, target=5_000, reward=25)
    for person, metres in zip(people, (5_000, 4_999, 0, 9_000, 0, 0, 6_000), strict=True):
        if metres:
            walked(session, person, metres)
    account = with_budget(session, campaign, 1_000)
    started = start(client, staff, campaign)
    assert (started.status_code, started.json["state"]) == (202, "queued"), started.text
    settle(campaign)
    assert [points_of(session, person) for person in people] == [35, 10, 10, 35, 10, 10, 25]
    assert state_of(client, staff, campaign) == {
        "state": "done",
        "residents": 7,
        "payments": 9,
        "points": 135,
        "short_points": None,
    }
    assert session.get_one(Campaign, campaign.id).state is CampaignState.CLOSED
    assert budgets.held_by(session, account) == 865
    reasons = session.scalars(
        sa.select(Transfer.reason).where(Transfer.resident_id == people[0]).order_by(Transfer.points)
    )
    assert reasons.all() == ["步行周 · 任务 1", f"步行周 · {far.title}"]
    sheet = session.scalars(sa.select(Export)).one()
    assert (sheet.kind, sheet.arguments) == ("campaign-settlement", {"campaign_id": str(campaign.id)})
    assert ledger_faults(session) == {}


@pytest.mark.usefixtures("small_chunks")
def test_a_settlement_run_again_pays_nobody_again(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    with_budget(session, campaign, 1_000)
    start(client, staff, campaign)
    for _ in range(3):
        settle(campaign)
    refused(start(client, staff, campaign), 409, "not-settling")
    # Not even when it forgets where it was.
    session.execute(sa.text("UPDATE settlement SET state = 'running', finished_at = NULL, after_resident_id = NULL"))
    session.execute(sa.text("UPDATE campaign SET state = 'settling'"))
    session.commit()
    settle(campaign)
    assert [points_of(session, person) for person in people] == [10] * 6 + [0]
    assert session.scalar(sa.select(sa.func.count()).select_from(CampaignPayment)) == 6
    assert ledger_faults(session) == {}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("after_paying", [False, True])
def test_a_settlement_that_dies_in_any_chunk_goes_on_where_it_was(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    people: list[UUID],
    staff: Headers,
    settle: Settle,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    after_paying: bool,
) -> None:
    with_budget(session, campaign, 1_000)
    start(client, staff, campaign)
    real, calls = payments.settle, 0

    class Killed(BaseException):
        pass

    def dying(*args: Any, **values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < chunk:
            return real(*args, **values)
        if after_paying:
            real(*args, **values)
        raise Killed

    monkeypatch.setattr(payments, "settle", dying)
    with pytest.raises(Killed):
        settle(campaign)
    assert sum(points_of(session, person) for person in people) == (chunk - 1) * 20
    assert state_of(client, staff, campaign)["state"] == "running"
    monkeypatch.setattr(payments, "settle", real)
    settle(campaign)
    assert [points_of(session, person) for person in people] == [10] * 6 + [0]
    assert state_of(client, staff, campaign)["points"] == 60
    assert ledger_faults(session) == {}


@pytest.mark.usefixtures("small_chunks")
def test_a_budget_that_does_not_reach_stops_the_settlement_and_another_allotment_lets_it_go_on(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    people: list[UUID],
    staff: Headers,
    settle: Settle,
    sign_in_staff: SignIn,
) -> None:
    with_budget(session, campaign, 35)
    start(client, staff, campaign)
    settle(campaign)
    assert state_of(client, staff, campaign) == {
        "state": "short",
        "residents": 2,
        "payments": 2,
        "points": 20,
        "short_points": 25,
    }
    assert session.get_one(Campaign, campaign.id).state is CampaignState.SETTLING
    settle(campaign)
    assert state_of(client, staff, campaign)["state"] == "short", "a job too many changes nothing"
    answer = client.post(
        url(campaign, "budget-requests"),
        json={"points": 25, "reason": "补足结算缺口"},
        headers=sign_in_staff(Role.DISTRICT, division=DISTRICT),
    )
    assert answer.json["state"] == "approved", answer.text  # type: ignore[index]
    assert state_of(client, staff, campaign)["state"] == "queued"
    waiting = session.scalar(
        sa.text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'settlement:settle' AND status = 'todo'")
    )
    assert waiting == 2, "one for the start, one for going on"
    settle(campaign)
    assert [points_of(session, person) for person in people] == [10] * 6 + [0]
    assert state_of(client, staff, campaign)["state"] == "done"
    assert budgets.held_by(session, campaign.account_id or 0) == 0
    assert ledger_faults(session) == {}


def test_without_any_budget_nobody_is_paid_and_without_any_reward_none_is_needed(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    start(client, staff, campaign)
    settle(campaign)
    assert state_of(client, staff, campaign)["short_points"] == 60
    session.execute(sa.update(CampaignTask).values(reward_points=0))
    session.commit()
    assert start(client, staff, campaign).json["state"] == "queued"
    settle(campaign)
    assert state_of(client, staff, campaign)["state"] == "done"
    assert points_of(session, people[0]) == 0


def test_every_member_of_a_team_that_reached_its_target_is_paid_and_nobody_of_another(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    staff: Headers,
    settle: Settle,
    make_resident: Callable[..., UUID],
) -> None:
    session.execute(sa.text("UPDATE campaign SET team_kind = 'class', team_size_min = 1, team_size_max = 50"))
    a_task(session, campaign, kind=TaskKind.BEHAVIOUR, target=8_000, reward=40, subject=TaskSubject.TEAM)
    with_budget(session, campaign, 1_000)
    people = [make_resident() for _ in range(5)]
    teams = [a_team(session, campaign, people[0]), a_team(session, campaign, people[2], name="三年三班")]
    for person, team in zip(people, (teams[0], teams[0], teams[1], teams[1], None), strict=True):
        joined(session, campaign, person, team)
    for person, metres in zip(people, (7_000, 1_000, 7_999, 0, 9_000), strict=True):
        walked(session, person, metres)
    start(client, staff, campaign)
    settle(campaign)
    assert [points_of(session, person) for person in people] == [40, 40, 0, 0, 0]


def test_a_campaign_that_pays_on_completion_is_closed_without_paying_who_did_not_claim(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    session.execute(sa.update(Campaign).values(reward_mode=RewardMode.ON_COMPLETION))
    with_budget(session, campaign, 1_000)
    start(client, staff, campaign)
    settle(campaign)
    assert sum(points_of(session, person) for person in people) == 0
    assert session.get_one(Campaign, campaign.id).state is CampaignState.CLOSED


@pytest.mark.parametrize(
    "state", [CampaignState.DRAFT, CampaignState.RUNNING, CampaignState.CLOSED, CampaignState.CANCELLED]
)
def test_only_a_campaign_that_has_ended_is_settled(
    client: FlaskClient, session: Session, campaign: Campaign, staff: Headers, state: CampaignState
) -> None:
    session.execute(sa.update(Campaign).values(state=state, closed_at=now()))
    session.commit()
    refused(start(client, staff, campaign), 409, "not-settling")
    refused(client.get(url(campaign, "settlement"), headers=staff), 404, "not-found")


def test_the_clock_settles_when_no_late_record_can_come_any_more(
    app: Flask, session: Session, campaign: Campaign, people: list[UUID], settle: Settle, clock: time_machine.Traveller
) -> None:
    with_budget(session, campaign, 1_000)
    late_days = session.scalar(sa.text("SELECT late_days_max FROM rule_version ORDER BY valid_from LIMIT 1"))
    ends = campaign.ends_on

    def waiting() -> int:
        with app.app_context():
            jobs.settle_due(0)
        found = session.scalar(sa.text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'settlement:settle'"))
        return int(found or 0)

    assert late_days
    last_late_day = now() + timedelta(days=(ends - now().date()).days + late_days)
    clock.move_to(last_late_day)
    assert waiting() == 0
    clock.move_to(last_late_day + timedelta(days=1))
    assert waiting() == 1
    assert session.scalar(sa.select(Settlement.requested_by)) is None
    settle(campaign)
    assert points_of(session, people[0]) == 10
    assert session.scalar(sa.select(sa.func.count()).select_from(Export)) == 0, "the clock needs no sheet"
    assert waiting() == 1, "what is done is not queued again"


def test_a_job_that_was_lost_is_queued_again(
    app: Flask, client: FlaskClient, session: Session, campaign: Campaign, staff: Headers
) -> None:
    start(client, staff, campaign)
    session.execute(sa.text("DELETE FROM procrastinate_jobs"))
    session.commit()
    with app.app_context():
        jobs.settle_due(0)
    assert session.scalar(sa.text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")) == 1


def test_the_starter_who_left_or_has_three_exports_waiting_keeps_no_campaign_open(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    with_budget(session, campaign, 1_000)
    for _ in range(3):
        asked = client.post(url(campaign, "exports"), json={"kind": "check-ins"}, headers=staff)
        assert asked.status_code == 202, asked.text
    start(client, staff, campaign)
    settle(campaign)
    assert session.get_one(Campaign, campaign.id).state is CampaignState.CLOSED
    assert points_of(session, people[0]) == 10


@pytest.mark.usefixtures("small_chunks")
def test_what_a_reversal_took_back_before_the_settlement_is_not_paid(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    with_budget(session, campaign, 1_000)
    slot = session.scalars(sa.text("SELECT id FROM check_in_slot")).one()
    struck = client.post(
        url(campaign, "slots", slot, "check-ins", people[0], "removal"), json={"reason": "代签"}, headers=staff
    )
    assert struck.status_code == 204
    start(client, staff, campaign)
    settle(campaign)
    assert [points_of(session, person) for person in people] == [0] + [10] * 5 + [0]


def test_a_chunk_takes_a_fixed_number_of_statements(
    session: Session, campaign: Campaign, people: list[UUID], make_resident: Callable[..., UUID]
) -> None:
    slot = session.scalars(sa.text("SELECT id FROM check_in_slot")).one()
    more = [joined(session, campaign, make_resident()) for _ in range(30)]
    for person in more:
        session.execute(
            sa.text(
                "INSERT INTO check_in (resident_id, slot_id, campaign_id, way, day, checked_in_at) "
                "VALUES (:r, :s, :c, 'rotating', current_date, now())"
            ),
            {"r": person, "s": slot, "c": campaign.id},
        )
    with_budget(session, campaign, 10_000)
    session.add(
        Settlement(
            campaign_id=campaign.id,
            state=SettlementState.RUNNING,
            requested_at=now(),
            residents=0,
            payments=0,
            points=0,
        )
    )
    session.commit()
    counts = []
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(session.connection(), "before_cursor_execute", note)
    pricing.current(session)  # a process reads the rules once in a while
    for limit in (1, 30):
        seen.clear()
        step = settling.settle_chunk(session, campaign.id, teams={}, limit=limit, now=now())
        assert step is settling.Step.MORE
        counts.append(len(seen))
    sa.event.remove(session.connection(), "before_cursor_execute", note)
    assert counts[0] == counts[1], seen
    # One of the second thirty may be the one who was not there.
    assert session.scalar(sa.select(Settlement.payments)) in (30, 31)


def test_the_audit_trail_names_who_started_and_what_fell_short(
    client: FlaskClient, session: Session, campaign: Campaign, people: list[UUID], staff: Headers, settle: Settle
) -> None:
    start(client, staff, campaign)
    settle(campaign)
    acts = dict(
        session.execute(
            sa.select(AuditEntry.act, AuditEntry.staff_id).where(AuditEntry.act.startswith("campaign.settle"))
        ).all()
    )
    assert acts["campaign.settle"] is not None
    assert acts["campaign.settle-short"] is None


@pytest.mark.parametrize(
    ("constraint", "change"),
    [
        ("settlement_state_check", "state = 'guessed'"),
        ("settlement_finished_check", "state = 'done'"),
        ("settlement_finished_check", "finished_at = now()"),
        ("settlement_short_check", "state = 'short'"),
        ("settlement_short_check", "short_points = 5"),
        ("settlement_short_check", "state = 'short', short_points = 0"),
        ("settlement_not_negative_check", "points = -1"),
    ],
)
def test_the_database_refuses_a_settlement_that_no_rule_would_write(
    client: FlaskClient, session: Session, campaign: Campaign, staff: Headers, constraint: str, change: str
) -> None:
    start(client, staff, campaign)
    with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
        session.execute(sa.text(f"UPDATE settlement SET {change}"))

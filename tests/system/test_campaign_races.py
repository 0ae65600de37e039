"""Simultaneous claims, check-ins and settlements: what may happen once happens once, and a naive budget is caught."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from district import COMMUNITY, REPOSITORY, District, code_of, environ_of
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.attendance import check_ins, codes, volunteering
from campaigns.attendance.models import CheckInSlot, PrintedCode, SlotKind
from campaigns.drives.models import Campaign, CampaignState, CampaignTask, RewardMode, TaskKind, TaskSubject
from campaigns.settlement import budget_requests, jobs, payments
from campaigns.settlement.models import BudgetRequest, Settlement, SettlementState
from points.ledger import budgets
from points.ledger.budgets import BudgetExhausted
from server.access import Actor, Role
from server.clock import business_day, now
from server.database import new_id

CLAIMS, PAID = 400, 200


@pytest.fixture
def quiet_district(district: District, make_database: Callable[[], str], tmp_path: Any) -> Iterator[District]:
    """A district that is not served, for sessions of the test's own; nobody else is in its database."""
    url = make_database()
    made = District(replace(district.settings, database_url=url, database_owner_url=url), tmp_path)
    yield made
    made.stop()


@dataclass(frozen=True)
class Drive:
    """A campaign with one task, everybody in `people` having completed it."""

    campaign_id: UUID
    task_id: UUID
    slot_id: UUID
    staff_id: UUID
    account_id: int
    people: list[UUID]


def a_drive(
    district: District,
    *,
    people: int,
    reward: int = 10,
    budget: int,
    mode: RewardMode = RewardMode.ON_COMPLETION,
    state: CampaignState = CampaignState.RUNNING,
    there: bool = True,
    **slot: Any,
) -> Drive:
    """A running campaign whose one task is checking in at its one slot."""
    staff_id = district.staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    residents = sorted(district.residents(people))
    instant, today = now(), business_day(now())
    campaign_id, task_id, slot_id = new_id(), new_id(), new_id()
    with district.session() as session:
        account_id = budgets.open_account(session, f"campaign:{campaign_id}", "活动")
        if budget:
            budgets.allot(session, account_id, budget, allotment_id=new_id(), now=instant)
        session.add(
            Campaign(
                id=campaign_id,
                title="低碳周",
                division=COMMUNITY,
                starts_on=today - timedelta(days=1),
                ends_on=today + timedelta(days=1),
                state=state,
                reward_mode=mode,
                account_id=account_id,
                terms_version=1,
                created_by=staff_id,
                created_at=instant,
                published_at=instant,
                running_at=instant,
                settling_at=instant,
            )
        )
        session.flush()
        session.add(
            CampaignTask(
                campaign_id=campaign_id,
                id=task_id,
                position=1,
                kind=TaskKind.CHECK_IN,
                subject=TaskSubject.PERSON,
                title="到场",
                target=1,
                reward_points=reward,
            )
        )
        session.add(
            CheckInSlot(
                **{
                    "id": slot_id,
                    "campaign_id": campaign_id,
                    "kind": SlotKind.VISIT,
                    "site_name": "广场",
                    "opens_at": instant - timedelta(hours=2),
                    "closes_at": instant + timedelta(hours=2),
                    "created_by": staff_id,
                    "created_at": instant,
                    **slot,
                }
            )
        )
        session.flush()
        session.execute(
            sa.text(
                "INSERT INTO participation (resident_id, campaign_id, community_code, joined_at) "
                "SELECT unnest(cast(:people AS uuid[])), :campaign, :community, now()"
            ),
            {"people": residents, "campaign": campaign_id, "community": COMMUNITY},
        )
        if there:
            session.execute(
                sa.text(
                    "INSERT INTO check_in (resident_id, slot_id, campaign_id, way, day, checked_in_at) SELECT "
                    "unnest(cast(:people AS uuid[])), :slot, :campaign, 'rotating', current_date, :instant"
                ),
                {"people": residents, "slot": slot_id, "campaign": campaign_id, "instant": instant},
            )
    return Drive(campaign_id, task_id, slot_id, staff_id, account_id, residents)


def resident(person: UUID) -> Actor:
    return Actor(id=person, role=Role.RESIDENT, session_id=new_id())


def claim_race(district: District, claims: int, paid: int) -> list[str]:
    """So many residents claim at once from a budget for some of them; whatever is not as it should be, in words."""
    drive = a_drive(district, people=claims, reward=10, budget=10 * paid)
    everybody = [district.sign_in(person) for person in drive.people]
    url = f"/api/v1/campaigns/{drive.campaign_id}/tasks/{drive.task_id}/claim"
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda headers: district.http.post(url, headers=headers), everybody))
    wrong = []
    found = Counter(code_of(answer) for answer in answers)
    if found != {"201": paid, "budget-exhausted": claims - paid}:
        wrong.append(f"answers {dict(found)}")
    written = district.value("SELECT count(*) FROM campaign_payment WHERE campaign_id = %s", drive.campaign_id)
    if written != paid:
        wrong.append(f"{written} payments out of a budget for {paid}")
    points = district.value(
        "SELECT coalesce(sum(remaining_points), 0) FROM lot WHERE resident_id = ANY(%s)", drive.people
    )
    if points != 10 * paid:
        wrong.append(f"{points} points out of a budget of {10 * paid}")
    return wrong + district.faults()


# The budget


def test_of_four_hundred_simultaneous_claims_on_a_budget_for_two_hundred_exactly_two_hundred_are_paid(
    district: District,
) -> None:
    assert claim_race(district, CLAIMS, PAID) == []


def test_a_budget_that_is_read_before_it_is_written_is_caught_by_the_same_race(serve_district: Any) -> None:
    with serve_district(factory="naive_budget:create_naive_app") as naive:
        wrong = claim_race(naive, 80, 40)
    assert any("payments out of a budget" in each or each.startswith("answers") for each in wrong), wrong
    assert any(each.startswith("allotted - paid + reversed") for each in wrong), wrong


@pytest.mark.parametrize("first_commits", [True, False])
def test_a_second_claim_waits_for_the_first_and_then_sees_what_it_left(
    quiet_district: District, first_commits: bool
) -> None:
    drive = a_drive(quiet_district, people=2, budget=10)

    def claim(session: Session, person: UUID) -> None:
        payments.claim(session, resident(person), drive.campaign_id, drive.task_id, now=now())

    def second() -> str:
        try:
            with quiet_district.session() as session:
                claim(session, drive.people[1])
        except BudgetExhausted:
            return "exhausted"
        return "paid"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            claim(first, drive.people[0])
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
            assert not later.done()
            if not first_commits:
                first.rollback()
        assert later.result(10) == ("exhausted" if first_commits else "paid")
    assert quiet_district.value("SELECT count(*) FROM campaign_payment") == 1
    assert quiet_district.faults() == []


def test_two_claims_of_one_resident_at_once_are_paid_once(quiet_district: District) -> None:
    drive = a_drive(quiet_district, people=1, budget=100)
    (person,) = drive.people

    def claim(session: Session) -> None:
        payments.claim(session, resident(person), drive.campaign_id, drive.task_id, now=now())

    def second() -> str:
        try:
            with quiet_district.session() as session:
                claim(session)
        except IntegrityError as error:
            return str(error.orig)
        return "paid"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            claim(first)
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert "campaign_payment_pkey" in later.result(10)
    assert quiet_district.value("SELECT budget_points FROM system_account WHERE id = %s", drive.account_id) == 90
    assert quiet_district.faults() == []


@pytest.mark.parametrize("write", ["absolute", "relative"])
def test_a_naive_payment_with_the_first_transaction_held_open_is_caught(quiet_district: District, write: str) -> None:
    drive = a_drive(quiet_district, people=2, budget=10)

    def naive_pay(connection: psycopg.Connection[Any], person: UUID) -> None:
        new = "0" if write == "absolute" else "budget_points - 10"
        connection.execute(f"UPDATE system_account SET budget_points = {new} WHERE id = %s", (drive.account_id,))
        connection.execute(
            "INSERT INTO transfer (resident_id, id, account_id, kind, points, expires_on, occurred_at, recorded_at) "
            "VALUES (%s, %s, %s, 'grant', 10, '2030-12-31', now(), now())",
            (person, new_id(), drive.account_id),
        )
        connection.execute("INSERT INTO lot VALUES (%s, '2030-12-31', 10)", (person,))
        connection.commit()

    with (
        quiet_district.connect(autocommit=False) as first,
        quiet_district.connect(autocommit=False) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        for connection in (first, second):
            row = connection.execute("SELECT budget_points FROM system_account WHERE id = %s", (drive.account_id,))
            assert row.fetchone() == (10,), "both see the whole budget"
        first.execute("SELECT 1 FROM system_account WHERE id = %s FOR UPDATE", (drive.account_id,))
        later = pool.submit(naive_pay, second, drive.people[1])
        quiet_district.wait_for_waiters()
        naive_pay(first, drive.people[0])
        if write == "relative":
            with pytest.raises(psycopg.errors.CheckViolation, match="system_account_budget_points_check"):
                later.result(10)
            second.rollback()
        else:
            later.result(10)
    faults = quiet_district.faults()
    assert (faults == []) == (write == "relative"), "only the table's CHECK kept the relative write from an overdraft"
    if write == "absolute":
        assert faults[0].startswith("allotted - paid + reversed")


def test_two_small_requests_of_one_officer_at_once_are_not_both_approved_alone(quiet_district: District) -> None:
    drive = a_drive(quiet_district, people=0, budget=0)
    officer = quiet_district.staff(Role.DISTRICT, division="120104")
    actor = Actor(id=officer, role=Role.DISTRICT, session_id=new_id(), division="120104")
    queue = quiet_district.app.extensions["tanpuhui_jobs"]

    def propose(session: Session) -> BudgetRequest:
        return budget_requests.propose(
            session, actor, drive.campaign_id, points=20_000, reason="奖励", jobs=queue, now=now()
        )

    def second() -> str:
        with quiet_district.session() as session:
            return propose(session).state.value

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            assert propose(first).state.value == "approved"
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == "proposed"
    assert quiet_district.value("SELECT budget_points FROM system_account WHERE id = %s", drive.account_id) == 20_000
    assert quiet_district.faults() == []


# Checking in


def test_the_last_place_of_a_slot_is_given_once(quiet_district: District) -> None:
    drive = a_drive(quiet_district, people=2, budget=0, there=False, capacity=1, taken=0)
    key = quiet_district.settings.data_key
    code = codes.screen_code(key, drive.campaign_id, drive.slot_id, use=codes.CodeUse.CHECK_IN, now=now()).text

    def check_in(session: Session, person: UUID) -> None:
        check_ins.check_in(session, resident(person), drive.campaign_id, code, place=None, data_key=key, now=now())

    def second() -> str:
        try:
            with quiet_district.session() as session:
                check_in(session, drive.people[1])
        except check_ins.SlotFull:
            return "full"
        return "in"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            check_in(first, drive.people[0])
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == "full"
    assert quiet_district.value("SELECT count(*) FROM check_in") == 1


def test_a_printed_code_in_two_hands_is_used_once(quiet_district: District) -> None:
    drive = a_drive(quiet_district, people=2, budget=0, there=False)
    key, code = quiet_district.settings.data_key, codes.new_printed_code()
    with quiet_district.session() as session:
        hashed = codes.printed_hash(key, code)
        session.add(PrintedCode(code_hash=hashed, slot_id=drive.slot_id, printed_by=drive.staff_id, printed_at=now()))

    def check_in(session: Session, person: UUID) -> None:
        check_ins.check_in(session, resident(person), drive.campaign_id, code, place=None, data_key=key, now=now())

    def second() -> str:
        try:
            with quiet_district.session() as session:
                check_in(session, drive.people[1])
        except check_ins.PrintedCodeUsed:
            return "used"
        return "in"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            check_in(first, drive.people[0])
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == "used"
    assert quiet_district.value("SELECT count(*) FROM check_in") == 1


def test_two_sign_outs_of_one_day_at_once_stay_under_its_cap(quiet_district: District) -> None:
    (person,) = quiet_district.residents(1)
    today = business_day(now())

    def second() -> int:
        with quiet_district.session() as session:
            return volunteering.add_minutes(session, person, today, 300)

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            assert volunteering.add_minutes(first, person, today, 300) == 300
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == 180
    assert quiet_district.value("SELECT minutes FROM volunteer_day WHERE resident_id = %s", person) == 480


# The settlement

WORKER = """
import sys
from campaigns.settlement import jobs
from wsgi import create_app
jobs.CHUNK_RESIDENTS = int(sys.argv[2])
with create_app().app_context():
    jobs.settle(sys.argv[1])
"""


def a_worker(district: District, drive: Drive, chunk: int) -> subprocess.Popen[bytes]:
    """A process that does the job of settling, in its own time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TANPUHUI", "PYTEST"))}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(drive.campaign_id), str(chunk)],
        cwd=REPOSITORY,
        env={**kept, **environ_of(district.settings), "LOG_LEVEL": "ERROR", "PYTHONPATH": str(REPOSITORY)},
    )


def a_settling_drive(district: District, people: int) -> Drive:
    drive = a_drive(
        district, people=people, budget=10 * people, mode=RewardMode.AT_SETTLEMENT, state=CampaignState.SETTLING
    )
    with district.session() as session:
        session.add(
            Settlement(
                campaign_id=drive.campaign_id,
                state=SettlementState.QUEUED,
                requested_at=now(),
                residents=0,
                payments=0,
                points=0,
            )
        )
    return drive


def paid_each(district: District) -> dict[int, int]:
    """How many residents hold how many points."""
    with district.connect() as connection:
        rows = connection.execute("SELECT remaining_points, count(*) FROM lot GROUP BY 1").fetchall()
    return dict(rows)


def test_a_settlement_killed_half_way_and_run_again_pays_everybody_once(quiet_district: District) -> None:
    drive = a_settling_drive(quiet_district, 600)
    progress = "SELECT residents FROM settlement"
    for stop_after in (1, 250):
        worker = a_worker(quiet_district, drive, 5)
        deadline = time.monotonic() + 30
        while quiet_district.value(progress) < stop_after:
            assert worker.poll() is None
            assert time.monotonic() < deadline
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert 0 < quiet_district.value(progress) < 600, "killed in the middle"
        assert paid_each(quiet_district) == {10: quiet_district.value(progress)}
        assert quiet_district.faults() == []
    assert quiet_district.value("SELECT state FROM settlement") == "running"
    with quiet_district.app.app_context():
        jobs.settle(str(drive.campaign_id))
        jobs.settle(str(drive.campaign_id))
    assert paid_each(quiet_district) == {10: 600}
    assert quiet_district.value("SELECT count(*) FROM campaign_payment") == 600
    assert quiet_district.value("SELECT count(*) FROM transfer") == 600
    assert quiet_district.value("SELECT state FROM campaign") == "closed"
    assert quiet_district.faults() == []


def test_three_workers_over_one_settlement_pay_everybody_once(quiet_district: District) -> None:
    drive = a_settling_drive(quiet_district, 300)
    workers = [a_worker(quiet_district, drive, 5) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert paid_each(quiet_district) == {10: 300}
    with quiet_district.connect() as connection:
        row = connection.execute("SELECT state, residents, payments, points FROM settlement").fetchone()
    assert row == ("done", 300, 300, 3_000)
    assert quiet_district.faults() == []

"""Simultaneous calls to the served application: what must happen once happens once, and the naive way is caught.

Each race comes twice where it can: many calls over HTTP, and two real connections with the first transaction held open,
where nothing depends on luck.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
import sqlalchemy as sa
from district import District, code_of, drop, simultaneously, walk, yesterday

from points.earning.award import award
from points.earning.claims import Claim, Reason
from points.earning.models import Behaviour, Grade
from points.ledger import entries
from points.ledger.models import REDEMPTION, Lot, Transfer, TransferKind
from points.partners import feed
from points.partners.models import Partner
from points.rewards import redemption
from server.access import Role
from server.clock import now
from server.database import new_id
from server.people import sessions

SPENDERS = 50
PRICE = 100


def spend_race(district: District, residents: int) -> list[str]:
    """Eight simultaneous spends of each resident's whole balance; whatever is not one spend each, in words."""
    reward = district.reward(cost=PRICE, stock=1_000_000)
    wrong = []
    for person in district.residents(residents, points=PRICE):
        headers = district.sign_in(person)
        answers = simultaneously([lambda headers=headers: district.spend(headers, reward)] * 8)
        codes = Counter(code_of(answer) for answer in answers)
        if codes != {"201": 1, "insufficient-points": 7}:
            wrong.append(f"answers {dict(codes)}")
    spent = district.value("SELECT count(*) FROM redemption WHERE reward_id = %s", reward)
    if spent != residents:
        wrong.append(f"{spent} redemptions by {residents} residents")
    return wrong + district.faults()


@pytest.fixture
def quiet_district(district: District, make_database: Callable[[], str], tmp_path: Any) -> Iterator[District]:
    """A district that is not served, for sessions of the test's own; nobody else is in its database."""
    url = make_database()
    made = District(replace(district.settings, database_url=url, database_owner_url=url), tmp_path)
    yield made
    made.stop()


def test_of_eight_simultaneous_spends_of_a_whole_balance_one_succeeds(district: District) -> None:
    assert spend_race(district, SPENDERS) == []


def test_a_spend_that_reads_before_it_writes_is_caught_over_http(serve_district: Any) -> None:
    with serve_district(factory="unlimited:create_naive_app") as naive:
        wrong = spend_race(naive, 10)
    assert any(each.startswith("answers") for each in wrong), wrong
    assert any(each.startswith("lots - debt = transfers") for each in wrong), wrong


@pytest.mark.parametrize("write", ["absolute", "relative"])
def test_a_naive_spend_with_the_first_transaction_held_open_is_caught(quiet_district: District, write: str) -> None:
    (person,) = quiet_district.residents(1, points=PRICE)

    def naive_read(connection: psycopg.Connection[Any]) -> int:
        row = connection.execute("SELECT sum(remaining_points) FROM lot WHERE resident_id = %s", (person,)).fetchone()
        assert row is not None
        return int(row[0])

    def naive_write(connection: psycopg.Connection[Any], balance: int) -> None:
        new = "%s - 100" if write == "absolute" else "remaining_points - 100 + 0 * %s"
        transfer = new_id()
        row = connection.execute(
            f"UPDATE lot SET remaining_points = {new} WHERE resident_id = %s RETURNING expires_on", (balance, person)
        ).fetchone()
        assert row is not None
        connection.execute(
            "INSERT INTO transfer (resident_id, id, account_id, kind, points, occurred_at, recorded_at) "
            "VALUES (%s, %s, %s, 'spend', -100, now(), now())",
            (person, transfer, REDEMPTION),
        )
        connection.execute("INSERT INTO lot_draw VALUES (%s, %s, %s, 100)", (person, transfer, row[0]))
        connection.commit()

    with (
        quiet_district.connect(autocommit=False) as first,
        quiet_district.connect(autocommit=False) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        seen = naive_read(first), naive_read(second)
        assert seen == (PRICE, PRICE), "both see the whole balance"
        first.execute("SELECT 1 FROM lot WHERE resident_id = %s FOR UPDATE", (person,))
        later = pool.submit(naive_write, second, seen[1])
        quiet_district.wait_for_waiters()
        naive_write(first, seen[0])
        if write == "relative":
            with pytest.raises(psycopg.errors.CheckViolation, match="lot_remaining_points_check"):
                later.result(10)
            second.rollback()
        else:
            later.result(10)
    faults = quiet_district.faults()
    assert (faults == []) == (write == "relative"), "only the table's CHECK kept the relative write from a double spend"
    if write == "absolute":
        assert faults[0].startswith("lots - debt = transfers")


@pytest.mark.parametrize("first_commits", [True, False])
def test_a_second_spend_waits_for_the_first_and_then_sees_what_it_left(
    quiet_district: District, first_commits: bool
) -> None:
    (person,) = quiet_district.residents(1, points=PRICE)

    def spend(session: Any) -> None:
        entries.spend(session, person, new_id(), PRICE, account_id=REDEMPTION, reason="test", now=now())

    def second() -> str:
        try:
            with quiet_district.session() as session:
                spend(session)
        except entries.InsufficientPoints:
            return "refused"
        return "spent"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            spend(first)
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
            if not first_commits:
                first.rollback()
        assert later.result(10) == ("refused" if first_commits else "spent")
    assert quiet_district.faults() == []
    assert quiet_district.value("SELECT count(*) FROM transfer WHERE kind = 'spend'") == 1


def test_forty_simultaneous_events_never_pass_the_cap_of_the_day(district: District) -> None:
    (person,) = district.residents(1)
    partner = district.partner()
    (member,) = district.bind([person], partner[0])

    answers = simultaneously(
        [lambda n=n: district.push(partner, [drop(member, f"e-{n}", minute=n)]) for n in range(40)]
    )

    assert {answer.status_code for answer in answers} == {200}
    assert sum(answer.json()["points"] for answer in answers) == 20
    assert district.value("SELECT sum(points) FROM transfer WHERE resident_id = %s", person) == 20
    assert district.value("SELECT count(*) FROM activity WHERE resident_id = %s", person) == 40
    assert district.faults() == []


def test_forty_simultaneous_walks_by_hand_never_pass_the_cap_of_the_day(district: District) -> None:
    (person,) = district.residents(1)
    headers = district.sign_in(person)

    answers = simultaneously(
        [
            lambda n=n: district.http.post("/api/v1/me/activities/trips", json=walk(n), headers=headers)
            for n in range(40)
        ]
    )

    assert {answer.status_code for answer in answers} == {201}
    assert sum(answer.json()["points"] for answer in answers) == 20
    assert district.faults() == []


def claim_of(person: UUID, external_id: str, minute: int = 0) -> Claim:
    at = yesterday(8, minute)
    return Claim(
        resident_id=person,
        behaviour=Behaviour.SORTING,
        mode="hazardous",
        grade=Grade.PARTNER_SIGNED,
        source="test",
        external_id=external_id,
        started_at=at,
        ended_at=at,
        received_at=now(),
    )


def test_a_second_award_waits_for_the_first_and_gets_what_the_cap_leaves(quiet_district: District) -> None:
    (person,) = quiet_district.residents(1)

    def second() -> list[int]:
        with quiet_district.session() as session:
            return [
                each.points
                for each in award(session, [claim_of(person, "b1", 7), claim_of(person, "b2", 8)], now=now())
            ]

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            award(first, [claim_of(person, "a1")], now=now())
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == [10, 0], "10 of 20 were taken"
    assert quiet_district.faults() == []


def test_forty_simultaneous_buyers_never_take_more_than_the_stock(district: District) -> None:
    reward = district.reward(cost=10, stock=5)
    buyers = [district.sign_in(person) for person in district.residents(40, points=10)]

    answers = simultaneously([lambda headers=headers: district.spend(headers, reward) for headers in buyers])

    assert Counter(code_of(answer) for answer in answers) == {"201": 5, "out-of-stock": 35}
    assert district.value("SELECT stock FROM reward WHERE id = %s", reward) == 0
    assert district.value("SELECT count(*) FROM redemption WHERE reward_id = %s", reward) == 5
    assert district.faults() == []


def test_the_second_buyer_of_the_last_piece_waits_and_is_refused(quiet_district: District) -> None:
    reward = quiet_district.reward(cost=10, stock=1)
    early, late = quiet_district.residents(2, points=10)

    def second() -> str:
        try:
            with quiet_district.session() as session:
                redemption.redeem(session, late, reward, now=now())
        except redemption.OutOfStock:
            return "refused"
        return "sold"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            redemption.redeem(first, early, reward, now=now())
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == "refused"
    assert quiet_district.faults() == []


def test_fifty_simultaneous_posts_under_one_key_have_one_effect(district: District) -> None:
    reward = district.reward(cost=1, stock=1000)
    (person,) = district.residents(1, points=1000)
    headers = district.sign_in(person)

    answers = simultaneously([lambda: district.spend(headers, reward, "one-and-the-same-key")] * 50)

    codes = Counter(code_of(answer) for answer in answers)
    assert set(codes) <= {"201", "request-still-running"}
    assert codes["201"] >= 1
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers if answer.status_code == 201) == 1
    assert district.value("SELECT count(*) FROM redemption WHERE resident_id = %s", person) == 1
    assert district.value("SELECT sum(remaining_points) FROM lot WHERE resident_id = %s", person) == 999
    assert district.faults() == []


def test_simultaneous_identical_batches_have_one_effect(district: District) -> None:
    people = district.residents(20)
    partner = district.partner()
    events = [drop(member, f"e-{member}") for member in district.bind(people, partner[0])]

    answers = simultaneously([lambda: district.push(partner, events, "batch-1")] * 8)

    assert {code_of(answer) for answer in answers} <= {"200", "batch-running"}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert district.value("SELECT count(*) FROM activity WHERE source = %s", partner[0]) == 20
    assert district.value("SELECT taken_points FROM partner_day WHERE partner_code = %s", partner[0]) == 100
    assert district.push(partner, events, "batch-1").json()["counts"] == {"awarded": 20}, "the first answer again"
    assert district.faults() == []


def test_a_batch_sent_again_while_the_first_still_runs_is_told_so(district: District) -> None:
    people = district.residents(1)
    partner = district.partner()
    (member,) = district.bind(people, partner[0])
    events = [drop(member, "e-1")]
    with ThreadPoolExecutor(1) as pool, district.connect(autocommit=False) as holder:
        holder.execute("SELECT 1 FROM partner WHERE code = %s", (partner[0],))
        holder.execute(
            "INSERT INTO partner_day VALUES (%s, (now() AT TIME ZONE 'Asia/Shanghai')::date, 1000000, 0)", (partner[0],)
        )
        first = pool.submit(district.push, partner, events, "batch-2")
        district.wait_for_waiters()
        assert code_of(district.push(partner, events, "batch-2")) == "batch-running"
        holder.rollback()
        assert first.result(10).json()["counts"] == {"awarded": 1}
    assert district.push(partner, events, "batch-2").content == first.result().content


def test_one_event_in_two_simultaneous_batches_is_awarded_once(district: District) -> None:
    people = district.residents(30)
    partner = district.partner()
    events = [drop(member, f"e-{member}") for member in district.bind(people, partner[0])]

    answers = simultaneously([lambda n=n: district.push(partner, events, f"batch-{n}") for n in range(6)])

    assert {answer.status_code for answer in answers} == {200}
    outcomes: Counter[str] = Counter()
    for answer in answers:
        outcomes.update(answer.json()["counts"])
    assert outcomes == {"awarded": 30, "duplicate": 150}
    assert district.faults() == []


def test_an_event_whose_first_award_is_not_committed_yet_waits_and_is_a_duplicate(quiet_district: District) -> None:
    (person,) = quiet_district.residents(1)

    def second() -> list[Reason | None]:
        with quiet_district.session() as session:
            return [each.reason for each in award(session, [claim_of(person, "same")], now=now())]

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            award(first, [claim_of(person, "same")], now=now())
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == [Reason.DUPLICATE]
    assert quiet_district.faults() == []


def test_simultaneous_batches_never_take_more_than_the_partners_budget(district: District) -> None:
    people = district.residents(12)
    partner = district.partner(budget=20)
    members = district.bind(people, partner[0])

    answers = simultaneously([lambda m=m: district.push(partner, [drop(m, f"e-{m}")]) for m in members])

    assert {answer.status_code for answer in answers} == {200}
    paid = sum(answer.json()["points"] for answer in answers)
    assert paid == 20
    assert district.value("SELECT taken_points FROM partner_day WHERE partner_code = %s", partner[0]) == paid
    assert district.faults() == []


def test_the_second_of_two_batches_sees_what_the_first_left_of_the_budget(quiet_district: District) -> None:
    people = quiet_district.residents(2)
    code, _ = quiet_district.partner(budget=5)
    early, late = quiet_district.bind(people, code)

    def take(session: Any, member: str) -> dict[str, Any]:
        body = msgspec.json.encode(drop(member, f"e-{member}"))
        partner = session.get(Partner, code)
        found: dict[str, Any] = msgspec.json.decode(feed.take_in(session, partner, f"b-{member}", body, now=now()))
        return found

    def second() -> dict[str, Any]:
        with quiet_district.session() as session:
            return take(session, late)

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            assert take(first, early)["points"] == 5
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10)["reasons"] == {"partner-budget-exhausted": 1}
    assert quiet_district.faults() == []


def test_simultaneous_refreshes_of_one_token_give_one_next_generation(district: District) -> None:
    (person,) = district.residents(1)
    tokens = district.tokens_of(person)
    headers = {"Authorization": f"Bearer {tokens.refresh_token}"}

    answers = simultaneously([lambda: district.http.post("/api/v1/sign-in/refresh", headers=headers)] * 2)

    assert [answer.status_code for answer in answers] == [200, 200]
    state = "SELECT generation || ' ' || (ended_at IS NULL) FROM sign_in WHERE person_id = %s"
    assert district.value(state, person) == "1 true"
    for answer in answers:
        access = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert district.http.get("/api/v1/me", headers=access).status_code == 200
    # The two phones now hold the same generation: only one of them can go on, the other falls into the grace too.
    following = [{"Authorization": f"Bearer {answer.json()['refresh_token']}"} for answer in answers]
    again = [district.http.post("/api/v1/sign-in/refresh", headers=each).status_code for each in following]
    assert again == [200, 200]
    assert district.value(state, person) == "2 true"


def test_a_refresh_waits_for_one_that_is_not_committed_and_gets_the_same_generation(quiet_district: District) -> None:
    (person,) = quiet_district.residents(1)
    with quiet_district.session() as session:
        sessions.begin(session, person, is_resident=True, now=now())
    sign_in = quiet_district.value("SELECT id FROM sign_in")
    claims = {"sub": str(person), "sid": str(sign_in), "gen": 0, "res": True}

    def second() -> bool:
        with quiet_district.session() as session:
            return sessions.refresh(session, claims, now=now()) is not None

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            assert sessions.refresh(first, claims, now=now()) is not None
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) is True
    assert quiet_district.value("SELECT generation FROM sign_in") == 1


def test_simultaneous_reversals_of_one_spend_undo_it_once(district: District) -> None:
    reward = district.reward(cost=40, stock=10)
    (person,) = district.residents(1, points=100)
    spent = district.spend(district.sign_in(person), reward).json()["id"]
    office = district.sign_in(district.staff(Role.DISTRICT, division="120104"), is_resident=False)

    def reverse() -> Any:
        keyed = {**office, "Idempotency-Key": secrets.token_hex(8)}
        address = f"/api/v1/residents/{person}/transfers/{spent}/reversal"
        return district.http.post(address, json={"reason": "打印机坏了"}, headers=keyed)

    answers = simultaneously([reverse] * 8)

    assert Counter(code_of(answer) for answer in answers) == {"201": 1, "already-reversed": 7}
    assert district.value("SELECT sum(remaining_points) FROM lot WHERE resident_id = %s", person) == 100
    assert district.faults() == []


def test_a_second_reversal_waits_for_the_first_and_is_refused(quiet_district: District) -> None:
    (person,) = quiet_district.residents(1, points=100)
    with quiet_district.session() as session:
        granted = session.scalar(sa.select(Transfer.id).where(Transfer.kind == TransferKind.GRANT))
    assert granted is not None

    def second() -> str:
        try:
            with quiet_district.session() as session:
                entries.reverse(session, person, granted, reason="again", now=now())
        except sa.exc.IntegrityError as error:
            return str(error.orig.diag.constraint_name)  # type: ignore[union-attr]
        return "reversed"

    with ThreadPoolExecutor(1) as pool:
        with quiet_district.session() as first:
            entries.reverse(first, person, granted, reason="once", now=now())
            later = pool.submit(second)
            quiet_district.wait_for_waiters()
        assert later.result(10) == "transfer_reverses_key"
    assert quiet_district.faults() == []
    with quiet_district.session() as session:
        assert session.scalars(sa.select(Lot.remaining_points)).all() == [0]


def test_two_simultaneous_first_sign_ins_of_one_person_make_one_resident(district: District, standin: Any) -> None:
    codes = [standin.login("twice") for _ in range(6)]

    answers = simultaneously(
        [
            lambda code=code: district.http.post("/api/v1/sign-in/wechat", json={"code": code, "accept_terms": True})
            for code in codes
        ]
    )

    assert [answer.status_code for answer in answers] == [200] * 6
    assert sum(answer.json()["is_new"] for answer in answers) == 1
    district.tokens += [answer.json()["access_token"] for answer in answers]
    assert district.value("SELECT count(*) FROM wechat_identity") == 1
    assert district.value("SELECT count(*) FROM consent WHERE purpose = 'terms'") == 1


def test_trips_that_overlap_in_time_are_paid_once_however_they_arrive(district: District) -> None:
    (person,) = district.residents(1)
    headers = district.sign_in(person)
    start = yesterday(20)
    body = {
        "mode": "walk",
        "started_at": start.isoformat(),
        "ended_at": (start + timedelta(minutes=20)).isoformat(),
        "distance_m": 1500,
    }

    answers = simultaneously(
        [lambda: district.http.post("/api/v1/me/activities/trips", json=body, headers=headers)] * 12
    )

    assert Counter((answer.status_code, answer.json()["reason"]) for answer in answers) == {
        (201, None): 1,
        (201, "overlaps-another-trip"): 11,
    }
    assert district.faults() == []

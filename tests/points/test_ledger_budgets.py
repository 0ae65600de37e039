"""Budgets: never overdrawn, paid to one resident or thousands in two statements, and provable from their journal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from uuid import UUID

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from points_builders import NOON, balances, generated, owner, points_of, resident, transferred, wrong
from psycopg.errors import InsufficientPrivilege, RestrictViolation
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from points.ledger import budgets, entries
from points.ledger.budgets import BudgetExhausted, Payment
from points.ledger.models import ISSUANCE, REDEMPTION, Transfer, TransferKind
from server.database import new_id

YEAR_END = date(2027, 12, 31)
BUDGET = "allotted - paid + reversed = what a budget holds"


@pytest.fixture
def account(session: Session) -> int:
    """A budget of 100 points."""
    made = budgets.open_account(session, "campaign:test", "测试活动")
    budgets.allot(session, made, 100, allotment_id=new_id(), now=NOON)
    session.commit()
    return made


def payment(resident_id: UUID, points: int = 10, transfer_id: UUID | None = None) -> Payment:
    return Payment(resident_id, transfer_id or new_id(), points, "步行周 · 走够 5 公里")


def pay(session: Session, account: int, *payments: Payment) -> list[UUID]:
    return budgets.pay(session, payments, account_id=account, expires_on=YEAR_END, now=NOON)


@contextmanager
def counted_statements(session: Session) -> Iterator[list[str]]:
    seen: list[str] = []
    connection = session.connection()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(connection, "before_cursor_execute", note)
    yield seen
    sa.event.remove(connection, "before_cursor_execute", note)


def test_a_payment_is_a_grant_from_the_budget_into_the_lot_of_its_day(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    (paid,) = pay(session, account, payment(person, 30))
    transfer = session.get_one(Transfer, (person, paid))
    assert (transfer.kind, transfer.points, transfer.account_id) == (TransferKind.GRANT, 30, account)
    assert (transfer.expires_on, transfer.reason) == (YEAR_END, "步行周 · 走够 5 公里")
    assert balances(session, person) == ({YEAR_END: 30}, 0)
    assert budgets.held_by(session, account) == 70
    assert wrong(session) == {}


@pytest.mark.parametrize("count", [1, 500])
def test_one_payment_and_five_hundred_take_the_same_two_statements(session: Session, account: int, count: int) -> None:
    people = [resident(session) for _ in range(count)]
    budgets.allot(session, account, 10_000, allotment_id=new_id(), now=NOON)
    with counted_statements(session) as seen:
        paid = pay(session, account, *(payment(person, 2) for person in people))
    assert (len(paid), len(seen)) == (count, 2)
    assert budgets.held_by(session, account) == 10_100 - 2 * count
    assert {tuple(balances(session, person)[0].values()) for person in people} == {(2,)}
    assert wrong(session) == {}


def test_a_payment_above_what_is_left_pays_nobody(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    first, second = make_resident(), make_resident()
    with pytest.raises(BudgetExhausted), session.begin_nested():
        pay(session, account, payment(first, 60), payment(second, 41))
    assert balances(session, first) == balances(session, second) == ({}, 0)
    assert len(pay(session, account, payment(first, 60), payment(second, 40))) == 2
    assert budgets.held_by(session, account) == 0
    assert wrong(session) == {}


def test_accounts_that_are_no_budgets_pay_nothing(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    for other in (ISSUANCE, REDEMPTION, account + 1000):
        with pytest.raises(BudgetExhausted), session.begin_nested():
            pay(session, other, payment(person))
    with pytest.raises(ValueError, match="no budget"), session.begin_nested():
        budgets.allot(session, ISSUANCE, 5, allotment_id=new_id(), now=NOON)


def test_the_same_transfer_again_pays_nothing_and_costs_the_budget_nothing(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    person, other = make_resident(), make_resident()
    once = payment(person, 30)
    fresh = payment(other, 5)
    assert pay(session, account, once) == [once.transfer_id]
    assert pay(session, account, once, fresh) == [fresh.transfer_id]
    assert balances(session, person) == ({YEAR_END: 30}, 0)
    assert budgets.held_by(session, account) == 65
    assert wrong(session) == {}


def test_a_debt_is_paid_out_of_a_payment_first(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    granted = entries.grant(session, person, 20, account_id=ISSUANCE, expires_on=YEAR_END, reason="test", now=NOON)
    entries.spend(session, person, new_id(), 20, account_id=REDEMPTION, reason="test", now=NOON)
    entries.reverse(session, person, granted, reason="mistake", now=NOON)
    # Two payments of one batch to one resident, of which the debt eats the first and part of the second.
    pay(session, account, payment(person, 15), payment(person, 15))
    assert balances(session, person) == ({YEAR_END: 10}, 0)
    assert transferred(session, person) == 10
    assert wrong(session) == {}


def test_a_reversed_payment_is_the_budgets_again_even_when_the_resident_has_spent_it(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    (paid,) = pay(session, account, payment(person, 30))
    entries.spend(session, person, new_id(), 25, account_id=REDEMPTION, reason="test", now=NOON)
    entries.reverse(session, person, paid, reason="false check-in", now=NOON)
    assert balances(session, person) == ({}, 25)
    assert budgets.held_by(session, account) == 100
    assert wrong(session) == {}


def test_the_reversal_of_anything_else_leaves_every_budget_alone(
    session: Session, account: int, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    granted = entries.grant(session, person, 20, account_id=ISSUANCE, expires_on=YEAR_END, reason="test", now=NOON)
    entries.reverse(session, person, granted, reason="mistake", now=NOON)
    assert session.scalar(sa.text("SELECT budget_points FROM system_account WHERE id = 1")) is None
    assert budgets.held_by(session, account) == 100


def test_an_allotment_is_made_once_and_is_of_at_least_a_point(session: Session, account: int) -> None:
    decision = new_id()
    assert budgets.allot(session, account, 50, allotment_id=decision, now=NOON) == 150
    with pytest.raises(IntegrityError, match="budget_allotment_pkey"), session.begin_nested():
        budgets.allot(session, account, 50, allotment_id=decision, now=NOON)
    for points in (0, -1, budgets.ALLOTMENT_POINTS_MAX + 1):
        with pytest.raises(ValueError, match="allotment"):
            budgets.allot(session, account, points, allotment_id=new_id(), now=NOON)
    assert budgets.held_by(session, account) == 150


def test_payments_have_bounds(session: Session, account: int, make_resident: Callable[..., UUID]) -> None:
    person = make_resident()
    assert pay(session, account) == []
    with pytest.raises(ValueError, match="at least one point"):
        pay(session, account, payment(person, 0))
    with pytest.raises(ValueError, match="at most"):
        pay(session, account, *[payment(person, 1)] * (budgets.PAYMENTS_MAX + 1))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allot"), st.integers(1, 60)),
        st.tuples(st.just("pay"), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=4)),
        st.tuples(st.just("spend"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.just("reverse"), st.integers(0, 30)),
        st.tuples(st.just("award"), st.integers(0, 2), st.integers(1, 20)),
    ),
    min_size=1,
    max_size=14,
)


@settings(generated, max_examples=60)
@given(steps=STEPS)
def test_any_sequence_keeps_budget_and_ledger_whole(
    session: Session, account: int, steps: list[tuple[object, ...]]
) -> None:
    savepoint = session.begin_nested()
    people = [resident(session) for _ in range(3)]
    held, instant, made, undone = 100, NOON, list[tuple[UUID, UUID, int]](), set[UUID]()
    for name, *values in steps:
        match name, values:
            case "allot", [int(points)]:
                held += points
                assert budgets.allot(session, account, points, allotment_id=new_id(), now=NOON) == held
            case "pay", [list(wanted)]:
                payments = [payment(people[who], points) for who, points in wanted]
                total = sum(each.points for each in payments)
                inner = session.begin_nested()
                if total > held:
                    with pytest.raises(BudgetExhausted):
                        pay(session, account, *payments)
                    inner.rollback()
                else:
                    assert len(pay(session, account, *payments)) == len(payments)
                    inner.commit()
                    held -= total
                    made += [(each.resident_id, each.transfer_id, each.points) for each in payments]
            case "spend", [int(who), int(points)]:
                inner = session.begin_nested()
                try:
                    entries.spend(
                        session, people[who], new_id(), points, account_id=REDEMPTION, reason="test", now=NOON
                    )
                    inner.commit()
                except entries.InsufficientPoints:
                    inner.rollback()
            case "reverse", [int(which)] if made:
                person, transfer_id, points = made[which % len(made)]
                if transfer_id not in undone:
                    undone.add(transfer_id)
                    entries.reverse(session, person, transfer_id, reason="test", now=NOON)
                    held += points
            case "award", [int(who), int(points)]:
                points_of(session, people[who], now=instant, points=points)
                instant += timedelta(minutes=2)
        assert budgets.held_by(session, account) == held
    assert wrong(session) == {}
    savepoint.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE system_account SET budget_points = budget_points + 1 WHERE id = {account}",
        "UPDATE system_account SET budget_points = NULL WHERE id = {account}",
        "DELETE FROM budget_allotment WHERE account_id = {account}",
        "UPDATE budget_allotment SET points = points - 1 WHERE account_id = {account}",
    ],
)
def test_the_budgets_check_fails_on_a_broken_row(
    session: Session, account: int, make_resident: Callable[..., UUID], statement: str
) -> None:
    pay(session, account, payment(make_resident(), 30))
    assert wrong(session) == {}
    with owner(session, unguarded=True):
        session.execute(sa.text(statement.format(account=account)))
    found = wrong(session)
    assert found.keys() == {BUDGET}
    assert found[BUDGET]["id"] == account


def test_a_budget_cannot_be_overdrawn_through_sql(session: Session, account: int) -> None:
    with pytest.raises(IntegrityError, match="system_account_budget_points_check"), session.begin_nested():
        session.execute(
            sa.text("UPDATE system_account SET budget_points = budget_points - 101 WHERE id = :id"), {"id": account}
        )


@pytest.mark.parametrize(
    "statement",
    ["UPDATE budget_allotment SET points = 1", "DELETE FROM budget_allotment", "TRUNCATE budget_allotment"],
)
@pytest.mark.usefixtures("account")
def test_the_journal_of_allotments_cannot_be_changed_by_the_application_nor_by_its_owner(
    session: Session, statement: str
) -> None:
    with pytest.raises(DBAPIError) as refused, session.begin_nested():
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, InsufficientPrivilege)
    with pytest.raises(DBAPIError) as refused, session.begin_nested(), owner(session):
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, RestrictViolation)

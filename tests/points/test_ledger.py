"""The ledger by its properties: any sequence of movements keeps it whole, and every check can fail."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import given, settings
from points_builders import NOON, balances, generated, owner, points_of, resident, transferred, wrong
from psycopg.errors import CheckViolation, InsufficientPrivilege, RestrictViolation, UniqueViolation
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from points.earning import counts
from points.ledger import entries, wallet
from points.ledger.entries import InsufficientPoints, NotReversible
from points.ledger.models import ISSUANCE, REDEMPTION, LotDraw, Transfer, TransferKind
from server import audit
from server.clock import business_day, now
from server.database import db, new_id
from server.errors import NotFound
from server.people.models import Resident
from server.settings import Settings
from wsgi import create_app

TODAY = NOON.date()
YEAR_END = date(2027, 12, 31)


def spend(session: Session, resident_id: UUID, points: int, *, now: datetime = NOON) -> UUID:
    transfer_id = new_id()
    entries.spend(session, resident_id, transfer_id, points, account_id=REDEMPTION, reason="test", now=now)
    return transfer_id


def grant(session: Session, resident_id: UUID, points: int, expires_on: date, *, now: datetime = NOON) -> UUID:
    return entries.grant(
        session, resident_id, points, account_id=ISSUANCE, expires_on=expires_on, reason="test", now=now
    )


def draws_of(session: Session, transfer_id: UUID) -> dict[date, int]:
    rows = session.execute(sa.select(LotDraw.expires_on, LotDraw.points).where(LotDraw.transfer_id == transfer_id))
    return dict(rows.all())


# Any sequence


@dataclass
class Book:
    """What one resident's lots and debt must be, kept by the plainest arithmetic."""

    lots: dict[date, int] = field(default_factory=dict)
    debt: int = 0

    def earn(self, day: date, points: int) -> None:
        paid = min(self.debt, points)
        self.debt -= paid
        self.lots[day] = self.lots.get(day, 0) + points - paid

    def take(self, points: int, today: date, own: date | None = None) -> dict[date, int]:
        """Take up to `points`: of the own lot first, then of the living ones, the oldest first."""
        order = [day for day in sorted(self.lots) if day >= today and day != own]
        taken = {}
        for day in ([own] if own in self.lots else []) + order:
            part = min(self.lots[day], points - sum(taken.values()))
            if part:
                taken[day] = part
                self.lots[day] -= part
        return taken

    def settle(self, today: date) -> None:
        self.debt -= sum(self.take(self.debt, today).values())

    def give_back(self, draws: dict[date, int], today: date) -> None:
        """Each lot gets its own back; ended ones live a little longer; a debt takes from what ends last."""
        back: dict[date, int] = {}
        for day, points in draws.items():
            living = day if day >= today else today + entries.RETURN_GRACE
            back[living] = back.get(living, 0) + points
        for day in sorted(back, reverse=True):
            self.earn(day, back[day])

    def living(self, today: date) -> int:
        return sum(points for day, points in self.lots.items() if day >= today)

    def shown(self) -> tuple[dict[date, int], int]:
        return {day: points for day, points in sorted(self.lots.items()) if points}, self.debt


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("award"), st.integers(1, 20)),
        st.tuples(st.just("grant"), st.integers(1, 40), st.sampled_from([0, 3, 40, 500])),
        st.tuples(st.just("spend"), st.integers(1, 60)),
        st.tuples(st.just("reverse"), st.integers(0, 30)),
        st.tuples(st.just("days"), st.sampled_from([1, 4, 60, 500])),
        st.tuples(st.just("expire")),
    ),
    min_size=1,
    max_size=14,
)


@dataclass
class Walk:
    """Drives one resident's ledger and its book side by side."""

    session: Session
    resident_id: UUID
    book: Book = field(default_factory=Book)
    now: datetime = NOON
    made: list[tuple[str, UUID, date | None, int]] = field(default_factory=list)
    undone: set[UUID] = field(default_factory=set)

    @property
    def today(self) -> date:
        return business_day(self.now)

    def award(self, points: int) -> None:
        lot = date(self.today.year + 1, 12, 31)
        self.made.append(("award", points_of(self.session, self.resident_id, now=self.now, points=points), lot, points))
        self.book.earn(lot, points)
        self.now += timedelta(minutes=2)

    def grant(self, points: int, days: int) -> None:
        lot = self.today + timedelta(days=days)
        self.made.append(("grant", grant(self.session, self.resident_id, points, lot, now=self.now), lot, points))
        self.book.earn(lot, points)

    def spend(self, points: int) -> None:
        before = Book(dict(self.book.lots), self.book.debt)
        self.book.settle(self.today)
        if self.book.living(self.today) < points:
            self.book = before
            savepoint = self.session.begin_nested()
            with pytest.raises(InsufficientPoints):
                spend(self.session, self.resident_id, points, now=self.now)
            savepoint.rollback()
            return
        transfer_id = spend(self.session, self.resident_id, points, now=self.now)
        assert draws_of(self.session, transfer_id) == self.book.take(points, self.today)
        self.made.append(("spend", transfer_id, None, points))

    def reverse(self, which: int) -> None:
        if not self.made:
            return
        kind, transfer_id, lot, points = self.made[which % len(self.made)]
        if transfer_id in self.undone:
            savepoint = self.session.begin_nested()
            with pytest.raises(IntegrityError):
                entries.reverse(self.session, self.resident_id, transfer_id, reason="again", now=self.now)
            savepoint.rollback()
            return
        self.undone.add(transfer_id)
        if kind == "award":
            counts.revoke(self.session, self.resident_id, transfer_id, why="test", now=self.now)
        else:
            entries.reverse(self.session, self.resident_id, transfer_id, reason="test", now=self.now)
        if kind == "spend":
            self.book.give_back(draws_of(self.session, transfer_id), self.today)
        else:
            self.book.debt += points - sum(self.book.take(points, self.today, own=lot).values())

    def days(self, count: int) -> None:
        self.now += timedelta(days=count)

    def expire(self) -> None:
        ended = [day for day, points in self.book.lots.items() if day < self.today and points]
        assert entries.expire(self.session, now=self.now) == len(ended)
        for day in ended:
            self.book.lots[day] = 0


@settings(generated, max_examples=120)
@given(steps=STEPS)
def test_any_sequence_of_movements_keeps_the_ledger_whole(session: Session, steps: list[tuple[Any, ...]]) -> None:
    savepoint = session.begin_nested()
    try:
        walk = Walk(session, resident(session))
        for name, *values in steps:
            getattr(walk, name)(*values)
            lots, debt = balances(session, walk.resident_id)
            assert (lots, debt) == walk.book.shown(), name
            assert min(lots.values(), default=0) >= 0
            assert sum(lots.values()) - debt == transferred(session, walk.resident_id)
        assert wrong(session) == {}
        seen = wallet.wallet_of(session, walk.resident_id, now=walk.now)
        assert seen.balance_points == walk.book.living(walk.today) - walk.book.debt
    finally:
        savepoint.rollback()


# One movement at a time


@pytest.fixture
def resident_id(make_resident: Callable[..., UUID]) -> UUID:
    return make_resident()


def test_a_spend_draws_the_oldest_lot_first_and_its_reversal_gives_back_to_the_same_lots(
    session: Session, resident_id: UUID
) -> None:
    late, soon, middle = (TODAY + timedelta(days=days) for days in (300, 3, 30))
    for day in (late, soon, middle):
        grant(session, resident_id, 10, day)
    spent = spend(session, resident_id, 25)
    assert draws_of(session, spent) == {soon: 10, middle: 10, late: 5}
    assert balances(session, resident_id) == ({late: 5}, 0)
    entries.reverse(session, resident_id, spent, reason="not delivered", now=NOON)
    assert balances(session, resident_id) == ({soon: 10, middle: 10, late: 10}, 0)


def test_points_given_back_into_an_ended_lot_live_thirty_days_more(session: Session, resident_id: UUID) -> None:
    grant(session, resident_id, 10, TODAY)
    spent = spend(session, resident_id, 10)
    entries.reverse(session, resident_id, spent, reason="late", now=NOON + timedelta(days=2))
    assert balances(session, resident_id) == ({TODAY + timedelta(days=32): 10}, 0)


def test_a_lot_is_good_for_all_of_its_last_day_in_shanghai_and_not_a_second_longer(
    session: Session, resident_id: UUID
) -> None:
    grant(session, resident_id, 10, TODAY)
    last_second = NOON.replace(hour=23, minute=59, second=59)
    midnight = last_second + timedelta(seconds=1)
    spend(session, resident_id, 1, now=last_second)
    assert entries.expire(session, now=last_second) == 0
    with pytest.raises(InsufficientPoints), session.begin_nested():
        spend(session, resident_id, 1, now=midnight)
    assert entries.expire(session, now=midnight) == 1
    assert entries.expire(session, now=midnight) == 0
    assert balances(session, resident_id) == ({}, 0)
    assert wrong(session) == {}


def test_a_spend_of_more_than_the_balance_takes_nothing(session: Session, resident_id: UUID) -> None:
    grant(session, resident_id, 10, YEAR_END)
    with pytest.raises(InsufficientPoints), session.begin_nested():
        spend(session, resident_id, 11)
    assert balances(session, resident_id) == ({YEAR_END: 10}, 0)
    spend(session, resident_id, 10)
    assert balances(session, resident_id) == ({}, 0)


@pytest.mark.parametrize("points", [0, -5])
def test_a_spend_of_nothing_is_a_fault_of_the_caller(session: Session, resident_id: UUID, points: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        spend(session, resident_id, points)


def test_a_reversal_of_spent_points_leaves_a_debt_that_the_next_award_pays(session: Session, resident_id: UUID) -> None:
    first = points_of(session, resident_id, now=NOON, points=30)
    spend(session, resident_id, 25)
    counts.revoke(session, resident_id, first, why="false", now=NOON)
    assert balances(session, resident_id) == ({}, 25)
    points_of(session, resident_id, now=NOON + timedelta(minutes=5), points=10)
    assert balances(session, resident_id) == ({}, 15)
    with pytest.raises(InsufficientPoints), session.begin_nested():
        spend(session, resident_id, 1)
    points_of(session, resident_id, now=NOON + timedelta(minutes=9), points=20)
    assert balances(session, resident_id) == ({YEAR_END: 5}, 0)
    assert wrong(session) == {}


def test_a_grant_and_a_returned_spend_pay_a_debt_too(session: Session, resident_id: UUID) -> None:
    granted = grant(session, resident_id, 20, YEAR_END)
    spent = spend(session, resident_id, 20)
    entries.reverse(session, resident_id, granted, reason="mistake", now=NOON)
    assert balances(session, resident_id) == ({}, 20)
    grant(session, resident_id, 5, YEAR_END)
    assert balances(session, resident_id) == ({}, 15)
    entries.reverse(session, resident_id, spent, reason="returned", now=NOON)
    assert balances(session, resident_id) == ({YEAR_END: 5}, 0)


def test_a_reversed_award_comes_out_of_its_own_lot_before_any_older_one(session: Session, resident_id: UUID) -> None:
    older = TODAY + timedelta(days=9)
    awarded = points_of(session, resident_id, now=NOON, points=10)
    spend(session, resident_id, 4)
    grant(session, resident_id, 50, older)
    counts.revoke(session, resident_id, awarded, why="false", now=NOON)
    assert balances(session, resident_id) == ({older: 46}, 0)


def test_a_reversal_takes_what_is_left_of_an_ended_lot_rather_than_make_a_debt(
    session: Session, resident_id: UUID
) -> None:
    granted = grant(session, resident_id, 10, TODAY)
    spend(session, resident_id, 4)
    entries.reverse(session, resident_id, granted, reason="mistake", now=NOON + timedelta(days=1))
    assert balances(session, resident_id) == ({}, 4)


def test_a_debt_is_settled_before_points_are_spent(session: Session, resident_id: UUID) -> None:
    grant(session, resident_id, 10, YEAR_END)
    # As a crossing of award and reversal can leave it for a moment: a debt and a lot side by side.
    session.execute(sa.text("INSERT INTO debt (resident_id, points) VALUES (:r, 7)"), {"r": resident_id})
    with pytest.raises(InsufficientPoints), session.begin_nested():
        spend(session, resident_id, 4)
    spend(session, resident_id, 3)
    assert balances(session, resident_id) == ({}, 0)


def test_a_transfer_is_reversed_once_and_a_reversal_or_an_expiry_never(session: Session, resident_id: UUID) -> None:
    granted = grant(session, resident_id, 10, TODAY)
    reversal = entries.reverse(session, resident_id, granted, reason="mistake", now=NOON)
    with pytest.raises(IntegrityError) as twice, session.begin_nested():
        entries.reverse(session, resident_id, granted, reason="again", now=NOON)
    assert isinstance(twice.value.orig, UniqueViolation)
    with pytest.raises(NotReversible):
        entries.reverse(session, resident_id, reversal.id, reason="undo the undoing", now=NOON)
    grant(session, resident_id, 10, TODAY)
    entries.expire(session, now=NOON + timedelta(days=1))
    expiry = session.scalar(
        sa.select(Transfer.id).where(Transfer.resident_id == resident_id, Transfer.kind == TransferKind.EXPIRY)
    )
    assert expiry is not None
    with pytest.raises(NotReversible):
        entries.reverse(session, resident_id, expiry, reason="please", now=NOON)
    with pytest.raises(NotFound):
        entries.reverse(session, resident_id, new_id(), reason="which?", now=NOON)


def test_one_resident_cannot_reverse_or_spend_what_is_anothers(
    session: Session, resident_id: UUID, make_resident: Callable[..., UUID]
) -> None:
    granted = grant(session, resident_id, 10, YEAR_END)
    with pytest.raises(NotFound):
        entries.reverse(session, make_resident(), granted, reason="mine?", now=NOON)
    other = make_resident()
    with pytest.raises(InsufficientPoints), session.begin_nested():
        spend(session, other, 1)


def test_expiry_empties_many_lots_in_bounded_rounds(
    session: Session, make_resident: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "EXPIRY_BATCH", 3)
    for _ in range(4):
        person = make_resident()
        grant(session, person, 5, TODAY)
        grant(session, person, 6, TODAY + timedelta(days=1))
        grant(session, person, 7, YEAR_END)
    in_three_days = NOON + timedelta(days=3)
    assert [entries.expire(session, now=in_three_days) for _ in range(4)] == [3, 3, 2, 0]
    assert session.scalar(sa.text("SELECT sum(remaining_points) FROM lot")) == 4 * 7
    assert wrong(session) == {}


# Every check can fail, and names the row


def row_of(table: str, resident_id: UUID) -> str:
    return f"{table} WHERE resident_id = '{resident_id}'"


@pytest.fixture
def busy(session: Session, resident_id: UUID, make_resident: Callable[..., UUID]) -> dict[str, UUID]:
    """A resident with one transfer of every kind, and a second one whose rows are right throughout."""
    for person in (make_resident(), resident_id):
        revoked = points_of(session, person, now=NOON, points=20)
        points_of(session, person, now=NOON + timedelta(minutes=5), points=30, id="kept")
        grant(session, person, 10, TODAY)
        spent = spend(session, person, 15)
        reversal = entries.reverse(session, person, spent, reason="test", now=NOON)
        spend(session, person, 5)
        counts.revoke(session, person, revoked, why="test", now=NOON)
        grant(session, person, 3, TODAY)
        entries.expire(session, now=NOON + timedelta(days=1))
    assert wrong(session) == {}
    return {"resident_id": resident_id, "reversal": reversal.id, "revoked": revoked}


LOTS, SUM, ACCOUNT = (
    "lots - debt = transfers, for every resident",
    "the sum over all accounts is 0",
    "every transfer names a known account",
)
NEGATIVE, REVERSAL, DRAWN = (
    "no lot is below zero",
    "every reversal undoes exactly its original",
    "what a spend took is what its lots gave",
)
RESIDENT_DAY, COMMUNITY_DAY = "resident_day = activities", "community_day = activities"
PRICE, REVERSED = (
    "every award pays an activity, and none more than its price",
    "every reversed activity had its points taken back, and no other",
)

BREAKS = [
    ("a lot one too high", {LOTS, SUM}, "UPDATE lot SET remaining_points = remaining_points + 1 WHERE {one_lot}"),
    ("a lot lost", {LOTS, SUM}, "DELETE FROM lot WHERE {one_lot}"),
    ("a debt from nowhere", {LOTS, SUM}, "INSERT INTO debt (resident_id, points) VALUES ({r}, 4)"),
    (
        "an unknown account",
        {ACCOUNT, SUM},
        "UPDATE transfer SET account_id = 99 WHERE resident_id = {r} AND kind = 'grant'",
    ),
    ("an account lost", {ACCOUNT, SUM}, "DELETE FROM system_account WHERE id = 3"),
    (
        "a lot below zero",
        {NEGATIVE, LOTS, SUM},
        "ALTER TABLE lot DROP CONSTRAINT lot_remaining_points_check;"
        "UPDATE lot SET remaining_points = -2 WHERE {one_lot}",
    ),
    (
        "a reversal of another amount",
        {REVERSAL, LOTS, SUM},
        "UPDATE transfer SET points = points + 1 WHERE resident_id = {r} AND id = {reversal}",
    ),
    (
        "a reversal on another account",
        {REVERSAL},
        "UPDATE transfer SET account_id = 3 WHERE resident_id = {r} AND id = {reversal}",
    ),
    (
        "a reversal of nothing",
        {REVERSAL},
        "UPDATE transfer SET reverses_id = gen_random_uuid() WHERE resident_id = {r} AND id = {reversal}",
    ),
    (
        "a draw too small",
        {DRAWN},
        "UPDATE lot_draw SET points = points + 1 WHERE resident_id = {r} AND transfer_id = "
        "(SELECT id FROM transfer WHERE resident_id = {r} AND kind = 'expiry')",
    ),
    (
        "a draw lost",
        {DRAWN},
        "DELETE FROM lot_draw WHERE resident_id = {r} AND transfer_id IN "
        "(SELECT id FROM transfer WHERE resident_id = {r} AND kind = 'spend')",
    ),
    ("a day counted twice", {RESIDENT_DAY}, "UPDATE resident_day SET activities = 2 WHERE resident_id = {r}"),
    ("a day lost", {RESIDENT_DAY}, "DELETE FROM resident_day WHERE resident_id = {r}"),
    ("a community's grams changed", {COMMUNITY_DAY}, "UPDATE community_day SET weight_g = weight_g - 1"),
    ("a community's day lost", {COMMUNITY_DAY}, "DELETE FROM community_day"),
    ("a kept activity deleted", {RESIDENT_DAY, COMMUNITY_DAY, PRICE}, "DELETE FROM activity WHERE {kept}"),
    ("an award above its price", {PRICE}, "UPDATE activity SET priced_points = 29 WHERE {kept}"),
    (
        "an activity reversed without its points",
        {REVERSED, RESIDENT_DAY, COMMUNITY_DAY},
        "UPDATE activity SET outcome = 'reversed', reason = 'revoked' WHERE {kept}",
    ),
    (
        "points reversed without the activity",
        {REVERSED, RESIDENT_DAY, COMMUNITY_DAY},
        "UPDATE activity SET outcome = 'awarded', reason = NULL WHERE resident_id = {r} AND id = {revoked}",
    ),
]


@pytest.mark.parametrize(("checks", "statement"), [pytest.param(*row[1:], id=row[0]) for row in BREAKS])
def test_each_check_fails_on_a_broken_row_and_names_it(
    session: Session, busy: dict[str, UUID], checks: set[str], statement: str
) -> None:
    person = f"'{busy['resident_id']}'"
    with owner(session, unguarded=True):
        for part in statement.format(
            r=person,
            reversal=f"'{busy['reversal']}'",
            revoked=f"'{busy['revoked']}'",
            one_lot=f"resident_id = {person} AND expires_on = '2027-12-31'",
            kept=f"resident_id = {person} AND external_id = 'kept'",
        ).split(";"):
            assert session.execute(sa.text(part)).rowcount != 0  # type: ignore[attr-defined]
    found = wrong(session)
    assert found.keys() == checks
    for name, first in found.items():
        if "resident_id" in first and "account lost" not in statement and "system_account" not in statement:
            assert first["resident_id"] == busy["resident_id"], name


@contextmanager
def fresh_district(base_settings: Settings, url: str) -> Iterator[Flask]:
    """An application on a database of its own, its connections closed at the end."""
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    with app.app_context():
        try:
            yield app
        finally:
            db.session.remove()
            db.engine.dispose()


def test_the_verify_command_proves_a_right_ledger_and_names_the_first_wrong_row(
    base_settings: Settings, make_database: Callable[[], str]
) -> None:
    with fresh_district(base_settings, make_database()) as app:
        session = db.session()
        person = Resident(resident_id=new_id(), community_code="120104001001", created_at=now())
        session.add(person)
        session.flush()
        points_of(session, person.resident_id, now=now(), points=30)
        session.commit()
        runner = app.test_cli_runner()
        proved = runner.invoke(args=["ledger", "verify"])
        assert proved.exit_code == 0, proved.output
        assert "proved" in proved.output
        assert "WRONG" not in proved.output
        session = db.session()
        session.execute(sa.text("UPDATE lot SET remaining_points = 31"))
        session.commit()
        failed = runner.invoke(args=["ledger", "verify"])
        assert failed.exit_code == 1
        assert f"WRONG  {LOTS}" in failed.output
        assert f"first: resident_id={person.resident_id}, lots=31, debt=0, transfers=30" in failed.output
        assert "2 checks FAILED" in failed.output


# The database is the last guard


@pytest.fixture
def journal(session: Session, busy: dict[str, UUID]) -> None:
    audit.record(session, None, "test", "test", now=NOON)
    session.flush()


CHANGES = [
    "UPDATE transfer SET points = points",
    "DELETE FROM transfer",
    "TRUNCATE transfer CASCADE",
    "UPDATE lot_draw SET points = points",
    "DELETE FROM lot_draw",
    "TRUNCATE lot_draw",
    "UPDATE audit_entry SET id = id",
    "DELETE FROM audit_entry",
    "TRUNCATE audit_entry",
]


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize("statement", CHANGES)
def test_the_journal_cannot_be_changed_by_the_application_nor_by_its_owner(session: Session, statement: str) -> None:
    with pytest.raises(DBAPIError) as refused, session.begin_nested():
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, InsufficientPrivilege)
    with pytest.raises(DBAPIError) as refused, session.begin_nested(), owner(session):
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, RestrictViolation)


TRANSFER = (
    "INSERT INTO transfer (resident_id, id, account_id, kind, points, expires_on, reverses_id, occurred_at, "
    "recorded_at) VALUES (:r, gen_random_uuid(), 1, {kind}, {points}, {lot}, {reverses}, now(), now())"
)


def transfer(kind: str, points: int, lot: str = "NULL", reverses: str = "NULL") -> str:
    return TRANSFER.format(kind=f"'{kind}'", points=points, lot=lot, reverses=reverses)


FORBIDDEN = [
    ("transfer_sign_check", transfer("award", -1, "'2027-12-31'")),
    ("transfer_sign_check", transfer("award", 0, "'2027-12-31'")),
    ("transfer_sign_check", transfer("grant", 0, "'2027-12-31'")),
    ("transfer_sign_check", transfer("spend", 1)),
    ("transfer_sign_check", transfer("expiry", 1)),
    ("transfer_sign_check", transfer("reversal", 0, reverses="gen_random_uuid()")),
    ("transfer_kind_check", transfer("gift", 1)),
    ("transfer_reversal_check", transfer("reversal", 1)),
    ("transfer_reversal_check", transfer("spend", -1, reverses="gen_random_uuid()")),
    ("transfer_lot_check", transfer("award", 1)),
    ("transfer_lot_check", transfer("spend", -1, "'2027-12-31'")),
    ("lot_remaining_points_check", "UPDATE lot SET remaining_points = -1 WHERE resident_id = :r"),
    ("lot_remaining_points_check", "INSERT INTO lot VALUES (:r, '2031-12-31', -1)"),
    ("lot_draw_points_check", "INSERT INTO lot_draw SELECT resident_id, id, '2027-12-31', 0 FROM transfer LIMIT 1"),
    ("debt_points_check", "INSERT INTO debt (resident_id, points) VALUES (:r, -1)"),
    ("system_account_budget_points_check", "UPDATE system_account SET budget_points = -1"),
]


@pytest.mark.parametrize(("constraint", "statement"), FORBIDDEN)
def test_the_database_refuses_what_no_rule_would_write(
    session: Session, busy: dict[str, UUID], constraint: str, statement: str
) -> None:
    with pytest.raises(IntegrityError) as refused, session.begin_nested():
        session.execute(sa.text(statement), {"r": busy["resident_id"]} if ":r" in statement else {})
    assert isinstance(refused.value.orig, CheckViolation)
    assert refused.value.orig.diag.constraint_name == constraint


def test_the_database_refuses_a_second_reversal_and_a_reversal_or_a_draw_of_nothing(
    session: Session, busy: dict[str, UUID]
) -> None:
    again = "(SELECT reverses_id FROM transfer WHERE kind = 'reversal' AND resident_id = :r LIMIT 1)"
    for constraint, statement in (
        ("transfer_reverses_key", transfer("reversal", 1, reverses=again)),
        ("transfer_reverses_fkey", transfer("reversal", 1, reverses="gen_random_uuid()")),
        ("lot_draw_transfer_fkey", "INSERT INTO lot_draw VALUES (:r, gen_random_uuid(), '2027-12-31', 1)"),
    ):
        with pytest.raises(IntegrityError) as refused, session.begin_nested():
            session.execute(sa.text(statement), {"r": busy["resident_id"]})
        assert refused.value.orig.diag.constraint_name == constraint  # type: ignore[union-attr]

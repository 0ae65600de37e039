"""The short form of the search for what an attacker can gain; `make loss-bound` tries 2,000 plans on all days."""

from datetime import date, timedelta

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from bench import loss_bound
from bench.loss_bound import ACCOUNTS, BEGINS, CHANNELS, SHORT_PLANS, Plan, Tried
from points.earning import pricing
from points.earning.models import BoundKind, Grade
from points.earning.pricing import Tariff


@pytest.fixture
def tariff(session: Session) -> Tariff:
    found = pricing.read(session).on(BEGINS.date())
    assert found is not None
    return found


def test_no_plan_gains_more_than_the_formula_and_without_any_one_bound_one_does(app: Flask, session: Session) -> None:
    result = loss_bound.run(session, SHORT_PLANS, days_max=1)

    shown = "\n".join(loss_bound.lines(result))
    assert result.faults == [], shown
    assert len(result.plans) == SHORT_PLANS
    # A plan that gains next to nothing would never pass a formula: each way in is tried to its end.
    closest = {
        name: max(each.gained / each.most for each in result.plans if each.plan.channels == {name}) for name in CHANNELS
    }
    assert min(closest.values()) > 0.9, closest
    every = {kind.value for kind in BoundKind} - {BoundKind.PHONE.value}
    assert set(result.controls) == every | {"resident", "partner"}


def test_a_plan_beyond_the_formula_and_a_bound_that_binds_nothing_are_faults() -> None:
    plan = Plan(frozenset({1}), frozenset({"key"}), frozenset({BEGINS.date()}))
    fine = loss_bound.Result([Tried(plan, 10, 10)], {"site": Tried(plan, 11, 10)})
    assert fine.faults == []
    assert len(loss_bound.Result([Tried(plan, 11, 10)], {}).faults) == 1
    assert len(loss_bound.Result([], {"site": Tried(plan, 10, 10)}).faults) == 1


def test_the_formula_counts_the_days_that_24_hours_can_claim(tariff: Tariff) -> None:
    assert loss_bound.payment_days() == [date(2026, 12, 9), date(2026, 12, 10)]
    days = loss_bound.claim_days(tariff)
    assert (days[0], days[-1], len(days)) == (date(2026, 12, 2), date(2026, 12, 10), tariff.late_days_max + 2)


@pytest.mark.parametrize(
    ("accounts", "channels", "days", "most"),
    [
        (1, {"self"}, 1, 45),  # 20 + 10 + 5 + 4 + 6
        (1, {"self"}, 2, 80),  # the week's ceiling
        (1, {"sensor"}, 1, 90),  # 20 + 30 + 40
        (1, {"key"}, 1, 306),  # 30 + 16 + 40 + 20 + 200
        (7, {"key"}, 1, 600 + 306),  # six of one household, and one of the next
        (ACCOUNTS, {"key"}, 2, 8_000),  # the key's budget on both days of receipt
        (ACCOUNTS, {"staff"}, 2, 6_000),
        (ACCOUNTS, {"scanner"}, 2, 10_000),
        (ACCOUNTS, {"staff", "scanner"}, 2, 12_000),
        (1, {"drive"}, 1, 400_000),  # paid on two days, whatever days are claimed
    ],
)
def test_the_formula_by_hand(tariff: Tariff, accounts: int, channels: set[str], days: int, most: int) -> None:
    chosen = frozenset(date(2026, 12, 7) + timedelta(days=n) for n in range(days))
    assert loss_bound.at_most(tariff, Plan(frozenset(range(accounts)), frozenset(channels), chosen)) == most


def test_a_grades_ceiling_and_the_caps_of_its_groups_are_both_in_the_formula(tariff: Tariff) -> None:
    week = frozenset(date(2026, 12, 7) + timedelta(days=n) for n in range(7))
    assert loss_bound.account_cap(tariff, [Grade.SENSOR], week) == 200
    # The two grades share the groups of walking, cycling and transit: together no more than those caps let through.
    both = loss_bound.account_cap(tariff, [Grade.SENSOR, Grade.PARTNER_SIGNED], week)
    assert both == min(200 + 150 + 80 + 200 + 100 + 600, 100 + 150 + 80 + 200 + 100 + 600)

"""`make loss-bound`: what an attacker can gain in a day, searched for, against what docs/loss-bound.md says at most.

The attacker holds 50 accounts, 18 of them in three households, one member of staff with two scanners at one site and a
campaign, and one partner's key. For 24 hours every claim that he sends is well formed and of the right day: no check
and no detector stands in his way, only the caps and bounds in the database. 2,000 plans are tried, half of them at
random and half by changing the best ones, each through the real feed and the real award, and undone again. None may
gain more than `at_most` works out from the rules' own data; with any one bound taken away, a plan must.

`--short` is the form of the tests; `--write FILE` puts the result between the marks of a Markdown file.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import Session

from bench.figures import write_part
from bench.replay_kit.__main__ import stage
from bench.running import end_tidily_when_terminated
from campaigns.settlement import payments
from points.earning import holds, pricing
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade
from points.earning.pricing import Tariff, Tariffs
from points.ledger import budgets
from points.ledger.budgets import BudgetExhausted, Payment
from points.partners import feed
from points.partners.models import Binding, Partner
from server.clock import SHANGHAI, SHANGHAI_FIXED, week_start
from server.database import db, new_id
from server.people.models import Household, HouseholdMember, Resident

SEED = 20261209
PLANS, SHORT_PLANS = 2_000, 10
TIDY_EVERY = 50  # what was undone lies in the tables until it is swept away
ACCOUNTS, HOUSEHOLDS, MEMBERS = 50, 3, 6
SCANNERS = 2
PARTNER, KEY_BUDGET_POINTS = "leaked-key", 4_000
DRIVE_BUDGET_POINTS = 1_000_000
SITE = "loss-bound-site-01"
COMMUNITY = "120104001001"
CLAIMS_MAX = 1_500  # of one plan: enough to reach every bound, and a plan takes a fraction of a second

# Noon of a Wednesday, so that the 24 hours touch two days and, with late claims, three weeks.
BEGINS = datetime(2026, 12, 9, 12, 0, tzinfo=SHANGHAI)
LASTS = timedelta(hours=24)

GRADE_OF = {
    "key": Grade.PARTNER_SIGNED,
    "staff": Grade.STAFF_CONFIRMED,
    "scanner": Grade.STAFF_CONFIRMED,
    "sensor": Grade.SENSOR,
    "self": Grade.SELF_DECLARED,
}
CHANNELS = (*GRADE_OF, "drive")
ENDLESS = 10_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What the attacker does: with which of his accounts, by which ways, on which days, and how."""

    accounts: frozenset[int]
    channels: frozenset[str]
    days: frozenset[date]
    ticks: int = 2  # at how many moments of the 24 hours he sends
    order: str = "large"  # which claims come first: large, small or mixed ones
    batch: int = 200  # how many at once
    repeated: float = 0.0  # how many are sent a second time: as they are, or under a new id
    seed: int = 0


@dataclass(slots=True)
class World:
    """What the attacker holds, as it stands in the database."""

    accounts: list[UUID] = field(default_factory=list)
    staff_id: UUID = field(default_factory=new_id)
    scanners: list[str] = field(default_factory=lambda: [f"scanner:{new_id()}" for _ in range(SCANNERS)])
    drive_id: UUID = field(default_factory=new_id)
    drive_account: int = 0


def household_of(account: int) -> int | None:
    """The household of an account: the first eighteen live in three."""
    return account // MEMBERS if account < HOUSEHOLDS * MEMBERS else None


# The formula


def at_most(tariff: Tariff, plan: Plan) -> int:
    """The points that a plan can gain at most: docs/loss-bound.md, from the rules' own data.

    Whatever is paid passes a way in and an account, so it is no more than all ways in let through, and no more than all
    accounts can take; a campaign pays beside both.
    """
    ways = min(_by_ways(tariff, plan), _by_accounts(tariff, plan))
    drive = min(len(payment_days()) * tariff.bounds["drive"], DRIVE_BUDGET_POINTS) if "drive" in plan.channels else 0
    return ways + drive


def _by_ways(tariff: Tariff, plan: Plan) -> int:
    days, accounts = len(plan.days), len(plan.accounts)
    each = {name: accounts * account_cap(tariff, [GRADE_OF[name]], plan.days) for name in plan.channels - {"drive"}}
    paid_on = [
        paid for paid in payment_days() if any(0 <= (paid - day).days <= tariff.late_days_max for day in plan.days)
    ]
    key = min(each.get("key", 0), KEY_BUDGET_POINTS * len(paid_on))
    staff = min(each.get("staff", 0), tariff.bounds["staff"] * days)
    scanner = min(each.get("scanner", 0), tariff.bounds["device"] * SCANNERS * days)
    site = min(staff + scanner, tariff.bounds["site"] * days)
    return key + site + each.get("sensor", 0) + each.get("self", 0)


def _by_accounts(tariff: Tariff, plan: Plan) -> int:
    grades = sorted({GRADE_OF[name] for name in plan.channels - {"drive"}})
    cap = account_cap(tariff, grades, plan.days)
    homes: dict[int | None, int] = {}
    for account in plan.accounts:
        homes[household_of(account)] = homes.get(household_of(account), 0) + cap
    alone = homes.pop(None, 0)
    return alone + sum(min(whole, tariff.bounds["household"] * len(plan.days)) for whole in homes.values())


def account_cap(tariff: Tariff, grades: Sequence[Grade], days: frozenset[date]) -> int:
    """What one account can take on these days on claims of these grades: its caps by day and week, its ceilings."""
    weeks: dict[date, int] = {}
    for day in days:
        weeks[week_start(day)] = weeks.get(week_start(day), 0) + 1

    def capped(groups: Mapping[str, tuple[int, int]]) -> int:
        return sum(min(week_cap, day_cap * days) for day_cap, week_cap in groups.values() for days in weeks.values())

    by_grade = []
    every: dict[str, tuple[int, int]] = {}
    for grade in grades:
        groups = {
            rate.cap_group: (rate.day_cap_points, rate.week_cap_points)
            for key, rate in tariff.rates.items()
            if key[2] == grade
        }
        every |= groups
        by_grade.append(min(capped(groups), tariff.ceilings.get(grade, ENDLESS) * len(weeks)))
    return min(sum(by_grade), capped(every))


def payment_days() -> list[date]:
    """The business days on which something can be received in the 24 hours."""
    return sorted({(BEGINS + LASTS * part).astimezone(SHANGHAI_FIXED).date() for part in (0, 1)})


def claim_days(tariff: Tariff) -> list[date]:
    """The days of which something can be claimed in the 24 hours: those received on, and those not yet closed."""
    first, *_, last = payment_days()
    return [first + timedelta(days=n) for n in range(-tariff.late_days_max, (last - first).days + 1)]


# The attacker


def prepare(session: Session) -> World:
    """His accounts, households, key and budget."""
    world = World()
    for number in range(ACCOUNTS):
        world.accounts.append(new_id())
        session.add(Resident(resident_id=world.accounts[number], community_code=COMMUNITY, created_at=BEGINS))
    homes = [new_id() for _ in range(HOUSEHOLDS)]
    session.add_all(Household(id=each, member_count=MEMBERS, created_at=BEGINS) for each in homes)
    session.add(
        Partner(
            code=PARTNER,
            name_zh="泄露密钥的合作方",
            kinds=["ride", "bin-drop", "recycling"],
            day_budget_points=KEY_BUDGET_POINTS,
            created_at=BEGINS,
        )
    )
    session.flush()
    for number, account in enumerate(world.accounts):
        session.add(Binding(partner_code=PARTNER, member_id=f"m-{number}", resident_id=account, bound_at=BEGINS))
        home = household_of(number)
        if home is not None:
            session.add(
                HouseholdMember(resident_id=account, household_id=homes[home], member_id=new_id(), joined_at=BEGINS)
            )
    world.drive_account = budgets.open_account(session, f"loss-bound-{world.drive_id}", "收买的活动")
    budgets.allot(session, world.drive_account, DRIVE_BUDGET_POINTS, allotment_id=new_id(), now=BEGINS)
    session.flush()
    return world


@dataclass(frozen=True, slots=True)
class Act:
    """Something claimed to have been done: by which way it is told, and what of it."""

    way: str
    account: int
    started_at: datetime
    points: int  # about, for its place in the order
    behaviour: str
    mode: str
    minutes: int = 0
    distance_m: int | None = None
    weight_g: int | None = None
    steps: int | None = None
    sequence: int = 0


# mode, points at full rate about, minutes, metres; what reaches a day's cap and a little more.
RIDES = (("bus", 8, 15, 5000),) * 6 + (("bicycle", 31, 45, 14_000), ("e-bike", 16, 45, 14_000))
TRACKS = (("walk", 21, 60, 7000), ("bicycle", 30, 50, 13_000)) + (("bus", 4, 15, 5000),) * 10
BY_HAND = (("walk", 21, 60, 7000), ("bicycle", 10, 30, 5000), ("e-bike", 5, 30, 5000)) + (("metro", 2, 15, 5000),) * 3
BAGS = ("hazardous", "hazardous", "hazardous", "kitchen", "residual", "residual")
WEIGHT_G = (5600, 2800, 560, 140, 60, 30)  # of aluminium cans


def acts_of(plan: Plan) -> list[Act]:
    """Everything that the plan's accounts could be paid for by its ways on its days, in its order."""
    draw = random.Random(plan.seed)
    made: list[Act] = []
    for way in sorted(plan.channels - {"drive"}):
        for account in sorted(plan.accounts):
            for day in sorted(plan.days):
                made += _acts(way, account, datetime(day.year, day.month, day.day, tzinfo=SHANGHAI_FIXED))
    draw.shuffle(made)
    if plan.order != "mixed":
        made.sort(key=lambda act: act.points, reverse=plan.order == "large")
    # What is small fills what the large ones leave of a bound, so some of both stay.
    most = CLAIMS_MAX * 3 // 4
    return made[:most] + made[most:][-(CLAIMS_MAX - most) :]


def _acts(way: str, account: int, midnight: datetime) -> Iterator[Act]:
    # Each way has hours of its own for trips: the same hour by two ways would be refused, which an attacker avoids.
    trips, at = {"key": (RIDES, 0), "sensor": (TRACKS, 4), "self": (BY_HAND, 9)}.get(way, ((), 0)), midnight
    at += timedelta(hours=trips[1])
    for mode, points, minutes, distance_m in trips[0]:
        yield Act(way, account, at, points, mode, mode, minutes, distance_m=distance_m)
        at += timedelta(minutes=minutes)
    if way == "sensor":
        yield Act(way, account, midnight, 20, "walk", "steps", steps=10_200)
        return
    for number, mode in enumerate(BAGS):
        moment = midnight + timedelta(minutes=number)
        yield Act(way, account, moment, 10 if mode == "hazardous" else 5, "sorting", mode, sequence=number)
    for number, weight_g in enumerate(WEIGHT_G if way != "self" else ()):
        moment = midnight + timedelta(minutes=10 + number)
        yield Act(
            way, account, moment, weight_g // 25, "recycling", "aluminium_can", weight_g=weight_g, sequence=6 + number
        )


def carry_out(session: Session, world: World, plan: Plan) -> int:
    """Send everything in the plan's order over the 24 hours; the points gained."""
    acts = acts_of(plan)
    draw = random.Random(plan.seed + 1)
    closes = pricing.current(session).on(BEGINS.date())
    late_days = 0 if closes is None else closes.late_days_max
    for tick in range(plan.ticks + 1):
        now = BEGINS + LASTS * tick / plan.ticks
        today = now.astimezone(SHANGHAI_FIXED).date()
        due = [act for act in acts if _ends(act) <= now and (today - act.started_at.date()).days <= late_days]
        sent = set(map(id, due))
        acts = [act for act in acts if id(act) not in sent]
        due += [act for act in due if draw.random() < plan.repeated]
        _by_key(session, [act for act in due if act.way == "key"], plan.batch, draw, now)
        claims = [_claim(world, act, draw, now) for act in due if act.way != "key"]
        for begin in range(0, len(claims), plan.batch):
            award(session, claims[begin : begin + plan.batch], now=now)
        if "drive" in plan.channels:
            _by_drive(session, world, plan, now)
    return int(session.scalar(sa.text("SELECT coalesce(sum(points), 0) FROM transfer")) or 0)


def _ends(act: Act) -> datetime:
    return act.started_at + timedelta(minutes=act.minutes)


def _id(act: Act, draw: random.Random) -> str:
    """Its id; a repetition has the same one, or a new one."""
    fresh = f"-{draw.randrange(10**9)}" if draw.random() < 0.5 else ""
    return f"{act.way}-{act.account}-{act.mode}-{act.started_at:%m%d%H%M}{fresh}"


def _claim(world: World, act: Act, draw: random.Random, now: datetime) -> Claim:
    number = act.account + act.started_at.day + act.sequence
    confirmed = {"staff": {"staff_id": world.staff_id}, "scanner": {"device": world.scanners[number % SCANNERS]}}
    return Claim(
        resident_id=world.accounts[act.account],
        behaviour=Behaviour(act.behaviour),
        mode=act.mode,
        grade=GRADE_OF[act.way],
        source=act.way,
        external_id=_id(act, draw),
        started_at=act.started_at,
        ended_at=_ends(act),
        received_at=now,
        distance_m=act.distance_m,
        weight_g=act.weight_g,
        steps=act.steps,
        site=SITE if act.way in confirmed else None,
        **confirmed.get(act.way, {}),  # type: ignore[arg-type]
    )


def _by_key(session: Session, acts: Sequence[Act], size: int, draw: random.Random, now: datetime) -> None:
    """Batches with the leaked key: devices and sites are whatever the attacker says."""
    partner = session.get_one(Partner, PARTNER)
    for begin in range(0, len(acts), size):
        body = b"\n".join(_line(act, draw) for act in acts[begin : begin + size])
        feed.process(session, partner, f"batch-{begin}", feed.read_lines(body, partner.kinds), now=now)


def _line(act: Act, draw: random.Random) -> bytes:
    told: dict[str, object] = {"id": _id(act, draw), "member": f"m-{act.account}"}
    at = act.started_at.isoformat()
    if act.distance_m is not None:
        told |= {"kind": "ride", "mode": act.mode, "started_at": at, "ended_at": _ends(act).isoformat()}
        return json.dumps(told | {"distance_m": act.distance_m}).encode()
    device = {"device": f"d-{act.account}-{act.started_at:%m%d}", "sequence": act.sequence, "site": f"s-{act.account}"}
    if act.weight_g is None:
        return json.dumps(told | device | {"kind": "bin-drop", "category": act.mode, "at": at}).encode()
    place = {"site_kind": "fixed", "timing": "scheduled", "channel": "offline"}
    weighed = {"kind": "recycling", "material": act.mode, "weight_g": act.weight_g, "at": at}
    return json.dumps(told | device | place | weighed).encode()


def _by_drive(session: Session, world: World, plan: Plan, now: datetime) -> None:
    """The campaign's bought hours: as much as it has, in smaller and smaller payments until none goes through."""
    points = 10_000
    while points:
        paid = [Payment(world.accounts[n], new_id(), points, "志愿服务") for n in sorted(plan.accounts)]
        try:
            with session.begin_nested():
                ends_on = pricing.points_end_on(session, now.date())
                budgets.pay(session, paid, account_id=world.drive_account, expires_on=ends_on, now=now)
                payments._take_from_day(session, world.drive_id, points * len(paid), now=now)
        except (payments.DriveLimitReached, BudgetExhausted):
            points //= 4


# The search, and what must happen without a bound


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan, what it gained, and what the formula allows it."""

    plan: Plan
    gained: int
    most: int


@dataclass(slots=True)
class Result:
    """Everything that was tried, by the rules as they are and without each bound."""

    plans: list[Tried] = field(default_factory=list)
    controls: dict[str, Tried] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """What does not hold, in words; nothing when everything does."""
        broken = [f"{each.gained} > {each.most}: {each.plan}" for each in self.plans if each.gained > each.most]
        idle = [
            f"without {name}: {each.gained} <= {each.most}, so nothing shows that it binds"
            for name, each in self.controls.items()
            if each.gained <= each.most
        ]
        return broken + idle


def try_out(session: Session, world: World, plan: Plan, tariff: Tariff, in_force: Tariff | None = None) -> Tried:
    """Carry a plan out under the rules in force, these unless others are given, and undo it."""
    with rules_in_force(in_force or tariff), session.begin_nested() as savepoint:
        gained = carry_out(session, world, plan)
        savepoint.rollback()
    session.expire_all()
    return Tried(plan, gained, at_most(tariff, plan))


def search(session: Session, world: World, tariff: Tariff, plans: int, *, days: Sequence[date]) -> Iterator[Tried]:
    """The plans one after the other: the thorough ones, then random ones and changes of the best in turn."""
    draw = random.Random(SEED)
    everything = Plan(frozenset(range(ACCOUNTS)), frozenset(CHANNELS), frozenset(days), seed=SEED)
    waiting = [replace(everything, channels=frozenset({name})) for name in CHANNELS]
    waiting += [everything, replace(everything, channels=frozenset({"staff", "scanner"}))]
    best: list[Tried] = []
    for number in range(plans):
        if number < len(waiting):
            plan = waiting[number]
        else:
            plan = _random(draw, days) if number % 2 or not best else _changed(draw, draw.choice(best).plan, days)
        tried = try_out(session, world, plan, tariff)
        yield tried
        best = sorted([*best, tried], key=lambda each: each.gained / max(each.most, 1), reverse=True)[:20]


def _random(draw: random.Random, days: Sequence[date]) -> Plan:
    return Plan(
        accounts=frozenset(draw.sample(range(ACCOUNTS), draw.randint(1, ACCOUNTS))),
        channels=frozenset(draw.sample(CHANNELS, draw.randint(1, 3))),
        days=frozenset(draw.sample(days, draw.randint(1, len(days)))),
        ticks=draw.randint(1, 6),
        order=draw.choice(("large", "small", "mixed")),
        batch=draw.choice((100, 400, CLAIMS_MAX)),
        repeated=draw.choice((0.0, 0.0, 0.2, 1.0)),
        seed=draw.randrange(10**9),
    )


def _changed(draw: random.Random, plan: Plan, days: Sequence[date]) -> Plan:
    other = _random(draw, days)
    name = draw.choice(("accounts", "channels", "days", "ticks", "order", "batch", "repeated", "seed"))
    return replace(plan, **{name: getattr(other, name), "seed": other.seed})


def without(tariff: Tariff, name: str) -> Tariff:
    """The rules with one bound taken away: a switch that only this simulation has."""
    if name == "resident":
        free = {"day_cap_points": ENDLESS, "week_cap_points": ENDLESS}
        rates = {key: msgspec.structs.replace(rate, **free) for key, rate in tariff.rates.items()}
        return replace(tariff, rates=rates)
    if name == "grade":
        return replace(tariff, ceilings={})
    return replace(tariff, bounds={kind: points for kind, points in tariff.bounds.items() if kind != name})


def controls(days: Sequence[date]) -> dict[str, Plan]:
    """For each bound a plan on one or two days that it alone holds back: without it, the plan gains too much."""
    some, alone = frozenset(days[:1]), frozenset(range(HOUSEHOLDS * MEMBERS, ACCOUNTS))
    everyone = frozenset(range(ACCOUNTS))
    return {
        "resident": Plan(frozenset(sorted(alone)[:4]), frozenset({"key"}), some, ticks=1),
        "household": Plan(frozenset(range(MEMBERS)), frozenset({"key"}), some, ticks=1),
        "device": Plan(everyone, frozenset({"scanner"}), some, ticks=1),
        "staff": Plan(everyone, frozenset({"staff"}), some, ticks=1),
        "site": Plan(everyone, frozenset({"staff", "scanner"}), some, ticks=1),
        "partner": Plan(everyone, frozenset({"key"}), some, ticks=1),
        "drive": Plan(frozenset({0, 20}), frozenset({"drive"}), some, ticks=1),
        "grade": Plan(frozenset(sorted(alone)[:8]), frozenset({"self"}), frozenset(days[:2]), ticks=1),
    }


@contextmanager
def rules_in_force(tariff: Tariff) -> Iterator[None]:
    """This tariff instead of the database's, in this process."""
    try:
        with patch.object(pricing, "read", return_value=Tariffs((tariff,))):
            pricing.forget()
            yield
    finally:
        pricing.forget()


def run(
    session: Session, plans: int, *, days_max: int | None = None, tidy: Callable[[int], None] = lambda _: None
) -> Result:
    """Search, and take each bound away in turn. `days_max` keeps to the last days, for a form that takes seconds.

    `tidy` is called between two plans with how many were tried; nothing but the attacker's holdings is then left.
    """
    tariff = pricing.read(session).on(BEGINS.date())
    if tariff is None:
        raise AssertionError("no rules on the day of the attack")
    world, result = prepare(session), Result()
    days = claim_days(tariff)[-(days_max or ENDLESS) :]
    holds.forget()
    for tried in search(session, world, tariff, plans, days=days):
        result.plans.append(tried)
        tidy(len(result.plans))
    for name, plan in controls(claim_days(tariff)[-2:]).items():
        with session.begin_nested() as savepoint:
            if name == "partner":
                session.execute(sa.update(Partner).where(Partner.code == PARTNER).values(day_budget_points=ENDLESS))
                session.expire_all()
            result.controls[name] = try_out(session, world, plan, tariff, without(tariff, name))
            savepoint.rollback()
        session.expire_all()
    return result


def lines(result: Result) -> list[str]:
    """The result in words: by way in what was gained at most and what the formula says; then without each bound."""
    told = [
        "| 途径 ways in | 尝试 plans | 最多所得 gained at most | 公式上限 the formula | 最接近 closest |",
        "|---|--:|--:|--:|--:|",
    ]
    ways: dict[str, list[Tried]] = {}
    for each in result.plans:
        name = " + ".join(sorted(each.plan.channels)) if len(each.plan.channels) < 3 else "三种以上 three or more"
        ways.setdefault(name, []).append(each)
    for name, found in sorted(ways.items(), key=lambda item: (item[0].count("+"), item[0])):
        top = max(found, key=lambda each: each.gained)
        closest = max(each.gained / max(each.most, 1) for each in found)
        told.append(f"| {name} | {len(found):,} | {top.gained:,} | {top.most:,} | {closest:.1%} |")
    told += ["", "| 去掉的上限 without | 所得 gained | 公式上限 the formula | |", "|---|--:|--:|---|"]
    for name, each in result.controls.items():
        verdict = "超出 passed" if each.gained > each.most else "未超出 NOT passed"
        told.append(f"| {name} | {each.gained:,} | {each.most:,} | {verdict} |")
    beyond = sum(each.gained > each.most for each in result.plans)
    told += [
        "",
        f"{len(result.plans):,} 个方案, {beyond} 个超出 · plans, of which {beyond} gained more than the formula says.",
    ]
    return told


def main() -> None:
    """Run, print, write, and fail when something does not hold."""
    end_tidily_when_terminated()
    parser = argparse.ArgumentParser(prog="python -m bench.loss_bound", description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--plans", type=int, default=PLANS)
    parser.add_argument("--write", type=Path, default=None)
    given = parser.parse_args()
    began = time.monotonic()
    with stage() as settings:
        session = db.session()

        def tidy(tried: int) -> None:
            if tried % TIDY_EVERY == 0:
                session.commit()
                with psycopg.connect(settings.database_owner_url, autocommit=True) as owner:
                    owner.execute("VACUUM")
                print(f"{tried:,} / {given.plans:,}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

        result = run(session, SHORT_PLANS, days_max=1) if given.short else run(session, given.plans, tidy=tidy)
        session.rollback()
    print("\n".join([*lines(result), "", f"用时 took {time.monotonic() - began:.0f} s"]))
    if given.write is not None:
        write_part(given.write, "loss bound", lines(result))
    if result.faults:
        sys.exit("\n".join(result.faults[:20]))


if __name__ == "__main__":
    main()

"""Drawing a quarter's sample: every paid claim with a known probability, the same again for whoever has the seed.

A stratum is one behaviour of one source: a partner, the phone, a supervisor. Of each stratum the claims with the
smallest SHA-256 of seed and id are drawn, which is a simple random sample without replacement. The seed is made when
the audit is asked for, after the quarter: nobody who claimed could have known it.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from math import sqrt
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import procrastinate
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from points.earning.models import Behaviour, RuleVersion
from points.review.audit.models import AuditItem, AuditStratum, RandomAudit
from points.review.audit.plans import Plan, read_plan
from server import audit
from server import jobs as job_queue
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError

STRATA_MAX = 1_000

# What is written at this moment has its instant already and cannot be seen yet; the population is that of a while ago,
# so that drawing again finds the same.
SETTLED_AFTER = timedelta(minutes=10)

# Looked back for quarters that nobody has audited.
DUE_QUARTERS_BACK = 2

_NAME = re.compile(r"(20[2-9][0-9])-Q([1-4])")


class QuarterNameInvalid(DomainError):
    """A quarter is named 2026-Q4."""

    code, status, title_zh, title_en = "quarter-name-invalid", 422, "季度须写作 2026-Q4", "A quarter is named 2026-Q4"


class QuarterNotOver(Conflict):
    """The quarter, or the days in which records of it may still come late, are not over."""

    code, title_zh, title_en = (
        "quarter-not-over",
        "季度或其补报期尚未结束",
        "The quarter, or the days in which records may still come late, are not over",
    )


class QuarterAudited(Conflict):
    """A quarter is audited once: were it drawn again, one could go on until a sample pleases."""

    code, title_zh, title_en = "quarter-audited", "该季度已抽样", "The sample of this quarter is drawn already"
    constraints = ("random_audit_starts_on_key",)


class TooManyStrata(DomainError):
    """More behaviours and sources than the audit can hold: a fault of the data."""

    code, status, title_zh, title_en = (
        "too-many-strata",
        409,
        "来源过多, 无法抽样",
        "There are too many sources to audit",
    )


@dataclass(frozen=True, slots=True)
class Stratum:
    """The paid claims of one behaviour from one source, and how many of them to draw."""

    behaviour: Behaviour
    source: str
    claims: int
    points: int
    sampled_claims: int = 0


def quarter_named(name: str) -> date:
    """The first day of a quarter by its name. Raises QuarterNameInvalid."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise QuarterNameInvalid
    return date(int(found[1]), 3 * int(found[2]) - 2, 1)


def name_of(starts_on: date) -> str:
    """2026-Q4."""
    return f"{starts_on.year}-Q{(starts_on.month + 2) // 3}"


def last_day(starts_on: date) -> date:
    """The last day of a quarter."""
    return (starts_on + timedelta(days=93)).replace(day=1) - timedelta(days=1)


def request(
    session: Session,
    actor: Actor | None,
    folder: Path,
    starts_on: date,
    *,
    jobs: procrastinate.App | None,
    now: datetime,
) -> RandomAudit:
    """Ask for the audit of a quarter: its seed is made, and a job draws, given `jobs`.

    One that was asked for and could not be drawn is drawn after all, with the seed that it has.

    Raises QuarterNotOver, QuarterAudited, AuditPlanMissing.
    """
    if business_day(now) <= drawable_after(session, starts_on):
        raise QuarterNotOver
    made = session.scalars(
        insert(RandomAudit)
        .values(
            id=new_id(),
            starts_on=starts_on,
            seed=secrets.token_bytes(32),
            plan=read_plan(folder, on=last_day(starts_on)).as_json(),
            requested_by=actor.id if actor else None,
            requested_at=now,
        )
        .on_conflict_do_nothing(index_elements=["starts_on"])
        .returning(RandomAudit)
    ).one_or_none()
    if made is None:
        made = session.scalars(
            sa.select(RandomAudit)
            .where(RandomAudit.starts_on == starts_on, RandomAudit.drawn_at.is_(None))
            .execution_options(populate_existing=True)
        ).one_or_none()
    if made is None:
        raise QuarterAudited
    audit.record(session, actor, "random-audit.request", f"random-audit:{made.id}", now=now, quarter=name_of(starts_on))
    if jobs is not None:
        job_queue.enqueue(session, jobs, "random-audit:draw", audit_id=str(made.id))
    return made


def drawable_after(session: Session, starts_on: date) -> date:
    """The last day on which a record of the quarter may still come: by the most generous of its rules."""
    ends_on = last_day(starts_on)
    late_days = session.scalar(
        sa.select(sa.func.max(RuleVersion.late_days_max)).where(
            RuleVersion.valid_from <= ends_on,
            sa.or_(RuleVersion.valid_to.is_(None), RuleVersion.valid_to >= starts_on),
        )
    )
    return ends_on + timedelta(days=late_days or 0)


def due_quarters(session: Session, *, today: date) -> list[date]:
    """The quarters that lately ended and of which no sample is drawn, the oldest first."""
    due = []
    starts_on = _quarter_of(today)
    for _ in range(DUE_QUARTERS_BACK):
        starts_on = _quarter_of(starts_on - timedelta(days=1))
        due.append(starts_on)
    drawn = sa.select(RandomAudit.starts_on).where(RandomAudit.starts_on.in_(due), RandomAudit.drawn_at.is_not(None))
    audited = set(session.scalars(drawn))
    return [each for each in sorted(due) if each not in audited and today > drawable_after(session, each)]


def _quarter_of(day: date) -> date:
    return date(day.year, 3 * ((day.month - 1) // 3) + 1, 1)


def draw(session: Session, audit_id: UUID, *, now: datetime) -> RandomAudit | None:
    """Draw the sample of an audit; None when it is drawn already or there is no such audit. Raises TooManyStrata."""
    asked = session.scalars(
        # Locked by the write: two workers cannot both draw.
        sa.update(RandomAudit)
        .where(RandomAudit.id == audit_id, RandomAudit.drawn_at.is_(None))
        .values(problem=None)
        .returning(RandomAudit)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if asked is None:
        return None
    as_of = now - SETTLED_AFTER
    strata, items = _drawn(session, asked, as_of=as_of)
    if strata:
        session.execute(sa.insert(AuditStratum), [{"audit_id": audit_id, **asdict(each)} for each in strata])
    if items:
        session.execute(sa.insert(AuditItem), [{"audit_id": audit_id, **item} for item in items])
    return session.scalars(
        sa.update(RandomAudit)
        .where(RandomAudit.id == audit_id)
        .values(as_of=as_of, drawn_at=now, strata_count=len(strata), items_count=len(items))
        .returning(RandomAudit)
        .execution_options(populate_existing=True)
    ).one()


def _drawn(session: Session, asked: RandomAudit, *, as_of: datetime) -> tuple[list[Stratum], list[dict[str, Any]]]:
    """What an audit's plan and seed draw from the claims paid as of an instant: the strata, and the sample of them."""
    plan = msgspec.convert(asked.plan, Plan)
    strata = allocated(population(session, asked.starts_on, as_of=as_of), plan)
    return strata, sample(session, asked.starts_on, strata, seed=asked.seed, as_of=as_of)


def drawn_again(session: Session, drawn: RandomAudit) -> bool:
    """Whether the seed still draws the sample that is kept."""
    if drawn.as_of is None:
        return False
    _, items = _drawn(session, drawn, as_of=drawn.as_of)
    kept = session.execute(
        sa.select(AuditItem.resident_id, AuditItem.activity_id).where(AuditItem.audit_id == drawn.id)
    )
    return {(item["resident_id"], item["activity_id"]) for item in items} == {(row[0], row[1]) for row in kept}


# Paid then and not taken back yet: what was taken back later counts, so that drawing again finds the same.
_PAID = """
    FROM activity a
    JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id AND t.kind = 'award' AND t.points > 0
    WHERE a.business_day BETWEEN :first AND :last AND t.recorded_at <= :as_of
      AND NOT EXISTS (SELECT FROM transfer r WHERE r.resident_id = t.resident_id AND r.reverses_id = t.id
                      AND r.recorded_at <= :as_of)"""

_POPULATION = sa.text(f"""
SELECT a.behaviour, a.source, count(*), sum(t.points) {_PAID} GROUP BY 1, 2 ORDER BY 1, 2 LIMIT {STRATA_MAX + 1}
""")

_SAMPLE = sa.text(f"""
WITH wanted AS (
    SELECT behaviour, source, sampled_claims, decode(below, 'hex') AS below
    FROM json_to_recordset(cast(:strata AS json)) AS w (behaviour text, source text, sampled_claims int, below text)
), hashed AS (
    SELECT a.resident_id, a.id, a.behaviour, a.source, t.points, sha256(:seed || uuid_send(a.id)) AS digest {_PAID}
), turned AS (
    SELECT h.*, w.sampled_claims,
           row_number() OVER (PARTITION BY h.behaviour, h.source ORDER BY h.digest, h.resident_id) AS turn
    FROM hashed h JOIN wanted w ON w.behaviour = h.behaviour AND w.source = h.source AND h.digest < w.below
)
SELECT resident_id, id AS activity_id, behaviour, source, points FROM turned WHERE turn <= sampled_claims
ORDER BY activity_id, resident_id
""")  # noqa: S608 -- constants of this module


def population(session: Session, starts_on: date, *, as_of: datetime) -> list[Stratum]:
    """The strata of a quarter's claims that were paid, and not taken back, as of an instant. Raises TooManyStrata."""
    values = {"first": starts_on, "last": last_day(starts_on), "as_of": as_of}
    rows = session.execute(_POPULATION, values).all()
    if len(rows) > STRATA_MAX:
        raise TooManyStrata
    return [Stratum(Behaviour(behaviour), source, claims, int(points)) for behaviour, source, claims, points in rows]


def allocated(strata: Sequence[Stratum], plan: Plan) -> list[Stratum]:
    """The strata with their numbers of claims to draw: by points, at least the plan's least, at most all there are."""
    points = sum(stratum.points for stratum in strata)
    return [
        replace(
            stratum,
            sampled_claims=min(
                stratum.claims, max(plan.stratum_claims_min, -(-plan.claims * stratum.points // points))
            ),
        )
        for stratum in strata
    ]


def sample(
    session: Session, starts_on: date, strata: Sequence[Stratum], *, seed: bytes, as_of: datetime
) -> list[dict[str, Any]]:
    """The drawn claims, by id: resident, activity, behaviour, source and points."""
    values = {"first": starts_on, "last": last_day(starts_on), "as_of": as_of, "seed": seed}
    wanted = sum(stratum.sampled_claims for stratum in strata)
    for widened in (False, True):
        asked = [
            {
                "behaviour": stratum.behaviour.value,
                "source": stratum.source,
                "sampled_claims": stratum.sampled_claims,
                "below": (_EVERYTHING if widened else _below(stratum)).hex(),
            }
            for stratum in strata
        ]
        rows = session.execute(_SAMPLE, {**values, "strata": msgspec.json.encode(asked).decode()})
        items = [{**row, "behaviour": Behaviour(row["behaviour"])} for row in rows.mappings()]
        if len(items) == wanted:
            return items
    raise AssertionError("the population changed under a fixed instant")


_EVERYTHING = b"\xff" * 33


def _below(stratum: Stratum) -> bytes:
    """A bound of the hash under which far more claims lie than are wanted: so a quarter of millions is not sorted.

    Six standard deviations and ten claims more: that too few lie under it happens about once in a billion, and then
    everything is looked at.
    """
    number = stratum.sampled_claims + 6 * sqrt(stratum.sampled_claims) + 10
    if number >= stratum.claims:
        return _EVERYTHING
    return int(number / stratum.claims * 2**64).to_bytes(8, "big")

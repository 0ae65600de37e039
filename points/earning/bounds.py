"""Bounds in the database: what all claims of one household, device, staff member, site or drive can pay on a day.

The hard limit behind every check: an attacker who passes them all still gains no more than the bounds let through. A
bound is taken from with one guarded statement at the end of an award; a reversal gives nothing back, or whoever is
caught with one half of the day's points could earn it a second time.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.earning.models import BoundKind
from points.earning.pricing import Priced, Tariff, Tariffs, site_subject
from server.clock import week_start
from server.errors import Conflict

KEPT_FOR = timedelta(days=400)  # past every closing day, and past a year's audits
FORGET_BATCH = 10_000
REMEMBERED_MAX = 10_000

REASONS: Mapping[str, Reason] = {
    BoundKind.HOUSEHOLD.value: Reason.HOUSEHOLD_LIMIT,
    BoundKind.DEVICE.value: Reason.DEVICE_LIMIT,
    BoundKind.PHONE.value: Reason.DEVICE_LIMIT,
    BoundKind.STAFF.value: Reason.STAFF_LIMIT,
    BoundKind.SITE.value: Reason.SITE_LIMIT,
    BoundKind.GRADE.value: Reason.GRADE_CEILING,
}


class Key(NamedTuple):
    """One subject's period: a row of `bound_usage`."""

    kind: str
    subject: str
    day: date


class BoundReached(Conflict):
    """What is left of a bound does not cover this; `left_points` says how much is."""

    code, title_zh, title_en = "bound-reached", "已达到当日上限", "The day's bound is reached"


def find_households(session: Session, rows: Sequence[Priced]) -> None:
    """Look up the households of the rows' residents, where that is needed before the statement joins them."""
    found = session.execute(_HOUSEHOLDS, {"residents": list({row.resident_id for row in rows})})
    households: dict[UUID, UUID] = dict(found.all())
    for row in rows:
        row.household_id = households.get(row.resident_id)


_HOUSEHOLDS = sa.text("SELECT resident_id, household_id FROM household_member WHERE resident_id = ANY(:residents)")


def keys_of_all(rows: Iterable[Priced], tariffs: Tariffs) -> tuple[dict[int, list[tuple[Key, int]]], dict[Key, int]]:
    """The bounds that each row counts to, by its number, and the limit of each of them.

    What the award's statement works out for itself; asked for only where a bound was passed.
    """
    keys: dict[int, list[tuple[Key, int]]] = {}
    for row in rows:
        tariff = tariffs.named(row.rule_version_id or "")
        keys[row.n] = [] if tariff is None else keys_of(row, tariff)
    return keys, {key: limit for each in keys.values() for key, limit in each}


def keys_of(row: Priced, tariff: Tariff) -> list[tuple[Key, int]]:
    """The bounds that a claim counts to, each with its limit in points."""
    limits, day = tariff.bounds, row.business_day
    found = []
    ceiling = tariff.ceilings.get(row.grade)
    if ceiling is not None:
        found.append((Key("grade", f"{row.resident_id}:{row.grade}", week_start(day)), ceiling))
    if not limits:
        return found
    if row.household_id is not None and "household" in limits:
        found.append((Key("household", str(row.household_id), day), limits["household"]))
    if row.device is not None:
        kind = "phone" if row.device.startswith("phone:") else "device"
        if kind in limits:
            found.append((Key(kind, row.device, day), limits[kind]))
    if row.staff_id is not None and "staff" in limits:
        found.append((Key("staff", str(row.staff_id), day), limits["staff"]))
    if row.site is not None and "site" in limits:
        found.append((Key("site", site_subject(row.grade, row.source, row.site), day), limits["site"]))
    return found


_ASKED = """asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset(cast(:rows AS json)) AS c (kind text, subject text, day date, "limit" bigint)
)"""

_TAKE = sa.text("""
INSERT INTO bound_usage AS kept (kind, subject, day, limit_points, taken_points)
SELECT :kind, :subject, :day, :limit, :points WHERE :points <= :limit
ON CONFLICT (kind, subject, day) DO UPDATE
    SET limit_points = EXCLUDED.limit_points, taken_points = kept.taken_points + EXCLUDED.taken_points
    WHERE kept.taken_points + EXCLUDED.taken_points <= EXCLUDED.limit_points
RETURNING taken_points
""")

_TAKEN = sa.text(f"""
WITH {_ASKED}
SELECT kind, subject, day, taken_points FROM asked JOIN bound_usage USING (kind, subject, day)
""")  # noqa: S608 -- composed of constants of this module

_LOCK = sa.text(f"""
WITH {_ASKED}
INSERT INTO bound_usage AS kept (kind, subject, day, limit_points, taken_points)
SELECT kind, subject, day, "limit", 0 FROM asked ORDER BY 1, 2, 3
ON CONFLICT (kind, subject, day) DO UPDATE SET taken_points = kept.taken_points
RETURNING kind, subject, day, taken_points
""")  # noqa: S608 -- composed of constants of this module


def left(session: Session, limits: Mapping[Key, int]) -> dict[Key, int]:
    """What is left of each bound just now."""
    return _left(session.execute(_TAKEN, {"rows": _rows(limits)}), limits)


def lock(session: Session, limits: Mapping[Key, int]) -> dict[Key, int]:
    """What is left of each bound, which then waits for this transaction: nobody else can take it meanwhile."""
    return _left(session.execute(_LOCK, {"rows": _rows(limits)}), limits)


def _rows(limits: Mapping[Key, int]) -> str:
    rows = [{"kind": key.kind, "subject": key.subject, "day": key.day, "limit": limits[key]} for key in limits]
    return msgspec.json.encode(rows).decode()


def _left(taken: Iterable[sa.Row[Any]], limits: Mapping[Key, int]) -> dict[Key, int]:
    found = dict(limits)
    for row in taken:
        key = Key(row.kind, row.subject, row.day)
        found[key] = max(0, limits[key] - row.taken_points)
    return found


def refuse_known(session: Session, rows: Sequence[Priced], tariffs: Tariffs) -> None:
    """Refuse at once what is larger than what was left of its bound a moment ago.

    Without this, every batch with one claim of a full site would be paid twice, the first time in vain. A claim that a
    cap would have cut is judged at its price.
    """
    find_households(session, rows)
    keys, _ = keys_of_all(rows, tariffs)
    for row in rows:
        passed = next(
            (key for key, _ in keys[row.n] if tariffs.left.get(key, row.priced_points) < row.priced_points), None
        )
        if passed is not None:
            row.reason = REASONS[passed.kind]


def remember(tariffs: Tariffs, left_points: Mapping[Key, int], passed: Iterable[Key]) -> None:
    """Keep in mind what was left of the bounds that claims have passed."""
    if len(tariffs.left) > REMEMBERED_MAX:
        tariffs.left.clear()
    tariffs.left.update({key: left_points[key] for key in passed})


def refuse_beyond(
    rows: Sequence[Priced],
    worth: Mapping[int, int],
    keys: Mapping[int, Sequence[tuple[Key, int]]],
    left_points: Mapping[Key, int],
) -> set[Key]:
    """Give the claims that no longer fit the reason of the bound they pass, the earlier ones first; which were passed.

    `worth` is what each would be paid by its number, `keys` the bounds that it counts to.
    """
    remaining, all_passed = dict(left_points), set()
    for row in sorted(rows, key=lambda each: (each.started_at, each.n)):
        points = worth.get(row.n, 0)
        if points == 0 or row.reason is not None:
            continue
        passed = next((key for key, _ in keys.get(row.n, ()) if remaining[key] < points), None)
        if passed is not None:
            row.reason = REASONS[passed.kind]
            all_passed.add(passed)
            continue
        for key, _ in keys.get(row.n, ()):
            remaining[key] -= points
    return all_passed


def take(session: Session, kind: BoundKind, subject: str, points: int, *, day: date, limit_points: int) -> None:
    """Take points from one bound. Raises BoundReached; nothing is then taken."""
    keys = {"kind": kind.value, "subject": subject, "day": day, "limit": limit_points, "points": points}
    if points and session.scalar(_TAKE, keys) is None:
        key = Key(kind.value, subject, day)
        raise BoundReached(left_points=left(session, {key: limit_points})[key])


def forget_old(session: Session, *, today: date) -> int:
    """Delete up to FORGET_BATCH bounds of days long past; the number deleted."""
    return int(
        session.execute(
            sa.text(
                "DELETE FROM bound_usage WHERE (kind, subject, day) IN "
                "(SELECT kind, subject, day FROM bound_usage WHERE day < :before LIMIT :most)"
            ),
            {"before": today - KEPT_FOR, "most": FORGET_BATCH},
        ).rowcount  # type: ignore[attr-defined]
    )

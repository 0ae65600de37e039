"""What the tests of the points room are built from: claims, lines of a feed, signed batches, looks at the ledger."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from points.earning.award import award
from points.earning.claims import Claim
from points.earning.counts import COUNT_CHECKS
from points.earning.models import Behaviour, Grade
from points.ledger import verification
from points.ledger.models import Debt, Lot, Transfer
from points.partners import registry, signature
from server.clock import SHANGHAI
from server.database import new_id
from server.people.models import Resident

# A Wednesday; the first edition of the rules holds, its week is 16 to 22 November.
NOON = datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI)
PARTNER_KEY = "test-partner-key-0123456789abcdef-a"

# An example runs inside a savepoint of the test's own transaction, so the fixture may be shared between examples.
generated = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def at(text: str) -> datetime:
    """An instant of November 2026 in Shanghai, written as "18 08:30" or "18 08:30:15"."""
    day, clock = text.split()
    hour, minute, second = (*map(int, clock.split(":")), 0)[:3]
    return datetime(2026, 11, int(day), hour, minute, second, tzinfo=SHANGHAI)


def claim(
    resident_id: UUID,
    behaviour: str = "bus",
    *,
    mode: str | None = None,
    grade: Grade = Grade.PARTNER_SIGNED,
    source: str = "metro-card",
    id: str | None = None,
    start: datetime = NOON - timedelta(hours=3),
    minutes: float | None = None,
    **values: Any,
) -> Claim:
    """A claim that the packaged rules pay: a bus ride of 5 km in 20 minutes unless told otherwise."""
    travel = behaviour not in {"sorting", "recycling"} and "steps" not in values
    if travel:
        values.setdefault("distance_m", 5000)
    ended_at = start + timedelta(minutes=(20 if travel else 0) if minutes is None else minutes)
    return Claim(
        resident_id=resident_id,
        behaviour=Behaviour(behaviour),
        mode=mode or behaviour,
        grade=grade,
        source=source,
        external_id=id or str(new_id()),
        started_at=start,
        ended_at=ended_at,
        received_at=NOON,
        **values,
    )


def steps_claim(resident_id: UUID, steps: int, before: int = 0, *, day: datetime | None = None) -> Claim:
    """The steps of a day as WeRun told them: `before` of them at an earlier sync."""
    start = day or NOON.replace(hour=0)
    return claim(
        resident_id,
        "walk",
        mode="steps",
        grade=Grade.SENSOR,
        source="werun",
        start=start,
        steps=steps,
        steps_before=before,
        id=f"{start:%Y%m%d}-{steps}",
    )


def drop(resident_id: UUID, category: str = "kitchen", **values: Any) -> Claim:
    """A bag in a smart bin: 5 points, of 20 a day and 100 a week."""
    return claim(resident_id, "sorting", mode=category, source="bins", **values)


def points_of(session: Session, resident_id: UUID, *, now: datetime, points: int, **values: Any) -> UUID:
    """Award exactly `points` (1 to 200) by a weighing; the activity's id."""
    made = award(
        session,
        [
            claim(
                resident_id,
                "recycling",
                mode="aluminium_can",
                weight_g=25 * points,
                start=now - timedelta(minutes=1),
                **values,
            )
        ],
        now=now,
    )[0]
    assert made.points == points, made
    assert made.activity_id is not None
    return made.activity_id


def resident(session: Session, community: str | None = "120104001001", **values: Any) -> UUID:
    """A resident added to the session's transaction, which goes on."""
    made = Resident(resident_id=new_id(), community_code=community, created_at=NOON, **values)
    session.add(made)
    session.flush()
    return made.resident_id


# Lines of a feed


def line(**members: Any) -> bytes:
    """One line."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def ride_line(event_id: str, member: str = "m-1", start: datetime = NOON - timedelta(hours=3), **changes: Any) -> bytes:
    """A bus ride of 5 km in 20 minutes: 8 points, of 40 a day."""
    known = {
        "kind": "ride",
        "id": event_id,
        "member": member,
        "mode": "bus",
        "started_at": start.isoformat(),
        "ended_at": (start + timedelta(minutes=20)).isoformat(),
        "distance_m": 5000,
    }
    return line(**{key: value for key, value in {**known, **changes}.items() if value is not None})


def drop_line(event_id: str, member: str = "m-1", when: datetime = NOON - timedelta(hours=3), **changes: Any) -> bytes:
    """A bag of kitchen waste: 5 points, of 20 a day."""
    known = {
        "kind": "bin-drop",
        "id": event_id,
        "member": member,
        "category": "kitchen",
        "at": when.isoformat(),
        "site": "bin-7",
    }
    return line(**{key: value for key, value in {**known, **changes}.items() if value is not None})


def weighing_line(
    event_id: str, member: str = "m-1", when: datetime = NOON - timedelta(hours=3), **changes: Any
) -> bytes:
    """A kilogram of aluminium cans: 40 points, of 200 a day."""
    known = {
        "kind": "recycling",
        "id": event_id,
        "member": member,
        "material": "aluminium_can",
        "weight_g": 1000,
        "at": when.isoformat(),
        "site": "station-3",
        "site_kind": "fixed",
        "timing": "scheduled",
        "channel": "offline",
    }
    return line(**{key: value for key, value in {**known, **changes}.items() if value is not None})


@dataclass
class Feed:
    """A partner that pushes batches over HTTP."""

    client: FlaskClient
    session: Session
    data_key: bytes
    now: Callable[[], datetime]
    code: str = "bus-group"
    key: str = PARTNER_KEY
    batches: Iterator[int] = field(default_factory=lambda: iter(range(1, 100_000)))

    def create(self, *, kinds: Sequence[str] = ("ride", "bin-drop", "recycling"), budget: int = 1_000_000) -> None:
        """Add the partner."""
        registry.create(
            self.session,
            self.code,
            name_zh="测试合作方",
            kinds=list(kinds),
            day_budget_points=budget,
            key=self.key,
            data_key=self.data_key,
            now=self.now(),
        )
        self.session.commit()

    def headers(self, body: bytes, *, batch: str | None = None, **changes: Any) -> dict[str, str]:
        """The headers of a well-signed batch."""
        timestamp = str(int(self.now().timestamp()))
        made = {
            "X-Tanpuhui-Timestamp": timestamp,
            "X-Tanpuhui-Batch": batch or f"batch-{next(self.batches)}",
            "X-Tanpuhui-Signature": signature.sign(self.key.encode(), timestamp, body),
            "Content-Type": "application/x-ndjson",
        }
        return {**made, **changes}

    def send(self, body: bytes, headers: dict[str, str]) -> TestResponse:
        """Post a body with these headers."""
        return self.client.post(f"/api/v1/partners/{self.code}/events", data=body, headers=headers)

    def push(self, *lines: bytes, batch: str | None = None) -> dict[str, Any]:
        """Push lines as one batch, which must be taken in; the answer."""
        body = b"".join(each + b"\n" for each in lines)
        answer = self.send(body, self.headers(body, batch=batch))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json
        return found


# Looking at what is stored


def balances(session: Session, resident_id: UUID) -> tuple[dict[date, int], int]:
    """The resident's lots that hold anything, and the debt."""
    lots = session.execute(
        sa.select(Lot.expires_on, Lot.remaining_points)
        .where(Lot.resident_id == resident_id, Lot.remaining_points != 0)
        .order_by(Lot.expires_on)
    )
    debt = session.scalar(sa.select(Debt.points).where(Debt.resident_id == resident_id)) or 0
    return dict(lots.all()), debt


def transferred(session: Session, resident_id: UUID) -> int:
    """The sum of the resident's transfers."""
    return int(session.scalar(sa.select(sa.func.sum(Transfer.points)).where(Transfer.resident_id == resident_id)) or 0)


def wrong(session: Session) -> dict[str, dict[str, Any]]:
    """Every check that fails, with the first row that is wrong."""
    findings = verification.run(session, verification.LEDGER_CHECKS + COUNT_CHECKS)
    return {finding.name: finding.first_wrong for finding in findings if finding.first_wrong is not None}


def digest(session: Session, *columns: str, table: str, group_by: str = "") -> list[tuple[Any, ...]]:
    """The rows of a table in a fixed order, for comparing two ways to the same end."""
    grouped = f"GROUP BY {group_by}" if group_by else ""
    rows = session.execute(sa.text(f"SELECT {', '.join(columns)} FROM {table} {grouped}"))
    return sorted((tuple(row) for row in rows), key=repr)


def outcomes(answer: dict[str, Any]) -> list[str]:
    """The outcomes of a batch in a few words, in the order of its lines."""
    return [f"{each['outcome']} {each.get('reason', '')}".strip() for each in answer["outcomes"]]


def counted(values: Sequence[Any]) -> dict[Any, int]:
    """How often each value occurs."""
    return dict(Counter(values))


@contextmanager
def owner(session: Session, *, unguarded: bool = False) -> Iterator[None]:
    """Run as the owner of the schema; `unguarded` switches the triggers and foreign keys off as well."""
    session.execute(sa.text("SET LOCAL ROLE NONE"))
    if unguarded:
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    yield
    session.execute(sa.text("SET LOCAL session_replication_role = origin"))
    session.execute(sa.text("SET LOCAL ROLE tanpuhui_app"))


def utc(instant: datetime) -> datetime:
    """The instant in UTC."""
    return instant.astimezone(UTC)

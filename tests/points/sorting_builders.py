"""Sites, people and devices for the tests of sorting."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from points.waste.drops import plans, spot_checks
from points.waste.drops.models import DropPath
from points.waste.drops.plans import PlanFile
from points.waste.sites import importing, opening, registry
from points.waste.sites.models import Site, SiteForm, SiteKind
from points.waste.sites.registry import SiteEntry
from server.access import Actor, Role
from server.clock import SHANGHAI, now
from server.database import new_id
from server.people import code_limits, signed_codes
from server.people.models import CodePurpose, StaffLink
from server.places.positions import Datum
from server.settings import PLACES_DATA

COMMUNITY, NEXT_DOOR = "120104001001", "120104001003"
# A Tuesday under the second edition of the rules.
TUESDAY = datetime(2026, 11, 24, 12, 0, tzinfo=SHANGHAI)
ROUND_THE_CLOCK = "daily 00:00-24:00"


def site(session: Session, code: str = "nk-site-01", hours: str = ROUND_THE_CLOCK, **changes: Any) -> Site:
    """A sorting site of the first community that takes everything round the clock, unless told otherwise."""
    values: dict[str, Any] = {
        "kind": SiteKind.SORTING_SITE,
        "form": SiteForm.BIN_ROOM,
        "name": "一号箱房",
        "address": "某路1号",
        "community_code": COMMUNITY,
        "latitude": 39.12,
        "longitude": 117.15,
        "datum": Datum.GCJ_02,
        "categories": ["recyclable", "hazardous", "kitchen", "residual"],
        "valid_from": date(2026, 1, 1),
        **changes,
    }
    plan = importing.plan_of(hours, values["valid_from"])
    added = registry.add(session, SiteEntry(code=code, hours=plan, **values), now=now())
    session.commit()
    opening.forget()
    return added


def decisions(
    session: Session,
    probability: str = "0",
    *,
    valid_from: date = date(2026, 11, 20),
    rates: Mapping[tuple[str, str], Decimal] | None = None,
) -> None:
    """A plan with one probability of a check for all paths, or with `rates`, and the district's limits of codes."""
    head = {
        "id": f"test-{probability}-{valid_from}",
        "source": "test",
        "valid_from": valid_from,
        "check_within_hours": 48,
        "site_code_every_minutes": 60,
    }
    for_all = {(path.value, ""): Decimal(probability) for path in DropPath}
    plans.load(session, [PlanFile(head, dict(for_all if rates is None else rates), bytes(32))])
    code_limits.load(session, code_limits.read_limits(PLACES_DATA / "nankai"))
    session.commit()


def declare_none(session: Session, staff_id: UUID) -> None:
    """A member of staff says in writing that they have no resident account."""
    session.add(StaffLink(staff_id=staff_id, statement="本人没有居民账号", made_at=now()))
    session.commit()


def person(staff_id: UUID, role: Role, division: str | None = COMMUNITY) -> Actor:
    """A member of staff as whoever is behind a request."""
    return Actor(id=staff_id, role=role, session_id=new_id(), division=division)


def code_of(data_key: bytes, resident_id: UUID, at: datetime | None = None) -> str:
    """What the resident's phone shows for sorting."""
    return signed_codes.make(data_key, resident_id, purpose=CodePurpose.SORTING, now=at or now()).text


def bags(**findings: str) -> list[dict[str, str]]:
    """Bags by category."""
    return [{"category": category, "finding": finding} for category, finding in findings.items()]


def drawn_now(session: Session, data_key: bytes) -> int:
    """Draw from all that was recorded up to now; the number of new checks."""
    to, checks, more = spot_checks.begin_drawing(session), 0, True
    while more:
        made = spot_checks.draw(session, to=to, data_key=data_key, now=now())
        checks, more = checks + made.checks, made.more
    return checks

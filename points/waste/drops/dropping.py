"""Recording what is brought to a sorting site: graded by a supervisor, read by a device, or declared by the resident.

The fourth way, a partner's smart bin, comes through the signed feed. All end in the one award path, where a bag that
two of them tell of is paid once (see `bags`), and none says a word about spot-checks: those are drawn later, by a job
(see `spot_checks`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Award, Claim, Reason
from points.earning.models import Behaviour, Grade
from points.waste.drops import bags as same_bags
from points.waste.drops import plans, site_codes
from points.waste.drops.models import DropPath, Finding, Identified, SortingDrop
from points.waste.drops.site_codes import ShownSiteCode
from points.waste.sites import opening, registry
from points.waste.sites.models import Category, Site, SiteKind
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, InvalidRequest, NotFound
from server.notices import notices
from server.people import resident_codes
from server.people.models import CodePurpose
from server.people.resident_codes import UsedCode
from server.people.scan_kinds import AcceptedScan, ScanKind

BAGS_MAX = len(Category)

SOURCES = {
    DropPath.SUPERVISOR: "sorting-supervisor",
    DropPath.SCANNER: "sorting-scanner",
    DropPath.SITE_CODE: "sorting-site-code",
}

_CATEGORY_NAMES = {
    Category.RECYCLABLE: ("可回收物", "recyclables"),
    Category.HAZARDOUS: ("有害垃圾", "hazardous waste"),
    Category.KITCHEN: ("厨余垃圾", "kitchen waste"),
    Category.RESIDUAL: ("其他垃圾", "residual waste"),
}
_FINDING_NAMES = {
    Finding.UNQUALIFIED: ("检查为不合格", "was found badly sorted"),
    Finding.MIXED: ("检查为混投", "was found mixed"),
}


class SortingNotOpen(Conflict):
    """The district has not decided yet how drops are taken."""

    code, title_zh, title_en = (
        "sorting-not-open",
        "本区尚未开通分类投放记录",
        "The district does not record drops yet",
    )


@dataclass(frozen=True, slots=True)
class Bag:
    """One bag of one category, and what was found in it; None: nobody looked."""

    category: Category
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Visit:
    """Who stands where, how they were recognised and what vouches for it."""

    path: DropPath
    site: Site
    resident_id: UUID
    dropped_at: datetime
    identified_by: Identified | None = None
    device: str | None = None
    staff_id: UUID | None = None

    @property
    def grade(self) -> Grade:
        """The lowest where no member of staff says so: at a device that nobody carries, or by the site's own code."""
        return Grade.SELF_DECLARED if self.staff_id is None else Grade.STAFF_CONFIRMED


@dataclass(frozen=True, slots=True)
class BagOutcome:
    """What became of one bag."""

    bag: Bag
    award: Award


@dataclass(frozen=True, slots=True)
class Dropped:
    """One visit to a site: its bags in the order in which they were given."""

    id: UUID
    site: Site
    dropped_at: datetime
    bags: tuple[BagOutcome, ...]


def record_graded(
    session: Session,
    actor: Actor,
    *,
    site_code: str,
    code: str,
    bags: Sequence[Bag],
    data_key: bytes,
    now: datetime,
) -> Dropped:
    """Record what a resident brings, whose code or card the actor has scanned and whose bags the actor has graded.

    A badly sorted bag is recorded and not paid, and the resident is told. Everything here is one transaction: a code
    that two supervisors scan serves one of them.

    Raises NotFound outside the scope and for what is no sorting site, and what `resident_codes.read_and_use` raises.
    """
    site = _sorting_site(registry.site_for(session, actor, site_code))
    used = resident_codes.read_and_use(
        session, actor, code, purpose=CodePurpose.SORTING, site=site.code, data_key=data_key, now=now
    )
    return _record_identified(session, DropPath.SUPERVISOR, site, used, bags, dropped_at=now, now=now)


def record_scanned(session: Session, scan: AcceptedScan, now: datetime) -> None:
    """Record what a registered device sent in, perhaps hours later; `detail` holds the bags as they were graded.

    Raises NotFound for a device without a sorting site in its own division, InvalidRequest for bags that make no sense.
    """
    if scan.scanner.site_code is None:
        raise NotFound
    site = _sorting_site(registry.site_of(session, scan.scanner.site_code))
    if not site.community_code.startswith(scan.scanner.division):
        raise NotFound
    bags = _bags_of(scan.detail)
    _record_identified(session, DropPath.SCANNER, site, scan.used, bags, dropped_at=scan.scanned_at, now=now)


def _bags_of(detail: Mapping[str, Any]) -> list[Bag]:
    entries = detail.get("bags")
    if detail.keys() != {"bags"} or not isinstance(entries, list) or not 1 <= len(entries) <= BAGS_MAX:
        raise InvalidRequest("detail has 1 to 4 bags and nothing else")
    try:
        bags = [Bag(Category(entry["category"]), Finding(entry["finding"])) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest("a bag has a category and a finding") from error
    if len({bag.category for bag in bags}) < len(bags):
        raise InvalidRequest("one bag of each category")
    return bags


def _record_identified(
    session: Session,
    path: DropPath,
    site: Site,
    used: UsedCode,
    bags: Sequence[Bag],
    *,
    dropped_at: datetime,
    now: datetime,
) -> Dropped:
    visit = Visit(
        path=path,
        site=site,
        resident_id=used.resident_id,
        dropped_at=dropped_at,
        identified_by=Identified(used.kind.value),
        device=used.device,
        staff_id=used.staff_id,
    )
    scan_id = new_id()
    claims = [_claim(visit, bag, f"{scan_id}:{bag.category.value}", now=now) for bag in bags]
    dropped = _award(session, visit, scan_id, bags, claims, now=now)
    _tell_of_findings(session, used.resident_id, dropped, now=now)
    return dropped


def record_own(
    session: Session,
    actor: Actor,
    *,
    code: str,
    categories: Sequence[Category],
    device: str | None,
    data_key: bytes,
    now: datetime,
) -> Dropped:
    """Record what the actor, a resident, says they brought to the site whose code they scanned: the lowest grade.

    One bag of each category within the plan's time at one site: what comes again has the same external id, and is told
    to be a duplicate.

    Raises SiteCodeRefused, SortingNotOpen.
    """
    site = _sorting_site(registry.site_of(session, site_codes.site_behind(data_key, code, now=now)))
    plan = plans.on(plans.read(session), business_day(now))
    if plan is None:
        raise SortingNotOpen
    turn = int(now.timestamp()) // (60 * plan.site_code_every_minutes)
    visit = Visit(path=DropPath.SITE_CODE, site=site, resident_id=actor.id, dropped_at=now, device=device)
    bags = [Bag(category, None) for category in categories]
    claims = [_claim(visit, bag, f"{site.code}:{bag.category.value}:{turn}", now=now) for bag in bags]
    return _award(session, visit, new_id(), bags, claims, now=now)


def shown_code(session: Session, actor: Actor, site_code: str, *, data_key: bytes, now: datetime) -> ShownSiteCode:
    """The code that the site's screen shows now, for staff in scope. Raises NotFound."""
    site = _sorting_site(registry.site_for(session, actor, site_code))
    return site_codes.shown(data_key, site.code, now=now)


def _sorting_site(site: Site) -> Site:
    if site.kind is not SiteKind.SORTING_SITE:
        raise NotFound
    return site


def _claim(visit: Visit, bag: Bag, external_id: str, *, now: datetime) -> Claim:
    refusal = opening.is_open(opening.of(visit.site), bag.category.value, visit.dropped_at)
    return Claim(
        resident_id=visit.resident_id,
        behaviour=Behaviour.SORTING,
        mode=bag.category.value,
        grade=visit.grade,
        source=SOURCES[visit.path],
        external_id=external_id,
        started_at=visit.dropped_at,
        ended_at=visit.dropped_at,
        received_at=now,
        site=visit.site.code,
        device=visit.device,
        staff_id=visit.staff_id,
        refusal=Reason.UNSORTED if bag.finding in _FINDING_NAMES else refusal,
    )


def _award(
    session: Session, visit: Visit, scan_id: UUID, bags: Sequence[Bag], claims: Sequence[Claim], *, now: datetime
) -> Dropped:
    awards = same_bags.award_once(session, claims, now=now)
    rows = [
        {
            "resident_id": visit.resident_id,
            "activity_id": made.activity_id,
            "scan_id": scan_id,
            "path": visit.path,
            "site_code": visit.site.code,
            "category": bag.category,
            "finding": bag.finding,
            "identified_by": visit.identified_by,
            "staff_id": visit.staff_id,
            "dropped_at": visit.dropped_at,
            "recorded_at": now,
        }
        for bag, made in zip(bags, awards, strict=True)
        if made.activity_id is not None
    ]
    if rows:
        session.execute(sa.insert(SortingDrop), rows)
    outcomes = tuple(BagOutcome(bag, made) for bag, made in zip(bags, awards, strict=True))
    return Dropped(scan_id, visit.site, visit.dropped_at, outcomes)


def _tell_of_findings(session: Session, resident_id: UUID, dropped: Dropped, *, now: datetime) -> None:
    for outcome in dropped.bags:
        found = _FINDING_NAMES.get(outcome.bag.finding) if outcome.bag.finding is not None else None
        if found is None or outcome.award.activity_id is None:
            continue
        category = _CATEGORY_NAMES[outcome.bag.category]
        notices.tell(
            session,
            [resident_id],
            kind="sorting-unsorted",
            subject=f"activity:{outcome.award.activity_id}",
            title_zh=f"您投放的{category[0]}经督导员{found[0]}, 未计积分",
            title_en=f"Your {category[1]} {found[1]} by the supervisor, and earned no points",
            now=now,
        )


# What a registered device's scan for sorting means; `wsgi.py` gives it to the room of people.
SCAN_KIND = ScanKind(CodePurpose.SORTING, record_scanned)

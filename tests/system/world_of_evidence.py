"""The part of the world that vouches and doubts: codes, cards, devices, homes, sites, recycling, tracks, reviews."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from world_parts import DISTRICT, HOME, OFFICES, Bundle, Makers, seen

from points.earning import holds
from points.earning.award import award
from points.earning.claims import Claim, Reason
from points.earning.models import Behaviour, Grade, SubjectKind
from points.earning.proposals.models import ProposalKind, RuleProposal, RuleReplay
from points.review import appeals
from points.review.audit.models import AuditItem, AuditStratum, RandomAudit
from points.review.models import Appeal
from points.travel.models import Track, TrackMode
from points.waste.drops.models import DropPath, SortingPlan, SpotCheck
from points.waste.orders import orders, settling, timetable, weighing
from points.waste.orders.models import PlanKind, Way
from points.waste.orders.slips import Line
from points.waste.sites import importing
from points.waste.sites.models import Category
from server.access import Actor, Role
from server.clock import business_day
from server.database import new_id
from server.people import cards, households, scanners, signed_codes
from server.people.models import CodePurpose, ConsentPurpose, StaffLink
from server.people.residents import give_consent
from server.request_signatures import new_key
from server.settings import PLACES_DATA

# Addresses of which the resident's own things are no part.
CARDS_ISSUED = "/api/v1/residents/<uuid:resident_id>/cards"
HOUSEHOLD_ASSISTED = "/api/v1/residents/<uuid:resident_id>/household"
BOOKED = "/api/v1/residents/<uuid:resident_id>/recycling/orders"
APPEALED = "/api/v1/me/activities/<uuid:activity_id>/appeal"

# Of no address.
NOWHERE = "-"

# Sites and points of the sample district's data.
SITE, POINT = "demo-site-01", "demo-point-01"
PLACES = OFFICES | {"community"}
RESIDENTS = ("owner", "neighbour", "team-mate", "resident next door", "resident of nowhere")


def link_staff(make: Makers, staff_ids: Iterable[UUID]) -> None:
    """Let members of staff declare that they are no residents, without which they confirm nothing."""
    make.add(*(StaffLink(staff_id=id, statement="本人没有居民账号", made_at=make.instant) for id in staff_ids))


def vouched_things(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """All of it. The owner's, at the owner's home, unless it says otherwise."""
    importing.load(
        make.session,
        [
            entry
            for entry in importing.read_file(make.settings.district_folder / "sites-demonstration.toml")
            if entry.partner_code is None
        ],
        now=make.instant,
    )
    for name in RESIDENTS:
        give_consent(make.session, person[name], purpose=ConsentPurpose.TRACKS, text_version=None, now=make.instant)
    return {
        **codes(make, person),
        **recycling(make, person),
        **reviews(make, person),
        **rules(make, person),
        **household(make, person),
        "a sorting site": Bundle(
            ("/api/v1/sites/", "/api/v1/sorting/sites/"), {"code": SITE}, PLACES | {"supervisor", "operator"}
        ),
        "a spot check": Bundle(("/api/v1/sorting/spot-checks/",), {"check_id": spot_check(make, person)}, PLACES),
        "the track": Bundle(("/api/v1/me/tracks/",), {"track_id": track(make, person["owner"])}, seen("owner")),
    }


def resident(id: UUID) -> Actor:
    return Actor(id=id, role=Role.RESIDENT, session_id=new_id())


def staff(role: Role, id: UUID, division: str) -> Actor:
    return Actor(id=id, role=role, session_id=new_id(), division=division)


def activity(make: Makers, owner: UUID, name: str, **values: Any) -> UUID:
    """An activity of an hour ago: sorting, from a bin, unless said otherwise."""
    at = make.instant - timedelta(hours=1)
    claim = {
        "behaviour": Behaviour.SORTING,
        "mode": "kitchen",
        "grade": Grade.PARTNER_SIGNED,
        "source": "test",
        "started_at": at,
        "ended_at": at,
        "received_at": make.instant,
        **values,
    }
    made = award(make.session, [Claim(resident_id=owner, external_id=name, **claim)], now=make.instant)[0].activity_id
    assert made is not None
    return made


def known(parts: Mapping[str, Any], *names: str) -> Bundle:
    """What people know of each other's things without an address of it that is theirs."""
    return Bundle((NOWHERE,), parts, seen(*names))


# People, codes and devices


def codes(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """A card and a device."""
    issuer = staff(Role.COMMUNITY_STAFF, person["community"], HOME)
    issued = cards.issue(
        make.session,
        issuer,
        person["owner"],
        for_household=False,
        replaces_because=None,
        data_key=make.settings.data_key,
        now=make.instant,
    )
    device = scanners.register(
        make.session,
        staff(Role.DISTRICT, person["district"], HOME[:6]),
        name="扫码枪",
        division=HOME,
        site_code=SITE,
        operator_id=person["supervisor"],
        key=new_key(),
        data_key=make.settings.data_key,
        now=make.instant,
    )
    card = {"card_id": issued.card.id}
    return {
        "the resident's cards": Bundle((CARDS_ISSUED,), {"resident_id": person["owner"]}, PLACES),
        "the card": Bundle(("/api/v1/me/cards/",), card, seen("owner")),
        "the card as staff keep it": Bundle(("/api/v1/cards/",), card, PLACES),
        # The supervisor carries it, and so knows it.
        "a device": Bundle(("/api/v1/devices/",), {"scanner_id": device.id}, DISTRICT | {"operator", "supervisor"}),
    }


def household(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """The owner's household, with the team-mate in it, as they see it, and staff: nobody here has a phone."""
    owner, mate = resident(person["owner"]), resident(person["team-mate"])
    key = make.settings.data_key
    households.found(make.session, owner, now=make.instant)
    code = households.issue_code(make.session, owner, data_key=key, now=make.instant).join_code
    made = households.join(make.session, mate, code=code, data_key=key, now=make.instant + timedelta(seconds=1))
    [other] = [member.member_id for member in made.members if member.is_me]
    groups = {"first member": seen("owner")}
    assisted = {"resident_id": person["owner"], "member_id": other}
    return {
        "the household": Bundle(("/api/v1/me/household/",), {"member_id": other}, seen("owner", "team-mate"), groups),
        "the household as staff help it": Bundle((HOUSEHOLD_ASSISTED,), assisted, PLACES),
    }


# Waste


def spot_check(make: Makers, person: Mapping[str, UUID]) -> UUID:
    """A drop of the owner's that was drawn."""
    plan = make.session.scalars(sa.select(SortingPlan.id).limit(1)).one()
    check = SpotCheck(
        resident_id=person["owner"],
        activity_id=activity(make, person["owner"], "checked", mode="residual"),
        id=new_id(),
        path=DropPath.SMART_BIN,
        plan_id=plan,
        probability=Decimal("0.5"),
        community_code=HOME,
        site=SITE,
        category=Category.RESIDUAL.value,
        business_day=business_day(make.instant),
        dropped_at=make.instant,
        staff_id=None,
        sampled_at=make.instant,
        due_at=make.instant + timedelta(days=1),
    )
    make.add(check)
    return check.id


def recycling(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """An order that the collector has taken on, one whose slip is disputed, and a stop of the van."""
    collector = staff(Role.COLLECTOR, person["collector"], HOME[:9])
    taken, disputed = (received(make, person["owner"], collector, minutes) for minutes in (0, 5))
    at, line = make.instant, Line("corrugated", gross_g=2100, tare_g=100, net_g=2000)
    slip = weighing.weigh(make.session, collector, disputed, [line], scale=None, reason="", now=at)
    owner = resident(person["owner"])
    settling.dispute(make.session, owner, disputed, slip=slip.slip.number, reason="少称了", now=at)
    entry = {
        "kind": PlanKind.STOP,
        "code": "test-stop",
        "name": "广场",
        "division": HOME,
        "address": "广场1号",
        "longitude": 117.15,
        "latitude": 39.13,
        "weekdays": [1],
        "starts_minute": 540,
        "ends_minute": 600,
        "capacity": 5,
        "valid_from": business_day(at),
    }
    plan = timetable.add_plan(make.session, entry, created_by=person["community"], now=at)
    return {
        "the order": Bundle(("/api/v1/me/recycling/orders/",), {"order_id": taken}, seen("owner")),
        "the order of its collector": Bundle(("/api/v1/recycling/orders/",), {"order_id": taken}, seen("collector")),
        "the order as staff help with it": Bundle(
            (BOOKED,), {"resident_id": person["owner"], "order_id": taken}, PLACES
        ),
        "the disputed order": Bundle(("/api/v1/recycling/disputes/",), {"order_id": disputed}, PLACES),
        "the dispute to both sides": known({"order_id": disputed}, "owner", "collector"),
        "a stop": Bundle(("/api/v1/recycling/plans/",), {"code": plan.code}, PLACES),
    }


def received(make: Makers, owner: UUID, collector: Actor, minutes_ago: int) -> UUID:
    """What the owner brought to the point, by their code."""
    at, key = make.instant - timedelta(minutes=minutes_ago), make.settings.data_key
    text = signed_codes.make(key, owner, purpose=CodePurpose.RECYCLING, now=at).text
    made = orders.receive(make.session, collector, text=text, way=Way.POINT, place=POINT, data_key=key, now=at)
    return made.id


# Travel


def track(make: Makers, owner: UUID) -> UUID:
    """A track whose first chunk is still to come."""
    made = Track(
        resident_id=owner,
        id=new_id(),
        mode=TrackMode.WALK,
        datum="gcj-02",
        device="phone:test",
        opened_at=make.instant,
    )
    make.add(made)
    return made.id


# Review


def reviews(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """A refused activity under appeal with its case, a hold, and a random audit that drew an activity."""
    owner = person["owner"]
    refused = activity(make, owner, "refused", mode="residual", site="elsewhere", refusal=Reason.UNSORTED)
    appeals.make(make.session, owner, refused, text="当时分得很清楚", now=make.instant)
    case = make.session.scalars(sa.select(Appeal.case_id).where(Appeal.resident_id == owner)).one()
    hold = holds.place(
        make.session,
        subject_kind=SubjectKind.RESIDENT,
        subject=str(person["neighbour"]),
        reason=Reason.BURST,
        until=make.instant + timedelta(days=1),
        case_id=None,
        now=make.instant,
    )
    audited = random_audit(make, person)
    return {
        "the appeal": Bundle((APPEALED,), {"activity_id": refused}, seen("owner")),
        "the case to the owner": known({"case_id": case}, "owner"),
        "a case": Bundle(("/api/v1/review/cases/",), {"case_id": case, "activity_id": refused}, PLACES),
        "a hold": Bundle(("/api/v1/review/holds/",), {"hold_id": hold}, PLACES),
        "a random audit": Bundle(("/api/v1/random-audits/",), audited, DISTRICT),
        "the audited activity": known({"activity_id": audited["activity_id"]}, "owner"),
    }


def random_audit(make: Makers, person: Mapping[str, UUID]) -> dict[str, UUID]:
    """An audit of the quarter before this one that drew one claim."""
    at, owner = make.instant, person["owner"]
    drawn = activity(make, owner, "audited", mode="hazardous")
    made = RandomAudit(
        id=new_id(),
        starts_on=quarter_before(business_day(at)),
        seed=bytes(32),
        plan={},
        requested_by=person["district"],
        requested_at=at,
    )
    of = {"audit_id": made.id, "behaviour": Behaviour.SORTING, "source": "test"}
    make.add(
        made,
        AuditStratum(**of, claims=1, points=1, sampled_claims=1),
        AuditItem(**of, resident_id=owner, activity_id=drawn, points=1),
    )
    made.as_of = made.drawn_at = at
    made.strata_count = made.items_count = 1
    make.session.flush()
    return {"audit_id": made.id, "activity_id": drawn}


def quarter_before(day: date) -> date:
    """The first day of the quarter before the day's."""
    first = day.replace(month=day.month - (day.month - 1) % 3, day=1)
    before = first - timedelta(days=1)
    return before.replace(month=before.month - 2, day=1)


# Rules by people


def rules(make: Makers, person: Mapping[str, UUID]) -> dict[str, Bundle]:
    """A version of the rules that somebody else of the district proposed."""
    day = business_day(make.instant)
    content = re.sub(
        r"^valid_from = .*$",
        f"valid_from = {day + timedelta(days=40)}",
        (PLACES_DATA / "nankai" / "earning-2026-2.toml").read_text("utf-8").replace("nankai-2026-2", "test-rules"),
        count=1,
        flags=re.MULTILINE,
    )
    proposal = RuleProposal(
        id=new_id(),
        kind=ProposalKind.RULES,
        subject_id="test-rules",
        version_id="test-rules",
        base_version_id=None,
        content=content,
        content_sha256=hashlib.sha256(content.encode()).digest(),
        valid_from=day + timedelta(days=40),
        reason="试行",
        proposed_by=person["colleague at the district"],
        proposed_at=make.instant,
    )
    replay = RuleReplay(proposal_id=proposal.id, first_on=day - timedelta(days=30), last_on=day - timedelta(days=1))
    make.add(proposal, replay)
    parts = {"proposal_id": proposal.id}
    return {"a proposal": Bundle(("/api/v1/rule-proposals/",), parts, DISTRICT)}

"""Sites as the staff of their place keep them: adding, changing, ending."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from points.waste.sites import opening
from points.waste.sites.models import Site, SiteDevice, SiteForm, SiteKind
from points.waste.sites.opening import Plan
from server import audit
from server.access import Actor
from server.clock import business_day
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of
from server.places.divisions import community_for
from server.places.positions import Datum

DEVICES_MAX = 50
PLANS_MAX = 20

# Late records are judged by the hours of their own day; no rule takes them later than this.
PLANS_KEPT_FOR = timedelta(days=90)


class SiteExists(Conflict):
    """The code is taken."""

    code, title_zh, title_en = "site-exists", "该点位代码已存在", "This site code is taken"
    constraints = ("site_pkey",)


class SiteDeviceTaken(Conflict):
    """The device stands at another site."""

    code, title_zh, title_en = "site-device-taken", "该设备已登记在其他点位", "The device stands at another site"
    constraints = ("site_device_pkey",)


class PartnerSiteTaken(Conflict):
    """The partner knows another site by this name."""

    code, title_zh, title_en = (
        "partner-site-taken",
        "合作方的该点位名称已登记",
        "The partner knows another site by this name",
    )
    constraints = ("site_partner_site_key",)


class SitePartnerUnknown(DomainError):
    """There is no such partner."""

    code, status, title_zh, title_en = "site-partner-unknown", 422, "没有该合作方", "There is no such partner"
    constraints = ("site_partner_code_fkey",)


class SiteHoursRefused(DomainError):
    """The opening hours make no sense, begin in the past, or are too long to be kept."""

    code, status, title_zh, title_en = (
        "site-hours-refused",
        422,
        "开放时间有误或内容过长",
        "The opening hours make no sense, begin in the past, or are too long",
    )
    constraints = ("site_hours_check",)


class SiteDaysRefused(DomainError):
    """A site ends on the day it begins or later."""

    code, status, title_zh, title_en = (
        "site-days-refused",
        422,
        "停用日期早于启用日期",
        "The site would end before it begins",
    )
    constraints = ("site_validity_check",)


@dataclass(frozen=True, slots=True)
class SiteEntry:
    """A site as somebody describes it. Position in degrees of its datum; devices as `partner:device`."""

    code: str
    kind: SiteKind
    form: SiteForm
    name: str
    address: str
    community_code: str
    latitude: float
    longitude: float
    datum: Datum
    categories: Sequence[str]
    hours: Plan
    valid_from: date
    valid_to: date | None = None
    partner_code: str | None = None
    partner_site: str | None = None
    devices: Sequence[str] = ()
    demonstration: bool = False
    where: str = ""  # the file and the row that it was read from, for messages


def create(session: Session, actor: Actor, entry: SiteEntry, *, now: datetime) -> Site:
    """Add a site to a community in the actor's scope.

    Raises NotFound outside the scope, CommunityUnknown, SiteExists, SiteDeviceTaken, PartnerSiteTaken,
    SitePartnerUnknown.
    """
    actor.require_cover(entry.community_code)
    added = add(session, entry, now=now)
    audit.record(session, actor, "site.create", f"site:{entry.code}", now=now, community=entry.community_code)
    return added


def add(session: Session, entry: SiteEntry, *, now: datetime) -> Site:
    """`create` without asking who."""
    community_for(session, entry.community_code, business_day(now))
    if session.get(Site, entry.code) is not None:
        raise SiteExists
    added = Site(
        code=entry.code,
        kind=entry.kind,
        form=entry.form,
        name=entry.name.strip(),
        address=entry.address.strip(),
        community_code=entry.community_code,
        latitude=entry.latitude,
        longitude=entry.longitude,
        datum=entry.datum,
        categories=sorted(set(entry.categories)),
        hours=[opening.entry_of(entry.hours)],
        partner_code=entry.partner_code,
        partner_site=entry.partner_site,
        demonstration=entry.demonstration,
        valid_from=entry.valid_from,
        valid_to=entry.valid_to,
        version=1,
        created_at=now,
    )
    session.add(added)
    session.flush()
    _place_devices(session, entry.code, entry.devices)
    return added


def edit(session: Session, actor: Actor, code: str, changes: Mapping[str, Any], *, version: int, now: datetime) -> Site:
    """Change a site in the actor's scope, given the version that was read.

    `hours` is a Plan that holds from its own day, today at the earliest: what was open in the past stays. `devices`
    are all that stand there from now on.

    Raises NotFound, PreconditionFailed, SiteHoursRefused, SiteDaysRefused, SiteDeviceTaken, PartnerSiteTaken,
    SitePartnerUnknown.
    """
    found = site_for(session, actor, code)
    changed = change(session, found, changes, version=version, now=now)
    audit.record(session, actor, "site.edit", f"site:{code}", now=now, changed=sorted(changes))
    return changed


def change(session: Session, found: Site, changes: Mapping[str, Any], *, version: int, now: datetime) -> Site:
    """`edit` of a site already loaded, without asking who."""
    values = {name: value for name, value in changes.items() if name not in {"hours", "devices"}}
    if "hours" in changes:
        values["hours"] = _with_plan(found, changes["hours"], business_day(now))
    if "categories" in values:
        values["categories"] = sorted(set(values["categories"]))
    last = values.get("valid_to", found.valid_to)
    if last is not None and last < found.valid_from:
        raise SiteDaysRefused
    changed = session.scalars(
        sa.update(Site)
        .where(Site.code == found.code, Site.version == version)
        .values(**values, version=version + 1)
        .returning(Site)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if changed is None:
        raise PreconditionFailed
    if "devices" in changes:
        _place_devices(session, found.code, changes["devices"])
    return changed


def _with_plan(found: Site, plan: Plan, today: date) -> list[dict[str, Any]]:
    """The site's plans with one more, or with another one of the same day; those long out of use left out."""
    if plan.valid_from < today:
        raise SiteHoursRefused("Hours begin today at the earliest")
    kept = [each for each in map(opening.plan_of, found.hours) if each.valid_from != plan.valid_from]
    plans = sorted([*kept, plan], key=lambda each: each.valid_from)
    used_until = [*(later.valid_from for later in plans[1:]), date.max]
    used = [each for each, until in zip(plans, used_until, strict=True) if until > today - PLANS_KEPT_FOR]
    if len(used) > PLANS_MAX:
        raise SiteHoursRefused(f"At most {PLANS_MAX} plans of hours")
    return [opening.entry_of(each) for each in used]


def _place_devices(session: Session, code: str, devices: Sequence[str]) -> None:
    wanted = sorted(set(devices))
    session.execute(sa.delete(SiteDevice).where(SiteDevice.site_code == code, SiteDevice.device.not_in(wanted)))
    if not wanted:
        return
    placed = insert(SiteDevice).values([{"device": device, "site_code": code} for device in wanted])
    session.execute(placed.on_conflict_do_nothing(index_elements=["device"]))
    standing = sa.select(sa.func.count()).where(SiteDevice.site_code == code, SiteDevice.device.in_(wanted))
    if session.scalar(standing) != len(wanted):
        raise SiteDeviceTaken


def site_for(session: Session, actor: Actor, code: str) -> Site:
    """A site of a community in the actor's scope. Raises NotFound."""
    found = site_of(session, code)
    actor.require_cover(found.community_code)
    return found


def site_of(session: Session, code: str) -> Site:
    """A site by its code, for whoever asks. Raises NotFound."""
    found = session.get(Site, code, populate_existing=True) if re.fullmatch("[a-z0-9-]{3,40}", code) else None
    if found is None:
        raise NotFound
    return found


def devices_of(session: Session, codes: Sequence[str]) -> dict[str, list[str]]:
    """The devices that stand at each of some sites."""
    rows = session.execute(
        sa.select(SiteDevice.site_code, SiteDevice.device)
        .where(SiteDevice.site_code.in_(codes))
        .order_by(SiteDevice.device)
    )
    found: dict[str, list[str]] = {code: [] for code in codes}
    for code, device in rows:
        found[code].append(device)
    return found


def list_sites(
    session: Session,
    actor: Actor,
    *,
    kind: SiteKind | None = None,
    community: str | None = None,
    ended: bool = False,
    today: date,
    limit: int,
    cursor: str | None,
) -> Page[Site]:
    """Sites in the actor's scope in the order of their codes; with `ended` also those that are no more.

    Raises BadCursor.
    """
    wanted = sa.select(Site).where(Site.community_code.startswith(actor.division or "-")).order_by(Site.code)
    if kind is not None:
        wanted = wanted.where(Site.kind == kind)
    if community is not None:
        wanted = wanted.where(Site.community_code.startswith(community))
    if not ended:
        wanted = wanted.where(sa.or_(Site.valid_to.is_(None), Site.valid_to >= today))
    if cursor is not None:
        wanted = wanted.where(Site.code > decode(cursor, tuple[str])[0])
    return page_of(session.scalars(wanted.limit(limit + 1)).all(), limit, lambda row: (row.code,))

"""Sample people, partners, rewards and a campaign, so that a fresh development service has something to try.

Never in production: the credentials lie in a file. What a person changed by hand since the first load stays changed.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.drives import campaigns, moves
from campaigns.drives.models import Campaign, CampaignKind, TargetMeasure, TaskKind
from campaigns.drives.moves import Move
from campaigns.drives.terms import TaskTerms
from points.earning.models import Behaviour
from points.partners import bindings, registry
from points.partners.models import Partner
from points.partners.signature import KEY_PURPOSE
from points.rewards.models import Reward
from server.access import Actor, Role
from server.clock import business_day
from server.crypto import seal
from server.database import new_id
from server.people import residents, sessions, staff
from server.people.models import Staff, WechatIdentity
from server.people.wechat import WeChatSession
from server.people.wechat_standin import StandIn, User
from server.places import organisations
from server.places.divisions import valid
from server.places.models import Division, DivisionLevel, Organisation, OrganisationKind

DAY_BUDGET_POINTS = 1_000_000
CAMPAIGN_DAYS = 60
FILE_BYTES_MAX = 1_000_000

SCHOOL_NAME = "示例学校 (样例数据, 非真实单位)"
CAMPAIGN_TITLE = "示例活动: 绿色出行十公里"
CAMPAIGN_DESCRIPTION = (
    "样例数据。步行、骑行、公交、地铁累计十公里。Sample: ten kilometres on foot, by bicycle, bus or metro."
)

# Account by the part of its name that follows the district's folder name.
STAFF: Mapping[str, Role] = {
    "district": Role.DISTRICT,
    "street": Role.STREET,
    "community": Role.COMMUNITY_STAFF,
    "school": Role.SCHOOL_STAFF,
    "operator": Role.OPERATOR,
    "supervisor": Role.SUPERVISOR,
    "collector": Role.COLLECTOR,
}

# Users of the WeChat stand-in, and which of the first two communities is theirs.
RESIDENTS: Mapping[str, int] = {"alice": 0, "bob": 0, "carol": 0, "dave": 1}

PARTNERS: Mapping[str, tuple[str, str]] = {
    "metro-sample": ("示例地铁", "ride"),
    "bus-sample": ("示例公交", "ride"),
    "bike-sample": ("示例共享单车", "ride"),
    "bins-sample": ("示例智能分类箱", "bin-drop"),
    "recycler-sample": ("示例回收商", "recycling"),
}

# Code: Chinese name, English name, price in points, stock.
REWARDS: Mapping[str, tuple[str, str, int, int]] = {
    "sample-bag": ("示例环保袋", "Sample cloth bag", 30, 500),
    "sample-ticket": ("示例公交车票", "Sample bus ticket", 100, 200),
}


class SampleError(Exception):
    """The sample cannot be loaded; the message says what to do about it."""


class StaffCredential(msgspec.Struct, forbid_unknown_fields=True):
    """A sample account."""

    password: str
    role: str
    division: str | None = None
    organisation_id: str | None = None


class PartnerCredential(msgspec.Struct, forbid_unknown_fields=True):
    """A sample partner; the key's bytes are those of its text."""

    key: str
    kinds: list[str]


class SampleResident(msgspec.Struct, forbid_unknown_fields=True):
    """A sample resident, who signs in as this user of the stand-in and has this member id at every partner."""

    member_id: str
    resident_id: str | None = None
    community_code: str | None = None


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """What `sample.json` keeps from one load to the next."""

    staff: dict[str, StaffCredential]
    partners: dict[str, PartnerCredential]
    residents: dict[str, SampleResident]
    campaign_id: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the sample lives: the first two communities, and the street and district of the first."""

    district: str
    street: str
    communities: tuple[str, str]


def read_credentials(path: Path) -> Credentials:
    """What an earlier load kept; nothing when there was none. Raises SampleError for a file that cannot be read."""
    if not path.exists():
        return Credentials(staff={}, partners={}, residents={})
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise SampleError(f"{path.name} is too large")
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (OSError, msgspec.MsgspecError) as error:
        raise SampleError(f"{path.name}: {error}; delete it to have new sample credentials") from error


def write_private(path: Path, content: bytes) -> None:
    """Put a file in place whole, readable by its owner alone from its first byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Keep the credentials for the next load and for people, at mode 600."""
    write_private(path, msgspec.json.format(msgspec.json.encode(credentials), indent=2) + b"\n")


def complete(credentials: Credentials, prefix: str) -> set[str]:
    """Add a random password or key for every account and partner that has none; the names of those added."""
    added = set()
    for suffix, role in STAFF.items():
        name = f"{prefix}-{suffix}"
        if name not in credentials.staff:
            credentials.staff[name] = StaffCredential(password=secrets.token_urlsafe(15), role=role.value)
            added.add(name)
    for code, (_, kind) in PARTNERS.items():
        if code not in credentials.partners:
            # Hexadecimal, so that a shell takes it whatever it is.
            credentials.partners[code] = PartnerCredential(key=secrets.token_hex(32), kinds=[kind])
            added.add(code)
    for user in RESIDENTS:
        credentials.residents.setdefault(user, SampleResident(member_id=f"member-{user}"))
    return added


def absent_staff(session: Session, credentials: Credentials) -> set[str]:
    """The sample accounts that the database does not have."""
    there = set(session.scalars(sa.select(Staff.name).where(Staff.name.in_(list(credentials.staff)))))
    return set(credentials.staff) - there


def load(
    session: Session,
    credentials: Credentials,
    *,
    district: str,
    renewed: set[str],
    password_hashes: Mapping[str, str],
    wechat_app: tuple[str, str],
    data_key: bytes,
    now: datetime,
) -> Credentials:
    """Bring the sample into the database; a second time changes nothing. The credentials with what was found.

    `renewed` names accounts and partners whose password or key is new in the file and so must change in the database
    too. `password_hashes` has one for each of those and of `absent_staff`. `wechat_app` is appid and secret of the
    stand-in, from which it derives the openids. Raises SampleError before places are loaded.
    """
    place = _place(session, district, now=now)
    accounts = _load_staff(session, credentials, place, renewed, password_hashes, now=now)
    new_partners = _load_partners(session, credentials, renewed, data_key, now=now)
    _load_residents(session, credentials, place, new_partners, wechat_app, data_key, now=now)
    for code, (name_zh, name_en, cost_points, stock) in REWARDS.items():
        session.execute(
            insert(Reward)
            .values(id=new_id(), code=code, name_zh=name_zh, name_en=name_en, cost_points=cost_points, stock=stock)
            .on_conflict_do_nothing(index_elements=["code"])
        )
    credentials.campaign_id = str(_load_campaign(session, _account(accounts, Role.COMMUNITY_STAFF), place, now=now))
    return credentials


def _place(session: Session, district: str, *, now: datetime) -> Place:
    communities = session.scalars(
        sa.select(Division)
        .where(
            Division.level == DivisionLevel.COMMUNITY,
            Division.code.startswith(district, autoescape=True),
            valid(business_day(now)),
        )
        .order_by(Division.code)
        .limit(2)
    ).all()
    if not communities:
        raise SampleError("there are no communities yet: load the places first")
    first, last = communities[0], communities[-1]
    return Place(district=district, street=first.parent_code or "", communities=(first.code, last.code))


def _actor(account: Staff) -> Actor:
    """The account as the actor of a rule; the session is nobody's."""
    return Actor(
        id=account.id,
        role=account.role,
        session_id=new_id(),
        division=account.division,
        organisation_id=account.organisation_id,
    )


def _account(accounts: Mapping[str, Staff], role: Role) -> Staff:
    return next(account for account in accounts.values() if account.role is role)


def _load_staff(
    session: Session,
    credentials: Credentials,
    place: Place,
    renewed: set[str],
    password_hashes: Mapping[str, str],
    *,
    now: datetime,
) -> dict[str, Staff]:
    divisions = {
        Role.DISTRICT: place.district,
        Role.STREET: place.street,
        Role.COMMUNITY_STAFF: place.communities[0],
        Role.OPERATOR: place.district,
        Role.SUPERVISOR: place.communities[0],
        Role.COLLECTOR: place.street,
    }
    stored = {row.name: row for row in session.scalars(sa.select(Staff).where(Staff.name.in_(list(credentials.staff))))}
    # The district office comes first in the table: it founds the school that the school's account needs.
    for name, kept in credentials.staff.items():
        role = Role(kept.role)
        if name not in stored:
            organisation_id = _school(session, stored, place, now=now) if role is Role.SCHOOL_STAFF else None
            stored[name] = staff.create(
                session,
                None,
                name=name,
                password_hash=password_hashes[name],
                role=role,
                division=divisions.get(role),
                organisation_id=organisation_id,
                now=now,
            )
        elif name in renewed:
            row = stored[name]
            row.password_hash, row.version = password_hashes[name], row.version + 1
            sessions.end_all(session, row.id, "account-changed", now=now)
        row = stored[name]
        kept.division = row.division
        kept.organisation_id = str(row.organisation_id) if row.organisation_id else None
    session.flush()
    return stored


def _school(session: Session, accounts: Mapping[str, Staff], place: Place, *, now: datetime) -> UUID:
    community_code = place.communities[0]
    found = session.scalar(
        sa.select(Organisation.id).where(
            Organisation.community_code == community_code, Organisation.name == SCHOOL_NAME
        )
    )
    if found is not None:
        return found
    founder = _actor(_account(accounts, Role.DISTRICT))
    return organisations.create(
        session, founder, kind=OrganisationKind.SCHOOL, name=SCHOOL_NAME, community_code=community_code, now=now
    ).id


def _load_partners(
    session: Session, credentials: Credentials, renewed: set[str], data_key: bytes, *, now: datetime
) -> set[str]:
    """The codes of those that are new."""
    there = set(session.scalars(sa.select(Partner.code).where(Partner.code.in_(list(credentials.partners)))))
    for code, kept in credentials.partners.items():
        if code not in there:
            registry.create(
                session,
                code,
                name_zh=PARTNERS[code][0],
                kinds=kept.kinds,
                day_budget_points=DAY_BUDGET_POINTS,
                key=kept.key,
                data_key=data_key,
                now=now,
            )
        elif code in renewed:
            sealed = seal(data_key, KEY_PURPOSE, code, kept.key.encode())
            session.execute(sa.update(Partner).where(Partner.code == code).values(key_a_sealed=sealed))
    return set(credentials.partners) - there


def _load_residents(
    session: Session,
    credentials: Credentials,
    place: Place,
    new_partners: set[str],
    wechat_app: tuple[str, str],
    data_key: bytes,
    *,
    now: datetime,
) -> None:
    appid, secret = wechat_app
    stand_in = StandIn(appid, secret, calls_per_minute_max=1)
    for user, kept in credentials.residents.items():
        # The stand-in derives both from the name and so will tell the same at every sign-in.
        openid, session_key = stand_in._openid(User(user)), stand_in._session_key(User(user))
        resident_id = session.scalar(
            sa.select(WechatIdentity.resident_id).where(WechatIdentity.appid == appid, WechatIdentity.openid == openid)
        )
        is_new = resident_id is None
        if resident_id is None:
            resident_id = residents.sign_in_wechat(
                session,
                appid=appid,
                wechat_session=WeChatSession(openid=openid, session_key=session_key, unionid=None),
                accept_terms=True,
                data_key=data_key,
                now=now,
            ).resident_id
            home = place.communities[RESIDENTS.get(user, 0)]
            changes = {"community_code": home, "nickname": f"示例{user}"[:24]}
            residents.update_profile(session, resident_id, changes=changes, now=now)
        # Who was unbound since stays so.
        for code in credentials.partners if is_new else new_partners:
            bindings.bind(session, resident_id, code, kept.member_id, now=now)
        kept.resident_id = str(resident_id)
        kept.community_code = residents.profile(session, resident_id, data_key=data_key).community_code


def _load_campaign(session: Session, runner: Staff, place: Place, *, now: datetime) -> UUID:
    """The newest sample campaign whose last day is not over, whatever became of it; else a new one, published."""
    today = business_day(now)
    found = session.scalar(
        sa.select(Campaign.id)
        .where(Campaign.created_by == runner.id, Campaign.title == CAMPAIGN_TITLE, Campaign.ends_on >= today)
        .order_by(Campaign.id.desc())
        .limit(1)
    )
    if found is not None:
        return found
    given = {
        "kind": CampaignKind.CHALLENGE,
        "title": CAMPAIGN_TITLE,
        "description": CAMPAIGN_DESCRIPTION,
        "division": place.communities[0],
        "starts_on": today,
        "ends_on": today + timedelta(days=CAMPAIGN_DAYS),
        "tasks": [
            TaskTerms(
                kind=TaskKind.BEHAVIOUR,
                title="绿色出行十公里",
                behaviours=(Behaviour.WALK, Behaviour.BICYCLE, Behaviour.BUS, Behaviour.METRO),
                measure=TargetMeasure.DISTANCE_M,
                target=10_000,
            )
        ],
    }
    campaign = campaigns.create(session, _actor(runner), given, now=now)
    return moves.move(session, _actor(runner), campaign.id, Move.PUBLISH, now=now).id

"""Teams: residents who take part in a campaign together, joined by a code, with one captain; and leaving a campaign.

Whatever changes a team writes the team's row first and the participations after, so that two changes never wait for
each other in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid5

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, Participation, Team
from campaigns.drives.moves import not_ended
from campaigns.drives.participation import NotJoined, hold_open, participation_of
from campaigns.drives.shown_names import agreed_to_appear
from server import audit
from server.access import Actor
from server.database import new_id
from server.errors import Conflict, Forbidden, NotFound
from server.paging import Page, decode, page_of
from server.people.join_codes import hashed, new_code
from server.people.models import Resident

CODE_PURPOSE = "team-join-code"


class CampaignWithoutTeams(Conflict):
    """The campaign has no teams."""

    code, title_zh, title_en = "campaign-without-teams", "该活动没有团队", "This campaign has no teams"


class AlreadyInTeam(Conflict):
    """A resident is in one team of a campaign."""

    code, title_zh, title_en = (
        "already-in-team",
        "您已加入本活动的一个团队",
        "You are in a team of this campaign already",
    )


class NotInTeam(NotFound):
    """The resident is in no team of the campaign, or not in this one."""

    code, title_zh, title_en = "not-in-team", "未加入团队", "Not in a team of this campaign"


class TeamCodeUnknown(NotFound):
    """No team of the campaign has this code now."""

    code, title_zh, title_en = "team-code-unknown", "团队口令无效", "No team of this campaign has this code"


class TeamFull(Conflict):
    """The team has as many members as the campaign allows."""

    code, title_zh, title_en = "team-full", "团队人数已满", "The team is full"


class TeamNameTaken(Conflict):
    """Another team of the campaign has this name."""

    code, title_zh, title_en = "team-name-taken", "团队名称已被使用", "Another team has this name"
    constraints = ("team_campaign_id_name_key",)


class NotCaptain(Forbidden):
    """Only the captain does this."""

    code, title_zh, title_en = "not-captain", "只有队长可以操作", "Only the captain does this"


class CaptainMustPassOn(Conflict):
    """A captain of others makes one of them captain before leaving."""

    code, title_zh, title_en = (
        "captain-must-pass-on",
        "请先移交队长再退出",
        "Make somebody else captain before you leave",
    )


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the team sees them: `member` names them inside this team and nowhere else.

    `nickname` is None for whoever did not agree to appear by it.
    """

    member: UUID
    nickname: str | None
    is_captain: bool
    is_me: bool
    joined_at: datetime


@dataclass(frozen=True, slots=True)
class TeamSummary:
    """A team as everybody sees it; `is_small` when it has fewer members than the campaign wants."""

    id: UUID
    name: str
    members: int
    size_max: int
    is_small: bool


@dataclass(frozen=True, slots=True)
class OwnTeam:
    """A team as its members see it. `join_code` is there only when it was just made: nothing keeps it."""

    id: UUID
    name: str
    members: int
    size_max: int
    is_small: bool
    is_captain: bool
    people: Sequence[Member]
    join_code: str | None


def create(session: Session, actor: Actor, campaign_id: UUID, *, name: str, data_key: bytes, now: datetime) -> OwnTeam:
    """Found a team as its captain. The answer has the code for the others.

    Raises NotFound, NotJoined, CampaignClosed, CampaignWithoutTeams, AlreadyInTeam, and TeamNameTaken through the
    table's key.
    """
    campaign = _changeable(session, actor, campaign_id, now=now)
    if campaign.team_size_max is None:
        raise CampaignWithoutTeams
    code = new_code()
    team = Team(
        campaign_id=campaign_id,
        id=new_id(),
        name=name.strip(),
        captain_id=actor.id,
        join_code_hash=_hashed(data_key, campaign_id, code),
        members=1,
        size_max=campaign.team_size_max,
        created_at=now,
    )
    session.add(team)
    session.flush()
    _enter(session, actor, team)
    return _own(session, actor, campaign, team, join_code=code)


def join(session: Session, actor: Actor, campaign_id: UUID, *, code: str, data_key: bytes, now: datetime) -> OwnTeam:
    """Join the team whose code this is.

    Raises NotFound, NotJoined, CampaignClosed, TeamCodeUnknown, TeamFull, AlreadyInTeam.
    """
    campaign = _changeable(session, actor, campaign_id, now=now)
    coded = (Team.campaign_id == campaign_id, Team.join_code_hash == _hashed(data_key, campaign_id, code))
    # The guard on the counter gives the last place once, and the row is held from here to the end.
    team = session.scalars(
        sa.update(Team)
        .where(*coded, Team.members < Team.size_max)
        .values(members=Team.members + 1)
        .returning(Team)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if team is None:
        raise TeamFull if session.scalar(sa.select(sa.exists().where(*coded))) else TeamCodeUnknown
    _enter(session, actor, team)
    return _own(session, actor, campaign, team)


def leave(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> None:
    """Leave one's team; the last one to leave takes it away.

    Raises NotFound, NotJoined, NotInTeam, CampaignClosed, CaptainMustPassOn.
    """
    _changeable(session, actor, campaign_id, now=now)
    team = _team_of(session, actor, campaign_id)
    if team.captain_id == actor.id and team.members > 1:
        raise CaptainMustPassOn
    _take_out(session, team, actor.id)


def leave_campaign(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> None:
    """Take the actor out of a campaign, and out of their team, before its end; afterwards the participation stands.

    Raises NotFound, CampaignClosed, NotJoined, CaptainMustPassOn.
    """
    campaign_for(session, actor, campaign_id)
    if participation_of(session, actor, campaign_id).team_id is not None:
        leave(session, actor, campaign_id, now=now)
    hold_open(session, campaign_id, *not_ended(now))
    own = (Participation.resident_id == actor.id, Participation.campaign_id == campaign_id)
    left = sa.delete(Participation).where(*own, Participation.team_id.is_(None)).returning(Participation.campaign_id)
    if session.execute(left).first() is None:  # joined a team, or left, by another request at this moment
        raise NotJoined


def own_team(session: Session, actor: Actor, campaign_id: UUID) -> OwnTeam:
    """The actor's team in a campaign. Raises NotFound, NotJoined, NotInTeam."""
    campaign = campaign_for(session, actor, campaign_id)
    participation_of(session, actor, campaign_id)
    return _own(session, actor, campaign, _team_of(session, actor, campaign_id))


def rename_own(session: Session, actor: Actor, campaign_id: UUID, *, name: str, now: datetime) -> OwnTeam:
    """Give one's team another name, as its captain.

    Raises NotFound, NotJoined, NotInTeam, NotCaptain, CampaignClosed, and TeamNameTaken through the table's key.
    """
    campaign, team = _captains(session, actor, campaign_id, now=now)
    return _own(session, actor, campaign, _write(session, team, captain_id=actor.id, name=name.strip()))


def renew_code(session: Session, actor: Actor, campaign_id: UUID, *, data_key: bytes, now: datetime) -> OwnTeam:
    """Give one's team another code, as its captain; the old one ends.

    Raises NotFound, NotJoined, NotInTeam, NotCaptain, CampaignClosed.
    """
    campaign, team = _captains(session, actor, campaign_id, now=now)
    code = new_code()
    written = _write(session, team, captain_id=actor.id, join_code_hash=_hashed(data_key, campaign_id, code))
    return _own(session, actor, campaign, written, join_code=code)


def pass_on(session: Session, actor: Actor, campaign_id: UUID, *, member: UUID, now: datetime) -> OwnTeam:
    """Make another member captain. Raises NotFound, NotJoined, NotInTeam, NotCaptain, CampaignClosed."""
    campaign, team = _captains(session, actor, campaign_id, now=now)
    # The write holds the team, so nobody leaves between the look for the member and the end.
    _write(session, team, captain_id=actor.id)
    heir = _member(session, team, member)
    return _own(session, actor, campaign, _write(session, team, captain_id=actor.id, captain_to=heir))


def remove_own_member(session: Session, actor: Actor, campaign_id: UUID, *, member: UUID, now: datetime) -> None:
    """Take another member out of one's team, as its captain.

    Raises NotFound, NotJoined, NotInTeam, NotCaptain, CampaignClosed, CaptainMustPassOn for oneself.
    """
    _, team = _captains(session, actor, campaign_id, now=now)
    _write(session, team, captain_id=actor.id)
    removed = _member(session, team, member)
    if removed == actor.id:
        raise CaptainMustPassOn
    _take_out(session, team, removed)


def list_teams(
    session: Session, actor: Actor, campaign_id: UUID, *, limit: int, cursor: str | None
) -> Page[TeamSummary]:
    """The teams of a campaign that the actor may see, oldest first. Raises NotFound, BadCursor."""
    campaign = campaign_for(session, actor, campaign_id)
    wanted = sa.select(Team).where(Team.campaign_id == campaign_id).order_by(Team.id).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Team.id > decode(cursor, tuple[UUID])[0])
    rows = [_summary(campaign, team) for team in session.scalars(wanted)]
    return page_of(rows, limit, lambda row: (row.id,))


def members_for_staff(session: Session, actor: Actor, campaign_id: UUID, team_id: UUID) -> Sequence[Member]:
    """The members of a team of a campaign in the actor's scope, with the nicknames of all. Raises NotFound."""
    campaign_for(session, actor, campaign_id)
    return _people(session, actor, _team(session, campaign_id, team_id), everybody=True)


def rename(
    session: Session, actor: Actor, campaign_id: UUID, team_id: UUID, *, name: str, reason: str, now: datetime
) -> TeamSummary:
    """Give a team of a campaign in the actor's scope another name: what residents call themselves is shown to all.

    Raises NotFound, and TeamNameTaken through the table's key.
    """
    campaign = campaign_for(session, actor, campaign_id)
    team = _team(session, campaign_id, team_id)
    renamed = _write(session, team, captain_id=team.captain_id, name=name.strip())
    audit.record(session, actor, "team.rename", str(team_id), now=now, campaign=str(campaign_id), reason=reason)
    return _summary(campaign, renamed)


def remove_member(
    session: Session, actor: Actor, campaign_id: UUID, team_id: UUID, *, member: UUID, reason: str, now: datetime
) -> None:
    """Take a member out of a team of a campaign in the actor's scope; a captain is followed by the eldest member.

    Raises NotFound, NotInTeam, CampaignClosed.
    """
    campaign_for(session, actor, campaign_id)
    hold_open(session, campaign_id, *not_ended(now))
    team = _team(session, campaign_id, team_id)
    team = _write(session, team, captain_id=team.captain_id)
    removed = _member(session, team, member)
    if removed == team.captain_id and team.members > 1:
        heir = session.scalars(
            sa.select(Participation.resident_id)
            .where(*_in(team), Participation.resident_id != removed)
            .order_by(Participation.joined_at, Participation.resident_id)
            .limit(1)
        ).one()
        team = _write(session, team, captain_id=removed, captain_to=heir)
    _take_out(session, team, removed)
    audit.record(
        session,
        actor,
        "team.member-remove",
        str(team_id),
        now=now,
        campaign=str(campaign_id),
        resident=str(removed),
        reason=reason,
    )


def _changeable(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> Campaign:
    """The campaign, held so that it does not end before the transaction does, of an actor who takes part in it."""
    campaign = campaign_for(session, actor, campaign_id)
    participation_of(session, actor, campaign_id)
    hold_open(session, campaign_id, *not_ended(now))
    return campaign


def _captains(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> tuple[Campaign, Team]:
    campaign = _changeable(session, actor, campaign_id, now=now)
    team = _team_of(session, actor, campaign_id)
    if team.captain_id != actor.id:
        raise NotCaptain
    return campaign, team


def _team(session: Session, campaign_id: UUID, team_id: UUID) -> Team:
    found = session.get(Team, (campaign_id, team_id), populate_existing=True)
    if found is None:
        raise NotFound
    return found


def _team_of(session: Session, actor: Actor, campaign_id: UUID) -> Team:
    found = session.scalars(
        sa.select(Team)
        .join(Participation, sa.and_(Participation.campaign_id == Team.campaign_id, Participation.team_id == Team.id))
        .where(Participation.resident_id == actor.id, Participation.campaign_id == campaign_id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotInTeam
    return found


def _in(team: Team) -> tuple[sa.ColumnElement[bool], ...]:
    return Participation.campaign_id == team.campaign_id, Participation.team_id == team.id


def _write(session: Session, team: Team, *, captain_id: UUID, captain_to: UUID | None = None, **values: object) -> Team:
    """Change a team under the captain that the caller saw, and hold it to the transaction's end. Raises NotCaptain."""
    written = session.scalars(
        sa.update(Team)
        .where(Team.campaign_id == team.campaign_id, Team.id == team.id, Team.captain_id == captain_id)
        .values(captain_id=captain_to or captain_id, **values)
        .returning(Team)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if written is None:
        raise NotCaptain
    return written


def _enter(session: Session, actor: Actor, team: Team) -> None:
    """Put the actor into a team whose counter already counts them. Raises AlreadyInTeam."""
    entered = session.execute(
        sa.update(Participation)
        .where(
            Participation.resident_id == actor.id,
            Participation.campaign_id == team.campaign_id,
            Participation.team_id.is_(None),
        )
        .values(team_id=team.id)
        .returning(Participation.resident_id)
    ).first()
    if entered is None:
        raise AlreadyInTeam


def _take_out(session: Session, team: Team, resident_id: UUID) -> None:
    """Take a resident out of a team, and the team away with its last member. Raises NotInTeam, CaptainMustPassOn."""
    # Somebody joined a captain who was alone a moment ago: the captain stays.
    leaver_is_not_captain = sa.or_(Team.captain_id != resident_id, Team.members == 1)
    counted = session.scalar(
        sa.update(Team)
        .where(Team.campaign_id == team.campaign_id, Team.id == team.id, leaver_is_not_captain)
        .values(members=Team.members - 1)
        .returning(Team.members)
    )
    if counted is None:
        raise CaptainMustPassOn
    left = session.execute(
        sa.update(Participation)
        .where(*_in(team), Participation.resident_id == resident_id)
        .values(team_id=None)
        .returning(Participation.resident_id)
    ).first()
    if left is None:
        raise NotInTeam
    if counted == 0:
        session.execute(sa.delete(Team).where(Team.campaign_id == team.campaign_id, Team.id == team.id))


def _member(session: Session, team: Team, member: UUID) -> UUID:
    """The resident whom `member` names inside a team. Raises NotInTeam."""
    for resident_id in session.scalars(sa.select(Participation.resident_id).where(*_in(team))):
        if _named(team, resident_id) == member:
            return resident_id
    raise NotInTeam


def _named(team: Team, resident_id: UUID) -> UUID:
    """What names a resident inside one team: the same at every reading, and not the id that names them everywhere."""
    return uuid5(team.id, str(resident_id))


def _people(session: Session, actor: Actor, team: Team, *, everybody: bool) -> list[Member]:
    shown = Resident.nickname if everybody else sa.case((agreed_to_appear(), Resident.nickname))
    rows = session.execute(
        sa.select(Participation.resident_id, shown, Participation.joined_at)
        .join(Resident, Resident.resident_id == Participation.resident_id)
        .where(*_in(team))
        .order_by(Participation.joined_at, Participation.resident_id)
    )
    return [
        Member(
            member=_named(team, resident_id),
            nickname=nickname,
            is_captain=resident_id == team.captain_id,
            is_me=resident_id == actor.id,
            joined_at=joined_at,
        )
        for resident_id, nickname, joined_at in rows
    ]


def _summary(campaign: Campaign, team: Team) -> TeamSummary:
    return TeamSummary(team.id, team.name, team.members, team.size_max, team.members < (campaign.team_size_min or 0))


def _own(session: Session, actor: Actor, campaign: Campaign, team: Team, *, join_code: str | None = None) -> OwnTeam:
    summary = _summary(campaign, team)
    return OwnTeam(
        id=summary.id,
        name=summary.name,
        members=summary.members,
        size_max=summary.size_max,
        is_small=summary.is_small,
        is_captain=team.captain_id == actor.id,
        people=_people(session, actor, team, everybody=False),
        join_code=join_code,
    )


def _hashed(data_key: bytes, campaign_id: UUID, code: str) -> bytes:
    return hashed(data_key, f"{CODE_PURPOSE}:{campaign_id}", code)

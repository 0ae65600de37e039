"""Certificates: that a resident or a team completed a campaign, which anybody can check by a short code."""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, CampaignState, Participation, TaskSubject, Team, TeamKind
from campaigns.settlement.models import CERTIFICATE_CODE_LENGTH, Certificate
from campaigns.tasks.progress import progress_of
from server import audit, typed_codes
from server.access import Actor
from server.clock import business_day
from server.documents import documents
from server.documents.documents import Format
from server.errors import Conflict, NotFound
from server.paging import Page, decode, page_of
from server.people.models import Resident
from server.places.models import Division, Organisation

ISSUE_TRIES_MAX = 5
NAMELESS = "热心居民"
ISSUER_LENGTH_MAX = 40  # so much has room on the paper

# A household's name is a family's name.
_NAMED_TEAMS = (TeamKind.CLASS, TeamKind.BUILDING, TeamKind.WORKPLACE)


class CampaignNotOver(Conflict):
    """Certificates are for campaigns that have ended: until then what is completed can still change."""

    code, title_zh, title_en = "campaign-not-over", "活动尚未结束", "The campaign has not ended"


class CampaignNotCompleted(Conflict):
    """Not every task has been completed."""

    code, title_zh, title_en = (
        "campaign-not-completed",
        "尚未完成全部任务, 不能领取证书",
        "Not every task of the campaign has been completed",
    )


class CertificateRevoked(Conflict):
    """The certificate was taken back, with a reason that its holder can ask for."""

    code, title_zh, title_en = "certificate-revoked", "证书已撤销", "The certificate was revoked"


@dataclass(frozen=True, slots=True)
class Verification:
    """What anybody may learn from a code. The holder's name is masked; a class, building or workplace is named."""

    code: str
    valid: bool
    for_team: bool
    holder: str
    campaign_title: str
    issuer: str
    starts_on: date
    ends_on: date
    issued_on: date
    revoked_on: date | None


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """A certificate as staff and its holder see it."""

    code: str
    campaign_id: UUID
    for_team: bool
    holder: str
    issued_at: datetime
    revoked_at: datetime | None
    revoked_because: str | None


def issue(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> CertificateSeen:
    """The actor's certificate of a campaign that has ended; asked again, the same one.

    Raises NotFound, NotJoined, CampaignNotOver, CampaignNotCompleted, CertificateRevoked.
    """
    _require_over(campaign_for(session, actor, campaign_id))
    if not progress_of(session, actor, campaign_id).completed:
        raise CampaignNotCompleted
    return _issue(session, campaign_id, resident_id=actor.id, team_id=None, now=now)


def issue_to_team(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> CertificateSeen:
    """The certificate of the actor's team, when it has reached every target that was set for teams.

    Raises NotFound, NotJoined, CampaignNotOver, CampaignNotCompleted (also without a team or a task for teams),
    CertificateRevoked.
    """
    _require_over(campaign_for(session, actor, campaign_id))
    progress = progress_of(session, actor, campaign_id)
    together = [task.completed for task in progress.tasks if task.subject is TaskSubject.TEAM]
    if progress.team_id is None or not together or not all(together):
        raise CampaignNotCompleted
    return _issue(session, campaign_id, resident_id=None, team_id=progress.team_id, now=now)


def revoke(
    session: Session, actor: Actor, campaign_id: UUID, code: str, *, reason: str, now: datetime
) -> CertificateSeen:
    """Take a certificate of a campaign in the actor's scope back. Raises NotFound, CertificateRevoked."""
    campaign_for(session, actor, campaign_id)
    own = (Certificate.code == normal(code), Certificate.campaign_id == campaign_id)
    revoked = session.scalar(
        sa.update(Certificate)
        .where(*own, Certificate.revoked_at.is_(None))
        .values(revoked_at=now, revoked_by=actor.id, revoked_because=reason.strip())
        .returning(Certificate.code)
    )
    if revoked is None:
        if session.scalar(sa.select(Certificate.code).where(*own)) is None:
            raise NotFound
        raise CertificateRevoked
    audit.record(session, actor, "certificate.revoke", revoked, now=now, reason=reason)
    return _seen(session, Certificate.code == revoked)[0]


def list_certificates(
    session: Session, actor: Actor, campaign_id: UUID, *, limit: int, cursor: str | None
) -> Page[CertificateSeen]:
    """The certificates of a campaign in the actor's scope, by code. Raises NotFound, BadCursor."""
    campaign_for(session, actor, campaign_id)
    conditions = [Certificate.campaign_id == campaign_id]
    if cursor is not None:
        conditions.append(Certificate.code > decode(cursor, tuple[str])[0])
    return page_of(_seen(session, *conditions, limit=limit + 1), limit, lambda row: (row.code,))


def own_certificates(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[CertificateSeen]:
    """The actor's certificates and those of their teams, by code. Raises BadCursor."""
    own = sa.or_(
        Certificate.resident_id == actor.id,
        sa.tuple_(Certificate.campaign_id, Certificate.team_id).in_(
            sa.select(Participation.campaign_id, Participation.team_id).where(
                Participation.resident_id == actor.id, Participation.team_id.is_not(None)
            )
        ),
    )
    conditions = [own]
    if cursor is not None:
        conditions.append(Certificate.code > decode(cursor, tuple[str])[0])
    return page_of(_seen(session, *conditions, limit=limit + 1), limit, lambda row: (row.code,))


def verify(session: Session, code: str) -> Verification:
    """What a code is worth. Raises NotFound."""
    row = session.execute(_read().where(Certificate.code == normal(code))).one_or_none()
    if row is None:
        raise NotFound
    certificate: Certificate = row.Certificate
    is_named = certificate.team_id is not None and row.team_kind in _NAMED_TEAMS
    holder = _holder(row)
    return Verification(
        code=certificate.code,
        valid=certificate.revoked_at is None,
        for_team=certificate.team_id is not None,
        holder=holder if is_named else masked(holder),
        campaign_title=row.title,
        issuer=row.issuer,
        starts_on=row.starts_on,
        ends_on=row.ends_on,
        issued_on=business_day(certificate.issued_at),
        revoked_on=None if certificate.revoked_at is None else business_day(certificate.revoked_at),
    )


def content_of(session: Session, actor: Actor, code: str, *, verify_url: str) -> documents.Certificate:
    """What the document says, for the holder, a member of the team, or staff in the campaign's scope.

    `verify_url` is where the code is checked, without it. Raises NotFound, CertificateRevoked.
    """
    row = session.execute(_read().where(Certificate.code == normal(code))).one_or_none()
    if row is None:
        raise NotFound
    certificate: Certificate = row.Certificate
    if actor.is_resident:
        if certificate.resident_id not in (None, actor.id):
            raise NotFound
        if certificate.team_id is not None and _team_of(session, actor, certificate.campaign_id) != certificate.team_id:
            raise NotFound
    else:
        campaign_for(session, actor, certificate.campaign_id)
    if certificate.revoked_at is not None:
        raise CertificateRevoked
    return documents.Certificate(
        title_zh="低碳活动证书",
        title_en="Certificate of Low-Carbon Action",
        holder=_holder(row),
        lines=[
            "参加并完成低碳活动",
            f"「{row.title}」",
            f"{row.starts_on:%Y-%m-%d} 至 {row.ends_on:%Y-%m-%d}",
            "completed every task of this campaign" if certificate.team_id is None else "reached its targets as a team",
        ],
        issuer=row.issuer[:ISSUER_LENGTH_MAX],
        issued_on=business_day(certificate.issued_at),
        code=certificate.code,
        verify_url=f"{verify_url}{certificate.code}",
    )


def draw(content: documents.Certificate, form: Format) -> bytes:
    """The document as PDF or SVG; outside a transaction. Raises DocumentRefused, Unavailable."""
    return documents.certificate(content, format=form)


def normal(code: str) -> str:
    """A code as it is kept, however it was typed. Raises NotFound for what can be none."""
    typed = typed_codes.plain(code)
    if not typed_codes.is_code(typed, CERTIFICATE_CODE_LENGTH):
        raise NotFound
    return typed


def masked(name: str) -> str:
    """The first character of a name and two stars, whatever its length."""
    return f"{name[:1]}**"


def _require_over(campaign: Campaign) -> None:
    if campaign.state not in (CampaignState.SETTLING, CampaignState.CLOSED):
        raise CampaignNotOver


def _issue(
    session: Session, campaign_id: UUID, *, resident_id: UUID | None, team_id: UUID | None, now: datetime
) -> CertificateSeen:
    holder = Certificate.resident_id == resident_id if team_id is None else Certificate.team_id == team_id
    for _ in range(ISSUE_TRIES_MAX):
        session.execute(
            insert(Certificate)
            .values(
                code=typed_codes.new_code(CERTIFICATE_CODE_LENGTH),
                campaign_id=campaign_id,
                resident_id=resident_id,
                team_id=team_id,
                issued_at=now,
            )
            .on_conflict_do_nothing()
        )
        standing = _seen(session, Certificate.campaign_id == campaign_id, holder)
        if standing:
            if standing[0].revoked_at is not None:
                raise CertificateRevoked
            return standing[0]
    raise AssertionError("five random codes of 50 bits were all taken")


def _team_of(session: Session, actor: Actor, campaign_id: UUID) -> UUID | None:
    return session.scalar(
        sa.select(Participation.team_id).where(
            Participation.resident_id == actor.id, Participation.campaign_id == campaign_id
        )
    )


def _seen(session: Session, *conditions: sa.ColumnElement[bool], limit: int = 1) -> list[CertificateSeen]:
    rows = session.execute(_read().where(*conditions).order_by(Certificate.code).limit(limit))
    return [
        CertificateSeen(
            code=row.Certificate.code,
            campaign_id=row.Certificate.campaign_id,
            for_team=row.Certificate.team_id is not None,
            holder=_holder(row),
            issued_at=row.Certificate.issued_at,
            revoked_at=row.Certificate.revoked_at,
            revoked_because=row.Certificate.revoked_because,
        )
        for row in rows
    ]


def _read() -> sa.Select[Certificate, str, date, date, TeamKind | None, str | None, str, str]:
    """Certificates with what is said of them; the names are those of now, and kept nowhere else."""
    return (
        sa.select(
            Certificate,
            Campaign.title.label("title"),
            Campaign.starts_on.label("starts_on"),
            Campaign.ends_on.label("ends_on"),
            Campaign.team_kind.label("team_kind"),
            Resident.nickname.label("nickname"),
            Team.name.label("team_name"),
            sa.func.coalesce(Organisation.name, Division.name).label("issuer"),
        )
        .join(Campaign, Campaign.id == Certificate.campaign_id)
        .join(Division, Division.code == Campaign.division)
        .join(Organisation, Organisation.id == Campaign.organisation_id, isouter=True)
        .join(Resident, Resident.resident_id == Certificate.resident_id, isouter=True)
        .join(
            Team,
            sa.and_(Team.campaign_id == Certificate.campaign_id, Team.id == Certificate.team_id),
            isouter=True,
        )
        .execution_options(populate_existing=True)
    )


def _holder(row: sa.Row[Certificate, str, date, date, TeamKind | None, str | None, str, str]) -> str:
    return str((row.nickname if row.Certificate.team_id is None else row.team_name) or NAMELESS)

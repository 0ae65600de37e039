"""The lists of people that staff take away: participants, check-ins, and the settlement sheet (who, why, how much)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from campaigns.attendance.models import CheckIn, CheckInSlot, CheckInWay
from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import CampaignTask, Participation, TaskSubject, Team
from campaigns.drives.terms import tasks_of
from campaigns.settlement.models import CampaignPayment, PaymentWay, Settlement
from campaigns.tasks.progress import contribution_select, done_select
from points.ledger.models import Transfer
from server.access import Actor, Permission, Role
from server.errors import DomainError, Forbidden
from server.exports import exports
from server.exports.models import ExportFormat
from server.exports.registry import Arguments, Cell, Desk, Producer, streamed
from server.people.models import Resident, Staff
from server.places.models import Division

log = structlog.get_logger()

PAGE_ROWS = 2_000

_WAYS = {CheckInWay.ROTATING: "现场动态码", CheckInWay.PRINTED: "打印签到码", CheckInWay.STAFF: "工作人员扫码"}
_PAID = {PaymentWay.CLAIM: "完成后领取", PaymentWay.SETTLEMENT: "活动结算"}

PARTICIPANTS, CHECK_INS, SETTLEMENT = "campaign-participants", "campaign-check-ins", "campaign-settlement"


def write_settlement_sheet(session: Session, campaign_id: UUID, *, desk: Desk, now: datetime) -> None:
    """Ask for the settlement sheet on behalf of whoever started the settlement; the clock needs none.

    Staff can have the sheet again at any time, so nothing that keeps it from being made now keeps the campaign open.
    """
    settlement = session.get_one(Settlement, campaign_id)
    asked_by = None if settlement.requested_by is None else session.get(Staff, settlement.requested_by)
    if asked_by is None or not asked_by.enabled:
        return
    actor = Actor(
        id=asked_by.id,
        role=Role(asked_by.role),
        session_id=campaign_id,  # no sign-in is behind a job
        division=asked_by.division,
        organisation_id=asked_by.organisation_id,
    )
    arguments = {"campaign_id": str(campaign_id)}
    try:
        exports.request(session, actor, desk, kind=SETTLEMENT, format=ExportFormat.XLSX, arguments=arguments, now=now)
    except DomainError as refusal:
        log.info("settlement_sheet_refused", campaign_id=str(campaign_id), problem=refusal.code)


def _authorise(session: Session, actor: Actor, arguments: Arguments) -> None:
    if not actor.may(Permission.CAMPAIGN_RUN):
        raise Forbidden
    campaign_for(session, actor, _campaign(arguments))


def _campaign(arguments: Arguments) -> UUID:
    return UUID(arguments["campaign_id"])


# Participants


def _participant_columns(session: Session, _actor: Actor, arguments: Arguments) -> Sequence[str]:
    tasks = tasks_of(session, _campaign(arguments))
    fixed = ["编号", "昵称", "社区代码", "社区", "团队", "参加时间", "签到次数", "志愿分钟", "已发积分"]
    return [*fixed, *(f"{task.position}. {task.title} (目标 {task.target})" for task in tasks)]


def _participants(session: Session, _actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    """By the resident's id, page by page; the progress of a page's people in one statement for each task.

    The sums of teams are made once, because nearly every page has somebody of nearly every team.
    """
    campaign_id = _campaign(arguments)
    tasks = tasks_of(session, campaign_id)
    together = {task.id: _team_sums(session, task) for task in tasks if task.subject is TaskSubject.TEAM}
    after: UUID | None = None
    while page := session.execute(_participant_page(campaign_id, after)).all():
        ids = [row.resident_id for row in page]
        attended = _attended(session, campaign_id, ids)
        paid = _paid(session, campaign_id, ids)
        alone = {task.id: _done(session, task, ids) for task in tasks if task.subject is TaskSubject.PERSON}
        for team_id, resident_id, *seen in page:
            done = [
                together[task.id].get(team_id, 0) if task.id in together else alone[task.id].get(resident_id, 0)
                for task in tasks
            ]
            yield [resident_id, *seen, *attended.get(resident_id, (0, 0)), paid.get(resident_id, 0), *done]
        after = ids[-1]


def _participant_page(
    campaign_id: UUID, after: UUID | None
) -> sa.Select[UUID | None, UUID, str | None, str, str, str, datetime]:
    query = (
        sa.select(
            Participation.team_id,
            Participation.resident_id,
            Resident.nickname,
            Participation.community_code,
            Division.name,
            Team.name,
            Participation.joined_at,
        )
        .join(Resident, Resident.resident_id == Participation.resident_id, isouter=True)
        .join(Division, Division.code == Participation.community_code, isouter=True)
        .join(Team, sa.and_(Team.campaign_id == campaign_id, Team.id == Participation.team_id), isouter=True)
        .where(Participation.campaign_id == campaign_id)
        .order_by(Participation.resident_id)
        .limit(PAGE_ROWS)
    )
    return query if after is None else query.where(Participation.resident_id > after)


def _among(ids: Sequence[UUID]) -> sa.Select[UUID]:
    return sa.select(sa.func.unnest(sa.literal(ids, sa.ARRAY(sa.Uuid))))


def _attended(session: Session, campaign_id: UUID, ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
    rows = session.execute(
        sa.select(CheckIn.resident_id, sa.func.count(), sa.func.sum(CheckIn.minutes))
        .where(CheckIn.campaign_id == campaign_id, CheckIn.resident_id.in_(_among(ids)))
        .group_by(CheckIn.resident_id)
    )
    return {resident_id: (count, int(minutes)) for resident_id, count, minutes in rows}


def _paid(session: Session, campaign_id: UUID, ids: Sequence[UUID]) -> dict[UUID, int]:
    rows = session.execute(
        sa.select(CampaignPayment.resident_id, sa.func.sum(CampaignPayment.points))
        .where(CampaignPayment.campaign_id == campaign_id, CampaignPayment.resident_id.in_(_among(ids)))
        .group_by(CampaignPayment.resident_id)
    )
    return {resident_id: int(points) for resident_id, points in rows}


def _team_sums(session: Session, task: CampaignTask) -> dict[UUID | None, int]:
    own = contribution_select(task).subquery()
    rows = session.execute(
        sa.select(own.c.team_id, sa.cast(sa.func.sum(own.c.done), sa.BigInteger))
        .where(own.c.team_id.is_not(None))
        .group_by(own.c.team_id)
    )
    return dict(rows.all())


def _done(session: Session, task: CampaignTask, ids: Sequence[UUID]) -> dict[UUID, int]:
    return {resident_id: done for resident_id, _, done in session.execute(done_select(task, _among(ids)))}


# Check-ins


def _check_in_columns(_session: Session, _actor: Actor, _arguments: Arguments) -> Sequence[str]:
    return ["时段编号", "地点", "开始", "编号", "昵称", "方式", "签到时间", "签退时间", "志愿分钟", "人工补登"]


def _check_ins(session: Session, _actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    """By slot and resident."""
    campaign_id = _campaign(arguments)
    query: Any = (
        sa.select(
            CheckIn.slot_id,
            CheckInSlot.site_name,
            CheckInSlot.opens_at,
            CheckIn.resident_id,
            Resident.nickname,
            CheckIn.way,
            CheckIn.checked_in_at,
            CheckIn.signed_out_at,
            CheckIn.minutes,
            CheckIn.minutes_set_by,
        )
        .join(CheckInSlot, CheckInSlot.id == CheckIn.slot_id)
        .join(Resident, Resident.resident_id == CheckIn.resident_id, isouter=True)
        .where(CheckIn.campaign_id == campaign_id)
        .order_by(CheckIn.slot_id, CheckIn.resident_id)
    )
    for row in streamed(session, query):
        yield [*row[:5], _WAYS[row.way], *row[6:9], row.minutes_set_by is not None]


# The settlement sheet


def _settlement_columns(_session: Session, _actor: Actor, _arguments: Arguments) -> Sequence[str]:
    return ["编号", "昵称", "团队", "任务", "事由", "积分", "方式", "发放时间", "流水号", "已撤销"]


def _settlement(session: Session, _actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    """By resident and task: who was paid how much for what, under which transfer, and whether it was taken back."""
    campaign_id = _campaign(arguments)
    undone = sa.exists().where(
        Transfer.resident_id == CampaignPayment.resident_id, Transfer.reverses_id == CampaignPayment.transfer_id
    )
    paid = sa.orm.aliased(Transfer)
    query: Any = (
        sa.select(
            CampaignPayment.resident_id,
            Resident.nickname,
            Team.name,
            CampaignTask.title,
            paid.reason,
            CampaignPayment.points,
            CampaignPayment.way,
            CampaignPayment.paid_at,
            CampaignPayment.transfer_id,
            undone,
        )
        .join(
            CampaignTask,
            sa.and_(CampaignTask.campaign_id == campaign_id, CampaignTask.id == CampaignPayment.task_id),
        )
        .join(
            paid,
            sa.and_(paid.resident_id == CampaignPayment.resident_id, paid.id == CampaignPayment.transfer_id),
        )
        .join(Resident, Resident.resident_id == CampaignPayment.resident_id, isouter=True)
        .join(
            Participation,
            sa.and_(Participation.resident_id == CampaignPayment.resident_id, Participation.campaign_id == campaign_id),
            isouter=True,
        )
        .join(Team, sa.and_(Team.campaign_id == campaign_id, Team.id == Participation.team_id), isouter=True)
        .where(CampaignPayment.campaign_id == campaign_id)
        .order_by(CampaignPayment.resident_id, CampaignPayment.task_id)
    )
    for row in streamed(session, query):
        yield [*row[:6], _PAID[row.way], *row[7:]]


PRODUCERS = [
    Producer(PARTICIPANTS, "活动参加名单", _authorise, _participant_columns, _participants),
    Producer(CHECK_INS, "活动签到名单", _authorise, _check_in_columns, _check_ins),
    Producer(SETTLEMENT, "活动结算单", _authorise, _settlement_columns, _settlement),
]

# What a campaign's address calls them.
KINDS = {"participants": PARTICIPANTS, "check-ins": CHECK_INS, "settlement": SETTLEMENT}

"""Evidence for tasks: a participant uploads, a member of staff in scope decides once, with a reason to refuse."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from campaigns.drives.campaigns import campaign_for, task_for
from campaigns.drives.models import Campaign, CampaignState, CampaignTask, TaskKind
from campaigns.drives.moves import UNDER_WAY, is_running
from campaigns.drives.participation import hold_open, participation_of
from campaigns.tasks.models import EvidenceState, TaskEvidence
from campaigns.tasks.quizzes import TaskOfAnotherKind
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, NotFound
from server.files import intake, store
from server.files.intake import CleanFile
from server.files.models import StoredFile
from server.paging import Page, decode, page_of

PURPOSE = "task-evidence"

# Of one resident for one task, refused ones too; the table's own limit.
UPLOADS_MAX = 50

# After the last day: long enough for a question about a reward, and no longer (PIPL 19).
FILES_KEPT_FOR = timedelta(days=180)
FORGOTTEN_AT_ONCE_MAX = 5_000


class EvidenceTooMuch(Conflict):
    """A resident uploads at most UPLOADS_MAX times for one task."""

    code, title_zh, title_en = "evidence-too-much", "该任务的上传次数已用完", "No more uploads for this task"
    constraints = ("task_evidence_number_check",)


class EvidenceRepeated(Conflict):
    """The same picture was sent for this task before; it counts once."""

    code, title_zh, title_en = "evidence-repeated", "该图片已上传过", "This file was sent before"
    constraints = ("task_evidence_resident_id_task_id_sha256_key",)


class EvidenceTwice(Conflict):
    """Another upload of the same person comes in at this moment; send this one again."""

    code, title_zh, title_en = "evidence-twice", "另一次上传正在进行, 请重试", "Another upload is coming in; try again"
    constraints = ("task_evidence_resident_id_task_id_number_key",)


class EvidenceDecided(Conflict):
    """An upload is decided once."""

    code, title_zh, title_en = "evidence-decided", "该证明已审核", "This upload was decided already"


@dataclass(frozen=True, slots=True)
class Sent:
    """An upload with its file. `copies` is how many uploads of the campaign are the same file, this one included."""

    id: UUID
    task_id: UUID
    state: EvidenceState
    sent_at: datetime
    decided_at: datetime | None
    reason: str | None
    file: StoredFile
    copies: int | None


def send(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID, file: CleanFile, *, now: datetime) -> Sent:
    """Take in a participant's upload for an evidence task.

    Raises NotFound, NotJoined, CampaignClosed outside the campaign's days, TaskOfAnotherKind, EvidenceTooMuch, and
    EvidenceRepeated and EvidenceTwice through the table's keys.
    """
    _evidence_task_for(session, actor, campaign_id, task_id)
    participation_of(session, actor, campaign_id)
    hold_open(session, campaign_id, *is_running(now))
    last = sa.select(sa.func.coalesce(sa.func.max(TaskEvidence.number), 0)).where(
        TaskEvidence.resident_id == actor.id, TaskEvidence.task_id == task_id
    )
    number = (session.scalar(last) or 0) + 1
    if number > UPLOADS_MAX:
        raise EvidenceTooMuch
    stored = intake.accept(session, file, purpose=PURPOSE, uploaded_by=actor.id, now=now)
    evidence = TaskEvidence(
        resident_id=actor.id,
        id=new_id(),
        campaign_id=campaign_id,
        task_id=task_id,
        number=number,  # counted above without a lock: of two at once the key lets one through
        file_id=stored.id,
        sha256=stored.sha256,
        sent_at=now,
        state=EvidenceState.SENT,
    )
    session.add(evidence)
    session.flush()
    return _sent(evidence, stored, None)


def decide(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    evidence_id: UUID,
    decision: EvidenceState,
    *,
    reason: str | None = None,
    now: datetime,
) -> Sent:
    """Confirm or refuse an upload of a campaign in the actor's scope, once, until the campaign is closed.

    Raises NotFound, CampaignClosed, EvidenceDecided.
    """
    evidence, stored = _of(session, actor, campaign_id, evidence_id)
    hold_open(session, campaign_id, Campaign.state.in_((*UNDER_WAY, CampaignState.SETTLING)))
    decided = session.scalars(
        sa.update(TaskEvidence)
        .where(
            TaskEvidence.resident_id == evidence.resident_id,
            TaskEvidence.id == evidence_id,
            TaskEvidence.state == EvidenceState.SENT,
        )
        .values(state=decision, decided_by=actor.id, decided_at=now, reason=reason)
        .returning(TaskEvidence)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if decided is None:
        raise EvidenceDecided
    audit.record(session, actor, f"evidence.{decision.value}", str(evidence_id), now=now, campaign=str(campaign_id))
    return _sent(decided, stored, None)


def own(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID) -> Sequence[Sent]:
    """The actor's uploads for a task, in their order; few enough for one answer. Raises NotFound, TaskOfAnotherKind."""
    _evidence_task_for(session, actor, campaign_id, task_id)
    rows = session.execute(
        sa.select(TaskEvidence, StoredFile)
        .join(StoredFile, StoredFile.id == TaskEvidence.file_id)
        .where(TaskEvidence.resident_id == actor.id, TaskEvidence.task_id == task_id)
        .order_by(TaskEvidence.number)
    )
    return [_sent(evidence, stored, None) for evidence, stored in rows]


def list_evidence(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    *,
    state: EvidenceState | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Sent]:
    """The uploads of a campaign in the actor's scope, oldest first. Raises NotFound, BadCursor."""
    campaign_for(session, actor, campaign_id)
    copy = aliased(TaskEvidence)
    copies = (
        sa.select(sa.func.count())
        .where(copy.campaign_id == TaskEvidence.campaign_id, copy.sha256 == TaskEvidence.sha256)
        .scalar_subquery()
    )
    wanted = (
        sa.select(TaskEvidence, StoredFile, copies)
        .join(StoredFile, StoredFile.id == TaskEvidence.file_id)
        .where(TaskEvidence.campaign_id == campaign_id)
        .order_by(TaskEvidence.id)
        .limit(limit + 1)
    )
    if state is not None:
        wanted = wanted.where(TaskEvidence.state == state)
    if cursor is not None:
        wanted = wanted.where(TaskEvidence.id > decode(cursor, tuple[UUID])[0])
    rows = [_sent(evidence, stored, number) for evidence, stored, number in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.id,))


def file_of(session: Session, actor: Actor, campaign_id: UUID, evidence_id: UUID) -> StoredFile:
    """The file of an upload: for its sender, and for staff in scope. Raises NotFound."""
    return _of(session, actor, campaign_id, evidence_id)[1]


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete the files of campaigns that are over since FILES_KEPT_FOR; what was decided stays. The number deleted."""
    old = session.scalars(
        sa.select(TaskEvidence.file_id)
        .join(Campaign, Campaign.id == TaskEvidence.campaign_id)
        .join(StoredFile, StoredFile.id == TaskEvidence.file_id)
        .where(
            Campaign.state.in_((CampaignState.CLOSED, CampaignState.CANCELLED)),
            Campaign.ends_on < business_day(now - FILES_KEPT_FOR),
            StoredFile.deleted_at.is_(None),
        )
        .order_by(TaskEvidence.file_id)
        .limit(FORGOTTEN_AT_ONCE_MAX)
    ).all()
    for file_id in old:
        store.remove(session, file_id, now=now)
    return len(old)


def _of(session: Session, actor: Actor, campaign_id: UUID, evidence_id: UUID) -> tuple[TaskEvidence, StoredFile]:
    campaign_for(session, actor, campaign_id)
    wanted = (
        sa.select(TaskEvidence, StoredFile)
        .join(StoredFile, StoredFile.id == TaskEvidence.file_id)
        .where(TaskEvidence.campaign_id == campaign_id, TaskEvidence.id == evidence_id)
        .execution_options(populate_existing=True)
    )
    if actor.is_resident:
        wanted = wanted.where(TaskEvidence.resident_id == actor.id)
    found = session.execute(wanted).one_or_none()
    if found is None:
        raise NotFound
    return found[0], found[1]


def _evidence_task_for(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID) -> CampaignTask:
    task = task_for(session, actor, campaign_id, task_id)
    if task.kind is not TaskKind.EVIDENCE:
        raise TaskOfAnotherKind
    return task


def _sent(evidence: TaskEvidence, stored: StoredFile, copies: int | None) -> Sent:
    return Sent(
        id=evidence.id,
        task_id=evidence.task_id,
        state=evidence.state,
        sent_at=evidence.sent_at,
        decided_at=evidence.decided_at,
        reason=evidence.reason,
        file=stored,
        copies=copies,
    )

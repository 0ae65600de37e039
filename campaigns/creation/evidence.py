"""Evidence files of an application, by item: the applicant adds and removes them while the application can be changed.

What reviewers have once seen stays: it is marked removed and can still be read by them. A file that was never submitted
is deleted for good.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation.applications import EDITABLE, applicant_for, application_for
from campaigns.creation.models import (
    FILES_PER_ITEM_MAX,
    Application,
    ApplicationEvidence,
    ApplicationMove,
    RubricItem,
)
from campaigns.creation.steps import Move
from server import audit
from server.access import Actor
from server.database import new_id
from server.errors import Conflict, NotFound
from server.files import intake, store
from server.files.intake import CleanFile
from server.files.models import StoredFile
from server.paging import Page, decode, page_of

PURPOSE = "creation-evidence"

# Of one application, what was removed too: the places of an item bound only what stands.
FILES_PER_APPLICATION_MAX = 600


class EvidenceClosed(Conflict):
    """The application is with its reviewers; evidence changes only before, or when it was returned."""

    code, title_zh, title_en = (
        "evidence-closed",
        "申报已提交, 不能修改证明材料",
        "The application is with its reviewers; its evidence cannot change",
    )
    constraints = ("application_evidence_closed",)


class EvidenceFull(Conflict):
    """An item has at most FILES_PER_ITEM_MAX files, an application FILES_PER_APPLICATION_MAX with the removed ones."""

    code, title_zh, title_en = "evidence-full", "证明材料数量已达上限", "No more files can be added"
    constraints = ("application_evidence_item_key",)


def add(
    session: Session,
    actor: Actor,
    application_id: UUID,
    item_code: str,
    file: CleanFile,
    *,
    note: str = "",
    now: datetime,
) -> tuple[ApplicationEvidence, StoredFile]:
    """Add a checked file to one item of the actor's own application.

    Raises NotFound for another's application or no item of its rubric, EvidenceClosed, EvidenceFull, StoreUnavailable.
    """
    require_open(session, actor, application_id, item_code)
    position = _free_place(session, application_id, item_code)
    stored = intake.accept(session, file, purpose=PURPOSE, uploaded_by=actor.id, now=now)
    added = ApplicationEvidence(
        application_id=application_id,
        id=new_id(),
        item_code=item_code,
        position=position,
        file_id=stored.id,
        note=note.strip(),
        added_by=actor.id,
        added_at=now,
        removed_by=None,
        removed_at=None,
    )
    session.add(added)
    session.flush()
    _record(session, actor, "application.evidence.add", application_id, added, now=now)
    return added, stored


def require_open(session: Session, actor: Actor, application_id: UUID, item_code: str) -> None:
    """Hold the actor's own application and ask whether the item takes files now.

    Raises NotFound, Forbidden, EvidenceClosed.
    """
    application = applicant_for(session, actor, application_id)
    _hold_editable(session, application_id)
    if session.get(RubricItem, (application.rubric_id, item_code)) is None:
        raise NotFound


def remove(session: Session, actor: Actor, application_id: UUID, evidence_id: UUID, *, now: datetime) -> None:
    """Take a file off the actor's own application. Raises NotFound, EvidenceClosed."""
    applicant_for(session, actor, application_id)
    _hold_editable(session, application_id)
    removed = session.scalars(
        sa.update(ApplicationEvidence)
        .where(
            ApplicationEvidence.application_id == application_id,
            ApplicationEvidence.id == evidence_id,
            ApplicationEvidence.removed_at.is_(None),
        )
        .values(removed_by=actor.id, removed_at=now)
        .returning(ApplicationEvidence)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if removed is None:
        raise NotFound
    if not _was_submitted(session, removed):
        store.remove(session, removed.file_id, now=now)
    _record(session, actor, "application.evidence.remove", application_id, removed, now=now)


def list_evidence(
    session: Session, actor: Actor, application_id: UUID, *, removed: bool = False, limit: int, cursor: str | None
) -> Page[tuple[ApplicationEvidence, StoredFile]]:
    """The files of an application that the actor may see, oldest first; with `removed` those taken off after review.

    Raises NotFound, BadCursor.
    """
    application_for(session, actor, application_id)
    state = ApplicationEvidence.removed_at.is_not(None) if removed else ApplicationEvidence.removed_at.is_(None)
    wanted = (
        sa.select(ApplicationEvidence, StoredFile)
        .join(StoredFile, StoredFile.id == ApplicationEvidence.file_id)
        .where(ApplicationEvidence.application_id == application_id, StoredFile.deleted_at.is_(None), state)
        .order_by(ApplicationEvidence.id)
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(ApplicationEvidence.id > decode(cursor, tuple[UUID])[0])
    rows = [(row[0], row[1]) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row[0].id,))


def file_for(session: Session, actor: Actor, application_id: UUID, evidence_id: UUID) -> StoredFile:
    """The file behind one piece of evidence of an application that the actor may see. Raises NotFound."""
    application_for(session, actor, application_id)
    found = session.scalar(
        sa.select(StoredFile)
        .join(ApplicationEvidence, ApplicationEvidence.file_id == StoredFile.id)
        .where(
            ApplicationEvidence.application_id == application_id,
            ApplicationEvidence.id == evidence_id,
            StoredFile.deleted_at.is_(None),
        )
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound
    return found


def missing(session: Session, application_id: UUID) -> Sequence[str]:
    """Codes of the items that want evidence and have no standing file, in the rubric's order."""
    standing = (
        sa.exists()
        .where(
            ApplicationEvidence.application_id == Application.id,
            ApplicationEvidence.item_code == RubricItem.code,
            ApplicationEvidence.removed_at.is_(None),
        )
        .correlate(Application, RubricItem)
    )
    return session.scalars(
        sa.select(RubricItem.code)
        .join(Application, Application.rubric_id == RubricItem.rubric_id)
        .where(Application.id == application_id, RubricItem.evidence_required, sa.not_(standing))
        .order_by(RubricItem.position)
    ).all()


def _hold_editable(session: Session, application_id: UUID) -> None:
    """Hold the application in a state that can be changed until the transaction ends. Raises EvidenceClosed.

    A submission at this moment waits, and then sees this file; or it came first, and nothing is added behind its back.
    """
    held = session.scalar(
        sa.select(Application.id)
        .where(Application.id == application_id, Application.state.in_(EDITABLE))
        .with_for_update(key_share=True)
    )
    if held is None:
        raise EvidenceClosed


def _free_place(session: Session, application_id: UUID, item_code: str) -> int:
    """The lowest free place of an item. The application is held, so nobody else takes it. Raises EvidenceFull."""
    of_application = ApplicationEvidence.application_id == application_id
    everything = session.execute(
        sa.select(sa.func.count()).select_from(ApplicationEvidence).where(of_application)
    ).scalar_one()
    taken = set(
        session.scalars(
            sa.select(ApplicationEvidence.position).where(
                of_application, ApplicationEvidence.item_code == item_code, ApplicationEvidence.removed_at.is_(None)
            )
        )
    )
    free = set(range(1, FILES_PER_ITEM_MAX + 1)) - taken
    if everything >= FILES_PER_APPLICATION_MAX or not free:
        raise EvidenceFull
    return min(free)


def _was_submitted(session: Session, evidence: ApplicationEvidence) -> bool:
    """Whether the application was submitted, or submitted again, since the file was added."""
    return bool(
        session.scalar(
            sa.select(
                sa.exists().where(
                    ApplicationMove.application_id == evidence.application_id,
                    ApplicationMove.move.in_((Move.SUBMIT, Move.RESUBMIT)),
                    ApplicationMove.moved_at >= evidence.added_at,
                )
            )
        )
    )


def _record(
    session: Session,
    actor: Actor,
    act: str,
    application_id: UUID,
    evidence: ApplicationEvidence,
    *,
    now: datetime,
) -> None:
    """Audit what staff do; what a resident does for their own household is in the rows themselves."""
    if not actor.is_resident:
        detail = {"item": evidence.item_code, "evidence": str(evidence.id)}
        audit.record(session, actor, act, str(application_id), now=now, **detail)

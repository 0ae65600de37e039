"""The public notice (公示) and what is objected to it, without sign-in: a receipt is the objector's way back."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation import assessment, parties
from campaigns.creation.applications import application_for
from campaigns.creation.models import (
    Application,
    Objection,
    ObjectionFile,
    Programme,
    PublicNotice,
    Rubric,
)
from campaigns.creation.moving import Moving
from campaigns.creation.steps import ENDED, ApplicationState, Party
from server import audit, typed_codes
from server.access import Actor, Permission
from server.clock import business_day, day_start
from server.crypto import BadSeal, seal, unseal
from server.database import new_id
from server.errors import Conflict, NotFound
from server.files import intake
from server.files.intake import CleanFile
from server.files.models import StoredFile
from server.paging import Page, decode, page_of

CONTACT_SEAL = "objection-contact"
FILE_PURPOSE = "objection"
FILES_MAX = 3
OBJECTIONS_MAX = 500
CONTACT_KEPT_FOR = timedelta(days=180)
FORGOTTEN_AT_ONCE_MAX = 1000

RECEIPT_LENGTH = 16  # 80 bits


class NoticeOver(Conflict):
    """Objections come while the notice stands."""

    code, title_zh, title_en = "notice-over", "公示期已结束", "The public notice is over"
    constraints = ("objection_while_notice",)


class ObjectionsFull(Conflict):
    """More objections than a person can answer: the notice is being flooded."""

    code, title_zh, title_en = (
        "objections-full",
        "异议数量已达上限, 请直接联系区主管部门",
        "Please contact the district office",
    )


class ObjectionFilesFull(Conflict):
    """An objection has at most FILES_MAX files."""

    code, title_zh, title_en = "objection-files-full", "每件异议最多3个文件", "An objection has at most three files"
    constraints = ("objection_file_pkey", "objection_file_position_check")


class ObjectionAnswered(Conflict):
    """An objection is answered once; after that nothing is added to it either."""

    code, title_zh, title_en = "objection-answered", "该异议已答复", "The objection was answered"


@dataclass(frozen=True, slots=True)
class UnderNotice:
    """What the public reads of one application."""

    notice: PublicNotice
    application: Application
    programme: Programme
    rubric: Rubric


@dataclass(frozen=True, slots=True)
class Received:
    """A new objection with the receipt, which is shown once."""

    objection: Objection
    receipt: str


@dataclass(frozen=True, slots=True)
class FileAt:
    """One file of an objection and its place, from 1."""

    position: int
    file: StoredFile


@dataclass(frozen=True, slots=True)
class ObjectionDetail:
    """An objection with its files, and the contact for those who answer it."""

    objection: Objection
    files: Sequence[FileAt]
    contact: str | None = None


# Effects of moves


def publish(moving: Moving) -> datetime:
    """Put the outcome under public notice for the days of the rubric; when the notice ends.

    The day of publishing does not count (Civil Code, article 201).
    """
    session, application, today = moving.session, moving.application, business_day(moving.now)
    found = assessment.outcome(session, application.id)
    days = session.get_one(Rubric, application.rubric_id).notice_days
    last_on = today + timedelta(days=days)
    session.add(
        PublicNotice(
            application_id=application.id,
            published_on=today,
            days=days,
            last_on=last_on,
            score=found.score,
            maximum=found.maximum,
            published_by=moving.moved_by,
            published_at=moving.now,
        )
    )
    session.flush()
    return day_start(last_on + timedelta(days=1))


def end(moving: Moving) -> datetime | None:
    """Mark the notice ended."""
    moving.session.execute(
        sa.update(PublicNotice).where(PublicNotice.application_id == moving.application.id).values(ended_at=moving.now)
    )
    return None


# What everybody reads


def list_notices(
    session: Session, *, programme: str | None = None, limit: int, cursor: str | None
) -> Page[UnderNotice]:
    """The applications under notice, newest first. Raises BadCursor."""
    wanted = _under_notice().order_by(PublicNotice.published_on.desc(), Application.id.desc()).limit(limit + 1)
    if programme is not None:
        wanted = wanted.where(Application.programme_code == programme)
    if cursor is not None:
        published_on, id = decode(cursor, tuple[date, UUID])
        wanted = wanted.where(
            sa.tuple_(PublicNotice.published_on, Application.id) < sa.tuple_(sa.literal(published_on), sa.literal(id))
        )
    rows = [UnderNotice(*row) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.notice.published_on, row.application.id))


def notice_for(session: Session, application_id: UUID) -> UnderNotice:
    """One application under notice. Raises NotFound."""
    row = session.execute(_under_notice().where(Application.id == application_id)).one_or_none()
    if row is None:
        raise NotFound
    return UnderNotice(*row)


def _under_notice() -> sa.Select[PublicNotice, Application, Programme, Rubric]:
    return (
        sa.select(PublicNotice, Application, Programme, Rubric)
        .join(Application, Application.id == PublicNotice.application_id)
        .join(Programme, Programme.code == Application.programme_code)
        .join(Rubric, Rubric.id == Application.rubric_id)
        .where(Application.state == ApplicationState.NOTICE)
        .execution_options(populate_existing=True)
    )


# Objecting


def make_objection(
    session: Session, application_id: UUID, *, text: str, contact: str, data_key: bytes, now: datetime
) -> Received:
    """Take in somebody's objection while the notice stands; the receipt is shown this once.

    The contact is sealed: those who answer read it, and it is forgotten CONTACT_KEPT_FOR after the answer.

    Raises NotFound for what is not under notice, NoticeOver after its last day, ObjectionsFull.
    """
    # Held, so that the notice cannot end between this look and the objection.
    application = session.scalars(
        sa.select(Application)
        .where(Application.id == application_id, Application.state == ApplicationState.NOTICE)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if application is None:
        raise NotFound
    if session.get_one(PublicNotice, application_id).last_on < business_day(now):
        raise NoticeOver
    count = sa.select(sa.func.count()).select_from(Objection).where(Objection.application_id == application_id)
    if session.execute(count).scalar_one() >= OBJECTIONS_MAX:
        raise ObjectionsFull
    receipt = typed_codes.new_code(RECEIPT_LENGTH)
    objection_id = new_id()
    objection = Objection(
        id=objection_id,
        application_id=application_id,
        receipt_hash=_hash(receipt),
        text=text,
        contact_sealed=seal(data_key, CONTACT_SEAL, str(objection_id), contact.encode()) if contact else None,
        made_at=now,
    )
    session.add(objection)
    session.flush()
    parties.tell(
        session,
        application,
        Party.DISTRICT,
        kind="objection",
        title_zh="公示收到异议, 请答复",
        title_en="An objection to a public notice waits for an answer",
        now=now,
    )
    return Received(objection, receipt)


def objection_by_receipt(session: Session, receipt: str) -> ObjectionDetail:
    """The objection that a receipt is for. Hyphens, spaces and small letters do not matter. Raises NotFound."""
    found = session.scalars(
        sa.select(Objection)
        .where(Objection.receipt_hash == _hash(receipt.replace("-", "").replace(" ", "").upper()))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound
    return ObjectionDetail(found, _files(session, [found.id]).get(found.id, []))


def add_file(session: Session, receipt: str, file: CleanFile, *, now: datetime) -> ObjectionDetail:
    """Add a checked file to one's own objection while the notice stands.

    Raises NotFound, ObjectionAnswered, NoticeOver, ObjectionFilesFull, StoreUnavailable.
    """
    objection = objection_by_receipt(session, receipt).objection
    if objection.answered_at is not None:
        raise ObjectionAnswered
    state = session.execute(
        sa.select(Application.state).where(Application.id == objection.application_id).with_for_update()
    ).scalar_one()
    last_on = session.get_one(PublicNotice, objection.application_id).last_on
    if state is not ApplicationState.NOTICE or last_on < business_day(now):
        raise NoticeOver
    position = len(_files(session, [objection.id]).get(objection.id, [])) + 1
    if position > FILES_MAX:
        raise ObjectionFilesFull
    stored = intake.accept(session, file, purpose=FILE_PURPOSE, uploaded_by=None, now=now)
    session.add(ObjectionFile(objection_id=objection.id, position=position, file_id=stored.id))
    session.flush()
    return objection_by_receipt(session, receipt)


# Answering


def list_objections(
    session: Session, actor: Actor, application_id: UUID, *, data_key: bytes, limit: int, cursor: str | None
) -> Page[ObjectionDetail]:
    """The objections to an application in the actor's scope, first come first; the contact for those who decide.

    Raises NotFound, Forbidden, BadCursor.
    """
    application = application_for(session, actor, application_id)
    parties.require_may_act(actor, application, Permission.CREATION_REVIEW)
    wanted = (
        sa.select(Objection)
        .where(Objection.application_id == application_id)
        .order_by(Objection.id)
        .limit(limit + 1)
        .execution_options(populate_existing=True)
    )
    if cursor is not None:
        wanted = wanted.where(Objection.id > decode(cursor, tuple[UUID])[0])
    rows = session.scalars(wanted).all()
    files = _files(session, [row.id for row in rows])
    reads_contact = actor.may(Permission.CREATION_DECIDE)
    details = [
        ObjectionDetail(row, files.get(row.id, []), _contact(row, data_key) if reads_contact else None) for row in rows
    ]
    return page_of(details, limit, lambda row: (row.objection.id,))


def answer(
    session: Session, actor: Actor, objection_id: UUID, *, text: str, upheld: bool, now: datetime
) -> ObjectionDetail:
    """Answer an objection, once and for good. Raises NotFound outside the scope, Forbidden, ObjectionAnswered."""
    objection = _objection_for(session, actor, objection_id, Permission.CREATION_DECIDE)
    answered = session.scalars(
        sa.update(Objection)
        .where(Objection.id == objection_id, Objection.answered_at.is_(None))
        .values(answer=text, upheld=upheld, answered_by=actor.id, answered_at=now)
        .returning(Objection)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if answered is None:
        raise ObjectionAnswered
    audit.record(session, actor, "objection.answer", str(objection_id), now=now, upheld=upheld)
    return ObjectionDetail(answered, _files(session, [objection.id]).get(objection.id, []))


def file_for(session: Session, actor: Actor, objection_id: UUID, position: int) -> StoredFile:
    """One file of an objection in the actor's scope. Raises NotFound, Forbidden."""
    _objection_for(session, actor, objection_id, Permission.CREATION_REVIEW)
    for each in _files(session, [objection_id]).get(objection_id, []):
        if each.position == position:
            return each.file
    raise NotFound


def forget_contacts(session: Session, *, now: datetime) -> int:
    """Forget the contacts of objections whose matter is decided and past CONTACT_KEPT_FOR; the number forgotten.

    At most FORGOTTEN_AT_ONCE_MAX at a time.
    """
    decided = (ApplicationState.NAMED, ApplicationState.RECHECK, ApplicationState.GRACE, *ENDED)
    old = (
        sa.select(Objection.id)
        .join(Application, Application.id == Objection.application_id)
        .where(
            Objection.contact_sealed.is_not(None),
            Objection.answered_at < now - CONTACT_KEPT_FOR,
            Application.state.in_(decided),
        )
        .limit(FORGOTTEN_AT_ONCE_MAX)
    )
    result = session.execute(sa.update(Objection).where(Objection.id.in_(old)).values(contact_sealed=None))
    return int(result.rowcount)  # type: ignore[attr-defined]


def _objection_for(session: Session, actor: Actor, objection_id: UUID, permission: Permission) -> Objection:
    found = session.get(Objection, objection_id, populate_existing=True)
    if found is None:
        raise NotFound
    parties.require_may_act(actor, application_for(session, actor, found.application_id), permission)
    return found


def _files(session: Session, objection_ids: Sequence[UUID]) -> dict[UUID, list[FileAt]]:
    found: dict[UUID, list[FileAt]] = {}
    if not objection_ids:
        return found
    wanted = (
        sa.select(ObjectionFile.objection_id, ObjectionFile.position, StoredFile)
        .join(StoredFile, StoredFile.id == ObjectionFile.file_id)
        .where(ObjectionFile.objection_id.in_(objection_ids), StoredFile.deleted_at.is_(None))
        .order_by(ObjectionFile.objection_id, ObjectionFile.position)
    )
    for objection_id, position, file in session.execute(wanted):
        found.setdefault(objection_id, []).append(FileAt(position, file))
    return found


def _contact(objection: Objection, data_key: bytes) -> str | None:
    if objection.contact_sealed is None:
        return None
    try:
        return unseal(data_key, CONTACT_SEAL, str(objection.id), objection.contact_sealed).decode()
    except BadSeal:
        return None  # sealed under a key that is gone: the objection can still be answered


def _hash(receipt: str) -> bytes:
    # 80 random bits need no slow or keyed hash.
    return hashlib.sha256(receipt.encode()).digest()

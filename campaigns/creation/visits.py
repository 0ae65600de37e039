"""On-site visits (现场核查): when, who, what they found, and photographs. A visit is written once and never changed."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation import assessment
from campaigns.creation.applications import application_for
from campaigns.creation.conflicts import require_untied
from campaigns.creation.models import (
    PHOTOS_PER_VISIT_MAX,
    Application,
    SiteVisit,
    SiteVisitPhoto,
)
from campaigns.creation.steps import ApplicationState
from server import audit
from server.access import Actor, Permission
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, Forbidden, NotFound
from server.files import intake
from server.files.intake import CleanFile
from server.files.models import StoredFile

PURPOSE = "creation-visit"
VISITS_MAX = 50

# A named subject is visited again for its re-check, and when it was given time to mend.
VISITED_STATES = (ApplicationState.DISTRICT_REVIEW, ApplicationState.RECHECK, ApplicationState.GRACE)


class VisitNotNow(Conflict):
    """A visit belongs to the district's review or to a re-check."""

    code, title_zh, title_en = (
        "visit-not-now",
        "申报不在可现场核查的阶段",
        "The application is neither under the district's review nor under a re-check",
    )


class VisitInvalid(DomainError):
    """At least two different people, on a day from the submission to today."""

    code, status, title_zh, title_en = (
        "visit-invalid",
        422,
        "现场核查须至少两人, 日期须在申报之后且不晚于今天",
        "A visit has two different people or more, on a day from the submission to today",
    )
    constraints = ("site_visit_people_check",)


class TooManyVisits(Conflict):
    """An application has at most VISITS_MAX visits."""

    code, title_zh, title_en = "too-many-visits", "现场核查次数已达上限", "No more visits can be recorded"


class TooManyPhotos(Conflict):
    """A visit has at most PHOTOS_PER_VISIT_MAX photographs."""

    code, title_zh, title_en = "too-many-photos", "照片数量已达上限", "No more photographs can be added"
    constraints = ("site_visit_photo_application_id_visit_id_position_key",)


class PhotoNotPicture(DomainError):
    """A photograph is a JPEG or PNG, not a document."""

    code, status, title_zh, title_en = "photo-not-picture", 422, "照片须为JPEG或PNG", "A photograph is a JPEG or PNG"


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph of a visit and what is known of its file."""

    position: int
    caption: str
    file: StoredFile


@dataclass(frozen=True, slots=True)
class VisitWithPhotos:
    """A visit with its photographs in their order."""

    visit: SiteVisit
    photos: Sequence[Photo]


def record(
    session: Session,
    actor: Actor,
    application_id: UUID,
    *,
    visited_on: date,
    people: Sequence[str],
    findings: str,
    now: datetime,
) -> VisitWithPhotos:
    """Write down a visit: the district's, or an assigned assessor's.

    Raises NotFound, Forbidden, AssessorTied, VisitNotNow, VisitInvalid, TooManyVisits.
    """
    application = application_for(session, actor, application_id)
    _require_visitor(session, actor, application)
    _hold_visited(session, application_id)
    names = [unicodedata.normalize("NFC", name).strip() for name in people]
    submitted_on = business_day(application.submitted_at) if application.submitted_at else date.max
    if len(names) < 2 or len(set(names)) != len(names) or "" in names:
        raise VisitInvalid
    if not submitted_on <= visited_on <= business_day(now):
        raise VisitInvalid
    count = sa.select(sa.func.count()).where(SiteVisit.application_id == application_id)
    if (session.scalar(count) or 0) >= VISITS_MAX:
        raise TooManyVisits
    visit = SiteVisit(
        application_id=application_id,
        id=new_id(),
        visited_on=visited_on,
        people=names,
        findings=findings.strip(),
        recorded_by=actor.id,
        recorded_at=now,
    )
    session.add(visit)
    session.flush()
    detail = {"visit": str(visit.id), "visited_on": visited_on.isoformat()}
    audit.record(session, actor, "application.visit", str(application_id), now=now, **detail)
    return VisitWithPhotos(visit, [])


def add_photo(
    session: Session,
    actor: Actor,
    application_id: UUID,
    visit_id: UUID,
    file: CleanFile,
    *,
    caption: str = "",
    now: datetime,
) -> Photo:
    """Add a photograph to a visit; whoever wrote the visit down does.

    Raises NotFound, Forbidden, VisitNotNow, PhotoNotPicture, TooManyPhotos, StoreUnavailable.
    """
    require_open(session, actor, application_id, visit_id)
    if not file.media_type.startswith("image/"):
        raise PhotoNotPicture
    last = sa.select(sa.func.coalesce(sa.func.max(SiteVisitPhoto.position), 0)).where(
        SiteVisitPhoto.application_id == application_id, SiteVisitPhoto.visit_id == visit_id
    )
    position = session.execute(last).scalar_one() + 1
    if position > PHOTOS_PER_VISIT_MAX:
        raise TooManyPhotos
    stored = intake.accept(session, file, purpose=PURPOSE, uploaded_by=actor.id, now=now)
    photo = SiteVisitPhoto(
        application_id=application_id,
        visit_id=visit_id,
        file_id=stored.id,
        position=position,
        caption=caption.strip(),
    )
    session.add(photo)
    session.flush()
    detail = {"visit": str(visit_id), "file": str(stored.id)}
    audit.record(session, actor, "application.visit.photo", str(application_id), now=now, **detail)
    return Photo(photo.position, photo.caption, stored)


def require_open(session: Session, actor: Actor, application_id: UUID, visit_id: UUID) -> None:
    """Hold the application and ask whether the actor may still add to a visit.

    Raises NotFound, Forbidden, VisitNotNow.
    """
    application_for(session, actor, application_id)
    visit = session.get(SiteVisit, (application_id, visit_id))
    if visit is None:
        raise NotFound
    if visit.recorded_by != actor.id:
        raise Forbidden
    _hold_visited(session, application_id)


def list_visits(session: Session, actor: Actor, application_id: UUID) -> Sequence[VisitWithPhotos]:
    """The visits of an application that the actor may see, in their order. Raises NotFound."""
    application_for(session, actor, application_id)
    visits = session.scalars(
        sa.select(SiteVisit).where(SiteVisit.application_id == application_id).order_by(SiteVisit.id)
    ).all()
    photos = _photos(session, application_id)
    return [VisitWithPhotos(visit, photos.get(visit.id, [])) for visit in visits]


def photo_for(session: Session, actor: Actor, application_id: UUID, visit_id: UUID, position: int) -> StoredFile:
    """The file of one photograph of an application that the actor may see. Raises NotFound."""
    application_for(session, actor, application_id)
    found = session.scalar(
        sa.select(StoredFile)
        .join(SiteVisitPhoto, SiteVisitPhoto.file_id == StoredFile.id)
        .where(
            SiteVisitPhoto.application_id == application_id,
            SiteVisitPhoto.visit_id == visit_id,
            SiteVisitPhoto.position == position,
        )
    )
    if found is None:
        raise NotFound
    return found


def held(session: Session, application_id: UUID) -> bool:
    """Whether somebody has been on the spot."""
    return bool(session.scalar(sa.select(sa.exists().where(SiteVisit.application_id == application_id))))


def _require_visitor(session: Session, actor: Actor, application: Application) -> None:
    """The district and the assigned assessors visit, and none of them with a tie. Raises Forbidden, AssessorTied."""
    decides = actor.may(Permission.CREATION_DECIDE) and actor.covers(application.division, application.organisation_id)
    if decides:
        return
    if not assessment.assesses(session, actor, application.id):
        raise Forbidden
    require_untied(session, actor.id, application)


def _hold_visited(session: Session, application_id: UUID) -> None:
    """Hold the application in a state with visits until the transaction ends. Raises VisitNotNow."""
    wanted = sa.select(Application.id).where(Application.id == application_id, Application.state.in_(VISITED_STATES))
    # One writer at a time, so that the places of photographs and the number of visits are counted right.
    if session.scalar(wanted.with_for_update(key_share=True)) is None:
        raise VisitNotNow


def _photos(session: Session, application_id: UUID) -> Mapping[UUID, Sequence[Photo]]:
    found: dict[UUID, list[Photo]] = {}
    rows = session.execute(
        sa.select(SiteVisitPhoto, StoredFile)
        .join(StoredFile, StoredFile.id == SiteVisitPhoto.file_id)
        .where(SiteVisitPhoto.application_id == application_id)
        .order_by(SiteVisitPhoto.visit_id, SiteVisitPhoto.position)
    )
    for photo, file in rows:
        found.setdefault(photo.visit_id, []).append(Photo(photo.position, photo.caption, file))
    return found

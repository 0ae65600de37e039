"""Exports: asked for by staff, made by a job, read by whoever asked, forgotten after a week."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit, jobs
from server.access import Actor, Role
from server.database import new_id
from server.errors import Conflict, Forbidden, InternalError, NotFound
from server.exports.models import ATTEMPTS_MAX, UNFINISHED_PER_PERSON_MAX, Export, ExportFormat, ExportState
from server.exports.registry import Desk
from server.exports.writing import Written
from server.paging import Page, decode, page_of
from server.people.models import Staff

KEPT_FOR = timedelta(days=7)  # from the request, and anew from when the file is there
FORGOTTEN_AT_ONCE_MAX = 1000

UNFINISHED = (ExportState.QUEUED, ExportState.RUNNING)


class TooManyExports(Conflict):
    """Three exports of the same person wait or run; the next is asked for when one of them is done or cancelled."""

    code, title_zh, title_en = (
        "too-many-exports",
        "最多同时进行3项导出",
        "Three of your exports are not finished; wait or cancel one",
    )
    constraints = ("export_unfinished_key",)


class ExportNotReady(Conflict):
    """There is no file: the export waits, runs, failed or was cancelled; `state` says which."""

    code, title_zh, title_en = "export-not-ready", "导出文件尚未生成", "The export has no file"


class ExportGaveUp(InternalError):
    """The export's worker died over it again and again; the service's log says why."""

    code, title_zh, title_en = "export-gave-up", "导出多次中断, 已放弃", "The export was interrupted too often"


class ExportFinished(Conflict):
    """What is done, failed or cancelled already cannot be cancelled."""

    code, title_zh, title_en = "export-finished", "导出已结束", "The export is finished"


def request(
    session: Session,
    actor: Actor,
    desk: Desk,
    *,
    kind: str,
    format: ExportFormat,  # noqa: A002 -- the word of the field
    arguments: dict[str, Any],
    now: datetime,
) -> Export:
    """Ask for an export; its job is enqueued in the same transaction. `arguments` are JSON of at most 4 KiB.

    Raises NotFound for an unknown kind and what the producer's `authorise` raises, Forbidden for residents,
    TooManyExports.
    """
    if actor.is_resident:
        raise Forbidden
    producer = desk.producers.get(kind)
    if producer is None:
        raise NotFound
    producer.authorise(session, actor, arguments)
    added = _in_a_free_slot(
        session,
        id=new_id(),
        kind=kind,
        format=ExportFormat(format),
        arguments=arguments,
        requested_by=actor.id,
        requested_at=now,
        expires_at=now + KEPT_FOR,
    )
    audit.record(
        session, actor, "export.request", f"export:{added.id}", now=now, kind=kind, format=format, arguments=arguments
    )
    jobs.enqueue(session, desk.jobs, "exports:run", export_id=str(added.id))
    return added


def _in_a_free_slot(session: Session, **values: Any) -> Export:
    """The export in one of its person's places. Two requests at once cannot take the same one: the index decides."""
    slot = sa.func.generate_series(1, UNFINISHED_PER_PERSON_MAX).table_valued("slot").render_derived()
    taken = sa.select(Export.slot).where(
        Export.requested_by == values["requested_by"], Export.state.in_(UNFINISHED), Export.slot == slot.c.slot
    )
    names = [*values, "slot"]
    for _ in range(UNFINISHED_PER_PERSON_MAX):
        free = (
            sa.select(
                *(sa.literal(value, Export.__table__.c[name].type) for name, value in values.items()), slot.c.slot
            )
            .where(~taken.exists())
            .order_by(slot.c.slot)
            .limit(1)
        )
        added: Export | None = session.scalar(
            insert(Export).from_select(names, free).on_conflict_do_nothing().returning(Export)
        )
        if added is not None:
            return added
    raise TooManyExports


def export_for(session: Session, actor: Actor, export_id: UUID) -> Export:
    """An export that the actor asked for. Raises NotFound: nobody reads another's, whatever their role."""
    found = session.scalar(
        sa.select(Export)
        .where(Export.id == export_id, Export.requested_by == actor.id)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound
    return found


def list_exports(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[Export]:
    """The actor's exports, newest first. Raises BadCursor."""
    wanted = sa.select(Export).where(Export.requested_by == actor.id).order_by(Export.id.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Export.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def finished_for(session: Session, actor: Actor, export_id: UUID) -> Export:
    """An export of the actor that has its file. Raises NotFound, ExportNotReady."""
    found = export_for(session, actor, export_id)
    if found.state is not ExportState.DONE:
        raise ExportNotReady(state=found.state.value)
    return found


def take_file(session: Session, actor: Actor, export_id: UUID, *, now: datetime) -> Export:
    """The same, and that the actor took the file is recorded: people's lists leave the system by it (PIPL 51)."""
    found = finished_for(session, actor, export_id)
    audit.record(session, actor, "export.download", f"export:{found.id}", now=now, kind=found.kind)
    return found


def cancel(session: Session, actor: Actor, export_id: UUID, *, now: datetime) -> Export:
    """Stop an export that waits or runs. Its job notices within some seconds. Raises NotFound, ExportFinished."""
    cancelled = session.scalar(
        sa.update(Export)
        .where(Export.id == export_id, Export.requested_by == actor.id, Export.state.in_(UNFINISHED))
        .values(state=ExportState.CANCELLED, finished_at=now)
        .returning(Export)
        .execution_options(populate_existing=True)
    )
    if cancelled is None:
        export_for(session, actor, export_id)
        raise ExportFinished
    return cancelled


def begin(session: Session, export_id: UUID, *, now: datetime) -> Export | None:
    """Take an export to make it; None when there is nothing to do any more.

    A run whose worker died leaves `running`; the next run begins anew under the next number, so that the old one,
    should it still live, cannot finish what is no longer its own.
    """
    return session.scalar(
        sa.update(Export)
        .where(Export.id == export_id, Export.state.in_(UNFINISHED), Export.attempts < ATTEMPTS_MAX)
        .values(
            state=ExportState.RUNNING,
            attempts=Export.attempts + 1,
            started_at=now,
            rows_written=0,
        )
        .returning(Export)
        .execution_options(populate_existing=True)
    )


def progress(session: Session, export_id: UUID, *, attempt: int, rows: int) -> bool:
    """Note how far a run is; whether it may go on: not cancelled, and not taken over by another run."""
    return session.scalar(_mine(export_id, attempt).values(rows_written=rows).returning(Export.id)) is not None


def finish(
    session: Session,
    export_id: UUID,
    *,
    attempt: int,
    columns: Sequence[str],
    written: Written,
    store_name: str,
    now: datetime,
) -> bool:
    """Give an export its file and manifest; False when it was cancelled or taken over meanwhile."""
    done = _mine(export_id, attempt).values(
        state=ExportState.DONE,
        finished_at=now,
        columns=list(columns),
        rows_written=written.rows,
        sha256=written.sha256,
        size_bytes=written.size_bytes,
        store_name=store_name,
        expires_at=now + KEPT_FOR,
    )
    return session.scalar(done.returning(Export.id)) is not None


def fail(session: Session, export_id: UUID, *, problem: str, now: datetime) -> bool:
    """End an export that cannot be made; `problem` is an error's code. False when it is finished already."""
    failed = (
        sa.update(Export)
        .where(Export.id == export_id, Export.state.in_(UNFINISHED))
        .values(state=ExportState.FAILED, finished_at=now, problem=problem)
    )
    return session.scalar(failed.returning(Export.id)) is not None


def _mine(export_id: UUID, attempt: int) -> sa.Update:
    return sa.update(Export).where(
        Export.id == export_id, Export.state == ExportState.RUNNING, Export.attempts == attempt
    )


def actor_of(session: Session, export: Export) -> Actor:
    """Whoever asked for an export, with the role and scope of now. Raises Forbidden for a disabled account."""
    found = session.scalar(
        sa.select(Staff).where(Staff.id == export.requested_by, Staff.enabled).execution_options(populate_existing=True)
    )
    if found is None:
        raise Forbidden
    return Actor(
        id=found.id,
        role=Role(found.role),
        session_id=export.id,  # no sign-in is behind a job; the export stands for it
        division=found.division,
        organisation_id=found.organisation_id,
    )


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete exports that have run out, at most FORGOTTEN_AT_ONCE_MAX; how many. The sweep then takes their files."""
    old = sa.select(Export.id).where(Export.expires_at < now).limit(FORGOTTEN_AT_ONCE_MAX)
    result = session.execute(sa.delete(Export).where(Export.id.in_(old)))
    return int(result.rowcount)  # type: ignore[attr-defined]


def kept_files(session: Session, names: Sequence[str]) -> set[str]:
    """Which of these names of the store belong to exports that are not forgotten."""
    return {name for name in session.scalars(sa.select(Export.store_name).where(Export.store_name.in_(names))) if name}

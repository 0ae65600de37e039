"""The way of a release: asked for, computed by a job, reviewed by a second person, published; and never changed then.

What a release was computed from is kept beside it, so that anybody with the code can compute it again. A correction is
another release that names the one it corrects.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec
import procrastinate
import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from points.share.estimate.exchange import Input, Options, Result
from points.share.releases.models import (
    ATTEMPTS_MAX,
    INPUT_BYTES_MAX,
    INPUT_COMPRESSED_BYTES_MAX,
    RESULT_BYTES_MAX,
    REVISION_MAX,
    ReleaseState,
    ShareInput,
    ShareRelease,
    ShareReleaseWave,
)
from points.share.survey import margins, waves
from points.share.survey.definition import current_definition, definition_of
from points.share.survey.microdata import WAVES_MAX, MarginsUnknown, WavesOfSeveralYears, WaveUnknown
from points.share.survey.models import MarginSet, SurveyWave, WaveState
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed, ReasonRequired
from server.jobs import enqueue
from server.paging import Page, decode, page_of

JOB = "share:compute"
COMPUTING_AT_ONCE_MAX = 3
# A published figure of fewer people than this would speak of single ones.
RESPONDENTS_MIN = 10

# The release that corrects another one; made once, for making it takes longer than the query.
CORRECTION = aliased(ShareRelease)
COMPUTING = (ReleaseState.QUEUED, ReleaseState.RUNNING)
ENDED = frozenset({ReleaseState.PUBLISHED, ReleaseState.DISCARDED})
UNDONE_BECAUSE = "所依据的调查批次已撤回"


class ReleaseExists(Conflict):
    """Somebody asked for a release of the same year at the same moment."""

    code, title_zh, title_en = "share-release-exists", "同一年度的估计刚被他人提交", "Another one was just asked for"
    constraints = ("share_release_year_revision_key",)


class TooManyEstimates(Conflict):
    """Estimates take a whole core for some seconds each; the next is asked for when one of these is done."""

    code, title_zh, title_en = (
        "too-many-estimates",
        "正在计算的估计过多, 请稍候",
        "Three estimates are being computed; wait for one",
    )


class YearPublished(Conflict):
    """The year has a published release: another one is a correction that names it, and says why."""

    code, title_zh, title_en = (
        "share-year-published",
        "该年度已有发布的结果, 新结果须注明更正哪一个",
        "The year has a published release; name the current one as corrected",
    )
    constraints = ("share_release_first_key", "share_release_correction_key")


class CorrectsNothing(DomainError):
    """What is corrected is the year's current published release, and nothing else."""

    code, status, title_zh, title_en = (
        "corrects-nothing",
        422,
        "所更正的不是该年度现行发布的结果",
        "Not the current published release of the year",
    )


class ReleaseStateWrong(Conflict):
    """The step does not follow from the state; `state` says where the release stands."""

    code, title_zh, title_en = "share-release-state", "当前状态不能进行此操作", "The release is not in that state"
    constraints = ("share_release_held",)


class ReviewedByAnother(Conflict):
    """Who had an estimate computed does not review it: four eyes."""

    code, title_zh, title_en = (
        "reviewed-by-another",
        "须由另一人审核",
        "Another person than the one who had it computed reviews it",
    )
    constraints = ("share_release_reviewed_by_another_check",)


class ReleaseTooSmall(Conflict):
    """A wave of it has fewer than RESPONDENTS_MIN respondents: its figure would speak of single people."""

    code, title_zh, title_en = "share-release-too-small", "应答人数不足10人, 不能发布", "Fewer than 10 people answered"


class EstimateTooLarge(DomainError):
    """The input or the result is larger than what is kept."""

    code, status, title_zh, title_en = (
        "estimate-too-large",
        422,
        "估计的数据量超出限制",
        "The data of the estimate are too large",
    )


class EstimateGaveUp(DomainError):
    """The worker died over it again and again; the service's log says why."""

    code, status, title_zh, title_en = (
        "estimate-gave-up",
        500,
        "计算多次中断, 已放弃",
        "Computing was interrupted too often",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to compute: a year's waves under a definition (None: the current one), with margins or without.

    `options` without margins: those come from the set.
    """

    year: int
    waves: Sequence[str]
    margin_set_code: str | None = None
    definition_id: str | None = None
    options: Options = field(default_factory=lambda: Options(margins=[], adjustment_cells=[]))
    corrects: UUID | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Computed:
    """What the estimator was given and what it answered."""

    content: bytes
    result: Result
    code_version: str
    platform_records: dict[str, Any]


# Asking


def request(
    session: Session,
    actor: Actor,
    wanted: Wanted,
    *,
    district_code: str,
    jobs: procrastinate.App | None,
    now: datetime,
) -> ShareRelease:
    """Ask for an estimate; with `jobs` its job is enqueued in the same transaction, else the caller computes it.

    Raises NotFound outside the actor's district, DefinitionUnknown, WaveUnknown, WavesOfSeveralYears, MarginsUnknown,
    YearPublished, CorrectsNothing, ReasonRequired, TooManyEstimates, ReleaseExists.
    """
    actor.require_cover(district_code)
    definition = _definition_id(session, wanted, on=business_day(now))
    chosen = _waves(session, wanted)
    if wanted.margin_set_code is not None and session.get(MarginSet, wanted.margin_set_code) is None:
        raise MarginsUnknown(f"There are no margins {wanted.margin_set_code!r}")
    _check_correction(session, wanted)
    running = sa.select(sa.func.count()).where(ShareRelease.state.in_(COMPUTING))
    if session.execute(running).scalar_one() >= COMPUTING_AT_ONCE_MAX:
        raise TooManyEstimates
    newest = sa.select(sa.func.coalesce(sa.func.max(ShareRelease.revision), 0)).where(ShareRelease.year == wanted.year)
    revision = session.execute(newest).scalar_one() + 1
    if revision > REVISION_MAX:
        raise TooManyEstimates
    options = msgspec.to_builtins(wanted.options)
    del options["margins"]
    release = ShareRelease(
        id=new_id(),
        year=wanted.year,
        revision=revision,
        state=ReleaseState.QUEUED,
        version=1,
        definition_id=definition,
        margin_set_code=wanted.margin_set_code,
        options=options,
        corrects=wanted.corrects,
        reason=wanted.reason.strip(),
        computed_by=actor.id,
        requested_at=now,
        attempts=0,
    )
    session.add(release)
    session.flush()
    session.add_all(
        ShareReleaseWave(release_id=release.id, wave_id=wave.id, position=position)
        for position, wave in enumerate(chosen, 1)
    )
    session.flush()
    audit.record(
        session,
        actor,
        "share.compute",
        f"share-release:{release.id}",
        now=now,
        release=release.name,
        waves=[wave.code for wave in chosen],
        margins=wanted.margin_set_code,
        corrects=None if wanted.corrects is None else str(wanted.corrects),
    )
    if jobs is not None:
        enqueue(session, jobs, JOB, release_id=str(release.id))
    return release


def _definition_id(session: Session, wanted: Wanted, *, on: date) -> str:
    if wanted.definition_id is None:
        return current_definition(session, on).id
    return definition_of(session, wanted.definition_id).id


def _waves(session: Session, wanted: Wanted) -> Sequence[SurveyWave]:
    """The waves asked for, each once and all of the year; the job checks the rest."""
    if not 1 <= len(wanted.waves) <= WAVES_MAX:
        raise WaveUnknown(f"1 to {WAVES_MAX} waves")
    found = session.scalars(
        sa.select(SurveyWave)
        .where(SurveyWave.code.in_(wanted.waves), SurveyWave.state == WaveState.ACCEPTED)
        .order_by(SurveyWave.first_on, SurveyWave.code)
    ).all()
    missing = sorted(set(wanted.waves) - {wave.code for wave in found})
    if missing:
        raise WaveUnknown(f"There is no wave {missing[0]!r}")
    other = [wave for wave in found if wave.year != wanted.year]
    if other:
        raise WavesOfSeveralYears(f"The wave {other[0].code} is of {other[0].year}")
    return found


def _check_correction(session: Session, wanted: Wanted) -> None:
    current = session.scalar(
        current_releases().with_only_columns(ShareRelease.id).where(ShareRelease.year == wanted.year)
    )
    if wanted.corrects is None:
        if current is not None:
            raise YearPublished(current=str(current))
        if wanted.reason.strip():
            raise CorrectsNothing("A reason is of a correction, and none is named")
        return
    if current is None or wanted.corrects != current:
        raise CorrectsNothing
    if not wanted.reason.strip():
        raise ReasonRequired


# Computing: steps of a job, each in a transaction of its own


def begin(session: Session, release_id: UUID, *, now: datetime) -> ShareRelease | None:
    """Take a release to compute it; None when there is nothing to do any more.

    A run whose worker died leaves `running`; the next begins anew under the next number, so that the old one, should
    it still live, cannot finish what is no longer its own.
    """
    return session.scalar(
        sa.update(ShareRelease)
        .where(ShareRelease.id == release_id, ShareRelease.state.in_(COMPUTING), ShareRelease.attempts < ATTEMPTS_MAX)
        .values(state=ReleaseState.RUNNING, attempts=ShareRelease.attempts + 1, started_at=now)
        .returning(ShareRelease)
        .execution_options(populate_existing=True)
    )


def wave_codes(session: Session, release_id: UUID) -> list[str]:
    """The codes of a release's waves, in their order."""
    return list(
        session.scalars(
            sa.select(SurveyWave.code)
            .join(ShareReleaseWave, ShareReleaseWave.wave_id == SurveyWave.id)
            .where(ShareReleaseWave.release_id == release_id)
            .order_by(ShareReleaseWave.position)
        )
    )


def options_of(release: ShareRelease) -> Options:
    """The options that a release was asked for with; its margins are not among them."""
    return msgspec.convert({**release.options, "margins": []}, Options)


def canonical(value: Input | Result) -> bytes:
    """The one JSON text of an input or a result, which hashes are of."""
    return msgspec.json.encode(value, order="deterministic")


def finish(session: Session, release_id: UUID, computed: Computed, *, attempt: int, now: datetime) -> bool:
    """Make a computed release a draft; False when it was given up or taken over meanwhile.

    Raises EstimateTooLarge.
    """
    result = canonical(computed.result)
    # What is read back is what was hashed: a value that JSON cannot hold is found here and not by a reader.
    msgspec.json.decode(result, type=Result)
    content = zlib.compress(computed.content, 6)
    if (
        len(result) > RESULT_BYTES_MAX
        or len(computed.content) > INPUT_BYTES_MAX
        or len(content) > INPUT_COMPRESSED_BYTES_MAX
    ):
        raise EstimateTooLarge
    done = session.scalar(
        _mine(release_id, attempt)
        .values(
            state=ReleaseState.DRAFT,
            version=ShareRelease.version + 1,
            computed_at=now,
            input_sha256=hashlib.sha256(computed.content).digest(),
            input_size_bytes=len(computed.content),
            code_version=computed.code_version,
            result=result,
            result_sha256=hashlib.sha256(result).digest(),
            platform_records=computed.platform_records,
        )
        .returning(ShareRelease.id)
    )
    if done is None:
        return False
    session.add(ShareInput(release_id=release_id, content=content))
    session.flush()
    return True


def fail(session: Session, release_id: UUID, *, problem: str, detail: str | None, now: datetime) -> bool:
    """End a release that cannot be computed; `problem` is an error's code. False when it is over already."""
    failed = session.scalar(
        sa.update(ShareRelease)
        .where(ShareRelease.id == release_id, ShareRelease.state.in_(COMPUTING))
        .values(
            state=ReleaseState.FAILED,
            version=ShareRelease.version + 1,
            problem=problem,
            problem_detail=(detail or "")[:500] or None,
        )
        .returning(ShareRelease.id)
    )
    if failed is not None:
        audit.record(session, None, "share.compute-failed", f"share-release:{release_id}", now=now, problem=problem)
    return failed is not None


def lost(session: Session, *, before: datetime) -> list[UUID]:
    """Releases whose job seems lost: queued or running since before an instant."""
    since = sa.func.coalesce(ShareRelease.started_at, ShareRelease.requested_at)
    return list(
        session.scalars(
            sa.select(ShareRelease.id)
            .where(ShareRelease.state.in_(COMPUTING), since < before)
            .order_by(ShareRelease.id)
            .limit(COMPUTING_AT_ONCE_MAX)
        )
    )


def _mine(release_id: UUID, attempt: int) -> sa.Update:
    return sa.update(ShareRelease).where(
        ShareRelease.id == release_id, ShareRelease.state == ReleaseState.RUNNING, ShareRelease.attempts == attempt
    )


# Deciding


def review(
    session: Session,
    actor: Actor,
    release_id: UUID,
    *,
    remark: str,
    district_code: str,
    version: int,
    now: datetime,
) -> ShareRelease:
    """Say that a draft was checked and how; not by the one who had it computed.

    Raises NotFound, ReviewedByAnother, ReleaseStateWrong, PreconditionFailed, ReasonRequired.
    """
    found = release_for(session, actor, release_id, district_code=district_code)
    if not remark.strip():
        raise ReasonRequired
    if found.computed_by == actor.id:
        raise ReviewedByAnother
    reviewed = _move(
        session,
        release_id,
        {ReleaseState.DRAFT},
        version,
        state=ReleaseState.REVIEWED,
        reviewed_by=actor.id,
        reviewed_at=now,
        remark=remark.strip(),
    )
    audit.record(session, actor, "share.review", f"share-release:{release_id}", now=now, release=reviewed.name)
    return reviewed


def publish(
    session: Session, actor: Actor, release_id: UUID, *, district_code: str, version: int, now: datetime
) -> ShareRelease:
    """Publish a reviewed release; from then on neither it nor the waves and margins under it change.

    Raises NotFound, ReleaseStateWrong, PreconditionFailed, ReleaseTooSmall, WaveUndone, YearPublished.
    """
    found = release_for(session, actor, release_id, district_code=district_code)
    if found.state is not ReleaseState.REVIEWED:
        raise ReleaseStateWrong(state=found.state.value)
    result = result_of(found)
    if any(wave.weighting.responded < RESPONDENTS_MIN for wave in result.waves):
        raise ReleaseTooSmall
    waves.lock(session, _wave_ids(session, release_id))
    if found.margin_set_code is not None:
        margins.lock(session, found.margin_set_code)
    published = _move(
        session,
        release_id,
        {ReleaseState.REVIEWED},
        version,
        state=ReleaseState.PUBLISHED,
        published_by=actor.id,
        published_at=now,
    )
    audit.record(
        session,
        actor,
        "share.publish",
        f"share-release:{release_id}",
        now=now,
        release=published.name,
        result_sha256=(published.result_sha256 or b"").hex(),
        corrects=None if published.corrects is None else str(published.corrects),
    )
    return published


def discard(
    session: Session,
    actor: Actor,
    release_id: UUID,
    *,
    reason: str,
    district_code: str,
    version: int,
    now: datetime,
) -> ShareRelease:
    """Give up a release that is not published. The rows about people that it was computed from go at once.

    Raises NotFound, ReleaseStateWrong, PreconditionFailed, ReasonRequired.
    """
    release_for(session, actor, release_id, district_code=district_code)
    if not reason.strip():
        raise ReasonRequired
    discarded = _move(
        session,
        release_id,
        set(ReleaseState) - ENDED,
        version,
        state=ReleaseState.DISCARDED,
        discarded_by=actor.id,
        discarded_at=now,
        discarded_because=reason.strip(),
    )
    session.execute(sa.delete(ShareInput).where(ShareInput.release_id == release_id))
    audit.record(
        session,
        actor,
        "share.discard",
        f"share-release:{release_id}",
        now=now,
        release=discarded.name,
        reason=reason.strip(),
    )
    return discarded


def discard_undone(session: Session, *, now: datetime) -> list[UUID]:
    """Give up what rests on a wave that was undone since: its people's rows must not live on in a draft's input."""
    undone = (
        sa.select(ShareReleaseWave.release_id)
        .join(SurveyWave, SurveyWave.id == ShareReleaseWave.wave_id)
        .where(SurveyWave.state == WaveState.UNDONE)
    )
    discarded = session.scalars(
        sa.update(ShareRelease)
        .where(ShareRelease.id.in_(undone), ShareRelease.state.not_in(ENDED))
        .values(
            state=ReleaseState.DISCARDED,
            version=ShareRelease.version + 1,
            discarded_at=now,
            discarded_because=UNDONE_BECAUSE,
        )
        .returning(ShareRelease.id)
        .execution_options(synchronize_session=False)
    ).all()
    session.execute(sa.delete(ShareInput).where(ShareInput.release_id.in_(discarded)))
    for release_id in discarded:
        audit.record(session, None, "share.discard", f"share-release:{release_id}", now=now, reason=UNDONE_BECAUSE)
    return list(discarded)


def _move(session: Session, release_id: UUID, only_in: set[ReleaseState], version: int, **values: Any) -> ShareRelease:
    """Change a release's row if it is in one of these states at `version`, and say why not otherwise."""
    moved = session.scalar(
        sa.update(ShareRelease)
        .where(ShareRelease.id == release_id, ShareRelease.state.in_(only_in), ShareRelease.version == version)
        .values(**values, version=version + 1)
        .returning(ShareRelease)
        .execution_options(populate_existing=True)
    )
    if moved is not None:
        return moved
    state = session.scalar(sa.select(ShareRelease.state).where(ShareRelease.id == release_id))
    if state is None:
        raise NotFound
    if state not in only_in:
        raise ReleaseStateWrong(state=state.value)
    raise PreconditionFailed


def _wave_ids(session: Session, release_id: UUID) -> list[UUID]:
    return list(session.scalars(sa.select(ShareReleaseWave.wave_id).where(ShareReleaseWave.release_id == release_id)))


# Reading


def release_for(session: Session, actor: Actor, release_id: UUID, *, district_code: str) -> ShareRelease:
    """A release in whatever state, for those who make them. Raises NotFound outside the actor's district."""
    actor.require_cover(district_code)
    found = session.get(ShareRelease, release_id, populate_existing=True)
    if found is None:
        raise NotFound
    return found


def list_drafts(
    session: Session,
    actor: Actor,
    *,
    district_code: str,
    year: int | None,
    state: ReleaseState | None,
    limit: int,
    cursor: str | None,
) -> Page[ShareRelease]:
    """Releases that are not published, newest first. Raises NotFound outside the district, BadCursor."""
    actor.require_cover(district_code)
    wanted = (
        sa.select(ShareRelease)
        .where(ShareRelease.state != ReleaseState.PUBLISHED)
        .order_by(ShareRelease.id.desc())
        .limit(limit + 1)
    )
    if year is not None:
        wanted = wanted.where(ShareRelease.year == year)
    if state is not None:
        wanted = wanted.where(ShareRelease.state == state)
    if cursor is not None:
        wanted = wanted.where(ShareRelease.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def release_named(session: Session, name: str) -> ShareRelease:
    """A release by what people call it, such as 2025-1, or by its id. Raises NotFound."""
    year, _, revision = name.partition("-")
    if len(name) <= 9 and year.isascii() and year.isdigit() and revision.isascii() and revision.isdigit():
        wanted = sa.select(ShareRelease).where(ShareRelease.year == int(year), ShareRelease.revision == int(revision))
    else:
        try:
            wanted = sa.select(ShareRelease).where(ShareRelease.id == UUID(name))
        except ValueError:
            raise NotFound from None
    found = session.scalar(wanted.execution_options(populate_existing=True))
    if found is None:
        raise NotFound(f"There is no release {name}")
    return found


def current_releases() -> sa.Select[ShareRelease]:
    """The published release of each year that no other published one corrects."""
    return sa.select(ShareRelease).where(
        ShareRelease.state == ReleaseState.PUBLISHED,
        ~sa.exists().where(CORRECTION.corrects == ShareRelease.id, CORRECTION.state == ReleaseState.PUBLISHED),
    )


def result_of(release: ShareRelease) -> Result:
    """What the estimator answered. Raises ReleaseStateWrong while there is nothing."""
    if release.result is None:
        raise ReleaseStateWrong(state=release.state.value)
    return msgspec.json.decode(release.result, type=Result)


def input_of(session: Session, release: ShareRelease) -> bytes:
    """The bytes that a release was computed from. Raises ReleaseStateWrong where they are not kept."""
    content = session.scalar(sa.select(ShareInput.content).where(ShareInput.release_id == release.id))
    if content is None:
        raise ReleaseStateWrong(state=release.state.value)
    unpacked = zlib.decompressobj()
    found = unpacked.decompress(content, INPUT_BYTES_MAX)
    if not unpacked.eof:
        raise EstimateTooLarge
    return found

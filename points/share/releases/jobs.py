"""Computing releases: one job for one, and the clock that looks after those whose job or wave is gone."""

from datetime import timedelta
from uuid import UUID

import procrastinate
import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from points.share.estimate import process
from points.share.releases import releases
from points.share.releases.goal import read_goal
from points.share.releases.models import ShareRelease
from points.share.releases.platform_records import platform_records
from points.share.releases.releases import JOB, Computed, EstimateGaveUp
from points.share.releases.reproduction import code_version
from points.share.survey import margins
from points.share.survey.microdata import estimate_input
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.errors import DomainError, InternalError
from server.jobs import enqueue
from server.settings import settings

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# Longer than an estimate may take, so that none is computed twice at a time.
LOST_AFTER = timedelta(seconds=2 * process.SECONDS_MAX)


@tasks.task(name="compute", lock="share-compute", pass_context=False)
def compute_release(release_id: str) -> None:
    """Compute one release. Run again after its worker died, it begins anew; discarded meanwhile, it leaves nothing."""
    compute(UUID(release_id))


@tasks.periodic(cron="*/10 * * * *")
@tasks.task(name="look_after", queueing_lock="look-after-shares", pass_context=False)
def look_after(timestamp: int) -> None:
    """Queue again what has been computed for longer than anything takes, and give up what lost its wave.

    A job too many finds nothing to do.
    """
    undone = run_transaction(lambda session: releases.discard_undone(session, now=now()))
    if undone:
        log.info("share_releases_discarded", releases=len(undone), scheduled_at=timestamp)
    jobs = current_app.extensions["tanpuhui_jobs"]

    def queue(session: Session) -> int:
        found = releases.lost(session, before=now() - LOST_AFTER)
        for release_id in found:
            enqueue(session, jobs, JOB, release_id=str(release_id))
        return len(found)

    found = run_transaction(queue)
    if found:
        log.warning("share_releases_found_lost", releases=found, scheduled_at=timestamp)


def compute(release_id: UUID) -> None:
    """Compute a release that was asked for; what goes wrong stands with the release afterwards."""
    release = run_transaction(lambda session: releases.begin(session, release_id, now=now()))
    if release is None:
        # Over already; or every attempt died, which is then told.
        _fail(release_id, EstimateGaveUp.code, None)
        return
    try:
        computed = _computed(release)
        done = run_transaction(
            lambda session: releases.finish(session, release_id, computed, attempt=release.attempts, now=now())
        )
    except DomainError as refusal:
        reason = refusal.extra.get("reason")
        _fail(release_id, refusal.code, ": ".join(str(each) for each in (reason, refusal.detail) if each) or None)
        log.info("share_release_refused", release_id=str(release_id), problem=refusal.code, reason=reason)
    except Exception:
        _fail(release_id, InternalError.code, None)
        raise  # the failed job stays for a person to look at
    else:
        log.info("share_release_computed", release_id=str(release_id), kept=done, input_bytes=len(computed.content))


def _computed(release: ShareRelease) -> Computed:
    """Read what enters, then compute outside any transaction: it takes seconds, and no connection waits for it."""
    line = read_goal(settings().district_folder)
    with transaction() as session:
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        if release.margin_set_code is not None:
            # What is read here must not change before it is published.
            margins.lock(session, release.margin_set_code)
        given = estimate_input(
            session,
            releases.wave_codes(session, release.id),
            definition_id=release.definition_id,
            margin_set_code=release.margin_set_code,
            options=releases.options_of(release),
        )
        beside = platform_records(
            session, district_code=line.district_code, year=release.year, today=business_day(now())
        )
    content = releases.canonical(given)
    return Computed(content, process.run(content), code_version(), beside)


def _fail(release_id: UUID, problem: str, detail: str | None) -> None:
    run_transaction(lambda session: releases.fail(session, release_id, problem=problem, detail=detail, now=now()))

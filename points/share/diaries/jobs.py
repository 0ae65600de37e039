"""By day, every hour: invitations and reminders go out, rounds whose day has come are closed, old rows are deleted."""

from functools import partial
from uuid import UUID

import procrastinate
import structlog

from points.share.diaries import closing, telling
from points.share.survey.microdata import WaveCodeTaken
from points.share.survey.models import SurveyWave
from server.clock import now
from server.database import run_transaction, transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# × TOLD_AT_ONCE_MAX people: more than all rounds of a district draw.
PORTIONS_MAX = 200


@tasks.periodic(cron="5 0-12 * * *")  # 08:05 to 20:05 Asia/Shanghai: nobody is told anything at night
@tasks.task(name="diaries_hourly", queueing_lock="diaries-hourly", lock="diaries-hourly", pass_context=False)
def diaries_hourly(timestamp: int) -> None:
    """Do what the hour brings. Twice in an hour changes nothing more."""
    run_due(scheduled_at=timestamp)


@tasks.task(name="tell_invited", pass_context=False)
def tell_invited() -> None:
    """Tell everybody of a round just opened; the hourly job tells whoever is left."""
    log.info("diary_invitations_told", people=_portions("told"))


def run_due(*, scheduled_at: int) -> dict[str, int]:
    """Everything that is due, in transactions of its own; how many people were told, reminded, and so on."""
    done = {"told": _portions("told"), "reminded": _portions("reminded"), "closed": len(close_due())}
    done["forgotten"] = run_transaction(lambda session: closing.forget(session, now=now()))
    log.info("diaries_hourly", scheduled_at=scheduled_at, **done)
    return done


def close_due() -> list[SurveyWave]:
    """Close the rounds whose day has come, one transaction each; their waves."""
    with transaction() as session:
        due = closing.rounds_to_close(session, now=now())
    return [wave for round_id in due if (wave := _close(round_id)) is not None]


def _close(round_id: UUID) -> SurveyWave | None:
    try:
        return run_transaction(lambda session: closing.close(session, round_id, now=now()))
    except WaveCodeTaken:
        # Imported under the round's code meanwhile. An operator undoes that wave; the other rounds do not wait for it.
        log.error("diary_round_not_closed", round_id=str(round_id), because=WaveCodeTaken.code)
        return None


def _portions(what: str) -> int:
    work = {"told": telling.tell_invited, "reminded": telling.remind}[what]
    people = 0
    for _ in range(PORTIONS_MAX):
        portion = run_transaction(partial(work, now=now()))
        people += portion
        if not portion:
            break
    return people

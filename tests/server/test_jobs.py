"""Background jobs: enqueued with the change that asks for them, or not at all."""

import procrastinate
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from server import jobs


def waiting(session: Session) -> int:
    return int(session.scalar(sa.text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")) or 0)


def test_a_job_is_there_when_its_transaction_commits_and_gone_when_it_does_not(app: Flask, session: Session) -> None:
    queue: procrastinate.App = app.extensions["tanpuhui_jobs"]
    before = waiting(session)

    with session.begin_nested() as given_up:
        jobs.enqueue(session, queue, "ledger:expire_lots", timestamp=0)
        assert waiting(session) == before + 1
        given_up.rollback()
    assert waiting(session) == before

    jobs.enqueue(session, queue, "ledger:expire_lots", timestamp=0)
    session.commit()
    assert waiting(session) == before + 1


def test_every_job_is_registered_once_however_many_applications_a_process_makes(app: Flask) -> None:
    # The library's own task is left out: it is shared, and renamed each time.
    names = {name for name in app.extensions["tanpuhui_jobs"].tasks if "procrastinate." not in name}
    assert {"campaigns:close_ended_campaigns", "earning:check_counts", "ledger:expire_lots"} <= names
    assert not [name for name in names if name.count(":") != 1]

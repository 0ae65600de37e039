"""Background jobs: enqueued with the change that asks for them, or not at all."""

from collections.abc import Callable
from dataclasses import replace

import procrastinate
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from server import jobs
from server.database import db, run_transaction
from server.settings import Settings
from wsgi import create_app


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
    assert {"campaigns:advance_campaigns", "earning:check_counts", "ledger:expire_lots"} <= names
    assert not [name for name in names if name.count(":") != 1]


def test_a_running_job_can_enqueue_another_in_its_own_transaction(
    base_settings: Settings, make_database: Callable[[], str]
) -> None:
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    queue: procrastinate.App = app.extensions["tanpuhui_jobs"]
    made: list[str] = []

    @queue.task(name="test:second")
    def second(said: str) -> None:
        made.append(said)

    @queue.task(name="test:first")
    def first(said: str) -> None:
        with app.app_context():
            run_transaction(lambda session: jobs.enqueue(session, queue, "test:second", said=said))

    with app.app_context():
        run_transaction(lambda session: jobs.enqueue(session, queue, "test:first", said="handed on"))
    for _ in range(2):  # a worker that does not wait leaves what was enqueued meanwhile to the next
        queue.run_worker(wait=False, install_signal_handlers=False, listen_notify=False)
    with app.app_context():
        db.engine.dispose()

    assert made == ["handed on"]


@pytest.mark.parametrize(
    ("rounds", "full_round", "total", "left"),
    [
        ([2, 3, 0, 9], 1, 5, [9]),  # a round that finds nothing is the last
        ([5, 5, 4, 9], 5, 14, [9]),  # so is one that is not full
        ([5, 5, 5, 5], 1, 15, [5]),  # and however much is left, three rounds are enough
    ],
)
def test_a_job_works_in_rounds_until_one_is_not_full(
    app: Flask, rounds: list[int], full_round: int, total: int, left: list[int]
) -> None:
    with app.app_context():
        assert jobs.run_rounds(lambda _: rounds.pop(0), rounds_max=3, full_round=full_round) == total
    assert rounds == left


def test_each_round_is_a_transaction_of_its_own(app: Flask) -> None:
    transactions: list[object] = []

    def work(session: Session) -> int:
        transactions.append(session.scalar(sa.text("SELECT pg_current_xact_id()::text")))
        return 1

    with app.app_context():
        jobs.run_rounds(work, rounds_max=3)
    assert len(set(transactions)) == 3

"""`python -m bench.replay_kit`: the long form, 10,000 honest residents for 30 days, and its table.

`--short` is the form of the tests; `--write FILE` puts the table between the marks of a Markdown file.
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flask_migrate import upgrade

from bench.figures import write_part
from bench.replay_kit import course, table
from bench.replay_kit.course import Plan
from bench.running import end_tidily_when_terminated
from bench.stage import load_district
from points.review import editions
from server.database import db, transaction
from server.embedded import throwaway_postgres, throwaway_valkey
from server.settings import PLACES_DATA, Settings
from wsgi import create_app

SEED = 20261123
LONG = Plan(seed=SEED, residents=10_000, days=30, accounts=50, attack_from=10)
SHORT = Plan(seed=SEED, residents=240, days=6, accounts=24, attack_from=4, look_hours=(12.5, 20.0, 24.0))


@contextmanager
def stage() -> Iterator[Settings]:
    """An application's context on servers, a schema and the district's data of its own; all gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, throwaway_postgres({}) as postgres, throwaway_valkey() as valkey:
        url = postgres.url_of("postgres")
        settings = replace(
            Settings.for_description(),
            database_url=url,
            database_owner_url=url,
            redis_url=valkey.url,
            data_key=secrets.token_bytes(32),
            data_folder=Path(folder),
            district_folder=PLACES_DATA / "nankai",
            files_url=(Path(folder) / "files").as_uri(),
            database_pool_size=4,
            log_level="ERROR",
            rate_limits=False,
        )
        app = create_app(settings)
        with app.app_context():
            upgrade()
            with transaction() as session:
                load_district(session, settings.district_folder)
                editions.load(session, editions.read_folder(settings.district_folder))
            yield settings
            app.extensions["tanpuhui_wechat"].close()
            db.session.remove()
            db.engine.dispose()


def run(plan: Plan) -> tuple[table.Result, list[str]]:
    """Prepare, drive and read; the result and the table's lines."""
    with stage() as settings:
        session = db.session()
        data_key, folder = settings.data_key, settings.district_folder
        began = time.monotonic()
        made = course.prepare(session, plan, data_key=data_key)
        session.commit()

        def after_day(number: int) -> None:
            session.commit()
            # Held claims and new findings read by the kept counts: the planner should know the tables by now.
            if number in {0, 2, 8}:
                session.connection().exec_driver_sql("ANALYZE")
                session.commit()
            print(f"day {number + 1}/{plan.days}, {time.monotonic() - began:.0f} s", file=sys.stderr)

        course.drive(session, made, data_key=data_key, folder=folder, after_day=after_day)
        result = table.read(session, made)
        spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in made.seconds.items())
        return result, [*table.lines(result, made), "", f"用时 took {time.monotonic() - began:.0f} s ({spent})"]


def main() -> None:
    """Run, print, write, and fail when something does not hold."""
    end_tidily_when_terminated()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--residents", type=int, default=None)
    parser.add_argument("--days", type=int, default=None)
    parser.add_argument("--write", type=Path, default=None)
    given = parser.parse_args()
    plan = SHORT if given.short else LONG
    plan = replace(plan, residents=given.residents or plan.residents, days=given.days or plan.days)
    result, lines = run(plan)
    print("\n".join(lines))
    if given.write is not None:
        write_part(given.write, "replay kit", lines)
    if result.fails:
        sys.exit("\n".join(result.fails))


if __name__ == "__main__":
    main()

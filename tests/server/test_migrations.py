"""The schema: what the migrations build is what the models say, and a district in use comes up with its data."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from flask_migrate import upgrade
from sqlalchemy.engine import Connection

from campaigns.drives.moves import advance
from points.statistics.jobs import count_everything_due
from points.statistics.marks import FIRST_DAY
from server.clock import SHANGHAI, business_day, now
from server.database import APPLICATION_ROLE, Base, db, new_id, psycopg_url, run_transaction
from server.embedded import EmbeddedPostgres
from server.migrations.ours import is_ours
from server.settings import Settings
from wsgi import create_app

# The release that districts run: its schema holds data when the newer migrations come.
PREVIOUS_RELEASE = "0007"
COMMUNITY = "120104001001"


@pytest.fixture
def make_empty(postgres: EmbeddedPostgres) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and gives its URL."""
    made: list[str] = []

    def make() -> str:
        name = f"empty_{new_id().hex}"
        with owned(postgres.url_of("postgres")) as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        made.append(name)
        return postgres.url_of(name)

    yield make
    with owned(postgres.url_of("postgres")) as connection:
        for name in made:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def migrate(settings: Settings, url: str, revision: str = "head") -> None:
    """Bring a database to a revision, as an operator does."""
    app = create_app(replace(settings, database_url=url, database_owner_url=url))
    with app.app_context():
        upgrade(revision=revision)
        db.session.remove()
        db.engine.dispose()


def tick(settings: Settings, url: str) -> None:
    """Let the jobs that move campaigns by the calendar and count activity run once."""
    app = create_app(replace(settings, database_url=url, database_owner_url=url))
    with app.app_context():
        run_transaction(lambda session: advance(session, now=now()))
        count_everything_due(FIRST_DAY)
        db.engine.dispose()


def owned(url: str) -> Connection:
    """A connection as the owner."""
    return sa.create_engine(psycopg_url(url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()


def constraints_of(connection: Connection) -> dict[tuple[str, str], str]:
    """Every constraint by table and name: its definition as PostgreSQL prints it."""
    rows = connection.execute(
        sa.text(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND contype <> 'n'"
        )
    )
    return {(table, name): f"{text} {valid}" for table, name, text, valid in rows if is_ours(table)}


def indexes_of(connection: Connection) -> dict[str, str]:
    rows = connection.execute(
        sa.text("SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    )
    return {name: text for table, name, text in rows if is_ours(table)}


def test_what_the_migrations_build_is_what_the_models_say(
    postgres: EmbeddedPostgres, template: str, make_empty: Callable[[], str]
) -> None:
    modelled = make_empty()
    with owned(modelled) as by_models, owned(postgres.url_of(template)) as by_migrations:
        by_models.execute(sa.text("CREATE EXTENSION IF NOT EXISTS btree_gist"))
        Base.metadata.create_all(by_models)

        # alembic sees tables, columns, types and defaults; CHECKs and exclusions it does not compare.
        context = MigrationContext.configure(
            by_migrations,
            opts={
                "compare_server_default": True,
                "include_name": lambda name, kind, _parents: kind != "table" or is_ours(name),
            },
        )
        assert compare_metadata(context, Base.metadata) == []
        assert constraints_of(by_migrations) == constraints_of(by_models)
        assert indexes_of(by_migrations) == indexes_of(by_models)


def test_the_service_may_use_every_table_and_change_no_journal(postgres: EmbeddedPostgres, template: str) -> None:
    with owned(postgres.url_of(template)) as connection:
        rights = {
            table: tuple(
                connection.scalar(
                    # Of a stored file some columns may change: a right on any of them counts.
                    sa.text(f"SELECT has_{kind}_privilege(:role, :table, :right)"),
                    {"role": APPLICATION_ROLE, "table": table, "right": right},
                )
                for kind, right in (
                    ("any_column", "SELECT"),
                    ("any_column", "INSERT"),
                    ("any_column", "UPDATE"),
                    ("table", "DELETE"),
                )
            )
            for table in Base.metadata.tables
        }
        guarded = set(
            connection.scalars(
                sa.text(
                    "SELECT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid "
                    "WHERE p.proname = 'refuse_change' AND NOT tgisinternal"
                )
            )
        )

    journals = {table for table, (_, _, may_update, _) in rights.items() if not may_update}
    assert {table: rights[table][:2] for table in rights} == dict.fromkeys(rights, (True, True))
    assert not [table for table in journals if rights[table][3]], "what cannot be changed cannot be deleted either"
    # What the role may not change, the owner's own mistakes cannot either.
    assert journals <= guarded
    assert {"transfer", "lot_draw", "audit_entry"} <= journals


CAMPAIGNS = ("draft", "published", "running", "closed", "cancelled")


def seed_previous_release(connection: Connection) -> dict[str, Any]:
    """A small district as the previous release leaves it, in its own statements; what must be found again."""
    staff, resident, school, today = new_id(), new_id(), new_id(), business_day(now())
    connection.execute(
        sa.text(
            "INSERT INTO division (code, level, name, parent_code, edition_on, valid_from) VALUES "
            "('120104', 'district', '南开区', NULL, '2023-06-30', '2020-01-01'), "
            "('120104001', 'street', '长虹街道', '120104', '2023-06-30', '2020-01-01'), "
            f"('{COMMUNITY}', 'community', '第一社区', '120104001', '2023-06-30', '2020-01-01')"
        )
    )
    connection.execute(
        sa.text(
            "INSERT INTO organisation (id, kind, name, community_code, valid_from) "
            "VALUES (:school, 'school', '某小学', :community, '2024-01-01')"
        ),
        {"school": school, "community": COMMUNITY},
    )
    connection.execute(
        sa.text(
            "INSERT INTO staff (id, name, password_hash, role, division, organisation_id, created_at) VALUES "
            "(:staff, '社区一号', 'x', 'community-staff', :community, NULL, now()), "
            "(:teacher, '老师', 'x', 'school-staff', NULL, :school, now())"
        ),
        {"staff": staff, "teacher": new_id(), "community": COMMUNITY, "school": school},
    )
    connection.execute(
        sa.text(
            "INSERT INTO resident (resident_id, community_code, born_in, created_at) "
            "VALUES (:id, :community, 1990, now())"
        ),
        {"id": resident, "community": COMMUNITY},
    )
    campaigns = {state: seed_campaign(connection, state, staff, today) for state in CAMPAIGNS}
    connection.execute(
        sa.text(
            "INSERT INTO participation (resident_id, campaign_id, community_code, joined_at) "
            "VALUES (:resident, :campaign, :community, now())"
        ),
        {"resident": resident, "campaign": campaigns["running"], "community": COMMUNITY},
    )
    seed_walk(connection, resident, today - timedelta(days=1))
    return {"campaigns": campaigns, "resident": resident, "walked_on": today - timedelta(days=1)}


def seed_campaign(connection: Connection, state: str, staff: UUID, today: date) -> UUID:
    """A campaign of a week with one task; the published one was to begin yesterday."""
    campaign = new_id()
    connection.execute(
        sa.text(
            "INSERT INTO campaign (id, title, division, starts_on, ends_on, state, terms_version, created_by, "
            "created_at, published_at, closed_at) VALUES (:id, '绿色出行周', :community, :starts_on, :ends_on, :state, "
            ":terms, :staff, :at, :published_at, :closed_at)"
        ),
        {
            "id": campaign,
            "state": state,
            "community": COMMUNITY,
            "starts_on": today - timedelta(days=1),
            "ends_on": today + timedelta(days=6),
            "terms": 0 if state == "draft" else 1,
            "staff": staff,
            "at": now(),
            "published_at": None if state == "draft" else now(),
            "closed_at": now() if state == "closed" else None,
        },
    )
    connection.execute(
        sa.text(
            "INSERT INTO campaign_task (campaign_id, id, position, kind, subject, title, behaviours, measure, target) "
            "VALUES (:campaign, :id, 1, 'behaviour', 'person', '步行', ARRAY['walk'], 'distance_m', 5000)"
        ),
        {"campaign": campaign, "id": new_id()},
    )
    return campaign


def seed_walk(connection: Connection, resident: UUID, day: date) -> None:
    """A walk of 1.8 km for nothing, in the journal and in both counts, as awarding writes it."""
    connection.execute(
        sa.text(
            "INSERT INTO activity (resident_id, id, behaviour, mode, grade, source, external_id, started_at, ended_at, "
            "received_at, business_day, community_code, distance_m, outcome) VALUES (:resident, :id, 'walk', 'walk', "
            "'self-declared', 'self', 'walk-1', :at, :at + interval '20 minutes', :at + interval '1 hour', :day, "
            ":community, 1800, 'awarded')"
        ),
        {
            "resident": resident,
            "id": new_id(),
            "at": datetime(day.year, day.month, day.day, 8, tzinfo=SHANGHAI),
            "day": day,
            "community": COMMUNITY,
        },
    )
    for table, key in (("resident_day", "resident_id"), ("community_day", "mode")):
        connection.execute(
            sa.text(
                f"INSERT INTO {table} (community_code, day, behaviour, {key}, activities, distance_m, weight_g, "
                "saved_co2e_mg, points) VALUES (:community, :day, 'walk', :key, 1, 1800, 0, 0, 0)"
            ),
            {"community": COMMUNITY, "day": day, "key": resident if key == "resident_id" else "walk"},
        )


def looked_at(url: str, known: dict[str, Any]) -> tuple[dict[str, str], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The campaigns' states, their tasks, and what is counted of the month of the walk."""
    with owned(url) as connection:
        states = dict(connection.execute(sa.text("SELECT id, state FROM campaign")).all())
        tasks = connection.execute(sa.text("SELECT kind, behaviours, measure, target FROM campaign_task")).all()
        counted = connection.execute(
            sa.text(
                "SELECT place_code, activities, residents, distance_m, points FROM activity_period "
                "WHERE grain = 'month' AND starts_on = :month AND behaviour = 'walk' AND mode = '' "
                "ORDER BY length(place_code)"
            ),
            {"month": known["walked_on"].replace(day=1)},
        ).all()
    by_state = {state: states[campaign] for state, campaign in known["campaigns"].items()}
    return by_state, [tuple(row) for row in tasks], [tuple(row) for row in counted]


STATES = {**{state: state for state in CAMPAIGNS}, "published": "running"}
TASKS = [("behaviour", ["walk"], "distance_m", 5000)] * len(CAMPAIGNS)
COUNTED = [(place, 1, 1, 1800, 0) for place in ("120104", "120104001", COMMUNITY)]


def test_a_district_of_the_previous_release_comes_up_with_its_data(
    base_settings: Settings, make_empty: Callable[[], str]
) -> None:
    url = make_empty()
    migrate(base_settings, url, PREVIOUS_RELEASE)
    with owned(url) as connection:
        known = seed_previous_release(connection)
    migrate(base_settings, url)
    tick(base_settings, url)

    # What happened before anybody counted is counted now.
    assert looked_at(url, known) == (STATES, TASKS, COUNTED)


def test_the_previous_release_goes_on_writing_during_the_upgrade(
    base_settings: Settings, make_empty: Callable[[], str]
) -> None:
    url = make_empty()
    migrate(base_settings, url)
    with owned(url) as connection:
        # Every statement here is one that the previous release makes; a schema that only widens takes them all.
        known = seed_previous_release(connection)
        opened = connection.execute(
            sa.text(
                "UPDATE campaign SET state = 'published', published_at = now(), terms_version = 1 "
                "WHERE id = :id RETURNING state"
            ),
            {"id": known["campaigns"]["draft"]},
        ).scalar_one()
    assert opened == "published"
    tick(base_settings, url)

    assert looked_at(url, known) == ({**STATES, "draft": "running"}, TASKS, COUNTED)


def test_every_migration_names_the_one_before_it_and_goes_forward_only(project: Any) -> None:
    files = sorted((project / "server" / "migrations" / "versions").glob("[0-9]*.py"))
    numbers = []
    for file in files:
        text = file.read_text("utf-8")
        revision = re.search(r'^revision = "(\d{4})"$', text, re.MULTILINE)
        before = re.search(r'^down_revision = (?:"(\d{4})"|None)$', text, re.MULTILINE)
        assert revision is not None, file.name
        assert before is not None, file.name
        assert file.name.startswith(revision[1])
        numbers.append((before[1], revision[1]))
    assert [before for before, _ in numbers] == [None, *(number for _, number in numbers[:-1])]
    assert [number for _, number in numbers] == [f"{count:04}" for count in range(1, len(files) + 1)]

"""Standings: totals and means with shared ranks, residents only as they agreed, kept tables that do not grow old."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from campaign_builders import (
    COMMUNITY,
    Headers,
    agrees_to_appear,
    id_of,
    joined,
    published,
    refused,
    task,
    tasks_at,
    walked,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from campaigns.drives.models import Participation, Team
from campaigns.drives.terms import tasks_of
from campaigns.tasks import jobs, standings
from campaigns.tasks.models import Standing, StandingRun
from points.earning import counts
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade, ResidentDay
from server.access import Role
from server.clock import business_day, now
from server.database import new_id
from server.people.models import Resident

SignIn = Callable[..., Headers]

TEAMS = {"team_kind": "class", "team_size_min": 2, "team_size_max": 500}


@pytest.fixture
def staff(clock: Any, sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def path(client: FlaskClient, staff: Headers) -> str:
    return published(client, staff, **TEAMS)


@pytest.fixture
def address(client: FlaskClient, path: str, staff: Headers) -> str:
    """The address of the standings of the campaign's one task."""
    return f"{path}/tasks/{tasks_at(client, staff, path)[0]['id']}/standings"


def participant(
    session: Session, path: str, distance_m: int = 0, *, team_id: UUID | None = None, nickname: str | None = None
) -> UUID:
    """A resident who joined, walked so far, and agreed to appear if they have a nickname."""
    resident_id = new_id()
    session.add(
        Resident(resident_id=resident_id, community_code=COMMUNITY, nickname=nickname, created_at=now(), enabled=True)
    )
    session.add(
        Participation(
            resident_id=resident_id,
            campaign_id=id_of(path),
            community_code=COMMUNITY,
            joined_at=now(),
            team_id=team_id,
        )
    )
    session.commit()
    if nickname is not None:
        agrees_to_appear(session, resident_id)
    if distance_m:
        walked(session, resident_id, distance_m)
    return resident_id


def team(session: Session, path: str, name: str, *distances_m: int) -> UUID:
    """A team whose members walked so far each."""
    made = Team(
        campaign_id=id_of(path),
        id=new_id(),
        name=name,
        captain_id=new_id(),
        join_code_hash=uuid4().bytes * 2,
        members=len(distances_m),
        size_max=500,
        created_at=now(),
    )
    session.add(made)
    session.commit()
    for distance_m in distances_m:
        participant(session, path, distance_m, team_id=made.id)
    return made.id


def table(client: FlaskClient, address: str, reader: Headers, **query: str) -> dict[str, Any]:
    answer = client.get(address, query_string=query, headers=reader)
    assert answer.status_code == 200, answer.text
    assert answer.json
    return dict(answer.json)


def ranks(page: dict[str, Any]) -> list[tuple[int, str]]:
    return [(row["rank"], row["name"]) for row in page["items"]]


def test_teams_stand_by_total_and_by_head_with_shared_ranks_and_small_ones_marked(
    client: FlaskClient, session: Session, path: str, address: str, staff: Headers
) -> None:
    team(session, path, "甲班", 3000, 3000, 0)  # 6000, 2000 a head
    team(session, path, "乙班", 4000, 2000)  # 6000, 3000 a head
    team(session, path, "丙班", 3000)  # 3000 a head, alone
    team(session, path, "丁班", 10, 0, 0)
    participant(session, path, 9999)  # in no team

    by_total = table(client, address, staff, by="total")
    by_head = table(client, address, staff, by="per-head")

    assert sorted(ranks(by_total)[:2]) == sorted([(1, "甲班"), (1, "乙班")])
    assert ranks(by_total)[2:] == [(3, "丙班"), (4, "丁班")]
    assert sorted(ranks(by_head)[:2]) == sorted([(1, "乙班"), (1, "丙班")])
    assert ranks(by_head)[2:] == [(3, "甲班"), (4, "丁班")]
    shown = {row["name"]: (row["total"], row["members"], row["per_head"], row["is_small"]) for row in by_head["items"]}
    assert shown == {
        "甲班": (6000, 3, 2000.0, False),
        "乙班": (6000, 2, 3000.0, False),
        "丙班": (3000, 1, 3000.0, True),
        "丁班": (10, 3, 3.3333, False),
    }
    assert by_total["participants"] == 10


def test_means_that_do_not_divide_evenly_are_still_tied(
    client: FlaskClient, session: Session, path: str, address: str, staff: Headers
) -> None:
    team(session, path, "甲班", 1, 0, 0)
    team(session, path, "乙班", 2, 0, 0, 0, 0, 0)
    assert [rank for rank, _ in ranks(table(client, address, staff, by="per-head"))] == [1, 1]


def test_pages_follow_each_other_through_ties_in_one_order(
    client: FlaskClient, session: Session, path: str, address: str, staff: Headers
) -> None:
    for number in range(7):
        team(session, path, f"{number}班", 100)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = table(client, address, staff, limit="3", **cursor)
        seen += [row["name"] for row in page["items"]]
        assert {row["rank"] for row in page["items"]} == {1}
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"{number}班" for number in range(7)]
    refused(client.get(f"{address}?cursor=AAAA", headers=staff), 422, "bad-cursor")


def test_residents_appear_by_nickname_only_if_they_agreed_and_vanish_at_once_when_not(
    client: FlaskClient, session: Session, path: str, address: str, headers_of: Callable[..., Headers], staff: Headers
) -> None:
    agreed = participant(session, path, 500, nickname="小荷")
    shy = participant(session, path, 900)
    nameless = participant(session, path, 800)
    agrees_to_appear(session, nameless)
    participant(session, path, 500, nickname="阿南")
    reader = headers_of(agreed, is_resident=True)

    first = table(client, address, reader, of="resident")
    session.execute(sa.update(Resident).where(Resident.resident_id == agreed).values(nickname="小荷花"))
    session.commit()
    renamed = table(client, address, reader, of="resident")
    withdrawn = client.delete("/api/v1/me/consents/ranking", headers=reader)
    after = table(client, address, reader, of="resident")

    assert sorted(ranks(first)) == sorted([(1, "阿南"), (1, "小荷")]), "ranked among those who agreed"
    assert first["mine"]["name"] == "小荷"
    assert first["participants"] == 4
    assert {row["name"] for row in renamed["items"]} == {"阿南", "小荷花"}
    assert withdrawn.status_code == 204
    assert (ranks(after), after["mine"]) == ([(1, "阿南")], None)
    assert str(shy) not in str(first)
    assert str(agreed) not in str(first), "nobody's id"


def test_a_reader_finds_their_own_team_wherever_it_stands(
    client: FlaskClient, session: Session, path: str, address: str, headers_of: Callable[..., Headers], staff: Headers
) -> None:
    for number in range(3):
        team(session, path, f"{number}班", 100 * (number + 1))
    last = session.scalars(sa.select(Team.id).where(Team.name == "0班")).one()
    reader = headers_of(
        session.scalars(sa.select(Participation.resident_id).where(Participation.team_id == last)).one(),
        is_resident=True,
    )
    page = table(client, address, reader, limit="1")
    assert ranks(page) == [(1, "2班")]
    assert (page["mine"]["rank"], page["mine"]["team_id"]) == (3, str(last))
    assert table(client, address, staff)["mine"] is None


def test_a_table_is_computed_anew_when_it_is_a_minute_old_and_not_before(
    client: FlaskClient, session: Session, path: str, address: str, sign_in_staff: SignIn, clock: Any, staff: Headers
) -> None:
    one = team(session, path, "一班", 100)
    first = table(client, address, staff)
    participant(session, path, 50, team_id=one)
    clock.shift(60)
    same = table(client, address, staff)
    clock.shift(1)
    anew = table(client, address, staff)
    assert (first["items"][0]["total"], same["items"][0]["total"], anew["items"][0]["total"]) == (100, 100, 150)
    assert first["computed_at"] == same["computed_at"] < anew["computed_at"]


def test_the_reversal_of_an_activity_lowers_the_standing_at_the_next_refresh(
    client: FlaskClient, session: Session, clock: Any, staff: Headers
) -> None:
    path = published(client, staff, **TEAMS, tasks=[task(behaviours=["sorting"], measure="activities", target=9)])
    address = f"{path}/tasks/{tasks_at(client, staff, path)[0]['id']}/standings"
    team(session, path, "一班", 0)
    member = session.scalars(sa.select(Participation.resident_id)).one()
    made = []
    for number in range(2):
        at = now() - timedelta(minutes=5 + number)
        claim = Claim(
            resident_id=member,
            behaviour=Behaviour.SORTING,
            mode="kitchen",
            grade=Grade.PARTNER_SIGNED,
            source="test",
            external_id=f"e-{number}",
            started_at=at,
            ended_at=at,
            received_at=now(),
        )
        made.append(award(session, [claim], now=now())[0].activity_id)
    session.commit()
    before = table(client, address, staff)["items"][0]["total"]
    assert made[0] is not None
    counts.revoke(session, member, made[0], why="更正", now=now())
    session.commit()
    clock.shift(61)
    assert (before, table(client, address, staff)["items"][0]["total"]) == (2, 1)


def test_whoever_reads_while_another_computes_gets_the_old_table_and_does_not_wait(
    app: Flask, client: FlaskClient, session: Session, path: str, address: str, clock: Any, staff: Headers
) -> None:
    team(session, path, "一班", 100)
    (only,) = tasks_of(session, id_of(path))
    standings.refresh(session, only, now=now())  # by itself, for the lock lasts as long as this test's transaction
    session.commit()
    first = table(client, address, staff)
    clock.shift(61)
    engine = sa.create_engine(app.config["SQLALCHEMY_DATABASE_URI"], poolclass=sa.NullPool)
    with engine.connect() as other:
        other.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"standings:{only.id}"}
        )
        meanwhile = table(client, address, staff)
    assert meanwhile["computed_at"] == first["computed_at"]
    assert table(client, address, staff)["computed_at"] > first["computed_at"]


def test_a_large_campaigns_table_is_left_to_a_job_that_is_asked_once(
    app: Flask,
    client: FlaskClient,
    session: Session,
    path: str,
    address: str,
    clock: Any,
    staff: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standings, "INLINE_PARTICIPANTS_MAX", 2)
    team(session, path, "一班", 100, 200, 300)
    task_id = address.split("/")[-2]

    def asked() -> int:
        statement = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'campaign-tasks:refresh_standings'"
        return int(session.scalar(sa.text(statement)) or 0)

    pages = [table(client, address, staff) for _ in range(3)]
    assert [(page["computed_at"], page["items"]) for page in pages] == [(None, [])] * 3
    assert asked() == 1
    with app.app_context():
        jobs.refresh_standings(task_id)
        jobs.refresh_standings(task_id)
    computed = table(client, address, staff)
    assert ranks(computed) == [(1, "一班")]
    assert asked() == 1

    clock.shift(61)
    assert table(client, address, staff)["computed_at"] == computed["computed_at"], "the old one meanwhile"
    assert asked() == 2


def test_the_periodic_job_computes_what_is_old_of_campaigns_under_way(
    app: Flask, client: FlaskClient, session: Session, path: str, address: str, clock: Any, staff: Headers
) -> None:
    team(session, path, "一班", 100)
    published(client, staff, starts_on="2026-12-01", ends_on="2026-12-02")
    with app.app_context():
        jobs.refresh_stale_standings(0)
        session.expire_all()
        first = session.scalars(sa.select(StandingRun)).one()
        clock.shift(3600)
        jobs.refresh_stale_standings(0)
        session.expire_all()
        assert first.computed_at == now() - timedelta(seconds=3600)
        clock.shift(1)
        jobs.refresh_stale_standings(0)
    session.expire_all()
    (run,) = session.scalars(sa.select(StandingRun)).all()
    assert str(run.task_id) == address.split("/")[-2]
    assert run.computed_at == now()
    assert first.participants == 1


def test_a_kept_table_is_what_a_plain_count_gives(
    client: FlaskClient, session: Session, path: str, address: str, staff: Headers
) -> None:
    dice = random.Random(20261118)
    for number in range(12):
        distances = [dice.choice([0, 0, 500, 1000, 1500]) for _ in range(dice.randint(1, 5))]
        team(session, path, f"{number:02}班", *distances)
    table(client, address, staff)
    kept = session.execute(
        sa.select(Standing.name, Standing.total, Standing.members, Standing.rank_total, Standing.rank_per_head)
    ).all()
    plain = session.execute(
        sa.select(Team.name, sa.func.coalesce(sa.func.sum(ResidentDay.distance_m), 0))
        .join(Participation, Participation.team_id == Team.id)
        .outerjoin(
            ResidentDay,
            sa.and_(ResidentDay.resident_id == Participation.resident_id, ResidentDay.day == business_day(now())),
        )
        .group_by(Team.name)
    )
    totals = {name: int(total) for name, total in plain}
    assert {row.name: row.total for row in kept} == totals
    for row in kept:
        assert row.rank_total == 1 + sum(other.total > row.total for other in kept)
        assert row.rank_per_head == 1 + sum(other.total * row.members > row.total * other.members for other in kept)


def test_standings_are_read_by_whoever_sees_the_campaign(
    client: FlaskClient, address: str, sign_in_staff: SignIn, sign_in_resident: SignIn, path: str
) -> None:
    near, far = sign_in_resident("near"), sign_in_resident("far", "120104001003")
    joined(client, path, near)
    assert table(client, address, near)["items"] == []
    refused(client.get(address, headers=far), 404, "not-found")
    elsewhere = sign_in_staff(Role.COMMUNITY_STAFF, division="120104001003")
    refused(client.get(address, headers=elsewhere), 404, "not-found")
    refused(client.get(address.replace(address.split("/")[-2], str(uuid4())), headers=near), 404, "not-found")

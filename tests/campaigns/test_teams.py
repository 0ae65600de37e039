"""Teams: founded by a captain, joined by code, never larger than the campaign allows, and fixed once it has ended."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from campaign_builders import (
    COMMUNITY,
    Headers,
    agrees_to_appear,
    days,
    id_of,
    joined,
    published,
    refused,
)
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.drives.models import Participation, Team
from server.access import Role
from server.audit import AuditEntry
from server.people.models import Resident

SignIn = Callable[..., Headers]

TEAMS = {"team_kind": "class", "team_size_min": 2, "team_size_max": 3}


@pytest.fixture
def staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def path(client: FlaskClient, staff: Headers) -> str:
    """A running campaign with teams of two to three."""
    return published(client, staff, **TEAMS)


@pytest.fixture
def people(client: FlaskClient, path: str, sign_in_resident: SignIn) -> list[Headers]:
    """Five who joined the campaign."""
    found = [sign_in_resident(name) for name in ("alice", "bob", "carol", "dave", "eve")]
    joined(client, path, *found)
    return found


def founded(client: FlaskClient, path: str, captain: Headers, name: str = "三年二班") -> dict[str, Any]:
    answer = client.post(f"{path}/teams", json={"name": name}, headers=captain)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return dict(answer.json)


def entered(client: FlaskClient, path: str, code: str, *people: Headers) -> dict[str, Any]:
    for person in people:
        answer = client.post(f"{path}/teams/mine", json={"code": code}, headers=person)
        assert answer.status_code == 201, answer.text
    assert answer.json
    return dict(answer.json)


def counted(session: Session, path: str) -> list[tuple[str, int, int]]:
    """Each team's name, its counter, and how many participations name it."""
    real = sa.select(sa.func.count()).where(Participation.team_id == Team.id).scalar_subquery()
    rows = session.execute(
        sa.select(Team.name, Team.members, real).where(Team.campaign_id == id_of(path)).order_by(Team.name)
    )
    return [(name, members, number) for name, members, number in rows]


def test_a_captain_founds_a_team_and_others_join_with_its_code(
    client: FlaskClient, session: Session, path: str, people: list[Headers]
) -> None:
    alice, bob, *_ = people
    team = founded(client, path, alice)
    seen = entered(client, path, f"{team['join_code'][:4]}-{team['join_code'][4:]}".lower(), bob)

    assert (team["members"], team["is_captain"], team["is_small"]) == (1, True, True)
    assert (seen["members"], seen["is_captain"], seen["is_small"], seen["join_code"]) == (2, False, False, None)
    assert [(row["is_captain"], row["is_me"]) for row in seen["people"]] == [(True, False), (False, True)]
    assert client.get(f"{path}/progress", headers=bob).json["team_id"] == team["id"]
    assert counted(session, path) == [("三年二班", 2, 2)]


def test_a_resident_is_in_one_team_and_the_last_place_is_given_once(
    client: FlaskClient, session: Session, path: str, people: list[Headers]
) -> None:
    alice, bob, carol, dave, eve = people
    first, second = founded(client, path, alice), founded(client, path, eve, "三年三班")
    entered(client, path, first["join_code"], bob, carol)

    refused(client.post(f"{path}/teams/mine", json={"code": first["join_code"]}, headers=dave), 409, "team-full")
    refused(client.post(f"{path}/teams/mine", json={"code": second["join_code"]}, headers=bob), 409, "already-in-team")
    refused(client.post(f"{path}/teams", json={"name": "另一个"}, headers=bob), 409, "already-in-team")
    refused(client.post(f"{path}/teams", json={"name": "三年二班"}, headers=dave), 409, "team-name-taken")
    refused(client.post(f"{path}/teams/mine", json={"code": "AAAA-AAAA"}, headers=dave), 404, "team-code-unknown")
    assert counted(session, path) == [("三年三班", 1, 1), ("三年二班", 3, 3)]


def test_a_code_is_of_one_campaign_and_ends_with_the_next(
    client: FlaskClient, staff: Headers, path: str, people: list[Headers]
) -> None:
    alice, bob, *_ = people
    other = published(client, staff, **TEAMS)
    joined(client, other, bob)
    code = founded(client, path, alice)["join_code"]
    refused(client.post(f"{other}/teams/mine", json={"code": code}, headers=bob), 404, "team-code-unknown")
    refused(client.post(f"{path}/teams/mine/code", headers=bob), 404, "not-in-team")
    renewed = client.post(f"{path}/teams/mine/code", headers=alice).json["join_code"]
    refused(client.post(f"{path}/teams/mine", json={"code": code}, headers=bob), 404, "team-code-unknown")
    entered(client, path, renewed, bob)
    refused(client.post(f"{path}/teams/mine/code", headers=bob), 403, "not-captain")


def test_teams_are_for_participants_of_campaigns_with_teams(
    client: FlaskClient, staff: Headers, path: str, sign_in_resident: SignIn
) -> None:
    plain, alice = published(client, staff), sign_in_resident("alice")
    joined(client, plain, alice)
    refused(client.post(f"{plain}/teams", json={"name": "一队"}, headers=alice), 409, "campaign-without-teams")
    for method, address, body in (
        ("post", f"{path}/teams", {"name": "一队"}),
        ("post", f"{path}/teams/mine", {"code": "AAAA-AAAA"}),
        ("get", f"{path}/teams/mine", None),
        ("delete", f"{path}/teams/mine", None),
    ):
        refused(client.open(address, method=method, json=body, headers=alice), 404, "not-joined")


def test_members_leave_and_a_captain_passes_on_first(
    client: FlaskClient, session: Session, path: str, people: list[Headers]
) -> None:
    alice, bob, carol, *_ = people
    team = founded(client, path, alice)
    entered(client, path, team["join_code"], bob, carol)
    heir = next(row["member"] for row in client.get(f"{path}/teams/mine", headers=bob).json["people"] if row["is_me"])

    refused(client.delete(f"{path}/teams/mine", headers=alice), 409, "captain-must-pass-on")
    refused(client.delete(f"{path}/participations/mine", headers=alice), 409, "captain-must-pass-on")
    refused(client.put(f"{path}/teams/mine/captain", json={"member": heir}, headers=carol), 403, "not-captain")
    refused(client.put(f"{path}/teams/mine/captain", json={"member": str(uuid4())}, headers=alice), 404, "not-in-team")
    passed = client.put(f"{path}/teams/mine/captain", json={"member": heir}, headers=alice).json
    assert (passed["is_captain"], [row["is_captain"] for row in passed["people"]]) == (False, [False, True, False])
    assert client.delete(f"{path}/teams/mine", headers=alice).status_code == 204
    assert client.delete(f"{path}/participations/mine", headers=carol).status_code == 204, "and the team with it"
    assert counted(session, path) == [("三年二班", 1, 1)]
    assert client.delete(f"{path}/teams/mine", headers=bob).status_code == 204
    assert counted(session, path) == [], "the last one takes the team away"
    refused(client.get(f"{path}/teams/mine", headers=bob), 404, "not-in-team")


def test_a_captain_removes_members_but_not_oneself(
    client: FlaskClient, session: Session, path: str, people: list[Headers]
) -> None:
    alice, bob, *_ = people
    entered(client, path, founded(client, path, alice)["join_code"], bob)
    me, him = (row["member"] for row in client.get(f"{path}/teams/mine", headers=alice).json["people"])
    refused(client.delete(f"{path}/teams/mine/members/{me}", headers=bob), 403, "not-captain")
    refused(client.delete(f"{path}/teams/mine/members/{me}", headers=alice), 409, "captain-must-pass-on")
    assert client.delete(f"{path}/teams/mine/members/{him}", headers=alice).status_code == 204
    refused(client.delete(f"{path}/teams/mine/members/{him}", headers=alice), 404, "not-in-team")
    assert counted(session, path) == [("三年二班", 1, 1)]


def test_members_appear_to_each_other_by_nickname_only_if_they_agreed(
    client: FlaskClient, session: Session, path: str, people: list[Headers], staff: Headers, sign_in_resident: SignIn
) -> None:
    alice, bob, *_ = people
    known: dict[str, UUID] = sign_in_resident.known  # type: ignore[attr-defined]
    for name in ("alice", "bob"):
        session.execute(sa.update(Resident).where(Resident.resident_id == known[name]).values(nickname=f"小{name}"))
    agrees_to_appear(session, known["alice"])
    team = founded(client, path, alice)
    seen = entered(client, path, team["join_code"], bob)
    by_staff = client.get(f"{path}/teams/{team['id']}/members", headers=staff).json["items"]

    assert [row["nickname"] for row in seen["people"]] == ["小alice", None]
    assert [row["nickname"] for row in by_staff] == ["小alice", "小bob"]
    shown = {row["member"] for row in seen["people"]}
    assert not shown & {str(each) for each in known.values()}, "nobody's own id"


def test_staff_correct_names_and_remove_members_with_a_reason(
    client: FlaskClient, session: Session, path: str, people: list[Headers], staff: Headers
) -> None:
    alice, bob, carol, *_ = people
    team = founded(client, path, alice, "不雅名称")
    entered(client, path, team["join_code"], bob, carol)
    address = f"{path}/teams/{team['id']}"
    captain = client.get(f"{address}/members", headers=staff).json["items"][0]["member"]

    renamed = client.patch(address, json={"name": "三年二班", "reason": "名称不当"}, headers=staff)
    unreasoned = client.delete(f"{address}/members/{captain}", headers=staff)
    removed = client.delete(f"{address}/members/{captain}", query_string={"reason": "本人要求"}, headers=staff)

    assert renamed.json["name"] == "三年二班"
    refused(unreasoned, 422, "invalid-request")
    assert removed.status_code == 204
    rest = client.get(f"{address}/members", headers=staff).json["items"]
    assert [row["is_captain"] for row in rest] == [True, False], "the eldest member follows"
    acts = session.scalars(sa.select(AuditEntry.act).where(AuditEntry.subject == team["id"])).all()
    assert acts == ["team.rename", "team.member-remove"]
    refused(client.patch(address, json={"name": "四班", "reason": "x"}, headers=alice), 403, "forbidden")


def test_teams_are_listed_with_small_ones_marked(
    client: FlaskClient, path: str, people: list[Headers], staff: Headers
) -> None:
    alice, bob, carol, *_ = people
    entered(client, path, founded(client, path, alice, "一队")["join_code"], bob)
    founded(client, path, carol, "二队")
    first = client.get(f"{path}/teams?limit=1", headers=staff).json
    second = client.get(f"{path}/teams?limit=1&cursor={first['next_cursor']}", headers=alice).json
    rows = [*first["items"], *second["items"]]
    assert [(row["name"], row["members"], row["is_small"]) for row in rows] == [("一队", 2, False), ("二队", 1, True)]
    assert second["next_cursor"] is None


def test_teams_are_fixed_once_the_campaign_is_being_settled(
    client: FlaskClient, session: Session, path: str, people: list[Headers], staff: Headers
) -> None:
    alice, bob, carol, *_ = people
    team = founded(client, path, alice)
    entered(client, path, team["join_code"], bob)
    members = client.get(f"{path}/teams/mine", headers=alice).json["people"]
    client.post(f"{path}/end", json={"reason": "提前结束"}, headers=staff)
    for method, address, body, headers in (
        ("post", f"{path}/teams", {"name": "一队"}, carol),
        ("post", f"{path}/teams/mine", {"code": team["join_code"]}, carol),
        ("delete", f"{path}/teams/mine", None, bob),
        ("patch", f"{path}/teams/mine", {"name": "改名"}, alice),
        ("post", f"{path}/teams/mine/code", None, alice),
        ("put", f"{path}/teams/mine/captain", {"member": members[1]["member"]}, alice),
        ("delete", f"{path}/teams/mine/members/{members[1]['member']}", None, alice),
        ("delete", f"{path}/teams/{team['id']}/members/{members[1]['member']}?reason=x", None, staff),
    ):
        refused(client.open(address, method=method, json=body, headers=headers), 409, "campaign-closed")
    assert counted(session, path) == [("三年二班", 2, 2)]
    assert client.get(f"{path}/teams/mine", headers=bob).status_code == 200


def test_the_database_refuses_a_team_that_is_too_large_and_a_team_of_another_campaign(
    client: FlaskClient, session: Session, path: str, people: list[Headers], staff: Headers
) -> None:
    team = founded(client, path, people[0])
    other = id_of(published(client, staff, **TEAMS))
    with pytest.raises(IntegrityError, match="team_members_check"), session.begin_nested():
        session.execute(sa.update(Team).values(members=4))
    with pytest.raises(IntegrityError, match="participation_campaign_id_team_id_fkey"), session.begin_nested():
        session.execute(sa.update(Participation).values(campaign_id=other, team_id=UUID(team["id"])))


@pytest.mark.parametrize(
    "name", ["", " ", "三" * 41, "队\u0000", "队\u202e名", " 队", "队\n"], ids=lambda name: repr(name)[:12]
)
def test_a_teams_name_is_one_that_can_be_shown(
    client: FlaskClient, path: str, people: list[Headers], name: str
) -> None:
    refused(client.post(f"{path}/teams", json={"name": name}, headers=people[0]), 422, "invalid-request")


def test_a_team_belongs_to_days_that_have_not_begun_too(
    client: FlaskClient, staff: Headers, sign_in_resident: SignIn
) -> None:
    path, alice = published(client, staff, **TEAMS, **days(2, 4)), sign_in_resident("alice")
    joined(client, path, alice)
    assert founded(client, path, alice)["members"] == 1

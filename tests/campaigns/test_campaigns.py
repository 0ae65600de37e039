"""Campaigns: staff draft, publish and improve them in their scope, residents see and join what is for them."""

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from campaign_builders import (
    CAMPAIGNS,
    COMMUNITY,
    DISTRICT,
    OTHER_STREET,
    STREET,
    WALKS,
    Headers,
    days,
    drafted,
    id_of,
    joined,
    published,
    quiz,
    refused,
    school,
    task,
    tasks_at,
    terms,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.drives import campaigns, moves, participation
from campaigns.drives.kinds import KINDS
from campaigns.drives.models import (
    Campaign,
    CampaignKind,
    CampaignState,
    CampaignTask,
    CampaignVersion,
    Participation,
    TargetMeasure,
)
from campaigns.drives.moves import MOVES, Move, Mover
from campaigns.drives.participation import CampaignClosed
from campaigns.drives.terms import CampaignTerms, TaskTerms, check_task
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.database import new_id
from server.people.models import OrganisationMembership

SignIn = Callable[..., Headers]


@pytest.fixture
def neighbour(session: Session) -> str:
    """Another community of the same street."""
    found = session.scalars(
        sa.text("SELECT code FROM division WHERE level = 'community' AND parent_code = :street ORDER BY code OFFSET 1"),
        {"street": STREET},
    ).first()
    assert found
    return str(found)


@pytest.fixture
def community_staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


def acts_on(session: Session, subject: str) -> list[str]:
    return list(session.scalars(sa.select(AuditEntry.act).where(AuditEntry.subject == subject).order_by(AuditEntry.id)))


def put(session: Session, campaign_id: UUID | str, **values: Any) -> None:
    session.execute(sa.update(Campaign).where(Campaign.id == campaign_id).values(**values))
    session.commit()


# The life


def test_staff_draft_edit_publish_end_and_the_settlement_closes(
    client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    campaign = drafted(client, community_staff, **days(0, 3))
    path = f"{CAMPAIGNS}/{campaign['id']}"
    read = client.get(path, headers=community_staff)
    edited = client.patch(path, json={"title": "骑行周"}, headers={**community_staff, "If-Match": read.headers["ETag"]})
    started = client.post(f"{path}/publish", headers=community_staff)
    ended = client.post(f"{path}/end", json={"reason": "下雪"}, headers=community_staff)
    closed = moves.close(session, UUID(campaign["id"]), now=now())

    assert (campaign["state"], campaign["version"], campaign["terms_version"]) == ("draft", 1, 0)
    assert (edited.json["title"], edited.json["starts_on"], edited.headers["ETag"]) == (
        "骑行周",
        campaign["starts_on"],
        '"2"',
    )
    assert (started.json["state"], started.json["terms_version"]) == ("running", 1), "its first day is today"
    assert started.json["published_at"] is not None
    assert started.json["running_at"] is not None
    assert (ended.json["state"], closed.state) == ("settling", CampaignState.CLOSED)
    assert acts_on(session, campaign["id"]) == [
        "campaign.create",
        "campaign.edit",
        "campaign.publish",
        "campaign.start",
        "campaign.end",
        "campaign.close",
    ]


def test_a_campaign_published_before_its_first_day_waits_for_it(client: FlaskClient, community_staff: Headers) -> None:
    path = published(client, community_staff, **days(1, 3))
    assert client.get(path, headers=community_staff).json["state"] == "published"
    refused(client.post(f"{path}/start", headers=community_staff), 409, "campaign-not-yet")


@pytest.mark.parametrize("state", list(CampaignState))
@pytest.mark.parametrize("step", [each for each in Move if each is not Move.CLOSE])
def test_every_move_is_in_the_table_or_refused(
    client: FlaskClient, session: Session, community_staff: Headers, state: CampaignState, step: Move
) -> None:
    campaign_id = drafted(client, community_staff)["id"]
    put(session, campaign_id, state=state, published_at=now(), settling_at=now(), terms_version=1)
    answer = client.post(
        f"{CAMPAIGNS}/{campaign_id}/{step.value}",
        json={"reason": "更改"} if step in (Move.END, Move.CANCEL) else None,
        headers=community_staff,
    )
    found = MOVES.get((state, step))
    if found is None or Mover.STAFF not in found.movers:
        refused(answer, 409, "campaign-move-refused")
    elif step is Move.PUBLISH:
        assert (answer.status_code, answer.json["state"]) == (200, "running")
    else:
        assert (answer.status_code, answer.json["state"]) == (200, found.after.value)


@pytest.mark.parametrize("state", list(CampaignState))
def test_only_what_is_being_settled_is_closed(
    client: FlaskClient, session: Session, community_staff: Headers, state: CampaignState
) -> None:
    campaign_id = UUID(drafted(client, community_staff)["id"])
    put(session, campaign_id, state=state, published_at=now(), settling_at=now())
    if state is CampaignState.SETTLING:
        assert moves.close(session, campaign_id, now=now()).closed_at is not None
    else:
        with pytest.raises(moves.CampaignMoveRefused):
            moves.close(session, campaign_id, now=now())


def test_a_campaign_whose_last_day_has_passed_is_not_published(client: FlaskClient, community_staff: Headers) -> None:
    campaign = drafted(client, community_staff, **days(-9, -1))
    refused(client.post(f"{CAMPAIGNS}/{campaign['id']}/publish", headers=community_staff), 409, "campaign-over")


def test_a_campaign_without_tasks_or_with_team_tasks_but_no_teams_is_not_published(
    client: FlaskClient, community_staff: Headers
) -> None:
    empty, teamless = drafted(client, community_staff), drafted(client, community_staff, tasks=[task(subject="team")])
    (only,) = tasks_at(client, community_staff, f"{CAMPAIGNS}/{empty['id']}")
    removed = client.delete(
        f"{CAMPAIGNS}/{empty['id']}/tasks/{only['id']}", headers={**community_staff, "If-Match": '"1"'}
    )
    assert removed.status_code == 204
    for campaign in (empty, teamless):
        answer = client.post(f"{CAMPAIGNS}/{campaign['id']}/publish", headers=community_staff)
        refused(answer, 409, "campaign-incomplete")


def test_a_draft_has_promised_nothing_yet(client: FlaskClient, community_staff: Headers) -> None:
    path = f"{CAMPAIGNS}/{drafted(client, community_staff)['id']}"
    assert client.get(f"{path}/versions", headers=community_staff).json == {"items": [], "next_cursor": None}


def test_ending_early_moves_the_last_day_to_today_as_a_version_with_a_reason(
    client: FlaskClient, community_staff: Headers
) -> None:
    today = business_day(now()).isoformat()
    path = published(client, community_staff, joins_until=days(0, 2)["ends_on"])
    refused(client.post(f"{path}/end", headers=community_staff), 422, "reason-required")
    ended = client.post(f"{path}/end", json={"reason": "场地维修"}, headers=community_staff).json
    (newest, _first) = client.get(f"{path}/versions", headers=community_staff).json["items"]

    assert (ended["ends_on"], ended["joins_until"], ended["terms_version"]) == (today, today, 2)
    assert newest["reason"] == "场地维修"
    assert {change["field"] for change in newest["changes"]} == {"ends_on", "joins_until"}


def test_a_campaign_that_ends_on_its_last_day_needs_no_reason(client: FlaskClient, community_staff: Headers) -> None:
    path = published(client, community_staff, **days(-1, 0))
    ended = client.post(f"{path}/end", headers=community_staff)
    assert (ended.status_code, ended.json["terms_version"]) == (200, 1)


def test_a_move_between_reading_and_writing_is_noticed(
    client: FlaskClient,
    session: Session,
    make_staff: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
    community_staff: Headers,
) -> None:
    campaign_id = UUID(drafted(client, community_staff)["id"])
    staff = Actor(
        id=make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY),
        role=Role.COMMUNITY_STAFF,
        session_id=new_id(),
        division=COMMUNITY,
    )
    look = campaigns.campaign_for

    def edited_just_after(session: Session, actor: Actor, campaign_id: UUID) -> Campaign:
        found = look(session, actor, campaign_id)
        session.expunge(found)
        session.execute(
            sa.update(Campaign).where(Campaign.id == campaign_id).values(version=Campaign.version + 1, title="另一个")
        )
        return found

    monkeypatch.setattr(moves, "campaign_for", edited_just_after)
    with pytest.raises(moves.CampaignMoveRefused):
        moves.move(session, staff, campaign_id, Move.PUBLISH, now=now())


# The clock


def test_the_clock_starts_and_ends_campaigns_by_their_days_and_a_second_time_nothing(
    app: Flask, client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    paths = {
        "later": published(client, community_staff, **days(1, 3)),
        "today": published(client, community_staff, **days(1, 3)),
        "last day": published(client, community_staff, **days(-3, 0)),
        "over": published(client, community_staff, **days(-3, 0)),
        "slept through": published(client, community_staff, **days(1, 3)),
    }
    today = business_day(now())
    put(session, id_of(paths["today"]), starts_on=today)
    put(session, id_of(paths["over"]), ends_on=today - timedelta(days=1))
    put(session, id_of(paths["slept through"]), starts_on=today - timedelta(days=2), ends_on=today - timedelta(days=1))
    runner = app.test_cli_runner()

    first, second = (runner.invoke(args=["campaigns", "advance"]) for _ in range(2))

    assert "0 published, 2 started, 2 ended" in first.output
    assert "0 published, 0 started, 0 ended" in second.output
    states = {name: client.get(path, headers=community_staff).json["state"] for name, path in paths.items()}
    assert states == {
        "later": "published",
        "today": "running",
        "last day": "running",
        "over": "settling",
        "slept through": "settling",
    }
    ends = session.scalars(sa.select(AuditEntry).where(AuditEntry.act == "campaign.end")).all()
    assert {(entry.subject, entry.staff_id) for entry in ends} == {
        (str(id_of(paths["over"])), None),
        (str(id_of(paths["slept through"])), None),
    }


def test_what_the_release_before_opened_is_adopted_with_its_target_as_a_task(
    app: Flask, client: FlaskClient, session: Session, community_staff: Headers, sign_in_resident: SignIn
) -> None:
    campaign_id = UUID(drafted(client, community_staff)["id"])
    session.execute(sa.delete(CampaignTask))
    old = {"behaviours": ["walk"], "measure": TargetMeasure.ACTIVITIES, "target": 3}
    put(session, campaign_id, state=CampaignState.OPEN, opened_at=now(), **old)
    path = f"{CAMPAIGNS}/{campaign_id}"
    joined(client, path, sign_in_resident("alice"))

    app.test_cli_runner().invoke(args=["campaigns", "advance"])
    app.test_cli_runner().invoke(args=["campaigns", "advance"])

    read = client.get(path, headers=community_staff).json
    (adopted,) = tasks_at(client, community_staff, path)
    assert (read["state"], read["terms_version"]) == ("running", 1)
    assert (adopted["behaviours"], adopted["measure"], adopted["target"]) == (["walk"], "activities", 3)
    (version,) = client.get(f"{path}/versions", headers=sign_in_resident("alice")).json["items"]
    assert version["terms"]["tasks"][0]["target"] == 3


# Editing and promises


def test_an_edit_names_the_version_that_it_is_based_on(client: FlaskClient, community_staff: Headers) -> None:
    path = f"{CAMPAIGNS}/{drafted(client, community_staff)['id']}"
    change = {"title": "骑行周"}
    refused(client.patch(path, json=change, headers=community_staff), 428, "precondition-required")
    refused(client.patch(path, json=change, headers={**community_staff, "If-Match": "*"}), 428, "precondition-required")
    for etag in ('"9"', "1", 'W/"1"', '"x"'):
        refused(
            client.patch(path, json=change, headers={**community_staff, "If-Match": etag}), 412, "precondition-failed"
        )
    first = client.patch(path, json=change, headers={**community_staff, "If-Match": '"1"'})
    second = client.patch(path, json=change, headers={**community_staff, "If-Match": '"1"'})
    assert first.status_code == 200
    refused(second, 412, "precondition-failed")


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"title": "新名称"}, True),
        ({"description": "新说明"}, True),
        ({"ends_on": 5}, True),
        ({"ends_on": 2}, False),
        ({"starts_on": 0}, False),
        ({"joins_until": 2}, True),
        ({"joins_until": 0}, False),
        ({"joins_until": None}, True),
        ({"age_min": 10}, False),
        ({"age_max": None}, False),
        ({"team_kind": "class", "team_size_min": 2, "team_size_max": 9}, False),
        ({"reward_mode": "on-completion"}, False),
        ({"kind": "volunteer"}, False),
        ({"theme_day_code": "arbor-day", "theme_day_year": 2026}, False),
    ],
)
def test_after_publishing_a_promise_only_improves(
    client: FlaskClient, community_staff: Headers, change: dict[str, Any], allowed: bool
) -> None:
    today = business_day(now())
    given = {
        name: (today + timedelta(days=value)).isoformat()
        if name in {"ends_on", "starts_on", "joins_until"} and value is not None
        else value
        for name, value in change.items()
    }
    path = published(client, community_staff, age_max=80, joins_until=days(0, 1)["ends_on"])
    etag = client.get(path, headers=community_staff).headers["ETag"]
    answer = client.patch(path, json={**given, "reason": "更正"}, headers={**community_staff, "If-Match": etag})
    if allowed:
        assert (answer.status_code, answer.json["terms_version"]) == (200, 2)
    else:
        refused(answer, 409, "campaign-promise-frozen")
        assert set(answer.json["fields"]) <= set(change)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"title": "新任务名"}, True),
        ({"reward_points": 21}, True),
        ({"reward_points": 19}, False),
        ({"target": 4999}, True),
        ({"target": 5001}, False),
        ({"behaviours": ["bicycle", "walk"]}, True),  # the same, in another order
        ({"behaviours": ["walk"]}, False),
        ({"measure": "activities"}, False),
        ({"subject": "team"}, False),
    ],
)
def test_after_publishing_a_task_only_improves(
    client: FlaskClient, community_staff: Headers, change: dict[str, Any], allowed: bool
) -> None:
    path = published(client, community_staff, tasks=[task(reward_points=20)])
    (only,) = tasks_at(client, community_staff, path)
    etag = client.get(path, headers=community_staff).headers["ETag"]
    headers = {**community_staff, "If-Match": etag}
    answer = client.patch(f"{path}/tasks/{only['id']}", json={**change, "reason": "更正"}, headers=headers)
    if allowed:
        assert answer.status_code == 200, answer.text
        assert answer.headers["ETag"] == client.get(path, headers=community_staff).headers["ETag"]
    else:
        refused(answer, 409, "campaign-promise-frozen")


def test_participants_read_every_version_with_its_reason_and_what_it_changed(
    client: FlaskClient, community_staff: Headers, sign_in_resident: SignIn
) -> None:
    path = published(client, community_staff, tasks=[task(reward_points=20), quiz([[0]])])
    first, _ = tasks_at(client, community_staff, path)
    for change in ({"target": 4000}, {"reward_points": 30}):
        etag = client.get(path, headers=community_staff).headers["ETag"]
        answer = client.patch(
            f"{path}/tasks/{first['id']}",
            json={**change, "reason": f"改善{sorted(change)[0]}"},
            headers={**community_staff, "If-Match": etag},
        )
        assert answer.status_code == 200, answer.text

    alice = sign_in_resident("alice")
    listed = client.get(f"{path}/versions?limit=2", headers=alice).json
    oldest = client.get(f"{path}/versions?cursor={listed['next_cursor']}", headers=alice).json

    assert [(row["version"], row["reason"]) for row in listed["items"]] == [(3, "改善reward_points"), (2, "改善target")]
    assert [row["changes"] for row in listed["items"]] == [
        [{"field": f"tasks/{first['id']}/reward_points", "before": 20, "after": 30}],
        [{"field": f"tasks/{first['id']}/target", "before": 5000, "after": 4000}],
    ]
    assert [(row["version"], row["changes"]) for row in oldest["items"]] == [(1, [])]
    assert oldest["items"][0]["terms"]["tasks"][0]["target"] == 5000
    assert "right" not in json.dumps([listed, oldest]), "the right answers stay here"


def test_what_was_published_changes_with_a_reason_and_what_is_over_not_at_all(
    client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    path = published(client, community_staff)
    etag = client.get(path, headers=community_staff).headers["ETag"]
    headers = {**community_staff, "If-Match": etag}
    refused(client.patch(path, json={"title": "新名称"}, headers=headers), 422, "reason-required")
    client.post(f"{path}/cancel", json={"reason": "下雨"}, headers=community_staff)
    etag = client.get(path, headers=community_staff).headers["ETag"]
    headers = {**community_staff, "If-Match": etag}
    refused(client.patch(path, json={"title": "新", "reason": "更正"}, headers=headers), 409, "campaign-ended")


def test_a_published_campaign_neither_gains_nor_loses_tasks(client: FlaskClient, community_staff: Headers) -> None:
    path = published(client, community_staff)
    (only,) = tasks_at(client, community_staff, path)
    etag = client.get(path, headers=community_staff).headers["ETag"]
    headers = {**community_staff, "If-Match": etag}
    refused(client.post(f"{path}/tasks", json=WALKS, headers=headers), 409, "campaign-not-draft")
    refused(client.delete(f"{path}/tasks/{only['id']}", headers=headers), 409, "campaign-not-draft")


def test_a_version_is_never_rewritten_in_the_database_either(
    client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    published(client, community_staff)
    for statement in (sa.update(CampaignVersion).values(reason="改写"), sa.delete(CampaignVersion)):
        with pytest.raises(sa.exc.DBAPIError, match=r"append-only|permission denied"), session.begin_nested():
            session.execute(statement)


def test_a_draft_gains_changes_and_loses_tasks_under_the_campaigns_version(
    client: FlaskClient, community_staff: Headers
) -> None:
    path = f"{CAMPAIGNS}/{drafted(client, community_staff)['id']}"
    stale = {**community_staff, "If-Match": '"9"'}
    refused(client.post(f"{path}/tasks", json=quiz([[0]]), headers=stale), 412, "precondition-failed")
    added = client.post(f"{path}/tasks", json=quiz([[0], [1, 2]]), headers={**community_staff, "If-Match": '"1"'})
    changed = client.patch(
        f"{path}/tasks/{added.json['id']}", json={"target": 2}, headers={**community_staff, "If-Match": '"2"'}
    )
    first = tasks_at(client, community_staff, path)[0]
    removed = client.delete(f"{path}/tasks/{first['id']}", headers={**community_staff, "If-Match": '"3"'})
    again = client.post(f"{path}/tasks", json=WALKS, headers={**community_staff, "If-Match": '"4"'})

    assert (added.status_code, added.headers["ETag"], added.json["position"]) == (201, '"2"', 2)
    assert (changed.json["target"], changed.headers["ETag"]) == (2, '"3"')
    assert changed.json["questions"][1]["right"] == [1, 2]
    assert (removed.status_code, again.json["position"]) == (204, 1)
    assert [row["kind"] for row in tasks_at(client, community_staff, path)] == ["behaviour", "quiz"]


def test_a_campaign_has_at_most_twenty_tasks(client: FlaskClient, community_staff: Headers) -> None:
    path = f"{CAMPAIGNS}/{drafted(client, community_staff, tasks=[WALKS] * 20)['id']}"
    refused(
        client.post(f"{path}/tasks", json=WALKS, headers={**community_staff, "If-Match": '"1"'}), 409, "tasks-too-many"
    )
    answer = client.post(CAMPAIGNS, json=terms(tasks=[WALKS] * 21), headers=community_staff)
    refused(answer, 422, "invalid-request")


def test_right_answers_are_for_staff_alone(
    client: FlaskClient, community_staff: Headers, sign_in_resident: SignIn
) -> None:
    path = published(client, community_staff, tasks=[quiz([[2]])])
    alice = sign_in_resident("alice")
    shown = client.get(f"{path}/tasks", headers=alice)
    task_path = f"{path}/tasks/{shown.json['items'][0]['id']}"
    assert shown.json["items"][0]["questions"] == [{"text": "第1题", "options": ["甲", "乙", "丙"]}]
    refused(client.get(task_path, headers=alice), 403, "forbidden")
    assert client.get(task_path, headers=community_staff).json["questions"][0]["right"] == [2]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"starts_on": "2026-01-02", "ends_on": "2026-01-01"}, "campaign-span-invalid"),
        ({"starts_on": "2026-01-01", "ends_on": "2027-01-03"}, "campaign-span-invalid"),
        ({"starts_on": None}, "campaign-span-invalid"),
        ({"joins_until": "2100-01-01"}, "campaign-span-invalid"),
        ({"audience": "members"}, "campaign-audience-invalid"),
        ({"age_min": 12, "age_max": 6}, "campaign-audience-invalid"),
        ({"team_size_max": 5}, "campaign-teams-invalid"),
        ({"team_kind": "class", "team_size_min": 9, "team_size_max": 8}, "campaign-teams-invalid"),
        ({"theme_day_code": "low-carbon-day", "theme_day_year": 2027}, "theme-day-unknown"),
        ({"theme_day_code": "arbor-day"}, "theme-day-unknown"),
        ({"tasks": [task(behaviours=["sorting"])]}, "campaign-target-invalid"),
        ({"tasks": [task(behaviours=["walk", "recycling"], measure="weight_g")]}, "campaign-target-invalid"),
        ({"tasks": [task(measure=None)]}, "task-invalid"),
        ({"tasks": [task(kind="check-in")]}, "task-invalid"),
        ({"tasks": [task(kind="check-in", behaviours=None)]}, "task-invalid"),
        ({"tasks": [task(attempts_max=3)]}, "task-invalid"),
        ({"tasks": [quiz([[3]])]}, "task-invalid"),
        ({"tasks": [quiz([[0]], target=2)]}, "task-invalid"),
        ({"tasks": [quiz([[]])]}, "invalid-request"),
        ({"tasks": [quiz([[0]] * 21)]}, "invalid-request"),
        ({"tasks": [quiz([[0]], attempts_max=11)]}, "invalid-request"),
        ({"tasks": [task(behaviours=[])]}, "invalid-request"),
        ({"tasks": [task(behaviours=["driving"])]}, "invalid-request"),
        ({"tasks": [task(target=0)]}, "invalid-request"),
        ({"tasks": [task(target=1.5)]}, "invalid-request"),
        ({"tasks": [task(target=1_000_000_000_001)]}, "invalid-request"),
        ({"tasks": [task(reward_points=10_001)]}, "invalid-request"),
        ({"tasks": [task(surprise=1)]}, "invalid-request"),
        ({"tasks": []}, "invalid-request"),
        ({"kind": "party"}, "invalid-request"),
        ({"title": ""}, "invalid-request"),
        ({"title": "   "}, "invalid-request"),
        ({"title": "步" * 61}, "invalid-request"),
        ({"title": "步\u0000行"}, "invalid-request"),
        ({"description": "\ud800"}, "invalid-request"),
        ({"starts_on": "0001-01-01"}, "invalid-request"),
        ({"division": "12010400"}, "invalid-request"),
        ({"division": None}, "invalid-request"),
        ({"organisation_id": str(uuid4())}, "invalid-request"),
        ({"surprise": 1}, "invalid-request"),
    ],
)
def test_terms_that_make_no_sense_are_refused(
    client: FlaskClient, community_staff: Headers, changes: dict[str, Any], code: str
) -> None:
    # As ASCII, for half a character cannot be sent in UTF-8.
    body = json.dumps(terms(**changes))
    answer = client.post(CAMPAIGNS, data=body, content_type="application/json", headers=community_staff)
    refused(answer, 422, code)


def test_the_longest_span_is_accepted(client: FlaskClient, community_staff: Headers) -> None:
    assert drafted(client, community_staff, starts_on="2026-01-01", ends_on="2027-01-02")


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"ends_on": Campaign.starts_on - 1}, "campaign_span_check"),
        ({"joins_until": Campaign.ends_on + 1}, "campaign_joins_until_check"),
        ({"audience": "members"}, "campaign_members_of_check"),
        ({"age_min": 9, "age_max": 8}, "campaign_age_band_check"),
        ({"team_kind": "class"}, "campaign_team_check"),
        ({"team_kind": "class", "team_size_min": 3, "team_size_max": 2}, "campaign_team_size_check"),
        ({"state": "running"}, "campaign_published_at_check"),
        ({"state": "settling", "published_at": sa.func.now()}, "campaign_settling_at_check"),
        ({"theme_day_code": "arbor-day"}, "campaign_theme_day_check"),
        ({"theme_day_code": "x", "theme_day_year": 2026}, "campaign_theme_day_code_theme_day_year_fkey"),
    ],
)
def test_the_database_refuses_an_impossible_campaign_by_itself(
    client: FlaskClient, session: Session, community_staff: Headers, values: dict[str, Any], constraint: str
) -> None:
    campaign_id = drafted(client, community_staff)["id"]
    with pytest.raises(IntegrityError, match=constraint):
        session.execute(sa.update(Campaign).where(Campaign.id == campaign_id).values(**values))


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"target": 0}, "campaign_task_target_check"),
        ({"measure": None}, "campaign_task_behaviour_check"),
        ({"kind": "quiz", "measure": None, "behaviours": None}, "campaign_task_quiz_check"),
        ({"reward_points": 10_001}, "campaign_task_reward_points_check"),
        ({"position": 21}, "campaign_task_position_check"),
    ],
)
def test_the_database_refuses_an_impossible_task_by_itself(
    client: FlaskClient, session: Session, community_staff: Headers, values: dict[str, Any], constraint: str
) -> None:
    drafted(client, community_staff)
    with pytest.raises(IntegrityError, match=constraint):
        session.execute(sa.update(CampaignTask).values(**values))


# Kinds and theme days


@pytest.mark.parametrize("kind", list(CampaignKind))
def test_every_kind_brings_tasks_that_make_sense_and_nothing_more(
    client: FlaskClient, session: Session, community_staff: Headers, sign_in_staff: SignIn, kind: CampaignKind
) -> None:
    defaults = KINDS[kind]
    for each in defaults.tasks:
        check_task(each)
    at_home = drafted(client, community_staff, kind=kind.value, tasks=None)
    staff = sign_in_staff(Role.SCHOOL_STAFF, organisation=(school_id := school(session)))
    at_school = drafted(client, staff, kind=kind.value, tasks=None, division=None, organisation_id=str(school_id))
    titles = [row["title"] for row in tasks_at(client, community_staff, f"{CAMPAIGNS}/{at_home['id']}")]

    assert titles == [each.title for each in defaults.tasks]
    assert (at_home["audience"], at_school["audience"]) == ("home", defaults.audience.value)
    assert (at_home["team_kind"] is None) == (at_home["team_size_max"] is None)
    chosen = drafted(client, community_staff, kind=kind.value, team_kind="household", audience="home")
    assert (chosen["team_kind"], chosen["team_size_max"]) == ("household", 10)


def test_the_kinds_are_listed_with_what_they_set(client: FlaskClient, community_staff: Headers) -> None:
    listed = client.get(f"{CAMPAIGNS}/kinds", headers=community_staff).json["items"]
    assert [row["kind"] for row in listed] == [kind.value for kind in CampaignKind]
    assert all(row["name_zh"] and row["tasks"] for row in listed)


def test_a_theme_days_campaign_takes_its_days_from_the_calendar(client: FlaskClient, community_staff: Headers) -> None:
    day = {"kind": "theme-day", "theme_day_code": "green-travel-month", "theme_day_year": 2027}
    made = drafted(client, community_staff, **day, starts_on=None, ends_on=None)
    assert (made["starts_on"], made["ends_on"]) == ("2027-09-01", "2027-09-30")
    own = drafted(client, community_staff, **day, starts_on="2027-09-03", ends_on=None)
    assert (own["starts_on"], own["ends_on"]) == ("2027-09-03", "2027-09-30")


# Scope


@pytest.mark.parametrize(
    ("role", "scope", "place", "allowed"),
    [
        (Role.COMMUNITY_STAFF, COMMUNITY, COMMUNITY, True),
        (Role.COMMUNITY_STAFF, COMMUNITY, STREET, False),
        (Role.COMMUNITY_STAFF, COMMUNITY, "120104001999", False),
        (Role.STREET, STREET, COMMUNITY, True),
        (Role.STREET, STREET, STREET, True),
        (Role.STREET, STREET, OTHER_STREET, False),
        (Role.DISTRICT, DISTRICT, DISTRICT, True),
        (Role.DISTRICT, DISTRICT, "120105", False),
    ],
)
def test_staff_draft_campaigns_in_their_own_scope_only(
    client: FlaskClient, sign_in_staff: SignIn, role: Role, scope: str, place: str, allowed: bool
) -> None:
    staff = sign_in_staff(role, division=scope)
    answer = client.post(CAMPAIGNS, json=terms(division=place), headers=staff)
    assert answer.status_code == (201 if allowed else 404)


def calls_of_staff(path: str, task_id: str) -> list[tuple[str, str, Any]]:
    """Every call that staff can make about one campaign: method, address, body."""
    somebody = uuid4()
    return [
        ("get", path, None),
        ("patch", path, {"title": "改名", "reason": "更正"}),
        *(("post", f"{path}/{step}", None) for step in ("publish", "start", "end", "cancel")),
        ("get", f"{path}/versions", None),
        ("get", f"{path}/tasks", None),
        ("post", f"{path}/tasks", WALKS),
        ("get", f"{path}/tasks/{task_id}", None),
        ("patch", f"{path}/tasks/{task_id}", {"reward_points": 99, "reason": "更正"}),
        ("delete", f"{path}/tasks/{task_id}", None),
        ("get", f"{path}/participation", None),
        ("get", f"{path}/tasks/{task_id}/standings", None),
        ("get", f"{path}/teams", None),
        ("get", f"{path}/teams/{somebody}/members", None),
        ("patch", f"{path}/teams/{somebody}", {"name": "改名", "reason": "更正"}),
        ("delete", f"{path}/teams/{somebody}/members/{somebody}?reason=x", None),
        ("get", f"{path}/evidence", None),
        ("get", f"{path}/evidence/{somebody}/file", None),
        ("post", f"{path}/evidence/{somebody}/confirm", None),
        ("post", f"{path}/evidence/{somebody}/refuse", {"reason": "不清楚"}),
    ]


def test_a_schools_staff_see_nothing_of_another_school(
    client: FlaskClient, session: Session, sign_in_staff: SignIn
) -> None:
    one, other = school(session, "一小"), school(session, "二小")
    insider, outsider = (sign_in_staff(Role.SCHOOL_STAFF, organisation=each) for each in (one, other))
    neighbouring = sign_in_staff(Role.COMMUNITY_STAFF, division="120104001003")
    path = published(client, insider, division=None, organisation_id=str(one))
    (only,) = tasks_at(client, insider, path)
    for staff in (outsider, neighbouring):
        assert client.get(CAMPAIGNS, headers=staff).json["items"] == []
        for method, address, body in calls_of_staff(path, only["id"]):
            answer = client.open(address, method=method, json=body, headers={**staff, "If-Match": '"1"'})
            assert answer.status_code == 404, (method, address, answer.text)
    assert client.get(path, headers=insider).status_code == 200


def test_school_staff_run_their_schools_campaigns_for_the_community_around_it_too(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn, neighbour: str
) -> None:
    school_id = school(session)
    staff = sign_in_staff(Role.SCHOOL_STAFF, organisation=school_id)
    path = published(client, staff, division=None, organisation_id=str(school_id))

    assert client.get(path, headers=staff).json["division"] == COMMUNITY
    assert client.post(CAMPAIGNS, json=terms(), headers=staff).status_code == 404
    joined(client, path, sign_in_resident("alice", COMMUNITY))
    refused(client.post(f"{path}/participations", headers=sign_in_resident("carol", neighbour)), 404, "not-found")


def test_the_list_is_paged_newest_first_and_filtered(client: FlaskClient, community_staff: Headers) -> None:
    made = [drafted(client, community_staff, title=f"活动{number}")["id"] for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = client.get(CAMPAIGNS, query_string=query, headers=community_staff).json
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    volunteers = drafted(client, community_staff, kind="volunteer")["id"]
    for query, found in (
        ("kind=volunteer", [volunteers]),
        ("state=published", []),
        ("state=draft&limit=1", [volunteers]),
    ):
        assert [row["id"] for row in client.get(f"{CAMPAIGNS}?{query}", headers=community_staff).json["items"]] == found
    refused(client.get(f"{CAMPAIGNS}?cursor=AAAA", headers=community_staff), 422, "bad-cursor")
    refused(client.get(f"{CAMPAIGNS}?unknown=1", headers=community_staff), 422, "invalid-request")


# Taking part


def test_a_resident_joins_once_and_leaves(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = published(client, community_staff)
    alice = sign_in_resident("alice", COMMUNITY)
    assert client.post(f"{path}/participations", headers=alice).json["community_code"] == COMMUNITY
    refused(client.post(f"{path}/participations", headers=alice), 409, "already-joined")
    assert client.delete(f"{path}/participations/mine", headers=alice).status_code == 204
    refused(client.delete(f"{path}/participations/mine", headers=alice), 404, "not-joined")
    refused(client.get(f"{path}/progress", headers=alice), 404, "not-joined")
    assert client.post(f"{path}/participations", headers=alice).status_code == 201


def test_joining_again_with_the_same_key_gives_the_first_answer(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = f"{published(client, community_staff)}/participations"
    alice = {**sign_in_resident("alice", COMMUNITY), "Idempotency-Key": "join-once-1"}
    first, second = client.post(path, headers=alice), client.post(path, headers=alice)
    assert (first.status_code, second.status_code) == (201, 201)
    assert (first.data, second.headers["Idempotent-Replayed"]) == (second.data, "true")


@pytest.mark.parametrize(("place", "seen"), [(COMMUNITY, False), (STREET, True), (DISTRICT, True)])
def test_residents_see_and_join_what_holds_their_home(
    client: FlaskClient, sign_in_staff: SignIn, sign_in_resident: SignIn, neighbour: str, place: str, seen: bool
) -> None:
    path = published(client, sign_in_staff(Role.DISTRICT, division=DISTRICT), division=place)
    carol = sign_in_resident("carol", neighbour)
    assert client.get(path, headers=carol).status_code == (200 if seen else 404)
    assert client.get(f"{path}/eligibility", headers=carol).status_code == (200 if seen else 404)
    assert client.post(f"{path}/participations", headers=carol).status_code == (201 if seen else 404)
    listed = [row["id"] for row in client.get(CAMPAIGNS, headers=carol).json["items"]]
    assert listed == ([str(id_of(path))] if seen else [])


def test_residents_see_no_drafts_and_cancelled_campaigns_only_if_they_joined(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    alice, bob = sign_in_resident("alice", COMMUNITY), sign_in_resident("bob", COMMUNITY)
    path = f"{CAMPAIGNS}/{drafted(client, community_staff)['id']}"
    refused(client.get(path, headers=alice), 404, "not-found")
    client.post(f"{path}/publish", headers=community_staff)
    joined(client, path, alice)
    refused(client.post(f"{path}/cancel", headers=community_staff), 422, "reason-required")
    assert client.post(f"{path}/cancel", json={"reason": "暴雨"}, headers=community_staff).json["state"] == "cancelled"
    assert client.get(path, headers=alice).json["state"] == "cancelled"
    assert client.get(f"{path}/versions", headers=alice).json["items"][0]["reason"] == "暴雨"
    refused(client.get(path, headers=bob), 404, "not-found")
    refused(client.post(f"{path}/participations", headers=bob), 404, "not-found")
    refused(client.delete(f"{path}/participations/mine", headers=alice), 409, "campaign-closed")


def test_a_draft_is_cancelled_without_a_reason(client: FlaskClient, community_staff: Headers) -> None:
    path = f"{CAMPAIGNS}/{drafted(client, community_staff)['id']}"
    assert client.post(f"{path}/cancel", headers=community_staff).json["state"] == "cancelled"


def test_a_resident_without_a_home_sees_no_campaign(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = published(client, community_staff)
    nowhere = sign_in_resident("bob", None)
    refused(client.post(f"{path}/participations", headers=nowhere), 404, "not-found")
    assert client.get(CAMPAIGNS, headers=nowhere).json["items"] == []


def test_who_moves_house_keeps_what_they_joined_but_cannot_join_it_anew(
    client: FlaskClient, session: Session, sign_in_resident: SignIn, community_staff: Headers, neighbour: str
) -> None:
    path = published(client, community_staff)
    alice = sign_in_resident("alice", COMMUNITY)
    joined(client, path, alice)
    session.execute(
        sa.text("UPDATE resident SET community_code = :code WHERE resident_id = :id"),
        {"code": neighbour, "id": sign_in_resident.known["alice"]},  # type: ignore[attr-defined]
    )
    session.commit()
    assert client.get(f"{path}/progress", headers=alice).status_code == 200
    judged = client.get(f"{path}/eligibility", headers=alice).json
    assert judged == {"is_eligible": False, "reasons": ["not-eligible-home"]}
    refused(client.post(f"{path}/participations", headers=alice), 409, "not-eligible")
    assert client.delete(f"{path}/participations/mine", headers=alice).status_code == 204
    refused(client.post(f"{path}/participations", headers=alice), 404, "not-found")


@pytest.mark.parametrize(
    ("born_in", "reasons"),
    [
        (2016, []),  # ten in the year of the first day
        (2020, []),
        (2021, ["not-eligible-age"]),
        (2015, ["not-eligible-age"]),
        (None, ["birth-year-missing"]),
    ],
)
def test_an_age_band_is_judged_by_the_year_of_birth(
    client: FlaskClient,
    sign_in_staff: SignIn,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    clock: Any,
    born_in: int | None,
    reasons: list[str],
) -> None:
    staff = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    path = published(client, staff, starts_on="2026-11-01", ends_on="2026-12-31", age_min=6, age_max=10)
    child = headers_of(make_resident(COMMUNITY, born_in=born_in), is_resident=True)
    judged = client.get(f"{path}/eligibility", headers=child).json
    answer = client.post(f"{path}/participations", headers=child)
    assert judged == {"is_eligible": not reasons, "reasons": reasons}
    if reasons:
        refused(answer, 409, "not-eligible")
        assert answer.json["reasons"] == reasons
    else:
        assert answer.status_code == 201


def test_a_campaign_of_members_is_for_members_wherever_they_live(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn, neighbour: str
) -> None:
    school_id = school(session)
    staff = sign_in_staff(Role.SCHOOL_STAFF, organisation=school_id)
    path = published(client, staff, division=None, organisation_id=str(school_id), audience="members")
    pupil, resident = sign_in_resident("pupil", neighbour), sign_in_resident("alice", COMMUNITY)
    refused(client.get(path, headers=pupil), 404, "not-found")
    membership = OrganisationMembership(
        resident_id=sign_in_resident.known["pupil"],  # type: ignore[attr-defined]
        organisation_id=school_id,
        joined_at=now(),
    )
    session.add(membership)
    session.commit()

    joined(client, path, pupil)
    refused(answer := client.post(f"{path}/participations", headers=resident), 409, "not-eligible")
    assert answer.json["reasons"] == ["not-eligible-membership"]

    # Who leaves the school keeps what they joined, and cannot join it anew.
    membership.left_at = now()
    session.commit()
    assert client.get(f"{path}/progress", headers=pupil).status_code == 200
    client.delete(f"{path}/participations/mine", headers=pupil)
    refused(client.post(f"{path}/participations", headers=pupil), 404, "not-found")


def test_nobody_joins_after_the_last_day_of_joining_though_the_campaign_runs(
    client: FlaskClient, session: Session, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = published(client, community_staff, joins_until=days(0, 0)["ends_on"])
    alice, bob = sign_in_resident("alice", COMMUNITY), sign_in_resident("bob", COMMUNITY)
    joined(client, path, alice)
    put(session, id_of(path), joins_until=business_day(now()) - timedelta(days=1))
    refused(client.post(f"{path}/participations", headers=bob), 409, "campaign-closed")
    assert client.delete(f"{path}/participations/mine", headers=alice).status_code == 204


def test_nobody_joins_or_leaves_a_campaign_that_is_being_settled(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = published(client, community_staff)
    alice, bob = sign_in_resident("alice", COMMUNITY), sign_in_resident("bob", COMMUNITY)
    joined(client, path, alice)
    client.post(f"{path}/end", json={"reason": "提前结束"}, headers=community_staff)
    refused(client.post(f"{path}/participations", headers=bob), 409, "campaign-closed")
    refused(client.delete(f"{path}/participations/mine", headers=alice), 409, "campaign-closed")
    assert client.get(f"{path}/progress", headers=alice).status_code == 200


def _as_resident(resident_id: UUID) -> Actor:
    return Actor(id=resident_id, role=Role.RESIDENT, session_id=new_id())


@pytest.mark.parametrize(
    ("instant", "open_then"),
    [("2026-11-30T23:59:59.999999+08:00", True), ("2026-12-01T00:00:00+08:00", False)],
)
def test_joining_ends_with_the_last_business_day_whether_or_not_the_clocks_job_ran(
    client: FlaskClient,
    session: Session,
    make_resident: Callable[..., UUID],
    sign_in_staff: SignIn,
    instant: str,
    open_then: bool,
) -> None:
    campaign_id = _november(session, client, sign_in_staff)
    resident = _as_resident(make_resident(COMMUNITY))
    at = datetime.fromisoformat(instant)
    if open_then:
        assert participation.join(session, resident, campaign_id, now=at).joined_at == at
    else:
        with pytest.raises(CampaignClosed):
            participation.join(session, resident, campaign_id, now=at)


def _november(session: Session, client: FlaskClient, sign_in_staff: SignIn) -> UUID:
    staff = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    campaign_id = UUID(drafted(client, staff, starts_on="2026-11-01", ends_on="2026-11-30")["id"])
    put(session, campaign_id, state=CampaignState.RUNNING, published_at=now())
    return campaign_id


def test_a_join_that_was_checked_before_the_end_is_still_refused_by_the_hold(
    client: FlaskClient,
    session: Session,
    make_resident: Callable[..., UUID],
    sign_in_staff: SignIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    campaign_id = _november(session, client, sign_in_staff)
    resident = _as_resident(make_resident(COMMUNITY))
    look = participation.campaign_for

    def ended_just_after(session: Session, actor: Actor, campaign_id: UUID) -> Campaign:
        found = look(session, actor, campaign_id)
        put(session, campaign_id, state=CampaignState.CLOSED)
        return found

    monkeypatch.setattr(participation, "campaign_for", ended_just_after)
    with pytest.raises(CampaignClosed):
        participation.join(session, resident, campaign_id, now=datetime.fromisoformat("2026-11-15T12:00:00+08:00"))


def test_residents_do_not_read_participation_and_staff_do_not_join(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = published(client, community_staff)
    alice = sign_in_resident("alice", COMMUNITY)
    refused(client.get(f"{path}/participation", headers=alice), 403, "forbidden")
    refused(client.post(CAMPAIGNS, json=terms(), headers=alice), 403, "forbidden")
    refused(client.post(f"{path}/participations", headers=community_staff), 403, "forbidden")
    refused(client.get(CAMPAIGNS), 401, "unauthenticated")


def test_a_participation_is_the_residents_once_in_the_database_too(
    client: FlaskClient, session: Session, make_resident: Callable[..., UUID], community_staff: Headers
) -> None:
    campaign_id = id_of(published(client, community_staff))
    resident_id = make_resident(COMMUNITY)
    row = {"resident_id": resident_id, "campaign_id": campaign_id, "community_code": COMMUNITY, "joined_at": now()}
    session.execute(sa.insert(Participation).values(**row))
    with pytest.raises(IntegrityError, match="participation_pkey"):
        session.execute(sa.insert(Participation).values(**row))


def test_every_field_of_the_terms_is_a_column_and_promised(client: FlaskClient, community_staff: Headers) -> None:
    path = published(client, community_staff)
    (version,) = client.get(f"{path}/versions", headers=community_staff).json["items"]
    assert set(CampaignTerms.__slots__) <= {column.key for column in sa.inspect(Campaign).columns}
    assert set(CampaignTerms.__slots__) <= version["terms"].keys()
    assert set(TaskTerms.__slots__) <= version["terms"]["tasks"][0].keys()
    assert date.fromisoformat(version["terms"]["starts_on"]) <= business_day(now())

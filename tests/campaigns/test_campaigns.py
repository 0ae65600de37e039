"""Campaigns: staff run them in their scope, residents take part, and progress is derived from the residents' days."""

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.drives import campaigns, participation
from campaigns.drives.campaigns import MOVES, Move
from campaigns.drives.models import Campaign, CampaignState, Participation, TargetMeasure
from campaigns.drives.participation import CampaignClosed
from points.earning.models import Behaviour, ResidentDay
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.database import new_id
from server.places.models import Organisation, OrganisationKind

COMMUNITY, NEIGHBOUR = "120104001001", "120104001003"
STREET, OTHER_STREET, DISTRICT = "120104001", "120104002", "120104"

Headers = dict[str, str]
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


def terms(**changes: Any) -> dict[str, Any]:
    today = business_day(now())
    return {
        "title": "步行周",
        "division": COMMUNITY,
        "behaviours": ["walk", "bicycle"],
        "measure": "distance_m",
        "target": 5000,
        "starts_on": (today - timedelta(days=3)).isoformat(),
        "ends_on": (today + timedelta(days=3)).isoformat(),
        **changes,
    }


def drafted(client: FlaskClient, staff: Headers, **changes: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/campaigns", json=terms(**changes), headers=staff)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return dict(answer.json)


def opened(client: FlaskClient, staff: Headers, **changes: Any) -> str:
    campaign = drafted(client, staff, **changes)
    answer = client.post(f"/api/v1/campaigns/{campaign['id']}/open", headers=staff)
    assert answer.status_code == 200, answer.text
    return str(campaign["id"])


def active_on(session: Session, resident_id: UUID, day: date, behaviour: Behaviour, **sums: int) -> None:
    counts = {"activities": 1, "distance_m": 0, "weight_g": 0, "saved_co2e_mg": 0, "points": 0, **sums}
    session.add(ResidentDay(resident_id=resident_id, day=day, behaviour=behaviour, community_code=COMMUNITY, **counts))
    session.commit()


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert answer.content_type == "application/problem+json"


# Running


def test_staff_draft_edit_open_and_close_a_campaign(
    client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    campaign = drafted(client, community_staff)
    path = f"/api/v1/campaigns/{campaign['id']}"
    read = client.get(path, headers=community_staff)
    edited = client.patch(path, json={"target": 7000}, headers={**community_staff, "If-Match": read.headers["ETag"]})
    started = client.post(f"{path}/open", headers=community_staff)
    ended = client.post(f"{path}/close", headers=community_staff)

    assert (campaign["state"], campaign["version"]) == ("draft", 1)
    assert (edited.json["target"], edited.json["title"], edited.headers["ETag"]) == (7000, "步行周", '"2"')
    assert (started.json["state"], ended.json["state"]) == ("open", "closed")
    assert started.json["opened_at"] is not None
    acts = session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.subject == campaign["id"]).order_by(AuditEntry.id)
    ).all()
    assert acts == ["campaign.create", "campaign.edit", "campaign.open", "campaign.close"]


def test_an_edit_names_the_version_that_it_is_based_on(client: FlaskClient, community_staff: Headers) -> None:
    path = f"/api/v1/campaigns/{drafted(client, community_staff)['id']}"
    refused(client.patch(path, json={"target": 1}, headers=community_staff), 428, "precondition-required")
    any_version = {**community_staff, "If-Match": "*"}
    refused(client.patch(path, json={"target": 1}, headers=any_version), 428, "precondition-required")
    for etag in ('"9"', "1", 'W/"1"', '"x"'):
        refused(
            client.patch(path, json={"target": 1}, headers={**community_staff, "If-Match": etag}),
            412,
            "precondition-failed",
        )
    first = client.patch(path, json={"target": 1}, headers={**community_staff, "If-Match": '"1"'})
    second = client.patch(path, json={"target": 2}, headers={**community_staff, "If-Match": '"1"'})
    assert first.status_code == 200
    refused(second, 412, "precondition-failed")


def test_only_a_draft_can_be_edited(client: FlaskClient, community_staff: Headers) -> None:
    campaign_id = opened(client, community_staff)
    answer = client.patch(
        f"/api/v1/campaigns/{campaign_id}", json={"target": 1}, headers={**community_staff, "If-Match": '"2"'}
    )
    refused(answer, 409, "campaign-not-draft")


@pytest.mark.parametrize("state", list(CampaignState))
@pytest.mark.parametrize("step", list(Move))
def test_every_move_is_in_the_table_or_refused(
    client: FlaskClient, session: Session, community_staff: Headers, state: CampaignState, step: Move
) -> None:
    campaign_id = drafted(client, community_staff)["id"]
    session.execute(sa.update(Campaign).where(Campaign.id == campaign_id).values(state=state, opened_at=now()))
    session.commit()
    answer = client.post(f"/api/v1/campaigns/{campaign_id}/{step.value}", headers=community_staff)
    after = MOVES.get((state, step))
    if after is None:
        refused(answer, 409, "campaign-move-refused")
    else:
        assert (answer.status_code, answer.json["state"]) == (200, after.value)


def test_a_campaign_whose_last_day_has_passed_is_not_opened(client: FlaskClient, community_staff: Headers) -> None:
    yesterday = business_day(now()) - timedelta(days=1)
    past = {"starts_on": (yesterday - timedelta(days=9)).isoformat(), "ends_on": yesterday.isoformat()}
    campaign = drafted(client, community_staff, **past)
    refused(client.post(f"/api/v1/campaigns/{campaign['id']}/open", headers=community_staff), 409, "campaign-over")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"starts_on": "2026-01-02", "ends_on": "2026-01-01"}, "campaign-span-invalid"),
        ({"starts_on": "2026-01-01", "ends_on": "2027-01-03"}, "campaign-span-invalid"),
        ({"behaviours": ["sorting"]}, "campaign-target-invalid"),
        ({"behaviours": ["walk", "recycling"], "measure": "weight_g"}, "campaign-target-invalid"),
        ({"behaviours": []}, "invalid-request"),
        ({"behaviours": ["driving"]}, "invalid-request"),
        ({"target": 0}, "invalid-request"),
        ({"target": 1.5}, "invalid-request"),
        ({"target": 1_000_000_000_001}, "invalid-request"),
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
    answer = client.post("/api/v1/campaigns", data=body, content_type="application/json", headers=community_staff)
    refused(answer, 422, code)


def test_the_longest_span_is_accepted(client: FlaskClient, community_staff: Headers) -> None:
    assert drafted(client, community_staff, starts_on="2026-01-01", ends_on="2027-01-02")


def test_the_database_refuses_a_campaign_of_impossible_length_by_itself(
    client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    campaign_id = drafted(client, community_staff)["id"]
    with pytest.raises(IntegrityError, match="campaign_span_check"):
        session.execute(sa.update(Campaign).where(Campaign.id == campaign_id).values(ends_on=Campaign.starts_on - 1))


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
    answer = client.post("/api/v1/campaigns", json=terms(division=place), headers=staff)
    assert answer.status_code == (201 if allowed else 404)


def test_another_communitys_campaign_does_not_exist_for_staff(
    client: FlaskClient, sign_in_staff: SignIn, community_staff: Headers, neighbour: str
) -> None:
    campaign_id = opened(client, community_staff)
    stranger = sign_in_staff(Role.COMMUNITY_STAFF, division=neighbour)
    path = f"/api/v1/campaigns/{campaign_id}"
    refused(client.get(path, headers=stranger), 404, "not-found")
    refused(client.patch(path, json={}, headers={**stranger, "If-Match": '"1"'}), 404, "not-found")
    for step in Move:
        refused(client.post(f"{path}/{step.value}", headers=stranger), 404, "not-found")
    refused(client.get(f"{path}/participation", headers=stranger), 404, "not-found")
    assert client.get("/api/v1/campaigns", headers=stranger).json["items"] == []


def test_school_staff_run_their_schools_campaigns_for_the_community_around_it(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn, neighbour: str
) -> None:
    school = Organisation(
        id=new_id(),
        kind=OrganisationKind.SCHOOL,
        name="示例学校",
        community_code=COMMUNITY,
        valid_from=date(2026, 1, 1),
    )
    session.add(school)
    session.commit()
    staff = sign_in_staff(Role.SCHOOL_STAFF, organisation=school.id)
    place = {"division": None, "organisation_id": str(school.id)}
    campaign_id = opened(client, staff, **place)

    assert client.get(f"/api/v1/campaigns/{campaign_id}", headers=staff).json["division"] == COMMUNITY
    assert client.post("/api/v1/campaigns", json=terms(), headers=staff).status_code == 404
    joined = f"/api/v1/campaigns/{campaign_id}/participations"
    assert client.post(joined, headers=sign_in_resident("alice", COMMUNITY)).status_code == 201
    refused(client.post(joined, headers=sign_in_resident("carol", neighbour)), 404, "not-found")


def test_the_list_is_paged_newest_first(client: FlaskClient, community_staff: Headers) -> None:
    made = [drafted(client, community_staff, title=f"活动{number}")["id"] for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/campaigns", query_string=query, headers=community_staff).json
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    refused(client.get("/api/v1/campaigns?cursor=AAAA", headers=community_staff), 422, "bad-cursor")
    refused(client.get("/api/v1/campaigns?unknown=1", headers=community_staff), 422, "invalid-request")


# Taking part


def test_a_resident_joins_once_and_leaves(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = f"/api/v1/campaigns/{opened(client, community_staff)}"
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
    path = f"/api/v1/campaigns/{opened(client, community_staff)}/participations"
    alice = {**sign_in_resident("alice", COMMUNITY), "Idempotency-Key": "join-once-1"}
    first, second = client.post(path, headers=alice), client.post(path, headers=alice)
    assert (first.status_code, second.status_code) == (201, 201)
    assert (first.data, second.headers["Idempotent-Replayed"]) == (second.data, "true")


@pytest.mark.parametrize(("place", "seen"), [(COMMUNITY, False), (STREET, True), (DISTRICT, True)])
def test_residents_see_and_join_what_holds_their_home(
    client: FlaskClient, sign_in_staff: SignIn, sign_in_resident: SignIn, neighbour: str, place: str, seen: bool
) -> None:
    campaign_id = opened(client, sign_in_staff(Role.DISTRICT, division=DISTRICT), division=place)
    carol = sign_in_resident("carol", neighbour)
    path = f"/api/v1/campaigns/{campaign_id}"
    assert client.get(path, headers=carol).status_code == (200 if seen else 404)
    assert client.post(f"{path}/participations", headers=carol).status_code == (201 if seen else 404)
    listed = [row["id"] for row in client.get("/api/v1/campaigns", headers=carol).json["items"]]
    assert listed == ([campaign_id] if seen else [])


def test_residents_see_neither_drafts_nor_cancelled_campaigns(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    alice = sign_in_resident("alice", COMMUNITY)
    campaign_id = drafted(client, community_staff)["id"]
    path = f"/api/v1/campaigns/{campaign_id}"
    refused(client.get(path, headers=alice), 404, "not-found")
    client.post(f"{path}/open", headers=community_staff)
    assert client.get(path, headers=alice).status_code == 200
    client.post(f"{path}/cancel", headers=community_staff)
    refused(client.get(path, headers=alice), 404, "not-found")
    refused(client.post(f"{path}/participations", headers=alice), 404, "not-found")


def test_a_resident_without_a_home_sees_no_campaign(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    campaign_id = opened(client, community_staff)
    nowhere = sign_in_resident("bob", None)
    refused(client.post(f"/api/v1/campaigns/{campaign_id}/participations", headers=nowhere), 404, "not-found")
    assert client.get("/api/v1/campaigns", headers=nowhere).json["items"] == []


def test_who_moves_house_keeps_what_they_joined_but_cannot_join_it_anew(
    client: FlaskClient, session: Session, sign_in_resident: SignIn, community_staff: Headers, neighbour: str
) -> None:
    path = f"/api/v1/campaigns/{opened(client, community_staff)}"
    alice = sign_in_resident("alice", COMMUNITY)
    client.post(f"{path}/participations", headers=alice)
    session.execute(
        sa.text("UPDATE resident SET community_code = :code WHERE resident_id = :id"),
        {"code": neighbour, "id": sign_in_resident.known["alice"]},  # type: ignore[attr-defined]
    )
    session.commit()
    assert client.get(f"{path}/progress", headers=alice).status_code == 200
    assert client.delete(f"{path}/participations/mine", headers=alice).status_code == 204
    refused(client.post(f"{path}/participations", headers=alice), 404, "not-found")


def test_nobody_joins_or_leaves_a_closed_campaign(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = f"/api/v1/campaigns/{opened(client, community_staff)}"
    alice, bob = sign_in_resident("alice", COMMUNITY), sign_in_resident("bob", COMMUNITY)
    client.post(f"{path}/participations", headers=alice)
    client.post(f"{path}/close", headers=community_staff)
    refused(client.post(f"{path}/participations", headers=bob), 409, "campaign-closed")
    refused(client.delete(f"{path}/participations/mine", headers=alice), 409, "campaign-closed")
    assert client.get(f"{path}/progress", headers=alice).status_code == 200


def _as_resident(resident_id: UUID) -> Actor:
    return Actor(id=resident_id, role=Role.RESIDENT, session_id=new_id())


@pytest.mark.parametrize(
    ("instant", "open_then"),
    [("2026-11-30T23:59:59.999999+08:00", True), ("2026-12-01T00:00:00+08:00", False)],
)
def test_joining_ends_with_the_last_business_day_whether_or_not_the_closing_command_ran(
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
    session.execute(
        sa.update(Campaign).where(Campaign.id == campaign_id).values(state=CampaignState.OPEN, opened_at=now())
    )
    session.commit()
    return campaign_id


def test_a_join_that_was_checked_before_the_closing_is_still_refused_by_the_write(
    client: FlaskClient,
    session: Session,
    make_resident: Callable[..., UUID],
    sign_in_staff: SignIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    campaign_id = _november(session, client, sign_in_staff)
    resident = _as_resident(make_resident(COMMUNITY))
    look = participation.campaign_for

    def closed_just_after(session: Session, actor: Actor, campaign_id: UUID) -> Campaign:
        found = look(session, actor, campaign_id)
        session.execute(sa.update(Campaign).where(Campaign.id == campaign_id).values(state=CampaignState.CLOSED))
        return found

    monkeypatch.setattr(participation, "campaign_for", closed_just_after)
    with pytest.raises(CampaignClosed):
        participation.join(session, resident, campaign_id, now=datetime.fromisoformat("2026-11-15T12:00:00+08:00"))


# Progress


def test_progress_adds_up_the_measure_over_the_behaviours_and_days_of_the_campaign(
    client: FlaskClient, session: Session, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    today = business_day(now())
    path = f"/api/v1/campaigns/{opened(client, community_staff)}"
    alice = sign_in_resident("alice", COMMUNITY)
    alice_id = sign_in_resident.known["alice"]  # type: ignore[attr-defined]
    client.post(f"{path}/participations", headers=alice)
    for days, behaviour, distance_m in (
        (-4, Behaviour.WALK, 100_000),  # before the first day
        (-3, Behaviour.WALK, 1000),  # the first day, before joining: it counts
        (0, Behaviour.BICYCLE, 2000),
        (0, Behaviour.BUS, 50_000),  # not a behaviour of the campaign
        (3, Behaviour.WALK, 1999),  # the last day
        (4, Behaviour.WALK, 100_000),  # after it
    ):
        active_on(session, alice_id, today + timedelta(days=days), behaviour, distance_m=distance_m)
    active_on(session, uuid4(), today, Behaviour.WALK, distance_m=9000)  # somebody else

    almost = client.get(f"{path}/progress", headers=alice).json
    active_on(session, alice_id, today + timedelta(days=1), Behaviour.WALK, distance_m=1)
    reached = client.get(f"{path}/progress", headers=alice).json

    assert (almost["done"], almost["target"], almost["ratio"], almost["completed"]) == (4999, 5000, 0.9998, False)
    assert (reached["done"], reached["ratio"], reached["completed"]) == (5000, 1.0, True)


@pytest.mark.parametrize(
    ("measure", "done"),
    [
        (TargetMeasure.ACTIVITIES, 2),
        (TargetMeasure.WEIGHT_G, 30),
        (TargetMeasure.SAVED_CO2E_MG, 500),
        (TargetMeasure.POINTS, 7),
    ],
)
def test_every_measure_reads_its_own_column(
    client: FlaskClient,
    session: Session,
    sign_in_resident: SignIn,
    community_staff: Headers,
    measure: TargetMeasure,
    done: int,
) -> None:
    campaign_id = opened(client, community_staff, behaviours=["recycling"], measure=measure.value, target=1000)
    alice = sign_in_resident("alice", COMMUNITY)
    client.post(f"/api/v1/campaigns/{campaign_id}/participations", headers=alice)
    sums = {"activities": 2, "distance_m": 11, "weight_g": 30, "saved_co2e_mg": 500, "points": 7}
    alice_id = sign_in_resident.known["alice"]  # type: ignore[attr-defined]
    active_on(session, alice_id, business_day(now()), Behaviour.RECYCLING, **sums)
    assert client.get(f"/api/v1/campaigns/{campaign_id}/progress", headers=alice).json["done"] == done


def test_staff_read_how_many_joined_and_completed_by_community(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn, neighbour: str
) -> None:
    street = sign_in_staff(Role.STREET, division=STREET)
    campaign_id = opened(client, street, division=STREET)
    today = business_day(now())
    homes = {"alice": COMMUNITY, "bob": COMMUNITY, "carol": neighbour, "dave": neighbour}
    for user, home in homes.items():
        headers = sign_in_resident(user, home)
        client.post(f"/api/v1/campaigns/{campaign_id}/participations", headers=headers)
    known = sign_in_resident.known  # type: ignore[attr-defined]
    active_on(session, known["alice"], today, Behaviour.WALK, distance_m=3000)
    active_on(session, known["alice"], today, Behaviour.BICYCLE, distance_m=2000)
    active_on(session, known["bob"], today, Behaviour.WALK, distance_m=4999)
    active_on(session, uuid4(), today, Behaviour.WALK, distance_m=9999)

    read = client.get(f"/api/v1/campaigns/{campaign_id}/participation", headers=street).json

    assert (read["joined"], read["completed"]) == (4, 1)
    by_community = {row["community_code"]: (row["joined"], row["completed"]) for row in read["communities"]}
    assert by_community == {COMMUNITY: (2, 1), neighbour: (2, 0)}
    assert all(row["community_name"] for row in read["communities"])


def test_residents_do_not_read_participation_and_staff_do_not_join(
    client: FlaskClient, sign_in_resident: SignIn, community_staff: Headers
) -> None:
    path = f"/api/v1/campaigns/{opened(client, community_staff)}"
    alice = sign_in_resident("alice", COMMUNITY)
    refused(client.get(f"{path}/participation", headers=alice), 403, "forbidden")
    refused(client.post("/api/v1/campaigns", json=terms(), headers=alice), 403, "forbidden")
    refused(client.post(f"{path}/participations", headers=community_staff), 403, "forbidden")
    refused(client.get("/api/v1/campaigns"), 401, "unauthenticated")


# Closing


def test_the_closing_command_closes_what_has_ended_and_a_second_time_nothing(
    app: Flask, client: FlaskClient, session: Session, community_staff: Headers
) -> None:
    running = opened(client, community_staff)
    ended = opened(client, community_staff)
    yesterday = business_day(now()) - timedelta(days=1)
    session.execute(sa.update(Campaign).where(Campaign.id == ended).values(ends_on=yesterday))
    session.commit()
    runner = app.test_cli_runner()

    first, second = (runner.invoke(args=["campaigns", "close-ended"]) for _ in range(2))

    assert ("1 closed" in first.output, "0 closed" in second.output) == (True, True)
    states = {
        each: client.get(f"/api/v1/campaigns/{each}", headers=community_staff).json["state"]
        for each in (running, ended)
    }
    assert states == {running: "open", ended: "closed"}
    closings = session.scalars(sa.select(AuditEntry).where(AuditEntry.act == "campaign.close")).all()
    assert [(entry.subject, entry.staff_id) for entry in closings] == [(ended, None)]


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
            sa.update(Campaign).where(Campaign.id == campaign_id).values(version=Campaign.version + 1, target=9)
        )
        return found

    monkeypatch.setattr(campaigns, "campaign_for", edited_just_after)
    with pytest.raises(campaigns.CampaignMoveRefused):
        campaigns.move(session, staff, campaign_id, Move.OPEN, now=now())


def test_a_participation_is_the_residents_once_in_the_database_too(
    client: FlaskClient, session: Session, make_resident: Callable[..., UUID], community_staff: Headers
) -> None:
    campaign_id = UUID(opened(client, community_staff))
    resident_id = make_resident(COMMUNITY)
    row = {"resident_id": resident_id, "campaign_id": campaign_id, "community_code": COMMUNITY, "joined_at": now()}
    session.execute(sa.insert(Participation).values(**row))
    with pytest.raises(IntegrityError, match="participation_pkey"):
        session.execute(sa.insert(Participation).values(**row))

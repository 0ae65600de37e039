"""Tasks: progress derived from days, check-ins, quizzes and evidence, for a person or a team."""

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from campaign_builders import (
    COMMUNITY,
    STREET,
    Headers,
    active_on,
    days,
    id_of,
    joined,
    published,
    quiz,
    refused,
    task,
    tasks_at,
    walked,
)
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.attendance.models import CheckIn, CheckInSlot, CheckInWay, SlotKind
from campaigns.drives.models import Campaign, TargetMeasure
from campaigns.drives.terms import tasks_of
from campaigns.tasks import jobs, progress
from campaigns.tasks.models import QuizAttempt, TaskEvidence
from points.earning import counts
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade
from server.access import Role
from server.clock import business_day, now
from server.database import new_id

SignIn = Callable[..., Headers]

TEAMS = {"team_kind": "class", "team_size_min": 2, "team_size_max": 3}


@pytest.fixture
def staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def alice(sign_in_resident: SignIn) -> Headers:
    return sign_in_resident("alice")


@pytest.fixture
def alice_id(alice: Headers, sign_in_resident: SignIn) -> UUID:
    return UUID(str(sign_in_resident.known["alice"]))  # type: ignore[attr-defined]


def done(client: FlaskClient, path: str, person: Headers) -> list[int]:
    """How far somebody is in each task."""
    answer = client.get(f"{path}/progress", headers=person)
    assert answer.status_code == 200, answer.text
    return [row["done"] for row in answer.json["tasks"]]


# Behaviours


def test_progress_adds_up_the_measure_over_the_behaviours_and_days_of_the_campaign(
    client: FlaskClient, session: Session, staff: Headers, alice: Headers, alice_id: UUID
) -> None:
    today = business_day(now())
    path = published(client, staff)
    joined(client, path, alice)
    for offset, behaviour, distance_m in (
        (-4, Behaviour.WALK, 100_000),  # before the first day
        (-3, Behaviour.WALK, 1000),  # the first day, before joining: it counts
        (0, Behaviour.BICYCLE, 2000),
        (0, Behaviour.BUS, 50_000),  # not a behaviour of the task
        (3, Behaviour.WALK, 1999),  # the last day
        (4, Behaviour.WALK, 100_000),  # after it
    ):
        active_on(session, alice_id, today + timedelta(days=offset), behaviour, distance_m=distance_m)
    active_on(session, uuid4(), today, Behaviour.WALK, distance_m=9000)  # somebody else

    (almost,) = client.get(f"{path}/progress", headers=alice).json["tasks"]
    active_on(session, alice_id, today + timedelta(days=1), Behaviour.WALK, distance_m=1)
    reached = client.get(f"{path}/progress", headers=alice).json

    assert (almost["done"], almost["target"], almost["ratio"], almost["completed"]) == (4999, 5000, 0.9998, False)
    assert (reached["completed"], reached["tasks"][0]["done"], reached["tasks"][0]["ratio"]) == (True, 5000, 1.0)


@pytest.mark.parametrize(
    ("measure", "expected"),
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
    staff: Headers,
    alice: Headers,
    alice_id: UUID,
    measure: TargetMeasure,
    expected: int,
) -> None:
    path = published(
        client, staff, tasks=[task(behaviours=["recycling"], measure=measure.value, target=1000)], **days(0, 1)
    )
    joined(client, path, alice)
    sums = {"activities": 2, "distance_m": 11, "weight_g": 30, "saved_co2e_mg": 500, "points": 7}
    active_on(session, alice_id, business_day(now()), Behaviour.RECYCLING, **sums)
    assert done(client, path, alice) == [expected]


def test_days_after_an_early_end_count_no_more(
    client: FlaskClient, session: Session, staff: Headers, alice: Headers, alice_id: UUID
) -> None:
    path = published(client, staff)
    joined(client, path, alice)
    walked(session, alice_id, 100)
    client.post(f"{path}/end", json={"reason": "提前结束"}, headers=staff)
    walked(session, alice_id, 1000, days_ago=-1)
    walked(session, alice_id, 10, days_ago=1)  # a late record of a day that counts
    assert done(client, path, alice) == [110]


def test_the_reversal_of_an_activity_lowers_progress_at_once(
    client: FlaskClient, session: Session, staff: Headers, alice: Headers, alice_id: UUID
) -> None:
    path = published(client, staff, tasks=[task(behaviours=["sorting"], measure="activities", target=1)])
    joined(client, path, alice)
    at = now() - timedelta(minutes=5)
    claim = Claim(
        resident_id=alice_id,
        behaviour=Behaviour.SORTING,
        mode="kitchen",
        grade=Grade.PARTNER_SIGNED,
        source="test",
        external_id="e-1",
        started_at=at,
        ended_at=at,
        received_at=now(),
    )
    activity_id = award(session, [claim], now=now())[0].activity_id
    session.commit()
    assert activity_id is not None
    before = client.get(f"{path}/progress", headers=alice).json
    counts.revoke(session, alice_id, activity_id, why="更正", now=now())
    session.commit()
    after = client.get(f"{path}/progress", headers=alice).json
    assert (before["tasks"][0]["done"], before["completed"]) == (1, True)
    assert (after["tasks"][0]["done"], after["completed"]) == (0, False)


# Check-ins and volunteering


def slot(session: Session, campaign_id: UUID, kind: SlotKind) -> UUID:
    made = CheckInSlot(
        id=new_id(),
        campaign_id=campaign_id,
        kind=kind,
        site_name="社区广场",
        opens_at=now(),
        closes_at=now() + timedelta(hours=2),
        minutes_max=120 if kind is SlotKind.VOLUNTEER else None,
        created_by=session.scalar(sa.select(Campaign.created_by).where(Campaign.id == campaign_id)),
        created_at=now(),
    )
    session.add(made)
    session.commit()
    return made.id


def was_at(session: Session, resident_id: UUID, campaign_id: UUID, slot_id: UUID, minutes: int = 0) -> None:
    session.add(
        CheckIn(
            resident_id=resident_id,
            slot_id=slot_id,
            campaign_id=campaign_id,
            way=CheckInWay.ROTATING,
            day=business_day(now()),
            checked_in_at=now(),
            signed_out_at=now() if minutes else None,
            minutes=minutes,
        )
    )
    session.commit()


def test_check_ins_and_volunteer_minutes_count_each_to_their_own_kind_of_task(
    client: FlaskClient, session: Session, staff: Headers, alice: Headers, alice_id: UUID
) -> None:
    tasks = [
        {"kind": "check-in", "title": "到场两处", "target": 2},
        {"kind": "volunteer", "title": "服务一小时", "target": 60},
    ]
    path = published(client, staff, tasks=tasks)
    other = published(client, staff, tasks=tasks)
    joined(client, path, alice)
    joined(client, other, alice)
    campaign_id = id_of(path)
    visits = [slot(session, campaign_id, SlotKind.VISIT) for _ in range(2)]
    shifts = [slot(session, campaign_id, SlotKind.VOLUNTEER) for _ in range(2)]
    was_at(session, alice_id, campaign_id, visits[0])
    was_at(session, alice_id, campaign_id, shifts[0], 59)
    assert done(client, path, alice) == [1, 59]
    was_at(session, alice_id, campaign_id, visits[1])
    was_at(session, alice_id, campaign_id, shifts[1], 1)
    assert done(client, path, alice) == [2, 60]
    assert client.get(f"{path}/progress", headers=alice).json["completed"]
    assert done(client, other, alice) == [0, 0], "of another campaign"


# Teams


def team_of(client: FlaskClient, path: str, name: str, captain: Headers, *members: Headers) -> str:
    founded = client.post(f"{path}/teams", json={"name": name}, headers=captain).json
    for member in members:
        answer = client.post(f"{path}/teams/mine", json={"code": founded["join_code"]}, headers=member)
        assert answer.status_code == 201, answer.text
    return str(founded["id"])


def test_in_a_task_of_teams_everybody_is_as_far_as_the_team(
    client: FlaskClient, session: Session, staff: Headers, sign_in_resident: SignIn
) -> None:
    path = published(client, staff, tasks=[task(), task(subject="team")], **TEAMS)
    people = {name: sign_in_resident(name) for name in ("alice", "bob", "carol", "dave")}
    known: dict[str, UUID] = sign_in_resident.known  # type: ignore[attr-defined]
    joined(client, path, *people.values())
    team = team_of(client, path, "一队", people["alice"], people["bob"])
    team_of(client, path, "二队", people["carol"])
    for name, distance_m in (("alice", 2000), ("bob", 3000), ("carol", 4000), ("dave", 6000)):
        walked(session, known[name], distance_m)

    assert {name: done(client, path, headers) for name, headers in people.items()} == {
        "alice": [2000, 5000],
        "bob": [3000, 5000],
        "carol": [4000, 4000],
        "dave": [6000, 0],
    }
    campaign_id = id_of(path)
    first, second = tasks_of(session, campaign_id)
    reached = progress.completed_teams(session, campaign_id)
    assert reached == {second.id: frozenset({UUID(team)})}
    assert [progress.completed(session, known[name], second) for name in known] == [True, True, False, False]
    assert [progress.completed(session, known[name], first) for name in known] == [False, False, False, True]
    assert not progress.completed(session, uuid4(), first)
    in_order = sorted(known, key=lambda name: known[name])
    wanted = [(known[n], first.id if n == "dave" else second.id) for n in in_order if n != "carol"]
    for teams in (None, reached):
        rows = progress.completions(session, campaign_id, after=None, limit=100, teams=teams)
        assert [(row.resident_id, row.task_id) for row in rows] == wanted


def test_completions_are_walked_in_whole_residents_past_those_who_have_none(
    client: FlaskClient, session: Session, staff: Headers, sign_in_resident: SignIn
) -> None:
    path = published(client, staff, tasks=[task(reward_points=5), task(target=100, reward_points=7)])
    names = [f"r{number}" for number in range(7)]
    people = {name: sign_in_resident(name) for name in names}
    known: dict[str, UUID] = sign_in_resident.known  # type: ignore[attr-defined]
    joined(client, path, *people.values())
    for name, distance_m in (("r0", 100), ("r4", 5000), ("r6", 99)):
        walked(session, known[name], distance_m)

    walk: list[list[tuple[UUID, int]]] = []
    after = None
    while rows := progress.completions(session, id_of(path), after=after, limit=2):
        walk.append([(row.resident_id, row.reward_points) for row in rows])
        after = rows[-1].resident_id
    assert walk == [[(known["r0"], 7)], [(known["r4"], 5), (known["r4"], 7)]]


def test_staff_read_how_many_joined_and_completed_every_task_by_community(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    street = sign_in_staff(Role.STREET, division=STREET)
    path = published(client, street, division=STREET, tasks=[task(), task(target=1)])
    neighbour = session.scalar(
        sa.text("SELECT code FROM division WHERE level = 'community' AND parent_code = :s ORDER BY code OFFSET 1"),
        {"s": STREET},
    )
    homes = {"alice": COMMUNITY, "bob": COMMUNITY, "carol": neighbour, "dave": neighbour}
    for user, home in homes.items():
        joined(client, path, sign_in_resident(user, home))
    known: dict[str, UUID] = sign_in_resident.known  # type: ignore[attr-defined]
    walked(session, known["alice"], 5000)
    walked(session, known["bob"], 4999)
    walked(session, uuid4(), 9999)

    read = client.get(f"{path}/participation", headers=street).json

    assert (read["joined"], read["completed"]) == (4, 1)
    by_community = {row["community_code"]: (row["joined"], row["completed"]) for row in read["communities"]}
    assert by_community == {COMMUNITY: (2, 1), neighbour: (2, 0)}
    assert all(row["community_name"] for row in read["communities"])


# Quizzes


def answered(client: FlaskClient, path: str, task_id: str, person: Headers, *answers: list[int]) -> Any:
    return client.post(f"{path}/tasks/{task_id}/attempts", json={"answers": list(answers)}, headers=person)


def test_a_quiz_is_marked_here_and_the_best_attempt_counts(client: FlaskClient, staff: Headers, alice: Headers) -> None:
    path = published(client, staff, tasks=[quiz([[0], [1, 2], [2]], target=2)])
    joined(client, path, alice)
    (only,) = tasks_at(client, alice, path)
    first = answered(client, path, only["id"], alice, [0], [1, 2], [0])
    second = answered(client, path, only["id"], alice, [0], [1], [])

    assert first.json == {
        "number": 1,
        "right_answers": 2,
        "questions": 3,
        "target": 2,
        "passed": True,
        "attempts_left": 2,
    }
    assert (second.json["right_answers"], second.json["passed"]) == (1, False), "half of the right options is wrong"
    assert done(client, path, alice) == [2]
    listed = client.get(f"{path}/tasks/{only['id']}/attempts", headers=alice).json["items"]
    assert [(row["number"], row["right_answers"]) for row in listed] == [(1, 2), (2, 1)]


def test_attempts_are_limited_here_and_in_the_database(
    client: FlaskClient, session: Session, staff: Headers, alice: Headers
) -> None:
    path = published(client, staff, tasks=[quiz([[0]], attempts_max=2)])
    joined(client, path, alice)
    (only,) = tasks_at(client, alice, path)
    assert [answered(client, path, only["id"], alice, [1]).status_code for _ in range(2)] == [201, 201]
    refused(answered(client, path, only["id"], alice, [0]), 409, "attempts-used-up")
    assert done(client, path, alice) == [0]
    for values, constraint in (({"number": 1}, "quiz_attempt_pkey"), ({"number": 11}, "quiz_attempt_number_check")):
        with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
            session.execute(sa.update(QuizAttempt).where(QuizAttempt.number == 2).values(**values))


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([[0]], "quiz-answers-invalid"),
        ([[0], [1], [2]], "quiz-answers-invalid"),
        ([[0], [3]], "quiz-answers-invalid"),
        ([[0], [6]], "invalid-request"),
        ([[0], ["1"]], "invalid-request"),
        ([], "invalid-request"),
    ],
)
def test_an_attempt_answers_every_question_with_its_own_options(
    client: FlaskClient, staff: Headers, alice: Headers, answers: list[list[Any]], code: str
) -> None:
    path = published(client, staff, tasks=[quiz([[0], [1]])])
    joined(client, path, alice)
    (only,) = tasks_at(client, alice, path)
    refused(answered(client, path, only["id"], alice, *answers), 422, code)


def test_quizzes_are_for_participants_on_the_campaigns_days(
    client: FlaskClient, staff: Headers, alice: Headers
) -> None:
    path = published(client, staff, tasks=[quiz([[0]]), task()], **days(1, 3))
    questions, walks = tasks_at(client, alice, path)
    refused(answered(client, path, questions["id"], alice, [0]), 404, "not-joined")
    joined(client, path, alice)
    refused(answered(client, path, questions["id"], alice, [0]), 409, "campaign-closed")
    refused(answered(client, path, walks["id"], alice, [0]), 409, "task-of-another-kind")
    refused(answered(client, path, str(uuid4()), alice, [0]), 404, "not-found")
    refused(answered(client, path, questions["id"], staff, [0]), 403, "forbidden")


# Evidence


def picture(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (colour, 80, 80)).save(file, "PNG")
    return file.getvalue()


def sent(client: FlaskClient, path: str, task_id: str, person: Headers, colour: int = 10) -> Any:
    data = {"file": (io.BytesIO(picture(colour)), "plate.png")}
    return client.post(
        f"{path}/tasks/{task_id}/evidence", data=data, content_type="multipart/form-data", headers=person
    )


@pytest.fixture
def plates(client: FlaskClient, staff: Headers, alice: Headers) -> tuple[str, str]:
    """A campaign that alice joined and its task of two pictures."""
    path = published(client, staff, tasks=[{"kind": "evidence", "title": "光盘照片", "target": 2}])
    joined(client, path, alice)
    return path, tasks_at(client, alice, path)[0]["id"]


def test_an_upload_counts_once_staff_have_confirmed_it(
    client: FlaskClient, staff: Headers, alice: Headers, plates: tuple[str, str]
) -> None:
    path, task_id = plates
    uploads = [sent(client, path, task_id, alice, colour) for colour in (1, 2, 3)]
    assert [answer.status_code for answer in uploads] == [201] * 3, uploads[0].text
    assert done(client, path, alice) == [0]
    waiting = client.get(f"{path}/evidence?state=sent", headers=staff).json["items"]
    first, second, third = (f"{path}/evidence/{row['id']}" for row in waiting)

    assert client.post(f"{first}/confirm", headers=staff).json["state"] == "confirmed"
    assert client.post(f"{second}/refuse", json={"reason": "看不清"}, headers=staff).json["state"] == "refused"
    refused(client.post(f"{third}/refuse", json={}, headers=staff), 422, "invalid-request")
    for step in ("confirm", "refuse"):
        answer = client.post(f"{first}/{step}", json={"reason": "改主意"} if step == "refuse" else None, headers=staff)
        refused(answer, 409, "evidence-decided")

    assert done(client, path, alice) == [1]
    own = client.get(f"{path}/tasks/{task_id}/evidence", headers=alice).json["items"]
    assert [(row["state"], row["reason"]) for row in own] == [
        ("confirmed", None),
        ("refused", "看不清"),
        ("sent", None),
    ]
    assert "resident" not in str(waiting), "staff judge the picture and not the person"
    served = client.get(f"{first}/file", headers=alice)
    assert (served.status_code, served.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "attachment" in served.headers["Content-Disposition"]


def test_one_picture_counts_once_for_a_person_and_is_marked_when_others_send_it(
    client: FlaskClient, staff: Headers, alice: Headers, sign_in_resident: SignIn, plates: tuple[str, str]
) -> None:
    path, task_id = plates
    bob = sign_in_resident("bob")
    joined(client, path, bob)
    assert sent(client, path, task_id, alice, 7).status_code == 201
    refused(sent(client, path, task_id, alice, 7), 409, "evidence-repeated")
    assert sent(client, path, task_id, bob, 7).status_code == 201
    assert sent(client, path, task_id, bob, 8).status_code == 201
    listed = client.get(f"{path}/evidence", headers=staff).json["items"]
    assert [row["copies"] for row in listed] == [2, 2, 1]


def test_uploads_are_for_participants_and_seen_by_their_sender_and_staff_in_scope(
    client: FlaskClient,
    staff: Headers,
    alice: Headers,
    sign_in_resident: SignIn,
    sign_in_staff: SignIn,
    plates: tuple[str, str],
) -> None:
    path, task_id = plates
    bob, elsewhere = sign_in_resident("bob"), sign_in_staff(Role.COMMUNITY_STAFF, division="120104001003")
    refused(sent(client, path, task_id, bob), 404, "not-joined")
    joined(client, path, bob)
    upload = f"{path}/evidence/{sent(client, path, task_id, alice).json['id']}"
    assert client.get(f"{upload}/file", headers=staff).status_code == 200
    for stranger in (bob, elsewhere):
        refused(client.get(f"{upload}/file", headers=stranger), 404, "not-found")
    refused(client.post(f"{upload}/confirm", headers=elsewhere), 404, "not-found")
    refused(client.post(f"{upload}/confirm", headers=alice), 403, "forbidden")
    assert client.get(f"{path}/tasks/{task_id}/evidence", headers=bob).json["items"] == []


def test_staff_decide_after_the_end_but_nobody_uploads_then(
    client: FlaskClient, staff: Headers, alice: Headers, plates: tuple[str, str]
) -> None:
    path, task_id = plates
    upload = f"{path}/evidence/{sent(client, path, task_id, alice).json['id']}"
    client.post(f"{path}/end", json={"reason": "提前结束"}, headers=staff)
    refused(sent(client, path, task_id, alice, 99), 409, "campaign-closed")
    assert client.post(f"{upload}/confirm", headers=staff).status_code == 200


def test_uploads_for_a_task_are_limited_in_the_database_too(
    client: FlaskClient, session: Session, alice: Headers, plates: tuple[str, str]
) -> None:
    path, task_id = plates
    assert sent(client, path, task_id, alice).status_code == 201
    session.execute(sa.update(TaskEvidence).values(number=50))
    session.commit()
    refused(sent(client, path, task_id, alice, 11), 409, "evidence-too-much")
    for values, constraint in (
        ({"number": 51}, "task_evidence_number_check"),
        ({"state": "refused", "decided_by": None}, "task_evidence_decision_check"),
    ):
        with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
            session.execute(sa.update(TaskEvidence).values(**values))


def test_files_are_forgotten_half_a_year_after_the_end_and_decisions_stay(
    app: Flask, client: FlaskClient, session: Session, staff: Headers, alice: Headers, plates: tuple[str, str]
) -> None:
    path, task_id = plates
    upload = f"{path}/evidence/{sent(client, path, task_id, alice).json['id']}"
    client.post(f"{upload}/confirm", headers=staff)
    client.post(f"{path}/cancel", json={"reason": "暴雨"}, headers=staff)

    def forgotten_after(days_ago: int) -> int:
        ended = business_day(now()) - timedelta(days=days_ago)
        session.execute(sa.update(Campaign).values(starts_on=ended, ends_on=ended))
        session.commit()
        with app.app_context():
            jobs.forget_evidence(0)
        return client.get(f"{upload}/file", headers=staff).status_code

    assert [forgotten_after(180), forgotten_after(181)] == [200, 404]
    assert done(client, path, alice) == [1]

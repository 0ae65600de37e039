"""Own diaries: drawn by chance, answered whatever the modes, rewarded the same, and cut off from whoever wrote them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import transferred, wrong
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from points.ledger import budgets
from points.ledger.models import Transfer
from points.share.diaries import answering, closing, drawing, jobs, rounds
from points.share.diaries.answering import Answer, ModeUnknown, Trip, TripsOverlap
from points.share.diaries.codes import code_of
from points.share.diaries.drawing import Cell, Frame, NobodyToInvite, SampleTooSmall, shared_out
from points.share.diaries.models import (
    DiaryCell,
    DiaryInvitation,
    DiaryRound,
    DiaryTrip,
    RoundState,
    TripPurpose,
)
from points.share.estimate.exchange import Options
from points.share.survey import definition
from points.share.survey.microdata import estimate_input, write_wave
from points.share.survey.models import SurveyPerson, SurveyTrip, SurveyWave, WaveKind
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, now
from server.database import engine_options, new_id, psycopg_url
from server.notices.models import Notice
from server.people.models import Resident, Staff, WechatIdentity
from server.places.models import Division
from server.settings import Settings

DISTRICT = "120104"
STREET, OTHER_STREET = "120104001", "120104002"
COMMUNITY, OTHER_COMMUNITY = "120104001001", "120104002001"
DEFINITION = "green-travel-2020"
FIRST, LAST, CLOSES = date(2026, 11, 23), date(2026, 11, 29), date(2026, 12, 3)

Headers = dict[str, str]
SignIn = Callable[..., Headers]

pytestmark = pytest.mark.usefixtures("clock")


def at(day: date, hour: int = 9) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=SHANGHAI)


def trip(start: int, *legs: str, minutes: int = 20, **more: Any) -> dict[str, Any]:
    return {
        "started_minute": start,
        "ended_minute": start + minutes,
        "purpose": "work",
        "legs": list(legs or ("bus",)),
        **more,
    }


def as_trip(start: int, *legs: str, minutes: int = 20) -> Trip:
    return Trip(start, start + minutes, TripPurpose.WORK, legs or ("bus",))


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json and answer.json.get("code")) == (status, code), answer.text


def plan_of(**changes: Any) -> dict[str, Any]:
    return {
        "code": "diary-2026-autumn",
        "name": "2026年秋季出行日记",
        "definition_id": DEFINITION,
        "first_on": FIRST.isoformat(),
        "last_on": LAST.isoformat(),
        "closes_on": CLOSES.isoformat(),
        "reward_points": 30,
        "sample_size": 12,
        **changes,
    }


def people(session: Session, community: str, count: int, born_in: int = 1990, **values: Any) -> list[UUID]:
    """Residents without a WeChat identity, as one who has no phone would be."""
    made = [
        Resident(resident_id=new_id(), community_code=community, born_in=born_in, created_at=now(), **values)
        for _ in range(count)
    ]
    session.add_all(made)
    session.commit()
    return [each.resident_id for each in made]


@dataclass
class Diaries:
    """A round that has been opened, and those who were drawn."""

    client: FlaskClient
    session: Session
    app: Flask
    data_key: bytes
    opener: UUID
    clock: time_machine.Traveller
    headers_of: SignIn
    id: UUID

    def url(self, *more: str) -> str:
        return "/".join(["/api/v1/share/rounds", str(self.id), *more])

    @property
    def round(self) -> DiaryRound:
        return self.session.get_one(DiaryRound, self.id, populate_existing=True)

    def invited(self) -> list[DiaryInvitation]:
        query = sa.select(DiaryInvitation).where(DiaryInvitation.round_id == self.id)
        query = query.order_by(DiaryInvitation.resident_id).execution_options(populate_existing=True)
        return list(self.session.scalars(query))

    def as_staff(self, staff_id: UUID) -> Headers:
        """A sign-in of this moment: a token does not outlast the days that a test moves by."""
        return self.headers_of(staff_id, is_resident=False)

    @property
    def district(self) -> Headers:
        return self.as_staff(self.opener)

    def on(self, day: date, hour: int = 9) -> None:
        self.clock.move_to(at(day, hour))

    def put(self, invitation: DiaryInvitation, *trips: dict[str, Any], **more: Any) -> Any:
        """Answer the morning after the person's day."""
        self.on(invitation.day + timedelta(days=1))
        return self.put_now(invitation, *trips, **more)

    def put_now(self, invitation: DiaryInvitation, *trips: dict[str, Any], **more: Any) -> Any:
        headers = self.headers_of(invitation.resident_id, is_resident=True)
        return self.client.put(f"/api/v1/me/diaries/{self.id}", json={"trips": list(trips), **more}, headers=headers)

    def run_jobs(self) -> dict[str, int]:
        with self.app.app_context():
            return jobs.run_due(scheduled_at=0)

    def code(self, invitation: DiaryInvitation) -> str:
        return code_of(self.data_key, self.id, invitation.resident_id)

    def notices(self, kind: str) -> Counter[UUID]:
        return Counter(self.session.scalars(sa.select(Notice.person_id).where(Notice.kind == kind)))


@pytest.fixture
def definitions(session: Session) -> None:
    definition.load(session, definition.read_definitions(), now=now())
    session.commit()


@pytest.fixture
def district(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def plan(client: FlaskClient, district: Headers, definitions: None) -> Callable[..., Any]:
    def post(**changes: Any) -> Any:
        return client.post("/api/v1/share/rounds", json=plan_of(**changes), headers=district)

    return post


@pytest.fixture
def opened(
    client: FlaskClient,
    session: Session,
    app: Flask,
    base_settings: Settings,
    clock: time_machine.Traveller,
    plan: Callable[..., Any],
    make_staff: Callable[..., UUID],
    headers_of: SignIn,
) -> Callable[..., Diaries]:
    """A function that plans a round and opens it by a second person of the district."""

    def open_one(**changes: Any) -> Diaries:
        planned = plan(**changes)
        assert planned.status_code == 201, planned.text
        opener = make_staff(Role.DISTRICT, division=DISTRICT)
        headers = headers_of(opener, is_resident=False)
        answer = client.post(f"/api/v1/share/rounds/{planned.json['id']}/opening", headers=headers)
        assert answer.status_code == 200, answer.text
        data_key = base_settings.data_key
        return Diaries(client, session, app, data_key, opener, clock, headers_of, UUID(answer.json["id"]))

    return open_one


# Drawing


def test_a_sample_is_shared_out_in_proportion_with_two_of_every_cell() -> None:
    frame = {Cell("a", "18+"): 1000, Cell("b", "18+"): 500, Cell("c", "18+"): 3, Cell("d", "18+"): 1, Cell("e", "x"): 0}
    sizes = shared_out(frame, 100)
    assert sum(sizes.values()) == 100
    assert sizes == {Cell("a", "18+"): 64, Cell("b", "18+"): 33, Cell("c", "18+"): 2, Cell("d", "18+"): 1}
    assert shared_out(frame, 10**6) == {cell: count for cell, count in frame.items() if count}
    with pytest.raises(SampleTooSmall):
        shared_out(frame, 6)
    with pytest.raises(NobodyToInvite):
        shared_out({Cell("e", "x"): 0}, 10)


def test_the_same_seed_draws_the_same_people_for_the_same_days_and_another_seed_others(session: Session) -> None:
    people(session, COMMUNITY, 60)
    people(session, OTHER_COMMUNITY, 40, born_in=1950)
    frame = Frame(DISTRICT, 2026, 14, (14, 60))
    counts = drawing.count_frame(session, frame)
    assert counts == {Cell(STREET, "14-59"): 60, Cell(OTHER_STREET, "60+"): 40}
    sizes = {Cell(STREET, "14-59"): 20, Cell(OTHER_STREET, "60+"): 5}

    def drawn(seed: int) -> list[drawing.Drawn]:
        return drawing.draw(session, frame, sizes, seed=seed, first_on=FIRST, last_on=LAST)

    first = drawn(7)
    assert first == drawn(7)
    assert {each.resident_id for each in first} != {each.resident_id for each in drawn(8)}
    assert Counter((each.cell, each.weight) for each in first) == {
        (Cell(STREET, "14-59"), 3.0): 20,
        (Cell(OTHER_STREET, "60+"), 8.0): 5,
    }
    # The weights add up to the frame, whatever the cells' sizes.
    assert sum(each.weight for each in first) == 100
    assert {FIRST <= each.day <= LAST for each in first} == {True}
    assert len({each.day for each in first}) > 3


def test_every_person_of_a_cell_is_drawn_equally_often(session: Session) -> None:
    people(session, COMMUNITY, 10)
    frame = Frame(DISTRICT, 2026, 14, (14,))
    seen: Counter[UUID] = Counter()
    days: Counter[date] = Counter()
    for seed in range(200):
        for each in drawing.draw(session, frame, {Cell(STREET, "14+"): 3}, seed=seed, first_on=FIRST, last_on=LAST):
            seen[each.resident_id] += 1
            days[each.day] += 1
    # 600 draws: 60 a person (sd 6.5) and 86 a day (sd 8.6); five deviations.
    assert all(abs(count - 60) < 33 for count in seen.values()), seen
    assert len(seen) == 10
    assert all(abs(days[FIRST + timedelta(days=place)] - 600 / 7) < 43 for place in range(7)), days


def test_children_and_whoever_cannot_be_placed_are_not_invited(
    session: Session, opened: Callable[..., Diaries]
) -> None:
    fits = people(session, COMMUNITY, 3) + people(session, COMMUNITY, 2, born_in=2011)
    people(session, COMMUNITY, 4, born_in=2012)  # still thirteen on some day of 2026
    people(session, COMMUNITY, 2, enabled=False)
    session.add_all(Resident(resident_id=new_id(), community_code=COMMUNITY, created_at=now()) for _ in range(5))
    session.add(Resident(resident_id=new_id(), born_in=1990, created_at=now()))
    session.commit()
    made = opened(sample_size=100)
    assert {each.resident_id for each in made.invited()} == set(fits)
    assert made.round.frame == {
        "registered": 16,
        "without_community": 1,
        "disabled": 2,
        "without_birth_year": 5,
        "too_young": 4,
        "in_frame": 5,
    }
    assert {each.weight for each in made.invited()} == {1.0}


# Planning and opening


def test_whoever_plans_a_round_does_not_open_it_and_an_opening_allots_all_rewards(
    session: Session, client: FlaskClient, district: Headers, plan: Callable[..., Any], opened: Callable[..., Diaries]
) -> None:
    people(session, COMMUNITY, 20)
    alone = plan(code="alone").json
    refused(client.post(f"/api/v1/share/rounds/{alone['id']}/opening", headers=district), 403, "diary-planner-opens")
    discarded = client.post(f"/api/v1/share/rounds/{alone['id']}/discarding", headers=district)
    assert discarded.json["state"] == "discarded"
    made = opened()
    again = client.post(made.url("opening"), headers=made.district)
    refused(again, 409, "diary-round-not-planned")
    held = made.round
    assert (held.state, held.drawn, len(made.invited())) == (RoundState.OPEN, 12, 12)
    assert held.account_id is not None
    assert budgets.held_by(session, held.account_id) == 12 * 30
    assert wrong(session) == {}
    acts = set(session.scalars(sa.select(AuditEntry.act).where(AuditEntry.subject == str(made.id))))
    assert acts == {"diary-round.plan", "diary-round.open"}


@pytest.mark.parametrize(
    "changes",
    [
        {"first_on": "2026-11-18"},
        {"last_on": "2026-11-22"},
        {"first_on": "2026-12-30", "last_on": "2027-01-03", "closes_on": "2027-01-10"},
        {"closes_on": "2026-12-02"},
        {"age_bands": [18, 14]},
        {"sample_size": None},
        {"cells": [{"street_code": STREET, "age_band": "14-17", "size": 2}]},
        {"sample_size": None, "cells": [{"street_code": "120105001", "age_band": "14-17", "size": 2}]},
        {"sample_size": None, "cells": [{"street_code": STREET, "age_band": "6-13", "size": 2}]},
        {"reminder_days": [5]},
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(plan: Callable[..., Any], changes: dict[str, Any]) -> None:
    refused(plan(**changes), 422, "diary-round-invalid")


def test_cells_with_sizes_of_their_own_are_drawn_as_asked(session: Session, opened: Callable[..., Diaries]) -> None:
    people(session, COMMUNITY, 30)
    people(session, OTHER_COMMUNITY, 5, born_in=1950)
    cells = [
        {"street_code": STREET, "age_band": "35-59", "size": 4},
        {"street_code": OTHER_STREET, "age_band": "60+", "size": 9},
    ]
    made = opened(sample_size=None, cells=cells)
    assert Counter((each.street_code, each.age_band, each.weight) for each in made.invited()) == {
        (STREET, "35-59", 7.5): 4,
        (OTHER_STREET, "60+", 1.0): 5,
    }


def test_the_database_itself_keeps_four_eyes_the_terms_and_the_reward(
    session: Session, plan: Callable[..., Any], opened: Callable[..., Diaries], make_staff: Callable[..., UUID]
) -> None:
    people(session, COMMUNITY, 6)
    made = opened(sample_size=6)
    other = make_staff(Role.DISTRICT, division=DISTRICT)
    alone = plan(code="alone").json["id"]
    first = made.invited()[0]
    made.put(first)

    def refuses(statement: str, match: str, **values: Any) -> None:
        with pytest.raises((IntegrityError, DBAPIError), match=match), session.begin_nested():
            session.execute(sa.text(statement), {"id": made.id, "resident": first.resident_id, **values})

    stands = "terms of a round"
    refuses("UPDATE diary_round SET planned_by = :other WHERE id = :id", stands, other=other)
    refuses("UPDATE diary_round SET reward_points = 31 WHERE id = :id", stands)
    refuses("UPDATE diary_round SET seed = 1 WHERE id = :id", stands)
    refuses("UPDATE diary_round SET state = 'planned' WHERE id = :id", stands)
    refuses("DELETE FROM diary_round WHERE id = :id", "permission denied|terms of a round")
    refuses("UPDATE diary_invitation SET weight = 9 WHERE resident_id = :resident", "stands")
    refuses("UPDATE diary_invitation SET day = day + 1 WHERE resident_id = :resident", "stands")
    refuses("UPDATE diary_invitation SET transfer_id = gen_random_uuid() WHERE resident_id = :resident", "stands")
    refuses(
        "INSERT INTO diary_round (id, division, code, name, definition_id, first_on, last_on, answer_days, closes_on,"
        " kept_days, age_bands, reward_points, reminder_days, state, planned_by, planned_at, opened_by, opened_at,"
        " seed, account_id) SELECT gen_random_uuid(), division, 'forged', name, definition_id, first_on, last_on,"
        " answer_days, closes_on, kept_days, age_bands, reward_points, reminder_days, 'open', planned_by, planned_at,"
        " planned_by, planned_at, 1, account_id FROM diary_round WHERE id = :id",
        stands,
    )
    refuses(
        "INSERT INTO diary_trip (resident_id, round_id, position, started_minute, ended_minute, purpose, legs) VALUES"
        " (:resident, :id, 1, 0, 30, 'work', '{bus}'), (:resident, :id, 2, 29, 60, 'work', '{bus}')",
        "diary_trip_no_overlap_excl",
    )
    refuses(
        "UPDATE diary_round SET state = 'open', planned_by = :other, opened_by = planned_by, opened_at = planned_at,"
        " seed = 1, account_id = (SELECT account_id FROM diary_round WHERE id = :id) WHERE id = :alone",
        stands,
        alone=UUID(alone),
        other=other,
    )
    refuses(
        "UPDATE diary_round SET state = 'open', opened_by = planned_by, opened_at = planned_at, seed = 1,"
        " account_id = (SELECT account_id FROM diary_round WHERE id = :id) WHERE id = :alone",
        "diary_round_four_eyes_check",
        alone=UUID(alone),
    )


# Answering


def test_the_reward_is_the_same_for_no_trips_and_for_forty_by_any_mode_and_is_paid_once(
    session: Session, opened: Callable[..., Diaries]
) -> None:
    people(session, COMMUNITY, 4)
    made = opened(sample_size=4)
    by_day = sorted(made.invited(), key=lambda each: each.day)
    diaries: list[list[dict[str, Any]]] = [
        [],
        [trip(30 * place, "bus" if place % 2 else "walk") for place in range(40)],
        [trip(480, "car-driver"), trip(1430, "car-driver", minutes=60)],
        [trip(600, "walk", "urban-rail", "walk", distance_m=12_345)],
    ]
    for invitation, trips in zip(by_day, diaries, strict=True):
        answer = made.put(invitation, *trips)
        assert answer.status_code == 200, answer.text
        assert (answer.json["state"], len(answer.json["trips"])) == ("answered", len(trips))
        # Again with something quite different, as often as one likes until the last day.
        assert made.put_now(invitation, trip(60, "bicycle"), sex="female").json["sex"] == "female"
        assert made.put_now(invitation, *trips).status_code == 200
    assert [transferred(session, each.resident_id) for each in by_day] == [30, 30, 30, 30]
    assert made.notices("diary-thanks") == {each.resident_id: 1 for each in by_day}
    assert made.round.account_id is not None
    assert budgets.held_by(session, made.round.account_id) == 0
    assert wrong(session) == {}


def test_a_diary_is_answered_after_its_day_and_until_the_last_day_for_it(
    session: Session, opened: Callable[..., Diaries]
) -> None:
    (person,) = people(session, COMMUNITY, 1)
    made = opened(sample_size=1)
    (invitation,) = made.invited()
    for day, hour, code in (
        (invitation.day, 23, "diary-not-yet"),
        (invitation.day + timedelta(days=4), 0, "diary-closed"),
    ):
        made.on(day, hour)
        refused(made.put_now(invitation, trip(0)), 409, code)
    assert transferred(session, person) == 0
    for day, hour in ((invitation.day + timedelta(days=1), 0), (invitation.day + timedelta(days=3), 23)):
        made.on(day, hour)
        assert made.put_now(invitation, trip(0)).status_code == 200


def test_what_no_day_can_hold_is_refused_and_nothing_of_it_kept(
    session: Session, opened: Callable[..., Diaries]
) -> None:
    (person,) = people(session, COMMUNITY, 1)
    made = opened(sample_size=1)
    (invitation,) = made.invited()
    refused(made.put(invitation, trip(100), trip(119)), 422, "diary-trips-overlap")
    refused(made.put_now(invitation, trip(100, "broomstick")), 422, "diary-mode-unknown")
    refused(made.put_now(invitation, text_version="1999-01-01"), 409, "consent-text-outdated")
    for bad in (
        [trip(30 * place) for place in range(41)],
        [trip(0, *["walk"] * 11)],
        [trip(0, minutes=0)],
        [trip(0, minutes=1441)],
        [trip(1440)],
        [{**trip(0), "legs": []}],
        [trip(0, distance_m=-1)],
    ):
        refused(made.put_now(invitation, *bad), 422, "invalid-request")
    assert (transferred(session, person), session.scalar(sa.select(sa.func.count()).select_from(DiaryTrip))) == (0, 0)
    # One ends as the next begins: two trips.
    assert made.put_now(invitation, trip(120), trip(100)).status_code == 200
    assert [each.started_minute for each in session.scalars(sa.select(DiaryTrip).order_by(DiaryTrip.position))] == [
        100,
        120,
    ]


def test_trips_are_checked_by_plain_values() -> None:
    known = definition.value_of(definition.read_definitions()[0])
    assert answering.sound_trips(known, [as_trip(60), as_trip(0)]) == [as_trip(0), as_trip(60)]
    with pytest.raises(TripsOverlap):
        answering.sound_trips(known, [as_trip(0), as_trip(19)])
    with pytest.raises(ModeUnknown):
        answering.sound_trips(known, [as_trip(0, "walk", "teleport")])


def test_taking_back_is_one_call_deletes_what_was_said_and_leaves_the_points(
    session: Session, client: FlaskClient, opened: Callable[..., Diaries], headers_of: SignIn
) -> None:
    person, other = people(session, COMMUNITY, 2)
    made = opened(sample_size=2)
    mine = next(each for each in made.invited() if each.resident_id == person)
    made.put(mine, trip(500, "car-driver"), sex="male", household_cars="2+")
    decline = f"/api/v1/me/diaries/{made.id}/decline"
    for _ in range(2):
        answer = client.post(decline, headers=headers_of(person, is_resident=True))
        assert (answer.status_code, answer.json["state"], answer.json["trips"]) == (200, "declined", [])
        assert (answer.json["sex"], answer.json["household_cars"]) == (None, None)
    assert transferred(session, person) == 30
    assert made.put_now(mine, trip(1)).json["state"] == "answered"
    assert transferred(session, person) == 30
    # Nobody takes another's back, reads it or answers it; and whoever was not drawn finds nothing.
    (stranger,) = people(session, COMMUNITY, 1)
    headers = headers_of(stranger, is_resident=True)
    for method, path in (("post", decline), ("get", decline[:-8]), ("put", decline[:-8])):
        body = {"json": {"trips": []}} if method == "put" else {}
        refused(getattr(client, method)(path, headers=headers, **body), 404, "not-found")
    listed = client.get("/api/v1/me/diaries", headers=headers_of(other, is_resident=True)).json["items"]
    assert [each["round_id"] for each in listed] == [str(made.id)]


# Staff who write for others


def test_staff_write_for_somebody_without_a_phone_by_the_code_of_the_letter(
    session: Session,
    client: FlaskClient,
    opened: Callable[..., Diaries],
    make_staff: Callable[..., UUID],
    headers_of: SignIn,
) -> None:
    writer = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    staff = headers_of(writer, is_resident=False)
    registered = client.post(
        "/api/v1/residents",
        json={
            "community_code": COMMUNITY,
            "nickname": "3号楼王奶奶",
            "born_in": 1941,
            "terms_accepted_on_paper": True,
        },
        headers=staff,
    )
    assert registered.status_code == 201, registered.text
    with_phone = people(session, COMMUNITY, 1)[0]
    session.add(
        WechatIdentity(appid="a", openid="o", resident_id=with_phone, session_key_sealed=b"x", created_at=now())
    )
    session.commit()
    made = opened(sample_size=2, reminder_days=[])
    person = next(each for each in made.invited() if str(each.resident_id) == registered.json["id"])
    letters = client.get(made.url("letters"), headers=made.district).json["items"]
    assert [(each["nickname"], each["resident_id"]) for each in letters] == [("3号楼王奶奶", str(person.resident_id))]
    refused(client.get(made.url("letters"), headers=staff), 403, "forbidden")

    made.on(person.day + timedelta(days=1))
    staff = made.as_staff(writer)
    typed = letters[0]["code"][:5].lower() + "-" + letters[0]["code"][5:]
    found = client.post("/api/v1/share/diary-records/look-up", json={"code": typed}, headers=staff)
    assert (found.status_code, found.json["day"]) == (200, person.day.isoformat())
    record = {"code": typed, "denies_tie": True, "trips": [trip(540, "walk")]}
    url = "/api/v1/share/diary-records"
    refused(client.post(url, json={**record, "denies_tie": False}, headers=staff), 422, "diary-tie-not-denied")
    elsewhere = made.as_staff(make_staff(Role.COMMUNITY_STAFF, division=OTHER_COMMUNITY))
    refused(client.post(url, json=record, headers=elsewhere), 404, "diary-code-unknown")
    refused(client.post(url, json={**record, "code": "0000000000"}, headers=staff), 404, "diary-code-unknown")
    assert transferred(session, person.resident_id) == 0
    assert client.post(url, json=record, headers=staff).status_code == 201
    assert client.post(url, json=record, headers=staff).status_code == 201
    assert transferred(session, person.resident_id) == 30
    trail = session.scalars(sa.select(AuditEntry).where(AuditEntry.act == "diary.record")).all()
    assert {each.detail["resident"] for each in trail} == {str(person.resident_id)}
    assert {each.recorded_by for each in made.invited()} == {None, writer}


def test_a_member_of_staff_writes_for_so_many_a_day(
    session: Session,
    client: FlaskClient,
    opened: Callable[..., Diaries],
    make_staff: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    people(session, COMMUNITY, 3)
    made = opened(sample_size=3, last_on=FIRST.isoformat(), closes_on="2026-11-27")
    monkeypatch.setattr(answering, "RECORDS_PER_DAY_MAX", 2)
    staff = make_staff(Role.STREET, division=STREET)
    made.on(FIRST + timedelta(days=1))

    def record(invitation: DiaryInvitation) -> Any:
        body = {"code": made.code(invitation), "denies_tie": True, "trips": []}
        return client.post("/api/v1/share/diary-records", json=body, headers=made.as_staff(staff))

    first, second, third = made.invited()
    assert [record(each).status_code for each in (first, second)] == [201, 201]
    refused(record(third), 409, "too-many-diary-records")
    made.on(FIRST + timedelta(days=2))
    assert record(third).status_code == 201


def test_a_person_without_a_phone_is_registered_once_in_scope_and_never_as_a_child(
    session: Session, client: FlaskClient, sign_in_staff: SignIn
) -> None:
    staff = sign_in_staff(Role.STREET, division=STREET)
    entry = {"community_code": COMMUNITY, "nickname": "老李", "born_in": 1950, "terms_accepted_on_paper": True}

    def post(**changes: Any) -> Any:
        return client.post("/api/v1/residents", json={**entry, **changes}, headers=staff)

    assert post().status_code == 201
    refused(post(), 409, "registered-already")
    refused(post(community_code=OTHER_COMMUNITY), 404, "not-found")
    refused(post(community_code="120104001999"), 422, "community-unknown")
    refused(post(born_in=2012), 422, "invalid-request")
    refused(post(terms_accepted_on_paper=False), 422, "invalid-request")
    act = session.scalars(sa.select(AuditEntry).where(AuditEntry.act == "resident.register-assisted")).one()
    assert act.detail["terms_on_paper"]


# Telling


def test_people_are_told_once_reminded_as_planned_and_not_after_they_answered(
    session: Session, opened: Callable[..., Diaries]
) -> None:
    people(session, COMMUNITY, 3)
    made = opened(sample_size=3, first_on="2026-11-23", last_on="2026-11-23", reminder_days=[-1, 1, 2])
    ids = {each.resident_id for each in made.invited()}
    for _ in range(2):
        made.run_jobs()
    assert made.notices("diary-invitation") == dict.fromkeys(ids, 1)
    assert made.notices("diary-reminder") == {}
    made.on(date(2026, 11, 22))
    for _ in range(2):
        made.run_jobs()
    assert made.notices("diary-reminder") == dict.fromkeys(ids, 1)
    answered, declined, silent = made.invited()
    made.put(answered)
    headers = made.headers_of(declined.resident_id, is_resident=True)
    made.client.post(f"/api/v1/me/diaries/{made.id}/decline", headers=headers)
    # A day of outage: of two reminders that are due the later one is sent.
    made.on(date(2026, 11, 25))
    made.run_jobs()
    assert made.notices("diary-reminder") == {**dict.fromkeys(ids, 1), silent.resident_id: 2}
    made.on(date(2026, 11, 26))
    made.run_jobs()
    assert made.notices("diary-reminder")[silent.resident_id] == 2


# Response rates


def test_streets_read_rates_of_cells_of_ten_and_the_district_all_of_them(
    session: Session, client: FlaskClient, opened: Callable[..., Diaries], make_staff: Callable[..., UUID]
) -> None:
    people(session, COMMUNITY, 14)
    people(session, COMMUNITY, 9, born_in=1950)
    people(session, OTHER_COMMUNITY, 11)
    made = opened(sample_size=100, last_on="2026-11-23", closes_on="2026-11-27")
    for invitation in [each for each in made.invited() if each.age_band == "60+"][:4]:
        made.put(invitation)
    exact = {
        (STREET, "35-59"): (False, 14, 0, 0.0),
        (STREET, "60+"): (False, 9, 4, 4 / 9),
        (OTHER_STREET, "35-59"): (False, 11, 0, 0.0),
    }

    def rates(reader: UUID) -> dict[tuple[str, str], Any]:
        items = client.get(made.url("response"), headers=made.as_staff(reader)).json["items"]
        keys = ("hidden", "drawn", "answered", "rate")
        return {(each["street_code"], each["age_band"]): tuple(each[key] for key in keys) for each in items}

    street = make_staff(Role.STREET, division=STREET)
    for _ in range(2):  # while it is open, and from what was counted at the closing
        assert rates(made.opener) == exact
        assert rates(street) == {(STREET, "35-59"): (False, 14, 0, 0.0), (STREET, "60+"): (True, None, None, None)}
        made.on(date(2026, 11, 27))
        made.run_jobs()
    assert session.scalar(sa.select(sa.func.count()).where(AuditEntry.act == "diary-response.read")) == 4
    session.add(Division(code="120105", level="district", name="河北区", edition_on=FIRST, valid_from=FIRST))
    session.flush()
    neighbour = made.as_staff(make_staff(Role.DISTRICT, division="120105"))
    refused(client.get(made.url("response"), headers=neighbour), 404, "not-found")


# Closing and forgetting


def test_a_closed_round_is_a_wave_that_leads_to_nobody_and_its_people_are_forgotten(
    session: Session, opened: Callable[..., Diaries]
) -> None:
    people(session, COMMUNITY, 6)
    people(session, OTHER_COMMUNITY, 6, born_in=1950)
    made = opened(sample_size=6, kept_days=10, last_on="2026-11-23", closes_on="2026-11-27")
    invited = made.invited()
    for place, invitation in enumerate(invited[:4]):
        made.put(invitation, *[trip(60 * each, "walk", "bus", distance_m=1_234) for each in range(place)], sex="male")
    made.on(date(2026, 11, 26), 23)
    assert made.run_jobs()["closed"] == 0
    made.on(CLOSES)
    assert made.run_jobs() == {"told": 0, "reminded": 0, "closed": 1, "forgotten": 0}
    assert made.run_jobs()["closed"] == 0
    refused(made.put_now(invited[5]), 409, "diary-closed")

    wave = session.scalars(sa.select(SurveyWave)).one()
    assert (wave.id, wave.kind, wave.code) == (made.round.wave_id, WaveKind.DIARY, "diary-2026-autumn")
    assert (wave.persons, wave.respondents, wave.trips, wave.seed) == (6, 4, 6, made.round.seed)
    persons = session.scalars(sa.select(SurveyPerson)).all()
    assert sorted(each.base_weight for each in persons) == sorted(each.weight for each in invited)
    assert sum(each.base_weight for each in persons) == 12
    assert {(each.age, each.day, each.household_key) for each in persons} == {(None, None, None)}
    assert {each.stratum for each in persons} == {f"{STREET}|35-59", f"{OTHER_STREET}|60+"}
    assert Counter(each.attributes["sex"] for each in persons) == {"male": 4, "": 2}
    trips = session.scalars(sa.select(SurveyTrip)).all()
    assert {(each.main_mode, tuple(each.legs), each.distance_m) for each in trips} == {("bus", ("walk", "bus"), 1200)}
    assert {each.started_minute for each in trips} == {None}
    # What an estimate is made of: the four who answered, with all their trips green in both readings.
    options = Options(margins=[], adjustment_cells=["street", "age_band"])
    (column,) = estimate_input(
        session, [wave.code], definition_id=DEFINITION, margin_set_code=None, options=options
    ).waves
    assert sorted(zip(column.responded, column.trips, column.green["strict"], strict=True)) == [
        (False, 0, 0),
        (False, 0, 0),
        (True, 0, 0),
        (True, 1, 1),
        (True, 2, 2),
        (True, 3, 3),
    ]
    # No key of the wave stands anywhere else, and none of a person stands in it.
    stored = repr([(each.key, each.cluster, each.attributes) for each in persons])
    assert not any(str(each.resident_id) in stored or each.resident_id.hex in stored for each in invited)

    # Erasing a resident afterwards changes nothing in the wave.
    before = [(each.key, each.base_weight, each.responded) for each in persons]
    session.execute(sa.delete(DiaryInvitation).where(DiaryInvitation.resident_id == invited[0].resident_id))
    session.execute(sa.delete(Resident).where(Resident.resident_id == invited[0].resident_id))
    session.commit()
    again = session.scalars(sa.select(SurveyPerson).execution_options(populate_existing=True)).all()
    assert [(each.key, each.base_weight, each.responded) for each in again] == before

    made.on(CLOSES + timedelta(days=9))
    assert made.run_jobs()["forgotten"] == 0
    made.on(CLOSES + timedelta(days=10))
    assert made.run_jobs()["forgotten"] == 5
    assert made.run_jobs()["forgotten"] == 0
    assert made.invited() == []
    assert session.scalar(sa.select(sa.func.count()).select_from(DiaryTrip)) == 0
    cells = session.scalars(sa.select(DiaryCell).where(DiaryCell.drawn > 0)).all()
    assert sum(each.answered or 0 for each in cells) == 4
    assert made.round.forgotten_at is not None


def test_a_round_whose_code_was_imported_meanwhile_waits_and_holds_no_other_up(
    session: Session, opened: Callable[..., Diaries], plan: Callable[..., Any]
) -> None:
    people(session, COMMUNITY, 4)
    made, other = opened(sample_size=2), opened(sample_size=2, code="other")
    imported = replace(closing._wave_of(session, made.round), persons=(), trips=())
    write_wave(session, imported, imported_by=None, now=now())
    session.commit()
    refused(plan(code="diary-2026-autumn"), 409, "wave-code-taken")
    made.on(CLOSES)
    assert made.run_jobs()["closed"] == 1
    assert (made.round.state, other.round.state) == (RoundState.OPEN, RoundState.CLOSED)


def test_the_commands_list_rounds_and_close_what_is_due(
    session: Session, app: Flask, opened: Callable[..., Diaries]
) -> None:
    people(session, COMMUNITY, 2)
    made = opened(sample_size=2)
    runner = app.test_cli_runner()
    assert "diary-2026-autumn  open" in runner.invoke(args=["share", "rounds"]).stdout
    made.on(CLOSES)
    done = runner.invoke(args=["share", "close-rounds"])
    assert (done.exit_code, "1 closed" in done.stderr) == (0, True), done.output
    assert made.round.state is RoundState.CLOSED


# Races


@pytest.fixture
def committed(app: Flask, base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Any]:
    """A database of its own where transactions really commit, with a round whose one person may answer."""
    engine = sa.create_engine(psycopg_url(make_database()), **engine_options(4, application_role=True))
    with Session(engine, expire_on_commit=False) as session:
        definition.load(session, definition.read_definitions(), now=now())
        person = Resident(resident_id=new_id(), community_code=COMMUNITY, born_in=1990, created_at=now())
        staff = [
            Staff(id=new_id(), name=f"s{n}", password_hash="x", role=Role.DISTRICT, division=DISTRICT, created_at=now())
            for n in range(2)
        ]
        session.add_all([person, *staff])
        session.flush()
        planner, opener = (Actor(each.id, Role.DISTRICT, new_id(), DISTRICT) for each in staff)
        wanted = rounds.RoundPlan(
            **{
                **plan_of(first_on=FIRST, last_on=FIRST, closes_on=CLOSES, sample_size=1),
                "answer_days": 3,
                "kept_days": 30,
                "age_bands": [14],
                "reminder_days": [],
            }
        )
        made = rounds.plan(session, planner, wanted, now=now())
        jobs_app = app.extensions["tanpuhui_jobs"]
        rounds.open_round(session, opener, made.id, seed=1, data_key=base_settings.data_key, jobs=jobs_app, now=now())
        resident = Actor(person.resident_id, Role.RESIDENT, new_id())
        session.commit()
    yield engine, resident, made.id
    engine.dispose()


def wait_for_waiters(engine: sa.Engine) -> None:
    for _ in range(200):
        with engine.connect() as connection:
            if connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def test_of_two_answers_at_once_the_second_waits_and_is_not_paid(committed: Any, base_settings: Settings) -> None:
    engine, resident, round_id = committed
    later = at(FIRST + timedelta(days=1))

    def put(session: Session, *trips: Trip) -> None:
        answering.answer(session, resident, round_id, Answer(trips), data_key=base_settings.data_key, now=later)

    def second() -> None:
        with Session(engine) as session, session.begin():
            put(session, as_trip(0), as_trip(60))

    with ThreadPoolExecutor(1) as pool:
        with Session(engine) as session, session.begin():
            put(session, as_trip(30))
            waiting = pool.submit(second)
            wait_for_waiters(engine)
        waiting.result(10)
    with Session(engine) as session:
        assert session.scalars(sa.select(Transfer.points)).all() == [30]
        assert session.scalars(sa.select(DiaryTrip.started_minute).order_by(DiaryTrip.position)).all() == [0, 60]
        assert wrong(session) == {}


@pytest.mark.parametrize("first", ["answer", "closing"])
def test_a_closing_and_an_answer_wait_for_each_other(committed: Any, base_settings: Settings, first: str) -> None:
    engine, resident, round_id = committed
    # Two servers whose clocks differ by a moment, at midnight.
    answered_at, closes_at = at(FIRST + timedelta(days=3), 23), at(CLOSES, 0)

    def answer(session: Session) -> int:
        given = Answer([as_trip(5)])
        answering.answer(session, resident, round_id, given, data_key=base_settings.data_key, now=answered_at)
        return 1

    def close(session: Session) -> int:
        wave = closing.close(session, round_id, now=closes_at)
        assert wave is not None
        return wave.trips

    def run(work: Callable[[Session], int]) -> int:
        with Session(engine) as session, session.begin():
            return work(session)

    with ThreadPoolExecutor(1) as pool:
        with Session(engine) as session, session.begin():
            (answer if first == "answer" else close)(session)
            waiting = pool.submit(run, close if first == "answer" else answer)
            wait_for_waiters(engine)
        if first == "answer":
            assert waiting.result(10) == 1, "the wave has the answer"
        else:
            with pytest.raises(answering.DiaryClosed):
                waiting.result(10)
    with Session(engine) as session:
        paid = session.scalar(sa.select(sa.func.count()).select_from(Transfer))
        assert (paid, session.scalars(sa.select(SurveyWave.respondents)).one()) == (
            (1, 1) if first == "answer" else (0, 0)
        )

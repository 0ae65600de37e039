"""Households: founded, joined with a code, left with the end of the day, and not changed like shirts."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from code_builders import add_resident, after_the_first, load_limits, own_sessions, resident
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.clock import SHANGHAI, now
from server.database import new_id
from server.people import households
from server.people.jobs import depart
from server.people.models import Household, HouseholdJoinCode, HouseholdMember, HouseholdStay

Headers = dict[str, str]
SignIn = Callable[..., Headers]

DATA_KEY = bytes(32)
MINE = "/api/v1/me/household"
WAIT_DAYS = 30


@pytest.fixture(autouse=True)
def limits(session: Session) -> None:
    load_limits(session)


def code_of(client: FlaskClient, member: Headers) -> str:
    answer = client.post(f"{MINE}/join-code", headers=member)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return str(answer.json["join_code"])


def enter(client: FlaskClient, person: Headers, code: str) -> tuple[int, Any]:
    answer = client.post(f"{MINE}/members", json={"code": code}, headers=person)
    assert answer.json
    return answer.status_code, answer.json.get("code", len(answer.json.get("members", [])))


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["code"]


def family(client: FlaskClient, first: Headers, *others: Headers) -> None:
    assert client.post(MINE, headers=first).status_code == 201
    for each in others:
        assert enter(client, each, code_of(client, first))[0] == 201


def test_people_who_live_together_join_with_a_code(client: FlaskClient, sign_in_resident: SignIn) -> None:
    alice, bob, carol = (sign_in_resident(name) for name in ("alice", "bob", "carol"))
    assert problem(client.get(MINE, headers=alice)) == (404, "no-household")
    founded = client.post(MINE, headers=alice)
    assert (founded.status_code, [each["is_me"] for each in founded.json["members"]]) == (201, [True])
    assert problem(client.post(MINE, headers=alice)) == (409, "in-household-already")

    code = code_of(client, alice)
    typed = f" {code[:4].lower()}-{code[4:]}".replace("0", "o").replace("1", "L")
    assert enter(client, bob, typed) == (201, 2)
    assert enter(client, bob, code) == (409, "in-household-already")
    assert enter(client, carol, "00000000") == (404, "household-code-unknown")
    newer = code_of(client, bob)
    assert [enter(client, carol, each) for each in (code, newer)] == [(404, "household-code-unknown"), (201, 3)]
    seen = client.get(MINE, headers=carol).json
    assert [each["is_me"] for each in seen["members"]] == [False, False, True]
    known = {str(each) for each in sign_in_resident.known.values()}  # type: ignore[attr-defined]
    assert not known & {each["member_id"] for each in seen["members"]}, "nobody learns another's id"
    assert [each["kind"] for each in client.get("/api/v1/me/notices", headers=alice).json["items"]] == [
        "household-joined"
    ] * 2


def test_a_join_code_ends_after_a_day(client: FlaskClient, clock: Any, session: Session, make_resident: Any) -> None:
    one, other, third = (resident(make_resident()) for _ in range(3))
    at = now()
    households.found(session, one, now=at)
    code = households.issue_code(session, one, data_key=DATA_KEY, now=at).join_code
    households.join(session, other, code=code, data_key=DATA_KEY, now=at + timedelta(hours=23, minutes=59))
    with pytest.raises(households.HouseholdCodeUnknown):
        households.join(session, third, code=code, data_key=DATA_KEY, now=at + timedelta(hours=24))
    kept = session.scalars(sa.select(HouseholdJoinCode.code_hash)).one()
    assert code.encode() not in kept


def test_who_leaves_stays_until_the_day_ends_and_waits_before_the_next(
    app: Flask, client: FlaskClient, clock: Any, session: Session, sign_in_resident: SignIn
) -> None:
    alice, bob = sign_in_resident("alice"), sign_in_resident("bob")
    family(client, alice, bob)
    bobs_id = sign_in_resident.known["bob"]  # type: ignore[attr-defined]
    household = households.household_of(session, bobs_id)
    left = client.post(f"{MINE}/departure", headers=bob)
    [leaves_at] = [each["leaves_at"] for each in left.json["members"] if each["is_me"]]

    assert datetime.fromisoformat(leaves_at) == datetime(2026, 11, 19, tzinfo=SHANGHAI)
    assert households.household_of(session, bobs_id) == household, "in its bounds for the rest of the day"
    assert problem(client.post(f"{MINE}/join-code", headers=bob)) == (404, "no-household")
    assert problem(client.post(MINE, headers=bob)) == (409, "in-household-already")
    stayed = client.delete(f"{MINE}/departure", headers=bob)
    assert [each["leaves_at"] for each in stayed.json["members"]] == [None, None]

    client.post(f"{MINE}/departure", headers=bob)
    clock.move_to(datetime(2026, 11, 19, 0, 1, tzinfo=SHANGHAI))
    with app.app_context():
        depart(0)
    bob = sign_in_resident("bob")
    assert problem(client.get(MINE, headers=bob)) == (404, "no-household")
    waits = client.post(MINE, headers=bob)
    may_join_at = datetime(2026, 11, 19, tzinfo=SHANGHAI) + timedelta(days=WAIT_DAYS)
    assert problem(waits) == (409, "household-wait")
    assert datetime.fromisoformat(waits.json["may_join_at"]) == may_join_at
    assert enter(client, bob, code_of(client, sign_in_resident("alice"))) == (409, "household-wait"), "nor back"
    clock.move_to(may_join_at)
    bob = sign_in_resident("bob")
    assert client.post(MINE, headers=bob).status_code == 201
    assert session.execute(sa.select(Household.member_count).where(Household.id == household)).scalar_one() == 1


def test_the_last_to_leave_ends_the_household(session: Session, make_resident: Any) -> None:
    one = resident(make_resident())
    at = datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI)
    household = households.found(session, one, now=at).id
    code = households.issue_code(session, one, data_key=DATA_KEY, now=at).join_code
    households.leave(session, one, now=at)
    night = datetime(2026, 11, 19, tzinfo=SHANGHAI)

    assert households.depart(session, now=night - timedelta(seconds=1)) == 0
    assert households.depart(session, now=night) == 1
    ended = session.get_one(Household, household, populate_existing=True)
    assert (ended.member_count, ended.ended_at) == (0, night)
    stay = session.scalars(sa.select(HouseholdStay)).one()
    assert (stay.resident_id, stay.joined_at, stay.left_at) == (one.id, at, night)
    with pytest.raises(households.HouseholdFull):
        households.join(session, resident(make_resident()), code=code, data_key=DATA_KEY, now=night)
    forgotten_from = night + households.STAYS_KEPT_FOR
    assert households.forget_old(session, now=forgotten_from) == 0
    assert households.forget_old(session, now=forgotten_from + timedelta(seconds=1)) == 1


def test_the_first_member_puts_strangers_out_and_they_cannot_stay(
    client: FlaskClient, sign_in_resident: SignIn
) -> None:
    alice, bob, mallory = (sign_in_resident(name) for name in ("alice", "bob", "mallory"))
    family(client, alice, bob, mallory)
    first, second, third = (each["member_id"] for each in client.get(MINE, headers=alice).json["members"])

    assert problem(client.delete(f"{MINE}/members/{third}", headers=bob)) == (403, "not-first-member")
    assert problem(client.delete(f"{MINE}/members/{first}", headers=alice)) == (404, "not-found")
    assert problem(client.delete(f"{MINE}/members/{new_id()}", headers=alice)) == (404, "not-found")
    code = code_of(client, mallory)
    assert client.delete(f"{MINE}/members/{third}", headers=alice).status_code == 200
    assert problem(client.delete(f"{MINE}/departure", headers=mallory)) == (403, "put-out")
    assert enter(client, sign_in_resident("eve"), code) == (404, "household-code-unknown")
    assert client.get("/api/v1/me/notices", headers=mallory).json["items"][0]["kind"] == "household-put-out"
    # Who leaves puts nobody out: then the next one is the first.
    client.post(f"{MINE}/departure", headers=alice)
    assert problem(client.delete(f"{MINE}/members/{second}", headers=alice)) == (404, "no-household")
    assert client.delete(f"{MINE}/members/{first}", headers=bob).status_code == 200


def test_a_household_has_as_many_members_as_the_district_allows(session: Session, make_resident: Any) -> None:
    load_limits(session, household_members_max=2)
    one, other, third = (resident(make_resident()) for _ in range(3))
    households.found(session, one, now=now())
    code = households.issue_code(session, one, data_key=DATA_KEY, now=now()).join_code
    households.join(session, other, code=code, data_key=DATA_KEY, now=now())
    with pytest.raises(households.HouseholdFull), session.begin_nested():
        households.join(session, third, code=code, data_key=DATA_KEY, now=now())
    for values in ({"member_count": 51}, {"member_count": -1}, {"member_count": 0}):
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(sa.update(Household).values(**values))
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(sa.update(HouseholdMember).values(put_out=True))


# Two at once


@pytest.fixture(scope="module")
def open_session(make_database: Callable[[], str]) -> Iterator[Callable[[], Session]]:
    with own_sessions(make_database()) as opened:
        with opened() as session:
            load_limits(session, household_members_max=2)
        yield opened


def opened_household(session: Session) -> tuple[UUID, str]:
    first = resident(add_resident(session))
    made = households.found(session, first, now=now())
    code = households.issue_code(session, first, data_key=DATA_KEY, now=now()).join_code
    session.commit()
    return made.id, code


def joining(person: UUID, code: str) -> Callable[[Session], Any]:
    return lambda session: households.join(session, resident(person), code=code, data_key=DATA_KEY, now=now())


def test_the_last_place_is_given_once(open_session: Callable[[], Session]) -> None:
    with open_session() as session:
        household, code = opened_household(session)
        one, other = add_resident(session), add_resident(session)

    assert after_the_first(open_session, joining(one, code), joining(other, code)) == "household-full"
    with open_session() as session:
        members = sa.select(sa.func.count()).where(HouseholdMember.household_id == household)
        assert (session.get_one(Household, household).member_count, session.scalar(members)) == (2, 2)


def test_nobody_joins_two_households_at_once(open_session: Callable[[], Session]) -> None:
    with open_session() as session:
        (here, code), (there, other_code) = opened_household(session), opened_household(session)
        person = add_resident(session)

    assert after_the_first(open_session, joining(person, code), joining(person, other_code)) == "in-household-already"
    with open_session() as session:
        assert [session.get_one(Household, each).member_count for each in (here, there)] == [2, 1]
        assert households.household_of(session, person) == here


def test_whoever_stays_after_all_is_not_gone(open_session: Callable[[], Session]) -> None:
    """The job that lets people go waits for the one who takes the departure back, and then leaves them."""
    with open_session() as session:
        opened_household(session)
        person = resident(session.scalars(sa.select(HouseholdMember.resident_id).limit(1)).one())
        households.leave(session, person, now=now())
        session.commit()

    gone: list[int] = []
    later = after_the_first(
        open_session,
        lambda session: households.stay(session, person, now=now()),
        lambda session: gone.append(households.depart(session, now=now() + timedelta(days=2))),
    )
    assert (later, gone) == ("done", [0])
    with open_session() as session:
        assert households.household_of(session, person.id) is not None

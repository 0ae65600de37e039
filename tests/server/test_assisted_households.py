"""Households of residents without a phone: entered by staff of their place, on the household's own word."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from code_builders import (
    COMMUNITY,
    NEXT_DOOR,
    add_resident,
    add_supervisor,
    after_the_first,
    load_limits,
    own_sessions,
    resident,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from server.access import Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, now
from server.database import new_id
from server.notices.models import Notice
from server.people import assisted, assisted_households, households, residents
from server.people.jobs import depart
from server.people.models import Household, Resident, StaffLink, WechatIdentity

Headers = dict[str, str]
DATA_KEY = bytes(32)
MINE = "/api/v1/me/household"


@pytest.fixture(autouse=True)
def limits(session: Session) -> None:
    load_limits(session)


@pytest.fixture
def phone(session: Session, make_resident: Callable[..., UUID], headers_of: Callable[..., Headers]) -> Any:
    """A function that adds a resident who signs in with a phone: the id and headers."""

    def make(**values: Any) -> tuple[UUID, Headers]:
        person = make_resident(COMMUNITY, **values)
        give_phone(session, person)
        return person, headers_of(person, is_resident=True)

    return make


@pytest.fixture
def make_helper(
    session: Session, make_staff: Callable[..., UUID], headers_of: Callable[..., Headers]
) -> Callable[..., Headers]:
    """A function that adds staff linked to a resident, or to none."""

    def make(role: Role = Role.COMMUNITY_STAFF, division: str = COMMUNITY, *, linked_to: UUID | None = None) -> Headers:
        staff_id = make_staff(role, division=division)
        statement = None if linked_to else "本人没有居民账号"
        session.add(StaffLink(staff_id=staff_id, resident_id=linked_to, statement=statement, made_at=now()))
        session.commit()
        return headers_of(staff_id, is_resident=False)

    return make


@pytest.fixture
def helper(make_helper: Callable[..., Headers]) -> Headers:
    return make_helper()


def give_phone(session: Session, person: UUID) -> None:
    identity = {"appid": "wx", "openid": person.hex, "resident_id": person, "created_at": now()}
    session.add(WechatIdentity(**identity, session_key_sealed=b"-"))
    session.commit()


def of(person: UUID, path: str = "") -> str:
    return f"/api/v1/residents/{person}/household{path}"


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["code"]


def code_of(client: FlaskClient, address: str, headers: Headers) -> str:
    answer = client.post(f"{address}/join-code", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return str(answer.json["join_code"])


def kinds(client: FlaskClient, headers: Headers) -> list[str]:
    return [each["kind"] for each in client.get("/api/v1/me/notices", headers=headers).json["items"]]


def test_a_resident_without_a_phone_joins_by_the_code_of_a_members_phone_and_leaves_again(
    app: Flask,
    client: FlaskClient,
    clock: Any,
    session: Session,
    phone: Any,
    make_resident: Callable[..., UUID],
    make_helper: Callable[..., Headers],
) -> None:
    helper = make_helper()
    son, headers = phone()
    mother = make_resident(COMMUNITY, nickname="王奶奶", born_in=1940)
    client.post(MINE, headers=headers)
    code = code_of(client, MINE, headers)
    assert problem(client.get(of(mother), headers=helper)) == (404, "no-household")
    wrong = client.post(of(mother, "/members"), json={"code": "00000000"}, headers=helper)
    assert problem(wrong) == (404, "household-code-unknown")

    key = {**helper, "Idempotency-Key": "join-mother"}
    joined = [client.post(of(mother, "/members"), json={"code": code}, headers=key) for _ in range(2)]
    assert [each.status_code for each in joined] == [201, 201]
    assert [each["is_me"] for each in joined[0].json["members"]] == [False, True]
    assert households.household_of(session, mother) == households.household_of(session, son)
    again = client.post(of(mother, "/members"), json={"code": code}, headers=helper)
    assert problem(again) == (409, "in-household-already")
    assert kinds(client, headers) == ["household-joined"]

    assert client.post(of(mother, "/departure"), headers=helper).status_code == 200
    assert client.delete(of(mother, "/departure"), headers=helper).status_code == 200
    assert client.post(of(mother, "/departure"), headers=helper).status_code == 200
    told = ["household-leaving", "household-staying", "household-leaving", "household-joined"]
    assert kinds(client, headers) == told
    acts = session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.subject == str(mother)).order_by(AuditEntry.id)
    ).all()
    assert acts == [f"household.{act}-assisted" for act in ("join", "leave", "stay", "leave")]
    clock.move_to(datetime(2026, 11, 19, 0, 1, tzinfo=SHANGHAI))
    with app.app_context():
        depart(0)
    waits = client.post(of(mother), headers=make_helper())
    assert problem(waits) == (409, "household-wait")


def test_an_old_couple_without_phones_has_a_household_and_its_card(
    client: FlaskClient,
    session: Session,
    phone: Any,
    make_resident: Callable[..., UUID],
    helper: Headers,
) -> None:
    wife, husband = (make_resident(COMMUNITY, nickname=name, born_in=1940) for name in ("王奶奶", "李爷爷"))
    founded = client.post(of(wife), headers=helper)
    assert (founded.status_code, [each["is_me"] for each in founded.json["members"]]) == (201, [True])
    code = code_of(client, of(wife), helper)
    assert client.post(of(husband, "/members"), json={"code": code}, headers=helper).status_code == 201
    card = client.post(f"/api/v1/residents/{wife}/cards", json={"for_household": True}, headers=helper)
    assert card.status_code == 200
    assert households.household_of(session, wife) == households.household_of(session, husband)

    # A stranger who learnt the code is put out by whoever is of longest standing, who has no phone either.
    _, headers = phone()
    assert client.post(f"{MINE}/members", json={"code": code}, headers=headers).status_code == 201
    refused = client.post(of(wife, "/join-code"), headers=helper)
    assert problem(refused) == (409, "household-has-phone"), "now the word is that of the phone"
    [member] = [each["member_id"] for each in client.get(MINE, headers=headers).json["members"] if each["is_me"]]
    assert problem(client.delete(of(husband, f"/members/{member}"), headers=helper)) == (403, "not-first-member")
    assert client.delete(of(wife, f"/members/{member}"), headers=helper).status_code == 200
    assert problem(client.delete(f"{MINE}/departure", headers=headers)) == (403, "put-out")
    assert kinds(client, headers) == ["household-put-out"]
    # That phone makes no code any more, so staff do again.
    assert problem(client.post(f"{MINE}/join-code", headers=headers)) == (404, "no-household")
    assert client.post(of(wife, "/join-code"), headers=helper).status_code == 201


def test_who_gets_a_phone_keeps_the_household_and_does_without_staff(
    client: FlaskClient,
    session: Session,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    helper: Headers,
) -> None:
    person = make_resident(COMMUNITY)
    founded = client.post(of(person), headers=helper).json
    give_phone(session, person)
    seen = client.get(MINE, headers=headers_of(person, is_resident=True)).json
    assert (seen["id"], len(seen["members"])) == (founded["id"], 1)
    for method, path in (("GET", ""), ("POST", ""), ("POST", "/join-code"), ("POST", "/departure")):
        refused = client.open(of(person, path), method=method, headers=helper)
        assert problem(refused) == (409, "resident-has-phone"), (method, path)


def test_nobody_enters_it_for_their_own_household_or_outside_their_scope(
    client: FlaskClient,
    session: Session,
    phone: Any,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    make_helper: Callable[..., Headers],
    headers_of: Callable[..., Headers],
) -> None:
    clerk, clerks_phone = phone()
    own = make_helper(linked_to=clerk)
    client.post(MINE, headers=clerks_phone)
    mother, stranger = make_resident(COMMUNITY), make_resident(COMMUNITY)
    code = {"code": code_of(client, MINE, clerks_phone)}
    assert problem(client.post(of(mother, "/members"), json=code, headers=own)) == (403, "serves-own-household")
    session.expire_all()
    assert session.scalar(sa.select(Household.member_count)) == 1, "nothing of it has happened"
    assert households.household_of(session, mother) is None
    assert client.post(of(mother, "/members"), json=code, headers=make_helper()).status_code == 201
    assert problem(client.post(of(mother, "/departure"), headers=own)) == (403, "serves-own-household")
    assert client.post(of(stranger), headers=own).status_code == 201

    elsewhere = make_resident(NEXT_DOOR)
    assert problem(client.post(of(elsewhere), headers=own)) == (404, "not-found")
    assert problem(client.post(of(make_resident(None)), headers=own)) == (404, "not-found")
    assert problem(client.post(of(new_id()), headers=own)) == (404, "not-found")
    assert client.post(of(elsewhere), headers=make_helper(Role.STREET, COMMUNITY[:9])).status_code == 201
    unlinked = headers_of(make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY), is_resident=False)
    assert problem(client.get(of(mother), headers=unlinked)) == (409, "staff-unlinked")
    session.execute(sa.update(Resident).where(Resident.resident_id == mother).values(enabled=False))
    session.commit()
    assert problem(client.get(of(mother), headers=make_helper())) == (409, "resident-disabled")


def test_staff_find_whom_they_act_for(
    client: FlaskClient,
    session: Session,
    phone: Any,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    make_helper: Callable[..., Headers],
    headers_of: Callable[..., Headers],
    base_settings: Any,
    helper: Headers,
) -> None:
    one, other = (make_resident(COMMUNITY, nickname=name, born_in=1940) for name in ("王奶奶", "李爷爷"))
    make_resident(NEXT_DOOR, nickname="王奶奶", born_in=1940)
    caller, _ = phone(nickname="小张")
    residents.set_phone(session, caller, phone="+8613800138000", data_key=base_settings.data_key)
    session.commit()

    def listed(**query: str) -> list[str]:
        answer = client.get("/api/v1/residents", query_string={"community_code": COMMUNITY, **query}, headers=helper)
        assert answer.json
        return [each["id"] for each in answer.json["items"]]

    assert listed() == [str(one), str(other)], "not who has a phone"
    assert (listed(nickname="李爷爷"), listed(nickname="李")) == ([str(other)], [])
    first = client.get(f"/api/v1/residents?community_code={COMMUNITY}&limit=1", headers=helper).json
    assert listed(cursor=first["next_cursor"]) == [str(other)]
    away = client.get(f"/api/v1/residents?community_code={NEXT_DOOR}", headers=helper)
    assert problem(away) == (404, "not-found")

    def look_up_by(headers: Headers, number: str = "13800138000") -> Any:
        return client.post("/api/v1/residents/look-up", json={"phone": number}, headers=headers)

    def look_up(number: str) -> Any:
        return look_up_by(helper, number)

    for number in ("13800138000", "+8613800138000"):
        found = look_up(number).json
        assert found == {"id": str(caller), "community_code": COMMUNITY, "nickname": "小张"}
    assert problem(look_up("13800138001")) == (404, "not-found")
    assert problem(look_up_by(make_helper(linked_to=caller))) == (403, "serves-own-household")
    unlinked = headers_of(make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY), is_resident=False)
    for number in ("13800138000", "13800138001"):
        assert problem(look_up_by(unlinked, number)) == (409, "staff-unlinked"), "and nothing of whose it is"
    session.execute(sa.update(Resident).where(Resident.resident_id == caller).values(enabled=False))
    session.commit()
    assert problem(look_up("13800138000")) == (409, "resident-disabled")
    session.execute(sa.update(Resident).where(Resident.resident_id == caller).values(community_code=NEXT_DOOR))
    session.commit()
    assert problem(look_up("13800138000")) == (404, "not-found")
    looked = sa.select(AuditEntry.subject).where(AuditEntry.act == "resident.look-up").order_by(AuditEntry.id)
    him, nobody = str(caller), assisted.UNKNOWN_CALLER
    assert session.scalars(looked).all() == [him, him, nobody, him, him, nobody, him, nobody], "whatever the answer was"
    assert "1380013" not in str(session.scalars(sa.select(AuditEntry.detail)).all()), "but not the number"


def test_staff_are_not_shown_their_own_household_among_whom_they_act_for(
    client: FlaskClient,
    phone: Any,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    make_helper: Callable[..., Headers],
    headers_of: Callable[..., Headers],
    helper: Headers,
) -> None:
    clerk, clerks_phone = phone()
    mother, neighbour = make_resident(COMMUNITY), make_resident(COMMUNITY)
    client.post(MINE, headers=clerks_phone)
    code = {"code": code_of(client, MINE, clerks_phone)}
    assert client.post(of(mother, "/members"), json=code, headers=helper).status_code == 201

    def listed(headers: Headers) -> Any:
        return client.get("/api/v1/residents", query_string={"community_code": COMMUNITY}, headers=headers)

    def ids(headers: Headers) -> list[str]:
        return [each["id"] for each in listed(headers).json["items"]]

    assert ids(helper) == [str(mother), str(neighbour)]
    assert ids(make_helper(linked_to=clerk)) == [str(neighbour)]
    unlinked = headers_of(make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY), is_resident=False)
    assert problem(listed(unlinked)) == (409, "staff-unlinked")


def test_staff_do_not_live_in_a_household_that_they_made_for_somebody(
    client: FlaskClient,
    session: Session,
    phone: Any,
    make_resident: Callable[..., UUID],
    make_helper: Callable[..., Headers],
    helper: Headers,
) -> None:
    clerk, clerks_phone = phone()
    own = make_helper(linked_to=clerk)
    wife, husband = make_resident(COMMUNITY), make_resident(COMMUNITY)
    assert client.post(of(wife), headers=own).status_code == 201
    code = {"code": code_of(client, of(wife), own)}
    refused = client.post(f"{MINE}/members", json=code, headers=clerks_phone)
    assert problem(refused) == (403, "serves-own-household")
    session.expire_all()
    assert session.scalar(sa.select(Household.member_count)) == 1, "nothing of it has happened"
    assert households.household_of(session, clerk) is None
    assert client.post(of(husband, "/members"), json=code, headers=own).status_code == 201, "whom it was made for"

    colleagues = {"code": code_of(client, of(wife), helper)}
    assert client.post(f"{MINE}/members", json=colleagues, headers=clerks_phone).status_code == 201
    assert problem(client.get(of(wife), headers=own)) == (403, "serves-own-household")


def test_a_code_ends_when_nobody_can_tell_any_more_which_resident_made_it(
    client: FlaskClient, session: Session, phone: Any, make_resident: Callable[..., UUID], helper: Headers
) -> None:
    person = make_resident(COMMUNITY)
    client.post(of(person), headers=helper)
    code = {"code": code_of(client, of(person), helper)}
    _, headers = phone()
    session.execute(sa.delete(StaffLink))
    session.commit()
    refused = client.post(f"{MINE}/members", json=code, headers=headers)
    assert problem(refused) == (404, "household-code-unknown")
    session.expire_all()
    assert session.scalar(sa.select(Household.member_count)) == 1


def test_nobody_is_told_of_a_departure_that_changes_nothing(
    client: FlaskClient, session: Session, phone: Any, make_resident: Callable[..., UUID], helper: Headers
) -> None:
    _, headers = phone()
    mother = make_resident(COMMUNITY)
    client.post(MINE, headers=headers)
    client.post(of(mother, "/members"), json={"code": code_of(client, MINE, headers)}, headers=helper)

    told = ["household-joined"]
    for method, kind in (("DELETE", None), ("POST", "household-leaving"), ("DELETE", "household-staying")):
        for _ in range(2):
            answer = client.open(of(mother, "/departure"), method=method, headers=helper)
            assert answer.status_code == 200, answer.text
            assert answer.json
            mothers = next(each for each in answer.json["members"] if each["is_me"])
            assert (mothers["leaves_at"] is None) == (method == "DELETE")
        told = [kind, *told] if kind else told
        assert kinds(client, headers) == told
    acts = sa.select(AuditEntry.act).where(AuditEntry.subject == str(mother)).order_by(AuditEntry.id)
    assert session.scalars(acts).all() == [f"household.{act}-assisted" for act in ("join", "leave", "stay")]


# Two at once


@pytest.fixture(scope="module")
def open_session(make_database: Callable[[], str]) -> Iterator[Callable[[], Session]]:
    with own_sessions(make_database()) as opened:
        with opened() as session:
            load_limits(session, household_members_max=2)
        yield opened


def test_staff_and_a_phone_cannot_both_have_the_last_place(open_session: Callable[[], Session]) -> None:
    def at_once(*, staff_first: bool) -> tuple[str, int, bool]:
        with open_session() as session:
            first, person, other = (add_resident(session) for _ in range(3))
            helper = add_supervisor(session)
            household = households.found(session, resident(first), now=now()).id
            code = households.issue_code(session, resident(first), data_key=DATA_KEY, now=now()).join_code
            session.commit()

        def by_staff(session: Session) -> Any:
            return assisted_households.join(session, helper, person, code=code, data_key=DATA_KEY, now=now())

        def by_phone(session: Session) -> Any:
            return households.join(session, resident(other), code=code, data_key=DATA_KEY, now=now())

        later = after_the_first(open_session, *((by_staff, by_phone) if staff_first else (by_phone, by_staff)))
        with open_session() as session:
            count = session.get_one(Household, household).member_count
            return later, count, households.household_of(session, person) == household

    assert at_once(staff_first=False) == ("household-full", 2, False)
    assert at_once(staff_first=True) == ("household-full", 2, True)


def test_two_members_of_staff_enter_one_resident_once(open_session: Callable[[], Session]) -> None:
    with open_session() as session:
        person, helper, colleague = add_resident(session), add_supervisor(session), add_supervisor(session)

    def founding(who: Any) -> Callable[[Session], Any]:
        return lambda session: assisted_households.found(session, who, person, now=now() + timedelta(seconds=1))

    assert after_the_first(open_session, founding(helper), founding(colleague)) == "in-household-already"
    with open_session() as session:
        acts = sa.select(sa.func.count()).where(AuditEntry.subject == str(person))
        assert session.scalar(acts) == 1


def test_two_members_of_staff_who_enter_one_departure_tell_it_once(open_session: Callable[[], Session]) -> None:
    with open_session() as session:
        first, person = add_resident(session), add_resident(session)
        helper, colleague = add_supervisor(session), add_supervisor(session)
        households.found(session, resident(first), now=now())
        code = households.issue_code(session, resident(first), data_key=DATA_KEY, now=now()).join_code
        households.join(session, resident(person), code=code, data_key=DATA_KEY, now=now())
        session.commit()

    def leaving(who: Any) -> Callable[[Session], Any]:
        return lambda session: assisted_households.leave(session, who, person, now=now())

    assert after_the_first(open_session, leaving(helper), leaving(colleague)) == "done"
    with open_session() as session:
        acts = sa.select(sa.func.count()).where(AuditEntry.subject == str(person))
        told = sa.select(sa.func.count()).where(Notice.person_id == first, Notice.kind == "household-leaving")
        assert (session.scalar(acts), session.scalar(told)) == (1, 1)

"""Memberships: staff hand out a join code, residents join with it and leave, and staff see no more than a number."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.access import Role
from server.audit import AuditEntry
from server.clock import now
from server.database import db, new_id
from server.limits import limiter
from server.people import sessions
from server.people.join_codes import GUESSES, LENGTH, new_code
from server.people.models import OrganisationJoinCode, OrganisationMembership, Resident
from server.places.models import Organisation, OrganisationKind
from server.settings import Settings
from server.typed_codes import ALPHABET
from wsgi import create_app

COMMUNITY, NEXT_DOOR = "120104001001", "120104001003"

Headers = dict[str, str]
SignIn = Callable[..., Headers]

MINE = "/api/v1/me/memberships"


def organisation(session: Session, name: str = "一小", **values: Any) -> UUID:
    made = Organisation(
        id=new_id(),
        kind=OrganisationKind.SCHOOL,
        name=name,
        community_code=COMMUNITY,
        valid_from=date(2026, 1, 1),
        **values,
    )
    session.add(made)
    session.commit()
    return made.id


@pytest.fixture
def school(session: Session) -> UUID:
    return organisation(session)


@pytest.fixture
def school_staff(sign_in_staff: SignIn, school: UUID) -> Headers:
    return sign_in_staff(Role.SCHOOL_STAFF, organisation=school)


def issued(client: FlaskClient, staff: Headers, school: UUID, **entry: Any) -> str:
    answer = client.post(f"/api/v1/organisations/{school}/join-code", json=entry, headers=staff)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return str(answer.json["join_code"])


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


def test_a_resident_joins_with_the_code_and_leaves(
    client: FlaskClient, school: UUID, school_staff: Headers, sign_in_resident: SignIn
) -> None:
    code, alice = issued(client, school_staff, school), sign_in_resident("alice")
    entered = client.post(MINE, json={"code": code, "group_name": "三年二班"}, headers=alice)
    members = client.get(f"/api/v1/organisations/{school}/members", headers=school_staff).json

    assert (entered.status_code, entered.json["organisation_name"], entered.json["group_name"]) == (
        201,
        "一小",
        "三年二班",
    )
    assert [row["organisation_id"] for row in client.get(MINE, headers=alice).json["items"]] == [str(school)]
    assert members["members"] == 1
    assert members["code_expires_at"] is not None
    assert set(members) == {"organisation_id", "members", "code_expires_at"}, "staff see a number and nobody"

    assert client.delete(f"{MINE}/{school}", headers=alice).status_code == 204
    refused(client.delete(f"{MINE}/{school}", headers=alice), 404, "not-member")
    assert client.get(MINE, headers=alice).json["items"] == []
    assert client.get(f"/api/v1/organisations/{school}/members", headers=school_staff).json["members"] == 0


def test_joining_again_changes_the_group_and_after_leaving_begins_anew(
    client: FlaskClient, clock: Any, school: UUID, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    school_staff = sign_in_staff(Role.SCHOOL_STAFF, organisation=school)
    code, alice = issued(client, school_staff, school), sign_in_resident("alice")
    first = client.post(MINE, json={"code": code}, headers=alice).json
    clock.shift(60)
    moved = client.post(MINE, json={"code": code, "group_name": "四年二班"}, headers=alice).json
    client.delete(f"{MINE}/{school}", headers=alice)
    clock.shift(60)
    again = client.post(MINE, json={"code": code}, headers=alice).json
    assert (moved["joined_at"], moved["group_name"]) == (first["joined_at"], "四年二班")
    assert again["joined_at"] > first["joined_at"]
    assert again["group_name"] is None


def test_a_code_is_read_as_people_type_it(
    client: FlaskClient, school: UUID, school_staff: Headers, sign_in_resident: SignIn
) -> None:
    code = issued(client, school_staff, school)
    typed = f" {code[:4].lower()}-{code[4:]} ".replace("0", "o").replace("1", "L")
    assert client.post(MINE, json={"code": typed}, headers=sign_in_resident("alice")).status_code == 201


def test_a_new_code_ends_the_old_one_and_time_ends_the_new(
    client: FlaskClient, session: Session, school: UUID, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    staff, alice = sign_in_staff(Role.SCHOOL_STAFF, organisation=school), sign_in_resident("alice")
    old, new = issued(client, staff, school), issued(client, staff, school, days=7)
    refused(client.post(MINE, json={"code": old}, headers=alice), 404, "organisation-code-unknown")
    kept = session.scalars(sa.select(OrganisationJoinCode)).one()
    assert kept.expires_at - kept.issued_at == timedelta(days=7)
    session.execute(sa.update(OrganisationJoinCode).values(issued_at=now() - timedelta(days=8), expires_at=now()))
    session.commit()
    refused(client.post(MINE, json={"code": new}, headers=alice), 404, "organisation-code-unknown")
    answer = client.get(f"/api/v1/organisations/{school}/members", headers=staff)
    assert answer.json["code_expires_at"] is None


def test_only_a_keyed_hash_of_the_code_is_kept(
    client: FlaskClient, session: Session, school: UUID, school_staff: Headers
) -> None:
    keyed = {**school_staff, "Idempotency-Key": "once-only-1"}
    code = issued(client, keyed, school)
    dumped = [
        str(value)
        for table in ("organisation_join_code", "audit_entry", "idempotency_record")
        for row in session.execute(sa.text(f"SELECT * FROM {table}"))
        for value in row
    ]
    assert not [value for value in dumped if code in value]
    assert session.scalars(sa.select(AuditEntry.act)).all() == ["organisation.join-code"]


def test_the_code_of_an_organisation_that_is_gone_joins_nobody(
    client: FlaskClient, session: Session, school: UUID, school_staff: Headers, sign_in_resident: SignIn
) -> None:
    code = issued(client, school_staff, school)
    session.execute(sa.update(Organisation).values(valid_to=date(2026, 1, 2)))
    session.commit()
    answer = client.post(MINE, json={"code": code}, headers=sign_in_resident("alice"))
    refused(answer, 404, "organisation-code-unknown")


def test_codes_are_handed_out_in_scope_only(
    client: FlaskClient, session: Session, school: UUID, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    other = organisation(session, "二小")
    path = f"/api/v1/organisations/{school}"
    for staff, allowed in (
        (sign_in_staff(Role.SCHOOL_STAFF, organisation=school), True),
        (sign_in_staff(Role.SCHOOL_STAFF, organisation=other), False),
        (sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY), True),
        (sign_in_staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR), False),
        (sign_in_staff(Role.DISTRICT, division="120104"), True),
    ):
        assert client.post(f"{path}/join-code", headers=staff).status_code == (201 if allowed else 404)
        assert client.get(f"{path}/members", headers=staff).status_code == (200 if allowed else 404)
    refused(client.post(f"{path}/join-code", headers=sign_in_resident("alice")), 403, "forbidden")


@pytest.mark.parametrize("entry", [{}, {"code": ""}, {"code": "x" * 21}, {"code": "一二三"}, {"code": "A", "x": 1}])
def test_what_cannot_be_a_code_is_refused(client: FlaskClient, sign_in_resident: SignIn, entry: dict[str, Any]) -> None:
    refused(client.post(MINE, json=entry, headers=sign_in_resident("alice")), 422, "invalid-request")


@pytest.mark.parametrize("days", [0, 91, 1.5])
def test_a_code_lasts_from_one_to_ninety_days(
    client: FlaskClient, school: UUID, school_staff: Headers, days: float
) -> None:
    answer = client.post(f"/api/v1/organisations/{school}/join-code", json={"days": days}, headers=school_staff)
    refused(answer, 422, "invalid-request")


def test_the_database_refuses_a_code_without_an_end_and_an_end_before_the_beginning(
    client: FlaskClient, session: Session, school: UUID, school_staff: Headers, make_resident: Callable[..., UUID]
) -> None:
    issued(client, school_staff, school)
    with pytest.raises(IntegrityError, match="organisation_join_code_expires_check"), session.begin_nested():
        session.execute(sa.update(OrganisationJoinCode).values(expires_at=now() + timedelta(days=91)))
    row = {"resident_id": make_resident(), "organisation_id": school, "joined_at": now()}
    with pytest.raises(IntegrityError, match="left_after_joined"), session.begin_nested():
        session.execute(sa.insert(OrganisationMembership).values(**row, left_at=now() - timedelta(days=1)))


def test_a_guesser_is_stopped_and_codes_are_too_long_for_the_rest(
    base_settings: Settings, make_database: Callable[[], str]
) -> None:
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url, rate_limits=True))
    with app.app_context():
        session = db.session()
        session.add(Resident(resident_id=(guesser := new_id()), community_code=COMMUNITY, created_at=now()))
        tokens = sessions.begin(session, guesser, is_resident=True, now=now())
        session.commit()
        db.session.remove()
    headers = {"Authorization": f"Bearer {tokens.access_token}"}
    try:
        guesses = [app.test_client().post(MINE, json={"code": new_code()}, headers=headers) for _ in range(11)]
    finally:
        limiter.enabled = False  # there is one for all applications of a process, and the other tests have none
        app.extensions["tanpuhui_wechat"].close()
        with app.app_context():
            db.engine.dispose()
    statuses = [guess.status_code for guess in guesses]

    assert statuses == [404] * 10 + [429]
    guesses_a_day, codes_in_force = 50, 1000
    assert GUESSES.endswith(f"{guesses_a_day} per day")
    assert len(new_code()) == LENGTH
    assert len(ALPHABET) ** LENGTH / (guesses_a_day * codes_in_force) > 365 * 1000, "a thousand years for one person"

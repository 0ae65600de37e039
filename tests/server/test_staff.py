"""Staff accounts: who may manage whom, versions, the audit trail, and the command for the first account."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from server.access import ORGANISATION_ROLES, Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.database import new_id
from server.people import staff
from server.people.models import Staff
from server.places.models import Organisation, OrganisationKind

DISTRICT, STREET, COMMUNITY = "120104", "120104001", "120104001001"
PASSWORD = "a long sentence is best"
HeadersOf = Callable[..., dict[str, str]]
MakeStaff = Callable[..., UUID]


@pytest.fixture
def manager(sign_in_staff: HeadersOf) -> dict[str, str]:
    """A district manager's headers."""
    return sign_in_staff("district", division=DISTRICT)


@pytest.fixture
def operator(sign_in_staff: HeadersOf) -> dict[str, str]:
    """An operator's headers."""
    return sign_in_staff("operator", division=DISTRICT)


@pytest.fixture
def school(session: Session) -> Organisation:
    """A school inside COMMUNITY."""
    found = Organisation(
        id=new_id(),
        kind=OrganisationKind.SCHOOL,
        name="测试小学",
        community_code=COMMUNITY,
        valid_from=business_day(now()),
    )
    session.add(found)
    session.commit()
    return found


def entry(**members: Any) -> dict[str, Any]:
    wanted = {"name": f"n-{new_id().hex[-12:]}", "password": PASSWORD, "role": "street", "division": STREET}
    return {name: value for name, value in {**wanted, **members}.items() if value is not None}


def change(client: FlaskClient, headers: dict[str, str], staff_id: UUID | str, version: str, **members: Any) -> Any:
    return client.patch(f"/api/v1/staff/{staff_id}", headers={**headers, "If-Match": version}, json=members)


def test_a_manager_adds_an_account_that_can_sign_in(
    client: FlaskClient,
    manager: dict[str, str],
    session: Session,
    slow_hasher: PasswordHasher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(staff, "HASHER", slow_hasher)
    wanted = entry()

    answer = client.post("/api/v1/staff", headers=manager, json=wanted)

    assert (answer.status_code, answer.headers["ETag"]) == (201, '"1"')
    assert PASSWORD not in answer.text
    signed_in = client.post("/api/v1/sign-in/staff", json={"name": wanted["name"], "password": PASSWORD})
    assert signed_in.status_code == 200
    stored = session.scalar(sa.select(Staff.password_hash).where(Staff.name == wanted["name"]))
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_school_staff_answer_for_one_organisation(
    client: FlaskClient, manager: dict[str, str], school: Organisation
) -> None:
    good = client.post(
        "/api/v1/staff",
        headers=manager,
        json=entry(role="school-staff", division=None, organisation_id=str(school.id)),
    )
    unknown = client.post(
        "/api/v1/staff", headers=manager, json=entry(role="school-staff", division=None, organisation_id=str(new_id()))
    )

    assert (good.status_code, good.json["division"]) == (201, None)
    assert good.json["organisation_id"] == str(school.id)
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"division": COMMUNITY}, 422, "scope-invalid"),
        ({"division": "120104999"}, 422, "scope-invalid"),
        ({"division": None}, 422, "scope-invalid"),
        ({"role": "school-staff"}, 422, "scope-invalid"),
        ({"organisation_id": "00000000-0000-0000-0000-000000000000"}, 422, "scope-invalid"),
        ({"division": "120101001"}, 404, "not-found"),
        ({"role": "operator", "division": DISTRICT}, 403, "forbidden"),
        ({"role": "resident"}, 422, "invalid-request"),
        ({"password": "too short"}, 422, "invalid-request"),
        ({"password": "x" * 129}, 422, "invalid-request"),
        ({"name": "two words"}, 422, "invalid-request"),
        ({"name": "x" * 41}, 422, "invalid-request"),
        ({"name": "line\n"}, 422, "invalid-request"),
        ({"enabled": True}, 422, "invalid-request"),
    ],
)
def test_an_unfit_account_is_refused(
    client: FlaskClient, manager: dict[str, str], members: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post("/api/v1/staff", headers=manager, json=entry(**members))

    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_only_an_operator_makes_operators(
    client: FlaskClient, manager: dict[str, str], operator: dict[str, str], make_staff: MakeStaff
) -> None:
    wanted = entry(role="operator", division=DISTRICT)
    assert client.post("/api/v1/staff", headers=operator, json=wanted).status_code == 201
    other = make_staff("operator", division=DISTRICT)
    street = make_staff("street", division=STREET)

    assert change(client, manager, other, '"1"', enabled=False).status_code == 403
    assert change(client, manager, street, '"1"', role="operator", division=DISTRICT).status_code == 403
    assert change(client, operator, other, '"1"', enabled=False).status_code == 200


def test_a_name_is_given_once(client: FlaskClient, manager: dict[str, str]) -> None:
    wanted = entry()
    assert client.post("/api/v1/staff", headers=manager, json=wanted).status_code == 201

    answer = client.post("/api/v1/staff", headers=manager, json=wanted)

    assert (answer.status_code, answer.json["code"]) == (409, "staff-name-taken")


@pytest.mark.parametrize("role", ["street", "community-staff"])
def test_other_staff_manage_nobody(client: FlaskClient, sign_in_staff: HeadersOf, role: str) -> None:
    headers = sign_in_staff(role, division=STREET if role == "street" else COMMUNITY)

    assert client.get("/api/v1/staff", headers=headers).status_code == 403
    assert client.post("/api/v1/staff", headers=headers, json=entry()).status_code == 403
    assert client.patch(f"/api/v1/residents/{new_id()}", headers=headers, json={"enabled": False}).status_code == 403


def test_an_edit_names_the_version_that_it_is_based_on(
    client: FlaskClient, manager: dict[str, str], make_staff: MakeStaff
) -> None:
    path = f"/api/v1/staff/{make_staff('street', division=STREET)}"
    read = client.get(path, headers=manager)
    assert (read.status_code, read.headers["ETag"]) == (200, '"1"')

    def patch(**headers: str) -> Any:
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.patch(path, headers={**manager, **wanted}, json={"enabled": False})

    assert patch().status_code == 428
    assert patch(If_Match="*").status_code == 428
    assert [patch(If_Match=tag).status_code for tag in ('"2"', "1", '"x"', 'W/"1"')] == [412] * 4
    first = patch(If_Match='"1"')
    assert (first.status_code, first.headers["ETag"], first.json["version"]) == (200, '"2"', 2)
    assert patch(If_Match='"1"').json["code"] == "precondition-failed"


def test_nobody_changes_their_own_account(
    client: FlaskClient, manager: dict[str, str], operator: dict[str, str]
) -> None:
    for headers in (manager, operator):
        own = client.get("/api/v1/staff/me", headers=headers).json["id"]

        answer = change(client, headers, own, '"1"', role="street", division=STREET)

        assert (answer.status_code, answer.json["code"]) == (403, "own-account")


def test_a_new_scope_takes_the_place_of_the_old_one(
    client: FlaskClient, manager: dict[str, str], make_staff: MakeStaff, school: Organisation
) -> None:
    staff_id = make_staff("street", division=STREET)

    alone = change(client, manager, staff_id, '"1"', role="community-staff")
    to_school = change(client, manager, staff_id, '"1"', role="school-staff", organisation_id=str(school.id))
    back = change(client, manager, staff_id, '"2"', role="community-staff", division=COMMUNITY)

    assert alone.json["code"] == "scope-invalid"
    assert (to_school.status_code, to_school.json["division"]) == (200, None)
    assert (back.status_code, back.json["organisation_id"]) == (200, None)


def test_a_new_password_replaces_the_old_one(client: FlaskClient, manager: dict[str, str]) -> None:
    wanted = entry()
    made = client.post("/api/v1/staff", headers=manager, json=wanted).json

    assert change(client, manager, made["id"], '"1"', password="another long sentence").status_code == 200

    def sign_in(password: str) -> int:
        return client.post("/api/v1/sign-in/staff", json={"name": wanted["name"], "password": password}).status_code

    assert (sign_in(PASSWORD), sign_in("another long sentence")) == (401, 200)


def test_staff_outside_the_scope_do_not_exist(
    client: FlaskClient, sign_in_staff: HeadersOf, make_staff: MakeStaff, school: Organisation
) -> None:
    # No role below the district manages staff, so a manager of one street stands in for another district's.
    narrow = sign_in_staff("district", division="120104002")
    for other in (
        make_staff("street", division=STREET),
        make_staff("district", division=DISTRICT),
        make_staff("school-staff", organisation=school.id),
    ):
        assert client.get(f"/api/v1/staff/{other}", headers=narrow).status_code == 404
        assert change(client, narrow, other, '"1"', enabled=False).status_code == 404
    assert client.post("/api/v1/staff", headers=narrow, json=entry()).status_code == 404
    listed = client.get("/api/v1/staff", headers=narrow).json["items"]
    assert [item["division"] for item in listed] == ["120104002"]


def test_a_resident_outside_the_scope_cannot_be_disabled(
    client: FlaskClient, sign_in_staff: HeadersOf, manager: dict[str, str], make_resident: Callable[..., UUID]
) -> None:
    narrow = sign_in_staff("district", division="120104002")
    here, nowhere = make_resident(COMMUNITY), make_resident(None)

    def disable(headers: dict[str, str], resident_id: UUID) -> int:
        return client.patch(f"/api/v1/residents/{resident_id}", headers=headers, json={"enabled": False}).status_code

    assert [disable(narrow, who) for who in (here, nowhere, new_id())] == [404, 404, 404]
    assert [disable(manager, who) for who in (here, nowhere, new_id())] == [200, 200, 404]


def test_the_list_is_paged_by_key(client: FlaskClient, manager: dict[str, str], make_staff: MakeStaff) -> None:
    made = {str(make_staff("street", division=STREET)) for _ in range(5)}
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/api/v1/staff", headers=manager, query_string=query).json
        assert len(page["items"]) <= 2
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    assert client.get("/api/v1/staff?cursor=zzz", headers=manager).json["code"] == "bad-cursor"
    assert client.get("/api/v1/staff?colour=red", headers=manager).status_code == 422


def test_every_act_is_in_the_audit_trail_without_a_password(
    client: FlaskClient, manager: dict[str, str], make_resident: Callable[..., UUID], session: Session
) -> None:
    manager_id = UUID(client.get("/api/v1/staff/me", headers=manager).json["id"])
    made = client.post("/api/v1/staff", headers=manager, json=entry()).json
    change(client, manager, made["id"], '"1"', password="another long sentence", enabled=False)
    resident_id = make_resident()
    client.patch(f"/api/v1/residents/{resident_id}", headers=manager, json={"enabled": False})

    entries = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id)).all()

    assert [(found.act, found.subject) for found in entries] == [
        ("staff.create", made["id"]),
        ("staff.update", made["id"]),
        ("resident.disable", str(resident_id)),
    ]
    assert {found.staff_id for found in entries} == {manager_id}
    assert entries[1].detail["changed"] == ["enabled", "password_hash"]
    assert "argon2" not in str([found.detail for found in entries])


def test_an_edit_that_changes_nothing_ends_nothing(
    client: FlaskClient, manager: dict[str, str], make_staff: MakeStaff, headers_of: HeadersOf
) -> None:
    staff_id = make_staff("street", division=STREET)
    signed_in = headers_of(staff_id, is_resident=False)

    assert change(client, manager, staff_id, '"1"').json["version"] == 1

    assert client.get("/api/v1/staff/me", headers=signed_in).status_code == 200


@pytest.mark.parametrize(
    "values",
    [
        {"role": "resident", "division": DISTRICT},
        {"role": "street", "division": None},
        {"role": "school-staff", "division": STREET},
    ],
)
def test_the_database_refuses_an_account_without_one_fitting_scope(session: Session, values: dict[str, Any]) -> None:
    row = {"id": new_id(), "name": "direct", "password_hash": "x", "created_at": now(), **values}

    with pytest.raises(sa.exc.IntegrityError, match="check"), session.begin_nested():
        session.execute(sa.text(_INSERT), row)


_INSERT = (
    "INSERT INTO staff (id, name, password_hash, role, division, created_at)"
    " VALUES (:id, :name, :password_hash, :role, :division, :created_at)"
)


def test_the_command_makes_the_first_account_and_a_second_run_changes_nothing(
    app: Flask, client: FlaskClient, session: Session
) -> None:
    runner = app.test_cli_runner()
    arguments = ["staff", "create", "first", "--role", "operator", "--division", DISTRICT, "--password-file", "-"]

    made = runner.invoke(args=arguments, input=PASSWORD + "\n")
    again = runner.invoke(args=arguments, input="another long sentence\n")
    other = runner.invoke(args=[*arguments[:4], "street", "--division", STREET, "--password-file", "-"], input="x")

    assert (made.exit_code, again.exit_code, other.exit_code) == (0, 0, 1)
    assert "exists already" in again.output
    signed_in = client.post("/api/v1/sign-in/staff", json={"name": "first", "password": PASSWORD})
    assert signed_in.status_code == 200
    assert session.scalar(sa.select(AuditEntry.staff_id).where(AuditEntry.act == "staff.create")) is None


@pytest.mark.parametrize(
    ("arguments", "password", "said"),
    [
        (["--role", "operator", "--division", DISTRICT], "short", "password-unsuitable"),
        (["--role", "operator", "--division", STREET], PASSWORD, "scope-invalid"),
        (["--role", "school-staff"], PASSWORD, "scope-invalid"),
    ],
)
def test_the_command_names_what_is_wrong(
    app: Flask, client: FlaskClient, arguments: list[str], password: str, said: str
) -> None:
    result = app.test_cli_runner().invoke(
        args=["staff", "create", "wrong", *arguments, "--password-file", "-"], input=password
    )

    assert result.exit_code == 1
    assert said in result.output


def test_a_password_is_one_however_it_is_typed() -> None:
    composed, decomposed = "pässword-of-many", "pa\u0308ssword-of-many"
    credential = staff.Credential(new_id(), staff.hash_password(composed))

    assert staff.check_password(credential, decomposed).staff_id == credential.staff_id
    with pytest.raises(staff.BadCredentials):
        staff.check_password(credential, "passord-of-many!")


def test_every_staff_role_has_its_scope() -> None:
    with_division = set(staff.DIVISION_LENGTHS)

    assert with_division | ORGANISATION_ROLES | {Role.RESIDENT} == set(Role)

"""Route × role × owner, made from the URL map and the permission table: a new route is covered without an edit here.

A route that names something of a person's or a place's must in addition have a foreign one here, or its rows fail.
"""

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from werkzeug.routing import Rule

from campaigns.drives.models import Campaign, CampaignState, Participation, TargetMeasure
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade
from points.ledger import entries
from points.ledger.models import ISSUANCE, Transfer, TransferKind
from points.partners import bindings, registry
from server.access import PERMISSIONS, Permission, Role
from server.clock import business_day, now
from server.database import new_id
from server.people import sessions
from server.people.models import Resident, SignIn, Staff
from server.places.models import Division, DivisionLevel, Organisation, OrganisationKind
from server.settings import Settings
from wsgi import create_app

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}

# Open to everyone, or with a credential of their own kind. A new one is a decision, so it is written here by hand.
PUBLIC = {
    "/",
    "/docs",
    "/report",
    "/openapi.json",
    "/static/<path:filename>",
    "/healthz",
    "/readyz",
    "/metrics",
    "/problems/<code>",
    "/api/v1/sign-in/wechat",
    "/api/v1/sign-in/staff",
    "/api/v1/sign-in/refresh",
    "/api/v1/partners/<string:partner_code>/events",
    "/api/v1/places/divisions",
    "/api/v1/places/divisions/<string:code>",
    "/api/v1/places/organisations",
    "/api/v1/places/theme-days",
    "/api/v1/rewards",
    "/api/v1/report/summary",
}

# Parameters of the address that name something of the whole district, which has no owner.
SHARED = {"partner_code": "shared-partner", "purpose": "ranking", "slot": "b"}

# What a view needs before it asks whose the thing is. A new route that answers 422 to an outsider is to be added.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/v1/residents/<uuid:resident_id>/transfers/<uuid:transfer_id>/reversal"): {"reason": "更正"},
    ("POST", "/api/v1/residents/<uuid:resident_id>/activities/<uuid:activity_id>/revocation"): {"reason": "更正"},
    ("PATCH", "/api/v1/residents/<uuid:resident_id>"): {"enabled": False},
    ("PATCH", "/api/v1/staff/<uuid:staff_id>"): {"enabled": False},
    ("PATCH", "/api/v1/campaigns/<uuid:campaign_id>"): {"title": "另一个名字"},
}


def undeclared(app: Flask) -> list[str]:
    """The routes that do not say who may call them."""
    return [
        f"{rule.rule} ({rule.endpoint})"
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "access", None) != "public"
        and not isinstance(getattr(app.view_functions[rule.endpoint], "access", None), Permission)
    ]


def guarded_routes(app: Flask) -> list[tuple[str, Rule, Permission]]:
    """Method, rule and permission of every route that is not public."""
    return [
        (method, rule, app.view_functions[rule.endpoint].access)  # type: ignore[attr-defined]
        for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule)
        for method in sorted((rule.methods or set()) & METHODS)
        if app.view_functions[rule.endpoint].access != "public"  # type: ignore[attr-defined]
    ]


@dataclass
class World:
    """One person's things in one community, and people of every role inside and outside their scope."""

    owner: UUID
    ids: dict[str, dict[str, UUID]]  # parameter → "campaign state or so" → id
    insiders: dict[Role, UUID]
    outsiders: dict[str, tuple[Role, UUID]]
    nobody: dict[str, str] = field(default_factory=dict)


HOME, NEXT_DOOR, OTHER_STREET, OTHER_DISTRICT = "120104001001", "120104001003", "120104002001", "120103"


@pytest.fixture
def world(
    app: Flask,
    session: Session,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
) -> World:
    """The things that routes name, each belonging to `owner` at HOME or to the school there."""
    instant = now()
    add_other_district(session)
    school, other_school = (
        Organisation(
            id=new_id(), kind=OrganisationKind.SCHOOL, name=name, community_code=HOME, valid_from=business_day(instant)
        )
        for name in ("一小", "二小")
    )
    session.add_all([school, other_school])
    session.flush()
    owner = make_resident(HOME)
    insiders = {
        Role.RESIDENT: owner,
        Role.COMMUNITY_STAFF: make_staff(Role.COMMUNITY_STAFF, division=HOME),
        Role.SCHOOL_STAFF: make_staff(Role.SCHOOL_STAFF, organisation=school.id),
        Role.STREET: make_staff(Role.STREET, division=HOME[:9]),
        Role.DISTRICT: make_staff(Role.DISTRICT, division=HOME[:6]),
        Role.OPERATOR: make_staff(Role.OPERATOR, division=HOME[:6]),
    }
    assert set(insiders) == set(Role), "a new role needs an insider and an outsider here"
    outsiders = {
        "neighbour of another community": (Role.RESIDENT, make_resident(NEXT_DOOR)),
        "resident without a community": (Role.RESIDENT, make_resident(None)),
        "staff of the next community": (Role.COMMUNITY_STAFF, make_staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR)),
        "staff of another street's community": (
            Role.COMMUNITY_STAFF,
            make_staff(Role.COMMUNITY_STAFF, division=OTHER_STREET),
        ),
        "staff of another school": (Role.SCHOOL_STAFF, make_staff(Role.SCHOOL_STAFF, organisation=other_school.id)),
        "another street": (Role.STREET, make_staff(Role.STREET, division=OTHER_STREET[:9])),
        "another district": (Role.DISTRICT, make_staff(Role.DISTRICT, division=OTHER_DISTRICT)),
        "another district's operator": (Role.OPERATOR, make_staff(Role.OPERATOR, division=OTHER_DISTRICT)),
    }
    assert {role for role, _ in outsiders.values()} == set(Role)
    entries.grant(
        session,
        owner,
        10,
        account_id=ISSUANCE,
        expires_on=business_day(instant) + timedelta(days=30),
        reason="test",
        now=instant,
    )
    transfer = session.scalar(sa.select(Transfer.id).where(Transfer.kind == TransferKind.GRANT))
    assert transfer is not None
    campaigns = {
        f"{state.value} at {'school' if organisation else 'home'}": campaign(
            insiders[Role.DISTRICT], state, organisation, instant
        )
        for state, organisation in itertools.product((CampaignState.DRAFT, CampaignState.OPEN), (None, school.id))
    }
    session.add_all(campaigns.values())
    session.flush()
    joined = campaigns["open at home"].id
    session.add(Participation(resident_id=owner, campaign_id=joined, community_code=HOME, joined_at=instant))
    key = registry.new_key()
    data_key = app.extensions["tanpuhui_settings"].data_key
    registry.create(
        session,
        SHARED["partner_code"],
        name_zh="合作方",
        kinds=["ride"],
        day_budget_points=0,
        key=key,
        data_key=data_key,
        now=instant,
    )
    bindings.bind(session, owner, SHARED["partner_code"], "m-1", now=instant)
    session.commit()
    return World(
        owner,
        {
            "resident_id": {"owner": owner},
            "transfer_id": {"grant": transfer},
            "activity_id": {"drop": recorded_activity(session, owner)},
            "campaign_id": {name: each.id for name, each in campaigns.items()},
            "staff_id": {"community staff": make_staff(Role.COMMUNITY_STAFF, division=HOME)},
        },
        insiders,
        outsiders,
    )


def add_other_district(session: Session) -> None:
    session.add(
        Division(
            code=OTHER_DISTRICT,
            level=DivisionLevel.DISTRICT,
            name="河西区",
            parent_code=None,
            edition_on=datetime(2023, 6, 30).date(),  # noqa: DTZ001
            valid_from=datetime(2023, 6, 30).date(),  # noqa: DTZ001
        )
    )
    session.commit()


def campaign(creator: UUID, state: CampaignState, organisation: UUID | None, instant: datetime) -> Campaign:
    return Campaign(
        id=new_id(),
        title="绿色出行周",
        division=HOME,
        organisation_id=organisation,
        behaviours=["walk"],
        measure=TargetMeasure.ACTIVITIES,
        target=3,
        starts_on=business_day(instant),
        ends_on=business_day(instant) + timedelta(days=7),
        state=state,
        created_by=creator,
        created_at=instant,
        opened_at=None if state is CampaignState.DRAFT else instant,
    )


def recorded_activity(session: Session, owner: UUID) -> UUID:
    at = now() - timedelta(hours=1)
    claim = Claim(
        resident_id=owner,
        behaviour=Behaviour.SORTING,
        mode="kitchen",
        grade=Grade.PARTNER_SIGNED,
        source="test",
        external_id="e-1",
        started_at=at,
        ended_at=at,
        received_at=now(),
    )
    made = award(session, [claim], now=now())[0].activity_id
    session.commit()
    assert made is not None
    return made


def addresses(rule: Rule, world: World) -> Iterator[tuple[str, str]]:
    """Each address that the rule makes of the owner's things, with a name for what it is about."""
    choices = []
    for name in sorted(rule.arguments):
        found: dict[str, Any] | None = {"": SHARED[name]} if name in SHARED else world.ids.get(name)
        assert found is not None, f"{rule.rule}: give the world a {name} that belongs to somebody, or name it in SHARED"
        choices.append([(name, label, value) for label, value in found.items()])
    for chosen in itertools.product(*choices):
        address = rule.rule
        for converter in ("uuid:", "string:", "int:", "any(a,b):", "path:"):
            address = address.replace(f"<{converter}", "<")
        for name, _, value in chosen:
            address = address.replace(f"<{name}>", str(value))
        assert "<" not in address, f"{rule.rule}: an unknown converter"
        yield address, ", ".join(label for _, label, _ in chosen if label)


def names_something_owned(rule: Rule) -> bool:
    return bool(rule.arguments - set(SHARED))


def call(client: FlaskClient, method: str, rule: Rule, address: str, headers: dict[str, str]) -> int:
    """The status of one call, with all that a view asks for before it looks at whose the thing is."""
    sent = {**headers, "Idempotency-Key": uuid.uuid4().hex, "If-Match": '"1"'}
    body = BODIES.get((method, rule.rule), {})
    return client.open(
        address, method=method, headers=sent, json=None if method in {"GET", "DELETE"} else body
    ).status_code


def tried(
    connection: Connection, client: FlaskClient, method: str, rule: Rule, address: str, headers: dict[str, str]
) -> int:
    """The status of one call whose effect is taken back."""
    savepoint = connection.begin_nested()
    try:
        return call(client, method, rule, address, headers)
    finally:
        savepoint.rollback()


def signed_in(world: World, headers_of: Callable[..., dict[str, str]]) -> dict[UUID, dict[str, str]]:
    """The headers of everybody inside and outside."""
    people = [*world.insiders.items(), *world.outsiders.values()]
    return {person: headers_of(person, is_resident=role is Role.RESIDENT) for role, person in people}


def test_every_route_declares_who_may_call_it(app: Flask) -> None:
    assert undeclared(app) == []


def test_an_undeclared_route_is_found(base_settings: Settings) -> None:
    app = create_app(base_settings)
    app.add_url_rule("/api/v1/forgotten", "forgotten", lambda: "anyone")
    view = lambda: "anyone"  # noqa: E731
    view.access = "pubic"  # type: ignore[attr-defined]
    app.add_url_rule("/api/v1/misspelt", "misspelt", view)
    assert undeclared(app) == ["/api/v1/forgotten (forgotten)", "/api/v1/misspelt (misspelt)"]


def test_no_route_is_public_but_those_meant_to_be(app: Flask) -> None:
    public = {rule.rule for rule in app.url_map.iter_rules() if app.view_functions[rule.endpoint].access == "public"}  # type: ignore[attr-defined]
    assert public == PUBLIC


def test_every_permission_is_used_and_every_role_has_its_own(app: Flask) -> None:
    used = {permission for _, _, permission in guarded_routes(app)}
    assert used == set(Permission)
    assert set(PERMISSIONS) == set(Role)


def credentials(
    app: Flask, session: Session, world: World, person: UUID, *, is_resident: bool
) -> dict[str, dict[str, str]]:
    """Headers that must never open anything, for a person whose true token would open everything of theirs."""
    settings: Settings = app.extensions["tanpuhui_settings"]
    with app.app_context():
        tokens = sessions.begin(session, person, is_resident=is_resident, now=now())
        ended = sessions.begin(session, person, is_resident=is_resident, now=now())
    claims = jwt.decode(tokens.access_token, settings.secret_key, ["HS256"])
    ended_id = UUID(jwt.decode(ended.access_token, settings.secret_key, ["HS256"])["sid"])
    session.execute(sa.update(SignIn).where(SignIn.id == ended_id).values(ended_at=now(), ended_because="signed-out"))
    session.commit()

    def forged(**changes: Any) -> str:
        key, algorithm = changes.pop("key", settings.secret_key), changes.pop("algorithm", "HS256")
        return jwt.encode({**claims, **changes}, key, algorithm)

    past = int((now() - timedelta(minutes=1)).timestamp())
    made = {
        "expired": forged(exp=past),
        "refresh token": tokens.refresh_token,
        "signed out": ended.access_token,
        "another key": forged(key="x" * 48),
        "no signature": forged(key=None, algorithm="none"),
        "another algorithm": forged(algorithm="HS512"),
        "of nobody": forged(sub=str(new_id())),
        "with another's sign-in": forged(sub=str(world.outsiders["another street"][1]), res=False),
        "garbage": "garbage",
        "half a token": tokens.access_token.rsplit(".", 1)[0],
        "changed": tokens.access_token[:-4] + "AAAA",
    }
    headers = {name: {"Authorization": f"Bearer {token}"} for name, token in made.items()}
    headers["none"] = {}
    headers["basic"] = {"Authorization": "Basic YWRtaW46YWRtaW4="}
    headers["empty"] = {"Authorization": "Bearer "}
    return headers


@pytest.mark.parametrize("role", [Role.RESIDENT, Role.DISTRICT])
def test_no_route_opens_to_a_credential_that_is_none(
    app: Flask, client: FlaskClient, session: Session, world: World, role: Role
) -> None:
    unexpected = []
    bad = credentials(app, session, world, world.insiders[role], is_resident=role is Role.RESIDENT)
    for (method, rule, _), (name, headers) in itertools.product(guarded_routes(app), bad.items()):
        address, _ = next(addresses(rule, world))
        status = call(client, method, rule, address, headers)
        if status != 401:
            unexpected.append(f"{status} {method} {rule.rule} with {name}")
    assert unexpected == []


def test_no_route_opens_to_a_disabled_person(
    app: Flask, client: FlaskClient, session: Session, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    headers = {role: headers_of(person, is_resident=role is Role.RESIDENT) for role, person in world.insiders.items()}
    session.execute(sa.update(Staff).values(enabled=False))
    session.execute(sa.update(Resident).values(enabled=False))
    session.commit()
    unexpected = []
    for (method, rule, _), (role, each) in itertools.product(guarded_routes(app), headers.items()):
        address, _ = next(addresses(rule, world))
        status = call(client, method, rule, address, each)
        if status != 401:
            unexpected.append(f"{status} {method} {rule.rule} as disabled {role}")
    assert unexpected == []


def test_every_role_is_let_in_or_refused_as_the_table_says(
    app: Flask, client: FlaskClient, connection: Connection, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    headers = signed_in(world, headers_of)
    unexpected, seen = [], 0
    for (method, rule, permission), (role, person) in itertools.product(guarded_routes(app), world.insiders.items()):
        allowed = permission in PERMISSIONS[role]
        for address, what in addresses(rule, world):
            status = tried(connection, client, method, rule, address, headers[person])
            seen += 1
            if (allowed and status == 401) or (not allowed and status != 403):
                unexpected.append(f"{status} {method} {rule.rule} ({what}) as {role}")
    assert unexpected == []
    assert seen >= len(guarded_routes(app)) * len(Role)


# Where the owner's own side is refused for a reason that is not whose the thing is.
INSIDE_BUT_NOT_FOUND = {
    # A draft is staff's own affair, and an organisation's staff see their own campaigns alone.
    ("resident", "draft at home"),
    ("resident", "draft at school"),
    ("school-staff", "draft at home"),
    ("school-staff", "open at home"),
}


def test_whoever_answers_for_a_thing_reaches_it(
    app: Flask,
    client: FlaskClient,
    connection: Connection,
    world: World,
    headers_of: Callable[..., dict[str, str]],
) -> None:
    headers = signed_in(world, headers_of)
    unexpected, reached = [], 0
    for (method, rule, permission), (role, person) in itertools.product(guarded_routes(app), world.insiders.items()):
        if permission not in PERMISSIONS[role] or not names_something_owned(rule):
            continue
        for address, what in addresses(rule, world):
            status = tried(connection, client, method, rule, address, headers[person])
            hidden = (role.value, what) in INSIDE_BUT_NOT_FOUND
            not_joined = rule.rule.endswith(("/progress", "/mine")) and what == "open at school"
            if (status == 404) != (hidden or not_joined) or status in {401, 403, 422} or status >= 500:
                unexpected.append(f"{status} {method} {rule.rule} ({what}) as {role}")
            reached += status < 300
    assert unexpected == []
    assert reached >= 20, "most of them succeed, or the refusals below would prove nothing"


def test_whoever_does_not_answer_for_a_thing_does_not_find_it(
    app: Flask,
    client: FlaskClient,
    connection: Connection,
    world: World,
    headers_of: Callable[..., dict[str, str]],
) -> None:
    headers = signed_in(world, headers_of)
    unexpected, seen = [], 0
    for (method, rule, permission), (name, (role, person)) in itertools.product(
        guarded_routes(app), world.outsiders.items()
    ):
        if permission not in PERMISSIONS[role] or not names_something_owned(rule):
            continue
        for address, what in addresses(rule, world):
            status = tried(connection, client, method, rule, address, headers[person])
            seen += 1
            if status != 404:
                unexpected.append(f"{status} {method} {rule.rule} ({what}) as {name}")
    assert unexpected == []
    assert seen >= 50


def test_a_neighbour_of_the_same_community_reaches_nothing_of_ones_own(
    app: Flask,
    client: FlaskClient,
    world: World,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> None:
    neighbour = headers_of(make_resident(HOME), is_resident=True)
    unexpected = []
    for method, rule, permission in guarded_routes(app):
        private = rule.arguments & {"resident_id", "transfer_id", "activity_id"}
        if permission in PERMISSIONS[Role.RESIDENT] and private:
            for address, _ in addresses(rule, world):
                status = call(client, method, rule, address, neighbour)
                if status != 404:
                    unexpected.append(f"{status} {method} {rule.rule}")
    assert unexpected == []


def test_lists_hold_nothing_of_another(
    app: Flask, client: FlaskClient, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    """Every guarded GET without parameters, as every outsider: no id of the owner's world is in the answer."""
    hidden = {str(value) for name, each in world.ids.items() for value in each.values()}
    found, seen = [], 0
    for method, rule, permission in guarded_routes(app):
        if method != "GET" or rule.arguments:
            continue
        for name, (role, person) in world.outsiders.items():
            if permission not in PERMISSIONS[role]:
                continue
            answer = client.get(rule.rule, headers=headers_of(person, is_resident=role is Role.RESIDENT))
            # A school's staff look after no place, so there is no report of their own.
            has_none = rule.rule.endswith("/staff/me") and role is Role.RESIDENT
            has_none = has_none or (permission is Permission.REPORT_READ and role is Role.SCHOOL_STAFF)
            assert answer.status_code == (404 if has_none else 200), (rule.rule, name)
            seen += answer.status_code == 200
            found += [f"{rule.rule} as {name}: {each}" for each in hidden if each in answer.get_data(as_text=True)]
    assert found == []
    assert seen >= 20


# Addresses whose body names a place or an organisation, with bodies that somebody inside may send. One's own home is
# free to choose, so there is none for it.
SCHOOL = object()
TERMS = {"title": "绿色出行周", "behaviours": ["walk"], "measure": "activities", "target": 3}
DAYS = {"starts_on": "2026-12-01", "ends_on": "2026-12-07"}
ACCOUNT = {"name": "new.account", "password": "a long sentence is best"}
NAMED_IN_BODIES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("patch", "/api/v1/me"): [],
    ("patch", "/api/v1/staff/{staff_id}"): [{"role": "community-staff", "division": HOME}],
    ("post", "/api/v1/campaigns"): [
        {**TERMS, **DAYS, "division": HOME},
        {**TERMS, **DAYS, "organisation_id": SCHOOL},
    ],
    ("post", "/api/v1/places/organisations"): [{"kind": "school", "name": "三小", "community_code": HOME}],
    ("post", "/api/v1/staff"): [
        {**ACCOUNT, "role": "community-staff", "division": HOME},
        {**ACCOUNT, "role": "school-staff", "organisation_id": SCHOOL},
    ],
}


def test_every_body_that_names_a_place_is_known(app: Flask) -> None:
    document = app.extensions["tanpuhui_api"].spec.to_dict()
    found = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
            named = document["components"]["schemas"].get(name, {}).get("properties", {})
            if named.keys() & {"division", "organisation_id", "community_code"}:
                found.add((method, path))
    assert found == set(NAMED_IN_BODIES)


def test_what_a_body_names_outside_the_scope_is_not_found(
    app: Flask,
    client: FlaskClient,
    connection: Connection,
    world: World,
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> None:
    headers = signed_in(world, headers_of)
    school = connection.scalar(sa.select(Organisation.id).where(Organisation.name == "一小"))
    unexpected, made = [], 0
    for (method, path), bodies in NAMED_IN_BODIES.items():
        permission = app.view_functions[endpoint_of(app, method, path)].access  # type: ignore[attr-defined]
        for given, (name, (role, person), inside) in itertools.product(
            bodies,
            [(role.value, (role, person), True) for role, person in world.insiders.items()]
            + [(name, who, False) for name, who in world.outsiders.items()],
        ):
            if permission not in PERMISSIONS[role]:
                continue
            body = {key: str(school) if value is SCHOOL else value for key, value in given.items()}
            # An account that the actor may edit, so that only the place in the body can be refused.
            scope = connection.scalar(sa.select(Staff.division).where(Staff.id == person)) or HOME
            address = path.replace("{staff_id}", str(make_staff(role, division=scope)) if "{" in path else "")
            savepoint = connection.begin_nested()
            sent = {**headers[person], "If-Match": '"1"'}
            answer = client.open(address, method=method.upper(), json=body, headers=sent)
            savepoint.rollback()
            made += answer.status_code < 300
            # A school's staff answer for the school alone, not for the community around it.
            reaches = inside and not (role is Role.SCHOOL_STAFF and "organisation_id" not in body)
            if (answer.status_code < 300) != reaches or (not reaches and answer.status_code != 404):
                unexpected.append(f"{answer.status_code} {method} {path} {sorted(body)} as {name}: {answer.text[:300]}")
    assert unexpected == []
    assert made >= 10


def endpoint_of(app: Flask, method: str, path: str) -> str:
    """The endpoint of a described operation."""
    return next(
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if rule.rule.replace("<uuid:", "{").replace(">", "}") == path and method.upper() in (rule.methods or set())
    )

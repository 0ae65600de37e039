"""Route × person × thing, made from the URL map and the permission table: a new route is covered without an edit here.

A route that names something of a person's or a place's must in addition have one in `world`, or its rows fail.
"""

import io
import itertools
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
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
from werkzeug.test import TestResponse
from world import JOIN_CODE, build
from world_parts import HOME, PICTURE, Bundle, Makers, World

from server.access import PERMISSIONS, Permission, Role
from server.clock import business_day, now
from server.database import db, new_id
from server.files import intake
from server.files.intake import CleanFile
from server.people import sessions
from server.people.models import Resident, SignIn, Staff
from server.settings import Settings
from wsgi import create_app

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}

# Open to everyone, or with a credential of their own kind. A new one is a decision, so it is written here by hand.
PUBLIC = {
    "/",
    "/annual-report",
    "/check-in",
    "/docs",
    "/notice",
    "/register",
    "/report",
    "/share",
    "/sites",
    "/verify",
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
    "/api/v1/report/public/creation",
    "/api/v1/report/public/participation",
    "/api/v1/certificates/<string:code>",
    "/api/v1/creation/programmes",
    "/api/v1/creation/programmes/<string:programme>/figures",
    "/api/v1/creation/notices",
    "/api/v1/creation/notices/<uuid:notice_id>",
    "/api/v1/creation/notices/<uuid:notice_id>/objections",
    "/api/v1/creation/objections/mine",
    "/api/v1/creation/objections/mine/files",
    "/api/v1/creation/register",
    "/api/v1/creation/register/<string:number>",
    "/api/v1/share",
    "/api/v1/share/releases",
    "/api/v1/share/releases/<uuid:release_id>",
    "/api/v1/annual-reports",
    "/api/v1/annual-reports/<int:year>",
    "/api/v1/annual-reports/<int:year>/files/<string:name>",
    "/api/v1/codes/keys",
    "/api/v1/devices/<uuid:scanner_id>/scans",  # signed by the device
    "/api/v1/earning/rules",
    "/api/v1/earning/rules/<string(maxlength=40):version_id>",
    "/api/v1/recycling/materials",
    "/api/v1/recycling/stops/near",
    "/api/v1/recycling/timetable",
    "/api/v1/sites/near",
    "/api/v1/waste/categories",
    "/api/v1/waste/items",
    "/api/v1/open-data",
    "/api/v1/open-data/dictionary",
    "/api/v1/open-data/<string(maxlength=20):release>",
    "/api/v1/open-data/<string(maxlength=20):release>/<string(maxlength=50):file>",
}

# Parameters of the address that name something of the whole district, which has no owner.
SHARED = {
    "partner_code": "shared-partner",
    "purpose": "ranking",
    "slot": "b",
    "programme": "green-travel",
    "measured_on": "2024-12-31",
    "number": "0",
}

CAMPAIGN = "/api/v1/campaigns/<uuid:campaign_id>"
TASK = f"{CAMPAIGN}/tasks/<uuid:task_id>"
TEAM = f"{CAMPAIGN}/teams/<uuid:team_id>"
SLOT = f"{CAMPAIGN}/slots/<uuid:slot_id>"
CHECK_IN = f"{SLOT}/check-ins/<uuid:resident_id>"
APPLICATION = "/api/v1/creation/applications/<uuid:application_id>"
RUBRIC = "/api/v1/creation/rubrics/<uuid:rubric_id>"
ESTIMATE = "/api/v1/share/releases/<uuid:release_id>"
OWN_TRACK = "/api/v1/me/tracks/<uuid:track_id>"
OWN_ORDER = "/api/v1/me/recycling/orders/<uuid:order_id>"
ORDER = "/api/v1/recycling/orders/<uuid:order_id>"
BOOKED = "/api/v1/residents/<uuid:resident_id>/recycling/orders"
CASE = "/api/v1/review/cases/<uuid:case_id>"
PROPOSAL = "/api/v1/rule-proposals/<uuid:proposal_id>"
REASON = {"reason": "更正"}
SLIP = "20261122-00000000"


def part(name: str) -> Callable[[Bundle], str]:
    """In a body: what the bundle has under a name."""
    return lambda bundle: str(bundle.parts.get(name, UUID(int=0)))


def ahead(**time: int) -> Callable[[Bundle], str]:
    """In a body: so much later than now."""
    return lambda _: (now() + timedelta(**time)).isoformat()


def today(_: Bundle) -> str:
    return business_day(now()).isoformat()


VISIT = {"visited_on": today, "people": ["甲", "乙"], "findings": "属实"}
TASK_TERMS = {"kind": "check-in", "title": "签到", "target": 1}
NO_CODE = {"code": "AAAAAAAAAAAA"}
ITEM = {"code": "1.1", "text_zh": "条目", "type": "yes-no", "maximum": 5}
RUBRIC_CONTENT = {
    "title_zh": "标准",
    "minimum_score": 3,
    "difference_max": 1,
    "source": "测试",
    "confidence": "R",
    "areas": [{"code": "1", "title_zh": "一", "items": [ITEM]}],
}

# What a view needs before it asks whose the thing is. A new route that answers 422 to an outsider is to be added.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/v1/residents/<uuid:resident_id>/transfers/<uuid:transfer_id>/reversal"): REASON,
    ("POST", "/api/v1/residents/<uuid:resident_id>/activities/<uuid:activity_id>/revocation"): REASON,
    ("PATCH", "/api/v1/residents/<uuid:resident_id>"): {"enabled": False},
    ("PATCH", "/api/v1/staff/<uuid:staff_id>"): {"enabled": False},
    ("PATCH", "/api/v1/places/organisations/<uuid:organisation_id>"): {"floor_area_m2": None},
    ("PATCH", CAMPAIGN): {"title": "另一个名字", **REASON},
    ("POST", f"{CAMPAIGN}/end"): REASON,
    ("POST", f"{CAMPAIGN}/cancel"): REASON,
    ("POST", f"{CAMPAIGN}/budget-requests"): {"points": 10, **REASON},
    ("POST", f"{CAMPAIGN}/budget-requests/<uuid:request_id>/decision"): {"approve": True, "decision": "同意"},
    ("POST", f"{CAMPAIGN}/certificates/<string:code>/revocation"): REASON,
    ("POST", f"{CAMPAIGN}/check-ins"): NO_CODE,
    ("POST", f"{CAMPAIGN}/sign-outs"): NO_CODE,
    ("POST", f"{CAMPAIGN}/evidence/<uuid:evidence_id>/refuse"): REASON,
    ("POST", f"{CAMPAIGN}/exports"): {"kind": "participants"},
    ("POST", f"{CAMPAIGN}/slots"): {
        "site_name": "广场",
        "kind": "visit",
        "opens_at": ahead(hours=1),
        "closes_at": ahead(hours=2),
    },
    ("PATCH", SLOT): {"site_name": "另一个广场"},
    ("POST", f"{SLOT}/check-ins"): NO_CODE,
    ("POST", f"{SLOT}/sign-outs"): NO_CODE,
    ("POST", f"{SLOT}/code-sheets"): {"codes": 1, "format": "svg"},
    ("POST", f"{CHECK_IN}/minutes"): {"minutes": 10, **REASON},
    ("POST", f"{CHECK_IN}/removal"): REASON,
    ("POST", f"{CAMPAIGN}/tasks"): TASK_TERMS,
    ("PATCH", TASK): {"title": "另一个任务", **REASON},
    ("POST", f"{TASK}/attempts"): {"answers": [[0]]},
    ("POST", f"{CAMPAIGN}/teams"): {"name": "二队"},
    ("PATCH", TEAM): {"name": "二队", **REASON},
    ("POST", f"{CAMPAIGN}/teams/mine"): {"code": JOIN_CODE},
    ("PATCH", f"{CAMPAIGN}/teams/mine"): {"name": "二队"},
    ("PUT", f"{CAMPAIGN}/teams/mine/captain"): {"member": part("member")},
    ("PATCH", APPLICATION): {"statement": "说明"},
    ("PUT", f"{APPLICATION}/answers"): {"answers": [{"item_code": "1.1", "value": 1}]},
    ("PUT", f"{APPLICATION}/preconditions"): {"codes": []},
    ("PUT", f"{APPLICATION}/confirmations"): {"codes": []},
    ("POST", f"{APPLICATION}/moves"): {"move": "cancel"},
    ("POST", f"{APPLICATION}/assessors"): {"staff_id": part("candidate")},
    ("PATCH", f"{APPLICATION}/assessments/mine"): {"comment": "意见"},
    ("POST", f"{APPLICATION}/assessments/mine/submission"): {"no_tie": True},
    ("POST", f"{APPLICATION}/assessments/mine/recusal"): REASON,
    ("PUT", f"{APPLICATION}/plaque"): {"plaque_on": today},
    ("PUT", f"{APPLICATION}/rechecks/open"): VISIT,
    ("POST", f"{APPLICATION}/visits"): VISIT,
    ("POST", f"{APPLICATION}/assessors/<uuid:staff_id>/removal"): REASON,
    ("POST", "/api/v1/creation/objections/<uuid:objection_id>/answer"): {"answer": "已核实", "upheld": False},
    ("PUT", RUBRIC): RUBRIC_CONTENT,
    ("PUT", "/api/v1/me/diaries/<uuid:round_id>"): {"trips": []},
    ("POST", f"{ESTIMATE}/review"): {"remark": "已核对"},
    ("POST", f"{ESTIMATE}/discard"): {"remark": "作废"},
    ("PUT", "/api/v1/creation/programmes/<string:programme>/figures/<string:measured_on>"): {
        "value": 1,
        "source": "测试",
        "confidence": "R",
    },
}

BODIES.update(
    {
        ("POST", "/api/v1/me/cards/<uuid:card_id>/revocation"): REASON,
        ("POST", "/api/v1/cards/<uuid:card_id>/revocation"): REASON,
        ("POST", "/api/v1/residents/<uuid:resident_id>/cards"): {"replaces_because": "遗失", "format": "svg"},
        ("POST", "/api/v1/staff/<uuid:staff_id>/resident-undoing"): REASON,
        ("PATCH", "/api/v1/devices/<uuid:scanner_id>"): {"name": "二号"},
        ("PATCH", "/api/v1/sites/<string:code>"): {"name": "另一个名字"},
        ("POST", "/api/v1/sorting/spot-checks/<uuid:check_id>/answer"): {"passed": True},
        ("POST", f"{OWN_ORDER}/cancellation"): REASON,
        ("POST", f"{OWN_ORDER}/confirmation"): {"slip": SLIP},
        ("POST", f"{OWN_ORDER}/dispute"): {"slip": SLIP, **REASON},
        ("POST", BOOKED): {"way": "stop", "place": "test-stop", "day": "2026-01-01"},
        ("POST", f"{BOOKED}/<uuid:order_id>/cancellation"): REASON,
        ("POST", f"{BOOKED}/<uuid:order_id>/dispute"): {"slip": SLIP, **REASON},
        ("POST", "/api/v1/residents/<uuid:resident_id>/household/members"): {"code": "00000000"},
        ("POST", f"{ORDER}/cancellation"): REASON,
        ("POST", f"{ORDER}/hand-back"): REASON,
        ("POST", f"{ORDER}/slips"): {
            "items": [{"material": "corrugated", "gross_g": 1100, "tare_g": 100, "net_g": 1000}]
        },
        ("POST", "/api/v1/recycling/disputes/<uuid:order_id>/slips"): {"items": [], **REASON},
        ("PATCH", "/api/v1/recycling/plans/<code>"): {"name": "另一个名字"},
        ("PUT", OWN_TRACK): {"mode": "walk", "installation": "an-installation"},
        ("PUT", f"{OWN_TRACK}/chunks/<int(max=49):number>"): {
            "fixes": [{"at_ms": 1_795_478_400_000, "latitude": 39.1, "longitude": 117.1, "accuracy_m": 8.0}]
        },
        ("POST", f"{OWN_TRACK}/finish"): {"chunks": 1},
        ("POST", "/api/v1/me/activities/<uuid:activity_id>/appeal"): {"text": "当时分得很清楚"},
        ("POST", f"{CASE}/decision"): {"verdict": "granted", "reason": "属实"},
        ("POST", "/api/v1/review/holds/<uuid:hold_id>/lift"): {"reason": "已核实"},
        ("POST", "/api/v1/random-audits/<uuid:audit_id>/items/<uuid:activity_id>/finding"): {"finding": "right"},
        ("POST", f"{PROPOSAL}/approval"): REASON,
        ("POST", f"{PROPOSAL}/rejection"): REASON,
        ("POST", f"{PROPOSAL}/withdrawal"): REASON,
    }
)

# The same of the query.
QUERIES: dict[tuple[str, str], dict[str, str]] = {
    ("DELETE", f"{TEAM}/members/<uuid:member>"): REASON,
    ("GET", f"{RUBRIC}/differences"): {"since": str(UUID(int=0))},
    ("GET", "/api/v1/me/code"): {"campaign_id": str(UUID(int=0))},
    ("GET", "/api/v1/me/code.svg"): {"campaign_id": str(UUID(int=0))},
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


@pytest.fixture(autouse=True)
def no_cleaning(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload costs no process of its own here, where hundreds are sent and none is looked into."""
    monkeypatch.setattr(intake, "clean", lambda content, *, name: CleanFile(name, "image/png", content, 1, 1, None))


@pytest.fixture(scope="module")
def app(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """The application on a database that has the world in it, once for all of these tests."""
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    yield app
    app.extensions["tanpuhui_wechat"].close()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture(scope="module")
def world(app: Flask) -> World:
    """The things that routes name, and people of every role inside and outside their scope."""
    with app.app_context(), Session(db.engine, expire_on_commit=False) as session:
        return build(Makers(app, session), shared_partner=SHARED["partner_code"])


# Here one names what is to be made, under an id of one's own choice: it may be whose it will.
NAMES_ITS_OWN = {("PUT", OWN_TRACK)}


def bundles_of(rule: Rule, world: World, method: str = "") -> Iterator[tuple[str, Bundle]]:
    """The bundles that have all that the rule names."""
    wanted = rule.arguments - set(SHARED) - set(world.shared)
    if not wanted or (method, rule.rule) in NAMES_ITS_OWN:
        yield "", Bundle(("/",), {name: new_id() for name in wanted}, frozenset(world.people))
        return
    found = world.fitting(rule.rule, wanted)
    assert found, f"{rule.rule}: give the world a {sorted(wanted)} that belongs to somebody, or name it in SHARED"
    yield from found.items()


def address_of(rule: Rule, world: World, bundle: Bundle) -> str:
    """The address that the rule makes of a bundle's things."""
    address = rule.rule
    address = re.sub(r"<[a-z]+(?:\([^)]*\))?:", "<", address)
    for name, value in {**SHARED, **world.shared, **bundle.parts}.items():
        address = address.replace(f"<{name}>", str(value))
    assert "<" not in address, f"{rule.rule}: an unknown converter"
    return address


def any_bundle(rule: Rule, world: World) -> Bundle:
    return next(bundles_of(rule, world))[1]


def filled(body: Any, bundle: Bundle) -> Any:
    """A body with what the bundle and the time have to say."""
    if callable(body):
        return body(bundle)
    if isinstance(body, dict):
        return {name: filled(value, bundle) for name, value in body.items()}
    return body


def call(
    client: FlaskClient, method: str, rule: Rule, address: str, headers: dict[str, str], bundle: Bundle
) -> TestResponse:
    """The answer to one call, with all that a view asks for before it looks at whose the thing is."""
    sent = {**headers, "Idempotency-Key": uuid.uuid4().hex, "If-Match": '"1"'}
    body: dict[str, Any] = {}
    if getattr(client.application.view_functions[rule.endpoint], "files_max", 0):
        body["data"] = {"file": (io.BytesIO(PICTURE), "a.png")}
    elif method not in {"GET", "DELETE"}:
        body["json"] = filled(BODIES.get((method, rule.rule), {}), bundle)
    query = QUERIES.get((method, rule.rule))
    return client.open(address, method=method, headers=sent, query_string=query, **body)


def tried(
    connection: Connection,
    client: FlaskClient,
    method: str,
    rule: Rule,
    headers: dict[str, str],
    world: World,
    bundle: Bundle,
) -> int:
    """The status of one call about a bundle whose effect is taken back."""
    savepoint = connection.begin_nested()
    try:
        return call(client, method, rule, address_of(rule, world, bundle), headers, bundle).status_code
    finally:
        savepoint.rollback()


def signed_in(world: World, headers_of: Callable[..., dict[str, str]], *roles: Role) -> dict[str, dict[str, str]]:
    """The headers of everybody, or everybody in these roles."""
    return {
        name: headers_of(person, is_resident=role is Role.RESIDENT)
        for name, (role, person) in world.people.items()
        if not roles or role in roles
    }


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
        "with another's sign-in": forged(sub=str(world.people["another street"][1]), res=False),
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
    person = world.people[world.insiders[role]][1]
    bad = credentials(app, session, world, person, is_resident=role is Role.RESIDENT)
    for (method, rule, _), (name, headers) in itertools.product(guarded_routes(app), bad.items()):
        bundle = any_bundle(rule, world)
        status = call(client, method, rule, address_of(rule, world, bundle), headers, bundle).status_code
        if status != 401:
            unexpected.append(f"{status} {method} {rule.rule} with {name}")
    assert unexpected == []


def test_no_route_opens_to_a_disabled_person(
    app: Flask, client: FlaskClient, session: Session, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    headers = signed_in(world, headers_of)
    session.execute(sa.update(Staff).values(enabled=False))
    session.execute(sa.update(Resident).values(enabled=False))
    session.commit()
    unexpected = []
    for (method, rule, _), role in itertools.product(guarded_routes(app), Role):
        bundle, own = any_bundle(rule, world), headers[world.insiders[role]]
        status = call(client, method, rule, address_of(rule, world, bundle), own, bundle).status_code
        if status != 401:
            unexpected.append(f"{status} {method} {rule.rule} as disabled {role}")
    assert unexpected == []


# Routes that are for less than all who see a bundle: for which group, and how the others are answered.
NARROWER: dict[tuple[str, str], tuple[str, *tuple[int, ...]]] = {
    **{
        (method, f"{CAMPAIGN}/{path}"): ("joined", 404)
        for method, path in (
            ("DELETE", "participations/mine"),
            ("GET", "progress"),
            ("POST", "tasks/<uuid:task_id>/claim"),
            ("POST", "tasks/<uuid:task_id>/evidence"),
            ("POST", "teams"),
            ("GET", "teams/mine"),
            ("POST", "teams/mine"),
            ("DELETE", "teams/mine"),
        )
    },
    **{
        (method, f"{CAMPAIGN}/teams/mine{path}"): ("captain", 403)
        for method, path in (
            ("PATCH", ""),
            ("POST", "/code"),
            ("PUT", "/captain"),
            ("DELETE", "/members/<uuid:member>"),
        )
    },
    ("GET", f"{CAMPAIGN}/evidence/<uuid:evidence_id>/file"): ("sender and staff", 404),
    ("GET", "/api/v1/certificates/<string:code>/file"): ("sender and staff", 404),
    ("GET", f"{CAMPAIGN}/settlement"): ("settlement", 404),
    ("POST", f"{CAMPAIGN}/budget-requests/<uuid:request_id>/withdrawal"): ("proposer", 404),
    ("POST", f"{APPLICATION}/moves"): ("applicant", 403, 409),  # of the move in BODIES, which is none under notice
    ("GET", f"{APPLICATION}/assessments"): ("reviewer", 404),
    ("GET", f"{APPLICATION}/assessments/mine"): ("assessor", 404),
    ("PATCH", f"{APPLICATION}/assessments/mine"): ("assessor", 404),
    ("POST", f"{APPLICATION}/assessments/mine/submission"): ("assessor", 404),
    ("POST", f"{APPLICATION}/assessments/mine/recusal"): ("assessor", 404),
    ("POST", f"{APPLICATION}/visits"): ("visitor", 403),
    ("POST", f"{APPLICATION}/visits/<uuid:visit_id>/photos"): ("assessor", 403),  # who wrote the visit down
    ("PUT", f"{APPLICATION}/plaque"): ("named", 404),  # nobody here is
    ("DELETE", "/api/v1/me/household/members/<uuid:member_id>"): ("first member", 403),
}

# A rotating code lives for seconds, and tests of its own: here it is refused, once the campaign is found.
CODE_REFUSED = {
    ("POST", f"{CAMPAIGN}/check-ins"),
    ("POST", f"{CAMPAIGN}/sign-outs"),
    ("POST", f"{SLOT}/check-ins"),
    ("POST", f"{SLOT}/sign-outs"),
}


def fits(status: int, name: str, route: tuple[str, str], bundle: Bundle) -> bool:
    """Whether a person whose role has the permission was answered as their part in the bundle says."""
    if name not in bundle.seen_by:
        return status == 404
    group, *otherwise = NARROWER.get(route, ("",))
    if group and name not in bundle.groups.get(group, frozenset()):
        # Who takes no part at all does not find what only a part of the others may do.
        return status in {*otherwise, 404}
    if route in CODE_REFUSED:
        return status == 422
    return status not in {401, 403, 404, 422} and status < 500


@pytest.mark.parametrize("role", list(Role))
def test_whoever_answers_for_a_thing_reaches_it_and_nobody_else_finds_it(
    app: Flask,
    client: FlaskClient,
    connection: Connection,
    world: World,
    headers_of: Callable[..., dict[str, str]],
    role: Role,
) -> None:
    headers = signed_in(world, headers_of, role)
    unexpected, reached, hidden = [], 0, 0
    for (method, rule, permission), name in itertools.product(guarded_routes(app), headers):
        if permission not in PERMISSIONS[role]:
            # Whatever the thing is: the role alone decides.
            status = tried(connection, client, method, rule, headers[name], world, any_bundle(rule, world))
            if status != 403:
                unexpected.append(f"{status} {method} {rule.rule} as {name}, whose role lacks {permission}")
            continue
        for what, bundle in bundles_of(rule, world, method):
            status = tried(connection, client, method, rule, headers[name], world, bundle)
            if not what:
                as_it_should_be = status not in {401, 403} and status < 500
            else:
                as_it_should_be = fits(status, name, (method, rule.rule), bundle)
            if not as_it_should_be:
                unexpected.append(f"{status} {method} {rule.rule} ({what}) as {name}")
            reached += status < 300
            hidden += status == 404
    assert unexpected == []
    few = {Role.SUPERVISOR, Role.COLLECTOR}
    assert reached >= (8 if role in few else 15), "most that one sees succeeds, or the refusals would prove nothing"
    assert hidden >= 5


# Addresses of all that the district has of a kind, with bodies that it may send: nothing in them says whose it is.
WHOLE_DISTRICTS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/api/v1/share/waves"): {},
    ("POST", "/api/v1/share/waves"): {},
    ("GET", "/api/v1/share/margins"): {},
    ("GET", "/api/v1/share/drafts"): {},
    ("POST", "/api/v1/share/releases"): {"year": 2026, "waves": ["household-survey"]},
    ("GET", "/api/v1/annual-reports/drafts"): {},
    ("POST", "/api/v1/annual-reports"): {"year": 2026},
    ("POST", "/api/v1/open-data/releases"): {"period": "2026-01"},
    ("GET", "/api/v1/rule-proposals"): {},
    ("POST", "/api/v1/rule-proposals"): {"kind": "rules", "content": "no rules", "reason": "试行"},
    ("GET", "/api/v1/rule-history"): {},
    ("GET", "/api/v1/random-audits"): {},
    ("POST", "/api/v1/random-audits"): {"quarter": "2026-Q1"},
}


def test_what_is_the_whole_districts_is_not_found_by_another(
    app: Flask, client: FlaskClient, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    headers = signed_in(world, headers_of, Role.DISTRICT)
    answered = {
        (name, method, address): client.open(address, method=method, json=body or None, headers=headers[name])
        for (method, address), body in WHOLE_DISTRICTS.items()
        for name in ("district", "another district")
    }
    hidden = {(name, method, address) for (name, method, address), each in answered.items() if each.status_code == 404}
    assert hidden == {("another district", *route) for route in WHOLE_DISTRICTS}


# Of a bundle that many see, what is only for its person and for staff.
PERSONAL = ("resident_id", "evidence_id", "request_id", "code")


def hidden_from(name: str, world: World) -> set[bytes]:
    """Every id and code of somebody's that a person sees nowhere: as it would stand in an answer."""
    hidden, shown = set(), {world.people[name][1]}
    # Organisations are public, and who manages accounts reads whose they are.
    known = {"organisation_id"} | ({"staff_id", "candidate"} if name in world.bundles["an account"].seen_by else set())
    for bundle in world.bundles.values():
        for key, value in bundle.parts.items():
            if key in known:
                continue
            personal = key in PERSONAL and name not in bundle.groups.get("sender and staff", bundle.seen_by)
            (hidden if personal or name not in bundle.seen_by else shown).add(value)
    return {str(value).encode() for value in hidden - shown if len(str(value)) >= 10}


@pytest.mark.parametrize("role", list(Role))
def test_no_answer_holds_anything_of_another(
    app: Flask, client: FlaskClient, world: World, headers_of: Callable[..., dict[str, str]], role: Role
) -> None:
    """Every guarded GET, of lists and of all that one sees: no id of what one does not see is in the answer."""
    found, seen = [], 0
    for name, headers in signed_in(world, headers_of, role).items():
        hidden = hidden_from(name, world)
        assert len(hidden) >= 5, "there is something to hide"
        for method, rule, permission in guarded_routes(app):
            if method != "GET" or permission not in PERMISSIONS[role]:
                continue
            for what, bundle in bundles_of(rule, world):
                if name not in bundle.seen_by:
                    continue
                answer = call(client, method, rule, address_of(rule, world, bundle), headers, bundle)
                seen += answer.status_code == 200
                found += [f"{rule.rule} ({what}) as {name}: {each!r}" for each in hidden if each in answer.data]
    assert found == []
    assert seen >= 5


def test_a_list_in_a_campaign_is_not_narrowed_to_what_is_of_another(
    client: FlaskClient, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    own, other = world.bundles["the school's campaign"].parts, world.bundles["another school's campaign"].parts
    address = f"/api/v1/campaigns/{own['campaign_id']}/check-ins"
    headers = headers_of(world.people["school"][1], is_resident=False)
    assert len(client.get(address, query_string={"slot_id": own["slot_id"]}, headers=headers).get_json()["items"]) == 1
    assert client.get(address, query_string={"slot_id": other["slot_id"]}, headers=headers).get_json()["items"] == []


def test_what_belongs_to_one_is_not_found_under_another(
    app: Flask, client: FlaskClient, connection: Connection, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    """The parts of a campaign or an application, asked for under another of them, by people who see both."""
    headers = {name: headers_of(world.people[name][1], is_resident=False) for name in ("community", "district")}
    pairs = [
        (
            "campaign_id",
            world.bundles["the community's campaign"],
            world.bundles["the school's campaign"],
            ("community", "district"),
        ),
        (
            "application_id",
            world.bundles["the community's application"],
            world.bundles["the school's application"],
            ("district",),
        ),
    ]
    unexpected, seen = [], 0
    for (method, rule, permission), (whole, one, another, names) in itertools.product(guarded_routes(app), pairs):
        inner = rule.arguments - {whole, "item_code", "photo", "position", "resident_id", "staff_id"}
        if whole not in rule.arguments or not inner:
            continue
        mixed = Bundle(one.under, {**one.parts, whole: another.parts[whole]}, one.seen_by)
        for name in names:
            if permission not in PERMISSIONS[world.people[name][0]]:
                continue
            status = tried(connection, client, method, rule, headers[name], world, mixed)
            seen += 1
            # Whether it is a draft still is asked before its task.
            draft_asked_first = (method, rule.rule) == ("DELETE", TASK) and status == 409
            if status != 404 and not draft_asked_first:
                unexpected.append(f"{status} {method} {rule.rule} as {name}")
    assert unexpected == []
    assert seen >= 30


# Addresses whose body names a place, an organisation or a person, with bodies that somebody inside may send, and who
# that is besides those whose role alone decides. One's own home and ties are free to choose: there is none for them.
SCHOOL, MALL = "一小", "商场"
AT_HOME = frozenset({"community", "street", "district", "colleague at the district", "operator"})
TERMS = {"title": "绿色出行周"}
DAYS = {"starts_on": "2026-12-01", "ends_on": "2026-12-07"}
STOP = {
    "kind": "stop",
    "code": "another-stop",
    "name": "广场",
    "address": "广场1号",
    "longitude": 117.15,
    "latitude": 39.13,
    "weekdays": [1],
    "starts_minute": 540,
    "ends_minute": 600,
    "capacity": 5,
    "valid_from": "2026-12-01",
}
NEW_SITE = {
    "code": "another-site",
    "kind": "sorting-site",
    "form": "bin-room",
    "name": "箱房",
    "address": "某路2号",
    "latitude": 39.1,
    "longitude": 117.1,
    "datum": "gcj-02",
    "categories": ["kitchen"],
    "hours": {
        "valid_from": "2026-01-01",
        "seasons": [{"from": "01-01", "to": "12-31", "days": {"mon": ["06:00-09:00"]}}],
    },
    "valid_from": "2026-01-01",
}
ACCOUNT = {"name": "new.account", "password": "a long sentence is best"}
FORM = {"format": "csv", "from": "2026-11-01", "to": "2026-11-02"}
NAMED_IN_BODIES: dict[tuple[str, str], list[tuple[dict[str, Any], frozenset[str]]]] = {
    ("patch", "/api/v1/me"): [],
    ("post", "/api/v1/me/recycling/orders"): [],
    # A code lives for seconds, and a device has tests of its own: tests/points/test_recycling_orders.py,
    # tests/server/test_resident_codes.py.
    ("post", "/api/v1/recycling/orders"): [],
    # A stop may be another community's; whose home it is, the resident in the address says.
    ("post", "/api/v1/residents/{resident_id}/recycling/orders"): [],
    ("patch", "/api/v1/devices/{scanner_id}"): [],
    ("post", "/api/v1/devices"): [({"name": "扫码枪", "division": HOME}, AT_HOME)],
    ("post", "/api/v1/review/exports"): [({**FORM, "within": HOME}, AT_HOME)],
    ("post", "/api/v1/recycling/plans"): [({**STOP, "division": HOME}, AT_HOME)],
    ("post", "/api/v1/sites"): [({**NEW_SITE, "community_code": HOME}, AT_HOME)],
    ("post", "/api/v1/creation/ties"): [],
    ("post", "/api/v1/creation/applications/{application_id}/assessors"): [],  # below
    ("patch", "/api/v1/staff/{staff_id}"): [({"role": "community-staff", "division": HOME}, AT_HOME)],
    ("post", "/api/v1/campaigns"): [
        ({**TERMS, **DAYS, "division": HOME}, AT_HOME),
        ({**TERMS, **DAYS, "organisation_id": SCHOOL}, AT_HOME | {"school"}),
        ({**TERMS, **DAYS, "organisation_id": MALL}, AT_HOME | {"mall"}),
    ],
    ("post", "/api/v1/places/organisations"): [({"kind": "school", "name": "三小", "community_code": HOME}, AT_HOME)],
    ("post", "/api/v1/report/exports"): [({"format": "csv", "grain": "month", "within": HOME}, AT_HOME)],
    ("post", "/api/v1/residents"): [
        (
            {"community_code": HOME, "nickname": "王阿姨", "born_in": 1950, "terms_accepted_on_paper": True},
            AT_HOME,
        )
    ],
    ("post", "/api/v1/statistics/exports"): [({"format": "csv", "grain": "month", "within": HOME}, AT_HOME)],
    ("post", "/api/v1/staff"): [
        ({**ACCOUNT, "role": "community-staff", "division": HOME}, AT_HOME),
        ({**ACCOUNT, "role": "assessor", "division": HOME[:6]}, AT_HOME),
        ({**ACCOUNT, "role": "school-staff", "organisation_id": SCHOOL}, AT_HOME),
        ({**ACCOUNT, "role": "organisation-staff", "organisation_id": MALL}, AT_HOME),
    ],
}
NAMES_A_PLACE = {"division", "organisation_id", "community_code", "within", "place", "staff_id"}


def test_every_body_that_names_a_place_is_known(app: Flask) -> None:
    document = app.extensions["tanpuhui_api"].description()
    found = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
            named = document["components"]["schemas"].get(name, {}).get("properties", {})
            if named.keys() & NAMES_A_PLACE:
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
    unexpected, made = [], 0
    for (method, path), bodies in NAMED_IN_BODIES.items():
        permission = app.view_functions[endpoint_of(app, method, path)].access  # type: ignore[attr-defined]
        for (given, inside), (name, (role, person)) in itertools.product(bodies, world.people.items()):
            if permission not in PERMISSIONS[role]:
                continue
            body = {
                key: str(world.organisations[value]) if key == "organisation_id" else value
                for key, value in given.items()
            }
            # An account that the actor may edit, so that only the place in the body can be refused.
            scope = connection.scalar(sa.select(Staff.division).where(Staff.id == person)) or HOME
            address = path.replace("{staff_id}", str(make_staff(role, division=scope)) if "{" in path else "")
            savepoint = connection.begin_nested()
            sent = {**headers[name], "If-Match": '"1"'}
            answer = client.open(address, method=method.upper(), json=body, headers=sent)
            savepoint.rollback()
            made += answer.status_code < 300
            reaches = name in inside
            if (answer.status_code < 300) != reaches or (not reaches and answer.status_code != 404):
                unexpected.append(f"{answer.status_code} {method} {path} {sorted(body)} as {name}: {answer.text[:300]}")
    assert unexpected == []
    assert made >= 25


def test_nobody_of_another_district_is_asked_to_assess(
    client: FlaskClient, connection: Connection, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    application = world.bundles["the community's application"].parts["application_id"]
    address = f"/api/v1/creation/applications/{application}/assessors"
    headers = headers_of(world.people["district"][1], is_resident=False)
    answered = {}
    for name in ("assessor of nothing", "another district's assessor"):
        savepoint = connection.begin_nested()
        answered[name] = client.post(
            address, json={"staff_id": str(world.people[name][1])}, headers=headers
        ).status_code
        savepoint.rollback()
    assert answered == {"assessor of nothing": 201, "another district's assessor": 404}


# The same of queries, with who is answered; the others whose role has the permission are not.
NAMED_IN_QUERIES: dict[str, tuple[dict[str, Any], frozenset[str]]] = {
    "/api/v1/me/code": ({"campaign_id": "the school's campaign"}, frozenset({"owner", "team-mate"})),
    "/api/v1/me/code.svg": ({"campaign_id": "the school's campaign"}, frozenset({"owner", "team-mate"})),
    "/api/v1/creation/ties": (
        {"staff_id": "the school's application"},
        frozenset({"assessor", "district", "colleague at the district"}),
    ),
    "/api/v1/residents": ({"community_code": HOME}, AT_HOME),
    "/api/v1/report/places": ({"within": HOME}, AT_HOME),
    "/api/v1/report/kinds": ({"place": HOME}, AT_HOME),
    "/api/v1/statistics/places": ({"within": HOME}, AT_HOME),
    "/api/v1/statistics/sorting-accuracy": ({"within": HOME}, AT_HOME),
    "/api/v1/statistics/behaviours": ({"place": HOME}, AT_HOME),
    "/api/v1/statistics/series": ({"place": HOME}, AT_HOME),
    "/api/v1/review/cases": ({"within": HOME}, AT_HOME),
    "/api/v1/review/service-times": ({"within": HOME}, AT_HOME),
}
# Their addresses name a campaign that the thing in the query must belong to, or the thing is everybody's.
NAMED_IN_OTHER_QUERIES = {
    "/api/v1/campaigns/{campaign_id}/check-ins",
    "/api/v1/creation/rubrics/{rubric_id}/differences",
}


def test_every_query_that_names_something_is_known(app: Flask) -> None:
    public = {rule.rule for rule in app.url_map.iter_rules() if app.view_functions[rule.endpoint].access == "public"}  # type: ignore[attr-defined]
    found = {
        path
        for path, operations in app.extensions["tanpuhui_api"].description()["paths"].items()
        for parameter in operations.get("get", {}).get("parameters", [])
        if parameter.get("in") == "query" and path not in public
        if parameter["name"] in NAMES_A_PLACE or parameter["schema"].get("format") == "uuid"
    }
    assert found == set(NAMED_IN_QUERIES) | NAMED_IN_OTHER_QUERIES


def test_what_a_query_names_outside_the_scope_is_not_answered(
    app: Flask, client: FlaskClient, world: World, headers_of: Callable[..., dict[str, str]]
) -> None:
    headers = signed_in(world, headers_of)
    unexpected, answered = [], 0
    for address, (query, inside) in NAMED_IN_QUERIES.items():
        permission = app.view_functions[endpoint_of(app, "get", address)].access  # type: ignore[attr-defined]
        given = {
            key: str(world.bundles[value].parts[key]) if value in world.bundles else value
            for key, value in query.items()
        }
        for name, (role, _) in world.people.items():
            if permission not in PERMISSIONS[role]:
                continue
            status = client.get(address, query_string=given, headers=headers[name]).status_code
            answered += status == 200
            if status not in ({200} if name in inside else {403, 404, 409}):
                unexpected.append(f"{status} {address} {given} as {name}")
    assert unexpected == []
    assert answered >= 12


def endpoint_of(app: Flask, method: str, path: str) -> str:
    """The endpoint of a described operation."""
    return next(
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if rule.rule.replace("<uuid:", "{").replace(">", "}") == path and method.upper() in (rule.methods or set())
    )

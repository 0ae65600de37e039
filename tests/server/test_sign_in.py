"""Sign-ins: tokens and their rotation, what ends a sign-in, and races between the two."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from server.access import Actor, Role
from server.clock import now
from server.database import db, new_id, transaction
from server.embedded import free_port
from server.people import residents, sessions, staff
from server.people.models import Resident, SignIn, Staff, WechatIdentity
from server.people.wechat import WeChatSession
from server.settings import Settings
from wsgi import create_app

PASSWORD = "a long sentence is best"
DISTRICT = "120104"
HeadersOf = Callable[..., dict[str, str]]
MakeStaff = Callable[..., UUID]


@pytest.fixture(scope="module")
def password_hash() -> str:
    """The hash of PASSWORD, made once: it is slow on purpose."""
    return staff.hash_password(PASSWORD)


@pytest.fixture
def live(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """An application on a database of its own, where requests commit and may meet."""
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def without_redis(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """An application whose Redis does not answer, with rates limited as in the field."""
    url = make_database()
    dead = f"redis://127.0.0.1:{free_port()}/0"
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url, redis_url=dead, rate_limits=True))
    yield app
    with app.app_context():
        db.engine.dispose()


def add_staff(session: Session, password_hash: str, *, role: Role = Role.DISTRICT, division: str = DISTRICT) -> Staff:
    return staff.create(
        session,
        None,
        name=f"staff-{new_id().hex[-12:]}",
        password_hash=password_hash,
        role=role,
        division=division,
        now=now(),
    )


def password_sign_in(client: FlaskClient, name: str, password: str = PASSWORD) -> Any:
    return client.post("/api/v1/sign-in/staff", json={"name": name, "password": password})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refresh(client: FlaskClient, token: str) -> Any:
    return client.post("/api/v1/sign-in/refresh", headers=bearer(token))


def who_am_i(client: FlaskClient, tokens: dict[str, Any]) -> Any:
    return client.get("/api/v1/staff/me", headers=bearer(tokens["access_token"]))


@pytest.fixture
def member(session: Session, password_hash: str) -> Staff:
    """A member of staff with PASSWORD."""
    found = add_staff(session, password_hash)
    session.commit()
    return found


@pytest.fixture
def tokens(clock: time_machine.Traveller, client: FlaskClient, member: Staff) -> dict[str, Any]:
    """The tokens of a fresh sign-in, time standing still."""
    answer = password_sign_in(client, member.name)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json
    return found


def test_a_right_password_signs_in(client: FlaskClient, member: Staff) -> None:
    answer = password_sign_in(client, member.name)

    assert answer.status_code == 200
    assert who_am_i(client, answer.json).json == {
        "id": str(member.id),
        "name": member.name,
        "role": "district",
        "division": DISTRICT,
        "organisation_id": None,
    }


def test_a_wrong_password_an_unknown_name_and_a_disabled_account_get_the_same_answer(
    client: FlaskClient, member: Staff, session: Session
) -> None:
    wrong = password_sign_in(client, member.name, "not the password")
    unknown = password_sign_in(client, "nobody-of-this-name")
    session.execute(sa.update(Staff).where(Staff.id == member.id).values(enabled=False))
    session.commit()
    disabled = password_sign_in(client, member.name)

    answers = [wrong, unknown, disabled]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert len({(answer.json["code"], answer.json["title"]) for answer in answers}) == 1
    assert wrong.json["code"] == "bad-credentials"


def test_an_unknown_name_costs_as_much_hashing_as_a_known_one(
    client: FlaskClient, member: Staff, monkeypatch: pytest.MonkeyPatch
) -> None:
    password_sign_in(client, "nobody-of-this-name")  # makes nobody's hash
    checked: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            checked.append(name)
            return getattr(original, name)

    original = staff.HASHER
    monkeypatch.setattr(staff, "HASHER", Counting())
    password_sign_in(client, "nobody-of-this-name")
    unknown, checked[:] = list(checked), []
    password_sign_in(client, member.name, "not the password")

    assert unknown == checked == ["verify"]


def test_a_hash_of_older_parameters_is_renewed_at_sign_in(
    client: FlaskClient, session: Session, slow_hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staff, "HASHER", slow_hasher)
    weaker = type(staff.HASHER)(time_cost=1, memory_cost=1024, parallelism=1)
    old = weaker.hash(PASSWORD)
    member = add_staff(session, old)
    session.commit()

    assert password_sign_in(client, member.name).status_code == 200

    stored = session.scalar(sa.select(Staff.password_hash).where(Staff.id == member.id))
    assert stored is not None
    assert stored != old
    assert not staff.HASHER.check_needs_rehash(stored)
    assert password_sign_in(client, member.name).status_code == 200


def test_an_access_token_ends_after_its_quarter_of_an_hour(
    clock: time_machine.Traveller, client: FlaskClient, tokens: dict[str, Any]
) -> None:
    clock.shift(timedelta(minutes=14, seconds=59))
    assert who_am_i(client, tokens).status_code == 200

    clock.shift(timedelta(seconds=2))
    answer = who_am_i(client, tokens)

    assert (answer.status_code, answer.json["code"]) == (401, "token-expired")
    assert refresh(client, tokens["refresh_token"]).status_code == 200


def test_each_kind_of_token_opens_only_its_own_door(client: FlaskClient, tokens: dict[str, Any]) -> None:
    swapped = who_am_i(client, {"access_token": tokens["refresh_token"]})

    assert swapped.status_code == 401
    assert refresh(client, tokens["access_token"]).status_code == 401
    for token in ("", "x", "x.y.z", tokens["access_token"][:-4] + "AAAA"):
        assert client.get("/api/v1/staff/me", headers=bearer(token)).status_code == 401
    assert client.get("/api/v1/staff/me").status_code == 401


def test_a_refresh_gives_the_next_pair_and_the_chain_goes_on(
    clock: time_machine.Traveller, client: FlaskClient, tokens: dict[str, Any]
) -> None:
    seen = [tokens["refresh_token"]]
    for _ in range(3):
        clock.shift(timedelta(days=29))
        answer = refresh(client, seen[-1])
        assert answer.status_code == 200
        assert who_am_i(client, answer.json).status_code == 200
        seen.append(answer.json["refresh_token"])

    assert len(set(seen)) == len(seen)
    clock.shift(timedelta(days=31))
    assert refresh(client, seen[-1]).json["code"] == "token-expired"


def test_a_lost_answer_can_be_asked_for_again_within_ten_seconds(
    clock: time_machine.Traveller, client: FlaskClient, tokens: dict[str, Any]
) -> None:
    lost = refresh(client, tokens["refresh_token"])
    clock.shift(timedelta(seconds=9))
    again = refresh(client, tokens["refresh_token"])

    assert (lost.status_code, again.status_code) == (200, 200)
    # Both hold the same generation, so either goes on and nothing has forked.
    assert refresh(client, again.json["refresh_token"]).status_code == 200
    assert who_am_i(client, again.json).status_code == 200


def test_a_refresh_token_used_again_after_the_grace_ends_the_whole_sign_in(
    clock: time_machine.Traveller, client: FlaskClient, tokens: dict[str, Any], session: Session
) -> None:
    newest = refresh(client, tokens["refresh_token"]).json
    clock.shift(timedelta(seconds=11))

    stolen = refresh(client, tokens["refresh_token"])

    assert (stolen.status_code, stolen.json["code"]) == (401, "refresh-token-reused")
    # The ending outlives the refusal: it is in the database, and nothing of the chain works any more.
    assert session.scalar(sa.select(SignIn.ended_because)) == "refresh-reused"
    assert who_am_i(client, newest).json["code"] == "token-revoked"
    assert refresh(client, newest["refresh_token"]).json["code"] == "token-revoked"


def test_a_refresh_token_two_generations_old_has_no_grace(
    client: FlaskClient, tokens: dict[str, Any], clock: time_machine.Traveller
) -> None:
    second = refresh(client, tokens["refresh_token"]).json
    assert refresh(client, second["refresh_token"]).status_code == 200

    answer = refresh(client, tokens["refresh_token"])

    assert (answer.status_code, answer.json["code"]) == (401, "refresh-token-reused")


def test_reuse_ends_one_sign_in_and_not_the_person(
    clock: time_machine.Traveller, client: FlaskClient, member: Staff, tokens: dict[str, Any]
) -> None:
    other_phone = password_sign_in(client, member.name).json
    refresh(client, tokens["refresh_token"])
    clock.shift(timedelta(seconds=11))
    assert refresh(client, tokens["refresh_token"]).status_code == 401

    assert who_am_i(client, other_phone).status_code == 200


def test_sign_out_counts_from_the_next_request_and_for_this_sign_in_alone(
    client: FlaskClient, member: Staff, tokens: dict[str, Any]
) -> None:
    other_phone = password_sign_in(client, member.name).json

    answer = client.post("/api/v1/sign-out", headers=bearer(tokens["access_token"]))

    assert (answer.status_code, answer.data) == (204, b"")
    assert who_am_i(client, tokens).json["code"] == "token-revoked"
    assert refresh(client, tokens["refresh_token"]).json["code"] == "token-revoked"
    assert who_am_i(client, other_phone).status_code == 200


def test_a_change_by_a_manager_counts_from_the_next_request(
    client: FlaskClient, member: Staff, tokens: dict[str, Any], sign_in_staff: HeadersOf
) -> None:
    manager = sign_in_staff("district", division=DISTRICT)
    path = f"/api/v1/staff/{member.id}"
    version = client.get(path, headers=manager).headers["ETag"]

    changed = client.patch(
        path, headers={**manager, "If-Match": version}, json={"role": "street", "division": "120104001"}
    )

    assert changed.status_code == 200
    assert who_am_i(client, tokens).json["code"] == "token-revoked"
    assert refresh(client, tokens["refresh_token"]).json["code"] == "token-revoked"
    fresh = password_sign_in(client, member.name).json
    assert who_am_i(client, fresh).json["role"] == "street"


def test_a_disabled_resident_is_out_with_the_next_request_and_may_come_back(
    client: FlaskClient, sign_in_resident: HeadersOf, sign_in_staff: HeadersOf
) -> None:
    headers, manager = sign_in_resident(), sign_in_staff("district", division=DISTRICT)
    resident_id = client.get("/api/v1/me", headers=headers).json["id"]
    path = f"/api/v1/residents/{resident_id}"

    answer = client.patch(path, headers=manager, json={"enabled": False})

    assert (answer.status_code, answer.json) == (200, {"id": resident_id, "enabled": False})
    assert client.get("/api/v1/me", headers=headers).json["code"] == "token-revoked"
    assert client.patch(path, headers=manager, json={"enabled": True}).status_code == 200
    # Being let in again does not bring an ended sign-in back.
    assert client.get("/api/v1/me", headers=headers).status_code == 401
    assert client.get("/api/v1/me", headers=sign_in_resident()).status_code == 200


def test_without_redis_sign_in_rotation_reuse_and_sign_out_hold(without_redis: Flask, password_hash: str) -> None:
    with without_redis.app_context(), transaction() as session:
        name = add_staff(session, password_hash).name
    client = without_redis.test_client()

    first, second = password_sign_in(client, name).json, password_sign_in(client, name).json
    rotated = refresh(client, first["refresh_token"])
    assert rotated.status_code == 200
    assert refresh(client, rotated.json["refresh_token"]).status_code == 200
    assert refresh(client, first["refresh_token"]).json["code"] == "refresh-token-reused"
    assert who_am_i(client, first).status_code == 401
    assert who_am_i(client, second).status_code == 200
    assert client.post("/api/v1/sign-out", headers=bearer(second["access_token"])).status_code == 204
    assert who_am_i(client, second).status_code == 401


def test_without_redis_a_role_change_counts_from_the_next_request(without_redis: Flask, password_hash: str) -> None:
    with without_redis.app_context(), transaction() as session:
        member, manager = add_staff(session, password_hash), add_staff(session, password_hash)
    client = without_redis.test_client()
    tokens, other = password_sign_in(client, member.name).json, password_sign_in(client, manager.name).json

    changed = client.patch(
        f"/api/v1/staff/{member.id}",
        headers={**bearer(other["access_token"]), "If-Match": '"1"'},
        json={"enabled": False},
    )

    assert changed.status_code == 200
    assert who_am_i(client, tokens).json["code"] == "token-revoked"
    assert password_sign_in(client, member.name).status_code == 401


def test_without_redis_sign_in_is_limited_more_strictly(without_redis: Flask) -> None:
    client = without_redis.test_client()

    answers = [client.post("/api/v1/sign-in/staff", json={"name": "x"}) for _ in range(12)]

    statuses = [answer.status_code for answer in answers]
    assert statuses == [422] * 10 + [429] * 2
    assert answers[-1].json["code"] == "rate-limited"
    assert int(answers[-1].headers["Retry-After"]) > 0


# Races: the first transaction is held open while the second arrives, so that they truly meet.


def meets(app: Flask, future: "Future[Any]") -> bool:
    """Whether the other party waits for a lock now, rather than having passed."""
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with app.app_context(), db.engine.connect() as connection:
        for _ in range(500):
            if connection.scalar(waiting):
                return True
            if future.done():
                return False
            connection.rollback()
            connection.execute(sa.text("SELECT pg_sleep(0.01)"))
    return False


@pytest.fixture
def other_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread for the second party."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


def test_two_simultaneous_refreshes_get_the_same_generation(
    live: Flask, password_hash: str, other_thread: ThreadPoolExecutor
) -> None:
    with live.app_context(), transaction() as session:
        member = add_staff(session, password_hash)
        tokens = sessions.begin(session, member.id, is_resident=False, now=now())
    client = live.test_client()
    with live.app_context(), transaction() as session:
        row = session.scalars(sa.select(SignIn)).one()
        claims = {"sub": str(member.id), "sid": str(row.id), "gen": 0, "res": False}
        first = sessions.refresh(session, claims, now=now())
        second = other_thread.submit(refresh, client, tokens.refresh_token)
        assert meets(live, second)

    answer = second.result(timeout=10)

    assert first is not None
    assert answer.status_code == 200
    with live.app_context(), transaction() as session:
        row = session.scalars(sa.select(SignIn)).one()
        assert (row.generation, row.ended_at) == (1, None)
    assert refresh(client, answer.json["refresh_token"]).status_code == 200


def test_two_first_sign_ins_of_one_person_make_one_resident(live: Flask, other_thread: ThreadPoolExecutor) -> None:
    wechat = WeChatSession(openid="openid-of-a-race", session_key="MDEyMzQ1Njc4OWFiY2RlZg==", unionid=None)

    def sign_in(session: Session) -> residents.SignedIn:
        return residents.sign_in_wechat(
            session, appid="wx-a", wechat_session=wechat, accept_terms=True, data_key=b"k" * 32, now=now()
        )

    def other() -> residents.SignedIn:
        with live.app_context(), transaction() as session:
            return sign_in(session)

    with live.app_context(), transaction() as session:
        first = sign_in(session)
        second = other_thread.submit(other)
        assert meets(live, second)

    assert second.result(timeout=10) == residents.SignedIn(first.resident_id, is_new=False)
    with live.app_context(), transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Resident)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(WechatIdentity)) == 1


def test_a_sign_in_that_meets_a_new_password_does_not_outlive_it(
    live: Flask, password_hash: str, other_thread: ThreadPoolExecutor
) -> None:
    with live.app_context(), transaction() as session:
        member, manager = add_staff(session, password_hash), add_staff(session, password_hash)
    actor = Actor(id=manager.id, role=Role.DISTRICT, session_id=new_id(), division=DISTRICT)

    def change_password() -> None:
        with live.app_context(), transaction() as session:
            changes = {"password_hash": "another"}
            staff.update(session, actor, member.id, expected_version=1, changes=changes, now=now())

    with live.app_context(), transaction() as session:
        checked = staff.CheckedCredential(member.id, password_hash, None)
        staff.sign_in_staff(session, checked=checked)
        tokens = sessions.begin(session, member.id, is_resident=False, now=now())
        change = other_thread.submit(change_password)
        assert meets(live, change)
    change.result(timeout=10)

    assert who_am_i(live.test_client(), {"access_token": tokens.access_token}).json["code"] == "token-revoked"
    # And the other order: a password that was checked before the change opens nothing after it.
    with live.app_context(), pytest.raises(staff.BadCredentials), transaction() as session:
        staff.sign_in_staff(session, checked=checked)


def test_a_sign_in_that_meets_disabling_does_not_outlive_it(live: Flask, other_thread: ThreadPoolExecutor) -> None:
    wechat = WeChatSession(openid="openid-to-disable", session_key="MDEyMzQ1Njc4OWFiY2RlZg==", unionid=None)
    actor = Actor(id=new_id(), role=Role.DISTRICT, session_id=new_id(), division=DISTRICT)

    def sign_in(session: Session) -> residents.SignedIn:
        return residents.sign_in_wechat(
            session, appid="wx-a", wechat_session=wechat, accept_terms=True, data_key=b"k" * 32, now=now()
        )

    with live.app_context(), transaction() as session:
        resident_id = sign_in(session).resident_id

    def disable() -> None:
        with live.app_context(), transaction() as session:
            residents.set_enabled(session, actor, resident_id, enabled=False, now=now())

    with live.app_context(), transaction() as session:
        sign_in(session)
        tokens = sessions.begin(session, resident_id, is_resident=True, now=now())
        disabling = other_thread.submit(disable)
        assert meets(live, disabling)
    disabling.result(timeout=10)

    answer = live.test_client().get("/api/v1/me", headers=bearer(tokens.access_token))
    assert answer.json["code"] == "token-revoked"
    with live.app_context(), transaction() as session:
        assert session.scalars(sa.select(SignIn.ended_because)).all() == ["disabled"]

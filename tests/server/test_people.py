"""Residents over HTTP: the first sign-in, the profile, the phone number, consents."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server import crypto
from server.clock import now
from server.database import new_id
from server.people import residents
from server.people.models import Consent, ConsentPurpose, Resident, WechatIdentity
from server.people.wechat import WeChatDataUnreadable, WeChatSession

COMMUNITY = "120104001001"
HeadersOf = Callable[..., dict[str, str]]
DATA_KEY = b"k" * 32
WECHAT = WeChatSession(openid="openid-of-a-test", session_key="MDEyMzQ1Njc4OWFiY2RlZg==", unionid=None)


def sign_in(client: FlaskClient, standin: Any, user: str, **members: Any) -> Any:
    return client.post("/api/v1/sign-in/wechat", json={"code": standin.login(user), **members})


def bearer(answer: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer.json['access_token']}"}


def phone_code(standin: Any, user: str) -> str:
    return str(standin.post("/phone/phone-number", user=user)["code"])


def register(session: Session, wechat: WeChatSession = WECHAT, *, accept_terms: bool = True) -> residents.SignedIn:
    return residents.sign_in_wechat(
        session, appid="wx-a", wechat_session=wechat, accept_terms=accept_terms, data_key=DATA_KEY, now=now()
    )


def test_a_first_sign_in_makes_an_account_and_the_next_one_finds_it(client: FlaskClient, standin: Any) -> None:
    first = sign_in(client, standin, "ann", accept_terms=True)
    again = sign_in(client, standin, "ann")

    assert (first.status_code, again.status_code) == (200, 200)
    assert (first.json["is_new"], again.json["is_new"]) == (True, False)
    assert first.json["expires_in_s"] <= 15 * 60
    profiles = [client.get("/api/v1/me", headers=bearer(answer)).json for answer in (first, again)]
    assert profiles[0]["id"] == profiles[1]["id"]


def test_a_first_sign_in_without_the_terms_makes_nothing(client: FlaskClient, standin: Any, session: Session) -> None:
    before = session.scalar(sa.select(sa.func.count()).select_from(Resident))

    answer = sign_in(client, standin, "ben")

    assert (answer.status_code, answer.json["code"]) == (403, "terms-required")
    assert session.scalar(sa.select(sa.func.count()).select_from(Resident)) == before


def test_terms_are_asked_for_again_when_their_text_changes(
    client: FlaskClient, standin: Any, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sign_in(client, standin, "cat", accept_terms=True).status_code == 200
    monkeypatch.setitem(residents.TEXT_VERSIONS, ConsentPurpose.TERMS, "2027-05-01")

    assert sign_in(client, standin, "cat").json["code"] == "terms-required"
    renewed = sign_in(client, standin, "cat", accept_terms=True)

    assert (renewed.status_code, renewed.json["is_new"]) == (200, False)
    given = session.execute(sa.select(Consent.text_version, Consent.withdrawn_at).order_by(Consent.id)).all()
    assert [(row.text_version, row.withdrawn_at is None) for row in given] == [
        (residents.TERMS_TEXT_VERSION, False),
        ("2027-05-01", True),
    ]


def test_a_wechat_code_works_once(client: FlaskClient, standin: Any) -> None:
    code = standin.login("dan")

    first = client.post("/api/v1/sign-in/wechat", json={"code": code, "accept_terms": True})
    second = client.post("/api/v1/sign-in/wechat", json={"code": code, "accept_terms": True})

    assert (first.status_code, second.status_code) == (200, 401)
    assert second.json["code"] == "wechat-code-used"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": "abc", "accept_terms": "yes"},
        {"code": "abc", "more": 1},
        {"code": "a b"},
        {"code": "abc\n"},
        {"code": "x" * 129},
    ],
)
def test_a_sign_in_that_does_not_fit_the_schema_is_refused(client: FlaskClient, body: dict[str, Any]) -> None:
    answer = client.post("/api/v1/sign-in/wechat", json=body)

    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert answer.json["errors"]


def test_the_session_key_is_kept_sealed_and_opens_for_its_own_resident_alone(session: Session) -> None:
    mine = register(session)
    other = register(session, replace(WECHAT, openid="another-openid"))

    assert residents.session_key_of(session, mine.resident_id, DATA_KEY) == WECHAT.session_key
    sealed = session.scalars(sa.select(WechatIdentity.session_key_sealed)).all()
    assert not any(WECHAT.session_key.encode() in value for value in sealed)
    # A sealed key that is copied into another person's row stays shut.
    copied = sa.select(WechatIdentity.session_key_sealed).where(WechatIdentity.resident_id == mine.resident_id)
    session.execute(
        sa.update(WechatIdentity)
        .where(WechatIdentity.resident_id == other.resident_id)
        .values(session_key_sealed=copied.scalar_subquery())
    )
    with pytest.raises(WeChatDataUnreadable):
        residents.session_key_of(session, other.resident_id, DATA_KEY)
    with pytest.raises(WeChatDataUnreadable):
        residents.session_key_of(session, new_id(), DATA_KEY)


def test_a_new_sign_in_replaces_the_session_key(session: Session) -> None:
    resident_id = register(session).resident_id

    register(session, replace(WECHAT, session_key="ZmVkY2JhOTg3NjU0MzIxMA=="), accept_terms=False)

    assert residents.session_key_of(session, resident_id, DATA_KEY) == "ZmVkY2JhOTg3NjU0MzIxMA=="


def test_a_disabled_resident_cannot_sign_in(client: FlaskClient, standin: Any, session: Session) -> None:
    first = sign_in(client, standin, "eve", accept_terms=True)
    resident_id = client.get("/api/v1/me", headers=bearer(first)).json["id"]
    session.execute(sa.update(Resident).where(Resident.resident_id == UUID(resident_id)).values(enabled=False))
    session.commit()

    answer = sign_in(client, standin, "eve", accept_terms=True)

    assert (answer.status_code, answer.json["code"]) == (403, "account-disabled")


def test_a_profile_changes_by_parts_and_null_takes_back(client: FlaskClient, sign_in_resident: HeadersOf) -> None:
    headers = sign_in_resident(community=None)

    first = client.patch("/api/v1/me", headers=headers, json={"nickname": "南开 小荷🌱", "born_in": 1990})
    second = client.patch("/api/v1/me", headers=headers, json={"community_code": COMMUNITY, "born_in": None})

    assert (first.status_code, second.status_code) == (200, 200)
    assert (first.json["community_code"], first.json["born_in"]) == (None, 1990)
    assert (second.json["community_code"], second.json["born_in"]) == (COMMUNITY, None)
    assert client.get("/api/v1/me", headers=headers).json == second.json
    assert second.json["nickname"] == "南开 小荷🌱"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"community_code": "120104999999"}, "community-unknown"),
        ({"community_code": "12010400100\n"}, "invalid-request"),
        ({"community_code": None}, "invalid-request"),
        ({"born_in": date.today().year + 1}, "invalid-request"),  # noqa: DTZ011 -- any day of next year will do
        ({"born_in": 1899}, "invalid-request"),
        ({"born_in": True}, "invalid-request"),
        ({"nickname": ""}, "invalid-request"),
        ({"nickname": "荷" * 25}, "invalid-request"),
        ({"nickname": " padded"}, "invalid-request"),
        ({"nickname": "line\n"}, "invalid-request"),
        ({"nickname": "a\u0000b"}, "invalid-request"),
        ({"nickname": "\u202eevil"}, "invalid-request"),
        ({"nickname": "in\u200bvisible"}, "invalid-request"),
        ({"nickname": "half\ud83d"}, "invalid-request"),
        ({"enabled": False}, "invalid-request"),
    ],
)
def test_an_unfit_profile_is_refused_and_changes_nothing(
    client: FlaskClient, sign_in_resident: HeadersOf, changes: dict[str, Any], code: str
) -> None:
    headers = sign_in_resident()
    before = client.get("/api/v1/me", headers=headers).json

    # Spelt out in ASCII: half a character could not be sent as UTF-8.
    body = json.dumps(changes, ensure_ascii=True)
    answer = client.patch("/api/v1/me", headers=headers, data=body, content_type="application/json")

    assert (answer.status_code, answer.json["code"]) == (422, code)
    assert client.get("/api/v1/me", headers=headers).json == before


def test_a_phone_number_is_stored_sealed_and_shown_masked(
    app: Flask, client: FlaskClient, standin: Any, sign_in_resident: HeadersOf, session: Session
) -> None:
    headers = sign_in_resident("fay")

    answer = client.post("/api/v1/me/phone", headers=headers, json={"code": phone_code(standin, "fay")})

    assert answer.status_code == 200
    shown = answer.json["phone"]
    row = session.scalars(sa.select(Resident).where(Resident.resident_id == UUID(answer.json["id"]))).one()
    settings = app.extensions["tanpuhui_settings"]
    assert row.phone_sealed is not None
    phone = crypto.unseal(settings.data_key, "phone", answer.json["id"], row.phone_sealed).decode()
    assert (phone[:3], phone[-4:]) == (shown[:3], shown[-4:])
    assert phone != shown
    assert phone.encode() not in row.phone_sealed
    assert "*******" in shown


def test_a_phone_number_belongs_to_one_resident(client: FlaskClient, standin: Any, sign_in_resident: HeadersOf) -> None:
    gus, hal = sign_in_resident("gus"), sign_in_resident("hal")

    def set_phone(headers: dict[str, str]) -> Any:
        return client.post("/api/v1/me/phone", headers=headers, json={"code": phone_code(standin, "gus")})

    assert set_phone(gus).status_code == 200
    assert set_phone(gus).status_code == 200  # again: still one's own
    answer = set_phone(hal)

    assert (answer.status_code, answer.json["code"]) == (409, "phone-taken")
    assert client.get("/api/v1/me", headers=hal).json["phone"] is None


def test_nothing_personal_reaches_the_log(
    client: FlaskClient, standin: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    code = standin.login("ida")
    tokens = client.post("/api/v1/sign-in/wechat", json={"code": code, "accept_terms": True})
    number = phone_code(standin, "ida")
    client.post("/api/v1/me/phone", headers=bearer(tokens), json={"code": number})

    said = caplog.text + "".join(capfd.readouterr())

    for secret in (code, number, tokens.json["access_token"], tokens.json["refresh_token"], "test-app-secret"):
        assert secret not in said


def consent_of(client: FlaskClient, headers: dict[str, str], purpose: str) -> dict[str, Any]:
    items = client.get("/api/v1/me/consents", headers=headers).json["items"]
    found: dict[str, Any] = next(item for item in items if item["purpose"] == purpose)
    return found


@pytest.mark.parametrize("purpose", ["werun-steps", "ranking"])
def test_a_consent_is_taken_back_as_easily_as_given(
    client: FlaskClient, sign_in_resident: HeadersOf, purpose: str
) -> None:
    headers = sign_in_resident()
    path = f"/api/v1/me/consents/{purpose}"
    assert consent_of(client, headers, purpose)["given_at"] is None

    given = client.put(path, headers=headers)
    again = client.put(path, headers=headers, json={"text_version": given.json["current_text_version"]})

    assert (given.status_code, again.status_code) == (200, 200)
    assert given.json["given_at"] == again.json["given_at"] is not None
    assert consent_of(client, headers, purpose) == given.json
    assert [client.delete(path, headers=headers).status_code for _ in range(2)] == [204, 204]
    assert consent_of(client, headers, purpose)["given_at"] is None


def test_every_giving_and_taking_back_is_kept(
    client: FlaskClient, sign_in_resident: HeadersOf, session: Session
) -> None:
    headers = sign_in_resident()
    for _ in range(2):
        client.put("/api/v1/me/consents/ranking", headers=headers)
        client.delete("/api/v1/me/consents/ranking", headers=headers)

    rows = session.scalars(sa.select(Consent).where(Consent.purpose == ConsentPurpose.RANKING)).all()

    assert [row.withdrawn_at is not None for row in rows] == [True, True]


def test_a_consent_to_a_superseded_text_is_refused_and_counts_no_more(
    client: FlaskClient,
    sign_in_resident: HeadersOf,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers = sign_in_resident()
    given = client.put("/api/v1/me/consents/ranking", headers=headers).json
    resident_id = UUID(client.get("/api/v1/me", headers=headers).json["id"])
    assert residents.has_consent(session, resident_id, ConsentPurpose.RANKING)
    monkeypatch.setitem(residents.TEXT_VERSIONS, ConsentPurpose.RANKING, "2027-05-01")

    stale = client.put("/api/v1/me/consents/ranking", headers=headers, json={"text_version": given["text_version"]})

    assert (stale.status_code, stale.json["code"]) == (409, "consent-text-outdated")
    assert not residents.has_consent(session, resident_id, ConsentPurpose.RANKING)
    client.put("/api/v1/me/consents/ranking", headers=headers, json={"text_version": "2027-05-01"})
    assert residents.has_consent(session, resident_id, ConsentPurpose.RANKING)


@pytest.mark.parametrize("purpose", ["terms", "partner", "photographs", "%00"])
def test_other_purposes_are_not_given_or_taken_back_here(
    client: FlaskClient, sign_in_resident: HeadersOf, purpose: str
) -> None:
    headers = sign_in_resident()

    assert client.put(f"/api/v1/me/consents/{purpose}", headers=headers).status_code == 404
    assert client.delete(f"/api/v1/me/consents/{purpose}", headers=headers).status_code == 404


def test_one_resident_never_sees_the_consents_of_another(client: FlaskClient, sign_in_resident: HeadersOf) -> None:
    mine, other = sign_in_resident("jo"), sign_in_resident("kim")

    client.put("/api/v1/me/consents/ranking", headers=mine)

    assert consent_of(client, other, "ranking")["given_at"] is None


def test_the_database_refuses_a_second_standing_consent(session: Session) -> None:
    resident_id = register(session).resident_id
    twin = {"purpose": "terms", "text_version": "1", "given_at": now(), "resident_id": resident_id}

    with pytest.raises(IntegrityError, match="consent_standing_key"), session.begin_nested():
        session.execute(sa.insert(Consent).values(id=new_id(), **twin))


@pytest.mark.parametrize("method", ["get", "patch"])
def test_staff_have_no_resident_profile(client: FlaskClient, sign_in_staff: HeadersOf, method: str) -> None:
    headers = sign_in_staff("district", division="120104")

    answer = client.open("/api/v1/me", method=method.upper(), headers=headers, json={})

    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")

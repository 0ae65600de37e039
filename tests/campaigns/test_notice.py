"""The public notice and objections: without sign-in, with a receipt, answered before any name."""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
import time_machine
from assessment_builders import png
from creation_builders import (
    COMMUNITY,
    DATA_KEY,
    DISTRICT,
    START,
    STREET,
    Case,
    actor_of,
    case_of,
    load_data,
    new_staff,
    put_small_rubric_in_force,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import applications, notice
from campaigns.creation.models import Objection, PublicNotice
from campaigns.creation.notice import NoticeOver, ObjectionAnswered, ObjectionFilesFull, ObjectionsFull
from campaigns.creation.process import StepNotReady
from campaigns.creation.steps import ApplicationState, Move
from server.access import Role
from server.clock import business_day
from server.database import db
from server.errors import Forbidden, NotFound
from server.files.intake import CleanFile
from server.limits import limiter
from server.notices.models import Notice
from wsgi import create_app

Headers = dict[str, str]
SignIn = Callable[..., Headers]
S, M = ApplicationState, Move
TEXT = "公示材料与实际情况不符, 请核查。"


@pytest.fixture
def case(session: Session, clock: time_machine.Traveller) -> Case:
    """An application under notice, its clock that of the test."""
    load_data(session)
    put_small_rubric_in_force(session)
    found = case_of(session).to(S.NOTICE)
    session.commit()
    clock.move_to(found.at)
    return found


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


def path_of(case: Case) -> str:
    return f"/api/v1/creation/notices/{case.application.id}"


def objected(client: FlaskClient, case: Case, **entry: Any) -> str:
    answer = client.post(f"{path_of(case)}/objections", json={"text": TEXT, **entry})
    assert answer.status_code == 201, answer.text
    return str(answer.json["receipt"])


# What everybody reads


def test_the_list_under_notice_is_public_and_says_until_when(client: FlaskClient, case: Case) -> None:
    listed = client.get("/api/v1/creation/notices").json["items"]
    assert len(listed) == 1
    shown = listed[0]
    assert (shown["programme_zh"], shown["score"], shown["maximum"]) == ("绿色社区", "17.50", 20)
    assert (shown["published_on"], shown["last_on"]) == ("2026-11-18", "2026-11-25")
    assert shown["rubric"]["confidence"] == "R"
    assert client.get(path_of(case)).json == shown
    assert client.get("/api/v1/creation/notices?programme=green-mall").json["items"] == []
    # Nobody's marks, reasons or accounts.
    assert not {"moved_by", "created_by", "statement"} & set(shown)


def test_what_is_not_under_notice_is_not_there(client: FlaskClient, session: Session, case: Case) -> None:
    refused(client.get(f"/api/v1/creation/notices/{uuid4()}"), 404, "not-found")
    case.later(8)
    case.move(case.district, M.END_NOTICE)
    session.commit()
    refused(client.get(path_of(case)), 404, "not-found")
    refused(client.post(f"{path_of(case)}/objections", json={"text": TEXT}), 404, "not-found")
    assert client.get("/api/v1/creation/notices").json["items"] == []


def test_the_list_is_paged_newest_first(client: FlaskClient, session: Session, case: Case) -> None:
    for community in ("120104001003", "120104001005"):
        staff = actor_of(new_staff(session, Role.COMMUNITY_STAFF, community), Role.COMMUNITY_STAFF, division=community)
        draft = applications.create(session, staff, programme_code="green-community", now=START)
        Case(session, staff, case.street, case.district, draft).to(S.NOTICE)
    session.commit()
    first = client.get("/api/v1/creation/notices?limit=2").json
    rest = client.get(f"/api/v1/creation/notices?limit=2&cursor={first['next_cursor']}").json
    ids = [row["id"] for row in first["items"] + rest["items"]]
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)
    assert ids == sorted(ids, reverse=True)
    refused(client.get("/api/v1/creation/notices?cursor=xyz"), 422, "bad-cursor")


# Objecting


def test_anybody_objects_and_finds_the_answer_by_the_receipt(
    client: FlaskClient, case: Case, sign_in_staff: SignIn
) -> None:
    receipt = objected(client, case, contact="13800000000")
    assert len(receipt) == 16
    mine = {"Objection-Receipt": f"{receipt[:4]}-{receipt[4:8]}-{receipt[8:12]}-{receipt[12:]}".lower()}
    waiting = client.get("/api/v1/creation/objections/mine", headers=mine)
    assert (waiting.json["text"], waiting.json["answer"], waiting.json["files"]) == (TEXT, None, [])
    assert "contact" not in waiting.json
    staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    listed = client.get(f"/api/v1/creation/applications/{case.application.id}/objections", headers=staff).json["items"]
    assert (listed[0]["text"], listed[0]["contact"]) == (TEXT, "13800000000")
    entry = {"answer": "经核查, 情况属实。", "upheld": False}
    path = f"/api/v1/creation/objections/{listed[0]['id']}/answer"
    assert client.post(path, json=entry, headers=staff).status_code == 200
    refused(client.post(path, json={**entry, "upheld": True}, headers=staff), 409, "objection-answered")
    answered = client.get("/api/v1/creation/objections/mine", headers=mine).json
    assert (answered["answer"], answered["upheld"]) == ("经核查, 情况属实。", False)


def test_a_wrong_receipt_finds_nothing(client: FlaskClient, case: Case) -> None:
    objected(client, case)
    for receipt, status in (("0000000000000000", 404), ("short", 422), ("' OR 1=1 -- aaaa", 422)):
        answer = client.get("/api/v1/creation/objections/mine", headers={"Objection-Receipt": receipt})
        assert answer.status_code == status, receipt
    refused(client.get("/api/v1/creation/objections/mine"), 422, "invalid-request")


@pytest.mark.parametrize(
    "entry",
    [
        {"text": "短"},
        {"text": " " * 9},
        {"text": "x" * 2001},
        {"text": TEXT, "contact": "x" * 101},
        {"contact": "x"},
        {},
    ],
)
def test_an_objection_has_words_and_limits(client: FlaskClient, case: Case, entry: dict[str, str]) -> None:
    refused(client.post(f"{path_of(case)}/objections", json=entry), 422, "invalid-request")


def test_the_contact_is_sealed_and_only_those_who_decide_open_it(case: Case) -> None:
    objection = case.object()
    assert objection.contact_sealed is not None
    assert b"138" not in objection.contact_sealed

    def contacts(actor: Any, key: bytes = DATA_KEY) -> list[str | None]:
        page = notice.list_objections(case.session, actor, case.application.id, data_key=key, limit=9, cursor=None)
        return [each.contact for each in page.items]

    assert contacts(case.district) == ["13800000000"]
    assert contacts(case.street) == [None]
    assert contacts(case.district, bytes(32)) == [None]
    with pytest.raises(Forbidden):
        contacts(case.applicant)
    stranger = actor_of(new_staff(case.session, Role.STREET, "120104002"), Role.STREET, division="120104002")
    with pytest.raises(NotFound):
        contacts(stranger)


def test_objections_come_until_the_end_of_the_last_day(case: Case) -> None:
    last_on = case.session.get_one(PublicNotice, case.application.id).last_on
    case.later(7)
    assert business_day(case.at) == last_on
    case.object()
    case.later(1)
    with pytest.raises(NoticeOver):
        case.object()


def test_a_notice_takes_so_many_objections_and_no_more(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "OBJECTIONS_MAX", 2)
    case.object()
    case.object()
    with pytest.raises(ObjectionsFull):
        case.object()


def test_the_eleventh_objection_of_an_hour_from_one_address_waits(app: Flask, case: Case) -> None:
    limited = create_app(replace(app.extensions["tanpuhui_settings"], rate_limits=True))
    try:
        client, entry = limited.test_client(), {"text": TEXT}
        paths = [f"/api/v1/creation/notices/{uuid4()}/objections" for _ in range(11)]
        assert [client.post(path, json=entry).status_code for path in paths] == [404] * 10 + [429]
    finally:
        limiter.enabled = False  # the process has one limiter, and the other tests want it off
        limited.extensions["tanpuhui_wechat"].close()
        with limited.app_context():
            db.session.remove()
            db.engine.dispose()


# Files


def a_file() -> CleanFile:
    return CleanFile("证据.png", "image/png", b"\x89PNG not looked at again", 1, 1, None)


def test_an_objector_adds_a_picture_and_the_district_downloads_it(
    client: FlaskClient, case: Case, sign_in_staff: SignIn
) -> None:
    receipt = objected(client, case)
    added = client.post(
        "/api/v1/creation/objections/mine/files",
        data={"file": (io.BytesIO(png()), "现场.png")},
        content_type="multipart/form-data",
        headers={"Objection-Receipt": receipt},
    )
    assert added.status_code == 201, added.text
    assert [(each["position"], each["file"]["media_type"]) for each in added.json["files"]] == [(1, "image/png")]
    staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    listed = client.get(f"/api/v1/creation/applications/{case.application.id}/objections", headers=staff).json["items"]
    path = f"/api/v1/creation/objections/{listed[0]['id']}/files"
    assert client.get(f"{path}/1", headers=staff).status_code == 200
    refused(client.get(f"{path}/2", headers=staff), 404, "not-found")
    stranger = sign_in_staff(Role.STREET, division="120104002")
    refused(client.get(f"{path}/1", headers=stranger), 404, "not-found")
    community = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    refused(client.get(f"{path}/1", headers=community), 403, "forbidden")


def test_nobody_without_a_receipt_makes_the_service_look_into_a_file(client: FlaskClient, case: Case) -> None:
    answer = client.post(
        "/api/v1/creation/objections/mine/files",
        data={"file": (io.BytesIO(b"not even a picture"), "x.png")},
        content_type="multipart/form-data",
        headers={"Objection-Receipt": "0000000000000000"},
    )
    refused(answer, 404, "not-found")


def test_an_objection_has_at_most_three_files_and_none_after_its_answer(app: Flask, case: Case) -> None:
    with app.app_context():
        received = notice.make_objection(
            case.session, case.application.id, text=TEXT, contact="", data_key=DATA_KEY, now=case.at
        )
        for _ in range(3):
            notice.add_file(case.session, received.receipt, a_file(), now=case.at)
        with pytest.raises(ObjectionFilesFull):
            notice.add_file(case.session, received.receipt, a_file(), now=case.at)
        other = notice.make_objection(
            case.session, case.application.id, text=TEXT, contact="", data_key=DATA_KEY, now=case.at
        )
        with pytest.raises(NoticeOver):
            notice.add_file(case.session, other.receipt, a_file(), now=case.at + timedelta(days=8))
        case.answer(other.objection)
        with pytest.raises(ObjectionAnswered):
            notice.add_file(case.session, other.receipt, a_file(), now=case.at)


# Answers before naming


def test_a_name_waits_for_every_answer(case: Case) -> None:
    first, second = case.object(), case.object()
    case.later(8)
    case.move(case.district, M.END_NOTICE)

    def unmet() -> dict[str, list[str]]:
        with pytest.raises(StepNotReady) as raised:
            case.move(case.district, M.NAME)
        return {each["guard"]: each["missing"] for each in raised.value.extra["unmet"]}

    assert unmet() == {"objections-answered": [str(first.id), str(second.id)]}
    case.answer(first)
    assert unmet() == {"objections-answered": [str(second.id)]}
    case.answer(second)
    assert case.move(case.district, M.NAME).state is S.NAMED


def test_an_objection_upheld_ends_in_a_rejection_and_never_in_a_name(case: Case) -> None:
    objection = case.object()
    case.later(8)
    case.move(case.district, M.END_NOTICE)
    with pytest.raises(StepNotReady):
        case.move(case.district, M.REJECT, reason="异议成立")  # even a rejection answers first
    case.answer(objection, upheld=True)
    with pytest.raises(StepNotReady) as raised:
        case.move(case.district, M.NAME)
    assert [each["guard"] for each in raised.value.extra["unmet"]] == ["none-upheld"]
    assert case.move(case.district, M.REJECT, reason="异议成立").state is S.REJECTED


def test_only_the_district_answers(client: FlaskClient, case: Case, sign_in_staff: SignIn) -> None:
    objection = case.object()
    case.session.commit()
    path = f"/api/v1/creation/objections/{objection.id}/answer"
    entry = {"answer": "已核实", "upheld": False}
    for role, scope, status in (
        (Role.STREET, STREET, 403),
        (Role.COMMUNITY_STAFF, COMMUNITY, 403),
        (Role.ASSESSOR, DISTRICT, 403),
        (Role.DISTRICT, DISTRICT, 200),
    ):
        assert client.post(path, json=entry, headers=sign_in_staff(role, division=scope)).status_code == status, role


def test_the_district_is_told_of_an_objection(case: Case) -> None:
    case.object()
    kinds = case.session.scalars(sa.select(Notice.kind).where(Notice.person_id == case.district.id)).all()
    assert kinds.count("objection") == 1


# The last guard: the database


def test_objections_answers_and_notices_do_not_change_whatever_the_sql(case: Case) -> None:
    objection = case.object()
    case.answer(objection)
    for sql in (
        "UPDATE objection SET text = '别的' WHERE id = :id",
        "UPDATE objection SET answer = '别的' WHERE id = :id",
        "UPDATE objection SET upheld = true WHERE id = :id",
        "UPDATE objection SET answer = NULL, upheld = NULL, answered_by = NULL, answered_at = NULL WHERE id = :id",
        "UPDATE objection SET contact_sealed = 'x' WHERE id = :id",
        "DELETE FROM objection WHERE id = :id",
        "TRUNCATE objection CASCADE",
        "UPDATE public_notice SET last_on = last_on - 1, days = days - 1 WHERE application_id = :application",
        "UPDATE public_notice SET score = 20 WHERE application_id = :application",
        "DELETE FROM public_notice WHERE application_id = :application",
    ):
        for role in ("tanpuhui_app", "NONE"):
            case.session.execute(sa.text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(sa.exc.DBAPIError), case.session.begin_nested():
                case.session.execute(sa.text(sql), {"id": objection.id, "application": case.application.id})
    case.session.execute(sa.text("UPDATE objection SET contact_sealed = NULL"))  # a contact may be forgotten


def test_an_objection_outside_the_notice_is_refused_by_the_database_too(case: Case) -> None:
    case.later(8)
    case.move(case.district, M.END_NOTICE)
    late = Objection(
        id=UUID(int=1), application_id=case.application.id, receipt_hash=bytes(32), text=TEXT, made_at=case.at
    )
    case.session.add(late)
    with pytest.raises(IntegrityError, match="while the notice stands") as raised:
        case.session.flush()
    assert raised.value.orig is not None
    assert raised.value.orig.diag.constraint_name in NoticeOver.constraints  # type: ignore[attr-defined]


def test_a_contact_is_forgotten_half_a_year_after_the_answer_and_not_before(case: Case) -> None:
    case.answer(case.object())
    case.later(8)
    case.move(case.district, M.END_NOTICE)
    later = case.at + timedelta(days=181)
    assert notice.forget_contacts(case.session, now=later) == 0, "the matter is not decided yet"
    case.move(case.district, M.NAME)
    assert notice.forget_contacts(case.session, now=case.at) == 0
    assert notice.forget_contacts(case.session, now=later) == 1
    assert case.session.scalars(sa.select(Objection.contact_sealed)).all() == [None]

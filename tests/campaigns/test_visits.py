"""On-site visits: a date, two people or more, findings, photographs; written once."""

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pikepdf
import pytest
import sqlalchemy as sa
from assessment_builders import (
    ASSESSORS_STREET,
    DISTRICT,
    HOME,
    STREET,
    as_owner,
    make_application,
    make_rubric,
    move_to,
    png,
    seat,
)
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import visits
from campaigns.creation.models import PHOTOS_PER_VISIT_MAX, Application, SiteVisit, SiteVisitPhoto
from campaigns.creation.steps import ApplicationState
from server.access import Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.people.models import Staff

State = ApplicationState
Headers = dict[str, str]
SignIn = Callable[..., Headers]


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


def path_of(application: Application, rest: str = "") -> str:
    return f"/api/v1/creation/applications/{application.id}/visits{rest}"


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "visited_on": business_day(now()).isoformat(),
        "people": ["张三", "李四"],
        "findings": "分类投放点齐全, 公约已张贴",
        **changes,
    }


def add_photo(
    client: FlaskClient, application: Application, visit: str, headers: Headers, *, content: bytes = b"", **form: str
) -> Any:
    data = {"file": (io.BytesIO(content or png()), "现场.png"), **form}
    return client.post(
        path_of(application, f"/{visit}/photos"), data=data, headers=headers, content_type="multipart/form-data"
    )


@pytest.fixture
def application(session: Session) -> Application:
    return make_application(session, make_rubric(session))


@pytest.fixture
def district(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def assessor(
    session: Session, application: Application, make_staff: Callable[..., UUID], headers_of: SignIn
) -> Headers:
    person = make_staff(Role.ASSESSOR, division=DISTRICT)
    seat(session, application, person, assigned_by=make_staff(Role.DISTRICT, division=DISTRICT))
    session.commit()
    return {**headers_of(person, is_resident=False), "X-Person": str(person)}


def test_the_district_records_a_visit_and_everybody_who_sees_the_application_reads_it(
    client: FlaskClient, session: Session, application: Application, district: Headers, sign_in_staff: SignIn
) -> None:
    assert not visits.held(session, application.id)
    made = client.post(path_of(application), json=entry(people=[" 张三 ", "李四", "王五"]), headers=district)
    assert made.status_code == 201, made.text
    assert made.json["people"] == ["张三", "李四", "王五"]
    photos = [
        add_photo(client, application, made.json["id"], district, caption=caption) for caption in ("大门", "投放点")
    ]
    assert [answer.status_code for answer in photos] == [201, 201]

    for role, scope in ((Role.COMMUNITY_STAFF, HOME), (Role.STREET, STREET), (Role.DISTRICT, DISTRICT)):
        reader = sign_in_staff(role, division=scope)
        (visit,) = client.get(path_of(application), headers=reader).json["items"]
        assert [photo["caption"] for photo in visit["photos"]] == ["大门", "投放点"]
        read = client.get(path_of(application, f"/{visit['id']}/photos/2/file"), headers=reader)
        assert (read.status_code, read.content_type) == (200, "image/png")
        assert b"private description" not in read.data
    assert visits.held(session, application.id)
    acts = session.scalars(sa.select(AuditEntry.act).where(AuditEntry.subject == str(application.id))).all()
    assert acts.count("application.visit") == 1
    assert acts.count("application.visit.photo") == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"people": ["张三", " 张三"]},
        {"people": ["e\u0301", "\u00e9"]},  # the same letter written twice
        {"visited_on": "2026-11-19"},  # tomorrow
        {"visited_on": "2026-11-16"},  # before the submission
    ],
)
def test_a_visit_has_two_people_and_a_day_between_the_submission_and_today(
    client: FlaskClient, session: Session, clock: Any, sign_in_staff: SignIn, changes: dict[str, Any]
) -> None:
    clock.shift(timedelta(days=-1))
    application = make_application(session, make_rubric(session))
    clock.shift(timedelta(days=1))
    district = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    refused(client.post(path_of(application), json=entry(**changes), headers=district), 422, "visit-invalid")
    assert client.post(path_of(application), json=entry(), headers=district).status_code == 201
    yesterday = entry(visited_on="2026-11-17")
    assert client.post(path_of(application), json=yesterday, headers=district).status_code == 201


@pytest.mark.parametrize(
    "changes",
    [
        {"people": ["张三"]},
        {"people": []},
        {"people": ["张三", " "]},
        {"people": [f"人{number}" for number in range(11)]},
        {"findings": " "},
        {"findings": "字" * 2001},
        {"visited_on": "1999-01-01"},
        {"score": 3},
    ],
)
def test_a_visit_that_does_not_fit_the_schema_is_refused(
    client: FlaskClient, application: Application, district: Headers, changes: dict[str, Any]
) -> None:
    refused(client.post(path_of(application), json=entry(**changes), headers=district), 422, "invalid-request")


def test_the_district_and_assigned_assessors_visit_and_nobody_else(
    client: FlaskClient,
    session: Session,
    application: Application,
    assessor: Headers,
    sign_in_staff: SignIn,
    sign_in_resident: SignIn,
) -> None:
    assert client.post(path_of(application), json=entry(), headers=assessor).status_code == 201
    for headers, status in (
        (sign_in_staff(Role.COMMUNITY_STAFF, division=HOME), 403),  # sees it and does not visit itself
        (sign_in_staff(Role.STREET, division=STREET), 403),
        (sign_in_staff(Role.STREET, division=ASSESSORS_STREET), 404),
        (sign_in_staff(Role.ASSESSOR, division=DISTRICT), 404),
        (sign_in_resident(), 403),
    ):
        assert client.post(path_of(application), json=entry(), headers=headers).status_code == status
    session.execute(
        sa.update(Staff).where(Staff.id == UUID(assessor["X-Person"])).values(role=Role.COMMUNITY_STAFF, division=HOME)
    )
    session.commit()
    refused(client.post(path_of(application), json=entry(), headers=assessor), 409, "assessor-tied")


def test_visits_belong_to_the_review_and_to_re_checks(client: FlaskClient, session: Session, district: Headers) -> None:
    application = make_application(session, make_rubric(session), State.STREET_REVIEW)
    for state, is_open in (
        (State.STREET_REVIEW, False),
        (State.DISTRICT_REVIEW, True),
        (State.NOTICE, False),
        (State.OBJECTIONS, False),
    ):
        move_to(session, application, state)
        answer = client.post(path_of(application), json=entry(), headers=district)
        assert answer.status_code == (201 if is_open else 409), (state, answer.text)


def test_photographs_are_pictures_added_by_who_wrote_the_visit_down_and_there_are_twelve(
    client: FlaskClient, application: Application, district: Headers, assessor: Headers, sign_in_staff: SignIn
) -> None:
    visit = client.post(path_of(application), json=entry(), headers=district).json["id"]
    document = io.BytesIO()
    pdf = pikepdf.new()
    pdf.add_blank_page()
    pdf.save(document)
    refused(add_photo(client, application, visit, district, content=document.getvalue()), 422, "photo-not-picture")
    refused(add_photo(client, application, visit, assessor), 403, "forbidden")
    refused(add_photo(client, application, visit, sign_in_staff(Role.DISTRICT, division=DISTRICT)), 403, "forbidden")
    refused(add_photo(client, application, str(uuid4()), district), 404, "not-found")
    for position in range(1, PHOTOS_PER_VISIT_MAX + 1):
        assert add_photo(client, application, visit, district).json["position"] == position
    refused(add_photo(client, application, visit, district), 409, "too-many-photos")
    refused(client.get(path_of(application, f"/{visit}/photos/99/file"), headers=district), 404, "not-found")


def test_an_application_has_a_largest_number_of_visits(
    client: FlaskClient, application: Application, district: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "VISITS_MAX", 1)
    assert client.post(path_of(application), json=entry(), headers=district).status_code == 201
    refused(client.post(path_of(application), json=entry(), headers=district), 409, "too-many-visits")


def test_a_recorded_visit_cannot_be_changed_by_sql(
    client: FlaskClient, session: Session, application: Application, district: Headers
) -> None:
    visit = client.post(path_of(application), json=entry(), headers=district).json["id"]
    add_photo(client, application, visit, district)
    for table in (SiteVisit.__tablename__, SiteVisitPhoto.__tablename__):
        for attempt in (f"UPDATE {table} SET application_id = application_id", f"DELETE FROM {table}"):
            with pytest.raises(IntegrityError, match="append-only"), session.begin_nested():
                as_owner(session, attempt)
    insert = (
        "INSERT INTO site_visit SELECT application_id, gen_random_uuid(), visited_on, {}, findings, recorded_by,"
        " recorded_at FROM site_visit"
    )
    for people in ("ARRAY['张三']", "ARRAY['张三', '张三']", "ARRAY[]::text[]"):
        with pytest.raises(IntegrityError, match="site_visit_people_check"), session.begin_nested():
            session.execute(sa.text(insert.format(people)))

"""Evidence files of an application, and the figures of the system that are frozen into it."""

import io
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from assessment_builders import (
    ASSESSORS_STREET,
    DISTRICT,
    HOME,
    NEXT_DOOR,
    STREET,
    as_owner,
    make_application,
    make_rubric,
    make_school,
    move_to,
    png,
)
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import evidence, live_evidence
from campaigns.creation.models import (
    Application,
    ApplicationEvidence,
    Assessment,
    ItemType,
    LiveFigure,
    LiveMeasure,
    SubjectKind,
)
from campaigns.creation.steps import ApplicationState
from points.earning.models import Activity, Behaviour, CommunityDay, Grade, Outcome, ResidentDay
from server.access import Role
from server.clock import business_day, now
from server.database import new_id
from server.files.models import StoredFile
from server.people.models import OrganisationMembership

State = ApplicationState
Headers = dict[str, str]
SignIn = Callable[..., Headers]


def path_of(application: Application, rest: str = "evidence") -> str:
    return f"/api/v1/creation/applications/{application.id}/{rest}"


def upload(
    client: FlaskClient,
    application: Application,
    headers: Headers,
    *,
    item: str = "a1",
    content: bytes | None = None,
    name: str = "证明.png",
    **form: str,
) -> Any:
    data = {"file": (io.BytesIO(png() if content is None else content), name), **form}
    return client.post(
        path_of(application, f"items/{item}/evidence"),
        data=data,
        headers=headers,
        content_type="multipart/form-data",
    )


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


@pytest.fixture
def applicant(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=HOME)


@pytest.fixture
def draft(session: Session) -> Application:
    return make_application(session, make_rubric(session), State.SELF_ASSESSMENT)


def test_an_applicant_adds_a_file_to_an_item_and_reads_it_back_written_anew(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    sent = png(comment="taken at home")
    added = upload(client, draft, applicant, content=sent, note="宣传栏照片")
    listed = client.get(path_of(draft), headers=applicant)
    read = client.get(path_of(draft, f"evidence/{added.json['id']}/file"), headers=applicant)

    assert added.status_code == 201, added.text
    assert (added.json["item_code"], added.json["note"]) == ("a1", "宣传栏照片")
    assert added.json["file"]["media_type"] == "image/png"
    assert listed.json == {"items": [added.json], "next_cursor": None}
    assert read.status_code == 200
    assert b"taken at home" in sent
    assert b"taken at home" not in read.data
    assert read.headers["Content-Disposition"].startswith("attachment")
    assert read.headers["X-Content-Type-Options"] == "nosniff"
    assert session.scalar(sa.select(StoredFile.purpose)) == "creation-evidence"


def test_a_repeated_upload_under_the_same_key_adds_one_file(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    keyed = {**applicant, "Idempotency-Key": "evidence-0001"}
    # The same request to the byte: a form's boundary is part of it.
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png() + b"\r\n--x--\r\n"
    answers = [
        client.post(
            path_of(draft, "items/a1/evidence"),
            data=body,
            headers=keyed,
            content_type="multipart/form-data; boundary=x",
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201], answers[0].text
    assert answers[0].json == answers[1].json
    assert session.scalar(sa.select(sa.func.count()).select_from(ApplicationEvidence)) == 1


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", 415, "file-type-refused"),
        (b"", 422, "file-missing"),
        (png()[:40], 422, "file-damaged"),
    ],
)
def test_what_is_no_picture_or_document_is_refused_and_nothing_is_kept(
    client: FlaskClient,
    session: Session,
    draft: Application,
    applicant: Headers,
    content: bytes,
    status: int,
    code: str,
) -> None:
    refused(upload(client, draft, applicant, content=content), status, code)
    assert session.scalar(sa.select(sa.func.count()).select_from(StoredFile)) == 0


def test_an_item_that_the_rubric_does_not_have_takes_no_file(
    client: FlaskClient, draft: Application, applicant: Headers
) -> None:
    refused(upload(client, draft, applicant, item="z9"), 404, "not-found")


def test_an_item_has_ten_places_and_a_removed_file_frees_its_own(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    made = [upload(client, draft, applicant).json["id"] for _ in range(10)]
    refused(upload(client, draft, applicant), 409, "evidence-full")
    assert upload(client, draft, applicant, item="b1").status_code == 201
    assert client.delete(path_of(draft, f"evidence/{made[3]}"), headers=applicant).status_code == 204
    assert upload(client, draft, applicant).status_code == 201
    places = sa.select(ApplicationEvidence.position).where(
        ApplicationEvidence.item_code == "a1", ApplicationEvidence.removed_at.is_(None)
    )
    assert sorted(session.scalars(places)) == list(range(1, 11))


def test_the_eleventh_file_of_an_item_has_no_place_in_the_table_either(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    upload(client, draft, applicant)
    row = session.scalars(sa.select(ApplicationEvidence)).one()
    copied = "SELECT application_id, gen_random_uuid(), item_code, {place}, gen_random_uuid(), note, added_by, added_at"
    insert = (
        "INSERT INTO application_evidence (application_id, id, item_code, position, file_id, note, added_by, added_at)"
    )
    for place, constraint in (("11", "position_check"), (str(row.position), "application_evidence_item_key")):
        with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
            session.execute(sa.text(f"{insert} {copied.format(place=place)} FROM application_evidence"))


def test_an_application_has_a_largest_number_of_files_even_if_they_are_removed_again(
    client: FlaskClient, draft: Application, applicant: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "FILES_PER_APPLICATION_MAX", 2)
    for _ in range(2):
        made = upload(client, draft, applicant).json["id"]
        assert client.delete(path_of(draft, f"evidence/{made}"), headers=applicant).status_code == 204
    refused(upload(client, draft, applicant), 409, "evidence-full")


def test_submitted_evidence_is_closed_until_the_application_is_returned(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    made = upload(client, draft, applicant).json["id"]
    for state, is_open in (
        (State.SUBMITTED, False),
        (State.STREET_REVIEW, False),
        (State.RETURNED, True),
        (State.SUBMITTED, False),
        (State.DISTRICT_REVIEW, False),
        (State.NOTICE, False),
    ):
        move_to(session, draft, state)
        answer = upload(client, draft, applicant)
        assert answer.status_code == (201 if is_open else 409), (state, answer.text)
        if not is_open:
            refused(answer, 409, "evidence-closed")
            refused(client.delete(path_of(draft, f"evidence/{made}"), headers=applicant), 409, "evidence-closed")


def test_the_table_itself_closes_submitted_evidence(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    upload(client, draft, applicant)
    attempts = (
        "UPDATE application_evidence SET removed_by = gen_random_uuid(), removed_at = now()",
        "INSERT INTO application_evidence (application_id, id, item_code, position, file_id, note, added_by, added_at) "
        "SELECT application_id, gen_random_uuid(), item_code, 2, gen_random_uuid(), '', added_by, added_at "
        "FROM application_evidence",
    )
    with pytest.raises(IntegrityError, match="removed once and not changed"), session.begin_nested():
        session.execute(sa.text("UPDATE application_evidence SET item_code = 'a2'"))
    with pytest.raises(IntegrityError, match="append-only"), session.begin_nested():
        as_owner(session, "DELETE FROM application_evidence")
    move_to(session, draft, State.SUBMITTED)
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="with its reviewers"), session.begin_nested():
            session.execute(sa.text(attempt))


def test_a_file_removed_before_the_submission_is_gone_and_one_removed_after_it_can_still_be_reviewed(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers, sign_in_staff: SignIn
) -> None:
    reviewed, unseen = (upload(client, draft, applicant).json["id"] for _ in range(2))
    client.delete(path_of(draft, f"evidence/{unseen}"), headers=applicant)
    move_to(session, draft, State.RETURNED)
    client.delete(path_of(draft, f"evidence/{reviewed}"), headers=applicant)
    street = sign_in_staff(Role.STREET, division=STREET)

    standing = client.get(path_of(draft), headers=street)
    removed = client.get(path_of(draft, "evidence?removed=true"), headers=street)

    assert standing.json["items"] == []
    assert [each["id"] for each in removed.json["items"]] == [reviewed]
    assert client.get(path_of(draft, f"evidence/{reviewed}/file"), headers=street).status_code == 200
    refused(client.get(path_of(draft, f"evidence/{unseen}/file"), headers=street), 404, "not-found")
    assert session.scalar(sa.select(sa.func.count()).where(StoredFile.deleted_at.is_not(None))) == 1
    refused(client.delete(path_of(draft, f"evidence/{reviewed}"), headers=applicant), 404, "not-found")


def test_what_lacks_its_evidence_is_told_in_the_order_of_the_rubric(
    client: FlaskClient, session: Session, draft: Application, applicant: Headers
) -> None:
    assert list(evidence.missing(session, draft.id)) == ["a1", "b1"]
    made = upload(client, draft, applicant, item="b1").json["id"]
    upload(client, draft, applicant, item="b2")  # asked of nobody
    assert list(evidence.missing(session, draft.id)) == ["a1"]
    client.delete(path_of(draft, f"evidence/{made}"), headers=applicant)
    assert list(evidence.missing(session, draft.id)) == ["a1", "b1"]


def test_only_who_may_see_an_application_sees_its_evidence_and_only_the_applicant_changes_it(
    client: FlaskClient,
    session: Session,
    sign_in_staff: SignIn,
    sign_in_resident: SignIn,
    make_staff: Callable[..., UUID],
    headers_of: SignIn,
) -> None:
    school, other_school = make_school(session), make_school(session)
    draft = make_application(
        session, make_rubric(session, kind=SubjectKind.ORGANISATION), State.RETURNED, organisation=school
    )
    assessor = make_staff(Role.ASSESSOR, division=DISTRICT)
    own = sign_in_staff(Role.SCHOOL_STAFF, organisation=school)
    made = upload(client, draft, own).json["id"]
    move_to(session, draft, State.DISTRICT_REVIEW)
    readers = {
        "its own staff": (own, True),
        "its street": (sign_in_staff(Role.STREET, division=STREET), True),
        "the district": (sign_in_staff(Role.DISTRICT, division=DISTRICT), True),
        "another school": (sign_in_staff(Role.SCHOOL_STAFF, organisation=other_school), False),
        "its community": (sign_in_staff(Role.COMMUNITY_STAFF, division=HOME), False),
        "the next community": (sign_in_staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR), False),
        "another street": (sign_in_staff(Role.STREET, division=ASSESSORS_STREET), False),
        "an assessor of others": (headers_of(assessor, is_resident=False), False),
        "a resident": (sign_in_resident(), False),
    }

    def check(name: str, headers: Headers, allowed: bool) -> None:
        for rest in ("evidence", f"evidence/{made}/file", "live-figures", "visits"):
            answer = client.get(path_of(draft, rest), headers=headers)
            assert answer.status_code == (200 if allowed else 404), (name, rest, answer.text)

    for name, (headers, allowed) in readers.items():
        check(name, headers, allowed)
    session.add(
        Assessment(
            application_id=draft.id,
            staff_id=assessor,
            seat=1,
            assigned_by=make_staff(Role.DISTRICT, division=DISTRICT),
            assigned_at=now(),
        )
    )
    session.commit()
    check("an assigned assessor", readers["an assessor of others"][0], allowed=True)
    for name, (headers, _) in readers.items():
        if name == "its own staff":
            continue
        for answer in (
            upload(client, draft, headers),
            client.delete(path_of(draft, f"evidence/{made}"), headers=headers),
        ):
            assert answer.status_code in {403, 404}, (name, answer.text)


# Live figures

LAST = date(2026, 11, 17)  # the day before the clock's
FIRST = LAST - timedelta(days=364)


def bound(*measures: LiveMeasure) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "code": measure.value[:20],
            "type": ItemType.NUMBER,
            "maximum": 10,
            "must_meet": False,
            "evidence_required": False,
            "threshold": Decimal(1),
            "unit": "x",
            "live_measure": measure,
        }
        for measure in measures
    )


def active(session: Session, resident: UUID, day: date, behaviour: Behaviour = Behaviour.WALK, **sums: int) -> None:
    counts = {"activities": 1, "distance_m": 0, "weight_g": 0, "saved_co2e_mg": 0, "points": 0, **sums}
    session.add(ResidentDay(resident_id=resident, day=day, behaviour=behaviour, community_code=HOME, **counts))
    session.flush()


def counted(session: Session, community: str, day: date, behaviour: Behaviour, **sums: int) -> None:
    counts = {"activities": 0, "distance_m": 0, "weight_g": 0, "saved_co2e_mg": 0, "points": 0, **sums}
    session.add(CommunityDay(community_code=community, day=day, behaviour=behaviour, mode="x", method_id="", **counts))
    session.flush()


def taken_back(session: Session, resident: UUID, day: date, community: str = HOME) -> None:
    session.add(
        Activity(
            resident_id=resident,
            id=new_id(),
            behaviour=Behaviour.SORTING,
            mode="kitchen",
            grade=Grade.PARTNER_SIGNED,
            source="test",
            external_id=new_id().hex,
            started_at=now(),
            ended_at=now(),
            received_at=now(),
            business_day=day,
            community_code=community,
            outcome=Outcome.REVERSED,
            reason="revoked",
        )
    )
    session.flush()


def figures(client: FlaskClient, application: Application, headers: Headers) -> dict[str, Any]:
    answer = client.get(path_of(application, "live-figures"), headers=headers)
    assert answer.status_code == 200, answer.text
    return {each["measure"]: each for each in answer.json["items"]}


@pytest.mark.usefixtures("clock")
def test_a_community_s_figures_are_of_its_own_people_and_of_the_year_before(
    client: FlaskClient,
    session: Session,
    sign_in_staff: SignIn,
    make_resident: Callable[..., UUID],
) -> None:
    application = make_application(session, make_rubric(session, items=bound(*LiveMeasure)), State.SELF_ASSESSMENT)
    people = [make_resident(HOME) for _ in range(3)]
    make_resident(HOME, enabled=False)
    neighbour = make_resident(NEXT_DOOR)
    for day in (FIRST, LAST, LAST - timedelta(days=9)):
        active(session, people[0], day)
    active(session, people[1], FIRST - timedelta(days=1))
    active(session, people[1], LAST + timedelta(days=1))
    active(session, people[2], LAST, activities=0)  # taken back again
    active(session, neighbour, LAST)
    for day, drops in ((FIRST, 4), (LAST, 3), (FIRST - timedelta(days=1), 100), (LAST + timedelta(days=1), 100)):
        counted(session, HOME, day, Behaviour.SORTING, activities=drops)
        counted(session, HOME, day, Behaviour.RECYCLING, activities=1, weight_g=drops * 1001)
    counted(session, NEXT_DOOR, LAST, Behaviour.SORTING, activities=50)
    taken_back(session, people[0], LAST)
    taken_back(session, people[0], LAST + timedelta(days=1))
    taken_back(session, neighbour, LAST, NEXT_DOOR)
    session.commit()

    found = figures(client, application, sign_in_staff(Role.COMMUNITY_STAFF, division=HOME))

    assert {measure: each["value"] for measure, each in found.items()} == {
        "participation-rate": "33.33",
        "active-residents": "1.00",
        "sorting-accuracy": "87.50",
        "sorting-drops": "7.00",
        "recycling-kg": "7.00",  # 7.007, cut off
        "campaigns-held": "0.00",
    }
    rate = found["participation-rate"]
    assert (rate["numerator"], rate["denominator"], rate["unit"]) == (1, 3, "%")
    assert (rate["period_starts_on"], rate["period_ends_on"]) == (FIRST.isoformat(), LAST.isoformat())
    assert rate["frozen_at"] is None
    assert rate["definition_zh"]
    assert rate["definition_en"]


@pytest.mark.usefixtures("clock")
def test_a_figure_without_anybody_to_count_is_none_and_no_zero(
    client: FlaskClient, session: Session, sign_in_staff: SignIn
) -> None:
    items = bound(LiveMeasure.PARTICIPATION_RATE, LiveMeasure.SORTING_ACCURACY, LiveMeasure.SORTING_DROPS)
    application = make_application(session, make_rubric(session, items=items), State.SELF_ASSESSMENT)
    found = figures(client, application, sign_in_staff(Role.COMMUNITY_STAFF, division=HOME))
    assert {measure: each["value"] for measure, each in found.items()} == {
        "participation-rate": None,
        "sorting-accuracy": None,
        "sorting-drops": "0.00",
    }


@pytest.mark.usefixtures("clock")
def test_an_organisation_s_figures_are_of_its_members_since_they_joined(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, make_resident: Callable[..., UUID]
) -> None:
    school = make_school(session)
    rubric = make_rubric(session, kind=SubjectKind.ORGANISATION, items=bound(*LiveMeasure))
    application = make_application(session, rubric, State.SELF_ASSESSMENT, organisation=school)
    old, fresh, left = make_resident(HOME), make_resident(NEXT_DOOR), make_resident(HOME)
    for person, joined, until in ((old, 600, None), (fresh, 10, None), (left, 600, 30)):
        session.add(
            OrganisationMembership(
                resident_id=person,
                organisation_id=school,
                joined_at=now() - timedelta(days=joined),
                left_at=None if until is None else now() - timedelta(days=until),
            )
        )
    session.flush()
    for person in (old, fresh, left):
        active(session, person, LAST - timedelta(days=40), Behaviour.SORTING, activities=5)
        active(session, person, LAST - timedelta(days=40), Behaviour.RECYCLING, weight_g=2500)
    taken_back(session, old, LAST)
    taken_back(session, fresh, LAST - timedelta(days=40))
    session.commit()

    found = figures(client, application, sign_in_staff(Role.SCHOOL_STAFF, organisation=school))

    assert {measure: each["value"] for measure, each in found.items()} == {
        "participation-rate": "50.00",
        "active-residents": "1.00",
        "sorting-accuracy": "83.33",
        "sorting-drops": "5.00",
        "recycling-kg": "2.50",
        "campaigns-held": "0.00",
    }


@pytest.mark.usefixtures("clock")
def test_a_household_has_its_own_sums_and_no_rates_of_many_people(
    client: FlaskClient, session: Session, sign_in_resident: Any
) -> None:
    headers = sign_in_resident("alice")
    alice = sign_in_resident.known["alice"]
    rubric = make_rubric(session, kind=SubjectKind.HOUSEHOLD, items=bound(*LiveMeasure))
    application = make_application(session, rubric, State.SELF_ASSESSMENT, resident=alice, created_by=alice)
    active(session, alice, LAST, Behaviour.SORTING, activities=3)
    session.commit()

    found = {measure: each["value"] for measure, each in figures(client, application, headers).items()}

    assert found == {
        "participation-rate": None,
        "active-residents": None,
        "sorting-accuracy": "100.00",
        "sorting-drops": "3.00",
        "recycling-kg": "0.00",
        "campaigns-held": None,
    }


@pytest.mark.usefixtures("clock")
def test_campaigns_count_that_were_the_applicant_s_own_and_really_held(
    session: Session, make_staff: Callable[..., UUID], make_resident: Callable[..., UUID]
) -> None:
    school = make_school(session)
    community = make_application(
        session, make_rubric(session, items=bound(LiveMeasure.CAMPAIGNS_HELD)), State.SELF_ASSESSMENT
    )
    rubric = make_rubric(
        session, kind=SubjectKind.ORGANISATION, items=bound(LiveMeasure.CAMPAIGNS_HELD), code="school-try"
    )
    of_school = make_application(session, rubric, State.SELF_ASSESSMENT, organisation=school)
    staff, person = make_staff(Role.DISTRICT, division=DISTRICT), make_resident(HOME)

    def held(
        state: str = "closed",
        *,
        division: str = HOME,
        organisation: UUID | None = None,
        starts_on: date = LAST - timedelta(days=5),
        ends_on: date = LAST,
        joined: bool = True,
    ) -> None:
        campaign = new_id()
        session.execute(
            sa.text(
                "INSERT INTO campaign (id, title, division, organisation_id, starts_on, ends_on, state, created_by,"
                " created_at, published_at, running_at, settling_at, closed_at, terms_version, behaviours, measure,"
                " target, opened_at)"
                " VALUES (:id, '活动', :division, :organisation, :starts_on, :ends_on, :state, :staff,"
                " now(), now(), now(), now(), now(), 1, ARRAY['walk'], 'activities', 1, now())"
            ),
            {
                "id": campaign,
                "division": division,
                "organisation": organisation,
                "starts_on": starts_on,
                "ends_on": ends_on,
                "state": state,
                "staff": staff,
            },
        )
        if joined:
            session.execute(
                sa.text(
                    "INSERT INTO participation (resident_id, campaign_id, community_code, joined_at)"
                    " VALUES (:person, :campaign, :home, now())"
                ),
                {"person": person, "campaign": campaign, "home": HOME},
            )

    held()
    held("running")
    held(starts_on=FIRST - timedelta(days=20), ends_on=FIRST)
    held("cancelled")
    held("draft")
    held(joined=False)
    held(division=NEXT_DOOR)
    held(division=STREET)
    held("published", starts_on=LAST + timedelta(days=3), ends_on=LAST + timedelta(days=9))
    held(starts_on=FIRST - timedelta(days=20), ends_on=FIRST - timedelta(days=1))
    held(organisation=school)
    session.commit()

    values = []
    for application in (community, of_school):
        assert live_evidence.freeze(session, application, now=now()) == 1
        values.append(live_evidence.frozen(session, application.id)[0].value)
    assert values == [3, 1]


def test_figures_are_frozen_when_submitted_and_taken_anew_when_submitted_again(
    client: FlaskClient,
    session: Session,
    clock: Any,
    sign_in_staff: SignIn,
    make_resident: Callable[..., UUID],
) -> None:
    application = make_application(
        session, make_rubric(session, items=bound(LiveMeasure.ACTIVE_RESIDENTS)), State.SELF_ASSESSMENT
    )
    applicant = sign_in_staff(Role.COMMUNITY_STAFF, division=HOME)
    first, second = make_resident(HOME), make_resident(HOME)
    active(session, first, LAST)
    frozen_at = now()
    live_evidence.freeze(session, application, now=frozen_at)
    move_to(session, application, State.SUBMITTED)

    active(session, second, LAST)
    session.commit()
    after = figures(client, application, applicant)["active-residents"]
    move_to(session, application, State.RETURNED)
    current = figures(client, application, applicant)["active-residents"]
    clock.shift(timedelta(days=2))
    live_evidence.freeze(session, application, now=now())
    move_to(session, application, State.SUBMITTED)
    again = figures(client, application, sign_in_staff(Role.STREET, division=STREET))["active-residents"]

    assert (after["value"], after["period_ends_on"]) == ("1.00", LAST.isoformat())
    assert after["frozen_at"] == frozen_at.isoformat()
    assert (current["value"], current["frozen_at"]) == ("2.00", None)
    assert (again["value"], again["period_ends_on"]) == ("2.00", (LAST + timedelta(days=2)).isoformat())
    submissions = session.scalars(sa.select(LiveFigure.submission).order_by(LiveFigure.submission)).all()
    assert submissions == [1, 2], "the first stays, for who wants to know what was reviewed then"


def test_a_frozen_figure_cannot_be_changed_by_sql(session: Session) -> None:
    application = make_application(session, make_rubric(session), State.SELF_ASSESSMENT)
    assert live_evidence.freeze(session, application, now=now()) == 1
    session.commit()
    for attempt in ("UPDATE live_figure SET value = 100", "DELETE FROM live_figure"):
        with pytest.raises(sa.exc.DBAPIError, match=r"permission denied|append-only"), session.begin_nested():
            session.execute(sa.text(attempt))
        with pytest.raises(IntegrityError, match="append-only"), session.begin_nested():
            as_owner(session, attempt)


@pytest.mark.usefixtures("clock")
def test_the_day_of_the_submission_is_not_over_and_does_not_count() -> None:
    period = live_evidence.period_before(now())
    assert (period.starts_on, period.ends_on) == (FIRST, LAST)
    assert (period.ends_on - period.starts_on).days + 1 == live_evidence.PERIOD_DAYS
    assert business_day(now()) == LAST + timedelta(days=1)


def test_every_measure_has_its_definition_in_both_languages_and_a_counter() -> None:
    assert set(live_evidence.DEFINITIONS) == set(live_evidence._COUNTERS) == set(LiveMeasure)
    for definition in live_evidence.DEFINITIONS.values():
        assert 0 < len(definition.zh) <= 300
        assert 0 < len(definition.en) <= 500


def test_figures_of_nobody_s_application_are_not_found(client: FlaskClient, sign_in_staff: SignIn) -> None:
    headers = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    answer = client.get(f"/api/v1/creation/applications/{uuid4()}/live-figures", headers=headers)
    refused(answer, 404, "not-found")

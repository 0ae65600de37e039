"""Certificates: for who completed everything, verifiable by anybody, drawn for the holder, and taken back."""

import io
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from attendance_builders import (
    COMMUNITY,
    NEIGHBOUR,
    Headers,
    a_campaign,
    a_slot,
    a_task,
    a_team,
    joined,
    refused,
    walked,
    was_there,
)
from flask.testing import FlaskClient
from pypdf import PdfReader
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignState, TaskKind, TaskSubject
from campaigns.settlement.models import Certificate
from server.access import Role
from server.audit import AuditEntry
from server.clock import now
from server.database import new_id
from server.typed_codes import ALPHABET

SignIn = Callable[..., Headers]

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def campaign(session: Session, make_staff: Callable[..., UUID]) -> Campaign:
    staff = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    return a_campaign(
        session,
        staff,
        state=CampaignState.CLOSED,
        closed_at=now(),
        team_kind="class",
        team_size_min=1,
        team_size_max=50,
    )


@pytest.fixture
def staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def resident(session: Session, campaign: Campaign, sign_in_resident: SignIn) -> Headers:
    """Alice, called 小明同学, who was there, as the campaign's only task asks."""
    headers = sign_in_resident("alice")
    alice = joined(session, campaign, sign_in_resident.known["alice"])  # type: ignore[attr-defined]
    session.execute(sa.text("UPDATE resident SET nickname = '小明同学' WHERE resident_id = :r"), {"r": alice})
    a_task(session, campaign)
    was_there(session, a_slot(session, campaign), alice)
    return headers


def url(campaign: Campaign, *more: object) -> str:
    return "/".join(["/api/v1/campaigns", str(campaign.id), *map(str, more)])


def issue(client: FlaskClient, headers: Headers, campaign: Campaign, whose: str = "mine") -> Any:
    return client.post(url(campaign, "certificates", whose), headers=headers)


def revoke(client: FlaskClient, headers: Headers, campaign: Campaign, code: str) -> Any:
    return client.post(url(campaign, "certificates", code, "revocation"), json={"reason": "代签"}, headers=headers)


def test_who_completed_every_task_gets_one_certificate_that_anybody_can_verify(
    client: FlaskClient, campaign: Campaign, resident: Headers, staff: Headers
) -> None:
    answer = issue(client, resident, campaign)
    assert answer.status_code == 201, answer.text
    code = answer.json["code"]
    assert len(code) == 10
    assert set(code) <= set(ALPHABET)
    assert issue(client, resident, campaign).json["code"] == code, "asked again, the same one"
    for typed in (code, code.lower(), f"{code[:5]}-{code[5:]}"):
        seen = client.get(f"/api/v1/certificates/{typed}")
        assert seen.status_code == 200, seen.text
        assert seen.json == {
            "code": code,
            "valid": True,
            "for_team": False,
            "holder": "小**",
            "campaign_title": "步行周",
            "issuer": seen.json["issuer"],  # type: ignore[index]
            "starts_on": campaign.starts_on.isoformat(),
            "ends_on": campaign.ends_on.isoformat(),
            "issued_on": "2026-11-18",
            "revoked_on": None,
        }
    assert client.get("/api/v1/me/certificates", headers=resident).json["items"] == [answer.json]  # type: ignore[index]
    assert client.get(url(campaign, "certificates"), headers=staff).json["items"] == [answer.json]  # type: ignore[index]


@pytest.mark.parametrize(
    "code", ["0000000000", "short", "0" * 300, "签签签签签签签签签签", "%27%3B--", "%00000000000", "ſſſſſſſſſſ"]
)
def test_an_unknown_code_is_not_found(client: FlaskClient, staff: Headers, code: str) -> None:
    assert client.get(f"/api/v1/certificates/{code}").status_code == 404
    assert client.get(f"/api/v1/certificates/{code}/file", headers=staff).status_code == 404


@pytest.mark.parametrize(
    ("state", "status"),
    [(CampaignState.RUNNING, 409), (CampaignState.SETTLING, 201), (CampaignState.CLOSED, 201)],
)
def test_certificates_are_for_campaigns_that_have_ended(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, state: CampaignState, status: int
) -> None:
    session.execute(sa.update(Campaign).values(state=state))
    session.commit()
    answer = issue(client, resident, campaign)
    assert answer.status_code == status, answer.text
    if status == 409:
        assert answer.json["code"] == "campaign-not-over"


def test_who_left_one_task_undone_or_takes_no_part_gets_none(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, sign_in_resident: SignIn
) -> None:
    refused(issue(client, sign_in_resident("bob"), campaign), 404, "not-joined")
    a_task(session, campaign, position=2, kind=TaskKind.BEHAVIOUR, target=5_000)
    refused(issue(client, resident, campaign), 409, "campaign-not-completed")
    refused(issue(client, resident, campaign, "team"), 409, "campaign-not-completed")


def test_a_team_that_reached_its_target_gets_one_certificate_whoever_of_it_asks(
    client: FlaskClient, session: Session, campaign: Campaign, sign_in_resident: SignIn
) -> None:
    a_task(session, campaign, kind=TaskKind.BEHAVIOUR, target=8_000, subject=TaskSubject.TEAM)
    members = [sign_in_resident(name) for name in ("alice", "bob", "carol")]
    ids = [sign_in_resident.known[name] for name in ("alice", "bob", "carol")]  # type: ignore[attr-defined]
    team = a_team(session, campaign, ids[0])
    other = a_team(session, campaign, ids[2], name="三年三班")
    for person, own in zip(ids, (team, team, other), strict=True):
        joined(session, campaign, person, own)
    walked(session, ids[0], 5_000)
    refused(issue(client, members[0], campaign, "team"), 409, "campaign-not-completed")
    walked(session, ids[1], 3_000)
    first, second = (issue(client, member, campaign, "team") for member in members[:2])
    assert (first.status_code, first.json) == (201, second.json)
    assert (first.json["for_team"], first.json["holder"]) == (True, "三年二班")
    refused(issue(client, members[2], campaign, "team"), 409, "campaign-not-completed")
    seen = client.get(f"/api/v1/certificates/{first.json['code']}").json
    assert seen["holder"] == "三年二班", "a class is no person"  # type: ignore[index]
    file = f"/api/v1/certificates/{first.json['code']}/file"
    assert client.get(file, headers=members[1]).status_code == 200
    refused(client.get(file, headers=members[2]), 404, "not-found")
    listed = [client.get("/api/v1/me/certificates", headers=member).json["items"] for member in members]  # type: ignore[index]
    assert [len(items) for items in listed] == [1, 1, 0]


def test_a_household_is_not_named_in_public(
    client: FlaskClient, session: Session, campaign: Campaign, sign_in_resident: SignIn
) -> None:
    session.execute(sa.text("UPDATE campaign SET team_kind = 'household'"))
    a_task(session, campaign, kind=TaskKind.BEHAVIOUR, target=1, subject=TaskSubject.TEAM)
    headers = sign_in_resident("alice")
    alice = sign_in_resident.known["alice"]  # type: ignore[attr-defined]
    joined(session, campaign, alice, a_team(session, campaign, alice, name="张三一家"))
    walked(session, alice, 1)
    code = issue(client, headers, campaign, "team").json["code"]
    assert client.get(f"/api/v1/certificates/{code}").json["holder"] == "张**"  # type: ignore[index]


# The document


def test_the_certificate_is_drawn_as_pdf_with_its_fonts_and_as_svg(
    client: FlaskClient, campaign: Campaign, resident: Headers, staff: Headers
) -> None:
    code = issue(client, resident, campaign).json["code"]
    file = f"/api/v1/certificates/{code}/file"
    pdf = client.get(file, headers=resident)
    assert (pdf.status_code, pdf.content_type) == (200, "application/pdf")
    assert f"certificate-{code}.pdf" in pdf.headers["Content-Disposition"]
    reader = PdfReader(io.BytesIO(pdf.data))
    text = "".join(page.extract_text() for page in reader.pages).replace(" ", "").replace("\n", "")
    for wanted in ("小明同学", "步行周", code, "2026年11月18日"):
        assert wanted in text, text
    drawn = client.get(f"{file}?format=svg", headers=staff)
    assert (drawn.status_code, drawn.content_type) == (200, "image/svg+xml")
    assert b"<svg" in drawn.data[:200]
    refused(client.get(f"{file}?format=doc", headers=resident), 422, "invalid-request")


def test_the_document_is_for_the_holder_and_staff_in_scope(
    client: FlaskClient, campaign: Campaign, resident: Headers, sign_in_resident: SignIn, sign_in_staff: SignIn
) -> None:
    file = f"/api/v1/certificates/{issue(client, resident, campaign).json['code']}/file"
    refused(client.get(file, headers=sign_in_resident("bob")), 404, "not-found")
    refused(client.get(file, headers=sign_in_staff(Role.COMMUNITY_STAFF, division=NEIGHBOUR)), 404, "not-found")
    refused(client.get(file), 401, "unauthenticated")


def test_a_name_that_looks_like_markup_is_printed_as_it_is(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers
) -> None:
    session.execute(sa.text("UPDATE resident SET nickname = '#sys.inputs *b* <x>&'"))
    session.execute(sa.update(Campaign).values(title='$x^2$ #read("/etc/passwd")'))
    session.commit()
    code = issue(client, resident, campaign).json["code"]
    pdf = client.get(f"/api/v1/certificates/{code}/file", headers=resident)
    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf.data)).pages)
    assert "#sys.inputs" in text.replace("\n", "")
    assert "root:" not in text


# Taking back


def test_a_certificate_taken_back_says_so_and_is_neither_drawn_nor_issued_again(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, staff: Headers, sign_in_staff: SignIn
) -> None:
    code = issue(client, resident, campaign).json["code"]
    neighbour = sign_in_staff(Role.COMMUNITY_STAFF, division=NEIGHBOUR)
    refused(revoke(client, neighbour, campaign, code), 404, "not-found")
    refused(revoke(client, resident, campaign, code), 403, "forbidden")
    refused(revoke(client, staff, campaign, "0000000000"), 404, "not-found")
    assert revoke(client, staff, campaign, code).json["revoked_because"] == "代签"
    refused(revoke(client, staff, campaign, code), 409, "certificate-revoked")
    seen = client.get(f"/api/v1/certificates/{code}").json
    assert (seen["valid"], seen["revoked_on"]) == (False, "2026-11-18")  # type: ignore[index]
    refused(client.get(f"/api/v1/certificates/{code}/file", headers=resident), 409, "certificate-revoked")
    refused(issue(client, resident, campaign), 409, "certificate-revoked")
    assert session.scalars(sa.select(AuditEntry.subject).where(AuditEntry.act == "certificate.revoke")).all() == [code]


def test_a_certificate_of_another_campaign_cannot_be_taken_back_through_ones_own(
    client: FlaskClient, session: Session, campaign: Campaign, resident: Headers, staff: Headers
) -> None:
    code = issue(client, resident, campaign).json["code"]
    refused(revoke(client, staff, a_campaign(session, campaign.created_by), code), 404, "not-found")


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("certificate_code_check", {"code": "abcdefghij", "resident_id": new_id()}),
        ("certificate_code_check", {"code": "ILOU567890", "resident_id": new_id()}),
        ("certificate_holder_check", {}),
        ("certificate_holder_check", {"resident_id": new_id(), "team_id": new_id()}),
        ("certificate_revoked_check", {"resident_id": new_id(), "revoked_at": "2026-11-18"}),
    ],
)
def test_the_database_refuses_a_certificate_that_no_rule_would_write(
    session: Session, campaign: Campaign, constraint: str, values: dict[str, Any]
) -> None:
    row = {"code": "0123456789", "campaign_id": campaign.id, "issued_at": now(), **values}
    with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
        session.execute(
            sa.text(f"INSERT INTO certificate ({', '.join(row)}) VALUES ({', '.join(':' + name for name in row)})"),
            row,
        )


def test_one_certificate_for_each_holder_and_campaign_in_the_database_too(
    session: Session, campaign: Campaign, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    session.add(Certificate(code="0123456789", campaign_id=campaign.id, resident_id=person, issued_at=now()))
    session.commit()
    with pytest.raises(IntegrityError, match="certificate_resident_key"), session.begin_nested():
        session.execute(
            sa.insert(Certificate).values(
                code="9876543210", campaign_id=campaign.id, resident_id=person, issued_at=now()
            )
        )

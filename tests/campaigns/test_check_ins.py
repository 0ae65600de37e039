"""Checking in: by the screen's code, by paper, by staff; once for each slot, in its time and near it."""

import contextlib
import io
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from attendance_builders import (
    COMMUNITY,
    DISTRICT,
    NEIGHBOUR,
    Headers,
    a_campaign,
    a_slot,
    joined,
    refused,
    was_there,
)
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.attendance import codes, geofence
from campaigns.attendance.codes import CheckInCodeRefused, CodeUse
from campaigns.attendance.geofence import Point
from campaigns.attendance.models import CheckIn, CheckInSlot, CheckInWay, PrintedCode, SlotKind
from campaigns.drives.models import Campaign, CampaignState
from server.access import Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, now
from server.database import new_id
from server.places.models import Organisation, OrganisationKind
from server.settings import Settings

SignIn = Callable[..., Headers]
NOON = datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI)
SQUARE = Point(39.1256, 117.1513)

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


@pytest.fixture
def campaign(session: Session, make_staff: Callable[..., UUID]) -> Campaign:
    return a_campaign(session, make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY))


@pytest.fixture
def slot(session: Session, campaign: Campaign) -> CheckInSlot:
    return a_slot(session, campaign)


@pytest.fixture
def resident(session: Session, campaign: Campaign, sign_in_resident: SignIn) -> Headers:
    """Alice, who takes part."""
    headers = sign_in_resident("alice")
    joined(session, campaign, sign_in_resident.known["alice"])  # type: ignore[attr-defined]
    return headers


def path(campaign: Campaign, *more: object) -> str:
    return "/".join(["/api/v1/campaigns", str(campaign.id), *map(str, more)])


def shown(client: FlaskClient, staff: Headers, slot: CheckInSlot, use: str = "check-in") -> str:
    answer = client.get(f"/api/v1/campaigns/{slot.campaign_id}/slots/{slot.id}/code?use={use}", headers=staff)
    assert answer.status_code == 200, answer.text
    return str(answer.json["text"])  # type: ignore[index]


def check_in(client: FlaskClient, headers: Headers, campaign: Campaign, code: str, **more: Any) -> Any:
    return client.post(path(campaign, "check-ins"), json={"code": code, **more}, headers=headers)


def terms(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "visit",
        "site_name": "社区广场",
        "opens_at": (now() - timedelta(hours=1)).isoformat(),
        "closes_at": (now() + timedelta(hours=2)).isoformat(),
        **changes,
    }


# The screen's code


def test_a_resident_checks_in_with_the_code_on_the_screen_once(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    code = shown(client, staff, slot)
    answer = check_in(client, resident, campaign, code)
    assert answer.status_code == 201, answer.text
    assert (answer.json["slot_id"], answer.json["way"], answer.json["minutes"]) == (str(slot.id), "rotating", 0)
    assert re.fullmatch(r"TPH:I:[A-Z2-7]{26}:[A-Z2-7]{16}", code)
    refused(check_in(client, resident, campaign, code), 409, "already-checked-in")
    mine = client.get(path(campaign, "check-ins", "mine"), headers=resident).json
    assert [item["slot_id"] for item in mine["items"]] == [str(slot.id)]  # type: ignore[index]
    assert session.scalar(sa.select(sa.func.count()).select_from(CheckIn)) == 1


# What becomes of a code after so many seconds, and of whom it is used by. The slot is open all the while.
CODE_TABLE = [
    ("at once", 0, "alice", "check-in", 201),
    ("aimed for a while", 14, "alice", "check-in", 201),
    ("by the next in the queue", 0, "bob", "check-in", 201),
    ("sent to a friend and used within the period after", 29, "bob", "check-in", 201),
    ("photographed, and sent on", 30, "bob", "check-in", 422),
    ("photographed, a minute later", 60, "alice", "check-in", 422),
    ("of a screen whose clock runs ahead", -15, "alice", "check-in", 422),
    ("of ten minutes ago", 600, "alice", "check-in", 422),
    ("for signing out", 0, "alice", "sign-out", 422),
]


@pytest.mark.parametrize("case", [pytest.param(row[1:], id=row[0]) for row in CODE_TABLE])
def test_skew_sharing_and_replay_of_the_screens_code(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    slot: CheckInSlot,
    staff: Headers,
    resident: Headers,
    sign_in_resident: SignIn,
    clock: time_machine.Traveller,
    case: tuple[int, str, str, int],
) -> None:
    seconds, who, use, status = case
    headers = sign_in_resident(who)
    if who != "alice":
        joined(session, campaign, sign_in_resident.known[who])  # type: ignore[attr-defined]
    # Shown at one moment, used `seconds` later: before it, if the screen's clock runs ahead.
    clock.shift(max(-seconds, 0))
    code = shown(client, staff, slot, use)
    clock.shift(seconds)
    answer = check_in(client, headers, campaign, code)
    assert answer.status_code == status, answer.text
    if status == 422:
        assert answer.json["code"] == "check-in-code-refused"


def test_a_code_of_one_slot_or_campaign_is_none_of_another(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    other = a_campaign(session, campaign.created_by, title="另一个")
    joined(session, other, session.scalars(sa.text("SELECT resident_id FROM resident")).one())
    elsewhere = a_slot(session, other)
    refused(check_in(client, resident, campaign, shown(client, staff, elsewhere)), 422, "check-in-code-refused")
    second = a_slot(session, campaign, site_name="后门")
    code = shown(client, staff, slot)
    swapped = shown(client, staff, second).rsplit(":", 1)[0] + ":" + code.rsplit(":", 1)[1]
    refused(check_in(client, resident, campaign, swapped), 422, "check-in-code-refused")
    assert check_in(client, resident, campaign, code).status_code == 201


@pytest.mark.parametrize(
    "code", ["TPH:I:" + "A" * 26 + ":" + "A" * 16, "tph:p:000000000000", "hello, world", "签" * 12]
)
def test_what_is_no_code_is_refused(
    client: FlaskClient, campaign: Campaign, slot: CheckInSlot, resident: Headers, code: str
) -> None:
    refused(check_in(client, resident, campaign, code), 422, "check-in-code-refused")


@given(st.text(max_size=80))
def test_reading_a_code_never_breaks(text: str) -> None:
    with contextlib.suppress(CheckInCodeRefused):
        codes.read(text)


def test_codes_are_read_as_they_are_written(base_settings: Settings) -> None:
    key, campaign_id, subject = base_settings.data_key, new_id(), new_id()
    for use in CodeUse:
        screen = codes.read(codes.screen_code(key, campaign_id, subject, use=use, now=NOON).text.lower())
        assert isinstance(screen, codes.ScreenCode)
        assert (screen.use, screen.slot_id) == (use, subject)
        own = codes.read(codes.resident_code(key, campaign_id, subject, use=use, now=NOON).text)
        assert isinstance(own, codes.ResidentCode)
        assert own.resident_id == subject
    paper = codes.new_printed_code()
    assert codes.read(codes.printed_text(paper)) == codes.read(codes.grouped(paper).lower()) == codes.PaperCode(paper)
    assert codes.read("ol1O-0i1l-ABCD") == codes.PaperCode("01100111ABCD")


def test_the_code_is_drawn_and_says_when_the_next_one_comes(
    client: FlaskClient, slot: CheckInSlot, staff: Headers, resident: Headers, campaign: Campaign
) -> None:
    drawn = client.get(f"/api/v1/campaigns/{slot.campaign_id}/slots/{slot.id}/code.svg", headers=staff)
    assert (drawn.status_code, drawn.content_type) == (200, "image/svg+xml")
    assert drawn.data.startswith(b"<?xml") or drawn.data.startswith(b"<svg")
    assert datetime.fromisoformat(drawn.headers["X-Code-Changes-At"]) == NOON + timedelta(seconds=15)
    own = client.get(f"/api/v1/me/code.svg?campaign_id={campaign.id}", headers=resident)
    assert (own.status_code, own.content_type) == (200, "image/svg+xml")


# When, and who


@pytest.mark.parametrize(
    ("opened", "closes", "status"),
    [(-1, 3600, 409), (0, 3600, 201), (3600, 1, 201), (3600, 0, 409), (7200, -3600, 409)],
)
def test_a_slot_takes_people_from_its_opening_to_its_closing(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    staff: Headers,
    resident: Headers,
    opened: int,
    closes: int,
    status: int,
) -> None:
    """It opened so many seconds ago, and closes in so many."""
    slot = a_slot(
        session, campaign, opens_at=now() - timedelta(seconds=opened), closes_at=now() + timedelta(seconds=closes)
    )
    answer = check_in(client, resident, campaign, shown(client, staff, slot))
    assert answer.status_code == status, answer.text
    if status == 409:
        assert answer.json["code"] == "slot-closed"
        assert datetime.fromisoformat(answer.json["opens_at"]) == slot.opens_at


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (CampaignState.PUBLISHED, 201),  # the clock is late; nobody at the door waits for it
        (CampaignState.RUNNING, 201),
        (CampaignState.SETTLING, 409),
        (CampaignState.CLOSED, 409),
        (CampaignState.DRAFT, 404),
        (CampaignState.CANCELLED, 409),
    ],
)
def test_only_a_campaign_that_takes_place_is_checked_in_at(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    slot: CheckInSlot,
    staff: Headers,
    resident: Headers,
    state: CampaignState,
    status: int,
) -> None:
    code = shown(client, staff, slot)
    session.execute(sa.update(Campaign).values(state=state, closed_at=now()))
    session.commit()
    assert check_in(client, resident, campaign, code).status_code == status


def test_who_does_not_take_part_joins_first(
    client: FlaskClient, campaign: Campaign, slot: CheckInSlot, staff: Headers, sign_in_resident: SignIn
) -> None:
    refused(check_in(client, sign_in_resident("bob"), campaign, shown(client, staff, slot)), 409, "not-taking-part")


def test_a_cancelled_slot_shows_no_code_and_takes_nobody_but_keeps_who_was_there(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    slot: CheckInSlot,
    staff: Headers,
    resident: Headers,
    sign_in_resident: SignIn,
) -> None:
    code = shown(client, staff, slot)
    check_in(client, resident, campaign, code)
    assert client.post(path(campaign, "slots", slot.id, "cancel"), headers=staff).status_code == 200
    refused(client.post(path(campaign, "slots", slot.id, "cancel"), headers=staff), 409, "slot-cancelled")
    refused(client.get(path(campaign, "slots", slot.id, "code"), headers=staff), 409, "slot-cancelled")
    bob = sign_in_resident("bob")
    joined(session, campaign, sign_in_resident.known["bob"])  # type: ignore[attr-defined]
    refused(check_in(client, bob, campaign, code), 409, "slot-cancelled")
    assert session.scalar(sa.select(sa.func.count()).select_from(CheckIn)) == 1


# Where


@pytest.mark.parametrize(
    ("place", "status", "code"),
    [
        (None, 422, "location-required"),
        ({"latitude": 39.1256, "longitude": 117.1513}, 201, None),
        ({"latitude": 39.1264, "longitude": 117.1513}, 201, None),  # 89 m north
        ({"latitude": 39.1266, "longitude": 117.1513}, 409, "too-far-away"),  # 111 m north
        ({"latitude": 31.2304, "longitude": 121.4737}, 409, "too-far-away"),  # Shanghai
    ],
)
def test_a_geofence_asks_for_the_place_and_lets_in_whoever_is_near(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    staff: Headers,
    resident: Headers,
    place: dict[str, float] | None,
    status: int,
    code: str | None,
) -> None:
    fenced = a_slot(session, campaign, latitude=SQUARE.latitude, longitude=SQUARE.longitude, radius_m=100)
    answer = check_in(client, resident, campaign, shown(client, staff, fenced), **(place or {}))
    assert answer.status_code == status, answer.text
    if code:
        assert answer.json["code"] == code
        assert "distance" not in answer.text


def test_without_a_geofence_no_place_is_asked_and_none_is_kept(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    answer = check_in(client, resident, campaign, shown(client, staff, slot), latitude=1.5, longitude=2.5)
    assert answer.status_code == 201
    row = session.execute(sa.text("SELECT * FROM check_in")).mappings().one()
    assert not {1.5, 2.5} & set(row.values())


@pytest.mark.parametrize(
    ("one", "other", "metres"),
    [
        (SQUARE, SQUARE, 0),
        (Point(0, 0), Point(0, 1), 111_195),
        (Point(0, 0), Point(1, 0), 111_195),
        (Point(0, 179.5), Point(0, -179.5), 111_195),
        (Point(90, 0), Point(-90, 0), 20_015_115),
        # Beijing to Shanghai on a sphere of the mean radius; 1,067 km on the WGS 84 ellipsoid
        (Point(39.9042, 116.4074), Point(31.2304, 121.4737), 1_067_312),
    ],
)
def test_distances_are_those_of_the_great_circle(one: Point, other: Point, metres: float) -> None:
    assert geofence.distance_m(one, other) == pytest.approx(metres, rel=1e-4, abs=1e-6)
    assert geofence.distance_m(other, one) == pytest.approx(metres, rel=1e-4, abs=1e-6)


# Places


def test_a_capacity_is_never_exceeded_and_a_place_struck_out_is_free_again(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    staff: Headers,
    resident: Headers,
    sign_in_resident: SignIn,
) -> None:
    small = a_slot(session, campaign, capacity=1)
    bob = sign_in_resident("bob")
    joined(session, campaign, sign_in_resident.known["bob"])  # type: ignore[attr-defined]
    assert check_in(client, resident, campaign, shown(client, staff, small)).status_code == 201
    refused(check_in(client, bob, campaign, shown(client, staff, small)), 409, "slot-full")
    alice = sign_in_resident.known["alice"]  # type: ignore[attr-defined]
    gone = client.post(
        path(campaign, "slots", small.id, "check-ins", alice, "removal"), json={"reason": "代签"}, headers=staff
    )
    assert gone.status_code == 204, gone.text
    assert check_in(client, bob, campaign, shown(client, staff, small)).status_code == 201
    act = session.scalars(sa.select(AuditEntry).where(AuditEntry.act == "check-in.remove")).one()
    assert (act.detail["resident"], act.detail["reason"]) == (str(alice), "代签")
    again = client.post(
        path(campaign, "slots", small.id, "check-ins", alice, "removal"), json={"reason": "代签"}, headers=staff
    )
    refused(again, 404, "not-found")


# Paper


def test_a_printed_sheet_holds_codes_of_which_each_is_good_once(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    slot: CheckInSlot,
    staff: Headers,
    resident: Headers,
    sign_in_resident: SignIn,
) -> None:
    sheet = client.post(path(campaign, "slots", slot.id, "code-sheets"), json={"codes": 30}, headers=staff)
    assert (sheet.status_code, sheet.content_type) == (200, "application/pdf"), sheet.text
    assert "attachment" in sheet.headers["Content-Disposition"]
    text = "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(sheet.data)).pages)
    printed = re.findall(r"[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}", text)
    assert len(set(printed)) == 30
    answer = check_in(client, resident, campaign, printed[0].lower())
    assert (answer.status_code, answer.json["way"]) == (201, "printed"), answer.text
    bob = sign_in_resident("bob")
    joined(session, campaign, sign_in_resident.known["bob"])  # type: ignore[attr-defined]
    refused(check_in(client, bob, campaign, printed[0]), 409, "printed-code-used")
    # A refusal has no effect: the second code is still good after Alice tried to use it for herself.
    refused(check_in(client, resident, campaign, printed[1]), 409, "already-checked-in")
    assert check_in(client, bob, campaign, codes.printed_text(printed[1].replace("-", ""))).status_code == 201
    assert session.scalar(sa.select(sa.func.count()).where(PrintedCode.used_by.is_not(None))) == 2


def test_the_database_holds_no_printed_code_that_could_be_read(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers
) -> None:
    sheet = client.post(
        path(campaign, "slots", slot.id, "code-sheets"), json={"codes": 2, "format": "svg"}, headers=staff
    )
    assert (sheet.status_code, sheet.content_type) == (200, "image/svg+xml"), sheet.text
    hashes = session.scalars(sa.select(PrintedCode.code_hash)).all()
    assert len(hashes) == len(set(hashes)) == 2
    assert {len(each) for each in hashes} == {32}


def test_a_printed_code_of_another_campaign_is_refused(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    slot: CheckInSlot,
    resident: Headers,
    base_settings: Settings,
) -> None:
    other = a_slot(session, a_campaign(session, campaign.created_by))
    code = codes.new_printed_code()
    hashed = codes.printed_hash(base_settings.data_key, code)
    session.add(PrintedCode(code_hash=hashed, slot_id=other.id, printed_by=campaign.created_by, printed_at=now()))
    session.commit()
    refused(check_in(client, resident, campaign, code), 422, "check-in-code-refused")


@pytest.mark.parametrize("codes_wanted", [0, 501, "x"])
def test_a_sheet_has_one_to_five_hundred_codes(
    client: FlaskClient, campaign: Campaign, slot: CheckInSlot, staff: Headers, codes_wanted: Any
) -> None:
    answer = client.post(path(campaign, "slots", slot.id, "code-sheets"), json={"codes": codes_wanted}, headers=staff)
    refused(answer, 422, "invalid-request")


# Staff scan the resident's own code


def test_staff_check_a_resident_in_by_scanning_their_own_code(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    own = client.get(f"/api/v1/me/code?campaign_id={campaign.id}", headers=resident).json["text"]  # type: ignore[index]
    answer = client.post(path(campaign, "slots", slot.id, "check-ins"), json={"code": own}, headers=staff)
    assert (answer.status_code, answer.json["way"]) == (201, "staff"), answer.text
    row = session.scalars(sa.select(CheckIn)).one()
    assert row.checked_in_by is not None
    assert session.scalar(sa.select(sa.func.count()).where(AuditEntry.act == "check-in.scan")) == 1
    again = client.post(path(campaign, "slots", slot.id, "check-ins"), json={"code": own}, headers=staff)
    refused(again, 409, "already-checked-in")
    listed = client.get(path(campaign, "check-ins"), headers=staff).json
    assert [(item["resident_id"], item["way"]) for item in listed["items"]] == [(answer.json["resident_id"], "staff")]  # type: ignore[index]


@pytest.mark.parametrize(
    ("seconds", "use", "status"),
    [(0, "check-in", 201), (59, "check-in", 201), (60, "check-in", 422), (0, "sign-out", 422)],
)
def test_a_residents_code_is_good_for_a_minute_at_most_and_for_one_use(
    client: FlaskClient,
    campaign: Campaign,
    slot: CheckInSlot,
    staff: Headers,
    resident: Headers,
    clock: time_machine.Traveller,
    seconds: int,
    use: str,
    status: int,
) -> None:
    own = client.get(f"/api/v1/me/code?campaign_id={campaign.id}&use={use}", headers=resident).json["text"]  # type: ignore[index]
    clock.shift(seconds)
    answer = client.post(path(campaign, "slots", slot.id, "check-ins"), json={"code": own}, headers=staff)
    assert answer.status_code == status, answer.text


def test_a_residents_code_is_for_one_campaign_and_no_code_of_a_screen_passes_for_it(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    other = a_campaign(session, campaign.created_by)
    elsewhere = a_slot(session, other)
    joined(session, other, session.scalars(sa.text("SELECT resident_id FROM resident")).one())
    own = client.get(f"/api/v1/me/code?campaign_id={campaign.id}", headers=resident).json["text"]  # type: ignore[index]
    for code in (own, shown(client, staff, elsewhere)):
        answer = client.post(path(other, "slots", elsewhere.id, "check-ins"), json={"code": code}, headers=staff)
        refused(answer, 422, "check-in-code-refused")
    # Nor may a resident use their own code as if it stood on the screen.
    refused(check_in(client, resident, campaign, own), 422, "check-in-code-refused")


def test_only_who_takes_part_has_a_code(client: FlaskClient, campaign: Campaign, sign_in_resident: SignIn) -> None:
    headers = sign_in_resident("bob")
    refused(client.get(f"/api/v1/me/code?campaign_id={campaign.id}", headers=headers), 409, "not-taking-part")
    refused(client.get(f"/api/v1/me/code?campaign_id={new_id()}", headers=headers), 404, "not-found")


def test_a_scan_needs_no_location(
    client: FlaskClient, session: Session, campaign: Campaign, staff: Headers, resident: Headers
) -> None:
    fenced = a_slot(session, campaign, latitude=SQUARE.latitude, longitude=SQUARE.longitude, radius_m=100)
    own = client.get(f"/api/v1/me/code?campaign_id={campaign.id}", headers=resident).json["text"]  # type: ignore[index]
    answer = client.post(path(campaign, "slots", fenced.id, "check-ins"), json={"code": own}, headers=staff)
    assert answer.status_code == 201, answer.text


# Arranging slots


def test_staff_arrange_and_edit_slots_and_everybody_reads_them_in_the_order_of_opening(
    client: FlaskClient, campaign: Campaign, staff: Headers, resident: Headers
) -> None:
    late = client.post(path(campaign, "slots"), json=terms(site_name=" 后门 "), headers=staff)
    assert late.status_code == 201, late.text
    early = client.post(
        path(campaign, "slots"),
        json=terms(
            kind="volunteer",
            minutes_max=120,
            opens_at=(now() - timedelta(hours=5)).isoformat(),
            latitude=39.1,
            longitude=117.1,
            radius_m=200,
            capacity=50,
        ),
        headers=staff,
    )
    assert early.status_code == 201, early.text
    one = client.get(path(campaign, "slots", late.json["id"]), headers=staff)  # type: ignore[index]
    edited = client.patch(
        path(campaign, "slots", late.json["id"]),  # type: ignore[index]
        json={"site_name": "前门"},
        headers={**staff, "If-Match": one.headers["ETag"]},
    )
    assert (edited.status_code, edited.json["site_name"], edited.headers["ETag"]) == (200, "前门", '"2"'), edited.text  # type: ignore[index]
    stale = client.patch(
        path(campaign, "slots", late.json["id"]),
        json={"site_name": "x"},
        headers={**staff, "If-Match": '"1"'},  # type: ignore[index]
    )
    refused(stale, 412, "precondition-failed")
    first = client.get(path(campaign, "slots") + "?limit=1", headers=resident).json
    second = client.get(path(campaign, "slots") + f"?limit=1&cursor={first['next_cursor']}", headers=resident).json  # type: ignore[index]
    assert [page["items"][0]["id"] for page in (first, second)] == [early.json["id"], late.json["id"]]  # type: ignore[index]
    assert second["next_cursor"] is None  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"closes_at": (NOON - timedelta(hours=1)).isoformat()}, "slot-outside-campaign"),
        ({"closes_at": (NOON + timedelta(hours=24)).isoformat()}, "slot-outside-campaign"),
        (
            {
                "opens_at": (NOON - timedelta(days=4)).isoformat(),
                "closes_at": (NOON - timedelta(days=4, hours=-1)).isoformat(),
            },
            "slot-outside-campaign",
        ),
        ({"opens_at": "2026-11-21T20:00:00+08:00", "closes_at": "2026-11-22T00:00:01+08:00"}, "slot-outside-campaign"),
        ({"minutes_max": 60}, "slot-kind-mismatch"),
        ({"kind": "volunteer"}, "slot-kind-mismatch"),
        ({"kind": "volunteer", "minutes_max": 481}, "invalid-request"),
        ({"latitude": 39.1}, "invalid-request"),
        ({"latitude": 39.1, "longitude": 117.0, "radius_m": 29}, "invalid-request"),
        ({"latitude": 91, "longitude": 117.0, "radius_m": 100}, "invalid-request"),
        ({"site_name": "  "}, "invalid-request"),
        ({"opens_at": "2026-11-18T12:00:00"}, "invalid-request"),
        ({"capacity": 0}, "invalid-request"),
        ({"capacity": True}, "invalid-request"),
        ({"taken": 5}, "invalid-request"),
    ],
)
def test_a_slot_that_makes_no_sense_is_refused(
    client: FlaskClient, campaign: Campaign, staff: Headers, changes: dict[str, Any], code: str
) -> None:
    refused(client.post(path(campaign, "slots"), json=terms(**changes), headers=staff), 422, code)


def test_a_slot_may_last_to_the_last_midnight_of_the_campaign(
    client: FlaskClient, campaign: Campaign, staff: Headers
) -> None:
    last = {"opens_at": "2026-11-21T20:00:00+08:00", "closes_at": "2026-11-22T00:00:00+08:00"}
    assert client.post(path(campaign, "slots"), json=terms(**last), headers=staff).status_code == 201


@pytest.mark.parametrize(("capacity", "status"), [(1, 409), (2, 200), (None, 200)])
def test_a_capacity_is_never_set_below_the_people_there(
    client: FlaskClient, session: Session, campaign: Campaign, staff: Headers, capacity: int | None, status: int
) -> None:
    full = a_slot(session, campaign, capacity=2, taken=2)
    answer = client.patch(
        path(campaign, "slots", full.id), json={"capacity": capacity}, headers={**staff, "If-Match": '"1"'}
    )
    assert answer.status_code == status, answer.text
    if status == 409:
        assert answer.json["code"] == "capacity-taken"  # type: ignore[index]


def test_a_slot_without_a_capacity_does_not_get_one_later(
    client: FlaskClient, campaign: Campaign, slot: CheckInSlot, staff: Headers
) -> None:
    answer = client.patch(path(campaign, "slots", slot.id), json={"capacity": 5}, headers={**staff, "If-Match": '"1"'})
    refused(answer, 409, "capacity-taken")


@pytest.mark.parametrize("state", [CampaignState.SETTLING, CampaignState.CLOSED, CampaignState.CANCELLED])
def test_slots_of_an_ended_campaign_stand(
    client: FlaskClient, session: Session, campaign: Campaign, slot: CheckInSlot, staff: Headers, state: CampaignState
) -> None:
    session.execute(sa.update(Campaign).values(state=state, closed_at=now()))
    session.commit()
    refused(client.post(path(campaign, "slots"), json=terms(), headers=staff), 409, "campaign-not-arrangeable")
    edit = client.patch(path(campaign, "slots", slot.id), json={"capacity": 5}, headers={**staff, "If-Match": '"1"'})
    refused(edit, 409, "campaign-not-arrangeable")
    sheet = client.post(path(campaign, "slots", slot.id, "code-sheets"), json={"codes": 1}, headers=staff)
    refused(sheet, 409, "campaign-not-arrangeable")


# Scope


def routes_of(campaign: Campaign, slot: CheckInSlot, resident_id: UUID) -> list[tuple[str, str, dict[str, Any] | None]]:
    here = path(campaign, "slots", slot.id)
    return [
        ("GET", path(campaign, "slots"), None),
        ("POST", path(campaign, "slots"), terms()),
        ("GET", here, None),
        ("PATCH", here, {"site_name": "x"}),
        ("POST", f"{here}/cancel", None),
        ("GET", f"{here}/code", None),
        ("GET", f"{here}/code.svg", None),
        ("POST", f"{here}/code-sheets", {"codes": 1}),
        ("POST", f"{here}/check-ins", {"code": "TPH:P:000000000000"}),
        ("POST", f"{here}/sign-outs", {"code": "TPH:P:000000000000"}),
        ("GET", path(campaign, "check-ins"), None),
        ("POST", f"{here}/check-ins/{resident_id}/minutes", {"minutes": 1, "reason": "忘记签退"}),
        ("POST", f"{here}/check-ins/{resident_id}/removal", {"reason": "代签"}),
    ]


def test_another_schools_staff_and_neighbours_see_nothing_on_any_route(
    client: FlaskClient,
    session: Session,
    make_staff: Callable[..., UUID],
    sign_in_staff: SignIn,
    sign_in_resident: SignIn,
) -> None:
    schools = [
        Organisation(
            id=new_id(),
            kind=OrganisationKind.SCHOOL,
            name=name,
            community_code=COMMUNITY,
            valid_from=NOON.date() - timedelta(days=900),
        )
        for name in ("第一小学", "第二小学")
    ]
    session.add_all(schools)
    session.commit()
    owner = make_staff(Role.SCHOOL_STAFF, organisation=schools[0].id)
    campaign = a_campaign(session, owner, organisation_id=schools[0].id)
    slot = a_slot(session, campaign)
    person = joined(session, campaign, sign_in_resident("alice") and sign_in_resident.known["alice"])  # type: ignore[attr-defined]
    was_there(session, slot, person)
    outsiders = {
        "another school": sign_in_staff(Role.SCHOOL_STAFF, organisation=schools[1].id),
        "a neighbouring community": sign_in_staff(Role.COMMUNITY_STAFF, division=NEIGHBOUR),
        "another street": sign_in_staff(Role.STREET, division="120104002"),
    }
    for who, headers in outsiders.items():
        for method, url, body in routes_of(campaign, slot, person):
            answer = client.open(url, method=method, json=body, headers={**headers, "If-Match": '"1"'})
            assert (answer.status_code, answer.json["code"]) == (404, "not-found"), (who, method, url, answer.text)  # type: ignore[index]
    own = sign_in_staff(Role.SCHOOL_STAFF, organisation=schools[0].id)
    assert client.get(path(campaign, "check-ins"), headers=own).status_code == 200
    assert (
        client.get(path(campaign, "check-ins"), headers=sign_in_staff(Role.DISTRICT, division=DISTRICT)).status_code
        == 200
    )


def test_residents_do_what_is_theirs_and_nothing_of_the_staff(
    client: FlaskClient, campaign: Campaign, slot: CheckInSlot, resident: Headers, staff: Headers
) -> None:
    reading = {path(campaign, "slots"), path(campaign, "slots", slot.id)}
    for method, url, body in routes_of(campaign, slot, new_id()):
        if method == "GET" and url in reading:
            continue
        answer = client.open(url, method=method, json=body, headers={**resident, "If-Match": '"1"'})
        assert (answer.status_code, answer.json["code"]) == (403, "forbidden"), (method, url, answer.text)  # type: ignore[index]
    for url in (path(campaign, "check-ins"), path(campaign, "sign-outs")):
        refused(client.post(url, json={"code": "TPH:P:000000000000"}, headers=staff), 403, "forbidden")


# The database is the last guard


def row(**changes: Any) -> dict[str, Any]:
    return {
        "way": "rotating",
        "checked_in_at": NOON,
        "checked_in_by": None,
        "signed_out_at": None,
        "minutes": 0,
        "minutes_set_by": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("check_in_way_check", row(way="guessed")),
        ("check_in_staff_check", row(way="staff")),
        ("check_in_staff_check", row(checked_in_by=new_id())),
        ("check_in_signed_out_check", row(signed_out_at=NOON - timedelta(seconds=1))),
        ("check_in_minutes_check", row(minutes=481, signed_out_at=NOON)),
        ("check_in_minutes_check", row(minutes=-1, signed_out_at=NOON)),
        ("check_in_minutes_earned_check", row(minutes=60)),
    ],
)
def test_the_database_refuses_a_check_in_that_no_rule_would_write(
    session: Session, slot: CheckInSlot, constraint: str, changes: dict[str, Any]
) -> None:
    keys = {"r": new_id(), "s": slot.id, "c": slot.campaign_id, **changes}
    with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
        session.execute(
            sa.text(
                "INSERT INTO check_in (resident_id, slot_id, campaign_id, way, day, checked_in_at, checked_in_by, "
                "signed_out_at, minutes, minutes_set_by) VALUES (:r, :s, :c, :way, '2026-11-18', :checked_in_at, "
                ":checked_in_by, :signed_out_at, :minutes, :minutes_set_by)"
            ),
            keys,
        )


@pytest.mark.parametrize(
    ("constraint", "change"),
    [
        ("check_in_slot_span_check", "closes_at = opens_at"),
        ("check_in_slot_span_check", "closes_at = opens_at + interval '24 hours 1 second'"),
        ("check_in_slot_geofence_check", "latitude = 1"),
        ("check_in_slot_geofence_check", "radius_m = 100"),
        ("check_in_slot_geofence_range_check", "latitude = 91, longitude = 1, radius_m = 100"),
        ("check_in_slot_geofence_range_check", "latitude = 1, longitude = 1, radius_m = 6000"),
        ("check_in_slot_volunteer_check", "kind = 'volunteer'"),
        ("check_in_slot_volunteer_check", "minutes_max = 5"),
        ("check_in_slot_minutes_max_check", "kind = 'volunteer', minutes_max = 481"),
        ("check_in_slot_capacity_check", "capacity = 0"),
        ("check_in_slot_taken_check", "taken = 1"),
        ("check_in_slot_taken_check", "capacity = 2, taken = 3"),
        ("check_in_slot_site_name_check", "site_name = ' '"),
    ],
)
def test_the_database_refuses_a_slot_that_no_rule_would_write(
    session: Session, slot: CheckInSlot, constraint: str, change: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint), session.begin_nested():
        session.execute(sa.text(f"UPDATE check_in_slot SET {change}"))


def test_a_check_in_is_one_for_each_resident_and_slot_in_the_database_too(
    session: Session, slot: CheckInSlot, make_resident: Callable[..., UUID]
) -> None:
    person = make_resident()
    was_there(session, slot, person, way=CheckInWay.PRINTED)
    with pytest.raises(IntegrityError, match="check_in_pkey"), session.begin_nested():
        session.execute(sa.text("INSERT INTO check_in SELECT * FROM check_in"))
    assert slot.kind is SlotKind.VISIT

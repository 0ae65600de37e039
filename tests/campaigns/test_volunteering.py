"""Volunteers sign in and out; their minutes are capped by slot and by day, and set by staff only with a reason."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from attendance_builders import COMMUNITY, Headers, a_campaign, a_slot, a_task, joined, refused, was_there
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.attendance import codes
from campaigns.attendance.models import CheckIn, CheckInSlot, PrintedCode, SlotKind
from campaigns.attendance.volunteering import add_minutes
from campaigns.drives.models import Campaign, CampaignState, TaskKind
from campaigns.tasks.progress import completed
from server.access import Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, business_day, now
from server.database import new_id
from server.settings import Settings

Wait = Callable[[timedelta], None]
NOON = datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI)

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def campaign(session: Session, make_staff: Callable[..., UUID]) -> Campaign:
    return a_campaign(session, make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY))


class Person(dict[str, str]):
    """The headers of a sign-in, which `renew` makes again: a token lives for minutes, a shift for hours."""

    def __init__(self, headers_of: Callable[..., Headers], person_id: UUID, *, is_resident: bool) -> None:
        super().__init__()
        self.id = person_id
        self.sign_in = lambda: headers_of(person_id, is_resident=is_resident)
        self.renew()

    def renew(self) -> None:
        self.update(self.sign_in())


@pytest.fixture
def staff(campaign: Campaign, headers_of: Callable[..., Headers]) -> Person:
    return Person(headers_of, campaign.created_by, is_resident=False)


@pytest.fixture
def shift(session: Session, campaign: Campaign) -> CheckInSlot:
    """From 11 to 20 o'clock, worth three hours at most."""
    return a_slot(session, campaign, kind=SlotKind.VOLUNTEER, minutes_max=180, closes_at=NOON + timedelta(hours=8))


@pytest.fixture
def alice(session: Session, campaign: Campaign, make_resident: Callable[..., UUID]) -> UUID:
    return joined(session, campaign, make_resident())


@pytest.fixture
def resident(alice: UUID, headers_of: Callable[..., Headers]) -> Person:
    """Alice, who takes part."""
    return Person(headers_of, alice, is_resident=True)


@pytest.fixture
def later(staff: Person, resident: Person, clock: time_machine.Traveller) -> Callable[[timedelta], None]:
    """A function that lets time pass, after which everybody signs in anew."""

    def wait(time: timedelta) -> None:
        clock.shift(time)
        staff.renew()
        resident.renew()

    return wait


def path(slot: CheckInSlot, *more: object) -> str:
    return "/".join([f"/api/v1/campaigns/{slot.campaign_id}", *map(str, more)])


def on_screen(client: FlaskClient, staff: Headers, slot: CheckInSlot, use: str) -> str:
    return str(client.get(path(slot, "slots", slot.id, f"code?use={use}"), headers=staff).json["text"])  # type: ignore[index]


def sign_in(client: FlaskClient, staff: Headers, resident: Headers, slot: CheckInSlot) -> Any:
    code = on_screen(client, staff, slot, "check-in")
    return client.post(path(slot, "check-ins"), json={"code": code}, headers=resident)


def sign_out(client: FlaskClient, staff: Headers, resident: Headers, slot: CheckInSlot) -> Any:
    code = on_screen(client, staff, slot, "sign-out")
    return client.post(path(slot, "sign-outs"), json={"code": code}, headers=resident)


@pytest.mark.parametrize(
    ("stayed", "minutes"),
    [
        (timedelta(), 0),
        (timedelta(seconds=59), 0),
        (timedelta(minutes=90, seconds=59), 90),
        (timedelta(minutes=180), 180),
        (timedelta(hours=7), 180),
    ],
)
def test_minutes_are_from_signing_in_to_signing_out_and_not_more_than_the_slot_is_worth(
    client: FlaskClient,
    shift: CheckInSlot,
    staff: Headers,
    resident: Headers,
    later: Wait,
    stayed: timedelta,
    minutes: int,
) -> None:
    assert sign_in(client, staff, resident, shift).json["minutes"] == 0
    later(stayed)
    out = sign_out(client, staff, resident, shift)
    assert (out.status_code, out.json["minutes"]) == (200, minutes), out.text
    own = client.get("/api/v1/me/volunteering", headers=resident).json
    assert own["minutes"] == minutes  # type: ignore[index]
    assert own["days"] == ([{"day": "2026-11-18", "minutes": minutes}] if minutes else [])  # type: ignore[index]


def test_signing_out_is_done_once_after_signing_in_and_only_by_volunteers(
    client: FlaskClient, session: Session, campaign: Campaign, shift: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    refused(sign_out(client, staff, resident, shift), 409, "not-checked-in")
    sign_in(client, staff, resident, shift)
    assert sign_out(client, staff, resident, shift).status_code == 200
    refused(sign_out(client, staff, resident, shift), 409, "already-signed-out")
    visit = a_slot(session, campaign)
    sign_in(client, staff, resident, visit)
    refused(sign_out(client, staff, resident, visit), 409, "no-signing-out")


def test_the_code_for_coming_is_none_for_leaving(
    client: FlaskClient, shift: CheckInSlot, staff: Headers, resident: Headers
) -> None:
    code = on_screen(client, staff, shift, "check-in")
    client.post(path(shift, "check-ins"), json={"code": code}, headers=resident)
    refused(client.post(path(shift, "sign-outs"), json={"code": code}, headers=resident), 422, "check-in-code-refused")


@pytest.mark.parametrize(("minutes_late", "status"), [(-1, 200), (0, 200), (59, 200), (60, 409)])
def test_signing_out_is_possible_for_an_hour_after_the_slot_has_closed(
    client: FlaskClient,
    shift: CheckInSlot,
    staff: Headers,
    resident: Headers,
    later: Wait,
    minutes_late: int,
    status: int,
) -> None:
    sign_in(client, staff, resident, shift)
    later(shift.closes_at + timedelta(minutes=minutes_late) - now())
    assert sign_out(client, staff, resident, shift).status_code == status


def test_staff_sign_a_volunteer_in_and_out_by_scanning(
    client: FlaskClient, shift: CheckInSlot, staff: Headers, resident: Headers, later: Wait
) -> None:
    for use, where, status in (("check-in", "check-ins", 201), ("sign-out", "sign-outs", 200)):
        own = client.get(f"/api/v1/me/code?campaign_id={shift.campaign_id}&use={use}", headers=resident)
        answer = client.post(
            path(shift, "slots", shift.id, where),
            json={"code": own.json["text"]},
            headers=staff,  # type: ignore[index]
        )
        assert answer.status_code == status, answer.text
        later(timedelta(hours=1))
    assert answer.json["minutes"] == 60  # type: ignore[index]


def test_printed_codes_serve_for_coming_and_for_leaving_one_each(
    client: FlaskClient,
    session: Session,
    shift: CheckInSlot,
    resident: Headers,
    later: Wait,
    base_settings: Settings,
) -> None:
    paper = [codes.new_printed_code() for _ in range(2)]
    for code in paper:
        hashed = codes.printed_hash(base_settings.data_key, code)
        session.add(PrintedCode(code_hash=hashed, slot_id=shift.id, printed_by=shift.created_by, printed_at=now()))
    session.commit()
    assert client.post(path(shift, "check-ins"), json={"code": paper[0]}, headers=resident).status_code == 201
    later(timedelta(minutes=30))
    refused(client.post(path(shift, "sign-outs"), json={"code": paper[0]}, headers=resident), 409, "printed-code-used")
    out = client.post(path(shift, "sign-outs"), json={"code": paper[1]}, headers=resident)
    assert (out.status_code, out.json["minutes"]) == (200, 30), out.text  # type: ignore[index]


def test_a_day_has_eight_hours_at_most_over_all_slots_and_campaigns(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    staff: Headers,
    resident: Headers,
    alice: UUID,
    later: Wait,
) -> None:
    other = a_campaign(session, campaign.created_by)
    joined(session, other, alice)
    long = {"kind": SlotKind.VOLUNTEER, "minutes_max": 300, "closes_at": NOON + timedelta(hours=9)}
    shifts = [a_slot(session, each, **long) for each in (campaign, other)]
    for slot in shifts:
        sign_in(client, staff, resident, slot)
    later(timedelta(hours=6))
    assert [sign_out(client, staff, resident, slot).json["minutes"] for slot in shifts] == [300, 180]
    assert client.get("/api/v1/me/volunteering", headers=resident).json["minutes"] == 480  # type: ignore[index]


def test_who_did_not_sign_out_has_no_minutes_until_staff_set_them_with_a_reason(
    client: FlaskClient, session: Session, shift: CheckInSlot, staff: Headers, resident: Headers, alice: UUID
) -> None:
    task = a_task(session, session.get_one(Campaign, shift.campaign_id), kind=TaskKind.VOLUNTEER, target=60)
    sign_in(client, staff, resident, shift)
    assert not completed(session, alice, task)
    url = path(shift, "slots", shift.id, "check-ins", alice, "minutes")
    answer = client.post(url, json={"minutes": 120, "reason": "忘记签退, 现场负责人确认"}, headers=staff)
    assert (answer.status_code, answer.json["minutes"]) == (200, 120), answer.text  # type: ignore[index]
    assert completed(session, alice, task)
    refused(sign_out(client, staff, resident, shift), 409, "already-signed-out")
    lower = client.post(url, json={"minutes": 30, "reason": "更正"}, headers=staff)
    assert lower.json["minutes"] == 30  # type: ignore[index]
    assert client.get("/api/v1/me/volunteering", headers=resident).json["minutes"] == 30  # type: ignore[index]
    assert not completed(session, alice, task)
    acts = session.scalars(
        sa.select(AuditEntry).where(AuditEntry.act == "check-in.set-minutes").order_by(AuditEntry.id)
    ).all()
    assert [(act.detail["before"], act.detail["minutes"], act.detail["reason"]) for act in acts] == [
        (0, 120, "忘记签退, 现场负责人确认"),
        (120, 30, "更正"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"minutes": 181, "reason": "超过"}, 422, "minutes-too-many"),
        ({"minutes": 481, "reason": "超过"}, 422, "invalid-request"),
        ({"minutes": -1, "reason": "负数"}, 422, "invalid-request"),
        ({"minutes": 10}, 422, "invalid-request"),
        ({"minutes": 10, "reason": " "}, 422, "invalid-request"),
    ],
)
def test_minutes_out_of_bounds_or_without_a_reason_are_refused(
    client: FlaskClient,
    session: Session,
    shift: CheckInSlot,
    staff: Headers,
    alice: UUID,
    body: dict[str, Any],
    status: int,
    code: str,
) -> None:
    was_there(session, shift, alice)
    refused(
        client.post(path(shift, "slots", shift.id, "check-ins", alice, "minutes"), json=body, headers=staff),
        status,
        code,
    )


def test_staff_cannot_overfill_a_day_nor_set_the_minutes_of_a_visit_or_of_a_settled_campaign(
    client: FlaskClient, session: Session, campaign: Campaign, shift: CheckInSlot, staff: Headers, alice: UUID
) -> None:
    body = {"minutes": 100, "reason": "补登"}
    was_there(session, shift, alice)
    add_minutes(session, alice, business_day(now()), 400)
    session.commit()
    url = path(shift, "slots", shift.id, "check-ins", alice, "minutes")
    refused(client.post(url, json=body, headers=staff), 409, "volunteer-day-full")
    assert client.post(url, json={**body, "minutes": 80}, headers=staff).status_code == 200
    visit = a_slot(session, campaign)
    was_there(session, visit, alice)
    refused(
        client.post(path(visit, "slots", visit.id, "check-ins", alice, "minutes"), json=body, headers=staff),
        422,
        "minutes-too-many",
    )
    missing = path(shift, "slots", shift.id, "check-ins", new_id(), "minutes")
    refused(client.post(missing, json=body, headers=staff), 404, "not-found")
    session.execute(sa.update(Campaign).values(state=CampaignState.CLOSED, closed_at=now()))
    session.commit()
    refused(client.post(url, json={**body, "minutes": 1}, headers=staff), 409, "campaign-settled")


def test_a_check_in_struck_out_gives_its_minutes_back_to_the_day(
    client: FlaskClient, session: Session, shift: CheckInSlot, staff: Headers, resident: Headers, alice: UUID
) -> None:
    was_there(session, shift, alice)
    minutes = path(shift, "slots", shift.id, "check-ins", alice, "minutes")
    client.post(minutes, json={"minutes": 100, "reason": "补登"}, headers=staff)
    removal = path(shift, "slots", shift.id, "check-ins", alice, "removal")
    assert client.post(removal, json={"reason": "没有到场"}, headers=staff).status_code == 204
    assert client.get("/api/v1/me/volunteering", headers=resident).json == {"minutes": 0, "days": []}
    assert session.scalar(sa.select(sa.func.count()).select_from(CheckIn)) == 0


def test_the_day_is_that_of_signing_in_also_past_midnight(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    staff: Headers,
    resident: Headers,
    later: Wait,
) -> None:
    evening = NOON.replace(hour=22)
    night = a_slot(
        session,
        campaign,
        kind=SlotKind.VOLUNTEER,
        minutes_max=300,
        opens_at=evening,
        closes_at=evening + timedelta(hours=4),
    )
    later(evening - now())
    sign_in(client, staff, resident, night)
    later(timedelta(hours=3))
    assert sign_out(client, staff, resident, night).json["minutes"] == 180
    assert client.get("/api/v1/me/volunteering", headers=resident).json["days"] == [  # type: ignore[index]
        {"day": "2026-11-18", "minutes": 180}
    ]


@pytest.mark.parametrize("minutes", [481, -1])
def test_the_database_refuses_a_day_longer_than_eight_hours(
    session: Session, make_resident: Callable[..., UUID], minutes: int
) -> None:
    person = make_resident()
    with pytest.raises(IntegrityError, match="volunteer_day_minutes_check"), session.begin_nested():
        session.execute(
            sa.text("INSERT INTO volunteer_day VALUES (:r, '2026-11-18', :m, 0)"),
            {"r": person, "m": minutes},
        )

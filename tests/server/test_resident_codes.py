"""The resident's code: checked without a net, used once, never by one's own; cards, devices, and who one is oneself."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pypdf
import pytest
import segno
import sqlalchemy as sa
from code_builders import (
    COMMUNITY,
    NEXT_DOOR,
    add_resident,
    add_supervisor,
    after_the_first,
    load_limits,
    own_sessions,
    resident,
    signed,
    upload,
)
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.access import Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, now
from server.database import new_id
from server.errors import DomainError, NotFound
from server.people import cards, code_limits, households, resident_codes, signed_codes, staff_links
from server.people.models import (
    CardDay,
    CardUser,
    CodePurpose,
    HouseholdMember,
    PrintedCard,
    Resident,
    ResidentCodeUse,
    Scanner,
    Staff,
    StaffLink,
)
from server.people.scan_kinds import AcceptedScan, ScanKind
from server.people.signed_codes import CodeRefused
from server.places.models import Division, DivisionLevel
from server.request_signatures import sign
from server.settings import Settings

Headers = dict[str, str]
SignIn = Callable[..., Headers]

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI)
DAY = date(2026, 1, 1)
DATA_KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SORTING = CodePurpose.SORTING


@pytest.fixture
def key(app: Flask) -> bytes:
    """The data key of the running application."""
    settings: Settings = app.extensions["tanpuhui_settings"]
    return settings.data_key


def shown(key: bytes, person: UUID, purpose: CodePurpose = SORTING, at: datetime | None = None) -> str:
    return signed_codes.make(key, person, purpose=purpose, now=at or now()).text


def read(session: Session, by: Any, text: str, key: bytes, at: datetime | None = None, **more: Any) -> Any:
    """One reading of a code in a savepoint of its own, as each request has its own transaction."""
    wanted = {"purpose": SORTING, "site": None, **more}
    with session.begin_nested():
        return resident_codes.read_and_use(session, by, text, data_key=key, now=at or now(), **wanted)


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(DomainError) as refused:
        work()
    return refused.value.code


# The code itself


def test_a_device_checks_a_code_with_what_is_published_alone(client: FlaskClient, sign_in_resident: SignIn) -> None:
    text = client.get("/api/v1/me/resident-code?purpose=sorting", headers=sign_in_resident("alice")).json["text"]
    published = client.get("/api/v1/codes/keys").json

    # From here on only what docs/resident-code.md says, and no code of ours.
    content = base64.b32decode(text[6:] + "===")
    number, slot = int.from_bytes(content[2:4], "big"), int.from_bytes(content[4:8], "big")
    [found] = [each for each in published["keys"] if each["number"] == number]
    slot_begins = datetime.fromtimestamp(slot * published["slot_s"], UTC)
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found["public_key"]))

    assert text.startswith("TPH:U:")
    assert (len(text), len(content), content[0], content[1]) == (147, 88, 1, 1)
    assert abs(slot - int(datetime.now(UTC).timestamp()) // 30) <= published["slots_off_max"]
    assert datetime.fromisoformat(found["valid_from"]) <= slot_begins < datetime.fromisoformat(found["valid_until"])
    public.verify(content[24:], b"TPH:U:" + content[:24])
    for position in range(24):
        forged = bytearray(content[:24])
        forged[position] ^= 1
        with pytest.raises(InvalidSignature):
            public.verify(content[24:], b"TPH:U:" + bytes(forged))

    drawn = segno.make(text, error="m", micro=False)
    assert (drawn.designator, drawn.mode) == ("6-M", "alphanumeric")


def test_the_example_for_the_makers_of_devices_is_right(project: Path) -> None:
    told = (project / "docs" / "resident-code.md").read_text("utf-8")
    [text], [public] = re.findall(r"^TPH:U:[A-Z2-7]{141}$", told, re.M), re.findall(r"^[0-9a-f]{64}$", told, re.M)
    at = datetime(2026, 11, 22, 8, 0, 12, tzinfo=SHANGHAI)
    begins, ends = datetime(2026, 10, 1, tzinfo=SHANGHAI), datetime(2027, 1, 1, tzinfo=SHANGHAI)
    keys = {107: signed_codes.SigningKey(107, bytes.fromhex(public), begins, ends)}
    code = signed_codes.verify(text, keys, purpose=SORTING, at=at)

    assert f"slot is {code.slot} and its pseudonym `{code.pseudonym.hex()}`" in told
    assert sign(b"an-example-key-of-a-device", "1795312830", b'{"scans":[]}') in told


def test_a_code_holds_for_its_slot_and_one_either_way_for_its_purpose_and_service() -> None:
    person, begins = new_id(), datetime(2026, 11, 18, 4, 0, tzinfo=UTC)
    text = shown(DATA_KEY, person, at=begins + timedelta(seconds=7))
    keys = signed_codes.public_keys(DATA_KEY, now=begins)

    def holds(seconds: float, purpose: CodePurpose = SORTING, with_keys: Any = keys) -> bool:
        try:
            code = signed_codes.verify(text, with_keys, purpose=purpose, at=begins + timedelta(seconds=seconds))
        except CodeRefused:
            return False
        assert signed_codes.resident_behind(DATA_KEY, code) == person
        return True

    assert [holds(seconds) for seconds in (-30.5, -30, 0, 59.9, 60)] == [False, True, True, True, False]
    assert not holds(0, CodePurpose.RECYCLING)
    assert not holds(0, with_keys=signed_codes.public_keys(OTHER_KEY, now=begins))
    assert not holds(0, with_keys={})
    assert signed_codes.make(DATA_KEY, person, purpose=SORTING, now=begins).changes_at == begins + timedelta(seconds=30)
    assert text == shown(DATA_KEY, person, at=begins + timedelta(seconds=29)), "within a slot always the same"


@pytest.mark.parametrize("text", ["", "TPH:U:", "TPH:R:" + "A" * 141, "TPH:U:" + "A" * 141, "TPH:U:" + "1" * 141])
def test_what_is_no_code_of_ours_is_refused(text: str) -> None:
    with pytest.raises(CodeRefused):
        signed_codes.verify(text, signed_codes.public_keys(DATA_KEY, now=NOON), purpose=SORTING, at=NOON)


def test_nobody_is_followed_by_their_codes() -> None:
    def pseudonym(purpose: CodePurpose, at: datetime) -> bytes:
        keys = signed_codes.public_keys(DATA_KEY, now=at)
        return signed_codes.verify(shown(DATA_KEY, person, purpose, at), keys, purpose=purpose, at=at).pseudonym

    person = new_id()
    seen = {pseudonym(purpose, NOON + timedelta(seconds=30 * slot)) for purpose in CodePurpose for slot in range(20)}
    assert len(seen) == 20 * len(CodePurpose)
    assert person.bytes not in seen


def test_a_key_signs_for_its_quarter_and_no_other() -> None:
    person, new_year = new_id(), datetime(2027, 1, 1, tzinfo=SHANGHAI)
    before, after = new_year - timedelta(seconds=1), new_year
    keys = signed_codes.public_keys(DATA_KEY, now=before)
    old, new = (
        int.from_bytes(base64.b32decode(shown(DATA_KEY, person, at=at)[6:] + "===")[2:4]) for at in (before, after)
    )

    assert (new - old, keys[old].valid_until, keys[new].valid_from) == (1, new_year, new_year)
    assert signed_codes.verify(shown(DATA_KEY, person, at=after), keys, purpose=SORTING, at=before)
    ended = {**keys, old: replace(keys[old], valid_until=before - timedelta(seconds=30))}
    early = {**keys, new: replace(keys[new], valid_from=after + timedelta(seconds=30))}
    for at, known in ((before, ended), (after, early)):
        with pytest.raises(CodeRefused):
            signed_codes.verify(shown(DATA_KEY, person, at=at), known, purpose=SORTING, at=at)


# Using it


def test_a_code_serves_once_for_each_purpose(session: Session) -> None:
    load_limits(session)
    person, one, other = add_resident(session), add_supervisor(session), add_supervisor(session)
    text = shown(DATA_KEY, person, at=NOON)
    used = read(session, one, text, DATA_KEY, NOON)

    assert (used.resident_id, used.household_id, used.kind, used.device, used.staff_id) == (
        person,
        None,
        resident_codes.CodeKind.PHONE,
        None,
        one.id,
    )
    assert refusal(lambda: read(session, other, text, DATA_KEY, NOON)) == "resident-code-used"
    recycling = shown(DATA_KEY, person, CodePurpose.RECYCLING, NOON)
    assert refusal(lambda: read(session, other, recycling, DATA_KEY, NOON)) == "resident-code-refused"
    assert read(session, other, recycling, DATA_KEY, NOON, purpose=CodePurpose.RECYCLING).resident_id == person
    later = NOON + timedelta(seconds=30)
    assert read(session, other, shown(DATA_KEY, person, at=later), DATA_KEY, later).resident_id == person


def test_the_disabled_and_the_unknown_are_refused_and_nothing_is_used_up(session: Session) -> None:
    load_limits(session)
    supervisor, kept_out, nobody = add_supervisor(session), add_resident(session, enabled=False), new_id()
    for person in (kept_out, nobody):
        text = shown(DATA_KEY, person, at=NOON)
        assert refusal(lambda text=text: read(session, supervisor, text, DATA_KEY, NOON)) == "resident-code-refused"
    assert session.scalar(sa.select(sa.func.count()).select_from(ResidentCodeUse)) == 0


def test_nobody_serves_themself_or_their_household_or_before_saying_who_they_are(session: Session) -> None:
    load_limits(session)
    me, partner, flatmate, stranger = (add_resident(session) for _ in range(4))
    supervisor, nameless = add_supervisor(session, linked_to=me), add_supervisor(session, declared=False)
    households.found(session, resident(me), now=NOON)
    for person in (partner, flatmate):
        code = households.issue_code(session, resident(me), data_key=DATA_KEY, now=NOON).join_code
        households.join(session, resident(person), code=code, data_key=DATA_KEY, now=NOON)
    households.leave(session, resident(flatmate), now=NOON)
    assert households.depart(session, now=NOON + timedelta(days=1)) == 1

    def serving(by: Any, person: UUID, at: datetime) -> str:
        try:
            read(session, by, shown(DATA_KEY, person, at=at), DATA_KEY, at)
        except DomainError as error:
            return error.code
        return "served"

    tomorrow, after_the_wait = NOON + timedelta(days=1), NOON + timedelta(days=32)
    assert serving(nameless, stranger, NOON) == "staff-unlinked"
    assert serving(supervisor, stranger, NOON) == "served"
    assert [serving(supervisor, person, NOON) for person in (me, partner)] == ["serves-own-household"] * 2
    assert serving(supervisor, flatmate, tomorrow) == "serves-own-household", "leaving does not help at once"
    assert serving(supervisor, flatmate, after_the_wait) == "served"


# Cards


@pytest.fixture
def community_staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)


def add_card(session: Session, staff: UUID, holder: UUID, **entry: Any) -> str:
    """A card's text."""
    by = staff_actor(session, staff)
    wanted = {"for_household": False, "replaces_because": None, **entry}
    return cards.issue(session, by, holder, **wanted, data_key=DATA_KEY, now=NOON).text


def staff_actor(session: Session, staff: UUID) -> Any:
    found = session.get_one(Staff, staff)
    return type(resident(staff))(id=staff, role=found.role, session_id=new_id(), division=found.division)


def test_staff_print_a_card_that_the_holder_can_end(
    client: FlaskClient, session: Session, community_staff: Headers, sign_in_resident: SignIn
) -> None:
    alice = sign_in_resident("alice")
    person = client.get("/api/v1/me", headers=alice).json["id"]
    url = f"/api/v1/residents/{person}/cards"
    printed = client.post(url, json={}, headers=community_staff)
    [page] = pypdf.PdfReader(io.BytesIO(printed.data)).pages
    text = page.extract_text()

    assert (printed.status_code, printed.mimetype) == (200, "application/pdf")
    assert (round(page.mediabox.width / 72 * 25.4, 1), round(page.mediabox.height / 72 * 25.4)) == (85.6, 54)
    assert "碳普惠居民卡" in text
    again = client.post(url, json={}, headers=community_staff)
    assert (again.status_code, again.json["code"]) == (409, "card-stands")
    replaced = client.post(url, json={"replaces_because": "遗失", "format": "svg"}, headers=community_staff)
    assert (replaced.status_code, replaced.mimetype) == (200, "image/svg+xml")

    new, old = client.get("/api/v1/me/cards", headers=alice).json["items"]
    assert (new["revoked_at"], old["revoked_because"]) == (None, "遗失")
    ended = client.post(f"/api/v1/me/cards/{new['id']}/revocation", json={"reason": "丢了"}, headers=alice)
    assert (ended.status_code, ended.json["revoked_because"]) == (200, "丢了")
    listed = client.get(url, headers=community_staff).json["items"]
    assert [each["revoked_at"] is not None for each in listed] == [True, True]
    acts = session.scalars(sa.select(AuditEntry.act).where(AuditEntry.act.startswith("card.")))
    assert list(acts) == ["card.issue", "card.issue"]
    assert len(client.get("/api/v1/me/notices", headers=alice).json["items"]) == 2


def test_cards_are_for_residents_of_the_scope_alone(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    person, homeless = add_resident(session), add_resident(session, community_code=None)
    neighbours = sign_in_staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR)
    district = sign_in_staff(Role.DISTRICT, division="120104")
    supervisor = sign_in_staff(Role.SUPERVISOR, division=COMMUNITY)

    def asked(who: Headers, whom: UUID) -> list[int]:
        url = f"/api/v1/residents/{whom}/cards"
        return [client.post(url, json={}, headers=who).status_code, client.get(url, headers=who).status_code]

    assert asked(neighbours, person) == [404, 404]
    assert asked(supervisor, person) == [403, 403]
    assert asked(district, homeless) == [404, 404]
    assert asked(district, person) == [200, 200]
    card = session.scalars(sa.select(PrintedCard.id)).one()
    url, reason = f"/api/v1/cards/{card}/revocation", {"reason": "搬离"}
    assert client.post(url, json=reason, headers=neighbours).status_code == 404
    assert (
        client.post(f"/api/v1/me/cards/{card}/revocation", json=reason, headers=sign_in_resident()).status_code == 404
    )
    assert client.post(url, json=reason, headers=district).json["revoked_because"] == "搬离"
    household = client.post(f"/api/v1/residents/{person}/cards", json={"for_household": True}, headers=district)
    assert household.json["code"] == "no-household"


def test_a_card_is_used_within_the_days_limits_of_household_and_staff(session: Session, make_staff: Any) -> None:
    load_limits(session, card_uses_per_household_max=2, card_uses_per_staff_max=3)
    one, other, third = (add_supervisor(session) for _ in range(3))
    issuer = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    people = [add_resident(session) for _ in range(4)]
    texts = [add_card(session, issuer, person) for person in people]
    noon = iter(NOON + timedelta(minutes=minute) for minute in range(99))

    def outcome(by: Any, card: int, at: datetime | None = None) -> str:
        try:
            used = read(session, by, texts[card], DATA_KEY, at or next(noon))
        except DomainError as error:
            return f"{error.code}: {error.extra.get('limit_of')}"
        assert (used.resident_id, used.kind, used.staff_id) == (people[card], resident_codes.CodeKind.CARD, by.id)
        return "served"

    assert [outcome(one, 0), outcome(other, 0)] == ["served"] * 2
    assert outcome(third, 0) == "card-limit-reached: household"
    assert [outcome(one, card) for card in (1, 2, 3)] == ["served", "served", "card-limit-reached: staff"]
    assert outcome(other, 3) == "served"
    tomorrow = NOON + timedelta(days=1)
    assert [outcome(one, 0, tomorrow), outcome(other, 0, tomorrow)] == ["served", "resident-code-used: None"]
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(sa.update(CardDay).values(uses=CardDay.limit_uses + 1))


def test_a_household_shares_its_limit_and_its_card_ends_with_the_holders_stay(
    session: Session, make_staff: Any
) -> None:
    load_limits(session, card_uses_per_household_max=1)
    supervisor, issuer = add_supervisor(session), make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    holder, child = add_resident(session), add_resident(session)
    households.found(session, resident(holder), now=NOON)
    code = households.issue_code(session, resident(holder), data_key=DATA_KEY, now=NOON).join_code
    households.join(session, resident(child), code=code, data_key=DATA_KEY, now=NOON)
    family, own = add_card(session, issuer, holder, for_household=True), add_card(session, issuer, child)

    assert read(session, supervisor, family, DATA_KEY, NOON).resident_id == holder
    later = NOON + timedelta(minutes=1)
    assert refusal(lambda: read(session, supervisor, own, DATA_KEY, later)) == "card-limit-reached"
    households.leave(session, resident(holder), now=later)
    tomorrow = NOON + timedelta(days=1)
    households.depart(session, now=tomorrow)
    assert refusal(lambda: read(session, supervisor, family, DATA_KEY, tomorrow)) == "resident-code-refused"
    assert read(session, supervisor, own, DATA_KEY, tomorrow).resident_id == child


def test_the_counts_of_old_days_are_forgotten(session: Session) -> None:
    kept = cards.COUNTS_KEPT_FOR.days
    for days in (kept, kept + 1):
        day = (NOON - timedelta(days=days)).date()
        session.add(CardDay(day=day, user_kind=CardUser.HOUSEHOLD, user_id=new_id(), limit_uses=4, uses=1))
    session.flush()
    assert [cards.forget_old(session, now=NOON) for _ in range(2)] == [1, 0]


def test_a_card_may_be_typed_and_ends_when_it_is_taken_back(session: Session, make_staff: Any) -> None:
    load_limits(session)
    supervisor, issuer = add_supervisor(session), make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    person = add_resident(session)
    text = add_card(session, issuer, person)
    code = text.removeprefix(cards.PREFIX)
    typed = f" {code[:4].lower()}-{code[4:8]} {code[8:]}".replace("0", "o").replace("1", "l")

    assert read(session, supervisor, typed, DATA_KEY, NOON).resident_id == person
    assert refusal(lambda: read(session, supervisor, text, DATA_KEY, NOON)) == "resident-code-used", (
        "the same half-minute"
    )
    assert refusal(lambda: read(session, supervisor, text, OTHER_KEY, NOON)) == "resident-code-refused"
    card = session.scalars(sa.select(PrintedCard)).one()
    assert code.encode() not in card.code_hash
    cards.revoke(session, staff_actor(session, issuer), card.id, reason="遗失", now=NOON)
    later = NOON + timedelta(minutes=1)
    assert refusal(lambda: read(session, supervisor, text, DATA_KEY, later)) == "resident-code-refused"


# Two at once


@pytest.fixture(scope="module")
def open_session(make_database: Callable[[], str]) -> Iterator[Callable[[], Session]]:
    with own_sessions(make_database()) as opened:
        with opened() as session:
            load_limits(session, card_uses_per_household_max=1)
        yield opened


def test_two_supervisors_with_one_code_serve_once(open_session: Callable[[], Session]) -> None:
    at = now()
    with open_session() as session:
        person, one, other = add_resident(session), add_supervisor(session), add_supervisor(session)
    text = shown(DATA_KEY, person, at=at)

    def scan(by: Any) -> Callable[[Session], Any]:
        return lambda session: resident_codes.read_and_use(
            session, by, text, purpose=SORTING, site=None, data_key=DATA_KEY, now=at
        )

    assert after_the_first(open_session, scan(one), scan(other)) == "resident-code-used"
    with open_session() as session:
        assert session.scalar(sa.select(sa.func.count()).where(ResidentCodeUse.resident_id == person)) == 1


def test_the_last_use_of_the_day_is_given_once(open_session: Callable[[], Session]) -> None:
    at = now()
    with open_session() as session:
        person, one, other = add_resident(session), add_supervisor(session), add_supervisor(session)
        text = add_card(session, one.id, person)
        session.commit()

    def scan(by: Any, minutes: int) -> Callable[[Session], Any]:
        return lambda session: resident_codes.read_and_use(
            session, by, text, purpose=SORTING, site=None, data_key=DATA_KEY, now=at + timedelta(minutes=minutes)
        )

    assert after_the_first(open_session, scan(one, 0), scan(other, 1)) == "card-limit-reached"
    with open_session() as session:
        used = sa.select(CardDay.uses).where(CardDay.user_kind == CardUser.HOUSEHOLD, CardDay.user_id == person)
        assert session.scalars(used).all() == [1]


# Devices


@pytest.fixture
def recorded(app: Flask) -> Iterator[list[AcceptedScan]]:
    """What devices sent in for sorting, recorded by a kind of the test's own."""
    taken: list[AcceptedScan] = []

    def record(session: Session, scan: AcceptedScan, received_at: datetime) -> None:
        if scan.detail.get("refuse"):
            raise NotFound
        taken.append(scan)

    usual = app.extensions["tanpuhui_scan_kinds"]
    app.extensions["tanpuhui_scan_kinds"] = {SORTING: ScanKind(SORTING, record)}
    yield taken
    app.extensions["tanpuhui_scan_kinds"] = usual


@pytest.fixture
def district_office(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.DISTRICT, division="120104")


def registered(client: FlaskClient, staff: Headers, **entry: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/devices", json={"name": "扫码枪", "division": COMMUNITY, **entry}, headers=staff)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return dict(answer.json)


def scan(sequence: int, code: str, at: datetime, **more: Any) -> dict[str, Any]:
    return {"sequence": sequence, "scanned_at": at.isoformat(), "code": code, "purpose": "sorting", **more}


def test_a_device_sends_in_what_it_read_without_a_net(
    client: FlaskClient, session: Session, key: bytes, recorded: list[AcceptedScan], district_office: Headers
) -> None:
    load_limits(session)
    device = registered(client, district_office, site_code="xf-1")
    alice, bob, read_at = add_resident(session), add_resident(session), now() - timedelta(hours=20)
    of_alice, of_bob = scan(1, shown(key, alice, at=read_at), read_at), scan(2, shown(key, bob, at=read_at), read_at)
    of_bob["detail"] = {"refuse": True}

    assert upload(client, device, of_alice, of_bob) == [(True, None, False), (False, NotFound.code, False)]
    assert [(each.used.resident_id, each.used.device, each.scanner.site_code) for each in recorded] == [
        (alice, f"scanner:{device['id']}", "xf-1")
    ]
    # Sent again it gets the same answer, and another scan under its number none.
    assert upload(client, device, of_alice, of_bob) == [(True, None, True), (False, NotFound.code, True)]
    assert upload(client, device, {**of_bob, "sequence": 1}) == [(False, "scan-sequence-reused", True)]
    # The refused one used nothing up; the accepted one serves no second time, with a net or without.
    assert upload(client, device, {**of_bob, "sequence": 3, "detail": {}}, {**of_alice, "sequence": 4}) == [
        (True, None, False),
        (False, "resident-code-used", False),
    ]
    assert len(recorded) == 2


def test_a_device_sends_in_nothing_that_is_late_foreign_or_a_card(
    client: FlaskClient, session: Session, key: bytes, recorded: list[AcceptedScan], district_office: Headers
) -> None:
    load_limits(session)
    device, person, at = registered(client, district_office), add_resident(session), now()
    early, ahead, stale = at - timedelta(hours=24, minutes=1), at + timedelta(minutes=2), at - timedelta(minutes=5)
    supervisor = add_supervisor(session)
    with session.begin_nested():
        card = cards.issue(
            session,
            staff_actor(session, supervisor.id),
            person,
            for_household=False,
            replaces_because=None,
            data_key=key,
            now=at,
        ).text
    session.commit()
    found = upload(
        client,
        device,
        scan(1, shown(key, person, at=early), early),
        scan(2, shown(key, person, at=ahead), ahead),
        scan(3, shown(key, person, at=stale), at),
        scan(4, shown(key, person, CodePurpose.RECYCLING, at), at, purpose="recycling"),
        scan(5, card, at),
        scan(6, shown(key, person, at=at), at, detail={"long": "x" * 2_000}),
    )

    assert [reason for _, reason, _ in found] == [
        "scan-too-late",
        "scan-too-late",
        "resident-code-refused",
        "scan-purpose-unknown",
        "card-needs-staff",
        "scan-detail-too-long",
    ]
    assert recorded == []
    # Carried by somebody, it takes cards, and not their own.
    carried = registered(client, district_office, operator_id=str(supervisor.id))
    assert upload(client, carried, scan(1, card, at)) == [(True, None, False)]
    assert [each.used.staff_id for each in recorded] == [supervisor.id]
    session.execute(sa.update(StaffLink).values(resident_id=person, statement=None))
    session.commit()
    own = shown(key, person, at=at + timedelta(seconds=30))
    assert upload(client, carried, scan(2, own, at + timedelta(seconds=30))) == [(False, "serves-own-household", False)]
    session.execute(sa.update(Staff).where(Staff.id == supervisor.id).values(enabled=False))
    session.commit()
    refused = client.post(f"/api/v1/devices/{carried['id']}/scans", **signed(carried["key"], {"scans": []}))
    assert (refused.status_code, refused.json["code"]) == (401, "device-signature-refused")


def test_a_device_that_changed_hands_confirms_nothing_for_whoever_carries_it_now(
    client: FlaskClient, session: Session, key: bytes, recorded: list[AcceptedScan], district_office: Headers
) -> None:
    load_limits(session)
    morning, evening, person = add_supervisor(session), add_supervisor(session), add_resident(session)
    device = registered(client, district_office, operator_id=str(morning.id))
    url, at = f"/api/v1/devices/{device['id']}", now()
    assert upload(client, device, scan(1, shown(key, person, at=at), at)) == [(True, None, False)]

    tag = client.get(url, headers=district_office).headers["ETag"]
    handed = client.patch(url, json={"operator_id": str(evening.id)}, headers={**district_office, "If-Match": tag})
    assert handed.status_code == 200
    before, after = at - timedelta(hours=2), now() + timedelta(seconds=31)
    scans = [scan(2, shown(key, person, at=before), before), scan(3, shown(key, person, at=after), after)]
    assert [accepted for accepted, *_ in upload(client, device, *scans)] == [True, True]
    assert [each.used.staff_id for each in recorded] == [morning.id, None, evening.id]

    # Before they have said which resident they are, nothing is lost: the same is taken in once they have.
    session.execute(sa.delete(StaffLink).where(StaffLink.staff_id == evening.id))
    session.commit()
    other = scan(4, shown(key, add_resident(session), at=after), after)
    unlinked = client.post(f"{url}/scans", **signed(device["key"], {"scans": [other]}))
    assert (unlinked.status_code, unlinked.json["code"]) == (409, "staff-unlinked")
    session.add(StaffLink(staff_id=evening.id, statement="本人没有居民账号", made_at=now()))
    session.commit()
    assert upload(client, device, other) == [(True, None, False)]

    # Moved to a post that scans nothing, they send nothing in.
    session.execute(sa.update(Staff).where(Staff.id == evening.id).values(role=Role.STREET))
    session.commit()
    assert client.post(f"{url}/scans", **signed(device["key"], {"scans": []})).status_code == 401


def test_only_the_devices_own_live_keys_sign(
    client: FlaskClient, session: Session, recorded: list[AcceptedScan], district_office: Headers
) -> None:
    load_limits(session)
    device, other = registered(client, district_office), registered(client, district_office)
    url, body = f"/api/v1/devices/{device['id']}", {"scans": [scan(1, "nothing", now())]}

    def status(key: str, at: float | None = None, to: str = f"{url}/scans") -> int:
        return client.post(to, **signed(key, body, at)).status_code

    assert [status(device["key"]), status(other["key"]), status("guess")] == [200, 401, 401]
    assert [status(device["key"], now().timestamp() + off) for off in (-301, 302)] == [401, 401]
    assert status(device["key"], to=f"/api/v1/devices/{new_id()}/scans") == 401
    added = client.post(f"{url}/keys", headers=district_office).json
    assert (added["slot"], status(added["key"]), status(device["key"])) == ("b", 200, 200)
    assert client.post(f"{url}/keys", headers=district_office).json["code"] == "device-keys-live"
    assert client.delete(f"{url}/keys/a", headers=district_office).status_code == 204
    assert [status(added["key"]), status(device["key"])] == [200, 401]
    assert client.get(url, headers=district_office).json["live_keys"] == ["b"]
    assert client.post(f"{url}/scans", **signed(added["key"], {"scans": [{}]})).status_code == 400


def test_the_district_keeps_devices_of_its_scope(
    client: FlaskClient,
    session: Session,
    district_office: Headers,
    sign_in_staff: SignIn,
    make_staff: Any,
    headers_of: Callable[..., Headers],
) -> None:
    device = registered(client, district_office)
    url = f"/api/v1/devices/{device['id']}"
    found = client.get(url, headers=district_office)
    tag = {"If-Match": found.headers["ETag"]}
    supervisor, teacher = make_staff(Role.SUPERVISOR, division=COMMUNITY), make_staff(Role.STREET, division="120104001")

    def changed(entry: dict[str, Any], headers: Headers) -> tuple[int, Any]:
        answer = client.patch(url, json=entry, headers={**district_office, **headers})
        return answer.status_code, answer.json.get("code", answer.json.get("version"))

    assert (found.status_code, found.json["live_keys"], found.json["version"]) == (200, ["a"], 1)
    assert changed({"name": "二号"}, {})[0] == 428
    assert changed({"operator_id": str(teacher)}, tag) == (422, "operator-unsuitable")
    assert changed({"division": "120104999999"}, tag) == (422, "device-place-unknown")
    assert changed({"division": "120101001001"}, tag)[0] == 404
    assert changed({"operator_id": str(supervisor), "enabled": False}, tag) == (200, 2)
    assert changed({"name": "三号"}, tag)[0] == 412
    assert client.get("/api/v1/devices/carried", headers=headers_of(supervisor, is_resident=False)).json["items"] == []
    tag = {"If-Match": client.get(url, headers=district_office).headers["ETag"]}
    assert changed({"enabled": True}, tag) == (200, 3)
    carried = client.get("/api/v1/devices/carried", headers=headers_of(supervisor, is_resident=False)).json["items"]
    assert [each["id"] for each in carried] == [device["id"]]
    tag = {"If-Match": client.get(url, headers=district_office).headers["ETag"]}
    assert changed({"enabled": False}, tag) == (200, 4)
    assert len(client.get("/api/v1/devices", headers=district_office).json["items"]) == 1
    session.add(Division(code="120101", level=DivisionLevel.DISTRICT, name="别区", edition_on=DAY, valid_from=DAY))
    session.commit()
    elsewhere = sign_in_staff(Role.OPERATOR, division="120101")
    assert client.get(url, headers=elsewhere).status_code == 404
    assert client.get("/api/v1/devices", headers=elsewhere).json["items"] == []
    assert client.get(url, headers=sign_in_staff(Role.STREET, division="120104001")).status_code == 403
    disabled = client.post(f"{url}/scans", **signed(device["key"], {"scans": []}))
    assert disabled.status_code == 401


# Which resident a member of staff is


def test_staff_link_their_own_account_once_or_declare_that_there_is_none(
    client: FlaskClient, session: Session, key: bytes, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    alice = sign_in_resident("alice")
    supervisor = sign_in_staff(Role.SUPERVISOR, division=COMMUNITY)
    district = sign_in_staff(Role.DISTRICT, division="120104")
    url = "/api/v1/staff/me/resident"

    def made(entry: dict[str, Any], who: Headers = supervisor) -> tuple[int, Any]:
        answer = client.put(url, json=entry, headers=who)
        return answer.status_code, answer.json.get("code", answer.json.get("linked"))

    def code(purpose: str) -> str:
        return str(client.get(f"/api/v1/me/resident-code?purpose={purpose}", headers=alice).json["text"])

    assert client.get(url, headers=supervisor).json == {"linked": False, "statement": None, "made_at": None}
    assert made({})[0] == made({"code": code("staff-link"), "statement": "没有"})[0] == 422
    assert made({"code": code("sorting")}) == (422, "resident-code-refused")
    assert made({"statement": "本人没有居民账号"}) == (200, False)
    assert made({"code": code("staff-link")}) == (200, True)
    assert made({"statement": "没有"}) == (409, "staff-linked-already")
    assert made({"statement": "没有"}, alice)[0] == client.get(url, headers=alice).status_code == 404
    acts = session.execute(sa.select(AuditEntry.act, AuditEntry.detail).order_by(AuditEntry.id)).all()
    assert [act for act, _ in acts] == ["staff.link-resident"] * 2
    known = str(sign_in_resident.known["alice"])  # type: ignore[attr-defined]
    assert known not in str(acts), "the trail says that, and not to whom"

    [staff_id] = session.scalars(sa.select(StaffLink.staff_id))
    undo = f"/api/v1/staff/{staff_id}/resident-undoing"
    assert client.post(undo, json={"reason": "绑定有误"}, headers=supervisor).status_code == 403
    assert client.post(undo, json={"reason": "绑定有误"}, headers=district).status_code == 204
    assert client.post(undo, json={"reason": "绑定有误"}, headers=district).status_code == 404
    with pytest.raises(staff_links.StaffUnlinked):
        staff_links.require_may_serve(session, staff_id, UUID(known), now=now())


# What the district allows


def test_limits_are_loaded_once_and_never_changed(session: Session, tmp_path: Path) -> None:
    file = tmp_path / code_limits.FILE
    head = 'source = "s"\nconfidence = "R"\nhousehold_wait_days = 30\ncard_uses_per_staff_max = 1\n'
    rest = "card_uses_per_household_max = 1\noffline_hours_max = 24\n"

    def entries(*sets: tuple[str, int]) -> list[code_limits.LimitsEntry]:
        texts = [f"[[limits]]\nvalid_from = {day}\nhousehold_members_max = {most}\n{head}{rest}" for day, most in sets]
        file.write_text("".join(texts), "utf-8")
        return code_limits.read_limits(tmp_path)

    with pytest.raises(code_limits.CodeLimitsMissing):
        code_limits.limits_on(session, datetime(2020, 1, 1, tzinfo=UTC))
    both = entries(("2021-01-01", 4), ("2021-03-01", 5))
    assert [code_limits.load(session, both), code_limits.load(session, both)] == [2, 0]
    february, march = datetime(2021, 2, 28, 15, 59, tzinfo=UTC), datetime(2021, 2, 28, 16, 0, tzinfo=UTC)
    assert [code_limits.limits_on(session, at).household_members_max for at in (february, march)] == [4, 5]
    with pytest.raises(code_limits.CodeDataError, match="other figures"):
        code_limits.load(session, entries(("2021-01-01", 6)))
    for wrong in ((("2021-01-01", 4), ("2021-01-01", 5)), (("2021-01-01", 99),)):
        with pytest.raises(code_limits.CodeDataError):
            entries(*wrong)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (HouseholdMember, {"joined_at": NOON, "leaves_at": NOON}),
        (PrintedCard, {"code_hash": b"short"}),
        (Scanner, {"site_code": "不行"}),
        (StaffLink, {"statement": None, "resident_id": None}),
        (ResidentCodeUse, {"slot": -1}),
        (Resident, {"born_in": 1}),
    ],
)
def test_the_database_keeps_what_the_rules_say(session: Session, model: Any, values: dict[str, Any]) -> None:
    load_limits(session)
    supervisor, person = add_supervisor(session), add_resident(session)
    households.found(session, resident(person), now=NOON)
    cards.issue(
        session,
        type(supervisor)(id=supervisor.id, role=Role.COMMUNITY_STAFF, session_id=new_id(), division=COMMUNITY),
        person,
        for_household=False,
        replaces_because=None,
        data_key=DATA_KEY,
        now=NOON,
    )
    session.add(Scanner(id=new_id(), name="枪", division=COMMUNITY, created_at=NOON))
    session.add(ResidentCodeUse(resident_id=person, purpose=SORTING, slot=1, used_at=NOON))
    session.flush()
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(sa.update(model).values(**values))

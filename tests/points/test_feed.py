"""The signed feed over HTTP: who may speak, what each line becomes, and that nothing is paid or kept in excess."""

import gzip
import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from points_builders import (
    NOON,
    PARTNER_KEY,
    Feed,
    at,
    balances,
    counted,
    digest,
    drop_line,
    outcomes,
    ride_line,
    transferred,
    weighing_line,
    wrong,
)
from psycopg.errors import CheckViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.earning import pricing
from points.partners import feed as feed_module
from points.partners import registry
from points.partners.models import Binding, DeadLetter, Partner, PartnerDay
from points.partners.signature import sign
from server.access import Role
from server.settings import Settings

MIB = 1024 * 1024
BODY = ride_line("r-1") + b"\n"
KEY_B = "test-partner-key-0123456789abcdef-b"
STAMP = str(int(NOON.timestamp()))


def stamped(seconds: int) -> dict[str, str]:
    """A timestamp that many seconds from ours, signed well."""
    return written(str(int(NOON.timestamp()) + seconds))


def written(timestamp: str, body: bytes = BODY, key: str = PARTNER_KEY) -> dict[str, str]:
    return {"X-Tanpuhui-Timestamp": timestamp, "X-Tanpuhui-Signature": sign(key.encode(), timestamp, body)}


def signature(value: str) -> dict[str, str]:
    return {"X-Tanpuhui-Signature": value}


GOOD = sign(PARTNER_KEY.encode(), STAMP, BODY)
REFUSED = (401, "bad-signature")
TAKEN = (200, None)

SIGNATURES: list[tuple[str, dict[str, Any], tuple[int, str | None]]] = [
    # what was signed, and with which key
    ("as it should be", {}, TAKEN),
    ("a wrong key", {"headers": written(STAMP, key="x" * 35)}, REFUSED),
    ("an empty key", {"headers": written(STAMP, key="")}, REFUSED),
    ("the first of two keys", {"both": True}, TAKEN),
    ("the second of two keys", {"both": True, "headers": written(STAMP, key=KEY_B)}, TAKEN),
    ("a second key that was never added", {"headers": written(STAMP, key=KEY_B)}, REFUSED),
    ("the key that was ended", {"both": True, "end": "a"}, REFUSED),
    ("the key that stayed", {"both": True, "end": "a", "headers": written(STAMP, key=KEY_B)}, TAKEN),
    ("no live key at all", {"end": "a"}, REFUSED),
    ("no live key at all, signed with an empty one", {"end": "a", "headers": written(STAMP, key="")}, REFUSED),
    ("another partner's key", {"other": True, "headers": written(STAMP, key=KEY_B)}, REFUSED),
    ("the key, at another partner's address", {"other": True, "code": "other"}, REFUSED),
    ("a disabled partner", {"disabled": True}, REFUSED),
    ("an unknown partner", {"code": "nobody"}, REFUSED),
    ("a partner's code in capitals", {"code": "BUS-GROUP"}, REFUSED),
    ("a code of 500 letters", {"code": "b" * 500}, REFUSED),
    ("a key sealed under another data key", {"unreadable": True}, REFUSED),
    # when
    ("299 s ago", {"headers": stamped(-299)}, TAKEN),
    ("300 s ago", {"headers": stamped(-300)}, TAKEN),
    ("301 s ago", {"headers": stamped(-301)}, REFUSED),
    ("299 s ahead", {"headers": stamped(299)}, TAKEN),
    ("300 s ahead", {"headers": stamped(300)}, TAKEN),
    ("301 s ahead", {"headers": stamped(301)}, REFUSED),
    ("a day ago", {"headers": stamped(-86400)}, REFUSED),
    ("a day ahead", {"headers": stamped(86400)}, REFUSED),
    ("milliseconds", {"headers": written(STAMP + "000")}, REFUSED),
    ("no number", {"headers": written("yesterday")}, REFUSED),
    ("below zero", {"headers": written("-" + STAMP)}, REFUSED),
    ("a decimal point", {"headers": written(STAMP + ".0")}, REFUSED),
    ("a plus sign", {"headers": written("+" + STAMP)}, REFUSED),
    ("an underscore", {"headers": written(STAMP[:5] + "_" + STAMP[5:])}, REFUSED),
    ("a leading space", {"headers": written(" " + STAMP)}, REFUSED),
    ("a leading zero", {"headers": written("0" + STAMP)}, REFUSED),
    ("full-width digits", {"headers": written("٣" * 10)}, REFUSED),
    ("an empty timestamp", {"headers": written("")}, REFUSED),
    ("another timestamp than the signed one", {"headers": {"X-Tanpuhui-Timestamp": str(int(STAMP) + 1)}}, REFUSED),
    ("no timestamp", {"without": ["X-Tanpuhui-Timestamp"]}, REFUSED),
    # how it is written
    ("no signature", {"without": ["X-Tanpuhui-Signature"]}, REFUSED),
    ("neither", {"without": ["X-Tanpuhui-Signature", "X-Tanpuhui-Timestamp"]}, REFUSED),
    ("an empty signature", {"headers": signature("")}, REFUSED),
    ("upper-case hexadecimal", {"headers": signature(GOOD.upper())}, REFUSED),
    ("one digit short", {"headers": signature(GOOD[:-1])}, REFUSED),
    ("one digit more", {"headers": signature(GOOD + "0")}, REFUSED),
    ("a prefix", {"headers": signature("sha256=" + GOOD)}, REFUSED),
    ("one digit changed", {"headers": signature(("0" if GOOD[0] != "0" else "1") + GOOD[1:])}, REFUSED),
    ("no hexadecimal", {"headers": signature("z" * 64)}, REFUSED),
    ("letters beyond ASCII", {"headers": signature("é" * 64)}, REFUSED),
    # over which bytes
    ("one byte changed", {"body": BODY.replace(b"5000", b"5001")}, REFUSED),
    ("a newline added", {"body": BODY + b"\n"}, REFUSED),
    ("the last newline gone", {"body": BODY[:-1]}, REFUSED),
    ("an empty body in place of it", {"body": b""}, REFUSED),
    (
        "the body packed, signed as it was before",
        {"body": gzip.compress(BODY), "headers": {"Content-Encoding": "gzip"}},
        REFUSED,
    ),
    ("the body alone signed", {"headers": signature(sign(PARTNER_KEY.encode(), "", BODY))}, REFUSED),
    ("an empty body, signed", {"body": b"", "headers": written(STAMP, b"")}, TAKEN),
    # the rest of the request
    ("no batch id", {"without": ["X-Tanpuhui-Batch"]}, (400, "bad-batch-id")),
    ("an empty batch id", {"headers": {"X-Tanpuhui-Batch": ""}}, (400, "bad-batch-id")),
    ("a batch id of 64", {"headers": {"X-Tanpuhui-Batch": "b" * 64}}, TAKEN),
    ("a batch id of 65", {"headers": {"X-Tanpuhui-Batch": "b" * 65}}, (400, "bad-batch-id")),
    ("a space in the batch id", {"headers": {"X-Tanpuhui-Batch": "a b"}}, (400, "bad-batch-id")),
    ("a tab in the batch id", {"headers": {"X-Tanpuhui-Batch": "a\tb"}}, (400, "bad-batch-id")),
    ("a batch id beyond ASCII", {"headers": {"X-Tanpuhui-Batch": "bätch"}}, (400, "bad-batch-id")),
    ("JSON", {"headers": {"Content-Type": "application/json"}}, (415, "unsupported-media-type")),
    ("a form", {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}, (415, "unsupported-media-type")),
    ("plain text", {"headers": {"Content-Type": "text/plain"}}, (415, "unsupported-media-type")),
    ("no content type", {"without": ["Content-Type"]}, (415, "unsupported-media-type")),
    ("a charset", {"headers": {"Content-Type": "application/x-ndjson; charset=utf-8"}}, TAKEN),
    ("the older content type", {"headers": {"Content-Type": "application/ndjson"}}, TAKEN),
    (
        "a wrong type, unsigned: the signature comes first",
        {"headers": {**signature(""), "Content-Type": "a/b"}},
        REFUSED,
    ),
    (
        "a wrong batch id, unsigned: the signature comes first",
        {"headers": {**signature(""), "X-Tanpuhui-Batch": ""}},
        REFUSED,
    ),
]


@pytest.mark.parametrize(("how", "expected"), [pytest.param(*row[1:], id=row[0]) for row in SIGNATURES])
def test_only_a_batch_signed_well_and_in_time_is_taken_in(
    feed: Feed, session: Session, member: Callable[..., UUID], how: dict[str, Any], expected: tuple[int, str | None]
) -> None:
    person = member()
    if how.get("both"):
        assert registry.add_key(session, feed.code, KEY_B, data_key=feed.data_key) == "b"
    if how.get("end"):
        registry.end_key(session, feed.code, how["end"])
    if how.get("other"):
        Feed(feed.client, session, feed.data_key, feed.now, code="other", key=KEY_B).create()
    if how.get("unreadable"):
        registry.end_key(session, feed.code, "a")
        registry.add_key(session, feed.code, PARTNER_KEY, data_key=b"x" * 32)
    if how.get("disabled"):
        session.execute(sa.update(Partner).values(enabled=False))
    session.commit()
    headers = {**feed.headers(BODY), **how.get("headers", {})}
    for name in how.get("without", []):
        del headers[name]
    feed.code = how.get("code", feed.code)
    answer = feed.send(how.get("body", BODY), headers)
    status, code = expected
    assert answer.status_code == status, answer.text
    if code is not None:
        assert answer.content_type == "application/problem+json"
        assert answer.json is not None
        assert answer.json["code"] == code
        assert transferred(session, person) == 0
        assert digest(session, "batch_id", table="feed_batch") == []
    else:
        assert transferred(session, person) == (8 if how.get("body", BODY) else 0)


def test_the_signature_table_has_its_forty_cases_and_an_unknown_partner_gets_the_very_answer_of_a_bad_signature(
    feed: Feed, session: Session
) -> None:
    assert len(SIGNATURES) >= 40
    bad = feed.send(BODY, {**feed.headers(BODY), **signature("0" * 64)}).json
    feed.code = "nobody"
    unknown = feed.send(BODY, feed.headers(BODY)).json
    session.execute(sa.update(Partner).values(enabled=False))
    session.commit()
    feed.code = "bus-group"
    disabled = feed.send(BODY, feed.headers(BODY)).json
    for answer in (bad, unknown, disabled):
        assert answer is not None
        del answer["request_id"]
    assert bad == unknown == disabled


def test_a_body_over_five_mebibytes_or_five_thousand_lines_is_refused_whole(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    just = (b" " * 4095 + b"\n") * (5 * MIB // 4096)
    assert len(just) == 5 * MIB
    assert feed.send(just, feed.headers(just)).status_code == 200
    over = just + b"\n"
    answer = feed.send(over, feed.headers(over))
    assert (answer.status_code, answer.json["code"]) == (413, "payload-too-large")  # type: ignore[index]
    lines = b"".join(drop_line(f"d-{number}") + b"\n" for number in range(5001))
    answer = feed.send(lines, feed.headers(lines))
    assert (answer.status_code, answer.json["code"]) == (413, "too-many-lines")  # type: ignore[index]
    assert digest(session, "count(*)", table="activity") == [(0,)]


def test_five_thousand_lines_have_five_thousand_outcomes_in_their_order(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    answer = feed.push(*(drop_line(f"d-{number}") for number in range(5000)))
    assert [each["line"] for each in answer["outcomes"]] == list(range(1, 5001))
    assert answer["counts"] == {"awarded": 5000}
    assert answer["reasons"] == {"cap-reached": 4996}
    assert answer["points"] == 20
    assert wrong(session) == {}


# The batch id


def test_the_same_batch_again_gets_the_same_bytes_and_does_nothing(
    feed: Feed, session: Session, member: Callable[..., UUID], clock: Any
) -> None:
    person = member()
    body = BODY + b"{broken\n" + drop_line("d-1") + b"\n"
    first = feed.send(body, feed.headers(body, batch="b-1"))
    session.execute(sa.update(Binding).values(member_id="somebody-else"))
    session.commit()
    clock.shift(3600)
    second = feed.send(body, feed.headers(body, batch="b-1"))
    assert (second.status_code, second.data) == (200, first.data)
    assert transferred(session, person) == 13
    assert digest(session, "count(*)", table="dead_letter") == [(1,)]
    assert wrong(session) == {}


def test_a_batch_id_with_another_body_is_refused(feed: Feed, session: Session, member: Callable[..., UUID]) -> None:
    person = member()
    feed.push(ride_line("r-1"), batch="b-1")
    body = ride_line("r-2", start=at("18 07:00")) + b"\n"
    answer = feed.send(body, feed.headers(body, batch="b-1"))
    assert (answer.status_code, answer.json["code"]) == (422, "batch-reused")  # type: ignore[index]
    assert transferred(session, person) == 8


def test_two_partners_may_use_the_same_batch_id_and_event_id(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    other = Feed(feed.client, session, feed.data_key, feed.now, code="other", key=KEY_B)
    other.create()
    session.add(Binding(partner_code="other", member_id="m-1", resident_id=person, bound_at=NOON))
    session.commit()
    assert outcomes(feed.push(drop_line("d-1"), batch="b-1")) == ["awarded"]
    assert outcomes(other.push(drop_line("d-1"), batch="b-1")) == ["awarded"]
    assert transferred(session, person) == 10


# The lines


def test_a_ride_a_drop_and_a_weighing_are_awarded_with_all_that_was_said(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    answer = feed.push(ride_line("r-1"), drop_line("d-1", weight_g=700), weighing_line("w-1"))
    assert answer["counts"] == {"awarded": 3}
    assert [each["points"] for each in answer["outcomes"]] == [8, 5, 40]
    assert balances(session, person)[0].popitem()[1] == 53
    columns = ("external_id", "behaviour", "mode", "grade", "source", "distance_m", "weight_g", "site", "site_kind")
    assert digest(session, *columns, "timing", "channel", table="activity") == [
        ("d-1", "sorting", "kitchen", "partner-signed", "bus-group", None, 700, "bin-7", None, None, None),
        ("r-1", "bus", "bus", "partner-signed", "bus-group", 5000, None, None, None, None, None),
        (
            *("w-1", "recycling", "aluminium_can", "partner-signed", "bus-group", None, 1000, "station-3"),
            *("fixed", "scheduled", "offline"),
        ),
    ]


DEEP = b"[" * 2000 + b"]" * 2000
RIDE = ride_line("bad")

BAD_LINES: list[tuple[str, bytes, str]] = [
    ("not JSON", b"hello", "bad-line"),
    ("broken off", RIDE[:-20], "bad-line"),
    ("two objects", RIDE + RIDE, "bad-line"),
    ("empty", b"", "bad-line"),
    ("blank", b"   ", "bad-line"),
    ("a list", b"[" + RIDE + b"]", "bad-line"),
    ("a number", b"7", "bad-line"),
    ("null", b"null", "bad-line"),
    ("an empty object", b"{}", "bad-line"),
    ("an unknown field", ride_line("bad", colour="red"), "bad-line"),
    ("an unknown kind", ride_line("bad", kind="flight"), "bad-line"),
    ("no kind", ride_line("bad", kind=None), "bad-line"),
    ("a kind that is no text", ride_line("bad", kind=3), "bad-line"),
    ("no id", ride_line("bad", id=None), "bad-line"),
    ("an empty id", ride_line(""), "bad-line"),
    ("a long id", ride_line("x" * 65), "bad-line"),
    ("a space in the id", ride_line("a b"), "bad-line"),
    ("a newline after the id", ride_line("bad\n"), "bad-line"),
    ("a NUL in the id", ride_line("a\0b"), "bad-line"),
    ("a Chinese id", ride_line("行程"), "bad-line"),
    ("half a surrogate pair", RIDE.replace(b'"bad"', b'"\\ud800"'), "bad-line"),
    ("no distance", ride_line("bad", distance_m=None), "bad-line"),
    ("a distance as text", ride_line("bad", distance_m="5000"), "bad-line"),
    ("a distance with a point", ride_line("bad", distance_m=5000.0), "bad-line"),
    ("no distance at all", ride_line("bad", distance_m=0), "bad-line"),
    ("a distance below zero", ride_line("bad", distance_m=-5000), "bad-line"),
    ("a huge distance", ride_line("bad", distance_m=10**30), "bad-line"),
    ("a distance of 401 digits", ride_line("bad", distance_m=10**400), "bad-line"),
    ("1e400 metres", RIDE.replace(b"5000", b"1e400"), "bad-line"),
    ("NaN metres", RIDE.replace(b"5000", b"NaN"), "bad-line"),
    ("infinitely many metres", RIDE.replace(b"5000", b"Infinity"), "bad-line"),
    ("true metres", RIDE.replace(b"5000", b"true"), "bad-line"),
    ("a mode that is none", ride_line("bad", mode="car"), "bad-line"),
    ("no time zone", ride_line("bad", started_at="2026-11-18T08:00:00"), "bad-line"),
    ("a day for an instant", ride_line("bad", started_at="2026-11-18"), "bad-line"),
    ("seconds for an instant", ride_line("bad", started_at=1795000000), "bad-line"),
    ("a thirteenth month", ride_line("bad", started_at="2026-13-18T08:00:00Z"), "bad-line"),
    ("the year 1 east of Greenwich", ride_line("bad", started_at="0001-01-01T00:00:00+14:00"), "bad-line"),
    ("the end of the year 9999", ride_line("bad", ended_at="9999-12-31T23:59:59-10:00"), "bad-line"),
    ("a drop in the year 9999", drop_line("bad", at="9999-12-31T23:59:59Z"), "bad-line"),
    ("a category that is none", drop_line("bad", category="plastic"), "bad-line"),
    ("a material in capitals", weighing_line("bad", material="PET"), "bad-line"),
    ("a newline after the material", weighing_line("bad", material="pet\n"), "bad-line"),
    ("a weight of nothing", weighing_line("bad", weight_g=0), "bad-line"),
    ("an attribute that is none", weighing_line("bad", site_kind="flying"), "bad-line"),
    ("bytes that are no UTF-8", b'{"kind":"ride","id":"\xff\xfe"}', "bad-line"),
    ("a NUL byte", b"\0", "bad-line"),
    ("a byte order mark", b"\xef\xbb\xbf" + RIDE, "bad-line"),
    ("deep nesting before the kind", b'{"x":' + DEEP + b',"kind":"ride"}', "bad-line"),
    ("deep nesting in a field", b'{"kind":"ride","id":' + DEEP + b"}", "bad-line"),
    ("deep nesting beside a member", b'{"member":"m-1","x":' + DEEP[:1800] + b"}", "bad-line"),
    ("nothing but brackets", b"[" * 4096, "bad-line"),
    ("too long by a byte", RIDE + b" " * (4097 - len(RIDE)), "line-too-long"),
    ("much too long", b"x" * 100_000, "line-too-long"),
]


@pytest.mark.parametrize(("raw", "reason"), [pytest.param(*row[1:], id=row[0]) for row in BAD_LINES])
def test_a_bad_line_is_reported_and_kept_and_spoils_no_other(
    feed: Feed, session: Session, member: Callable[..., UUID], raw: bytes, reason: str
) -> None:
    person = member()
    answer = feed.push(drop_line("before"), raw, drop_line("after"))
    assert outcomes(answer) == ["awarded", f"refused {reason}", "awarded"]
    assert transferred(session, person) == 10
    letter = session.scalars(sa.select(DeadLetter)).one()
    assert (letter.line, letter.reason, letter.line_number) == (raw[:4096], reason, 2)
    assert (letter.partner_code, letter.batch_id, letter.redriven_at) == (feed.code, answer["batch"], None)
    assert wrong(session) == {}


def test_all_the_bad_lines_at_once_spoil_nothing_either(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    lines = [each for number, row in enumerate(BAD_LINES) for each in (row[1], drop_line(f"d-{number}"))]
    answer = feed.push(*lines)
    assert outcomes(answer)[0::2] == [f"refused {row[2]}" for row in BAD_LINES]
    assert {each["outcome"] for each in answer["outcomes"][1::2]} == {"awarded"}


def test_five_thousand_bad_lines_with_the_longest_of_messages_still_have_an_answer(
    feed: Feed, member: Callable[..., UUID]
) -> None:
    member()
    worst = ride_line("r", **{'"\\\n' * 100: 1})
    answer = feed.push(*[worst] * 5000)
    assert answer["counts"] == {"refused": 5000}
    assert {len(each["detail"]) for each in answer["outcomes"]} <= set(range(1, 121))


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (RIDE, "awarded"),
        (RIDE + b"\r", "awarded"),
        (b"  " + RIDE + b"  ", "awarded"),
        (RIDE + b" " * (4096 - len(RIDE)), "awarded"),
        (RIDE.replace(b'"m-1"', b'"m\\u002d1"'), "awarded"),
        (ride_line("bad", started_at="2026-11-18T01:00:00Z", ended_at="2026-11-18T09:20:00+08:00"), "awarded"),
        (ride_line("bad", distance_m=100), "refused below-minimum"),
        (ride_line("bad", distance_m=1_000_000), "refused above-maximum"),
        (ride_line("bad", distance_m=60_000), "refused too-fast"),
        (ride_line("bad", mode="walk"), "refused no-rule"),
        (weighing_line("bad", material="unobtainium"), "refused no-rule"),
        (ride_line("bad", start=NOON - timedelta(days=8)), "refused too-late"),
        (ride_line("bad", start=NOON + timedelta(days=1)), "refused in-the-future"),
        (ride_line("bad", ended_at=(NOON - timedelta(hours=4)).isoformat()), "refused bad-time-span"),
        (ride_line("bad", started_at="2026-11-16T08:00:00Z"), "refused bad-time-span"),
        (ride_line("bad", mode="walk", started_at="2026-11-16T08:00:00Z"), "refused no-rule"),
        (drop_line("bad", at="2000-01-01T00:00:00Z"), "refused no-rule"),
        (drop_line("bad", at="2100-12-31T23:59:59Z"), "refused in-the-future"),
    ],
)
def test_a_line_that_can_be_read_is_awarded_or_refused_by_its_rule_and_needs_no_letter(
    feed: Feed, session: Session, member: Callable[..., UUID], raw: bytes, outcome: str
) -> None:
    member()
    assert outcomes(feed.push(raw, drop_line("after"))) == [outcome, "awarded"]
    assert digest(session, "count(*)", table="dead_letter") == [(0,)]
    assert digest(session, "outcome", "reason", table="activity WHERE external_id = 'bad'") == [
        (*outcome.split(), None)[:2]
    ]
    assert wrong(session) == {}


def test_an_empty_body_has_no_lines(feed: Feed) -> None:
    answer = feed.push()
    assert (answer["lines"], answer["outcomes"]) == (0, [])


def test_a_partner_may_send_only_the_kinds_that_were_agreed(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    session.execute(sa.update(Partner).values(kinds=["ride"]))
    session.commit()
    answer = feed.push(ride_line("r-1"), drop_line("d-1"), weighing_line("w-1"))
    assert outcomes(answer) == ["awarded", "refused kind-not-allowed", "refused kind-not-allowed"]
    assert transferred(session, person) == 8
    assert digest(session, "reason", table="dead_letter") == [("kind-not-allowed",)] * 2


# People who never bound


def everything_stored(session: Session) -> str:
    """All that any table of the feed holds, as one text."""
    found = []
    for table in ("dead_letter", "activity", "feed_batch", "partner_day", "binding", "transfer", "audit_entry"):
        for (row,) in session.execute(sa.text(f"SELECT to_jsonb({table}) FROM {table}")):
            values = [
                bytes.fromhex(value[2:]).decode("utf-8", "replace")
                if isinstance(value, str) and value.startswith("\\x")
                else json.dumps(value)
                for value in row.values()
            ]
            found += values
    return "\n".join(found)


STRANGER = "stranger-qxzv"


@pytest.mark.parametrize(
    "raw",
    [
        ride_line("r-9", STRANGER),
        drop_line("d-9", STRANGER),
        weighing_line("w-9", STRANGER),
        ride_line("r-9", STRANGER, colour="red"),
        ride_line("r-9", STRANGER, kind="flight"),
        ride_line("r-9", STRANGER, distance_m="far"),
        ride_line("r-9", STRANGER, started_at="2026-11-18T08:00:00"),
        ride_line("r-9", STRANGER, mode="car"),
        ride_line("r-9", STRANGER)[:-20],
        ride_line("r-9", STRANGER)[: ride_line("r-9", STRANGER).index(b"qxzv") + 4],
        b'{"member" : "stranger-qxzv", "x":' + DEEP[:1800] + b"}",
        b'{"member":"m-1",' + ride_line("r-9", STRANGER)[1:],
        b'{"member":"stranger-qxzv",' + ride_line("r-9", "m-1", colour="red")[1:],
        ride_line("r-9", STRANGER) + b" " * 5000,
        b'{"member":"stranger-qxzv","member":5}',
    ],
)
@pytest.mark.parametrize("kinds", [["ride", "bin-drop", "recycling"], ["bin-drop"]])
def test_nothing_is_stored_of_a_person_who_never_bound_however_the_line_is_broken(
    feed: Feed, session: Session, member: Callable[..., UUID], raw: bytes, kinds: list[str]
) -> None:
    member()
    session.execute(sa.update(Partner).values(kinds=kinds))
    session.commit()
    answer = feed.push(raw, drop_line("d-1"))
    assert [each["outcome"] for each in answer["outcomes"]] == ["refused", "awarded"]
    stored = everything_stored(session)
    assert "m-1" in stored
    assert "qxzv" not in stored
    assert "r-9" not in stored


def test_a_well_formed_line_of_a_stranger_says_not_bound(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member("m-2")
    answer = feed.push(ride_line("r-1", STRANGER), ride_line("r-1", "m-2"), ride_line("r-1", "M-2"))
    assert outcomes(answer) == ["refused not-bound", "awarded", "refused not-bound"]
    assert answer["reasons"] == {"not-bound": 2}


def test_a_binding_to_another_partner_is_none_to_this_one(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    Feed(feed.client, session, feed.data_key, feed.now, code="other", key=KEY_B).create()
    member("m-1", "other")
    assert outcomes(feed.push(ride_line("r-1"))) == ["refused not-bound"]


# Binding over HTTP


def test_a_resident_binds_with_consent_and_unbinds_and_the_next_event_is_refused(
    feed: Feed, session: Session, client: FlaskClient, sign_in_resident: Callable[..., dict[str, str]]
) -> None:
    headers = sign_in_resident("alice")
    address = f"/api/v1/me/partners/{feed.code}"
    refused = client.put(address, json={"member_id": "m-1", "consent": False}, headers=headers)
    assert (refused.status_code, refused.json["code"]) == (422, "invalid-request")  # type: ignore[index]
    assert client.delete(address, headers=headers).status_code == 404
    assert client.put(address, json={"member_id": "m-1", "consent": True}, headers=headers).status_code == 204
    standing = client.get("/api/v1/me/partners", headers=headers).json["items"][0]  # type: ignore[index]
    assert (standing["code"], standing["member_id"]) == (feed.code, "m-1")
    assert outcomes(feed.push(drop_line("d-1"))) == ["awarded"]
    assert client.delete(address, headers=headers).status_code == 204
    assert outcomes(feed.push(drop_line("d-2"))) == ["refused not-bound"]
    assert client.put(address, json={"member_id": "m-9", "consent": True}, headers=headers).status_code == 204
    assert outcomes(feed.push(drop_line("d-3"), drop_line("d-4", "m-9"))) == ["refused not-bound", "awarded"]
    consents = digest(session, "subject", "withdrawn_at IS NULL", table="consent")
    assert consents == [("bus-group", False), ("bus-group", True)]


def test_a_member_id_binds_one_resident_and_a_resident_one_member_id(
    feed: Feed, client: FlaskClient, sign_in_resident: Callable[..., dict[str, str]]
) -> None:
    def bind(user: str, member_id: Any, partner: str = feed.code) -> tuple[int, str | None]:
        answer = client.put(
            f"/api/v1/me/partners/{partner}",
            json={"member_id": member_id, "consent": True},
            headers=sign_in_resident(user),
        )
        return answer.status_code, None if answer.status_code == 204 else answer.json["code"]  # type: ignore[index]

    assert bind("alice", "m-1") == (204, None)
    assert bind("bob", "m-1") == (409, "member-taken")
    assert bind("alice", "m-2") == (409, "already-bound")
    assert bind("bob", "m-2") == (204, None)
    assert bind("carol", "m-3", "nobody") == (404, "not-found")
    for member_id in ("", " ", "a b", "m-3\n", "m\0", "行", "m" * 65, None, 7):
        assert bind("carol", member_id) == (422, "invalid-request"), member_id


def test_binding_wants_a_home_community_and_an_enabled_partner(
    feed: Feed, session: Session, client: FlaskClient, sign_in_resident: Callable[..., dict[str, str]]
) -> None:
    address, body = f"/api/v1/me/partners/{feed.code}", {"member_id": "m-1", "consent": True}
    answer = client.put(address, json=body, headers=sign_in_resident("alice", None))
    assert (answer.status_code, answer.json["code"]) == (409, "home-community-missing")  # type: ignore[index]
    session.execute(sa.update(Partner).values(enabled=False))
    session.commit()
    assert client.put(address, json=body, headers=sign_in_resident("bob")).status_code == 404
    assert client.get("/api/v1/me/partners", headers=sign_in_resident("bob")).json == {"items": []}


# Partners as the district keeps them


def test_the_district_adds_a_partner_and_changes_its_key_without_a_gap(
    client: FlaskClient,
    session: Session,
    base_settings: Settings,
    sign_in_staff: Callable[..., dict[str, str]],
    clock: Any,
) -> None:
    headers = sign_in_staff(Role.DISTRICT, division="120104")
    body = {"code": "bikes", "name_zh": "单车", "kinds": ["ride"], "day_budget_points": 100}
    made = client.post("/api/v1/partners", json=body, headers=headers)
    assert made.status_code == 201
    first: dict[str, str] = made.json  # type: ignore[assignment]
    again = client.post("/api/v1/partners", json=body, headers=headers)
    assert (again.status_code, again.json["code"]) == (409, "partner-exists")  # type: ignore[index]
    second: dict[str, str] = client.post("/api/v1/partners/bikes/keys", headers=headers).json  # type: ignore[assignment]
    assert (first["slot"], second["slot"]) == ("a", "b")
    third = client.post("/api/v1/partners/bikes/keys", headers=headers)
    assert (third.status_code, third.json["code"]) == (409, "both-keys-live")  # type: ignore[index]

    def signs(key: str) -> bool:
        feed = Feed(client, session, base_settings.data_key, lambda: NOON, code="bikes", key=key)
        feed.batches = iter(range(*((1, 50) if key == first["key"] else (50, 99))))
        return feed.send(b"", feed.headers(b"")).status_code == 200

    assert (signs(first["key"]), signs(second["key"])) == (True, True)
    assert client.delete("/api/v1/partners/bikes/keys/a", headers=headers).status_code == 204
    session.expire_all()
    assert (signs(first["key"]), signs(second["key"])) == (False, True)
    shown = client.get("/api/v1/partners", headers=headers)
    assert shown.json["items"][0]["live_keys"] == ["b"]  # type: ignore[index]
    assert second["key"] not in shown.text
    sealed = session.execute(sa.text("SELECT key_b_sealed FROM partner")).scalar_one()
    assert second["key"].encode() not in sealed
    acts = digest(session, "act", "subject", table="audit_entry")
    assert acts == [(f"partner.{act}", "partner:bikes") for act in ("create", "key.add", "key.end")]


@pytest.mark.parametrize(
    "change",
    [
        {"code": "Bikes"},
        {"code": "b"},
        {"code": "bikes\n"},
        {"code": "b" * 41},
        {"kinds": []},
        {"kinds": ["flight"]},
        {"day_budget_points": -1},
        {"day_budget_points": "5"},
        {"name_zh": ""},
        {"colour": 1},
    ],
)
def test_a_bad_partner_is_refused(
    client: FlaskClient, sign_in_staff: Callable[..., dict[str, str]], change: dict[str, Any]
) -> None:
    body = {"code": "bikes", "name_zh": "单车", "kinds": ["ride"], "day_budget_points": 100, **change}
    answer = client.post("/api/v1/partners", json=body, headers=sign_in_staff(Role.DISTRICT, division="120104"))
    assert (answer.status_code, answer.json["code"]) == (422, "invalid-request")  # type: ignore[index]


# The budget


def budget(session: Session, points: int) -> None:
    session.execute(sa.update(Partner).values(day_budget_points=points))
    session.commit()


def taken(session: Session) -> list[tuple[Any, ...]]:
    return digest(session, "day::text", "taken_points", table="partner_day")


def test_the_days_budget_stops_exactly_and_what_comes_later_waits_as_dead_letters(
    feed: Feed, session: Session, member: Callable[..., UUID], app: Flask, clock: Any
) -> None:
    people = [member(f"m-{number}") for number in range(5)]
    budget(session, 17)
    first = feed.push(*(drop_line(f"d-{number}", f"m-{number}") for number in range(2)))
    assert outcomes(first) == ["awarded"] * 2
    second = feed.push(*(drop_line(f"e-{number}", f"m-{number}") for number in range(3)), b"{broken")
    exhausted = "refused partner-budget-exhausted"
    assert outcomes(second) == ["awarded", exhausted, exhausted, "refused bad-line"]
    assert outcomes(feed.push(drop_line("f-1", "m-4"))) == [exhausted]
    assert taken(session) == [("2026-11-18", 15)]
    assert sum(transferred(session, person) for person in people) == 15
    assert counted(list(session.scalars(sa.select(DeadLetter.reason)))) == {
        "partner-budget-exhausted": 3,
        "bad-line": 1,
    }
    assert wrong(session) == {}

    runner = app.test_cli_runner()
    session.execute(sa.delete(DeadLetter).where(DeadLetter.reason == "bad-line"))
    session.commit()
    refused = runner.invoke(args=["partners", "redrive", "--partner", feed.code])
    assert refused.exit_code == 1
    assert "partner-budget-exhausted" in refused.output
    budget(session, 1000)
    driven = runner.invoke(args=["partners", "redrive", "--partner", feed.code])
    assert driven.exit_code == 0, driven.output
    assert "3  awarded" in driven.output
    assert "3 letters driven" in driven.output
    assert taken(session) == [("2026-11-18", 30)]
    assert sum(transferred(session, person) for person in people) == 30
    assert "0 letters driven" in runner.invoke(args=["partners", "redrive", "--partner", feed.code]).output
    assert wrong(session) == {}


def test_a_budget_that_ends_in_the_middle_of_a_batch_is_used_to_the_last_point(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    budget(session, 10)
    answer = feed.push(drop_line("a"), drop_line("b"), drop_line("c"))
    assert outcomes(answer) == ["awarded", "awarded", "refused partner-budget-exhausted"]
    assert taken(session) == [("2026-11-18", 10)]
    assert outcomes(feed.push(ride_line("slow", distance_m=1))) == ["refused below-minimum"]


@pytest.mark.parametrize("points", [0, 1, 4])
def test_a_budget_too_small_for_one_event_pays_none(
    feed: Feed, session: Session, member: Callable[..., UUID], points: int
) -> None:
    person = member()
    budget(session, points)
    assert outcomes(feed.push(drop_line("a"))) == ["refused partner-budget-exhausted"]
    assert (taken(session), transferred(session, person)) == ([], 0)
    assert digest(session, "count(*)", table="activity") == [(0,)]


def test_the_budget_begins_anew_with_the_day_of_receipt_in_shanghai(
    feed: Feed, session: Session, member: Callable[..., UUID], clock: Any
) -> None:
    member()
    budget(session, 5)
    clock.move_to(at("18 23:59:59"))
    assert outcomes(feed.push(drop_line("a"), drop_line("b"))) == ["awarded", "refused partner-budget-exhausted"]
    clock.move_to(at("19 00:00"))
    assert outcomes(feed.push(drop_line("b"))) == ["awarded"]
    assert taken(session) == [("2026-11-18", 5), ("2026-11-19", 5)]


def test_a_lowered_budget_takes_nothing_back_and_gives_nothing_more(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    feed.push(drop_line("a"), drop_line("b"))
    budget(session, 3)
    assert outcomes(feed.push(drop_line("c"))) == ["refused partner-budget-exhausted"]
    assert transferred(session, person) == 10


@pytest.mark.parametrize(
    ("constraint", "statement"),
    [
        ("partner_day_taken_points_check", "UPDATE partner_day SET taken_points = budget_points + 1"),
        ("partner_day_taken_points_check", "UPDATE partner_day SET taken_points = -1"),
        ("partner_day_budget_points_check", "UPDATE partner SET day_budget_points = -1"),
        ("partner_code_check", "UPDATE partner SET code = 'Bus group'"),
        ("partner_kinds_check", "UPDATE partner SET kinds = ARRAY['flight']"),
        ("partner_kinds_check", "UPDATE partner SET kinds = ARRAY[]::text[]"),
        ("partner_key_length_check", "UPDATE partner SET key_a_sealed = decode(repeat('00', 201), 'hex')"),
        ("binding_member_id_check", "UPDATE binding SET member_id = 'a b'"),
        ("dead_letter_line_length_check", "UPDATE dead_letter SET line = decode(repeat('00', 4097), 'hex')"),
        ("feed_batch_answer_length_check", "UPDATE feed_batch SET answer = decode(repeat('00', 1048577), 'hex')"),
    ],
)
def test_the_database_refuses_what_no_rule_would_write(
    feed: Feed, session: Session, member: Callable[..., UUID], constraint: str, statement: str
) -> None:
    member()
    feed.push(drop_line("a"), b"{broken")
    with pytest.raises(IntegrityError) as refused, session.begin_nested():
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, CheckViolation)
    assert refused.value.orig.diag.constraint_name == constraint


# Driving letters again


def redriven(session: Session, feed: Feed, **values: Any) -> dict[str, int]:
    session.expire_all()
    pricing.forget()
    found = feed_module.redrive(session, registry.get(session, feed.code), limit=100, now=NOON, **values)
    session.commit()
    return dict(found)


def test_a_mended_line_is_awarded_and_driven_no_second_time(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    feed.push(ride_line("r-1", colour="red"), ride_line("r-2", colour="blue", start=at("18 07:00")))
    assert redriven(session, feed) == {"refused": 2}
    letter = session.scalars(sa.select(DeadLetter).order_by(DeadLetter.id)).first()
    assert letter is not None
    assert (letter.redriven_at, letter.redriven_outcome) == (None, "bad-line")
    letter.line = ride_line("r-1")
    session.commit()
    assert redriven(session, feed) == {"awarded": 1, "refused": 1}
    assert letter.redriven_outcome == "awarded"
    assert letter.redriven_at is not None
    assert redriven(session, feed) == {"refused": 1}
    assert transferred(session, person) == 8


def test_a_kind_that_is_agreed_later_is_awarded_when_driven_again(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    session.execute(sa.update(Partner).values(kinds=["ride"]))
    session.commit()
    feed.push(drop_line("d-1"))
    session.execute(sa.update(Partner).values(kinds=["ride", "bin-drop"]))
    assert redriven(session, feed) == {"awarded": 1}
    assert transferred(session, person) == 5


def test_a_letter_that_came_by_another_way_meanwhile_is_done_as_a_duplicate(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    person = member()
    budget(session, 0)
    feed.push(drop_line("d-1"))
    budget(session, 100)
    feed.push(drop_line("d-1"))
    assert redriven(session, feed) == {"duplicate": 1}
    assert redriven(session, feed) == {}
    assert transferred(session, person) == 5


def test_the_letters_of_a_person_who_unbound_are_deleted_and_not_driven(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    budget(session, 0)
    feed.push(drop_line("d-1"))
    session.execute(sa.delete(Binding))
    budget(session, 100)
    assert redriven(session, feed) == {"refused": 1}
    assert digest(session, "count(*)", table="dead_letter") == [(0,)]


def test_the_letters_command_counts_by_reason_and_shows_no_content(
    feed: Feed, member: Callable[..., UUID], app: Flask
) -> None:
    member()
    feed.push(b"{broken", b"{broken too", ride_line("r-1", kind="flight"), b"x" * 5000, batch="b-1")
    shown = app.test_cli_runner().invoke(args=["partners", "letters", "--partner", feed.code])
    assert "3  bad-line" in shown.output
    assert "1  line-too-long" in shown.output
    assert "b-1:4  line-too-long" in shown.output
    assert "broken" not in shown.output
    assert "m-1" not in shown.output
    missing = app.test_cli_runner().invoke(args=["partners", "redrive", "--partner", "nobody"])
    assert missing.exit_code == 1
    assert "not-found" in missing.output


# A whole feed


def a_days_feed(chance: random.Random) -> list[bytes]:
    """Rides, drops and weighings of three members over six days, enough to reach their caps, and none overlapping."""
    lines = []
    for member_id in ("m-1", "m-2", "m-3"):
        for day in range(13, 19):
            for hour in range(9):
                when = at(f"{day} 0{hour}:10")
                name = f"{member_id}-{day}-{hour}"
                lines.append(ride_line(f"r-{name}", member_id, when, mode=chance.choice(["bus", "metro"])))
                lines.append(drop_line(f"d-{name}", member_id, when))
                lines.append(weighing_line(f"w-{name}", member_id, when, weight_g=chance.randint(100, 3000)))
    return lines


def shared_ledger(session: Session) -> dict[str, Any]:
    """What is stored, without what names a moment or a row."""
    measures = ("activities", "distance_m", "weight_g", "saved_co2e_mg")
    return {
        "cap_usage": digest(session, "cap_group", "week_on", *(f"day_{n}" for n in range(7)), table="cap_usage"),
        "resident_day": digest(session, "resident_id", "day", "behaviour", *measures, table="resident_day"),
        "community_day": digest(
            session, "community_code", "day", "behaviour", "mode", "method_id", *measures, table="community_day"
        ),
        "lot": digest(session, "resident_id", "expires_on", "remaining_points", table="lot"),
        "activity": digest(session, "resident_id", "external_id", "outcome", "priced_points", table="activity"),
        "transfer": digest(session, "resident_id", "sum(points)", table="transfer", group_by="resident_id"),
        "points": digest(session, "sum(points)", table="community_day"),
        "budget": digest(session, "day", "taken_points", table="partner_day"),
    }


def test_a_shuffled_duplicated_and_poisoned_feed_makes_the_same_ledger_as_one_in_order(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    chance = random.Random(4711)
    for number in (1, 2, 3):
        member(f"m-{number}")
    lines = a_days_feed(chance)
    session.execute(sa.text("SAVEPOINT before_the_feed"))
    assert feed.push(*lines)["counts"] == {"awarded": len(lines)}
    in_order = shared_ledger(session)
    assert wrong(session) == {}
    session.execute(sa.text("ROLLBACK TO SAVEPOINT before_the_feed"))
    session.expire_all()
    assert digest(session, "count(*)", table="activity") == [(0,)]

    poison = [row[1] for row in BAD_LINES] + [ride_line("r", STRANGER), ride_line("r", "m-9")]
    mixed = [*lines, *lines, *chance.choices(lines, k=100), *poison * 3]
    chance.shuffle(mixed)
    answers = []
    while mixed:
        size = chance.randint(1, 200)
        answers.append(feed.push(*mixed[:size]))
        mixed = mixed[size:]
    assert len(answers) > 3
    total = {word: sum(answer["counts"].get(word, 0) for answer in answers) for word in ("awarded", "duplicate")}
    assert total == {"awarded": len(lines), "duplicate": len(lines) + 100}
    assert shared_ledger(session) == in_order
    assert wrong(session) == {}
    assert session.scalar(sa.select(sa.func.count()).select_from(PartnerDay)) == 1


def test_a_bound_member_who_is_disabled_or_without_a_home_earns_nothing_and_others_do(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    disabled, homeless, _ = (member(name) for name in ("m-1", "m-2", "m-3"))
    for person, change in ((disabled, "enabled = false"), (homeless, "community_code = NULL")):
        session.execute(sa.text(f"UPDATE resident SET {change} WHERE resident_id = :r"), {"r": person})
    session.commit()
    answer = feed.push(*(drop_line("d", name) for name in ("m-1", "m-2", "m-3")))
    assert outcomes(answer) == ["refused unknown-resident", "refused no-home-community", "awarded"]
    assert digest(session, "count(*)", table="activity") == [(1,)]


def test_letters_never_tried_come_before_those_that_nothing_mends(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    feed.push(ride_line("r-1", colour="red"))
    assert redriven(session, feed) == {"refused": 1}
    feed.push(ride_line("r-2", colour="blue"))
    session.expire_all()
    feed_module.redrive(session, registry.get(session, feed.code), limit=1, now=NOON)
    tried = session.scalars(sa.select(DeadLetter.redriven_outcome).order_by(DeadLetter.id)).all()
    assert tried == ["bad-line", "bad-line"]


def test_batches_and_letters_past_their_keeping_are_deleted_and_no_others(
    feed: Feed, session: Session, member: Callable[..., UUID]
) -> None:
    member()
    feed.push(drop_line("d-1"), b"{broken")
    edge = NOON + feed_module.BATCH_KEPT_FOR
    assert feed_module.forget_old(session, now=edge) == 0
    assert feed_module.forget_old(session, now=edge + timedelta(seconds=1)) == 1
    assert session.scalar(sa.select(sa.func.count()).select_from(DeadLetter)) == 1
    assert feed_module.forget_old(session, now=NOON + feed_module.LETTER_KEPT_FOR + timedelta(seconds=1)) == 1
    assert session.scalar(sa.select(sa.func.count()).select_from(DeadLetter)) == 0

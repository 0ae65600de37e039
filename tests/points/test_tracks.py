"""Tracks: sent in chunks, judged, compared, paid once, never shown, and gone with the consent."""

import itertools
import json
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import claim, resident, transferred, wrong
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from track_builders import MORNING, fix, noised, recorded, shifted, walk
from werkzeug.test import TestResponse

from points.earning import releasing, steps
from points.earning.award import award
from points.earning.claims import Reason
from points.earning.models import Activity, Grade, Outcome
from points.travel import alike, checks, jobs, lines, rides, tracks
from points.travel.checks import CheckDataError
from points.travel.fixes import RawFix
from points.travel.models import CHUNK_FIXES_MAX, Track, TrackChunk, TrackMark, TrackMode
from points.travel.motion import METRES_PER_DEGREE
from server.clock import SHANGHAI, now
from server.database import APPLICATION_ROLE, new_id, psycopg_url
from server.people import residents
from server.people.models import ConsentPurpose
from server.people.wechat import StepDay as SyncedDay
from server.places.positions import Datum, Position
from server.settings import PLACES_DATA

TRACKS = "/api/v1/me/tracks"
NANKAI = PLACES_DATA / "nankai"
LINES = Path(__file__).parent / "data" / "transit"  # two invented lines, and the district's own thresholds
KEY = bytes(range(32))
LATER = datetime(2026, 11, 25, 18, 0, tzinfo=SHANGHAI)
Headers = dict[str, str]


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """The evening of Wednesday, 25 November 2026: the second edition of the rules holds."""
    with time_machine.travel(LATER, tick=False) as traveller:
        yield traveller


pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def person(session: Session) -> UUID:
    """A resident who agreed to tracks."""
    return consenting(session)


@pytest.fixture
def headers(session: Session, person: UUID, headers_of: Callable[..., Headers]) -> Headers:
    session.commit()
    return headers_of(person, is_resident=True)


def consenting(session: Session) -> UUID:
    made = resident(session)
    residents.give_consent(session, made, purpose=ConsentPurpose.TRACKS, text_version=None, now=now())
    return made


def submit(
    session: Session,
    person: UUID,
    sent: Sequence[RawFix],
    mode: TrackMode = TrackMode.WALK,
    *,
    datum: Datum = Datum.WGS_84,
    folder: Path = LINES,
    track_id: UUID | None = None,
) -> Any:
    """A whole track: opened, sent, finished."""
    track_id = track_id or new_id()
    keys: dict[str, Any] = {"data_key": KEY, "now": now()}
    tracks.open_track(session, person, track_id, mode=mode, datum=datum, installation="phone-number-1", **keys)
    parts = [sent[begin : begin + CHUNK_FIXES_MAX] for begin in range(0, len(sent), CHUNK_FIXES_MAX)]
    for number, part in enumerate(parts):
        tracks.receive(session, person, track_id, number, sent=part, **keys)
    return tracks.finish(session, person, track_id, chunks=len(parts), folder=folder, **keys)


def outcome(made: Any) -> tuple[str | None, str | None]:
    """What became of a track: the activity's outcome and reason."""
    return (made.activity.activity.outcome.value, made.activity.activity.reason) if made.activity else (None, None)


def body(sent: Sequence[RawFix]) -> dict[str, Any]:
    return {"fixes": [each._asdict() for each in sent]}


def code(answer: TestResponse) -> tuple[int, str | None]:
    assert answer.json is not None, answer.text
    return answer.status_code, answer.json.get("code")


# Over HTTP


def test_a_walk_is_sent_in_chunks_resumed_judged_and_paid_once_and_never_shown(
    client: FlaskClient, session: Session, headers: Headers, person: UUID
) -> None:
    sent = walk(1, minutes=15)
    where, answers = f"{TRACKS}/{new_id()}", []
    entry = {"mode": "walk", "datum": "wgs-84", "installation": "phone-number-1"}
    answers += [client.put(where, json=entry, headers=headers) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert code(client.put(where, json={**entry, "mode": "bus"}, headers=headers)) == (409, "track-differs")
    for number in (2, 0):  # in any order
        part = body(sent[number * 400 : number * 400 + 400])
        assert client.put(f"{where}/chunks/{number}", json=part, headers=headers).status_code == 204
    answers.append(client.get(where, headers=headers))
    assert answers[-1].json["received"] == [0, 2]  # type: ignore[index]
    missing = client.post(f"{where}/finish", json={"chunks": 3}, headers=headers)
    assert code(missing) == (409, "track-chunks-missing")
    assert missing.json["missing"] == [1]  # type: ignore[index]
    middle = body(sent[400:800])
    assert [client.put(f"{where}/chunks/1", json=middle, headers=headers).status_code for _ in range(2)] == [204, 204]
    other = client.put(f"{where}/chunks/1", json=body(sent[401:800]), headers=headers)
    assert code(other) == (409, "track-chunk-differs")

    answers += [client.post(f"{where}/finish", json={"chunks": 3}, headers=headers) for _ in range(2)]
    made = answers[-2].json
    assert made is not None
    assert (made["outcome"], made["reason"], made["finding"], made["checks_id"]) == (
        "awarded",
        None,
        None,
        "tracks-2026-1",
    )
    assert made == answers[-1].json
    assert made["points"] == made["figures"]["distance_m"] * 6 // 1000 // 2 > 0
    assert transferred(session, person) == made["points"]
    assert wrong(session) == {}
    assert code(client.put(f"{where}/chunks/1", json=middle, headers=headers)) == (409, "track-closed")

    answers += [client.get(path, headers=headers) for path in (where, TRACKS, "/api/v1/me/activities")]
    shown = "".join(each.text for each in answers)
    assert "latitude" not in shown
    assert "39.1" not in shown
    assert "117.1" not in shown
    stored = b"".join(session.scalars(sa.select(TrackChunk.sealed))) + b"".join(
        session.scalars(sa.select(TrackMark.sealed))
    )
    assert not any(
        struct.pack("<ii", round(each.latitude * 1e7), round(each.longitude * 1e7)) in stored for each in sent
    )
    device = session.scalar(sa.select(Activity.device).where(Activity.resident_id == person))
    assert device is not None
    assert device.startswith("phone:")


def test_a_stranger_sees_no_track_and_without_consent_none_is_taken(
    client: FlaskClient, session: Session, headers: Headers, person: UUID, headers_of: Callable[..., Headers]
) -> None:
    entry = {"mode": "walk", "installation": "phone-number-1"}
    where = f"{TRACKS}/{new_id()}"
    assert client.put(where, json=entry, headers=headers).status_code == 200
    stranger = headers_of(consenting(session), is_resident=True)
    calls = [
        client.get(where, headers=stranger),
        client.delete(where, headers=stranger),
        client.put(f"{where}/chunks/0", json=body(walk(1, minutes=2)), headers=stranger),
        client.post(f"{where}/finish", json={"chunks": 1}, headers=stranger),
    ]
    assert {each.status_code for each in calls} == {404}
    without = headers_of(resident(session), is_resident=True)
    assert code(client.put(f"{TRACKS}/{new_id()}", json=entry, headers=without)) == (409, "consent-missing")
    homeless = resident(session, None)
    residents.give_consent(session, homeless, purpose=ConsentPurpose.TRACKS, text_version=None, now=now())
    session.commit()
    nowhere = headers_of(homeless, is_resident=True)
    assert code(client.put(f"{TRACKS}/{new_id()}", json=entry, headers=nowhere)) == (409, "home-community-missing")


@pytest.mark.parametrize(
    ("chunk", "fixes"),
    [
        (50, [{}]),
        (0, []),
        (0, [{}] * 401),
        (0, [{"latitude": 91}]),
        (0, [{"at_ms": 1}]),
        (0, [{"accuracy_m": -1}]),
        (0, [{"name": "x"}]),
    ],
)
def test_chunks_beyond_the_limits_are_refused(
    client: FlaskClient, headers: Headers, chunk: int, fixes: list[dict[str, Any]]
) -> None:
    plain = walk(1, minutes=1)[0]._asdict()
    where = f"{TRACKS}/{new_id()}"
    assert (
        client.put(where, json={"mode": "walk", "installation": "phone-number-1"}, headers=headers).status_code == 200
    )
    answer = client.put(
        f"{where}/chunks/{chunk}", json={"fixes": [{**plain, **each} for each in fixes]}, headers=headers
    )
    assert answer.status_code == (404 if chunk == 50 else 422)


def test_only_so_many_tracks_are_open_at_once_and_opened_in_a_day(session: Session, person: UUID) -> None:
    for _ in range(tracks.UNFINISHED_MAX):
        opened(session, person)
    with pytest.raises(tracks.TooManyTracks):
        opened(session, person)
    # Finished or erased ones make room, until the day is full.
    for track_id in session.scalars(sa.select(Track.id).where(Track.resident_id == person)):
        tracks.erase(session, person, track_id, now=now())
    opened(session, person)


def opened(session: Session, person: UUID) -> UUID:
    track_id = new_id()
    tracks.open_track(
        session,
        person,
        track_id,
        mode=TrackMode.WALK,
        datum=Datum.WGS_84,
        installation="phone-number-1",
        data_key=KEY,
        now=now(),
    )
    return track_id


# What speaks against a track


def straight(
    mps: float, minutes: float, *, every_s: int = 5, start: datetime = MORNING, gap: range = range(0)
) -> list[RawFix]:
    """A line drawn by a program, but for the receiver's wandering error."""
    sent = recorded(lambda second: (mps * second, 0.0), round(minutes * 60), seed=3, every_s=every_s, start=start)
    return [each for number, each in enumerate(sent) if number * every_s not in gap]


def drawn(mps: float, minutes: int) -> list[RawFix]:
    return recorded(
        lambda second: (mps * second * 0.6, mps * second * 0.8), minutes * 60, seed=1, every_s=5, error_m=0.0
    )


NIGHT = datetime(2026, 11, 24, 2, 0, tzinfo=SHANGHAI)


def test_each_thing_that_speaks_against_a_track_has_its_reason(session: Session) -> None:
    fine = walk(2, minutes=15)
    thrown = [
        each._replace(latitude=each.latitude + 0.05) if number >= 400 else each for number, each in enumerate(fine)
    ]
    cases: list[tuple[Sequence[RawFix], TrackMode, Reason | None]] = [
        (fine, TrackMode.WALK, None),
        (fine[:100], TrackMode.WALK, Reason.TRACK_TOO_SHORT),
        (straight(0.52, 20), TrackMode.BICYCLE, Reason.TRACK_TOO_SHORT),
        (straight(0.9, 30), TrackMode.BICYCLE, Reason.TRACK_TOO_SLOW),
        (straight(9, 10), TrackMode.WALK, Reason.TOO_FAST),
        (straight(14, 10), TrackMode.BICYCLE, Reason.TOO_FAST),
        (walk(3, minutes=20)[:200] + walk(3, minutes=20)[700:], TrackMode.WALK, Reason.TRACK_GAP),
        (thrown, TrackMode.WALK, Reason.TRACK_JUMP),
        (walk(4, minutes=15, mock=True), TrackMode.WALK, Reason.TRACK_MOCKED),
        (walk(5, minutes=15, start=NIGHT), TrackMode.WALK, Reason.TRACK_OUT_OF_HOURS),
        (straight(1.2, 250, every_s=15), TrackMode.WALK, Reason.TRACK_NO_REST),
        (drawn(1.3, 15), TrackMode.WALK, Reason.TRACK_OTHER_MODE),
        (walk(7, minutes=12, mean_mps=2.7), TrackMode.WALK, Reason.TRACK_UNCLEAR),
    ]
    for sent, mode, expected in cases:
        made = submit(session, consenting(session), sent, mode)
        held = expected is Reason.TRACK_UNCLEAR
        assert made.finding == (expected.value if expected else None), (expected, made.figures)
        state = "awarded" if expected is None else "held" if held else "refused"
        assert outcome(made) == (state, made.finding)
    assert wrong(session) == {}


def test_no_clock_and_no_position_of_a_phone_is_too_wild_to_be_told_why(session: Session) -> None:
    """Years between two fixes, half a world between two others, more metres than a column holds."""
    year = timedelta(days=365)
    around = [fix(MORNING + timedelta(seconds=5 * n), 0, 0)._replace(longitude=180.0 * (-1) ** n) for n in range(30)]
    decades = [fix(MORNING - 5 * year + n * year / 2, 3 * n, 0) for n in range(20)]
    hops = [fix(MORNING - (400 - n) * timedelta(hours=36), 0, 0)._replace(longitude=80.0 * (n % 2)) for n in range(400)]
    for sent, mode, expected in (
        (around, TrackMode.WALK, "track-jump"),
        (decades, TrackMode.WALK, "track-too-short"),
        (hops, TrackMode.METRO, "track-gap"),
    ):
        assert outcome(submit(session, consenting(session), sent, mode)) == ("refused", expected)


def test_single_wild_fixes_are_left_out_and_vague_ones_too(session: Session, person: UUID) -> None:
    sent = list(walk(6, minutes=15))
    for number in range(50, 800, 100):
        sent[number] = sent[number]._replace(latitude=sent[number].latitude + 0.08)
        sent[number + 20] = sent[number + 20]._replace(longitude=sent[number + 20].longitude + 1, accuracy_m=900.0)
    made = submit(session, person, sent)
    assert outcome(made) == ("awarded", None)
    assert (made.figures["spikes"], made.figures["usable"]) == (8, 884)


def test_a_ride_by_car_inside_a_walk_adds_no_distance_of_a_car(session: Session, person: UUID) -> None:
    """The 95th percentile lets a half-minute pass; it is not counted as faster than somebody can go on foot."""
    metres, ways = 0.0, []
    for second in range(1500):
        ways.append((metres, 5 * (second // 97)))
        metres += 12.0 if 700 <= second < 735 else 1.3 + 0.4 * ((second // 60) % 2)
    made = submit(session, person, recorded(lambda second: ways[second], 1500, seed=2, every_s=5))
    assert metres > 2500
    assert made.figures["distance_m"] < 2400


# Buses and metros


def ride(
    *, stops: bool, seed: int = 1, start: datetime = MORNING, off_m: float = 0.0, mode: TrackMode = TrackMode.BUS
) -> list[RawFix]:
    """Along a demonstration line: 20 s at each stop, or right through like a car."""
    line = next(each for each in lines.read(LINES) if each.mode is mode)
    base = fix(start, 0, 0)
    east = METRES_PER_DEGREE * 0.776  # at 39.1° north
    here = Position(base.latitude, base.longitude, Datum.WGS_84).in_gcj_02()
    places = [
        ((x - here.longitude) * east, (y - here.latitude) * METRES_PER_DEGREE + off_m)
        for x, y in zip(line.longitudes, line.latitudes, strict=True)
    ]
    path: list[tuple[float, float]] = []
    for one, other in itertools.pairwise(places):
        path += [one] * (20 if stops else 0)
        length = ((other[0] - one[0]) ** 2 + (other[1] - one[1]) ** 2) ** 0.5
        seconds = round(length / 8)
        path += [
            (one[0] + (other[0] - one[0]) * t / seconds, one[1] + (other[1] - one[1]) * t / seconds)
            for t in range(seconds)
        ]
    return recorded(lambda second: path[second], len(path), seed=seed, every_s=5, start=start)


def test_a_bus_ride_along_a_line_with_its_stops_is_paid_and_named(session: Session, person: UUID) -> None:
    made = submit(session, person, ride(stops=True), TrackMode.BUS)
    assert outcome(made) == ("awarded", None)
    assert (made.line_id, transferred(session, person)) == ("demo-bus-1", 4)
    assert made.activity.activity.distance_m == pytest.approx(2640, abs=150)


@pytest.mark.parametrize("way", ["right-through", "another-road", "by-night"])
def test_a_bus_claim_on_motion_alone_is_held(session: Session, person: UUID, way: str) -> None:
    late = datetime(2026, 11, 24, 23, 0, tzinfo=SHANGHAI)
    sent = ride(
        stops=way != "right-through",
        off_m=600.0 if way == "another-road" else 0.0,
        start=late if way == "by-night" else MORNING,
    )
    made = submit(session, person, sent, TrackMode.BUS)
    assert outcome(made) == ("held", "ride-unconfirmed")
    assert (made.line_id, transferred(session, person)) == (None, 0)


@pytest.mark.parametrize("first", ["ride", "track"])
def test_a_ride_record_and_a_track_of_one_trip_are_both_kept_and_paid_once(
    session: Session, person: UUID, first: str
) -> None:
    sent = ride(stops=False)
    record = claim(person, "bus", start=MORNING, minutes=5, distance_m=2600)
    if first == "ride":
        assert award(session, [record], now=now())[0].points == 8
        made = submit(session, person, sent, TrackMode.BUS)
    else:
        held = submit(session, person, sent, TrackMode.BUS)
        assert outcome(held) == ("held", "ride-unconfirmed")
        assert rides.settle(session) == 0
        assert award(session, [record], now=now())[0].points == 8
        assert rides.settle(session) == 1
        session.expire_all()
        made = tracks.one(session, person, held.track.id)
    assert outcome(made) == ("refused", "overlaps-another-trip")
    assert transferred(session, person) == 8
    assert wrong(session) == {}


def test_a_ride_by_bus_is_not_one_by_metro(session: Session, person: UUID) -> None:
    as_metro = submit(session, person, ride(stops=True), TrackMode.METRO)
    assert (as_metro.line_id, outcome(as_metro)) == (None, ("held", "ride-unconfirmed"))


def lines_changed(folder: Path, *changes: tuple[str, str], weekdays: str | None = None) -> Path:
    """A district with the demonstration's lines and thresholds, but for these changes in every row."""
    rows = (LINES / "transit-lines.csv").read_text("utf-8")
    for before, after in changes:
        assert before in rows
        rows = rows.replace(before, after)
    if weekdays is not None:
        head, *stops = rows.splitlines()
        rows = "\n".join([f"{head},weekdays", *(f"{row},{weekdays}" for row in stops)])
    (folder / "transit-lines.csv").write_text(rows, "utf-8")
    (folder / "tracks-1.toml").write_text((NANKAI / "tracks-2026.toml").read_text("utf-8"), "utf-8")
    return folder


TUESDAY_EVENING = datetime(2026, 11, 24, 22, 45, tzinfo=SHANGHAI)
UNTIL_0040 = ("05:30,22:30", "05:30,00:40")


@pytest.mark.parametrize("mode", [TrackMode.BUS, TrackMode.METRO])
@pytest.mark.parametrize("minutes", [0, 72, 75, 95], ids=["before", "across", "at", "after"])
def test_a_ride_on_a_line_that_runs_past_midnight_is_paid_on_both_sides_of_it(
    session: Session, person: UUID, tmp_path: Path, minutes: int, mode: TrackMode
) -> None:
    folder = lines_changed(tmp_path, UNTIL_0040, ("06:00,23:00", "06:00,00:40"))
    sent = ride(stops=True, mode=mode, start=TUESDAY_EVENING + timedelta(minutes=minutes))
    made = submit(session, person, sent, mode, folder=folder)
    assert outcome(made) == ("awarded", None)
    assert made.line_id == f"demo-{mode.value}-1"


@pytest.mark.parametrize(
    ("hours", "start", "became"),
    [
        # Past the end of service, and before its beginning, no line runs: the hours of buses hold.
        (UNTIL_0040, "2026-11-25T00:41", ("refused", "track-out-of-hours")),
        (UNTIL_0040, "2026-11-25T04:50", ("refused", "track-out-of-hours")),
        (UNTIL_0040, "2026-11-25T05:20", ("held", "ride-unconfirmed")),
        (UNTIL_0040, "2026-11-25T05:31", ("awarded", None)),
        (("05:30,22:30", "04:40,22:30"), "2026-11-25T04:45", ("awarded", None)),
        # A line that does not run past midnight is none that night, nor after its end.
        (("05:30,22:30", "05:30,24:00"), "2026-11-24T23:50", ("awarded", None)),
        (("05:30,22:30", "05:30,24:00"), "2026-11-25T00:01", ("refused", "track-out-of-hours")),
        (("05:30,22:30", "05:30,22:30"), "2026-11-24T22:31", ("held", "ride-unconfirmed")),
        (("05:30,22:30", "05:30,22:30"), "2026-11-24T23:57", ("refused", "track-out-of-hours")),
        (("05:30,22:30", "00:00,24:00"), "2026-11-24T23:57", ("awarded", None)),
    ],
)
def test_a_ride_is_judged_by_the_hours_in_which_its_line_runs(
    session: Session, person: UUID, tmp_path: Path, hours: tuple[str, str], start: str, became: tuple[str, str | None]
) -> None:
    begun = datetime.fromisoformat(start).replace(tzinfo=SHANGHAI)
    made = submit(session, person, ride(stops=True, start=begun), TrackMode.BUS, folder=lines_changed(tmp_path, hours))
    assert outcome(made) == became


@pytest.mark.parametrize(
    ("weekdays", "start", "runs"),
    [
        ("2", "2026-11-24T23:50", True),  # Tuesday's service, before midnight
        ("2", "2026-11-25T00:20", True),  # and after it, on Wednesday
        ("2", "2026-11-24T00:20", False),  # Monday's service
        ("2", "2026-11-25T05:40", False),
        ("3", "2026-11-25T00:20", False),
        ("3", "2026-11-25T05:40", True),
        ("567", "2026-11-30T00:20", True),  # Sunday's, on Monday
    ],
)
def test_after_midnight_the_weekday_of_the_evening_before_decides(
    tmp_path: Path, weekdays: str, start: str, runs: bool
) -> None:
    known = lines.read(lines_changed(tmp_path, UNTIL_0040, weekdays=weekdays))
    at = datetime.fromisoformat(start).replace(tzinfo=SHANGHAI)
    assert bool(lines.running(known, TrackMode.BUS, at=at)) is runs


def test_a_walk_is_held_to_its_own_hours_whatever_lines_run(session: Session, person: UUID, tmp_path: Path) -> None:
    folder = lines_changed(tmp_path, UNTIL_0040)
    by_night = walk(71, minutes=10, start=datetime(2026, 11, 25, 0, 10, tzinfo=SHANGHAI))
    assert outcome(submit(session, person, by_night, folder=folder)) == ("refused", "track-out-of-hours")
    # Unless the district's own hours of walking run past midnight as well.
    good = (NANKAI / "tracks-2026.toml").read_text("utf-8")
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "tracks-1.toml").write_text(good.replace('to = "24:00"', 'to = "00:30"', 1), "utf-8")
    again = walk(72, minutes=10, start=datetime(2026, 11, 24, 23, 55, tzinfo=SHANGHAI))
    assert outcome(submit(session, person, again, folder=tmp_path / "late")) == ("awarded", None)


def test_a_track_across_a_whole_citys_lines_is_looked_up_at_once() -> None:
    """Two thousand directions of 25 stops, all on one road: only those with a stop near both ends are looked at."""
    begin = Position(39.0, 117.0, Datum.GCJ_02)
    stops = tuple(117.2 + 0.01 * number for number in range(25))
    known = [lines.Line(f"b{n}", TrackMode.BUS, 0, 86_400, (39.0,) * 25, stops) for n in range(2_000)]
    east = METRES_PER_DEGREE * 0.777
    ridden = [(begin.longitude + 0.5 * number / 299) * east for number in range(300)]
    way = alike.Sketch([float(10 * n) for n in range(300)], ridden, [39.0 * METRES_PER_DEGREE] * 300)
    began = time.process_time()
    running = lines.running(known, TrackMode.BUS, at=MORNING)
    assert len(running) == 2_000
    assert lines.match(way, running, checks.on(NANKAI, MORNING.date())) is None
    assert time.process_time() - began < 0.5


# Copies


def test_a_copy_of_anybodys_track_is_refused_however_it_was_moved_in_time(session: Session) -> None:
    original = walk(10, minutes=15)
    assert outcome(submit(session, consenting(session), original)) == ("awarded", None)
    later = shifted(original, timedelta(hours=22))
    for copy in (later, noised(later, 3), noised(later[150:], 2), noised(later, 2)[::5]):
        made = submit(session, consenting(session), copy)
        assert outcome(made) == ("refused", "track-repeated")
    assert wrong(session) == {}


def test_a_copy_is_found_among_hundreds_of_later_tracks_of_the_same_street(session: Session) -> None:
    person = consenting(session)
    original = walk(14, minutes=15)
    submit(session, person, original)
    for statement in (
        "INSERT INTO track (resident_id, id, mode, datum, device, opened_at) "
        "SELECT resident_id, gen_random_uuid(), 'walk', 'wgs-84', 'phone:x', opened_at "
        "FROM track, generate_series(1, 250)",
        # Each shares one mark, and the others are its own.
        "INSERT INTO track_mark SELECT resident_id, track.id, marks[1] || ARRAY(SELECT hashtextextended("
        "  track.id::text, n) FROM generate_series(1, 11) AS n), sealed, written_at + interval '1 hour' "
        "FROM track_mark JOIN track USING (resident_id) WHERE state = 'receiving'",
    ):
        session.execute(sa.text(statement))
    copy = noised(shifted(original, timedelta(hours=5)), 2)
    assert outcome(submit(session, consenting(session), copy)) == ("refused", "track-repeated")


def test_the_same_way_walked_again_and_two_who_walk_together_are_no_copies(session: Session) -> None:
    mine = walk(11, minutes=12, way=11)
    again = walk(12, minutes=12, way=11, start=MORNING + timedelta(hours=24))
    positions = {each.at_ms: each for each in walk(11, minutes=12, way=11, error_m=0.0)}
    beside = noise_of_another_phone(list(positions.values()))
    people = [consenting(session) for _ in range(3)]
    made = [outcome(submit(session, who, sent)) for who, sent in zip(people, (mine, again, beside), strict=True)]
    assert made == [("awarded", None)] * 3


def noise_of_another_phone(exact: list[RawFix]) -> list[RawFix]:
    wander = recorded(lambda second: (0.0, 0.0), len(exact), seed=99, error_m=3.0)
    base = fix(MORNING, 0, 0)
    return [
        each._replace(
            latitude=each.latitude + off.latitude - base.latitude,
            longitude=each.longitude + off.longitude - base.longitude,
        )
        for each, off in zip(exact, wander, strict=True)
    ]


def test_a_nearly_equal_track_of_the_same_minutes_is_held_for_a_person(session: Session) -> None:
    original = walk(13, minutes=15)
    assert outcome(submit(session, consenting(session), original)) == ("awarded", None)
    assert outcome(submit(session, consenting(session), noised(original, 2.5))) == ("held", "identical-track")
    assert outcome(submit(session, consenting(session), noised(original, 0.3))) == ("refused", "track-repeated")


# Steps against walks


@pytest.mark.parametrize("first", ["steps", "walk"])
def test_a_tracked_walk_and_its_steps_are_paid_once_in_either_order(session: Session, person: UUID, first: str) -> None:
    sent = walk(20, minutes=30)
    day = SyncedDay(date(2026, 11, 24), 4000)
    if first == "steps":
        assert [each.points for each in steps.sync(session, person, [day], now=now())] == [8]
        assert outcome(submit(session, person, sent)) == ("refused", "paid-as-steps")
        assert transferred(session, person) == 8
    else:
        made = submit(session, person, sent)
        distance = made.figures["distance_m"]
        assert outcome(made) == ("awarded", None)
        covered = -(-distance * 10 // 6)
        assert [each.points for each in steps.sync(session, person, [day], now=now())] == [
            (4000 - covered) * 4 // 1000 // 2
        ]
        # More steps later in the day are paid as always.
        more = SyncedDay(day.day, 9000)
        steps.sync(session, person, [more], now=now())
        assert transferred(session, person) == distance * 6 // 1000 // 2 + (9000 - covered) * 4 // 1000 // 2
    assert wrong(session) == {}


def test_a_walk_after_the_last_sync_is_paid_and_one_past_midnight_covers_both_days(
    session: Session, person: UUID
) -> None:
    evening = datetime(2026, 11, 24, 23, 45, tzinfo=SHANGHAI)
    days = [SyncedDay(date(2026, 11, 24), 3000)]
    steps.sync(session, person, days, now=evening - timedelta(hours=1))
    walked = claim(person, "walk", grade=Grade.SENSOR, source="track", start=evening, minutes=30, distance_m=1800)
    assert steps.award_walks(session, [walked], now=now())[0].outcome is Outcome.AWARDED
    kept = session.execute(sa.text("SELECT day, steps, walked_steps FROM step_day ORDER BY day")).all()
    assert [tuple(row) for row in kept] == [(date(2026, 11, 24), 3000, 1500), (date(2026, 11, 25), 0, 1500)]
    # The same record sent again is a duplicate and covers nothing more.
    assert steps.award_walks(session, [walked], now=now())[0].outcome is None
    assert session.scalar(sa.text("SELECT sum(walked_steps) FROM step_day")) == 3000
    steps.uncover(session, person, walked.started_at, walked.ended_at, 1800)
    assert session.scalar(sa.text("SELECT sum(walked_steps) FROM step_day")) == 0


def test_a_walk_whose_steps_were_paid_since_is_not_paid_beside_them_by_an_appeal(
    session: Session, person: UUID
) -> None:
    made = submit(session, person, walk(21, minutes=30, mock=True))
    synced = steps.sync(session, person, [SyncedDay(date(2026, 11, 24), 4000)], now=now())
    assert synced[0].points == 8
    first = releasing.overturn(session, person, made.track.activity_id, now=now())
    assert (first.outcome, first.reason) == (Outcome.REFUSED, Reason.PAID_AS_STEPS)


# Erasure


def kept(session: Session, person: UUID) -> tuple[int, int, int]:
    """How many chunks, marks and unfinished tracks are kept of a person."""
    counts = [
        session.scalar(sa.select(sa.func.count()).select_from(table).where(table.resident_id == person))
        for table in (TrackChunk, TrackMark)
    ]
    open_ = sa.select(sa.func.count()).where(Track.resident_id == person, Track.state == "receiving")
    return counts[0] or 0, counts[1] or 0, session.scalar(open_) or 0


def test_withdrawing_the_consent_erases_every_position_in_the_same_transaction(
    client: FlaskClient, session: Session, headers: Headers, person: UUID
) -> None:
    made = submit(session, person, walk(30, minutes=15))
    earned = made.activity.points
    half = opened(session, person)
    tracks.receive(session, person, half, 0, sent=walk(31, minutes=2), data_key=KEY, now=now())
    other = consenting(session)
    submit(session, other, walk(32, minutes=15))
    session.commit()
    assert kept(session, person) == (4, 1, 1)
    assert client.delete("/api/v1/me/consents/tracks", headers=headers).status_code == 204
    session.expire_all()
    assert kept(session, person) == (0, 0, 0)
    assert kept(session, other) == (3, 1, 0)
    shown = client.get(f"{TRACKS}/{made.track.id}", headers=headers).json
    assert shown is not None
    assert (shown["erased_because"], shown["figures"]["duration_s"], shown["points"]) == (
        "consent-withdrawn",
        899,
        earned,
    )
    assert (
        client.put(f"{TRACKS}/{new_id()}/chunks/0", json=body(walk(1, minutes=1)), headers=headers).status_code == 409
    )
    # Given again, nothing comes back, and the same recording is still known as one that was paid.
    residents.give_consent(session, person, purpose=ConsentPurpose.TRACKS, text_version=None, now=now())
    assert outcome(submit(session, person, shifted(walk(30, minutes=15), timedelta(hours=3)))) == (
        "refused",
        "track-repeated",
    )


def test_positions_are_kept_thirty_days_and_what_was_found_stays(
    app: Flask, session: Session, person: UUID, clock: time_machine.Traveller
) -> None:
    def run() -> dict[str, int]:
        with app.app_context():
            return jobs.run_due()

    made = submit(session, person, walk(40, minutes=15))
    opened(session, person)
    session.commit()
    clock.move_to(LATER + timedelta(days=29, hours=22))
    assert run() == {"erased": 0, "settled": 0}
    clock.move_to(LATER + timedelta(days=29, hours=23, minutes=1))
    assert run() == {"erased": 2, "settled": 0}
    session.expire_all()
    assert kept(session, person) == (0, 0, 0)
    track = session.get(Track, (person, made.track.id), populate_existing=True)
    assert track is not None
    assert (track.erased_because.value if track.erased_because else None, track.figures) == (
        "kept-long-enough",
        made.figures,
    )
    assert run() == {"erased": 0, "settled": 0}


def test_the_owner_erases_one_track_and_keeps_the_points(
    client: FlaskClient, session: Session, headers: Headers, person: UUID
) -> None:
    made = submit(session, person, walk(41, minutes=15))
    session.commit()
    where = f"{TRACKS}/{made.track.id}"
    assert [client.delete(where, headers=headers).status_code for _ in range(2)] == [204, 204]
    session.expire_all()
    assert kept(session, person) == (0, 0, 0)
    assert client.get(where, headers=headers).json["erased_because"] == "asked"  # type: ignore[index]
    assert transferred(session, person) == 3


# The database's own guards


def test_the_database_lets_no_track_be_changed_or_filled_against_the_rules(session: Session, person: UUID) -> None:
    made = submit(session, person, walk(50, minutes=15))
    half = opened(session, person)
    tracks.receive(session, person, half, 0, sent=walk(51, minutes=2), data_key=KEY, now=now())
    insert = (
        "INSERT INTO track_chunk "
        "SELECT resident_id, track_id, 7, fixes, content_hash, sealed, received_at FROM track_chunk"
    )
    attempts = {
        f"UPDATE track SET finding = 'x' WHERE id = '{made.track.id}'": "finished once",
        f"UPDATE track SET state = 'receiving' WHERE id = '{made.track.id}'": "finished",
        f"UPDATE track SET mode = 'bus' WHERE id = '{half}'": "finished once",
        f"DELETE FROM track WHERE id = '{made.track.id}'": "stays",
        "UPDATE track_chunk SET fixes = 1": "do not change",
        "TRUNCATE track CASCADE": "permission denied",
        f"{insert} WHERE track_id = '{made.track.id}' AND number = 0": "takes no more",
        f"INSERT INTO track_mark SELECT resident_id, '{new_id()}', marks, sealed, now() FROM track_mark": "no more",
        "UPDATE step_day SET walked_steps = -1": None,
        f"UPDATE track SET state = 'finished' WHERE id = '{half}'": "track_finished_check",
    }
    steps.sync(session, person, [SyncedDay(date(2026, 11, 24), 10)], now=now())
    attempts["UPDATE step_day SET walked_steps = -1"] = "step_day_walked_steps_check"
    for statement, expected in attempts.items():
        with pytest.raises(DBAPIError, match=expected), session.begin_nested():
            session.execute(sa.text(statement))
    session.execute(sa.text("UPDATE consent SET withdrawn_at = given_at WHERE purpose = 'tracks'"))
    left = session.scalar(sa.text("SELECT count(*) FROM track_chunk"))
    assert left == 0
    session.execute(
        sa.insert(Track).values(
            resident_id=person, id=half, mode="walk", datum="wgs-84", device="phone:x", opened_at=now()
        )
    )
    with pytest.raises(DBAPIError, match="no consent"), session.begin_nested():
        session.execute(
            sa.text(
                "INSERT INTO track_chunk "
                "VALUES (:person, :track, 0, 1, decode(repeat('00', 32), 'hex'), '\\x00', now())"
            ),
            {"person": person, "track": half},
        )


# Races, the first transaction held open


@contextmanager
def connections(url: str) -> Iterator[tuple[Session, Session, Callable[[], None]]]:
    """Two sessions of the application's role on a database of their own, and a wait until one waits for the other."""
    options = {"options": f"-c timezone=UTC -c lock_timeout=8000 -c role={APPLICATION_ROLE}"}
    engine = sa.create_engine(psycopg_url(url), poolclass=sa.NullPool, connect_args=options)

    def wait() -> None:
        with engine.connect() as watching:
            for _ in range(400):
                if watching.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    return
                watching.execute(sa.text("SELECT pg_sleep(0.01)"))
        raise AssertionError("nobody waits")

    with Session(engine, expire_on_commit=False) as one, Session(engine, expire_on_commit=False) as other:
        yield one, other, wait


def test_withdrawals_copies_and_steps_that_race_with_a_track_find_what_it_did(make_database: Callable[[], str]) -> None:
    with connections(make_database()) as (one, other, wait), ThreadPoolExecutor(1) as pool:
        people = [consenting(one) for _ in range(3)]
        one.commit()

        # A track is being finished while the consent is taken back: nothing of it is left behind.
        submit(one, people[0], walk(60, minutes=5))

        def withdraw() -> None:
            residents.withdraw_consent(other, people[0], purpose=ConsentPurpose.TRACKS, now=now())
            other.commit()

        withdrawn = pool.submit(withdraw)
        wait()
        one.commit()
        withdrawn.result(10)
        assert kept(one, people[0]) == (0, 0, 0)
        one.commit()

        # The owner erases a track that is being finished.
        again = consenting(one)
        half = opened(one, again)
        tracks.receive(one, again, half, 0, sent=walk(62, minutes=5), data_key=KEY, now=now())
        one.commit()
        tracks.finish(one, again, half, chunks=1, folder=LINES, data_key=KEY, now=now())

        def erase() -> None:
            tracks.erase(other, again, half, now=now())
            other.commit()

        erased = pool.submit(erase)
        wait()
        one.commit()
        erased.result(10)
        assert kept(one, again) == (0, 0, 0)
        one.commit()

        # Two people finish copies of one walk, a little noise on the second.
        original = walk(61, minutes=15)

        def second() -> Any:
            made = submit(other, people[2], noised(shifted(original, timedelta(hours=9)), 2))
            other.commit()
            return made

        first = submit(one, people[1], original)
        copied = pool.submit(second)
        wait()
        one.commit()
        assert outcome(first) == ("awarded", None)
        assert outcome(copied.result(10)) == ("refused", "track-repeated")

        # The steps of a walk are synced while the walk is being paid.
        walked = claim(
            people[1], "walk", grade=Grade.SENSOR, source="track", start=MORNING + timedelta(hours=3), distance_m=1200
        )
        assert steps.award_walks(one, [walked], now=now())[0].outcome is Outcome.AWARDED

        def sync() -> list[Any]:
            made = steps.sync(other, people[1], [SyncedDay(date(2026, 11, 24), 6000)], now=now())
            other.commit()
            return made

        synced = pool.submit(sync)
        wait()
        one.commit()
        covered = 2000 - (-first.figures["distance_m"] * 10 // 6)
        assert synced.result(10)[0].points == (6000 - covered) * 4 // 1000 // 2
        assert wrong(one) == {}


# The district's data


def test_every_edition_and_line_of_the_district_can_be_read_and_faults_are_named(tmp_path: Path) -> None:
    assert [each.id for each in checks.editions(NANKAI)] == ["tracks-2026-1"]
    assert checks.on(NANKAI, date(2026, 11, 24)).of(TrackMode.WALK).to_s == 86_400
    good = (NANKAI / "tracks-2026.toml").read_text("utf-8")
    faults = {
        "window_s = 15": "lacks or does not know window_s",
        "jump_mps = 70": "lacks or does not know jump_mps",
        'from = "04:00"': "walk lacks or does not know from_s",
    }
    hours = ['to = "04:00"', 'to = "25:00"', 'from = "24:00"']
    for number, (line, message) in enumerate([*faults.items(), *((each, "hours") for each in hours)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        changed = re.sub(rf"^{line.split()[0]} = .*", line, good, count=1, flags=re.MULTILINE)
        (folder / "tracks-1.toml").write_text(changed if line in hours else good.replace(line, "", 1), "utf-8")
        with pytest.raises(CheckDataError, match=message):
            checks.editions(folder)
    rows = (LINES / "transit-lines.csv").read_text("utf-8")
    wrong_lines = [
        ("39.10850", "north", 1, "degrees"),
        (",bus,", ",tram,", 1, "mode does not fit"),
        ("05:30", "early", -1, "hours are written as 05:30"),
        # Ends at once, begins at a day's end, and hours that only one stop of the line has.
        ("05:30,22:30", "22:30,22:30", -1, "do not end at once"),
        ("05:30,22:30", "24:00,05:00", -1, "begin before 24:00"),
        ("05:30,22:30", "05:30,24:40", -1, "hours are written as 05:30"),
        ("05:30,22:30", "05:30,00:40", 1, "a direction has one mode"),
        ("05:30,22:30", "05:30,22:30,1", 1, "may be weekdays"),
    ]
    for number, (before, after, times, message) in enumerate(wrong_lines):
        folder = tmp_path / f"lines-{number}"
        folder.mkdir()
        (folder / "transit-lines.csv").write_text(rows.replace(before, after, times), "utf-8")
        with pytest.raises(CheckDataError, match=message):
            lines.read(folder)
    for weekdays in ("", "08", "daily"):
        folder = tmp_path / f"weekdays-{weekdays}"
        folder.mkdir()
        with pytest.raises(CheckDataError, match="weekdays are written as"):
            lines.read(lines_changed(folder, weekdays=weekdays))
    assert lines.read(tmp_path) == ()
    assert json.dumps(sorted({line.id for line in lines.read(LINES)})) == '["demo-bus-1", "demo-metro-1"]'

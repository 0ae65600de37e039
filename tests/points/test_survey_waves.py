"""Survey waves: the definition, reading what is handed in, storing it whole, taking it back, giving it out again."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import msgspec
import openpyxl
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from survey_builders import (
    DEFINITION,
    HOUSEHOLDS,
    MAPPING,
    PERSONS,
    TRIPS,
    file,
    known_of,
    upload_of,
    without,
)

from points.share.estimate.exchange import STRICT, WITH_E_BIKE, Options
from points.share.survey import definition, importing, microdata, waves
from points.share.survey.cells import minute_of
from points.share.survey.definition import DefinitionChanged, is_green, main_mode
from points.share.survey.findings import FAULTS, FAULTS_SHOWN_MAX, Findings, TableName
from points.share.survey.importing import Reading, WaveRefused, read_wave
from points.share.survey.mapping import MappingInvalid, read_mapping
from points.share.survey.microdata import (
    WaveCodeTaken,
    WaveOfOtherModes,
    WavesOfSeveralYears,
    WaveUnknown,
    estimate_input,
)
from points.share.survey.models import SurveyHousehold, SurveyPerson, SurveyTrip, SurveyWave, WaveState
from points.share.survey.tables import TableTooLarge, TableUnreadable, open_table
from points.share.survey.waves import WaveLocked, WaveUndone
from server.database import psycopg_url
from server.errors import NotFound
from server.places.models import Division, DivisionLevel

NOW = datetime(2026, 11, 18, 4, 0, tzinfo=UTC)
OPTIONS = Options(margins=[], adjustment_cells=["street"])


@pytest.fixture
def defined(session: Session) -> Session:
    """A session in which the definitions are loaded."""
    definition.load(session, definition.read_definitions(), now=NOW)
    session.commit()
    return session


def read(**tables: Any) -> Reading:
    upload = upload_of(**tables)
    return read_wave(upload, known_of(upload))


def stored(session: Session, **tables: Any) -> SurveyWave:
    upload = upload_of(**tables)
    return importing.store(session, None, read_wave(upload, importing.known_to(session, upload)), now=NOW)


# The definition


def test_the_definition_counts_what_the_document_names_and_reads_e_bikes_both_ways() -> None:
    strict = {mode for mode in DEFINITION.modes if is_green(DEFINITION, mode, STRICT)}
    with_e_bike = {mode for mode in DEFINITION.modes if is_green(DEFINITION, mode, WITH_E_BIKE)}

    assert strict == {"urban-rail", "bus", "bicycle", "walk"}
    assert with_e_bike == strict | {"e-bike"}
    assert DEFINITION.age_min == 6
    assert {"taxi", "ride-hail", "car-driver", "new-energy-car", "carpool", "motorcycle"} <= set(DEFINITION.modes)
    with pytest.raises(ValueError, match="no reading"):
        is_green(DEFINITION, "bus", "loose")


@pytest.mark.parametrize(
    ("legs", "mode"),
    [
        (["walk"], "walk"),
        (["walk", "bus", "urban-rail", "walk"], "urban-rail"),
        (["taxi", "bus"], "bus"),
        (["e-bike", "car-passenger"], "car-passenger"),
        (["bicycle", "e-bike"], "e-bike"),
        (["walk", "bicycle"], "bicycle"),
    ],
)
def test_a_trip_of_several_legs_counts_once_by_its_main_mode_in_any_order(legs: list[str], mode: str) -> None:
    assert main_mode(DEFINITION, legs) == mode
    assert main_mode(DEFINITION, legs[::-1]) == mode


def test_a_trip_without_legs_or_by_an_unknown_mode_has_no_main_mode() -> None:
    for legs in ([], ["walk"] * 11, ["sled"]):
        with pytest.raises(ValueError, match=r"legs|no mode"):
            main_mode(DEFINITION, legs)


def test_a_definition_once_loaded_never_changes(defined: Session, connection: Connection) -> None:
    entries = definition.read_definitions()
    assert definition.load(defined, entries, now=NOW) == []
    assert definition.current_definition(defined, date(2025, 1, 1)).id == "green-travel-2020"
    with pytest.raises(DefinitionChanged):
        definition.load(defined, [msgspec.structs.replace(entries[0], age_min=7)], now=NOW)
    with pytest.raises(DBAPIError, match=r"permission denied|append-only"), connection.begin_nested():
        connection.execute(sa.text("UPDATE share_definition SET valid_from = '2021-01-01'"))


# Reading


def test_a_wave_is_read_as_its_mapping_says() -> None:
    reading = read()
    assert reading.findings.faults == []
    assert reading.rows is not None
    first, second, child, infant, unreached = reading.rows.persons

    assert (reading.households, reading.persons, reading.respondents, reading.trips) == (2, 5, 4, 4)
    assert first.attributes == {"sex": "male", "age_band": "18-59", "household_cars": "0", "street": "120104001"}
    assert child.attributes == {"sex": "", "age_band": "6-17", "household_cars": "2+", "street": "120104002"}
    assert (infant.attributes["age_band"], unreached.attributes["age_band"]) == ("0-5", "60+")
    assert [person.day for person in (first, second, child)] == [date(2025, 5, day) for day in (12, 13, 14)]
    assert (first.base_weight, unreached.responded) == (100.5, False)
    assert first.cluster == second.cluster != child.cluster == infant.cluster
    trips = [(trip.person_key, trip.position, trip.legs) for trip in reading.rows.trips]
    assert trips == [
        (first.key, 1, ("walk", "urban-rail", "walk")),
        (first.key, 2, ("car-driver",)),
        (child.key, 1, ("e-bike",)),
        (infant.key, 1, ("walk",)),
    ]
    assert [(trip.distance_m, trip.started_minute) for trip in reading.rows.trips] == [
        (7000, 450),
        (12340, 1085),
        (None, 435),
        (400, None),
    ]
    codes = {(each.column, each.code): each.count for each in reading.findings.warnings}
    assert codes == {("年龄", "younger-left-out"): 1, ("性别", "category-missing"): 1}


def test_what_no_mapping_names_and_every_key_of_the_files_stay_outside() -> None:
    reading = read()
    assert reading.rows is not None
    kept = msgspec.json.encode([reading.rows.persons, reading.rows.trips, reading.rows.households]).decode()
    for secret in ("张三", "某路1号", "120104199001011234", '"H1"', '"C1"'):
        assert secret not in kept


def test_a_person_without_trips_answered_and_a_person_who_was_never_reached_did_not() -> None:
    rows = read().rows
    assert rows is not None
    stayed_home, never_reached = rows.persons[1], rows.persons[4]
    assert (stayed_home.responded, never_reached.responded) == (True, False)
    assert not {trip.person_key for trip in rows.trips} & {stayed_home.key, never_reached.key}


A, B = "120104199001011234", "120104195501011238"
FAULTY: list[tuple[dict[str, str], tuple[str, int | None, str, str]]] = [
    ({"persons": without(PERSONS, "权重")}, ("persons", 1, "权重", "column-missing")),
    ({"trips": TRIPS.replace("出发", "序号")}, ("trips", 1, "序号", "column-twice")),
    ({"persons": PERSONS.split("\n")[0]}, ("persons", 1, "", "rows-missing")),
    ({"persons": PERSONS.replace(",李四", "")}, ("persons", 3, "", "row-length")),
    ({"persons": PERSONS.replace(A, "")}, ("persons", 2, "人员", "key-missing")),
    ({"persons": PERSONS.replace("120104199201011235", A)}, ("persons", 3, "人员", "key-twice")),
    ({"households": HOUSEHOLDS.replace("H2,", "H1,")}, ("households", 3, "户号", "key-twice")),
    ({"households": HOUSEHOLDS.replace("鼓楼街道", "别处")}, ("households", 3, "街道", "street-unknown")),
    ({"persons": PERSONS.replace("李四,H1", "李四,H9")}, ("persons", 3, "户号", "household-unknown")),
    ({"persons": PERSONS.replace("李四,H1", "李四,")}, ("persons", 3, "户号", "household-missing")),
    ({"persons": PERSONS.replace("H1,100.5", "H1,0", 1)}, ("persons", 2, "权重", "weight-invalid")),
    ({"persons": PERSONS.replace("H1,100.5", "H1,nan", 1)}, ("persons", 2, "权重", "weight-invalid")),
    ({"persons": PERSONS.replace(",36,", ",136,")}, ("persons", 2, "年龄", "age-invalid")),
    ({"persons": PERSONS.replace("2025-05-12", "2025-05-11")}, ("persons", 2, "日期", "day-outside-wave")),
    ({"persons": PERSONS.replace("2025-05-12", "2025-02-30")}, ("persons", 2, "日期", "day-invalid")),
    ({"persons": PERSONS.replace("2025-05-12,1", "2025-05-12,3")}, ("persons", 2, "状态", "answer-unknown")),
    ({"persons": PERSONS.replace("-12,1,1", "-12,1,7")}, ("persons", 2, "性别", "category-unknown")),
    ({"persons": PERSONS.replace("S1,C1", "S1,", 1)}, ("persons", 2, "社区", "cluster-missing")),
    ({"persons": PERSONS.replace("S1,C1", ",C1", 1)}, ("persons", 2, "层", "stratum-missing")),
    ({"persons": PERSONS.replace("S1,C1", "S" * 61 + ",C1", 1)}, ("persons", 2, "层", "stratum-unfit")),
    ({"trips": TRIPS.replace(f"{A},1", "unheard,1")}, ("trips", 3, "人员", "person-unknown")),
    ({"trips": TRIPS + f"{B},1,1,,\n"}, ("trips", 6, "人员", "trip-of-nobody-who-answered")),
    ({"trips": TRIPS.replace(f"{A},1", f"{A},2")}, ("trips", 3, "序号", "position-twice")),
    ({"trips": TRIPS.replace(f"{A},1", f"{A},0")}, ("trips", 3, "序号", "position-invalid")),
    ({"trips": TRIPS.replace("1>5>1", "1>6>1")}, ("trips", 3, "方式", "mode-unknown")),
    ({"trips": TRIPS.replace("1>5>1", "")}, ("trips", 3, "方式", "mode-missing")),
    ({"trips": TRIPS.replace("1>5>1", ">".join("1" * 11))}, ("trips", 3, "方式", "legs-too-many")),
    ({"trips": TRIPS.replace("12.34", "-1")}, ("trips", 2, "公里", "distance-invalid")),
    ({"trips": TRIPS.replace("18:05", "18:75")}, ("trips", 2, "出发", "start-invalid")),
    ({"trips": TRIPS + "".join(f"{A},{n},1,,\n" for n in range(3, 62))}, ("trips", None, "人员", "trips-too-many")),
    ({"persons": PERSONS.replace(",1,1", ",2,1").replace(",1,2", ",2,2").replace(",1,9", ",2,9"),
      "trips": TRIPS.split("\n")[0] + "\n" + f"{A},1,1,,"}, ("persons", None, "状态", "nobody-answered")),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "expected"), FAULTY, ids=[expected[3] for _, expected in FAULTY])
def test_a_fault_is_told_by_table_row_column_and_reason_and_keeps_the_wave_out(
    tables: dict[str, str], expected: tuple[str, int | None, str, str]
) -> None:
    reading = read(**tables)
    faults = [(each.table.value, each.row, each.column, each.code) for each in reading.findings.faults]
    assert expected in faults
    assert all(each.reason_zh and each.reason_en for each in reading.findings.faults)
    assert reading.rows is None


def test_every_fault_but_those_of_other_shapes_has_been_seen() -> None:
    elsewhere = {"category-unfit", "categories-too-many", "trips-none"}
    assert {expected[3] for _, expected in FAULTY} | elsewhere == set(FAULTS)


def test_a_wave_without_any_trip_is_a_fault() -> None:
    first_person = "\n".join(PERSONS.split("\n")[:2])
    mapping = MAPPING.replace('columns = ["方式"]', 'columns = ["方式"]\nnone = ["0"]')
    reading = read(mapping=mapping, persons=first_person, trips=TRIPS.split("\n")[0] + "\n,,,,\n")
    assert {each.code for each in reading.findings.faults} == {"rows-missing"}
    findings = Findings()
    findings.fault(TableName.TRIPS, None, "", "trips-none")
    assert findings.faults[0].reason_en == "There is no trip at all"


def test_a_thousand_faults_are_shown_and_the_rest_is_counted() -> None:
    persons = PERSONS + "".join(f"x{n},,H1,0,S1,C1,30,,1,1\n" for n in range(FAULTS_SHOWN_MAX + 200))
    findings = read(persons=persons).findings
    assert len(findings.faults) == FAULTS_SHOWN_MAX
    assert findings.more == {"weight-invalid": 200}


def test_a_column_of_names_is_no_attribute_whatever_the_mapping_says() -> None:
    mapping = MAPPING.replace('column = "性别"', 'column = "姓名"').replace(
        'recode = { "1" = "male", "2" = "female" }\n', ""
    )
    persons = PERSONS + "".join(f"x{n},名{n},H1,1,S1,C1,30,,1,1\n" for n in range(300))
    codes = {each.code for each in read(mapping=mapping, persons=persons).findings.faults}
    assert codes == {"categories-too-many"}
    long = read(mapping=mapping, persons=PERSONS.replace("李四", "李" * 61)).findings.faults
    assert [(each.row, each.code) for each in long] == [(3, "category-unfit")]


def test_rows_that_are_legs_become_trips() -> None:
    mapping = MAPPING.replace("[trips]", "[trips]\nrows_are_legs = true")
    trips = f"人员,序号,方式,公里,出发\n{A},1,1,0.5,7:30\n{A},1,4,3,7:40\n{A},1,1,,8:00\n{A},2,8,9,18:00\n"
    rows = read(mapping=mapping, trips=trips).rows
    assert rows is not None
    found = [(trip.position, trip.legs, trip.distance_m, trip.started_minute) for trip in rows.trips]
    assert found == [(1, ("walk", "bus", "walk"), None, 450), (2, ("car-driver",), 9000, 1080)]


def without_households(ages_at_least: int) -> str:
    """A mapping of a survey that drew persons, and whose design says how old they are."""
    start, end = MAPPING.index("[households]"), MAPPING.index("[persons]")
    mapping = MAPPING[:start] + MAPPING[end:]
    for line in ('household = "户号"\n', 'cluster = "社区"\n', 'weight = "权重"\n'):
        mapping = mapping.replace(line, "")
    return mapping.replace('age = "年龄"', f"ages_at_least = {ages_at_least}\nweight_constant = 12.5")


def test_a_survey_of_persons_needs_no_households_ages_or_clusters_that_its_design_makes_plain(defined: Session) -> None:
    upload = upload_of(mapping=without_households(6), households=None)
    rows = read_wave(upload, importing.known_to(defined, upload)).rows
    assert rows is not None
    assert {(person.base_weight, person.age, person.household_key) for person in rows.persons} == {(12.5, None, None)}
    assert len({person.cluster for person in rows.persons}) == 5
    assert set(rows.attributes) == {"sex", "age_band"}

    for refused in (
        upload_of(mapping=without_households(5), households=None),
        upload_of(mapping=without_households(6)),
        upload_of(households=None),
    ):
        with pytest.raises(MappingInvalid):
            importing.known_to(defined, refused)


def test_what_is_of_no_single_row_is_a_warning() -> None:
    persons = PERSONS.replace("S1,C2", "S2,C2").replace(",36,", ",,").replace("H1,100.5", "H1,1", 1)
    households = HOUSEHOLDS + "H3,长虹街道,1,\n"
    trips = "\n".join(TRIPS.split("\n")[:3]) + "\n"
    warned = read(persons=persons, households=households, trips=trips).findings.warnings
    found = {each.code: (each.table.value, each.count, each.note) for each in warned}
    assert found["stratum-lone-cluster"] == ("persons", 2, "S1, S2")
    assert found["age-unknown"][1] == 1
    assert found["weights-uneven"][1] == 1
    assert found["household-without-persons"] == ("households", 1, "")
    assert found["many-stayed-home"] == ("trips", 3, "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('first_on = 2025-05-12', "first_on = 2025-06-12"),
        ('code = "household-2025-1"', 'code = "Household 2025"'),
        ('weight = "权重"', 'weight = "权重"\nweight_constant = 2.0'),
        ('weight = "权重"\n', ""),
        ('age = "年龄"\n', ""),
        ('household = "户号"\n', ""),
        ('cluster = "社区"', 'cluster = "社区"\ncluster_is_household = true'),
        ("bands = [0, 6, 18, 60]", "bands = [6, 0]"),
        ("[persons.attributes.sex]", "[persons.attributes.household_cars]"),
        ("[persons.attributes.sex]", "[persons.attributes.street]"),
        ("[trips]", "[trips]\nnames = '姓名'"),
        ("[trips]", "[trips"),
        ('source = "区交通局', 'source = "\\u0000区交通局'),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_say_how_to_read_is_refused(old: str, new: str) -> None:
    with pytest.raises(MappingInvalid):
        read_mapping(MAPPING.replace(old, new, 1).encode())


def test_times_are_read_as_institutes_write_them() -> None:
    assert [minute_of(cell) for cell in ("7:05", "07:05:00", "0705", "24:10", "48:00", "7", "noon")] == [
        425,
        425,
        425,
        1450,
        None,
        None,
        None,
    ]


# The files


def test_a_workbook_says_the_same_as_csv_and_gb18030_the_same_as_utf_8() -> None:
    workbook = openpyxl.Workbook()
    for line in PERSONS.strip().split("\n"):
        cells: list[object] = list(line.split(","))
        if line[0].isdigit():
            cells[3], cells[6] = float(str(cells[3])), float(str(cells[6]))
            if cells[7] == "2025-05-12":
                cells[7] = datetime(2025, 5, 12)  # noqa: DTZ001 -- as a spreadsheet has it
        workbook.active.append(cells)
    written = io.BytesIO()
    workbook.save(written)

    expected = read().rows
    assert expected is not None
    for persons in (written.getvalue(), PERSONS.encode("gb18030"), b"\xef\xbb\xbf" + PERSONS.encode()):
        rows = read(persons=persons).rows
        assert rows is not None
        assert rows.persons == expected.persons


def test_a_workbook_that_unpacks_without_end_or_is_none_is_refused() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(1000))
        archive.filelist[0].file_size = 601 * 2**20  # what the archive says that it unpacks to
    with pytest.raises(TableTooLarge):
        open_table(file("bomb.xlsx", bomb.getvalue()), ",")
    with pytest.raises(TableUnreadable):
        open_table(file("none.xlsx", b"PK\x03\x04 nothing"), ",")
    with pytest.raises(TableUnreadable):
        open_table(file("none.csv", b"a,b\0\n"), ",")
    with pytest.raises(TableTooLarge):
        open_table(file("wide.csv", ",".join("abc" for _ in range(301))), ",")


# Storing, giving out, taking back


def test_a_wave_is_stored_and_given_to_the_estimator_with_both_readings(defined: Session) -> None:
    wave = stored(defined)
    given = estimate_input(
        defined, [wave.code], definition_id="green-travel-2020", margin_set_code=None, options=OPTIONS
    )

    assert (wave.state, wave.year, wave.persons, wave.respondents, wave.trips) == (WaveState.ACCEPTED, 2025, 5, 4, 4)
    assert [each["table"] for each in wave.files] == ["mapping", "households", "persons", "trips"]
    assert wave.files[2]["sha256"] == hashlib.sha256(PERSONS.encode()).hexdigest()
    (only,) = given.waves
    assert (given.definition_id, given.population, given.options.margins) == ("green-travel-2020", "", [])
    # The child of 4 is no person of the definition; the one never reached is, for the adjustment.
    assert only.responded == [True, True, True, False]
    assert only.trips == [2, 0, 1, 0]
    assert only.green == {STRICT: [1, 0, 0, 0], WITH_E_BIKE: [1, 0, 1, 0]}
    assert only.trips_by_mode == {"urban-rail": [1, 0, 0, 0], "car-driver": [1, 0, 0, 0], "e-bike": [0, 0, 1, 0]}
    assert only.street == only.attributes["street"] == ["120104001", "120104001", "120104002", "120104002"]
    assert set(only.attributes) == {"street", "sex", "age_band", "household_cars"}
    assert only.stratum == ["S1"] * 4
    assert len(set(only.cluster)) == 2


def test_a_wave_undone_and_imported_again_gives_the_same_bytes(defined: Session) -> None:
    def given() -> bytes:
        return msgspec.json.encode(
            estimate_input(
                defined,
                ["household-2025-1"],
                definition_id="green-travel-2020",
                margin_set_code=None,
                options=OPTIONS,
            )
        )

    first = stored(defined)
    before = given()
    waves.undo(defined, None, first.id, now=NOW)
    with pytest.raises(WaveUnknown):
        given()
    assert stored(defined).id != first.id
    assert given() == before


def test_several_waves_of_one_year_are_given_together_and_of_two_years_not(defined: Session) -> None:
    stored(defined)
    autumn = MAPPING.replace("household-2025-1", "household-2025-2").replace("2025-05-25", "2025-05-26")
    stored(defined, mapping=autumn)
    winter = MAPPING.replace("household-2025-1", "household-2026-1").replace(
        "last_on = 2025-05-25", "last_on = 2026-01-25"
    )
    stored(defined, mapping=winter)

    def given(*codes: str) -> list[str]:
        found = estimate_input(defined, codes, definition_id="green-travel-2020", margin_set_code=None, options=OPTIONS)
        return [wave.id for wave in found.waves]

    assert given("household-2025-2", "household-2025-1") == ["household-2025-1", "household-2025-2"]
    with pytest.raises(WavesOfSeveralYears):
        given("household-2025-1", "household-2026-1")


def test_an_old_wave_is_read_under_a_new_definition_by_its_legs(defined: Session) -> None:
    stored(defined)
    entry = definition.read_definitions()[0]
    walking_first = [
        msgspec.structs.replace(mode, rank=500) if mode.key == "urban-rail" else mode for mode in entry.modes
    ]
    without_cars = [mode for mode in entry.modes if mode.key != "car-driver"]
    definition.load(
        defined,
        [
            msgspec.structs.replace(entry, id="walking-first", modes=walking_first),
            msgspec.structs.replace(entry, id="without-cars", modes=without_cars),
        ],
        now=NOW,
    )

    def given(definition_id: str) -> dict[str, list[int]]:
        found = estimate_input(
            defined, ["household-2025-1"], definition_id=definition_id, margin_set_code=None, options=OPTIONS
        )
        return found.waves[0].trips_by_mode

    assert given("walking-first")["walk"] == [1, 0, 0, 0]
    with pytest.raises(WaveOfOtherModes):
        given("without-cars")


def test_a_wave_with_a_fault_leaves_nothing_and_a_code_is_used_once(defined: Session) -> None:
    with pytest.raises(WaveRefused) as refused:
        stored(defined, trips=TRIPS.replace("1>5>1", "1>6>1"))
    assert refused.value.extra["report"]["faults"][0]["code"] == "mode-unknown"
    assert defined.scalar(sa.select(sa.func.count()).select_from(SurveyWave)) == 0
    stored(defined)
    with pytest.raises((WaveCodeTaken, DBAPIError), match="survey_wave_code_key"), defined.begin_nested():
        stored(defined)
    with pytest.raises(MappingInvalid), defined.begin_nested():
        stored(defined, mapping=MAPPING.replace('"walk"', '"sled"'))


def test_an_undone_wave_leaves_a_note_and_no_person(defined: Session) -> None:
    wave = stored(defined)
    waves.undo(defined, None, wave.id, now=NOW)
    counts = [
        defined.scalar(sa.select(sa.func.count()).select_from(table).where(table.wave_id == wave.id))
        for table in (SurveyHousehold, SurveyPerson, SurveyTrip)
    ]
    assert counts == [0, 0, 0]
    assert (wave.state, wave.undone_at, wave.trips) == (WaveState.UNDONE, NOW, 4)
    with pytest.raises(WaveUndone):
        waves.undo(defined, None, wave.id, now=NOW)
    with pytest.raises(WaveUndone):
        waves.lock(defined, [wave.id])


def test_a_wave_that_a_release_rests_on_cannot_be_undone(defined: Session) -> None:
    wave = stored(defined)
    waves.lock(defined, [wave.id])
    with pytest.raises(WaveLocked):
        waves.undo(defined, None, wave.id, now=NOW)
    assert defined.get_one(SurveyWave, wave.id, populate_existing=True).locked


@pytest.mark.parametrize(
    ("first", "second", "refusal"),
    [
        (lambda session, wave_id: waves.lock(session, [wave_id]), partial(waves.undo, now=NOW), WaveLocked),
        (
            lambda session, wave_id: waves.undo(session, None, wave_id, now=NOW),
            lambda session, _, wave_id: waves.lock(session, [wave_id]),
            WaveUndone,
        ),
    ],
    ids=["published-first", "undone-first"],
)
def test_of_publishing_and_undoing_at_once_the_first_wins_and_the_other_is_told(
    make_database: Callable[[], str],
    first: Callable[..., None],
    second: Callable[..., None],
    refusal: type[Exception],
) -> None:
    engine = sa.create_engine(psycopg_url(make_database()), poolclass=sa.NullPool)
    with Session(engine) as arranging:
        wave_id = stored(arranging).id
        arranging.commit()
    with Session(engine) as one, Session(engine) as other, ThreadPoolExecutor(1) as thread:
        other_process = other.scalar(sa.text("SELECT pg_backend_pid()"))
        first(one, wave_id)  # held open
        told = thread.submit(second, other, None, wave_id)
        waiting = sa.text("SELECT cardinality(pg_blocking_pids(:process)) > 0")
        deadline = time.monotonic() + 10
        while not one.scalar(waiting, {"process": other_process}):
            assert time.monotonic() < deadline, "the second did not wait for the first"
            time.sleep(0.01)
        one.commit()
        with pytest.raises(refusal):
            told.result(10)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE survey_trip SET main_mode = 'walk', legs = ARRAY['walk']",
        "UPDATE survey_person SET base_weight = 9",
        "DELETE FROM survey_trip",
        "INSERT INTO survey_household (wave_id, key, attributes) SELECT id, 'late', '{}' FROM survey_wave",
        "UPDATE survey_wave SET source = 'better'",
        "UPDATE survey_wave SET locked = false",
        "UPDATE survey_wave SET state = 'undone', undone_at = now()",
        "UPDATE survey_wave SET state = 'draft'",
        "DELETE FROM survey_wave",
        "TRUNCATE survey_trip",
        "UPDATE survey_wave SET locked = false, state = 'undone', undone_at = now()",
        "INSERT INTO survey_wave SELECT * FROM jsonb_populate_record(NULL::survey_wave, (SELECT to_jsonb(w) || "
        "jsonb_build_object('id', gen_random_uuid(), 'code', 'other', 'locked', false) FROM survey_wave w))",
    ],
)
def test_the_database_holds_a_locked_wave_as_it_is(defined: Session, statement: str) -> None:
    wave = stored(defined)
    waves.lock(defined, [wave.id])
    defined.commit()
    # The owner's own mistakes stop here too.
    defined.execute(sa.text("SET LOCAL ROLE NONE"))
    refusal = r"is stored|append-only|comes with|begins as|locked_check"
    with pytest.raises(DBAPIError, match=refusal), defined.begin_nested():
        defined.execute(sa.text(statement))


# Over HTTP and by command


def form(**changed: str) -> dict[str, Any]:
    parts = {"mapping": MAPPING, "households": HOUSEHOLDS, "persons": PERSONS, "trips": TRIPS} | changed
    return {name: (io.BytesIO(text.encode()), f"{name}.csv") for name, text in parts.items()}


@pytest.fixture
def district(defined: Session, sign_in_staff: Callable[..., dict[str, str]]) -> dict[str, str]:
    """The headers of a member of the district's staff."""
    return sign_in_staff("district", division="120104")


def test_the_district_checks_imports_reads_and_undoes_a_wave(client: FlaskClient, district: dict[str, str]) -> None:
    checked = client.post("/api/v1/share/waves?dry_run=true", data=form(), headers=district)
    assert (checked.status_code, checked.json["wave"], checked.json["report"]["fit"]) == (200, None, True)
    assert client.get("/api/v1/share/waves", headers=district).json["items"] == []

    imported = client.post("/api/v1/share/waves", data=form(), headers=district)
    assert (imported.status_code, imported.json["wave"]["respondents"]) == (201, 4)
    again = client.post("/api/v1/share/waves", data=form(), headers=district)
    assert (again.status_code, again.json["code"]) == (409, "wave-code-taken")

    address = f"/api/v1/share/waves/{imported.json['wave']['id']}"
    detail = client.get(address, headers=district).json
    assert [each["code"] for each in detail["warnings"]] == ["category-missing", "younger-left-out"]
    assert detail["mapping"]["persons"]["weight"] == "权重"
    undone = client.delete(address, headers=district)
    assert (undone.status_code, undone.json["state"]) == (200, "undone")
    assert [each["state"] for each in client.get("/api/v1/share/waves", headers=district).json["items"]] == ["undone"]


def test_a_refused_wave_says_where_and_a_form_without_tables_what_is_missing(
    client: FlaskClient, district: dict[str, str]
) -> None:
    refused = client.post("/api/v1/share/waves", data=form(trips=TRIPS.replace("1>5", "1>6")), headers=district)
    assert (refused.status_code, refused.json["code"]) == (422, "wave-refused")
    (fault,) = refused.json["report"]["faults"]
    assert (fault["table"], fault["row"], fault["column"], fault["code"]) == ("trips", 3, "方式", "mode-unknown")
    parts = form()
    del parts["trips"]
    assert client.post("/api/v1/share/waves", data=parts, headers=district).json["code"] == "survey-tables-missing"
    assert client.post("/api/v1/share/waves", json={}, headers=district).status_code == 415
    mapping = client.post("/api/v1/share/waves", data=form(mapping="[wave"), headers=district)
    assert (mapping.status_code, mapping.json["code"]) == (422, "wave-mapping-invalid")


def test_a_street_reads_no_waves_and_a_wave_of_nobody_is_not_found(
    client: FlaskClient, district: dict[str, str], sign_in_staff: Callable[..., dict[str, str]]
) -> None:
    street = sign_in_staff("street", division="120104001")
    assert client.get("/api/v1/share/waves", headers=street).status_code == 403
    assert client.post("/api/v1/share/waves", data=form(), headers=street).status_code == 403
    nowhere = "/api/v1/share/waves/018f0000-0000-7000-8000-000000000000"
    assert client.get(nowhere, headers=district).status_code == 404
    assert client.delete(nowhere, headers=district).status_code == 404


def test_the_staff_of_another_district_find_no_waves_and_no_margins(
    client: FlaskClient, defined: Session, district: dict[str, str], sign_in_staff: Callable[..., dict[str, str]]
) -> None:
    day = date(2023, 6, 30)
    defined.add(Division(code="120103", level=DivisionLevel.DISTRICT, name="河西区", edition_on=day, valid_from=day))
    defined.commit()
    imported = client.post("/api/v1/share/waves", data=form(), headers=district).json["wave"]["id"]
    stranger = sign_in_staff("district", division="120103")
    assert client.post("/api/v1/share/waves", data=form(), headers=stranger).status_code == 404
    for address in ("waves", f"waves/{imported}", "margins", "margins/nankai-2020"):
        assert client.get(f"/api/v1/share/{address}", headers=stranger).status_code == 404
    assert client.delete(f"/api/v1/share/waves/{imported}", headers=stranger).status_code == 404
    assert client.get(f"/api/v1/share/waves/{imported}", headers=district).status_code == 200


def test_an_operator_checks_imports_lists_and_undoes_by_command(app: Flask, defined: Session, tmp_path: Any) -> None:
    paths = {}
    for name, text in {"mapping": MAPPING, "households": HOUSEHOLDS, "persons": PERSONS, "trips": TRIPS}.items():
        paths[name] = tmp_path / f"{name}.{'toml' if name == 'mapping' else 'csv'}"
        paths[name].write_text(text, "utf-8")
    words = ["share", "import-wave", *(word for name in paths for word in (f"--{name}", str(paths[name])))]
    run = app.test_cli_runner().invoke

    dry = run(args=[*words, "--dry-run"])
    assert (dry.exit_code, "nothing stored" in dry.output) == (0, True), dry.output
    paths["trips"].write_text(TRIPS.replace("1>5>1", "1>6>1"), "utf-8")
    refused = run(args=words)
    assert refused.exit_code == 1
    assert "fault: trips, row 3, column '方式'" in refused.output
    paths["trips"].write_text(TRIPS, "utf-8")
    done = run(args=words)
    assert (done.exit_code, "5 persons, 4 of them answered, 4 trips" in done.output) == (0, True), done.output
    assert "household-2025-1  household-survey  2025" in run(args=["share", "waves"]).output
    assert run(args=["share", "undo-wave", "household-2025-1"]).exit_code == 0
    assert run(args=["share", "undo-wave", "household-2025-1"]).exit_code == 1
    assert run(args=["share", "load-definitions"]).output.strip() == "share: added nothing new"


def test_a_wave_that_nobody_knows_is_not_found(defined: Session) -> None:
    with pytest.raises(NotFound):
        waves.wave_coded(defined, "nothing")
    assert microdata.WAVES_MAX == 24

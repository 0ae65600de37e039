"""Margins: read with their source and date, of one population, corrected until a release rests on them."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from survey_builders import upload_of

from points.share.estimate.exchange import Options
from points.share.survey import definition, importing, margins
from points.share.survey.margins import MarginDataError, MarginEntry, MarginsLocked, read_margins
from points.share.survey.microdata import MarginsDoNotFit, MarginsUnknown, estimate_input
from points.share.survey.models import MarginCell, MarginSet

NOW = datetime(2026, 11, 18, 4, 0, tzinfo=UTC)
OPTIONS = Options(margins=[], adjustment_cells=[])

TOML = """
code = "nankai-2020"
population = "南开区6岁及以上常住人口"
source = "第七次全国人口普查分街道数据"
confidence = "C"
as_of = 2020-11-01
age_min = 6

[margins.sex]
male = 420000
female = 430000

[margins.age_band]
"6-17" = 90000
"18-59" = 560000
"60+" = 200000

[margins."age_band*sex"]
"6-17*male" = 46000
"6-17*female" = 44000
"18-59*male" = 279000
"18-59*female" = 281000
"60+*male" = 95000
"60+*female" = 105000
"""

CSV = """code,population,source,confidence,as_of,age_min,variable,category,persons
nankai-2020,南开区6岁及以上常住人口,第七次全国人口普查分街道数据,C,2020-11-01,6,sex,male,420000
nankai-2020,南开区6岁及以上常住人口,第七次全国人口普查分街道数据,C,2020-11-01,6,sex,female,430000
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """A function that writes a file and gives its path."""

    def write(text: str, name: str = "margins.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture
def entry(write: Callable[..., Path]) -> MarginEntry:
    """The margins of TOML."""
    return read_margins(write(TOML))


@pytest.fixture
def waved(session: Session) -> Session:
    """A session with a wave."""
    definition.load(session, definition.read_definitions(), now=NOW)
    upload = upload_of()
    importing.store(session, None, importing.read_wave(upload, importing.known_to(session, upload)), now=NOW)
    session.commit()
    return session


def test_toml_and_csv_say_the_same(write: Callable[..., Path], entry: MarginEntry) -> None:
    of_csv = read_margins(write(CSV, "margins.csv"))
    assert of_csv.margins == {"sex": entry.margins["sex"]}
    assert (of_csv.code, of_csv.as_of, of_csv.age_min, of_csv.confidence) == (
        entry.code,
        date(2020, 11, 1),
        6,
        entry.confidence,
    )


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (TOML.replace("200000", "195000"), "m.toml", "age_band adds up to 845000 and sex to 850000"),
        (TOML.replace('"6-17*male"', '"6-17"'), "m.toml", "no category of age_band"),
        (TOML.replace("[margins.sex]", '[margins."Sex of"]'), "m.toml", "is no attribute"),
        (TOML.replace("age_band*sex", "age_band*age_band"), "m.toml", "is no attribute"),
        (TOML.replace("420000", "-1"), "m.toml", "Expected `int` >= 0"),
        (TOML.replace("420000", "1.5"), "m.toml", "Expected `int`"),
        (TOML.replace('source = "第七次全国人口普查分街道数据"\n', ""), "m.toml", "source"),
        (TOML.replace('"C"', '"sure"'), "m.toml", "sure"),
        (TOML.split("[margins", maxsplit=1)[0] + "[margins]", "m.toml", "margins"),
        (CSV.replace("6,sex,female", "7,sex,female"), "m.csv", "differs in code"),
        (CSV.replace("female", "male"), "m.csv", "stands here twice"),
        (CSV.replace("420000", "4.2"), "m.csv", "no number of persons"),
        (CSV.replace("age_min", "ages"), "m.csv", "the columns must be"),
        (CSV.split("\n", maxsplit=1)[0], "m.csv", "no line"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_and_says_why(
    write: Callable[..., Path], text: str, name: str, says: str
) -> None:
    with pytest.raises(MarginDataError, match=says):
        read_margins(write(text, name))


def test_totals_may_differ_by_as_much_as_tables_are_rounded(write: Callable[..., Path]) -> None:
    assert read_margins(write(TOML.replace("200000", "196000"))).margins["age_band"]["60+"] == 196000


def test_margins_reach_the_estimate_with_their_population_source_and_date(waved: Session, entry: MarginEntry) -> None:
    assert margins.load(waved, entry, now=NOW)
    given = estimate_input(
        waved,
        ["household-2025-1"],
        definition_id="green-travel-2020",
        margin_set_code="nankai-2020",
        options=OPTIONS,
    )
    assert given.population == "南开区6岁及以上常住人口; 第七次全国人口普查分街道数据; 2020-11-01 [C]"
    assert [margin.variable for margin in given.options.margins] == ["age_band", "age_band*sex", "sex"]
    assert given.options.margins[2].persons == {"female": 430000.0, "male": 420000.0}


def test_margins_of_other_ages_or_of_what_no_wave_knows_do_not_fit(waved: Session, write: Callable[..., Path]) -> None:
    margins.load(waved, read_margins(write(TOML.replace("age_min = 6", "age_min = 0"))), now=NOW)
    cars = TOML.replace("nankai-2020", "cars-2020").replace("margins.sex", "margins.schooling")
    margins.load(waved, read_margins(write(cars)), now=NOW)

    for code, says in (("nankai-2020", "from the age of 0"), ("cars-2020", "no attribute 'schooling'")):
        with pytest.raises(MarginsDoNotFit, match=says):
            estimate_input(
                waved,
                ["household-2025-1"],
                definition_id="green-travel-2020",
                margin_set_code=code,
                options=OPTIONS,
            )
    with pytest.raises(MarginsUnknown):
        estimate_input(
            waved, ["household-2025-1"], definition_id="green-travel-2020", margin_set_code="none", options=OPTIONS
        )


def test_margins_are_corrected_until_a_release_rests_on_them(
    session: Session, entry: MarginEntry, write: Callable[..., Path]
) -> None:
    corrected = read_margins(write(TOML.replace("430000", "430500")))

    assert margins.load(session, entry, now=NOW)
    assert not margins.load(session, entry, now=NOW)
    assert margins.load(session, corrected, now=NOW)
    assert session.get_one(MarginSet, "nankai-2020").persons == 850_500
    assert session.scalar(sa.select(MarginCell.persons).where(MarginCell.category == "female")) == 430_500
    margins.lock(session, "nankai-2020")
    assert not margins.load(session, corrected, now=NOW)
    with pytest.raises(MarginsLocked):
        margins.load(session, entry, now=NOW)
    with pytest.raises(MarginsUnknown):
        margins.lock(session, "none")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE margin_cell SET persons = 1",
        "DELETE FROM margin_cell",
        "INSERT INTO margin_cell VALUES ('nankai-2020', 'sex', 'other', 1)",
        "UPDATE margin_set SET source = 'better'",
        "UPDATE margin_set SET locked = false",
        "DELETE FROM margin_set",
        "TRUNCATE margin_cell",
    ],
)
def test_the_database_holds_locked_margins_as_they_are(session: Session, entry: MarginEntry, statement: str) -> None:
    margins.load(session, entry, now=NOW)
    margins.lock(session, entry.code)
    session.execute(sa.text("SET LOCAL ROLE NONE"))  # the owner's own mistakes stop here too
    with pytest.raises(DBAPIError, match=r"rests on|append-only"), session.begin_nested():
        session.execute(sa.text(statement))


def test_an_operator_loads_margins_and_staff_read_them(
    app: Flask,
    client: FlaskClient,
    write: Callable[..., Path],
    sign_in_staff: Callable[..., dict[str, str]],
) -> None:
    run = app.test_cli_runner().invoke
    loaded = run(args=["share", "load-margins", str(write(TOML))])
    assert (loaded.exit_code, loaded.output.strip()) == (0, "share: margins nankai-2020, 11 cells, loaded")
    assert run(args=["share", "load-margins", str(write(TOML.replace("200000", "1")))]).exit_code == 1

    street = sign_in_staff("street", division="120104001")
    listed = client.get("/api/v1/share/margins", headers=street).json["items"]
    assert [(each["code"], each["persons"], each["locked"]) for each in listed] == [("nankai-2020", 850_000, False)]
    detail = client.get("/api/v1/share/margins/nankai-2020", headers=street).json
    assert len(detail["cells"]) == 11
    for unknown in ("none", "%00", "a" * 500):
        assert client.get(f"/api/v1/share/margins/{unknown}", headers=street).status_code == 404
    community = sign_in_staff("community-staff", division="120104001001")
    assert client.get("/api/v1/share/margins", headers=community).status_code == 403

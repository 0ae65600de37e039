"""Census populations of streets and communities: read from a file, every fault named, corrected by loading again."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from server.places import populations
from server.places.models import Confidence
from server.places.populations import PopulationDataError, PopulationEntry, read_populations

HEAD = "code,year,persons,source,confidence\n"
STREET, COMMUNITY = "120104001", "120104001001"


def written(folder: Path, text: str) -> Path:
    path = folder / "populations.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_populations_are_read_loaded_and_corrected(session: Session, tmp_path: Path) -> None:
    path = written(tmp_path, f"\ufeff{HEAD}{STREET},2020,74000,街道年鉴,V2\n{COMMUNITY}, 2024 ,5200,社区台账,R\n")
    entries = read_populations(path)
    assert entries[0] == PopulationEntry(STREET, 2020, 74_000, "街道年鉴", Confidence.SECONDARY)
    assert (populations.load(session, entries), populations.load(session, entries)) == (2, 2)
    populations.load(session, [PopulationEntry(COMMUNITY, 2024, 5300, "社区台账", Confidence.VERIFIED)])
    populations.load(session, [PopulationEntry(COMMUNITY, 2020, 5000, "社区台账", Confidence.RECALLED)])
    found = populations.populations_within(session, COMMUNITY)
    assert [(row.year, row.persons, row.confidence.value) for row in found[COMMUNITY]] == [
        (2024, 5300, "V"),
        (2020, 5000, "R"),
    ]
    assert list(found) == [COMMUNITY]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("code,persons\n", "the columns must be"),
        (f"{HEAD}12,2020,5,x,V\n", "line 2: '12' is no code"),
        (f"{HEAD}{STREET},1949,5,x,V\n", "is no year"),
        (f"{HEAD}{STREET},2020,0,x,V\n", "is no number of persons"),
        (f"{HEAD}{STREET},2020,5.5,x,V\n", "is no number of persons"),
        (f"{HEAD}{STREET},2020,60000000,x,V\n", "is no number of persons"),
        (f"{HEAD}{STREET},2020,5,,V\n", "needs a source"),
        (f"{HEAD}{STREET},2020,5,x,Z\n", "is no confidence"),
        (f"{HEAD}{STREET},2020,5,x\n", "not 5 columns"),
        (f"{HEAD}{STREET},2020,5,x,V,more\n", "not 5 columns"),
        (f"{HEAD}{STREET},2020,5,x,V\n{STREET},2020,6,x,V\n", "line 3: 120104001 of 2020 stands here twice"),
    ],
)
def test_a_fault_in_the_file_is_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(PopulationDataError, match=r"populations\.csv") as refusal:
        read_populations(written(tmp_path, text))
    assert fault in str(refusal.value)


def test_a_division_that_nobody_knows_is_refused_with_the_whole_file(session: Session) -> None:
    entries = [PopulationEntry(code, 2020, 5, "x", Confidence.VERIFIED) for code in (STREET, "999999999")]
    with pytest.raises(PopulationDataError, match="999999999"):
        populations.load(session, entries)
    assert populations.populations_within(session, STREET) == {}


@pytest.mark.parametrize(
    ("year", "persons", "source"), [(1900, 5, "x"), (2020, 0, "x"), (2020, 50_000_001, "x"), (2020, 5, "")]
)
def test_the_database_holds_the_limits_too(session: Session, year: int, persons: int, source: str) -> None:
    with pytest.raises(IntegrityError):
        session.execute(
            sa.text("INSERT INTO division_population VALUES (:code, :year, :source, :persons, 'V')"),
            {"code": STREET, "year": year, "persons": persons, "source": source},
        )
    session.rollback()


def test_the_command_loads_a_file_and_names_its_fault(app: Flask, session: Session, tmp_path: Path) -> None:
    runner = app.test_cli_runner()
    done = runner.invoke(args=["places", "load-populations", str(written(tmp_path, f"{HEAD}{STREET},2020,5,x,V\n"))])
    assert (done.exit_code, "1 populations loaded" in done.output) == (0, True), done.output
    assert populations.populations_within(session, STREET)[STREET][0].persons == 5
    bad = runner.invoke(args=["places", "load-populations", str(written(tmp_path, f"{HEAD}x,2020,5,x,V\n"))])
    assert (bad.exit_code, "'x' is no code of a division" in bad.output) == (1, True)

"""The short form of the replay kit: labelled honest residents and attackers through the real award path and detectors.

`make replay-kit` is the long form: 10,000 residents for 30 days, in docs/evidence.md.
"""

from dataclasses import replace

from flask import Flask
from sqlalchemy.orm import Session

from bench.replay_kit import course, table
from bench.replay_kit.__main__ import SHORT
from bench.replay_kit.table import FamilyRow
from bench.replay_kit.town import HARD_CASES
from points.earning.counts import COUNT_CHECKS
from points.ledger import verification
from server.settings import Settings


def test_families_of_attackers_are_found_within_a_day_and_the_honest_left_alone(
    app: Flask, session: Session, base_settings: Settings
) -> None:
    folder, data_key = base_settings.district_folder, base_settings.data_key
    run = course.prepare(session, SHORT, data_key=data_key)

    course.drive(session, run, data_key=data_key, folder=folder)

    result = table.read(session, run)
    shown = "\n".join(table.lines(result, run))
    assert result.fails == [], shown
    known = [row for row in result.families if not row.careful]
    assert len(known) == 8
    assert all(row.sent for row in known), shown
    # Whoever is careful is not found, and gains no more than the rules let them.
    assert all(row.paid_points <= row.bound_points for row in result.families), shown
    assert all(row.people for row in result.honest), shown
    assert {row.hard for row in result.honest} == {"", *HARD_CASES}
    assert result.precision >= 0.9, shown
    wrong = [each.name for each in verification.run(session, COUNT_CHECKS) if each.first_wrong]
    assert wrong == []


def test_the_table_fails_whoever_is_not_found_and_too_many_honest_people() -> None:
    row = FamilyRow("some", "某", "some", False, 10, 50, 80, 0, 100, 10, 9)
    honest = table.HonestRow("", 100, 1, 0)
    assert table.Result([row], [honest], [], 1).fails == []
    assert table.Result([replace(row, found=8)], [honest], [], 1).fails == ["some: 8/10"]
    # Refused from the first to the last: there is nobody to be found.
    assert table.Result([replace(row, paid_points=0, paid_accounts=0, found=0)], [honest], [], 1).fails == []
    assert table.Result([replace(row, careful=True, found=0)], [honest], [], 1).fails == []
    assert table.Result([row], [replace(honest, touched=2)], [], 1).fails == ["honest residents touched: 2.00%"]

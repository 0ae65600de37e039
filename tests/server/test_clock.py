"""The clock: real in production whatever lies in the data folder, and moved forward in a rehearsal."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from flask import Flask

from server import clock
from server.settings import Settings
from wsgi import create_app

NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)


@pytest.fixture
def settings(base_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings with a data folder of their own; afterwards the process's clock is what it was."""
    before = clock._rehearsal
    with time_machine.travel(NOON, tick=False):
        yield replace(base_settings, data_folder=tmp_path)
    clock.follow_rehearsal(before)


def command(app: Flask, *words: str) -> tuple[int, str]:
    done = app.test_cli_runner().invoke(args=["clock", *words])
    return done.exit_code, done.output


def test_a_rehearsal_moves_the_clock_forward_and_back_to_the_real_time(settings: Settings) -> None:
    app = create_app(settings)
    assert clock.now() == NOON

    assert command(app, "forward", "8") == (0, "clock: 2026-11-26 12:00 UTC\n")
    assert clock.now() == NOON + timedelta(days=8)
    assert command(app, "forward", "400")[0] == 0
    assert clock.now() == NOON + timedelta(days=408)

    assert command(app, "real")[0] == 0
    assert clock.now() == NOON


@pytest.mark.parametrize("days", ["0", "-1", "3661", "soon"])
def test_a_rehearsal_goes_forward_only_and_not_for_ever(settings: Settings, days: str) -> None:
    app = create_app(settings)
    assert command(app, "forward", "--", days)[0] == 2
    assert clock.now() == NOON


def test_a_rehearsal_ends_after_ten_years_in_all(settings: Settings) -> None:
    app = create_app(settings)
    assert command(app, "forward", "3660")[0] == 0
    assert command(app, "forward", "1")[0] == 1
    assert clock.now() == NOON + timedelta(days=3660)


def test_a_production_clock_cannot_be_moved(settings: Settings) -> None:
    file = settings.data_folder / "clock-ahead"
    file.write_text("86400", "ascii")
    app = create_app(replace(settings, environment="production"))

    assert clock.now() == NOON
    status, said = command(app, "forward", "1")
    assert status == 1
    assert "production" in said
    assert file.read_text("ascii") == "86400"

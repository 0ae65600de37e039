"""Applications that only tests serve: without rate limits, and with a guard taken out."""

import time
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from flask import Flask

from points.ledger import entries
from points.ledger.models import Lot
from server.clock import business_day
from server.settings import Settings
from wsgi import create_app


def create_unlimited_app() -> Flask:
    """The application without rate limits, for more calls than a person makes."""
    return create_app(replace(Settings.from_environment(), rate_limits=False))


def create_naive_app() -> Flask:
    """The application with a spend that reads the balance first and writes afterwards: it must be caught."""
    entries._draw = _naive_draw  # type: ignore[assignment]
    return create_unlimited_app()


def _naive_draw(session: Any, resident_id: Any, points: int, *, now: Any) -> list[entries.Draw]:
    mine = (Lot.resident_id == resident_id, Lot.expires_on >= business_day(now))
    lots = session.execute(sa.select(Lot.expires_on, Lot.remaining_points).where(*mine)).all()
    if sum(points for _, points in lots) < points:
        return []
    time.sleep(0.01)
    expires_on, remaining = lots[0]
    session.execute(sa.update(Lot).where(*mine).values(remaining_points=remaining - points))
    return [entries.Draw(expires_on, points)]

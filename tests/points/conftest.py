"""Fixtures of the points room."""

from collections.abc import Callable
from uuid import UUID

import pytest
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import Feed
from sorting_builders import COMMUNITY, declare_none
from sqlalchemy.orm import Session

from points.partners.models import Binding
from server.access import Role
from server.clock import now
from server.settings import Settings


@pytest.fixture
def feed(client: FlaskClient, session: Session, base_settings: Settings, clock: time_machine.Traveller) -> Feed:
    """A partner with a key; time stands still at noon of Wednesday, 18 November 2026."""
    made = Feed(client, session, base_settings.data_key, now)
    made.create()
    return made


@pytest.fixture
def member(session: Session, feed: Feed, make_resident: Callable[..., UUID]) -> Callable[..., UUID]:
    """A function that adds a resident who bound the partner under a member id, and gives the resident's id."""

    def make(member_id: str = "m-1", partner: str | None = None) -> UUID:
        resident_id = make_resident()
        session.add(
            Binding(partner_code=partner or feed.code, member_id=member_id, resident_id=resident_id, bound_at=now())
        )
        session.commit()
        return resident_id

    return make


@pytest.fixture
def key(app: Flask) -> bytes:
    """The service's data key."""
    settings: Settings = app.extensions["tanpuhui_settings"]
    return settings.data_key


@pytest.fixture
def supervisor(make_staff: Callable[..., UUID], session: Session) -> UUID:
    """A supervisor who may confirm what residents bring."""
    made = make_staff(Role.SUPERVISOR, division=COMMUNITY)
    declare_none(session, made)
    return made

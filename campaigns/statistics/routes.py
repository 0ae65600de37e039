"""The report over HTTP: one page for everybody, the exact figures for staff."""

from datetime import date
from typing import Any

import marshmallow as ma
from flask import Response, current_app

from campaigns.statistics import report
from campaigns.statistics.report import Period, ScopeReport, Summary
from server import audit
from server.access import Permission, actor, public, require
from server.api import Blueprint
from server.cache import cache
from server.clock import business_day, now
from server.database import transaction
from server.settings import Settings

blueprint = Blueprint(
    "report", __name__, url_prefix="/api/v1/report", description="统计与报告 · Participation and recorded trips"
)

# Long enough that a crowd on the page costs one computation a minute, short enough to look alive.
SUMMARY_CACHE_S = 60


def _in_our_time(day: date) -> None:
    if not 2020 <= day.year <= 2100:
        raise ma.ValidationError("Must be a day from 2020 to 2100.")


class PeriodQuery(ma.Schema):
    """Business days, both included; at most 366, by default the last 30."""

    first_on = ma.fields.Date(data_key="from", load_default=None, validate=_in_our_time)
    last_on = ma.fields.Date(data_key="to", load_default=None, validate=_in_our_time)


class PlaceView(ma.Schema):
    """A division by its official code."""

    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)


class CommunityCountsView(PlaceView):
    """Residents of one community; null where the count may not be published."""

    registered = ma.fields.Integer(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True, allow_none=True)


class StreetCountsView(ma.Schema):
    """Residents of one street; null where the count may not be published."""

    street_code = ma.fields.String(required=True, attribute="code")
    street_name = ma.fields.String(required=True, attribute="name")
    registered = ma.fields.Integer(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True, allow_none=True)
    communities = ma.fields.List(ma.fields.Nested(CommunityCountsView), required=True)


class ModeTripsView(ma.Schema):
    """Recorded trips of one mode; null where fewer than 10 residents made them."""

    mode = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    trips = ma.fields.Integer(required=True, allow_none=True)


class RecordedTripsView(ma.Schema):
    """Trips recorded on the platform. Not the official green-travel share."""

    label = ma.fields.Constant(report.RECORDED_TRIPS_LABEL)
    modes = ma.fields.List(ma.fields.Nested(ModeTripsView), required=True)
    note = ma.fields.Constant(report.RECORDED_TRIPS_NOTE)


class GoalPointView(ma.Schema):
    """The share of all trips that a year aims at."""

    year = ma.fields.Integer(required=True)
    share = ma.fields.Float(required=True)
    about = ma.fields.Boolean(required=True, metadata={"description": "The source says 左右: not a hard line"})


class GoalView(ma.Schema):
    """The goal line of the green-travel share, and whether it is met: a survey tells, not our records."""

    points = ma.fields.List(ma.fields.Nested(GoalPointView), required=True)
    estimate = ma.fields.Float(required=True, allow_none=True)
    answer = ma.fields.String(required=True)
    source = ma.fields.String(required=True, allow_none=True)


class MethodSavingsView(ma.Schema):
    """Grams of CO2e saved under one method; methods are never added up. Null below 10 residents."""

    method = ma.fields.String(required=True)
    grams = ma.fields.Integer(required=True, allow_none=True)


class SummaryView(ma.Schema):
    """The public report."""

    district = ma.fields.Nested(PlaceView, required=True)
    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    population_note = ma.fields.String(required=True, allow_none=True)
    participation = ma.fields.List(ma.fields.Nested(StreetCountsView), required=True)
    recorded_trips = ma.fields.Nested(RecordedTripsView, required=True)
    goal = ma.fields.Nested(GoalView, required=True)
    savings = ma.fields.List(ma.fields.Nested(MethodSavingsView), required=True)


class ScopeReportView(ma.Schema):
    """The exact report of the staff member's own scope; streets hold only its communities."""

    division = ma.fields.Nested(PlaceView, required=True)
    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    registered = ma.fields.Integer(required=True)
    participants = ma.fields.Integer(required=True)
    participation = ma.fields.List(ma.fields.Nested(StreetCountsView), required=True)
    recorded_trips = ma.fields.Nested(RecordedTripsView, required=True)
    savings = ma.fields.List(ma.fields.Nested(MethodSavingsView), required=True)


def _summary_members(made: Summary) -> dict[str, Any]:
    goal = {
        "points": made.district.goal_points,
        "estimate": None,
        "answer": report.GOAL_ANSWER,
        "source": made.district.goal_source,
    }
    return {
        "district": made.district,
        "first_on": made.period.first_on,
        "last_on": made.period.last_on,
        "population_note": made.district.population_note,
        "participation": made.participation,
        "recorded_trips": {"modes": made.trips},
        "goal": goal,
        "savings": made.savings,
    }


def _scope_members(made: ScopeReport) -> dict[str, Any]:
    return {
        "division": made.division,
        "first_on": made.period.first_on,
        "last_on": made.period.last_on,
        "registered": made.registered,
        "participants": made.participants,
        "participation": made.participation,
        "recorded_trips": {"modes": made.trips},
        "savings": made.savings,
    }


def _compute_summary(period: Period, today: date) -> bytes:
    settings: Settings = current_app.extensions["tanpuhui_settings"]
    with transaction() as session:
        made = report.summary(session, report.district_figures(settings.district_folder), period, today=today)
    return current_app.json.dumps(SummaryView().dump(_summary_members(made)), separators=(",", ":")).encode()


@blueprint.get("/summary")
@public
@blueprint.arguments(PeriodQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, SummaryView)
def read_summary(query: dict[str, Any]) -> Response:
    """公开报告. Read the public report; counts of fewer than 10 residents are hidden."""
    today = business_day(now())
    period = report.period_of(**query, today=today)
    settings: Settings = current_app.extensions["tanpuhui_settings"]
    key = f"report:summary:{settings.district_folder.name}:{period.first_on}:{period.last_on}"
    body = cache().get(key)
    if body is None:
        body = _compute_summary(period, today)
        cache().put(key, body, seconds=SUMMARY_CACHE_S)
    response = Response(body, content_type="application/json")
    response.headers["Cache-Control"] = f"public, max-age={SUMMARY_CACHE_S}"
    return response


@blueprint.get("/participation")
@require(Permission.REPORT_READ)
@blueprint.arguments(PeriodQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, ScopeReportView)
def read_participation(query: dict[str, Any]) -> dict[str, Any]:
    """参与统计. Read the exact figures of the staff member's own scope; the reading is audited."""
    at = now()
    today = business_day(at)
    period = report.period_of(**query, today=today)
    with transaction() as session:
        made = report.scope_report(session, actor(), period, today=today)
        days = {"from": period.first_on.isoformat(), "to": period.last_on.isoformat()}
        audit.record(session, actor(), "report.read", made.division.code, now=at, **days)
    return _scope_members(made)

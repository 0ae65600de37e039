"""The reports over HTTP: pages for everybody, the exact figures for staff."""

from collections.abc import Callable
from typing import Any

import marshmallow as ma
import msgspec
from flask import Response
from sqlalchemy.orm import Session

from campaigns.drives.models import CampaignKind
from campaigns.statistics import creation_progress, exported, participation, public_report, report
from campaigns.statistics.participation import PlaceQuery, Table
from campaigns.statistics.report import ScopeReport
from points.share.releases.goal import Answer, Reason, read_goal
from points.statistics.periods import Grain
from server import audit
from server.access import Permission, actor, public, require
from server.api import Blueprint
from server.cache import cache
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.entries import DIVISION, in_our_time
from server.exports import exports
from server.exports.models import Export, ExportFormat
from server.exports.registry import desk
from server.exports.routes import ExportView
from server.idempotency import idempotent
from server.paging import PageQuery
from server.places.models import DivisionLevel, OrganisationKind
from server.settings import settings

blueprint = Blueprint(
    "report", __name__, url_prefix="/api/v1/report", description="统计与报告 · Participation and recorded trips"
)

# Long enough that a crowd on the page costs one reading a minute, short enough that a new release is seen at once.
SUMMARY_CACHE_S = 60


class PeriodQuery(ma.Schema):
    """Business days, both included; at most 366, by default the last 30."""

    first_on = ma.fields.Date(data_key="from", load_default=None, validate=in_our_time)
    last_on = ma.fields.Date(data_key="to", load_default=None, validate=in_our_time)


class PlaceView(ma.Schema):
    """A division by its official code."""

    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)


class CommunityCountsView(PlaceView):
    """Residents of one community."""

    registered = ma.fields.Integer(required=True)
    participants = ma.fields.Integer(required=True)


class StreetCountsView(ma.Schema):
    """Residents of one street."""

    street_code = ma.fields.String(required=True, attribute="code")
    street_name = ma.fields.String(required=True, attribute="name")
    registered = ma.fields.Integer(required=True)
    participants = ma.fields.Integer(required=True)
    communities = ma.fields.List(ma.fields.Nested(CommunityCountsView), required=True)


class ModeTripsView(ma.Schema):
    """Recorded trips of one mode."""

    mode = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    trips = ma.fields.Integer(required=True)


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


class GoalReadingView(ma.Schema):
    """One reading of the definition: the estimate with its 95 % interval, and what it says of the goal."""

    reading = ma.fields.String(required=True)
    share = ma.fields.Float(required=True)
    low = ma.fields.Float(required=True)
    high = ma.fields.Float(required=True)
    answer = ma.fields.String(required=True)


class GoalView(ma.Schema):
    """The goal line of the green-travel share, and whether it is met: a survey tells, not our records."""

    points = ma.fields.List(ma.fields.Nested(GoalPointView), required=True)
    source = ma.fields.String(required=True, allow_none=True)
    year = ma.fields.Integer(required=True)
    answer = ma.fields.Enum(Answer, by_value=True, required=True)
    reason = ma.fields.Enum(Reason, by_value=True, required=True)
    release = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The published estimate, under /api/v1/share"}
    )
    estimate = ma.fields.Float(
        required=True, allow_none=True, metadata={"description": "Of the strict reading; null without a weighted one"}
    )
    readings = ma.fields.List(ma.fields.Nested(GoalReadingView), required=True)


class MethodSavingsView(ma.Schema):
    """Grams of CO2e saved under one method; methods are never added up."""

    method = ma.fields.String(required=True)
    grams = ma.fields.Integer(required=True)


class ReleaseToldView(ma.Schema):
    """The release that is told; its figures stand since `frozen_at`."""

    name = ma.fields.String(required=True, metadata={"description": "As under /api/v1/open-data, such as 2026-10.1"})
    grain = ma.fields.Enum(Grain, by_value=True, required=True)
    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    revision = ma.fields.Integer(required=True)
    frozen_at = ma.fields.AwareDateTime(required=True)


class CommunityToldView(PlaceView):
    """Residents of one community; null where withheld."""

    registered = ma.fields.Integer(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True, allow_none=True)


class StreetToldView(ma.Schema):
    """Residents of one street; null where withheld. `registered` stands in monthly releases only."""

    street_code = ma.fields.String(required=True, attribute="code")
    street_name = ma.fields.String(required=True, attribute="name")
    registered = ma.fields.Integer(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True, allow_none=True)
    communities = ma.fields.List(ma.fields.Nested(CommunityToldView), required=True)


class ModeToldView(ma.Schema):
    """Recorded trips of one mode; null where withheld."""

    mode = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    trips = ma.fields.Integer(required=True, allow_none=True)


class TripsToldView(ma.Schema):
    """Trips recorded on the platform. Not the official green-travel share."""

    label = ma.fields.Constant(report.RECORDED_TRIPS_LABEL)
    modes = ma.fields.List(ma.fields.Nested(ModeToldView), required=True)
    note = ma.fields.Constant(report.RECORDED_TRIPS_NOTE)


class SavingToldView(ma.Schema):
    """Grams of CO2e saved under one method; methods are never added up. Null where withheld."""

    method = ma.fields.String(required=True)
    grams = ma.fields.Integer(required=True, allow_none=True)


class MaterialToldView(ma.Schema):
    """Grams of one material brought for recycling; null where withheld."""

    material = ma.fields.String(required=True)
    name_zh = ma.fields.String(required=True)
    name_en = ma.fields.String(required=True)
    weight_g = ma.fields.Integer(required=True, allow_none=True)


class SummaryView(ma.Schema):
    """The public report of a released period; `release` is null as long as there is none."""

    district = ma.fields.Nested(PlaceView, required=True)
    release = ma.fields.Nested(ReleaseToldView, required=True, allow_none=True)
    periods = ma.fields.List(ma.fields.String(), required=True, metadata={"description": "What `period` may name"})
    population_note = ma.fields.String(required=True, allow_none=True)
    registered = ma.fields.Integer(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True, allow_none=True)
    participation = ma.fields.List(ma.fields.Nested(StreetToldView), required=True)
    recorded_trips = ma.fields.Nested(TripsToldView, required=True)
    goal = ma.fields.Nested(GoalView, required=True)
    savings = ma.fields.List(ma.fields.Nested(SavingToldView), required=True)
    materials = ma.fields.List(ma.fields.Nested(MaterialToldView), required=True)


class ReleasedPeriodQuery(ma.Schema):
    """The month, quarter or year of a release, by default the latest month."""

    period = ma.fields.String(
        load_default=None,
        validate=ma.validate.Regexp(r"^20[2-9][0-9](-(0[1-9]|1[0-2])|-Q[1-4])?(?!\n)$"),
        metadata={"description": "2026-10, 2026-Q4 or 2026"},
    )


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


# Kept counts by calendar period


class GrainQuery(ma.Schema):
    """The calendar period that holds a business day, by default the present one."""

    grain = ma.fields.Enum(Grain, by_value=True, load_default=Grain.MONTH)
    on = ma.fields.Date(load_default=None, validate=in_our_time)


class PlacesQuery(GrainQuery, PageQuery):
    """Which places of the scope; by code, or the highest shrunken rate first."""

    kind = ma.fields.Enum(CampaignKind, by_value=True, load_default=None)
    within = ma.fields.String(
        load_default=None,
        validate=DIVISION,
        metadata={"description": "Only inside this division"},
    )
    level = ma.fields.Enum(DivisionLevel, by_value=True, load_default=None)
    order = ma.fields.String(load_default="code", validate=ma.validate.OneOf(["code", "rate"]))


class KindsQuery(GrainQuery):
    """Which place, by default the whole scope."""

    place = ma.fields.String(load_default=None, validate=DIVISION)


class OrganisationsQuery(GrainQuery, PageQuery):
    """Organisations of one kind, or all."""

    kind = ma.fields.Enum(OrganisationKind, by_value=True, load_default=None)


class CampaignsQuery(PageQuery):
    """Campaigns that ran in the period that holds a day, or all; of one kind, or all."""

    grain = ma.fields.Enum(Grain, by_value=True, load_default=None)
    on = ma.fields.Date(load_default=None, validate=in_our_time)
    kind = ma.fields.Enum(CampaignKind, by_value=True, load_default=None)


class ReportExportEntry(ma.Schema):
    """Which table of participation, as which kind of file."""

    format = ma.fields.Enum(ExportFormat, by_value=True, required=True)
    grain = ma.fields.Enum(Grain, by_value=True, required=True)
    on = ma.fields.Date(load_default=None, allow_none=True, validate=in_our_time)
    kind = ma.fields.Enum(CampaignKind, by_value=True, load_default=None, allow_none=True)
    within = ma.fields.String(load_default=None, allow_none=True, validate=DIVISION)


class RateView(ma.Schema):
    """Participants of the registered, as shares of 1: as it is, and shrunken towards the peers with its interval."""

    raw = ma.fields.Float(required=True)
    shrunk = ma.fields.Float(required=True, allow_none=True)
    low = ma.fields.Float(required=True, allow_none=True)
    high = ma.fields.Float(required=True, allow_none=True)


class PopulationRateView(ma.Schema):
    """Participants of a census population, which is named."""

    year = ma.fields.Integer(required=True)
    persons = ma.fields.Integer(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.String(required=True, metadata={"description": "V, V2, C or R"})
    rate = ma.fields.Float(required=True)


class FiguresView(ma.Schema):
    """What is counted of a place or an organisation in one period."""

    registered = ma.fields.Integer(required=True)
    participants = ma.fields.Integer(
        required=True, metadata={"description": "Distinct residents, each at the home of the last active day"}
    )
    rate = ma.fields.Nested(RateView, required=True, allow_none=True)
    joins = ma.fields.Integer(required=True)
    check_ins = ma.fields.Integer(required=True)
    completions = ma.fields.Integer(required=True, metadata={"description": "Of campaigns that end in the period"})
    volunteer_minutes = ma.fields.Integer(required=True)
    points = ma.fields.Integer(required=True)
    savings = ma.fields.List(ma.fields.Nested(MethodSavingsView), required=True)


class PlaceFiguresView(ma.Schema):
    """One district, street or community."""

    place_code = ma.fields.String(required=True)
    place_name = ma.fields.String(required=True)
    level = ma.fields.Enum(DivisionLevel, by_value=True, required=True)
    figures = ma.fields.Nested(FiguresView, required=True)
    population_rates = ma.fields.List(ma.fields.Nested(PopulationRateView), required=True)


class OrganisationFiguresView(ma.Schema):
    """One organisation: its members while they were members, and its own campaigns."""

    organisation_id = ma.fields.UUID(required=True)
    organisation_name = ma.fields.String(required=True)
    kind = ma.fields.Enum(OrganisationKind, by_value=True, required=True)
    community_code = ma.fields.String(required=True)
    figures = ma.fields.Nested(FiguresView, required=True)


class KindFiguresView(ma.Schema):
    """The campaigns of one kind; participants are enrolled in one that ran in the period."""

    kind = ma.fields.Enum(CampaignKind, by_value=True, required=True)
    participants = ma.fields.Integer(required=True)
    joins = ma.fields.Integer(required=True)
    check_ins = ma.fields.Integer(required=True)
    completions = ma.fields.Integer(required=True)
    volunteer_minutes = ma.fields.Integer(required=True)
    points = ma.fields.Integer(required=True)
    savings = ma.fields.List(ma.fields.Nested(MethodSavingsView), required=True)


class CampaignFiguresView(KindFiguresView):
    """One campaign from its first day to its last."""

    class Meta:
        exclude = ("joins",)

    campaign_id = ma.fields.UUID(required=True)
    title = ma.fields.String(required=True)
    division = ma.fields.String(required=True)
    organisation_id = ma.fields.UUID(required=True, allow_none=True)
    starts_on = ma.fields.Date(required=True)
    ends_on = ma.fields.Date(required=True)
    state = ma.fields.String(required=True)
    counted_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class PriorView(ma.Schema):
    """Towards which mean the rates of a group of peers are shrunken, and by how many residents' weight."""

    peers = ma.fields.String(required=True, metadata={"description": "community:120104, organisation:school …"})
    mean = ma.fields.Float(required=True)
    weight = ma.fields.Float(required=True)
    peer_count = ma.fields.Integer(required=True, metadata={"description": "0: too few to fit"})


class TableView(ma.Schema):
    """The head of a table of one calendar period; both days included."""

    grain = ma.fields.Enum(Grain, by_value=True, required=True)
    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    kind = ma.fields.Enum(CampaignKind, by_value=True, required=True, allow_none=True)
    counted_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "null: the period has not been counted"}
    )
    priors = ma.fields.List(ma.fields.Nested(PriorView), required=True)
    rate_note = ma.fields.Constant(participation.RATE_NOTE)
    next_cursor = ma.fields.String(required=True, allow_none=True)


class PlacesView(TableView):
    """A page of places."""

    items = ma.fields.List(ma.fields.Nested(PlaceFiguresView), required=True)


class OrganisationsView(TableView):
    """A page of organisations."""

    items = ma.fields.List(ma.fields.Nested(OrganisationFiguresView), required=True)


class KindsView(TableView):
    """Every kind of campaign."""

    items = ma.fields.List(ma.fields.Nested(KindFiguresView), required=True)


class CampaignsView(ma.Schema):
    """A page of campaigns."""

    items = ma.fields.List(ma.fields.Nested(CampaignFiguresView), required=True)
    next_cursor = ma.fields.String(required=True, allow_none=True)


class PublicPlaceView(ma.Schema):
    """The district, a street or a community; null where a figure is withheld, or not told by the release."""

    place_code = ma.fields.String(required=True)
    place_name = ma.fields.String(required=True)
    level = ma.fields.Enum(DivisionLevel, by_value=True, required=True)
    registered = ma.fields.Integer(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True, allow_none=True)
    rate = ma.fields.Float(required=True, allow_none=True, metadata={"description": "Of the registered"})
    population_rates = ma.fields.List(ma.fields.Nested(PopulationRateView), required=True)


class PublicKindView(ma.Schema):
    """Residents in campaigns of one kind; null where withheld."""

    kind = ma.fields.Enum(CampaignKind, by_value=True, required=True)
    participants = ma.fields.Integer(required=True, allow_none=True)


class PublicParticipationView(ma.Schema):
    """Participation in a released month, quarter or year; the district is the first of the items."""

    release = ma.fields.Nested(ReleaseToldView, required=True)
    kinds = ma.fields.List(ma.fields.Nested(PublicKindView), required=True)
    items = ma.fields.List(ma.fields.Nested(PublicPlaceView), required=True)


class CreationStandingView(ma.Schema):
    """Communities or organisations: with a valid name, under way, neither, and of unknown floor area or rank."""

    place_code = ma.fields.String(required=True)
    place_name = ma.fields.String(required=True)
    total = ma.fields.Integer(required=True)
    named = ma.fields.Integer(required=True)
    applied = ma.fields.Integer(required=True)
    none = ma.fields.Integer(required=True)
    unclassified = ma.fields.Integer(
        required=True, metadata={"description": "Not in `total`: nobody entered their floor area or rank"}
    )


class TargetProgressView(ma.Schema):
    """One target of the plan and where it stands today."""

    year = ma.fields.Integer(required=True)
    text = ma.fields.String(required=True)
    share_min = ma.fields.Float(required=True, allow_none=True)
    is_about = ma.fields.Boolean(required=True, metadata={"description": "左右 in the source: never judged"})
    source = ma.fields.String(required=True)
    confidence = ma.fields.String(required=True)
    share = ma.fields.Float(required=True, allow_none=True)
    answer = ma.fields.String(required=True, validate=ma.validate.OneOf(["met", "not-met", "cannot-be-told"]))
    whole = ma.fields.Nested(CreationStandingView, required=True, allow_none=True)
    streets = ma.fields.List(ma.fields.Nested(CreationStandingView), required=True)


class IndicatorView(ma.Schema):
    """The newest figure of a programme that is tracked by an indicator."""

    name = ma.fields.String(required=True)
    unit = ma.fields.String(required=True)
    measured_on = ma.fields.Date(required=True, allow_none=True)
    value = ma.fields.Float(required=True, allow_none=True)
    source = ma.fields.String(required=True, allow_none=True)
    confidence = ma.fields.String(required=True, allow_none=True)


class ProgrammeProgressView(ma.Schema):
    """One creation programme."""

    code = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    subjects = ma.fields.Nested(CreationStandingView, required=True, allow_none=True)
    targets = ma.fields.List(ma.fields.Nested(TargetProgressView), required=True)
    households_named = ma.fields.Integer(required=True, allow_none=True)
    households_applied = ma.fields.Integer(required=True, allow_none=True)
    indicator = ma.fields.Nested(IndicatorView, required=True, allow_none=True)


class CreationProgressView(ma.Schema):
    """Every creation programme of the plan, as it stands on a day."""

    on = ma.fields.Date(required=True)
    programmes = ma.fields.List(ma.fields.Nested(ProgrammeProgressView), required=True)


_ENCODER = msgspec.json.Encoder(decimal_format="number")


def _json(value: Any) -> Response:
    """Encoded by msgspec: marshmallow takes 30 ms for a page of 184 places, twice what all the rest takes."""
    return Response(_ENCODER.encode(value), content_type="application/json")


def _table(table: Table) -> Response:
    period = table.period
    return _json(
        {
            "grain": period.grain,
            "from": period.starts_on,
            "to": period.ends_on,
            "kind": table.kind,
            "counted_at": table.counted_at,
            "priors": table.priors,
            "rate_note": participation.RATE_NOTE,
            "items": table.items,
            "next_cursor": table.next_cursor,
        }
    )


def _district() -> report.DistrictFigures:
    return report.district_figures(settings().district_folder)


def _audited(work: Callable[[Session], Any], subject: str, **detail: Any) -> Any:
    """What `work` reads, with the reading of exact figures in the audit trail."""
    with transaction() as session:
        found = work(session)
        audit.record(session, actor(), "report.read", subject, now=now(), **detail)
    return found


@blueprint.get("/places")
@require(Permission.REPORT_READ)
@blueprint.arguments(PlacesQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, PlacesView)
def list_places(query: dict[str, Any]) -> Response:
    """各区划参与统计. Read the exact figures of every place in the scope, for one calendar period."""
    limit, cursor = query.pop("limit"), query.pop("cursor")
    wanted = PlaceQuery(**{**query, "on": query["on"] or business_day(now())})
    table = _audited(
        lambda session: participation.places(session, actor(), _district(), wanted, limit=limit, cursor=cursor),
        wanted.within or actor().division or "",
        table="places",
        grain=wanted.grain.value,
        on=wanted.on.isoformat(),
    )
    return _table(table)


@blueprint.get("/kinds")
@require(Permission.REPORT_READ)
@blueprint.arguments(KindsQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, KindsView)
def list_kinds(query: dict[str, Any]) -> Response:
    """各类活动统计. Read the exact figures of each kind of campaign in one place, by month, quarter or year."""
    query["on"] = query["on"] or business_day(now())
    table = _audited(
        lambda session: participation.kinds(session, actor(), **query),
        query["place"] or actor().division or "",
        table="kinds",
        grain=query["grain"].value,
        on=query["on"].isoformat(),
    )
    return _table(table)


@blueprint.get("/organisations")
@require(Permission.REPORT_READ)
@blueprint.arguments(OrganisationsQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, OrganisationsView)
def list_organisations(query: dict[str, Any]) -> Response:
    """各单位参与统计. Read the exact figures of the organisations in the scope: their members and their campaigns."""
    query["on"] = query["on"] or business_day(now())
    table = _audited(
        lambda session: participation.organisations(session, actor(), **query),
        actor().division or str(actor().organisation_id),
        table="organisations",
        grain=query["grain"].value,
        on=query["on"].isoformat(),
    )
    return _table(table)


@blueprint.get("/campaigns")
@require(Permission.REPORT_READ)
@blueprint.arguments(CampaignsQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, CampaignsView)
def list_campaigns(query: dict[str, Any]) -> Response:
    """各项活动统计. Read the exact figures of the campaigns in the scope, newest first."""
    query["on"] = query["on"] or business_day(now())
    page = _audited(
        lambda session: participation.campaigns(session, actor(), **query),
        actor().division or str(actor().organisation_id),
        table="campaigns",
    )
    return _json(page)


@blueprint.get("/creation")
@require(Permission.REPORT_READ)
@blueprint.response(200, CreationProgressView)
def read_creation_progress() -> Response:
    """创建进度. Read how far each creation programme is in the scope, by street, against the plan's targets."""
    today = business_day(now())
    with transaction() as session:
        programmes = creation_progress.progress(session, actor(), on=today)
    return _json({"on": today, "programmes": programmes})


@blueprint.post("/exports")
@require(Permission.REPORT_READ)
@idempotent
@blueprint.arguments(ReportExportEntry)
@blueprint.response(202, ExportView)
def request_table(entry: dict[str, Any]) -> Export:
    """导出参与统计表. Ask for the table of places of one period as a file; a job makes it."""
    file_format = entry.pop("format")
    wanted = PlaceQuery(**{**entry, "on": entry["on"] or business_day(now())})
    return run_transaction(
        lambda session: exports.request(
            session,
            actor(),
            desk(),
            kind=exported.KIND,
            format=file_format,
            arguments=exported.arguments_of(wanted),
            now=now(),
        )
    )


def _public(key: str, make: Callable[[Session], Any]) -> Response:
    """An answer for everybody, made at most once a minute while the cache lives."""
    key = f"report:{settings().district_folder.name}:{key}"
    body = cache().get(key)
    if body is None:
        with transaction() as session:
            body = _json(make(session)).get_data()
        cache().put(key, body, seconds=SUMMARY_CACHE_S)
    response = Response(body, content_type="application/json")
    response.headers["Cache-Control"] = f"public, max-age={SUMMARY_CACHE_S}"
    return response


def _summary(session: Session, name: str | None) -> dict[str, Any]:
    district = _district()
    made = public_report.summary(
        session, district, read_goal(settings().district_folder), name=name, today=business_day(now())
    )
    members = {
        **{field: getattr(made, field) for field in type(made).__slots__},
        "population_note": district.population_note,
        "recorded_trips": {"modes": made.trips},
    }
    dumped: dict[str, Any] = SummaryView().dump(members)
    return dumped


@blueprint.get("/summary")
@public
@blueprint.arguments(ReleasedPeriodQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, SummaryView)
def read_summary(query: dict[str, Any]) -> Response:
    """公开报告. Read the public report of a released period, by default the latest month; small counts are withheld."""
    name = query["period"]
    return _public(f"summary:{name or 'latest'}", lambda session: _summary(session, name))


def _public_participation(session: Session, name: str | None) -> dict[str, Any]:
    made = public_report.public_participation(session, _district(), name=name)
    dumped: dict[str, Any] = PublicParticipationView().dump(made)
    return dumped


@blueprint.get("/public/participation")
@public
@blueprint.arguments(ReleasedPeriodQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, PublicParticipationView)
def read_public_participation(query: dict[str, Any]) -> Response:
    """公开参与统计. Read participation by place in a released period; small counts are withheld."""
    name = query["period"]
    return _public(f"participation:{name or 'latest'}", lambda session: _public_participation(session, name))


@blueprint.get("/public/creation")
@public
@blueprint.response(200, CreationProgressView)
def read_public_creation_progress() -> Response:
    """公开创建进度. Read how far each creation programme of the district is; not by street, and no few households."""
    today = business_day(now())
    return _public(
        f"creation:{today}",
        lambda session: {
            "on": today,
            "programmes": creation_progress.published(session, _district().code, on=today),
        },
    )

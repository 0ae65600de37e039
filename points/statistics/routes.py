"""Activity by period, place, behaviour and mode over HTTP: exact, for staff in their scope; each reading is audited."""

from collections.abc import Callable
from datetime import date
from typing import Any

import marshmallow as ma
import msgspec
from flask import Response
from sqlalchemy.orm import Session

from points.earning.models import Behaviour
from points.statistics import exported, reports
from points.statistics.periods import Grain
from points.statistics.reports import PERIODS_MAX, Report, Selection
from server import audit
from server.access import Permission, actor, require
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
from server.places.models import DivisionLevel

blueprint = Blueprint(
    "activity-statistics", __name__, url_prefix="/api/v1/statistics", description="活动统计 · Activity statistics"
)

# A behaviour's mode, category or material; '' is all of them.
MODE = [ma.validate.Length(0, 40), ma.validate.Regexp(r"^([a-z][a-z0-9_-]*)?(?!\n)$")]


class SelectionQuery(ma.Schema):
    """The calendar period that holds a business day, by default the present one; one behaviour and mode, or all."""

    grain = ma.fields.Enum(Grain, by_value=True, load_default=Grain.MONTH)
    on = ma.fields.Date(load_default=None, validate=in_our_time)
    behaviour = ma.fields.Enum(Behaviour, by_value=True, load_default=None)
    mode = ma.fields.String(
        load_default="", validate=MODE, metadata={"description": "Travel mode, waste category or material"}
    )


class ActivityPlacesQuery(SelectionQuery, PageQuery):
    """Which places of the scope."""

    within = ma.fields.String(
        load_default=None, validate=DIVISION, metadata={"description": "Only inside this division"}
    )
    level = ma.fields.Enum(DivisionLevel, by_value=True, load_default=None)


class SortingAccuracyQuery(ActivityPlacesQuery):
    """Which places of the scope, and one waste category or all."""

    class Meta:
        exclude = ("behaviour",)


class ActivityKindsQuery(SelectionQuery):
    """Which place, by default the whole scope; one behaviour, or all."""

    class Meta:
        exclude = ("mode",)

    place = ma.fields.String(load_default=None, validate=DIVISION)


class ActivitySeriesQuery(SelectionQuery):
    """Which place, by default the whole scope, and how many periods up to the one that holds `on`."""

    place = ma.fields.String(load_default=None, validate=DIVISION)
    periods = ma.fields.Integer(load_default=13, validate=ma.validate.Range(1, PERIODS_MAX))


class ActivityExportEntry(ma.Schema):
    """All behaviours and modes of every place in one period, as which kind of file."""

    format = ma.fields.Enum(ExportFormat, by_value=True, required=True)
    grain = ma.fields.Enum(Grain, by_value=True, required=True)
    on = ma.fields.Date(load_default=None, allow_none=True, validate=in_our_time)
    within = ma.fields.String(load_default=None, allow_none=True, validate=DIVISION)


class ActivityListExportEntry(ma.Schema):
    """The single activities of some business days, both included, as which kind of file."""

    format = ma.fields.Enum(ExportFormat, by_value=True, required=True)
    first_on = ma.fields.Date(data_key="from", required=True, validate=in_our_time)
    last_on = ma.fields.Date(data_key="to", required=True, validate=in_our_time)


class EstimateView(ma.Schema):
    """A share or a mean and its 95 % interval."""

    value = ma.fields.Float(required=True)
    low = ma.fields.Float(required=True, allow_none=True)
    high = ma.fields.Float(required=True, allow_none=True)


class AmountsView(ma.Schema):
    """What was recorded; residents, sites and partners are distinct and do not add up."""

    activities = ma.fields.Integer(required=True)
    residents = ma.fields.Integer(required=True)
    distance_m = ma.fields.Integer(required=True)
    weight_g = ma.fields.Integer(required=True)
    points = ma.fields.Integer(required=True)
    sites = ma.fields.Integer(required=True)
    partners = ma.fields.Integer(required=True)
    reversed = ma.fields.Integer(
        required=True, metadata={"description": "Taken back afterwards; in none of the other figures"}
    )


class ActivitySavingView(ma.Schema):
    """Grams of CO2e by one method, and a year before; methods are never added up or compared."""

    method = ma.fields.String(required=True)
    saved_co2e_g = ma.fields.Integer(required=True)
    residents = ma.fields.Integer(required=True)
    before_co2e_g = ma.fields.Integer(required=True, allow_none=True)


class PerResidentView(ma.Schema):
    """The amounts spread over the registered residents, or over a census population, which is named."""

    persons = ma.fields.Integer(required=True)
    share = ma.fields.Nested(EstimateView, required=True, allow_none=True)
    activities = ma.fields.Nested(EstimateView, required=True, allow_none=True)
    distance_m = ma.fields.Nested(EstimateView, required=True, allow_none=True)
    weight_g = ma.fields.Nested(EstimateView, required=True, allow_none=True)
    points = ma.fields.Nested(EstimateView, required=True, allow_none=True)
    beside_district = ma.fields.String(
        required=True,
        allow_none=True,
        validate=ma.validate.OneOf(["higher", "lower", "cannot-be-told"]),
        metadata={"description": "The share beside the whole district's, beyond chance"},
    )
    year = ma.fields.Integer(required=True, allow_none=True)
    source = ma.fields.String(required=True, allow_none=True)
    confidence = ma.fields.String(required=True, allow_none=True, metadata={"description": "V, V2, C or R"})


class ChangesView(ma.Schema):
    """The change against the same period of the year before, as a share of it; null where they do not compare."""

    starts_on = ma.fields.Date(required=True, allow_none=True)
    before = ma.fields.Nested(AmountsView, required=True, allow_none=True)
    activities = ma.fields.Float(required=True, allow_none=True)
    residents = ma.fields.Float(required=True, allow_none=True)
    distance_m = ma.fields.Float(required=True, allow_none=True)
    weight_g = ma.fields.Float(required=True, allow_none=True)
    points = ma.fields.Float(required=True, allow_none=True)
    not_comparable = ma.fields.List(
        ma.fields.String(),
        required=True,
        metadata={
            "description": "period-not-over, not-counted-then, no-such-day, place-changed: nothing compares;"
            " rules-differ: points do not"
        },
    )


class PlaceActivityView(ma.Schema):
    """One district, street or community."""

    place_code = ma.fields.String(required=True)
    place_name = ma.fields.String(required=True)
    level = ma.fields.Enum(DivisionLevel, by_value=True, required=True)
    amounts = ma.fields.Nested(AmountsView, required=True)
    savings = ma.fields.List(ma.fields.Nested(ActivitySavingView), required=True)
    per_registered = ma.fields.Nested(PerResidentView, required=True, allow_none=True)
    per_population = ma.fields.List(ma.fields.Nested(PerResidentView), required=True)
    year_on_year = ma.fields.Nested(ChangesView, required=True)


class KindActivityView(ma.Schema):
    """One behaviour and mode; '' is all of them."""

    behaviour = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    amounts = ma.fields.Nested(AmountsView, required=True)
    savings = ma.fields.List(ma.fields.Nested(ActivitySavingView), required=True)
    year_on_year = ma.fields.Nested(ChangesView, required=True)


class PeriodActivityView(ma.Schema):
    """One period of a series; amounts null where it has not been counted."""

    starts_on = ma.fields.Date(required=True)
    ends_on = ma.fields.Date(required=True)
    counted_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    amounts = ma.fields.Nested(AmountsView, required=True, allow_none=True)
    savings = ma.fields.List(ma.fields.Nested(ActivitySavingView), required=True)
    year_on_year = ma.fields.Nested(ChangesView, required=True)


class SortingAccuracyView(ma.Schema):
    """Sorting drops that stand and that were taken back after a check: an upper bound of the accuracy."""

    place_code = ma.fields.String(required=True)
    place_name = ma.fields.String(required=True)
    level = ma.fields.Enum(DivisionLevel, by_value=True, required=True)
    standing = ma.fields.Integer(required=True)
    taken_back = ma.fields.Integer(required=True)
    accuracy = ma.fields.Nested(EstimateView, required=True, allow_none=True)


class ActivityReportView(ma.Schema):
    """The head of a report of one calendar period; both days included."""

    grain = ma.fields.Enum(Grain, by_value=True, required=True)
    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    behaviour = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    counted_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "null: the period has not been counted"}
    )
    is_due = ma.fields.Boolean(required=True, metadata={"description": "Something has changed since it was counted"})
    rules = ma.fields.List(ma.fields.String(), required=True)
    rules_before = ma.fields.List(ma.fields.String(), required=True)
    note = ma.fields.String(required=True)
    next_cursor = ma.fields.String(required=True, allow_none=True)


class PlaceActivitiesView(ActivityReportView):
    """A page of places."""

    items = ma.fields.List(ma.fields.Nested(PlaceActivityView), required=True)


class KindActivitiesView(ActivityReportView):
    """Everything, each behaviour and each mode of one place."""

    items = ma.fields.List(ma.fields.Nested(KindActivityView), required=True)


class PeriodActivitiesView(ActivityReportView):
    """One place over time; the head is that of the last period."""

    items = ma.fields.List(ma.fields.Nested(PeriodActivityView), required=True)


class SortingAccuraciesView(ActivityReportView):
    """A page of places."""

    items = ma.fields.List(ma.fields.Nested(SortingAccuracyView), required=True)


_ENCODER = msgspec.json.Encoder()


def _selection(query: dict[str, Any]) -> Selection:
    """Takes its members out of the query. Raises ModeOfNoBehaviour."""
    on: date = query.pop("on") or business_day(now())
    behaviour = query.pop("behaviour", None)
    return Selection(query.pop("grain"), on, behaviour, query.pop("mode", ""))


def _read(
    work: Callable[[Session], Report], name: str, selection: Selection, place: str | None, *, note: str
) -> Response:
    """What `work` reads, with the reading of exact figures in the audit trail."""
    with transaction() as session:
        found = work(session)
        audit.record(
            session,
            actor(),
            "statistics.read",
            place or actor().division or "",
            now=now(),
            table=name,
            grain=selection.grain.value,
            on=selection.on.isoformat(),
            behaviour=selection.behaviour_code,
            mode=selection.mode,
        )
    # By msgspec: marshmallow takes 30 ms for a page of 184 places, more than all the rest together.
    body = {
        "grain": found.period.grain,
        "from": found.period.starts_on,
        "to": found.period.ends_on,
        "behaviour": found.behaviour,
        "mode": found.mode,
        "counted_at": found.counted_at,
        "is_due": found.is_due,
        "rules": found.rules,
        "rules_before": found.rules_before,
        "note": note,
        "items": found.items,
        "next_cursor": found.next_cursor,
    }
    return Response(_ENCODER.encode(body), content_type="application/json")


@blueprint.get("/places")
@require(Permission.REPORT_READ)
@blueprint.arguments(ActivityPlacesQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, PlaceActivitiesView)
def list_place_activities(query: dict[str, Any]) -> Response:
    """各区划活动统计. Read what was recorded in every place of the scope, with comparisons per resident."""
    selection, today = _selection(query), business_day(now())
    return _read(
        lambda session: reports.places(session, actor(), selection, today=today, cache=cache(), **query),
        "places",
        selection,
        query["within"],
        note=reports.COMPARISON_NOTE,
    )


@blueprint.get("/behaviours")
@require(Permission.REPORT_READ)
@blueprint.arguments(ActivityKindsQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, KindActivitiesView)
def list_behaviour_activities(query: dict[str, Any]) -> Response:
    """各类行为统计. Read each behaviour and mode of one place: kilograms by material, grams by method."""
    selection, today = _selection(query), business_day(now())
    return _read(
        lambda session: reports.kinds(session, actor(), selection, today=today, **query),
        "behaviours",
        selection,
        query["place"],
        note=reports.COMPARISON_NOTE,
    )


@blueprint.get("/series")
@require(Permission.REPORT_READ)
@blueprint.arguments(ActivitySeriesQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, PeriodActivitiesView)
def list_period_activities(query: dict[str, Any]) -> Response:
    """历史趋势. Read one place over time, each period beside that of the year before."""
    selection, today = _selection(query), business_day(now())
    return _read(
        lambda session: reports.series(session, actor(), selection, today=today, **query),
        "series",
        selection,
        query["place"],
        note=reports.COMPARISON_NOTE,
    )


@blueprint.get("/sorting-accuracy")
@require(Permission.REPORT_READ)
@blueprint.arguments(SortingAccuracyQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, SortingAccuraciesView)
def list_sorting_accuracies(query: dict[str, Any]) -> Response:
    """垃圾分类准确率. Read how many sorting drops stand after checks in every place of the scope; an upper bound."""
    selection, today = _selection({**query, "behaviour": Behaviour.SORTING}), business_day(now())
    wanted = {name: query[name] for name in ("within", "level", "limit", "cursor")}
    return _read(
        lambda session: reports.sorting_accuracy(session, actor(), selection, today=today, **wanted),
        "sorting-accuracy",
        selection,
        query["within"],
        note=reports.ACCURACY_NOTE,
    )


@blueprint.post("/exports")
@require(Permission.REPORT_READ)
@idempotent
@blueprint.arguments(ActivityExportEntry)
@blueprint.response(202, ExportView)
def request_activity_table(entry: dict[str, Any]) -> Export:
    """导出活动统计表. Ask for all behaviours and modes of every place in one period as a file; a job makes it."""
    arguments = {
        "grain": entry["grain"].value,
        "on": (entry["on"] or business_day(now())).isoformat(),
        "within": entry["within"],
    }
    return _request(exported.TABLE, entry["format"], arguments)


@blueprint.post("/activity-exports")
@require(Permission.REPORT_READ)
@idempotent
@blueprint.arguments(ActivityListExportEntry)
@blueprint.response(202, ExportView)
def request_activity_list(entry: dict[str, Any]) -> Export:
    """导出活动明细. Ask for the single activities of some days, without anybody's identity; for the district."""
    arguments = {"from": entry["first_on"].isoformat(), "to": entry["last_on"].isoformat()}
    return _request(exported.LIST, entry["format"], arguments)


def _request(kind: str, file_format: ExportFormat, arguments: dict[str, Any]) -> Export:
    return run_transaction(
        lambda session: exports.request(
            session, actor(), desk(), kind=kind, format=file_format, arguments=arguments, now=now()
        )
    )

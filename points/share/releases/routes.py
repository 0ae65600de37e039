"""The green-travel share over HTTP: published releases for everybody, drafts for the district office."""

from typing import Any
from uuid import UUID

import marshmallow as ma
import msgspec
import procrastinate
from flask import Response, current_app

from points.share.estimate.exchange import READINGS, Options
from points.share.releases import publication, releases
from points.share.releases.goal import POWER, Answer, GoalLine, Reason, read_goal
from points.share.releases.models import REMARK_LENGTH_MAX, ReleaseState, ShareRelease
from points.share.releases.releases import Wanted
from points.share.releases.trend import YEARS_MIN
from points.share.survey.microdata import WAVES_MAX
from points.share.survey.models import ATTRIBUTE_NAME, WaveKind
from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.entries import WORDS, WORDS_OR_NOTHING
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places.models import Confidence
from server.settings import settings

blueprint = Blueprint(
    "share", __name__, url_prefix="/api/v1/share", description="绿色出行比例 · The green-travel share"
)

# A release never changes; that another one corrects it may be read a minute late.
CACHED_S = 60

_SHARE = {"description": "Of all trips, 0 to 1"}
_CODE = [ma.validate.Length(1, 60), ma.validate.Regexp(r"^[a-z0-9][a-z0-9.-]*(?!\n)$")]


class ShareEstimateView(ma.Schema):
    """A share of all trips with its 95 % interval. `se` accounts for the weighting, `se_unraked` ignores it."""

    share = ma.fields.Float(required=True, metadata=_SHARE)
    se = ma.fields.Float(required=True)
    low = ma.fields.Float(required=True)
    high = ma.fields.Float(required=True)
    n = ma.fields.Integer(required=True, metadata={"description": "Respondents"})
    trips = ma.fields.Integer(required=True)
    n_effective = ma.fields.Float(required=True)
    design_effect = ma.fields.Float(required=True)
    se_replicate = ma.fields.Float(required=True, allow_none=True)
    se_unraked = ma.fields.Float(required=True, allow_none=True)


class ShareStreetView(ma.Schema):
    """One street. `modelled`: borrows strength from the others. Withheld below 10 respondents: all null."""

    street_code = ma.fields.String(required=True)
    street_name = ma.fields.String(required=True)
    withheld = ma.fields.Boolean(required=True)
    n = ma.fields.Integer(required=True, allow_none=True)
    modelled = ma.fields.Boolean(required=True, allow_none=True)
    share = ma.fields.Float(required=True, allow_none=True)
    se = ma.fields.Float(required=True, allow_none=True)
    low = ma.fields.Float(required=True, allow_none=True)
    high = ma.fields.Float(required=True, allow_none=True)
    direct_share = ma.fields.Float(required=True, allow_none=True)
    direct_se = ma.fields.Float(required=True, allow_none=True)


class ShareReadingView(ma.Schema):
    """The share under one reading of the definition; `naive` is the respondents' own, without any weight."""

    reading = ma.fields.String(required=True, validate=ma.validate.OneOf(READINGS))
    estimate = ma.fields.Nested(ShareEstimateView, required=True)
    naive = ma.fields.Float(required=True)
    untrimmed_share = ma.fields.Float(required=True, allow_none=True)
    streets = ma.fields.List(ma.fields.Nested(ShareStreetView), required=True)


class ShareHeadlineView(ma.Schema):
    """A published release. `corrected_by` names the release that replaced it, null for the year's current one."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True, metadata={"description": "Such as 2025-1"})
    year = ma.fields.Integer(required=True)
    revision = ma.fields.Integer(required=True)
    published_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    corrects = ma.fields.UUID(required=True, allow_none=True)
    corrected_by = ma.fields.UUID(required=True, allow_none=True)
    reason = ma.fields.String(required=True, metadata={"description": "Why another release is corrected"})
    definition_id = ma.fields.String(required=True)
    weighted = ma.fields.Boolean(required=True, metadata={"description": "false: never set against the goal"})
    readings = ma.fields.List(ma.fields.Nested(ShareReadingView), required=True)


class ShareDefinitionModeView(ma.Schema):
    """One mode of travel, and whether its trips are green."""

    key = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    green = ma.fields.String(required=True)
    rank = ma.fields.Integer(required=True, metadata={"description": "Of several legs the lowest is the main mode"})
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)


class ShareDefinitionView(ma.Schema):
    """What counts as green travel."""

    id = ma.fields.String(required=True)
    valid_from = ma.fields.Date(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    age_min = ma.fields.Integer(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    main_mode_zh = ma.fields.String(required=True)
    main_mode_en = ma.fields.String(required=True)
    main_mode_source = ma.fields.String(required=True)
    main_mode_confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    e_bike_zh = ma.fields.String(required=True)
    e_bike_en = ma.fields.String(required=True)
    modes = ma.fields.List(ma.fields.Nested(ShareDefinitionModeView), required=True)


class SharePopulationView(ma.Schema):
    """The population that an estimate is weighted to."""

    code = ma.fields.String(required=True)
    population = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    as_of = ma.fields.Date(required=True)
    persons = ma.fields.Integer(required=True)


class ShareWaveReadingView(ma.Schema):
    """One wave's own estimate, and its part in the whole."""

    reading = ma.fields.String(required=True)
    share = ma.fields.Float(required=True)
    low = ma.fields.Float(required=True)
    high = ma.fields.Float(required=True)
    combining_weight = ma.fields.Float(required=True, allow_none=True)


class ShareWaveView(ma.Schema):
    """A survey wave or a round of diaries that entered, and what was done to its weights."""

    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    kind = ma.fields.String(required=True, validate=ma.validate.OneOf([kind.value for kind in WaveKind]))
    first_on = ma.fields.Date(required=True)
    last_on = ma.fields.Date(required=True)
    frame = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    drawn = ma.fields.Integer(required=True)
    responded = ma.fields.Integer(required=True)
    response_rate = ma.fields.Float(required=True)
    raked = ma.fields.Boolean(required=True)
    converged = ma.fields.Boolean(required=True)
    at_bound = ma.fields.Integer(required=True)
    trimmed = ma.fields.Integer(required=True)
    trimmed_weight_share = ma.fields.Float(required=True)
    margin_gap_max = ma.fields.Float(required=True)
    readings = ma.fields.List(ma.fields.Nested(ShareWaveReadingView), required=True)
    mode_shares = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Float(), required=True)


class ShareCautionView(ma.Schema):
    """What a reader of the figure must know; `wave` is empty for the whole."""

    code = ma.fields.String(required=True)
    wave = ma.fields.String(required=True)
    text_zh = ma.fields.String(required=True)
    text_en = ma.fields.String(required=True)


class ShareProofView(ma.Schema):
    """What it takes to compute the release again: `flask share reproduce` does."""

    input_sha256 = ma.fields.String(required=True)
    result_sha256 = ma.fields.String(required=True)
    code_version = ma.fields.String(required=True)
    libraries = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String(), required=True)
    seed = ma.fields.Integer(required=True)
    options = ma.fields.Dict(keys=ma.fields.String(), required=True)
    computed_at = ma.fields.AwareDateTime(required=True)
    reviewed_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class ShareGoalPointView(ma.Schema):
    """The share that the plan names for a year."""

    year = ma.fields.Integer(required=True)
    share = ma.fields.Float(required=True)
    about = ma.fields.Boolean(required=True, metadata={"description": "The source says 左右: no hard line"})


class ShareGoalLineView(ma.Schema):
    """The district's goal line, and how far 左右 is taken to reach."""

    district_code = ma.fields.String(required=True)
    district_name = ma.fields.String(required=True)
    points = ma.fields.List(ma.fields.Nested(ShareGoalPointView), required=True)
    source = ma.fields.String(required=True)
    document = ma.fields.String(required=True)
    text = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    about_tolerance = ma.fields.Float(required=True)
    about_source = ma.fields.String(required=True)
    about_confidence = ma.fields.Enum(Confidence, by_value=True, required=True)


class ShareTargetView(ma.Schema):
    """What the line asks for in a year; `interpolated`: between two years of the plan, our straight line."""

    year = ma.fields.Integer(required=True)
    share = ma.fields.Float(required=True)
    about = ma.fields.Boolean(required=True)
    interpolated = ma.fields.Boolean(required=True)


class ShareReadingAnswerView(ma.Schema):
    """The answer under one reading."""

    reading = ma.fields.String(required=True)
    answer = ma.fields.Enum(Answer, by_value=True, required=True)
    reason = ma.fields.Enum(Reason, by_value=True, required=True)
    persons_to_tell = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": f"Respondents that would tell with probability {POWER}, were it as estimated"},
    )


class ShareAnswerView(ma.Schema):
    """Whether the goal of a year is met: only if every reading of the definition says so."""

    year = ma.fields.Integer(required=True)
    target = ma.fields.Nested(ShareTargetView, required=True, allow_none=True)
    answer = ma.fields.Enum(Answer, by_value=True, required=True)
    reason = ma.fields.Enum(Reason, by_value=True, required=True)
    readings = ma.fields.List(ma.fields.Nested(ShareReadingAnswerView), required=True)


class SharePlatformModeView(ma.Schema):
    """A mode's part in what was recorded; null where it is withheld."""

    mode = ma.fields.String(required=True)
    name_zh = ma.fields.String(required=True)
    name_en = ma.fields.String(required=True)
    share = ma.fields.Float(required=True, allow_none=True)


class SharePlatformView(ma.Schema):
    """平台记录占比: how recorded trips are made up. Not the share, never in it, never against the goal."""

    label_zh = ma.fields.String(required=True)
    label_en = ma.fields.String(required=True)
    note_zh = ma.fields.String(required=True)
    note_en = ma.fields.String(required=True)
    first_on = ma.fields.String(required=True, metadata={"format": "date"})
    last_on = ma.fields.String(required=True, metadata={"format": "date"})
    trips_about = ma.fields.Integer(required=True, allow_none=True)
    modes = ma.fields.List(ma.fields.Nested(SharePlatformModeView), required=True)


class ShareReleaseView(ma.Schema):
    """A release with all that stands behind it."""

    headline = ma.fields.Nested(ShareHeadlineView, required=True)
    definition = ma.fields.Nested(ShareDefinitionView, required=True)
    margins = ma.fields.Nested(
        SharePopulationView, required=True, allow_none=True, metadata={"description": "null: unweighted"}
    )
    waves = ma.fields.List(ma.fields.Nested(ShareWaveView), required=True)
    cautions = ma.fields.List(ma.fields.Nested(ShareCautionView), required=True)
    proof = ma.fields.Nested(ShareProofView, required=True)
    goal = ma.fields.Nested(ShareAnswerView, required=True)
    platform_records = ma.fields.Nested(SharePlatformView, required=True)


class ShareTrendPointView(ma.Schema):
    """One year; `left_out` says why it is not in the trend."""

    year = ma.fields.Integer(required=True)
    release = ma.fields.String(required=True)
    share = ma.fields.Float(required=True)
    low = ma.fields.Float(required=True)
    high = ma.fields.Float(required=True)
    left_out = ma.fields.String(
        required=True,
        allow_none=True,
        validate=ma.validate.OneOf(["unweighted", "other-definition", "estimate-doubted", "no-error-known"]),
    )


class ShareProjectedView(ma.Schema):
    """Where the share of a year would lie had it gone on as it went, with a 95 % prediction interval."""

    year = ma.fields.Integer(required=True)
    share = ma.fields.Float(required=True)
    low = ma.fields.Float(required=True)
    high = ma.fields.Float(required=True)


class ShareSlopeView(ma.Schema):
    """The straight trend of the logits; `tau` is the scatter of years around it."""

    slope_points_per_year = ma.fields.Float(required=True)
    slope_low = ma.fields.Float(required=True)
    slope_high = ma.fields.Float(required=True)
    tau = ma.fields.Float(required=True)
    projected = ma.fields.List(ma.fields.Nested(ShareProjectedView), required=True)


class ShareTrendView(ma.Schema):
    """The published years of one reading; the trend is of those under one definition."""

    reading = ma.fields.String(required=True)
    definition_id = ma.fields.String(required=True)
    points = ma.fields.List(ma.fields.Nested(ShareTrendPointView), required=True)
    trend = ma.fields.Nested(
        ShareSlopeView,
        required=True,
        allow_none=True,
        metadata={"description": f"null with fewer than {YEARS_MIN} comparable years"},
    )


class ShareOverviewView(ma.Schema):
    """The newest release, whether the goal is met, and the trend."""

    line = ma.fields.Nested(ShareGoalLineView, required=True)
    answer = ma.fields.Nested(ShareAnswerView, required=True)
    latest = ma.fields.Nested(ShareReleaseView, required=True, allow_none=True)
    trends = ma.fields.List(ma.fields.Nested(ShareTrendView), required=True)


class ShareOptionsEntry(ma.Schema):
    """How to compute; what is left out is as the estimator has it."""

    adjustment_cells = ma.fields.List(
        ma.fields.String(validate=ma.validate.Regexp(ATTRIBUTE_NAME.removesuffix("$") + r"(?!\n)$")),
        load_default=list,
        validate=ma.validate.Length(0, 5),
        metadata={"description": "Attributes that make the cells of the non-response adjustment"},
    )
    bound_low = ma.fields.Float(load_default=0.2, validate=ma.validate.Range(0.01, 1))
    bound_high = ma.fields.Float(load_default=5.0, validate=ma.validate.Range(1, 100))
    trim_ratio = ma.fields.Float(load_default=5.0, allow_none=True, validate=ma.validate.Range(2, 100))
    replicates = ma.fields.Integer(load_default=200, strict=True, validate=ma.validate.Range(50, 1000))
    seed = ma.fields.Integer(load_default=None, allow_none=True, strict=True, validate=ma.validate.Range(0, 2**31 - 1))
    street_persons_min = ma.fields.Integer(load_default=100, strict=True, validate=ma.validate.Range(10, 100_000))
    reference_green = ma.fields.Float(
        load_default=None,
        allow_none=True,
        validate=ma.validate.Range(0, 1),
        metadata={"description": "The strict share of a reference that nobody selected, for the warning"},
    )


class ShareEntry(ma.Schema):
    """What to compute. A year that has a published release can only be corrected, with a reason."""

    year = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(2000, 2100))
    waves = ma.fields.List(
        ma.fields.String(validate=[ma.validate.Length(1, 40), *_CODE[1:]]),
        required=True,
        validate=ma.validate.Length(1, WAVES_MAX),
    )
    margins = ma.fields.String(load_default=None, allow_none=True, validate=_CODE)
    definition = ma.fields.String(load_default=None, allow_none=True, validate=_CODE)
    options = ma.fields.Nested(ShareOptionsEntry, load_default=lambda: ShareOptionsEntry().load({}))
    corrects = ma.fields.UUID(load_default=None, allow_none=True)
    reason = ma.fields.String(load_default="", validate=[ma.validate.Length(0, REMARK_LENGTH_MAX), WORDS_OR_NOTHING])


class ShareRemarkEntry(ma.Schema):
    """What was checked and how, or why it is given up."""

    remark = ma.fields.String(required=True, validate=[ma.validate.Length(2, REMARK_LENGTH_MAX), WORDS])


class ShareDraftView(ma.Schema):
    """A release on its way."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    year = ma.fields.Integer(required=True)
    revision = ma.fields.Integer(required=True)
    state = ma.fields.Enum(ReleaseState, by_value=True, required=True)
    definition_id = ma.fields.String(required=True)
    margin_set_code = ma.fields.String(required=True, allow_none=True)
    corrects = ma.fields.UUID(required=True, allow_none=True)
    reason = ma.fields.String(required=True)
    computed_by = ma.fields.UUID(required=True, metadata={"description": "Who asked for it"})
    requested_at = ma.fields.AwareDateTime(required=True)
    attempts = ma.fields.Integer(required=True)
    problem = ma.fields.String(required=True, allow_none=True, metadata={"description": "Code of what went wrong"})
    problem_detail = ma.fields.String(required=True, allow_none=True)
    computed_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    reviewed_by = ma.fields.UUID(required=True, allow_none=True)
    reviewed_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    remark = ma.fields.String(required=True, allow_none=True)
    published_by = ma.fields.UUID(required=True, allow_none=True)
    published_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    discarded_by = ma.fields.UUID(required=True, allow_none=True)
    discarded_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    discarded_because = ma.fields.String(required=True, allow_none=True)


class ShareDraftDetailView(ma.Schema):
    """A release on its way, and what would be published of it; null while it is not computed."""

    draft = ma.fields.Nested(ShareDraftView, required=True)
    release = ma.fields.Nested(ShareReleaseView, required=True, allow_none=True)


class ShareDraftsQuery(PageQuery):
    """Filters of the list of drafts."""

    year = ma.fields.Integer(load_default=None, validate=ma.validate.Range(2000, 2100))
    state = ma.fields.Enum(ReleaseState, by_value=True, load_default=None)


def _line() -> GoalLine:
    return read_goal(settings().district_folder)


def _jobs() -> procrastinate.App:
    jobs: procrastinate.App = current_app.extensions["tanpuhui_jobs"]
    return jobs


def _public(value: Any) -> Response:
    """Encoded by msgspec, for marshmallow takes 30 ms for a release with its streets; the schemas describe it."""
    response = Response(msgspec.json.encode(value), content_type="application/json")
    response.headers["Cache-Control"] = f"public, max-age={CACHED_S}"
    return response


def _wanted(entry: dict[str, Any]) -> Wanted:
    options = entry.pop("options")
    seed = options.pop("seed")
    return Wanted(
        year=entry["year"],
        waves=entry["waves"],
        margin_set_code=entry["margins"],
        definition_id=entry["definition"],
        options=Options(
            margins=[],
            bounds=(options.pop("bound_low"), options.pop("bound_high")),
            # The year, where nobody names one: a seed that nobody chose after having seen what it gives.
            seed=entry["year"] if seed is None else seed,
            **options,
        ),
        corrects=entry["corrects"],
        reason=entry["reason"],
    )


def _moved(release: ShareRelease) -> tuple[ShareRelease, dict[str, str]]:
    return release, etag_of(release.version)


@blueprint.get("")
@public
@blueprint.response(200, ShareOverviewView)
def read_share() -> Response:
    """绿色出行比例. Read the newest published estimate, whether the goal is met, and the trend."""
    with transaction() as session:
        return _public(publication.overview(session, _line(), today=business_day(now())))


@blueprint.get("/releases")
@public
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(ShareHeadlineView))
def list_releases(query: dict[str, Any]) -> Response:
    """已发布结果列表. List what was published, the newest year first; corrected releases stay."""
    with transaction() as session:
        return _public(publication.list_published(session, **query))


@blueprint.get("/releases/<uuid:release_id>")
@public
@blueprint.response(200, ShareReleaseView)
def read_release(release_id: UUID) -> Response:
    """查看发布结果. Read a published release with all that stands behind it."""
    with transaction() as session:
        return _public(publication.published_release(session, release_id, _line()))


@blueprint.post("/releases")
@require(Permission.SHARE_RELEASE)
@idempotent
@blueprint.arguments(ShareEntry)
@blueprint.response(202, ShareDraftView)
def compute_release(entry: dict[str, Any]) -> tuple[ShareRelease, dict[str, str]]:
    """计算绿色出行比例. Ask for an estimate; a job computes it as a draft that nobody but the district sees."""
    wanted = _wanted(entry)
    return _moved(
        run_transaction(
            lambda session: releases.request(
                session, actor(), wanted, district_code=_line().district_code, jobs=_jobs(), now=now()
            )
        )
    )


@blueprint.get("/drafts")
@require(Permission.SHARE_RELEASE)
@blueprint.arguments(ShareDraftsQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(ShareDraftView))
def list_drafts(query: dict[str, Any]) -> Page[ShareRelease]:
    """未发布结果列表. List what is not published, newest first: queued, computed, reviewed, failed, discarded."""
    with transaction() as session:
        return releases.list_drafts(session, actor(), district_code=_line().district_code, **query)


@blueprint.get("/drafts/<uuid:release_id>")
@require(Permission.SHARE_RELEASE)
@blueprint.response(200, ShareDraftDetailView)
def read_draft(release_id: UUID) -> tuple[dict[str, Any], dict[str, str]]:
    """查看待审结果. Read a release in any state as it would be published; its ETag is what the next step names."""
    with transaction() as session:
        draft, release = publication.release_to_review(session, actor(), release_id, _line())
    return {"draft": draft, "release": release}, etag_of(draft.version)


@blueprint.post("/releases/<uuid:release_id>/review")
@require(Permission.SHARE_RELEASE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ShareRemarkEntry)
@blueprint.response(200, ShareDraftView)
def review_release(
    headers: dict[str, Any], entry: dict[str, Any], release_id: UUID
) -> tuple[ShareRelease, dict[str, str]]:
    """审核. Say that a draft was checked and how; not by the one who had it computed."""
    version = version_of(headers["if_match"])
    return _moved(
        run_transaction(
            lambda session: releases.review(
                session,
                actor(),
                release_id,
                remark=entry["remark"],
                district_code=_line().district_code,
                version=version,
                now=now(),
            )
        )
    )


@blueprint.post("/releases/<uuid:release_id>/publication")
@require(Permission.SHARE_RELEASE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.response(200, ShareDraftView)
def publish_release(headers: dict[str, Any], release_id: UUID) -> tuple[ShareRelease, dict[str, str]]:
    """发布. Publish a reviewed release; it never changes afterwards, nor do the waves and margins under it."""
    version = version_of(headers["if_match"])
    return _moved(
        run_transaction(
            lambda session: releases.publish(
                session, actor(), release_id, district_code=_line().district_code, version=version, now=now()
            )
        )
    )


@blueprint.post("/releases/<uuid:release_id>/discard")
@require(Permission.SHARE_RELEASE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ShareRemarkEntry)
@blueprint.response(200, ShareDraftView)
def discard_release(
    headers: dict[str, Any], entry: dict[str, Any], release_id: UUID
) -> tuple[ShareRelease, dict[str, str]]:
    """作废. Give up what is not published, and say why; the rows that it was computed from go at once."""
    version = version_of(headers["if_match"])
    return _moved(
        run_transaction(
            lambda session: releases.discard(
                session,
                actor(),
                release_id,
                reason=entry["remark"],
                district_code=_line().district_code,
                version=version,
                now=now(),
            )
        )
    )

"""Tracks over HTTP: opened, sent in chunks, finished; looked at without a position; erased."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from points.earning.models import Outcome
from points.travel import tracks
from points.travel.fixes import RawFix
from points.travel.models import CHUNK_FIXES_MAX, CHUNKS_MAX, Erasure, Track, TrackMode, TrackState
from points.travel.tracks import OwnTrack
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import PHONES_OWN_ID
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places.positions import Datum
from server.settings import settings

blueprint = Blueprint(
    "tracks",
    __name__,
    url_prefix="/api/v1/me/tracks",
    description="出行轨迹 · Tracks of own trips: sent in chunks, checked, kept thirty days at most",
)

_MS_2020, _MS_2100 = 1_577_836_800_000, 4_102_444_800_000


class TrackEntry(ma.Schema):
    """What trip it will be."""

    mode = ma.fields.Enum(
        TrackMode,
        by_value=True,
        required=True,
        metadata={"description": "步行 walk, 自行车 bicycle, 公交 bus, 地铁 metro", "example": "walk"},
    )
    datum = ma.fields.Enum(
        Datum,
        by_value=True,
        load_default=Datum.GCJ_02,
        metadata={"description": "wx.getLocation 的 type; 小程序多为 gcj-02 · What the positions are given in"},
    )
    installation = ma.fields.String(
        required=True,
        validate=PHONES_OWN_ID,
        metadata={"description": "The mini-program's own id of this installation; kept as a keyed hash only"},
    )


class FixEntry(ma.Schema):
    """One fix of the phone."""

    at_ms = ma.fields.Integer(
        required=True,
        strict=True,
        validate=ma.validate.Range(_MS_2020, _MS_2100),
        metadata={"description": "Milliseconds since 1970-01-01 UTC", "example": 1_795_478_400_000},
    )
    latitude = ma.fields.Float(required=True, validate=ma.validate.Range(-90, 90), metadata={"example": 39.118})
    longitude = ma.fields.Float(required=True, validate=ma.validate.Range(-180, 180), metadata={"example": 117.152})
    accuracy_m = ma.fields.Float(required=True, validate=ma.validate.Range(0, 100_000), metadata={"example": 8.0})
    mock = ma.fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "手机报告的模拟定位标志 · The phone itself says that the position is made up"},
    )


class ChunkEntry(ma.Schema):
    """Some fixes of a track."""

    fixes = ma.fields.List(ma.fields.Nested(FixEntry), required=True, validate=ma.validate.Length(1, CHUNK_FIXES_MAX))


class FinishEntry(ma.Schema):
    """That nothing more will come."""

    chunks = ma.fields.Integer(
        required=True,
        strict=True,
        validate=ma.validate.Range(1, CHUNKS_MAX),
        metadata={"description": "How many were sent: numbers 0 to chunks − 1"},
    )


class TrackFiguresView(ma.Schema):
    """What is known of a track beside its times; no place. Speeds in metres per second."""

    fixes = ma.fields.Integer(required=True)
    usable = ma.fields.Integer(required=True, metadata={"description": "Sharp enough and in order"})
    spikes = ma.fields.Integer(required=True, metadata={"description": "Single fixes far off, left out"})
    jumps = ma.fields.Integer(required=True)
    duration_s = ma.fields.Integer(required=True)
    distance_m = ma.fields.Integer(required=True)
    interval_s = ma.fields.Float(required=True, metadata={"description": "Median time between fixes"})
    gap_s = ma.fields.Integer(required=True)
    moving_s = ma.fields.Integer(required=True)
    without_rest_s = ma.fields.Integer(required=True)
    median_mps = ma.fields.Float(required=True, metadata={"description": "While moving"})
    upper_mps = ma.fields.Float(required=True, metadata={"description": "85th percentile"})
    peak_mps = ma.fields.Float(required=True, metadata={"description": "95th percentile"})
    acceleration = ma.fields.Float(required=True, metadata={"description": "90th percentile, m/s²"})
    spread = ma.fields.Float(required=True, metadata={"description": "(p90 − p10) ÷ p50 of the speeds by the minute"})


class TrackView(ma.Schema):
    """A track as its owner sees it. Its positions are shown to nobody, not even here."""

    id = ma.fields.UUID(required=True)
    mode = ma.fields.Enum(TrackMode, by_value=True, required=True)
    state = ma.fields.Enum(TrackState, by_value=True, required=True)
    opened_at = ma.fields.AwareDateTime(required=True)
    finished_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    started_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    ended_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    finding = ma.fields.String(required=True, allow_none=True, metadata={"description": "A reason code; null: none"})
    finding_zh = ma.fields.String(required=True, allow_none=True)
    finding_en = ma.fields.String(required=True, allow_none=True)
    line_id = ma.fields.String(required=True, allow_none=True, metadata={"description": "The bus or metro line found"})
    figures = ma.fields.Nested(TrackFiguresView, required=True, allow_none=True)
    checks_id = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The edition of the thresholds"}
    )
    activity_id = ma.fields.UUID(required=True, allow_none=True)
    erased_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "轨迹点已删除的时间 · Since when no position is left"}
    )
    erased_because = ma.fields.Enum(Erasure, by_value=True, required=True, allow_none=True)


class OwnTrackView(TrackView):
    """One track with what is still to be sent, and what it earned."""

    received = ma.fields.List(
        ma.fields.Integer(),
        required=True,
        metadata={"description": "Numbers of the chunks that arrived; after finishing none are told"},
    )
    outcome = ma.fields.Enum(
        Outcome, by_value=True, required=True, allow_none=True, attribute="activity.outcome", dump_default=None
    )
    reason = ma.fields.String(required=True, allow_none=True, attribute="activity.reason", dump_default=None)
    reason_zh = ma.fields.String(required=True, allow_none=True, attribute="activity.reason_zh", dump_default=None)
    reason_en = ma.fields.String(required=True, allow_none=True, attribute="activity.reason_en", dump_default=None)
    points = ma.fields.Integer(required=True, attribute="activity.points", dump_default=0)


TrackPage = page_schema(TrackView)


@blueprint.put("/<uuid:track_id>")
@require(Permission.TRACK_OWN)
@blueprint.arguments(TrackEntry)
@blueprint.response(200, OwnTrackView)
def open_track(entry: dict[str, Any], track_id: UUID) -> OwnTrack:
    """开始上传轨迹. Open a track under the phone's own id; needs the consent `tracks`. Twice is once."""
    with transaction() as session:
        person, instant = actor().id, now()
        tracks.open_track(session, person, track_id, **entry, data_key=settings().data_key, now=instant)
        return tracks.one(session, person, track_id)


@blueprint.put("/<uuid:track_id>/chunks/<int(max=49):number>")
@require(Permission.TRACK_OWN)
@blueprint.arguments(ChunkEntry)
@blueprint.response(204)
def send_chunk(entry: dict[str, Any], track_id: UUID, number: int) -> None:
    """上传轨迹分段. Send chunk 0, 1, … in any order. Twice is once: a phone that lost an answer sends again."""
    sent = [RawFix(**fix) for fix in entry["fixes"]]
    with transaction() as session:
        data_key = settings().data_key
        tracks.receive(session, actor().id, track_id, number, sent=sent, data_key=data_key, now=now())


@blueprint.post("/<uuid:track_id>/finish")
@require(Permission.TRACK_OWN)
@idempotent
@blueprint.arguments(FinishEntry)
@blueprint.response(200, OwnTrackView)
def finish_track(entry: dict[str, Any], track_id: UUID) -> OwnTrack:
    """结束轨迹. Have the track checked and paid. A bus or metro trip waits unless it rode along a line."""
    person, instant = actor().id, now()
    data_key, folder = settings().data_key, settings().district_folder
    return run_transaction(
        lambda session: tracks.finish(session, person, track_id, **entry, folder=folder, data_key=data_key, now=instant)
    )


@blueprint.get("")
@require(Permission.TRACK_OWN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, TrackPage)
def list_tracks(query: dict[str, Any]) -> Page[Track]:
    """我的轨迹. Own tracks with their figures, those opened last first."""
    with transaction() as session:
        return tracks.own(session, actor().id, limit=query["limit"], cursor=query["cursor"])


@blueprint.get("/<uuid:track_id>")
@require(Permission.TRACK_OWN)
@blueprint.response(200, OwnTrackView)
def read_track(track_id: UUID) -> OwnTrack:
    """轨迹详情. One own track: which chunks arrived, what was found, what it earned."""
    with transaction() as session:
        return tracks.one(session, actor().id, track_id)


@blueprint.delete("/<uuid:track_id>")
@require(Permission.TRACK_OWN)
@blueprint.response(204)
def erase_track(track_id: UUID) -> None:
    """删除轨迹点. Erase a track's positions at once; figures and points stay. An unfinished one goes whole."""
    with transaction() as session:
        tracks.erase(session, actor().id, track_id, now=now())

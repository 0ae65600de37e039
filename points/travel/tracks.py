"""A track from its first chunk to its award, and its erasure.

The positions are sealed, are shown to nobody, and go after thirty days, when the resident asks, or with the consent, in
the very transaction of its withdrawal (a trigger of the database). What stays are figures without a place.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from points.earning import activities, steps
from points.earning.claims import Claim, Reason
from points.earning.models import Activity, Behaviour, Grade, Outcome
from points.earning.phones import phone_of
from points.travel import alike, checks, evidence, fixes
from points.travel.evidence import Judged
from points.travel.fixes import RawFix
from points.travel.models import CHUNKS_MAX, Erasure, Track, TrackChunk, TrackMark, TrackMode, TrackState
from points.travel.motion import Finding
from server import paging
from server.clock import business_day, day_start
from server.crypto import keyed_hash, seal, unseal
from server.errors import Conflict, NotFound
from server.people import residents
from server.people.models import Consent, ConsentPurpose
from server.people.residents import ConsentMissing
from server.places.positions import Datum

SOURCE = "track"
KEPT_FOR = timedelta(days=30)
UNFINISHED_MAX = 5
DAY_TRACKS_MAX = 30
DISTANCE_MAX_M = 2_000_000  # no rule pays for half of it; what a made-up track says may be more than a column holds
COMPARED_MAX = 20
ERASED_AT_ONCE_MAX = 500

_CHUNK = "track-chunk"
_MARK = "track-mark"


# By what they share and not by their age: on a street that many walk, hundreds of later tracks share a mark or two.
_NEAREST = sa.text("""
SELECT resident_id, track_id, marks, sealed FROM track_mark
WHERE marks && cast(:marks AS bigint[])
ORDER BY (SELECT count(*) FROM unnest(marks) AS mark WHERE mark = ANY (cast(:marks AS bigint[]))) DESC, written_at DESC
LIMIT :limit
""")


class TrackDiffers(Conflict):
    """This id was used for another trip."""

    code, title_zh, title_en = "track-differs", "该轨迹编号已用于另一次出行", "This track id was used for another trip"


class ChunkDiffers(Conflict):
    """This number was sent with other fixes."""

    code, title_zh, title_en = "track-chunk-differs", "该分段已上传过不同内容", "This chunk was sent with other content"


class TooManyTracks(Conflict):
    """Finish or delete the open ones first; and a day has only so many trips."""

    code, title_zh, title_en = (
        "too-many-tracks",
        "未完成或当日的轨迹过多",
        "Too many tracks are unfinished, or were opened today",
    )


class TrackClosed(Conflict):
    """The track is finished or erased and takes nothing more."""

    code, title_zh, title_en = "track-closed", "该轨迹已结束, 不再接收内容", "This track is finished and takes no more"
    constraints = ("track_closed", "track_held")


class TrackConsentGone(Conflict):
    """The consent was taken back while positions came in."""

    code, title_zh, title_en = "track-consent-gone", "轨迹授权已撤回", "The consent to tracks was taken back"
    constraints = ("track_consent",)


class ChunksMissing(Conflict):
    """Not every chunk has arrived; `missing` names those to send again."""

    code, title_zh, title_en = "track-chunks-missing", "轨迹分段不完整", "Some chunks of the track have not arrived"


@dataclass(frozen=True, slots=True)
class OwnTrack:
    """A track as its owner sees it: never a position."""

    track: Track
    received: list[int]
    activity: activities.Entry | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)


def open_track(
    session: Session,
    resident_id: UUID,
    track_id: UUID,
    *,
    mode: TrackMode,
    datum: Datum,
    installation: str,
    data_key: bytes,
    now: datetime,
) -> Track:
    """Open a track under the phone's own id; the same again changes nothing.

    Raises ConsentMissing, HomeCommunityMissing, TooManyTracks, TrackDiffers.
    """
    _hold_consent(session, resident_id, alone=True)
    residents.require_home(session, resident_id)
    known = session.get(Track, (resident_id, track_id), populate_existing=True)
    if known is not None:
        if (known.mode, known.datum) != (mode, datum.value):
            raise TrackDiffers
        return known
    _require_room(session, resident_id, now)
    made = Track(
        resident_id=resident_id,
        id=track_id,
        mode=mode,
        datum=datum.value,
        device=phone_of(installation, data_key=data_key) or "",
        state=TrackState.RECEIVING,
        opened_at=now,
    )
    session.add(made)
    session.flush()
    return made


def _hold_consent(session: Session, resident_id: UUID, *, alone: bool = False) -> None:
    """Hold the standing consent until the transaction ends; `alone`: one such transaction of a resident at a time.

    Taken before any row of a track, as the withdrawal does, so that the two never wait for each other. Raises
    ConsentMissing.
    """
    held = session.scalar(
        sa.select(Consent.text_version)
        .where(
            Consent.resident_id == resident_id,
            Consent.purpose == ConsentPurpose.TRACKS,
            Consent.withdrawn_at.is_(None),
        )
        .with_for_update(read=not alone)
    )
    if held != residents.TEXT_VERSIONS[ConsentPurpose.TRACKS]:
        raise ConsentMissing(purpose=ConsentPurpose.TRACKS.value)


def _require_room(session: Session, resident_id: UUID, now: datetime) -> None:
    today = day_start(business_day(now))
    unfinished, of_today = session.execute(
        sa.select(
            sa.func.count().filter(Track.state == TrackState.RECEIVING),
            sa.func.count().filter(Track.opened_at >= today),
        ).where(Track.resident_id == resident_id)
    ).one()
    if unfinished >= UNFINISHED_MAX or of_today >= DAY_TRACKS_MAX:
        raise TooManyTracks


def receive(
    session: Session,
    resident_id: UUID,
    track_id: UUID,
    number: int,
    *,
    sent: Sequence[RawFix],
    data_key: bytes,
    now: datetime,
) -> None:
    """Keep a chunk, sealed; the same again changes nothing, in whatever order they come.

    Raises ConsentMissing, NotFound, TrackClosed, ChunkDiffers.
    """
    _hold_consent(session, resident_id)
    track = _own(session, resident_id, track_id)
    if track.state is not TrackState.RECEIVING:
        raise TrackClosed
    packed = fixes.pack(sent)
    owner = f"{resident_id}:{track_id}:{number}"
    content_hash = keyed_hash(data_key, _CHUNK, f"{owner}:{hashlib.sha256(packed).hexdigest()}")
    added = session.scalar(
        insert(TrackChunk)
        .values(
            resident_id=resident_id,
            track_id=track_id,
            number=number,
            fixes=len(sent),
            content_hash=content_hash,
            sealed=seal(data_key, _CHUNK, owner, packed),
            received_at=now,
        )
        .on_conflict_do_nothing()
        .returning(TrackChunk.number)
    )
    if added is None:
        key = (TrackChunk.resident_id == resident_id, TrackChunk.track_id == track_id, TrackChunk.number == number)
        if session.scalar(sa.select(TrackChunk.content_hash).where(*key)) != content_hash:
            raise ChunkDiffers


def finish(
    session: Session, resident_id: UUID, track_id: UUID, *, chunks: int, folder: Path, data_key: bytes, now: datetime
) -> OwnTrack:
    """Check a track whose chunks 0 to `chunks` − 1 have arrived, and pay what it is worth. Twice is once.

    Raises ConsentMissing, NotFound, ChunksMissing, TrackClosed.
    """
    _hold_consent(session, resident_id)
    # Held by a write: of two that finish at once the second waits and finds it finished.
    begun = session.scalar(
        sa.update(Track)
        .where(Track.resident_id == resident_id, Track.id == track_id, Track.state == TrackState.RECEIVING)
        .values(state=TrackState.RECEIVING)
        .returning(Track)
        .execution_options(populate_existing=True)
    )
    if begun is None:
        return one(session, resident_id, track_id)
    sent = _positions(session, begun, chunks, data_key)
    edition = checks.on(folder, business_day(sent[0].at))
    judged = evidence.judge(sent, begun.mode, Datum(begun.datum), edition, folder=folder)
    exact_mark, finding = _compared(session, begun, sent, judged, edition, data_key=data_key, now=now)
    judged = replace(judged, finding=finding)
    answer = steps.award_walks(session, [_claim(session, begun, judged, now)], now=now)[0]
    session.execute(
        sa.update(Track)
        .where(Track.resident_id == resident_id, Track.id == track_id)
        .values(
            state=TrackState.FINISHED,
            finished_at=now,
            chunks=chunks,
            fixes=len(sent),
            started_at=judged.started_at,
            ended_at=judged.ended_at,
            checks_id=edition.id,
            checks_sha256=edition.sha256,
            finding=finding.reason.value if finding else None,
            figures=judged.figures.stored(),
            line_id=judged.line.line_id if judged.line else None,
            exact_mark=exact_mark,
            activity_id=answer.activity_id,
        )
    )
    return one(session, resident_id, track_id)


def _positions(session: Session, track: Track, chunks: int, data_key: bytes) -> list[RawFix]:
    rows = session.execute(
        sa.select(TrackChunk.number, TrackChunk.sealed)
        .where(TrackChunk.resident_id == track.resident_id, TrackChunk.track_id == track.id)
        .order_by(TrackChunk.number)
    ).all()
    missing = sorted(set(range(chunks)) - {number for number, _ in rows})
    if missing or len(rows) > chunks:
        raise ChunksMissing(missing=missing, unexpected=[number for number, _ in rows if number >= chunks])
    sent: list[RawFix] = []
    for number, sealed in rows:
        sent += fixes.unpack(unseal(data_key, _CHUNK, f"{track.resident_id}:{track.id}:{number}", sealed))
    return sorted(sent, key=lambda fix: fix.at_ms)


def _compared(
    session: Session,
    track: Track,
    sent: Sequence[RawFix],
    judged: Judged,
    edition: checks.Checks,
    *,
    data_key: bytes,
    now: datetime,
) -> tuple[bytes, Finding | None]:
    """The exact mark, and the worst finding when earlier tracks of anybody are looked at too; what to compare is kept.

    Two copies that are finished at one moment share their exact mark or one of the others, and so one of the locks.
    """
    key = keyed_hash(data_key, _MARK, "")
    exact = fixes.exact_mark(sent, key)
    marks = alike.marks_of(judged.sketch, key) if judged.sketch else []
    locks = sorted({*marks, int.from_bytes(exact[:8], "big", signed=True)})
    session.execute(
        sa.text("SELECT pg_advisory_xact_lock(mark) FROM unnest(cast(:locks AS bigint[])) AS mark"), {"locks": locks}
    )
    finding = judged.finding
    copied = sa.exists().where(Track.exact_mark == exact)
    if session.scalar(sa.select(copied)):
        finding = evidence.worse(finding, evidence.REPEATED)
    elif judged.sketch is not None:
        for old in _candidates(session, marks, data_key):
            finding = evidence.worse(finding, evidence.copy_finding(judged.sketch, old, edition))
    if judged.sketch is not None:
        owner = f"{track.resident_id}:{track.id}"
        session.add(
            TrackMark(
                resident_id=track.resident_id,
                track_id=track.id,
                marks=marks,
                sealed=seal(data_key, _MARK, owner, alike.pack(judged.sketch)),
                written_at=now,
            )
        )
    return exact, finding


def _candidates(session: Session, marks: list[int], data_key: bytes) -> list[alike.Sketch]:
    """The sketches of the earlier tracks that share most of the marks, a quarter of them at the least."""
    known = frozenset(marks)
    return [
        alike.unpack(unseal(data_key, _MARK, f"{row.resident_id}:{row.track_id}", row.sealed))
        for row in session.execute(_NEAREST, {"marks": marks, "limit": COMPARED_MAX})
        if alike.worth_comparing(known, frozenset(row.marks))
    ]


def _claim(session: Session, track: Track, judged: Judged, now: datetime) -> Claim:
    started_at, ended_at = judged.started_at, judged.ended_at
    finding = judged.finding
    refusal = finding.reason if finding and not finding.held else None
    hold = finding.reason if finding and finding.held else None
    if hold is Reason.RIDE_UNCONFIRMED and session.scalar(
        sa.select(trip_paid(track.resident_id, started_at, ended_at))
    ):
        # The ride record of the same trip came first: it is paid, this is kept beside it.
        refusal, hold = Reason.OVERLAP, None
    return Claim(
        resident_id=track.resident_id,
        behaviour=Behaviour(track.mode.value),
        mode=track.mode.value,
        grade=Grade.SENSOR,
        source=SOURCE,
        external_id=str(track.id),
        started_at=started_at,
        ended_at=ended_at,
        received_at=now,
        distance_m=min(judged.line.distance_m if judged.line else judged.figures.distance_m, DISTANCE_MAX_M),
        device=track.device,
        refusal=refusal,
        hold=hold,
    )


def trip_paid(resident_id: Any, started_at: Any, ended_at: Any) -> sa.Exists:
    """Whether a trip of a resident was paid that shares a moment with this time; values, or columns of the caller's."""
    paid = aliased(Activity)
    return sa.exists().where(
        paid.resident_id == resident_id,
        paid.outcome == Outcome.AWARDED,
        paid.distance_m.is_not(None),
        sa.func.tstzrange(paid.started_at, paid.ended_at).op("&&")(sa.func.tstzrange(started_at, ended_at)),
    )


def _own(session: Session, resident_id: UUID, track_id: UUID) -> Track:
    found = session.get(Track, (resident_id, track_id), populate_existing=True)
    if found is None:
        raise NotFound
    return found


def one(session: Session, resident_id: UUID, track_id: UUID) -> OwnTrack:
    """A resident's own track with the numbers of the chunks that arrived and what it earned. Raises NotFound."""
    track = _own(session, resident_id, track_id)
    received = session.scalars(
        sa.select(TrackChunk.number)
        .where(TrackChunk.resident_id == resident_id, TrackChunk.track_id == track_id)
        .order_by(TrackChunk.number)
        .limit(CHUNKS_MAX)
    ).all()
    earned = activities.one(session, resident_id, track.activity_id) if track.activity_id else None
    return OwnTrack(track, list(received) if track.state is TrackState.RECEIVING else [], earned)


def own(session: Session, resident_id: UUID, *, limit: int, cursor: str | None) -> paging.Page[Track]:
    """A resident's own tracks, those opened last first."""
    query = (
        sa.select(Track)
        .where(Track.resident_id == resident_id)
        .order_by(Track.opened_at.desc(), Track.id.desc())
        .limit(limit + 1)
    )
    if cursor:
        query = query.where(sa.tuple_(Track.opened_at, Track.id) < paging.decode(cursor, tuple[datetime, UUID]))
    return paging.page_of(list(session.scalars(query)), limit, lambda track: (track.opened_at, track.id))


def erase(session: Session, resident_id: UUID, track_id: UUID, *, now: datetime) -> None:
    """Erase the positions of an own track; one that was never finished goes as a whole. Raises NotFound."""
    _own(session, resident_id, track_id)
    _erase(session, [(resident_id, track_id)], Erasure.ASKED, now=now)


def forget_old(session: Session, *, now: datetime) -> int:
    """Erase the positions of tracks that were opened thirty days ago, a bounded number of them; how many tracks.

    An hour early, for the job that calls this comes by every hour: nothing is kept longer than promised.
    """
    old = session.execute(
        sa.select(Track.resident_id, Track.id)
        .where(Track.erased_at.is_(None), Track.opened_at < now - KEPT_FOR + timedelta(hours=1))
        .order_by(Track.opened_at)
        .limit(ERASED_AT_ONCE_MAX)
    ).all()
    if old:
        _erase(session, sorted((row[0], row[1]) for row in old), Erasure.KEPT_LONG_ENOUGH, now=now)
    return len(old)


def _erase(session: Session, which: Sequence[tuple[UUID, UUID]], because: Erasure, *, now: datetime) -> None:
    # Tracks first: one that is being finished is waited for, and what it keeps to be compared by is seen then and goes
    # too. In the order in which a withdrawal erases, so that two erasures do not wait in a ring.
    those = sa.tuple_(Track.resident_id, Track.id).in_(which)
    session.execute(sa.delete(Track).where(those, Track.state == TrackState.RECEIVING))
    session.execute(
        sa.update(Track)
        .where(those, Track.state == TrackState.FINISHED, Track.erased_at.is_(None))
        .values(erased_at=now, erased_because=because)
    )
    for table in (TrackChunk, TrackMark):
        session.execute(sa.delete(table).where(sa.tuple_(table.resident_id, table.track_id).in_(which)))

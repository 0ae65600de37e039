"""The detectors: each a few set-based statements over what was recorded lately, and over the people pointed at.

None names a cheat. Honest people share phones, carry a neighbour's bags and pass through tunnels, so every figure is
the district's (`review-*.toml`) and was tried on honest residents as well as on attackers.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.earning.models import SubjectKind
from points.review import norms
from points.review.detecting import Detector, Window
from points.review.editions import Figures
from points.review.leads import Finding
from server.clock import business_day
from server.places.positions import Datum, Position, distance_m

# What a restored copy repeats has been judged by a person.
_LATELY = (
    "a.recorded_at > :since AND a.recorded_at <= :until AND a.outcome IN ('awarded', 'held') AND a.source <> 'restored'"
)
# People of one household count as one: they share phones, cards and ways.
_HOME = "coalesce(a.household_id, a.resident_id)"
# A partner names its sites as it likes, so equal names of two sources are two places; a bin with two doors is two. The
# phone that somebody holds is no place.
_DOOR = "CASE WHEN {0}.device LIKE 'phone:%' THEN NULL ELSE {0}.device END"
_PLACE = f"concat_ws('|', a.source, a.site, {_DOOR.format('a')})"

ROWS_MAX = 200_000
GROUP_MAX = 500
# Nobody is at two sites of one district for longer than this with a speed left to wonder about.
PAIR_GAP_S = 3600


def _read(session: Session, template: str, window: Window, *, which: str = _LATELY, **values: Any) -> Iterable[Any]:
    """The rows of a template over the activities `a` that `which` chooses; its parts are constants of this module."""
    statement = template.format(
        which=which,
        which_drop=which.replace("a.", "d."),
        which_ride=which.replace("a.", "r."),
        norms="\n".join(
            f"LEFT JOIN weight_norm n{place} ON n{place}.site = {key} AND n{place}.mode = a.mode"
            f" AND n{place}.weighings >= :weighings_min"
            for place, key in enumerate(norms.KEYS)
        ),
        medians=", ".join(f"n{place}.median_ln_g" for place in range(len(norms.KEYS))),
        deviations=", ".join(f"n{place}.deviation_ln_g" for place in range(len(norms.KEYS))),
        carried=_CARRIED,
        carried_drop=_CARRIED.replace("a.", "d."),
        home=_HOME,
        place=_PLACE,
        door=_DOOR.format("a"),
        other_door=_DOOR.format("b"),
    )
    bound = {"since": window.since, "until": window.until, "most": ROWS_MAX, **values}
    return session.execute(sa.text(statement), bound)


def _resident(resident_id: UUID) -> tuple[tuple[SubjectKind, str], ...]:
    return ((SubjectKind.RESIDENT, str(resident_id)),)


# What a household's card brought to a site, staff saw brought by somebody who lives with its holder.
_CARRIED = """(a.grade = 'staff-confirmed' AND EXISTS (
    SELECT FROM printed_card k WHERE k.resident_id = a.resident_id AND k.household_id IS NOT NULL
       AND k.issued_at <= a.started_at AND (k.revoked_at IS NULL OR k.revoked_at > a.started_at)))"""


# The same place in the same second


# A partner whose clock shows whole minutes makes seconds meet that never did: there it takes many people. Left out
# altogether, whoever has a partner's key would only have to round.
_MOMENTS = """
WITH lately AS MATERIALIZED (
    SELECT a.resident_id, a.id, {home} AS home, {place} AS place, date_trunc('second', a.started_at) AS moment,
           a.business_day, a.source
    FROM activity a WHERE {which} AND a.site IS NOT NULL
), clock AS (
    SELECT source, count(*) >= 20 AND 2 * count(*) FILTER (WHERE extract(second FROM moment) = 0) > count(*) AS coarse
    FROM lately GROUP BY source
), shared AS (
    SELECT place, moment, coarse FROM lately JOIN clock USING (source) GROUP BY place, moment, coarse
    HAVING count(DISTINCT home) >= CASE WHEN coarse THEN :coarse_people_min ELSE 2 END
)
SELECT * FROM lately JOIN shared USING (place, moment) ORDER BY place, moment, resident_id, id LIMIT :most
"""

# On how many days two people were recorded at one place in one second.
_PAIRS = """
SELECT p.one, p.other, array_agg(DISTINCT a.id) AS ids, array_agg(DISTINCT b.id) AS others
FROM json_to_recordset(cast(:pairs AS json)) AS p (one uuid, other uuid, day date)
JOIN activity a ON a.resident_id = p.one AND a.business_day > p.day - cast(:days AS int) AND a.business_day <= p.day
               AND a.site IS NOT NULL AND a.outcome IN ('awarded', 'held')
JOIN activity b ON b.resident_id = p.other AND b.business_day = a.business_day AND b.site = a.site
               AND b.source = a.source AND {other_door} IS NOT DISTINCT FROM {door}
               AND date_trunc('second', b.started_at) = date_trunc('second', a.started_at)
               AND b.outcome IN ('awarded', 'held')
GROUP BY p.one, p.other HAVING count(DISTINCT a.business_day) >= :days_min
"""


def _same_place_and_second(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    groups: dict[tuple[str, Any], list[Any]] = defaultdict(list)
    for row in _read(session, _MOMENTS, window, coarse_people_min=int(figures["coarse_people_min"])):
        groups[row.place, row.moment].append(row)
    pairs: dict[tuple[UUID, UUID], Any] = {}
    for rows in groups.values():
        homes = {row.home for row in rows}
        if len(homes) >= figures["people_min"]:
            for row in rows:
                yield Finding(
                    row.resident_id,
                    Reason.SAME_PLACE_AND_SECOND,
                    (row.id,),
                    _resident(row.resident_id),
                    {"people": len(homes)},
                )
            continue
        people = sorted({row.resident_id: row for row in rows}.values(), key=lambda row: row.resident_id)
        for place, one in enumerate(people):
            for other in people[place + 1 :]:
                if one.home != other.home:
                    pairs[one.resident_id, other.resident_id] = one.business_day
    yield from _repeated_pairs(session, window, pairs, figures)


def _repeated_pairs(
    session: Session, window: Window, pairs: Mapping[tuple[UUID, UUID], Any], figures: Figures
) -> Iterator[Finding]:
    if not pairs:
        return
    asked = [{"one": one, "other": other, "day": day} for (one, other), day in pairs.items()]
    for row in _read(
        session,
        _PAIRS,
        window,
        pairs=msgspec.json.encode(asked).decode(),
        days=int(figures["days"]),
        days_min=int(figures["pair_days_min"]),
    ):
        for resident_id, ids in ((row.one, row.ids), (row.other, row.others)):
            yield Finding(
                resident_id,
                Reason.SAME_PLACE_AND_SECOND,
                tuple(ids[:GROUP_MAX]),
                _resident(resident_id),
                {"people": 2, "times": len(ids)},
            )


# A site's code, passed round


# A site's code shows for half a minute. Whoever stands there scans it in turn; a photograph of it is scanned by a group
# at home, within the minute and at different seconds.
_RELAYED = """
WITH lately AS MATERIALIZED (
    SELECT a.resident_id, a.id, {home} AS home, {place} AS place, a.started_at
    FROM activity a
    WHERE {which} AND a.site IS NOT NULL AND a.grade = 'self-declared' AND a.behaviour = 'sorting'
), counted AS (
    SELECT *, count(*) OVER (PARTITION BY place ORDER BY started_at
                             RANGE BETWEEN cast(:span AS interval) PRECEDING AND CURRENT ROW) AS acts
    FROM lately
), peaks AS (
    SELECT DISTINCT p.place, p.started_at AS peak_at, people.homes
    FROM counted p CROSS JOIN LATERAL (
        SELECT count(DISTINCT l.home) AS homes FROM lately l
        WHERE l.place = p.place AND l.started_at BETWEEN p.started_at - cast(:span AS interval) AND p.started_at
    ) people
    WHERE p.acts >= :people_min AND people.homes >= :people_min
)
SELECT l.resident_id, l.id, max(p.homes) AS homes
FROM lately l JOIN peaks p ON p.place = l.place
 AND l.started_at BETWEEN p.peak_at - cast(:span AS interval) AND p.peak_at
GROUP BY l.resident_id, l.id ORDER BY l.resident_id, l.id LIMIT :most
"""


def _relayed_code(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    span, people_min = f"{int(figures['seconds'])} seconds", int(figures["people_min"])
    for row in _read(session, _RELAYED, window, span=span, people_min=people_min):
        yield Finding(
            row.resident_id,
            Reason.BURST,
            (row.id,),
            _resident(row.resident_id),
            {"code_people": row.homes, "seconds": int(figures["seconds"])},
        )


# Equal tracks of different people


_TRACKS = """
WITH lately AS MATERIALIZED (
    SELECT a.resident_id, a.id, {home} AS home, a.mode, a.distance_m, date_trunc('second', a.started_at) AS began,
           date_trunc('second', a.ended_at) AS ended
    FROM activity a WHERE {which} AND a.grade = 'sensor' AND a.distance_m >= :distance_min_m
), equal AS (
    SELECT mode, distance_m, began, ended, count(DISTINCT home) AS people
    FROM lately GROUP BY 1, 2, 3, 4 HAVING count(DISTINCT home) >= :people_min
)
SELECT * FROM lately JOIN equal USING (mode, distance_m, began, ended) ORDER BY resident_id, id LIMIT :most
"""


def _identical_track(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    for row in _read(
        session,
        _TRACKS,
        window,
        distance_min_m=int(figures["distance_min_m"]),
        people_min=int(figures["people_min"]),
    ):
        yield Finding(
            row.resident_id,
            Reason.IDENTICAL_TRACK,
            (row.id,),
            _resident(row.resident_id),
            {"people": row.people, "distance_m": row.distance_m},
        )


# Bursts


# Acts are different moments: ten materials on one scale, or four bags at one bin, are one.
_BURSTS = """
WITH lately AS MATERIALIZED (
    SELECT DISTINCT ON (subject, resident_id, started_at) {subject} AS subject, a.resident_id, a.started_at
    FROM activity a WHERE {which} AND a.acts > 0 AND {subject} IS NOT NULL
), counted AS (
    SELECT *, count(*) OVER (PARTITION BY subject ORDER BY started_at
                             RANGE BETWEEN cast(:span AS interval) PRECEDING AND CURRENT ROW) AS acts
    FROM lately
), peaks AS (
    SELECT subject, started_at AS peak_at, acts FROM counted WHERE acts >= :acts_min
)
SELECT p.subject, max(p.acts) AS acts, a.resident_id, array_agg(DISTINCT a.id) AS ids
FROM peaks p JOIN activity a ON {subject} = p.subject AND {which}
 AND a.started_at BETWEEN p.peak_at - cast(:span AS interval) AND p.peak_at
GROUP BY p.subject, a.resident_id ORDER BY p.subject, a.resident_id LIMIT :most
"""

_BUSY_DAYS = """
WITH lately AS MATERIALIZED (
    SELECT DISTINCT a.resident_id, a.business_day, a.behaviour FROM activity a
    WHERE {which} AND a.behaviour <> 'recycling' AND a.acts > 0
), busy AS (
    SELECT l.*, d.activities FROM lately l
    JOIN resident_day d ON d.resident_id = l.resident_id AND d.day = l.business_day AND d.behaviour = l.behaviour
    WHERE d.activities >= :acts_min
)
SELECT b.resident_id, b.behaviour, count(DISTINCT a.started_at) AS acts, array_agg(a.id ORDER BY a.id) AS ids
FROM busy b JOIN activity a ON a.resident_id = b.resident_id AND a.business_day = b.business_day
 AND a.behaviour = b.behaviour AND a.outcome IN ('awarded', 'held') AND a.acts > 0
GROUP BY b.resident_id, b.business_day, b.behaviour HAVING count(DISTINCT a.started_at) >= :acts_min
ORDER BY 1 LIMIT :most
"""


def _burst(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    span = f"{int(figures['minutes'])} minutes"
    for column, kind, least in (
        ("a.resident_id", SubjectKind.RESIDENT, "resident_acts_min"),
        ("a.staff_id", SubjectKind.STAFF, "staff_acts_min"),
        ("a.device", SubjectKind.DEVICE, "device_acts_min"),
    ):
        statement = _BURSTS.replace("{subject}", column)
        for row in _read(session, statement, window, span=span, acts_min=int(figures[least])):
            yield Finding(
                row.resident_id,
                Reason.BURST,
                tuple(row.ids[:GROUP_MAX]),
                ((kind, str(row.subject)),),
                {f"{kind.value}_acts": row.acts, "minutes": int(figures["minutes"])},
            )
    for row in _read(session, _BUSY_DAYS, window, acts_min=int(figures["resident_day_acts_min"])):
        yield Finding(
            row.resident_id,
            Reason.BURST,
            tuple(row.ids[:GROUP_MAX]),
            _resident(row.resident_id),
            {"day_acts": row.acts, "behaviour": row.behaviour},
        )


# One phone, many people


_REMEMBER_PHONES = """
INSERT INTO device_use AS kept (resident_id, device, first_at, last_at)
SELECT a.resident_id, a.device, min(a.received_at), max(a.received_at)
FROM activity a WHERE {which} AND a.device LIKE 'phone:%'
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (resident_id, device) DO UPDATE SET
    first_at = least(kept.first_at, EXCLUDED.first_at), last_at = greatest(kept.last_at, EXCLUDED.last_at)
"""

_PHONES = """
WITH lately AS MATERIALIZED (
    SELECT a.resident_id, a.id, a.device FROM activity a WHERE {which} AND a.device LIKE 'phone:%'
), shared AS (
    SELECT u.device, count(DISTINCT coalesce(h.household_id, u.resident_id)) AS households
    FROM device_use u LEFT JOIN household_member h ON h.resident_id = u.resident_id
    WHERE u.device IN (SELECT device FROM lately) AND u.last_at > :used_since
    GROUP BY u.device HAVING count(DISTINCT coalesce(h.household_id, u.resident_id)) >= :households_min
)
SELECT l.resident_id, l.device, s.households, array_agg(l.id ORDER BY l.id) AS ids
FROM lately l JOIN shared s USING (device)
GROUP BY 1, 2, 3 ORDER BY 1, 2 LIMIT :most
"""


def _shared_device(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    _read(session, _REMEMBER_PHONES, window)
    used_since = window.now - timedelta(days=int(figures["days"]))
    for row in _read(session, _PHONES, window, used_since=used_since, households_min=int(figures["households_min"])):
        yield Finding(
            row.resident_id,
            Reason.SHARED_DEVICE,
            tuple(row.ids[:GROUP_MAX]),
            ((SubjectKind.DEVICE, row.device),),
            {"households": row.households},
        )


# Two records that one person cannot have made


# First whom to look at, among what came lately; then, for those alone, all of the last days.
_AT_TWO_SITES = """
SELECT * FROM (
    SELECT a.resident_id, a.id, a.site, a.started_at, a.business_day,
           lag(a.id) OVER one AS before_id, lag(a.site) OVER one AS before_site, lag(a.started_at) OVER one AS before_at
    FROM activity a WHERE {which} AND a.site IS NOT NULL AND NOT {carried}
    WINDOW one AS (PARTITION BY a.resident_id ORDER BY a.started_at, a.id)
) pair
WHERE before_site <> site AND started_at - before_at < make_interval(secs => :gap_s)
ORDER BY resident_id, started_at LIMIT :most
"""

_IN_A_RIDE = """
SELECT d.resident_id, d.id, d.business_day, r.id AS ride_id
FROM activity d JOIN activity r ON r.resident_id = d.resident_id
WHERE {which_drop} AND d.site IS NOT NULL AND NOT {carried_drop} AND {which_ride} AND r.behaviour IN ('bus', 'metro')
  AND d.started_at BETWEEN r.started_at + make_interval(secs => :margin_s)
                       AND r.ended_at - make_interval(secs => :margin_s)
ORDER BY d.resident_id, d.started_at LIMIT :most
"""

_OF_PEOPLE = (
    "a.resident_id = ANY (:people) AND a.business_day > cast(:day AS date) - cast(:days AS int) "
    "AND a.outcome IN ('awarded', 'held') AND a.source <> 'restored'"
)


def _impossible_pair(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    positions = window.positions(session)
    people = {resident_id for resident_id, *_ in _impossible(session, window, figures, positions, _LATELY)}
    if not people:
        return
    by_resident: dict[UUID, list[tuple[UUID, UUID]]] = defaultdict(list)
    for resident_id, one, other in _impossible(
        session, window, figures, positions, _OF_PEOPLE, people=sorted(people), days=int(figures["days"])
    ):
        by_resident[resident_id].append((one, other))
    for resident_id, pairs in by_resident.items():
        if len(pairs) >= figures["pairs_min"]:
            yield Finding(
                resident_id,
                Reason.IMPOSSIBLE_PAIR,
                tuple(dict.fromkeys(activity_id for pair in pairs for activity_id in pair))[:GROUP_MAX],
                _resident(resident_id),
                {"pairs": len(pairs)},
            )


def _impossible(
    session: Session,
    window: Window,
    figures: Figures,
    positions: Mapping[str, tuple[float, float]],
    which: str,
    **values: Any,
) -> Iterator[tuple[UUID, UUID, UUID]]:
    """Whose pairs, and the two activities of each: too far apart in too short a time, or at a site during a ride."""
    day = business_day(window.now)
    for row in _read(session, _AT_TWO_SITES, window, which=which, gap_s=PAIR_GAP_S, day=day, **values):
        here, there = positions.get(row.site), positions.get(row.before_site)
        if here is None or there is None:
            continue
        metres = distance_m(_position(here), _position(there))
        seconds = (row.started_at - row.before_at).total_seconds()
        if metres >= figures["distance_min_m"] and metres * 3.6 > figures["speed_max_kmh"] * seconds:
            yield row.resident_id, row.before_id, row.id
    for row in _read(session, _IN_A_RIDE, window, which=which, margin_s=int(figures["margin_s"]), day=day, **values):
        yield row.resident_id, row.id, row.ride_id


def _position(site: tuple[float, float]) -> Position:
    # Which of the two systems it is matters not: all sites come in one, and their distances are the same.
    return Position(site[1], site[0], Datum.GCJ_02)


# Weights that no such bin sees


# Against the nearest norm that enough weighings made: see `norms.KEYS`.
_WEIGHTS = """
SELECT a.resident_id, a.id, a.weight_g, n.deviations
FROM activity a
{norms}
CROSS JOIN LATERAL (
    -- 1.4826 makes a median absolute deviation comparable to a standard deviation (normal distribution).
    SELECT (ln(a.weight_g) - coalesce({medians}))
           / nullif(greatest(1.4826 * coalesce({deviations}), :deviation_ln_min), 0) AS deviations
) n
WHERE {which} AND a.weight_g > 0 AND n.deviations >= :deviations
ORDER BY a.resident_id, a.id LIMIT :most
"""


def _weight_outlier(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    values: dict[str, Any] = {name: figures[name] for name in ("deviations", "deviation_ln_min")}
    values["weighings_min"] = int(figures["weighings_min"])
    people = {row.resident_id for row in _read(session, _WEIGHTS, window, **values)}
    if not people:
        return
    found: dict[UUID, list[Any]] = defaultdict(list)
    for row in _read(
        session,
        _WEIGHTS,
        window,
        which=_OF_PEOPLE,
        people=sorted(people),
        day=business_day(window.now),
        days=int(figures["days"]),
        **values,
    ):
        found[row.resident_id].append(row)
    for resident_id, rows in found.items():
        largest = max(row.deviations for row in rows)
        if len(rows) >= figures["outliers_min"] or largest >= figures["single_deviations"]:
            yield Finding(
                resident_id,
                Reason.WEIGHT_OUTLIER,
                tuple(row.id for row in rows)[:GROUP_MAX],
                _resident(resident_id),
                {"outliers": len(rows), "deviations": round(float(largest), 1)},
            )


# Steps that no legs make


_STEPS = """
WITH lately AS MATERIALIZED (
    SELECT a.resident_id, a.id, a.business_day, a.received_at, coalesce(a.steps_before, 0) + a.steps AS total,
           extract(epoch FROM a.received_at - (a.business_day::timestamp AT TIME ZONE 'Asia/Shanghai')) / 60 AS minutes
    FROM activity a WHERE {which} AND a.steps IS NOT NULL
), days AS (
    SELECT l.resident_id,
           count(*) FILTER (WHERE d.steps % :round_steps = 0 AND d.steps >= :round_from) AS round_days,
           mode() WITHIN GROUP (ORDER BY d.steps) FILTER (WHERE d.steps >= :same_from) AS usual,
           array_agg(d.steps) AS steps
    FROM (SELECT DISTINCT resident_id, max(business_day) OVER (PARTITION BY resident_id) AS last_day FROM lately) l
    JOIN step_day d ON d.resident_id = l.resident_id AND d.day > l.last_day - cast(:days AS int) AND d.day <= l.last_day
    GROUP BY 1
)
SELECT l.resident_id, max(l.total) AS total, max(d.round_days) AS round_days, array_agg(l.id ORDER BY l.id) AS ids,
       max(f.found) AS found
FROM lately l JOIN days d USING (resident_id)
CROSS JOIN LATERAL (
    SELECT CASE WHEN l.total > :day_max THEN 'too-many'
                WHEN l.minutes BETWEEN 0 AND 1440 AND l.total > :per_minute_max * greatest(l.minutes, 1)
                    THEN 'too-quick'
                WHEN l.total % :round_steps = 0 AND l.total >= :round_alone_from THEN 'round'
                WHEN d.round_days >= :round_days_min THEN 'round'
                WHEN cardinality(array_positions(d.steps, d.usual)) >= :same_days_min THEN 'same' END AS found
) f
WHERE f.found IS NOT NULL
GROUP BY l.resident_id ORDER BY 1 LIMIT :most
"""


def _steps_unnatural(session: Session, window: Window, figures: Figures) -> Iterator[Finding]:
    for row in _read(
        session,
        _STEPS,
        window,
        day_max=int(figures["day_steps_max"]),
        per_minute_max=int(figures["steps_per_minute_max"]),
        round_steps=int(figures["round_steps"]),
        round_from=int(figures["round_from_steps"]),
        round_days_min=int(figures["round_days_min"]),
        round_alone_from=int(figures["round_alone_from_steps"]),
        same_days_min=int(figures["same_days_min"]),
        same_from=int(figures["same_from_steps"]),
        days=int(figures["days"]),
    ):
        yield Finding(
            row.resident_id,
            Reason.STEPS_UNNATURAL,
            tuple(row.ids[:GROUP_MAX]),
            _resident(row.resident_id),
            {"found": row.found, "steps": row.total, "round_days": row.round_days},
        )


DETECTORS = (
    Detector("same-place-and-second", _same_place_and_second),
    Detector("relayed-code", _relayed_code),
    Detector("identical-track", _identical_track),
    Detector("burst", _burst),
    Detector("shared-device", _shared_device),
    Detector("impossible-pair", _impossible_pair),
    Detector("weight-outlier", _weight_outlier),
    Detector("steps-unnatural", _steps_unnatural),
)

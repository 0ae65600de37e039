"""What detectors found about paid activities: a lead for people, and a hold of what comes next. Never a ban."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import counts, holds
from points.earning.claims import REASON_TEXTS, Reason
from points.earning.counts import AlreadyRevoked
from points.earning.models import HoldOrder, SubjectKind
from points.review import cases
from points.review.editions import Terms
from points.review.held import tell_in_parts
from points.review.kinds import Decision, Kind
from points.review.models import ACTIVITIES_MAX, STANDING, Case, CaseKind, Verdict
from server.database import new_id

HOLDS_MAX = 20
# A finding names at most this many figures, so that a case's detail stays within its length.
FIGURES_MAX = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector found about one resident: which activities, why, and whose next claims should wait.

    `figures` are numbers and short codes that a person can check, never another person's id. `holds` names subjects as
    `points.earning.holds` wants them.
    """

    resident_id: UUID
    reason: Reason
    activity_ids: tuple[UUID, ...]
    holds: tuple[tuple[SubjectKind, str], ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Lead:
    activity_ids: dict[UUID, int] = field(default_factory=dict)
    holds: dict[tuple[SubjectKind, str], None] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    community_code: str = ""


_Leads = dict[tuple[UUID, str], _Lead]

# What was paid, and is in no case for this reason yet: a finding that people have judged is not brought again.
_NEW = sa.text("""
SELECT f.resident_id, f.reason, f.activity_id, a.community_code, coalesce(t.points, 0) AS points
FROM json_to_recordset(cast(:findings AS json)) AS f (resident_id uuid, reason text, activity_id uuid)
JOIN activity a ON a.resident_id = f.resident_id AND a.id = f.activity_id AND a.outcome = 'awarded'
LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id AND t.kind = 'award'
WHERE NOT EXISTS (
    SELECT FROM review_case_activity l JOIN review_case c ON c.resident_id = l.resident_id AND c.id = l.case_id
    WHERE l.resident_id = f.resident_id AND l.activity_id = f.activity_id AND c.reason = f.reason)
  -- Released by a person after having been held, or paid after an appeal, which there is once: judged as well.
  AND NOT EXISTS (
    SELECT FROM review_case c WHERE c.resident_id = f.resident_id AND c.activity_id = f.activity_id
       AND c.kind IN ('held-claim', 'appeal') AND c.verdict = 'granted')
ORDER BY f.resident_id, f.reason, f.activity_id
""")

_OPEN = sa.text("""
INSERT INTO review_case (resident_id, id, kind, subject_id, community_code, reason, points, two_people, detail,
                         opened_at)
SELECT l.resident_id, l.id, 'lead', l.resident_id, l.community_code, l.reason, 0, false, l.detail, :now
FROM json_to_recordset(cast(:leads AS json))
     AS l (resident_id uuid, id uuid, community_code text, reason text, detail jsonb)
ORDER BY l.resident_id, l.reason
ON CONFLICT (resident_id, kind, subject_id, reason) WHERE state IN ('open', 'proposed') DO NOTHING
RETURNING resident_id, reason, id
""")

# Locked by the write, so that nobody decides about a lead while it grows. One that a first person has decided about
# does not grow: the second would answer another question.
_GROWING = sa.text("""
UPDATE review_case c SET points = c.points
FROM json_to_recordset(cast(:leads AS json)) AS l (resident_id uuid, reason text)
WHERE c.resident_id = l.resident_id AND c.reason = l.reason AND c.kind = 'lead' AND c.state = 'open'
RETURNING c.resident_id, c.reason, c.id
""")

_LIST = sa.text("""
WITH asked AS (
    SELECT f.*, (SELECT count(*) FROM review_case_activity l
                 WHERE l.resident_id = f.resident_id AND l.case_id = f.case_id)
              + row_number() OVER (PARTITION BY f.resident_id, f.case_id ORDER BY f.activity_id) AS place
    FROM json_to_recordset(cast(:activities AS json))
         AS f (resident_id uuid, case_id uuid, activity_id uuid, points int)
), listed AS (
    INSERT INTO review_case_activity (resident_id, case_id, activity_id, points)
    SELECT resident_id, case_id, activity_id, points FROM asked WHERE place <= :most
    ON CONFLICT DO NOTHING
    RETURNING resident_id, case_id, points
)
UPDATE review_case c SET points = c.points + more.points,
       two_people = c.two_people OR c.points + more.points > :two_people_points
FROM (SELECT resident_id, case_id, sum(points) AS points FROM listed GROUP BY 1, 2) more
WHERE c.resident_id = more.resident_id AND c.id = more.case_id
RETURNING c.id
""")


def bring(session: Session, findings: Iterable[Finding], *, terms: Terms, now: datetime) -> int:
    """Make leads of findings about paid activities and hold what comes next of their subjects; how many grew or opened.

    A finding whose activities are all in a case for its reason already does nothing, so that a detector may look twice
    at the same hour. Residents are told when a lead is opened.
    """
    leads = _new_of(session, _merged(findings))
    if not leads:
        return 0
    opened = _open(session, leads, terms, now)
    growing = session.execute(
        _GROWING, {"leads": _json([{"resident_id": who, "reason": why} for who, why in leads])}
    ).all()
    activities = [
        {"resident_id": who, "case_id": case_id, "activity_id": activity_id, "points": points}
        for who, why, case_id in growing
        for activity_id, points in leads[who, why].activity_ids.items()
    ]
    session.execute(
        _LIST,
        {
            "activities": _json(activities),
            "most": ACTIVITIES_MAX,
            "two_people_points": terms.two_people_points,
        },
    )
    _hold(session, leads, growing, terms, now)
    _tell(session, opened, now)
    return len(growing)


def _merged(findings: Iterable[Finding]) -> _Leads:
    leads: _Leads = {}
    for finding in findings:
        lead = leads.setdefault((finding.resident_id, finding.reason.value), _Lead())
        for activity_id in finding.activity_ids:
            if len(lead.activity_ids) < ACTIVITIES_MAX:
                lead.activity_ids.setdefault(activity_id, 0)
        for subject in finding.holds:
            if len(lead.holds) < HOLDS_MAX:
                lead.holds.setdefault(subject)
        for name, figure in finding.figures.items():
            if len(lead.figures) < FIGURES_MAX:
                lead.figures.setdefault(name, figure)
    return leads


def _new_of(session: Session, leads: _Leads) -> _Leads:
    asked = [
        {"resident_id": who, "reason": why, "activity_id": activity_id}
        for (who, why), lead in leads.items()
        for activity_id in lead.activity_ids
    ]
    if not asked:
        return {}
    found: _Leads = {}
    for row in session.execute(_NEW, {"findings": _json(asked)}):
        key = (row.resident_id, row.reason)
        lead = found.get(key)
        if lead is None:
            lead = found[key] = _Lead(
                holds=leads[key].holds, figures=leads[key].figures, community_code=row.community_code
            )
        lead.activity_ids[row.activity_id] = row.points
    return found


def _open(session: Session, leads: _Leads, terms: Terms, now: datetime) -> Sequence[Any]:
    rows = [
        {
            "resident_id": who,
            "id": new_id(),
            "community_code": lead.community_code,
            "reason": why,
            "detail": {
                "edition": terms.id,
                "figures": lead.figures,
                "holds": [{"kind": kind.value, "subject": subject} for kind, subject in lead.holds],
            },
        }
        for (who, why), lead in leads.items()
    ]
    return session.execute(_OPEN, {"leads": _json(rows), "now": now}).all()


def _hold(session: Session, leads: _Leads, growing: Sequence[Any], terms: Terms, now: datetime) -> None:
    """Hold the subjects, but for those whom only the lately cleared name.

    People who look alike honestly, such as those who share a phone, are pointed at again the next day: their records
    still come before people, but without this they would be held for ever.
    """
    cleared = session.execute(
        sa.select(Case.resident_id, Case.reason).where(
            Case.kind == CaseKind.LEAD,
            Case.verdict == Verdict.GRANTED,
            Case.resident_id.in_([who for who, *_ in growing]),
            Case.ended_at > now - timedelta(days=terms.hold_days),
        )
    ).all()
    spared = {(who, why) for who, why in cleared}
    wanted = {
        (kind, subject, why): case_id
        for who, why, case_id in growing
        if (who, why) not in spared
        for kind, subject in leads[who, why].holds
    }
    for (kind, subject, why), case_id in sorted(wanted.items(), key=lambda each: each[0]):
        holds.place(
            session,
            subject_kind=kind,
            subject=subject,
            reason=Reason(why),
            until=now + timedelta(days=terms.hold_days),
            case_id=case_id,
            now=now,
        )


def _tell(session: Session, opened: Sequence[Any], now: datetime) -> None:
    by_reason: dict[str, list[UUID]] = {}
    for who, why, _ in opened:
        by_reason.setdefault(why, []).append(who)
    for why, people in sorted(by_reason.items()):
        reason_zh, reason_en = REASON_TEXTS[Reason(why)]
        tell_in_parts(
            session,
            sorted(people),
            kind="records-in-review",
            subject="reviews",
            title_zh=f"您的记录正在人工复核: {reason_zh}"[:120],
            title_en=f"Records of yours are being reviewed: {reason_en}"[:160],
            now=now,
        )


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()


def _on_decision(session: Session, case: Case, decision: Decision, now: datetime) -> None:
    """Take the listed activities back, or leave them and let their subjects' claims through again."""
    if decision.verdict is Verdict.GRANTED:
        _lift(session, case, now)
        return
    for activity_id in cases.activities_of(session, case):
        try:
            counts.revoke(
                session, case.resident_id, activity_id, why=decision.reason[:200], reason=Reason.REVIEW_REFUSED, now=now
            )
        except AlreadyRevoked:
            continue  # by another hand, since the lead was opened


def _lift(session: Session, case: Case, now: datetime) -> None:
    """Lift the case's holds, but for a subject that another standing lead holds for the same reason."""
    placed = session.execute(
        sa.select(HoldOrder.subject_kind, HoldOrder.subject).where(
            HoldOrder.case_id == case.id, HoldOrder.lifted_at.is_(None)
        )
    ).all()
    # What the lead named at first, and what it came to hold as it grew.
    named = {(SubjectKind(hold["kind"]), hold["subject"]) for hold in case.detail.get("holds", [])}
    for kind, subject in sorted(named | {(each.subject_kind, each.subject) for each in placed}):
        others = sa.exists().where(
            Case.id != case.id,
            Case.kind == CaseKind.LEAD,
            Case.reason == case.reason,
            Case.state.in_(STANDING),
            Case.detail.contains({"holds": [{"kind": kind.value, "subject": subject}]}),
        )
        standing = session.scalars(
            sa.select(HoldOrder.id).where(
                HoldOrder.subject_kind == kind,
                HoldOrder.subject == subject,
                HoldOrder.reason == case.reason,
                HoldOrder.lifted_at.is_(None),
                ~others,
            )
        ).all()
        for hold_id in standing:
            holds.lift(session, hold_id, now=now)


KIND = Kind(
    CaseKind.LEAD,
    _on_decision,
    told={
        Verdict.GRANTED: ("您的记录经人工复核无误", "Records of yours were reviewed and stand"),
        Verdict.DENIED: (
            "您的部分记录经人工复核有误, 积分已撤回, 可以申诉",
            "Some records of yours did not stand a review; their points were taken back. You can appeal",
        ),
    },
)

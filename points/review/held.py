"""Claims that wait: a case for each, what the decision does, and telling the resident."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import releasing
from points.earning.claims import Reason
from points.review import editions
from points.review.kinds import Decision, Kind
from points.review.models import Case, CaseKind, Verdict
from server.notices.notices import TOLD_AT_ONCE_MAX, tell

OPENED_AT_ONCE_MAX = 5000
ENDED_AT_ONCE_MAX = 5000

# Their own room opens one case for all of them, such as an order's.
DECIDED_ELSEWHERE = (Reason.WEIGHING_DISPUTED.value,)

# A held claim has one case for ever, so the case has the claim's id: a second look finds the first one's.
_OPEN = sa.text("""
INSERT INTO review_case (resident_id, id, kind, subject_id, activity_id, community_code, reason, points, two_people,
                         opened_at)
SELECT a.resident_id, a.id, 'held-claim', a.id, a.id, a.community_code, a.reason, a.priced_points,
       a.priced_points > :two_people_points, :now
FROM activity a
WHERE a.outcome = 'held' AND a.reason <> ALL (:elsewhere)
  AND NOT EXISTS (SELECT FROM review_case c WHERE c.resident_id = a.resident_id AND c.id = a.id)
ORDER BY a.resident_id, a.id
LIMIT :limit
ON CONFLICT DO NOTHING
RETURNING resident_id, id
""")

# Settled by another hand: revoked by the district, say, before anybody decided.
_SUPERSEDE = sa.text("""
UPDATE review_case c SET state = 'superseded', ended_at = greatest(c.opened_at, :now)
FROM (
    SELECT c.resident_id, c.id FROM review_case c
    WHERE c.state IN ('open', 'proposed')
      AND CASE c.kind
          WHEN 'held-claim' THEN NOT EXISTS (
              SELECT FROM activity a
              WHERE a.resident_id = c.resident_id AND a.id = c.activity_id AND a.outcome = 'held')
          WHEN 'lead' THEN NOT EXISTS (
              SELECT FROM review_case_activity l
              JOIN activity a ON a.resident_id = l.resident_id AND a.id = l.activity_id
              WHERE l.resident_id = c.resident_id AND l.case_id = c.id AND a.outcome = 'awarded')
          ELSE false END
    LIMIT :limit
) gone
WHERE c.resident_id = gone.resident_id AND c.id = gone.id AND c.state IN ('open', 'proposed')
RETURNING c.id
""")


def open_waiting(session: Session, *, now: datetime) -> int:
    """Open a case for every held claim that has none, at most OPENED_AT_ONCE_MAX; how many. Tells the residents."""
    opened = session.execute(
        _OPEN,
        {
            "two_people_points": editions.terms_at(session, now).two_people_points,
            "elsewhere": list(DECIDED_ELSEWHERE),
            "now": now,
            "limit": OPENED_AT_ONCE_MAX,
        },
    ).all()
    tell_in_parts(
        session,
        sorted({resident_id for resident_id, _ in opened}),
        kind="claim-held",
        subject="reviews",
        title_zh="您有记录正在等待人工审核, 原因见行为记录",
        title_en="Records of yours wait for a person; the reason stands beside each",
        now=now,
    )
    return len(opened)


def tell_in_parts(
    session: Session, people: Sequence[UUID], *, kind: str, subject: str, title_zh: str, title_en: str, now: datetime
) -> None:
    """Leave each of any number of residents one message."""
    for first in range(0, len(people), TOLD_AT_ONCE_MAX):
        part = people[first : first + TOLD_AT_ONCE_MAX]
        tell(session, part, kind=kind, subject=subject, title_zh=title_zh, title_en=title_en, now=now)


def supersede_settled(session: Session, *, now: datetime) -> int:
    """End the cases about what nobody need decide any more, at most ENDED_AT_ONCE_MAX; how many."""
    return len(session.execute(_SUPERSEDE, {"now": now, "limit": ENDED_AT_ONCE_MAX}).all())


def _on_decision(session: Session, case: Case, decision: Decision, now: datetime) -> None:
    if case.activity_id is None:
        raise ValueError(f"case {case.id} is about no claim")
    if decision.verdict is Verdict.GRANTED:
        releasing.release(session, case.resident_id, case.activity_id, now=now)
    else:
        releasing.refuse(session, case.resident_id, case.activity_id, reason=Reason.REVIEW_REFUSED)


KIND = Kind(
    CaseKind.HELD_CLAIM,
    _on_decision,
    told={
        Verdict.GRANTED: ("您的一条待审记录已通过人工审核", "A record of yours that waited has been released"),
        Verdict.DENIED: (
            "您的一条待审记录未通过人工审核, 可以申诉",
            "A record of yours that waited has been refused; you can appeal",
        ),
    },
)

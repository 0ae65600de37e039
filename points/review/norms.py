"""The usual weights, by source, site and material, and forgetting which phones were used: what the night keeps."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.review import editions
from server.clock import business_day

PHONES_KEPT_FOR = timedelta(days=30)
FORGOTTEN_AT_ONCE_MAX = 10_000

# What a weighing is compared with, as `WeightNorm.site` names it, the nearest first: the same source at the same site,
# the same source everywhere, everybody at a site of this name, everybody. So a recycler's sacks do not make a bag at a
# bin look light, and a source of few weighings is judged with all others. No site's name has a space in it; what the
# column would not hold is cut off, and such sites of one source share a norm.
KEYS = (
    "left(concat(a.source, ' ', a.site), 64)",
    "concat(a.source, ' ')",
    "coalesce(a.site, '')",
    "''",
)

# The medians of the logarithm and of the distance from it: half of all weighings would have to be inflated before they
# move far.
_COMPUTE = sa.text(
    """
WITH weighing AS MATERIALIZED (
    SELECT ARRAY(SELECT DISTINCT key FROM unnest(ARRAY[{keys}]) AS key) AS sites, a.mode, ln(a.weight_g) AS ln_g
    FROM activity a
    WHERE a.business_day > cast(:day AS date) - cast(:days AS int) AND a.business_day <= :day
      AND a.weight_g > 0 AND a.outcome = 'awarded'
      -- What people have not judged yet, or judged wrong, says nothing about what is usual: a ring would widen the norm
      -- with its first night's weighings and hide in it on the second.
      AND NOT EXISTS (
          SELECT FROM review_case_activity l JOIN review_case c ON c.resident_id = l.resident_id AND c.id = l.case_id
          WHERE l.resident_id = a.resident_id AND l.activity_id = a.id
            AND (c.state IN ('open', 'proposed') OR c.verdict = 'denied'))
), placed AS (
    SELECT site, mode, ln_g FROM weighing CROSS JOIN unnest(sites) AS site
), middle AS (
    SELECT site, mode, count(*) AS weighings, percentile_cont(0.5) WITHIN GROUP (ORDER BY ln_g) AS median_ln_g
    FROM placed GROUP BY 1, 2
)
INSERT INTO weight_norm AS kept (site, mode, weighings, median_ln_g, deviation_ln_g, computed_at)
SELECT p.site, p.mode, m.weighings, m.median_ln_g,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(p.ln_g - m.median_ln_g)), :now
FROM placed p JOIN middle m ON m.site = p.site AND m.mode = p.mode
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2
ON CONFLICT (site, mode) DO UPDATE SET weighings = EXCLUDED.weighings, median_ln_g = EXCLUDED.median_ln_g,
    deviation_ln_g = EXCLUDED.deviation_ln_g, computed_at = EXCLUDED.computed_at
RETURNING 1
""".format(keys=", ".join(KEYS))  # noqa: S608 -- the keys are constants
)


def compute(session: Session, *, now: datetime) -> int:
    """Compute the norms anew from the edition's last days; how many. What nobody weighs any more goes."""
    figures = editions.terms_at(session, now).detectors.get("weight-outlier")
    if figures is None:
        return 0
    computed = session.execute(
        _COMPUTE, {"day": business_day(now), "days": int(figures["norm_days"]), "now": now}
    ).all()
    session.execute(sa.text("DELETE FROM weight_norm WHERE computed_at < :now"), {"now": now})
    return len(computed)


def forget_phones(session: Session, *, now: datetime) -> int:
    """Forget the uses of phones past their keeping, at most FORGOTTEN_AT_ONCE_MAX; how many."""
    forgotten = session.execute(
        sa.text("""
        DELETE FROM device_use WHERE (resident_id, device) IN (
            SELECT resident_id, device FROM device_use WHERE last_at < :before LIMIT :most)
        """),
        {"before": now - PHONES_KEPT_FOR, "most": FORGOTTEN_AT_ONCE_MAX},
    )
    return int(forgotten.rowcount)  # type: ignore[attr-defined]

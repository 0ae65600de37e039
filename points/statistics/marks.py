"""Which days of the kept counts by community must be counted again.

Awards do nothing for this: they must not become slower. What they leave behind anyway is PostgreSQL's own `xmin`, the
transaction that wrote a row's present version, and a day's mark is the exclusive or of the hashes of (key, xmin) over
its rows. Amounts would not do: a reversal and another resident's equal award leave every sum as it was. A restored dump
has other transactions, so all days are counted again, once.
"""

from collections.abc import Sequence
from datetime import date

import sqlalchemy as sa
from sqlalchemy.orm import Session

# Every rule closes a day after 60 days at the latest; what is older changes by revocations only, which the nightly
# count looks for over all days.
RECENT_DAYS = 70
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2100, 12, 31)

# (day, mark) of each row of a span; whoever keeps a mark of days takes the exclusive or of these.
ROW_MARKS = """
    SELECT day, hashtextextended(concat_ws('|', community_code, behaviour, mode, method_id, xmin), 0) AS mark
    FROM community_day WHERE day BETWEEN :first_day AND :last_day"""

_CHANGED = sa.text(f"""
SELECT day, found.mark
FROM (SELECT day, bit_xor(mark) AS mark FROM ({ROW_MARKS}) one GROUP BY day) found
FULL JOIN (SELECT day, mark FROM activity_day_mark WHERE day BETWEEN :first_day AND :last_day) kept USING (day)
WHERE found.mark IS DISTINCT FROM kept.mark
ORDER BY day DESC
""")  # noqa: S608 -- composed of constants of this module

_KEEP = sa.text("""
INSERT INTO activity_day_mark (day, mark)
SELECT * FROM unnest(cast(:days AS date[]), cast(:marks AS bigint[])) ORDER BY 1
ON CONFLICT (day) DO UPDATE SET mark = EXCLUDED.mark
""")

_DROP = sa.text("DELETE FROM activity_day_mark WHERE day = ANY(:days)")


def changed_days(session: Session, first_day: date, last_day: date) -> dict[date, int | None]:
    """The days of a span whose rows are not those of their mark, with the mark now; None: no rows are left."""
    rows = session.execute(_CHANGED, {"first_day": first_day, "last_day": last_day})
    return dict(rows.all())


def keep_marks(session: Session, marks: dict[date, int | None]) -> None:
    """Remember these marks. Only once the periods of their days are known to be due, in the same transaction."""
    present = [(day, mark) for day, mark in marks.items() if mark is not None]
    if present:
        session.execute(_KEEP, {"days": [day for day, _ in present], "marks": [mark for _, mark in present]})
    gone: Sequence[date] = [day for day, mark in marks.items() if mark is None]
    if gone:
        session.execute(_DROP, {"days": list(gone)})

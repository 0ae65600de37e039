"""Proving the ledger: what must be equal is added up twice from different tables, and the first difference is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Check:
    """One truth: its name, the query that finds rows against it (at most a few), and how many rows it looked at."""

    name: str
    wrong: str
    looked_at: str


LEDGER_CHECKS = (
    Check(
        "lots - debt = transfers, for every resident",
        """SELECT resident_id, coalesce(l.points, 0) AS lots, coalesce(d.points, 0) AS debt,
                  coalesce(t.points, 0) AS transfers
           FROM (SELECT resident_id, sum(remaining_points) AS points FROM lot GROUP BY 1) l
           FULL JOIN (SELECT resident_id, sum(points) AS points FROM transfer GROUP BY 1) t USING (resident_id)
           FULL JOIN debt d USING (resident_id)
           WHERE coalesce(l.points, 0) - coalesce(d.points, 0) <> coalesce(t.points, 0) ORDER BY 1 LIMIT 3""",
        "SELECT count(DISTINCT resident_id) FROM transfer",
    ),
    Check(
        "the sum over all accounts is 0",
        """SELECT * FROM (SELECT (SELECT coalesce(sum(remaining_points), 0) FROM lot)
                  - (SELECT coalesce(sum(points), 0) FROM debt)
                  + (SELECT coalesce(sum(-t.points), 0) FROM system_account a
                     JOIN transfer t ON t.account_id = a.id) AS sum) s
           WHERE sum <> 0""",
        "SELECT count(*) FROM transfer",
    ),
    Check(
        "every transfer names a known account",
        """SELECT t.resident_id, t.id, t.account_id FROM transfer t LEFT JOIN system_account a ON a.id = t.account_id
           WHERE a.id IS NULL ORDER BY 1, 2 LIMIT 3""",
        "SELECT count(*) FROM transfer",
    ),
    Check(
        "no lot is below zero",
        "SELECT resident_id, expires_on, remaining_points FROM lot WHERE remaining_points < 0 ORDER BY 1, 2 LIMIT 3",
        "SELECT count(*) FROM lot",
    ),
    Check(
        "every reversal undoes exactly its original",
        """SELECT r.resident_id, r.id FROM transfer r
           LEFT JOIN transfer o ON o.resident_id = r.resident_id AND o.id = r.reverses_id
           WHERE r.kind = 'reversal' AND (o.id IS NULL OR o.points <> -r.points OR o.account_id <> r.account_id)
           ORDER BY 1, 2 LIMIT 3""",
        "SELECT count(*) FROM transfer WHERE kind = 'reversal'",
    ),
    Check(
        "what a spend took is what its lots gave",
        """SELECT t.resident_id, t.id, t.points, coalesce(sum(d.points), 0) AS drawn
           FROM transfer t LEFT JOIN lot_draw d ON d.resident_id = t.resident_id AND d.transfer_id = t.id
           WHERE t.kind IN ('spend', 'expiry') GROUP BY 1, 2, 3 HAVING coalesce(sum(d.points), 0) <> -t.points
           ORDER BY 1, 2 LIMIT 3""",
        "SELECT count(*) FROM transfer WHERE kind IN ('spend', 'expiry')",
    ),
    Check(
        "allotted - paid + reversed = what a budget holds",
        """SELECT a.id, a.code, a.budget_points, coalesce(b.points, 0) AS allotted, coalesce(t.points, 0) AS paid
           FROM system_account a
           FULL JOIN (SELECT account_id, sum(points) AS points FROM budget_allotment GROUP BY 1) b
             ON b.account_id = a.id
           LEFT JOIN (SELECT account_id, sum(points) AS points FROM transfer GROUP BY 1) t ON t.account_id = a.id
           WHERE (a.budget_points IS NOT NULL OR b.points IS NOT NULL)
             AND coalesce(b.points, 0) - coalesce(t.points, 0) IS DISTINCT FROM a.budget_points
           ORDER BY 1 LIMIT 3""",
        "SELECT count(*) FROM system_account WHERE budget_points IS NOT NULL",
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: how many rows it covered, and the first row that is wrong, if any."""

    name: str
    looked_at: int
    first_wrong: dict[str, Any] | None


def run(session: Session, checks: tuple[Check, ...]) -> Iterator[Finding]:
    """Run the checks one by one, in one snapshot if the caller's transaction is REPEATABLE READ."""
    for check in checks:
        wrong = session.execute(sa.text(check.wrong)).mappings().first()
        looked_at = session.scalar(sa.text(check.looked_at)) or 0
        yield Finding(check.name, int(looked_at), dict(wrong) if wrong else None)

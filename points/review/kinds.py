"""What a decision of each kind of case does: each room brings its kind, `wsgi.py` composes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from flask import Flask, current_app
from sqlalchemy.orm import Session

from points.review.models import Case, CaseKind, Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """The final word on a case: the verdict, why, and who spoke it last."""

    verdict: Verdict
    reason: str
    decided_by: UUID


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of case. `on_decision(session, case, decision, now)` does what the final decision says.

    It runs in the decision's own transaction, after the case is written as decided and before the resident is told. A
    `DomainError` that it raises undoes the decision. `told` has the titles of the notice that the resident gets,
    in Chinese and English, by verdict.

    `may_decide(session, case, staff_id)` raises a `DomainError` for whoever had a part in what the case is about. It is
    asked of everybody who takes a case in hand or speaks about it, the first of two people as well as the last.
    """

    code: CaseKind
    on_decision: Callable[[Session, Case, Decision, datetime], None]
    told: Mapping[Verdict, tuple[str, str]] | None = None
    may_decide: Callable[[Session, Case, UUID], None] | None = None


def install(app: Flask, kinds: Sequence[Kind]) -> None:
    """Give the application its kinds of cases."""
    by_code = {kind.code: kind for kind in kinds}
    if len(by_code) < len(kinds):
        raise ValueError("two kinds of case have one code")
    app.extensions["tanpuhui_review_kinds"] = by_code


def installed() -> Mapping[CaseKind, Kind]:
    """The running application's."""
    found: Mapping[CaseKind, Kind] = current_app.extensions["tanpuhui_review_kinds"]
    return found

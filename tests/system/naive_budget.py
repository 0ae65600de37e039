"""The application with a budget that is read first and written afterwards: it must be caught."""

import time
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from points.ledger import budgets
from points.ledger.budgets import BudgetExhausted, Payment
from points.ledger.models import SystemAccount
from wsgi import create_serving_app


def create_naive_app() -> Flask:
    """The served application, its `budgets.pay` replaced by the one below."""
    budgets.pay = naive_pay  # type: ignore[assignment]
    return create_serving_app()


def naive_pay(
    session: Session, payments: Sequence[Payment], *, account_id: int, expires_on: date, now: datetime
) -> list[UUID]:
    """Look, pay, and write down what is left of what was seen."""
    held = budgets.held_by(session, account_id)
    total = sum(payment.points for payment in payments)
    if held < total:
        raise BudgetExhausted
    time.sleep(0.01)
    keys: dict[str, Any] = {"rows": msgspec.json.encode(payments).decode(), "account_id": account_id}
    written = session.execute(budgets._PAY, {**keys, "expires_on": expires_on, "now": now}).all()
    session.execute(sa.update(SystemAccount).where(SystemAccount.id == account_id).values(budget_points=held - total))
    return [transfer_id for transfer_id, _ in written]

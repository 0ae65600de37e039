"""Weighing slips: what a collector may write down, and the fixed form over which both sides see one hash."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.waste.orders import materials
from points.waste.orders.models import (
    ITEMS_MAX,
    SLIPS_MAX,
    RecycledMaterial,
    RecyclingEdition,
    RecyclingOrder,
    Unit,
    WeighingItem,
    WeighingSlip,
)
from server import typed_codes
from server.clock import business_day
from server.errors import Conflict, DomainError

NUMBER_LENGTH = 8


class SlipRefused(DomainError):
    """What was weighed cannot be so; `errors` names each line and what is wrong with it."""

    code, status, title_zh, title_en = (
        "weighing-slip-refused",
        422,
        "称重数据有误, 请核对",
        "The weighing cannot be right; check it",
    )


class TooManySlips(Conflict):
    """An order has been corrected as often as it may be."""

    code, title_zh, title_en = (
        "too-many-slips",
        "该订单的称重单更正次数已达上限",
        "This order has been corrected as often as it may be",
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a slip as the collector enters it: grams with tare and net, or pieces."""

    material: str
    gross_g: int | None = None
    tare_g: int | None = None
    net_g: int | None = None
    pieces: int | None = None


@dataclass(frozen=True, slots=True)
class SlipSheet:
    """A slip with its lines."""

    slip: WeighingSlip
    items: Sequence[WeighingItem]


def faults_of(
    line: Line, material: RecycledMaterial | None, *, scale_max_g: int, scale_step_g: int
) -> list[tuple[str, str]]:
    """What is wrong with a line, as (field, message); nothing for one that can be right.

    Net is gross less tare and is told all the same: a figure in kilograms or jin, or a tare forgotten, shows itself.
    """
    if material is None:
        return [("material", "Not in the catalogue of this order.")]
    lowest, highest = material.quantity_min, material.quantity_max
    if material.unit is Unit.PIECE:
        if (line.gross_g, line.tare_g, line.net_g) != (None, None, None) or line.pieces is None:
            return [("pieces", "This is counted in pieces, not weighed.")]
        return [] if lowest <= line.pieces <= highest else [("pieces", f"Must be from {lowest} to {highest}.")]
    if line.pieces is not None or line.gross_g is None or line.tare_g is None or line.net_g is None:
        return [("gross_g", "This is weighed: gross, tare and net in grams.")]
    faults = []
    if line.net_g != line.gross_g - line.tare_g:
        faults.append(("net_g", "Net is gross less tare."))
    elif not lowest <= line.net_g <= highest:
        faults.append(("net_g", f"Must be from {lowest} to {highest} g for this material."))
    if line.gross_g > scale_max_g:
        faults.append(("gross_g", f"The scale carries {scale_max_g} g."))
    faults += [
        (name, f"The scale shows multiples of {scale_step_g} g.")
        for name, grams in (("gross_g", line.gross_g), ("tare_g", line.tare_g))
        if grams % scale_step_g
    ]
    return faults


def _require_sound(lines: Sequence[Line], known: Mapping[str, RecycledMaterial], edition: RecyclingEdition) -> None:
    """Raise SlipRefused for lines that cannot be right, naming them all."""
    errors: list[dict[str, Any]] = [
        {"pointer": f"/items/{index}/{field}", "message": message}
        for index, line in enumerate(lines)
        for field, message in faults_of(
            line,
            known.get(line.material),
            scale_max_g=edition.scale_max_g,
            scale_step_g=edition.scale_step_g,
        )
    ]
    if len(lines) > ITEMS_MAX:
        errors.append({"pointer": "/items", "message": f"At most {ITEMS_MAX} lines."})
    if errors:
        raise SlipRefused(errors=errors)


def canonical(slip: WeighingSlip, items: Sequence[WeighingItem]) -> bytes:
    """The content in the form that is hashed: JSON (UTF-8), keys sorted, no blanks, instants in UTC, lines in order."""
    content = {
        "order": str(slip.order_id),
        "number": slip.number,
        "position": slip.position,
        "scale": slip.scale,
        "reason": slip.reason,
        "made_at": slip.made_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "items": [
            {
                "item": item.item,
                "material": item.material,
                "unit": item.unit.value,
                "gross_g": item.gross_g,
                "tare_g": item.tare_g,
                "net_g": item.net_g,
                "pieces": item.pieces,
            }
            for item in items
        ],
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def make(
    session: Session,
    order: RecyclingOrder,
    lines: Sequence[Line],
    *,
    scale: str | None,
    reason: str,
    made_by: UUID,
    now: datetime,
) -> SlipSheet:
    """Write the next slip of a held order; whoever calls counts it in the order afterwards.

    Raises SlipRefused, TooManySlips.
    """
    known = materials.materials_of(session, order.edition_id)
    _require_sound(lines, known, session.get_one(RecyclingEdition, order.edition_id))
    if order.slips >= SLIPS_MAX:
        raise TooManySlips
    slip = WeighingSlip(
        resident_id=order.resident_id,
        order_id=order.id,
        position=order.slips + 1,
        number=f"{business_day(now):%Y%m%d}-{typed_codes.new_code(NUMBER_LENGTH)}",
        scale=scale,
        reason=reason,
        item_count=len(lines),
        made_by=made_by,
        made_at=now,
    )
    items = [
        WeighingItem(
            resident_id=order.resident_id,
            order_id=order.id,
            slip_position=slip.position,
            item=number,
            edition_id=order.edition_id,
            unit=known[line.material].unit,
            **asdict(line),
        )
        for number, line in enumerate(lines, 1)
    ]
    slip.sha256 = hashlib.sha256(canonical(slip, items)).digest()
    session.add(slip)
    session.flush()
    session.add_all(items)
    session.flush()
    return SlipSheet(slip, items)


def of_order(session: Session, order: RecyclingOrder) -> list[SlipSheet]:
    """The slips of an order with their lines, the first one first; the last one counts."""
    mine = (WeighingSlip.resident_id == order.resident_id, WeighingSlip.order_id == order.id)
    found = session.scalars(sa.select(WeighingSlip).where(*mine).order_by(WeighingSlip.position)).all()
    items = session.scalars(
        sa.select(WeighingItem)
        .where(WeighingItem.resident_id == order.resident_id, WeighingItem.order_id == order.id)
        .order_by(WeighingItem.slip_position, WeighingItem.item)
    ).all()
    return [SlipSheet(slip, [each for each in items if each.slip_position == slip.position]) for slip in found]


def weighed_at(sheets: Sequence[SlipSheet]) -> datetime:
    """When the goods were handed over: at the first weighing, whatever was corrected since."""
    return sheets[0].slip.made_at

"""Recycling: what is taken, when collectors come, orders with their moves, and weighing slips.

A resident brings to a collection point, to a van that stops by a timetable, or is called on at home by appointment.
Every order carries the three attributes of the policy: fixed or mobile, scheduled or by appointment, online or offline.
"""

import enum
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from points.waste.orders.steps import OrderMove, OrderState, Party, moves_check
from points.waste.sites.models import Category
from server.database import Base, choice
from server.places.models import Confidence

MATERIALS_MAX = 200
SUBCLASSES_MAX = 40
ANNOUNCED_MAX = 12
SLIPS_MAX = 6
COLLECTORS_SLIPS_MAX = 3  # the others are kept for whoever decides a dispute
ITEMS_MAX = 30
PIECES_MAX = 20
CAPACITY_MAX = 1000
DAYS_MAX = 60  # single dates, and closed days, of a plan
GROSS_G_MAX = 1_000_000
REASON_LENGTH_MAX = 300
ADDRESS_SEALED_BYTES_MAX = 2000


class Stream(enum.StrEnum):
    """What becomes of a material: made into something new, used again by somebody else, or sent round again."""

    RECYCLING = "recycling"
    SECOND_HAND = "second-hand"
    PACKAGING = "courier-packaging"


class Unit(enum.StrEnum):
    """How a material is measured."""

    GRAM = "gram"
    PIECE = "piece"


class Way(enum.StrEnum):
    """How a resident and a collector meet."""

    POINT = "point"  # 固定点
    STOP = "stop"  # 流动回收车
    HOME = "home"  # 预约上门


class PlanKind(enum.StrEnum):
    """A stop of the van, or hours in which collectors call at homes."""

    STOP = "stop"
    HOME = "home"


# What is taken, and on which terms


class RecyclingEdition(Base):
    """One dated edition of what is taken and of the terms of orders. Immutable once loaded; the newest in force holds.

    After `confirm_days` without a word a slip counts as confirmed; an address is forgotten `address_days` after the
    end. A resident cancels up to `cancel_minutes` before the window. Either side may be reported missing
    `grace_minutes` after it, and at home a resident `grace_minutes` into it. Who missed `missed_max` appointments in
    `missed_days` days makes no other one until then. A scale shows multiples of `scale_step_g` up to `scale_max_g`.
    """

    __tablename__ = "recycling_edition"

    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    title_zh: Mapped[str] = mapped_column(sa.String(100))
    title_en: Mapped[str] = mapped_column(sa.String(100))
    source: Mapped[str] = mapped_column(sa.String(300))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    valid_from: Mapped[date] = mapped_column(unique=True)
    confirm_days: Mapped[int] = mapped_column(sa.SmallInteger)
    address_days: Mapped[int] = mapped_column(sa.SmallInteger)
    cancel_minutes: Mapped[int] = mapped_column(sa.SmallInteger)
    grace_minutes: Mapped[int] = mapped_column(sa.SmallInteger)
    ahead_days: Mapped[int] = mapped_column(sa.SmallInteger)
    open_max: Mapped[int] = mapped_column(sa.SmallInteger)
    missed_max: Mapped[int] = mapped_column(sa.SmallInteger)
    missed_days: Mapped[int] = mapped_column(sa.SmallInteger)
    scale_max_g: Mapped[int] = mapped_column(sa.Integer)
    scale_step_g: Mapped[int] = mapped_column(sa.Integer)
    subclass_count: Mapped[int] = mapped_column(sa.SmallInteger)  # so that the database can refuse a row added later
    material_count: Mapped[int] = mapped_column(sa.SmallInteger)
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    loaded_at: Mapped[datetime]

    __table_args__ = (
        # Shorter than any rule's closing day for late records: silence must not cost the points.
        sa.CheckConstraint("confirm_days BETWEEN 1 AND 5", name="confirm_days"),
        sa.CheckConstraint("address_days BETWEEN 0 AND 30", name="address_days"),
        sa.CheckConstraint("cancel_minutes BETWEEN 0 AND 2880", name="cancel_minutes"),
        sa.CheckConstraint("grace_minutes BETWEEN 5 AND 240", name="grace_minutes"),
        sa.CheckConstraint("ahead_days BETWEEN 1 AND 60", name="ahead_days"),
        sa.CheckConstraint("open_max BETWEEN 1 AND 20", name="open_max"),
        sa.CheckConstraint("missed_max BETWEEN 1 AND 20 AND missed_days BETWEEN 1 AND 365", name="missed"),
        sa.CheckConstraint(
            f"scale_step_g BETWEEN 1 AND 1000 AND scale_max_g BETWEEN scale_step_g AND {GROSS_G_MAX}", name="scale"
        ),
        sa.CheckConstraint(f"subclass_count BETWEEN 1 AND {SUBCLASSES_MAX}", name="subclass_count"),
        sa.CheckConstraint(f"material_count BETWEEN 1 AND {MATERIALS_MAX}", name="material_count"),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name="content_sha256"),
    )


class WasteSubclass(Base):
    """One sub-class of one of the four categories."""

    __tablename__ = "waste_subclass"

    edition_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("recycling_edition.id"), primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)
    category: Mapped[Category] = mapped_column(choice(Category, "category"))
    title_zh: Mapped[str] = mapped_column(sa.String(40))
    title_en: Mapped[str] = mapped_column(sa.String(60))
    source: Mapped[str] = mapped_column(sa.String(200))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (sa.CheckConstraint("code ~ '^[a-z][a-z0-9-]*$'", name="code"),)


class RecycledMaterial(Base):
    """One material that can be ordered and weighed.

    `mode` is what the earning rules and the carbon factors know it by: several materials may share one. `factor` is the
    key of a carbon factor, None where nothing measures what it saves. Outside minimum and maximum (grams or pieces) an
    item is a slip of the finger and not taken down. `sub_class` is None for what is no waste: goods used again.
    """

    __tablename__ = "recycled_material"

    edition_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("recycling_edition.id"), primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)
    stream: Mapped[Stream] = mapped_column(choice(Stream, "stream"))
    sub_class: Mapped[str | None] = mapped_column(sa.String(40))
    title_zh: Mapped[str] = mapped_column(sa.String(40))
    title_en: Mapped[str] = mapped_column(sa.String(60))
    hint_zh: Mapped[str] = mapped_column(sa.String(120))
    hint_en: Mapped[str] = mapped_column(sa.String(160))
    unit: Mapped[Unit] = mapped_column(choice(Unit, "unit"))
    mode: Mapped[str] = mapped_column(sa.String(40))
    factor: Mapped[str | None] = mapped_column(sa.String(40))
    quantity_min: Mapped[int] = mapped_column(sa.Integer)
    quantity_max: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.ForeignKeyConstraint(["edition_id", "sub_class"], ["waste_subclass.edition_id", "waste_subclass.code"]),
        sa.CheckConstraint("code ~ '^[a-z][a-z0-9_]*$' AND mode ~ '^[a-z][a-z0-9_]*$'", name="code"),
        sa.CheckConstraint("factor = mode", name="factor"),  # a saving is priced by the mode alone
        sa.CheckConstraint("quantity_min BETWEEN 1 AND quantity_max", name="quantity_min"),
        sa.CheckConstraint(
            f"quantity_max <= CASE WHEN unit = 'piece' THEN {PIECES_MAX} ELSE {GROSS_G_MAX} END", name="quantity_max"
        ),
        sa.CheckConstraint("stream = 'second-hand' OR sub_class IS NOT NULL", name="sub_class"),
    )


# When collectors come


class CollectionPlan(Base):
    """Where and when collectors come: a stop of the van, or hours for calls at homes of a division.

    On `weekdays` (ISO, 1 = Monday) and on single `days`, but on no `closed_days`; minutes are of the Shanghai day.
    `capacity` is how many orders one day takes. Coordinates are WGS-84 degrees.
    """

    __tablename__ = "collection_plan"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[PlanKind] = mapped_column(choice(PlanKind, "kind"))
    code: Mapped[str] = mapped_column(sa.String(40), unique=True)
    name: Mapped[str] = mapped_column(sa.String(80))
    division: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    address: Mapped[str | None] = mapped_column(sa.String(200))
    longitude: Mapped[float | None] = mapped_column(sa.Double)
    latitude: Mapped[float | None] = mapped_column(sa.Double)
    weekdays: Mapped[list[int]] = mapped_column(sa.ARRAY(sa.SmallInteger))
    days: Mapped[list[date]] = mapped_column(sa.ARRAY(sa.Date))
    closed_days: Mapped[list[date]] = mapped_column(sa.ARRAY(sa.Date))
    starts_minute: Mapped[int] = mapped_column(sa.SmallInteger)
    ends_minute: Mapped[int] = mapped_column(sa.SmallInteger)
    capacity: Mapped[int] = mapped_column(sa.SmallInteger)
    valid_from: Mapped[date]
    valid_to: Mapped[date | None]  # the last day, inclusive
    demonstration: Mapped[bool] = mapped_column(server_default=sa.text("false"))
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: from a data file
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name="code"),
        sa.CheckConstraint("name <> ''", name="name"),
        sa.CheckConstraint(
            "division ~ CASE WHEN kind = 'stop' THEN '^[0-9]{12}$' ELSE '^[0-9]{9}([0-9]{3})?$' END", name="division"
        ),
        sa.CheckConstraint(
            "num_nonnulls(address, longitude, latitude) = CASE WHEN kind = 'stop' THEN 3 ELSE 0 END", name="place"
        ),
        sa.CheckConstraint("longitude BETWEEN 73 AND 136 AND latitude BETWEEN 3 AND 54", name="coordinates"),
        sa.CheckConstraint(
            "cardinality(weekdays) <= 7 AND 1 <= ALL (weekdays) AND 7 >= ALL (weekdays)", name="weekdays"
        ),
        sa.CheckConstraint("cardinality(weekdays) + cardinality(days) > 0", name="some_day"),
        sa.CheckConstraint(f"cardinality(days) <= {DAYS_MAX} AND cardinality(closed_days) <= {DAYS_MAX}", name="days"),
        sa.CheckConstraint("0 <= starts_minute AND starts_minute < ends_minute AND ends_minute <= 1440", name="hours"),
        sa.CheckConstraint(f"capacity BETWEEN 1 AND {CAPACITY_MAX}", name="capacity"),
        sa.CheckConstraint("valid_to >= valid_from", name="validity"),
        sa.Index("collection_plan_division_ix", "division", "id"),
    )


class CollectionDay(Base):
    """How many orders one day of a plan has taken: the guard of its capacity."""

    __tablename__ = "collection_day"

    plan_id: Mapped[UUID] = mapped_column(sa.ForeignKey("collection_plan.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    capacity: Mapped[int] = mapped_column(sa.SmallInteger)
    taken: Mapped[int] = mapped_column(sa.SmallInteger)

    __table_args__ = (sa.CheckConstraint("taken BETWEEN 0 AND capacity", name="taken"),)


# Orders


class RecyclingOrder(Base):
    """One handing over of recyclables, from the request to the points.

    `community_code` is where it happens. `slips` counts the weighing slips; the last one counts. `due_at` is when the
    clock moves next. The address of a call at home is sealed; `ended_at` starts the days after which it is forgotten.
    """

    __tablename__ = "recycling_order"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    way: Mapped[Way] = mapped_column(choice(Way, "way"))
    site_kind: Mapped[str] = mapped_column(sa.String(10))
    timing: Mapped[str] = mapped_column(sa.String(12))
    channel: Mapped[str] = mapped_column(sa.String(8))
    edition_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("recycling_edition.id"))
    community_code: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    site_code: Mapped[str | None] = mapped_column(sa.String(64))  # the collection point
    plan_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("collection_plan.id"))
    day: Mapped[date]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    announced: Mapped[list[str]]  # codes of materials
    address_sealed: Mapped[bytes | None]
    # The resident, the collector who scanned their code, or the member of staff who booked for them.
    requested_by: Mapped[UUID]
    requested_at: Mapped[datetime]
    state: Mapped[OrderState] = mapped_column(choice(OrderState, "state"), server_default="requested")
    moves: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    slips: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    collector_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    due_at: Mapped[datetime | None]
    case_id: Mapped[UUID | None]  # of the dispute
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        sa.Index("recycling_order_id_ix", "id"),  # collectors know an order by its id alone
        sa.Index("recycling_order_place_ix", "community_code", "id", postgresql_where=sa.text("state = 'requested'")),
        sa.Index("recycling_order_collector_ix", "collector_id", "id"),
        sa.Index("recycling_order_due_ix", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")),
        sa.Index("recycling_order_address_ix", "ended_at", postgresql_where=sa.text("address_sealed IS NOT NULL")),
        sa.CheckConstraint("site_kind = CASE WHEN way = 'point' THEN 'fixed' ELSE 'mobile' END", name="site_kind"),
        sa.CheckConstraint(
            "timing = CASE WHEN way = 'home' OR (way = 'point' AND channel = 'online') THEN 'appointment'"
            " ELSE 'scheduled' END",
            name="timing",
        ),
        sa.CheckConstraint("channel IN ('online', 'offline')", name="channel"),
        sa.CheckConstraint("(channel = 'online') = (requested_by = resident_id)", name="requested_by"),
        sa.CheckConstraint(
            "(site_code IS NOT NULL) = (way = 'point') AND (plan_id IS NULL) = (way = 'point')", name="place"
        ),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name="community"),
        sa.CheckConstraint("ends_at > starts_at AND ends_at <= starts_at + interval '1 day'", name="hours"),
        sa.CheckConstraint(
            f"cardinality(announced) <= {ANNOUNCED_MAX} AND octet_length(announced::text) <= 600", name="announced"
        ),
        sa.CheckConstraint("way = 'home' OR address_sealed IS NULL", name="address"),
        sa.CheckConstraint(f"octet_length(address_sealed) <= {ADDRESS_SEALED_BYTES_MAX}", name="address_length"),
        sa.CheckConstraint("moves BETWEEN 0 AND 1000", name="moves"),
        sa.CheckConstraint(
            f"slips BETWEEN 0 AND {SLIPS_MAX} AND (slips > 0)"
            " = (state IN ('weighed', 'confirmed', 'disputed', 'settled'))",
            name="slips",
        ),
        sa.CheckConstraint(
            "(collector_id IS NOT NULL) = (state NOT IN ('requested', 'expired'))"
            " OR (state = 'cancelled' AND collector_id IS NULL)",
            name="collector",
        ),
        sa.CheckConstraint("collector_id <> resident_id", name="collector_another"),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL)"
            " = (state IN ('settled', 'cancelled', 'expired', 'resident-missed', 'collector-missed'))",
            name="ended",
        ),
        sa.CheckConstraint("state <> 'disputed' OR case_id IS NOT NULL", name="disputed"),
    )


class RecyclingMove(Base):
    """One move of an order: what, by whom, when, why. Append-only."""

    __tablename__ = "recycling_move"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)  # from 1
    move: Mapped[OrderMove] = mapped_column(choice(OrderMove, "move"))
    from_state: Mapped[OrderState] = mapped_column(choice(OrderState, "from_state"))
    to_state: Mapped[OrderState] = mapped_column(choice(OrderState, "to_state"))
    party: Mapped[Party] = mapped_column(choice(Party, "party"))
    moved_by: Mapped[UUID | None]  # None: by the clock
    reason: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX), server_default="")
    moved_at: Mapped[datetime]

    __table_args__ = (
        sa.ForeignKeyConstraint(["resident_id", "order_id"], ["recycling_order.resident_id", "recycling_order.id"]),
        sa.CheckConstraint("position >= 1", name="position"),
        sa.CheckConstraint("(party = 'clock') = (moved_by IS NULL)", name="moved_by"),
        sa.CheckConstraint(moves_check(), name="move_table"),
    )


# Slips


class WeighingSlip(Base):
    """What was weighed, as both sides see it. Never changed: a correction is another slip with its reason.

    `sha256` is over the whole content in a fixed form (points.waste.orders.slips.canonical).
    """

    __tablename__ = "weighing_slip"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)  # from 1
    number: Mapped[str] = mapped_column(sa.String(24))
    scale: Mapped[str | None] = mapped_column(sa.String(40))  # the device's own number
    reason: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX), server_default="")
    item_count: Mapped[int] = mapped_column(sa.SmallInteger)
    made_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    made_at: Mapped[datetime]
    sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))

    __table_args__ = (
        sa.ForeignKeyConstraint(["resident_id", "order_id"], ["recycling_order.resident_id", "recycling_order.id"]),
        sa.UniqueConstraint("resident_id", "number"),
        sa.CheckConstraint(f"position BETWEEN 1 AND {SLIPS_MAX}", name="position"),
        sa.CheckConstraint("(position = 1) = (reason = '')", name="reason"),
        # A correction may find that nothing was handed over.
        sa.CheckConstraint(
            f"item_count BETWEEN CASE WHEN position = 1 THEN 1 ELSE 0 END AND {ITEMS_MAX}", name="item_count"
        ),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    )


class WeighingItem(Base):
    """One line of a slip: grams with tare, or pieces."""

    __tablename__ = "weighing_item"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    slip_position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    item: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)  # from 1
    edition_id: Mapped[str] = mapped_column(sa.String(40))
    material: Mapped[str] = mapped_column(sa.String(40))
    unit: Mapped[Unit] = mapped_column(choice(Unit, "unit"))
    gross_g: Mapped[int | None] = mapped_column(sa.Integer)
    tare_g: Mapped[int | None] = mapped_column(sa.Integer)
    net_g: Mapped[int | None] = mapped_column(sa.Integer)
    pieces: Mapped[int | None] = mapped_column(sa.SmallInteger)

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["resident_id", "order_id", "slip_position"],
            ["weighing_slip.resident_id", "weighing_slip.order_id", "weighing_slip.position"],
        ),
        sa.ForeignKeyConstraint(["edition_id", "material"], ["recycled_material.edition_id", "recycled_material.code"]),
        sa.CheckConstraint(f"item BETWEEN 1 AND {ITEMS_MAX}", name="item"),
        sa.CheckConstraint(
            "CASE unit WHEN 'gram' THEN num_nonnulls(gross_g, tare_g, net_g) = 3 AND pieces IS NULL"
            " ELSE num_nonnulls(gross_g, tare_g, net_g) = 0 AND pieces IS NOT NULL END",
            name="unit_measured",
        ),
        sa.CheckConstraint("net_g = gross_g - tare_g AND net_g > 0 AND tare_g >= 0", name="net"),
        sa.CheckConstraint(f"gross_g <= {GROSS_G_MAX}", name="gross"),
        sa.CheckConstraint(f"pieces BETWEEN 1 AND {PIECES_MAX}", name="pieces"),
    )

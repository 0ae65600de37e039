"""Recycling orders: what is taken, when collectors come, orders with their moves, and weighing slips."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# An edition comes whole: what is added later is another edition.
EDITION_COUNT = """
CREATE FUNCTION refuse_late_material() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM recycled_material WHERE edition_id = NEW.edition_id)
       > (SELECT material_count FROM recycling_edition WHERE id = NEW.edition_id)
       OR (SELECT count(*) FROM waste_subclass WHERE edition_id = NEW.edition_id)
       > (SELECT subclass_count FROM recycling_edition WHERE id = NEW.edition_id)
    THEN
        RAISE EXCEPTION 'recycling_edition % is complete', NEW.edition_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""

# An order begins as requested. Its state changes only together with the next recorded move, its slips only over a slip
# that is complete, its address only to nothing; the collector comes with the acceptance and goes with the hand-back.
HOLD_ORDER = """
CREATE FUNCTION hold_recycling_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving text[] := ARRAY['state', 'moves', 'slips', 'collector_id', 'due_at', 'case_id', 'ended_at',
                           'address_sealed'];
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'requested' OR NEW.moves <> 0 OR NEW.slips <> 0 THEN
            RAISE EXCEPTION 'an order begins as requested' USING ERRCODE = 'restrict_violation',
                CONSTRAINT = 'recycling_order_held';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'an order is cancelled, not deleted' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'recycling_order_held';
    END IF;
    IF to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving
       OR (NEW.address_sealed IS NOT NULL AND NEW.address_sealed IS DISTINCT FROM OLD.address_sealed)
       OR (OLD.ended_at IS NOT NULL AND NEW.ended_at IS DISTINCT FROM OLD.ended_at)
       OR (OLD.case_id IS NOT NULL AND NEW.case_id IS DISTINCT FROM OLD.case_id)
    THEN
        RAISE EXCEPTION 'what an order is about does not change' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'recycling_order_held';
    END IF;
    IF NEW.collector_id IS DISTINCT FROM OLD.collector_id
       AND (OLD.state, NEW.state) NOT IN (('requested', 'accepted'), ('accepted', 'requested'))
    THEN
        RAISE EXCEPTION 'one collector from the acceptance to the end' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'recycling_order_held';
    END IF;
    IF (NEW.state, NEW.moves) IS DISTINCT FROM (OLD.state, OLD.moves)
       AND (NEW.moves <> OLD.moves + 1 OR NOT EXISTS (
           SELECT FROM recycling_move m WHERE m.resident_id = NEW.resident_id AND m.order_id = NEW.id
               AND m.position = NEW.moves AND m.from_state = OLD.state AND m.to_state = NEW.state))
    THEN
        RAISE EXCEPTION 'the state changes with a recorded move only' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'recycling_order_held';
    END IF;
    IF NEW.slips <> OLD.slips
       AND (NEW.slips <> OLD.slips + 1 OR NOT EXISTS (
           SELECT FROM weighing_slip s WHERE s.resident_id = NEW.resident_id AND s.order_id = NEW.id
               AND s.position = NEW.slips AND s.item_count = (
                   SELECT count(*) FROM weighing_item i WHERE i.resident_id = s.resident_id
                       AND i.order_id = s.order_id AND i.slip_position = s.position)))
    THEN
        RAISE EXCEPTION 'a slip counts when it is complete' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'recycling_order_held';
    END IF;
    RETURN NEW;
END $$
"""

# A slip is the next one of an order that is being weighed or corrected, and takes no line once it is complete.
HOLD_SLIP = """
CREATE FUNCTION hold_weighing_slip() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM recycling_order o WHERE o.resident_id = NEW.resident_id AND o.id = NEW.order_id
        AND o.slips = NEW.position - 1 AND o.state IN ('accepted', 'on-the-way', 'weighed', 'disputed') FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this order takes no such slip' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'weighing_slip_held';
    END IF;
    RETURN NEW;
END $$
"""

HOLD_ITEM = """
CREATE FUNCTION hold_weighing_item() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM weighing_item i WHERE i.resident_id = NEW.resident_id AND i.order_id = NEW.order_id
            AND i.slip_position = NEW.slip_position)
       > (SELECT item_count FROM weighing_slip s WHERE s.resident_id = NEW.resident_id AND s.order_id = NEW.order_id
            AND s.position = NEW.slip_position)
    THEN
        RAISE EXCEPTION 'the slip is complete' USING ERRCODE = 'restrict_violation',
            CONSTRAINT = 'weighing_slip_held';
    END IF;
    RETURN NULL;
END $$
"""

GUARDS = (
    ("refuse_change", "recycling_edition", "BEFORE UPDATE OR DELETE"),
    ("refuse_change", "waste_subclass", "BEFORE UPDATE OR DELETE"),
    ("refuse_change", "recycled_material", "BEFORE UPDATE OR DELETE"),
    ("refuse_late_material", "waste_subclass", "AFTER INSERT"),
    ("refuse_late_material", "recycled_material", "AFTER INSERT"),
    ("refuse_change", "collection_plan", "BEFORE DELETE"),  # a plan is ended, never deleted
    ("hold_recycling_order", "recycling_order", "BEFORE INSERT OR UPDATE OR DELETE"),
    ("refuse_change", "recycling_move", "BEFORE UPDATE OR DELETE"),
    ("hold_weighing_slip", "weighing_slip", "BEFORE INSERT"),
    ("refuse_change", "weighing_slip", "BEFORE UPDATE OR DELETE"),
    ("hold_weighing_item", "weighing_item", "AFTER INSERT"),
    ("refuse_change", "weighing_item", "BEFORE UPDATE OR DELETE"),
)

JOURNALS = (
    "recycling_edition",
    "waste_subclass",
    "recycled_material",
    "recycling_move",
    "weighing_slip",
    "weighing_item",
)


def upgrade() -> None:
    op.create_table(
        "recycling_edition",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("title_zh", sa.String(length=100), nullable=False),
        sa.Column("title_en", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("confirm_days", sa.SmallInteger(), nullable=False),
        sa.Column("address_days", sa.SmallInteger(), nullable=False),
        sa.Column("cancel_minutes", sa.SmallInteger(), nullable=False),
        sa.Column("grace_minutes", sa.SmallInteger(), nullable=False),
        sa.Column("ahead_days", sa.SmallInteger(), nullable=False),
        sa.Column("open_max", sa.SmallInteger(), nullable=False),
        sa.Column("missed_max", sa.SmallInteger(), nullable=False),
        sa.Column("missed_days", sa.SmallInteger(), nullable=False),
        sa.Column("scale_max_g", sa.Integer(), nullable=False),
        sa.Column("scale_step_g", sa.Integer(), nullable=False),
        sa.Column("subclass_count", sa.SmallInteger(), nullable=False),
        sa.Column("material_count", sa.SmallInteger(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("address_days BETWEEN 0 AND 30", name=op.f("recycling_edition_address_days_check")),
        sa.CheckConstraint("ahead_days BETWEEN 1 AND 60", name=op.f("recycling_edition_ahead_days_check")),
        sa.CheckConstraint("cancel_minutes BETWEEN 0 AND 2880", name=op.f("recycling_edition_cancel_minutes_check")),
        sa.CheckConstraint("confirm_days BETWEEN 1 AND 5", name=op.f("recycling_edition_confirm_days_check")),
        sa.CheckConstraint("grace_minutes BETWEEN 5 AND 240", name=op.f("recycling_edition_grace_minutes_check")),
        sa.CheckConstraint("material_count BETWEEN 1 AND 200", name=op.f("recycling_edition_material_count_check")),
        sa.CheckConstraint(
            "missed_max BETWEEN 1 AND 20 AND missed_days BETWEEN 1 AND 365", name=op.f("recycling_edition_missed_check")
        ),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name=op.f("recycling_edition_content_sha256_check")),
        sa.CheckConstraint("open_max BETWEEN 1 AND 20", name=op.f("recycling_edition_open_max_check")),
        sa.CheckConstraint(
            "scale_step_g BETWEEN 1 AND 1000 AND scale_max_g BETWEEN scale_step_g AND 1000000",
            name=op.f("recycling_edition_scale_check"),
        ),
        sa.CheckConstraint("subclass_count BETWEEN 1 AND 40", name=op.f("recycling_edition_subclass_count_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("recycling_edition_pkey")),
        sa.UniqueConstraint("valid_from", name=op.f("recycling_edition_valid_from_key")),
    )
    op.create_table(
        "waste_subclass",
        sa.Column("edition_id", sa.String(length=40), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "category",
            sa.Enum(
                "recyclable",
                "hazardous",
                "kitchen",
                "residual",
                name="category",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("title_zh", sa.String(length=40), nullable=False),
        sa.Column("title_en", sa.String(length=60), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.CheckConstraint("code ~ '^[a-z][a-z0-9-]*$'", name=op.f("waste_subclass_code_check")),
        sa.ForeignKeyConstraint(["edition_id"], ["recycling_edition.id"], name=op.f("waste_subclass_edition_id_fkey")),
        sa.PrimaryKeyConstraint("edition_id", "code", name=op.f("waste_subclass_pkey")),
    )
    op.create_table(
        "recycled_material",
        sa.Column("edition_id", sa.String(length=40), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "stream",
            sa.Enum(
                "recycling",
                "second-hand",
                "courier-packaging",
                name="stream",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("sub_class", sa.String(length=40), nullable=True),
        sa.Column("title_zh", sa.String(length=40), nullable=False),
        sa.Column("title_en", sa.String(length=60), nullable=False),
        sa.Column("hint_zh", sa.String(length=120), nullable=False),
        sa.Column("hint_en", sa.String(length=160), nullable=False),
        sa.Column(
            "unit",
            sa.Enum("gram", "piece", name="unit", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column("factor", sa.String(length=40), nullable=True),
        sa.Column("quantity_min", sa.Integer(), nullable=False),
        sa.Column("quantity_max", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "code ~ '^[a-z][a-z0-9_]*$' AND mode ~ '^[a-z][a-z0-9_]*$'", name=op.f("recycled_material_code_check")
        ),
        sa.CheckConstraint(
            "quantity_max <= CASE WHEN unit = 'piece' THEN 20 ELSE 1000000 END",
            name=op.f("recycled_material_quantity_max_check"),
        ),
        sa.CheckConstraint(
            "stream = 'second-hand' OR sub_class IS NOT NULL", name=op.f("recycled_material_sub_class_check")
        ),
        sa.CheckConstraint("factor = mode", name=op.f("recycled_material_factor_check")),
        sa.CheckConstraint(
            "quantity_min BETWEEN 1 AND quantity_max", name=op.f("recycled_material_quantity_min_check")
        ),
        sa.ForeignKeyConstraint(
            ["edition_id", "sub_class"],
            ["waste_subclass.edition_id", "waste_subclass.code"],
            name=op.f("recycled_material_edition_id_sub_class_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["edition_id"], ["recycling_edition.id"], name=op.f("recycled_material_edition_id_fkey")
        ),
        sa.PrimaryKeyConstraint("edition_id", "code", name=op.f("recycled_material_pkey")),
    )
    op.create_table(
        "collection_plan",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("stop", "home", name="kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("division", sa.String(length=12), nullable=False),
        sa.Column("address", sa.String(length=200), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("weekdays", sa.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("days", sa.ARRAY(sa.Date()), nullable=False),
        sa.Column("closed_days", sa.ARRAY(sa.Date()), nullable=False),
        sa.Column("starts_minute", sa.SmallInteger(), nullable=False),
        sa.Column("ends_minute", sa.SmallInteger(), nullable=False),
        sa.Column("capacity", sa.SmallInteger(), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date(), nullable=True),
        sa.Column("demonstration", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name=op.f("collection_plan_code_check")),
        sa.CheckConstraint(
            "division ~ CASE WHEN kind = 'stop' THEN '^[0-9]{12}$' ELSE '^[0-9]{9}([0-9]{3})?$' END",
            name=op.f("collection_plan_division_check"),
        ),
        sa.CheckConstraint("name <> ''", name=op.f("collection_plan_name_check")),
        sa.CheckConstraint(
            "num_nonnulls(address, longitude, latitude) = CASE WHEN kind = 'stop' THEN 3 ELSE 0 END",
            name=op.f("collection_plan_place_check"),
        ),
        sa.CheckConstraint(
            "0 <= starts_minute AND starts_minute < ends_minute AND ends_minute <= 1440",
            name=op.f("collection_plan_hours_check"),
        ),
        sa.CheckConstraint("capacity BETWEEN 1 AND 1000", name=op.f("collection_plan_capacity_check")),
        sa.CheckConstraint(
            "cardinality(days) <= 60 AND cardinality(closed_days) <= 60", name=op.f("collection_plan_days_check")
        ),
        sa.CheckConstraint(
            "cardinality(weekdays) + cardinality(days) > 0", name=op.f("collection_plan_some_day_check")
        ),
        sa.CheckConstraint(
            "cardinality(weekdays) <= 7 AND 1 <= ALL (weekdays) AND 7 >= ALL (weekdays)",
            name=op.f("collection_plan_weekdays_check"),
        ),
        sa.CheckConstraint(
            "longitude BETWEEN 73 AND 136 AND latitude BETWEEN 3 AND 54", name=op.f("collection_plan_coordinates_check")
        ),
        sa.CheckConstraint("valid_to >= valid_from", name=op.f("collection_plan_validity_check")),
        sa.ForeignKeyConstraint(["created_by"], ["staff.id"], name=op.f("collection_plan_created_by_fkey")),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("collection_plan_division_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("collection_plan_pkey")),
        sa.UniqueConstraint("code", name=op.f("collection_plan_code_key")),
    )
    op.create_index("collection_plan_division_ix", "collection_plan", ["division", "id"], unique=False)
    op.create_table(
        "collection_day",
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("capacity", sa.SmallInteger(), nullable=False),
        sa.Column("taken", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("taken BETWEEN 0 AND capacity", name=op.f("collection_day_taken_check")),
        sa.ForeignKeyConstraint(["plan_id"], ["collection_plan.id"], name=op.f("collection_day_plan_id_fkey")),
        sa.PrimaryKeyConstraint("plan_id", "day", name=op.f("collection_day_pkey")),
    )
    op.create_table(
        "recycling_order",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "way",
            sa.Enum("point", "stop", "home", name="way", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("site_kind", sa.String(length=10), nullable=False),
        sa.Column("timing", sa.String(length=12), nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("edition_id", sa.String(length=40), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("site_code", sa.String(length=64), nullable=True),
        sa.Column("plan_id", sa.Uuid(), nullable=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announced", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("address_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "requested",
                "accepted",
                "on-the-way",
                "weighed",
                "confirmed",
                "disputed",
                "settled",
                "cancelled",
                "expired",
                "resident-missed",
                "collector-missed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            server_default="requested",
            nullable=False,
        ),
        sa.Column("moves", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("slips", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("collector_id", sa.Uuid(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("case_id", sa.Uuid(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(channel = 'online') = (requested_by = resident_id)", name=op.f("recycling_order_requested_by_check")
        ),
        sa.CheckConstraint(
            "(collector_id IS NOT NULL) = (state NOT IN ('requested', 'expired')) OR (state = 'cancelled' AND collector_id IS NULL)",
            name=op.f("recycling_order_collector_check"),
        ),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (state IN ('settled', 'cancelled', 'expired', 'resident-missed', 'collector-missed'))",
            name=op.f("recycling_order_ended_check"),
        ),
        sa.CheckConstraint(
            "(site_code IS NOT NULL) = (way = 'point') AND (plan_id IS NULL) = (way = 'point')",
            name=op.f("recycling_order_place_check"),
        ),
        sa.CheckConstraint("channel IN ('online', 'offline')", name=op.f("recycling_order_channel_check")),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name=op.f("recycling_order_community_check")),
        sa.CheckConstraint(
            "ends_at > starts_at AND ends_at <= starts_at + interval '1 day'", name=op.f("recycling_order_hours_check")
        ),
        sa.CheckConstraint(
            "site_kind = CASE WHEN way = 'point' THEN 'fixed' ELSE 'mobile' END",
            name=op.f("recycling_order_site_kind_check"),
        ),
        sa.CheckConstraint(
            "slips BETWEEN 0 AND 6 AND (slips > 0) = (state IN ('weighed', 'confirmed', 'disputed', 'settled'))",
            name=op.f("recycling_order_slips_check"),
        ),
        sa.CheckConstraint("state <> 'disputed' OR case_id IS NOT NULL", name=op.f("recycling_order_disputed_check")),
        sa.CheckConstraint(
            "timing = CASE WHEN way = 'home' OR (way = 'point' AND channel = 'online') THEN 'appointment' ELSE 'scheduled' END",
            name=op.f("recycling_order_timing_check"),
        ),
        sa.CheckConstraint("way = 'home' OR address_sealed IS NULL", name=op.f("recycling_order_address_check")),
        sa.CheckConstraint(
            "cardinality(announced) <= 12 AND octet_length(announced::text) <= 600",
            name=op.f("recycling_order_announced_check"),
        ),
        sa.CheckConstraint("collector_id <> resident_id", name=op.f("recycling_order_collector_another_check")),
        sa.CheckConstraint("moves BETWEEN 0 AND 1000", name=op.f("recycling_order_moves_check")),
        sa.CheckConstraint("octet_length(address_sealed) <= 2000", name=op.f("recycling_order_address_length_check")),
        sa.ForeignKeyConstraint(["collector_id"], ["staff.id"], name=op.f("recycling_order_collector_id_fkey")),
        sa.ForeignKeyConstraint(
            ["community_code"], ["division.code"], name=op.f("recycling_order_community_code_fkey")
        ),
        sa.ForeignKeyConstraint(["edition_id"], ["recycling_edition.id"], name=op.f("recycling_order_edition_id_fkey")),
        sa.ForeignKeyConstraint(["plan_id"], ["collection_plan.id"], name=op.f("recycling_order_plan_id_fkey")),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("recycling_order_pkey")),
    )
    op.create_index(
        "recycling_order_address_ix",
        "recycling_order",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("address_sealed IS NOT NULL"),
    )
    op.create_index("recycling_order_collector_ix", "recycling_order", ["collector_id", "id"], unique=False)
    op.create_index(
        "recycling_order_due_ix",
        "recycling_order",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("recycling_order_id_ix", "recycling_order", ["id"], unique=False)
    op.create_index(
        "recycling_order_place_ix",
        "recycling_order",
        ["community_code", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'requested'"),
    )
    op.create_table(
        "recycling_move",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "move",
            sa.Enum(
                "accept",
                "hand-back",
                "depart",
                "weigh",
                "correct",
                "confirm",
                "dispute",
                "settle",
                "decide",
                "cancel",
                "expire",
                "miss",
                name="move",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "from_state",
            sa.Enum(
                "requested",
                "accepted",
                "on-the-way",
                "weighed",
                "confirmed",
                "disputed",
                "settled",
                "cancelled",
                "expired",
                "resident-missed",
                "collector-missed",
                name="from_state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "to_state",
            sa.Enum(
                "requested",
                "accepted",
                "on-the-way",
                "weighed",
                "confirmed",
                "disputed",
                "settled",
                "cancelled",
                "expired",
                "resident-missed",
                "collector-missed",
                name="to_state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "party",
            sa.Enum(
                "resident",
                "collector",
                "reviewer",
                "clock",
                name="party",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("moved_by", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=300), server_default="", nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(from_state, move, party, to_state) IN (('accepted', 'cancel', 'collector', 'cancelled'), ('accepted', 'cancel', 'resident', 'cancelled'), ('accepted', 'depart', 'collector', 'on-the-way'), ('accepted', 'hand-back', 'collector', 'requested'), ('accepted', 'miss', 'clock', 'collector-missed'), ('accepted', 'miss', 'collector', 'resident-missed'), ('accepted', 'miss', 'resident', 'collector-missed'), ('accepted', 'weigh', 'collector', 'weighed'), ('confirmed', 'settle', 'clock', 'settled'), ('disputed', 'decide', 'reviewer', 'settled'), ('on-the-way', 'cancel', 'collector', 'cancelled'), ('on-the-way', 'miss', 'clock', 'collector-missed'), ('on-the-way', 'miss', 'collector', 'resident-missed'), ('on-the-way', 'miss', 'resident', 'collector-missed'), ('on-the-way', 'weigh', 'collector', 'weighed'), ('requested', 'accept', 'collector', 'accepted'), ('requested', 'cancel', 'resident', 'cancelled'), ('requested', 'expire', 'clock', 'expired'), ('weighed', 'confirm', 'clock', 'confirmed'), ('weighed', 'confirm', 'resident', 'confirmed'), ('weighed', 'correct', 'collector', 'weighed'), ('weighed', 'dispute', 'resident', 'disputed'))",
            name=op.f("recycling_move_move_table_check"),
        ),
        sa.CheckConstraint("(party = 'clock') = (moved_by IS NULL)", name=op.f("recycling_move_moved_by_check")),
        sa.CheckConstraint("position >= 1", name=op.f("recycling_move_position_check")),
        sa.ForeignKeyConstraint(
            ["resident_id", "order_id"],
            ["recycling_order.resident_id", "recycling_order.id"],
            name=op.f("recycling_move_resident_id_order_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "order_id", "position", name=op.f("recycling_move_pkey")),
    )
    op.create_table(
        "weighing_slip",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.String(length=24), nullable=False),
        sa.Column("scale", sa.String(length=40), nullable=True),
        sa.Column("reason", sa.String(length=300), server_default="", nullable=False),
        sa.Column("item_count", sa.SmallInteger(), nullable=False),
        sa.Column("made_by", sa.Uuid(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.CheckConstraint("(position = 1) = (reason = '')", name=op.f("weighing_slip_reason_check")),
        sa.CheckConstraint(
            "item_count BETWEEN CASE WHEN position = 1 THEN 1 ELSE 0 END AND 30",
            name=op.f("weighing_slip_item_count_check"),
        ),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("weighing_slip_sha256_check")),
        sa.CheckConstraint("position BETWEEN 1 AND 6", name=op.f("weighing_slip_position_check")),
        sa.ForeignKeyConstraint(["made_by"], ["staff.id"], name=op.f("weighing_slip_made_by_fkey")),
        sa.ForeignKeyConstraint(
            ["resident_id", "order_id"],
            ["recycling_order.resident_id", "recycling_order.id"],
            name=op.f("weighing_slip_resident_id_order_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "order_id", "position", name=op.f("weighing_slip_pkey")),
        sa.UniqueConstraint("resident_id", "number", name=op.f("weighing_slip_resident_id_number_key")),
    )
    op.create_table(
        "weighing_item",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("slip_position", sa.SmallInteger(), nullable=False),
        sa.Column("item", sa.SmallInteger(), nullable=False),
        sa.Column("edition_id", sa.String(length=40), nullable=False),
        sa.Column("material", sa.String(length=40), nullable=False),
        sa.Column(
            "unit",
            sa.Enum("gram", "piece", name="unit", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("gross_g", sa.Integer(), nullable=True),
        sa.Column("tare_g", sa.Integer(), nullable=True),
        sa.Column("net_g", sa.Integer(), nullable=True),
        sa.Column("pieces", sa.SmallInteger(), nullable=True),
        sa.CheckConstraint(
            "CASE unit WHEN 'gram' THEN num_nonnulls(gross_g, tare_g, net_g) = 3 AND pieces IS NULL ELSE num_nonnulls(gross_g, tare_g, net_g) = 0 AND pieces IS NOT NULL END",
            name=op.f("weighing_item_unit_measured_check"),
        ),
        sa.CheckConstraint("gross_g <= 1000000", name=op.f("weighing_item_gross_check")),
        sa.CheckConstraint("item BETWEEN 1 AND 30", name=op.f("weighing_item_item_check")),
        sa.CheckConstraint(
            "net_g = gross_g - tare_g AND net_g > 0 AND tare_g >= 0", name=op.f("weighing_item_net_check")
        ),
        sa.CheckConstraint("pieces BETWEEN 1 AND 20", name=op.f("weighing_item_pieces_check")),
        sa.ForeignKeyConstraint(
            ["edition_id", "material"],
            ["recycled_material.edition_id", "recycled_material.code"],
            name=op.f("weighing_item_edition_id_material_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["resident_id", "order_id", "slip_position"],
            ["weighing_slip.resident_id", "weighing_slip.order_id", "weighing_slip.position"],
            name=op.f("weighing_item_resident_id_order_id_slip_position_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "order_id", "slip_position", "item", name=op.f("weighing_item_pkey")),
    )

    for function in (EDITION_COUNT, HOLD_ORDER, HOLD_SLIP, HOLD_ITEM):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(f"CREATE TRIGGER {table}_{function} {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()")
    for table in (*JOURNALS, "collection_plan", "recycling_order"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    op.execute(f"GRANT SELECT, INSERT ON {', '.join(JOURNALS)} TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON collection_plan, collection_day, recycling_order TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")

"""What residents did, what it is worth under which rule, and the counts kept of it."""

import enum
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice


class Behaviour(enum.StrEnum):
    """What is rewarded. The travel behaviours are also the travel modes of the carbon methods."""

    WALK = "walk"
    BICYCLE = "bicycle"
    E_BIKE = "e-bike"
    BUS = "bus"
    METRO = "metro"
    SORTING = "sorting"
    RECYCLING = "recycling"


TRAVEL = frozenset({Behaviour.WALK, Behaviour.BICYCLE, Behaviour.E_BIKE, Behaviour.BUS, Behaviour.METRO})


class Grade(enum.StrEnum):
    """How strong the evidence is, strongest first."""

    PARTNER_SIGNED = "partner-signed"
    STAFF_CONFIRMED = "staff-confirmed"
    SENSOR = "sensor"
    SELF_DECLARED = "self-declared"


class Outcome(enum.StrEnum):
    """What became of a claim."""

    AWARDED = "awarded"
    REFUSED = "refused"
    HELD = "held"
    REVERSED = "reversed"


class BoundKind(enum.StrEnum):
    """Whose points of a day are bounded beside the resident's own caps. The bound of a grade counts by the week."""

    HOUSEHOLD = "household"
    DEVICE = "device"  # a bin, a scale, a registered scanner
    PHONE = "phone"  # an installation of the mini-program
    STAFF = "staff"
    SITE = "site"
    DRIVE = "drive"
    GRADE = "grade"


class SubjectKind(enum.StrEnum):
    """Whose claims can be held until a person has looked."""

    RESIDENT = "resident"
    HOUSEHOLD = "household"
    DEVICE = "device"
    SITE = "site"
    STAFF = "staff"
    PARTNER = "partner"


class RuleVersion(Base):
    """One dated edition of the district's rules. Immutable once loaded; a change is a new version."""

    __tablename__ = "rule_version"

    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    title_zh: Mapped[str] = mapped_column(sa.String(100))
    title_en: Mapped[str] = mapped_column(sa.String(100))
    source: Mapped[str] = mapped_column(sa.String(300))
    valid_from: Mapped[date]
    valid_to: Mapped[date | None]  # the last day, inclusive
    late_days_max: Mapped[int] = mapped_column(sa.SmallInteger)
    expiry_years: Mapped[int] = mapped_column(sa.SmallInteger)
    travel_method_id: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("carbon_method.id"))
    recycling_method_id: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("carbon_method.id"))
    rule_count: Mapped[int] = mapped_column(sa.SmallInteger)  # so that the database can refuse a rule added later
    grade_count: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    bound_count: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))

    __table_args__ = (
        sa.CheckConstraint("valid_to >= valid_from", name="validity"),
        sa.CheckConstraint("late_days_max BETWEEN 0 AND 60", name="late_days_max"),
        sa.CheckConstraint("expiry_years BETWEEN 1 AND 5", name="expiry_years"),
        ExcludeConstraint(
            (sa.text("daterange(valid_from, valid_to, '[]')"), "&&"), name="rule_version_validity_excl", using="gist"
        ),
    )


class EarningRule(Base):
    """What one mode of one behaviour earns at one grade of evidence.

    points = points_per_act + distance_m × points_per_km ÷ 1,000 + weight_g × points_per_kg ÷ 1,000
    + steps × points_per_1000_steps ÷ 1,000, each rounded down. Outside minimum and maximum quantity (metres, grams,
    steps) a claim is refused or cut to the maximum. Rules with the same `cap_group` share the caps.
    """

    __tablename__ = "earning_rule"

    version_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("rule_version.id"), primary_key=True)
    behaviour: Mapped[Behaviour] = mapped_column(choice(Behaviour, "behaviour"), primary_key=True)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    grade: Mapped[Grade] = mapped_column(choice(Grade, "grade"), primary_key=True)
    points_per_act: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    points_per_km: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    points_per_kg: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    points_per_1000_steps: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    quantity_min: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    quantity_max: Mapped[int] = mapped_column(sa.Integer)
    speed_max_kmh: Mapped[int | None] = mapped_column(sa.SmallInteger)
    cap_group: Mapped[str] = mapped_column(sa.String(40))
    day_cap_points: Mapped[int] = mapped_column(sa.Integer)
    week_cap_points: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.CheckConstraint(
            "least(points_per_act, points_per_km, points_per_kg, points_per_1000_steps, quantity_min) >= 0",
            name="not_negative",
        ),
        sa.CheckConstraint("quantity_max >= quantity_min AND quantity_max <= 1000000", name="quantity"),
        sa.CheckConstraint("day_cap_points BETWEEN 0 AND 10000", name="day_cap"),
        sa.CheckConstraint("week_cap_points BETWEEN day_cap_points AND 70000", name="week_cap"),
    )


class GradeTerm(Base):
    """What a grade of evidence is worth in one rule version: its share of the points in percent, its ceiling a week.

    A version without any pays every grade in full and has no ceilings.
    """

    __tablename__ = "grade_term"

    version_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("rule_version.id"), primary_key=True)
    grade: Mapped[Grade] = mapped_column(choice(Grade, "grade"), primary_key=True)
    percent: Mapped[int] = mapped_column(sa.SmallInteger)
    week_ceiling_points: Mapped[int | None] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name="percent"),
        sa.CheckConstraint("week_ceiling_points BETWEEN 0 AND 70000", name="week_ceiling"),
    )


class BoundLimit(Base):
    """How many points all claims of one household, device, phone, staff member, site or drive can pay on one day."""

    __tablename__ = "bound_limit"

    version_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("rule_version.id"), primary_key=True)
    kind: Mapped[BoundKind] = mapped_column(choice(BoundKind, "kind"), primary_key=True)
    day_points: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.CheckConstraint("day_points BETWEEN 0 AND 10000000", name="day_points"),
        sa.CheckConstraint("kind <> 'grade'", name="not_grade"),  # those stand in grade_term
    )


class Activity(Base):
    """One claim and what became of it.

    Times: started and ended when it happened, received when it reached us, recorded when it was written. `business_day`
    is the Asia/Shanghai date of its start. `priced_points` is its worth before caps; what was paid is in the
    transfer of the same id.
    """

    __tablename__ = "activity"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    behaviour: Mapped[Behaviour] = mapped_column(choice(Behaviour, "behaviour"))
    mode: Mapped[str] = mapped_column(sa.String(40))
    grade: Mapped[Grade] = mapped_column(choice(Grade, "grade"))
    source: Mapped[str] = mapped_column(sa.String(40))
    external_id: Mapped[str] = mapped_column(sa.String(64))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    received_at: Mapped[datetime]
    recorded_at: Mapped[datetime] = mapped_column(server_default=sa.text("clock_timestamp()"))
    business_day: Mapped[date]
    community_code: Mapped[str] = mapped_column(sa.String(12))
    distance_m: Mapped[int | None] = mapped_column(sa.Integer)
    weight_g: Mapped[int | None] = mapped_column(sa.Integer)
    steps: Mapped[int | None] = mapped_column(sa.Integer)
    steps_before: Mapped[int | None] = mapped_column(sa.Integer)  # what of the day was claimed before: None is 0
    acts: Mapped[int] = mapped_column(sa.SmallInteger, server_default="1")  # 0: a further sync of one day's steps
    site: Mapped[str | None] = mapped_column(sa.String(64))
    site_kind: Mapped[str | None] = mapped_column(sa.String(10))
    timing: Mapped[str | None] = mapped_column(sa.String(12))
    channel: Mapped[str | None] = mapped_column(sa.String(8))
    device: Mapped[str | None] = mapped_column(sa.String(120))  # what vouched for it
    staff_id: Mapped[UUID | None]  # who confirmed it
    household_id: Mapped[UUID | None]  # the resident's when it was paid: whose bound it counted to
    outcome: Mapped[Outcome] = mapped_column(choice(Outcome, "outcome"))
    reason: Mapped[str | None] = mapped_column(sa.String(40))
    priced_points: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    saved_co2e_mg: Mapped[int] = mapped_column(server_default="0")
    method_id: Mapped[str | None] = mapped_column(sa.String(60))
    rule_version_id: Mapped[str | None] = mapped_column(sa.String(40))

    __table_args__ = (
        # One physical act, once: by its source's own id, and two trips of one person cannot share a moment.
        sa.UniqueConstraint("resident_id", "source", "external_id", name="activity_external_key"),
        ExcludeConstraint(
            ("resident_id", "="),
            (sa.text("tstzrange(started_at, ended_at)"), "&&"),
            name="activity_no_overlap_excl",
            using="gist",
            where=sa.text("distance_m IS NOT NULL AND outcome = 'awarded'"),
        ),
        # Few rows, none of them written by an award: how many of a community's records were taken back.
        sa.Index(
            "activity_reversed_ix", "community_code", "business_day", postgresql_where=sa.text("outcome = 'reversed'")
        ),
        # What waits for a person: few rows, and none of those that are paid at once.
        sa.Index("activity_held_ix", "id", postgresql_where=sa.text("outcome = 'held'")),
        # What came lately, for those who look at it later: detectors and spot checks.
        sa.Index(
            "activity_recorded_at_brin",
            "recorded_at",
            postgresql_using="brin",
            postgresql_with={"pages_per_range": 32},
        ),
        # Activities arrive in the order of their days, so a block range index finds a period almost for nothing.
        sa.Index(
            "activity_business_day_brin",
            "business_day",
            postgresql_using="brin",
            postgresql_with={"pages_per_range": 32},
        ),
        sa.CheckConstraint("ended_at >= started_at AND ended_at <= started_at + interval '1 day'", name="span"),
        sa.CheckConstraint(
            "least(distance_m, weight_g, steps, priced_points, saved_co2e_mg) >= 0", name="not_negative"
        ),
        sa.CheckConstraint("(outcome = 'awarded') = (reason IS NULL)", name="reason"),
        sa.CheckConstraint("acts IN (0, 1)", name="acts"),
        sa.CheckConstraint("site_kind IN ('fixed', 'mobile')", name="site_kind"),
        sa.CheckConstraint("timing IN ('scheduled', 'appointment')", name="timing"),
        sa.CheckConstraint("channel IN ('online', 'offline')", name="channel"),
    )


class CapUsage(Base):
    """What a resident's claims of one cap group were worth on each day of a week, before caps.

    Locked by the write itself, so that two claims at once can never both take the last points under a cap. What is paid
    is a function of these sums alone, so the order in which events arrive changes nobody's total.
    `day_capped_before` is that function's value (before the week's cap) ahead of the latest write: RETURNING tells only
    what is after it.
    """

    __tablename__ = "cap_usage"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    cap_group: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    week_on: Mapped[date] = mapped_column(primary_key=True)
    day_cap_points: Mapped[int] = mapped_column(sa.Integer)
    day_0: Mapped[int] = mapped_column(sa.Integer)
    day_1: Mapped[int] = mapped_column(sa.Integer)
    day_2: Mapped[int] = mapped_column(sa.Integer)
    day_3: Mapped[int] = mapped_column(sa.Integer)
    day_4: Mapped[int] = mapped_column(sa.Integer)
    day_5: Mapped[int] = mapped_column(sa.Integer)
    day_6: Mapped[int] = mapped_column(sa.Integer)
    day_capped_before: Mapped[int] = mapped_column(sa.Integer, server_default="0")

    __table_args__ = (
        sa.CheckConstraint("least(day_0, day_1, day_2, day_3, day_4, day_5, day_6) >= 0", name="not_negative"),
        sa.CheckConstraint("extract(isodow FROM week_on) = 1", name="monday"),
    )


class ResidentDay(Base):
    """One resident's awarded activities of one behaviour on one day: caps, charts and campaign progress read this."""

    __tablename__ = "resident_day"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    behaviour: Mapped[Behaviour] = mapped_column(choice(Behaviour, "behaviour"), primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12))
    activities: Mapped[int] = mapped_column(sa.Integer)
    distance_m: Mapped[int]
    weight_g: Mapped[int]
    saved_co2e_mg: Mapped[int]
    points: Mapped[int]

    __table_args__ = (
        sa.CheckConstraint("least(activities, distance_m, weight_g, saved_co2e_mg, points) >= 0", name="not_negative"),
        # Rows arrive in the order of their days, so a block range index finds a period almost for nothing.
        sa.Index("resident_day_day_brin", "day", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    )


class CommunityDay(Base):
    """One community's awarded activities by day, behaviour, mode and method: every report reads this."""

    __tablename__ = "community_day"

    community_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    behaviour: Mapped[Behaviour] = mapped_column(choice(Behaviour, "behaviour"), primary_key=True)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    method_id: Mapped[str] = mapped_column(
        sa.String(60), primary_key=True, server_default=""
    )  # '' where nothing is saved
    activities: Mapped[int]
    distance_m: Mapped[int]
    weight_g: Mapped[int]
    saved_co2e_mg: Mapped[int]
    points: Mapped[int]

    __table_args__ = (
        sa.CheckConstraint("least(activities, distance_m, weight_g, saved_co2e_mg, points) >= 0", name="not_negative"),
        sa.Index("community_day_day_ix", "day"),
    )


class StepDay(Base):
    """A resident's steps of one local day as WeRun last told; only what was added since is a new claim."""

    __tablename__ = "step_day"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    steps: Mapped[int] = mapped_column(sa.Integer)
    steps_before: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    walked_steps: Mapped[int] = mapped_column(sa.Integer, server_default="0")  # of walks that were paid by themselves
    synced_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("steps BETWEEN 0 AND 200000 AND steps_before >= 0", name="steps"),
        sa.CheckConstraint("walked_steps BETWEEN 0 AND 1000000", name="walked_steps"),
    )


class BoundUsage(Base):
    """How many points of its limit one subject has taken in one period: what bounds an attacker, whatever the trick.

    `subject` is the household's, staff member's or drive's id, `partner:device`, `scanner:<id>`, `phone:<hash>`, the
    site's code (`partner:site` when a partner says so), or `<resident>:<grade>`. `day` is the business day of the
    occurrence, and the Monday of its week for a grade. Locked by the write itself; a reversal gives nothing back.
    """

    __tablename__ = "bound_usage"

    kind: Mapped[BoundKind] = mapped_column(choice(BoundKind, "kind"), primary_key=True)
    subject: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    limit_points: Mapped[int]
    taken_points: Mapped[int]

    __table_args__ = (
        sa.CheckConstraint("taken_points BETWEEN 0 AND limit_points", name="taken_points"),
        sa.CheckConstraint("kind <> 'grade' OR extract(isodow FROM day) = 1", name="monday"),
        sa.Index("bound_usage_day_brin", "day", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    )


class HoldOrder(Base):
    """While it stands, every claim of its subject is recorded and held: a person decides.

    It ends by itself at `until`, because nobody may be kept waiting by a case that was forgotten.
    """

    __tablename__ = "hold_order"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    subject_kind: Mapped[SubjectKind] = mapped_column(choice(SubjectKind, "subject_kind"))
    subject: Mapped[str] = mapped_column(sa.String(120))
    reason: Mapped[str] = mapped_column(sa.String(40))
    case_id: Mapped[UUID | None]
    placed_at: Mapped[datetime]
    until: Mapped[datetime]
    lifted_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("until > placed_at AND until <= placed_at + interval '92 days'", name="until"),
        sa.CheckConstraint("lifted_at >= placed_at", name="lifted_at"),
        sa.Index(
            "hold_order_standing_key",
            "subject_kind",
            "subject",
            "reason",
            unique=True,
            postgresql_where=sa.text("lifted_at IS NULL"),
        ),
    )

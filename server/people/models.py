"""People: residents, their WeChat identities and consents, staff, and sign-ins."""

import enum
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.access import Role
from server.database import Base, choice


class Resident(Base):
    """A person who earns. Nothing here is in the ledger but the id."""

    __tablename__ = "resident"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    community_code: Mapped[str | None] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), index=True)
    nickname: Mapped[str | None] = mapped_column(sa.String(24))
    born_in: Mapped[int | None] = mapped_column(sa.SmallInteger)
    phone_sealed: Mapped[bytes | None]
    phone_hash: Mapped[bytes | None] = mapped_column(unique=True)
    enabled: Mapped[bool] = mapped_column(server_default=sa.text("true"))
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("born_in BETWEEN 1900 AND 2100", name="born_in"),
        sa.CheckConstraint("(phone_sealed IS NULL) = (phone_hash IS NULL)", name="phone"),
        sa.CheckConstraint("octet_length(phone_sealed) <= 200 AND octet_length(phone_hash) = 32", name="phone_length"),
    )


class WechatIdentity(Base):
    """Which resident a mini-program's openid is. Found by openid, so a look-up table of its own."""

    __tablename__ = "wechat_identity"

    appid: Mapped[str] = mapped_column(sa.String(50), primary_key=True)
    openid: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    resident_id: Mapped[UUID] = mapped_column(unique=True)
    session_key_sealed: Mapped[bytes]  # to decrypt WeRun data; replaced at every sign-in
    created_at: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("octet_length(session_key_sealed) <= 200", name="session_key_length"),)


class ConsentPurpose(enum.StrEnum):
    """What a resident agreed to, each on its own (PIPL 14, 16, 23)."""

    TERMS = "terms"
    WERUN_STEPS = "werun-steps"
    PARTNER = "partner"
    RANKING = "ranking"
    TRACKS = "tracks"


class Consent(Base):
    """One giving, and perhaps withdrawing, of one consent. Kept as evidence; a new giving is a new row."""

    __tablename__ = "consent"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    purpose: Mapped[ConsentPurpose] = mapped_column(choice(ConsentPurpose, "purpose"))
    subject: Mapped[str] = mapped_column(sa.String(40), server_default="")  # the partner's code, for PARTNER
    text_version: Mapped[str] = mapped_column(sa.String(20))
    given_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]

    __table_args__ = (
        sa.Index(
            "consent_standing_key",
            "resident_id",
            "purpose",
            "subject",
            unique=True,
            postgresql_where="withdrawn_at IS NULL",
        ),
        sa.CheckConstraint("withdrawn_at >= given_at", name="withdrawn_after_given"),
    )


class Staff(Base):
    """A member of staff: a role and a scope, either a prefix of division codes or one organisation."""

    __tablename__ = "staff"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    password_hash: Mapped[str] = mapped_column(sa.String(200))
    role: Mapped[Role] = mapped_column(choice(Role, "role"))
    division: Mapped[str | None] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    organisation_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("organisation.id"))
    enabled: Mapped[bool] = mapped_column(server_default=sa.text("true"))
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("role <> 'resident'", name="not_resident"),
        sa.CheckConstraint("(division IS NULL) <> (organisation_id IS NULL)", name="one_scope"),
        sa.CheckConstraint(
            "(role IN ('school-staff', 'organisation-staff')) = (organisation_id IS NOT NULL)",
            name="organisation_scope",
        ),
    )


class SignIn(Base):
    """One sign-in and its chain of refresh tokens.

    Only the newest `generation` of refresh token works; the one before it works for a few seconds more, because its
    answer may have been lost. Anything older is a stolen copy and ends the sign-in.
    """

    __tablename__ = "sign_in"

    person_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    rotated_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    ended_because: Mapped[str | None] = mapped_column(sa.String(30))
    created_on: Mapped[date]

    __table_args__ = (sa.CheckConstraint("(ended_at IS NULL) = (ended_because IS NULL)", name="ended"),)


class OrganisationMembership(Base):
    """A resident as a member of an organisation, by the code that its staff handed out, until they leave."""

    __tablename__ = "organisation_membership"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    organisation_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organisation.id"), primary_key=True)
    group_name: Mapped[str | None] = mapped_column(sa.String(40))  # a class or a department, in the member's own words
    joined_at: Mapped[datetime]
    left_at: Mapped[datetime | None]

    __table_args__ = (
        sa.Index("organisation_membership_standing_ix", "organisation_id", postgresql_where="left_at IS NULL"),
        sa.CheckConstraint("left_at >= joined_at", name="left_after_joined"),
    )


class OrganisationJoinCode(Base):
    """The one code with which residents join an organisation now; a new one takes the place of the old.

    Only its keyed hash is kept: who reads the table cannot join with it.
    """

    __tablename__ = "organisation_join_code"

    organisation_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organisation.id"), primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(unique=True)
    issued_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("octet_length(code_hash) = 32", name="code_hash"),
        sa.CheckConstraint("expires_at > issued_at AND expires_at <= issued_at + interval '90 days'", name="expires"),
    )


class Household(Base):
    """People who live together, as they say themselves: they share a card and the day's bounds.

    `member_count` is moved by one guarded statement, so that two who join at once cannot both take the last place.
    """

    __tablename__ = "household"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    member_count: Mapped[int] = mapped_column(sa.SmallInteger)
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]  # when the last member left

    __table_args__ = (
        sa.CheckConstraint("member_count BETWEEN 0 AND 50", name="member_count"),
        sa.CheckConstraint("(member_count = 0) = (ended_at IS NOT NULL)", name="ended"),
    )


class HouseholdMember(Base):
    """A resident's one household now. Who leaves stays until the business day ends, in its bounds and in its count."""

    __tablename__ = "household_member"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    household_id: Mapped[UUID] = mapped_column(sa.ForeignKey("household.id"), index=True)
    member_id: Mapped[UUID]  # how the others name this member; tells nobody the resident's id
    joined_at: Mapped[datetime]
    leaves_at: Mapped[datetime | None]
    put_out: Mapped[bool] = mapped_column(server_default=sa.text("false"))  # by the others: cannot stay after all

    __table_args__ = (
        sa.CheckConstraint("leaves_at > joined_at", name="leaves_after_joined"),
        sa.CheckConstraint("NOT put_out OR leaves_at IS NOT NULL", name="put_out"),
        sa.Index("household_member_leaving_ix", "leaves_at", postgresql_where="leaves_at IS NOT NULL"),
    )


class HouseholdStay(Base):
    """A stay in a household that is over: kept for the waiting time before the next one, and for who serves whom."""

    __tablename__ = "household_stay"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    left_at: Mapped[datetime] = mapped_column(primary_key=True)
    household_id: Mapped[UUID] = mapped_column(sa.ForeignKey("household.id"))
    joined_at: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("left_at > joined_at", name="left_after_joined"),)


class HouseholdJoinCode(Base):
    """The one code with which people join a household now, as a keyed hash; a new one takes the place of the old."""

    __tablename__ = "household_join_code"

    household_id: Mapped[UUID] = mapped_column(sa.ForeignKey("household.id"), primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(unique=True)
    issued_by: Mapped[UUID]
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("octet_length(code_hash) = 32", name="code_hash"),
        sa.CheckConstraint("expires_at > issued_at AND expires_at <= issued_at + interval '7 days'", name="expires"),
    )


class CodePurpose(enum.StrEnum):
    """What a resident's code is good for: one purpose and no other."""

    SORTING = "sorting"
    RECYCLING = "recycling"
    STAFF_LINK = "staff-link"  # staff show which resident they are themselves


class CodeLimits(Base):
    """What a district allows of codes, cards and households from a day on: loaded from its folder, never changed."""

    __tablename__ = "code_limits"

    valid_from: Mapped[date] = mapped_column(primary_key=True)
    household_members_max: Mapped[int] = mapped_column(sa.SmallInteger)
    household_wait_days: Mapped[int] = mapped_column(sa.SmallInteger)
    card_uses_per_staff_max: Mapped[int] = mapped_column(sa.SmallInteger)
    card_uses_per_household_max: Mapped[int] = mapped_column(sa.SmallInteger)
    offline_hours_max: Mapped[int] = mapped_column(sa.SmallInteger)

    __table_args__ = (
        sa.CheckConstraint("household_members_max BETWEEN 2 AND 50", name="household_members_max"),
        sa.CheckConstraint("household_wait_days BETWEEN 1 AND 366", name="household_wait_days"),
        sa.CheckConstraint("card_uses_per_staff_max BETWEEN 0 AND 2000", name="card_uses_per_staff_max"),
        sa.CheckConstraint("card_uses_per_household_max BETWEEN 0 AND 100", name="card_uses_per_household_max"),
        sa.CheckConstraint("offline_hours_max BETWEEN 0 AND 48", name="offline_hours_max"),
    )


class ResidentCodeUse(Base):
    """A resident's code that has served: none serves twice, whoever scans it, with or without a net.

    A card's use takes the slot of its instant, so that two scanners of one card are one use as well.
    """

    __tablename__ = "resident_code_use"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    purpose: Mapped[CodePurpose] = mapped_column(choice(CodePurpose, "purpose"), primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True)
    used_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (sa.CheckConstraint("slot BETWEEN 0 AND 4294967295", name="slot"),)


class PrintedCard(Base):
    """A card with a QR code for a resident without a phone at hand, or for a whole household; found by what it says.

    Only a keyed hash of what is printed is kept: a lost card is replaced, never printed again.
    """

    __tablename__ = "printed_card"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    code_hash: Mapped[bytes] = mapped_column(unique=True)
    resident_id: Mapped[UUID]  # to whom what it brings is paid
    household_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("household.id"))  # whose members may carry it
    issued_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    issued_at: Mapped[datetime]
    revoked_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: by the holder
    revoked_at: Mapped[datetime | None]
    revoked_because: Mapped[str | None] = mapped_column(sa.String(200))
    use_count: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    last_used_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("octet_length(code_hash) = 32", name="code_hash"),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_because IS NULL) AND (revoked_by IS NULL OR revoked_at IS NOT NULL)",
            name="revoked",
        ),
        sa.CheckConstraint("use_count >= 0", name="use_count"),
        sa.Index("printed_card_standing_key", "resident_id", unique=True, postgresql_where="revoked_at IS NULL"),
        sa.Index("printed_card_resident_id_ix", "resident_id", "id"),
    )


class CardUser(enum.StrEnum):
    """Whose uses of cards a day are counted."""

    HOUSEHOLD = "household"  # a resident without one counts as a household of their own
    STAFF = "staff"


class CardDay(Base):
    """How many uses of cards a household has brought, or a member of staff confirmed, on one business day."""

    __tablename__ = "card_day"

    day: Mapped[date] = mapped_column(primary_key=True)
    user_kind: Mapped[CardUser] = mapped_column(choice(CardUser, "user_kind"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    limit_uses: Mapped[int] = mapped_column(sa.SmallInteger)
    uses: Mapped[int] = mapped_column(sa.SmallInteger)

    __table_args__ = (sa.CheckConstraint("uses BETWEEN 0 AND limit_uses", name="uses"),)


class StaffLink(Base):
    """Which resident a member of staff is themself, or their written word that they are none."""

    __tablename__ = "staff_link"

    staff_id: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"), primary_key=True)
    resident_id: Mapped[UUID | None] = mapped_column(index=True)
    statement: Mapped[str | None] = mapped_column(sa.String(200))
    made_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("num_nonnulls(resident_id, statement) = 1 AND statement <> ''", name="one_of_two"),
    )


class Scanner(Base):
    """A registered device that reads residents' codes, with or without a net; its uploads are signed with its key.

    Two keys can be live at once, so that a key is changed without a gap.
    """

    __tablename__ = "scanner"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(60))
    division: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), index=True)
    site_code: Mapped[str | None] = mapped_column(sa.String(40))
    operator_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # who carries it; None: nobody
    carried_since: Mapped[datetime | None]  # when that last changed; None: never
    enabled: Mapped[bool] = mapped_column(server_default=sa.text("true"))
    key_a_sealed: Mapped[bytes | None]
    key_b_sealed: Mapped[bytes | None]
    last_seen_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("name <> ''", name="name"),
        sa.CheckConstraint("site_code ~ '^[a-z0-9][a-z0-9-]{1,39}$'", name="site_code"),
        sa.CheckConstraint(
            "octet_length(key_a_sealed) <= 200 AND octet_length(key_b_sealed) <= 200", name="key_length"
        ),
    )

    def carrier_at(self, instant: datetime) -> UUID | None:
        """Who carried it then, None for nobody or before it changed hands: nobody confirms what another one read."""
        return None if self.carried_since is not None and instant < self.carried_since else self.operator_id


class ScannerScan(Base):
    """One scan that a device sent in, with its outcome: sent again, it gets the same answer and does nothing."""

    __tablename__ = "scanner_scan"

    scanner_id: Mapped[UUID] = mapped_column(sa.ForeignKey("scanner.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    scan_sha256: Mapped[bytes]
    scanned_at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(index=True)
    refused_because: Mapped[str | None] = mapped_column(sa.String(60))  # the code of an error; None: accepted

    __table_args__ = (
        sa.CheckConstraint("sequence >= 0", name="sequence"),
        sa.CheckConstraint("octet_length(scan_sha256) = 32", name="scan_sha256"),
    )

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

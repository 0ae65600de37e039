"""Places where people bring waste and recyclables, when they are open, and the devices that stand there."""

import enum
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice
from server.places.positions import Datum

CODE = r"^[a-z0-9]+(-[a-z0-9]+)+$"


class SiteKind(enum.StrEnum):
    """What a site is for: waste that was sorted at home, or recyclables that are weighed and paid."""

    SORTING_SITE = "sorting-site"
    COLLECTION_POINT = "collection-point"


class SiteForm(enum.StrEnum):
    """What stands there."""

    BIN_ROOM = "bin-room"  # 箱房
    SMART_BINS = "smart-bins"  # 智能投放箱
    TIMED_POINT = "timed-point"  # 定时定点桶站
    STATION = "station"  # 回收站点, the form of a collection point


class Category(enum.StrEnum):
    """The four categories of GB/T 19095-2019."""

    RECYCLABLE = "recyclable"  # 可回收物
    HAZARDOUS = "hazardous"  # 有害垃圾
    KITCHEN = "kitchen"  # 厨余垃圾
    RESIDUAL = "residual"  # 其他垃圾


class Site(Base):
    """One sorting site or collection point of a community, valid from `valid_from` to `valid_to`, both included.

    Its code never changes and it is never deleted: activities name it. `hours` holds dated plans of opening hours, see
    `opening`. A partner that runs the bins may know the site by a name of its own, `partner_site`.
    """

    __tablename__ = "site"

    code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    kind: Mapped[SiteKind] = mapped_column(choice(SiteKind, "kind"))
    form: Mapped[SiteForm] = mapped_column(choice(SiteForm, "form"))
    name: Mapped[str] = mapped_column(sa.String(60))
    address: Mapped[str] = mapped_column(sa.String(120))
    community_code: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), index=True)
    latitude: Mapped[float] = mapped_column(sa.Double())  # degrees in `datum`
    longitude: Mapped[float] = mapped_column(sa.Double())
    datum: Mapped[Datum] = mapped_column(choice(Datum, "datum"))
    categories: Mapped[list[str]]
    hours: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    partner_code: Mapped[str | None] = mapped_column(sa.String(40), sa.ForeignKey("partner.code"))
    partner_site: Mapped[str | None] = mapped_column(sa.String(64))
    demonstration: Mapped[bool] = mapped_column(server_default=sa.text("false"))  # invented, for trying the service
    valid_from: Mapped[date]
    valid_to: Mapped[date | None]
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.UniqueConstraint("partner_code", "partner_site", name="site_partner_site_key"),
        sa.CheckConstraint(f"code ~ '{CODE}'", name="code"),
        sa.CheckConstraint("(kind = 'collection-point') = (form = 'station')", name="form_of_kind"),
        sa.CheckConstraint("btrim(name) <> '' AND btrim(address) <> ''", name="name"),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name="community"),
        sa.CheckConstraint("latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180", name="position"),
        sa.CheckConstraint(
            "categories <@ ARRAY['recyclable', 'hazardous', 'kitchen', 'residual']"
            " AND cardinality(categories) BETWEEN 1 AND 4",
            name="categories",
        ),
        sa.CheckConstraint(
            "jsonb_typeof(hours) = 'array' AND jsonb_array_length(hours) BETWEEN 1 AND 20"
            " AND octet_length(hours::text) <= 32768",
            name="hours",
        ),
        sa.CheckConstraint(
            "(partner_code IS NULL) = (partner_site IS NULL) AND partner_site ~ '^[!-~]{1,64}$'", name="partner_site"
        ),
        sa.CheckConstraint("valid_to >= valid_from", name="validity"),
    )


class SiteDevice(Base):
    """A partner's device (`partner:device`) and the one site where it stands."""

    __tablename__ = "site_device"

    device: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    site_code: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("site.code"), index=True)

    __table_args__ = (sa.CheckConstraint("device ~ '^[a-z0-9-]+:[!-~]+$'", name="device"),)

"""The lines of a feed: what a partner may say, and the claim that each event makes."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from points.earning.claims import Claim, Reason
from points.earning.models import Behaviour, Grade

Token = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+(?!\n)$")]
Instant = Annotated[datetime, Meta(tz=True)]
# Bounded far above any rule, so that the rule and not the parser explains an implausible figure.
Metres = Annotated[int, Meta(ge=1, le=1_000_000)]
Grams = Annotated[int, Meta(ge=1, le=1_000_000)]
# A device's own count of its acts; exact in every language's numbers.
Sequence = Annotated[int, Meta(ge=0, le=2**53 - 1)]

TravelMode = Literal["walk", "bicycle", "e-bike", "bus", "metro"]
Category = Literal["recyclable", "hazardous", "kitchen", "residual"]
Material = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[a-z0-9_]+(?!\n)$")]


class Ride(msgspec.Struct, tag_field="kind", tag="ride", forbid_unknown_fields=True, frozen=True, gc=False):
    """A ride from boarding to alighting, or from unlocking to locking."""

    id: Token
    member: Token
    mode: TravelMode
    started_at: Instant
    ended_at: Instant
    distance_m: Metres


class BinDrop(msgspec.Struct, tag_field="kind", tag="bin-drop", forbid_unknown_fields=True, frozen=True, gc=False):
    """One bag in a smart bin, its category after GB/T 19095-2019.

    `device` and `sequence` come together: the device's own name and its own count of the drop, which is paid once.
    """

    id: Token
    member: Token
    category: Category
    at: Instant
    site: Token
    weight_g: Grams | None = None
    device: Token | None = None
    sequence: Sequence | None = None


class Weighing(msgspec.Struct, tag_field="kind", tag="recycling", forbid_unknown_fields=True, frozen=True, gc=False):
    """One material weighed by a recycler, with the policy's three attributes. `device` and `sequence` as of a drop."""

    id: Token
    member: Token
    material: Material
    weight_g: Grams
    at: Instant
    site: Token
    site_kind: Literal["fixed", "mobile"]
    timing: Literal["scheduled", "appointment"]
    channel: Literal["online", "offline"]
    device: Token | None = None
    sequence: Sequence | None = None


Event = Ride | BinDrop | Weighing

KINDS: Mapping[type, str] = {Ride: "ride", BinDrop: "bin-drop", Weighing: "recycling"}

_decoder = msgspec.json.Decoder(Event)

# 5,000 answers of this length, and the rest of each, stay below the largest answer that is kept.
DETAIL_LENGTH_MAX = 120

# No place on earth is further from UTC.
OFFSET_MAX = timedelta(hours=14)


class BadLine(ValueError):
    """A line does not fit; the message says what is wrong, in plain ASCII of at most DETAIL_LENGTH_MAX characters."""


def decode(line: bytes) -> Event:
    """The event in a line. Raises BadLine."""
    try:
        event: Event = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError) as error:
        # The message can quote the line, so what JSON would write as several bytes is left out.
        raise BadLine(re.sub(r"[^ -~]|[\"\\]", "?", str(error))[:DETAIL_LENGTH_MAX]) from None
    except RecursionError:
        raise BadLine("Nested too deeply") from None
    if not isinstance(event, Ride) and (event.device is None) != (event.sequence is None):
        raise BadLine("device and sequence come together")
    if isinstance(event, Ride):
        _check_instant(event.started_at)
        _check_instant(event.ended_at)
    else:
        _check_instant(event.at)
    return event


def _check_instant(instant: datetime) -> None:
    if not 2000 <= instant.year <= 2100:
        raise BadLine("Year out of range")  # near the ends of the calendar a change of time zone overflows
    offset = instant.utcoffset()
    if offset is None or not -OFFSET_MAX <= offset <= OFFSET_MAX:
        raise BadLine("UTC offset out of range")  # PostgreSQL would refuse it, and with it the whole batch


class _Named(msgspec.Struct):
    member: str


_name_decoder = msgspec.json.Decoder(_Named)
_NAME = re.compile(rb'"member"\s*:\s*"([^"]*)')


def members_named(line: bytes) -> set[str]:
    """Whom a line speaks of, as far as can be read; a line that breaks off or repeats itself is searched as text."""
    named = {found.decode("ascii", "replace") for found in _NAME.findall(line)}
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        named.add(_name_decoder.decode(line).member)
    return named


def device_of(partner_code: str, device: str | None) -> str | None:
    """A partner's device as `Claim.device` names it: each partner names its devices as it likes."""
    return None if device is None else f"{partner_code}:{device}"


def claim_of(
    event: Event, resident_id: UUID, partner_code: str, received_at: datetime, refusal: Reason | None = None
) -> Claim:
    """The claim that a bound resident's event makes, at the grade of a signed partner record."""
    if isinstance(event, Ride):
        return Claim(
            resident_id=resident_id,
            behaviour=Behaviour(event.mode),
            mode=event.mode,
            grade=Grade.PARTNER_SIGNED,
            source=partner_code,
            external_id=event.id,
            started_at=event.started_at,
            ended_at=event.ended_at,
            received_at=received_at,
            distance_m=event.distance_m,
            refusal=refusal,
        )
    if isinstance(event, BinDrop):
        return Claim(
            resident_id=resident_id,
            behaviour=Behaviour.SORTING,
            mode=event.category,
            grade=Grade.PARTNER_SIGNED,
            source=partner_code,
            external_id=event.id,
            started_at=event.at,
            ended_at=event.at,
            received_at=received_at,
            weight_g=event.weight_g,
            site=event.site,
            device=device_of(partner_code, event.device),
            refusal=refusal,
        )
    return Claim(
        resident_id=resident_id,
        behaviour=Behaviour.RECYCLING,
        mode=event.material,
        grade=Grade.PARTNER_SIGNED,
        source=partner_code,
        external_id=event.id,
        started_at=event.at,
        ended_at=event.at,
        received_at=received_at,
        weight_g=event.weight_g,
        site=event.site,
        site_kind=event.site_kind,
        timing=event.timing,
        channel=event.channel,
        device=device_of(partner_code, event.device),
        refusal=refusal,
    )

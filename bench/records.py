"""The real records of bench/data as the events that a partner would push. Nothing here knows of HTTP."""

import csv
import gzip
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path

import msgspec

from server.clock import SHANGHAI_FIXED

DATA = Path(__file__).parent / "data"
WEIGHT_G_MAX = 30_000  # above, the rule would refuse the drop; the figure is an estimate that earns nothing
HELSINKI_SUMMER = timezone(timedelta(hours=3))

# Riders' records come from the operators that the sample knows; it has no tram, which is a bus without tyres to it.
PARTNER_OF_MODE = {"metro": "metro-sample", "bus": "bus-sample", "tram": "bus-sample"}
MODE_SENT = {"metro": "metro", "bus": "bus", "tram": "bus"}
BINS = "bins-sample"


@dataclass(frozen=True, slots=True)
class Record:
    """One event on its way: whose key signs it, and its line."""

    partner: str
    line: bytes


def moved(day: date, today: date) -> date:
    """The latest day before `today` with the weekday of `day`: 1 to 7 days back, so within the rules' closing day."""
    return today - timedelta(days=1 + (today - timedelta(days=1) - day).days % 7)


def bin_drops(members: Sequence[str], today: date) -> list[Record]:
    """The 10,000 emptyings in their order. Site, order, weekday and time of day are real; who dropped is a hash."""
    with gzip.open(DATA / "edinburgh_smart_bins_2016.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [_bin_drop(row, members, today) for row in csv.DictReader(file)]


def _bin_drop(row: dict[str, str], members: Sequence[str], today: date) -> Record:
    emptied = datetime.fromisoformat(row["collected_at_local"])
    event = {
        "kind": "bin-drop",
        "id": _event_id(today, len(members), row["event_id"]),
        "member": members[_hash(row["event_id"]) % len(members)],
        "category": "residual",  # the bins' one content type is Mixed
        "at": _on(moved(emptied.date(), today), emptied.time()),
        "site": row["site_id"],
    }
    weight_g = round(float(row["weight_kg"]) * 1000)
    if 1 <= weight_g <= WEIGHT_G_MAX:
        event["weight_g"] = weight_g
    return Record(BINS, msgspec.json.encode(event))


def rides(members: Sequence[str], today: date) -> tuple[list[Record], int]:
    """The metro, bus and tram legs, each rider one resident; and how many have no distance and so cannot be sent."""
    text = (DATA / "aalto_legs.csv").read_text(encoding="utf-8")
    legs = [row for row in csv.DictReader(io.StringIO(text)) if row["mode"] in MODE_SENT]
    measured = [row for row in legs if row["distance_m"]]
    return [_ride(row, members, today) for row in measured], len(legs) - len(measured)


def _ride(row: dict[str, str], members: Sequence[str], today: date) -> Record:
    departed, arrived = (
        datetime.fromtimestamp(int(row[name]), HELSINKI_SUMMER) for name in ("departed_at_s", "arrived_at_s")
    )
    event = {
        "kind": "ride",
        "id": _event_id(today, len(members), row["leg"]),
        "member": members[int(row["device"]) - 1],
        "mode": MODE_SENT[row["mode"]],
        "started_at": _on(moved(departed.date(), today), departed.time()),
        "ended_at": _on(moved(arrived.date(), today), arrived.time()),
        "distance_m": int(row["distance_m"]),
    }
    return Record(PARTNER_OF_MODE[row["mode"]], msgspec.json.encode(event))


def _event_id(today: date, members: int, original: str) -> str:
    """The same all day long, so that a second demonstration on the same day pays nothing."""
    return f"{today:%Y%m%d}-{members}-{original}"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _on(day: date, clock_time: time) -> str:
    """The local time of day kept, as if it had been Nankai's."""
    return datetime.combine(day, clock_time, SHANGHAI_FIXED).isoformat()

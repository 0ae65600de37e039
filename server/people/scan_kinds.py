"""What a scan that a device sends in later means: the rooms above register their purposes, `wsgi.py` composes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Flask, current_app
from sqlalchemy.orm import Session

from server.people.models import CodePurpose, Scanner
from server.people.resident_codes import UsedCode


@dataclass(frozen=True, slots=True)
class AcceptedScan:
    """A code that held when the device read it, used up now.

    `sequence` is the device's own number of the scan: one number is one scan. `detail` is what the device adds for the
    purpose: JSON of at most 2,000 bytes, unchecked.
    """

    scanner: Scanner
    used: UsedCode
    sequence: int
    scanned_at: datetime
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScanKind:
    """What becomes of the scans of one purpose.

    `record` writes it into the transaction, in a savepoint of its own; a DomainError refuses this one scan, and its
    code has then not served. The last argument is the instant of receipt.
    """

    purpose: CodePurpose
    record: Callable[[Session, AcceptedScan, datetime], None]


def install(app: Flask, kinds: Sequence[ScanKind]) -> None:
    """Give the application what it takes in from devices."""
    by_purpose: dict[CodePurpose, ScanKind] = {}
    for kind in kinds:
        if kind.purpose in by_purpose:
            raise ValueError(f"scans for {kind.purpose!r} have two meanings")
        by_purpose[kind.purpose] = kind
    app.extensions["tanpuhui_scan_kinds"] = by_purpose


def kinds() -> Mapping[CodePurpose, ScanKind]:
    """The running application's."""
    found: Mapping[CodePurpose, ScanKind] = current_app.extensions["tanpuhui_scan_kinds"]
    return found

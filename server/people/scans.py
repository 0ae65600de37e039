"""What a registered device read without a net and sends in later: a signed batch, each scan taken in by itself.

A code was good when the device read it, by the device's clock; it serves once all the same, with or without a net. A
scan that was sent in already gets its first answer again, so that a device repeats whatever it is not sure of.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from sqlalchemy.orm import Session

from server.database import delete_some
from server.errors import DomainError, MalformedRequest
from server.people import resident_codes, scanners
from server.people.code_limits import limits_on
from server.people.models import CodePurpose, Scanner, ScannerScan
from server.people.resident_codes import TEXT_LENGTH_MAX
from server.people.scan_kinds import AcceptedScan, ScanKind
from server.people.staff_links import StaffUnlinked

BODY_BYTES_MAX = 1024 * 1024
SCANS_MAX = 200
DETAIL_BYTES_MAX = 2_000

# A device's clock may run ahead by as much.
AHEAD_MAX = timedelta(seconds=60)
KEPT_FOR = timedelta(days=90)


class ScanTooLate(DomainError):
    """The scan lies further back than the district allows, or in the future."""

    code, status, title_zh, title_en = (
        "scan-too-late",
        422,
        "扫码时间超出允许补传的范围",
        "The scan is older than may be sent in, or in the future",
    )


class ScanPurposeUnknown(DomainError):
    """Nothing here takes in scans of this purpose."""

    code, status, title_zh, title_en = "scan-purpose-unknown", 422, "不支持此用途", "No scan has this purpose"


class ScanSequenceReused(DomainError):
    """The device has used this number for another scan."""

    code, status, title_zh, title_en = (
        "scan-sequence-reused",
        422,
        "扫码序号已被使用",
        "The device used this number for another scan",
    )


class ScanDetailTooLong(DomainError):
    """What a device adds to a scan is bounded."""

    code, status, title_zh, title_en = "scan-detail-too-long", 422, "扫码附加内容过长", "The scan's detail is too long"


class ScanEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scan: the device's number of it, its clock, what was read, what for, and what the purpose wants with it."""

    sequence: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    scanned_at: Annotated[datetime, msgspec.Meta(tz=True)]
    code: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
    purpose: CodePurpose
    detail: dict[str, Any] = {}


class ScanBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device's upload."""

    scans: Annotated[list[ScanEntry], msgspec.Meta(min_length=1, max_length=SCANS_MAX)]


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """What became of one scan: accepted, or the code of the error that refused it."""

    sequence: int
    accepted: bool
    reason: str | None
    repeated: bool


def read_batch(body: bytes) -> ScanBatch:
    """A batch from a request's body. Raises MalformedRequest."""
    try:
        batch = msgspec.json.decode(body, type=ScanBatch)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise MalformedRequest(str(error)[:200]) from error
    if not all(2020 <= scan.scanned_at.year <= 2100 for scan in batch.scans):
        raise MalformedRequest("scanned_at must be from 2020 to 2100")
    return batch


def take_in(
    session: Session,
    scanner_id: UUID,
    body: bytes,
    *,
    signature: tuple[str, str],
    kinds: Mapping[CodePurpose, ScanKind],
    data_key: bytes,
    now: datetime,
) -> Sequence[ScanOutcome]:
    """Take in each scan of a signed batch; the outcomes in the order of the scans.

    `signature` is the timestamp and the signature of the request. Each scan has a savepoint of its own: one that is
    refused undoes nothing of the others.

    Raises ScannerSignatureRefused, MalformedRequest, CodeLimitsMissing, StaffUnlinked.
    """
    scanner = scanners.signed_scanner(session, scanner_id, body, signature=signature, data_key=data_key, now=now)
    batch = read_batch(body)
    earliest = now - timedelta(hours=limits_on(session, now).offline_hours_max)
    outcomes = []
    for scan in batch.scans:
        fingerprint = hashlib.sha256(msgspec.json.encode(scan)).digest()
        known = session.get(ScannerScan, (scanner.id, scan.sequence))
        if known is not None:
            outcomes.append(_again(known, fingerprint))
            continue
        reason = None
        try:
            with session.begin_nested():
                if not earliest <= scan.scanned_at <= now + AHEAD_MAX:
                    raise ScanTooLate
                _record(session, scanner, scan, kinds=kinds, data_key=data_key, now=now)
        except DomainError as error:
            # Ours to mend, or its carrier's: the device sends the whole batch again, and no resident loses by it.
            if error.status >= 500 or isinstance(error, StaffUnlinked):
                raise
            reason = error.code
        session.add(
            ScannerScan(
                scanner_id=scanner.id,
                sequence=scan.sequence,
                scan_sha256=fingerprint,
                scanned_at=scan.scanned_at,
                received_at=now,
                refused_because=reason,
            )
        )
        session.flush()
        outcomes.append(ScanOutcome(scan.sequence, accepted=reason is None, reason=reason, repeated=False))
    return outcomes


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete scans received longer ago than KEPT_FOR, a bounded number at a time; the number deleted."""
    return delete_some(session, ScannerScan, ScannerScan.received_at < now - KEPT_FOR)


def _record(
    session: Session,
    scanner: Scanner,
    scan: ScanEntry,
    *,
    kinds: Mapping[CodePurpose, ScanKind],
    data_key: bytes,
    now: datetime,
) -> None:
    kind = kinds.get(scan.purpose)
    if kind is None:
        raise ScanPurposeUnknown
    if len(msgspec.json.encode(scan.detail)) > DETAIL_BYTES_MAX:
        raise ScanDetailTooLong
    used = resident_codes.read_and_use(
        session,
        scanner,
        scan.code,
        purpose=scan.purpose,
        site=scanner.site_code,
        data_key=data_key,
        now=scan.scanned_at,
    )
    kind.record(session, AcceptedScan(scanner, used, scan.sequence, scan.scanned_at, scan.detail), now)


def _again(known: ScannerScan, fingerprint: bytes) -> ScanOutcome:
    if known.scan_sha256 != fingerprint:
        return ScanOutcome(known.sequence, accepted=False, reason=ScanSequenceReused.code, repeated=True)
    return ScanOutcome(
        known.sequence, accepted=known.refused_because is None, reason=known.refused_because, repeated=True
    )

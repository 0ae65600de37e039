"""Freezing statistics: a month, quarter or year as everybody may read it, once, and a correction as a further release.

A release is made when its period and the days in which records may still come late are over. It is never made anew by
itself: whoever joins or is taken out afterwards changes nothing that was published. A quarter is the sum of its months
as they were released, and a year that of its quarters, so that no difference between them tells of anybody.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.models import RuleVersion
from points.open_data import rendering
from points.open_data.disclosure import Unprotectable
from points.open_data.models import (
    RELEASED_GRAINS,
    FileFormat,
    StatisticsCell,
    StatisticsExact,
    StatisticsFile,
    StatisticsRelease,
)
from points.open_data.rendering import Source
from points.open_data.tables import FixedTable, Row
from points.open_data.withholding import Edition, Spot, corrected, grid, told, withheld
from points.statistics.periods import CalendarPeriod, Grain, period_with
from server.database import lock_name, new_id
from server.errors import DomainError, NotFound, ReasonRequired
from server.paging import Page, decode, page_of
from server.places.models import Division

CELLS_MAX = 200_000

# The job makes up for so many months, quarters and years that went by without a release.
DUE_PERIODS_BACK = 3

_PARTS = {Grain.QUARTER: Grain.MONTH, Grain.YEAR: Grain.QUARTER}
_NAME = re.compile(r"(20[2-9][0-9]|2100)(?:-(?:(0[1-9]|1[0-2])|Q([1-4])))?(?:\.([1-9][0-9]?|100))?")


class PeriodNotOver(DomainError):
    """The period, or the days in which records of it may still come, are not over."""

    code, status, title_zh, title_en = (
        "period-not-over",
        409,
        "统计期或其补报期尚未结束",
        "The period, or the days in which records may still come late, are not over",
    )


class FiguresNotCounted(DomainError):
    """Something of the period has changed since it was last counted; the counting job will come to it."""

    code, status, title_zh, title_en = (
        "figures-not-counted",
        409,
        "该期数字尚未统计完毕, 请稍后再试",
        "The period's figures are still to be counted; try again later",
    )


class PartsNotReleased(DomainError):
    """A quarter is the sum of its months as released, a year of its quarters."""

    code, status, title_zh, title_en = (
        "parts-not-released",
        409,
        "请先发布其中的各月或各季",
        "Release the months, or the quarters, that it consists of first",
    )


class AlreadyReleased(DomainError):
    """The period has a release; a correction gives its reason."""

    code, status, title_zh, title_en = (
        "already-released",
        409,
        "该期已发布; 更正须说明理由",
        "The period has been released; a correction wants a reason",
    )
    constraints = ("statistics_release_revision_key", "statistics_release_replaces_key")


class NothingToCorrect(DomainError):
    """There is no release to correct, or a correction would tell nothing else."""

    code, status, title_zh, title_en = (
        "nothing-to-correct",
        409,
        "没有可更正的内容",
        "There is nothing to correct that may be told",
    )


class NothingToRelease(DomainError):
    """No figure of the period is other than zero."""

    code, status, title_zh, title_en = (
        "nothing-to-release",
        409,
        "该期没有可发布的数字",
        "The period has no figures",
    )


class CannotBeProtected(DomainError):
    """What was published earlier would give a withheld figure away, whatever this release withheld."""

    code, status, title_zh, title_en = (
        "cannot-be-protected",
        409,
        "无法在不泄露个人信息的前提下发布",
        "It cannot be released without telling of single residents",
    )


class PeriodNameInvalid(DomainError):
    """A period is named 2026-10, 2026-Q4 or 2026."""

    code, status, title_zh, title_en = (
        "period-name-invalid",
        422,
        "统计期须写作 2026-10, 2026-Q4 或 2026",
        "A period is named 2026-10, 2026-Q4 or 2026",
    )


@dataclass(frozen=True, slots=True)
class ReleaseName:
    """What an address calls a release; without a revision, the newest."""

    period: CalendarPeriod
    revision: int | None


def name_of(release: StatisticsRelease) -> str:
    """2026-10.1, 2026-Q4.1, 2026.1."""
    return f"{period_name(CalendarPeriod(release.grain, release.starts_on))}.{release.revision}"


def period_name(period: CalendarPeriod) -> str:
    """2026-10, 2026-Q4, 2026."""
    start = period.starts_on
    if period.grain is Grain.QUARTER:
        return f"{start.year}-Q{(start.month + 2) // 3}"
    return f"{start:%Y-%m}" if period.grain is Grain.MONTH else f"{start.year}"


def read_name(name: str) -> ReleaseName:
    """The period and revision that a name means. Raises PeriodNameInvalid."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise PeriodNameInvalid
    year, month, quarter, revision = (None if part is None else int(part) for part in found.groups())
    if year is None:
        raise PeriodNameInvalid
    if month is not None:
        period = CalendarPeriod(Grain.MONTH, date(year, month, 1))
    elif quarter is not None:
        period = CalendarPeriod(Grain.QUARTER, date(year, 3 * quarter - 2, 1))
    else:
        period = CalendarPeriod(Grain.YEAR, date(year, 1, 1))
    return ReleaseName(period, revision)


# Reading


def current_release(session: Session, grain: Grain, starts_on: date) -> StatisticsRelease | None:
    """The newest release of a period."""
    return session.scalar(
        sa.select(StatisticsRelease)
        .where(StatisticsRelease.grain == grain, StatisticsRelease.starts_on == starts_on)
        .order_by(StatisticsRelease.revision.desc())
        .limit(1)
    )


def latest_release(session: Session, grain: Grain | None = None) -> StatisticsRelease | None:
    """The release of the latest period: of this length, or of any, a longer one before its last part."""
    wanted = sa.select(StatisticsRelease)
    if grain is not None:
        wanted = wanted.where(StatisticsRelease.grain == grain)
    return session.scalar(wanted.order_by(*_NEWEST_FIRST).limit(1))


_LENGTH = sa.case({"month": 1, "quarter": 3, "year": 12}, value=sa.cast(StatisticsRelease.grain, sa.String))
_ENDS_BEFORE = StatisticsRelease.starts_on + sa.func.make_interval(0, _LENGTH)
_NEWEST_FIRST = (_ENDS_BEFORE.desc(), _LENGTH, StatisticsRelease.revision.desc())


def release_named(session: Session, name: str) -> StatisticsRelease:
    """A release by its name, or the latest month's by `latest`. Raises PeriodNameInvalid, NotFound."""
    if name == "latest":
        found = latest_release(session, Grain.MONTH)
    else:
        wanted = read_name(name)
        period = wanted.period
        if wanted.revision is None:
            found = current_release(session, period.grain, period.starts_on)
        else:
            found = session.scalar(
                sa.select(StatisticsRelease).where(
                    StatisticsRelease.grain == period.grain,
                    StatisticsRelease.starts_on == period.starts_on,
                    StatisticsRelease.revision == wanted.revision,
                )
            )
    if found is None:
        raise NotFound
    return found


@dataclass(frozen=True, slots=True)
class FileSeen:
    """A file of a release, without its content."""

    table: str
    format: str
    sha256: str
    size_bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class ReleaseSeen:
    """What is told of a release. `replaced_by`: it was corrected, and this is the name of the correction."""

    name: str
    grain: Grain
    first_on: date
    last_on: date
    revision: int
    replaces: str | None
    replaced_by: str | None
    reason: str | None
    frozen_at: datetime
    content_sha256: str
    files: tuple[FileSeen, ...]


def list_releases(session: Session, *, limit: int, cursor: str | None) -> Page[ReleaseSeen]:
    """Releases with every revision, the last frozen first. Raises BadCursor."""
    wanted = sa.select(StatisticsRelease).order_by(StatisticsRelease.id.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(StatisticsRelease.id < decode(cursor, tuple[UUID])[0])
    page = page_of(session.scalars(wanted).all(), limit, lambda release: (release.id,))
    return Page(seen(session, page.items), page.next_cursor)


def seen(session: Session, releases: Sequence[StatisticsRelease]) -> list[ReleaseSeen]:
    """What is told of these releases."""
    ids = [release.id for release in releases]
    around = session.scalars(
        sa.select(StatisticsRelease).where(
            sa.or_(
                StatisticsRelease.replaces.in_(ids),
                StatisticsRelease.id.in_([release.replaces for release in releases if release.replaces]),
            )
        )
    ).all()
    names = {release.id: name_of(release) for release in around}
    corrections = {release.replaces: name_of(release) for release in around if release.replaces}
    files: dict[UUID, list[FileSeen]] = {}
    for row in session.execute(
        sa.select(
            StatisticsFile.release_id,
            StatisticsFile.table_code,
            StatisticsFile.format,
            StatisticsFile.sha256,
            sa.func.octet_length(StatisticsFile.content),
            StatisticsFile.row_count,
        )
        .where(StatisticsFile.release_id.in_(ids))
        .order_by(StatisticsFile.table_code, StatisticsFile.format)
    ):
        release_id, table, file_format, sha256, size_bytes, rows = row
        file = FileSeen(table, file_format.value, sha256.hex(), size_bytes, rows)
        files.setdefault(release_id, []).append(file)
    return [
        ReleaseSeen(
            name=name_of(release),
            grain=release.grain,
            first_on=release.starts_on,
            last_on=CalendarPeriod(release.grain, release.starts_on).ends_on,
            revision=release.revision,
            replaces=names.get(release.replaces) if release.replaces else None,
            replaced_by=corrections.get(release.id),
            reason=release.reason,
            frozen_at=release.frozen_at,
            content_sha256=release.content_sha256.hex(),
            files=tuple(files.get(release.id, ())),
        )
        for release in releases
    ]


def file_of(session: Session, name: str, table: str, file_format: FileFormat) -> StatisticsFile:
    """A file by the name of its release. Raises PeriodNameInvalid, NotFound."""
    release = release_named(session, name)
    found = session.get(StatisticsFile, (release.id, table, file_format))
    if found is None:
        raise NotFound
    return found


def due_periods(session: Session, *, today: date) -> list[CalendarPeriod]:
    """The months, quarters and years that can be released and lately ended without, parts first."""
    found = []
    for grain in RELEASED_GRAINS:
        period = period_with(grain, today)
        for _ in range(DUE_PERIODS_BACK):
            period = period_with(grain, period.starts_on - timedelta(days=1))
            over = today > period.ends_on + timedelta(days=_late_days(session, period))
            if over and current_release(session, period.grain, period.starts_on) is None:
                found.append(period)
    return sorted(found, key=lambda each: (RELEASED_GRAINS.index(each.grain), each.starts_on))


def cells_of(
    session: Session, release: StatisticsRelease, table: str
) -> Mapping[tuple[str, str], Mapping[str, int | None]]:
    """What a release tells in one table, by place and category."""
    rows = session.execute(
        sa.select(StatisticsCell.place_code, StatisticsCell.category, StatisticsCell.figures).where(
            StatisticsCell.release_id == release.id, StatisticsCell.table_code == table
        )
    )
    return {(place, category): figures for place, category, figures in rows}


# Freezing


def freeze(
    session: Session,
    tables: Sequence[FixedTable],
    period: CalendarPeriod,
    *,
    source: Source,
    frozen_by: UUID | None,
    reason: str | None,
    now: datetime,
    today: date,
) -> StatisticsRelease:
    """Make the release of a period; with a reason, the correction of the one that it has.

    Raises PeriodNotOver, FiguresNotCounted, PartsNotReleased, AlreadyReleased, NothingToCorrect, NothingToRelease,
    CannotBeProtected.
    """
    # Two at once would each decide without knowing what the other shows.
    lock_name(session, "statistics-release")
    released_from = period.ends_on + timedelta(days=_late_days(session, period) + 1)
    if period.grain not in RELEASED_GRAINS or today < released_from:
        raise PeriodNotOver(f"{period_name(period)} can be released from {released_from}")
    old = current_release(session, period.grain, period.starts_on)
    if old is not None and reason is None:
        raise AlreadyReleased
    if old is None and reason is not None:
        raise NothingToCorrect
    if reason is not None and not reason.strip():
        raise ReasonRequired
    rows = _exact_rows(session, tables, period)
    links = [link for table in tables for link in table.links(session, period)]
    if not rows:
        raise NothingToRelease
    frozen = _frozen_editions(session, tables, period)
    order = len(frozen)
    try:
        if old is not None:
            predecessor = frozen[old.id]
            rows = corrected(tables, predecessor, rows, links)
            if _same(rows, predecessor.rows):
                raise NothingToCorrect
        revision = old.revision + 1 if old else 1
        new = Edition(period, revision, order, rows, links)
        hidden = withheld(tables, new, list(frozen.values()), _last_told(session, tables, period))
    except Unprotectable as error:
        raise CannotBeProtected(str(error)[:200]) from error
    return _write(session, tables, new, hidden, source=source, old=old, frozen_by=frozen_by, reason=reason, now=now)


def _late_days(session: Session, period: CalendarPeriod) -> int:
    """How many days after its last one a record of the period may still come: the most of the rules in force."""
    found = session.scalar(
        sa.select(sa.func.max(RuleVersion.late_days_max)).where(
            RuleVersion.valid_from <= period.ends_on,
            sa.or_(RuleVersion.valid_to.is_(None), RuleVersion.valid_to >= period.starts_on),
        )
    )
    return found or 0


def _exact_rows(session: Session, tables: Sequence[FixedTable], period: CalendarPeriod) -> dict[Spot, Row]:
    """The exact figures to freeze. Raises FiguresNotCounted, PartsNotReleased."""
    for table in tables:
        if not table.is_settled(session, period):
            raise FiguresNotCounted(f"{table.code}: {period_name(period)}")
    kept = {
        (table.code, row.category, row.place_code): row
        for table in tables
        for row in table.rows(session, period)
        if any(row.figures.values())
    }
    if len(kept) > CELLS_MAX:
        raise ValueError(f"more than {CELLS_MAX} cells")
    if period.grain is Grain.MONTH:
        return kept
    parts = [_part(session, tables, part) for part in _parts(period)]
    by_code = {table.code: table for table in tables}
    spots = {*kept, *(spot for part in parts for spot in part if by_code[spot[0]].sums)}
    return {spot: _added_up(by_code[spot[0]], spot, kept.get(spot), parts) for spot in spots}


def _parts(period: CalendarPeriod) -> list[CalendarPeriod]:
    """The months of a quarter, the quarters of a year."""
    parts = [period_with(_PARTS[period.grain], period.starts_on)]
    while parts[-1].ends_on < period.ends_on:
        parts.append(period_with(_PARTS[period.grain], parts[-1].ends_on + timedelta(days=1)))
    return parts


def _part(session: Session, tables: Sequence[FixedTable], part: CalendarPeriod) -> Mapping[Spot, Row]:
    release = current_release(session, part.grain, part.starts_on)
    if release is not None:
        return _exact_of(session, release)
    if any(row for table in tables for row in table.rows(session, part) if any(row.figures.values())):
        raise PartsNotReleased(period_name(part))
    return {}


def _added_up(table: FixedTable, spot: Spot, kept: Row | None, parts: Sequence[Mapping[Spot, Row]]) -> Row:
    """Sums as the parts were released, and the distinct residents of the whole as they are counted."""
    within = [part[spot] for part in parts if spot in part]
    figures = {figure: sum(row.figures.get(figure, 0) for row in within) for figure in table.sums}
    if not table.sums:
        within = []
    counted = {} if kept is None else {figure: kept.figures.get(figure, 0) for figure in table.counts}
    contributors = {}
    for figure in table.sums:
        # A record taken back since its month was released is in the sum still, and so are its residents.
        behind = [row.contributors.get(figure, 0) for row in (*within, *([kept] if kept else []))]
        contributors[figure] = max(behind, default=0)
    largest = {
        figure: max((row.largest.get(figure, 0) for row in (*within, *([kept] if kept else []))), default=0)
        for figure in table.sums
    }
    return Row(spot[2], spot[1], figures | counted, contributors, largest)


def _same(rows: Mapping[Spot, Row], before: Mapping[Spot, Row]) -> bool:
    def figures(of: Mapping[Spot, Row]) -> dict[Spot, dict[str, int]]:
        return {
            spot: {name: figure for name, figure in row.figures.items() if figure}
            for spot, row in of.items()
            if any(row.figures.values())
        }

    return figures(rows) == figures(before)


def _exact_of(session: Session, release: StatisticsRelease) -> dict[Spot, Row]:
    rows = session.execute(
        sa.select(
            StatisticsExact.table_code,
            StatisticsExact.category,
            StatisticsExact.place_code,
            StatisticsExact.figures,
            StatisticsExact.contributors,
            StatisticsExact.largest,
        ).where(StatisticsExact.release_id == release.id)
    )
    return {
        (table, category, place): Row(place, category, figures, contributors, largest)
        for table, category, place, figures, contributors, largest in rows
    }


def _frozen_editions(session: Session, tables: Sequence[FixedTable], period: CalendarPeriod) -> dict[UUID, Edition]:
    """Every release that a period hangs together with, as it was frozen and as it was shown, in the order of freezing.

    Those of the period itself, of what it consists of and of what it is a part of, and so on.
    """
    year = period_with(Grain.YEAR, period.starts_on)
    releases = session.scalars(
        sa.select(StatisticsRelease)
        .where(StatisticsRelease.starts_on.between(year.starts_on, year.ends_on))
        .order_by(StatisticsRelease.frozen_at, StatisticsRelease.id)
    ).all()
    near = _near(period, {CalendarPeriod(release.grain, release.starts_on) for release in releases})
    known = {table.code for table in tables}
    editions: dict[UUID, Edition] = {}
    for release in releases:
        if CalendarPeriod(release.grain, release.starts_on) not in near:
            continue
        rows = {spot: row for spot, row in _exact_of(session, release).items() if spot[0] in known}
        shown = session.execute(
            sa.select(
                StatisticsCell.table_code, StatisticsCell.category, StatisticsCell.place_code, StatisticsCell.figures
            ).where(StatisticsCell.release_id == release.id)
        )
        of = CalendarPeriod(release.grain, release.starts_on)
        links = [link for table in tables for link in table.links(session, of)]
        told_by = {(table, category, place): figures for table, category, place, figures in shown}
        editions[release.id] = Edition(of, release.revision, len(editions), rows, links, told_by)
    return editions


def _near(period: CalendarPeriod, released: Set[CalendarPeriod]) -> set[CalendarPeriod]:
    """A period with all that hold it or that it holds, and so on through the released ones."""
    found, waiting = {period}, [period]
    while waiting:
        each = waiting.pop()
        near = {
            other
            for other in released - found
            if each.starts_on <= other.starts_on <= each.ends_on or other.starts_on <= each.starts_on <= other.ends_on
        }
        found |= near
        waiting += near
    return found


_LAST_TOLD = sa.text("""
SELECT DISTINCT ON (c.place_code, c.category) c.category, c.place_code, cast(c.figures ->> :measure AS bigint)
FROM statistics_cell c JOIN statistics_release r ON r.id = c.release_id
WHERE r.grain = 'month' AND r.starts_on < :before AND c.table_code = :table AND c.figures ->> :measure IS NOT NULL
ORDER BY c.place_code, c.category, r.starts_on DESC, r.revision DESC
""")


def _last_told(session: Session, tables: Sequence[FixedTable], period: CalendarPeriod) -> dict[tuple[Spot, str], int]:
    """Of the standing numbers, what an earlier month told last."""
    found: dict[tuple[Spot, str], int] = {}
    for table in tables:
        for figure in table.stocks:
            values = {"measure": figure, "before": period.starts_on, "table": table.code}
            for category, place, value in session.execute(_LAST_TOLD, values):
                found[(table.code, category, place), figure] = value
    return found


def _write(
    session: Session,
    tables: Sequence[FixedTable],
    new: Edition,
    hidden: Mapping[Spot, set[str]],
    *,
    source: Source,
    old: StatisticsRelease | None,
    frozen_by: UUID | None,
    reason: str | None,
    now: datetime,
) -> StatisticsRelease:
    divisions = _divisions(session, new)
    by_code = {table.code: table for table in tables}
    cells = {}
    for spot in grid(tables, new.rows, divisions):
        row = new.rows.get(spot, Row(spot[2], spot[1], {}))
        cells[spot] = told(by_code[spot[0]], new.period.grain, row, hidden.get(spot, set()))
    heading = rendering.Heading(
        name=f"{period_name(new.period)}.{new.revision}",
        replaces=name_of(old) if old else None,
        reason=reason,
        period=new.period,
        frozen_on=now,
        source=source,
    )
    files = [file for table in tables for file in rendering.files(heading, table, cells, divisions)]
    exact = {spot: row for spot, row in new.rows.items() if any(row.figures.values())}
    release = StatisticsRelease(
        id=new_id(),
        grain=new.period.grain,
        starts_on=new.period.starts_on,
        revision=new.revision,
        replaces=old.id if old else None,
        reason=reason,
        frozen_at=now,
        frozen_by=frozen_by,
        cell_count=len(cells),
        exact_count=len(exact),
        file_count=len(files),
        content_sha256=hashlib.sha256(b"".join(file.sha256 for file in files)).digest(),
    )
    session.add(release)
    session.flush()
    _insert(session, StatisticsCell, release, ({**_key(spot), "figures": told} for spot, told in cells.items()))
    _insert(
        session,
        StatisticsExact,
        release,
        (
            {
                **_key(spot),
                "figures": dict(row.figures),
                "contributors": dict(row.contributors),
                "largest": dict(row.largest),
            }
            for spot, row in exact.items()
        ),
    )
    _insert(
        session,
        StatisticsFile,
        release,
        (
            {
                "table_code": file.table,
                "format": file.format,
                "content": file.content,
                "sha256": file.sha256,
                "row_count": file.rows,
            }
            for file in files
        ),
    )
    return release


def _divisions(session: Session, new: Edition) -> dict[str, Division]:
    """The divisions that were valid in the period, and those that have a figure all the same."""
    period = new.period
    was_valid = sa.and_(
        Division.valid_from <= period.ends_on,
        sa.or_(Division.valid_to.is_(None), Division.valid_to >= period.starts_on),
    )
    named = {spot[2] for spot in new.rows}
    found = session.scalars(sa.select(Division).where(sa.or_(was_valid, Division.code.in_(named))))
    return {division.code: division for division in found}


def _key(spot: Spot) -> dict[str, str]:
    return {"table_code": spot[0], "category": spot[1], "place_code": spot[2]}


def _insert(session: Session, model: type, release: StatisticsRelease, rows: Iterable[dict[str, object]]) -> None:
    values = [{"release_id": release.id, **row} for row in rows]
    if values:
        session.execute(sa.insert(model), values)

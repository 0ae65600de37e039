"""Rubrics: what is marked, how a mark becomes points, and the district's work on the versions.

A version is a draft, then in force, then retired. Content changes only in a draft; an application keeps the version
that it was begun under. A new year, or a change after the first application, is a new version.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation.models import (
    Application,
    ItemType,
    Programme,
    Rubric,
    RubricArea,
    RubricItem,
    RubricPrecondition,
    RubricState,
)
from campaigns.creation.rubric_entries import AreaEntry, ItemEntry, PreconditionEntry, RubricEntry
from server import audit
from server.access import Actor, Permission
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of

NUMBER_MAX = 99_999_999
REVISIONS_MAX = 1000


class ProgrammeTakesNone(Conflict):
    """The programme is tracked by its indicator; nobody applies to it."""

    code, title_zh, title_en = "programme-takes-none", "该创建项目不受理申报", "This programme takes no applications"


class RubricClosed(Conflict):
    """Only a draft can be edited, and only an unused rubric in force becomes a draft again."""

    code, title_zh, title_en = "rubric-closed", "评价标准已启用, 不能修改", "The rubric is in force or used"
    constraints = ("rubric_closed",)


class RubricInvalid(DomainError):
    """The rubric's parts do not fit together; the detail names the first that does not."""

    code, status, title_zh, title_en = "rubric-invalid", 422, "评价标准内容有误", "The rubric's parts do not fit"


class RubricExists(Conflict):
    """Somebody added a version of this programme and year at the same moment."""

    code, title_zh, title_en = "rubric-exists", "该版本已存在", "This version exists already"
    constraints = ("rubric_programme_code_year_revision_key", "rubric_in_force_key")


class AnswerInvalid(DomainError):
    """The value does not fit the item: 0 or 1, a score up to the maximum, or a quantity."""

    code, status, title_zh, title_en = "answer-invalid", 422, "填报值与条目类型不符", "The value does not fit the item"


@dataclass(frozen=True, slots=True)
class RubricContent:
    """A rubric with its parts, each in the order of their positions."""

    rubric: Rubric
    areas: Sequence[RubricArea]
    items: Sequence[RubricItem]
    preconditions: Sequence[RubricPrecondition]

    @property
    def maximum(self) -> int:
        """Points that all items together can give."""
        return sum(item.maximum for item in self.items)

    @property
    def by_code(self) -> dict[str, RubricItem]:
        """The items by their codes."""
        return {item.code: item for item in self.items}


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two versions; `before` is None for what was added, `after` for what is gone."""

    part: str  # rubric, precondition, area or item
    code: str | None
    field: str | None
    before: str | None
    after: str | None
    text_zh: str


# Marks


def check_value(item: RubricItem, value: Decimal) -> None:
    """Raise AnswerInvalid unless `value` is one that the item's type reads."""
    highest = {ItemType.YES_NO: 1, ItemType.SCORE: item.maximum, ItemType.NUMBER: NUMBER_MAX}
    # Written in whole hundredths, so that what is stored is what was said.
    if not 0 <= value <= highest[item.type] or value != round(value, 2):
        raise AnswerInvalid(item=item.code)
    if item.type is ItemType.YES_NO and value not in (0, 1):
        raise AnswerInvalid(item=item.code)


def is_met(item: RubricItem, value: Decimal) -> bool:
    """Whether a yes-no is a yes, or a number reaches its threshold. A score above 0 counts as met."""
    if item.type is ItemType.NUMBER and item.threshold is not None:
        return value >= item.threshold
    return value > 0


def points_of(item: RubricItem, value: Decimal) -> Decimal:
    """The points that a value gives: the score itself, or the item's maximum if it is met and 0 if not."""
    if item.type is ItemType.SCORE:
        return value
    return Decimal(item.maximum) if is_met(item, value) else Decimal(0)


# Reading


def content_of(session: Session, rubric_id: UUID) -> RubricContent:
    """A rubric with its parts. Raises NotFound."""
    rubric = session.get(Rubric, rubric_id, populate_existing=True)
    if rubric is None:
        raise NotFound
    return RubricContent(
        rubric, *(_parts(session, kind, rubric_id) for kind in (RubricArea, RubricItem, RubricPrecondition))
    )


def rubric_for(session: Session, actor: Actor, rubric_id: UUID) -> RubricContent:
    """A rubric that the actor may see: drafts are the district's. Raises NotFound."""
    found = content_of(session, rubric_id)
    if found.rubric.state is RubricState.DRAFT and not actor.may(Permission.CREATION_DECIDE):
        raise NotFound
    return found


def list_rubrics(
    session: Session,
    actor: Actor,
    *,
    programme: str | None = None,
    year: int | None = None,
    state: RubricState | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Rubric]:
    """The versions that the actor may see, newest first. Raises BadCursor."""
    wanted = sa.select(Rubric).order_by(Rubric.id.desc()).limit(limit + 1)
    if not actor.may(Permission.CREATION_DECIDE):
        wanted = wanted.where(Rubric.state != RubricState.DRAFT)
    if programme is not None:
        wanted = wanted.where(Rubric.programme_code == programme)
    if year is not None:
        wanted = wanted.where(Rubric.year == year)
    if state is not None:
        wanted = wanted.where(Rubric.state == state)
    if cursor is not None:
        wanted = wanted.where(Rubric.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def in_force(session: Session, programme_code: str, *, year: int) -> Rubric | None:
    """The version that an application of `year` is begun under: the newest in force that is of no later year.

    The row is held, so that it cannot become a draft again before the application that uses it is written.
    """
    return session.scalars(
        sa.select(Rubric)
        .where(Rubric.programme_code == programme_code, Rubric.state == RubricState.IN_FORCE, Rubric.year <= year)
        .order_by(Rubric.year.desc())
        .limit(1)
        .with_for_update(read=True)
        .execution_options(populate_existing=True)
    ).one_or_none()


# The district's work


def create_draft(
    session: Session, actor: Actor | None, *, programme_code: str, year: int, entry: RubricEntry, now: datetime
) -> RubricContent:
    """Add a draft as the next revision of a programme's year; an actor of None is a data file.

    Raises NotFound, ProgrammeTakesNone, RubricInvalid, RubricExists.
    """
    programme = session.get(Programme, programme_code)
    if programme is None:
        raise NotFound
    if programme.subject_kind is None:
        raise ProgrammeTakesNone
    check_entry(entry)
    newest = sa.select(sa.func.coalesce(sa.func.max(Rubric.revision), 0)).where(
        Rubric.programme_code == programme_code, Rubric.year == year
    )
    rubric = Rubric(
        id=new_id(),
        programme_code=programme_code,
        year=year,
        revision=session.execute(newest).scalar_one() + 1,
        state=RubricState.DRAFT,
        version=1,
        created_by=actor.id if actor else None,
        created_at=now,
        **_columns(entry),
    )
    session.add(rubric)
    session.flush()
    _write_parts(session, rubric.id, entry)
    audit.record(session, actor, "rubric.create", str(rubric.id), now=now, programme=programme_code, year=year)
    return content_of(session, rubric.id)


def replace_content(
    session: Session, actor: Actor, rubric_id: UUID, entry: RubricEntry, *, version: int, now: datetime
) -> RubricContent:
    """Write a draft anew, given the version that was read.

    Raises NotFound, RubricClosed, RubricInvalid, PreconditionFailed.
    """
    check_entry(entry)
    _advance(session, rubric_id, RubricState.DRAFT, version, **_columns(entry))
    for kind in (RubricItem, RubricArea, RubricPrecondition):
        session.execute(sa.delete(kind).where(kind.rubric_id == rubric_id))
    _write_parts(session, rubric_id, entry)
    audit.record(session, actor, "rubric.edit", str(rubric_id), now=now, version=version + 1)
    return content_of(session, rubric_id)


def put_in_force(
    session: Session, actor: Actor | None, rubric_id: UUID, *, version: int, now: datetime
) -> RubricContent:
    """Let applications begin under a draft; the year's version before it is retired and keeps its applications.

    Raises NotFound, RubricClosed, PreconditionFailed.
    """
    draft = session.get(Rubric, rubric_id, populate_existing=True)
    if draft is None:
        raise NotFound
    session.execute(
        sa.update(Rubric)
        .where(
            Rubric.programme_code == draft.programme_code,
            Rubric.year == draft.year,
            Rubric.state == RubricState.IN_FORCE,
        )
        .values(state=RubricState.RETIRED, retired_at=now, version=Rubric.version + 1)
    )
    _advance(session, rubric_id, RubricState.DRAFT, version, state=RubricState.IN_FORCE, in_force_at=now)
    audit.record(session, actor, "rubric.put-in-force", str(rubric_id), now=now)
    return content_of(session, rubric_id)


def back_to_draft(session: Session, actor: Actor, rubric_id: UUID, *, version: int, now: datetime) -> RubricContent:
    """Take a rubric in force back to be edited, while no application uses it.

    Raises NotFound, RubricClosed, PreconditionFailed.
    """
    if session.scalar(sa.select(sa.exists().where(Application.rubric_id == rubric_id))):
        raise RubricClosed
    _advance(session, rubric_id, RubricState.IN_FORCE, version, state=RubricState.DRAFT, in_force_at=None)
    audit.record(session, actor, "rubric.back-to-draft", str(rubric_id), now=now)
    return content_of(session, rubric_id)


def check_entry(entry: RubricEntry) -> None:
    """Raise RubricInvalid for what no column can see: codes twice, a minimum beyond the maximum."""
    items = [item for area in entry.areas for item in area.items]
    for part, codes in (
        ("area", [area.code for area in entry.areas]),
        ("item", [item.code for item in items]),
        ("precondition", [each.code for each in entry.preconditions]),
    ):
        for code in codes:
            if codes.count(code) > 1:
                raise RubricInvalid(f"two {part}s with code {code}")
    for item in items:
        if (item.type is ItemType.NUMBER) != (item.threshold is not None):
            raise RubricInvalid(f"item {item.code}: a number has a threshold, and nothing else has")
        if item.type is ItemType.SCORE and (item.must_meet or item.maximum == 0):
            raise RubricInvalid(f"item {item.code}: a score has a maximum and cannot be a must-meet item")
    if entry.minimum_score > sum(item.maximum for item in items):
        raise RubricInvalid("minimum_score: more than all items together give")
    if entry.recheck_months > entry.validity_months:
        raise RubricInvalid("recheck_months: later than the name is valid")


def _advance(session: Session, rubric_id: UUID, only_in: RubricState, version: int, **values: Any) -> None:
    """Change a rubric's row if it is `only_in` that state at `version`, and say why not otherwise."""
    # Guarded by both: an editor and whoever puts it in force never both win.
    done = session.scalar(
        sa.update(Rubric)
        .where(Rubric.id == rubric_id, Rubric.state == only_in, Rubric.version == version)
        .values(**values, version=version + 1)
        .returning(Rubric.id)
        .execution_options(synchronize_session=False)
    )
    if done is not None:
        return
    found = session.scalar(sa.select(Rubric.state).where(Rubric.id == rubric_id))
    if found is None:
        raise NotFound
    if found is not only_in:
        raise RubricClosed
    raise PreconditionFailed


def _columns(entry: RubricEntry) -> dict[str, Any]:
    return {
        name: getattr(entry, name)
        for name in (
            "title_zh",
            "minimum_score",
            "difference_max",
            "notice_days",
            "validity_months",
            "recheck_months",
            "site_visit_required",
            "source",
            "confidence",
            "note",
        )
    }


def _write_parts(session: Session, rubric_id: UUID, entry: RubricEntry) -> None:
    session.add_all(
        RubricArea(
            rubric_id=rubric_id, position=position, **_fields(area, ("code", "title_zh", "source", "confidence"))
        )
        for position, area in enumerate(entry.areas, 1)
    )
    session.add_all(
        RubricPrecondition(
            rubric_id=rubric_id, position=position, **_fields(each, ("code", "text_zh", "source", "confidence"))
        )
        for position, each in enumerate(entry.preconditions, 1)
    )
    session.flush()
    items = [(area, item) for area in entry.areas for item in area.items]
    session.add_all(
        RubricItem(rubric_id=rubric_id, area_code=area.code, position=position, **_fields(item, ITEM_FIELDS))
        for position, (area, item) in enumerate(items, 1)
    )
    session.flush()


def _fields(entry: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in names}


def _parts(session: Session, kind: Any, rubric_id: UUID) -> Sequence[Any]:
    wanted = sa.select(kind).where(kind.rubric_id == rubric_id).order_by(kind.position)
    return session.scalars(wanted.execution_options(populate_existing=True)).all()


# What changed from one version to another

ITEM_FIELDS = (
    "code",
    "text_zh",
    "type",
    "maximum",
    "must_meet",
    "evidence_required",
    "threshold",
    "unit",
    "live_measure",
    "source",
    "confidence",
)

_NAMES_ZH: Mapping[str, str] = {
    "title_zh": "名称",
    "minimum_score": "及格分",
    "difference_max": "评分差异上限",
    "notice_days": "公示天数",
    "validity_months": "有效期(月)",
    "recheck_months": "复查间隔(月)",
    "site_visit_required": "须现场核查",
    "source": "依据",
    "confidence": "可信度",
    "note": "说明",
    "text_zh": "内容",
    "type": "类型",
    "maximum": "满分",
    "must_meet": "必达项",
    "evidence_required": "须附证明",
    "threshold": "阈值",
    "unit": "单位",
    "live_measure": "系统数据",
    "area_code": "所属部分",
}
_PARTS_ZH = {"rubric": "标准", "precondition": "前置条件", "area": "部分", "item": "条目"}


def difference(old: RubricContent, new: RubricContent) -> list[Difference]:
    """What differs from `old` to `new`, in words: the rules, then preconditions, areas and items by their codes."""
    rules = tuple(name for name in _NAMES_ZH if hasattr(old.rubric, name))
    found = [*_changed("rubric", None, old.rubric, new.rubric, rules)]
    parts: tuple[tuple[str, Sequence[Any], Sequence[Any], tuple[str, ...]], ...] = (
        ("precondition", old.preconditions, new.preconditions, ("text_zh", "source", "confidence")),
        ("area", old.areas, new.areas, ("title_zh", "source", "confidence")),
        ("item", old.items, new.items, ("area_code", *ITEM_FIELDS[1:])),
    )
    for part, before, after, fields in parts:
        was, now_is = {row.code: row for row in before}, {row.code: row for row in after}
        for code in sorted(was.keys() | now_is.keys()):
            if code not in now_is:
                text = _words(was[code])
                found.append(Difference(part, code, None, text, None, f"删除{_PARTS_ZH[part]} {code}: {text}"))
            elif code not in was:
                text = _words(now_is[code])
                found.append(Difference(part, code, None, None, text, f"新增{_PARTS_ZH[part]} {code}: {text}"))
            else:
                found.extend(_changed(part, code, was[code], now_is[code], fields))
    return found


def compare(session: Session, actor: Actor, old_id: UUID, new_id: UUID) -> list[Difference]:
    """What differs between two versions that the actor may see. Raises NotFound."""
    return difference(rubric_for(session, actor, old_id), rubric_for(session, actor, new_id))


def _changed(part: str, code: str | None, old: Any, new: Any, fields: Iterable[str]) -> Iterable[Difference]:
    for name in fields:
        before, after = _shown(getattr(old, name)), _shown(getattr(new, name))
        if before != after:
            where = _PARTS_ZH[part] + (f" {code}" if code else "")
            text = f"{where} {_NAMES_ZH[name]}: {before or '无'} → {after or '无'}"
            yield Difference(part, code, name, before, after, text)


def _words(row: Any) -> str:
    return str(row.title_zh if isinstance(row, RubricArea) else row.text_zh)


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None if value is None else "是" if value else "否"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return str(value)


def entry_of(content: RubricContent) -> RubricEntry:
    """The content as an entry, for a new version that starts from an old one."""
    areas = [
        AreaEntry(
            **_fields(area, ("code", "title_zh", "source", "confidence")),
            items=[ItemEntry(**_fields(each, ITEM_FIELDS)) for each in content.items if each.area_code == area.code],
        )
        for area in content.areas
    ]
    preconditions = [
        PreconditionEntry(**_fields(each, ("code", "text_zh", "source", "confidence")))
        for each in content.preconditions
    ]
    return RubricEntry(**_columns(content.rubric), areas=areas, preconditions=preconditions)  # type: ignore[arg-type]

"""Rubrics: the district's data, the life of a version, what a mark gives, and that a used version never changes."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
import time_machine
from creation_builders import (
    COMMUNITY,
    DISTRICT,
    NANKAI,
    START,
    STREET,
    actor_of,
    case_of,
    load_data,
    new_staff,
    put_small_rubric_in_force,
    small_rubric,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import programmes, rubrics
from campaigns.creation.models import ItemType, Programme, ProgrammeTarget, Rubric, RubricItem, RubricState
from campaigns.creation.rubric_entries import (
    AreaEntry,
    CreationDataError,
    ItemEntry,
    digest,
    read_programmes,
    read_rubrics,
)
from campaigns.creation.rubrics import AnswerInvalid, RubricClosed, RubricInvalid
from server.access import Actor, Role
from server.audit import AuditEntry
from server.errors import NotFound, PreconditionFailed
from server.places.models import Confidence

Headers = dict[str, str]
SignIn = Callable[..., Headers]


@pytest.fixture
def district(session: Session) -> Actor:
    return actor_of(new_staff(session, Role.DISTRICT, DISTRICT), Role.DISTRICT, division=DISTRICT)


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


def small_json(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "title_zh": "绿色社区评价标准 (试)",
        "minimum_score": 5,
        "difference_max": "1.5",
        "source": "区级工作方案",
        "confidence": "V",
        "areas": [
            {
                "code": "1",
                "title_zh": "人居环境",
                "items": [{"code": "1.1", "text_zh": "议事平台", "type": "yes-no", "maximum": 5, "must_meet": True}],
            }
        ],
    }
    return {**content, **changes}


# The data files


def test_the_seven_programmes_their_targets_and_five_rubrics_are_loaded_once(session: Session) -> None:
    first, second = load_data(session), load_data(session)
    assert (first.programmes, first.targets, first.rubrics_added) == (7, 5, 5)
    assert (second.rubrics_added, second.rubrics_unchanged) == (0, 5)
    takes = {row.code for row in session.scalars(sa.select(Programme).where(Programme.subject_kind.is_not(None)))}
    assert takes == {"green-community", "green-school", "green-family", "frugal-agency", "green-mall"}
    targets = {
        (row.programme_code, row.year): (row.share_min_percent, row.is_about)
        for row in session.scalars(sa.select(ProgrammeTarget))
    }
    assert targets == {
        ("green-community", 2025): (Decimal(100), False),
        ("green-mall", 2025): (Decimal(50), False),
        ("frugal-agency", 2025): (Decimal(100), False),
        ("green-travel", 2025): (Decimal(75), False),
        ("green-travel", 2030): (Decimal(80), True),
    }


def test_every_rubric_of_the_data_says_how_far_it_can_be_trusted(session: Session) -> None:
    load_data(session)
    for rubric in session.scalars(sa.select(Rubric)):
        content = rubrics.content_of(session, rubric.id)
        assert (rubric.state, rubric.confidence) == (RubricState.IN_FORCE, Confidence.RECALLED), rubric.title_zh
        assert "未经核对" in rubric.note
        assert rubric.minimum_score <= content.maximum
        assert {item.area_code for item in content.items} == {area.code for area in content.areas}
    community = session.scalars(sa.select(Rubric).where(Rubric.programme_code == "green-community")).one()
    items = rubrics.content_of(session, community.id).items
    assert (len(items), sum(item.must_meet for item in items)) == (16, 16)
    school = session.scalars(sa.select(Rubric).where(Rubric.programme_code == "green-school")).one()
    content = rubrics.content_of(session, school.id)
    assert {area.confidence for area in content.areas} == {Confidence.VERIFIED}
    assert {item.confidence for item in content.items} == {Confidence.RECALLED}


def test_a_file_that_differs_from_what_was_loaded_under_its_revision_is_refused(session: Session) -> None:
    load_data(session)
    files = [
        (changed := msgspec.structs.replace(file, minimum_score=1), digest(changed))
        for file, _ in read_rubrics(NANKAI)[:1]
    ]
    with pytest.raises(CreationDataError, match="new revision"):
        programmes.load(session, read_programmes(NANKAI), files, now=START)
    skipped = msgspec.structs.replace(files[0][0], revision=5)
    with pytest.raises(CreationDataError, match="next revision is 2"):
        programmes.load(session, read_programmes(NANKAI), [(skipped, digest(skipped))], now=START)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("programme = ", "Invalid value"),
        ("programme = 'x'", "missing required field"),
        ("unheard_of = 1", "unheard_of"),
    ],
)
def test_a_broken_rubric_file_is_named_with_its_fault(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "rubrics").mkdir()
    (tmp_path / "rubrics" / "bad.toml").write_text(text, "utf-8")
    with pytest.raises(CreationDataError, match=r"bad\.toml") as raised:
        read_rubrics(tmp_path)
    assert fault in str(raised.value)


def test_two_files_of_one_revision_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rubrics").mkdir()
    text = (NANKAI / "rubrics" / "green-family-2026-1.toml").read_text("utf-8")
    for name in ("a.toml", "b.toml"):
        (tmp_path / "rubrics" / name).write_text(text, "utf-8")
    with pytest.raises(CreationDataError, match=r"same programme, year and revision as a\.toml"):
        read_rubrics(tmp_path)


def test_the_command_loads_the_districts_folder(app: Flask, session: Session) -> None:
    result = app.test_cli_runner().invoke(args=["creation", "load"])
    assert result.exit_code == 0, result.output
    assert "7 programmes, 5 targets; 5 rubrics added" in result.output
    assert "0 rubrics added, 5 as before" in app.test_cli_runner().invoke(args=["creation", "load"]).output


# Marks

ITEMS = {
    kind: RubricItem(code="i", type=kind, maximum=10, threshold=Decimal(30) if kind is ItemType.NUMBER else None)
    for kind in ItemType
}


@pytest.mark.parametrize(
    ("kind", "value", "met", "points"),
    [
        (ItemType.YES_NO, "1", True, "10"),
        (ItemType.YES_NO, "0", False, "0"),
        (ItemType.SCORE, "0", False, "0"),
        (ItemType.SCORE, "7.25", True, "7.25"),
        (ItemType.SCORE, "10", True, "10"),
        (ItemType.NUMBER, "29.99", False, "0"),
        (ItemType.NUMBER, "30", True, "10"),
        (ItemType.NUMBER, "99999999", True, "10"),
    ],
)
def test_a_value_gives_points_as_its_items_type_reads_it(kind: ItemType, value: str, met: bool, points: str) -> None:
    item = ITEMS[kind]
    rubrics.check_value(item, Decimal(value))
    assert rubrics.is_met(item, Decimal(value)) is met
    assert rubrics.points_of(item, Decimal(value)) == Decimal(points)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ItemType.YES_NO, "2"),
        (ItemType.YES_NO, "0.5"),
        (ItemType.YES_NO, "-1"),
        (ItemType.SCORE, "10.01"),
        (ItemType.SCORE, "1.005"),
        (ItemType.NUMBER, "100000000"),
        (ItemType.NUMBER, "-0.01"),
    ],
)
def test_a_value_that_the_item_cannot_have_is_refused(kind: ItemType, value: str) -> None:
    with pytest.raises(AnswerInvalid):
        rubrics.check_value(ITEMS[kind], Decimal(value))


# The life of a version


def test_the_district_drafts_edits_and_puts_a_version_in_force_over_http(
    client: FlaskClient, session: Session, sign_in_staff: SignIn
) -> None:
    load_data(session)
    session.commit()
    staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    made = client.post(
        "/api/v1/creation/rubrics", json={"programme": "green-community", "year": 2026, **small_json()}, headers=staff
    )
    assert (made.status_code, made.json["rubric"]["state"], made.json["rubric"]["revision"]) == (201, "draft", 2)
    path = f"/api/v1/creation/rubrics/{made.json['rubric']['id']}"
    refused(client.put(path, json=small_json(), headers=staff), 428, "precondition-required")
    edited = client.put(path, json=small_json(minimum_score=4), headers={**staff, "If-Match": '"1"'})
    refused(client.put(path, json=small_json(), headers={**staff, "If-Match": '"1"'}), 412, "precondition-failed")
    assert (edited.json["rubric"]["minimum_score"], edited.headers["ETag"]) == (4, '"2"')
    refused(client.post(f"{path}/in-force", headers={**staff, "If-Match": '"1"'}), 412, "precondition-failed")
    begun = client.post(f"{path}/in-force", headers={**staff, "If-Match": '"2"'})
    assert begun.json["rubric"]["state"] == "in-force"
    listed = client.get("/api/v1/creation/rubrics?programme=green-community", headers=staff).json["items"]
    assert [(row["revision"], row["state"]) for row in listed] == [(2, "in-force"), (1, "retired")]
    refused(client.put(path, json=small_json(), headers={**staff, "If-Match": '"3"'}), 409, "rubric-closed")
    older = listed[1]["id"]
    lines = client.get(f"{path}/differences?since={older}", headers=staff).json["lines"]
    assert "标准 及格分: 16 → 4" in [line["text_zh"] for line in lines]
    by_staff = sa.and_(AuditEntry.act.startswith("rubric."), AuditEntry.staff_id.is_not(None))
    acts = session.scalars(sa.select(AuditEntry.act).where(by_staff).order_by(AuditEntry.id)).all()
    assert acts == ["rubric.create", "rubric.edit", "rubric.put-in-force"]


def test_drafts_are_the_districts_alone_and_so_is_editing(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, district: Actor
) -> None:
    load_data(session)
    draft = rubrics.create_draft(
        session, district, programme_code="green-school", year=2027, entry=small_rubric(), now=START
    ).rubric
    session.commit()
    community = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    street = sign_in_staff(Role.STREET, division=STREET)
    path = f"/api/v1/creation/rubrics/{draft.id}"
    for staff in (community, street):
        refused(client.get(path, headers=staff), 404, "not-found")
        refused(client.put(path, json=small_json(), headers={**staff, "If-Match": '"1"'}), 403, "forbidden")
        assert client.get("/api/v1/creation/rubrics?state=draft", headers=staff).json["items"] == []
    assert client.get(path, headers=sign_in_staff(Role.DISTRICT, division=DISTRICT)).status_code == 200


def with_item(**changes: Any) -> dict[str, Any]:
    item = ItemEntry(**{"code": "a", "text_zh": "一", "type": ItemType.YES_NO, "maximum": 20, **changes})
    return {"areas": [AreaEntry(code="1", title_zh="甲", items=[item])]}


@pytest.mark.parametrize(
    "change",
    [
        with_item(type=ItemType.NUMBER),
        with_item(threshold=Decimal(1)),
        with_item(type=ItemType.SCORE, must_meet=True),
        with_item(type=ItemType.SCORE, maximum=0),
        {"areas": [AreaEntry(code="1", title_zh="甲", items=small_rubric().areas[0].items[:1] * 2)]},
        {"areas": small_rubric().areas * 2},
        {"preconditions": small_rubric().preconditions * 2},
        {"minimum_score": 21},
        {"recheck_months": 37},
    ],
)
def test_a_rubric_whose_parts_do_not_fit_together_is_refused(change: dict[str, Any]) -> None:
    rubrics.check_entry(small_rubric())
    with pytest.raises(RubricInvalid):
        rubrics.check_entry(small_rubric(**change))


def test_an_unused_version_in_force_becomes_a_draft_again_and_a_used_one_never(
    session: Session, district: Actor, clock: time_machine.Traveller
) -> None:
    load_data(session)
    rubric = put_small_rubric_in_force(session)
    draft = rubrics.back_to_draft(session, district, rubric.id, version=2, now=START).rubric
    assert draft.state is RubricState.DRAFT
    rubrics.put_in_force(session, district, rubric.id, version=3, now=START)
    case_of(session)
    with pytest.raises(RubricClosed):
        rubrics.back_to_draft(session, district, rubric.id, version=4, now=START)
    with pytest.raises(RubricClosed):
        rubrics.replace_content(session, district, rubric.id, small_rubric(), version=4, now=START)
    # A later revision takes over for those who begin after it, and what was begun keeps its own.
    newer = put_small_rubric_in_force(session, minimum_score=15)
    assert session.get_one(Rubric, rubric.id, populate_existing=True).state is RubricState.RETIRED
    assert (newer.revision, newer.state) == (3, RubricState.IN_FORCE)


def test_a_used_version_is_closed_to_any_sql_of_the_service_and_of_the_owner(
    session: Session, clock: time_machine.Traveller
) -> None:
    load_data(session)
    rubric = put_small_rubric_in_force(session)
    draft = rubrics.create_draft(
        session, None, programme_code="green-community", year=2026, entry=small_rubric(), now=START
    ).rubric
    case_of(session)
    session.flush()
    for sql in (
        "UPDATE rubric SET minimum_score = 0 WHERE id = :id",
        "UPDATE rubric SET state = 'draft', in_force_at = NULL WHERE id = :id",
        "UPDATE rubric SET confidence = 'V' WHERE id = :id",
        "UPDATE rubric SET notice_days = 1 WHERE id = :id",
        "DELETE FROM rubric WHERE id = :id",
        "UPDATE rubric_item SET maximum = 1 WHERE rubric_id = :id",
        "UPDATE rubric_item SET must_meet = false WHERE rubric_id = :id",
        "UPDATE rubric_item SET rubric_id = :draft WHERE rubric_id = :id AND code = '1.1'",
        "UPDATE rubric_item SET rubric_id = :id, code = '9.9' WHERE rubric_id = :draft AND code = '1.1'",
        "DELETE FROM rubric_item WHERE rubric_id = :id",
        "INSERT INTO rubric_item (rubric_id, code, area_code, position, text_zh, type, maximum, must_meet, "
        "evidence_required) VALUES (:id, '9.9', '1', 9, '新', 'yes-no', 1, false, false)",
        "UPDATE rubric_area SET title_zh = '别的' WHERE rubric_id = :id",
        "DELETE FROM rubric_precondition WHERE rubric_id = :id",
        "TRUNCATE rubric_item",
    ):
        for role in ("tanpuhui_app", "NONE"):
            session.execute(sa.text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(sa.exc.DBAPIError), session.begin_nested():
                session.execute(sa.text(sql), {"id": rubric.id, "draft": draft.id})
    session.execute(sa.text("UPDATE rubric_item SET maximum = 4 WHERE rubric_id = :draft"), {"draft": draft.id})


def test_a_retired_version_never_comes_back(session: Session) -> None:
    load_data(session)
    put_small_rubric_in_force(session)
    with pytest.raises(IntegrityError, match="closed to change"), session.begin_nested():
        session.execute(sa.text("UPDATE rubric SET state = 'in-force', retired_at = NULL WHERE state = 'retired'"))


def test_a_version_that_is_gone_or_changed_meanwhile_is_told_apart(session: Session, district: Actor) -> None:
    load_data(session)
    draft = rubrics.create_draft(
        session, district, programme_code="green-community", year=2026, entry=small_rubric(), now=START
    ).rubric
    with pytest.raises(PreconditionFailed):
        rubrics.put_in_force(session, district, draft.id, version=9, now=START)
    with pytest.raises(NotFound):
        rubrics.put_in_force(session, district, UUID(int=0), version=1, now=START)


# Differences


def test_what_differs_between_two_years_is_said_in_words(session: Session, district: Actor) -> None:
    load_data(session)
    old = rubrics.create_draft(
        session, district, programme_code="green-community", year=2026, entry=small_rubric(), now=START
    )
    first = small_rubric().areas[0]
    changed = msgspec.structs.replace(first.items[0], maximum=8, must_meet=False)
    added = ItemEntry(code="1.4", text_zh="新增内容", type=ItemType.SCORE, maximum=2)
    entry = small_rubric(
        minimum_score=13,
        areas=[msgspec.structs.replace(first, items=[changed, first.items[1], added])],
        preconditions=[],
        confidence=Confidence.VERIFIED,
    )
    new = rubrics.create_draft(session, district, programme_code="green-community", year=2027, entry=entry, now=START)
    assert [line.text_zh for line in rubrics.difference(old, new)] == [
        "标准 及格分: 12 → 13",
        "标准 可信度: R → V",
        "删除前置条件 p1: 前置条件",
        "条目 1.1 满分: 5 → 8",
        "条目 1.1 必达项: 是 → 否",
        "删除条目 1.3: 数量",
        "新增条目 1.4: 新增内容",
    ]
    assert rubrics.difference(old, old) == []
    again = rubrics.create_draft(
        session, district, programme_code="green-community", year=2028, entry=rubrics.entry_of(new), now=START
    )
    assert rubrics.difference(new, again) == []


# Indicators


def test_a_tracked_programmes_figures_carry_their_source_and_applications_have_none(
    client: FlaskClient, session: Session, sign_in_staff: SignIn
) -> None:
    load_data(session)
    session.commit()
    staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    path = "/api/v1/creation/programmes/green-travel/figures"
    figure = {"value": "74.2", "source": "居民出行调查", "confidence": "V"}
    assert client.put(f"{path}/2024-12-31", json=figure, headers=staff).status_code == 200
    corrected = client.put(f"{path}/2024-12-31", json={**figure, "value": 74.5}, headers=staff)
    assert corrected.json == {
        "measured_on": "2024-12-31",
        "value": "74.50",
        "source": "居民出行调查",
        "confidence": "V",
    }
    refused(client.put(f"{path}/2999-01-01", json=figure, headers=staff), 422, "figure-in-future")
    refused(client.put(f"{path}/yesterday", json=figure, headers=staff), 404, "not-found")
    other = "/api/v1/creation/programmes/green-mall/figures/2024-12-31"
    refused(client.put(other, json=figure, headers=staff), 409, "programme-has-no-indicator")
    community = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    refused(client.put(f"{path}/2024-12-31", json=figure, headers=community), 403, "forbidden")
    assert [row["value"] for row in client.get(path).json["items"]] == ["74.50"]


def test_everybody_reads_the_programmes_with_targets_rubric_and_newest_figure(
    client: FlaskClient, session: Session
) -> None:
    load_data(session)
    session.commit()
    found = {each["code"]: each for each in client.get("/api/v1/creation/programmes").json["programmes"]}
    assert next(iter(found)) == "green-community"
    assert found["green-community"]["rubric"]["confidence"] == "R"
    assert found["green-community"]["targets"][0]["source"].startswith("南开政发〔2022〕10号")
    assert (found["green-building"]["rubric"], found["green-building"]["confidence"]) == (None, "R")

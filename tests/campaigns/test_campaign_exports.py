"""The lists that staff take away: participants, check-ins, the settlement sheet; read again and compared."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import openpyxl
import pytest
import sqlalchemy as sa
from attendance_builders import (
    COMMUNITY,
    NEIGHBOUR,
    Headers,
    a_campaign,
    a_slot,
    a_task,
    a_team,
    joined,
    refused,
    walked,
    was_there,
    with_budget,
)
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from campaigns.attendance.models import CheckInWay, SlotKind
from campaigns.drives.models import Campaign, RewardMode, TaskKind, TaskSubject
from campaigns.settlement import lists, payments
from points.ledger import entries
from server.access import Actor, Role
from server.clock import now
from server.database import new_id
from server.errors import Forbidden, NotFound
from server.exports import writing
from server.exports.models import Export, ExportFormat
from server.exports.registry import Producer

SignIn = Callable[..., Headers]

pytestmark = pytest.mark.usefixtures("clock")

# What people call themselves, spreadsheets included.
NICKNAMES = ["=1+1", "+86 138", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=2", "＝1＋1", '小"明,\n同学', "普通昵称", None]


@pytest.fixture
def campaign(session: Session, make_staff: Callable[..., UUID]) -> Campaign:
    return a_campaign(
        session,
        make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY),
        mode=RewardMode.ON_COMPLETION,
        team_kind="class",
        team_size_min=1,
        team_size_max=50,
    )


@pytest.fixture
def actor(campaign: Campaign) -> Actor:
    return Actor(id=campaign.created_by, role=Role.COMMUNITY_STAFF, session_id=new_id(), division=COMMUNITY)


@pytest.fixture
def people(session: Session, campaign: Campaign, make_resident: Callable[..., UUID]) -> list[UUID]:
    """By id, with the names of NICKNAMES."""
    ids = sorted(make_resident() for _ in NICKNAMES)
    for person, nickname in zip(ids, NICKNAMES, strict=True):
        session.execute(
            sa.text("UPDATE resident SET nickname = :n WHERE resident_id = :r"), {"n": nickname, "r": person}
        )
        joined(session, campaign, person)
    return ids


def producer(kind: str) -> Producer:
    return next(each for each in lists.PRODUCERS if each.kind == lists.KINDS[kind])


def table(session: Session, actor: Actor, campaign: Campaign, kind: str) -> list[dict[str, Any]]:
    arguments = {"campaign_id": str(campaign.id)}
    found = producer(kind)
    columns = found.columns(session, actor, arguments)
    return [dict(zip(columns, row, strict=True)) for row in found.rows(session, actor, arguments)]


def test_participants_come_with_their_team_attendance_points_and_progress(
    session: Session, campaign: Campaign, people: list[UUID], actor: Actor
) -> None:
    tasks = [
        a_task(session, campaign),
        a_task(session, campaign, position=2, kind=TaskKind.BEHAVIOUR, target=500),
        a_task(session, campaign, position=3, kind=TaskKind.BEHAVIOUR, target=900, subject=TaskSubject.TEAM),
    ]
    with_budget(session, campaign, 100)
    team = a_team(session, campaign, people[1])
    session.execute(
        sa.text("UPDATE participation SET team_id = :t WHERE resident_id = ANY(:r)"),
        {"t": team.id, "r": [people[1], people[4]]},
    )
    slot = a_slot(session, campaign)
    was_there(session, slot, people[1])
    shift = a_slot(session, campaign, kind=SlotKind.VOLUNTEER, minutes_max=90)
    was_there(session, shift, people[1], minutes=45, signed_out_at=now())
    for person in (people[0], people[1], people[4]):
        walked(session, person, 600)
    resident = Actor(id=people[1], role=Role.RESIDENT, session_id=new_id())
    payments.claim(session, resident, campaign.id, tasks[0].id, now=now())
    rows = table(session, actor, campaign, "participants")
    assert [row["编号"] for row in rows] == people
    assert [row["昵称"] for row in rows] == NICKNAMES
    second = rows[1]
    assert [second[name] for name in ("团队", "签到次数", "志愿分钟", "已发积分")] == ["三年二班", 2, 45, 10]
    assert (second["1. 任务 1 (目标 1)"], second["2. 任务 2 (目标 500)"]) == (1, 600)
    assert [row["3. 任务 3 (目标 900)"] for row in rows[:5]] == [0, 1_200, 0, 0, 1_200]
    assert [rows[0][name] for name in ("团队", "签到次数", "志愿分钟", "已发积分")] == [None, 0, 0, 0]


@pytest.mark.parametrize("page_rows", [1, 2, 9, 100])
def test_pages_neither_miss_nor_double_anybody(
    session: Session,
    campaign: Campaign,
    people: list[UUID],
    actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    page_rows: int,
) -> None:
    monkeypatch.setattr(lists, "PAGE_ROWS", page_rows)
    assert [row["编号"] for row in table(session, actor, campaign, "participants")] == people


def test_check_ins_come_slot_by_slot_with_their_way(
    session: Session, campaign: Campaign, people: list[UUID], actor: Actor
) -> None:
    slots = sorted((a_slot(session, campaign, site_name=name) for name in ("前门", "后门")), key=lambda each: each.id)
    was_there(session, slots[1], people[0], way=CheckInWay.PRINTED)
    was_there(session, slots[0], people[2], way=CheckInWay.STAFF, checked_in_by=actor.id)
    was_there(session, slots[0], people[1], minutes=30, minutes_set_by=actor.id)
    was_there(session, a_slot(session, a_campaign(session, actor.id)), people[0])
    rows = table(session, actor, campaign, "check-ins")
    assert [(row["时段编号"], row["编号"], row["方式"], row["人工补登"]) for row in rows] == [
        (slots[0].id, people[1], "现场动态码", True),
        (slots[0].id, people[2], "工作人员扫码", False),
        (slots[1].id, people[0], "打印签到码", False),
    ]


def test_the_settlement_sheet_says_who_got_how_much_for_what_and_what_was_taken_back(
    session: Session, campaign: Campaign, people: list[UUID], actor: Actor
) -> None:
    task = a_task(session, campaign, reward=15)
    with_budget(session, campaign, 100)
    slot = a_slot(session, campaign)
    paid = []
    for person in people[:2]:
        was_there(session, slot, person)
        resident = Actor(id=person, role=Role.RESIDENT, session_id=new_id())
        paid.append(payments.claim(session, resident, campaign.id, task.id, now=now()))
    entries.reverse(session, people[1], paid[1].transfer_id, reason="代签", now=now())
    session.commit()
    rows = table(session, actor, campaign, "settlement")
    assert [(row["编号"], row["昵称"], row["积分"], row["流水号"], row["已撤销"]) for row in rows] == [
        (people[0], "=1+1", 15, paid[0].transfer_id, False),
        (people[1], "+86 138", 15, paid[1].transfer_id, True),
    ]
    assert {(row["任务"], row["事由"], row["方式"]) for row in rows} == {("任务 1", "步行周 · 任务 1", "完成后领取")}


@pytest.mark.parametrize("form", list(ExportFormat))
def test_a_list_read_again_holds_what_was_written_with_names_like_formulas_defused(
    session: Session, campaign: Campaign, people: list[UUID], actor: Actor, tmp_path: Path, form: ExportFormat
) -> None:
    arguments = {"campaign_id": str(campaign.id)}
    found = producer("participants")
    path = tmp_path / f"list.{form.value}"
    columns = found.columns(session, actor, arguments)
    written = writing.write(columns, found.rows(session, actor, arguments), path, format=form, made_at=now())
    if form is ExportFormat.CSV:
        with path.open(encoding="utf-8-sig", newline="") as content:
            read = list(csv.reader(content))
    else:
        sheet = openpyxl.load_workbook(path).active
        assert sheet is not None
        read = [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
        assert {cell.data_type for row in sheet.iter_rows() for cell in row} <= {"s", "n", "d"}, "no formula"
    assert (written.rows, len(read)) == (len(people), len(people) + 1)
    assert read[0] == list(columns)
    assert [row[0] for row in read[1:]] == [str(person) for person in people]
    for nickname, row in zip(NICKNAMES, read[1:], strict=True):
        defused = nickname is not None and nickname.lstrip()[:1] in set("=+-@＝＋－＠")
        assert row[1] == ("'" + nickname if defused else nickname or "")  # type: ignore[operator]


def test_lists_are_for_staff_in_scope_when_asked_for_and_when_made(
    session: Session, campaign: Campaign, actor: Actor
) -> None:
    arguments = {"campaign_id": str(campaign.id)}
    outsider = Actor(id=new_id(), role=Role.COMMUNITY_STAFF, session_id=new_id(), division=NEIGHBOUR)
    resident = Actor(id=new_id(), role=Role.RESIDENT, session_id=new_id())
    for each in lists.PRODUCERS:
        each.authorise(session, actor, arguments)
        with pytest.raises(NotFound):
            each.authorise(session, outsider, arguments)
        with pytest.raises(Forbidden):
            each.authorise(session, resident, arguments)


@pytest.mark.parametrize("kind", sorted(lists.KINDS))
def test_a_list_is_asked_for_over_http_and_made_by_a_job(
    client: FlaskClient,
    session: Session,
    campaign: Campaign,
    sign_in_staff: SignIn,
    sign_in_resident: SignIn,
    kind: str,
) -> None:
    url = f"/api/v1/campaigns/{campaign.id}/exports"
    staff = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    answer = client.post(url, json={"kind": kind, "format": "csv"}, headers=staff)
    assert (answer.status_code, answer.json["state"]) == (202, "queued"), answer.text  # type: ignore[index]
    export = session.scalars(sa.select(Export)).one()
    assert (export.kind, export.format) == (lists.KINDS[kind], ExportFormat.CSV)
    refused(client.post(url, json={"kind": "everything"}, headers=staff), 422, "invalid-request")
    refused(client.post(url, json={"kind": kind}, headers=sign_in_resident()), 403, "forbidden")
    neighbour = sign_in_staff(Role.COMMUNITY_STAFF, division=NEIGHBOUR)
    refused(client.post(url, json={"kind": kind}, headers=neighbour), 404, "not-found")


def test_a_resident_who_is_gone_still_has_a_row(
    session: Session, campaign: Campaign, people: list[UUID], actor: Actor
) -> None:
    session.execute(sa.text("DELETE FROM resident WHERE resident_id = :r"), {"r": people[0]})
    session.commit()
    rows = table(session, actor, campaign, "participants")
    assert (rows[0]["编号"], rows[0]["昵称"], len(rows)) == (people[0], None, len(people))

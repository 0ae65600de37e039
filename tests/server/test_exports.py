"""Exports: asked for, made by a job over one instant of the data, read again and compared, cancelled and forgotten."""

import csv
import hashlib
import io
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import openpyxl
import procrastinate
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

import wsgi
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, now
from server.database import db, new_id, transaction
from server.errors import Conflict, DomainError, NotFound
from server.exports import exports, jobs, writing
from server.exports.exports import ExportFinished, TooManyExports
from server.exports.models import Export, ExportFormat, ExportState
from server.exports.registry import Cell, Desk, Producer, install, streamed
from server.files import store as files
from server.people import sessions
from server.people.models import Resident, Staff
from server.settings import Settings

COMMUNITY, STREET = "120104001001", "120104001"
INSTANT = datetime(2026, 11, 18, 12, 30, 45, tzinfo=SHANGHAI)

# What people call themselves, and what a spreadsheet would make of it.
HOSTILE_NAMES = [
    "=1+1",
    '=HYPERLINK("http://evil.example","点我")',
    "+8613800000000",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\u3000=1+1",
    "\u200b=1+1",
    "\ufeff=cmd|' /C calc'!A0",
    "＝1+1",
    "＋1",
    "－1",
    "＠SUM(1)",
]
HARMLESS_NAMES = ["王小明", "a=b", "1-2", "O'Brien", "“引号”", 'a"b', "多,逗号", "两\n行", "007", "1e5", "TRUE", ""]


# ── Cells and files ──


def read_csv(content: bytes) -> list[list[str]]:
    assert content.startswith(b"\xef\xbb\xbf"), "Excel takes a CSV without the mark for GBK"
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def read_xlsx(content: bytes) -> list[list[Any]]:
    book = openpyxl.load_workbook(io.BytesIO(content))
    assert all(cell.data_type != "f" for row in book.active.iter_rows() for cell in row), "a formula"
    return [list(row) for row in book.active.iter_rows(values_only=True)]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_would_be_a_formula_gets_an_apostrophe_in_front(name: str) -> None:
    assert writing.defused(name) == "'" + name


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_a_name_that_is_no_formula_stays_as_it_is(name: str) -> None:
    assert writing.defused(name) == name


@pytest.mark.parametrize("form", list(ExportFormat))
def test_a_file_read_again_says_what_was_written(form: ExportFormat, tmp_path: Path) -> None:
    id = UUID("01234567-89ab-7def-8123-456789abcdef")
    names = [*HOSTILE_NAMES, *HARMLESS_NAMES]
    rows: list[list[Cell]] = [
        [name, -5, 2.5, Decimal("-1.25"), True, date(2026, 11, 18), INSTANT, id, None, 10**17] for name in names
    ]
    columns = ["=昵称", "数", "小数", "十进制", "真假", "日期", "时刻", "编号", "空", "大数"]

    told = writing.write(columns, rows, tmp_path / "x", format=form, made_at=INSTANT)

    content = (tmp_path / "x").read_bytes()
    assert (told.rows, told.size_bytes) == (len(rows), len(content))
    assert told.sha256 == hashlib.sha256(content).digest()
    if form is ExportFormat.CSV:
        head, *read = read_csv(content)
        tail: list[Any] = [
            "-5",
            "2.5",
            "-1.25",
            "true",
            "2026-11-18",
            "2026-11-18T12:30:45+08:00",
            str(id),
            "",
            str(10**17),
        ]
        expected = [writing.defused(name) for name in names]
    else:
        head, *read = read_xlsx(content)
        local = INSTANT.replace(tzinfo=None)
        tail = [-5, 2.5, -1.25, True, local.replace(hour=0, minute=0, second=0), local, str(id), None, str(10**17)]
        # XML has no bare carriage return: it comes back as openpyxl decodes it.
        expected = [writing.defused(name).replace("\r", "_x000D_") or None for name in names]  # type: ignore[misc]
    assert head == ["'=昵称", *columns[1:]]
    assert [row[0] for row in read] == expected
    assert all(row[1:] == tail for row in read)


@pytest.mark.parametrize("form", list(ExportFormat))
def test_equal_rows_make_equal_bytes(form: ExportFormat, tmp_path: Path) -> None:
    told = [
        writing.write(["a"], [["x"], [INSTANT]], tmp_path / str(number), format=form, made_at=INSTANT)
        for number in range(2)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("form", list(ExportFormat))
def test_writing_needs_no_more_memory_for_more_rows(form: ExportFormat, tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        source = ([f"居民{number:06d}", number, INSTANT] for number in range(rows))
        writing.write(["昵称", "数", "时刻"], source, tmp_path / f"{rows}", format=form, made_at=INSTANT)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(10_000) < peak(1_000) + 300_000


@pytest.mark.parametrize("form", list(ExportFormat))
def test_a_file_that_is_given_up_leaves_nothing_open(form: ExportFormat, tmp_path: Path) -> None:
    def rows() -> Iterator[Sequence[Cell]]:
        yield ["a"]
        raise Conflict

    with pytest.raises(Conflict):
        writing.write(["a"], rows(), tmp_path / "x", format=form, made_at=INSTANT)
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        writing.write(["a"], [["x", "y"]], tmp_path / "y", format=form, made_at=INSTANT)


def test_more_rows_than_a_spreadsheet_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ROWS_MAX", 3)
    writing.write(["a"], [["x"]] * 3, tmp_path / "x", format=ExportFormat.CSV, made_at=INSTANT)
    with pytest.raises(writing.ExportTooLarge):
        writing.write(["a"], [["x"]] * 4, tmp_path / "x", format=ExportFormat.CSV, made_at=INSTANT)


@pytest.mark.parametrize("form", list(ExportFormat))
def test_more_bytes_than_the_container_of_a_spreadsheet_holds_are_refused(
    form: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PROGRESS_ROWS", 100)
    monkeypatch.setattr(writing, "PROGRESS_BYTES", 1_000)
    rows = [[str(new_id())]] * 2_000
    writing.write(["a"], rows, tmp_path / "x", format=form, made_at=INSTANT)
    monkeypatch.setattr(writing, "FILE_BYTES_MAX", 3_000)
    with pytest.raises(writing.ExportTooLarge):
        writing.write(["a"], rows, tmp_path / "y", format=form, made_at=INSTANT)


@pytest.mark.parametrize(("rows", "sheets"), [(0, [0]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_rows_beyond_a_sheets_end_go_on_in_the_next_sheet_under_the_same_heading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, sheets: list[int]
) -> None:
    monkeypatch.setattr(writing, "SHEET_ROWS_MAX", 3)
    source: list[list[Cell]] = [[f"=居民{number}", number, INSTANT] for number in range(rows)]

    told = writing.write(["昵称", "数", "时刻"], source, tmp_path / "x", format=ExportFormat.XLSX, made_at=INSTANT)

    book = openpyxl.load_workbook(io.BytesIO((tmp_path / "x").read_bytes()))
    assert told.rows == rows
    assert [sheet.max_row - 1 for sheet in book] == sheets
    assert all(next(sheet.values) == ("昵称", "数", "时刻") for sheet in book)
    assert all(cell.data_type != "f" for sheet in book for row in sheet.iter_rows() for cell in row), "a formula"
    numbers = [row[1] for sheet in book for row in sheet.iter_rows(min_row=2, values_only=True)]
    assert numbers == list(range(rows))


def test_packing_a_spreadsheet_tells_that_it_goes_on_and_stops_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PROGRESS_BYTES", 1_000)
    told: list[int] = []

    def progress(rows: int) -> None:
        told.append(rows)
        if len(told) == 3:
            raise Conflict

    with pytest.raises(Conflict):
        writing.write(
            ["a"],
            [[str(new_id())] for _ in range(3_000)],
            tmp_path / "x",
            format=ExportFormat.XLSX,
            made_at=INSTANT,
            progress=progress,
        )
    assert told == [3_000] * 3, "it went on packing, or never told"


# ── Asking, in the test's transaction ──


def residents_of(session: Session, actor: Actor, arguments: Mapping[str, Any]) -> Iterator[Sequence[Cell]]:
    wanted = (
        sa.select(Resident.nickname, Resident.created_at)
        .where(Resident.community_code == arguments["community"])
        .order_by(Resident.resident_id)
    )
    yield from (tuple(row) for row in streamed(session, wanted, at_once=100))


def authorise(session: Session, actor: Actor, arguments: Mapping[str, Any]) -> None:
    actor.require_cover(arguments["community"])


RESIDENTS = Producer(
    kind="test-residents",
    title_zh="居民",
    authorise=authorise,
    columns=lambda session, actor, arguments: ["昵称", "注册时间"],
    rows=residents_of,
)


@pytest.fixture
def desk(app: Flask) -> Desk:
    return Desk({RESIDENTS.kind: RESIDENTS}, app.extensions["tanpuhui_jobs"])


@pytest.fixture
def street(make_staff: Callable[..., UUID]) -> Actor:
    return Actor(id=make_staff(Role.STREET, division=STREET), role=Role.STREET, session_id=new_id(), division=STREET)


def ask(session: Session, actor: Actor, desk: Desk, **values: Any) -> Export:
    wanted = {"kind": RESIDENTS.kind, "format": ExportFormat.CSV, "arguments": {"community": COMMUNITY}, "now": now()}
    return exports.request(session, actor, desk, **{**wanted, **values})


def test_asking_enqueues_the_job_and_is_recorded(session: Session, street: Actor, desk: Desk) -> None:
    asked = ask(session, street, desk)

    assert (asked.state, asked.rows_written, asked.slot) == (ExportState.QUEUED, 0, 1)
    waiting = "SELECT args->>'export_id' FROM procrastinate_jobs WHERE task_name = 'exports:run' AND status = 'todo'"
    assert str(asked.id) in session.scalars(sa.text(waiting)).all()
    entry = session.scalar(sa.select(AuditEntry).where(AuditEntry.subject == f"export:{asked.id}"))
    assert entry is not None
    assert (entry.staff_id, entry.act, entry.detail["arguments"]) == (
        street.id,
        "export.request",
        {"community": COMMUNITY},
    )


def test_what_lies_outside_the_scope_is_not_exported(
    session: Session, street: Actor, desk: Desk, make_resident: Callable[..., UUID]
) -> None:
    resident = Actor(id=make_resident(), role=Role.RESIDENT, session_id=new_id())
    for actor, values, code in (
        (street, {"arguments": {"community": "120104002001"}}, "not-found"),
        (street, {"kind": "no-such-list"}, "not-found"),
        (resident, {}, "forbidden"),
    ):
        with pytest.raises(DomainError) as refused:
            ask(session, actor, desk, **values)  # type: ignore[arg-type]
        assert refused.value.code == code


def test_three_exports_of_a_person_wait_at_most(
    session: Session, street: Actor, desk: Desk, make_staff: Callable[..., UUID]
) -> None:
    asked = [ask(session, street, desk) for _ in range(3)]
    with pytest.raises(TooManyExports):
        ask(session, street, desk)

    exports.cancel(session, street, asked[1].id, now=now())

    assert ask(session, street, desk).slot == asked[1].slot
    other = Actor(id=make_staff(Role.STREET, division=STREET), role=Role.STREET, session_id=new_id(), division=STREET)
    assert ask(session, other, desk).slot == 1


def test_only_what_is_unfinished_is_cancelled(session: Session, street: Actor, desk: Desk) -> None:
    asked = ask(session, street, desk)
    assert exports.cancel(session, street, asked.id, now=now()).state is ExportState.CANCELLED
    with pytest.raises(ExportFinished):
        exports.cancel(session, street, asked.id, now=now())
    assert exports.begin(session, asked.id, now=now()) is None


def test_a_run_that_was_taken_for_dead_cannot_finish_what_another_took_over(
    session: Session, street: Actor, desk: Desk
) -> None:
    asked = ask(session, street, desk)
    written = writing.Written(5, 10, bytes(32))
    finish = {"columns": ["a"], "written": written, "store_name": "exports/aa/x.csv", "now": now()}

    first = exports.begin(session, asked.id, now=now())
    assert first is not None
    assert exports.progress(session, asked.id, attempt=1, rows=5)
    second = exports.begin(session, asked.id, now=now())
    assert second is not None

    assert not exports.progress(session, asked.id, attempt=1, rows=6)
    assert not exports.finish(session, asked.id, attempt=1, **finish)  # type: ignore[arg-type]
    assert exports.finish(session, asked.id, attempt=2, **finish)  # type: ignore[arg-type]
    assert not exports.fail(session, asked.id, problem="internal-error", now=now())


def test_an_export_whose_worker_dies_over_it_is_given_up_in_the_end(
    session: Session, street: Actor, desk: Desk
) -> None:
    asked = ask(session, street, desk)
    assert [exports.begin(session, asked.id, now=now()) is not None for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "done", "finished_at": sa.func.now()},
        {"state": "failed", "finished_at": sa.func.now()},
        {"problem": "x"},
        {"state": "cancelled"},
        {"finished_at": sa.func.now()},
        {"state": "running"},
        {"slot": 4},
        {"attempts": 4},
        {"sha256": b"short"},
        {"store_name": "exports/x"},
        {"format": "exe"},
        {"rows_written": 20_000_001},
        {"expires_at": Export.requested_at},
        {"arguments": {"long": "x" * 5000}},
    ],
)
def test_the_database_refuses_a_state_that_no_move_makes(
    session: Session, street: Actor, desk: Desk, changes: dict[str, Any]
) -> None:
    asked = ask(session, street, desk)
    with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
        session.execute(sa.update(Export.__table__).where(Export.__table__.c.id == asked.id).values(changes))  # type: ignore[arg-type]


def test_the_database_refuses_a_fourth_unfinished_export(session: Session, street: Actor, desk: Desk) -> None:
    ask(session, street, desk)
    copied = sa.text(
        "INSERT INTO export (id, kind, format, arguments, slot, requested_by, requested_at, expires_at) "
        "SELECT gen_random_uuid(), kind, format, arguments, slot, requested_by, requested_at, expires_at FROM export"
    )
    with pytest.raises(sa.exc.IntegrityError, match="export_unfinished_key"), session.begin_nested():
        session.execute(copied)


def test_a_kind_is_registered_once_and_named_plainly(app: Flask) -> None:
    other = Flask("other")
    other.extensions["tanpuhui_jobs"] = app.extensions["tanpuhui_jobs"]
    install(other, [RESIDENTS])
    for producers in ([RESIDENTS, RESIDENTS], [replace(RESIDENTS, kind="../x")]):
        with pytest.raises(ValueError, match="taken or malformed"):
            install(other, producers)


# ── The whole way, with real commits ──


@dataclass
class Office:
    """An application of its own with staff, residents and the job's queue."""

    app: Flask
    client: FlaskClient
    staff: Actor
    headers: dict[str, str]
    other_headers: dict[str, str]
    folder: Path

    def ask(self, **values: Any) -> Export:
        with self.app.app_context(), transaction() as session:
            return ask(session, self.staff, self.app.extensions["tanpuhui_exports"], **values)

    def run(self, export: Export) -> None:
        with self.app.app_context():
            jobs.run(str(export.id))

    def get(self, export: Export, part: str = "", headers: dict[str, str] | None = None) -> Any:
        return self.client.get(f"/api/v1/exports/{export.id}{part}", headers=headers or self.headers)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def execute(self, statement: Any) -> None:
        with self.app.app_context(), transaction() as session:
            session.execute(statement)


@pytest.fixture(scope="module")
def served(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """An application with one kind of export, on a database of its own."""
    url = make_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wsgi, "EXPORTS", [*wsgi.EXPORTS, RESIDENTS])
        app = wsgi.create_app(replace(base_settings, database_url=url, database_owner_url=url))
    yield app
    app.extensions["tanpuhui_wechat"].close()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def exporting(served: Flask, tmp_path: Path) -> Office:
    """The application with an empty store, two new street offices of one scope, and sixteen hostile residents."""
    files.install(served, (tmp_path / "store").as_uri())
    people, headers = [new_id(), new_id()], []
    with served.app_context():
        with transaction() as session:
            session.execute(sa.delete(Export))
            session.execute(sa.delete(Resident))
            for person in people:
                session.add(
                    Staff(
                        id=person,
                        name=f"street-{person.hex}",
                        password_hash="unusable",
                        role=Role.STREET,
                        division=STREET,
                        created_at=now(),
                    )
                )
            for name in HOSTILE_NAMES:
                session.add(
                    Resident(resident_id=new_id(), community_code=COMMUNITY, nickname=name[:24], created_at=INSTANT)
                )
        for person in people:
            with transaction() as session:
                tokens = sessions.begin(session, person, is_resident=False, now=now())
            headers.append({"Authorization": f"Bearer {tokens.access_token}"})
    staff = Actor(id=people[0], role=Role.STREET, session_id=new_id(), division=STREET)
    return Office(served, served.test_client(), staff, headers[0], headers[1], tmp_path / "store" / "exports")


@pytest.mark.parametrize("form", list(ExportFormat))
def test_an_export_is_asked_for_made_and_read_again(exporting: Office, form: ExportFormat) -> None:
    asked = exporting.ask(format=form)
    assert exporting.get(asked).json["state"] == "queued"
    assert exporting.get(asked, "/file").json["code"] == "export-not-ready"

    exporting.run(asked)

    told = exporting.get(asked).json
    manifest = exporting.get(asked, "/manifest").json
    answer = exporting.get(asked, "/file")
    assert (told["state"], told["rows_written"], told["problem"]) == ("done", 16, None)
    assert answer.status_code == 200
    assert (manifest["rows"], manifest["columns"]) == (16, ["昵称", "注册时间"])
    assert manifest["arguments"] == {"community": COMMUNITY}
    assert manifest["sha256"] == hashlib.sha256(answer.data).hexdigest()
    assert manifest["size_bytes"] == len(answer.data) == answer.content_length
    head, *rows = read_csv(answer.data) if form is ExportFormat.CSV else read_xlsx(answer.data)
    assert head == ["昵称", "注册时间"]
    assert [str(row[0])[:2] for row in rows] == [
        "'" + name[0] if name[0] != "\r" else "'\r" for name in HOSTILE_NAMES
    ] or (form is ExportFormat.XLSX and all(str(row[0]).startswith("'") for row in rows))
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="test-residents-{asked.id}.{form}"')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_nobody_reads_or_cancels_anothers_export_and_each_download_is_recorded(exporting: Office) -> None:
    asked = exporting.ask()
    exporting.run(asked)

    own = [exporting.get(asked, part).status_code for part in ("", "/manifest", "/file")]
    others = [exporting.get(asked, part, exporting.other_headers).status_code for part in ("", "/manifest", "/file")]
    cancel = exporting.client.delete(f"/api/v1/exports/{asked.id}", headers=exporting.other_headers)

    assert (own, others, cancel.status_code) == ([200] * 3, [404] * 3, 404)
    listed = exporting.client.get("/api/v1/exports", headers=exporting.headers).json["items"]
    assert [item["id"] for item in listed] == [str(asked.id)]
    assert exporting.client.get("/api/v1/exports", headers=exporting.other_headers).json["items"] == []
    with exporting.app.app_context(), transaction() as session:
        acts = session.scalars(
            sa.select(AuditEntry.act).where(AuditEntry.subject == f"export:{asked.id}").order_by(AuditEntry.id)
        ).all()
    assert acts == ["export.request", "export.download"]


def test_pages_of_exports_go_from_the_newest_to_the_oldest(exporting: Office) -> None:
    asked = [exporting.ask() for _ in range(3)]
    found, cursor = [], ""
    for _ in range(3):
        page = exporting.client.get(f"/api/v1/exports?limit=1{cursor}", headers=exporting.headers).json
        found += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == [str(each.id) for each in reversed(asked)]
    assert page["next_cursor"] is None


def test_rights_are_judged_again_when_the_export_is_made(exporting: Office) -> None:
    moved, disabled = exporting.ask(), exporting.ask()

    exporting.execute(sa.update(Staff).where(Staff.id == exporting.staff.id).values(division="120104002"))
    exporting.run(moved)
    exporting.execute(sa.update(Staff).where(Staff.id == exporting.staff.id).values(division=STREET, enabled=False))
    exporting.run(disabled)
    exporting.execute(sa.update(Staff).where(Staff.id == exporting.staff.id).values(enabled=True))

    assert [exporting.get(each).json["problem"] for each in (moved, disabled)] == ["not-found", "forbidden"]
    assert exporting.get(moved, "/file").json["code"] == "export-not-ready"
    assert exporting.files() == []


def test_a_producer_that_breaks_fails_its_export_and_its_job(
    exporting: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Iterator[Sequence[Cell]]:
        yield ["a", None]
        raise RuntimeError("a person's name")

    by_kind = {RESIDENTS.kind: replace(RESIDENTS, rows=broken)}
    desk = exporting.app.extensions["tanpuhui_exports"]
    monkeypatch.setitem(exporting.app.extensions, "tanpuhui_exports", replace(desk, producers=by_kind))
    asked = exporting.ask()

    with pytest.raises(RuntimeError):
        exporting.run(asked)

    told = exporting.get(asked).json
    assert (told["state"], told["problem"]) == ("failed", "internal-error")
    assert exporting.client.get(f"/problems/{told['problem']}").status_code == 200


def test_a_producer_cannot_write(exporting: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes(session: Session, *_: Any) -> Iterator[Sequence[Cell]]:
        session.execute(sa.update(Resident).values(nickname="changed"))
        yield ["a", None]

    by_kind = {RESIDENTS.kind: replace(RESIDENTS, rows=writes)}
    desk = exporting.app.extensions["tanpuhui_exports"]
    monkeypatch.setitem(exporting.app.extensions, "tanpuhui_exports", replace(desk, producers=by_kind))
    asked = exporting.ask()
    with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
        exporting.run(asked)


def add_residents(office: Office, number: int) -> None:
    office.execute(
        sa.insert(Resident).values(
            [
                {"resident_id": new_id(), "community_code": COMMUNITY, "nickname": f"n{each}", "created_at": now()}
                for each in range(number)
            ]
        )
    )


def paged(session: Session, actor: Actor, arguments: Mapping[str, Any]) -> Iterator[Sequence[Cell]]:
    """The same rows, each from a statement of its own, which READ COMMITTED would give a view of its own."""
    last = UUID(int=0)
    wanted = sa.select(Resident.resident_id, Resident.nickname).order_by(Resident.resident_id).limit(1)
    while (row := session.execute(wanted.where(Resident.resident_id > last)).first()) is not None:
        last = row.resident_id
        yield [row.nickname, None]


@pytest.mark.parametrize("rows", [residents_of, paged])
def test_the_rows_are_of_one_instant_whatever_is_changed_meanwhile(
    exporting: Office, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    monkeypatch.setattr(writing, "PROGRESS_ROWS", 5)
    desk = exporting.app.extensions["tanpuhui_exports"]
    by_kind = {RESIDENTS.kind: replace(RESIDENTS, rows=rows)}
    monkeypatch.setitem(exporting.app.extensions, "tanpuhui_exports", replace(desk, producers=by_kind))
    asked = exporting.ask()
    seen: list[int] = []
    progress = exports.progress

    def progress_and_change(session: Session, export_id: UUID, *, attempt: int, rows: int) -> bool:
        seen.append(rows)
        session.execute(sa.delete(Resident).where(Resident.nickname.startswith("＠")))
        session.execute(
            sa.insert(Resident).values(
                resident_id=new_id(), community_code=COMMUNITY, nickname=f"late{rows}", created_at=now()
            )
        )
        return progress(session, export_id, attempt=attempt, rows=rows)

    monkeypatch.setattr(exports, "progress", progress_and_change)
    exporting.run(asked)

    assert seen == [5, 10, 15]
    rows = read_csv(exporting.get(asked, "/file").data)[1:]
    assert len(rows) == 16
    assert rows[-1][0] == "'＠SUM(1)"


@pytest.mark.parametrize("form", list(ExportFormat))
def test_a_cancelled_export_stops_while_it_is_written(
    exporting: Office, monkeypatch: pytest.MonkeyPatch, form: ExportFormat
) -> None:
    monkeypatch.setattr(writing, "PROGRESS_ROWS", 5)
    asked = exporting.ask(format=form)
    progress = exports.progress
    seen: list[int] = []

    def progress_after_cancelling(session: Session, export_id: UUID, *, attempt: int, rows: int) -> bool:
        seen.append(rows)
        if rows == 10:
            exports.cancel(session, exporting.staff, export_id, now=now())
        return progress(session, export_id, attempt=attempt, rows=rows)

    monkeypatch.setattr(exports, "progress", progress_after_cancelling)
    exporting.run(asked)

    assert seen == [5, 10], "it went on after it was cancelled"
    assert exporting.get(asked).json["state"] == "cancelled"
    assert exporting.files() == []
    again = exporting.client.delete(f"/api/v1/exports/{asked.id}", headers=exporting.headers)
    assert (again.status_code, again.json["code"]) == (409, "export-finished")


def test_the_database_is_let_go_before_the_packing(exporting: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing five million rows takes minutes, and a transaction that idles for one minute is ended."""
    monkeypatch.setattr(writing, "PROGRESS_BYTES", 1)
    asked = exporting.ask(format=ExportFormat.XLSX)
    seen: list[tuple[int, int]] = []
    progress = exports.progress

    def look(session: Session, export_id: UUID, *, attempt: int, rows: int) -> bool:
        # What the snapshot reads stays locked for reading until its transaction ends.
        held = sa.text(
            "SELECT count(*) FROM pg_locks WHERE relation = 'resident'::regclass AND mode = 'AccessShareLock'"
            " AND pid <> pg_backend_pid()"
        )
        seen.append((rows, session.scalar(held) or 0))
        return progress(session, export_id, attempt=attempt, rows=rows)

    monkeypatch.setattr(exports, "progress", look)
    exporting.run(asked)
    assert exporting.get(asked).json["state"] == "done"
    assert seen
    assert set(seen) == {(16, 0)}


def test_an_export_is_cancelled_over_http_before_it_runs(exporting: Office) -> None:
    asked = exporting.ask()
    cancelled = exporting.client.delete(f"/api/v1/exports/{asked.id}", headers=exporting.headers)
    exporting.run(asked)
    assert (cancelled.status_code, cancelled.json["state"]) == (200, "cancelled")
    assert exporting.get(asked).json["state"] == "cancelled"


def test_a_run_whose_worker_died_is_made_anew(exporting: Office) -> None:
    asked = exporting.ask()
    with exporting.app.app_context(), transaction() as session:
        assert exports.begin(session, asked.id, now=now()) is not None  # and its worker is killed here

    exporting.run(asked)

    assert exporting.get(asked).json["state"] == "done"
    assert [path.name for path in exporting.files()] == [f"{asked.id}-2.csv"]


def test_after_its_last_run_died_the_export_says_so(exporting: Office) -> None:
    asked = exporting.ask()
    with exporting.app.app_context(), transaction() as session:
        for _ in range(3):
            exports.begin(session, asked.id, now=now())
    exporting.run(asked)
    assert exporting.get(asked).json["problem"] == "export-gave-up"


def test_after_a_week_an_export_and_its_file_are_gone(exporting: Office) -> None:
    old, young, waiting = exporting.ask(), exporting.ask(), exporting.ask()
    exporting.run(old)
    exporting.run(young)
    week_ago = now() - timedelta(days=8)
    past = {"requested_at": week_ago, "expires_at": week_ago + timedelta(days=7)}
    exporting.execute(sa.update(Export).where(Export.id == old.id).values(**past))
    for path in exporting.files():
        os.utime(path, (time.time() - 200_000,) * 2)

    with exporting.app.app_context():
        jobs.forget(0)

    assert exporting.get(old).status_code == 404
    assert [path.name for path in exporting.files()] == [f"{young.id}-1.csv"]
    assert exporting.get(waiting).json["state"] == "queued"


def test_a_file_that_the_store_lost_is_told_as_such(exporting: Office) -> None:
    asked = exporting.ask()
    exporting.run(asked)
    exporting.files()[0].unlink()
    answer = exporting.get(asked, "/file")
    assert (answer.status_code, answer.json["code"]) == (503, "store-unavailable")


def test_a_store_that_is_away_fails_the_export_and_leaves_no_trace(
    exporting: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = exporting.ask()
    exporting.folder.parent.mkdir(parents=True, exist_ok=True)
    exporting.folder.write_text("a file where the folder should be")
    exporting.run(asked)
    assert exporting.get(asked).json["problem"] == "store-unavailable"


def test_four_requests_at_once_get_three_places_with_the_first_held_open(exporting: Office) -> None:
    """Two connections ask for the same free place: the second waits for the first and takes the next one."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 -- of this test alone

    def ask_in_thread() -> Any:
        try:
            return exporting.ask().slot
        except TooManyExports:
            return "refused"

    with exporting.app.app_context(), ThreadPoolExecutor(3) as pool:
        with transaction() as session:
            first = ask(session, exporting.staff, exporting.app.extensions["tanpuhui_exports"])
            others = [pool.submit(ask_in_thread) for _ in range(3)]
            deadline = time.monotonic() + 10
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while session.scalar(waiting) == 0 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not any(other.done() for other in others), "nothing was waited for"
        found = sorted(str(other.result(20)) for other in others)
    assert (first.slot, found) == (1, ["2", "3", "refused"])


def test_a_hundred_thousand_rows_are_written_in_seconds_and_little_memory(tmp_path: Path) -> None:
    for form in ExportFormat:
        rows = ([f"居民{number:06d}", number, INSTANT, Decimal("1.5")] for number in range(100_000))
        began = time.monotonic()
        told = writing.write(
            ["昵称", "积分", "时刻", "公里"], rows, tmp_path / form.value, format=form, made_at=INSTANT
        )
        elapsed_s = time.monotonic() - began
        assert told.rows == 100_000
        assert elapsed_s < 60, f"{form}: {elapsed_s:.1f} s"


def test_the_job_and_its_housekeeping_are_registered(app: Flask) -> None:
    queue: procrastinate.App = app.extensions["tanpuhui_jobs"]
    assert {"exports:run", "exports:forget", "files:sweep"} <= set(queue.tasks)
    assert NotFound.code == "not-found"

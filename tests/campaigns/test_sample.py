"""The sample: loaded twice it is there once, its credentials work, and production refuses it."""

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from points.partners.models import Binding
from points.partners.signature import sign
from server.clock import now
from server.people.models import Consent, ConsentPurpose, Staff
from server.settings import Settings

TABLES = (
    "staff",
    "organisation",
    "resident",
    "wechat_identity",
    "consent",
    "partner",
    "binding",
    "reward",
    "campaign",
    "audit_entry",
)


@pytest.fixture
def folder(app: Flask, tmp_path: Path) -> Iterator[Path]:
    """A data folder of this test's own."""
    settings: Settings = app.extensions["tanpuhui_settings"]
    app.extensions["tanpuhui_settings"] = replace(settings, data_folder=tmp_path)
    yield tmp_path
    app.extensions["tanpuhui_settings"] = settings


def load(app: Flask) -> Result:
    result = app.test_cli_runner().invoke(args=["sample", "load"])
    assert result.exit_code == 0, result.output
    return result


def kept(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    return found


def counts(session: Session) -> dict[str, int]:
    return {table: session.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0 for table in TABLES}


def sign_in_staff(client: FlaskClient, name: str, password: str) -> dict[str, str]:
    answer = client.post("/api/v1/sign-in/staff", json={"name": name, "password": password})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json['access_token']}"}


def sign_in_resident(client: FlaskClient, standin: Any, user: str) -> dict[str, str]:
    answer = client.post("/api/v1/sign-in/wechat", json={"code": standin.login(user)})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json['access_token']}"}


@pytest.mark.usefixtures("connection")
def test_loading_twice_changes_nothing(app: Flask, session: Session, folder: Path) -> None:
    load(app)
    first, file = counts(session), (folder / "sample.json").read_bytes()
    load(app)
    assert counts(session) == first
    assert (folder / "sample.json").read_bytes() == file
    assert {table: first[table] for table in ("staff", "resident", "partner", "binding", "reward", "campaign")} == {
        "staff": 7,
        "resident": 4,
        "partner": 5,
        "binding": 20,
        "reward": 2,
        "campaign": 1,
    }


@pytest.mark.usefixtures("connection")
def test_credentials_are_readable_by_their_owner_alone_and_not_printed(app: Flask, folder: Path) -> None:
    result = load(app)
    for name in ("sample.json", "try-this.txt"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    credentials = kept(folder)
    hidden = [each["password"] for each in credentials["staff"].values()]
    hidden += [each["key"] for each in credentials["partners"].values()]
    assert len(set(hidden)) == 12
    assert not [each for each in hidden if each in result.output]


@pytest.mark.usefixtures("connection")
def test_production_refuses_the_sample_and_writes_nothing(app: Flask, session: Session, folder: Path) -> None:
    before = counts(session)
    app.extensions["tanpuhui_settings"] = replace(app.extensions["tanpuhui_settings"], environment="production")
    result = app.test_cli_runner().invoke(args=["sample", "load"])
    assert (result.exit_code, list(folder.iterdir()), counts(session)) == (1, [], before)
    assert "production" in result.output


def test_sample_staff_sign_in_with_the_kept_password_in_their_own_scope(
    app: Flask, client: FlaskClient, folder: Path
) -> None:
    load(app)
    staff = kept(folder)["staff"]
    accounts = {
        name: client.get("/api/v1/staff/me", headers=sign_in_staff(client, name, each["password"])).json
        for name, each in staff.items()
    }
    assert {name: (account["role"], account["division"]) for name, account in accounts.items()} == {
        "nankai-district": ("district", "120104"),
        "nankai-street": ("street", "120104001"),
        "nankai-community": ("community-staff", "120104001001"),
        "nankai-school": ("school-staff", None),
        "nankai-operator": ("operator", "120104"),
        "nankai-supervisor": ("supervisor", "120104001001"),
        "nankai-collector": ("collector", "120104001"),
    }
    assert accounts["nankai-school"]["organisation_id"] == staff["nankai-school"]["organisation_id"]


def test_sample_residents_are_the_stand_ins_users_with_home_bindings_and_consents(
    app: Flask, client: FlaskClient, session: Session, folder: Path, standin: Any
) -> None:
    load(app)
    for user, sample in kept(folder)["residents"].items():
        me = client.get("/api/v1/me", headers=sign_in_resident(client, standin, user)).json
        assert (me["id"], me["community_code"]) == (sample["resident_id"], sample["community_code"])
    consents = session.scalar(
        sa.select(sa.func.count()).select_from(Consent).where(Consent.purpose == ConsentPurpose.PARTNER)
    )
    assert consents == session.scalar(sa.select(sa.func.count()).select_from(Binding)) == 20


def test_the_kept_partner_key_signs_a_batch_that_is_taken_in(
    app: Flask, client: FlaskClient, folder: Path, standin: Any
) -> None:
    load(app)
    credentials = kept(folder)
    event = {
        "kind": "bin-drop",
        "id": "drop-1",
        "member": credentials["residents"]["alice"]["member_id"],
        "category": "kitchen",
        "at": now().isoformat(),
        "site": "site-1",
    }
    body, timestamp = json.dumps(event).encode() + b"\n", str(int(now().timestamp()))
    answer = client.post(
        "/api/v1/partners/bins-sample/events",
        data=body,
        headers={
            "Content-Type": "application/x-ndjson",
            "X-Tanpuhui-Timestamp": timestamp,
            "X-Tanpuhui-Batch": "batch-1",
            "X-Tanpuhui-Signature": sign(credentials["partners"]["bins-sample"]["key"].encode(), timestamp, body),
        },
    )
    assert answer.status_code == 200, answer.text
    assert answer.json["counts"].get("awarded") == 1, answer.text


def test_a_sample_resident_can_join_the_sample_campaign(
    app: Flask, client: FlaskClient, folder: Path, standin: Any
) -> None:
    load(app)
    path = f"/api/v1/campaigns/{kept(folder)['campaign_id']}"
    alice = sign_in_resident(client, standin, "alice")
    assert client.get(path, headers=alice).json["state"] == "running"
    assert client.post(f"{path}/participations", headers=alice).status_code == 201
    assert client.get(f"{path}/progress", headers=alice).json["tasks"][0]["done"] == 0


def test_a_lost_file_gives_new_credentials_that_work_and_end_the_old(
    app: Flask, client: FlaskClient, session: Session, folder: Path
) -> None:
    load(app)
    old = kept(folder)
    headers = sign_in_staff(client, "nankai-district", old["staff"]["nankai-district"]["password"])
    before = counts(session)
    (folder / "sample.json").unlink()
    load(app)
    new = kept(folder)
    assert new["staff"]["nankai-district"]["password"] != old["staff"]["nankai-district"]["password"]
    assert new["partners"]["bins-sample"]["key"] != old["partners"]["bins-sample"]["key"]
    sign_in_staff(client, "nankai-district", new["staff"]["nankai-district"]["password"])
    assert client.get("/api/v1/staff/me", headers=headers).status_code == 401
    assert {**counts(session), "audit_entry": 0} == {**before, "audit_entry": 0}


@pytest.mark.usefixtures("connection")
def test_a_kept_file_serves_a_database_that_was_made_anew(app: Flask, session: Session, folder: Path) -> None:
    settings: Settings = app.extensions["tanpuhui_settings"]
    (folder / "sample.json").write_text(
        json.dumps(
            {
                "staff": {"nankai-district": {"password": "kept-from-before", "role": "district"}},
                "partners": {},
                "residents": {},
            }
        ),
        encoding="utf-8",
    )
    load(app)
    assert settings.data_folder == folder
    assert kept(folder)["staff"]["nankai-district"]["password"] == "kept-from-before"
    assert session.scalar(sa.select(Staff.name).where(Staff.name == "nankai-district"))


def test_what_a_person_changed_since_stays_changed(
    app: Flask, client: FlaskClient, session: Session, folder: Path
) -> None:
    load(app)
    session.execute(sa.text("UPDATE resident SET enabled = false"))
    session.execute(sa.text("DELETE FROM binding"))
    session.execute(sa.text("UPDATE partner SET enabled = false"))
    session.execute(sa.text("UPDATE campaign SET state = 'cancelled'"))
    session.commit()
    before = counts(session)
    load(app)
    assert counts(session) == before


@pytest.mark.usefixtures("connection")
def test_a_file_that_cannot_be_read_is_named(app: Flask, folder: Path) -> None:
    (folder / "sample.json").write_text("{", encoding="utf-8")
    result = app.test_cli_runner().invoke(args=["sample", "load"])
    assert result.exit_code == 1
    assert "sample.json" in result.output


@pytest.mark.usefixtures("connection")
def test_the_list_of_things_to_try_has_real_values_and_no_placeholder(app: Flask, folder: Path, standin: Any) -> None:
    load(app)
    text, credentials = (folder / "try-this.txt").read_text(encoding="utf-8"), kept(folder)
    for value in (
        standin.url,
        credentials["campaign_id"],
        credentials["staff"]["nankai-district"]["password"],
        credentials["staff"]["nankai-community"]["password"],
        credentials["partners"]["metro-sample"]["key"],
        "member-alice",
    ):
        assert value in text
    assert "$$" not in text
    assert "None" not in text

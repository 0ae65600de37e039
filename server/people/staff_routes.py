"""Staff over HTTP: what the district office and operators do with accounts."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from server.access import Permission, Role, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import db, transaction
from server.etags import VersionHeader, etag_of, version_of
from server.paging import Page, PageQuery
from server.people import residents, staff
from server.people.models import Resident, Staff
from server.people.routes import ACCOUNT_NAME
from server.people.staff import NAME_LENGTH_MAX, PASSWORD_LENGTH_MAX, PASSWORD_LENGTH_MIN

blueprint = Blueprint(
    "staff",
    __name__,
    url_prefix="/api/v1",
    description="工作人员账号 · Staff accounts",
)

STAFF_ROLES = [role.value for role in Role if role is not Role.RESIDENT]

_DIVISION = [ma.validate.Length(6, 12), ma.validate.Regexp(r"^[0-9]{6,12}(?!\n)$")]
_PASSWORD = ma.validate.Length(PASSWORD_LENGTH_MIN, PASSWORD_LENGTH_MAX)


class StaffEntry(ma.Schema):
    """A new account: a role, and the one scope that suits it."""

    name = ma.fields.String(required=True, validate=[ma.validate.Length(1, NAME_LENGTH_MAX), ACCOUNT_NAME])
    password = ma.fields.String(required=True, validate=_PASSWORD, metadata={"format": "password"})
    role = ma.fields.String(required=True, validate=ma.validate.OneOf(STAFF_ROLES))
    division = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=_DIVISION,
        metadata={
            "description": "区划代码 · Of a community (12 digits), street (9) or district (6), as suits the role"
        },
    )
    organisation_id = ma.fields.UUID(
        load_default=None, allow_none=True, metadata={"description": "For school staff, in place of a division"}
    )


class StaffChanges(ma.Schema):
    """What is left out stays."""

    password = ma.fields.String(validate=_PASSWORD, metadata={"format": "password"})
    role = ma.fields.String(validate=ma.validate.OneOf(STAFF_ROLES))
    division = ma.fields.String(allow_none=True, validate=_DIVISION)
    organisation_id = ma.fields.UUID(allow_none=True)
    enabled = ma.fields.Boolean(truthy={True}, falsy={False})


class StaffView(ma.Schema):
    """A staff account."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    role = ma.fields.Enum(Role, by_value=True, required=True)
    division = ma.fields.String(required=True, allow_none=True)
    organisation_id = ma.fields.UUID(required=True, allow_none=True)
    enabled = ma.fields.Boolean(required=True)
    version = ma.fields.Integer(required=True, metadata={"description": "Also the ETag, in quotes"})
    created_at = ma.fields.AwareDateTime(required=True)


class ResidentStateEntry(ma.Schema):
    """Whether a resident may sign in."""

    enabled = ma.fields.Boolean(required=True, truthy={True}, falsy={False})


class ResidentStateView(ma.Schema):
    """Whether a resident may sign in, and nothing else about them."""

    id = ma.fields.UUID(required=True, attribute="resident_id")
    enabled = ma.fields.Boolean(required=True)


@blueprint.get("/staff")
@require(Permission.STAFF_MANAGE)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(StaffView))
def list_staff(query: dict[str, Any]) -> Page[Staff]:
    """账号列表. List the accounts whose scope lies inside the own, oldest first."""
    with transaction() as session:
        return staff.list_staff(session, actor(), **query)


@blueprint.post("/staff")
@require(Permission.STAFF_MANAGE)
@blueprint.arguments(
    StaffEntry,
    example={"name": "zhang.wei", "password": "a long sentence is best", "role": "street", "division": "120104001"},
)
@blueprint.response(201, StaffView)
def create_staff(entry: dict[str, Any]) -> tuple[Staff, int, dict[str, str]]:
    """新增账号. Add an account. Only an operator makes operators. A repeated request meets `staff-name-taken`."""
    # No Idempotency-Key here: it keeps a quick digest of the body, and from that a password could be guessed.
    person = actor()
    db.session.rollback()  # hashing takes a tenth of a second; no transaction waits for it
    password_hash = staff.hash_password(entry.pop("password"))
    with transaction() as session:
        added = staff.create(
            session, person, **{**entry, "role": Role(entry["role"])}, password_hash=password_hash, now=now()
        )
    return added, 201, etag_of(added.version)


@blueprint.get("/staff/<uuid:staff_id>")
@require(Permission.STAFF_MANAGE)
@blueprint.response(200, StaffView)
def read_staff(staff_id: UUID) -> tuple[Staff, int, dict[str, str]]:
    """查看账号. Read an account; its `ETag` is what an edit names."""
    with transaction() as session:
        found = staff.staff_for(session, actor(), staff_id)
    return found, 200, etag_of(found.version)


@blueprint.patch("/staff/<uuid:staff_id>")
@require(Permission.STAFF_MANAGE)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(StaffChanges, example={"enabled": False})
@blueprint.response(200, StaffView)
def change_staff(header: dict[str, Any], changes: dict[str, Any], staff_id: UUID) -> tuple[Staff, int, dict[str, str]]:
    """修改账号. Change role, scope, password or state. Ends every sign-in of the person; nobody changes themself."""
    version = version_of(header["if_match"])
    person = actor()
    db.session.rollback()
    with_hash = _stored_form(changes)
    with transaction() as session:
        changed = staff.update(session, person, staff_id, expected_version=version, changes=with_hash, now=now())
    return changed, 200, etag_of(changed.version)


@blueprint.patch("/residents/<uuid:resident_id>")
@require(Permission.STAFF_MANAGE)
@blueprint.arguments(ResidentStateEntry)
@blueprint.response(200, ResidentStateView)
def change_resident_state(entry: dict[str, Any], resident_id: UUID) -> Resident:
    """停用或恢复居民. Keep a resident of the own scope out, or let them in again; it holds from their next request."""
    with transaction() as session:
        return residents.set_enabled(session, actor(), resident_id, now=now(), **entry)


def _stored_form(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes as columns: the password hashed, the role as one."""
    columns = {name: value for name, value in changes.items() if name != "password"}
    if "password" in changes:
        columns["password_hash"] = staff.hash_password(changes["password"])
    if "role" in changes:
        columns["role"] = Role(changes["role"])
    return columns

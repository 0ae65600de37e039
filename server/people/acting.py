"""Commands that act for a member of staff: `--as NAME`, on the machine itself.

Whoever has the machine has the database, so nothing is proved by a name; but what needs two people asks for two names,
each with the permission, and the audit trail keeps them.
"""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.access import Actor, Permission
from server.database import new_id
from server.errors import Forbidden, NotFound
from server.people.models import Staff


def actor_named(session: Session, name: str, permission: Permission) -> Actor:
    """The enabled member of staff of this name, as an actor without a sign-in.

    Raises NotFound for no such account or a disabled one, Forbidden where the role lacks the permission.
    """
    found = session.scalar(sa.select(Staff).where(Staff.name == name, Staff.enabled))
    if found is None:
        raise NotFound(f"no enabled member of staff is named {name}")
    actor = Actor(
        id=found.id,
        role=found.role,
        session_id=new_id(),
        division=found.division,
        organisation_id=found.organisation_id,
    )
    if not actor.may(permission):
        raise Forbidden(f"{name} may not {permission.value}")
    return actor

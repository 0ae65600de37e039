"""What the world of the access matrix is made of: bundles of things, the world, and makers of people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Flask
from sqlalchemy.orm import Session

from server.access import Role
from server.clock import now
from server.database import new_id
from server.files import intake
from server.files.intake import CleanFile
from server.files.models import StoredFile
from server.people.models import Resident, Staff
from server.settings import Settings

HOME, NEXT_DOOR, OTHER_STREET, OTHER_DISTRICT = "120104001001", "120104001003", "120104002001", "120103"

# A picture of one pixel.
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c631068500000015400b16253bf3e"
    "0000000049454e44ae426082"
)

# Who answers for a place besides the people of the thing itself.
DISTRICT = frozenset({"district", "colleague at the district"})
OFFICES = DISTRICT | {"street"}


@dataclass(frozen=True)
class Bundle:
    """Things that belong together: under which addresses, parameter → what it is here, and the names of who sees them.

    `groups` are those of them who are more to the bundle than others; a test says which routes are for a group only.
    Addresses that begin with one of `beside` are another bundle's, although they begin with one of `under` as well.
    """

    under: tuple[str, ...]
    parts: Mapping[str, Any]
    seen_by: frozenset[str]
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """People by what they are to the things, and the things."""

    people: Mapping[str, tuple[Role, UUID]]
    bundles: Mapping[str, Bundle]
    # The first of every role has something to see; most of the others are there to see nothing of it.
    insiders: Mapping[Role, str]
    organisations: Mapping[str, UUID]
    # Parameters of addresses whose things are everybody's.
    shared: Mapping[str, Any]

    def fitting(self, path: str, parameters: Iterable[str]) -> dict[str, Bundle]:
        """The bundles that have everything that an address with these parameters names."""
        wanted = set(parameters)
        return {
            name: bundle
            for name, bundle in self.bundles.items()
            if path.startswith(bundle.under) and not path.startswith(bundle.beside) and wanted <= bundle.parts.keys()
        }


@dataclass
class Makers:
    """Makes people and things in a session."""

    app: Flask
    session: Session
    instant: datetime = field(default_factory=now)

    @property
    def settings(self) -> Settings:
        found: Settings = self.app.extensions["tanpuhui_settings"]
        return found

    def resident(self, community: str | None, **values: Any) -> UUID:
        """A resident."""
        made = Resident(resident_id=new_id(), community_code=community, created_at=self.instant, **values)
        self.add(made)
        return made.resident_id

    def staff(self, role: Role, *, division: str | None = None, organisation: UUID | None = None) -> UUID:
        """A member of staff without a usable password."""
        id = new_id()
        made = Staff(
            id=id,
            name=f"staff-{id.hex[-12:]}",
            password_hash="unusable",
            role=role,
            division=division,
            organisation_id=organisation,
            created_at=self.instant,
        )
        self.add(made)
        return id

    def add(self, *rows: Any) -> None:
        """Add rows one after the other, as their keys want."""
        for row in rows:
            self.session.add(row)
            self.session.flush()

    def file(self, uploaded_by: UUID | None) -> StoredFile:
        """A kept picture."""
        clean = CleanFile("a.png", "image/png", PICTURE, 1, 1, None)
        return intake.accept(self.session, clean, purpose="test", uploaded_by=uploaded_by, now=self.instant)


def seen(*names: str) -> frozenset[str]:
    return frozenset(names)

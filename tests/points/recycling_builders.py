"""A collection point, a van, collectors and residents for the tests of recycling."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from sorting_builders import declare_none, site
from sqlalchemy.orm import Session

from points.waste.orders import materials, timetable
from points.waste.orders.models import CollectionPlan, PlanKind
from points.waste.sites.models import SiteForm, SiteKind
from server.clock import SHANGHAI, now
from server.people import code_limits, signed_codes
from server.people.models import CodePurpose
from server.settings import PLACES_DATA

DISTRICT, STREET, COMMUNITY = "120104", "120104001", "120104001001"
FOLDER = PLACES_DATA / "nankai"
# A Wednesday under the second edition of the rules, an hour before the van comes.
MORNING = datetime(2026, 11, 25, 8, 0, tzinfo=SHANGHAI)
DAY = date(2026, 11, 25)
PLAN: dict[str, Any] = {
    "name": "示例",
    "division": COMMUNITY,
    "weekdays": [1, 2, 3, 4, 5, 6, 7],
    "starts_minute": 9 * 60,
    "ends_minute": 11 * 60,
    "capacity": 2,
    "valid_from": date(2026, 1, 1),
}
STOP = {**PLAN, "kind": "stop", "code": "van-1", "address": "某路1号", "longitude": 117.15, "latitude": 39.13}
HOME = {**PLAN, "kind": "home", "code": "home-1", "division": STREET}

# Two kilograms of glass: 18 points (2 × 10, at 90 % of the grade); one second-hand set: 18 points.
GLASS = {"material": "glass_bottle", "gross_g": 2100, "tare_g": 100, "net_g": 2000}
BOOKS = {"material": "second_hand_book", "pieces": 1}


def district(session: Session) -> None:
    """The catalogue, the limits of codes, a point open from 9 to 18, a stop and hours of calls of two places each."""
    materials.load(session, materials.read_folder(FOLDER), now=now())
    code_limits.load(session, code_limits.read_limits(FOLDER))
    plan(session, STOP)
    plan(session, HOME)
    site(session, "nk-point-01", "daily 09:00-18:00", kind=SiteKind.COLLECTION_POINT, form=SiteForm.STATION)


def plan(session: Session, entry: dict[str, Any]) -> CollectionPlan:
    """A plan as from a data file."""
    return timetable.add_plan(session, {**entry, "kind": PlanKind(entry["kind"])}, created_by=None, now=now())


def shown_code(data_key: bytes, resident_id: UUID) -> str:
    """What the resident's phone shows now for recycling."""
    return signed_codes.make(data_key, resident_id, purpose=CodePurpose.RECYCLING, now=now()).text


@dataclass
class Party:
    """One person behind a client."""

    client: FlaskClient
    sign_in: Callable[..., dict[str, str]]  # of tests/conftest.py: (person, is_resident) → headers
    id: UUID
    is_resident: bool = False
    _signed: tuple[datetime, dict[str, str]] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a sign-in that lasts, wherever the clock has gone."""
        if self._signed is None or now() - self._signed[0] > timedelta(minutes=5):
            self._signed = (now(), self.sign_in(self.id, is_resident=self.is_resident))
        return self._signed[1]

    def send(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """Call an address, which must answer with `status`; the JSON of the answer."""
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = self.client.open(f"/api/v1{path}", method=method, json=body, headers=headers)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json

    def get(self, path: str, status: int = 200) -> Any:
        """Read an address."""
        return self.send("GET", path, None, status)

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """Post to an address."""
        return self.send("POST", path, body, status)


def order_body(way: str = "home", **changes: Any) -> dict[str, Any]:
    """What a resident sends."""
    place = {"home": "home-1", "stop": "van-1", "point": "nk-point-01"}[way]
    known = {"way": way, "place": place, "day": DAY.isoformat(), "materials": ["glass_bottle"]}
    return {**known, **({"address": "某小区1号楼 A7Q9", "note": "二门"} if way == "home" else {}), **changes}


def linked(session: Session, staff_id: UUID) -> UUID:
    """A member of staff who has declared that they have no resident account."""
    declare_none(session, staff_id)
    return staff_id

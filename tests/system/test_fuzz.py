"""Calls that schemathesis makes from the served description, valid and not, as everybody: never a server error.

The short form runs with the tests; TANPUHUI_FUZZ=long makes more than 20,000 calls (`make fuzz`).
"""

import os
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import hypothesis
import msgspec
import pytest
from district import COMMUNITY, District, drop, signed, walk
from hypothesis import HealthCheck, Phase, strategies

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a dependency's own, on import
    import schemathesis
    from schemathesis import GenerationMode

from server.access import Role
from server.clock import business_day, now

pytestmark = pytest.mark.fuzz

LONG = os.environ.get("TANPUHUI_FUZZ") == "long"
# For each operation, for each of three people, for valid and for invalid input.
EXAMPLES = 90 if LONG else 5
CALLS_MIN = 20_000 if LONG else 800
FEED_EXAMPLES = 3_000 if LONG else 150
ENDS_THE_SIGN_IN = "/api/v1/sign-out"


@pytest.fixture(scope="module")
def district(serve_district: Any) -> Iterator[District]:
    """A district without rate limits, with some life in it."""
    with serve_district(factory="unlimited:create_unlimited_app", workers=2, threads=4) as served:
        yield served


@pytest.fixture(scope="module")
def known(district: District) -> dict[str, list[str]]:
    """Things that exist, so that generated calls come further than to a 404: parameter → ids."""
    person, other = district.residents(2, points=500)
    partner = district.partner()
    reward = district.reward(cost=1, stock=1000)
    activities, transfers = [], []
    for each, member in zip((person, other), district.bind([person, other], partner[0]), strict=True):
        district.push(partner, [drop(member, f"e-{n}", minute=n) for n in range(3)])
        headers = district.sign_in(each)
        for n in range(3):
            assert district.http.post("/api/v1/me/activities/trips", json=walk(n), headers=headers).status_code == 201
        transfers += [district.spend(headers, reward).json()["id"] for _ in range(2)]
        activities += [row["id"] for row in district.http.get("/api/v1/me/activities", headers=headers).json()["items"]]
    office = district.sign_in(district.staff(Role.DISTRICT, division="120104"), is_resident=False)
    campaigns = []
    for opened in (False, True):
        today = business_day(now())
        terms = {
            "title": "绿色出行周",
            "behaviours": ["walk"],
            "measure": "activities",
            "target": 3,
            "starts_on": today.isoformat(),
            "ends_on": (today + timedelta(days=7)).isoformat(),
            "division": COMMUNITY,
        }
        made = district.http.post("/api/v1/campaigns", json=terms, headers=office)
        assert made.status_code == 201, made.text
        campaigns.append(made.json()["id"])
        if opened:
            assert district.http.post(f"/api/v1/campaigns/{campaigns[-1]}/open", headers=office).status_code == 200
    return {
        "person": [str(person)],
        "resident_id": [str(other)],  # whom the staff's calls may disable, and not who makes calls here
        "transfer_id": transfers,
        "activity_id": activities,
        "campaign_id": campaigns,
        "staff_id": [str(district.staff(Role.COMMUNITY_STAFF, division=COMMUNITY))],
        "partner_code": [partner[0]],
        "purpose": ["werun-steps", "ranking"],
        "code": ["120104", COMMUNITY],
    }


def headers_of(district: District, known: dict[str, list[str]], who: str) -> Callable[[], dict[str, str]]:
    """A function that gives the request headers of a resident, the district office, or nobody."""
    if who == "resident":
        return lambda: district.sign_in(UUID(known["person"][0]))
    if who == "staff":
        office = district.staff(Role.DISTRICT, division="120104")
        return lambda: district.sign_in(office, is_resident=False)
    return dict


def quiet(examples: int) -> Any:
    """Settings of a run that generates and does not shrink: a failing call is told as it was."""
    return hypothesis.settings(
        max_examples=examples,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )


def fault_of(response: httpx.Response) -> str | None:
    """What is wrong with an answer, whatever the call was."""
    if response.status_code >= 500:
        return f"{response.status_code} {response.text[:200]}"
    is_problem = response.headers.get("content-type") == "application/problem+json"
    if response.status_code >= 400 and response.request.method != "HEAD" and not is_problem:
        return f"{response.status_code} as {response.headers.get('content-type')}: {response.text[:200]}"
    return None


class Caller:
    """Makes the calls of one person and keeps count."""

    def __init__(self, district: District, known: dict[str, list[str]], who: str) -> None:
        self.district, self.known, self.who = district, known, who
        self.new_headers = headers_of(district, known, who)
        self.headers = self.new_headers()
        self.statuses: Counter[int] = Counter()
        self.faults: dict[str, str] = {}

    def call(self, case: Any, real: bool) -> None:
        """One call; with `real`, of things that exist."""
        if real:
            for name in case.path_parameters or {}:
                if name in self.known:
                    case.path_parameters[name] = secrets.choice(self.known[name])
        sent = case.as_transport_kwargs(base_url=str(self.district.http.base_url).rstrip("/"))
        headers = dict(sent.pop("headers", None) or {})
        if real:
            headers |= {"Idempotency-Key": secrets.token_hex(8), "If-Match": '"1"'}
        headers |= self.headers
        try:
            response = self.send(sent, headers)
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError):
            return  # no HTTP client can send this
        self.statuses[response.status_code] += 1
        fault = fault_of(response)
        if fault is not None:
            self.faults.setdefault(f"{case.method} {case.path} {response.status_code}", f"{fault}\n{case!r}"[:1500])
        if case.path == ENDS_THE_SIGN_IN and response.status_code == 204:
            self.headers = self.new_headers()

    def send(self, sent: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        body = {name: sent[name] for name in ("json", "data", "files") if sent.get(name) is not None}
        if isinstance(body.get("data"), bytes | str):
            body["content"] = body.pop("data")
        return self.district.http.request(
            sent["method"],
            sent["url"],
            params=sent.get("params"),
            headers={name: value.encode("utf-8", "surrogatepass") for name, value in headers.items()},
            cookies=None,
            **body,
        )


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("who", ["resident", "staff", "nobody"])
@pytest.mark.filterwarnings("ignore")
def test_generated_calls_never_meet_a_server_error(
    district: District, known: dict[str, list[str]], who: str, mode: GenerationMode
) -> None:
    document = district.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    caller = Caller(district, known, who)
    operations = [each.ok() for each in schema.get_all_operations()]
    skipped = []
    for operation in operations:
        try:
            cases = operation.as_strategy(generation_mode=mode)
        except Exception as error:  # noqa: BLE001 -- of the generator's own kinds
            skipped.append(f"{operation.label}: {error}")
            continue

        @quiet(EXAMPLES)
        @hypothesis.given(case=cases, real=strategies.booleans())
        def run(case: Any, real: bool) -> None:
            caller.call(case, real)

        try:
            run()
        except (hypothesis.errors.Unsatisfiable, schemathesis.errors.SchemathesisError) as error:
            skipped.append(f"{operation.label}: {type(error).__name__}")
    calls = sum(caller.statuses.values())
    print(f"\n{who}: {calls} calls of {len(operations)} operations, {dict(caller.statuses)}; skipped {skipped}")
    assert caller.faults == {}
    assert calls >= CALLS_MIN / 6 * 0.8
    assert len(operations) == sum(
        method in {"get", "post", "put", "patch", "delete"} for path in document["paths"].values() for method in path
    )
    if who != "nobody":
        assert caller.statuses[401] < calls / 3, "the sign-in held"


LINES = strategies.one_of(
    strategies.binary(max_size=200),
    strategies.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    strategies.recursive(
        strategies.none()
        | strategies.booleans()
        | strategies.integers()
        | strategies.floats()
        | strategies.text(max_size=20),
        lambda inner: (
            strategies.lists(inner, max_size=3)
            | strategies.dictionaries(strategies.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(msgspec.json.encode),
)

ODD_TIMES = [
    "2026-11-22T08:00:00+08:00",
    "2026-11-22T08:00:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-11-22T08:00:00-23:59",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "1969-12-31T23:59:59Z",
]
ODD_VALUES = strategies.sampled_from(
    [None, "", 0, -1, 1, 10**6, 10**6 + 1, 2**63, 1.5, True, [], {}, "\0", "é", "x" * 65, "x" * 5000, *ODD_TIMES]
)


def events(member: str) -> Any:
    """Events of the three kinds, with none to all of their fields changed for something odd."""
    whole = [
        drop(member, "e-0"),
        {
            "kind": "ride",
            "id": "r-1",
            "member": member,
            "mode": "metro",
            "started_at": "2026-11-22T08:00:00+08:00",
            "ended_at": "2026-11-22T08:20:00+08:00",
            "distance_m": 9000,
        },
        {
            "kind": "recycling",
            "id": "w-1",
            "member": member,
            "material": "pet",
            "weight_g": 500,
            "at": "2026-11-22T08:00:00+08:00",
            "site": "s-1",
            "site_kind": "fixed",
            "timing": "scheduled",
            "channel": "online",
        },
    ]

    @strategies.composite
    def changed(draw: Any) -> bytes:
        event = dict(draw(strategies.sampled_from(whole)))
        event["id"] = draw(strategies.sampled_from(["e-0", "r-1", "w-1"]) | strategies.uuids().map(str))
        for name in draw(strategies.lists(strategies.sampled_from([*event, "more"]), max_size=3)):
            event[name] = draw(ODD_VALUES)
        for name in draw(strategies.lists(strategies.sampled_from(list(event)), max_size=1)):
            event.pop(name, None)
        return msgspec.json.encode(event)

    return changed()


def test_signed_batches_of_anything_never_meet_a_server_error(district: District) -> None:
    partner = district.partner()
    (member,) = district.bind(district.residents(1), partner[0])
    address = f"/api/v1/partners/{partner[0]}/events"
    faults: dict[int, str] = {}
    outcomes: Counter[str] = Counter()

    @quiet(FEED_EXAMPLES)
    @hypothesis.given(lines=strategies.lists(LINES | events(member), max_size=12))
    def run(lines: list[bytes]) -> None:
        body = b"\n".join(lines)
        answer = district.http.post(address, content=body, headers=signed(partner[1], body))
        if answer.status_code == 200:
            outcomes.update(answer.json()["counts"])
        else:
            faults.setdefault(answer.status_code, f"{answer.text[:300]}: {body[:600]!r}")

    run()
    print(f"\n{dict(outcomes)}")
    assert faults == {}
    assert outcomes["refused"] > FEED_EXAMPLES / 2
    assert outcomes["awarded"] > 0
    assert outcomes["duplicate"] > 0


def test_the_ledger_is_proved_after_it_all(district: District, known: dict[str, list[str]]) -> None:
    """Called for itself it proves a quiet ledger; after the others, one that was called upon in every way."""
    headers = headers_of(district, known, "resident")()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: district.http.get("/api/v1/me/wallet", headers=headers), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert district.faults() == []


def test_an_answer_that_is_a_server_error_or_no_problem_is_found() -> None:
    request = httpx.Request("GET", "http://127.0.0.1/")
    problem, page = {"content-type": "application/problem+json"}, {"content-type": "text/html"}
    assert fault_of(httpx.Response(500, headers=problem, request=request))
    assert fault_of(httpx.Response(503, headers=problem, request=request))
    assert fault_of(httpx.Response(404, headers=page, request=request))
    assert fault_of(httpx.Response(404, headers=problem, request=request)) is None
    assert fault_of(httpx.Response(200, headers=page, request=request)) is None

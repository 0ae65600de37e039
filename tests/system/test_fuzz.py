"""Calls that schemathesis makes from the served description, valid and not, as everybody: never a server error.

The short form runs with the tests; TANPUHUI_FUZZ=long makes more than 20,000 calls (`make fuzz`).
"""

import itertools
import os
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import hypothesis
import msgspec
import pytest
from district import District, drop, signed, walk
from hypothesis import HealthCheck, Phase, strategies
from world import HOME, Makers, World, build

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a dependency's own, on import
    import schemathesis
    from schemathesis import GenerationMode

from server.access import Role

pytestmark = pytest.mark.fuzz

LONG = os.environ.get("TANPUHUI_FUZZ") == "long"
# For each operation, for each of four people, for valid and for invalid input. Every file costs a process of its own.
EXAMPLES = 30 if LONG else 2
UPLOADS = 6 if LONG else 1
CALLS_MIN = 20_000 if LONG else 1_000
FEED_EXAMPLES = 3_000 if LONG else 150
ENDS_THE_SIGN_IN = "/api/v1/sign-out"
DISABLES = "/api/v1/residents/{resident_id}"


@pytest.fixture(scope="module")
def district(serve_district: Any) -> Iterator[District]:
    """A district without rate limits, with some life in it."""
    with serve_district(factory="unlimited:create_unlimited_app", workers=2, threads=4) as served:
        yield served


@dataclass(frozen=True)
class Known:
    """Things that exist, so that generated calls come further than to a 404."""

    world: World
    spare: str  # whom the staff's calls may disable, and not who makes calls here
    ids: dict[str, list[str]]  # parameter → what may be put there where it is about nothing of somebody's

    def fill(self, path: str, parameters: dict[str, Any]) -> None:
        """Put things that exist, and belong together, in the place of generated ones."""
        bundles = list(self.world.fitting(path, set(parameters) - set(self.world.shared)).values())
        chosen = secrets.choice(bundles).parts if bundles and path != DISABLES else {"resident_id": self.spare}
        for name in parameters:
            if name in chosen:
                parameters[name] = str(chosen[name])
            elif name in self.ids:
                parameters[name] = secrets.choice(self.ids[name])


@pytest.fixture(scope="module")
def known(district: District) -> Known:
    """The world of the tests of access, with points to spend."""
    with district.session() as session:
        world = build(Makers(district.app, session), shared_partner="shared-partner")
    (spare,) = district.residents(1)
    person, partner, reward = world.people["owner"][1], district.partner(), district.reward(cost=1, stock=1000)
    (member,) = district.bind([person], partner[0])
    district.push(partner, [drop(member, f"e-{n}", minute=n) for n in range(3)])
    headers = district.sign_in(person)
    for n in range(3):
        assert district.http.post("/api/v1/me/activities/trips", json=walk(n), headers=headers).status_code == 201
        assert district.spend(headers, reward).status_code == 201
    return Known(
        world,
        str(spare),
        {
            "partner_code": [partner[0]],
            "purpose": ["werun-steps", "ranking"],
            "code": ["120104", HOME],
            "release": ["latest", "2026-10", "2026-Q4.1"],
            "file": ["activity.csv", "activity.json"],
            "name": ["annual-report.docx"],
            "programme": ["green-travel", "green-school"],
            "measured_on": ["2024-12-31"],
            "rubric_id": [str(world.shared["rubric_id"])],
            "notice_id": [str(world.bundles["the mall's application"].parts["application_id"])],
            "number": ["120104-GC-2026-0001"],
        },
    )


# Who makes calls, and under which addresses: an assessor comes nowhere else.
CALLERS = {"resident": ("owner", "/"), "staff": ("district", "/"), "assessor": ("assessor", "/api/v1/creation/")}


def headers_of(district: District, known: Known, who: str) -> Callable[[], dict[str, str]]:
    """A function that gives the request headers of somebody, or of nobody."""
    if who not in CALLERS:
        return dict
    role, person = known.world.people[CALLERS[who][0]]
    return lambda: district.sign_in(person, is_resident=role is Role.RESIDENT)


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


def takes_files(operation: Any) -> bool:
    """Whether the operation wants a form with files."""
    return "multipart/form-data" in operation.definition.raw.get("requestBody", {}).get("content", {})


def fault_of(response: httpx.Response) -> str | None:
    """What is wrong with an answer, whatever the call was."""
    if response.status_code >= 500:
        return f"{response.status_code} {response.text[:200]}"
    is_problem = response.headers.get("content-type") == "application/problem+json"
    if response.status_code >= 400 and response.request.method != "HEAD" and not is_problem:
        return f"{response.status_code} as {response.headers.get('content-type')}: {response.text[:200]}"
    return None


def part_of(value: Any) -> Any:
    """A part of a form as httpx takes it: of what is no text and no bytes, the text."""
    if isinstance(value, tuple):
        return (value[0], part_of(value[1]), *value[2:])
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


class Caller:
    """Makes the calls of one person and keeps count."""

    def __init__(self, district: District, known: Known, who: str) -> None:
        self.district, self.known, self.who = district, known, who
        self.new_headers = headers_of(district, known, who)
        self.headers = self.new_headers()
        self.statuses: Counter[int] = Counter()
        self.faults: dict[str, str] = {}
        # Every other call is about what there is, beginning with the first of each operation.
        self.turns = itertools.cycle((True, False))

    def call(self, case: Any, *, real: bool) -> None:
        """One call; with `real`, of things that exist."""
        if real:
            self.known.fill(case.path, case.path_parameters or {})
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
        if "files" in body:
            body["files"] = [(name, part_of(value)) for name, value in body["files"]]
        return self.district.http.request(
            sent["method"],
            sent["url"],
            params=sent.get("params"),
            headers={name: value.encode("utf-8", "surrogatepass") for name, value in headers.items()},
            cookies=None,
            **body,
        )


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("who", [*CALLERS, "nobody"])
@pytest.mark.filterwarnings("ignore")
def test_generated_calls_never_meet_a_server_error(
    district: District, known: Known, who: str, mode: GenerationMode
) -> None:
    document = district.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    caller = Caller(district, known, who)
    everything = [each.ok() for each in schema.get_all_operations()]
    operations = [each for each in everything if each.path.startswith(CALLERS.get(who, ("", "/"))[1])]
    skipped = []
    for operation in operations:
        examples = UPLOADS if takes_files(operation) else EXAMPLES
        try:
            cases = operation.as_strategy(generation_mode=mode)
        except Exception as error:  # noqa: BLE001 -- of the generator's own kinds
            skipped.append(f"{operation.label}: {error}")
            continue

        caller.turns = itertools.cycle((True, False))

        @quiet(examples)
        @hypothesis.given(case=cases)
        def run(case: Any) -> None:
            caller.call(case, real=next(caller.turns))

        try:
            run()
        except (hypothesis.errors.Unsatisfiable, schemathesis.errors.SchemathesisError) as error:
            skipped.append(f"{operation.label}: {type(error).__name__}")
    calls = sum(caller.statuses.values())
    print(f"\n{who}: {calls} calls of {len(operations)} operations, {dict(caller.statuses)}; skipped {skipped}")
    assert caller.faults == {}
    assert calls >= CALLS_MIN * len(operations) / len(everything) / 7 * 0.8
    assert len(everything) == sum(
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


def test_the_ledger_is_proved_after_it_all(district: District, known: Known) -> None:
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

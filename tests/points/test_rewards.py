"""Redeeming over HTTP: points and stock move together or not at all, and once per key."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask.testing import FlaskClient
from points_builders import NOON, balances, digest, points_of, transferred, wrong
from psycopg.errors import CheckViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from points.rewards.models import Redemption, Reward
from server.database import new_id

pytestmark = pytest.mark.usefixtures("clock")

Answer = tuple[int, str | None]


@pytest.fixture
def bag(session: Session) -> UUID:
    """A reward of 30 points, of which there are 2."""
    reward = Reward(
        id=new_id(), code="cloth-bag", name_zh="布袋", name_en="Cloth bag", cost_points=30, stock=2, enabled=True
    )
    session.add(reward)
    session.commit()
    return reward.id


@pytest.fixture
def alice(session: Session, make_resident: Callable[..., UUID]) -> UUID:
    """A resident with 100 points."""
    person = make_resident()
    points_of(session, person, now=NOON, points=100)
    session.commit()
    return person


@pytest.fixture
def redeem(client: FlaskClient, headers_of: Callable[..., dict[str, str]]) -> Callable[..., TestResponse]:
    """A function that redeems as a person."""
    headers: dict[UUID, dict[str, str]] = {}

    def act(person: UUID, reward: Any, key: str | None) -> TestResponse:
        if person not in headers:
            headers[person] = headers_of(person, is_resident=True)
        keyed = {"Idempotency-Key": key} if key is not None else {}
        return client.post(
            "/api/v1/me/redemptions", json={"reward_id": str(reward)}, headers={**headers[person], **keyed}
        )

    return act


def told(answer: TestResponse) -> Answer:
    """The status, and the code of a refusal."""
    assert answer.json is not None
    assert (answer.content_type == "application/problem+json") == (answer.status_code >= 400)
    return answer.status_code, answer.json.get("code")


def stock(session: Session) -> int:
    return int(session.scalar(sa.text("SELECT stock FROM reward")) or 0)


def test_a_reward_is_taken_for_points(
    session: Session, client: FlaskClient, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    shown = client.get("/api/v1/rewards").json
    assert shown is not None
    assert [(each["id"], each["cost_points"], each["stock"]) for each in shown["items"]] == [(str(bag), 30, 2)]
    answer = redeem(alice, bag, "key-00001")
    assert told(answer) == (201, None)
    assert (answer.json["reward_id"], answer.json["cost_points"]) == (str(bag), 30)  # type: ignore[index]
    assert sum(balances(session, alice)[0].values()) == 70
    assert stock(session) == 1
    spent = digest(session, "id::text", "kind", "points", "account_id", "reason", table="transfer WHERE points < 0")
    assert spent == [(answer.json["id"], "spend", -30, 2, "redeem:cloth-bag")]  # type: ignore[index]
    assert wrong(session) == {}


def test_too_few_points_take_neither_points_nor_stock(
    session: Session, bag: UUID, make_resident: Callable[..., UUID], redeem: Callable[..., TestResponse]
) -> None:
    person = make_resident()
    points_of(session, person, now=NOON, points=29)
    session.commit()
    assert told(redeem(person, bag, "key-00001")) == (409, "insufficient-points")
    assert (transferred(session, person), stock(session)) == (29, 2)
    assert digest(session, "count(*)", table="redemption") == [(0,)]


def test_the_last_one_goes_once_and_the_next_keeps_their_points(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    assert [told(redeem(alice, bag, f"key-0000{number}")) for number in range(3)] == [
        (201, None),
        (201, None),
        (409, "out-of-stock"),
    ]
    assert (transferred(session, alice), stock(session)) == (40, 0)
    assert digest(session, "count(*)", table="redemption") == [(2,)]
    assert digest(session, "count(*)", table="transfer WHERE kind = 'spend'") == [(2,)]
    assert wrong(session) == {}


def test_a_refused_request_leaves_its_key_free(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    session.execute(sa.update(Reward).values(stock=0))
    session.commit()
    assert told(redeem(alice, bag, "key-00001")) == (409, "out-of-stock")
    session.execute(sa.update(Reward).values(stock=1))
    session.commit()
    assert told(redeem(alice, bag, "key-00001")) == (201, None)


@pytest.mark.parametrize("key", [None, "", "short", "with space", "k" * 129, "schlüssel-1"])
def test_a_redemption_wants_a_key(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse], key: str | None
) -> None:
    assert told(redeem(alice, bag, key)) == (400, "idempotency-key-required")
    assert (transferred(session, alice), stock(session)) == (100, 2)


@pytest.mark.parametrize("key", ["k" * 8, "k" * 128, "!~{}:/?-"])
def test_a_key_of_visible_ascii_is_enough(
    bag: UUID, alice: UUID, redeem: Callable[..., TestResponse], key: str
) -> None:
    assert told(redeem(alice, bag, key)) == (201, None)


def test_the_same_key_and_body_give_the_first_answer_again_and_move_nothing(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse], clock: time_machine.Traveller
) -> None:
    first = redeem(alice, bag, "key-00001")
    clock.shift(600)
    session.execute(sa.update(Reward).values(stock=0, enabled=False))
    session.commit()
    second = redeem(alice, bag, "key-00001")
    assert (second.status_code, second.data) == (first.status_code, first.data) == (201, first.data)
    assert ("Idempotent-Replayed" in first.headers, second.headers["Idempotent-Replayed"]) == (False, "true")
    assert transferred(session, alice) == 70
    assert digest(session, "count(*)", table="redemption") == [(1,)]


def test_the_same_key_with_another_body_is_refused(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    other = Reward(id=new_id(), code="tree", name_zh="树", name_en="Tree", cost_points=10, stock=5)
    session.add(other)
    session.commit()
    assert told(redeem(alice, bag, "key-00001")) == (201, None)
    assert told(redeem(alice, other.id, "key-00001")) == (422, "idempotency-key-reused")
    assert transferred(session, alice) == 70


def test_a_key_is_one_persons_own(
    session: Session, bag: UUID, alice: UUID, make_resident: Callable[..., UUID], redeem: Callable[..., TestResponse]
) -> None:
    bob = make_resident()
    points_of(session, bob, now=NOON, points=50)
    session.commit()
    assert told(redeem(alice, bag, "key-00001")) == (201, None)
    answer = redeem(bob, bag, "key-00001")
    assert told(answer) == (201, None)
    assert "Idempotent-Replayed" not in answer.headers
    assert (transferred(session, alice), transferred(session, bob)) == (70, 20)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (UUID(int=7), (404, "not-found")),
        ("cloth-bag", (422, "invalid-request")),
        ("", (422, "invalid-request")),
    ],
)
def test_an_unknown_reward_is_not_found(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse], reward: Any, expected: Answer
) -> None:
    assert told(redeem(alice, reward, "key-00001")) == expected
    assert transferred(session, alice) == 100


def test_a_withdrawn_reward_is_neither_shown_nor_had(
    session: Session, client: FlaskClient, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    session.execute(sa.update(Reward).values(enabled=False))
    session.commit()
    assert client.get("/api/v1/rewards").json == {"items": [], "next_cursor": None}
    assert told(redeem(alice, bag, "key-00001")) == (404, "not-found")


def test_a_debt_is_settled_before_anything_can_be_had(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    session.execute(sa.text("INSERT INTO debt (resident_id, points) VALUES (:r, 71)"), {"r": alice})
    session.commit()
    assert told(redeem(alice, bag, "key-00001")) == (409, "insufficient-points")
    session.execute(sa.text("UPDATE debt SET points = 70"))
    session.commit()
    assert told(redeem(alice, bag, "key-00002")) == (201, None)
    assert balances(session, alice) == ({}, 0)


def test_the_redemptions_come_newest_first_by_pages_and_are_ones_own(
    session: Session,
    client: FlaskClient,
    bag: UUID,
    alice: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
    redeem: Callable[..., TestResponse],
) -> None:
    session.execute(sa.update(Reward).values(stock=9, cost_points=10))
    session.commit()
    made = [redeem(alice, bag, f"key-0000{number}").json["id"] for number in range(5)]  # type: ignore[index]
    headers = headers_of(alice, is_resident=True)
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/api/v1/me/redemptions", query_string=query, headers=headers).json
        assert page is not None
        seen += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    others = headers_of(make_resident(), is_resident=True)
    assert client.get("/api/v1/me/redemptions", headers=others).json == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("constraint", "statement"),
    [
        ("reward_stock_check", "UPDATE reward SET stock = -1"),
        ("reward_cost_points_check", "UPDATE reward SET cost_points = 0"),
        ("reward_cost_points_check", "UPDATE reward SET cost_points = 1000001"),
    ],
)
@pytest.mark.usefixtures("bag")
def test_the_database_refuses_what_no_rule_would_write(session: Session, constraint: str, statement: str) -> None:
    with pytest.raises(IntegrityError) as refused, session.begin_nested():
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, CheckViolation)
    assert refused.value.orig.diag.constraint_name == constraint


def test_a_redemption_and_its_transfer_share_an_id(
    session: Session, bag: UUID, alice: UUID, redeem: Callable[..., TestResponse]
) -> None:
    redeem(alice, bag, "key-00001")
    made = session.scalars(sa.select(Redemption)).one()
    assert digest(session, "id", table="transfer WHERE kind = 'spend'") == [(made.id,)]

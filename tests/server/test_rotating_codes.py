"""Rotating codes: good for one period and the next, for one purpose, one subject and one key."""

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from server import rotating_codes

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
NOON = datetime(2026, 11, 18, 4, 0, tzinfo=UTC)  # a multiple of 15 s


def code_at(now: datetime, *, key: bytes = KEY, purpose: str = "door", subject: str = "slot-1") -> str:
    return rotating_codes.code_at(key, purpose, subject, period_s=15, now=now)


def holds(code: str, now: datetime, *, key: bytes = KEY, purpose: str = "door", subject: str = "slot-1") -> bool:
    return rotating_codes.check(key, purpose, subject, code, period_s=15, now=now)


@pytest.mark.parametrize(
    ("seconds", "good"),
    [
        (-15, False),  # shown by a clock that runs ahead of ours
        (-1, False),
        (0, True),
        (14.999, True),
        (15, True),  # the period after: it takes a while to aim and send
        (29.999, True),
        (30, False),
        (60, False),
        (86_400, False),
        (15 * 2**32, False),
    ],
)
def test_a_code_is_good_in_its_period_and_the_next(seconds: float, good: bool) -> None:
    assert holds(code_at(NOON), NOON + timedelta(seconds=seconds)) is good


@given(shown=st.floats(0, 1e6), later=st.floats(0, 100))
def test_a_code_works_for_one_to_two_periods_whenever_it_is_shown(shown: float, later: float) -> None:
    at = NOON + timedelta(seconds=shown)
    read = at + timedelta(seconds=later)
    age = int(read.timestamp()) // 15 - int(at.timestamp()) // 15
    assert holds(code_at(at), read) is (age in (0, 1))


def test_a_code_is_for_one_purpose_one_subject_and_one_key() -> None:
    code = code_at(NOON)
    assert holds(code, NOON)
    assert not holds(code, NOON, purpose="exit")
    assert not holds(code, NOON, subject="slot-2")
    assert not holds(code, NOON, key=OTHER_KEY)
    # The parts cannot be shifted into one another either.
    assert code_at(NOON, purpose="a", subject="b:c") != code_at(NOON, purpose="a:b", subject="c")


@pytest.mark.parametrize("code", ["", " ", "A" * 16, "签到码", "a" * 10_000, "\x00" * 16])
def test_what_is_no_code_is_refused_and_breaks_nothing(code: str) -> None:
    assert not holds(code, NOON)


def test_a_code_has_the_length_and_letters_that_a_qr_code_holds_densely() -> None:
    code = code_at(NOON)
    assert len(code) == rotating_codes.CODE_LENGTH
    assert set(code) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    assert not holds(code.lower(), NOON)


@pytest.mark.parametrize("seconds", [0, 0.5, 7, 14.999])
def test_the_next_code_comes_at_the_end_of_the_period(seconds: float) -> None:
    at = NOON + timedelta(seconds=seconds)
    changes_at = rotating_codes.changes_at(period_s=15, now=at)
    assert changes_at == NOON + timedelta(seconds=15)
    assert code_at(changes_at) != code_at(at)
    assert code_at(changes_at - timedelta(milliseconds=1)) == code_at(at)

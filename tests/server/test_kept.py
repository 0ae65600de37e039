"""What a process keeps in memory for a few seconds."""

import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from server.kept import Kept


@pytest.fixture
def read() -> Callable[[], int]:
    """A reading that gives 1, then 2, and so on."""
    numbers: Iterator[int] = count(1)
    return lambda: next(numbers)


def test_a_fresh_value_is_not_read_again(read: Callable[[], int]) -> None:
    kept: Kept[int] = Kept()
    assert [kept.current(read, fresh_for_s=60) for _ in range(3)] == [1, 1, 1]


def test_a_stale_value_is_read_again(read: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [100.0]
    monkeypatch.setattr("server.kept.time.monotonic", lambda: seconds[0])
    kept: Kept[int] = Kept()
    assert kept.current(read, fresh_for_s=10) == 1
    seconds[0] += 10
    assert kept.current(read, fresh_for_s=10) == 1
    seconds[0] += 0.001
    assert kept.current(read, fresh_for_s=10) == 2


def test_a_value_that_is_no_longer_good_is_read_again_however_fresh(read: Callable[[], int]) -> None:
    kept: Kept[int] = Kept()
    assert kept.current(read, fresh_for_s=60, still=lambda number: number > 1) == 1
    assert kept.current(read, fresh_for_s=60, still=lambda number: number > 1) == 2
    assert kept.current(read, fresh_for_s=60, still=lambda number: number > 1) == 2


def test_a_forgotten_value_is_read_again(read: Callable[[], int]) -> None:
    kept: Kept[int] = Kept()
    kept.forget()
    assert kept.current(read, fresh_for_s=60) == 1
    kept.forget()
    assert kept.current(read, fresh_for_s=60) == 2


def test_what_is_forgotten_between_the_check_and_the_answer_is_answered_all_the_same(read: Callable[[], int]) -> None:
    kept: Kept[int] = Kept()
    assert kept.current(read, fresh_for_s=60) == 1

    def forgotten_meanwhile(_: int) -> bool:
        other = threading.Thread(target=kept.forget)
        other.start()
        other.join()
        return True

    assert kept.current(read, fresh_for_s=60, still=forgotten_meanwhile) == 1
    assert kept.current(read, fresh_for_s=60) == 2


def test_what_is_forgotten_while_it_is_read_is_answered_and_not_kept(read: Callable[[], int]) -> None:
    kept: Kept[int] = Kept()

    def slowly() -> int:
        number = read()
        other = threading.Thread(target=kept.forget)
        other.start()
        other.join()
        return number

    assert kept.current(slowly, fresh_for_s=60) == 1
    assert [kept.current(read, fresh_for_s=60) for _ in range(2)] == [2, 2]

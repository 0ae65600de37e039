"""What a process keeps in memory of the database for a few seconds, so that a hot path need not ask for it."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """One value, as this process last read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[Value, float] | None = None
        self._forgotten_times = 0

    def current(
        self, read: Callable[[], Value], *, fresh_for_s: float, still: Callable[[Value], bool] | None = None
    ) -> Value:
        """The value, at most `fresh_for_s` seconds old and while it is `still` good; else what `read` gives now."""
        last = self._last  # taken once: another thread may forget it between the check and the answer
        if last is not None and time.monotonic() - last[1] <= fresh_for_s and (still is None or still(last[0])):
            return last[0]
        forgotten_times = self._forgotten_times
        value = read()
        with self._lock:
            if forgotten_times == self._forgotten_times:  # otherwise it may be what was to be forgotten
                self._last = (value, time.monotonic())
        return value

    def forget(self) -> None:
        """Read anew at the next call."""
        with self._lock:
            self._last = None
            self._forgotten_times += 1

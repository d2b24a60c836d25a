"""Waiting for a condition with a deadline."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")


class DeadlineExceeded(AssertionError):
    """The condition did not become true in time."""


def wait_until(
    condition: Callable[[], T],
    deadline: float,
    what: str | Callable[[], str] = "",
    interval: float = 0.05,
) -> T:
    """Calls `condition` until it returns something true and returns that; fails after `deadline` seconds.

    An exception of type AssertionError counts as "not yet"; its text ends up in the failure."""
    end = time.monotonic() + deadline
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() >= end:
            wanted = what() if callable(what) else what or condition
            raise DeadlineExceeded(f"not within {deadline} s: {wanted}; last: {last!r}")
        time.sleep(interval)

"""When requests are tried again, by a clock that the test plays."""

from __future__ import annotations

import pytest

from unionfs.errors import ImageError
from unionfs.registry.retry import Attempts, Schedule, retry_after


def pauses(attempts: Attempts, slept: list[float], failures: int) -> list[float]:
    slept.clear()
    for _ in range(failures):
        attempts.failed("busy")
    return list(slept)


def test_pauses_double_up_to_the_longest_and_then_it_is_given_up() -> None:
    slept: list[float] = []
    attempts = Attempts(Schedule(tries=7, first=1, longest=10), slept.append, lambda: 1.0)
    assert pauses(attempts, slept, 6) == [1, 2, 4, 8, 10, 10]
    with pytest.raises(ImageError, match=r"^busy; given up after 7 tries$"):
        attempts.failed("busy")


def test_those_that_failed_together_do_not_come_back_together() -> None:
    schedule = Schedule(first=1)
    assert [schedule.pause(1, chance) for chance in (0.0, 0.5, 1.0)] == [0.5, 0.75, 1.0]


def test_progress_forgives_what_was_before() -> None:
    slept: list[float] = []
    attempts = Attempts(Schedule(tries=3, first=1), slept.append, lambda: 1.0)
    for _ in range(10):
        assert pauses(attempts, slept, 2) == [1, 2]
        attempts.progressed()


def test_a_server_says_how_long_to_wait() -> None:
    slept: list[float] = []
    attempts = Attempts(Schedule(first=1, patience=60), slept.append, lambda: 1.0)
    attempts.failed("busy", 30)
    attempts.failed("busy", 0.1)
    assert slept == [30, 2], "no less than the schedule's own pause"
    with pytest.raises(ImageError, match="busy; the registry asks to wait for 3600 seconds"):
        attempts.failed("busy", 3600)
    assert len(slept) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("Thu, 01 Jan 1970 00:17:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert retry_after(value, now=1000) == expected

"""Waiting for the next request: awake while that is mostly right, asleep when it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from unionfs.transport.direct import busy_poll
from unionfs.transport.direct.busy_poll import BusyPoll

SOON = 20_000
LATE = 1_000_000


class Clock:
    """The time, and a poll that counts how often somebody sleeps and for how long."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.sleeps = 0
        self.sleep = LATE

    def __call__(self) -> int:
        self.now += 100
        return self.now

    def poll(self) -> None:
        self.sleeps += 1
        self.now += self.sleep


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(busy_poll, "monotonic_ns", clock)
    return clock


@pytest.fixture
def waiting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyPoll]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    reader, writer = os.pipe()
    poll = BusyPoll(reader)
    poll._poll = clock  # type: ignore[assignment]
    yield poll
    os.close(reader)
    os.close(writer)


def _turn(poll: BusyPoll, clock: Clock, looks: int) -> None:
    """A request is answered, and looked for this often until the next one is there."""
    poll.replied()
    for _ in range(looks):
        poll.wait()
        clock.now += 1000


def test_a_client_that_asks_again_at_once_finds_us_awake(waiting: BusyPoll, clock: Clock) -> None:
    for _ in range(100):
        _turn(waiting, clock, 20)
    assert clock.sleeps == 0


def test_who_waits_in_vain_sleeps_at_once_after_some_turns(waiting: BusyPoll, clock: Clock) -> None:
    for _ in range(10):
        _turn(waiting, clock, 200)
    before = clock.sleeps
    _turn(waiting, clock, 1)
    assert clock.sleeps == before + 1


def test_a_short_sleep_brings_the_hope_back(waiting: BusyPoll, clock: Clock) -> None:
    for _ in range(10):
        _turn(waiting, clock, 200)
    clock.sleep = SOON
    _turn(waiting, clock, 1)
    before = clock.sleeps
    _turn(waiting, clock, 20)
    assert clock.sleeps == before


def test_one_processor_never_waits_awake(
    waiting: BusyPoll, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    reader, writer = os.pipe()
    try:
        alone = BusyPoll(reader)
        alone._poll = clock  # type: ignore[assignment]
        clock.sleep = SOON
        for turns in range(1, 20):
            _turn(alone, clock, 1)
            assert clock.sleeps == turns
    finally:
        os.close(reader)
        os.close(writer)


def test_it_wakes_for_what_comes() -> None:
    reader, writer = os.pipe()
    try:
        poll = BusyPoll(reader)
        os.write(writer, b"x")
        poll.wait()
    finally:
        os.close(reader)
        os.close(writer)

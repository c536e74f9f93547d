"""Large things: directories of many entries and big files, and that they keep nobody else waiting."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.programs.conftest import Union
from tests.support.mounts import needs_fuse, needs_root, scratch

pytestmark = [needs_root, needs_fuse]

ENTRIES = 30_000
BIG = 768 << 20
PATIENCE = 0.5
"""Seconds that a small request may take while something large is under way, on a busy machine."""


@pytest.fixture(scope="module")
def lowers() -> Iterator[Path]:
    """Layers that all tests here share: they take long to make, above all after others have been removed."""
    with scratch() as where:
        fill(where / "large/large", ENTRIES)
        fill(where / "huge/large", 4 * ENTRIES)
        (where / "huge/small").mkdir()
        yield where


def fill(directory: Path, entries: int) -> None:
    directory.mkdir(parents=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(entries):
        os.close(os.open(f"entry-{number:07}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor))
    os.close(descriptor)


@contextmanager
def impatient_client(directory: Path) -> Iterator[list[float]]:
    """Somebody else, who creates, lists and removes small things; yields how long each round took."""
    rounds: list[float] = []
    stop = threading.Event()
    problem: list[BaseException] = []

    def client() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                began = time.monotonic()
                path = directory / f"other-{number}"
                path.write_text("x")
                assert path.read_text() == "x"
                path.unlink()
                os.listdir(directory)
                rounds.append(time.monotonic() - began)
                time.sleep(0.005)
        except BaseException as error:
            problem.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join(60)
    assert not problem, problem
    assert not thread.is_alive()


def test_rm_rf_of_a_large_merged_directory(union: Union, lowers: Path) -> None:
    lower = lowers / "large"
    with union([lower]) as merged:
        for number in range(0, ENTRIES, 10):
            (merged / f"large/upper-{number}").touch()
        done = subprocess.run(["rm", "-rf", merged / "large"], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert os.listdir(merged) == []
    assert len(os.listdir(lower / "large")) == ENTRIES


def test_listing_of_a_large_directory_keeps_nobody_waiting(union: Union, lowers: Path) -> None:
    with union([lowers / "huge"]) as merged:
        (merged / "large/upper").touch()
        with impatient_client(merged / "small") as rounds:
            names = [entry.name for entry in os.scandir(merged / "large")]
        assert len(names) == len(set(names)) == 4 * ENTRIES + 1
    assert rounds, "the other client never ran"
    assert max(rounds) < PATIENCE


def test_copy_up_of_a_big_file_keeps_nobody_waiting(union: Union, space: Path) -> None:
    if shutil.disk_usage(space).free < 4 * BIG:
        pytest.skip(f"{space} has not {4 * BIG >> 20} MiB free")
    lower = space / "lower"
    (lower / "small").mkdir(parents=True)
    block = os.urandom(1 << 20)
    with (lower / "big").open("wb") as file:
        for _ in range(BIG >> 20):
            file.write(block)
    with union([lower]) as merged:
        with impatient_client(merged / "small") as rounds, (merged / "big").open("r+b") as file:
            file.write(b"changed")
        assert max(rounds) < PATIENCE
        assert len(rounds) > 3, "the copy was over before anybody could have waited for it"
        with (merged / "big").open("rb") as file:
            assert file.read(1 << 20) == b"changed" + block[7:]
            for _ in range((BIG >> 20) - 1):
                assert file.read(1 << 20) == block

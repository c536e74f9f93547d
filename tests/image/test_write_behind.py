"""A stage that is written to: every byte in order, errors of its work, and its end."""

from __future__ import annotations

import pytest

from unionfs.image.digest import Readable
from unionfs.image.read_ahead import StoppedError
from unionfs.image.write_behind import WriteBehind

BLOCKS = [bytes([number]) * (number % 5 * 700) for number in range(100)]


def _joined(source: Readable) -> bytes:
    return b"".join(iter(lambda: source.read(1000), b""))


def test_all_bytes_in_order() -> None:
    stage = WriteBehind(_joined, "stage")
    for block in BLOCKS:
        stage.write(block)
    assert stage.end() == b"".join(BLOCKS)
    stage.stop()
    assert stage.end() == b"".join(BLOCKS)


def test_after_an_error_blocks_are_still_taken() -> None:
    def fails(source: Readable) -> None:
        source.read(1)
        raise RuntimeError("mine")

    stage = WriteBehind(fails, "stage")
    for block in BLOCKS:
        stage.write(block)
    with pytest.raises(RuntimeError, match="mine"):
        stage.end()
    assert isinstance(stage.error, RuntimeError)


def test_work_that_reads_no_more_holds_nobody_up() -> None:
    stage = WriteBehind(lambda source: source.read(1), "stage")
    for block in BLOCKS:
        stage.write(block)
    assert stage.end() == BLOCKS[1][:1]


def test_stop_ends_the_work() -> None:
    stage = WriteBehind(_joined, "stage")
    stage.write(b"some")
    stage.stop()
    assert isinstance(stage.error, StoppedError)

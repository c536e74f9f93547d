"""The image of a moment has all that was flushed before it, any part of what came after, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from testing.powercut.record_log import FLUSH, SECTOR, WRITE, ZERO, Cut, Disk, Writer

SECTORS = 64
EMPTY = b"." * SECTOR


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Flushed: `a` in sector 0. Then: `b` in sectors 1 to 20 by one write, `c` over `a`, sector 30 zeroed."""
    (tmp_path / "image").write_bytes(EMPTY * SECTORS)
    with Writer(tmp_path / "log") as log:
        for data, sector in ((b"a", 0), (b"", 0), (b"b" * 20, 1), (b"c", 0)):
            if data:
                log.add(
                    WRITE, sector * SECTOR, len(data) * SECTOR, b"".join(bytes([x]) * SECTOR for x in data)
                )
            else:
                log.add(FLUSH, 0, 0)
        log.add(ZERO, 30 * SECTOR, SECTOR)
        log.add(FLUSH, 0, 0)
    return Disk(tmp_path / "image", tmp_path / "log")


def seen(path: Path) -> str:
    data = path.read_bytes()
    assert len(data) == SECTORS * SECTOR
    sectors = [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]
    assert all(sector == sector[:1] * SECTOR for sector in sectors), "a sector is torn"
    return "".join(chr(sector[0] or ord("0")) for sector in sectors)


def test_right_after_a_flush_nothing_more_is_there(disk: Disk, tmp_path: Path) -> None:
    found = []
    for flushes in range(disk.flushes + 1):
        disk.make(Cut(flushes, disk.ends[flushes]), tmp_path / "cut")
        found.append(seen(tmp_path / "cut"))
    last = "c" + "b" * 20 + "." * 9 + "0" + "." * 33
    assert found == ["." * 64, "a" + "." * 63, last]


def test_between_two_flushes_any_part_is_there(disk: Disk, tmp_path: Path) -> None:
    found = set()
    for seed in range(200):
        disk.make(Cut(1, 4, str(seed)), tmp_path / "cut")
        image = seen(tmp_path / "cut")
        assert image[0] in "ac"
        assert set(image[1:21]) <= set("b.")
        assert image[21:] == "." * 43, "there is what was not yet written"
        found.add(image)
    assert {"a" + "." * 63, "c" + "." * 63, "a" + "b" * 20 + "." * 43} <= found
    assert any("b." in image[1:21] for image in found), "no write is torn"
    assert any(".b" in image[1:21] for image in found), "no write is torn out of its order"


def test_the_same_seed_makes_the_same_image(disk: Disk, tmp_path: Path) -> None:
    images = []
    for _ in range(2):
        disk.make(Cut(1, 5, "seed"), tmp_path / "cut")
        images.append(seen(tmp_path / "cut"))
    assert images[0] == images[1]


def test_a_disk_that_lies_loses_what_was_flushed(disk: Disk, tmp_path: Path) -> None:
    found = set()
    for seed in range(50):
        disk.make(Cut(1, 2, str(seed)), tmp_path / "cut", forgotten=1)
        found.add(seen(tmp_path / "cut")[0])
    assert found == {"a", "."}


def test_a_disk_does_not_go_back(disk: Disk, tmp_path: Path) -> None:
    disk.make(Cut(1, 2), tmp_path / "cut")
    with pytest.raises(ValueError, match="does not go back"):
        disk.make(Cut(0, 0), tmp_path / "cut")


@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_moments_are_in_their_order_and_as_many_as_asked_for(disk: Disk, number: int) -> None:
    cuts = disk.cuts(random.Random(1), number)
    assert [cut.flushes for cut in cuts] == sorted(cut.flushes for cut in cuts)
    assert len(cuts) == number
    for cut in cuts:
        assert disk.ends[cut.flushes] <= cut.end
        assert cut.seed is None or cut.end - 1 in disk.after(cut.flushes)
    if number == 40:
        assert {cut.flushes for cut in cuts if cut.seed is None} == {0, 1, 2}
        assert {cut.end for cut in cuts if cut.seed is not None} == {1, 3, 4, 5}

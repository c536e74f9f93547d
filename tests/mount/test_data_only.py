"""Data-only layers of a real mount: given in each way there is, shown by `status`, read and written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import run, statuses
from tests.overlay.trees import Obj, build, disk, file
from tests.support.mounts import needs_fuse, needs_root, scratch

pytestmark = [needs_root, needs_fuse]

BIG = "what an object holds " * 50_000


def pointer(path: str, size: int) -> Obj:
    return file(size=size, metacopy="", redirect=path)


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        build(directory / "l1", {"big": pointer("/objects/big", len(BIG)), "plain": "plain"})
        build(directory / "l2", {"d": {"small": pointer("/objects/s,m:a", 5)}})
        build(directory / "d1", {"objects": {"big": BIG}})
        build(directory / "d2", {"objects": {"s,m:a": "small", "big": "stranger"}})
        for name in ("upper", "work", "merged"):
            (directory / name).mkdir()
        yield directory


def lists(base: Path) -> dict[str, list[str]]:
    l1, l2, d1, d2 = (str(base / name) for name in ("l1", "l2", "d1", "d2"))
    upper = f"upperdir={base}/upper,workdir={base}/work"
    merged = str(base / "merged")
    return {
        "colons": [f"{l1}:{l2}::{d1}::{d2}", str(base / "upper"), str(base / "work"), merged],
        "lowerdir": ["-o", f"lowerdir={l1}:{l2}::{d1}::{d2},{upper}", merged],
        "one by one": [
            *("-o", f"lowerdir+={l1},lowerdir+={l2}"),
            *("-o", f"datadir+={d1},datadir+={d2}"),
            *("-o", upper, merged),
        ],
    }


@pytest.mark.parametrize("way", ["colons", "lowerdir", "one by one"])
def test_each_way_to_give_them(base: Path, way: str) -> None:
    before = {name: disk(base / name) for name in ("l1", "l2", "d1", "d2")}
    merged = base / "merged"
    run("mount", *lists(base)[way])
    try:
        [status] = statuses(merged)
        assert status["lowers"] == [f"{base}/l1", f"{base}/l2"]
        assert status["data_lowers"] == [f"{base}/d1", f"{base}/d2"]
        assert f"lowers    {base}/l1:{base}/l2::{base}/d1::{base}/d2\n" in run("status", merged).stdout
        assert sorted(os.listdir(merged)) == ["big", "d", "plain"]
        assert (merged / "big").stat().st_size == len(BIG)
        assert (merged / "big").read_text() == BIG
        assert (merged / "d" / "small").read_text() == "small"
        with open(merged / "big", "r+") as writer:
            writer.write("WHAT")
        (merged / "d" / "small").chmod(0o600)
        (merged / "d" / "small").rename(merged / "s")
        assert (merged / "big").read_text() == "WHAT" + BIG[4:]
    finally:
        run("umount", merged)
    assert before == {name: disk(base / name) for name in before}
    run("mount", *lists(base)[way])
    try:
        assert (merged / "big").read_text() == "WHAT" + BIG[4:]
        assert (merged / "s").read_text() == "small"
    finally:
        run("umount", merged)


def test_a_missing_object_is_an_error_and_the_rest_works(base: Path) -> None:
    (base / "d1" / "objects" / "big").unlink()
    (base / "d2" / "objects" / "big").unlink()
    merged = base / "merged"
    run("mount", "-o", "metacopy=on", *lists(base)["colons"])
    try:
        assert (merged / "big").stat().st_size == len(BIG)
        with pytest.raises(OSError):
            (merged / "big").read_bytes()
        assert (merged / "d" / "small").read_text() == "small"
        (merged / "big").unlink()
        assert sorted(os.listdir(merged)) == ["d", "plain"]
    finally:
        run("umount", merged)
    assert disk(base / "upper").keys() == {"big"}

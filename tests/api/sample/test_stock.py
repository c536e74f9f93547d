"""Each test scribbles over the one prepared shop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import stock

import unionfs
from unionfs.pytest_plugin import UnionFactory

HERE = Path(__file__).parent
PREPARED = {"apple": 3, "pear": 5}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_sell(union: Path, number: int) -> None:
    for _ in range(number):
        stock.sell(union, "apple")
    assert stock.read(union) == {"apple": 3 - number, "pear": 5}


def test_burn_down(union: Path) -> None:
    shutil.rmtree(union / "data")
    assert [path.name for path in union.iterdir()] == ["config"]


def test_nothing_was_burnt(union: Path) -> None:
    assert stock.read(union) == stock.read(HERE / "shop") == PREPARED


@pytest.mark.union("holiday", "shop")
def test_on_holiday(union: Path) -> None:
    assert "open = no" in (union / "config/settings.ini").read_text()
    assert stock.read(union) == PREPARED


@pytest.mark.union(noexec=True, fsname="shop")
def test_with_options(union: Path) -> None:
    (mounted,) = [each for each in unionfs.mounts() if each.path == union]
    assert {"noexec", "fsname=shop"} <= set(mounted.options)
    assert mounted.lowers == (HERE / "shop",)


def test_two_shops(union_factory: UnionFactory) -> None:
    first, second = union_factory(), union_factory(HERE / "holiday", HERE / "shop", index=True)
    stock.sell(first, "pear")
    stock.sell(second, "apple")
    assert stock.read(first) == {"apple": 3, "pear": 4}
    assert stock.read(second) == {"apple": 2, "pear": 5}
    third = union_factory(first, ro=True)
    assert stock.read(third) == stock.read(first)


def test_refusals(union_factory: UnionFactory) -> None:
    with pytest.raises(unionfs.MountError, match="gone does not exist"):
        union_factory(HERE / "gone")


def test_the_programs_own_use() -> None:
    assert stock.try_out(HERE / "shop", "pear") == {"apple": 3, "pear": 4}
    assert stock.read(HERE / "shop") == PREPARED

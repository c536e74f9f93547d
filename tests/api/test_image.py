"""An image of a store as the layers of `unionfs.mount` and of pytest's fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import unionfs
from tests.api.rig import contents, mounted_at
from tests.mount.rig import run
from tests.support.mounts import needs_fuse, needs_root, scratch
from tests.support.transports import one_transport
from unionfs.image.lowers import is_mounted
from unionfs.image.store import Store
from unionfs.pytest_plugin import UnionFactory

pytestmark = [needs_root, needs_fuse, one_transport]

NAME = "box:1"
SHOWN = {"etc": None, "etc/hosts": b"local\n", "etc/motd": b"image\n"}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with an image that was imported from a directory."""
    with scratch(tmp_path) as where:
        monkeypatch.setenv("PYUNIONFS_STORE", str(where / "store"))
        (where / "root/etc").mkdir(parents=True)
        (where / "root/etc/motd").write_bytes(b"image\n")
        (where / "root/etc/hosts").write_bytes(b"local\n")
        run("import", where / "root", NAME)
        store = Store(where / "store")
        (tree,) = store.trees.iterdir()
        before = contents(tree / "diff")
        yield store
        assert contents(tree / "diff") == before
        assert not is_mounted(tree / "diff")


@pytest.fixture
def patches(store: Store) -> Path:
    """A directory to be above the image."""
    made = store.root.parent / "patches"
    (made / "etc").mkdir(parents=True)
    (made / "etc/motd").write_bytes(b"patched\n")
    return made


def seen(merged: Path) -> dict[str, bytes | None]:
    paths = sorted(merged.rglob("*"))
    return {str(each.relative_to(merged)): None if each.is_dir() else each.read_bytes() for each in paths}


def change(merged: Path) -> None:
    (merged / "etc/motd").write_bytes(b"changed\n")
    (merged / "etc/hosts").unlink()
    (merged / "new").mkdir()
    assert seen(merged) == {"etc": None, "etc/motd": b"changed\n", "new": None}


def test_it_is_writable_in_a_temporary_upper(place: Path) -> None:
    with unionfs.mount(image=NAME) as merged:
        assert seen(merged) == SHOWN
        change(merged)
        assert "image=box:1" in mounted_at(merged).options
    with unionfs.mount(image=NAME) as merged:
        assert seen(merged) == SHOWN


def test_directories_are_above_it_and_an_upper_stays(patches: Path, place: Path, store: Store) -> None:
    upper = store.root.parent / "upper"
    upper.mkdir()
    with unionfs.mount([patches], image=NAME, upper=upper) as merged:
        assert seen(merged) == {**SHOWN, "etc/motd": b"patched\n"}
        change(merged)
    assert (patches / "etc/motd").read_bytes() == b"patched\n"
    assert (upper / "etc/motd").read_bytes() == b"changed\n"


@pytest.mark.parametrize("above", [False, True])
def test_read_only_there_is_no_upper(patches: Path, place: Path, above: bool) -> None:
    with unionfs.mount([patches] if above else (), image=NAME, ro=True) as merged:
        assert seen(merged) == {**SHOWN, "etc/motd": b"patched\n" if above else b"image\n"}
        assert os.listdir(merged.parent) == ["merged"]
        assert mounted_at(merged).upper is None
        with pytest.raises(OSError, match="Read-only"):
            (merged / "new").touch()


def test_of_another_store_and_kept_while_it_is_mounted(
    place: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYUNIONFS_STORE")
    with unionfs.mount(image=NAME, store=store.root) as merged:
        run("rmi", "--store", store.root, NAME)
        run("prune", "--store", store.root, "-af")
        assert seen(merged) == SHOWN
        run("import", "--store", store.root, merged, NAME)  # the tree is there again for the fixture's look


def test_one_that_is_not_there(place: Path) -> None:
    with pytest.raises(unionfs.MountError, match="there is no image nosuch:1"):
        unionfs.mount(image="nosuch:1")
    with pytest.raises(unionfs.OptionError, match="store requires image"):
        unionfs.mount(["/etc"], store="/nowhere")


# ---- pytest's fixtures, as they are in this very run


@pytest.fixture(scope="session")
def union_lowers() -> list[str]:
    """Of a suite that has prepared trees, too: they are not below an image."""
    return ["/usr/include"]


@pytest.mark.union(image=NAME)
@pytest.mark.parametrize("time", ["first", "second"])
def test_the_fixture_is_fresh_each_time(place: Path, union: Path, time: str) -> None:
    assert seen(union) == SHOWN, time
    change(union)


@pytest.mark.union("sample/shop", image=NAME, ro=True)
def test_the_fixture_with_a_directory_above_it(place: Path, union: Path) -> None:
    """Relative to the file of the test, as a marker's are."""
    assert seen(union).items() > SHOWN.items()
    assert (union / "data/stock.csv").is_file()
    with pytest.raises(OSError, match="Read-only"):
        (union / "new").touch()


def test_the_factory(patches: Path, place: Path, union_factory: UnionFactory, store: Store) -> None:
    keywords: dict[str, Any] = {"image": NAME}
    writable, above = union_factory(**keywords), union_factory(patches, **keywords, store=store.root)
    read_only = union_factory(**keywords, ro=True)
    change(writable)
    assert seen(above) == {**SHOWN, "etc/motd": b"patched\n"}
    assert seen(read_only) == SHOWN
    with pytest.raises(unionfs.MountError, match="there is no image nosuch"):
        union_factory(image="nosuch")

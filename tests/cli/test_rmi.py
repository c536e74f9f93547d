"""`rmi`: its lines are Docker's, one that fails keeps no other back, and a container keeps its layers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing.images import digest, file, image
from testing.images.archives import archive
from tests.support.stores import layers_in
from unionfs.cli import main
from unionfs.image import index
from unionfs.image.digest import Digest
from unionfs.image.model import chain_ids
from unionfs.image.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners")

ONE = image([[file("base")], [file("one")]], {"Cmd": ["true"]})
TWO = image([[file("base")], [file("two")]], {"Cmd": ["true"]})
CHAINS = chain_ids([Digest(digest(layer)) for layer in ONE.layers])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    path = tmp_path / "archive.tar"
    path.write_bytes(archive({"one:1": ONE, "two:1": TWO}, "oci"))
    assert main(["load", "-q", str(path)]) == 0
    return Store()


def test_its_lines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    base = layers_in(store, "two:1")[0].path
    assert main(["rmi", "nothing", "one:1", "one:1"]) == 1
    seen = capsys.readouterr()
    assert seen.out.splitlines() == ["Untagged: one:1", f"Deleted: {ONE.id}", f"Deleted: {CHAINS[1]}"]
    assert [line.partition(": ")[2].partition(":")[0] for line in seen.err.splitlines()] == [
        "there is no image nothing",
        "there is no image one",
    ]
    assert base.is_dir()
    assert main(["rmi", "two:1"]) == 0
    assert [*store.layers.iterdir()] == [*store.trees.iterdir()] == []
    assert index.images(store) == []


def test_a_container_keeps_its_layers(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create", "--name", "user", "one:1"]) == 0
    capsys.readouterr()
    assert main(["rmi", "one:1"]) == 1
    assert "container user has this image" in capsys.readouterr().err
    assert main(["rmi", "-f", "one:1", "two:1"]) == 0
    assert f"Deleted: {ONE.id}" in capsys.readouterr().out.splitlines()
    assert sorted(path.name for path in store.layers.iterdir()) == sorted(chain.hex for chain in CHAINS)
    assert main(["rm", "user"]) == 0
    assert main(["images", "-q"]) == 0

"""Committed images as umoci and podman unpack them: the tree that the union showed, in every attribute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing.images import debian_like, directory, file, hard_link, image
from testing.images.programs import engine, missing
from testing.images.trees import Node, tree
from tests.image.rig import Source
from tests.image.rig import ensure as ensure_layers
from tests.mount.test_commit import change
from tests.support.interop import assert_same, tree_by_podman, tree_by_umoci
from tests.support.mounts import needs_overlayfs, overlayfs
from tests.support.stores import put
from unionfs.cli import main
from unionfs.image import find
from unionfs.image.layers import layers_of
from unionfs.image.lowers import tree_paths
from unionfs.image.store import Store

PROGRAMS = ("umoci", "podman")

pytestmark = [
    needs_overlayfs,
    pytest.mark.skipif(missing(*PROGRAMS) is not None, reason=str(missing(*PROGRAMS))),
]

NAME = "docker.io/library/changed:1"
BASE = image(
    [
        *debian_like(100, 200_000),
        [
            file("etc/a", b"low"),
            hard_link("etc/linked", "etc/a"),
            file("etc/b", b"low"),
            directory("old"),
            file("old/x", b"x"),
            directory("old/sub"),
            file("old/sub/y", b"y"),
            file("kept", b"kept"),
        ],
    ]
)
ACL = bytes.fromhex(
    "02000000010006 00ffffffff0200040005000000040004 00ffffffff10000400ffffffff20000400ffffffff"
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    made = Store()
    put(made, BASE, "base:1")
    ensure_layers(made, BASE, Source(BASE))
    return made


@pytest.fixture
def union(store: Store, tmp_path: Path) -> dict[bytes, Node]:
    """What kernel overlayfs has shown of what is NAME now."""
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    config = find.config_of(store, find.manifest_of(store, find.resolve(store, "base:1").manifest))
    lowers = tree_paths(layers_of(store, config))
    merged = tmp_path / "merged"
    options = ["redirect_dir=on", "metacopy=on", "index=on"]
    with overlayfs(lowers, tmp_path / "upper", tmp_path / "work", merged, options=options):
        change(merged)
        (merged / "usr/share/doc").rename(merged / "usr/doc")
        (merged / os.fsdecode(b"no-utf8-\xff")).write_bytes(b"")
        os.setxattr(
            merged / "second", "security.capability", bytes.fromhex("01000002" + "00200000" + "00" * 12)
        )
        os.setxattr(merged / "sparse", "system.posix_acl_access", ACL)
        assert main(["commit", str(merged), NAME]) == 0
        return tree(merged, skip=("trusted.overlay.",))


def test_umoci(store: Store, union: dict[bytes, Node], tmp_path: Path) -> None:
    assert_same(union, tree_by_umoci(f"{store.root}:{NAME}", tmp_path / "bundle"))


def test_podman_which_can_save_it_again(store: Store, union: dict[bytes, Node], tmp_path: Path) -> None:
    """With a sparse entry for the file with holes it could not."""
    with engine("podman") as podman:
        podman.run("pull", "-q", f"oci:{store.root}:{NAME}")
        identifier = podman.run("images", "-q", "--no-trunc").strip()
        assert identifier == find.manifest_of(store, find.resolve(store, NAME).manifest).config.digest
        assert_same(union, tree_by_podman(podman, identifier))
        podman.run("save", "--format", "oci-archive", "-o", tmp_path / "saved.tar", identifier)

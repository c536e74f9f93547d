"""Images as other programs show them, and as the union of their layers does: trees, and digests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from testing.images.programs import Engine, missing, run
from testing.images.trees import Node, differences, tree
from tests.support import mounts
from tests.support.stores import layers_in
from unionfs.image.lowers import tree_paths
from unionfs.image.store import Store


def needs_programs(*programs: str) -> list[pytest.MarkDecorator]:
    """Marks of tests that are run as root with these programs."""
    return [
        pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
        pytest.mark.skipif(missing(*programs) is not None, reason=str(missing(*programs))),
    ]


def our_tree(store: Store, place: Path, name: str) -> dict[bytes, Node]:
    """The layers of an image as kernel overlayfs shows them, mounted in *place*."""
    target = place / "merged"
    target.mkdir(exist_ok=True)
    with mounts.overlayfs(tree_paths(layers_in(store, name)), None, None, target):
        return tree(target)


def tree_by_umoci(image: str, bundle: Path) -> dict[bytes, Node]:
    """What umoci unpacks of *image*, a LAYOUT:NAME, into *bundle*, which does not exist yet."""
    run("umoci", "unpack", "--image", image, bundle)
    return tree(bundle / "rootfs")


def tree_by_podman(podman: Engine, image: str) -> dict[bytes, Node]:
    """What podman mounts of an image that it has."""
    mounted = Path(podman.run("image", "mount", image).strip())
    try:
        return tree(mounted)
    finally:
        podman.run("image", "unmount", image)


def tree_by_buildah(buildah: Engine, container: str) -> dict[bytes, Node]:
    """What buildah mounts of a working container."""
    mounted = Path(buildah.run("mount", container).strip())
    try:
        return tree(mounted)
    finally:
        buildah.run("umount", container)


def assert_same(ours: Mapping[bytes, Node], theirs: Mapping[bytes, Node]) -> None:
    """The same in every attribute, but for the mode and the times of the root."""
    assert len(ours) > 10
    found = differences(ours, theirs)
    # No layer has an entry for the root: podman gives it mode 555, all others 755, and each its own time.
    assert [line for line in found if not line.startswith(("b'.': mtime_ns", "b'.': mode"))] == []


def first_manifest(layout: Path) -> str:
    """The digest of the first manifest in a layout directory's index."""
    entries = msgspec.json.decode((layout / "index.json").read_bytes())["manifests"]
    return str(entries[0]["digest"])

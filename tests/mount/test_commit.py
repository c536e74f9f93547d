"""`commit` of what is mounted: by pyunionfs and by kernel overlayfs, over images and directories."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from testing.images.trees import Node, differences, tree
from tests.mount.rig import eventually, run
from tests.support.images import Tree, plant
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root, overlayfs
from tests.support.transports import one_transport
from unionfs.image import find
from unionfs.image.layers import Layer, layers_of
from unionfs.image.lowers import tree_paths
from unionfs.image.store import Store

pytestmark = [needs_root, needs_fuse, one_transport]

MARKS = ("trusted.overlay.", "user.overlay.")
LAYERS: list[Tree] = [
    {"etc/a": b"low", "etc/b": b"low", "old/x": b"x", "old/sub/y": b"y", "kept": b"kept", "gone/z": b""},
    {"etc/b": b"high", "gone-": None},
]


@pytest.fixture
def store(base: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(base / "store"))
    made = Store()
    plant(made, "debian:12", LAYERS)
    lowest = layers(made, "debian:12")[0].path
    os.link(lowest / "etc/a", lowest / "etc/linked")
    return made


def layers(store: Store, name: str) -> list[Layer]:
    return layers_of(
        store, find.config_of(store, find.manifest_of(store, find.resolve(store, name).manifest))
    )


def change(merged: Path, *, renames: bool = True) -> None:
    """Every kind of change; *renames*: of directories that lowers have."""
    (merged / "etc/b").write_text("changed")
    (merged / "kept").unlink()
    (merged / "kept").mkdir()
    (merged / "kept/in").write_text("in")
    if renames:
        (merged / "old").rename(merged / "new")
        (merged / "etc").rename(merged / "etc2")
        (merged / "etc2").rename(merged / "etc")
    else:
        (merged / "new").mkdir()
    (merged / "new/own").write_bytes(b"own")
    (merged / "etc/a").chmod(0o600)
    os.setxattr(merged / "etc/a", "user.x", b"y")
    os.link(merged / "new/own", merged / "second")
    os.mkfifo(merged / "pipe")
    with open(merged / "sparse", "wb") as sparse:
        sparse.truncate(3_000_000)
        os.pwrite(sparse.fileno(), b"end", 2_999_997)
    os.symlink("nowhere", merged / "link")
    os.chown(merged / "link", 5, 6, follow_symlinks=False)


def shown(store: Store, base: Path, name: str) -> dict[bytes, Node]:
    """What kernel overlayfs shows of an image."""
    (base / "empty").mkdir()  # it wants two lowers at least
    lowers = [*tree_paths(layers(store, name)), base / "empty"]
    with overlayfs(lowers, None, None, base / "seen", options=["redirect_dir=off"]):
        return tree(base / "seen", skip=MARKS)


def same(ours: Mapping[bytes, Node], theirs: Mapping[bytes, Node]) -> list[str]:
    """Of the root its times do not count: nothing tells of them."""
    return differences(
        {path: node._replace(mtime_ns=0) if path == b"." else node for path, node in ours.items()},
        {path: node._replace(mtime_ns=0) if path == b"." else node for path, node in theirs.items()},
    )


@pytest.fixture(autouse=True)
def seen(base: Path) -> None:
    (base / "seen").mkdir()


OPTIONS = {
    "plain": ["redirect_dir=off"],
    "redirect": [],
    "metacopy": ["metacopy=on"],
    "index": ["index=on"],
    "all": ["index=on", "metacopy=on"],
}


@needs_overlayfs
@pytest.mark.parametrize("options", OPTIONS)
def test_a_mount_of_an_image(base: Path, store: Store, options: str) -> None:
    words = ("-o", ",".join(["image=debian:12", *OPTIONS[options]]), base / "upper", base / "work")
    run("mount", *words, base / "merged")
    try:
        change(base / "merged", renames=options != "plain")
        made = run("commit", base / "merged", "new:1").stdout.strip()
    finally:
        run("umount", base / "merged")
    assert find.manifest_of(store, find.resolve(store, "new:1").manifest).config.digest == made
    assert len(layers(store, "new:1")) == 3
    # Without an index the names of a lower file part at the next mount, as docs/semantics.md says.
    run("mount", *words, base / "merged")
    try:
        union = tree(base / "merged", skip=MARKS)
    finally:
        run("umount", base / "merged")
    assert same(shown(store, base, "new:1"), union) == []
    # The upper alone gives the same layer, but for names that are found by an index.
    if "index=on" not in OPTIONS[options]:
        run("commit", "--base", "debian:12", base / "upper", "again:1")
        assert layers(store, "again:1")[-1].diff_id == layers(store, "new:1")[-1].diff_id


@needs_overlayfs
@pytest.mark.parametrize("options", OPTIONS)
def test_a_mount_of_kernel_overlayfs(base: Path, store: Store, options: str) -> None:
    words = OPTIONS[options] if options == "plain" else ["redirect_dir=on", *OPTIONS[options]]
    lowers = tree_paths(layers(store, "debian:12"))
    with overlayfs(lowers, base / "upper", base / "work", base / "merged", options=words):
        change(base / "merged", renames=options != "plain")
        union = tree(base / "merged", skip=MARKS)
        run("commit", base / "merged", "new:1")
    assert same(shown(store, base, "new:1"), union) == []


def test_directories_over_an_image_become_layers(base: Path, store: Store) -> None:
    (base / "lower/etc").mkdir()
    (base / "lower/etc/b").write_text("patched")
    words = ("-o", "image=debian:12", base / "lower", base / "upper", base / "work", base / "merged")
    run("mount", *words)
    try:
        (base / "merged/etc/b").unlink()
        run("commit", base / "merged", "new:1")
    finally:
        run("umount", base / "merged")
    found = layers(store, "new:1")
    assert [layer.diff_id for layer in found[:2]] == [layer.diff_id for layer in layers(store, "debian:12")]
    assert (found[2].path / "etc/b").read_text() == "patched"
    assert not (found[3].path / "etc/b").is_file()


def test_which_image_it_is(base: Path, store: Store) -> None:
    """Of images with the same layers the one that was mounted; else one has to be named."""
    plant(store, "twin:1", LAYERS, Cmd=["twin"])
    run("mount", "-o", "image=twin:1", base / "upper", base / "work", base / "merged")
    try:
        run("commit", base / "merged", "a:1")
        config = find.config_of(store, find.manifest_of(store, find.resolve(store, "a:1").manifest))
        assert config.config is not None
        assert config.config.cmd == ["twin"]
        run("commit", "--base", "debian:12", base / "merged", "b:1")
        assert "the layers of single:1 are not the lowest" in _refused(store, base, "--base", "single:1")
    finally:
        run("umount", base / "merged")
    lowers = tree_paths(layers(store, "debian:12"))
    with overlayfs(lowers, base / "upper", base / "work", base / "merged"):
        assert "several images have just these layers" in _refused(store, base)


def _refused(store: Store, base: Path, *words: str) -> str:
    if "single:1" in words:
        plant(store, "single:1", [{"f": b""}])
    return run("commit", *words, base / "merged", "c:1", status=1).stderr


def test_a_mount_of_directories_is_an_image_of_one_layer(base: Path, store: Store) -> None:
    run("mount", base / "lower", base / "upper", base / "work", base / "merged")
    try:
        (base / "merged/file").write_text("mine")
        run("commit", base / "merged", "new:1")
    finally:
        run("umount", base / "merged")
    (layer,) = layers(store, "new:1")
    assert [path.name for path in layer.path.iterdir()] == ["file"]


def test_what_was_written_gets_into_upper_though_the_file_is_open(base: Path, store: Store) -> None:
    """The kernel would keep it for 30 seconds (vm.dirty_expire_centisecs)."""
    run("mount", "-o", "image=debian:12,passthrough=off", base / "upper", base / "work", base / "merged")
    # Python, because a shell closes duplicates of the descriptor, and each close(2) writes the data out.
    script = "import sys; log = open(sys.argv[1], 'wb', 0); log.write(b'line\\n'); print(flush=True); input()"
    words = [sys.executable, "-c", script, str(base / "merged/log")]
    writer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"\n"

        def is_in_it() -> bool:
            run("commit", base / "merged", "new:1")
            return (layers(store, "new:1")[-1].path / "log").read_bytes() == b"line\n"

        assert eventually(is_in_it)
    finally:
        writer.communicate(b"\n")
        run("umount", base / "merged")


def test_a_union_is_exported_as_it_is_merged(base: Path, store: Store) -> None:
    run("mount", "-o", "image=debian:12,index=on", base / "upper", base / "work", base / "merged")
    try:
        change(base / "merged")
        before = tree(base / "merged")
        run("export", base / "merged", "-o", base / "out.tar")
    finally:
        run("umount", base / "merged")
    run("import", base / "out.tar", "flat:1")
    (layer,) = layers(store, "flat:1")
    assert differences(before, tree(layer.path)) == []

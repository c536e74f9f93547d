"""The init layer: Docker's names, attributes of directories as the image has them, and the host's network."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.images import Tree, plant
from tests.support.mounts import needs_root
from unionfs.container import init_layer, record
from unionfs.container.process import Wishes
from unionfs.container.record import Container
from unionfs.image.store import Store

pytestmark = needs_root


def container(place: Path, *layers: Tree) -> Container:
    store = Store(place / "store")
    plant(store, "image", layers)
    for tree in store.trees.iterdir():
        for path in (tree / "diff").rglob("etc"):
            if path.is_dir() and not path.is_symlink():
                os.chown(path, 12, 34)
                path.chmod(0o2751)
                os.setxattr(path, "user.mark", b"image's")
                os.utime(path, ns=(1, 2))
        os.chmod(tree / "diff", 0o711)
    return record.create(store, "image", Wishes(command=["sh"], hostname="host"))


def names(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


EVERYTHING = {
    ".dockerenv",
    "dev",
    "dev/console",
    "dev/pts",
    "dev/shm",
    "etc",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
    "proc",
    "sys",
}


def test_its_names(tmp_path: Path) -> None:
    made = container(tmp_path, {"etc/passwd": b""})
    assert names(made.init) == EVERYTHING
    assert os.readlink(made.init / "etc/mtab") == "/proc/mounts"
    for name in EVERYTHING - {"etc"}:
        st = (made.init / name).lstat()
        assert (st.st_uid, st.st_gid) == (0, 0)
        if not stat.S_ISLNK(st.st_mode):
            assert stat.S_IMODE(st.st_mode) == (0o755 if stat.S_ISDIR(st.st_mode) else 0o644)


def test_an_image_without_layers(tmp_path: Path) -> None:
    assert names(container(tmp_path).init) == EVERYTHING


def test_what_the_image_has_is_left_to_it(tmp_path: Path) -> None:
    """A whiteout takes it away again; what stands where a directory should be stays."""
    base: Tree = {
        "proc/x": b"",
        "dev/pts": None,
        "sys": None,
        ".dockerenv": b"",
        "etc/mtab": b"",
        "etc/hosts": b"x",
    }
    made = container(tmp_path, base, {"sys-": None, "dev-": None, "etc/mtab-": None})
    assert names(made.init) == EVERYTHING - {"proc", ".dockerenv"}
    other = container(tmp_path, {"etc": b"a file", "dev": b"a file"})
    assert names(other.init) == {".dockerenv", "proc", "sys"}
    init_layer.refresh(other.init, "host")


def test_directories_have_the_attributes_that_they_have_in_the_image(tmp_path: Path) -> None:
    made = container(tmp_path, {"etc/passwd": b""}, {"bin/sh": b""})
    st = (made.init / "etc").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode), st.st_mtime_ns) == (12, 34, 0o2751, 2)
    assert os.getxattr(made.init / "etc", "user.mark") == b"image's"
    for path in (made.init, made.upper):
        assert stat.S_IMODE(path.stat().st_mode) == 0o711


def test_host_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = container(tmp_path, {"etc/hosts": b"image's"})
    hosts = (made.init / "etc/hosts").read_text()
    assert hosts.endswith("127.0.1.1\thost\n")
    assert "localhost" in hosts
    assert (made.init / "etc/hostname").read_text() == "host\n"
    assert (made.init / "etc/resolv.conf").read_bytes() == init_layer._host_file("/etc/resolv.conf")
    monkeypatch.setattr(init_layer, "_host_file", lambda path: f"# {path}".encode())
    init_layer.refresh(made.init, "host")
    assert (made.init / "etc/hosts").read_text() == "# /etc/hosts\n127.0.1.1\thost\n"
    assert (made.init / "etc/resolv.conf").read_text() == "# /etc/resolv.conf"

"""Layers become directories that overlayfs shows as Docker would; hostile ones touch nothing."""

from __future__ import annotations

import io
import os
import resource
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from testing.mounts import overlayfs, scratch
from tests.image.tar_made import END, entry, pax
from tests.support.mounts import needs_overlayfs, needs_root
from unionfs.errors import ImageError
from unionfs.image.layer_form import LayerForm
from unionfs.image.unpack import Unpacked, unpack

ROOT = LayerForm(userxattr=False, overrides=False)
SINGLE = LayerForm(userxattr=True, overrides=True)

pytestmark = needs_root


def layer(stream: bytes, target: Path, parents: Sequence[Path] = (), form: LayerForm = ROOT) -> Unpacked:
    target.mkdir()
    return unpack(io.BytesIO(stream + END), target, lambda: parents, form, "layer x")


def shown(path: Path) -> object:
    """What is there: bytes of a file, the target of a symlink, a device's number, names of a directory."""
    st = path.lstat()
    if stat.S_ISREG(st.st_mode):
        return path.read_bytes()
    if stat.S_ISLNK(st.st_mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISDIR(st.st_mode):
        opaque = "trusted.overlay.opaque" in os.listxattr(path)
        return ("opaque " if opaque else "") + "dir"
    return "whiteout" if st.st_rdev == 0 and stat.S_ISCHR(st.st_mode) else stat.filemode(st.st_mode)[0]


def tree(top: Path) -> dict[str, object]:
    return {str(path.relative_to(top)): shown(path) for path in sorted(top.rglob("*"))}


def directory(name: bytes, mode: int = 0o755) -> bytes:
    return entry(name, b"5", mode=mode)


def link(name: bytes, target: bytes) -> bytes:
    return entry(name, b"1", linkname=target)


def symlink(name: bytes, target: bytes) -> bytes:
    return entry(name, b"2", linkname=target)


BASE = (
    directory(b"d", 0o711)
    + entry(b"d/f", data=b"below", mode=0o640, uid=5)
    + entry(b"f", data=b"file")
    + symlink(b"s", b"d")
    + directory(b"e")
    + entry(b"e/x", data=b"x")
)

ODD: dict[str, tuple[bytes, dict[str, object], bool]] = {
    # The layer above BASE, what its directory holds, whether it depends on BASE.
    "no entry": (b"", {}, False),
    "the root alone": (entry(b"./", b"5", mode=0o750), {}, False),
    "names with dots and slashes": (
        directory(b"./a//") + entry(b".//a/./b", data=b"1"),
        {"a": "dir", "a/b": b"1"},
        False,
    ),
    "a whiteout": (directory(b"d") + entry(b"d/.wh.f"), {"d": "dir", "d/f": "whiteout"}, False),
    "a whiteout of what is not there": (entry(b".wh.none"), {"none": "whiteout"}, False),
    "a whiteout that is a directory": (directory(b".wh.f"), {"f": "whiteout"}, False),
    "a hard link to a whiteout": (
        entry(b".wh.f") + link(b".wh.s", b".wh.f"),
        {"f": "whiteout", "s": "whiteout"},
        False,
    ),
    "opaque first": (
        directory(b"d") + entry(b"d/.wh..wh..opq") + entry(b"d/n"),
        {"d": "opaque dir", "d/n": b""},
        False,
    ),
    "opaque last": (
        directory(b"d") + entry(b"d/n") + entry(b"d/.wh..wh..opq"),
        {"d": "opaque dir", "d/n": b""},
        False,
    ),
    "opaque before its directory": (
        entry(b"d/.wh..wh..opq") + directory(b"d") + entry(b"d/n"),
        {"d": "opaque dir", "d/n": b""},
        True,
    ),
    "a whiteout and a directory": (entry(b".wh.d") + directory(b"d"), {"d": "opaque dir"}, False),
    "a directory and its whiteout": (directory(b"d") + entry(b".wh.d"), {"d": "opaque dir"}, False),
    "a whiteout and a file": (entry(b".wh.d") + entry(b"d", data=b"1"), {"d": b"1"}, False),
    "a file and its whiteout": (entry(b"d", data=b"1") + entry(b".wh.d"), {"d": b"1"}, False),
    "a whiteout and what is below it": (
        entry(b".wh.d") + entry(b"d/n"),
        {"d": "opaque dir", "d/n": b""},
        False,
    ),
    "a directory over a file": (directory(b"f"), {"f": "dir"}, False),
    "a file over a directory": (entry(b"d", data=b"1"), {"d": b"1"}, False),
    "a file that becomes a directory": (
        entry(b"a") + directory(b"a") + entry(b"a/b"),
        {"a": "opaque dir", "a/b": b""},
        False,
    ),
    "a directory that becomes a file": (
        directory(b"a") + directory(b"a/b", 0) + entry(b"a/b/c") + entry(b"a", data=b"1"),
        {"a": b"1"},
        False,
    ),
    "the last of two counts": (entry(b"a", data=b"1") + entry(b"a", data=b"22"), {"a": b"22"}, False),
    "a replaced file leaves its links": (
        entry(b"a", data=b"1") + link(b"b", b"a") + entry(b"a", data=b"2"),
        {"a": b"2", "b": b"1"},
        False,
    ),
    "a link to itself": (entry(b"a", data=b"1") + link(b"a", b"./a"), {"a": b"1"}, False),
    "a symlink that is replaced": (
        symlink(b"a", b"/etc") + directory(b"a") + entry(b"a/b"),
        {"a": "opaque dir", "a/b": b""},
        False,
    ),
    "a link to a symlink": (
        symlink(b"a", b"/etc") + link(b"b", b"a"),
        {"a": "-> /etc", "b": "-> /etc"},
        False,
    ),
    "a missing directory, which is below": (entry(b"d/n"), {"d": "dir", "d/n": b""}, True),
    "missing directories, which are nowhere": (
        entry(b"a/b/c"),
        {"a": "dir", "a/b": "dir", "a/b/c": b""},
        True,
    ),
    "a link to what is below": (link(b"n", b"d/f"), {"d": "dir", "d/f": b"below", "n": b"below"}, True),
    "a link to a symlink below": (link(b"n", b"s"), {"n": "-> d", "s": "-> d"}, True),
    "aufs's own": (
        entry(b".wh..wh.aufs") + directory(b".wh..wh.plnk") + entry(b".wh..wh.plnk/1.2"),
        {},
        False,
    ),
    "an opaque root": (
        entry(b".wh..wh..opq") + directory(b"d") + entry(b"d/n") + entry(b"new/x"),
        {
            "d": "opaque dir",
            "d/n": b"",
            "e": "whiteout",
            "f": "whiteout",
            "new": "dir",
            "new/x": b"",
            "s": "whiteout",
        },
        True,
    ),
    "a root that is opaque last": (
        entry(b"f", data=b"1") + entry(b"./.wh..wh..opq"),
        {"d": "whiteout", "e": "whiteout", "f": b"1", "s": "whiteout"},
        True,
    ),
    "a FIFO": (entry(b"p", b"6"), {"p": "p"}, False),
    "devices": (
        entry(b"n", b"3", device=(1, 3)) + entry(b"l", b"4", device=(7, 0)),
        {"l": "b", "n": "c"},
        False,
    ),
    "a name of 255 bytes": (
        entry(b"n" * 90) + pax({b"path": b"m" * 255}) + entry(b""),
        {"n" * 90: b"", "m" * 255: b""},
        False,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_layers(tmp_path: Path, name: str) -> None:
    stream, wanted, depends = ODD[name]
    layer(BASE, tmp_path / "base")
    result = layer(stream, tmp_path / "top", [tmp_path / "base"])
    assert tree(tmp_path / "top") == dict(sorted(wanted.items(), key=lambda item: Path(item[0])))
    assert result.depends is depends
    assert tree(tmp_path / "base") == {
        "d": "dir",
        "d/f": b"below",
        "e": "dir",
        "e/x": b"x",
        "f": b"file",
        "s": "-> d",
    }


HOSTILE: dict[str, tuple[bytes, str]] = {
    "an absolute name": (entry(b"/etc/x"), "absolute"),
    "a name that leads out": (entry(b"a/../../x"), r"leads out"),
    "only dots": (directory(b".."), "leads out"),
    "no name": (entry(b""), "no name"),
    "through a symlink of its own": (symlink(b"l", b"/tmp") + entry(b"l/x"), "no directory"),
    "through a symlink below": (entry(b"s/x"), "no directory"),
    "through a relative symlink": (
        directory(b"a") + symlink(b"a/l", b"..") + entry(b"a/l/x"),
        "no directory",
    ),
    "a directory through a symlink": (symlink(b"l", b"/tmp") + directory(b"l/x"), "no directory"),
    "a whiteout through a symlink": (symlink(b"l", b"/tmp") + entry(b"l/.wh.x"), "no directory"),
    "an opaque mark through a symlink": (symlink(b"l", b"/tmp") + entry(b"l/.wh..wh..opq"), "no directory"),
    "below a file": (entry(b"a") + entry(b"a/b"), "no directory"),
    "below a file of the base": (entry(b"f/b"), "no directory"),
    "below a device": (entry(b"n", b"3", device=(1, 3)) + entry(b"n/b"), "no directory"),
    "a link to outside": (link(b"a", b"/etc/passwd"), "absolute"),
    "a link that leads out": (link(b"a", b"../x"), "leads out"),
    "a link through a symlink": (
        symlink(b"l", b"/etc") + link(b"a", b"l/passwd"),
        "symlink|no directory|not there",
    ),
    "a link through a symlink below": (link(b"a", b"s/f"), "not there"),
    "a link to nothing": (link(b"a", b"none"), "not there"),
    "a link to what is deleted": (entry(b".wh.f") + link(b"a", b"f"), "no file"),
    "a link to what is hidden": (
        directory(b"d") + entry(b"d/.wh..wh..opq") + link(b"a", b"d/f"),
        "not there",
    ),
    "a link to what an opaque root hides": (entry(b".wh..wh..opq") + link(b"a", b"f"), "not there"),
    "a link to a directory": (directory(b"a") + link(b"b", b"a"), "no file"),
    "a link to a directory below": (link(b"b", b"d"), "directory"),
    "a link to the root": (link(b"b", b"."), "root"),
    "a link to what is in it": (directory(b"a") + entry(b"a/b") + link(b"a", b"a/b"), "below itself"),
    "a link to a whiteout by a name": (entry(b".wh.f") + link(b"a", b".wh.f"), "whiteout"),
    "a whiteout of nothing": (entry(b".wh."), "whiteout"),
    "a whiteout of the directory": (entry(b".wh.."), "whiteout"),
    "a whiteout of the one above": (entry(b".wh..."), "whiteout"),
    "below a whiteout": (entry(b".wh.d/x"), "below a whiteout"),
    "the root as a file": (entry(b"./"), "must be a directory"),
    "the root as a symlink": (symlink(b".", b"/"), "must be a directory"),
    "a device 0/0": (entry(b"a", b"3", device=(0, 0)), "0/0"),
    "a device that is none": (entry(b"a", b"3", device=(1 << 13, 0)), "no device"),
    "a component that is too long": (pax({b"path": b"m" * 256}) + entry(b""), "too long"),
    "a symlink to nothing": (symlink(b"a", b""), "symlink"),
    "an ACL that is none": (
        pax({b"SCHILY.xattr.system.posix_acl_access": b"x"}) + entry(b"a"),
        "posix_acl_access' is malformed",
    ),
    "an ACL of a directory that is none": (
        pax({b"SCHILY.xattr.system.posix_acl_default": b"x"}) + directory(b"d") + entry(b"b"),
        "'d' is refused: its attribute b'system.posix_acl_default' is malformed",
    ),
    "an attribute of 65,537 bytes": (pax({b"SCHILY.xattr.user.a": bytes(65537)}) + entry(b"a"), "too large"),
    "files of more than the limit": (
        pax({b"GNU.sparse.size": b"%d" % (1 << 62), b"GNU.sparse.map": b""}) + entry(b"a"),
        "more than 68719476736 bytes; --max-layer-size",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_refused_and_touch_nothing(tmp_path: Path, name: str) -> None:
    stream, about = HOSTILE[name]
    layer(BASE, tmp_path / "base")
    before = tree(tmp_path / "base")
    outside = sorted(os.listdir("/tmp"))
    with pytest.raises(ImageError, match=f"layer x: .*({about})") as refused:
        layer(stream, tmp_path / "top", [tmp_path / "base"])
    assert "\n" not in str(refused.value)
    assert tree(tmp_path / "base") == before
    assert "x" not in set(os.listdir("/tmp")) - set(outside)


def test_what_looked_below_depends_where_there_was_nothing_too(tmp_path: Path) -> None:
    assert layer(entry(b"d/new"), tmp_path / "lowest").depends
    assert not layer(BASE, tmp_path / "base").depends


def test_more_directories_than_files_may_be_open(tmp_path: Path) -> None:
    stream = b"".join(directory(b"%d" % number) for number in range(600))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 200, hard))
    try:
        layer(stream, tmp_path / "top")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir(tmp_path / "top")) == 600


@needs_overlayfs
@pytest.mark.parametrize("name", ODD)
def test_overlayfs_shows_what_docker_would(tmp_path: Path, name: str) -> None:
    """The layer is mounted over its base: each rule of ODD means what it says."""
    stream, wanted, _ = ODD[name]
    with scratch() as base:
        for each in ("upper", "work", "merged"):
            (base / each).mkdir()
        layer(BASE, base / "base")
        layer(stream, base / "top", [base / "base"])
        with overlayfs([base / "top", base / "base"], base / "upper", base / "work", base / "merged"):
            merged = tree(base / "merged")
    hidden = {path for path, what in wanted.items() if what != "dir"}
    for path, what in wanted.items():
        if what == "whiteout":
            assert path not in merged
        elif what == "opaque dir":
            inside = {each for each in merged if each.startswith(path + "/")}
            assert inside == {each for each in wanted if each.startswith(path + "/")}
        else:
            assert merged[path] == what
    for path, what in {"d/f": b"below", "e/x": b"x", "f": b"file", "s": "-> d"}.items():
        if not any(path == each or path.startswith(each + "/") for each in hidden) and path not in wanted:
            assert merged[path] == what

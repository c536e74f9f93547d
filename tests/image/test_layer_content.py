"""What each mark of an upper becomes in a layer, entry by entry."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.overlay.trees import USER, WHITEOUT, Obj, Tree, build, directory, file, node, symlink
from tests.support.mounts import needs_root
from unionfs.errors import ImageError
from unionfs.image.layer_content import LayerContent
from unionfs.image.tar_write import TarWriter
from unionfs.image.tree_entries import EntryWriter
from unionfs.offline.layer_view import open_view

pytestmark = needs_root

OPAQUE_FILE = {".wh..wh..opq": ""}
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = bytes.fromhex(
    "0200000001000600ffffffff02000400050000000400 0400ffffffff10000400ffffffff20000400ffffffff"
)
LATER = 1_700_000_000


def up(entries: Tree | None = None, **more: Any) -> Obj:
    """A directory that was copied up."""
    return directory(entries, origin="", **more)


CASES: dict[str, tuple[Tree, Tree, str]] = {
    # Upper, the lower, and the entries of the layer.
    "nothing": ({}, {"f": "f"}, ""),
    "new": ({"d": directory({"f": "f"}), "l": symlink("d/f")}, {}, "d/, d/f, l -> d/f"),
    "a directory above": ({"d": up({"new": "n"})}, {"d": {"f": "f"}}, "d/, d/new"),
    "copied up and left as it was": ({"d": up({"f": "f"}), "g": "g"}, {"d": {"f": "f"}, "g": "g"}, ""),
    "a whiteout": (
        {"f": WHITEOUT, "d": up({"g": WHITEOUT})},
        {"f": "", "d": {"g": ""}},
        "d/, d/.wh.g, .wh.f",
    ),
    "a whiteout over nothing": ({"f": WHITEOUT}, {"g": ""}, ""),
    "whiteout in an attribute": (
        {"d": up({"f": file(whiteout="")}, opaque="x")},
        {"d": {"f": "f"}},
        "d/, d/.wh.f",
    ),
    "whiteout as a file": ({"d": {".wh.f": "", "g": "g"}}, {"d": {"f": ""}}, "d/, d/.wh.f, d/g"),
    "opaque": (
        {"d": directory({"-": "", "f": "f"}, opaque="y")},
        {"d": {"f": "f", "g": "g"}},
        "d/, d/.wh..wh..opq, d/-, d/f",
    ),
    "opaque as a file": ({"d": OPAQUE_FILE}, {"d": {"f": "f"}}, "d/, d/.wh..wh..opq"),
    "opaque, and nothing below": ({"d": directory({"f": "f"}, opaque="y")}, {}, "d/, d/f"),
    "a file in the place of a directory": ({"d": "d"}, {"d": {"f": "f"}}, "d"),
    "a directory in the place of a file": ({"f": directory({"g": ""}, opaque="y")}, {"f": ""}, "f/, f/g"),
    "a renamed directory": (
        {"new": up({"own": "", "b": WHITEOUT}, redirect="old"), "old": WHITEOUT},
        {"old": {"a": "a", "b": "b", "sub": {"c": "c"}}},
        "new/, new/a, new/own, new/sub/, new/sub/c, .wh.old",
    ),
    "a directory renamed to the place of another": (
        {"b": up({}, redirect="a"), "a": WHITEOUT},
        {"a": {"x": "x", "same": "s"}, "b": {"y": "y", "same": "s"}},
        ".wh.a, b/, b/.wh..wh..opq, b/same, b/x",
    ),
    "renamed and back": ({"d": up({"f": "f"}, redirect="/d")}, {"d": {"x": "x"}}, "d/, d/f"),
    "a metacopy": ({"f": file(size=3, mode=0o600, metacopy="", origin="")}, {"f": "abc"}, "f"),
    "names are sorted by components": (
        {"a": {"z": ""}, "a!": "", "a-": {"y": ""}, "A": "", "é": ""},
        {},
        "A, a/, a/z, a!, a-/, a-/y, é",
    ),
    "devices and pipes": (
        {"c": node(stat.S_IFCHR | 0o600, os.makedev(1, 3)), "p": node(stat.S_IFIFO | 0o644)},
        {},
        "c 1/3, p",
    ),
}


def content(upper: Path, *lowers: Path, remarks: list[str] | None = None, marks: bool = False) -> bytes:
    """The tar of a layer; remarks are expected only where they are asked for."""

    def remark(path: bytes, text: str) -> None:
        assert remarks is not None, (path, text)
        remarks.append(f"{os.fsdecode(path)}: {text}")

    out = io.BytesIO()
    with open_view(str(upper), list(map(str, lowers)), userxattr=False) as view:
        found = LayerContent(view, remark, marks=marks)
        writer = TarWriter(out.write)
        found.write(EntryWriter(view.fs, writer, remark))
        assert bool(found) == bool(writer.entries)
        writer.close()
    return out.getvalue()


def members(stream: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        return {member.name: member for member in tar}


def listing(stream: bytes) -> str:
    return ", ".join(map(_shown, members(stream).values()))


def _shown(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return member.name + "/"
    if member.isdev() and not member.isfifo():
        return f"{member.name} {member.devmajor}/{member.devminor}"
    if member.issym() or member.islnk():
        return f"{member.name} {'->' if member.issym() else '=='} {member.linkname}"
    return member.name


@pytest.mark.parametrize("case", CASES)
def test_entries(tmp_path: Path, case: str) -> None:
    upper, lower, expected = CASES[case]
    build(tmp_path / "upper", upper)
    build(tmp_path / "lower", lower)
    assert listing(content(tmp_path / "upper", tmp_path / "lower")) == expected


def test_attributes(tmp_path: Path) -> None:
    xattrs = {"user.x": b"\0\n", "security.capability": CAPABILITY, "trusted.y": b"y"}
    marks = {"trusted.overlay.overlay.z": b"nested", "user.overlay.opaque": b"y", "security.selinux": b"host"}
    build(tmp_path / "lower", {"m": file("data of the lower", xattrs={"user.old": b"1"})})
    build(
        tmp_path / "upper",
        {
            "f": file("f", mode=0o6754, owner=(12, 4_000_000_000), xattrs={**xattrs, **marks}),
            "d": directory(mode=0o1777, owner=(5, 6), xattrs={"system.posix_acl_default": ACL}),
            "m": file(size=17, mode=0o600, owner=(7, 8), metacopy="", origin="", xattrs={"user.new": b"2"}),
        },
    )
    os.utime(tmp_path / "upper/f", ns=(1, LATER * 10**9 + 123_456_789))
    stream = content(tmp_path / "upper", tmp_path / "lower")
    found = members(stream)
    f, d, m = found["f"], found["d"], found["m"]
    assert (f.mode, f.uid, f.gid, f.uname, f.gname) == (0o6754, 12, 4_000_000_000, "", "")
    assert f.pax_headers["mtime"] == "1700000000.123456789"
    assert {key for key in f.pax_headers if key.startswith("SCHILY")} == {
        f"SCHILY.xattr.{key}" for key in xattrs
    }
    assert (d.mode, d.uid, d.gid) == (0o1777, 5, 6)
    assert list(d.pax_headers)[-1] == "SCHILY.xattr.system.posix_acl_default"
    assert (m.mode, m.uid, m.gid, m.pax_headers["SCHILY.xattr.user.new"]) == (0o600, 7, 8, "2")
    assert not any("atime" in each.pax_headers or "ctime" in each.pax_headers for each in found.values())
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        data = tar.extractfile("m")
        assert data is not None
        assert data.read() == b"data of the lower"


LINKS: dict[str, tuple[Tree, dict[str, str], Tree, dict[str, str], str]] = {
    # Upper and the further names of its files, the lower and the further names of its; the entries.
    "two new names": ({"b": "b"}, {"a": "b"}, {}, {}, "a, b == a"),
    "a new name of a file of the lower": ({"f": "f"}, {"g": "f"}, {"f": "f"}, {}, "f, g == f"),
    "copied up with all names": ({"f": "f"}, {"g": "f"}, {"f": "f"}, {"g": "f"}, ""),
    "copied up and parted from its other name": ({"f": "f"}, {}, {"f": "f"}, {"g": "f"}, "f"),
    "changed and parted": ({"f": "new"}, {}, {"f": "f"}, {"g": "f"}, "f"),
    "two files have become one": ({"f": "f"}, {"g": "f"}, {"f": "f", "g": "f"}, {}, "f, g == f"),
    "a name in a renamed directory": (
        {"n": directory(origin="", redirect="d"), "d": WHITEOUT},
        {},
        {"d": {"f": "f"}, "o": {"x": ""}},
        {"o/g": "d/f"},
        ".wh.d, n/, n/f, o/, o/g == n/f",
    ),
    "both names in a renamed directory": (
        {"n": directory(origin="", redirect="d"), "d": WHITEOUT},
        {},
        {"d": {"f": "f"}},
        {"d/g": "d/f"},
        ".wh.d, n/, n/f, n/g == n/f",
    ),
}


@pytest.mark.parametrize("case", LINKS)
def test_hard_links(tmp_path: Path, case: str) -> None:
    upper, upper_names, lower, lower_names, expected = LINKS[case]
    for top, tree, names in (("upper", upper, upper_names), ("lower", lower, lower_names)):
        build(tmp_path / top, tree)
        for name, other in names.items():
            (tmp_path / top / name).hardlink_to(tmp_path / top / other)
    assert listing(content(tmp_path / "upper", tmp_path / "lower")) == expected


def test_holes_are_zeros_and_not_read(tmp_path: Path) -> None:
    build(tmp_path / "upper", {"f": file("begin", size=5_000_000)})
    with open(tmp_path / "upper/f", "r+b") as sparse:
        sparse.seek(3_000_000)
        sparse.write(b"middle")
    build(tmp_path / "lower", {})
    with tarfile.open(fileobj=io.BytesIO(content(tmp_path / "upper", tmp_path / "lower"))) as tar:
        found = tar.extractfile("f")
        assert found is not None
        assert found.read() == (tmp_path / "upper/f").read_bytes()


def test_sockets_and_names_of_deletions_are_left_out_with_a_remark(tmp_path: Path) -> None:
    build(tmp_path / "upper", {"d": {"f": ""}, ".wh.dir": {"in": ""}})
    build(tmp_path / "lower", {"d": {"s2": "a file before"}})
    for name in ("s1", "d/s2"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "upper" / name))
    remarks: list[str] = []
    stream = content(tmp_path / "upper", tmp_path / "lower", remarks=remarks)
    assert listing(stream) == "d/, d/f, d/.wh.s2"
    assert sorted(remarks) == [
        ".wh.dir: a name that means a deletion in layers: left out",
        "d/s2: a socket, which only the program that listens there can make: left out",
        "s1: a socket, which only the program that listens there can make: left out",
    ]


def test_the_root_is_an_entry_where_it_is_not_a_plain_one(tmp_path: Path) -> None:
    for top in ("upper", "lower"):
        build(tmp_path / top, {"f": top})
    assert listing(content(tmp_path / "upper", tmp_path / "lower")) == "f"
    for top in ("upper", "lower"):
        (tmp_path / top).chmod(0o711)
    assert listing(content(tmp_path / "upper", tmp_path / "lower")) == "./, f"
    build(tmp_path / "empty", {}).chmod(0o711)
    assert listing(content(tmp_path / "empty", tmp_path / "lower")) == ""
    (tmp_path / "empty").chmod(0o700)
    assert listing(content(tmp_path / "empty", tmp_path / "lower")) == "./"


def test_without_lowers_the_marks_are_believed(tmp_path: Path) -> None:
    build(
        tmp_path / "upper",
        {"d": up({"f": WHITEOUT, "g": ""}), "o": directory({"f": ""}, opaque="y"), ".wh.h": ""},
    )
    stream = content(tmp_path / "upper", marks=True)
    assert listing(stream) == "./, d/, d/.wh.f, d/g, .wh.h, o/, o/.wh..wh..opq, o/f"


@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_what_only_the_lowers_hold_is_refused_without_them(tmp_path: Path, mark: str) -> None:
    tree: Tree = (
        {"d": directory(redirect="old")} if mark == "redirect" else {"d": file(metacopy="", origin="")}
    )
    build(tmp_path / "upper", tree)
    with pytest.raises(ImageError, match="/d"):
        content(tmp_path / "upper", marks=True)


def test_marks_of_ordinary_users(tmp_path: Path) -> None:
    build(tmp_path / "upper", {"d": directory({"f": ""}, opaque="y"), "g": WHITEOUT}, prefix=USER)
    build(tmp_path / "lower", {"d": {"h": ""}, "g": ""})
    out = io.BytesIO()
    with open_view(str(tmp_path / "upper"), [str(tmp_path / "lower")], userxattr=True) as view:
        writer = TarWriter(out.write)
        LayerContent(view, lambda path, text: None).write(
            EntryWriter(view.fs, writer, lambda path, text: None)
        )
        writer.close()
    assert listing(out.getvalue()) == "d/, d/.wh..wh..opq, d/f, .wh.g"


def test_owners_in_attributes(tmp_path: Path) -> None:
    """As an ordinary user with one id has them: containers/storage's form."""
    name = "user.containers.override_stat"
    build(
        tmp_path / "upper",
        {
            "f": file(
                "f", xattrs={name: b"12:34:4755", "user.containers.override_security.capability": CAPABILITY}
            ),
            "null": file("", xattrs={name: b"0:6:660:char-1-3"}),
            "sock": file("", xattrs={name: b"0:0:600:socket"}),
        },
    )
    build(tmp_path / "lower", {})
    for top in ("upper", "lower"):
        os.setxattr(tmp_path / top, name, b"0:0:755")
    remarks: list[str] = []
    found = members(content(tmp_path / "upper", tmp_path / "lower", remarks=remarks))
    assert (found["f"].mode, found["f"].uid, found["f"].gid) == (0o4755, 12, 34)
    assert list(found["f"].pax_headers)[-1] == "SCHILY.xattr.security.capability"
    assert list(map(_shown, found.values())) == ["f", "null 1/3"]
    assert len(remarks) == 1

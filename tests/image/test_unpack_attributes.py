"""What a layer says of owners, modes, times, attributes and holes is what its directory has."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from tests.image.tar_made import END, entry, pax
from tests.image.test_unpack import BASE, SINGLE, directory, layer, link, shown
from tests.support.mounts import needs_root
from unionfs.image.layer_form import LayerForm
from unionfs.image.unpack import unpack
from unionfs.linux import process

pytestmark = needs_root


def test_attributes(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    acl = bytes.fromhex(
        "0200000001000600ffffffff020006000500000004000400ffffffff10000600ffffffff20000000ffffffff"
    )
    stream = (
        entry(b".", b"5", mode=0o1711, uid=3, mtime=7)
        + entry(b"d", b"5", mode=0o2700, uid=7, gid=8, mtime=1000)
        + pax(
            {b"SCHILY.xattr.security.capability": capability, b"SCHILY.xattr.user.a": b"v", b"mtime": b"5.25"}
        )
        + entry(b"d/suid", mode=0o6755, uid=9, gid=10, data=b"program")
        + pax({b"SCHILY.xattr.system.posix_acl_access": acl})
        + entry(b"d/acl", mode=0o660)
        + entry(b"d/closed", mode=0, data=b"secret")
        + entry(b"l", b"2", linkname=b"to", uid=11, mtime=3)
        + entry(b"p", b"6", mode=0o642, uid=12, mtime=4)
    )
    assert layer(stream, tmp_path / "top").size == len(b"program" + b"secret")
    top = tmp_path / "top"

    def facts(name: str) -> tuple[int, int, int, float]:
        st = (top / name).lstat()
        return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime

    assert facts(".") == (0o1711, 3, 0, 7)
    assert facts("d") == (0o2700, 7, 8, 1000)
    assert facts("d/suid") == (0o6755, 9, 10, 5.25)
    assert facts("d/acl")[0] == 0o660
    assert facts("d/closed")[0] == 0
    assert facts("l") == (0o777, 11, 0, 3)
    assert facts("p") == (0o642, 12, 0, 4)
    assert os.getxattr(top / "d/suid", "security.capability") == capability
    assert os.getxattr(top / "d/suid", "user.a") == b"v"
    assert os.getxattr(top / "d/acl", "system.posix_acl_access") == acl


def test_a_missing_directory_is_as_the_layers_below_show_it(tmp_path: Path) -> None:
    layer(BASE + entry(b"d", b"5", mode=0o711, uid=4, mtime=99), tmp_path / "base")
    os.setxattr(tmp_path / "base/d", "user.a", b"v")
    layer(entry(b"d/new"), tmp_path / "top", [tmp_path / "base"])
    st = (tmp_path / "top/d").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_mtime) == (0o711, 4, 99)
    assert os.getxattr(tmp_path / "top/d", "user.a") == b"v"


def test_an_entry_gives_a_directory_all_attributes_wherever_it_stands(tmp_path: Path) -> None:
    layer(pax({b"SCHILY.xattr.user.below": b"v"}) + directory(b"d"), tmp_path / "base")
    above = (
        entry(b"d/.wh..wh..opq") + entry(b"d/new") + pax({b"SCHILY.xattr.user.own": b"v"}) + directory(b"d")
    )
    layer(above, tmp_path / "top", [tmp_path / "base"])
    assert sorted(os.listxattr(tmp_path / "top/d")) == ["trusted.overlay.opaque", "user.own"]


def test_nothing_is_inherited_from_where_the_layer_is_made(tmp_path: Path) -> None:
    acl = bytes.fromhex(
        "0200000001000700ffffffff020007000500000004000500ffffffff10000700ffffffff20000500ffffffff"
    )
    os.setxattr(tmp_path, "system.posix_acl_default", acl)
    layer(directory(b"d") + entry(b"d/f"), tmp_path / "top")
    for name in (".", "d", "d/f"):
        assert os.listxattr(tmp_path / "top" / name) == []


def test_a_sparse_file_of_a_layer_below_is_sparse_where_it_is_linked(tmp_path: Path) -> None:
    layer(b"", tmp_path / "base")
    with (tmp_path / "base/s").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"data")
    layer(link(b"n", b"s"), tmp_path / "top", [tmp_path / "base"])
    st = (tmp_path / "top/n").stat()
    assert (st.st_size, st.st_nlink) == (1 << 30, 2)
    assert st.st_blocks * 512 < 1 << 20
    with (tmp_path / "top/n").open("rb") as file:
        file.seek(1 << 29)
        assert file.read(5) == b"data\0"


def test_the_marks_of_union_filesystems_are_no_marks(tmp_path: Path) -> None:
    records = {
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.user.overlay.opaque": b"y",
        b"SCHILY.xattr.user.fuseoverlayfs.opaque": b"y",
        b"SCHILY.xattr.user.containers.override_stat": b"0:0:4755",
        b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
        b"SCHILY.xattr.user.mine": b"1",
    }
    result = layer(pax(records) + directory(b"d"), tmp_path / "top")
    assert sorted(os.listxattr(tmp_path / "top/d")) == [
        "trusted.overlay.overlay.opaque",
        "trusted.overlay.overlay.redirect",
        "user.mine",
    ]
    assert sorted(result.left_out) == [
        "user.containers.override_stat",
        "user.fuseoverlayfs.opaque",
        "user.overlay.opaque",
    ]


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    records = {
        b"GNU.sparse.size": b"%d" % (1 << 30),
        b"GNU.sparse.map": b"0,2,1073741820,2",
        b"GNU.sparse.name": b"s",
    }
    result = layer(pax(records) + entry(b"x", data=b"abcd"), tmp_path / "top")
    path = tmp_path / "top/s"
    assert (path.stat().st_size, result.size) == (1 << 30, 1 << 30)
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read(3) == b"ab\0"
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"cd\0\0"


def test_a_users_layer_says_owners_in_attributes(tmp_path: Path) -> None:
    stream = (
        directory(b"d", 0o700)
        + entry(b"d/f", mode=0o4751, uid=7, gid=8, data=b"x")
        + pax({b"SCHILY.xattr.security.a": b"v"})
        + entry(b"n", b"3", mode=0o666, device=(1, 3), uid=1)
        + entry(b".wh.gone")
    )
    layer(stream, tmp_path / "top", form=SINGLE)
    name = "user.containers.override_stat"
    top = tmp_path / "top"
    assert os.getxattr(top, name) == b"0:0:755"
    assert os.getxattr(top / "d", name) == b"0:0:700"
    assert os.getxattr(top / "d/f", name) == b"7:8:4751"
    assert os.getxattr(top / "n", name) == b"1:0:666:char-1-3"
    assert os.getxattr(top / "n", "user.containers.override_security.a") == b"v"
    assert (top / "d/f").stat().st_uid == os.geteuid()
    assert shown(top / "gone") == "whiteout"


DEFAULT_ACL = bytes.fromhex(  # u::rwx,u:3:rwx,g::---,m::rwx,o::---
    "0200000001000700ffffffff020007000300000004000000ffffffff10000700ffffffff20000000ffffffff"
)


def test_nothing_is_inherited_from_a_directory_of_the_layers_below(tmp_path: Path) -> None:
    """It stands in no entry of this layer, and has its default ACL only when all is in it."""
    base = pax({b"SCHILY.xattr.system.posix_acl_default": DEFAULT_ACL}) + entry(
        b"d", b"5", mode=0o2755, gid=5
    )
    layer(base, tmp_path / "base")
    layer(entry(b"d/new", mode=0o644) + entry(b"d/e/new", mode=0o644), tmp_path / "top", [tmp_path / "base"])
    top = tmp_path / "top"
    assert os.getxattr(top / "d", "system.posix_acl_default") == DEFAULT_ACL
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o2755
    for name, mode in (("d/new", 0o644), ("d/e", 0o755), ("d/e/new", 0o644)):
        st = (top / name).stat()
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (mode, 0, 0), name
        assert [each for each in os.listxattr(top / name) if "acl" in each] == [], name


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("place", ["plain", "setgid", "strange"])
def test_files_are_as_their_entries_say_wherever_they_are_made(tmp_path: Path, mask: int, place: str) -> None:
    """Owner and mode are set only where a new file has others: by umask, or by the directory's group."""
    tmp_path = tmp_path / "place"
    tmp_path.mkdir()
    os.chown(tmp_path, 0, 7 if place == "setgid" else 0)
    tmp_path.chmod(0o2755 if place == "setgid" else 0o755)
    modes = (0o644, 0o600, 0o755, 0o777, 0o000, 0o444, 0o4755, 0o2755, 0o1777, 0o666)
    stream = entry(b"d", b"5", mode=0o2777, gid=9)
    for number, mode in enumerate(modes):
        stream += entry(b"d/%d" % number, mode=mode, data=b"x") + entry(
            b"d/other%d" % number, mode=mode, gid=3
        )
    before = os.umask(mask)
    try:
        top = tmp_path / "top"
        top.mkdir(mode=0o755)
        if place == "strange":
            os.chown(top, 3, 4)
        unpack(io.BytesIO(stream + END), top, list, LayerForm(userxattr=False, overrides=False))
    finally:
        os.umask(before)
    for number, mode in enumerate(modes):
        for name, gid in ((f"d/{number}", 0), (f"d/other{number}", 3)):
            st = (top / name).stat()
            assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (mode, 0, gid), name


def test_a_file_with_the_usual_owner_and_mode_takes_no_call_to_set_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        call = getattr(os, name)

        def counting(*words: int) -> None:
            calls.append(name)
            call(*words)

        monkeypatch.setattr(os, name, counting)

    counted("fchown")
    counted("fchmod")
    layer(entry(b"plain", mode=0o644 & ~process.umask()), tmp_path / "plain")
    assert calls == ["fchmod"], "of the root"
    layer(entry(b"other", mode=0o4755, uid=1), tmp_path / "other")
    assert calls[1:] == ["fchmod", "fchown", "fchmod"]

"""`override_stat` through the kernel: what users may do goes by it, and fuse-overlayfs knows it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.owners_rig import PLACES, as_user, fuse_overlayfs, needs_fuse_overlayfs, ours, seen
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

IN_ATTRIBUTE = "xattr_permissions=2"
CONTAINERS = "user.containers.override_stat"
FUSE_OVERLAYFS = "user.fuseoverlayfs.override_stat"


def tell(path: Path, value: str, name: str = CONTAINERS) -> None:
    os.setxattr(path, name, value.encode())


def store(low: Path, name: str = CONTAINERS) -> None:
    """An image's layer in the store of a user: all is the user's and open to it, attributes tell the rest."""
    (low / "etc").mkdir()
    (low / "etc" / "shadow").write_text("secret")
    (low / "tmp").mkdir()
    (low / "bin").mkdir()
    shutil.copy("/bin/true", low / "bin" / "true")
    for path, value in {
        ".": "0:0:755",
        "etc": "0:0:755",
        "etc/shadow": "0:42:640",
        "tmp": "0:0:1777",
        "bin": "0:0:755",
        "bin/true": "0:0:4755",
    }.items():
        tell(low / path, value, name)
        os.chmod(low / path, 0o700)


def test_rights_go_by_what_is_told(base: Path) -> None:
    store(base / "lower")
    acts: dict[str, tuple[int, Callable[[], object], str]] = {
        "read closed": (1000, lambda: Path("etc/shadow").read_text(), "EACCES"),
        "run": (1000, lambda: subprocess.run(["./bin/true"], check=True), "ok"),
        "write closed": (1000, lambda: Path("bin/true").write_text(""), "EACCES"),
        "make in sticky": (1000, lambda: Path("tmp/mine").write_text("x"), "ok"),
        "unlink there": (1001, lambda: Path("tmp/mine").unlink(), "EPERM"),
        "chmod own": (1000, lambda: os.chmod("tmp/mine", 0o400), "ok"),
        "write own": (1000, lambda: Path("tmp/mine").write_text("y"), "EACCES"),
        "chown": (1000, lambda: os.chown("tmp/mine", 1001, -1), "EPERM"),
        "mkdir": (1000, lambda: os.mkdir("tmp/dir", 0o700), "ok"),
        "look in": (1001, lambda: os.listdir("tmp/dir"), "EACCES"),
        "root may all": (0, lambda: Path("tmp/mine").write_text("z"), "ok"),
        "to other": (0, lambda: os.chown("tmp/mine", 1001, 1001), "ok"),
        "its now": (1001, lambda: Path("tmp/mine").read_text(), "ok"),
    }
    with ours(base, IN_ATTRIBUTE) as merged:
        for name, (uid, act, expected) in acts.items():
            assert as_user(uid, merged, act) == expected, name
        before = seen(merged)
        assert before["etc/shadow"] == "100640 0:42"
        assert before["bin/true"] == "104755 0:0"
        assert before["tmp/mine"] == "100400 1001:1001"
        assert before["tmp/dir"] == "40700 1000:1000"
        forget_unused(merged)
        assert seen(merged) == before
    with ours(base, IN_ATTRIBUTE) as merged:
        assert seen(merged) == before
    real = {path.name: path.lstat() for path in (base / "upper").rglob("*")}
    assert {(st.st_uid, st.st_gid) for st in real.values()} == {(0, 0)}
    assert not any(st.st_mode & 0o7000 for st in real.values())


def test_set_ids_go_when_somebody_writes(base: Path) -> None:
    """By write(2), truncate(2) and chown(2), whatever way the data takes."""
    low = base / "lower"
    for name in ("write", "truncate", "chown", "root"):
        (low / name).write_text("data")
        tell(low / name, "0:0:6757")
    tell(low, "0:0:755")
    acts: dict[str, tuple[int, Callable[[], object], int]] = {
        "write": (1000, lambda: Path("write").write_text("x"), 0o757),
        "truncate": (1000, lambda: os.truncate("truncate", 1), 0o757),
        "chown": (0, lambda: os.chown("chown", 5, 5), 0o757),
        "root": (0, lambda: os.truncate("root", 1), 0o6757),
    }
    with ours(base, IN_ATTRIBUTE) as merged:
        for name, (uid, act, mode) in acts.items():
            assert as_user(uid, merged, act) == "ok"
            assert stat.S_IMODE((merged / name).stat().st_mode) == mode, name


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs setfacl")
def test_acls_count(base: Path) -> None:
    store(base / "lower")
    with ours(base, IN_ATTRIBUTE) as merged:
        shadow = merged / "etc" / "shadow"
        subprocess.run(["setfacl", "-m", "u:1000:rw", shadow], check=True)
        subprocess.run(["setfacl", "-d", "-m", "g:1001:rwx", merged / "tmp"], check=True)
        assert as_user(1000, merged, lambda: Path("etc/shadow").read_text()) == "ok"
        assert as_user(1001, merged, lambda: Path("etc/shadow").read_text()) == "EACCES"
        assert stat.S_IMODE(shadow.stat().st_mode) == 0o660
        os.chmod(shadow, 0o600)
        assert as_user(1000, merged, lambda: Path("etc/shadow").read_text()) == "EACCES"
        assert as_user(1000, merged, lambda: Path("tmp/new").write_text("x")) == "ok"
        assert stat.S_IMODE((merged / "tmp" / "new").stat().st_mode) == 0o666
        assert as_user(1001, merged, lambda: Path("tmp/new").write_text("y")) == "ok"


@needs_fuse_overlayfs
def test_an_upper_of_fuse_overlayfs(base: Path) -> None:
    """What it has kept so is shown as it shows it, and goes on under the same name."""
    (base / "lower" / "d").mkdir()
    for name in ("a", "b", "d/c"):
        (base / "lower" / name).write_text(name)
    with fuse_overlayfs(base, IN_ATTRIBUTE) as merged:
        os.chown(merged / "a", 5, 6)
        os.chmod(merged / "b", 0o4711)
        os.chown(merged / "d" / "c", 7, 8)
        (merged / "new").mkdir()
        os.chown(merged / "new", 9, 9)
        os.chmod(merged / "new", 0o2750)
        theirs = seen(merged)
    assert os.getxattr(base / "upper" / "a", FUSE_OVERLAYFS)
    with ours(base, IN_ATTRIBUTE) as merged:
        assert seen(merged) == theirs
        os.chown(merged / "a", 10, 10)
    assert os.getxattr(base / "upper" / "a", FUSE_OVERLAYFS).startswith(b"10:10:")
    assert CONTAINERS not in os.listxattr(base / "upper" / "a")


@needs_fuse_overlayfs
@pytest.mark.parametrize("option", [1, 2])
def test_fuse_overlayfs_shows_our_upper_so(base: Path, option: int) -> None:
    """As one of its lowers, for that is what the layer of an image is."""
    (base / "lower" / "file").unlink()
    with ours(base, f"xattr_permissions={option}") as merged:
        for name, uid, mode in (("a", 5, 0o640), ("b", 6, 0o4711)):
            (merged / name).write_text(name)
            os.chown(merged / name, uid, uid)
            os.chmod(merged / name, mode)
        (merged / "d").mkdir()
        (merged / "d" / "e").write_text("")
        os.chown(merged / "d", 7, 8)
        os.chmod(merged / "d", 0o2750)
        mine = seen(merged)
    again = base / "again"
    for name in PLACES:
        (again / name).mkdir(parents=True)
    (again / "lower").rmdir()
    (base / "upper").rename(again / "lower")
    with fuse_overlayfs(again, "noacl") as merged:
        # It does not hide user.containers.* attributes.
        theirs = {path: " ".join(line.split()[:2]) for path, line in seen(merged).items()}
    assert theirs == mine

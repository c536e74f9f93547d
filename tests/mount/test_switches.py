"""Options that take something away from a mount or change how it asks, as programs meet them."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.rig import mount, run, statuses
from tests.support import transports
from tests.support.mounts import needs_fuse, needs_root, pyunionfs, scratch

pytestmark = [needs_root, needs_fuse]

NOBODY = 0xFFFFFFFF
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# user::rw- user:12345:rw- group::--- mask::rw- other::---
LETS_IN = acl((1, 6, NOBODY), (2, 6, 12345), (4, 0, NOBODY), (16, 6, NOBODY), (32, 0, NOBODY))
OPEN_TO_ALL = acl((1, 7, NOBODY), (4, 7, NOBODY), (32, 7, NOBODY))


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        directory.chmod(0o755)
        for name in ("lower/d/e", "upper", "work", "merged"):
            (directory / name).mkdir(parents=True)
        (directory / "lower" / "f").write_text("low")
        os.setxattr(directory / "lower" / "f", "user.x", b"1")
        yield directory


def answer(act: Callable[[], object]) -> int:
    """The errno, 0 for success."""
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


def as_user(*words: str | Path) -> int:
    return subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *words],
        check=False,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ).returncode


def test_noxattrs(base: Path) -> None:
    mount(base, "-o", "noxattrs")
    try:
        path = base / "merged" / "f"
        assert answer(lambda: os.listxattr(path)) == errno.EOPNOTSUPP
        assert answer(lambda: os.getxattr(path, "user.x")) == errno.EOPNOTSUPP
        assert answer(lambda: os.setxattr(path, "user.y", b"2")) == errno.EOPNOTSUPP
        assert answer(lambda: os.setxattr(path, ACCESS, LETS_IN)) == errno.EOPNOTSUPP
        assert answer(lambda: os.removexattr(path, "user.x")) == errno.EOPNOTSUPP
        before = statuses(base / "merged")[0]["requests"]
        path.write_text("written")
        for _ in range(5):
            assert answer(lambda: os.getxattr(path, "user.x")) == errno.EOPNOTSUPP
        after = statuses(base / "merged")[0]["requests"]
        assert after.get("GETXATTR") == before.get("GETXATTR"), "the kernel asks once and no more"
        # As most programs see a filesystem without them.
        done = subprocess.run(["cp", "-a", path, base / "merged" / "copy"], check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
    finally:
        run("umount", base / "merged")
    assert os.getxattr(base / "upper" / "f", "user.x") == b"1"


@pytest.mark.parametrize("option", ["", "noacl"])
def test_who_gets_in_by_an_acl(base: Path, option: str) -> None:
    os.setxattr(base / "lower" / "f", ACCESS, LETS_IN)
    mount(base, *(["-o", option] if option else []))
    try:
        path = base / "merged" / "f"
        assert (as_user("cat", path) == 0) == (not option)
        assert answer(lambda: os.getxattr(path, ACCESS)) == (errno.EOPNOTSUPP if option else 0)
        assert (ACCESS in os.listxattr(path)) == (not option)
        assert answer(lambda: os.setxattr(path, ACCESS, LETS_IN)) == (errno.EOPNOTSUPP if option else 0)
        assert "user.x" in os.listxattr(path)
        if transports.chosen() == "direct":
            assert ("POSIX_ACL" in statuses(base / "merged")[0]["flags"]) == (not option)
    finally:
        run("umount", base / "merged")


@pytest.mark.parametrize("option", ["", "noacl"])
def test_the_umask_counts_unless_an_acl_is_inherited(base: Path, option: str) -> None:
    os.setxattr(base / "lower" / "d", DEFAULT, OPEN_TO_ALL)
    mount(base, *(["-o", option] if option else []))
    try:
        merged = base / "merged"
        script = "umask 027; touch $0/n $0/d/n; mkdir $0/m $0/d/m"
        subprocess.run(["sh", "-c", script, str(merged)], check=True)
        modes = {path: (merged / path).stat().st_mode & 0o777 for path in ("n", "m", "d/n", "d/m")}
        inherited = {"d/n": 0o640, "d/m": 0o750} if option else {"d/n": 0o666, "d/m": 0o777}
        assert modes == {"n": 0o640, "m": 0o750, **inherited}
    finally:
        run("umount", base / "merged")


def test_static_nlink(base: Path) -> None:
    (base / "upper" / "only" / "a").mkdir(parents=True)
    layers = [base / "lower"], base / "upper", base / "work", base / "merged"
    with pyunionfs(*layers) as daemon:
        assert [(daemon.merged / path).stat().st_nlink for path in ("only", "d")] == [3, 3]
    options = ["static_nlink"]
    with pyunionfs(
        [base / "lower"], base / "upper", base / "work", base / "merged", options=options
    ) as daemon:
        assert [(daemon.merged / path).stat().st_nlink for path in ("only", "d", "f")] == [1, 1, 1]
        assert os.path.exists(daemon.merged / "only" / "a")
        assert subprocess.run(
            ["find", daemon.merged, "-name", "e"], check=True, capture_output=True, text=True
        ).stdout.split() == [f"{daemon.merged}/d/e"], "find takes 1 for unknown"


@pytest.mark.parametrize("option", ["fsync=0", "volatile"])
def test_syncs_are_said_to_be_done(base: Path, option: str) -> None:
    mount(base, "-o", option)
    try:
        for number in range(4):
            fd = os.open(base / "merged" / f"n{number}", os.O_CREAT | os.O_RDWR)
            os.write(fd, b"data")
            os.fsync(fd)
            os.fdatasync(fd)
            os.close(fd)
        fd = os.open(base / "merged", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        requests = statuses(base / "merged")[0]["requests"]
        # For data that may be in the kernel's cache it must ask each time; of a directory no more once told.
        assert requests["FSYNC"] == 8
        assert requests["FSYNCDIR"] == 1
    finally:
        run("umount", base / "merged")
    assert (base / "upper" / "n3").read_text() == "data"


@pytest.mark.parametrize("option", ["writeback", "writeback=1", "writeback=0"])
def test_writeback(base: Path, transport: str, option: str) -> None:
    """Small writes are collected by the kernel, or come one by one; with pyfuse3 always the latter."""
    mount(base, "-o", f"passthrough=off,{option}")
    try:
        fd = os.open(base / "merged" / "n", os.O_CREAT | os.O_WRONLY)
        for _ in range(50):
            os.write(fd, b"small")
        os.fsync(fd)
        os.close(fd)
        status = statuses(base / "merged")[0]
        collected = option != "writeback=0" and transport == "direct"
        assert (status["requests"]["WRITE"] == 1) == collected
        assert status["requests"]["WRITE"] in (1, 50)
        assert ("WRITEBACK_CACHE" in status["flags"]) == collected
    finally:
        run("umount", base / "merged")
    assert (base / "upper" / "n").read_bytes() == b"small" * 50


def test_numbers_of_32_bits(base: Path) -> None:
    mount(base, "-o", "ino32_t,xino=off")
    try:
        merged = base / "merged"
        (merged / "f").chmod(0o600)
        listed = {entry.name: entry.inode() for entry in os.scandir(merged)}
        assert listed == {name: (merged / name).stat().st_ino for name in listed}
        assert max(listed.values()) < 1 << 32
    finally:
        run("umount", base / "merged")

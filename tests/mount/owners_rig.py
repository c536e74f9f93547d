"""Trees of several owners, what users may try in them, and fuse-overlayfs to be compared with."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import pyunionfs, umount
from tests.support.users import become

needs_fuse_overlayfs = pytest.mark.skipif(
    shutil.which("fuse-overlayfs") is None, reason="needs fuse-overlayfs"
)

_MARKS = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.o")
PLACES = ("lower", "upper", "work", "merged")


def fill(base: Path) -> None:
    """A lower with objects of several owners; shown as root's, 7's and somebody's outside the map."""
    low = base / "lower"
    for name, uid in (("root", 0), ("seven", 7), ("out", 5000)):
        (low / name).write_text(name)
        os.chown(low / name, uid, uid)
    for name, mode in (("open", 0o1777), ("group", 0o2777)):
        (low / name).mkdir()
        (low / name / "x").touch()
        os.chown(low / name, 0, 7)
        os.chmod(low / name, mode)
    os.symlink("x", low / "link")


def as_user(uid: int, where: Path, act: Callable[[], object]) -> str:
    """What happens when somebody does something in a directory: "ok" or an errno's name."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.umask(0o022)
            os.chdir(where)  # whose parents may be closed to users
            if uid:
                become(uid)
            act()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[code] if code else "ok"


def _value(path: Path, name: str) -> str:
    try:
        return os.getxattr(path, name, follow_symlinks=False).hex()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def seen(top: Path) -> dict[str, str]:
    """Of all that is in a tree: mode, owner, and attributes, the marks of unions left out."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.name.startswith(".wh."):
            continue
        st = path.lstat()
        attributes = [
            f" {name}={_value(path, name)}"
            for name in sorted(os.listxattr(path, follow_symlinks=False))
            if not name.startswith(_MARKS)
        ]
        line = f"{st.st_mode:o} {st.st_uid}:{st.st_gid}{''.join(attributes)}"
        found[str(path.relative_to(top))] = line
    return found


@contextmanager
def ours(base: Path, options: str) -> Iterator[Path]:
    merged = base / "merged"
    with pyunionfs([base / "lower"], base / "upper", base / "work", merged, options=[options]):
        yield merged


@contextmanager
def fuse_overlayfs(base: Path, options: str) -> Iterator[Path]:
    """The same layers' twins, by fuse-overlayfs."""
    layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,allow_other"
    subprocess.run(["fuse-overlayfs", "-o", f"{layers},{options}", base / "merged"], check=True)
    try:
        yield base / "merged"
    finally:
        umount(base / "merged")


def answer(act: Callable[[], object]) -> str:
    """What happens when this process does something: "ok" or an errno's name."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"

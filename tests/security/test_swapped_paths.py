"""A directory on the way to the layers and the mountpoint becomes a symlink while root mounts.

Root was asked to mount below a directory of another user, who looks for the moment between a check and a use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounts import (
    REPOSITORY,
    environment,
    make_directories,
    mount_types,
    needs_fuse,
    needs_root,
)
from tests.support.transports import one_transport
from unionfs.errors import MountError
from unionfs.transport import mount as transport_mount
from unionfs.transport.mount import FuseMountOptions, open_fuse

pytestmark = [needs_root, needs_fuse, one_transport]

MOMENTS = {
    "paths are resolved": ("unionfs.daemon.lifecycle", "check_mountpoint"),
    "the mountpoint is checked": ("unionfs.daemon.lifecycle", "check"),
    "the directories are checked": ("unionfs.daemon.lifecycle", "acquire"),
    "upper and work are locked": ("unionfs.overlay.lock", "check_work_content"),
    "marks were tried": ("unionfs.overlay.open_fs", "open_lowers"),
    "lowers are open": ("unionfs.overlay.open_fs", "open_upper"),
    "the layers are open": ("unionfs.daemon.lifecycle", "open_fuse"),
}
"""After which the next step is this function, before which the swap comes."""

PROGRAM = """
import functools, importlib, os, sys
module, name, place = sys.argv[1:4]
owner = importlib.import_module(module)
real = getattr(owner, name)
@functools.wraps(real)
def swapped(*args, **keywords):
    if not os.path.lexists(place + "/gone"):
        os.rename(place + "/eve", place + "/gone")
        os.symlink("victim", place + "/eve")
    return real(*args, **keywords)
setattr(owner, name, swapped)
from unionfs.cli import main
sys.exit(main(sys.argv[4:]))
"""


def tree(top: Path) -> list[tuple[str, int, int, int]]:
    """Every name with what a change of it would change."""
    found = []
    for path in sorted(top.rglob("*")):
        st = path.lstat()
        found.append((str(path.relative_to(top)), st.st_mode, st.st_mtime_ns, st.st_ctime_ns))
    return found


@pytest.fixture
def place(space: Path) -> Path:
    """Eve's directory, and another one with the same names below it."""
    for name in ("eve", "victim"):
        make_directories(space / name)
        (space / name / "lower" / "f").write_text(name)
    make_directories(space / "victim/work/work", "precious")
    return space


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("front", [True, False], ids=["foreground", "background"])
def test_a_command_goes_on_in_eves_directory_or_is_refused(
    place: Path, moment: str, front: bool, transport: str
) -> None:
    before = tree(place / "victim")
    words = ["mount", *(["-f"] if front else []), "-o", f"supervise=off,transport={transport}"]
    words += [str(place / "eve" / name) for name in ("lower", "upper", "work", "merged")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *MOMENTS[moment], str(place), *words],
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (place / "gone").is_dir(), "the moment never came"
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for name in ("victim", "gone"):
        assert mount_types(place / name / "merged") == []
    assert tree(place / "victim") == before


def test_a_mountpoint_that_is_moved_by_its_parent_is_let_go(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very directory was mounted on; but the daemon's user has named another path."""
    real = transport_mount._mount_directly

    def mount_moved(fd: int, path: str, options: FuseMountOptions) -> None:
        os.rename(place / "eve", place / "gone")
        real(fd, path, options)
        assert mount_types(place / "gone/merged") == ["fuse.pyunionfs"]

    monkeypatch.setattr(transport_mount, "_mount_directly", mount_moved)
    with pytest.raises(MountError, match=r"it was moved to .*/gone/merged meanwhile"):
        open_fuse(str(place / "eve/merged"), FuseMountOptions())
    assert mount_types(place / "gone/merged") == []


def test_without_openat2_symlinks_are_refused_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux before 5.6, and in some sandboxes."""
    from unionfs.linux import syscalls

    (place / "link").symlink_to("eve")
    (place / "eve/last").symlink_to("merged")
    paths = [str(place / path) for path in ("link/merged", "eve/last", "eve/merged", "eve/lower/f/below")]
    for number in (syscalls._NR_OPENAT2, 99999):
        monkeypatch.setattr(syscalls, "_NR_OPENAT2", number)
        answers = []
        for path in paths:
            try:
                os.close(syscalls.open_no_symlinks(path, os.O_PATH | os.O_DIRECTORY))
                answers.append(True)
            except OSError:
                answers.append(False)
        assert answers == [False, False, True, False]
        os.close(syscalls.open_no_symlinks("/", os.O_PATH | os.O_DIRECTORY))

"""No attribute that the kernel has cached is another than the daemon's, after any operation.

And the link counts of what is open and has no name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, errno_of, side
from tests.mount.stale import LACKED_BY_PYFUSE3, all_stale, populate_all
from tests.support.mounts import environment, needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport
from tests.support.users import as_user, open_home, ordinary_user

pytestmark = [needs_root, needs_fuse, one_transport]


@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", *WAYS])
def test_what_is_cached_is_what_is_answered(way: str) -> None:
    with side(way, populate_all) as mounted:
        assert all_stale(mounted.merged, lacks=LACKED_BY_PYFUSE3 if way == "pyfuse3" else frozenset()) == []


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
@pytest.mark.parametrize("options", ["transport=direct", "transport=pyfuse3"])
def test_it_is_for_an_ordinary_user(options: str) -> None:
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        words = as_user(user, "tests.mount.stale", home, options)
        done = subprocess.run(words, env=environment(), capture_output=True, text=True)
        assert done.stdout == "all done\n", done.stdout + done.stderr


def with_directories(lower: Path, upper: Path) -> None:
    (lower / "p/q").mkdir(parents=True)
    (upper / "p").mkdir()
    (upper / "tmp").mkdir()


@pytest.mark.parametrize("way", WAYS)
def test_the_change_time_of_a_directory_after_a_copy_up_in_it(way: str) -> None:
    with side(way, with_directories) as mounted:
        top = mounted.merged / "p"
        before = top.stat().st_ctime_ns
        (top / "q/new").touch()
        shown = [
            subprocess.run(["stat", *words, "-c", "%z", top], capture_output=True, check=True).stdout
            for words in ([], ["--cached=never"])
        ]
        assert shown[0] == shown[1]
        assert top.stat().st_ctime_ns > before
        words = ["tar", "-cf", f"{mounted.merged}/tmp/x.tar", "--exclude=./*", "-C", str(mounted.merged), "."]
        done = subprocess.run(words, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


# --- open, and without a name -------------------------------------------------------------------------


def with_files(lower: Path, upper: Path) -> None:
    for number in range(len(LOSSES)):
        (lower / f"file{number}").write_bytes(b"of a lower")
        (lower / f"other{number}").write_bytes(b"another")


def change_and_unlink(path: Path, other: Path) -> None:
    path.chmod(0o600)
    path.unlink()


def make_anew(path: Path, other: Path) -> None:
    path.unlink()
    path.touch()


LOSSES: list[Callable[[Path, Path], object]] = [
    lambda path, other: path.unlink(),
    lambda path, other: other.rename(path),
    change_and_unlink,
    make_anew,
]


# Overlayfs itself shows the lower's count of what was opened to read only (ovl_getattr()).
@needs_overlayfs
@pytest.mark.parametrize(
    ("way", "access"),
    [("overlayfs", os.O_RDWR), *((way, access) for way in WAYS for access in (os.O_RDONLY, os.O_RDWR))],
)
def test_a_file_that_has_lost_its_last_name_has_no_link(way: str, access: int) -> None:
    with side(way, with_files) as mounted:
        for number, lose in enumerate(LOSSES):
            path, other = mounted.merged / f"file{number}", mounted.merged / f"other{number}"
            fd = os.open(path, access)
            try:
                assert os.fstat(fd).st_nlink == 1
                lose(path, other)
                found = [os.fstat(fd).st_nlink]
                assert os.pread(fd, 100, 0) == b"of a lower"
                found.append(os.fstat(fd).st_nlink)
                if access == os.O_RDWR:
                    os.write(fd, b"OF")
                    found.append(os.fstat(fd).st_nlink)
                os.fchmod(fd, 0o640)
                found.append(os.fstat(fd).st_nlink)
                assert found == [0] * len(found), number
                # linkat(2): what has no link left gets none (vfs_link()).
                at = os.open(mounted.merged, os.O_PATH)
                link = partial(os.link, f"/proc/self/fd/{fd}", "again", dst_dir_fd=at, follow_symlinks=True)
                assert errno_of(link) == "ENOENT"
                os.close(at)
            finally:
                os.close(fd)

"""Each capability that a daemon keeps is needed: without it something is not as on overlayfs.

A row of the table is what one capability is for. A daemon that would keep one for nothing fails here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.rig import program, run
from tests.support.mounts import REPOSITORY, loop_fs, make_directories, needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import in_thread_of
from unionfs.daemon.privileges import KEPT
from unionfs.linux import fileattr, process

pytestmark = [needs_root, needs_fuse, one_transport]

EVE = 712345
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""The value of security.capability for cap_net_bind_service+ep."""

JOURNAL_DATA = 0x4000
"""FS_JOURNAL_DATA_FL, the `j` of chattr(1)."""

NOT_SHOWN = {"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN"}
"""Smack's, and for labels that SELinux's policy does not have: no such machine is at hand."""

Outcome = object


@dataclass(frozen=True)
class Case:
    """What is done with a union, after what was prepared in its layers, and what comes of it."""

    act: Callable[[Path], Outcome]
    wanted: Outcome
    prepare: Callable[[Path], None] = lambda base: None


def by_eve(action: Callable[[], Outcome]) -> Outcome:
    return in_thread_of(EVE, [], action)


def owned(base: Path) -> None:
    """An object of Eve's in each layer, set-id bits in the lower."""
    for layer in ("lower", "upper"):
        path = base / layer / f"eves-{layer}"
        path.write_text("data")
        os.chown(path, EVE, EVE)
        path.chmod(0o2775 if layer == "lower" else 0o600)
        (base / layer).chmod(0o777)


def copied_up(base: Path) -> None:
    (base / "lower/file").write_text("data")
    with union(base, ""):
        (base / "merged/file").chmod(0o600)


def immutable(base: Path) -> None:
    path = base / "upper/file"
    path.touch()
    _set_flags(path, fileattr.FS_IMMUTABLE_FL)


def _set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fileattr.set_flags(fd, flags)
    finally:
        os.close(fd)


def new_files_owner(base: Path) -> Outcome:
    path = base / "merged/new"
    by_eve(path.touch)
    st = path.stat()
    return st.st_uid, st.st_gid


def listed_by_an_administrator(base: Path) -> Outcome:
    """By a process that is Eve's and has CAP_SYS_ADMIN."""
    os.setxattr(base / "merged/eves-upper", "trusted.note", b"")
    words = ["--reuid", str(EVE), "--regid", str(EVE), "--clear-groups"]
    words += ["--inh-caps=+sys_admin", "--ambient-caps=+sys_admin"]
    look = "import os, sys; print('trusted.note' in os.listxattr(sys.argv[1]))"
    done = subprocess.run(
        ["setpriv", *words, "/usr/bin/python3", "-c", look, base / "merged/eves-upper"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def set_capability(base: Path) -> Outcome:
    path = base / "merged/eves-lower"
    os.setxattr(path, "security.capability", CAPABILITY)
    return os.getxattr(path, "security.capability")


def mode_after_copy_up(base: Path) -> Outcome:
    path = base / "merged/eves-lower"
    os.utime(path, (1, 1))
    return stat.S_IMODE(path.stat().st_mode)


def owner_after_copy_up(base: Path) -> Outcome:
    (base / "merged/eves-lower").chmod(0o700)
    return (base / "upper/eves-lower").stat().st_uid


CASES = {
    "CAP_CHOWN": Case(owner_after_copy_up, EVE, owned),
    "CAP_DAC_OVERRIDE": Case(
        lambda base: by_eve(lambda: (base / "merged/eves-upper").write_text("more")), 4, owned
    ),
    "CAP_DAC_READ_SEARCH": Case(
        lambda base: (base / "merged/file").stat().st_ino == (base / "lower/file").stat().st_ino,
        True,
        copied_up,
    ),
    "CAP_FOWNER": Case(lambda base: by_eve(lambda: (base / "merged/eves-upper").chmod(0o640)), None, owned),
    "CAP_FSETID": Case(mode_after_copy_up, 0o2775, owned),
    "CAP_SETGID": Case(new_files_owner, (EVE, EVE), owned),
    "CAP_SETUID": Case(new_files_owner, (EVE, EVE), owned),
    "CAP_LINUX_IMMUTABLE": Case(lambda base: _set_flags(base / "merged/file", 0), None, immutable),
    "CAP_SYS_PTRACE": Case(listed_by_an_administrator, "True", owned),
    "CAP_SYS_ADMIN": Case(owner_after_copy_up, EVE, owned),
    # Quotas, too, which root's processes and kernel overlayfs may exceed.
    "CAP_SYS_RESOURCE": Case(lambda base: _set_flags(base / "merged/eves-upper", JOURNAL_DATA), None, owned),
    "CAP_MKNOD": Case(
        lambda base: os.mknod(base / "merged/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)), None
    ),
    "CAP_SETFCAP": Case(set_capability, CAPABILITY, owned),
}


@contextlib.contextmanager
def union(base: Path, without: str) -> Iterator[None]:
    """A mount whose daemon gives up one capability more."""
    mask = f"import unionfs.daemon.privileges as p; p.MASK &= ~{1 << KEPT[without] if without else 0}"
    subprocess.run(program(mask, base), cwd=REPOSITORY, check=True, timeout=60)
    try:
        yield
    finally:
        run("umount", base / "merged")


@pytest.fixture
def disk() -> Iterator[Path]:
    """An ext4, which has all flags of files."""
    with loop_fs("ext4") as where:
        where.parent.chmod(0o755)  # for Eve
        yield where


def outcome(base: Path, case: Case, without: str) -> Outcome:
    make_directories(base)
    case.prepare(base)
    try:
        with union(base, without):
            try:
                return case.act(base)
            except OSError as error:
                return errno.errorcode[error.errno or 0]
    finally:
        with contextlib.suppress(OSError):
            _set_flags(base / "upper/file", 0)


@pytest.mark.parametrize("capability", CASES)
def test_without_it_something_fails(disk: Path, capability: str, transport: str) -> None:
    case = CASES[capability]
    if not process.has_capability(KEPT[capability]):
        pytest.skip("this process does not have it either")
    assert outcome(disk / "with", case, "") == case.wanted
    lost = outcome(disk / "without", case, capability)
    print(f"without {capability}: {lost!r}, with it {case.wanted!r}")
    assert lost != case.wanted


def test_each_one_that_is_kept_has_its_case() -> None:
    assert CASES.keys() | NOT_SHOWN == KEPT.keys()

"""A union that an ordinary user mounts himself: fixed seeds of the oracle, and what it has found once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from testing.oracle import places
from testing.oracle.campaign import Campaign, campaign
from testing.oracle.case import Case, Config, Entry, Op, Stack
from testing.oracle.operations import Outcome
from testing.oracle.places import GROUPS, UID, Places
from testing.oracle.sides import Kernel, PyUnionFS, Side, SideError, Union
from testing.oracle.worker import Worker
from tests.support import mounts
from tests.support.mounts import environment, needs_fuse, needs_overlayfs
from tests.support.users import user_namespaces
from unionfs.linux import fileattr

OPERATIONS = 150
SEEDS = {"ext4": range(3), "xfs": range(10, 12), "tmpfs": range(20, 23)}
OFFSET = {"direct": 0, "pyfuse3": 100}
CONFIG = Config("tmpfs", redirect=False, own=True)

pytestmark = [
    needs_overlayfs,
    needs_fuse,
    pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3"),
    pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces"),
]


@pytest.mark.parametrize("fs", SEEDS)
def test_same_as_kernel_overlayfs(fs: str, transport: str, tmp_path: Path) -> None:
    with campaign(fs, Kernel(), PyUnionFS(), ops=OPERATIONS, own=True) as field:
        for seed in SEEDS[fs]:
            finding = field.try_seed(seed + OFFSET[transport], replace(CONFIG, fs=fs))
            if finding is not None:
                finding = field.minimised(finding, seconds=30)
                finding.case.save(tmp_path / "case")
                pytest.fail(f"replay: {tmp_path / 'case'}\n{finding.report()}")


@contextmanager
def field(ops: int = OPERATIONS) -> Iterator[Campaign]:
    with campaign("tmpfs", Kernel(), PyUnionFS(), ops=ops, own=True) as made:
        yield made


def case(lower: list[Entry], *ops: Op, above: tuple[Entry, ...] = ()) -> Case:
    """One of a lower (and another one above it) that is the user's, and what he does."""
    stacks = (Stack(), *([Stack()] if above else []), Stack())
    roots = [Entry(number, b"", "dir", 0o755) for number in (*range(len(stacks) - 1), -1)]
    entries = [entry._replace(uid=UID, gid=GROUPS[0]) for entry in (*roots, *lower, *above)]
    return Case(1, CONFIG, stacks, tuple(entries), tuple(op._replace(uid=UID) for op in ops))


NOTE = (("user.note", b"kept"), ("user.more", b"m" * 3000))
CHANGES = (
    Op("chmod", (b"/0", 0o644)),
    Op("chmod", (b"/1", 0o311)),
    Op("chown", (b"/2", -1, GROUPS[1], True)),
    Op("utime", (b"/3", 10**9, 10**9, True)),
    Op("rename", (b"/4", b"/renamed", 0)),
    Op("link", (b"/5", b"/linked")),
    Op("removexattr", (b"/6", "user.note", True)),
    Op("removexattr", (b"/7", "user.none", True)),
    Op("setxattr", (b"/8", "user.note", b"new", os.XATTR_CREATE, True)),
    Op("setxattr", (b"/9", "user.none", b"new", os.XATTR_REPLACE, True)),
    Op("open", (b"/10", os.O_WRONLY | os.O_TRUNC, 0, 0)),
)
"""Each of a file of its own."""


@pytest.mark.parametrize("mode", (0o000, 0o333), ids=oct)
def test_closed_lower_files_keep_their_attributes(mode: int, transport: str) -> None:
    """getxattr(2) of `user.` ones asks for read permission, which the mode denies its owner, too."""
    names = [b"%d" % number for number in range(len(CHANGES))]
    lower = [Entry(0, name, "file", mode, size=30, chunks=((0, 30, 7),), xattrs=NOTE) for name in names]
    copied_up = [Op("chmod", (b"/" + name, mode)) for name in names]
    with field() as campaign:
        for before in ([], copied_up):
            finding = campaign.try_case(case(lower, *before, *CHANGES))
            assert finding is None, finding.report()


@pytest.mark.parametrize("mode", (0o111, 0o311, 0o000), ids=oct)
def test_closed_lower_directories_keep_their_attributes(mode: int, transport: str) -> None:
    lower = [
        Entry(0, b"d", "dir", mode, xattrs=NOTE),
        *([Entry(0, b"d/below", "file")] if mode else ()),
    ]
    below = Op("utime", (b"/d/below", 10**9, 10**9, True))
    with field() as campaign:
        for op in (Op("chmod", (b"/d", 0o755)), Op("utime", (b"/d", 10**9, 10**9, True)), below):
            finding = campaign.try_case(case(lower, op))
            assert finding is None, finding.report()


@pytest.mark.parametrize("mode", (0o111, 0o311), ids=oct)
def test_closed_lower_directories_are_opaque_as_they_say(mode: int, transport: str) -> None:
    lower = [Entry(0, b"d", "dir", 0o755), Entry(0, b"d/hidden", "file"), Entry(0, b"d/e", "dir", 0o755)]
    marks = (("user.overlay.opaque", b"y"),)
    above = (Entry(1, b"d", "dir", mode, xattrs=marks), Entry(1, b"d/shown", "file"))
    ops = [Op("stat", (b"/d/hidden", True)), Op("stat", (b"/d/shown", True)), Op("mkdir", (b"/d/e", 0o755))]
    with field() as campaign:
        finding = campaign.try_case(case(lower, *ops, Op("chmod", (b"/d", 0o755)), above=above))
        assert finding is None, finding.report()


def test_a_closed_lower_directory_is_listed_without_types_that_nobody_knows(transport: str) -> None:
    """One that may be read and not be searched: over pyfuse3 all in it was a file."""
    lower = [Entry(0, b"d", "dir", 0o444), Entry(0, b"d/e", "dir", 0o755), Entry(0, b"d/f", "file")]
    look = Op("list", (b"/d",))
    with field() as campaign:
        finding = campaign.try_case(case(lower, look, Op("chmod", (b"/d", 0o755)), look))
        assert finding is None, finding.report()


def test_a_link_of_what_lies_in_a_closed_directory_is_listed(transport: str) -> None:
    """The object is reached by its first name; by the other, its number and type were unknown."""
    made = [
        Op("mkdir", (b"/d", 0o755)),
        Op("symlink", (b"target", b"/d/s")),
        Op("link", (b"/d/s", b"/s")),
        Op("put", (b"/d/f", os.O_WRONLY | os.O_CREAT, 0o644, 0, b"x")),
        Op("link", (b"/d/f", b"/f")),
        Op("chmod", (b"/d", 0o222)),
    ]
    with field() as campaign:
        finding = campaign.try_case(case([], *made, Op("list", (b"/",)), Op("read", (b"/f", 0, 10))))
        assert finding is None, finding.report()


@pytest.mark.parametrize("mode", (0o555, 0o577), ids=oct)
def test_a_root_that_its_owner_may_not_write_is_mounted_again(mode: int, transport: str) -> None:
    with union() as made:
        create = Op("put", (b"/f", os.O_WRONLY | os.O_CREAT, 0o644, 0, b"x"))
        assert performed(made, PyUnionFS(), Op("chmod", (b"/", mode)))[0][0] == "ok"
        for side in (Kernel(), PyUnionFS()):
            again = performed(made, side, create, Op("chmod", (b"/", 0o755)), create, Op("unlink", (b"/f",)))
            performed(made, side, Op("chmod", (b"/", mode)))
            assert [outcome if outcome[0] == "error" else "ok" for outcome in again] == [
                ("error", "EACCES"),
                "ok",
                "ok",
                "ok",
            ]


# --- layers that other mounts have used ---------------------------------------------------------------


@contextmanager
def union(fs: str = "tmpfs") -> Iterator[Union]:
    """Empty layers of the user's."""
    with mounts.loop_fs(fs, 200 << 20) as base, places.own_places([base]) as own:
        directories = [base / name for name in ("lower", "upper", "work", "merged")]
        for directory in directories:
            directory.mkdir()
            os.chown(directory, UID, GROUPS[0])
        lower, upper, work, merged = directories
        yield Union((lower,), upper, work, merged, places=own)


def performed(made: Union, side: Side, *ops: Op) -> list[Outcome]:
    """What comes of it when the user does this in the union."""
    worker = Worker(side.place(made.places))
    try:
        with side.mount(made, ["userxattr"]):
            worker.enter(made.merged)
            outcomes = [worker.perform(op._replace(uid=UID)) for op in ops]
            worker.leave()
    finally:
        worker.close()
    return outcomes


def checked(own: Places, made: Union, *words: str) -> subprocess.CompletedProcess[str]:
    """What `pyunionfs check` says to the user."""
    directories = map(str, (*made.lowers, made.upper, made.work))
    return subprocess.run(
        [sys.executable, "-m", "unionfs", "check", *words, *directories],
        env=environment(),
        text=True,
        capture_output=True,
        preexec_fn=own.fuse.enter,
    )


def test_layers_of_the_kernels_are_mounted(transport: str) -> None:
    """The kernel has left work with mode 0, and a whiteout in there."""
    with union() as made:
        (made.lowers[0] / "gone").touch()
        os.chown(made.lowers[0] / "gone", UID, GROUPS[0])
        assert performed(made, Kernel(), Op("unlink", (b"/gone",))) == [("ok", None)]
        assert (made.work / "work").stat().st_mode & 0o777 == 0
        said = checked(made.places, made)
        assert said.returncode == 0, said.stdout
        assert performed(made, PyUnionFS(), Op("list", (b"/",))) == [("ok", [])]


def test_volatile_layers_of_the_kernels_are_refused_until_they_are_accepted(transport: str) -> None:
    with union() as made:
        with Kernel().mount(made, ["userxattr", "volatile"]):
            pass
        said = checked(made.places, made)
        assert "a volatile mount used this upper" in said.stdout
        with pytest.raises(SideError, match="was used by a volatile mount"):
            performed(made, PyUnionFS())
        said = checked(made.places, made, "--repair", "--accept-volatile")
        assert said.returncode == 0, said.stdout
        assert performed(made, PyUnionFS(), Op("list", (b"/",))) == [("ok", [])]


@pytest.mark.usefixtures("transport")
def test_flags_of_closed_lower_objects_are_copied_up() -> None:
    """chattr(1)'s `S`, which no statx(2) tells of."""
    flags = []
    for side in (Kernel(), PyUnionFS()):
        with union("ext4") as made:
            directory, file = made.lowers[0] / "d", made.lowers[0] / "f"
            directory.mkdir()
            file.touch()
            for path in (directory, file):
                with opened(path) as fd:
                    fileattr.set_flags(fd, fileattr.FS_SYNC_FL)
                os.chown(path, UID, GROUPS[0])
                path.chmod(0o111)
            ops = [Op("utime", (path, 10**9, 10**9, True)) for path in (b"/d", b"/f")]
            assert [outcome[0] for outcome in performed(made, side, *ops)] == ["ok", "ok"]
            found = []
            for name in ("d", "f"):
                with opened(made.upper / name) as fd:
                    found.append(fileattr.get_flags(fd) & fileattr.FS_SYNC_FL)
            flags.append(found)
    assert flags[0] == flags[1] == [fileattr.FS_SYNC_FL] * 2


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)

"""setuid, setgid and security.capability: who loses them by which change, as on kernel overlayfs.

The kernel makes a passthrough write with the daemon's credentials, which would leave the bits where they are;
a file may also get them while it is open for writing already.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.data_rig import WAYS, Side, fallocate, in_thread, side
from tests.support.mounts import needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport
from tests.support.users import become

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

USER, FRIEND, GROUP = 2001, 2002, 2100
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
MODES = (0o4777, 0o2777, 0o2767, 0o6777, 0o777)
DATA = b"set-id" * 2000


def write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"changed")
    os.close(fd)


def append(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"changed")
    os.close(fd)


def write_direct(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        os.writev(fd, [page])
    os.close(fd)


def write_nothing(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"")
    os.close(fd)


def map_and_write(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        view[:7] = b"changed"
        view.flush()
    os.close(fd)


def cut_by_descriptor(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 100)
    os.close(fd)


def allocate(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    fallocate(fd, 0, 0, 20000)
    os.close(fd)


def copy_into(path: Path) -> None:
    source, target = os.open(path.parent / "source", os.O_RDONLY), os.open(path, os.O_WRONLY)
    assert os.copy_file_range(source, target, 100) == 100
    os.close(target)
    os.close(source)


HOWS: dict[str, Callable[[Path], object]] = {
    "write": write,
    "append": append,
    "O_DIRECT": write_direct,
    "nothing": write_nothing,
    "mmap": map_and_write,
    "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "truncate": lambda path: os.truncate(path, 100),
    "ftruncate": cut_by_descriptor,
    "fallocate": allocate,
    "copy_file_range": copy_into,
    "chown": lambda path: os.chown(path, -1, GROUP),
    "only open": lambda path: os.close(os.open(path, os.O_RDWR)),
}

WHO = {"root": (0, ()), "stranger": (USER, ()), "member": (FRIEND, (GROUP,))}
# The layer that the file lies in; whether somebody reads it meanwhile; whether it has a capability.
STATES = [("lower", False, False), ("lower", True, True), ("upper", True, False), ("upper", True, True)]
CASES = [
    (f"{layer}-{reads:d}-{capable:d}-{mode:o}-{who}", layer, reads, capable, mode, who)
    for (layer, reads, capable), mode, who in itertools.product(STATES, MODES, WHO)
]


def populate(lower: Path, upper: Path) -> None:
    for directory in (lower, upper):
        for how in HOWS:
            (directory / how).mkdir()
            (directory / how / "source").write_bytes(b"other" * 1000)
            (directory / how / "source").chmod(0o644)
    for how, (name, layer, _, capable, mode, _) in itertools.product(HOWS, CASES):
        path = (lower if layer == "lower" else upper) / how / name
        path.write_bytes(DATA)
        # The stranger owns none of them; a chown by an owner is another matter, tested with the group.
        os.chown(path, FRIEND if how == "chown" else 0, GROUP)
        path.chmod(mode)
        if capable:
            os.setxattr(path, "security.capability", CAPABILITY)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Side]:
    with side("overlayfs", populate) as mounted:
        yield mounted


@pytest.fixture(scope="module", params=["default", "passthrough", "coherent", "cached", "checked"])
def union(request: pytest.FixtureRequest) -> Iterator[Side]:
    with side(request.param, populate) as mounted:
        yield mounted


def has_capability(path: Path) -> bool:
    return "security.capability" in os.listxattr(path)


def change_all(mounted: Side, how: str) -> dict[str, tuple[str, str, bool]]:
    """What each file is like after the change: the outcome, its mode, whether it has its capability."""
    found = {}
    for name, _, reads, _, _, who in CASES:
        path = mounted.merged / how / name
        reader = os.open(path, os.O_RDONLY) if reads else -1
        if reads:
            os.pread(reader, 10, 0)
        uid, groups = WHO[who]
        outcome = in_thread(functools.partial(HOWS[how], path), uid, groups)
        found[name] = (outcome, oct(path.stat().st_mode), has_capability(path))
        if reads:
            os.close(reader)
        really = mounted.upper / how / name
        if really.exists():
            assert oct(really.stat().st_mode) == found[name][1], f"{how} {name}: upper has another mode"
            assert has_capability(really) == found[name][2], f"{how} {name}: upper's capability"
    return found


@pytest.fixture(scope="module")
def expected(oracle: Side) -> dict[str, dict[str, tuple[str, str, bool]]]:
    return {how: change_all(oracle, how) for how in HOWS}


@pytest.mark.parametrize("how", HOWS)
def test_a_change_takes_set_ids_away_as_on_overlayfs(
    union: Side, expected: dict[str, dict[str, tuple[str, str, bool]]], how: str
) -> None:
    found = change_all(union, how)
    wrong = {name: (found[name], wanted) for name, wanted in expected[how].items() if found[name] != wanted}
    assert not wrong


# Given while somebody has the file open for writing already: (uid of the writer, uid of who gives them).
LATE = [(USER, 0), (0, 0), (USER, USER)]


def late(mounted: Side, name: str, writer: int, mode: int) -> tuple[str, str]:
    """A writer opens the file and writes; the mode is given; he writes again through his descriptor."""
    path = mounted.merged / "late" / name
    to_writer, to_us = os.pipe(), os.pipe()

    def work() -> None:
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"before", 0)
        os.write(to_us[1], b"x")
        os.read(to_writer[0], 1)
        os.pwrite(fd, b"after!", 0)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if writer:
                become(writer)
            work()
            status = 0
        finally:
            os._exit(status)
    os.close(to_us[1])  # now the reading ends when the writer does
    assert os.read(to_us[0], 1), "the writer has failed"
    path.chmod(mode)
    given = oct(path.stat().st_mode)
    os.write(to_writer[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (*to_writer, to_us[0]):
        os.close(fd)
    assert path.read_bytes() == b"after!" + DATA[6:]
    return given, oct(path.stat().st_mode)


@pytest.mark.parametrize("way", ["default", "passthrough", "coherent", "cached"])
@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_set_ids_given_while_the_file_is_open_for_writing(way: str, layer: str) -> None:
    cases = list(itertools.product((0, USER), MODES))

    def with_late(lower: Path, upper: Path) -> None:
        where = lower if layer == "lower" else upper
        (where / "late").mkdir()
        for writer, mode in cases:
            path = where / "late" / f"{writer}-{mode:o}"
            path.write_bytes(DATA)
            path.chmod(0o777)

    outcomes = {}
    for one in ("overlayfs", way):
        with side(one, with_late) as mounted:
            outcomes[one] = {case: late(mounted, f"{case[0]}-{case[1]:o}", *case) for case in cases}
    assert outcomes[way] == outcomes["overlayfs"]


def test_root_removes_them_by_a_chown_that_leaves_both_ids() -> None:
    """Also while the file is open for writing, where root's writes leave them.

    Setgid without group execute stays, whichever group the file has (in_group_or_capable()).
    """

    def with_files(lower: Path, upper: Path) -> None:
        for directory, mode, group in itertools.product((lower, upper), MODES, (0, 2000)):
            path = directory / f"{directory.name}-{mode:o}-{group}"
            path.write_bytes(DATA)
            os.chown(path, -1, group)
            path.chmod(mode)

    found: dict[str, dict[str, tuple[str, str]]] = {}
    for way in ("overlayfs", "default", "passthrough", "coherent", "cached"):
        with side(way, with_files) as mounted:
            modes = found[way] = {}
            for path in sorted(mounted.merged.iterdir()):
                fd = os.open(path, os.O_WRONLY)
                os.write(fd, b"by root")
                written = os.fstat(fd).st_mode
                os.fchown(fd, -1, -1)
                modes[path.name] = (oct(written), oct(os.fstat(fd).st_mode))
                os.close(fd)
    wanted = found["overlayfs"]
    assert {way: modes for way, modes in found.items() if modes != wanted} == {}


def test_a_stranger_takes_nothing_away_without_writing() -> None:
    """chown(-1, -1) by anybody looks to the daemon like what comes before a write."""

    def with_file(lower: Path, upper: Path) -> None:
        (upper / "file").write_bytes(DATA)
        (upper / "file").chmod(0o4755)

    with side("passthrough", with_file) as mounted:
        path = mounted.merged / "file"
        in_thread(lambda: os.chown(path, -1, -1), USER)
        assert path.stat().st_mode & 0o7777 == 0o4755
        assert (mounted.upper / "file").stat().st_mode & 0o7777 == 0o4755


MADE: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(DATA),
    "dir": lambda path: path.mkdir(),
    "symlink": lambda path: path.symlink_to("nowhere"),
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: os.mknod(path, stat.S_IFBLK | 0o644, os.makedev(241, 5)),
}
OWNERS = {"root": (0, ()), "owner": (FRIEND, ()), "member": (USER, (GROUP,)), "stranger": (USER, ())}
ALL_MODES = (0o644, 0o755, 0o2644, 0o2755, 0o4644, 0o6755, 0o6644, 0o2666, 0o4777)


def objects(lower: Path, upper: Path) -> None:
    for directory, kind, mode, who in itertools.product((lower, upper), MADE, ALL_MODES, OWNERS):
        for capable in (False, True)[: 2 if kind == "file" else 1]:
            path = directory / f"{directory.name} {kind} {mode:o} {who} {capable}"
            MADE[kind](path)
            os.chown(path, FRIEND, GROUP, follow_symlinks=False)
            if kind != "symlink":
                path.chmod(mode)
            if capable:
                os.setxattr(path, "security.capability", CAPABILITY)


@pytest.mark.parametrize("way", WAYS)
def test_a_chown_that_leaves_both_ids_is_a_change(way: str) -> None:
    """It copies up and sets the ctime, of whatever it is and by whomever, unless it is refused."""
    found: dict[str, dict[str, list[object]]] = {}
    for one in ("overlayfs", way):
        with side(one, objects) as mounted:
            changed = found[one] = {}
            for path in sorted(mounted.merged.iterdir()):
                uid, groups = OWNERS[path.name.split()[3]]
                before = path.lstat()
                chown = functools.partial(os.chown, path, -1, -1, follow_symlinks=False)
                outcome = in_thread(chown, uid, groups)
                after = path.lstat()
                really = mounted.upper / path.name
                attributes = os.listxattr(path, follow_symlinks=False)
                changed[path.name] = [
                    *(outcome, oct(after.st_mode), after.st_mtime_ns == before.st_mtime_ns),
                    *(after.st_ctime_ns > before.st_ctime_ns, os.path.lexists(really)),
                    "security.capability" in attributes,
                ]
                if outcome != "ok" and path.name.endswith("True"):
                    # fuse.ko removes the capability before it asks (docs/semantics.md).
                    del changed[path.name][3:]
    wanted = found["overlayfs"]
    assert {name: one for name, one in found[way].items() if one != wanted[name]} == {}, wanted


# Access ACLs as (owner, named user, owning group, named group, mask, others); None: no such entry.
ACLS = {
    "user": (7, 7, 0, None, 7, 0),
    "user, masked": (7, 7, 0, None, 5, 0),
    "user, others": (7, 5, 7, None, 7, 7),
    "owning group": (7, None, 6, 0, 7, 0),
    "named group": (7, None, 0, 6, 7, 0),
    "groups, masked": (7, None, 6, 6, 1, 7),
    "others": (7, None, 0, None, None, 6),
    "no group, others": (7, None, 0, 0, 7, 6),
}
NAMED_GROUP = 2200
BY_ACL = {
    "named": (USER, ()),
    "member": (FRIEND, (GROUP,)),
    "in named group": (FRIEND, (NAMED_GROUP,)),
    "other": (FRIEND, ()),
}
WRITES = ("write", "truncate", "ftruncate", "only open")


def access_acl(
    owner: int, user: int | None, group: int, named: int | None, mask: int | None, others: int
) -> bytes:
    tags = [
        (1, owner, -1),
        (2, user, USER),
        (4, group, -1),
        (8, named, NAMED_GROUP),
        (16, mask, -1),
        (32, others, -1),
    ]
    packed = [
        struct.pack("<HHI", tag, given, number & 0xFFFFFFFF)
        for tag, given, number in tags
        if given is not None
    ]
    return struct.pack("<I", 2) + b"".join(packed)


def with_acls(lower: Path, upper: Path) -> None:
    for directory, named, who, how in itertools.product((lower, upper), ACLS, BY_ACL, WRITES):
        path = directory / f"{directory.name} {named}: {who}" / how
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(DATA)
        os.chown(path, 0, GROUP)
        path.chmod(0o6711)
        os.setxattr(path, "system.posix_acl_access", access_acl(*ACLS[named]))


@pytest.mark.parametrize("way", [*WAYS, "written through"])
def test_writes_that_only_an_acl_allows_take_set_ids_away(way: str) -> None:
    """Where opens are silent, what comes before such a write looks like a chown(2) that leaves both ids."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    through = way == "written through"
    for one in ("overlayfs", "cached" if through else way):
        options = ["writeback=0"] if through and one != "overlayfs" else []
        with side(one, with_acls, options=options) as mounted:
            changed = found[one] = {}
            for path in sorted(mounted.merged.glob("*/*")):
                uid, groups = BY_ACL[path.parent.name.split(": ")[1]]
                outcome = in_thread(functools.partial(HOWS[path.name], path), uid, groups)
                changed[f"{path.parent.name} {path.name}"] = (outcome, oct(path.stat().st_mode))
    wanted, got = found.values()
    assert {name: (one, wanted[name]) for name, one in got.items() if one != wanted[name]} == {}

"""An ordinary user on a mount of root's may do what kernel overlayfs allows on the same layers.

And the daemon beside it: nothing of it can be looked at, ended or kept from serving others.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import unionfs
from tests.mount.rig import eventually, run
from tests.support.mounts import (
    Daemon,
    command,
    environment,
    loop_fs,
    make_directories,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
)
from tests.support.users import as_user, in_thread_of
from unionfs.control import run_directory, status_socket
from unionfs.linux import fileattr
from unionfs.linux.mount import mount_at

pytestmark = [needs_root, needs_fuse]

EVE, ANN = 712345, 712346
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def layers(base: Path) -> list[Path]:
    """A tree of root's, of Ann's and of Eve's, in the lower and in upper."""
    made = make_directories(base)
    for layer in made[:2]:
        layer.chmod(0o755)
        for owner, uid in (("roots", 0), ("anns", ANN), ("eves", EVE)):
            place = layer / f"{owner}-{layer.name}"
            place.mkdir()
            for name, mode in (("open", 0o644), ("closed", 0o600), ("setuid", 0o4755), ("public", 0o666)):
                (place / name).write_text(owner)
                os.chown(place / name, uid, uid)
                (place / name).chmod(mode)
            os.setxattr(place / "open", "trusted.secret", b"s")
            os.setxattr(place / "open", "user.note", b"n")
            os.chown(place, uid, uid)
        (layer / f"sticky-{layer.name}").mkdir()
        (layer / f"sticky-{layer.name}").chmod(0o1777)
        (layer / f"sticky-{layer.name}" / "anns").touch()
        os.chown(layer / f"sticky-{layer.name}" / "anns", ANN, ANN)
    return made


def immutable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fileattr.set_flags(fd, fileattr.FS_IMMUTABLE_FL)
    finally:
        os.close(fd)


def by_openat(path: Path) -> int:
    """A write by a descriptor that was opened to read."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.write(fd, b"x")
    finally:
        os.close(fd)


ON_FILES: dict[str, Callable[[Path], object]] = {
    "read": Path.read_bytes,
    "write": lambda path: path.open("r+b").close(),
    "append": lambda path: path.open("ab").close(),
    "truncate": lambda path: os.truncate(path, 1),
    "write by a reader": by_openat,
    "chmod": lambda path: path.chmod(0o4777),
    "chown": lambda path: os.chown(path, EVE, EVE),
    "chgrp": lambda path: os.chown(path, -1, ANN),
    "times": lambda path: os.utime(path, (1, 1)),
    "touch": os.utime,
    "immutable": immutable,
    "marks": lambda path: os.setxattr(path, "trusted.overlay.metacopy", b""),
    "own marks": lambda path: os.setxattr(path, "user.overlay.opaque", b"y"),
    "trusted": lambda path: os.getxattr(path, "trusted.secret"),
    "names": lambda path: sorted(os.listxattr(path)),
    "note": lambda path: os.setxattr(path, "user.note", b"eve"),
    "capability": lambda path: os.setxattr(path, "security.capability", CAPABILITY),
    "acl": lambda path: os.setxattr(path, "system.posix_acl_access", acl(7)),
    "hard link": lambda path: os.link(path, path.parents[1] / f"sticky-{path.parent.name[5:]}" / "linked"),
    "rename": lambda path: path.rename(path.with_name("renamed")),
    "unlink": Path.unlink,
}


def acl(rights: int) -> bytes:
    none = 0xFFFFFFFF
    entries = ((1, 7, none), (2, rights, EVE), (4, 4, none), (0x10, 7, none), (0x20, 4, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


ON_DIRECTORIES: dict[str, Callable[[Path], object]] = {
    "mkdir": lambda path: (path / "new").mkdir(),
    "create": lambda path: (path / "created").touch(),
    "device": lambda path: os.mknod(path / "device", stat.S_IFBLK | 0o666, os.makedev(7, 0)),
    "whiteout": lambda path: os.mknod(path / "whiteout", stat.S_IFCHR, 0),
    "fifo": lambda path: os.mkfifo(path / "fifo"),
    "symlink": lambda path: (path / "link").symlink_to("/etc/passwd"),
    "remove another's": lambda path: (path / "anns").unlink(),
    "rename another's": lambda path: (path / "anns").rename(path / "mine"),
    "setgid": lambda path: path.chmod(0o2777),
    "rmdir": Path.rmdir,
}


def answers(merged: Path) -> dict[str, object]:
    """What Eve gets for everything, and what is there afterwards."""
    found: dict[str, object] = {}
    for layer in ("lower", "upper"):
        for owner in ("roots", "anns", "eves"):
            for name in ("open", "closed", "setuid", "public"):
                path = merged / f"{owner}-{layer}" / name
                for what, act in ON_FILES.items():
                    found[f"{what} {path.relative_to(merged)}"] = answer(act, path)
        for directory in ("roots", "anns", "eves", "sticky"):
            path = merged / f"{directory}-{layer}"
            for what, act in ON_DIRECTORIES.items():
                found[f"{what} {path.relative_to(merged)}"] = answer(act, path)
    for path in sorted(merged.rglob("*")):
        st = path.lstat()
        found[str(path.relative_to(merged))] = st.st_mode, st.st_uid, st.st_gid, st.st_nlink
    return found


def answer(act: Callable[[Path], object], path: Path) -> object:
    def attempt() -> object:
        try:
            found = act(path)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return found if isinstance(found, bytes | int | list) else "done"

    return in_thread_of(EVE, [], attempt)


@pytest.fixture
def base() -> Iterator[Path]:
    """An ext4, which has all that is asked for."""
    with loop_fs("ext4") as where:
        where.parent.chmod(0o755)
        yield where


@needs_overlayfs
def test_every_attempt_is_answered_as_by_overlayfs(base: Path, transport: str) -> None:
    theirs = layers(base / "theirs")
    with overlayfs([theirs[0]], theirs[1], theirs[2], theirs[3]) as merged:
        wanted = answers(merged)
    ours = layers(base / "ours")
    with pyunionfs([ours[0]], *ours[1:]):
        found = answers(ours[3])
    if transport == "pyfuse3":  # which passes no ioctl(2) on
        refused = {found.pop(what) for what in list(found) if what.startswith("immutable ")}
        assert "done" not in refused
        wanted = {what: each for what, each in wanted.items() if not what.startswith("immutable ")}
    assert {what: (found.get(what), wanted[what]) for what in wanted if found.get(what) != wanted[what]} == {}
    assert found.keys() == wanted.keys()
    # The table would be of no use if Eve could do nothing, or everything.
    assert {"done", "EACCES", "EPERM"} <= {each for each in found.values() if isinstance(each, str)}


@contextmanager
def mounted(space: Path, *options: str, foreground: bool = True) -> Iterator[tuple[Daemon, Path]]:
    lower, upper, work, merged = make_directories(space)
    (lower / "file").write_text("lower")
    with pyunionfs([lower], upper, work, merged, options=options, foreground=foreground) as daemon:
        yield daemon, merged


def test_nothing_of_the_daemon_can_be_looked_at(base: Path, transport: str) -> None:
    """Its descriptors lead to the layers past the mount, and its memory has what others write."""
    with mounted(base / "union") as (daemon, merged):
        # A file of another user's is made by a thread with that user's id for the filesystem.
        merged.chmod(0o777)
        in_thread_of(EVE, [], (merged / "new").touch)
        process = Path(f"/proc/{daemon.pid}")
        for look in (
            lambda: os.listdir(process / "fd"),
            lambda: os.listdir(process / "map_files"),
            lambda: os.readlink(process / "root"),
            lambda: os.readlink(process / "cwd"),
            lambda: (process / "environ").read_bytes(),
            lambda: (process / "maps").read_bytes(),
            lambda: (process / "mem").open("rb").close(),
            lambda: os.kill(daemon.pid, 15),
            lambda: os.listdir(process / "task" / str(daemon.pid) / "fd"),
        ):
            with pytest.raises(PermissionError):
                in_thread_of(EVE, [], look)


def test_the_control_socket_is_roots(space: Path, transport: str) -> None:
    with mounted(space) as (_, merged):
        entry = mount_at(str(merged))
        assert entry is not None
        [daemon] = status_socket.find_daemons(entry)
        directory = Path(run_directory.make_directory() or "")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / daemon.name).stat().st_mode) == 0o600

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(directory / daemon.name))

        connect()
        with pytest.raises(PermissionError):
            in_thread_of(EVE, [], connect)


def test_a_flood_at_the_control_socket_keeps_no_request_waiting(space: Path, transport: str) -> None:
    """By root itself: connections that send garbage, or read nothing, or nothing but a byte now and then."""
    with mounted(space) as (daemon, merged), ExitStack() as clients:
        entry = mount_at(str(merged))
        assert entry is not None
        [found] = status_socket.find_daemons(entry)
        place = f"{run_directory.make_directory()}/{found.name}"
        before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        refused = 0
        for number in range(600):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(place)
            except BlockingIOError:
                refused += 1  # its queue is full for the moment
                continue
            if number % 2:
                # The daemon has sent all by then, and closed its end.
                with suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                    client.send(b"GET / HTTP/1.0\r\n\r\n" + bytes(4096))
            if number % 100 == 0:
                (merged / f"file{number}").write_text("written meanwhile")
                assert (merged / f"file{number}").read_text() == "written meanwhile"
        assert refused < 600
        assert [status["state"] for status in json.loads(run("status", "--json", merged).stdout)] == [
            "serving"
        ]
        # All are answered and let go while their clients still hold on.
        assert eventually(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 5)
        assert eventually(lambda: len(os.listdir(f"/proc/{daemon.pid}/task")) < 50)


def test_a_reader_that_takes_nothing_is_let_go(space: Path, transport: str) -> None:
    """The answer is longer than what a socket holds, for there are many lowers with long names."""
    lowers = []
    for number in range(500):
        lowers.append(space / f"{number}{'l' * 240}" / ("m" * 250))
        lowers[-1].mkdir(parents=True)
    with unionfs.mount(lowers, transport="direct" if transport == "direct" else "pyfuse3") as merged:
        entry = mount_at(str(merged))
        assert entry is not None
        [found] = status_socket.find_daemons(entry)
        before = len(os.listdir(f"/proc/{found.pid}/fd"))
        with ExitStack() as clients:
            for _ in range(20):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(f"{run_directory.make_directory()}/{found.name}")
            assert eventually(lambda: len(os.listdir(f"/proc/{found.pid}/fd")) > before + 1)
            (merged / "new").write_text("written meanwhile")
            assert len(status_socket.query_mount(entry)[0].status or {}) > 10
            # Each has three seconds, in a thread of its own.
            assert eventually(lambda: len(os.listdir(f"/proc/{found.pid}/fd")) <= before + 1)


def test_another_users_mount_is_not_ended(base: Path, user: pwd.struct_passwd, transport: str) -> None:
    with mounted(base / "union") as (_, merged):
        words = as_user(user, "unionfs", "umount", str(merged))
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "only that user or root can unmount it" in done.stderr
        assert (merged / "file").read_text() == "lower"


def test_names_forge_no_line_of_the_log(space: Path, transport: str) -> None:
    """Names, targets and attributes are logged as they are quoted by Python, on one line."""
    forged = "\n2026-01-01T00:00:00.000Z ERROR forged\r\x1b[2J"
    with mounted(space, "debug") as (daemon, merged):
        (merged / f"name{forged}").write_text("x")
        (merged / "link").symlink_to(f"target{forged}")
        os.setxattr(merged / "file", f"user.{forged[:200]}", b"v")
        (merged / f"name{forged}").rename(merged / f"other{forged}")
        with suppress(FileNotFoundError):
            (merged / f"none{forged}").stat()
        assert eventually(lambda: "none" in daemon.log())
        log = daemon.log()
    assert "forged" in log
    assert not [line for line in log.splitlines() if "ERROR forged" in line and line.startswith("2026-01-01")]
    assert "\x1b" not in log
    assert "\r" not in log


@pytest.mark.one_transport
@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_what_is_planted_for_a_log_file_is_refused(space: Path, kind: str, transport: str) -> None:
    """In a directory such as /tmp, also where the kernel does not see to that (fs.protected_symlinks)."""
    lower, upper, work, merged = make_directories(space)
    shared, victim = space / "tmp", space / "victim"
    shared.mkdir()
    shared.chmod(0o1777)
    victim.write_text("precious")
    log = shared / "log"
    log.symlink_to(victim) if kind == "symlink" else os.mkfifo(log)
    os.chown(log, EVE, EVE, follow_symlinks=False)
    words = command("mount", "--log-file", str(log), *map(str, (lower, upper, work, merged)))
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot write the log file" in done.stderr
    assert not merged.is_mount()
    assert victim.read_text() == "precious"


@pytest.mark.one_transport
def test_a_symlink_of_ones_own_leads_to_the_log_file(space: Path, transport: str) -> None:
    lower, upper, work, merged = make_directories(space)
    (space / "link").symlink_to(space / "log")
    words = command("mount", "--log-file", str(space / "link"), *map(str, (lower, upper, work, merged)))
    subprocess.run(words, env=environment(), check=True, timeout=60)
    run("umount", merged)
    assert "is mounted" in (space / "log").read_text()

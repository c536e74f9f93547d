"""Which descriptors each process that a command starts has: those that it is given, and none of the caller's.

The caller has a directory open, inheritable, as a shell has it by `exec 9<`: what gets that reaches
all of the host by `..` from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.container.boxes import TIMEOUT, Shop
from tests.mount.rig import run
from tests.support.mounts import command, environment, make_directories, needs_fuse, needs_root, status_pid
from tests.support.transports import one_transport
from unionfs.cli import mount_helper
from unionfs.errors import MountError
from unionfs.linux import as_owner, user_namespace
from unionfs.registry import credential_helper
from unionfs.transport import fusermount

pytestmark = [needs_root]


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[int]:
    """A directory that is open, and inherited by every process that is started without more ado."""
    place = tmp_path / "secret"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY)
    os.set_inheritable(fd, True)
    yield fd
    os.close(fd)


# --- programs that are started for a user ----------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop") / "store")


def numbers(shop: Shop, secret: int, *words: str) -> list[str]:
    """What a command of the shop prints: the numbers of the descriptors of a program in a container.

    The program is `ls`, whose listing has a descriptor of its own.
    """
    name, *rest = words
    done = subprocess.run(
        shop.words(name, *rest),
        pass_fds=[secret],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\r", "").split()


STANDARD = ["0", "1", "2", "3"]
PROGRAM = ["ls", "/proc/self/fd"]
OPTIONS = {"plain": [], "interactive": ["-i"], "terminal": ["-t"], "without init": ["--no-init"]}


@needs_fuse
@one_transport
@pytest.mark.parametrize("how", OPTIONS)
def test_of_a_containers_program(shop: Shop, secret: int, how: str, transport: str) -> None:
    assert numbers(shop, secret, "run", "--rm", *OPTIONS[how], "box", *PROGRAM) == STANDARD


@needs_fuse
@one_transport
@pytest.mark.parametrize("how", ["plain", "interactive", "terminal"])
def test_of_a_further_program(shop: Shop, secret: int, how: str, transport: str) -> None:
    name = f"job-{how}"
    started = subprocess.Popen(
        shop.words("run", "--name", name, "box", "sh", "-c", "echo here; sleep 1000"),
        pass_fds=[secret],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "here\n"
            assert numbers(shop, secret, "exec", *OPTIONS[how], name, *PROGRAM) == STANDARD
            # The processes of ours that are in the container, too: it may one day look into them.
            launcher = _children(started.pid)[-1]
            first = _children(launcher)[-1]
            assert _links(first) == {"0": "/dev/null", "1": "/dev/null", "2": "/dev/null"}
        finally:
            shop.do("rm", "-f", name)


@needs_fuse
@one_transport
def test_of_a_program_in_the_background(shop: Shop, secret: int, transport: str) -> None:
    words = shop.words(
        "run", "-d", "--name", "back", "box", "sh", "-c", "ls /proc/self/fd >/listed; sleep 1000"
    )
    started = subprocess.run(
        words, pass_fds=[secret], stdout=subprocess.DEVNULL, env=environment(), timeout=TIMEOUT, check=False
    )
    try:
        assert started.returncode == 0
        wait = "until grep -q 3 /listed 2>/dev/null; do sleep 0.1; done; cat /listed"
        assert shop.do("exec", "back", "sh", "-c", wait).split() == STANDARD
    finally:
        shop.do("rm", "-f", "back")


@needs_fuse
def test_of_a_daemon_in_the_background(space: Path, secret: int, transport: str) -> None:
    lower, upper, work, merged = make_directories(space)
    words = command("mount", *map(str, (lower, upper, work, merged)))
    subprocess.run(words, pass_fds=[secret], env=environment(), check=True, timeout=TIMEOUT)
    try:
        links = _links(status_pid(merged))
        assert [links[fd] for fd in "012"] == ["/dev/null"] * 3
        assert os.readlink(f"/proc/self/fd/{secret}") not in links.values()
    finally:
        run("umount", merged)


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _links(pid: int) -> dict[str, str]:
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


# --- helpers ---------------------------------------------------------------------------------------

FAKE = """#!{python} -IS
import os
found = []
for fd in os.listdir("/proc/self/fd"):
    try:
        found.append(fd + " " + os.readlink("/proc/self/fd/" + fd))
    except FileNotFoundError:
        pass  # that of the listing
with open({file!r}, "a") as file:
    file.write("\\n".join(found) + "\\n")
raise SystemExit(1)
"""


class Fake:
    """Programs that note which descriptors they have, and fail."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.file = place / "descriptors"

    def make(self, name: str) -> Path:
        program = self.place / name
        program.write_text(FAKE.format(python=sys.executable, file=str(self.file)))
        program.chmod(0o755)
        return program

    def links(self) -> dict[int, str]:
        """By number, without the standard ones."""
        pairs = (line.split(" ", 1) for line in self.file.read_text().splitlines())
        found = {int(fd): link for fd, link in pairs}
        assert {0, 1, 2} <= found.keys()
        return {fd: link for fd, link in found.items() if fd > 2}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Its programs are found before all others."""
    place = tmp_path / "programs"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return Fake(place)


def mount_by_fusermount() -> None:
    with pytest.raises(MountError):
        fusermount.mount("/nowhere", [])


def unmount_by_fusermount() -> None:
    with pytest.raises(MountError):
        fusermount.unmount("/nowhere", lazy=True)


HELPERS: dict[str, tuple[str, Callable[[], object]]] = {
    "newuidmap": ("newuidmap", lambda: user_namespace._write_maps(os.getpid(), user_namespace.id_maps())),
    "newgidmap": ("newgidmap", lambda: user_namespace._write_maps(os.getpid(), user_namespace.id_maps())),
    "keychain": ("docker-credential-fake", lambda: credential_helper._run("fake", "list", b"")),
    "mount(8)": ("mount", lambda: mount_helper._note_umount_helper("source", "/nowhere")),
    "fusermount3 -u": ("fusermount3", unmount_by_fusermount),
}


@pytest.mark.parametrize("helper", HELPERS)
def test_of_a_helper(fake: Fake, secret: int, helper: str) -> None:
    name, start = HELPERS[helper]
    fake.make(name)
    start()
    assert fake.links() == {}


def test_of_fusermount_that_mounts(fake: Fake, secret: int) -> None:
    """It has the socket by which it passes the descriptor of /dev/fuse."""
    fake.make("fusermount3")
    mount_by_fusermount()
    [link] = fake.links().values()
    assert link.startswith("socket:")


def test_of_the_process_that_opens_as_the_owner(
    fake: Fake, secret: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the directory in which it opens, and a socket for the answer; or the object that it reads."""
    monkeypatch.setattr(sys, "executable", str(fake.make("python")))
    fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(PermissionError):
            as_owner.open_as_owner(fd, b"name", os.O_RDONLY)
        links = fake.links()
        assert links.pop(fd) == str(tmp_path)
        [link] = links.values()
        assert link.startswith("socket:")
        fake.file.unlink()
        with pytest.raises(PermissionError):
            as_owner.attributes_as_owner(fd)
        assert fake.links() == {fd: str(tmp_path)}
    finally:
        os.close(fd)


def test_a_program_that_is_started_without_more_ado_has_it(secret: int) -> None:
    look = "import os, sys; print(os.readlink('/proc/self/fd/' + sys.argv[1]))"
    words = [sys.executable, "-IS", "-c", look, str(secret)]
    done = subprocess.run(words, close_fds=False, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n").endswith("/secret")

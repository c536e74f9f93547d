"""Notes of lent modes that the owner of a work directory makes up: no mount and no repair of root obeys them.

A note that the program wrote says which mode an object of its writer had (`overlay/lend.py`).
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import Stack
from tests.support.mounts import command, environment, needs_root

pytestmark = needs_root

EVE = 712345


def by_mount(stack: Stack) -> None:
    stack.open().close()


def by_repair(stack: Stack) -> None:
    words = command("check", "--repair", *map(str, (stack.lowers[0], stack.upper, stack.work)))
    subprocess.run(words, env=environment(), capture_output=True, timeout=60, check=True)


WAYS: dict[str, Callable[[Stack], None]] = {"mount": by_mount, "check": by_repair}


def modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def work_of_eves(stack: Stack) -> Path:
    """Where notes lie, of the user who can write them."""
    work = stack.work / "work"
    work.mkdir()
    for path in (stack.layers({"low": ""}).upper, stack.work, work):
        os.chown(path, EVE, EVE)
    return work


def note(work: Path, mode: int, path: Path, said: str, number: int = 0) -> None:
    """A note of Eve's that names an object with the mode that it has."""
    st = path.stat()
    place = work / f"#{number:x}~lent"
    os.symlink(f"{mode:o} {stat.S_IMODE(st.st_mode):o} {st.st_ino} {said}", place)
    os.chown(place, EVE, EVE, follow_symlinks=False)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_the_writers_or_not_in_upper_keeps_its_mode(stack: Stack, way: str) -> None:
    work = work_of_eves(stack)
    outside, roots, hers, widened = (
        *(stack.base / "outside", stack.upper / "roots", stack.upper / "hers", stack.upper / "widened"),
    )
    for path in (outside, roots, hers, widened):
        path.touch()
        path.chmod(0o700)
    for path in (outside, hers, widened):  # so that nothing but the place, or the mode, is wrong
        os.chown(path, EVE, EVE)
    link = stack.upper / "link"
    link.symlink_to(stack.base)
    for number, (path, said) in enumerate(
        (
            (outside, "../outside"),
            (outside, "link/outside"),
            (outside, "hers/../../outside"),
            (outside, "x//../outside"),
            (outside, str(outside)),
            (roots, "roots"),
        )
    ):
        note(work, 0o500, path, said, number)
    note(work, 0o4777, widened, "widened", 20)
    note(work, 0o670, widened, "widened", 21)
    note(work, 0o300, hers, "gone//hers", 22)
    WAYS[way](stack)
    assert modes(outside, roots, widened, hers) == [0o700, 0o700, 0o700, 0o300]
    assert os.listdir(work) == []


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_note_is_cleared_away_and_not_waited_for(stack: Stack, way: str) -> None:
    work = work_of_eves(stack)
    os.mkfifo(work / "#1~lent")
    os.mknod(work / "#2~lent", stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero has no end
    (work / "#3~lent" / "below").mkdir(parents=True)
    with (work / "#4~lent").open("wb") as endless:
        endless.truncate(1 << 40)
    for number, text in enumerate(
        (
            b"0 700 1 a\0b",
            b"0 700 1 " + b"x" * 5000,
            b"0 700 " + b"9" * 5000 + b" f",
            b"7" * 5000 + b" 700 1 f",
            b"0 700 1 " + b"a/" * 100_000 + b"b",
            b"",
            b"\xff" * 100,
        ),
        10,
    ):
        (work / f"#{number:x}~lent").write_bytes(text)
    WAYS[way](stack)
    assert os.listdir(work) == []


def test_a_work_directory_of_another_users_becomes_roots(stack: Stack) -> None:
    """Else its owner could replace what is prepared there. The user's own next mount makes another one."""
    work = work_of_eves(stack)
    with stack.open() as view:
        assert (work.stat().st_uid, modes(work)) == (0, [0])
        view.create("new", b"new")
    assert (stack.upper / "new").read_bytes() == b"new"


@pytest.mark.parametrize("where", ["work", "index"])
def test_a_symlink_for_a_directory_in_work_is_refused(stack: Stack, where: str) -> None:
    stack.layers({"low": ""})
    victim = stack.base / "victim"
    (victim / "precious").mkdir(parents=True)
    (stack.work / where).symlink_to(victim)
    words = command("mount", "-o", "index=on", *map(str, (stack.lowers[0], stack.upper, stack.work)))
    done = subprocess.run(
        [*words, str(stack.merged)], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert (os.listdir(victim), modes(victim)) == (["precious"], [0o755])

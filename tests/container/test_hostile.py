"""Trees that want to reach the host: nothing outside is read, written or mounted over, and nothing hangs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.container.boxes import Box, make_tree
from tests.support.mounts import needs_root

pytestmark = needs_root


@pytest.fixture
def box(tmp_path: Path) -> Box:
    tree = tmp_path / "tree"
    make_tree(tree)
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret").write_text("secret")
    return Box(tree)


def up(box: Box) -> str:
    """A path that would lead to the host's directory, if `..` of a root led anywhere."""
    return "../" * 20 + str(box.tree.parent / "host").lstrip("/")


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_a_mountpoint_that_is_no_directory_is_refused(name: str, kind: str, box: Box) -> None:
    if kind == "symlink":
        (box.tree / name).symlink_to("etc")
    else:
        (box.tree / name).touch()
    assert f"/{name}: it is no directory in the container" in box.run("true", status=125)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\0:x:1:1\nann:x\nann:x:notanumber:1:::\n" + b":" * 100_000)


ODD: dict[str, Callable[[Path], None]] = {
    "a fifo": fifo,
    "a directory": directory,
    "a loop": loop,
    "endless": endless,
    "binary": binary,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("kind", ODD)
def test_tables_of_users_that_are_none(kind: str, box: Box) -> None:
    for name in ("passwd", "group"):
        ODD[kind](box.tree / "etc" / name)
    # Not by id, which reads the tables, too.
    seen = box.shell("grep -e ^Uid -e ^Gid /proc/self/status", user="5:6")
    assert seen.split() == ["Uid:", *"5555", "Gid:", *"6666"]
    assert "unable to find user ann" in box.run("true", user="ann", status=125)


def test_tables_of_users_outside_are_not_read(box: Box) -> None:
    (box.tree.parent / "host/passwd").write_text("eve:x:0:0::/:/bin/sh\n")
    (box.tree / "etc/passwd").unlink()
    (box.tree / "etc/passwd").symlink_to(f"{up(box)}/passwd")
    assert "unable to find user eve" in box.run("true", user="eve", status=125)


DIRECTORIES = (
    *("/link", "/link/below", "/../../..", "/proc/self/fd/3", "/proc/self/fd/8"),
    *("/proc/1/root", "/proc/1/cwd"),
)


@pytest.mark.parametrize("cwd", DIRECTORIES)
def test_working_directories_that_lead_outside(cwd: str, box: Box) -> None:
    (box.tree / "link").symlink_to(up(box))
    with box.start("sh", "-c", "ls .; ls ../../../..; ls secret", cwd=cwd) as process:
        out, _ = process.communicate(timeout=60)
    assert "secret" not in out
    assert sorted(path.name for path in (box.tree.parent / "host").iterdir()) == ["secret"]


def test_targets_of_volumes_stay_inside(box: Box) -> None:
    (box.tree / "link").symlink_to(up(box))
    source = box.tree.parent / "source"
    source.mkdir()
    mounts = [
        {"kind": "bind", "source": str(source), "target": "/link/made"},
        {"kind": "tmpfs", "target": "/link/tmpfs"},
    ]
    with box.start("sh", "-c", "touch /link/made/file; mount", mounts=mounts) as process:
        process.communicate(timeout=60)
    # It leads to a path of the container, where all that is missing was made.
    assert sorted(path.name for path in (box.tree.parent / "host").iterdir()) == ["secret"]


def test_a_program_is_not_looked_for_outside(box: Box) -> None:
    (box.tree / "bin/outside").symlink_to("../" * 20 + "usr/bin/env")
    assert "cannot execute outside" in box.run("outside", status=127)


def test_modules_of_python_in_the_tree_are_not_loaded(box: Box) -> None:
    """What the launcher would import once it is in the container."""
    for place in {os.path.dirname(os.__file__), str(Path(os.__file__).parents[1])}:
        for name in ("encodings", "traceback", "linecache", "pwd", "subprocess", "_bootlocale", "ascii"):
            module = Path(f"{box.tree}{place}/{name}.py")
            module.parent.mkdir(parents=True, exist_ok=True)
            module.write_text("open('/loaded', 'w').close()\n")
    box.shell("id", user="ann")
    box.run("nosuch", status=127)
    box.run("true", user="nosuch", status=125)
    assert not (box.tree / "loaded").exists()


def test_an_environment_that_no_program_has(box: Box) -> None:
    assert "A=1" in box.run("env", env=("PATH=/bin", "A=1", "=x", "B")).split("\n")


@pytest.mark.parametrize("fields", [{"env": ("A=a\0b",)}, {"cwd": "/a\0b"}, {"user": "a\0b"}])
def test_a_byte_0_is_refused(fields: dict[str, Any], box: Box) -> None:
    assert "it holds a byte 0" in box.run("true", status=125, **fields)

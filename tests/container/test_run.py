"""What a process finds in a container, and how it ends: on a plain directory, as root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.container.boxes import Box, make_tree
from tests.support.mounts import needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    tree = tmp_path_factory.mktemp("box") / "tree"
    make_tree(tree)
    return Box(tree)


ENDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "done": (("true",), 0, ""),
    "a status": (("sh", "-c", "exit 7"), 7, ""),
    "by a signal": (("sh", "-c", "kill -9 $$"), 137, ""),
    "no such program": (("nosuch",), 127, "cannot execute nosuch: executable file not found in $PATH"),
    "no such path": (("/bin/nosuch",), 127, "cannot execute /bin/nosuch: no such file"),
    "a directory": (("/bin",), 126, "cannot execute /bin: Is a directory"),
    "no program": (("/etc/passwd",), 126, "cannot execute /etc/passwd: Permission denied"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_exit_status_is_dockers(how: str, box: Box) -> None:
    args, status, message = ENDS[how]
    assert message in box.run(*args, status=status)


def test_a_process_sees_only_the_container(box: Box) -> None:
    seen = box.shell("ls /; ps | wc -l; hostname; readlink /proc/self/fd/0", hostname="box")
    # ps itself, its pipe, the shell, process 1 and a heading.
    assert seen.split() == ["bin", "dev", "etc", "proc", "sys", "5", "box", "/dev/null"]
    assert not Path(box.tree, "proc/1").exists()

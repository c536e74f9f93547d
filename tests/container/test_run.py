"""What a process finds in a container, and how it ends: on a plain directory, as root."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.container.boxes import Box, make_tree
from tests.support.mounts import needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    tree = tmp_path_factory.mktemp("box") / "tree"
    make_tree(tree)
    for name, text, mode in (
        ("script", "#!/bin/sh\necho $0 $1\n", 0o755),
        ("orphan", "#!/nosuch\n", 0o755),
        ("unknown", "\0\1\2\3", 0o755),
    ):
        (tree / name).write_text(text)
        (tree / name).chmod(mode)
    return Box(tree)


ENDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "done": (("true",), 0, ""),
    "a status": (("sh", "-c", "exit 7"), 7, ""),
    "by a signal": (("sh", "-c", "kill -9 $$"), 137, ""),
    "no such program": (("nosuch",), 127, "cannot execute nosuch: executable file not found in $PATH"),
    "no such path": (("/bin/nosuch",), 127, "cannot execute /bin/nosuch: no such file"),
    "no interpreter": (("/orphan",), 127, "cannot execute /orphan: its interpreter does not exist"),
    "a directory": (("/bin",), 126, "cannot execute /bin: Is a directory"),
    "no program": (("/etc/passwd",), 126, "cannot execute /etc/passwd: Permission denied"),
    "of another format": (("/unknown",), 126, "cannot execute /unknown: Exec format error"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_exit_status_is_dockers(how: str, box: Box) -> None:
    args, status, message = ENDS[how]
    assert message in box.run(*args, status=status)


def test_a_relative_path_is_one_of_the_working_directory(box: Box) -> None:
    assert box.run("./script", "word", cwd="/") == "./script word\n"


def test_a_process_sees_only_the_container(box: Box) -> None:
    processes = "ps >/dev/shm/ps; wc -l </dev/shm/ps"
    seen = box.shell(f"ls -d /*; {processes}; hostname; readlink /proc/self/fd/0; id -G", hostname="box")
    # ps itself, the shell, process 1 and a heading.
    names = ["bin", "dev", "etc", "orphan", "proc", "script", "sys", "unknown"]
    assert seen.split() == [*(f"/{name}" for name in names), "4", "box", "/dev/null", "0"]
    assert not Path(box.tree, "proc/1").exists()


DEFAULT = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box"}
SHORT = {"PATH=/bin", "HOSTNAME=box"}
ENVIRONMENTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing is said": ({}, {*DEFAULT, "HOME=/root"}),
    "another user's home": ({"user": "ann"}, {*DEFAULT, "HOME=/home/ann"}),
    "a user without an entry": ({"user": "7"}, {*DEFAULT, "HOME=/"}),
    "all is said": (
        {"env": ("PATH=/bin", "HOME=/there", "X=a=b"), "user": "ann"},
        {*SHORT, "HOME=/there", "X=a=b"},
    ),
}


@pytest.mark.parametrize("what", ENVIRONMENTS)
def test_the_environment_is_the_containers_alone(what: str, box: Box) -> None:
    fields, expected = ENVIRONMENTS[what]
    assert set(box.run("env", hostname="box", **fields).splitlines()) == expected


USERS = {
    "": "0 0 0",
    "root": "0 0 0",
    "0": "0 0 0",
    "ann": "1000 1001 1001 29 44",
    "1000": "1000 1001 1001 29 44",
    "ann:audio": "1000 29 29",
    "ann:5": "1000 5 5",
    "1000:root": "1000 0 0",
    "7": "7 0 0",
    "7:audio": "7 29 29",
    "2001:3002": "2001 3002 3002",
}
"""A user, and uid, gid and groups: Docker's rules."""


@pytest.mark.parametrize("user", USERS)
def test_users_and_groups_are_those_of_the_containers_tables(user: str, box: Box) -> None:
    assert box.shell("id -u; id -g; id -G", user=user).split() == USERS[user].split()


UNKNOWN = {
    "bob": "unable to find user bob: no matching entries in passwd file",
    "ann:nosuch": "unable to find group nosuch: no matching entries in group file",
    "4294967295": "unable to find user 4294967295: no matching entries in passwd file",
}


@pytest.mark.parametrize("user", UNKNOWN)
def test_an_unknown_user_is_refused(user: str, box: Box) -> None:
    assert UNKNOWN[user] in box.run("true", user=user, status=125)


def test_the_working_directory_is_made(box: Box) -> None:
    assert box.shell("pwd; stat -c '%a %u' .", cwd="/new/work/here", user="ann") == "/new/work/here\n755 0\n"


def test_umask_limits_and_priorities(box: Box) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    adjustment = Path("/proc/self/oom_score_adj").read_text().strip()
    before = os.umask(0o077)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        seen = box.shell("umask; ulimit -n; cat /proc/self/oom_score_adj")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.umask(before)
    assert seen.split() == ["0022", str(soft - 1), adjustment]


def test_standard_input_only_where_it_is_asked_for(box: Box) -> None:
    assert box.run("cat", given="text") == ""
    assert box.run("cat", given="text", interactive=True) == "text"


def test_the_users_own_standard_output_can_be_opened_again(box: Box) -> None:
    assert box.shell("echo out >/dev/stdout", user="ann") == "out\n"


def test_the_program_is_process_1_without_init(box: Box) -> None:
    assert box.shell("echo $$", init=False) == "1\n"
    assert box.shell("echo $$") == "2\n"
    box.run("sh", "-c", "kill -9 $$; exit 3", init=False, status=3)  # the kernel protects process 1
    assert "cannot execute" in box.run("nosuch", init=False, status=127)

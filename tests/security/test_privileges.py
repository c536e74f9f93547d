"""What a daemon still may once it serves: fifteen capabilities at most, and nothing by exec(2)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.boxes import Box, make_tree
from tests.mount.rig import eventually
from tests.security.sets import Sets, of_thread, of_threads
from tests.support.mounts import (
    REPOSITORY,
    command,
    environment,
    make_directories,
    needs_fuse,
    needs_root,
    pyunionfs,
    status_pid,
)
from tests.support.users import UNSHARE_USER, as_user, run_to_the_end, user_namespaces
from unionfs.daemon.privileges import KEPT, MASK

pytestmark = [needs_root, needs_fuse]


WITHOUT_ADMIN = """
import sys
from unionfs.cli import main
from unionfs.linux import namespaces
# Not from the bounding set, which limits what fusermount3 gets.
namespaces.set_capabilities(namespaces.permitted_capabilities() & ~(1 << 21))
sys.exit(main(sys.argv[1:]))
"""


def mine() -> Sets:
    return of_thread(Path("/proc/self/status"))


def kept(had: Sets) -> Sets:
    """What stays of the sets of a process that mounts by itself."""
    left = had["CapPrm"] & MASK
    return {**had, "CapPrm": left, "CapEff": left, "CapInh": 0, "CapAmb": 0, "NoNewPrivs": 1}


@pytest.mark.parametrize("foreground", [True, False], ids=["foreground", "background"])
def test_of_roots_daemon(space: Path, foreground: bool, transport: str) -> None:
    lower, upper, work, merged = make_directories(space)
    with (lower / "file").open("wb") as file:
        file.truncate(10 << 20)
    with pyunionfs([lower], upper, work, merged, foreground=foreground) as daemon:
        (merged / "file").chmod(0o700)  # copied up by a worker, which is there from then on
        assert of_threads(daemon.pid) == [kept(mine())]


@pytest.mark.one_transport
def test_of_the_daemon_of_a_container(tmp_path: Path, transport: str) -> None:
    make_tree(tmp_path / "tree")
    (tmp_path / "place").mkdir()
    box = Box(tmp_path / "tree", tmp_path / "place")
    with box.start("sh", "-c", "echo here; cat", interactive=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        [daemon] = [int(pid) for pid in children if "pyunionfs\n" in Path(f"/proc/{pid}/comm").read_text()]
        assert of_threads(daemon) == [kept(mine())]
        process.communicate("", timeout=60)
    assert process.returncode == 0


@pytest.mark.one_transport
def test_no_program_of_its_own_has_more(transport: str) -> None:
    """Root's programs have all that the bounding set allows, but for no_new_privs."""
    program = """
import subprocess, sys
from unionfs.daemon import privileges
privileges.give_up(may_exec_set_ids=False)
print(subprocess.run(["grep", "CapPrm", "/proc/self/status"], capture_output=True, text=True).stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[1], 16) == mine()["CapPrm"] & MASK


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
def test_of_an_ordinary_users_daemon(user: pwd.struct_passwd, home: Path, transport: str) -> None:
    """It has none to give up, and fusermount3 has to unmount for it: by exec(2), as root."""
    os.chown(home, user.pw_uid, user.pw_gid)
    [sets] = json.loads(run_to_the_end(as_user(user, "tests.security.sets", home)))
    none = {"CapPrm": 0, "CapEff": 0, "CapInh": 0, "CapAmb": 0, "NoNewPrivs": 0}
    assert sets == {**none, "CapBnd": mine()["CapBnd"]}


@pytest.mark.skipif(not user_namespaces(), reason="the kernel gives no user namespaces")
def test_of_a_user_namespaces_roots_daemon(home: Path, transport: str) -> None:
    [sets] = json.loads(
        run_to_the_end([*UNSHARE_USER, sys.executable, "-m", "tests.security.sets", str(home)])
    )
    every = {**mine(), "CapPrm": sets["CapBnd"], "CapBnd": sets["CapBnd"]}
    assert sets == kept(every)


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
@pytest.mark.one_transport
def test_root_that_may_not_mount_keeps_set_uid_programs(space: Path, transport: str) -> None:
    """Root without CAP_SYS_ADMIN, as in a container, mounts and unmounts by fusermount3, at a signal too."""
    base = make_directories(space)
    words = command("mount", "-o", "userxattr", *map(str, base))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ADMIN, *words[3:]],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    pid = status_pid(base[3])
    [sets] = of_threads(pid)
    os.kill(pid, 15)
    assert eventually(lambda: not base[3].is_mount())
    assert sets["NoNewPrivs"] == 0
    assert sets["CapPrm"] == mine()["CapPrm"] & MASK & ~(1 << 21)


@pytest.mark.one_transport
def test_the_page_has_a_row_for_each_capability(transport: str) -> None:
    text = (REPOSITORY / "docs/security.md").read_text()
    assert [name for name in KEPT if f"| {name} |" not in text] == []

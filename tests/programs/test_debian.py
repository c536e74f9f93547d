"""A package manager and a whole root filesystem on the union: what containers do with one, all day long.

Asserts too that the lower tree is as it was: the cache is shared by all tests and runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import debian
from tests.programs.conftest import Union
from tests.programs.trees import describe, differences
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]


@pytest.fixture
def untouched(debian_tree: Path) -> Iterator[Path]:
    """The Debian tree; after the test it must be what it was (contents by size and time)."""
    before = describe(debian_tree, content=False)
    yield debian_tree
    assert not differences(before, describe(debian_tree, content=False)), "a lower layer was changed"


def run(root: Path, script: str) -> str:
    done = debian.chroot(root, script)
    assert done.returncode == 0, f"{script}\nexited with {done.returncode}:\n{done.stdout}"
    return done.stdout


def test_apt_get_install_then_remove_usr_share(union: Union, untouched: Path) -> None:
    with union([untouched]) as merged:
        packages = " ".join(debian.INSTALLED_LATER)
        run(merged, f"apt-get -q install -y --no-install-recommends --no-download {packages}")
        assert run(merged, "dpkg --audit").strip() == ""
        assert run(merged, "dpkg --verify git libc6 bash coreutils").strip() == ""
        assert run(merged, "git --version").startswith("git version")
        run(merged, "cd /root && git init -q x && cd x && touch f && git add f && git ls-files -s | grep f")
        run(merged, "apt-get -q purge -y patch && ! test -e /usr/bin/patch")
        run(merged, "ldconfig && ldconfig -p | grep libc.so.6")
        assert len(os.listdir(merged / "usr/share")) > 10

        output = run(merged, "rm -rf /usr/share/* /usr/share/.[!.]* && ls -A /usr/share")
        assert output == ""
        assert os.listdir(merged / "usr/share") == []
        assert run(merged, "cd /usr && rmdir share && mkdir share && touch share/x && ls -A share") == "x\n"
        assert (untouched / "usr/share/doc").is_dir()


def test_removed_packages_stay_removed_after_a_remount(union: Union, untouched: Path) -> None:
    with union([untouched]) as merged:
        run(merged, "dpkg --purge --force-all mawk && ! command -v mawk")
        before = describe(merged, content=False)
    with union([untouched]) as merged:
        assert not differences(before, describe(merged, content=False))
        assert "mawk" not in run(merged, "dpkg-query -W -f '${Package}\\n'").split()


def test_users_and_services_files(union: Union, untouched: Path) -> None:
    """useradd rewrites /etc/passwd and friends by lock file, link and rename, su reads them."""
    with union([untouched]) as merged:
        run(merged, "useradd -m -s /bin/sh alice && echo alice:secret | chpasswd")
        said = run(merged, "su alice -c 'id -un; cd; pwd; umask 027; echo hi > f; stat -c \"%U %a\" f'")
        assert said.split() == ["alice", "/home/alice", "alice", "640"]
        run(merged, "userdel -r alice && ! id alice && ! test -e /home/alice")
        assert (merged / "etc/passwd").read_text() == (untouched / "etc/passwd").read_text()


def test_find_sees_every_object_of_the_tree(union: Union, untouched: Path) -> None:
    form = "%P %y %m %U %G %s %l %n\n"
    with union([untouched]) as merged:
        find = ["find", "-mindepth", "1", "-type", "d", "-printf", "%P %y %m %U %G\n"]
        find += ["-o", "-mindepth", "1", "-printf", form]
        outputs = []
        for where in (untouched, merged):
            done = subprocess.run(find, cwd=where, capture_output=True, check=True)
            assert done.stderr == b""
            outputs.append(sorted(done.stdout.splitlines()))
    assert len(outputs[0]) > 5000
    assert outputs[0] == outputs[1]


def test_contents_are_the_lower_trees(union: Union, untouched: Path) -> None:
    expected = describe(untouched)
    with union([untouched]) as merged:
        got = describe(merged)
    del expected[b""], got[b""]  # the root's attributes are upper's
    assert not differences(expected, got)


def test_rm_rf_of_everything(union: Union, untouched: Path, space: Path) -> None:
    with union([untouched]) as merged:
        done = subprocess.run(
            ["find", ".", "-mindepth", "1", "-maxdepth", "1", "-exec", "rm", "-rf", "{}", "+"],
            cwd=merged,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert os.listdir(merged) == []
        (merged / "usr").mkdir()
        assert os.listdir(merged / "usr") == []
    marks = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(space / "upper")}
    assert set(marks) == set(os.listdir(untouched)), "a whiteout for each name of the lower root, and usr"
    assert all(info.st_rdev == 0 and not info.st_size for name, info in marks.items() if name != "usr")

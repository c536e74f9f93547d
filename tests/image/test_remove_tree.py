"""Trees go, whatever is in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.mounts import needs_root
from tests.support.users import open_home, ordinary_user
from unionfs.image.store import remove_tree

DEPTH = 3000


def deep(top: Path) -> None:
    """Directories deeper than a path is long (PATH_MAX) and than processes have descriptors by default."""
    fd = os.open(top, os.O_RDONLY)
    for number in range(DEPTH):
        os.mkdir("0", dir_fd=fd)
        if number % 100 == 0:
            os.close(os.open("1", os.O_CREAT, dir_fd=fd))
            os.mkdir("2", dir_fd=fd)
        below = os.open("0", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_of_any_depth(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    deep(tree)
    remove_tree(tree)
    assert os.listdir(tmp_path) == []


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o755)
    (kept / "file").touch(mode=0o644)
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "link").symlink_to(kept)
    (tree / "deep" / "link").symlink_to(kept)
    (tree / "deep" / "file").symlink_to(kept / "file")
    remove_tree(tree)
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["kept"]
    assert [kept.stat().st_mode & 0o777, (kept / "file").stat().st_mode & 0o777] == [0o755, 0o644]


def test_what_is_not_there_and_what_is_no_directory(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    assert os.listdir(tmp_path) == []


@needs_root
@pytest.mark.parametrize("mode", [0, 0o100, 0o400, 0o555])
def test_directories_that_their_owner_may_not_enter(mode: int) -> None:
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
                os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
                tree = home / "tree"
                (tree / "a" / "b" / "c").mkdir(parents=True)
                (tree / "a" / "file").touch()
                for each in ("a/b/c", "a/b", "a", "."):
                    (tree / each).chmod(mode)
                remove_tree(tree)
                status = len(os.listdir(home))
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

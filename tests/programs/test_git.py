"""git: lock files renamed into place, hard links, mmap of packs, and an index that trusts inode and times."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.conftest import Union
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [
    needs_root,
    needs_fuse,
    pytest.mark.skipif(not shutil.which("git"), reason="needs git"),
]

FILES = 120


def git(where: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(where),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        },
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stdout}"
    return done.stdout


@pytest.fixture
def lower(space: Path) -> Path:
    """A layer with a repository of a few commits, partly packed."""
    repository = space / "lower/repository"
    repository.mkdir(parents=True)
    git(repository, "init", "-q", "-b", "main")
    for number in range(FILES):
        path = repository / f"dir{number % 7}/file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"line {number}\n" * (number + 1))
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    git(repository, "gc", "-q")
    for number in range(5):
        (repository / "changing").write_text(f"{number}\n")
        git(repository, "add", ".")
        git(repository, "commit", "-qm", f"change {number}")
    git(repository, "status")
    return repository.parent


def test_work_in_a_lower_repository(union: Union, lower: Path) -> None:
    with union([lower]) as merged:
        repository = merged / "repository"
        assert git(repository, "status", "--porcelain") == ""
        (repository / "dir1/file1").write_text("changed\n")
        (repository / "dir2/file2").unlink()
        (repository / "new").write_text("new\n")
        assert git(repository, "status", "--porcelain").splitlines() == [
            " M dir1/file1",
            " D dir2/file2",
            "?? new",
        ]
        git(repository, "add", "-A")
        git(repository, "mv", "dir3", "renamed")
        git(repository, "commit", "-qm", "in the union")
        git(repository, "checkout", "-q", "-b", "side", "HEAD~3")
        git(repository, "checkout", "-q", "main")
        assert git(repository, "status", "--porcelain") == ""
        git(repository, "gc", "-q", "--prune=now", "--aggressive")
        assert "missing" not in git(repository, "fsck", "--strict", "--full")
        assert git(repository, "count-objects").startswith("0 objects")
        assert len(git(repository, "log", "--oneline").splitlines()) == 7
        assert not (repository / "dir3").exists()
    with union([lower]) as merged:
        repository = merged / "repository"
        assert git(repository, "status", "--porcelain") == ""
        git(repository, "fsck", "--strict", "--full")
    assert git(lower / "repository", "status", "--porcelain") == ""
    assert len(git(lower / "repository", "log", "--oneline").splitlines()) == 6


@pytest.mark.parametrize("how", ["--local", "--no-local", "--no-hardlinks", "--shared"])
def test_clone(union: Union, lower: Path, how: str) -> None:
    """--local makes hard links to the lower repository's objects, which must be copied up for that."""
    with union([lower]) as merged:
        git(merged, "clone", "-q", how, "repository", "clone")
        clone = merged / "clone"
        assert git(clone, "status", "--porcelain") == ""
        git(clone, "fsck", "--strict", "--full")
        (clone / "changing").write_text("cloned\n")
        git(clone, "commit", "-qam", "in the clone")
        git(clone, "push", "-q", "origin", "HEAD:refs/heads/pushed")
        assert "in the clone" in git(merged / "repository", "log", "--oneline", "pushed")
        git(clone, "gc", "-q")
        git(clone, "fsck", "--strict", "--full")
        git(merged / "repository", "fsck", "--strict", "--full")
        assert git(clone, "worktree", "add", "-q", "../tree", "HEAD~2") == ""
        assert git(merged / "tree", "status", "--porcelain") == ""

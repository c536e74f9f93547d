"""What programs do that rename directories of lowers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def populate(lower: Path) -> None:
    """A layer with a repository and an installed package."""
    repository = lower / "repository"
    (repository / "dir/sub").mkdir(parents=True)
    for name in ("dir/one", "dir/sub/two"):
        (repository / name).write_text(name)
    (lower / "site/pkg").mkdir(parents=True)
    (lower / "site/pkg/old").write_text("old")
    os.link(lower / "site/pkg/old", lower / "site/pkg/linked")
    if shutil.which("git"):
        git(repository, "init", "-q")
        git(repository, "add", ".")
        git(repository, "commit", "-qm", "first")


def git(where: Path, *words: str) -> str:
    names = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "safe.directory=*"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(where), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *names, *words], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def programs_rename(merged: Path) -> None:
    """git mv; os.rename of another program; the way in which pip replaces a package."""
    repository, site = merged / "repository", merged / "site"
    if shutil.which("git"):
        git(repository, "mv", "dir", "renamed")
        assert git(repository, "status", "--short").split() == [
            *("R", "dir/one", "->", "renamed/one"),
            *("R", "dir/sub/two", "->", "renamed/sub/two"),
        ]
    else:
        os.rename(repository / "dir", repository / "renamed")
    assert (repository / "renamed/sub/two").read_text() == "dir/sub/two"
    script = "import os, sys; os.rename(*sys.argv[1:])"
    for old, new in (("renamed/sub", "out"), ("out", "renamed/back")):
        subprocess.run([sys.executable, "-c", script, old, new], cwd=repository, check=True)
    assert os.listdir(repository / "renamed/back") == ["two"]

    # pip: aside what is there, the new in its place, then remove the old; and back where that fails.
    os.rename(site / "pkg", site / "~pkg")
    os.rename(site / "~pkg", site / "pkg")
    assert os.stat(site / "pkg/old").st_ino == os.stat(site / "pkg/linked").st_ino
    os.rename(site / "pkg", site / "~pkg")
    (site / "unpacked").mkdir()
    (site / "unpacked/new").write_text("new")
    os.rename(site / "unpacked", site / "pkg")
    shutil.rmtree(site / "~pkg")
    assert os.listdir(site) == ["pkg"]
    assert os.listdir(site / "pkg") == ["new"]

"""scripts/install.sh: what it puts where, what it refuses to replace, and that it takes exactly that away.

pip and the network have no part in it: the virtual environment is made by a stand-in that runs this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import unionfs
from tests.cli.test_terminal import ROOT
from tests.support.mounts import needs_root

LINKS = {
    "bin/pyunionfs",
    "share/man/man1/pyunionfs.1",
    "share/bash-completion/completions/pyunionfs",
    "share/zsh/site-functions/_pyunionfs",
    "share/fish/vendor_completions.d/pyunionfs.fish",
}

HELPERS = {"mount.fuse.pyunionfs", "mount.pyunionfs", "umount.fuse.pyunionfs", "umount.pyunionfs"}

PYTHON = f"""#!/bin/sh
# Stands in for a python3 that makes a virtual environment.
case "$*" in
"-m venv --clear "*)
    mkdir -p "$4/bin"
    touch "$4/pyvenv.cfg"
    ln -sf "$0" "$4/bin/python"
    ;;
"-m pip install "*)
    printf '#!/bin/sh\\nexec {sys.executable} -m unionfs "$@"\\n' > "${{0%/*}}/pyunionfs"
    chmod +x "${{0%/*}}/pyunionfs"
    for name in mount umount; do
        printf '#!/bin/sh\\necho "$(basename "$0") called"\\n' > "${{0%/*}}/$name.fuse.pyunionfs"
        chmod +x "${{0%/*}}/$name.fuse.pyunionfs"
    done
    ;;
*) exec {sys.executable} "$@" ;;
esac
"""


class Checkout:
    """A copy of the scripts, and a place to install to."""

    def __init__(self, base: Path) -> None:
        self.scripts = base / "checkout/scripts"
        self.prefix = base / "prefix"
        self.python = base / "python"
        self.sbin = base / "sbin"
        self.scripts.mkdir(parents=True)
        self.sbin.mkdir()
        shutil.copy(ROOT / "scripts/install.sh", self.scripts)
        (self.scripts / "setup.sh").write_text("#!/bin/sh\n")
        (self.scripts / "setup.sh").chmod(0o755)
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(
        self, action: str, sbin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHON": str(self.python), "PYTHONPATH": str(ROOT), **environment}
        # Never the machine's own.
        env["SBIN"] = str(self.sbin) if sbin is None else sbin
        return subprocess.run(
            [str(self.scripts / "install.sh"), action, str(self.prefix)],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def files(self) -> set[str]:
        """All that is no directory, outside the virtual environment."""
        home = self.prefix / "lib/pyunionfs"
        found = [path for path in self.prefix.rglob("*") if path.is_symlink() or path.is_file()]
        return {str(path.relative_to(self.prefix)) for path in found if home not in path.parents}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_install_and_uninstall(checkout: Checkout) -> None:
    for _ in range(2):  # the second time over the first
        done = checkout.run("install")
        assert done.returncode == 0, done.stderr
        assert f"pyunionfs {unionfs.__version__}\n" in done.stdout
        assert checkout.files() == LINKS
        page, *scripts = (checkout.prefix / link for link in sorted(LINKS - {"bin/pyunionfs"}, key=len))
        assert page.read_text().startswith(".TH PYUNIONFS 1 ")
        for script in scripts:
            assert "pyunionfs" in script.read_text()
        assert (checkout.prefix / "share/zsh/site-functions/_pyunionfs").read_text().startswith("#compdef ")
    done = checkout.run("uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert checkout.files() == set()
    assert not (checkout.prefix / "lib/pyunionfs").exists()


@pytest.mark.parametrize("link", sorted(LINKS))
def test_what_somebody_else_put_there_is_neither_replaced_nor_removed(checkout: Checkout, link: str) -> None:
    theirs = checkout.prefix / link
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    done = checkout.run("install")
    assert done.returncode == 1
    assert f"{theirs} exists and was not made by 'make install': remove it first" in done.stderr
    assert checkout.files() == {link}
    assert checkout.run("uninstall").returncode == 0
    assert theirs.read_text() == "theirs"


@needs_root
def test_what_mount8_looks_for_comes_and_goes_with_it(checkout: Checkout) -> None:
    for _ in range(2):
        assert checkout.run("install").returncode == 0
        assert set(os.listdir(checkout.sbin)) == HELPERS
        for name in HELPERS:
            done = subprocess.run([checkout.sbin / name], capture_output=True, text=True)
            assert done.stdout == f"{name} called\n"
    for name in ("mount", "umount"):
        assert (checkout.sbin / f"{name}.pyunionfs").samefile(checkout.sbin / f"{name}.fuse.pyunionfs")
    assert checkout.run("uninstall").returncode == 0
    assert os.listdir(checkout.sbin) == []


@needs_root
@pytest.mark.parametrize("name", sorted(HELPERS))
def test_somebody_elses_helper_is_neither_replaced_nor_removed(checkout: Checkout, name: str) -> None:
    (checkout.sbin / name).symlink_to("/usr/bin/theirs")
    done = checkout.run("install")
    assert done.returncode == 1
    assert f"{checkout.sbin}/{name} exists and was not made by 'make install'" in done.stderr
    assert not checkout.prefix.exists()
    assert checkout.run("uninstall").returncode == 0
    assert os.listdir(checkout.sbin) == [name]


@needs_root
def test_without_a_place_for_helpers_there_are_none(checkout: Checkout) -> None:
    assert checkout.run("install", sbin="").returncode == 0
    assert checkout.files() == LINKS
    assert os.listdir(checkout.sbin) == []


def test_the_place_for_helpers_is_absolute(checkout: Checkout) -> None:
    done = checkout.run("install", sbin="sbin")
    assert (done.returncode, done.stdout) == (1, "")
    assert "SBIN must be an absolute path or empty, not 'sbin'" in done.stderr


@needs_root
def test_the_place_for_helpers_is_made(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.run("install", sbin=f"{tmp_path}/new/sbin")
    assert done.returncode == 0, done.stderr
    assert set(os.listdir(tmp_path / "new/sbin")) == HELPERS


@needs_root
def test_a_place_for_helpers_that_cannot_be_made_changes_nothing(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.run("install", sbin=f"{checkout.python}/sbin")
    assert done.returncode == 1
    assert f"cannot make {checkout.python}/sbin: give another SBIN" in done.stderr
    assert checkout.files() == set()
    assert not (checkout.prefix / "lib/pyunionfs").exists()


@pytest.fixture
def interpreters(checkout: Checkout, tmp_path: Path) -> tuple[Path, Path]:
    """One that stands for /usr/bin/python3, and one that is first on PATH; both tell who made the venv."""
    made = []
    for name in ("system", "path"):
        (tmp_path / name).mkdir()
        made.append(tmp_path / name / "python3")
        made[-1].write_text(PYTHON)
        made[-1].chmod(0o755)
    script = checkout.scripts / "install.sh"
    text = script.read_text()
    assert text.count("system=/usr/bin/python3\n") == 1
    script.write_text(text.replace("system=/usr/bin/python3\n", f"system={made[0]}\n"))
    return made[0], made[1]


def test_which_interpreter_it_takes(checkout: Checkout, interpreters: tuple[Path, Path]) -> None:
    system, first = interpreters
    path = f"{first.parent}:{os.environ['PATH']}"
    taken = checkout.prefix / "lib/pyunionfs/bin/python"

    def install(python: str) -> Path:
        done = checkout.run("install", PYTHON=python, PATH=path)
        assert done.returncode == 0, done.stderr
        return taken.resolve()

    assert install("") == (system if os.geteuid() == 0 else first)
    assert install(str(checkout.python)) == checkout.python
    # An old one, or one without venv.
    system.write_text("#!/bin/sh\nexit 1\n")
    assert install("") == first


@needs_root
def test_an_interpreter_that_others_cannot_reach_is_told_of(checkout: Checkout) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:  # pytest's own directories are closed to others
        os.chmod(base, 0o755)
        python = Path(base, "private/bin/python")
        python.parent.mkdir(parents=True)
        shutil.copy(checkout.python, python)
        assert "only root can run it" not in checkout.run("install", PYTHON=str(python)).stdout
        Path(base, "private").chmod(0o700)
        done = checkout.run("install", PYTHON=str(python))
        assert done.returncode == 0, done.stderr
        assert (
            f"install: note: only root can run it: others cannot enter {base}/private, and its interpreter"
            f" is {python}: install it again with PYTHON=/usr/bin/python3" in done.stdout
        )

"""scripts/install.sh: what it puts where, what it refuses to replace, and that it takes exactly that away.

pip and the network have no part in it: the virtual environment is made by a stand-in that runs this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unionfs
from tests.cli.test_terminal import ROOT

LINKS = {
    "bin/pyunionfs",
    "share/man/man1/pyunionfs.1",
    "share/bash-completion/completions/pyunionfs",
    "share/zsh/site-functions/_pyunionfs",
    "share/fish/vendor_completions.d/pyunionfs.fish",
}

PYTHON = f"""#!/bin/sh
# Stands in for a python3 that makes a virtual environment.
case "$*" in
"-m venv --clear "*)
    mkdir -p "$4/bin"
    touch "$4/pyvenv.cfg"
    cp "$0" "$4/bin/python"
    ;;
"-m pip install "*)
    printf '#!/bin/sh\\nexec {sys.executable} -m unionfs "$@"\\n' > "${{0%/*}}/pyunionfs"
    chmod +x "${{0%/*}}/pyunionfs"
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
        self.scripts.mkdir(parents=True)
        shutil.copy(ROOT / "scripts/install.sh", self.scripts)
        (self.scripts / "setup.sh").write_text("#!/bin/sh\n")
        (self.scripts / "setup.sh").chmod(0o755)
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(self, action: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHON": str(self.python), "PYTHONPATH": str(ROOT)}
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

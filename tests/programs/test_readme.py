"""The README is true: its first mount works as copied, its table knows every option and no other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.option_table import option_table

README = (REPOSITORY / "README.md").read_text()


def shell_block(heading: str) -> str:
    """The first shell block below a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n.*?^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README has no shell block below {heading!r}"
    return found[1]


@one_transport
@needs_root
@needs_fuse
def test_the_first_mount_works_as_copied(space: Path, tmp_path: Path) -> None:
    command = tmp_path / "pyunionfs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m unionfs "$@"\n')
    command.chmod(0o755)
    env = environment()
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", shell_block("A first mount")],
        cwd=space,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("from base\nfrom site\n")
    assert re.search(r"^c.* 0, +0 .* bye$", done.stdout, re.MULTILINE)
    assert (space / "upper/hello").read_text() == "from base\nand more\n"
    assert (space / "base/hello").read_text() == "from base\n"
    assert os.listdir(space / "merged") == []


@one_transport
def test_the_table_of_options_is_complete() -> None:
    table = README.partition("<!-- options:")[2].partition("<!-- end of options -->")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", table, re.MULTILINE)
    known = [(syntax.replace("|", "\\|"), text.replace("|", "\\|")) for syntax, text in option_table()]
    assert rows == known

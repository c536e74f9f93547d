"""docs/owners.md is true: its examples give what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse]

TEXT = (REPOSITORY / "docs/owners.md").read_text()
EXAMPLES = re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)

PREPARED = (
    "umask 022\nmkdir lower upper work merged\necho > lower/sh\necho > lower/mail\nchown 8 lower/mail\n"
)


@one_transport
@pytest.mark.skipif(shutil.which("getfattr") is None, reason="needs getfattr")
@pytest.mark.parametrize("number", range(2))
def test_the_examples_say_what_they_say(base: Path, tmp_path: Path, number: int) -> None:
    assert len(EXAMPLES) == 2
    lines = EXAMPLES[number].splitlines()
    script = "".join(line[2:] + "\n" for line in lines if line.startswith("$ "))
    for name in ("lower", "upper", "work", "merged"):
        shutil.rmtree(base / name)
    command = tmp_path / "pyunionfs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m unionfs "$@"\n')
    command.chmod(0o755)
    env = environment() | {"LC_ALL": "C"}
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["sh", "-c", PREPARED + script],
        cwd=base,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    # getfattr ends its value without a newline.
    assert done.stdout.splitlines() == [line for line in lines if not line.startswith("$ ")]

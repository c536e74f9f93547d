"""docs/offline.md is true: its example gives what it says, its table of JSON fields is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.mounts import REPOSITORY, environment, needs_fuse, scratch
from tests.support.transports import one_transport
from unionfs.offline.change import Change

TEXT = (REPOSITORY / "docs/offline.md").read_text()


@one_transport
@needs_fuse
def test_the_example_says_what_it_says(tmp_path: Path) -> None:
    found = re.search(r"^```sh\n(.*?)^```\n\nsays\n\n```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert found
    command = tmp_path / "pyunionfs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m unionfs "$@"\n')
    command.chmod(0o755)
    env = environment()
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    with scratch(tmp_path) as where:
        done = subprocess.run(
            ["sh", "-e", "-c", found[1]],
            cwd=where,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
    # How much space objects take is up to the filesystem.
    unsaid = (re.compile(r"; .* in upper"), "; some in upper")
    assert unsaid[0].sub(unsaid[1], done.stdout) == unsaid[0].sub(unsaid[1], found[2])


def test_the_table_of_fields_is_complete() -> None:
    table = TEXT.partition("### For programs")[2].partition("### ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    other = {"in_upper": "data", "source": "from"}
    assert named == {other.get(name, name) for name in Change.__slots__ if name != "number"}

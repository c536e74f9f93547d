"""`make demo`: it checks by itself what it shows, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import REPOSITORY, environment, needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]


def test_all_that_it_shows_is_true(tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox")
    done = subprocess.run(
        ["scripts/demo.sh"],
        cwd=REPOSITORY,
        env={**environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    parts = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert parts[-1] == "== The committed image runs"
    assert os.listdir(tmp_path) == []

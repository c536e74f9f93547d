"""An ordinary user's union where modes keep the daemon out, beside kernel overlayfs in a user namespace."""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import needs_fuse, needs_root
from tests.support.users import as_user, open_home, ordinary_user, run_to_the_end, user_namespaces

pytestmark = [
    needs_root,
    needs_fuse,
    pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3"),
]

PYFUSE3_LACKS = ("getflags", "tmpfile")
"""Deeds for which libfuse has no request."""


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    with ordinary_user() as made:
        yield made


@pytest.fixture(scope="module")
def home(user: pwd.struct_passwd) -> Iterator[Path]:
    with open_home(user.pw_uid) as made:
        yield made


def outcomes(user: pwd.struct_passwd, home: Path, kind: str, *before: str) -> dict[str, dict[str, Any]]:
    out = home / f"{kind}.json"
    module = [*before, "tests.programs.closed_modes", kind, str(home), str(out)]
    run_to_the_end(as_user(user, *module))
    said: dict[str, dict[str, Any]] = json.loads(out.read_text())
    subprocess.run(["rm", "-rf", str(home / kind), str(out)], check=True)
    return said


@pytest.fixture(scope="module")
def plain(user: pwd.struct_passwd, home: Path) -> dict[str, dict[str, Any]]:
    return outcomes(user, home, "plain")


@pytest.fixture(scope="module")
def overlay(user: pwd.struct_passwd, home: Path) -> dict[str, dict[str, Any]]:
    if not user_namespaces():
        pytest.skip("the kernel gives no user namespaces")
    return outcomes(user, home, "overlay", "tests.programs.in_namespace")


def test_closed_modes(
    user: pwd.struct_passwd,
    home: Path,
    plain: dict[str, dict[str, Any]],
    overlay: dict[str, dict[str, Any]],
    transport: str,
) -> None:
    """As on the filesystem itself; where kernel overlayfs is not (a redirect, a hard link), as there."""
    union = outcomes(user, home, "union")
    assert union.keys() == plain.keys() == overlay.keys()
    compare(union, plain, overlay, transport)
    if transport == "direct":
        compare(outcomes(user, home, "asked"), plain, overlay, transport)


def compare(
    union: dict[str, dict[str, Any]],
    plain: dict[str, dict[str, Any]],
    overlay: dict[str, dict[str, Any]],
    transport: str,
) -> None:
    differing = {}
    for case, said in union.items():
        if transport == "pyfuse3" and case.endswith(PYFUSE3_LACKS):
            continue
        # A directory's rename needs a redirect, which neither writes here; hard links are whole here.
        whole = said if not case.endswith("rename directory") else {"outcome": said["outcome"]}
        if not any(whole.items() <= beside[case].items() for beside in (plain, overlay)):
            differing[case] = [plain[case], overlay[case], said]
    assert not differing, json.dumps(differing, indent=1)

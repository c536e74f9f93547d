"""What a mount with index=on refuses of other directories `pyunionfs check` finds, and settles."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import run
from tests.support.mounts import needs_fuse, needs_root, scratch
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        for name in ("lower", "site", "upper", "work", "merged"):
            (directory / name).mkdir()
        (directory / "lower/f").write_text("f")
        mount(directory, "lower", "site")
        yield directory


def mount(base: Path, *lowers: str, status: int = 0) -> str:
    words = [
        ":".join(f"{base}/{name}" for name in lowers),
        str(base / "upper"),
        str(base / "work"),
        str(base / "merged"),
    ]
    done = run("mount", "-o", "index=on", *words, status=status)
    if status == 0:
        (base / "merged/f").write_text("changed")
        run("umount", base / "merged")
    return done.stderr


@pytest.mark.parametrize("case", ["another top lower", "a copied upper"])
def test_what_a_mount_refuses_is_found_and_settled(base: Path, case: str) -> None:
    lowers = ["lower", "site"]
    if case == "another top lower":
        lowers.reverse()
    else:
        (base / "upper").rename(base / "old")
        shutil.copytree(base / "old", base / "upper")
    assert "--repair --accept-lowers" in mount(base, *lowers, status=1)
    words = [":".join(f"{base}/{name}" for name in lowers), str(base / "upper"), str(base / "work")]
    found = run("check", "-o", "index=on", *words, status=None)
    assert "a mount with index=on is refused" in found.stdout
    assert found.returncode != 0
    run("check", "-o", "index=on", "--repair", "--accept-lowers", *words, status=None)
    assert mount(base, *lowers) == ""
    assert run("check", "-o", "index=on", *words).returncode == 0

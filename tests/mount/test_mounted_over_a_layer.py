"""A mountpoint that is a layer of another union: overlayfs mounts there. So does pyunionfs, and says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import command, environment, needs_fuse, needs_root, pyunionfs, scratch, umount
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]


def mount(*words: str | Path) -> str:
    """Mount in the background; what was said."""
    done = subprocess.run(
        command("mount", *map(str, words)), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(("layer", "kind"), [("lower", "a lower"), ("upper", "upper"), ("work", "work")])
def test_it_is_said(layer: str, kind: str) -> None:
    with scratch() as base:
        for name in ("lower", "other", "upper", "work", "merged", "elsewhere"):
            (base / name).mkdir()
        (base / "lower/file").write_text("of the lower")
        with pyunionfs([base / "lower"], base / "upper", base / "work", base / "merged"):
            said = mount(base / "other", base / layer)
            what = f"{base / layer} is {kind} of the union on {base / 'merged'}"
            assert said == f"pyunionfs: {what}, which keeps using what this mount hides\n"
            assert mount(base / "other", base / "elsewhere") == ""
            (base / "merged/file").write_text("changed")
            (base / "merged/new").touch()
            for name in (layer, "elsewhere"):
                umount(base / name)
        assert (base / "upper/file").read_text() == "changed"

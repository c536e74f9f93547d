"""Layers that another union writes: refused with an index, as kernel overlayfs does; else remarked on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.rig import run
from tests.support.mounts import (
    make_directories,
    mount,
    needs_fuse,
    needs_overlayfs,
    needs_root,
    overlayfs,
    pyunionfs,
    scratch,
    umount,
)
from tests.support.transports import one_transport
from unionfs.cli import mount_helper
from unionfs.daemon import other_unions
from unionfs.errors import MountError
from unionfs.options import mount_options

pytestmark = [needs_root, needs_fuse, one_transport]

MS_BIND = 4096

# Lowers, where upper and work lie, and what is said of it; None: nothing.
CASES: dict[str, tuple[str, str, str | None]] = {
    "lower is upper": ("upper", "", "lower {}/upper is the upper of"),
    "lower in upper": ("upper/sub", "", "lower {}/upper/sub lies in the upper of"),
    "lower is work": ("work", "", "lower {}/work is the work of"),
    "second lower": ("free:upper/sub", "", "lower {}/upper/sub lies in the upper of"),
    "data-only": ("free::upper", "", "data-only layer {}/upper is the upper of"),
    "bound": ("bound", "", "lower {}/bound is the upper of"),
    "upper and work in upper": ("free", "upper/", "upper {}/upper/upper-on lies in the upper of"),
    "same lower": ("lower", "", None),
    "lower is merged": ("merged", "", None),
    "beside upper": ("upper-beside", "", None),
    "mounted in upper": ("upper/mounted", "", None),
}


@pytest.fixture
def base() -> Iterator[Path]:
    with scratch() as directory:
        make_directories(directory, "lower", "work", "merged", "free", "bound", "upper2", "work2", "merged2")
        make_directories(directory, "upper-beside", "upper/sub", "upper/mounted")
        mount(str(directory / "upper"), directory / "bound", "", MS_BIND)
        mount("none", directory / "upper" / "mounted", "tmpfs")
        yield directory
        umount(directory / "upper" / "mounted")
        umount(directory / "bound")


@contextlib.contextmanager
def first_union(base: Path, program: str) -> Iterator[str]:
    """A union of lower, upper and work; what it is called."""
    upper, work, merged = base / "upper", base / "work", base / "merged"
    if program == "kernel":
        with overlayfs([base / "lower"], upper, work, merged):
            yield f"kernel overlayfs mounted at {merged}"
    else:
        with pyunionfs([base / "lower"], upper, work, merged):
            yield f"the union on {merged}"


def options(base: Path, case: str, index: str) -> str:
    """Of the second union, with a new upper and work."""
    lower, inside, _ = CASES[case]
    layers = ":".join(f"{base}/{name}" if name else "" for name in lower.split(":"))
    upper, work = (base / f"{inside}{name}-{index}" for name in ("upper", "work"))
    for path in (upper, work):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    return f"index={index},lowerdir={layers},upperdir={upper},workdir={work}"


def second(base: Path, case: str, index: str) -> subprocess.CompletedProcess[str]:
    done = run("mount", "-o", options(base, case, index), base / "merged2", status=None)
    if done.returncode == 0:
        run("umount", base / "merged2")
    return done


@pytest.mark.parametrize("program", ["pyunionfs", pytest.param("kernel", marks=needs_overlayfs)])
def test_layers_of_another_union(base: Path, program: str) -> None:
    with first_union(base, program) as name:
        for case, (_, inside, what) in CASES.items():
            done = second(base, case, "on")
            assert done.returncode == (what is not None), (case, done.stderr)
            if what is None:
                assert done.stderr == "", case
                continue
            assert f"{what.format(base)} {name}: " in done.stderr
            assert "index=off" in done.stderr
            assert os.listdir(base / f"{inside}work-on") == []
            assert os.listxattr(base / f"{inside}upper-on") == []
        for case in ("lower is upper", "second lower", "same lower"):
            what = CASES[case][2]
            done = second(base, case, "off")
            assert done.returncode == 0, (case, done.stderr)
            assert (f"{what.format(base)} {name}: " in done.stderr) if what else done.stderr == "", case
    assert second(base, "lower is upper", "on").stderr == ""  # nobody writes it any more


@needs_overlayfs
def test_the_kernel_refuses_the_same(base: Path) -> None:
    with first_union(base, "kernel"):
        for case, (*_, what) in CASES.items():
            words = f"metacopy=on,{options(base, case, 'on')}"
            if what is None:
                mount("overlay", base / "merged2", "overlay", 0, words)
                umount(base / "merged2")
            else:
                with pytest.raises(OSError, match="busy"):
                    mount("overlay", base / "merged2", "overlay", 0, words)


def test_a_read_only_union_is_only_remarked_on(base: Path) -> None:
    with first_union(base, "pyunionfs"):
        words = f"index=on,lowerdir={base}/upper:{base}/free"
        done = run("mount", "-o", words, base / "merged2")
        run("umount", base / "merged2")
        assert f"lower {base}/upper is the upper of the union on {base}/merged: " in done.stderr


def test_a_daemon_that_is_ready_early_is_no_other_union(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command looks for overlaps while its daemon starts."""
    with pyunionfs([base / "free"], base / "upper", base / "work", base / "merged") as daemon:
        words = [str(base / name) for name in ("free", "upper", "work", "merged")]
        other_unions.warn_of_overlaps(mount_options.parse(words, []), daemon.pid)
        assert capsys.readouterr().err == ""
        other_unions.warn_of_overlaps(mount_options.parse(words, []))
        assert "upper is the upper of the union on" in capsys.readouterr().err


def test_checking_only_tells_the_same(base: Path) -> None:
    """mount -f, which mount(8) passes on to its helper."""
    with first_union(base, "pyunionfs"):
        words = ["none", str(base / "merged2"), "-f", "-o", options(base, "lower is upper", "on")]
        with pytest.raises(MountError, match="is the upper of"):
            mount_helper.run("mount.fuse.pyunionfs", words)

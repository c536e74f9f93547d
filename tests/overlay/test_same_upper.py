"""One operation, or a few, here and on kernel overlayfs: both must leave the same upper and the same index.

Byte for byte, origins and file handles included, for both copy up from the same lower. What only the kernel
notes for itself (an origin on directories that were in upper already) is not asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, View, remove, steps
from tests.overlay.trees import WHITEOUT, Tree, build, directory, disk, file, kind_of, marks, symlink
from tests.support.mounts import needs_overlayfs, overlayfs

pytestmark = needs_overlayfs

UPPER: Tree = {"m": {"up": "up", "w": WHITEOUT}, "own": {"o": "o"}, "u": "u"}
LOWER: Tree = {
    "d": {"f": file("lower data", mode=0o640), "e": {"deep": "deep"}, "empty": {}},
    "m": {"low": "low", "w": "w", "sub": {"s": "s"}},
    "l": symlink("d/f"),
    "f": "f",
    "suid": file("s", mode=0o4755),
    "x": {"hidden": ""},
}

Both = tuple[Callable[[View], object], Callable[[Path], object]]


def k_remove(path: Path) -> None:
    for name in sorted(os.listdir(path)):
        if (path / name).is_dir():
            k_remove(path / name)
        else:
            (path / name).unlink()
    path.rmdir()


def k_steps(*acts: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        for act in acts:
            act(root)

    return run


def k_write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, 0)
    os.close(fd)


OPERATIONS: dict[str, Both] = {
    "write": (lambda v: v.write("d/f", b"L"), lambda k: k_write(k / "d/f", b"L")),
    "write deep": (lambda v: v.write("d/e/deep", b"D"), lambda k: k_write(k / "d/e/deep", b"D")),
    "write in merged": (lambda v: v.write("m/sub/s", b"S"), lambda k: k_write(k / "m/sub/s", b"S")),
    "truncate": (lambda v: v.change("d/f", size=3), lambda k: os.truncate(k / "d/f", 3)),
    "truncate to nothing": (lambda v: v.change("d/f", size=0), lambda k: os.truncate(k / "d/f", 0)),
    "chmod": (lambda v: v.chmod("f", 0o600), lambda k: os.chmod(k / "f", 0o600)),
    "chmod of a directory": (lambda v: v.chmod("d/e", 0o700), lambda k: os.chmod(k / "d/e", 0o700)),
    "chmod of a merged directory": (lambda v: v.chmod("m", 0o700), lambda k: os.chmod(k / "m", 0o700)),
    "chown drops setuid": (lambda v: v.change("suid", uid=7, gid=8), lambda k: os.chown(k / "suid", 7, 8)),
    "chown of a symlink": (lambda v: v.change("l", uid=7), lambda k: os.lchown(k / "l", 7, -1)),
    "utimes": (lambda v: v.change("f", atime_ns=3, mtime_ns=4), lambda k: os.utime(k / "f", ns=(3, 4))),
    "setxattr": (
        lambda v: v.setxattr("d", "user.a", b"1"),
        lambda k: os.setxattr(k / "d", "user.a", b"1"),
    ),
    "escaped setxattr": (
        lambda v: v.setxattr("d", "trusted.overlay.opaque", b"y"),
        lambda k: os.setxattr(k / "d", "trusted.overlay.opaque", b"y"),
    ),
    "create": (lambda v: v.create("d/new", b"n"), lambda k: (k / "d/new").write_bytes(b"n")),
    "create in pure upper": (lambda v: v.create("own/n"), lambda k: (k / "own/n").touch()),
    "create over a whiteout": (lambda v: v.create("m/w", b"n"), lambda k: (k / "m/w").write_bytes(b"n")),
    "mkdir": (lambda v: v.mkdir("d/new"), lambda k: (k / "d/new").mkdir()),
    "mkdir in pure upper": (lambda v: v.mkdir("own/n"), lambda k: (k / "own/n").mkdir()),
    "mkdir over a whiteout": (lambda v: v.mkdir("m/w"), lambda k: (k / "m/w").mkdir()),
    "mkdir over a removed": (
        steps(lambda v: remove(v, "x"), lambda v: v.mkdir("x"), lambda v: v.create("x/n")),
        k_steps(lambda k: k_remove(k / "x"), lambda k: (k / "x").mkdir(), lambda k: (k / "x/n").touch()),
    ),
    "symlink": (lambda v: v.symlink("to", "d/n"), lambda k: (k / "d/n").symlink_to("to")),
    "symlink over a whiteout": (lambda v: v.symlink("to", "m/w"), lambda k: (k / "m/w").symlink_to("to")),
    "fifo": (lambda v: v.mknod("d/n", stat.S_IFIFO | 0o644), lambda k: os.mkfifo(k / "d/n", 0o644)),
    "link of a lower": (lambda v: v.link("f", "d/n"), lambda k: os.link(k / "f", k / "d/n")),
    "link of a new": (lambda v: v.link("u", "d/n"), lambda k: os.link(k / "u", k / "d/n")),
    "link over a whiteout": (lambda v: v.link("f", "m/w"), lambda k: os.link(k / "f", k / "m/w")),
    "link of a symlink": (
        lambda v: v.link("l", "own/n"),
        lambda k: os.link(k / "l", k / "own/n", follow_symlinks=False),
    ),
    "unlink of a lower": (lambda v: v.unlink("d/f"), lambda k: (k / "d/f").unlink()),
    "unlink of a new": (lambda v: v.unlink("u"), lambda k: (k / "u").unlink()),
    "unlink of a changed": (
        steps(lambda v: v.write("f", b"F"), lambda v: v.unlink("f")),
        k_steps(lambda k: k_write(k / "f", b"F"), lambda k: (k / "f").unlink()),
    ),
    "unlink of a symlink": (lambda v: v.unlink("l"), lambda k: (k / "l").unlink()),
    "rmdir of a lower": (lambda v: v.rmdir("d/empty"), lambda k: (k / "d/empty").rmdir()),
    "remove a lower tree": (lambda v: remove(v, "d"), lambda k: k_remove(k / "d")),
    "remove a merged tree": (lambda v: remove(v, "m"), lambda k: k_remove(k / "m")),
    "remove a pure upper tree": (lambda v: remove(v, "own"), lambda k: k_remove(k / "own")),
    "rename of a lower": (lambda v: v.rename("f", "d/n"), lambda k: os.rename(k / "f", k / "d/n")),
    "rename of a new into merged": (lambda v: v.rename("u", "m/n"), lambda k: os.rename(k / "u", k / "m/n")),
    "rename of a pure upper directory": (
        lambda v: v.rename("own", "d/n"),
        lambda k: os.rename(k / "own", k / "d/n"),
    ),
    "rename of a lower directory": (lambda v: v.rename("d", "D"), lambda k: os.rename(k / "d", k / "D")),
    "rename of a merged directory": (
        lambda v: v.rename("m", "own/m"),
        lambda k: os.rename(k / "m", k / "own/m"),
    ),
    "rename below a renamed": (
        steps(
            lambda v: v.rename("d", "D"),
            lambda v: v.rename("D/e", "own/e"),
            lambda v: v.write("own/e/deep", b"x"),
        ),
        k_steps(
            lambda k: os.rename(k / "d", k / "D"),
            lambda k: os.rename(k / "D/e", k / "own/e"),
            lambda k: k_write(k / "own/e/deep", b"x"),
        ),
    ),
    "there and back": (
        steps(lambda v: v.rename("d", "D"), lambda v: v.rename("D", "d")),
        k_steps(lambda k: os.rename(k / "d", k / "D"), lambda k: os.rename(k / "D", k / "d")),
    ),
    "hard link written": (lambda v: v.write("h1", b"H"), lambda k: k_write(k / "h1", b"H")),
    "hard link linked": (lambda v: v.link("h1", "h3"), lambda k: os.link(k / "h1", k / "h3")),
    "hard link removed": (lambda v: v.unlink("h1"), lambda k: (k / "h1").unlink()),
    "hard links removed": (
        steps(lambda v: v.unlink("h1"), lambda v: v.unlink("h2")),
        k_steps(lambda k: (k / "h1").unlink(), lambda k: (k / "h2").unlink()),
    ),
    "hard link renamed": (lambda v: v.rename("h1", "h3"), lambda k: os.rename(k / "h1", k / "h3")),
    "hard link replaced": (lambda v: v.rename("u", "h2"), lambda k: os.rename(k / "u", k / "h2")),
    "hard link written, other removed": (
        steps(lambda v: v.write("h1", b"H"), lambda v: v.unlink("h2")),
        k_steps(lambda k: k_write(k / "h1", b"H"), lambda k: (k / "h2").unlink()),
    ),
}

FEATURES: dict[str, dict[str, bool]] = {
    "plain": {},
    "metacopy": {"metacopy": True},
    "index": {"index": True},
    "index, metacopy": {"index": True, "metacopy": True},
}


def full(root: Path) -> dict[str, tuple[str, dict[str, bytes], tuple[int, int, int], int, int]]:
    """Everything of a layer: kind and content, marks with their values, owner and mode, links, times."""
    found = {}
    for path, line in disk(root).items():
        real = root / path
        st = real.lstat()
        kept = marks(real)
        if "origin" in kept and path in ("m", "own/m"):
            del kept["origin"]  # that of a directory which upper already had: only overlayfs adds one
        if "nlink" in kept:
            # Relative to upper's count or to the lower's (2 in these layers): what counts is the sum.
            base = 2 if kept["nlink"].startswith(b"L") else st.st_nlink
            kept["nlink"] = str(base + int(kept["nlink"][1:])).encode()
        found[path] = (
            kind_of(real),
            kept,
            (st.st_mode, st.st_uid, st.st_gid),
            st.st_nlink if line != "whiteout" else 0,
            st.st_mtime_ns if st.st_mtime_ns < 1_100_000_000_000_000_000 else 0,
        )
    return found


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_upper(stack: Stack, operation: str, features: str) -> None:
    ours, theirs = OPERATIONS[operation]
    stack.layers(LOWER, upper=UPPER)
    os.link(_made(stack.lowers[0] / "h1"), stack.lowers[0] / "h2")
    kernel = stack.base / "kernel"
    kernel.mkdir()
    upper, work = build(kernel / "upper", UPPER), kernel / "work"
    work.mkdir()
    chosen = FEATURES[features]
    options = ["redirect_dir=on"]
    options += [f"{name}={'on' if chosen.get(name) else 'off'}" for name in ("index", "metacopy")]
    old = os.umask(0o022)
    with overlayfs(stack.lowers, upper, work, stack.merged, options=options) as merged:
        theirs(merged)
    os.umask(old)
    with stack.open(**chosen) as view:
        ours(view)
        view.forget_all()
    assert full(stack.upper) == full(upper)
    # Where overlayfs gave `m` its origin, it marked the root impure.
    assert marks(stack.upper).items() <= marks(upper).items()
    assert stack.work_names() == []
    if "index" in chosen:
        index, kernels = stack.work / "index", work / "index"
        # overlayfs works in there, too, and leaves its shared whiteout.
        wanted = {name: line for name, line in full(kernels).items() if not name.startswith("#")}
        assert full(index) == wanted


def _made(path: Path) -> Path:
    path.write_text("linked")
    os.utime(path, ns=(5, 5))
    return path


def test_opaque_stays_with_what_has_it(stack: Stack) -> None:
    """An opaque directory that moves stays opaque, and one that becomes so keeps its content."""
    stack.layers({"d": {"stranger": ""}, "e": {}}, upper={"o": directory({"in": "i"}, opaque="y")})
    with stack.open() as view:
        view.rename("o", "e/o")
        assert view.ls("e/o") == ["in"]
    assert disk(stack.upper)["e/o"] == "dir opaque"

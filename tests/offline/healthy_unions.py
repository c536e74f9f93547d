"""Random unions as they are left by use: the oracle's layers and operations, by the core or by the kernel.

The operations are performed on the core without a mount, or on kernel overlayfs; half of them after a
remount. What an operation answers is no concern here.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from testing.oracle import layers
from testing.oracle.case import Case, Config, Op
from testing.oracle.sides import Kernel
from testing.oracle.stage import Ground, Stage, draw
from testing.oracle.workload import Tree, Workload
from tests.overlay.rig import ROOT, View
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.cred import Caller

OPERATIONS = 60

OPTIONS: dict[str, dict[str, Any]] = {
    "redirect_dir": {},
    "no redirect_dir": {"redirect_dir": "off"},
    "index": {"index": True},
    "index, no redirect_dir": {"index": True, "redirect_dir": "off"},
    "metacopy": {"metacopy": True},
    "index, metacopy": {"index": True, "metacopy": True},
    "userxattr": {"userxattr": True, "redirect_dir": "nofollow"},
}

OWN_OPTIONS = OPTIONS | {"whiteouts as files": {"whiteouts": "aufs"}}
"""And what only this program has."""


@contextmanager
def made(seed: int, base: Path, other: Path, options: dict[str, Any]) -> Iterator[tuple[Stage, UnionConfig]]:
    """The layers of a seed below *base* (some on the filesystem of *other*), and how they are mounted."""
    redirect = options.get("redirect_dir", "on") == "on"
    case = layers.generate(
        seed,
        Config("here", redirect, index=options.get("index", False), metacopy=options.get("metacopy", False)),
    )
    if options.get("userxattr"):
        # Layers that the kernel has made before would have other marks. (It does so where nothing is said.)
        case = replace(case, ops=(Op("stat", (b"/", False)),))
    ground = Ground(Path(tempfile.mkdtemp(dir=base)), Path(tempfile.mkdtemp(dir=other)))
    for directory in (ground.upper_fs, ground.other_fs):
        directory.chmod(0o755)
    stage = Stage("union", Kernel(), case, ground)
    with ExitStack() as cleanup:
        cleanup.callback(stage.close)
        stage.build()
        if options.get("userxattr"):
            for layer in (*stage.union.lowers, stage.union.upper):
                _drop_user_marks(layer)
        config = UnionConfig(
            tuple(map(str, stage.union.lowers)), str(stage.union.upper), str(stage.union.work), **options
        )
        yield stage, config


def _drop_user_marks(layer: Path) -> None:
    """Take away what callers have set by names that are marks in another kind of union."""
    for path in [layer, *layer.rglob("*")]:
        for name in os.listxattr(path, follow_symlinks=False):
            if name.startswith("user.overlay."):
                os.removexattr(path, name, follow_symlinks=False)


def use_by_kernel(stage: Stage, config: UnionConfig) -> int:
    """Perform operations on kernel overlayfs; how many did not fail."""
    words = ["userxattr"] if config.userxattr else stage.case.config.options()
    workload = Workload(f"{stage.case.seed} kernel", links=True)
    done = 0
    for _ in range(2):
        with stage.mounted(Kernel(), stage.union, words):
            done += sum(outcome[0] == "ok" for _, outcome in draw(stage.worker, workload, OPERATIONS // 2))
    return done


def use_by_core(case: Case, config: UnionConfig, caller: Caller = ROOT) -> int:
    """Perform operations on the core; how many did not fail."""
    workload = Workload(f"{case.seed} core", links=True)
    done = 0
    for _ in range(2):
        with View(config, caller) as view:
            workload.show(_tree(view))
            for _ in range(OPERATIONS // 2):
                op = workload.draw()
                # Whatever the union answers; what it leaves is looked at.
                with suppress(OSError):
                    if _perform(view, op):
                        done += 1
                        if not done % 3:
                            workload.show(_tree(view))
    return done


def _tree(view: View) -> Tree:
    found: Tree = [(b"", "dir")]
    pending = [""]
    while pending:
        path = pending.pop()
        try:
            names = view.ls(path)
        except OSError:
            continue  # a lower directory that this user may not list
        for name in names:
            below = f"{path}/{name}" if path else name
            try:
                entry = view.find(below)
            except OSError:
                continue  # likewise
            if entry is None:
                continue
            mode = entry[1].st_mode
            if stat.S_ISDIR(mode):
                pending.append(below)
            kind = "file" if stat.S_ISREG(mode) else "symlink" if stat.S_ISLNK(mode) else "special"
            found.append((os.fsencode(below), "dir" if stat.S_ISDIR(mode) else kind))
    return sorted(found)


def _path(raw: bytes) -> str:
    return os.fsdecode(raw.strip(b"/"))


def _perform(view: View, op: Op) -> bool:
    """Perform what changes a union; False for the rest, which does not."""
    args = op.args
    if op.name in ("put", "mmap_write"):
        path = _path(args[0])
        if not view.exists(path):
            view.create(path, args[-1])
        elif stat.S_ISREG(view.stat(path).st_mode):
            view.write(path, args[-1], args[-2] or 0)
        return True
    if op.name == "link":
        view.link(_path(args[0]), _path(args[1]))
    elif op.name == "symlink":
        view.symlink(os.fsdecode(args[0]), _path(args[1]))
    elif op.name == "rename":
        view.rename(_path(args[0]), _path(args[1]), args[2])
    elif op.name == "chown":
        view.change(_path(args[0]), uid=max(args[1], 0), gid=max(args[2], 0))
    elif op.name == "truncate":
        if stat.S_ISREG(view.stat(_path(args[0])).st_mode):
            view.change(_path(args[0]), size=args[1])
    elif op.name == "mknod":
        view.mknod(_path(args[0]), args[1], os.makedev(*args[2]))
    elif op.name == "mkdir":
        view.mkdir(_path(args[0]), args[1])
    elif op.name == "chmod":
        view.chmod(_path(args[0]), args[1])
    elif op.name == "setxattr":
        view.setxattr(_path(args[0]), args[1], args[2], args[3])
    elif op.name in ("unlink", "rmdir"):
        getattr(view, op.name)(_path(args[0]))
    else:
        return False
    return True

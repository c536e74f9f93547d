"""Changes of random unions that pyunionfs itself has changed, in each of its ways, without a mount."""

from __future__ import annotations

import random
import stat
from pathlib import Path
from typing import Any

import pytest

from testing.oracle import layers
from testing.oracle.case import Config
from tests.offline import brute
from tests.overlay.rig import Stack, View
from tests.overlay.test_listing_at_random import Changer
from tests.support.mounts import scratch
from unionfs.offline.change import Change
from unionfs.offline.changes import changes

SEEDS = 10
TURNS = 20
OPTIONS: dict[str, dict[str, Any]] = {
    "redirect": {},
    "no redirect": {"redirect_dir": "off"},
    "metacopy": {"metacopy": True},
    "userxattr": {"userxattr": True, "redirect_dir": "on"},
    "aufs": {"whiteouts": "aufs"},
}


def take(view: View) -> brute.Tree:
    """What `brute.take` sees of a mount."""
    tree: brute.Tree = {}
    _visit(view, tree, "")
    view.forget_all()
    return tree


def _visit(view: View, tree: brute.Tree, path: str) -> None:
    st = view.stat(path)
    kind = stat.S_IFMT(st.st_mode)
    node: dict[str, Any] = {
        "type": kind,
        "mode": stat.S_IMODE(st.st_mode),
        "owner": (st.st_uid, st.st_gid),
        "mtime": st.st_mtime_ns if path else None,
        "xattrs": {name: view.getxattr(path, name) for name in view.listxattr(path)},
    }
    tree[b"/" + path.encode(errors="surrogateescape")] = node
    if kind == stat.S_IFREG:
        node["size"] = st.st_size
        with view.opened(path) as handle:
            node["data"] = view.read_handle(handle, size=st.st_size)
    elif kind == stat.S_IFLNK:
        node["target"] = view.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        node["device"] = st.st_rdev
    elif kind == stat.S_IFDIR:
        for name in view.ls(path):
            _visit(view, tree, f"{path}/{name}" if path else name)


@pytest.mark.parametrize("name", OPTIONS)
def test_random_unions(name: str) -> None:
    with scratch(Path("/dev/shm")) as where:
        for seed in range(SEEDS):
            base = where / str(seed)
            base.mkdir()
            _check(base, seed, OPTIONS[name])


def _check(base: Path, seed: int, options: dict[str, Any]) -> None:
    stack = Stack(base)
    rng = random.Random(f"{seed} {options}")
    case = layers.generate(seed, Config("here"))
    for number in reversed(range(case.lowers)):
        where = base / f"lower{number}"
        where.mkdir()
        layers.build([entry for entry in case.entries if entry.layer == number], where)
        if options.get("whiteouts") == "aufs" and number:
            _hide_by_files(where, rng)
        stack.lowers.append(where)
    for _ in range(2):
        with stack.open(**options) as view:
            changer = Changer(view, rng)
            for _ in range(TURNS):
                changer.change()
                view.forget_all()
    with stack.open(**options) as view:
        union = take(view)
    with stack.open(writable=False, **{key: options[key] for key in options if key != "metacopy"}) as view:
        below = take(view)
    expected = brute.changes(union, below)
    assert expected, f"seed {seed} has changed nothing"
    listed = {}
    for change in changes(str(stack.upper), list(map(str, stack.lowers)), userxattr="userxattr" in options):
        assert isinstance(change, Change), f"seed {seed}: {change}"
        listed[change.path] = change.kind
    assert listed == expected, f"seed {seed}"


def _hide_by_files(layer: Path, rng: random.Random) -> None:
    """Turn a layer's whiteouts into AUFS's."""
    for path in sorted(layer.rglob("*")):
        st = path.lstat()
        if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            path.unlink()
            if len(path.name) < 250:
                (path.parent / f".wh.{path.name}").write_text("")
        elif stat.S_ISDIR(st.st_mode) and rng.random() < 0.1:
            (path / ".wh..wh..opq").write_text("")

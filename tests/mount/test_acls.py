"""Setting and removing ACLs: what it takes away, answers and copies up, as on kernel overlayfs."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.data_rig import Side, in_thread, side
from tests.overlay.test_copy_up import UNDEFINED, acl
from tests.support.mounts import loop_fs, needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, needs_overlayfs, one_transport]

OWNER, GROUP, OTHER = 2001, 2100, 2002
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
NAMED = acl((1, 7, UNDEFINED), (2, 5, OTHER), (4, 5, UNDEFINED), (16, 5, UNDEFINED), (32, 1, UNDEFINED))
WHO = {"root": (0, ()), "owner": (OWNER, ()), "member": (OWNER, (GROUP,)), "stranger": (OTHER, (GROUP,))}
MODES = (0o755, 0o2644, 0o6711)
HOWS: dict[str, Callable[[Path], object]] = {
    "set": lambda path: os.setxattr(path, ACCESS, NAMED),
    "remove": lambda path: os.removexattr(path, ACCESS),
    "set the default": lambda path: os.setxattr(path, DEFAULT, NAMED),
    "remove the default": lambda path: os.removexattr(path, DEFAULT),
}
Seen = dict[str, tuple[object, ...]]


@pytest.fixture(scope="module", params=["ext4", "btrfs"])
def where(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """Removing an ACL that is not there is an error on the one and none on the other."""
    memory = Path("/dev/shm")  # many copy-ups, each of which waits for its data to be on the disk
    with loop_fs(request.param, directory=memory if os.access(memory, os.W_OK) else None) as path:
        for directory in (path, path.parent):
            directory.chmod(0o755)
        yield request.param, path


def populate(lower: Path, upper: Path) -> None:
    for layer, mode, how, who, kind, has in itertools.product(
        (lower, upper), MODES, HOWS, WHO, ("file", "dir"), (False, True)
    ):
        path = layer / f"{layer.name}, {kind}, {mode:o}, {how}, {who}, {has}"
        path.mkdir() if kind == "dir" else path.write_bytes(b"data")
        os.chown(path, OWNER, GROUP)
        if has:
            os.setxattr(path, ACCESS, NAMED)
            if kind == "dir":
                os.setxattr(path, DEFAULT, NAMED)
        path.chmod(mode)


def change_all(mounted: Side) -> Seen:
    seen: Seen = {}
    for path in sorted(mounted.merged.iterdir()):
        _, _, _, how, who, _ = path.name.split(", ")
        uid, groups = WHO[who]
        outcome = in_thread(functools.partial(HOWS[how], path), uid, groups)
        seen[path.name] = (
            *(outcome, oct(path.stat().st_mode), sorted(os.listxattr(path))),
            (mounted.upper / path.name).exists(),
        )
    return seen


@functools.cache
def expected(kind: str, path: Path) -> Seen:
    with side("overlayfs", populate, directory=path) as mounted:
        return change_all(mounted)


@pytest.mark.parametrize("way", ["default", "pyfuse3"])
def test_a_change_of_an_acl_does_what_it_does_on_overlayfs(where: tuple[str, Path], way: str) -> None:
    """Setgid goes by it, also where the ACL then is not there to be removed (ovl_set_acl())."""
    wanted = expected(*where)
    assert {one[0] for name, one in wanted.items() if "set, owner" in name} == {"ok"}
    with side(way, populate, directory=where[1]) as mounted:
        found = change_all(mounted)
    assert {name: (found[name], one) for name, one in wanted.items() if found[name] != one} == {}

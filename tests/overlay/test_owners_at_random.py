"""Random changes of owners, modes and ACLs: unions that keep them in different ways show the same.

One has real owners and modes, one has them in attributes, one behind a map of ids, one both; what is done
to them is the same, by several users. Kernel permissions play no part here: the core decides what is
inherited and lost.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.overlay.owners_rig import acl
from tests.overlay.rig import Stack, View
from unionfs.overlay.config import IdMap, OwnersConfig
from unionfs.overlay.cred import Caller
from unionfs.overlay.owners.acl import ACCESS, DEFAULT
from unionfs.overlay.wait import complete

USERS = (0, 1, 2, 3)
FIRST = 5000
MAP: IdMap = ((0, FIRST, 1), (2, FIRST + 1, 2), (1, FIRST + 3, 1))
"""Of the ids 0 to 3, in another order."""
NONE = 0xFFFFFFFF

Ids = Callable[[int], int]


def _shown(number: int) -> int:
    return next(first + number - stored for stored, first, count in MAP if stored <= number < stored + count)


class Root(Caller):
    """Holds every capability, whatever id it is shown by."""

    __slots__ = ()

    def has_capability(self, number: int, over: os.stat_result | None = None) -> bool:
        return True


class User(Caller):
    """Holds none."""

    __slots__ = ()

    def has_capability(self, number: int, over: os.stat_result | None = None) -> bool:
        return False


def random_acl(choose: random.Random, ids: Ids) -> bytes:
    def perm() -> int:
        return choose.randrange(8)

    entries = [(0x01, perm(), NONE)]
    entries += [(0x02, perm(), ids(uid)) for uid in sorted(choose.sample(USERS, choose.randrange(3)))]
    named = len(entries) > 1
    entries += [(0x04, perm(), NONE)]
    groups = [(0x08, perm(), ids(gid)) for gid in sorted(choose.sample(USERS, choose.randrange(2)))]
    entries += groups
    if named or groups or choose.random() < 0.2:
        entries.append((0x10, perm(), NONE))
    entries.append((0x20, perm(), NONE))
    return acl(*entries)


class Player:
    """Does the same to a union as others with the same seed, with the ids that its callers have."""

    def __init__(self, seed: int, view: View, ids: Ids) -> None:
        self.choose = random.Random(seed)
        self.view = view
        self.ids = ids

    def paths(self) -> list[str]:
        return ["", *self._below("")]

    def _below(self, top: str) -> list[str]:
        found = []
        for name in self.view.ls(top):
            path = f"{top}/{name}" if top else name
            found.append(path)
            if self.view.inode(path).is_dir:
                found += self._below(path)
        return found

    def step(self) -> str:
        """One random change; says what it was and what came of it."""
        choose = self.choose
        paths = self.paths()
        dirs = [path for path in paths if self.view.inode(path).is_dir]
        parent, path = choose.choice(dirs), choose.choice(paths)
        new = f"{parent}/n{choose.randrange(1 << 30)}".lstrip("/")
        uid, gid = choose.choice(USERS), choose.choice(USERS)
        caller = (User if uid else Root)(
            self.ids(uid), self.ids(gid), 0, choose.choice((0, 0o022, 0o027, 0o077))
        )
        mode = choose.choice((0, 0o644, 0o600, 0o777, 0o2775, 0o4755, 0o6711, 0o2664, 0o1777))
        value = random_acl(choose, self.ids)
        other, third = choose.choice(USERS), choose.choice((None, *USERS))
        view = self.view
        acts: dict[str, Callable[[], object]] = {
            "create": lambda: view.create(new, b"data", mode, caller),
            "mkdir": lambda: view.mkdir(new, mode, caller),
            "symlink": lambda: view.symlink("to", new, caller),
            "fifo": lambda: view.mknod(new, stat.S_IFIFO | mode, 0, caller),
            "chmod": lambda: view.change(path, mode=mode, caller=caller),
            "chown": lambda: self._chown(path, other, third, caller),
            "write": lambda: view.write(path, b"x", caller=caller),
            "truncate": lambda: view.change(path, size=1, caller=caller),
            "touch": lambda: view.change(path, mtime_ns=1, caller=caller),
            "access": lambda: view.setxattr(path, ACCESS, value, caller=caller),
            "default": lambda: view.setxattr(path, DEFAULT, value, caller=caller),
            "no access": lambda: view.removexattr(path, ACCESS),
            "no default": lambda: view.removexattr(path, DEFAULT),
            "link": lambda: view.link(path, new),
            "rename": lambda: view.rename(path, new) if path and not parent.startswith(path) else None,
            "unlink": lambda: view.unlink(path) if path else None,
            "rmdir": lambda: view.rmdir(path) if path else None,
        }
        name = choose.choice([*acts, "create", "mkdir", "chmod", "chown", "access", "default"])
        try:
            acts[name]()
        except OSError as error:
            return f"{name} {path} {new}: {errno.errorcode[error.errno or 0]}"
        return f"{name} {path} {new}: ok"

    def _chown(self, path: str, other: int, third: int | None, caller: Caller) -> None:
        if third is None:
            self.view.change(path, uid=self.ids(other), caller=caller)
        else:
            self.view.change(path, uid=self.ids(other), gid=self.ids(third), caller=caller)

    def tree(self) -> dict[str, list[object]]:
        """Of every object type and mode, owner as an id of `USERS`, and ACLs likewise."""
        back = {self.ids(number): number for number in USERS}
        found: dict[str, list[object]] = {}
        for path in self.paths():
            st = self.view.stat(path)
            line: list[object] = [f"{st.st_mode:o}", back[st.st_uid], back[st.st_gid]]
            for name in (ACCESS, DEFAULT):
                try:
                    value = complete(self.view.union.getxattr, self.view.ino(path), name.encode())
                except OSError as error:
                    line.append(errno.errorcode[error.errno or 0])
                else:
                    entries = [value[at : at + 8] for at in range(4, len(value), 8)]
                    line.append(
                        [
                            (entry[0], entry[2], back.get(int.from_bytes(entry[4:], "little")))
                            for entry in entries
                        ]
                    )
            found[path] = line
        return found


def fill(low: Path) -> None:
    for name, uid, gid, mode in (("f", 1, 2, 0o4755), ("d", 2, 3, 0o2775), ("d/g", 3, 0, 0o640)):
        path = low / name
        path.mkdir() if name == "d" else path.write_text(name)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    os.symlink("f", low / "link")
    os.chown(low / "link", 3, 3, follow_symlinks=False)


def set_of(tree: dict[str, list[object]]) -> set[tuple[str, str]]:
    return {(path, str(line)) for path, line in tree.items()}


WAYS: dict[str, tuple[OwnersConfig, Ids]] = {
    "real": (OwnersConfig(), lambda number: number),
    "told": (OwnersConfig(xattr_permissions=2), lambda number: number),
    "mapped": (OwnersConfig(uid_map=MAP, gid_map=MAP), _shown),
    "both": (OwnersConfig(uid_map=MAP, gid_map=MAP, xattr_permissions=1), _shown),
}


@pytest.mark.parametrize("seed", range(12))
def test_all_ways_show_the_same(base: Path, seed: int) -> None:
    said: dict[str, list[str]] = {}
    shown: dict[str, list[dict[str, list[object]]]] = {}
    for way, (config, ids) in WAYS.items():
        os.umask(0o022)  # which a union that was open has changed
        (base / way).mkdir()
        stack = Stack(base / way).layers({})
        fill(stack.lowers[0])
        said[way], shown[way] = [], []
        with stack.open(owners=config) as view:
            player = Player(seed, view, ids)
            for _ in range(60):
                said[way].append(player.step())
                if player.choose.random() < 0.1:
                    view.forget_all()
                    shown[way].append(player.tree())
            shown[way].append(player.tree())
        with stack.open(owners=config) as view:
            shown[way].append(Player(seed, view, ids).tree())
        assert said[way] == said["real"], way
        for mine, real in zip(shown[way], shown["real"], strict=True):
            assert dict(set_of(mine) - set_of(real)) == dict(set_of(real) - set_of(mine)), way
    assert sum(line.endswith("ok") for line in said["real"]) > 20

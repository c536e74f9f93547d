"""What is done to names: looking up, making, removing, renaming, listing."""

from __future__ import annotations

from testing.core_profile.rig import ABSENT, FILES, NAMES, Call, Rig, scenario
from unionfs.overlay.attr import Changes
from unionfs.overlay.inode import ROOT_INO
from unionfs.overlay.wait import complete


@scenario("lookup, merged directory, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.union.lookup(parent, b"above")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, merged directory, again")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.known("merged")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, one layer, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("single")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, upper, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    for ino in rig.made(parent):
        rig.union.forget(ino, 1)
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, copied up, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    for ino in rig.known("merged"):
        complete(rig.union.setattr, ino, Changes(mode=0o600), rig.caller, None)
        rig.union.forget(ino, 1)
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("lookup, symlink, first")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("links")
    return [(rig.union.lookup, (parent, name)) for name in NAMES]


@scenario("miss, merged directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.union.lookup(parent, b"above")
    return [(rig.union.lookup, (parent, name)) for name in ABSENT]


@scenario("miss, one layer")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("single")
    return [(rig.union.lookup, (parent, name)) for name in ABSENT]


@scenario("miss, new directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(rig.union.lookup, (parent, name)) for name in ABSENT]


@scenario("forget")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.forget, (ino, 1)) for ino in rig.known("merged")]


@scenario("create and release, new directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(lambda name: rig.union.release(rig.create(parent, name)[2]), (name,)) for name in NAMES]


@scenario("create and release, merged directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.union.release(rig.create(parent, b"first")[2])
    return [(lambda name: rig.union.release(rig.create(parent, name)[2]), (name,)) for name in ABSENT]


@scenario("create over a whiteout")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.known("merged")
    for name in NAMES:
        complete(rig.union.unlink, parent, name)
    return [(lambda name: rig.union.release(rig.create(parent, name)[2]), (name,)) for name in NAMES]


@scenario("mkdir")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(rig.union.mkdir, (parent, name, 0o755, rig.caller)) for name in NAMES]


@scenario("rmdir")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    for name in NAMES:
        rig.union.mkdir(parent, name, 0o755, rig.caller)
    return [(rig.union.rmdir, (parent, name)) for name in NAMES]


@scenario("symlink")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    return [(rig.union.symlink, (parent, name, b"target", rig.caller)) for name in NAMES]


@scenario("readlink")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.readlink, (ino,)) for ino in rig.known("links")]


@scenario("link")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    inos = rig.made(parent)
    return [(rig.union.link, (ino, parent, b"2" + name)) for ino, name in zip(inos, NAMES, strict=True)]


@scenario("unlink, new file")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    rig.made(parent)
    return [(rig.union.unlink, (parent, name)) for name in NAMES]


@scenario("unlink, new file in a merged directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    for name in ABSENT:
        rig.union.release(rig.create(parent, name)[2])
    return [(rig.union.unlink, (parent, name)) for name in ABSENT]


@scenario("unlink, lower file (whiteout)")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    rig.known("merged")
    rig.union.release(rig.create(parent, b"first")[2])
    return [(rig.union.unlink, (parent, name)) for name in NAMES]


@scenario("unlink, copied-up file (whiteout)")
def _(rig: Rig) -> list[Call]:
    parent = rig.ino("merged")
    for ino in rig.known("merged"):
        complete(rig.union.setattr, ino, Changes(mode=0o600), rig.caller, None)
    return [(rig.union.unlink, (parent, name)) for name in NAMES]


@scenario("rename, in a new directory")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    rig.made(parent)
    return [(rig.union.rename, (parent, name, parent, b"2" + name, 0)) for name in NAMES]


@scenario("rename over another")
def _(rig: Rig) -> list[Call]:
    parent = rig.new_dir()
    other = rig.new_dir("other")
    rig.made(parent)
    rig.made(other)
    return [(rig.union.rename, (parent, name, other, name, 0)) for name in NAMES]


# --- listings -----------------------------------------------------------------------------------------


def _list(rig: Rig, ino: int, known: bool) -> None:
    handle = rig.union.open_dir(ino)
    for _, entry, cookie in complete(rig.union.read_dir, handle, 0):
        assert entry is not None
        if cookie > 2 and not known:
            rig.union.remember(entry[0])
    rig.union.release_dir(handle)


@scenario(f"list {FILES} lower files with entries, first")
def _(rig: Rig) -> list[Call]:
    return [(_list, (rig, rig.ino("merged"), False))]


@scenario(f"list {FILES} lower files with entries, again")
def _(rig: Rig) -> list[Call]:
    _list(rig, rig.ino("merged"), False)
    return [(_list, (rig, rig.ino("merged"), True))]


def _list_plain(rig: Rig, ino: int) -> None:
    handle = rig.union.open_dir(ino)
    for _ in complete(rig.union.read_dir_plain, handle, 0):
        pass
    rig.union.release_dir(handle)


@scenario(f"list {FILES} lower files without entries")
def _(rig: Rig) -> list[Call]:
    rig.union.lookup(rig.ino("merged"), b"above")
    return [(_list_plain, (rig, rig.ino("merged")))]


@scenario("list a small directory with entries, again")
def _(rig: Rig) -> list[Call]:
    rig.new_dir()
    _list(rig, ROOT_INO, False)
    return [(_list, (rig, ROOT_INO, True))] * 50

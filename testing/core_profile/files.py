"""What is done to objects: attributes, copy-up, data."""

from __future__ import annotations

import contextlib
import os

from testing.core_profile.rig import FILES, Call, Rig, scenario
from unionfs.overlay.attr import Changes
from unionfs.overlay.wait import complete

# --- attributes ---------------------------------------------------------------------------------------


@scenario("getattr, lower file")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.getattr, (ino,)) for ino in rig.known("merged")]


@scenario("getattr, upper file")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.getattr, (ino,)) for ino in rig.made(rig.new_dir())]


@scenario("getattr, directory")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.getattr, (rig.ino("merged"),))] * FILES


@scenario("getxattr, absent, lower file")
def _(rig: Rig) -> list[Call]:
    return [(_absent, (rig, ino)) for ino in rig.known("merged")]


@scenario("getxattr, absent, upper file")
def _(rig: Rig) -> list[Call]:
    return [(_absent, (rig, ino)) for ino in rig.made(rig.new_dir())]


def _absent(rig: Rig, ino: int) -> None:
    with contextlib.suppress(OSError):
        rig.union.getxattr(ino, b"system.posix_acl_access")


@scenario("listxattr, lower file")
def _(rig: Rig) -> list[Call]:
    return [(rig.union.listxattr, (ino, rig.caller)) for ino in rig.known("merged")]


@scenario("setxattr, upper file")
def _(rig: Rig) -> list[Call]:
    inos = rig.made(rig.new_dir())
    return [(rig.union.setxattr, (ino, b"user.some", b"value", 0, rig.caller)) for ino in inos]


@scenario("chmod, upper file")
def _(rig: Rig) -> list[Call]:
    inos = rig.made(rig.new_dir())
    return [(rig.union.setattr, (ino, Changes(mode=0o600), rig.caller, None)) for ino in inos]


@scenario("utimens, upper file")
def _(rig: Rig) -> list[Call]:
    inos = rig.made(rig.new_dir())
    changes = Changes(atime_ns=10**18, mtime_ns=10**18)
    return [(rig.union.setattr, (ino, changes, rig.caller, None)) for ino in inos]


# --- copy-up ------------------------------------------------------------------------------------------


@scenario("chmod, lower file (copy-up)")
def _(rig: Rig) -> list[Call]:
    rig.new_dir()
    inos = rig.known("merged")
    return [rig.waited(rig.union.setattr, ino, Changes(mode=0o600), rig.caller, None) for ino in inos]


@scenario("append-open, lower file (copy-up)")
def _(rig: Rig) -> list[Call]:
    return [(_append, (rig, ino)) for ino in rig.known("merged")]


@scenario("truncating open, lower file")
def _(rig: Rig) -> list[Call]:
    flags = os.O_WRONLY | os.O_TRUNC
    return [(rig.open_release, (ino, flags)) for ino in rig.known("merged")]


def _append(rig: Rig, ino: int) -> None:
    handle = complete(rig.union.open_file, ino, os.O_WRONLY | os.O_APPEND, rig.caller)
    handle.write(rig.union.getattr(ino)[1].st_size, b"more\n")
    rig.union.release(handle)


# --- data ---------------------------------------------------------------------------------------------


@scenario("open and release, lower file")
def _(rig: Rig) -> list[Call]:
    return [(rig.open_release, (ino,)) for ino in rig.known("merged")]


@scenario("open and release, upper file")
def _(rig: Rig) -> list[Call]:
    return [(rig.open_release, (ino,)) for ino in rig.made(rig.new_dir())]


@scenario("read 4 KiB")
def _(rig: Rig) -> list[Call]:
    handle = rig.opened(rig.ino("big"))
    handle.read(0, 1 << 20)
    return [(handle.read_now, (number % 256 * 4096, 4096)) for number in range(FILES)]


@scenario("read 128 KiB")
def _(rig: Rig) -> list[Call]:
    handle = rig.opened(rig.ino("big"))
    handle.read(0, 1 << 20)
    return [(handle.read_now, (number % 8 * 131072, 131072)) for number in range(FILES)]


@scenario("write 4 KiB")
def _(rig: Rig) -> list[Call]:
    handle = rig.opened(rig.made(rig.new_dir())[0], os.O_RDWR)
    data = b"x" * 4096
    return [(handle.write, (number * 4096, data)) for number in range(FILES)]

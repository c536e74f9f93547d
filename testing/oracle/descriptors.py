"""The operations by a descriptor that an earlier operation has left open, by the number of its slot.

A descriptor outlives copy-ups, renames and unlinks of what it refers to, which is what these are for. As in
`operations`: must never compare, never retry, never wait. Mappings are left out: an old reader's mapping
shows the lower's data on kernel overlayfs and the new data here (docs/semantics.md).
"""

from __future__ import annotations

import ctypes
import os
import stat

from testing.oracle.operations import ALWAYS, Slots, digest, not_a_ghost, seen, utimensat

_libc = ctypes.CDLL(None, use_errno=True)


def op_close(slots: Slots, slot: int) -> None:
    slots.close(slot)


def op_fread(slots: Slots, slot: int, offset: int | None, size: int) -> object:
    fd = slots[slot]
    return digest(os.read(fd, size) if offset is None else os.pread(fd, size, offset))


def op_fwrite(slots: Slots, slot: int, offset: int | None, data: bytes) -> object:
    fd = slots[slot]
    written = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    return written, seen(os.fstat(fd))


def op_fstat(slots: Slots, slot: int) -> object:
    return seen(os.fstat(slots[slot]))


def op_ftruncate(slots: Slots, slot: int, size: int) -> object:
    os.ftruncate(slots[slot], size)
    return seen(os.fstat(slots[slot]))


def op_fchmod(slots: Slots, slot: int, mode: int) -> object:
    os.fchmod(slots[slot], mode)
    return seen(os.fstat(slots[slot]))


def op_fchown(slots: Slots, slot: int, uid: int, gid: int) -> object:
    os.fchown(slots[slot], uid, gid)
    return seen(os.fstat(slots[slot]))


def op_futime(slots: Slots, slot: int, atime: int, mtime: int) -> object:
    utimensat(slots[slot], None, atime, mtime, 0)
    return seen(os.fstat(slots[slot]))


def op_fsetxattr(slots: Slots, slot: int, name: str, value: bytes, flags: int) -> object:
    os.setxattr(slots[slot], name, value, flags)
    return seen(os.fstat(slots[slot]))


def op_fgetxattr(slots: Slots, slot: int, name: str) -> object:
    return os.getxattr(slots[slot], name)


def op_fremovexattr(slots: Slots, slot: int, name: str) -> None:
    os.removexattr(slots[slot], name)


def op_flistxattr(slots: Slots, slot: int) -> object:
    return sorted(os.listxattr(slots[slot]))


def op_fsync(slots: Slots, slot: int) -> None:
    os.fsync(slots[slot])


def op_flist(slots: Slots, slot: int) -> object:
    fd = slots[slot]
    # Whether a listing shows what was made after the directory was opened is left open, and btrfs does not
    # show it; after a rewind it must be shown.
    os.lseek(fd, 0, os.SEEK_SET)
    return sorted(name for name in os.listdir(fd) if not_a_ghost(name, fd))


def op_openat(slots: Slots, slot: int, name: bytes, flags: int, mode: int, new_slot: int) -> object:
    fd = os.open(name, flags | ALWAYS, mode, dir_fd=slots[slot])
    slots.put(new_slot, fd)
    return seen(os.fstat(fd))


def op_statat(slots: Slots, slot: int, name: bytes) -> object:
    return seen(os.stat(name, dir_fd=slots[slot], follow_symlinks=False))


def op_mkdirat(slots: Slots, slot: int, name: bytes, mode: int) -> object:
    os.mkdir(name, mode, dir_fd=slots[slot])
    return seen(os.stat(name, dir_fd=slots[slot], follow_symlinks=False))


def op_unlinkat(slots: Slots, slot: int, name: bytes) -> None:
    os.unlink(name, dir_fd=slots[slot])


def op_lseek(slots: Slots, slot: int, offset: int, whence: int) -> object:
    fd = slots[slot]
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        return "a directory's positions are its filesystem's"
    return os.lseek(fd, offset, whence)


def op_fallocate(slots: Slots, slot: int, mode: int, offset: int, length: int) -> object:
    fd = slots[slot]
    if _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")
    return seen(os.fstat(fd))


def op_reopen(slots: Slots, slot: int, flags: int, new_slot: int) -> object:
    fd = slots[slot]
    if new_slot != slot:
        # Empty on both sides if the open fails on one of them.
        slots.close(new_slot)
    new = os.open(b"self/fd/%d" % fd, flags | ALWAYS, dir_fd=slots.proc)
    slots.put(new_slot, new)
    return seen(os.fstat(new))


def op_flink(slots: Slots, slot: int, target: bytes) -> object:
    fd = slots[slot]
    os.link(b"self/fd/%d" % fd, target, src_dir_fd=slots.proc, follow_symlinks=True)
    return seen(os.fstat(fd))

"""Owner, mode, extended attributes and times of what a layer makes, in the layer's form.

The order is the kernel's demand: an owner takes set-id bits and capabilities away, so it is first; times are
last. Directories get theirs at the end, when nothing is made in them any more.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_parents import Found
from unionfs.image.layer_tree import LayerTree, Names
from unionfs.image.tar_read import Entry
from unionfs.linux import process
from unionfs.overlay.copy_data import copy_data

_DEFAULT_ACL = "system.posix_acl_default"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(Exception):
    """What is wrong with an entry, in words. Never leaves this folder."""


class Attributes:
    """Sets them. *left_out* counts extended attributes that could not be stored, by name."""

    def __init__(self, tree: LayerTree, form: LayerForm, left_out: dict[str, int]) -> None:
        self._tree = tree
        self._form = form
        self._left_out = left_out
        self._directories: dict[Names, Entry] = {}
        self._copied: set[Names] = set()
        """Directories that have the extended attributes of layers below already."""
        self._owner: tuple[int, int] | None = None
        """Whose a new file is, if that is known; no directory is set-gid before `finish`."""
        self._at_once = 0
        """Which bits of its mode a new file can be given when it is made."""

    def begin(self) -> None:
        """See what new files get by themselves, which then need not be set: two of six calls for each."""
        st = os.fstat(self._tree.root)
        user = os.geteuid(), os.getegid()
        if not self._form.overrides and (st.st_uid, st.st_gid) == user and not st.st_mode & stat.S_ISGID:
            self._owner = user
            self._at_once = 0o777 & ~process.umask()

    def first_mode(self, entry: Entry) -> int:
        """The mode with which a regular file is to be made."""
        return entry.mode if self._is_whole(entry) else 0o600

    def _is_whole(self, entry: Entry) -> bool:
        """Whether a regular file has its owner and mode when it is made."""
        return not entry.mode & ~self._at_once and (entry.uid, entry.gid) == self._owner

    def of_directory(self, names: Names, entry: Entry) -> None:
        """Note a directory's for `finish`; the last that are noted count."""
        if names in self._copied:
            self._copied.remove(names)
            _remove_xattrs(self._tree.directory(names), keep=self._form.opaque)
        self._directories[names] = entry

    def forget(self, names: Names) -> None:
        """What was there is gone, with all that was in it."""
        if names in self._directories:
            for each in [each for each in self._directories if each[: len(names)] == names]:
                del self._directories[each]
                self._copied.discard(each)

    def finish(self) -> Iterator[Entry]:
        """Set those of directories, what is deepest first; gives each before it is set."""
        for names, entry in sorted(self._directories.items(), key=lambda item: -len(item[0])):
            yield entry
            self._tree.trim()
            fd = self._tree.directory(names)
            if self._form.overrides:
                os.fchmod(fd, 0o700)
                self._form.set_override(fd, entry.uid, entry.gid, stat.S_IFDIR | entry.mode)
            else:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def of_file(self, fd: int, entry: Entry) -> None:
        """Those of a regular file, open for writing, that was made with `first_mode`."""
        if self._is_whole(entry):
            pass
        elif self._form.overrides:
            os.fchmod(fd, 0o600 | entry.mode & 0o111)
            self._form.set_override(fd, entry.uid, entry.gid, stat.S_IFREG | entry.mode)
        else:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._set_xattrs(fd, entry.xattrs)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def of_symlink(self, above: int, name: bytes, entry: Entry) -> None:
        """Those of a symlink; a user's, which can have no xattr, keeps the user as its owner."""
        self._of_path(above, name, entry)

    def make_special(self, above: int, name: bytes, kind: int, device: int, entry: Entry) -> None:
        """A FIFO or device. Without the right to make one, a file that says what it stands for."""
        if self._form.overrides:
            fd = os.open(name, _NEW, 0o600, dir_fd=above)
            try:
                self._form.set_override(fd, entry.uid, entry.gid, kind | entry.mode, device)
                self._set_xattrs(fd, entry.xattrs)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
            return
        os.mknod(name, kind | 0o600, device, dir_fd=above)
        self._of_path(above, name, entry)

    def _of_path(self, above: int, name: bytes, entry: Entry) -> None:
        """Those of what is not opened."""
        if not self._form.overrides:
            os.chown(name, entry.uid, entry.gid, dir_fd=above, follow_symlinks=False)
            if entry.kind != "symlink":
                os.chmod(name, entry.mode, dir_fd=above)
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%s" % (above, name), entry.xattrs)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=above, follow_symlinks=False)

    def _set_xattrs(self, target: int | bytes, xattrs: dict[bytes, bytes]) -> None:
        for name, value in xattrs.items():
            stored = self._form.stored_name(name)
            if stored is not None:
                try:
                    os.setxattr(target, stored, value, follow_symlinks=isinstance(target, int))
                    continue
                except OSError as error:
                    if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG):
                        raise RefusedError(f"its attribute {name!r} is malformed or too large") from None
                    # The filesystem has none of this kind, or they are root's alone, or for files only.
                    if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                        raise
            shown = name.decode(errors="backslashreplace")
            self._left_out[shown] = self._left_out.get(shown, 0) + 1

    # ---- from layers below, which are in the same form

    def as_found(self, names: Names, found: Found) -> None:
        """Note a directory's attributes as a layer below has them."""
        st = self._form.shown(found.fd, found.st)
        xattrs = _stored_xattrs(found.fd)
        xattrs.pop(self._form.opaque, None)
        # At the end, as an entry's: what is made in the directory meanwhile would inherit it.
        inherited = xattrs.pop(_DEFAULT_ACL, None)
        _set_stored(self._tree.directory(names), xattrs)
        mode = stat.S_IMODE(st.st_mode)
        entry = Entry(b"/".join(names), "dir", mode, st.st_uid, st.st_gid, st.st_mtime_ns)
        if inherited is not None:
            entry.xattrs[_DEFAULT_ACL.encode()] = inherited
        self.of_directory(names, entry)
        self._copied.add(names)

    def copy(self, found: Found, above: int, name: bytes) -> None:
        """Copy what is not a directory, with data and attributes, from a layer below."""
        st, path = found.st, b"/proc/self/fd/%d" % found.fd
        if stat.S_ISREG(st.st_mode):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            target = os.open(name, _NEW, 0o600, dir_fd=above)
            try:
                copy_data(source, target, st.st_size)
                if not self._form.overrides:
                    os.fchown(target, st.st_uid, st.st_gid)
                os.fchmod(target, stat.S_IMODE(st.st_mode))
                _set_stored(target, _stored_xattrs(source))
                os.utime(target, ns=(st.st_mtime_ns, st.st_mtime_ns))
            finally:
                os.close(source)
                os.close(target)
            return
        if stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(b"", dir_fd=found.fd), name, dir_fd=above)
        else:
            os.mknod(name, st.st_mode, st.st_rdev, dir_fd=above)
        if not self._form.overrides:
            os.chown(name, st.st_uid, st.st_gid, dir_fd=above, follow_symlinks=False)
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(name, stat.S_IMODE(st.st_mode), dir_fd=above)
        os.utime(name, ns=(st.st_mtime_ns, st.st_mtime_ns), dir_fd=above, follow_symlinks=False)


def _stored_xattrs(fd: int) -> dict[str, bytes]:
    """All extended attributes, as they are stored."""
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}


def _set_stored(fd: int, xattrs: dict[str, bytes]) -> None:
    for name, value in xattrs.items():
        os.setxattr(fd, name, value)


def _remove_xattrs(fd: int, *, keep: str) -> None:
    """All but one, and but for the labels that a security module gives each object."""
    for name in os.listxattr(fd):
        if name != keep and not name.startswith("security."):
            os.removexattr(fd, name)

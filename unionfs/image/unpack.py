"""Unpacking a layer: the entries of a tar stream become a directory in overlayfs's format.

The stream is a stranger's. A name never leads through a symlink, out of the layer or below something that is
no directory; what cannot be right is refused by ImageError, and nothing outside of the target is touched. The
target is private until it is whole: nothing here syncs or renames it.

Rules: OCI image-spec, layer.md; for what it leaves open, as containerd and Docker apply a layer.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unionfs.errors import ImageError
from unionfs.image import layer_parents
from unionfs.image.digest import Readable
from unionfs.image.entry_attributes import Attributes, RefusedError
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_parents import Found
from unionfs.image.layer_tree import LayerTree, Names
from unionfs.image.tar_read import Entry, TarReader

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
"""What aufs keeps for itself; Docker passes it over."""

_BLOCK = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
Parents = Callable[[], Sequence[Path]]
"""Gives the layers below, topmost first; may wait until they are there. None below: an empty one."""


@dataclass(slots=True)
class Unpacked:
    """What came of it.

    *depends*: it has looked at the layers below, also where there were none, so the tree is right above these
    only. *size* is that of all regular files, as Docker counts a layer. *left_out* counts the extended
    attributes, by name, that this form or filesystem cannot hold.
    """

    depends: bool = False
    size: int = 0
    entries: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def unpack(
    source: Readable,
    target: Path,
    parents: Parents,
    form: LayerForm,
    what: str = "layer",
    limit: int = 64 << 30,
) -> Unpacked:
    """Unpack a tar stream (not compressed) into an empty directory. *what* names the layer in messages.

    *limit*: how many bytes its files may have in all, holes counted. Raises ImageError for what the layer
    must not be, OSError for what the machine refuses.
    """
    unpacking = _Unpacking(source, target, parents, form, what, limit)
    try:
        return unpacking.run()
    finally:
        unpacking.close()


class _Unpacking:
    """One layer."""

    def __init__(
        self, source: Readable, target: Path, parents: Parents, form: LayerForm, what: str, limit: int
    ) -> None:
        self._reader = TarReader(source, what)
        self._parents = parents
        self._form = form
        self._what = what
        self._limit = limit
        self._tree = LayerTree(target)
        self._result = Unpacked()
        self._attributes = Attributes(self._tree, form, self._result.left_out)
        self._entry = Entry(b".", "dir", 0o755, 0, 0, 0)
        """What messages are about."""
        self._nowhere: set[Names] = set()
        """Directories that were made here, and which the layers below do not have."""
        self._hides_all = False
        """Whether the root is opaque."""

    def close(self) -> None:
        self._tree.close()

    def run(self) -> Unpacked:
        self._form.begin(self._tree.root)
        os.fchmod(self._tree.root, 0o755)
        self._attributes.begin()
        try:
            for entry in self._reader:
                self._entry = entry
                self._result.entries += 1
                self._tree.trim()
                self._apply(entry)
            if self._hides_all:
                self._hide_all()
            for entry in self._attributes.finish():
                self._entry = entry
        except RefusedError as error:
            raise self._refused(str(error)) from None
        except OSError as error:
            reason = self._reason(error)
            if reason is None:
                raise
            raise self._refused(reason) from None
        return self._result

    def _reason(self, error: OSError) -> str | None:
        """What is wrong with the layer, if that is what an error means."""
        entry = self._entry
        if error.errno == errno.EPERM and entry.kind in ("char", "block"):
            return "a device, which only root can make"
        if error.errno == errno.EINVAL:
            owner = f"{entry.uid}:{entry.gid}"
            return f"its owner {owner} has no id in this user namespace, or its times cannot be stored"
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return "it lies below something that is no directory"
        if error.errno in (errno.ENAMETOOLONG, errno.EOVERFLOW, errno.EFBIG):
            return error.strerror or str(error)
        return None

    def _refused(self, why: str) -> ImageError:
        return ImageError(f"{self._what}: {os.fsdecode(self._entry.name)!r}"[:4200] + f" is refused: {why}")

    # ---- entries

    def _apply(self, entry: Entry) -> None:
        names = self._names(entry.name)
        if not names:
            if entry.kind != "dir":
                raise self._refused("the root of a layer must be a directory")
            self._attributes.of_directory((), entry)
            return
        if any(name.startswith(_AUFS) and name != OPAQUE for name in names):
            return
        if any(name.startswith(WHITEOUT) for name in names[:-1]):
            raise self._refused("it lies below a whiteout")
        if names == (OPAQUE,):
            self._hides_all = True
        elif names[-1] == OPAQUE:
            self._form.mark_opaque(self._directory(names[:-1]))
        elif names[-1].startswith(WHITEOUT):
            self._whiteout(names)
        elif entry.kind == "dir":
            self._make_directory(names, entry)
        else:
            self._make_other(names, entry)

    def _names(self, name: bytes) -> Names:
        """The components of a name; no `.` and no empty ones."""
        if name.startswith(b"/"):
            raise self._refused("its name is absolute")
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        if b".." in parts:
            raise self._refused("its name leads out of the layer by '..'")
        if not parts and not name:
            raise self._refused("it has no name")
        return parts

    def _directory(self, names: Names) -> int:
        return self._tree.directory(names, self._make_missing)

    def _make_missing(self, above: int, names: Names) -> None:
        """A directory without an entry, as the layers below show it; else root's with mode 0755."""
        st = self._lstat(above, names[-1])
        if st is not None:
            if not _is_whiteout(st):
                raise self._refused("it lies below something that is no directory")
            os.unlink(names[-1], dir_fd=above)
        found = self._find_below(names) if st is None and names[:-1] not in self._nowhere else None
        if found is None:
            self._nowhere.add(names)
            os.mkdir(names[-1], 0o755, dir_fd=above)
            if st is not None:
                self._form.mark_opaque(self._tree.directory(names))
            self._attributes.of_directory(names, Entry(b"/".join(names), "dir", 0o755, 0, 0, 0))
            return
        try:
            if not stat.S_ISDIR(found.st.st_mode):
                raise self._refused("it lies below something that is no directory")
            os.mkdir(names[-1], 0o755, dir_fd=above)
            self._attributes.as_found(names, found)
        finally:
            os.close(found.fd)

    def _whiteout(self, names: Names) -> None:
        hidden = names[-1][len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise self._refused("a whiteout of the directory itself, or of the one above")
        above = self._directory(names[:-1])
        st = self._lstat(above, hidden)
        if st is None:
            self._make_whiteout(above, hidden)
        elif stat.S_ISDIR(st.st_mode):
            # Of the same layer: what is hidden is what lies below it, whichever of the two comes first.
            self._form.mark_opaque(self._tree.directory((*names[:-1], hidden)))

    def _hide_all(self) -> None:
        """Hide all that is below: overlayfs takes no notice of an opaque mark on the root of a layer."""
        layers = self._parents()
        self._result.depends = True
        for name in layer_parents.names(layers):
            st = self._tree.lstat((name,))
            if st is None:
                self._make_whiteout(self._tree.root, name)
            elif stat.S_ISDIR(st.st_mode):
                self._form.mark_opaque(self._tree.directory((name,)))

    def _make_directory(self, names: Names, entry: Entry) -> None:
        above = self._directory(names[:-1])
        st = self._lstat(above, names[-1])
        if st is None or not stat.S_ISDIR(st.st_mode):
            if st is not None:
                self._tree.remove(above, names[-1], st)
                self._attributes.forget(names)
            os.mkdir(names[-1], 0o700, dir_fd=above)
            if st is not None:
                # What was there has hidden the layers below, and a directory alone would not.
                self._form.mark_opaque(self._tree.directory(names))
        self._attributes.of_directory(names, entry)

    def _make_other(self, names: Names, entry: Entry) -> None:
        if entry.kind == "file" and self._make_file(self._directory(names[:-1]), names[-1], entry):
            return
        target = self._link_target(entry, names) if entry.kind == "link" else ()
        above = self._directory(names[:-1])
        st = self._lstat(above, names[-1])
        if st is not None:
            if target == names:
                return
            if target[: len(names)] == names:
                raise self._refused("a link to what lies below itself")
            self._tree.remove(above, names[-1], st)
            self._attributes.forget(names)
            above = self._directory(names[:-1])
        name = names[-1]
        if entry.kind == "file":
            self._make_file(above, name, entry)
        elif entry.kind == "link":
            self._link(target, above, name)
        elif entry.kind == "symlink":
            if not entry.linkname:
                raise self._refused("a symlink to nothing")
            os.symlink(entry.linkname, name, dir_fd=above)
            self._attributes.of_symlink(above, name, entry)
        else:
            self._make_special(above, name, entry)

    def _make_file(self, above: int, name: bytes, entry: Entry) -> bool:
        """Make a file; False where something is there already."""
        if self._result.size + entry.size > self._limit:
            raise self._refused(
                f"its files have more than {self._limit} bytes; --max-layer-size sets the limit"
            )
        try:
            fd = os.open(name, _NEW, self._attributes.first_mode(entry), dir_fd=above)
        except FileExistsError:
            return False
        self._result.size += entry.size
        try:
            if entry.extents is None:
                while block := self._reader.read(_BLOCK):
                    _write(fd, block)
            else:
                for offset, length in entry.extents:
                    os.lseek(fd, offset, os.SEEK_SET)
                    while length:
                        block = self._reader.read(min(length, _BLOCK))
                        _write(fd, block)
                        length -= len(block)
                os.ftruncate(fd, entry.size)
            self._attributes.of_file(fd, entry)
        finally:
            os.close(fd)
        return True

    def _make_special(self, above: int, name: bytes, entry: Entry) -> None:
        kind = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}[entry.kind]
        major, minor = entry.device
        if kind == stat.S_IFCHR and (major, minor) == (0, 0):
            raise self._refused("a character device 0/0, which is how overlayfs deletes a name")
        if major >= 1 << 12 or minor >= 1 << 20:
            raise self._refused(f"there is no device {major}/{minor}")
        self._attributes.make_special(above, name, kind, os.makedev(major, minor), entry)

    # ---- hard links

    def _link_target(self, entry: Entry, names: Names) -> Names:
        """The path of a hard link's target, which has an object of this layer in it afterwards."""
        target = self._names(entry.linkname)
        if not target:
            raise self._refused("a hard link to the root")
        if any(name.startswith(WHITEOUT) for name in target):
            raise self._refused(f"a hard link to the whiteout {os.fsdecode(entry.linkname)!r}")
        try:
            st = self._tree.lstat(target)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._refused("a hard link through a symlink") from None
            raise
        if st is None:
            self._copy_up(target, entry)
            st = self._tree.lstat(target)
            assert st is not None
        if stat.S_ISDIR(st.st_mode) or _is_whiteout(st):
            raise self._refused(f"a hard link to {os.fsdecode(entry.linkname)!r}, which is no file")
        return target

    def _copy_up(self, target: Names, entry: Entry) -> None:
        """Have a file of the layers below in this one, under its own name, so that it can be linked to."""
        found = self._find_below(target)
        if found is None:
            raise self._refused(f"a hard link to {os.fsdecode(entry.linkname)!r}, which is not there")
        try:
            if stat.S_ISDIR(found.st.st_mode):
                raise self._refused(f"a hard link to {os.fsdecode(entry.linkname)!r}, which is a directory")
            self._attributes.copy(found, self._directory(target[:-1]), target[-1])
        finally:
            os.close(found.fd)

    def _find_below(self, names: Names) -> Found | None:
        """What the layers below have there, unless this one hides it."""
        if self._hides_all:
            return None
        layers = self._parents()
        self._result.depends = True
        for depth in range(1, len(names)):
            st = self._tree.lstat(names[:depth])
            if st is None:
                break
            if not stat.S_ISDIR(st.st_mode) or self._form.is_opaque(self._tree.directory(names[:depth])):
                return None
        return layer_parents.find(layers, names, self._form)

    def _link(self, target: Names, above: int, name: bytes) -> None:
        at = self._tree.directory(target[:-1])
        os.link(target[-1], name, src_dir_fd=at, dst_dir_fd=above, follow_symlinks=False)

    @staticmethod
    def _make_whiteout(directory: int, name: bytes) -> None:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)

    @staticmethod
    def _lstat(directory: int, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None


def _is_whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def _write(fd: int, block: bytes) -> None:
    written = os.write(fd, block)
    while written < len(block):
        written += os.write(fd, block[written:])

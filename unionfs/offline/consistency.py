"""Whether the layers of a union are consistent: a walk of all that it shows, with the core's own lookups.

`examine` gives a `Finding` for each thing that does not fit; what can be wrong with one object's marks is in
`marks.py`, with the work directory in `workdir.py`, and what may be done about it in `repair.py`. Changes
nothing, except that an ordinary user's check lends itself the owner's permissions on upper's objects for a
moment, as that user's mount does.

What counts as wrong is measured by what overlayfs and this program leave behind in use: they write a whiteout
only where a lower has the name, a redirect only where it leads to a directory. Lowers may belong
to others: of these only what makes names unreachable or incomplete is reported, not whiteouts over nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from unionfs.offline.findings import Finding, Kind, Severity
from unionfs.offline.marks import MarkChecker, read_marks
from unionfs.offline.origins import Origins
from unionfs.offline.repair_steps import ChangeMarks, RemoveWhiteout
from unionfs.offline.stack import Stack, real_path
from unionfs.offline.unreachable import missing_data, unreachable, unreadable
from unionfs.offline.workdir import examine as examine_work
from unionfs.overlay.dir_cache import HIDDEN
from unionfs.overlay.format import WHITEOUT_PREFIX
from unionfs.overlay.iget import Found, Hit, lower_dirs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import RealDir
from unionfs.overlay.namei import lower_has, resolve
from unionfs.overlay.readdir import cache_of
from unionfs.overlay.wait import complete

_FUSE_OVERLAYFS_OPAQUE = b".opq"
"""Of which `.wh..opq` would be the whiteout: with it fuse-overlayfs says that a directory is opaque."""


def examine(stack: Stack, advance: Callable[[], None] = lambda: None) -> Iterator[Finding]:
    """Check everything; *advance* is called for each name that was checked.

    Raises OSError only for what ends the check.
    """
    origins = Origins(stack)
    yield from examine_work(stack, origins)
    walk = _Walk(stack, origins, advance)
    yield from walk.run()


class _Walk:
    """One walk; `_places` has the path at which each lower directory shows."""

    __slots__ = ("_advance", "_marks", "_places", "_stack")

    def __init__(self, stack: Stack, origins: Origins, advance: Callable[[], None]) -> None:
        self._stack = stack
        self._marks = MarkChecker(stack, origins)
        self._advance = advance
        self._places: dict[tuple[int, int, int], bytes] = {}

    def run(self) -> Iterator[Finding]:
        root = self._stack.fs.root
        marks = self._own_marks(self._stack.upper.root)
        yield from self._marks.root(marks)
        pending = [(root, b"")]
        while pending:
            directory, path = pending.pop()
            yield from self._directory(directory, path, pending)
            directory.cache = None
        yield from self._marks.summary.findings(self._stack.fs.format)

    # --- one directory ------------------------------------------------------------------------------

    def _directory(
        self, directory: Directory, path: bytes, pending: list[tuple[Directory, bytes]]
    ) -> Iterator[Finding]:
        fs = self._stack.fs
        fs.dirfds.trim()
        try:
            cache = complete(cache_of, fs, directory)
        except OSError as error:
            yield unreadable(next(directory.real_dirs()), b"", error)
            return
        before = self._marks.live_origins
        for name, there in cache.upper.items():
            if there is HIDDEN and name != _FUSE_OVERLAYFS_OPAQUE:
                yield from self._whiteout(directory, path, name)
        for name in sorted(cache.names()):
            fs.dirfds.trim()
            self._advance()
            below = path + b"/" + name if path else name
            found: Found | None = None
            failed = False
            try:
                found = resolve(fs, directory, name)
            except OSError as error:
                failed = True
                yield unreachable(self._stack, directory, name, error)
            upper = self._in_upper(directory, name, found)
            if upper is not None:
                if found is None and not failed:
                    # Marked by an attribute, which a listing does not show.
                    yield from self._whiteout(directory, path, name)
                    continue
                marks = self._marks_of(upper)
                if marks:
                    yield from self._marks.examine(upper, below, marks, found)
            if found is None:
                continue
            if not _is_dir(found):
                finding = missing_data(self._stack, found)
                if finding is not None:
                    yield finding
            else:
                child, finding = self._child(found, below)
                if finding is not None:
                    yield finding
                if child is not None:
                    pending.append((child, below))
        if self._marks.live_origins > before and directory.upper is not None:
            yield from self._impure(directory.upper, path)

    def _in_upper(self, directory: Directory, name: bytes, found: Found | None) -> Hit | None:
        """The object of this name in upper, also where the lookup has failed."""
        if found is not None:
            return found.upper
        if directory.upper is None:
            return None
        st = directory.upper.lstat(name)
        return None if st is None else Hit(directory.upper, name, st)

    def _child(self, found: Found, path: bytes) -> tuple[Directory | None, Finding | None]:
        """The directory to be walked through, and whether it shows a lower one that shows elsewhere, too."""
        finding = None
        new = found.upper is not None
        for hit in found.lowers:
            key = (hit.directory.layer.idx, hit.st.st_dev, hit.st.st_ino)
            known = self._places.setdefault(key, path)
            if known is path:
                new = True
            elif finding is None:
                finding = self._duplicate(found, hit, known, path)
        if not finding:
            finding = self._lower_redirect(found)
        if not new:
            return None, finding
        upper = found.upper.directory.child(found.upper.name) if found.upper is not None else None
        return Directory(0, stat.S_IFDIR, upper, tuple(lower_dirs(found))), finding

    def _duplicate(self, found: Found, hit: Hit, known: bytes, path: bytes) -> Finding:
        """*path* shows the lower directory *hit*, which *known* was seen to show."""
        if found.upper is None and self._stack.upper_has(known):
            known, path = path, known
        here, other = os.fsdecode(path), os.fsdecode(known)
        top = found.upper or found.lowers[0]
        upper = os.fsencode(self._stack.upper.path)
        return Finding(
            Kind.DUPLICATE,
            Severity.ERROR,
            upper + b"/" + path if self._stack.upper_has(path) else real_path(top.directory, top.name),
            f"it shows the lower directory {os.fsdecode(real_path(hit.directory, hit.name))}, which /{other}"
            " shows as well: two redirects lead there, or nothing hides the place that a redirect leads away"
            " from; kernel overlayfs returns ESTALE for one of the names",
            f"decide which of /{here} and /{other} it is to be; where the other is in upper, make it opaque"
            f" (setfattr -n {self._stack.fs.format.opaque} -v y), else put a whiteout there (mknod NAME c 0"
            " 0)",
        )

    def _lower_redirect(self, found: Found) -> Finding | None:
        """A redirect of a lower that leads nowhere: a layer below it may be missing."""
        if not found.lowers:
            return None
        hit = found.lowers[-1]
        fs = self._stack.fs
        fmt = fs.format
        if hit.directory.layer.idx == len(fs.lowers) - 1:
            return None  # of the bottom layer no lookup reads it
        value = fmt.read_at(hit.directory, hit.name, fmt.redirect)
        if value is None or fmt.read_at(hit.directory, hit.name, fmt.opaque) == b"y":
            return None
        return Finding(
            Kind.REDIRECT,
            Severity.WARNING,
            real_path(hit.directory, hit.name),
            f"the redirect {value!r} of this directory in a lower leads to no directory in the layers below"
            " it: one may be missing, or be in the wrong place",
            "give all lowers in the order in which they were made; a lower is never written",
        )

    # --- what is found --------------------------------------------------------------------------------

    def _whiteout(self, directory: Directory, path: bytes, name: bytes) -> Iterator[Finding]:
        self._advance()
        assert directory.upper is not None
        if lower_has(self._stack.fs, directory, name):
            return
        real = directory.upper
        st = real.lstat(name)
        shown = name if st is not None else WHITEOUT_PREFIX + name
        step: RemoveWhiteout | None = RemoveWhiteout(path, name)
        mark = real.lstat(WHITEOUT_PREFIX + name)
        advice = "remove it: nothing changes in the union"
        if mark is not None and mark.st_size:
            step, advice = (
                None,
                "it is not empty, as a whiteout is: inspect it, and rename or remove it",
            )
        yield Finding(
            Kind.WHITEOUT,
            Severity.WARNING,
            real_path(real, shown),
            "a whiteout over nothing: no lower has the name there, so it hides nothing",
            advice,
            step,
            needs_lowers=True,
        )

    def _impure(self, real: RealDir, path: bytes) -> Iterator[Finding]:
        marks = self._own_marks(real)
        if marks.get("impure") == b"y":
            return
        mark = self._stack.fs.format.impure
        yield Finding(
            Kind.IMPURE,
            Severity.WARNING,
            real_path(real),
            "it holds something that was copied up, and overlay.impure does not say so: kernel overlayfs"
            " lists other inode numbers there than it shows",
            f"set the mark: setfattr -n {mark} -v y",
            ChangeMarks(path, "overlay.impure was set", put={mark: b"y"}),
        )

    # --- all of upper ---------------------------------------------------------------------------------

    def _marks_of(self, hit: Hit) -> dict[str, bytes]:
        marks = read_marks(self._stack, hit.directory, hit.name, is_dir=stat.S_ISDIR(hit.st.st_mode))
        if not marks and not self._marks.summary.own:
            self._marks.summary.note_other(self._stack.fs.format, hit)
        return marks

    def _own_marks(self, real: RealDir) -> dict[str, bytes]:
        """The marks of a directory itself."""
        if real.parent is not None:
            return read_marks(self._stack, real.parent, real.name, is_dir=True)
        fmt = self._stack.fs.format
        path = b"/proc/self/fd/%d" % real.open()
        names = [name for name in os.listxattr(path) if fmt.xattrs.is_private(name)]
        return {name[len(fmt.prefix) :]: fmt.read(path, name, follow=True) or b"" for name in names}


def _is_dir(found: Found) -> bool:
    top = found.upper or found.lowers[0]
    return stat.S_ISDIR(top.st.st_mode)

"""`unionfs.mount`: a union that a program mounts, uses and unmounts.

A union ends with its program at the latest: by the `with` block, `Mount.umount`, the exit of the interpreter
or, for a program that was killed, by the daemon, which watches it. Nothing here needs an event loop or starts
a thread.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Unpack

from unionfs.api import holders
from unionfs.api.keywords import Options, Paths, StrOrBytesPath, one_path, several_paths, words
from unionfs.api.launch import launch
from unionfs.api.table import umount, unmount_or_busy
from unionfs.control.unmount import BusyError
from unionfs.daemon.tempdir import TempDir, supports_whiteouts
from unionfs.errors import MountError, OptionError, PyUnionFSError
from unionfs.linux.mount import MountPoint, mount_at, mount_table
from unionfs.options.lists import escape
from unionfs.options.mount_options import resolve_mountpoint

_END_TIME = 10.0
_PAUSE = 0.01


def mount(
    lowers: Paths = (),
    mountpoint: StrOrBytesPath | None = None,
    *,
    image: str | None = None,
    store: StrOrBytesPath | None = None,
    upper: StrOrBytesPath | None = None,
    work: StrOrBytesPath | None = None,
    data_lowers: Paths = (),
    tmpdir: StrOrBytesPath | None = None,
    keep: bool = False,
    **options: Unpack[Options],
) -> Mount:
    """Mount `lowers`, topmost first, and `upper` as one tree, and return when the mount is ready.

        with unionfs.mount(lowers=["site", "base"]) as merged:
            (merged / "etc/motd").write_text("changed in a temporary upper, base is as it was")

    The layers of `image`, an image of the `store` (default: that of the commands), are below `lowers`, which
    may then be left out. Mountpoint, `upper` and `work` are temporary if they are left out: created in
    `tmpdir` or where `tempfile` creates directories, and removed at the end; next to an `upper` that is given
    if only `work` is left out.
    With `ro=True` and no `upper` there is none. Without `keep` the union ends with this process at the
    latest; with it only `umount` ends it, and all directories must be given. `data_lowers` are below `lowers`
    and reached through metacopy files only. The defaults of a temporary upper are `volatile` and
    `redirect_dir="on"` or, on overlayfs, `whiteouts="aufs"`. The remaining keywords are `Options`.

    OptionError: a keyword or its value is wrong. MountError: the mount has failed. Nothing is mounted then,
    and nothing left behind.
    """
    layers = _Layers(lowers, data_lowers, upper, work, image, store)
    given = dict(options)
    layers.refuse_contradictions(given, keep=keep, mountpoint=mountpoint)
    place = None if tmpdir is None else one_path("tmpdir", tmpdir)
    with contextlib.ExitStack() as undo:
        temp_dirs = _TempDirs(place)
        undo.callback(temp_dirs.remove)
        layers.complete(given, temp_dirs)
        path = one_path("mountpoint", mountpoint) if mountpoint is not None else temp_dirs.add("merged")
        resolved = resolve_mountpoint(path)
        before = mount_at(resolved)
        try:
            launch(
                resolved,
                [*layers.words(), *words(given)],
                temp_dirs.all(),
                new_upper=upper is None,
                keep=keep,
            )
        except MountError as error:
            raise temp_dirs.explained(error) from None
        except BaseException:
            _unmount_interrupted(resolved, before)
            raise
        undo.pop_all()
    return Mount(Path(path), resolved, layers, temp_dirs, keep=keep)


class _Layers:
    """The layers of the union: those that were given and those that are created."""

    def __init__(
        self,
        lowers: Paths,
        data_lowers: Paths,
        upper: StrOrBytesPath | None,
        work: StrOrBytesPath | None,
        image: str | None,
        store: StrOrBytesPath | None,
    ) -> None:
        self.image = image
        self.store = None if store is None else one_path("store", store)
        self.lowers = several_paths("lowers", lowers)
        self.data_lowers = several_paths("data_lowers", data_lowers)
        self.upper = None if upper is None else one_path("upper", upper)
        self.work = None if work is None else one_path("work", work)
        if image is not None and not isinstance(image, str):
            raise OptionError(f"image={image!r}: give the name of an image, as in image='debian:12'")
        if not self.lowers and image is None:
            raise OptionError("lowers is empty: give at least one lower layer, or an image")
        if self.store is not None and image is None:
            raise OptionError("store requires image: add that, or leave store out")
        if self.work is not None and self.upper is None:
            raise OptionError("work requires upper: add that, or leave work out")

    def refuse_contradictions(
        self, given: dict[str, object], *, keep: bool, mountpoint: StrOrBytesPath | None
    ) -> None:
        if self.upper is not None and self.work is None:
            for name in ("index", "volatile"):
                if given.get(name):
                    raise OptionError(
                        f"{name}=True with upper requires work, whose state then belongs to upper: add"
                        " work=..., an empty directory on the same filesystem"
                    )
        if not keep:
            return
        read_only = bool(given.get("ro")) and self.upper is None
        missing = [
            name
            for name, value in (("mountpoint", mountpoint), ("upper", self.upper), ("work", self.work))
            if value is None and not (read_only and name != "mountpoint")
        ]
        if missing:
            raise OptionError(
                f"keep=True requires {' and '.join(missing)}, because temporary directories are removed when"
                " this process ends: add them, or leave keep out"
            )

    def complete(self, given: dict[str, object], temp_dirs: _TempDirs) -> None:
        """Create upper and work if they were left out."""
        if self.upper is None:
            if given.get("ro"):
                return
            self.upper = temp_dirs.add("upper")
            self.work = temp_dirs.add("work")
            _set_temporary_upper_defaults(given, self.work)
        elif self.work is None:
            self.work = temp_dirs.add_beside(self.upper)

    def words(self) -> list[str]:
        """The layers as words of `-o`."""
        found = [f"lowerdir+={escape(path)}" for path in self.lowers]
        found += [f"datadir+={escape(path)}" for path in self.data_lowers]
        if self.image is not None:
            found.append(f"image={escape(self.image)}")
        if self.store is not None:
            found.append(f"store={escape(self.store)}")
        if self.upper is not None and self.work is not None:
            found += [f"upperdir={escape(self.upper)}", f"workdir={escape(self.work)}"]
        return found


def _set_temporary_upper_defaults(given: dict[str, object], work: str) -> None:
    """The defaults of an upper that kernel overlayfs will never mount."""
    given.setdefault("volatile", True)
    redirects = given.get("redirect_dir") == "on" or given.get("metacopy")
    if "whiteouts" not in given and not redirects and not supports_whiteouts(work):
        given["whiteouts"] = "aufs"
    elif given.get("whiteouts") != "aufs":
        # With userxattr, too, directories can be renamed then.
        given.setdefault("redirect_dir", "on")


class _TempDirs:
    """The temporary directories of one union: the main one, and one for work beside a given upper."""

    def __init__(self, place: str | None) -> None:
        self._place = place
        self._beside: TempDir | None = None
        self._upper: str | None = None
        self._main: TempDir | None = None

    def add(self, name: str) -> str:
        if self._main is None:
            import tempfile

            self._main = TempDir.make(tempfile.gettempdir() if self._place is None else self._place)
        path = self._main.add(name)
        if name == "upper":
            self._upper = path
        return path

    def add_beside(self, upper: str) -> str:
        place = os.path.dirname(os.path.realpath(upper))
        if os.path.isdir(upper) and os.stat(upper).st_dev != os.stat(place).st_dev:
            raise MountError(
                f"cannot create a work directory next to upper {upper}, the root of a filesystem: give"
                " work=..., an empty directory on the same filesystem"
            )
        try:
            self._beside = TempDir.make(place, ".pyunionfs-work-")
        except MountError as error:
            raise MountError(
                f"cannot create a work directory next to upper {upper}: {error}; or give work=..."
            ) from error
        return self._beside.add("work")

    def explained(self, error: MountError) -> MountError:
        """The error, with what to do if the temporary upper is the cause of it."""
        if self._upper is None or self._upper not in str(error):
            return error
        return MountError(
            f"{error}; this upper is a temporary directory: choose another place by tmpdir=... or the"
            " environment variable TMPDIR, or give upper=... and work=..."
        )

    def all(self) -> list[TempDir]:
        return [temp_dir for temp_dir in (self._main, self._beside) if temp_dir is not None]

    def remove(self) -> None:
        for temp_dir in self.all():
            temp_dir.remove()


class Mount:
    """A mounted union: a context manager, whose `with` yields `path`.

    Outside of a `with` it stays mounted until `umount`, or until this process ends.
    """

    def __init__(
        self, path: Path, mountpoint: str, layers: _Layers, temp_dirs: _TempDirs, *, keep: bool
    ) -> None:
        """Called by `mount` only."""
        self.path = path
        """The mountpoint."""
        self.lowers = tuple(map(Path, layers.lowers))
        """Topmost first."""
        self.upper = None if layers.upper is None else Path(layers.upper)
        """The directory that receives the changes; None: the mount is read-only."""
        self.work = None if layers.work is None else Path(layers.work)
        self._mountpoint = mountpoint
        self._temp_dirs = temp_dirs
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._ended = False
        entry = mount_at(mountpoint)
        self._device = None if entry is None else entry.device
        if not keep:
            _living[id(self)] = self

    def __repr__(self) -> str:
        state = "unmounted" if self._ended else f"lowers {[os.fspath(lower) for lower in self.lowers]}"
        return f"<unionfs.Mount at {str(self.path)!r}, {state}>"

    def __enter__(self) -> Path:
        if self._ended:
            raise MountError(f"the union at {self.path} has been unmounted: mount it again by unionfs.mount")
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unmount in any case, as `end` does. An exception of the block has precedence."""
        try:
            self.end()
        except PyUnionFSError as problem:
            if error is None:
                raise
            error.add_note(f"pyunionfs: {problem}")

    def umount(self, *, lazy: bool = False) -> None:
        """Unmount, wait until all data is written, and remove the temporary directories.

        With `lazy` it is detached now, and open files are served until they are closed. If it has been
        unmounted already, this does nothing. MountError: it is in use (and stays mounted), or the temporary
        directories cannot be removed.
        """
        if os.getpid() != self._process:
            raise MountError(
                f"cannot unmount {self.path} here: it belongs to process {self._process}, from which this one"
                f" was forked; call unionfs.umount({str(self.path)!r}) instead"
            )
        try:
            self._end(lazy=lazy)
        except BusyError as busy:
            raise MountError(f"{holders.busy_message(busy)}, or umount(lazy=True)") from None

    def _end(self, *, lazy: bool) -> None:
        with self._lock:
            if self._ended:
                return
            if self._is_there():
                self._unmount(lazy=lazy)
            self._finish()

    def end(self, before: str = "the block ends") -> None:
        """`umount`, but a union in use is detached, and the MountError says what uses it.

        `before` is when it should have been closed, for the message. In a process that was forked from the
        union's this does nothing.
        """
        if os.getpid() != self._process:
            return
        try:
            self._end(lazy=False)
        except MountError as problem:
            if self._ended:
                raise
            text = str(problem)
            if isinstance(problem, BusyError):
                text = f"{holders.busy_message(problem)} before {before}"
            self._end(lazy=True)
            raise MountError(f"{text} (the union was detached)") from None

    def _is_there(self) -> bool:
        """Whether it is still mounted. MountError: another mount covers it."""
        here = [entry for entry in mount_table() if entry.path == self._mountpoint]
        if self._device is None or all(entry.device != self._device for entry in here):
            return False
        if here[-1].device != self._device:
            raise MountError(
                f"cannot unmount {self._mountpoint}: it is covered by a {here[-1].fstype} mount; unmount that"
                " first"
            )
        return True

    def _unmount(self, *, lazy: bool) -> None:
        try:
            unmount_or_busy(self._mountpoint, lazy=lazy)
        except BusyError:
            # A file without references may be in a cycle that the collector has yet to free.
            if not holders.of_this_process(self._mountpoint):
                raise
            gc.collect()
            if holders.of_this_process(self._mountpoint):
                raise
            unmount_or_busy(self._mountpoint, lazy=lazy)

    def _finish(self) -> None:
        self._ended = True
        _living.pop(id(self), None)
        self._temp_dirs.remove()


_living: dict[int, Mount] = {}
"""The unions to unmount at the exit of the interpreter, in the order in which they were mounted."""


@atexit.register
def _end_all() -> None:
    for union in reversed(list(_living.values())):
        try:
            union.end("the program ends")
        except PyUnionFSError as problem:
            print(f"pyunionfs: {problem}", file=sys.stderr)


def _unmount_interrupted(mountpoint: str, before: MountPoint | None) -> None:
    """After an interruption: unmount what was mounted by then, unless the daemon does it."""
    deadline = time.monotonic() + _END_TIME
    while mount_at(mountpoint) != before and time.monotonic() < deadline:
        with contextlib.suppress(MountError):  # the daemon was faster
            umount(mountpoint)
        time.sleep(_PAUSE)

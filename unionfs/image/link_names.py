"""The names of files that an upper does not hold, since only lowers have them: found by a walk of the union.

A renamed directory may show one name of a file that has others elsewhere; with `index=on` one that was copied
up keeps the names that only lowers hold. Seldom needed, so nothing is walked before something is looked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator

from unionfs.offline.layer_view import LayerView, directory_of, top
from unionfs.overlay.iget import Found, Hit
from unionfs.overlay.inode import Directory

_Number = tuple[int, int]


class LinkNames:
    """What is looked for, by the device and number of the lower file that the names lead to."""

    def __init__(self, view: LayerView) -> None:
        self._view = view
        self._wanted: dict[_Number, Hit | None] = {}
        """With the file in upper that stands for it, by an index; None: itself."""

    def look_for(self, lower: _Number) -> None:
        """Look for all names of a lower file."""
        self._wanted.setdefault(lower, None)

    def look_for_indexed(self, found: Found, before: set[_Number]) -> bool:
        """Look for the names of an indexed file in upper; whether it is known which lower file it was.

        *before* are the files that the lowers have at names that upper holds.
        """
        assert found.upper is not None
        fmt = self._view.fs.format
        origin = fmt.decode_origin(fmt.read_at(found.upper.directory, found.upper.name, fmt.origin) or b"")
        st = None if origin is None else self._view.fs.stat_origin(origin)
        if st is not None:
            self._wanted[st.st_dev, st.st_ino] = found.upper
            return True
        # An ordinary user may not open by handle; what lies at the same name is most often it.
        if len(before) == 1 and (0, 0) not in before:
            self._wanted[before.copy().pop()] = found.upper
            return True
        return False

    def look_for_index(self, index: str, known: Container[_Number]) -> None:
        """Look for the names of files in `work/index` of which upper holds no name; *known* it does hold."""
        fs = self._view.fs
        assert fs.upper is not None
        try:
            fd = os.open(index, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        directory = fs.upper.root.aside(fd)
        # Held for as long as the objects are: until the view is closed.
        directory.pinned = True
        for name in map(os.fsencode, os.listdir(fd)):
            st = directory.lstat(name)
            try:
                origin = fs.format.decode_origin(bytes.fromhex(name.decode()))
            except ValueError:
                continue  # none of overlayfs's names
            if st is None or origin is None or (st.st_dev, st.st_ino) in known:
                continue
            lower = fs.stat_origin(origin)
            if lower is not None and stat.S_IFMT(lower.st_mode) == stat.S_IFMT(st.st_mode):
                self._wanted[lower.st_dev, lower.st_ino] = Hit(directory, name, st)

    def find(self) -> Iterator[tuple[bytes, Found, dict[bytes, Found]]]:
        """Each name that only lowers hold: its path, what the union shows there, the directories above it."""
        if not self._wanted:
            return
        todo: list[tuple[bytes, Directory, dict[bytes, Found]]] = [(b"", self._view.union, {})]
        while todo:
            path, directory, above = todo.pop()
            for name in self._view.names(directory):
                found = self._view.lookup(directory, name)
                if found is None:
                    continue
                st = top(found).st
                if stat.S_ISDIR(st.st_mode):
                    todo.append((path + name + b"/", directory_of(found), {**above, path + name: found}))
                elif found.upper is None and st.st_nlink > 1 and (st.st_dev, st.st_ino) in self._wanted:
                    yield path + name, self._shown(found, self._wanted[st.st_dev, st.st_ino]), above

    def _shown(self, found: Found, indexed: Hit | None) -> Found:
        if indexed is None:
            return found
        fmt = self._view.fs.format
        metacopy = fmt.metacopy in (fmt.names(indexed.directory, indexed.name) or ())
        return Found(indexed, found.lowers if metacopy else [], upper_metacopy=metacopy)

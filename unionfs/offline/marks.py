"""Checks the marks of one object in upper: stale, meaningless, or contradicting each other.

The lookup of the name has been done before (`consistency.py`). Reads only. Findings say what kernel overlayfs
does with such a mark where that matters.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from unionfs.offline.findings import Consent, Finding, Kind, Severity
from unionfs.offline.origins import Origins, OriginState, OriginTarget
from unionfs.offline.repair_steps import ChangeMarks
from unionfs.offline.stack import Stack, real_path
from unionfs.offline.summary import Summary
from unionfs.offline.workdir import NLINK, malformed_nlink
from unionfs.overlay.access import reachable
from unionfs.overlay.format import Format
from unionfs.overlay.iget import Found, Hit
from unionfs.overlay.layer import RealDir

_METACOPY_LEAST = 4
_METACOPY_MOST = 68
"""Bytes of `struct ovl_metacopy`: its header, and with the longest digest of fs-verity."""

_UUID_SIZE = 16


def read_marks(stack: Stack, directory: RealDir, name: bytes, *, is_dir: bool) -> dict[str, bytes]:
    """All marks of an object, by their short names; the other prefix's are left out."""
    fmt = stack.fs.format
    with reachable(stack.fs, directory, name, is_dir=is_dir):
        names = fmt.names(directory, name) or []
        found = {}
        for each in names:
            if fmt.xattrs.is_private(each):
                value = fmt.read_at(directory, name, each)
                if value is not None:
                    found[each[len(fmt.prefix) :]] = value
    return found


class MarkChecker:
    """Checks the marks of upper's objects."""

    __slots__ = ("_fmt", "_origins", "_stack", "live_origins", "summary")

    def __init__(self, stack: Stack, origins: Origins) -> None:
        self._stack = stack
        self._fmt: Format = stack.fs.format
        self._origins = origins
        self.summary = Summary()
        self.live_origins = 0
        """Objects so far whose inode number is that of a lower one."""

    def examine(
        self, hit: Hit, path: bytes, marks: dict[str, bytes], found: Found | None
    ) -> Iterator[Finding]:
        """What is wrong with one object's marks. *path* is relative to upper.

        *found* is what the union finds at the name, None where it finds an error.
        """
        self.summary.own += 1
        mode = hit.st.st_mode
        shown = real_path(hit.directory, hit.name)
        if "origin" in marks:
            yield from self._origin(hit, path, shown, marks, found)
        if stat.S_ISDIR(mode):
            yield from self._directory(path, shown, marks, found)
        elif "opaque" in marks:
            yield self._stray(path, shown, "opaque", "it is no directory")
        if "metacopy" in marks:
            if stat.S_ISREG(mode):
                yield from self._metacopy(shown, marks)
            else:
                yield self._stray(path, shown, "metacopy", "it is no regular file", Kind.METACOPY)
        if "protattr" in marks and (not marks["protattr"] or marks["protattr"].strip(b"ai")):
            yield Finding(
                Kind.PROTATTR,
                Severity.WARNING,
                shown,
                f"overlay.protattr is {marks['protattr']!r} and not of the letters a and i: overlayfs ignores"
                " it, so the object is protected from nothing",
                "set it anew with chattr(1) in the mounted union",
            )
        if "nlink" in marks and not NLINK.fullmatch(marks["nlink"]):
            yield malformed_nlink(shown, marks["nlink"])

    def root(self, marks: dict[str, bytes]) -> Iterator[Finding]:
        """What is wrong with the marks of upper's root directory."""
        shown = real_path(self._stack.upper.root)
        for mark in ("redirect", "metacopy"):
            if mark in marks:
                yield self._stray(b"", shown, mark, "it is upper's root, which always merges")
        if "opaque" in marks:
            # No repair: a container engine's mount would show another tree after it.
            yield Finding(
                Kind.OPAQUE,
                Severity.WARNING,
                shown,
                "overlay.opaque on upper's root means nothing to overlayfs, which always merges it; a mount"
                " by fuse-overlayfs, or by this program in its place, shows nothing of the lowers",
                "if the lowers are to show there, too, remove the mark: setfattr -x"
                f" {self._fmt.opaque} UPPER",
            )
        if "uuid" in marks and len(marks["uuid"]) != _UUID_SIZE:
            yield Finding(
                Kind.UUID,
                Severity.WARNING,
                shown,
                f"overlay.uuid has {len(marks['uuid'])} bytes instead of {_UUID_SIZE}: overlayfs ignores it",
                "remove the mark: overlayfs makes a new one",
                self._removal(b"", marks, "uuid"),
            )
        if marks.get("origin"):
            yield from self._root_origin(shown, marks)

    # --- origin -----------------------------------------------------------------------------------

    def _origin(
        self, hit: Hit, path: bytes, shown: bytes, marks: dict[str, bytes], found: Found | None
    ) -> Iterator[Finding]:
        seen = self._origins.resolve(marks["origin"])
        self.live_origins += seen.state in (OriginState.LIVE, OriginState.UNOPENED)
        summary = self.summary
        is_dir = stat.S_ISDIR(hit.st.st_mode)
        if seen.state is OriginState.FOREIGN:
            summary.foreign += 1
            summary.foreign_path = summary.foreign_path or shown
        elif seen.state is OriginState.UNOPENED:
            if is_dir and found is not None and not found.lowers and not found.upper_opaque:
                summary.unfound += 1
                summary.unfound_path = summary.unfound_path or shown
        elif seen.state is OriginState.OTHER_FORMAT:
            summary.other_format += 1
            summary.other_format_path = summary.other_format_path or shown
        elif seen.state is OriginState.STALE and (found is None or _leads_nowhere(marks, found)):
            pass  # its target is missing, which is reported; until that is repaired the mark may help
        elif seen.state in (OriginState.MALFORMED, OriginState.STALE):
            what = (
                "is malformed"
                if seen.state is OriginState.MALFORMED
                else "leads to a lower object that does not exist any more"
            )
            yield Finding(
                Kind.ORIGIN,
                Severity.WARNING,
                shown,
                f"overlay.origin {what}: the object keeps its content, but its inode number is a new one",
                "set the mark to the empty value, which says that the origin is not known",
                self._forget_origin(path, marks, is_dir=is_dir),
            )
        elif seen.state is OriginState.LIVE and seen.st is not None:
            yield from self._live_origin(hit, path, shown, marks, found, seen)

    def _live_origin(
        self,
        hit: Hit,
        path: bytes,
        shown: bytes,
        marks: dict[str, bytes],
        found: Found | None,
        seen: OriginTarget,
    ) -> Iterator[Finding]:
        assert seen.st is not None
        is_dir = stat.S_ISDIR(hit.st.st_mode)
        other_type = stat.S_IFMT(seen.st.st_mode) != stat.S_IFMT(hit.st.st_mode)
        # A regular file may stand for a device there.
        if other_type and not self._stack.config.uses_override_stat:
            yield Finding(
                Kind.ORIGIN,
                Severity.ERROR,
                shown,
                "overlay.origin leads to an object of another type: kernel overlayfs returns EIO for lookups"
                " of the name",
                "set the mark to the empty value, which says that the origin is not known",
                self._forget_origin(path, marks, is_dir=is_dir),
            )
            return
        own = (seen.st.st_dev, seen.st.st_ino)
        lowers = [] if found is None else [(each.st.st_dev, each.st.st_ino) for each in found.lowers]
        if is_dir and own not in lowers:
            if seen.inside is False:
                self.summary.outside.append(self._forget_origin(path, marks, is_dir=True))
                self.summary.outside_path = self.summary.outside_path or shown
            elif "redirect" in marks and lowers:
                yield Finding(
                    Kind.REDIRECT,
                    Severity.WARNING,
                    shown,
                    f"its redirect {marks['redirect']!r} leads to another lower directory than the one it was"
                    " copied up from: one of the two marks was changed, or the lowers were",
                    "compare what it shows with what you expect; overlay.redirect decides",
                )
        elif (
            not is_dir and "metacopy" in marks and self._stack.config.index and lowers[:1] not in ([], [own])
        ):
            yield Finding(
                Kind.METACOPY,
                Severity.ERROR,
                shown,
                "its data are looked for in another lower file than the one it was copied up from: kernel"
                " overlayfs with index=on returns ESTALE",
                "give the lowers that it was made with, or mount without index=on",
            )

    def _root_origin(self, shown: bytes, marks: dict[str, bytes]) -> Iterator[Finding]:
        """With index=on the top lower's root is kept here, and another refused (`overlay/ties.py`)."""
        value = marks["origin"]
        if self._fmt.decode_origin(value) is None:
            return  # it is ignored, and the next such mount writes it again
        roots = [layer.root_fd for layer in self._stack.fs.lowers]
        if self._origins.names_object(value, roots[0]):
            return
        severity = Severity.ERROR if self._stack.config.index else Severity.WARNING
        consequence = "a mount with index=on is refused (ESTALE in the kernel)"
        step = ChangeMarks(
            b"",
            "overlay.origin was removed: the next mount with index=on sets it anew",
            remove=(self._fmt.origin,),
            was={self._fmt.origin: value},
        )
        if any(self._origins.names_object(value, root) for root in roots[1:]):
            reason = f"another of the lowers was the top one when this upper was made; {consequence}"
        else:
            reason = f"this upper was made over another top lower, or the lowers were copied; {consequence}"
        yield Finding(
            Kind.LOWERS,
            severity,
            shown,
            reason,
            "give the lowers in the order in which they were mounted; if they have really changed for good,"
            " `--repair --accept-lowers` forgets the old ones",
            step,
            consent=Consent.LOWERS,
        )

    def _forget_origin(self, path: bytes, marks: dict[str, bytes], *, is_dir: bool) -> ChangeMarks:
        mark = self._fmt.origin
        was = {mark: marks["origin"]}
        if is_dir:
            # overlayfs sets that of a merged directory anew, if it has none.
            return ChangeMarks(path, "overlay.origin was removed", remove=(mark,), was=was)
        return ChangeMarks(path, "overlay.origin was emptied", put={mark: b""}, was=was)

    # --- directories ------------------------------------------------------------------------------

    def _directory(
        self, path: bytes, shown: bytes, marks: dict[str, bytes], found: Found | None
    ) -> Iterator[Finding]:
        opaque = marks.get("opaque")
        if opaque is not None and opaque not in (b"y", b"x"):
            yield Finding(
                Kind.OPAQUE,
                Severity.WARNING,
                shown,
                f"overlay.opaque is {opaque!r}, which means nothing (y would): what the lowers have there"
                " shows through",
                "set it to y if the directory was to hide them, else remove it",
            )
        if found is None or not _leads_nowhere(marks, found):
            return
        redirect = marks["redirect"]
        # Safe without a doubt only where the lower directory is seen to be gone: with the wrong lowers given,
        # this would cut the directory off its content for good.
        gone = self._origins.resolve(marks.get("origin", b"")).state is OriginState.STALE
        yield Finding(
            Kind.REDIRECT,
            Severity.WARNING,
            shown,
            f"its redirect {redirect!r} leads to no directory in any lower: it shows only what upper has",
            "give the lowers that it was made with, or put the directory back; if it is gone for good,"
            + (" " if gone else " `--accept-lowers` with ")
            + "`--repair` makes the directory opaque and removes the redirect",
            ChangeMarks(
                path,
                f"the directory was made opaque, and its redirect {redirect!r} removed",
                put={self._fmt.opaque: b"y"},
                remove=(self._fmt.redirect, *((self._fmt.origin,) if gone else ())),
                was={self._fmt.redirect: redirect},
            ),
            needs_lowers=True,
            consent=None if gone else Consent.LOWERS,
        )

    # --- files ------------------------------------------------------------------------------------

    def _metacopy(self, shown: bytes, marks: dict[str, bytes]) -> Iterator[Finding]:
        value = marks["metacopy"]
        # A version, the length, flags, the digest's algorithm and the digest: struct ovl_metacopy.
        if value and not (
            _METACOPY_LEAST <= len(value) <= _METACOPY_MOST and value[0] == 0 and value[1] == len(value)
        ):
            yield Finding(
                Kind.METACOPY,
                Severity.ERROR,
                shown,
                "overlay.metacopy is malformed: kernel overlayfs returns EIO for lookups of the name",
                "check that the file's data in the lower are the right ones; if so, set the mark to the"
                f" empty value: setfattr -n {self._fmt.metacopy} -v '' FILE",
            )

    # --- helpers ----------------------------------------------------------------------------------

    def _stray(self, path: bytes, shown: bytes, mark: str, why: str, kind: Kind = Kind.OPAQUE) -> Finding:
        return Finding(
            Kind.REDIRECT if mark == "redirect" else Kind.METACOPY if mark == "metacopy" else kind,
            Severity.WARNING,
            shown,
            f"overlay.{mark} has no meaning on it: {why}",
            "remove the mark",
            ChangeMarks(path, f"overlay.{mark} was removed", remove=(self._fmt.prefix + mark,)),
        )

    def _removal(self, path: bytes, marks: dict[str, bytes], mark: str) -> ChangeMarks:
        name = self._fmt.prefix + mark
        return ChangeMarks(path, f"overlay.{mark} was removed", remove=(name,), was={name: marks[mark]})


def _leads_nowhere(marks: dict[str, bytes], found: Found) -> bool:
    """Whether it is a directory with a redirect to nothing."""
    top = found.upper
    return (
        top is not None
        and stat.S_ISDIR(top.st.st_mode)
        and "redirect" in marks
        and not found.lowers
        and not found.upper_opaque
    )

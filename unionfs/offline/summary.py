"""What a check reports once for all of upper, and not of each object: how many, and the first path.

Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from unionfs.offline.findings import Consent, Finding, Kind, Severity
from unionfs.offline.repair_steps import ChangeMarks, RepairAll
from unionfs.offline.stack import real_path
from unionfs.overlay.format import Format
from unionfs.overlay.iget import Hit

_OTHER = {"trusted.overlay.": "user.overlay.", "user.overlay.": "trusted.overlay."}
_TELLING = ("origin", "impure", "redirect")
"""Marks that only a union writes; the others callers may set themselves."""


@dataclass(slots=True)
class Summary:
    """What is reported once for all of upper, and not of each object."""

    own: int = 0
    """Objects with marks."""
    foreign: int = 0
    """Origins on filesystems that no lower lies on."""
    foreign_path: bytes = b""
    unfound: int = 0
    """Directories that were copied up from ones that the lowers do not have, without the privilege to open
    handles."""
    unfound_path: bytes = b""
    other_format: int = 0
    other_format_path: bytes = b""
    outside: list[ChangeMarks] = field(default_factory=list)
    """Repairs of directories that were copied up from ones outside of all lowers."""
    outside_path: bytes = b""
    other: int = 0
    """Objects with marks of the other kind, as long as there are none of the wanted."""
    other_path: bytes = b""

    def note_other(self, fmt: Format, hit: Hit) -> None:
        """Count marks of the other kind, as long as there are none of the wanted."""
        prefix = _OTHER[fmt.prefix]
        names = fmt.names(hit.directory, hit.name) or []
        if any(name == prefix + mark for name in names for mark in _TELLING):
            self.other += 1
            self.other_path = self.other_path or real_path(hit.directory, hit.name)

    def findings(self, fmt: Format) -> Iterator[Finding]:
        """The findings, if there are any."""
        if self.outside:
            yield Finding(
                Kind.LOWERS,
                Severity.WARNING,
                self.outside_path,
                f"{_count(len(self.outside), 'directory', 'directories')} in upper, this one first, came"
                " from lowers that were not given: a lower is missing, or another copy of it was given",
                "give the lowers that upper was made with; if they were copied here for good,"
                " `--repair --accept-lowers` forgets the old ones",
                RepairAll(tuple(self.outside), "overlay.origin was removed from them"),
                consent=Consent.LOWERS,
            )
        if self.foreign:
            yield Finding(
                Kind.LOWERS,
                Severity.NOTE,
                self.foreign_path,
                f"{_count(self.foreign, 'object', 'objects')}, this one first, came from a filesystem that"
                " no lower lies on: layers were copied, or a lower is missing",
                "nothing, if the layers were copied: only inode numbers are others than before",
            )
        if self.unfound:
            yield Finding(
                Kind.LOWERS,
                Severity.NOTE,
                self.unfound_path,
                f"{_count(self.unfound, 'directory', 'directories')} in upper, this one first, came from"
                " lower ones that are not there: they were deleted, or a lower is missing",
                "see whether the lowers are the right ones; run the check as root for more",
            )
        if self.other_format:
            yield Finding(
                Kind.ORIGIN,
                Severity.NOTE,
                self.other_format_path,
                f"{_count(self.other_format, 'object has', 'objects have')}, this one first, an"
                " overlay.origin of another version or machine, which is ignored",
                "nothing: only inode numbers are others than before",
            )
        if self.other and not self.own:
            other = _OTHER[fmt.prefix]
            advice = (
                "check with -o userxattr, if it is mounted so"
                if fmt.prefix.startswith("trusted")
                else "check as root and without -o userxattr, if it is mounted so"
            )
            yield Finding(
                Kind.MARKS,
                Severity.NOTE,
                self.other_path,
                f"{_count(self.other, 'object has', 'objects have')}, this one first, marks {other}*, and"
                f" none has {fmt.prefix}*: the upper was made by another kind of mount",
                advice,
            )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

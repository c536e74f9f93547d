"""What a check of a union's layers reports: one `Finding` for each thing that does not fit together.

Plain data for people and programs. Nothing here reads or changes a layer; what a `RepairStep` does is in
`repair_steps.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionfs.offline.repair_steps import RepairStep


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """A name cannot be reached or shows what it should not, data is missing, or a mount is refused."""
    WARNING = "warning"
    """Something does not fit; what the union shows is not, or hardly, affected."""
    NOTE = "note"
    """Worth knowing, and nothing to repair."""


class Kind(StrEnum):
    """What a finding is about."""

    LOWERS = "lowers"
    WHITEOUT = "whiteout"
    REDIRECT = "redirect"
    DUPLICATE = "duplicate"
    METACOPY = "metacopy"
    ORIGIN = "origin"
    OPAQUE = "opaque"
    IMPURE = "impure"
    PROTATTR = "protattr"
    NLINK = "nlink"
    UUID = "uuid"
    MARKS = "marks"
    INDEX = "index"
    LITTER = "litter"
    WORK = "work"
    VOLATILE = "volatile"
    UNREADABLE = "unreadable"


class Consent(StrEnum):
    """What the user must confirm before a repair is safe."""

    LOWERS = "lowers"
    """That the lowers given are the ones that belong to this upper."""
    VOLATILE = "volatile"
    """That nothing was lost since the volatile mount."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit: where, why, and what can be done.

    `path` is the real object's, in its layer or in work. `reason` says what is wrong, `advice` the next step
    of a repair by hand. `repair` is what `--repair` does, None where nothing is safe; `needs_lowers` says
    that it is safe only with the lowers that belong to this upper, `consent` what must be confirmed in any
    case.
    """

    kind: Kind
    severity: Severity
    path: bytes
    reason: str
    advice: str
    repair: RepairStep | None = None
    needs_lowers: bool = False
    consent: Consent | None = None

    @property
    def shown_path(self) -> str:
        return os.fsdecode(self.path)

    @property
    def counts(self) -> bool:
        """Whether it is something to be repaired."""
        return self.severity is not Severity.NOTE

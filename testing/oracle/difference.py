"""What the oracle says of the first difference that it finds in a case, and when two have one cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from testing.oracle.operations import SEEN_FIELDS


@dataclass(frozen=True)
class Difference:
    """Where the subject first was not like the reference."""

    phase: str
    """operation, numbers, work, tree, lowers, upper, `swap: ...`, or mount."""
    where: str
    reference: object
    subject: object
    index: int | None = None
    """Of the operation, for the phase `operation`."""

    @property
    def cause(self) -> tuple[str, ...]:
        """What two differences of one cause have in common, as far as one can see from outside."""
        if self.phase == "operation":
            return self.phase, self.where.split("(")[0], *_kinds(self.reference, self.subject)
        return self.phase, self.where.rsplit(": ", 1)[-1], *_fields(self.reference, self.subject)

    def __str__(self) -> str:
        number = "" if self.index is None else f" {self.index}"
        return (
            f"{self.phase}{number}: {self.where}\n"
            f"    reference: {_shorten(self.reference)}\n    subject:   {_shorten(self.subject)}"
        )


def _kinds(reference: object, subject: object) -> tuple[str, ...]:
    kinds = tuple(
        str(value[1]) if value[0] == "error" else "ok" for value in (reference, subject) if _is_pair(value)
    )
    if kinds == ("ok", "ok") and isinstance(reference, tuple) and isinstance(subject, tuple):
        return *kinds, *_fields(reference[1], subject[1])
    return kinds


def _is_pair(value: object) -> TypeGuard[tuple[str, object]]:
    return isinstance(value, tuple) and len(value) == 2


def _fields(reference: object, subject: object) -> tuple[str, ...]:
    """Names of the fields that differ, if these are what `seen` gives (alone, or after a number of bytes)."""
    if _is_pair(reference) and _is_pair(subject):
        reference, subject = reference[1], subject[1]
    if isinstance(reference, tuple) and isinstance(subject, tuple) and len(reference) == len(SEEN_FIELDS):
        pairs = zip(SEEN_FIELDS, reference, subject, strict=True)
        return tuple(name for name, left, right in pairs if left != right)
    if isinstance(reference, dict) and isinstance(subject, dict):
        names = sorted(reference.keys() | subject.keys())
        return tuple(name for name in names if reference.get(name) != subject.get(name))
    return ()


def _shorten(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) < 1500 else text[:700] + " ... " + text[-700:]

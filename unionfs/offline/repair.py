"""Repairs what a check has found, as far as that is safe; says of each finding what was done or why not.

The order does not matter: each step is independent. Never repairs by the content of lowers that seem not to
be the upper's own, unless the user confirms them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from unionfs.linux.syscalls import syncfs
from unionfs.offline.findings import Consent, Finding, Kind
from unionfs.offline.stack import Stack

FLAGS = {Consent.LOWERS: "--accept-lowers", Consent.VOLATILE: "--accept-volatile"}

_RIGHT_LOWERS = "give the right lowers first; if these are, use --repair --accept-lowers"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finding and what became of it: `done` says what was done, else `left` why it was left.

    `missing_consent` is what the user must confirm before it is repaired. `next_step` is for a repair
    by hand.
    """

    finding: Finding
    done: str | None = None
    left: str | None = None
    missing_consent: Consent | None = None

    @property
    def next_step(self) -> str:
        # With other lowers the advice could be to undo a deletion.
        return _RIGHT_LOWERS if self.missing_consent is Consent.LOWERS else self.finding.advice


def preview(findings: Collection[Finding]) -> list[Outcome]:
    """The outcomes without a repair."""
    mismatch = _lowers_mismatch(findings)
    return [
        Outcome(finding, missing_consent=needed_consent(finding, (), mismatch=mismatch))
        for finding in findings
    ]


def repair(stack: Stack, findings: Collection[Finding], consents: Iterable[Consent]) -> Iterator[Outcome]:
    """Repair what may be repaired, in the order given; all is on disk when the iterator is at its end."""
    given = set(consents)
    mismatch = _lowers_mismatch(findings)
    changed = False
    for finding in findings:
        outcome = _one(stack, finding, given, mismatch=mismatch)
        changed = changed or outcome.done is not None
        yield outcome
    if changed:
        syncfs(stack.upper.root_fd)


def _lowers_mismatch(findings: Iterable[Finding]) -> bool:
    """Whether the lowers seem not to be the upper's own."""
    return any(finding.kind is Kind.LOWERS for finding in findings)


def needed_consent(finding: Finding, given: Collection[Consent], *, mismatch: bool) -> Consent | None:
    """What the user has not confirmed yet and must before this is repaired."""
    if finding.repair is None:
        return None
    needed = finding.consent
    if needed is None and finding.needs_lowers and mismatch:
        needed = Consent.LOWERS
    return None if needed in given else needed


def _one(stack: Stack, finding: Finding, given: set[Consent], *, mismatch: bool) -> Outcome:
    if finding.repair is None:
        return Outcome(finding)
    missing = needed_consent(finding, given, mismatch=mismatch)
    if missing is not None:
        why = (
            "it is not confirmed that nothing was lost"
            if missing is Consent.VOLATILE
            else "it is not confirmed that these are the right lowers"
        )
        return Outcome(finding, left=f"{why} ({FLAGS[missing]})", missing_consent=missing)
    stack.fs.dirfds.trim()
    try:
        return Outcome(finding, done=finding.repair.apply(stack))
    except OSError as error:
        return Outcome(finding, left=f"the repair failed: {error.strerror or error}")

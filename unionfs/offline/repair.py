"""Mending what a check has found, as far as that is safe; says of each finding what was done or why not.

Order matters nowhere: each mend stands for itself. Never mends by what lowers hold where these seem not to be
the upper's own, unless somebody vouches for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from unionfs.linux import fs as linux
from unionfs.offline.findings import Consent, Finding, Kind
from unionfs.offline.stack import Stack

FLAGS = {Consent.LOWERS: "--accept-lowers", Consent.VOLATILE: "--accept-volatile"}

_RIGHT_LOWERS = "give the right lowers first; if these are, --repair --accept-lowers mends it"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finding and what became of it: `done` says what was done, else `left` why it was left.

    `missing` is what somebody must vouch for before it is mended. `next_step` is for people who do it.
    """

    finding: Finding
    done: str | None = None
    left: str | None = None
    missing: Consent | None = None

    @property
    def next_step(self) -> str:
        # With other lowers the advice would be to undo a deletion, say.
        return _RIGHT_LOWERS if self.missing is Consent.LOWERS else self.finding.advice


def look(findings: Collection[Finding]) -> list[Outcome]:
    """What becomes of them as long as nothing is mended."""
    strangers = _strangers(findings)
    return [
        Outcome(finding, missing=missing_consent(finding, (), strangers=strangers)) for finding in findings
    ]


def repair(stack: Stack, findings: Collection[Finding], consents: Iterable[Consent]) -> Iterator[Outcome]:
    """Mend what may be mended, in the order given; all of it is on disk when the iterator is at its end."""
    given = set(consents)
    strangers = _strangers(findings)
    changed = False
    for finding in findings:
        outcome = _one(stack, finding, given, strangers=strangers)
        changed = changed or outcome.done is not None
        yield outcome
    if changed:
        linux.syncfs(stack.upper.root_fd)


def _strangers(findings: Iterable[Finding]) -> bool:
    """Whether the lowers seem not to be the upper's own."""
    return any(finding.kind is Kind.LOWERS for finding in findings)


def missing_consent(finding: Finding, given: Collection[Consent], *, strangers: bool) -> Consent | None:
    """What nobody has vouched for yet and somebody must before this is mended."""
    if finding.mend is None:
        return None
    needed = finding.consent
    if needed is None and finding.by_lowers and strangers:
        needed = Consent.LOWERS
    return None if needed in given else needed


def _one(stack: Stack, finding: Finding, given: set[Consent], *, strangers: bool) -> Outcome:
    if finding.mend is None:
        return Outcome(finding)
    missing = missing_consent(finding, given, strangers=strangers)
    if missing is not None:
        why = (
            "nobody has said that nothing was lost"
            if missing is Consent.VOLATILE
            else "nobody has said that these are the right lowers"
        )
        return Outcome(finding, left=f"{why} ({FLAGS[missing]})", missing=missing)
    stack.fs.dirfds.trim()
    try:
        return Outcome(finding, done=finding.mend.apply(stack))
    except OSError as error:
        return Outcome(finding, left=f"it could not be mended: {error.strerror or error}")

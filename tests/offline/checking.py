"""Checking a union of a test, and what is shown of it before and after."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.overlay.rig import Stack, View
from unionfs.offline import consistency
from unionfs.offline import repair as mending
from unionfs.offline.findings import Consent, Finding
from unionfs.offline.repair import Outcome
from unionfs.offline.stack import open_stack
from unionfs.overlay.config import UnionConfig

Found = tuple[str, str, str]
"""Kind, severity, and path below the directory that holds all layers."""


def check(config: UnionConfig, *, watch: bool = True, user: int = 0) -> list[Finding]:
    """All findings, as this user sees them; with *watch*, nothing may have been changed by looking."""
    assert config.upper is not None
    assert config.work is not None
    places = [*config.lowers, config.upper, config.work] if watch else []
    before = [fingerprint(Path(place)) for place in places]
    os.seteuid(user)
    try:
        with open_stack(config, writable=False) as layers:
            found = list(consistency.examine(layers))
    finally:
        os.seteuid(0)
    assert [fingerprint(Path(place)) for place in places] == before, "a check has changed something"
    return found


def repair(config: UnionConfig, consents: Iterable[Consent] = (), *, user: int = 0) -> list[Outcome]:
    """What became of each finding; lowers must be as they were."""
    before = [fingerprint(Path(lower)) for lower in config.lowers]
    os.seteuid(user)
    try:
        with open_stack(config, writable=True) as layers:
            outcomes = list(mending.repair(layers, list(consistency.examine(layers)), list(consents)))
    finally:
        os.seteuid(0)
    assert [fingerprint(Path(lower)) for lower in config.lowers] == before, "a lower was changed"
    return outcomes


def shown(findings: Collection[Finding], base: Path) -> set[Found]:
    """Findings in the words of tests; two of one kind at one path are a fault."""
    found = [
        (str(each.kind), str(each.severity), os.path.relpath(each.shown_path, base)) for each in findings
    ]
    assert len(set(found)) == len(found), found
    return set(found)


def fingerprint(root: Path) -> list[tuple[object, ...]]:
    """Everything of a layer that a write to it would change."""
    found: list[tuple[object, ...]] = []
    for path in [root, *sorted(root.rglob("*"))]:
        st = path.lstat()
        marks = [
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in os.listxattr(path, follow_symlinks=False)
        ]
        found.append((str(path), st.st_mode, st.st_ino, st.st_nlink, st.st_size, st.st_mtime_ns, marks))
    return found


def trees(stack: Stack, **options: Any) -> tuple[dict[str, str], dict[str, str]]:
    """What this program and kernel overlayfs show of the layers, each with a work directory of its own."""
    work = stack.base / f"other-work{len(list(stack.base.glob('other-work*')))}"
    work.mkdir()
    options.pop("index", None)  # which lies in work
    config = replace(stack.config(**options), work=str(work))
    with View(config) as view:
        ours = view.tree()
    return ours, stack.kernel(*kernel_options(**options))


def kernel_options(**options: Any) -> list[str]:
    """The same options for kernel overlayfs."""
    words = [f"redirect_dir={options.get('redirect_dir', 'on')}"]
    words += [f"{name}={'on' if options.get(name) else 'off'}" for name in ("index", "metacopy")]
    return words

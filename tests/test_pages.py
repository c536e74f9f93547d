"""Each shell block of the documentation is run by a test, or says why not."""

from __future__ import annotations

from collections import Counter

from tests.support import pages
from tests.support.collected import Collected
from tests.support.pages import Place


def test_every_shell_block_is_run_or_says_why_not(suite: list[Collected]) -> None:
    there = [block.place for block in pages.shell_blocks()]
    assert len(there) > 10
    assert [place for place, count in Counter(there).items() if count != 1] == []
    run = {Place(*arguments) for test in suite for arguments in test["shell_blocks"]}
    assert run.isdisjoint(pages.NOT_RUN)
    assert sorted(run | set(pages.NOT_RUN)) == sorted(there)


def test_every_block_has_something_to_run() -> None:
    assert [block.place for block in pages.shell_blocks() if not block.script.strip()] == []


def test_make_has_the_targets_that_pages_name() -> None:
    targets = set(pages.make_targets())
    named = {target for page in pages.pages() for target in pages.named_targets(page)}
    assert {"check", "test", "test-all", "install"} <= named
    assert named <= targets

"""docs/owners.md is true: its examples give what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.mounts import needs_fuse, needs_root, scratch
from tests.support.pages import ShellBlock
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse]

PREPARED = (
    "umask 022\nmkdir lower upper work merged\necho > lower/sh\necho > lower/mail\nchown 8 lower/mail\n"
)


@one_transport
@pytest.mark.skipif(shutil.which("getfattr") is None, reason="needs getfattr")
@pytest.mark.parametrize(
    "heading",
    [
        pytest.param(heading, marks=pytest.mark.shell_block("docs/owners.md", heading))
        for heading in ("Maps", "Attributes")
    ],
)
def test_the_examples_say_what_they_say(heading: str, shell_block: ShellBlock, tmp_path: Path) -> None:
    assert shell_block.place.heading == heading
    with scratch(tmp_path) as where:
        # One of the commands fails, as is shown.
        said = shell_block.run(where, tmp_path, shell="sh", before=PREPARED, after="pyunionfs umount merged")
    # getfattr ends its value without a newline.
    assert said.splitlines() == shell_block.output.splitlines()

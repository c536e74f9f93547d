"""The shell blocks of the README and of docs/: which there are, and running one as it stands.

A test that runs a block is marked `shell_block(PAGE, HEADING)`, with a number behind these if the heading has
more than one, and takes it by the fixture of that name; so it can be looked up (tests/test_pages.py) that
each block is run by a test or is named in `NOT_RUN`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.support import programs
from tests.support.mounts import REPOSITORY, environment


class Place(NamedTuple):
    """Where a shell block stands."""

    page: str
    heading: str
    number: int = 1
    """Of several below one heading."""


NOT_RUN: dict[Place, str] = {
    Place("README.md", "Set up"): "it installs into the machine (elsewhere: tests/cli/test_install.py)",
    Place("CONTRIBUTING.md", "Set up"): "it runs the tests",
    Place("CONTRIBUTING.md", "Run one test"): "it runs tests",
}
"""The shell blocks that no test runs, and why."""


@dataclass(frozen=True)
class ShellBlock:
    """Commands of a page, and what the page shows of their output."""

    place: Place
    script: str
    output: str
    """Of a block with prompts, what stands between the commands."""

    def run(
        self,
        where: Path,
        commands: Path,
        *,
        before: str = "",
        after: str = "",
        shell: str = "sh -e",
        quiet: bool = False,
    ) -> str:
        """Run it in `where` and return what it prints; `pyunionfs`, put into `commands`, is this checkout.

        What is run before and after it belongs to the test. The last command decides about the status.
        `quiet`: nothing may be printed on standard error, which is else part of what is returned.
        """
        programs.write(commands / "pyunionfs")
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*shell.split(), "-c", f"{before}\n{self.script}\n{after}"],
            cwd=where,
            env=environment() | {"PATH": path, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr or "") == (0, ""), done.stdout
        return done.stdout


def pages() -> list[Path]:
    """All that may hold shell blocks."""
    return [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/*.md"))]


def shell_blocks() -> Iterator[ShellBlock]:
    """Every shell block of every page."""
    for page in pages():
        heading, number, language, lines = "", 0, None, list[str]()
        for line in page.read_text().splitlines():
            fence = re.match(r"\s*```\s*(\w*)", line)
            if fence is None:
                if language is not None:
                    lines.append(line)
                elif line.startswith("#"):
                    heading, number = line.lstrip("#").strip(), 0
            elif language is None:
                language, lines = fence[1], []
            else:
                if language in ("sh", "bash", "console"):
                    number += 1
                    prompt = "$ " if language == "console" else ""
                    yield ShellBlock(
                        Place(str(page.relative_to(REPOSITORY)), heading, number),
                        "\n".join(line.removeprefix(prompt) for line in lines if line.startswith(prompt)),
                        "\n".join(line for line in lines if not line.startswith(prompt)),
                    )
                language = None
        assert language is None, f"a block of {page} does not end"


def shell_block(place: Place) -> ShellBlock:
    """The one of a place."""
    (found,) = [block for block in shell_blocks() if block.place == place]
    return found


def make_targets() -> list[str]:
    """All that can be made by name."""
    text = (REPOSITORY / "Makefile").read_text()
    return re.findall(r"^([a-z-]+):", text, re.MULTILINE)


def named_targets(page: Path) -> list[str]:
    """The targets that a page names as `make TARGET`, in its text or in a block."""
    return re.findall(r"(?:^|`)make ([a-z-]+)(?=[ `\n])", page.read_text(), re.MULTILINE)

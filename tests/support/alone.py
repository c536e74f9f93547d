"""What runs a failed test alone: printed at the end of a run, ready to be pasted into a shell."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

import pytest

ENVIRONMENT = ("PYUNIONFS_MALFORMED", "PYUNIONFS_SEED")
"""Variables by which a run asks tests for something else."""


def command(config: pytest.Config, node: str) -> str:
    """The command for one node id, from the directory where this run was started."""
    path, colons, test = node.partition("::")
    file = os.path.relpath(config.rootpath / path, config.invocation_params.dir)
    words = [_interpreter(), "-m", "pytest", file + colons + test, *_options(config)]
    settings = [f"{name}={shlex.quote(os.environ[name])}" for name in ENVIRONMENT if name in os.environ]
    return " ".join([*settings, shlex.join(words)])


def _interpreter() -> str:
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative


def _options(config: pytest.Config) -> list[str]:
    """The options of this run on which it depends which tests there are and what they do."""
    found = []
    for name, default in (("--transport", "both"), ("--on", "pyunionfs"), ("--mount-options", "")):
        given = config.getoption(name)
        if given != default:
            found += [name, given]
    return found


def failed(reports: Sequence[pytest.TestReport | pytest.CollectReport]) -> list[str]:
    """The node ids of tests that failed, each once."""
    return list(dict.fromkeys(report.nodeid for report in reports if isinstance(report, pytest.TestReport)))


def print_commands(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line for each test of this run that failed, or whose fixtures did."""
    nodes = failed([*terminal.stats.get("failed", []), *terminal.stats.get("error", [])])
    if nodes:
        terminal.section("to run one of them alone")
        for node in nodes:
            terminal.write_line(command(config, node))

"""Every test is in one tier, the tables name tests that there are, and a failure says how to repeat it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests import tiers
from tests.support import collected
from tests.support.collected import Collected


def test_every_test_is_in_one_tier(suite: list[Collected]) -> None:
    assert len(suite) > 7000
    assert len({test["node"] for test in suite}) == len(suite)
    here = {test["node"]: [tier for tier in tiers.TIERS if tier in test["markers"]] for test in suite}
    assert {node: several for node, several in here.items() if len(several) != 1} == {}
    assert {tier for several in here.values() for tier in several} == set(tiers.TIERS)


def test_what_is_checked_mounts_no_union(suite: list[Collected]) -> None:
    checked = [test for test in suite if "check" in test["markers"]]
    assert len(checked) > 5000
    assert [test["node"] for test in checked if test["over"] or "needs_fuse" in test["markers"]] == []


def test_all_that_is_named_is_there(suite: list[Collected]) -> None:
    matched = {name for test in suite for name in test["named"]}
    assert sorted(matched) == sorted(tiers.named())
    for name in tiers.REST_OVER_PYFUSE3:
        assert {test["over"] for test in suite if name in test["named"]} == {"direct", "pyfuse3"}, name


FAILING = """\
import pytest

@pytest.mark.parametrize("way", ["it's", "a b"])
def test_one(way):
    assert way == "a b"

@pytest.fixture
def broken():
    raise OSError

def test_two(broken):
    pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_failure_says_what_runs_it_alone(workers: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/test_failing.py").write_text(FAILING)
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_addoption, pytest_terminal_summary"
    )
    done = collected.run_tests(tmp_path, "-n", workers, "--transport", "direct")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.partition("to run one of them alone")[2].splitlines()
    commands = [shlex.split(line) for line in lines if " -m pytest " in line]
    assert [words[3:] for words in commands] == [
        ["below/test_failing.py::test_one[it's]", "--transport", "direct"],
        ["below/test_failing.py::test_two", "--transport", "direct"],
    ]
    again = collected.run_tests(tmp_path, *commands[0][3:])
    assert " 1 failed in " in again.stdout, again.stdout + again.stderr

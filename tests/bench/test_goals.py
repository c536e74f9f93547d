"""The goals: which numbers they compare, and when they are met."""

from __future__ import annotations

import pytest

from testing.bench.goals import WITHIN_FUSE_OVERLAYFS, WITHIN_OVERLAYFS, Goal, goals
from testing.bench.results import Report
from testing.bench.workloads import all_workloads
from tests.bench.reports import report


def found(run: Report, measure: str, text: str) -> Goal:
    matching = [goal for goal in goals(run, "direct") if goal.measure == measure and text in goal.text]
    assert len(matching) == 1, matching
    return matching[0]


@pytest.mark.parametrize(("seconds", "met"), [(0.9, True), (1.0, True), (1.01, False)])
def test_nothing_may_be_slower_than_fuse_overlayfs(seconds: float, met: bool) -> None:
    run = report({"opens": (1, 1, 1.0, seconds)})
    assert found(run, "opens", "not slower").met is met


def test_the_mean_is_over_all_that_is_a_time() -> None:
    run = report({"opens": (1, 1, 1, 0.9), "misses": (1, 1, 1, 0.4), "memory": (1, 1, 1, 100)})
    mean = found(run, "all", "geometric mean")
    assert mean.value == pytest.approx(0.6)
    assert mean.limit == 0.6
    assert not [goal for goal in goals(run, "direct") if goal.measure == "memory"]


@pytest.mark.parametrize(
    ("measure", "limit"),
    [
        ("sequential read", 1.1),
        ("4 KiB writes", 1.1),
        ("mmap write", 1.1),
        ("warm stat", 1.1),
        ("git commit", 1.3),
        ("cold grep", 1.3),
        ("untar", 3.0),
    ],
)
def test_ratios_to_kernel_overlayfs(measure: str, limit: float) -> None:
    assert found(report({measure: (1, 2.0, 9, 2.0 * limit - 0.01)}), measure, "of overlayfs").met is True
    assert found(report({measure: (1, 2.0, 9, 2.0 * limit + 0.01)}), measure, "of overlayfs").met is False


@pytest.mark.parametrize("measure", ["create", "unlink", "rename"])
def test_changes_of_names_take_half_of_what_fuse_overlayfs_takes(measure: str) -> None:
    assert found(report({measure: (1, 1, 2.0, 0.99)}), measure, "0.5 of fuse-overlayfs").met is True
    assert found(report({measure: (1, 1, 2.0, 1.01)}), measure, "0.5 of fuse-overlayfs").met is False


@pytest.mark.parametrize("kind", ["lookups", "misses"])
def test_a_hundred_layers_cost_little_more_than_two(kind: str) -> None:
    for many, met in ((1.19, True), (1.21, False)):
        run = report({f"{kind} 2 layers": (1, 1, 9, 1.0), f"{kind} 100 layers": (1, 1, 9, many)})
        assert found(run, f"{kind} 100 layers", "2 layers").met is met


def test_the_mount_serves_within_200_ms_however_quick_others_are() -> None:
    assert found(report({"mount": (0, 0.01, 0.01, 0.199)}), "mount", "200 ms").met is True
    assert found(report({"mount": (0, 9, 9, 0.201)}), "mount", "200 ms").met is False


def test_what_failed_is_neither_met_nor_missed() -> None:
    run = report({"untar": (1, 1, 1, 1)}, failed={("untar", "direct"): "EIO"})
    assert found(run, "untar", "of overlayfs").met is None


def test_every_goal_is_about_something_that_is_measured() -> None:
    measured = {measure.name for work in all_workloads() for measure in work.measures}
    assert measured >= {*WITHIN_OVERLAYFS, *WITHIN_FUSE_OVERLAYFS, "mount", "misses 100 layers"}


def test_names_of_measures_are_unique() -> None:
    names = [measure.name for work in all_workloads() for measure in work.measures]
    assert len(names) == len(set(names))

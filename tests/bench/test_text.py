"""The page and the table: what is measured, met, missed and failed can be read there."""

from __future__ import annotations

from testing.bench import text
from tests.bench.reports import report


def lines(page: str, start: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(start)]


def test_the_page_holds_medians_ratios_and_goals() -> None:
    run = report({"create": (0.1, 0.2, 0.8, 0.6), "mount": (0, 0.01, 0.01, 0.15)})
    run.rows[0].systems["native"].values.append(0.3)
    page = text.markdown(run, "benchmark.svg")
    assert "| create | 0.200 | 0.200 | 0.800 | 0.600 | 3.00 | 0.75 |" in page
    assert lines(page, "| create | within 0.5 of fuse-overlayfs") == [
        "| create | within 0.5 of fuse-overlayfs | 0.75 | **missed** |"
    ]
    assert lines(page, "| mount | command to") == [
        "| mount | command to serving mount within 200 ms | 0.15 s | met |"
    ]
    assert "(benchmark.svg)" in page
    assert "- **create**: the work of create" in page
    assert "| kernel | 6.18 |" in page


def test_a_failure_is_named_with_its_reason() -> None:
    run = report({"create": (1, 1, 1, 1)}, failed={("create", "fuse-overlayfs"): "rm: ENXIO"})
    page = text.markdown(run, None)
    assert "| create | 1.000 | 1.000 | failed | 1.000 | 1.00 | - |" in page
    assert "- create on fuse-overlayfs: rm: ENXIO" in page


def test_a_quick_run_says_so() -> None:
    run = report({"create": (1, 1, 1, 1)})
    assert "quick run" not in text.markdown(run, None)
    run.quick = True
    assert "quick run" in text.markdown(run, None)


def test_the_terminal_names_every_missed_goal() -> None:
    shown = text.terminal(report({"create": (1, 1, 1, 1), "opens": (1, 1, 2, 1)}))
    missed = shown[shown.index("missed:\n") :]
    assert "create: within 0.5 of fuse-overlayfs: 1.00" in missed
    assert "opens" not in missed


def test_without_direct_the_goals_are_those_of_the_first_pyunionfs() -> None:
    run = report({"opens": (1, 1, 2, 1)})
    assert text.subject_of(run) == "direct"
    run.systems = {"overlayfs": "", "pyfuse3": "", "cached": ""}
    assert text.subject_of(run) == "pyfuse3"
    run.systems = {"overlayfs": ""}
    assert text.subject_of(run) is None

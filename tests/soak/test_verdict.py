"""What is said of series that are level, that fill up, and that grow; and what a report makes of it."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.soak import plot, report, samples
from testing.soak.figures import FIGURES
from testing.soak.verdict import GROWS, LEVEL, UNKNOWN, Point, judge

MINUTES = 60
RUN = MINUTES * 60.0


def series(value: Callable[[float], float], *, noise: float = 0.0, seed: int = 0) -> list[Point]:
    """A value a minute; `value` is given the part of the time that is over."""
    draw = random.Random(seed)
    return [
        (minute * 60.0, value(minute / MINUTES) + draw.uniform(-noise, noise))
        for minute in range(MINUTES + 1)
    ]


GROWING: dict[str, Callable[[float], float]] = {
    "a leak": lambda part: 20_000 + 10_000 * part,
    "from nothing": lambda part: 100 * part,
    "in steps": lambda part: 20_000 + 2_000 * int(part * 8),
    "late": lambda part: 20_000 + 10_000 * max(0.0, part - 0.6),
    "faster and faster": lambda part: 20_000 + 10_000 * part**3,
    "after warming up": lambda part: 20_000 + 8_000 * min(1.0, part * 8) + 10_000 * part,
}
AT_REST: dict[str, Callable[[float], float]] = {
    "constant": lambda part: 20_000,
    "nothing": lambda part: 0,
    "filling up": lambda part: 20_000 + 20_000 * min(1.0, part * 3),
    "warming up": lambda part: 20_000 + 20_000 * min(1.0, part * 12),
    "falling": lambda part: 30_000 - 10_000 * part,
    "up and down": lambda part: 20_000 + 5_000 * (int(part * 30) % 2),
    "by less than it may": lambda part: 20_000 + 900 * part,
    "one peak at the end": lambda part: 90_000 if part > 0.98 else 20_000,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", GROWING)
def test_growth_is_found(name: str, seed: int) -> None:
    noise = 0.0 if name == "from nothing" else 500.0
    slack = 8 if name == "from nothing" else 1024
    verdict = judge(series(GROWING[name], noise=noise, seed=seed), RUN, slack)
    assert verdict.word == GROWS
    assert verdict.first is not None
    assert verdict.last is not None
    assert verdict.last > verdict.first


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", AT_REST)
def test_what_has_come_to_rest_is_level(name: str, seed: int) -> None:
    assert judge(series(AT_REST[name], noise=300, seed=seed), RUN, 1024).word == LEVEL


def test_nothing_is_said_of_a_quarter_without_values() -> None:
    whole = series(GROWING["a leak"])
    assert judge(whole[:40], RUN, 0).word == UNKNOWN
    assert judge(whole[-40:], RUN, 0).word == UNKNOWN
    assert judge([], RUN, 0).word == UNKNOWN


def written(path: Path, leak: str, **about: object) -> samples.Run:
    """A run with each figure of a daemon and of the machine, all level but one."""
    writer = samples.Writer(path, {"seed": 1, **about})
    for minute in range(MINUTES + 1):
        names = [f"{owner} {figure}" for owner in ("steady", "machine") for figure in FIGURES]
        values = {name: 1000.0 + (1000.0 * minute if name == leak else 0) for name in names}
        writer.sample(minute * 60.0, values)
        writer.note(minute * 60.0, "jobs: git")
    return samples.read(path)


def test_a_report_names_what_grows(tmp_path: Path) -> None:
    run = written(tmp_path / "samples.jsonl", "steady descriptors")
    assert not report.passed(run)
    text = report.write(run, tmp_path)
    assert "**GROWS: steady descriptors**" in text
    lines = [line for line in text.splitlines() if line.startswith(("| steady", "| machine"))]
    assert len(lines) == 2 * len(FIGURES)
    assert [line for line in lines if "**grows**" in line] == [
        line for line in lines if line.startswith("| steady descriptors |")
    ]
    assert "- jobs: git: 61" in text
    assert (tmp_path / "report.md").read_text() == text


def test_a_report_of_level_figures_passes(tmp_path: Path) -> None:
    run = written(tmp_path / "samples.jsonl", "")
    assert report.passed(run)
    assert "**no fault**, **all figures are level**" in report.as_markdown(run)


def test_a_fault_fails_the_run(tmp_path: Path) -> None:
    run = written(tmp_path / "samples.jsonl", "")
    run.notes.append((90.0, report.FAULT, "a file is not as it was written"))
    assert not report.passed(run)
    assert "- after 1.5 minutes: a file is not as it was written" in report.as_markdown(run)


@pytest.mark.parametrize("shared", [False, True])
def test_figures_of_the_machine_count_unless_it_is_shared(tmp_path: Path, shared: bool) -> None:
    run = written(tmp_path / "samples.jsonl", "machine file-nr", shared=shared)
    assert report.passed(run) == shared
    assert ("grows (shared)" in report.as_markdown(run)) == shared


@pytest.mark.parametrize("figure", ["descriptors", "work"])
def test_figures_of_a_process_that_is_begun_anew_do_not_count(tmp_path: Path, figure: str) -> None:
    run = written(tmp_path / "samples.jsonl", f"steady {figure}", restarted=["steady"])
    begins_anew = figure == "descriptors"
    assert report.passed(run) == begins_anew
    assert ("grows (restarted)" in report.as_markdown(run)) == begins_anew


def test_a_run_that_was_cut_short_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    written(path, "")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    run = samples.read(path)
    assert len(run.series["steady work"]) == MINUTES + 1
    assert run.count("jobs: git") == MINUTES


def test_the_plot_has_a_line_for_each_series_and_each_value(tmp_path: Path) -> None:
    run = written(tmp_path / "samples.jsonl", "steady work")
    picture = ElementTree.fromstring(plot.draw(run))
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(run.series)
    assert {len(line.attrib["points"].split()) for line in lines} == {MINUTES + 1}
    heights = [[corner.split(",")[1] for corner in line.attrib["points"].split()] for line in lines]
    assert sum(len(set(each)) > 1 for each in heights) == 1


def test_a_sparkline_shows_the_course() -> None:
    assert report.sparkline([(0, 1), (1, 5), (2, 8)]) == "▁▅█"
    assert report.sparkline([(0, 3), (1, 3)]) == "▁▁"
    assert len(report.sparkline(series(GROWING["a leak"]))) == 24


def test_a_sample_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    samples.Writer(path, {}).note(1.0, "fault", "two\nlines")
    assert [json.loads(line).get("text") for line in path.read_text().splitlines()] == [None, "two\nlines"]

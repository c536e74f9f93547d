"""Medians, ratios, means, and the way through JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from testing.bench.results import Report, Row, Series, geometric_mean, read_report
from testing.bench.rounds import in_round
from testing.bench.systems import BenchError, Place, all_systems
from testing.mounts import environment
from tests.bench.reports import report


@pytest.mark.parametrize(
    ("values", "median"), [([3.0], 3.0), ([9.0, 1.0, 2.0], 2.0), ([1.0, 4.0, 2.0, 3.0], 2.5), ([], None)]
)
def test_the_median_is_that_of_all_rounds(values: list[float], median: float | None) -> None:
    assert Series(values).median == median


def test_what_failed_in_one_round_has_no_median() -> None:
    assert Series([1.0, 2.0], failed="ENXIO").median is None


def test_a_ratio_is_that_of_the_medians() -> None:
    row = Row("w", "names", "", "s", {"a": Series([1.0, 6.0, 100.0]), "b": Series([3.0, 3.0, 0.1])})
    assert row.ratio("a", "b") == 2.0


@pytest.mark.parametrize(
    "other", [Series([]), Series([1.0], failed="it failed"), Series([0.0])], ids=["none", "failed", "nothing"]
)
def test_without_both_values_there_is_no_ratio(other: Series) -> None:
    row = Row("w", "names", "", "s", {"a": Series([1.0]), "b": other})
    assert row.ratio("a", "b") is None
    assert row.ratio("a", "no such system") is None


def test_the_geometric_mean_of_double_and_half_is_one() -> None:
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([0.1, 10.0, 8.0]) == pytest.approx(2.0)
    assert geometric_mean([]) is None


def test_json_holds_the_whole_run_and_its_medians(tmp_path: Path) -> None:
    written = report({"opens": (0.1, 0.2, 0.4, 0.3)}, failed={("opens", "fuse-overlayfs"): "ENXIO"})
    written.rows[0].systems["direct"] = Series([0.3, 0.5, 0.4], {"OPEN": 100, "RELEASE": 100})
    path = tmp_path / "run.json"
    path.write_text(written.to_json())
    assert read_report(path) == written
    plain = json.loads(path.read_text())["rows"][0]["systems"]
    assert plain["direct"] == {
        "values": [0.3, 0.5, 0.4],
        "requests": {"OPEN": 100, "RELEASE": 100},
        "failed": "",
        "median": 0.4,
    }
    assert plain["fuse-overlayfs"]["median"] is None


def test_json_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"format": 0, "rows": []}))
    with pytest.raises(ValueError, match="run it again"):
        read_report(path)


def test_ratios_are_those_that_exist() -> None:
    run: Report = report(
        {"opens": (1, 1, 4, 2), "misses": (1, 1, 1, 3), "memory": (0, 0, 9, 9)},
        failed={("misses", "fuse-overlayfs"): "it failed"},
    )
    assert run.ratios("direct", "fuse-overlayfs") == {"opens": 0.5, "memory": 1.0}
    assert run.ratios("direct", "fuse-overlayfs", without=("memory",)) == {"opens": 0.5}


def test_each_round_has_all_systems_in_another_order() -> None:
    systems = all_systems([])
    orders = [tuple(system.name for system in in_round(systems, number)) for number in range(3)]
    assert {frozenset(order) for order in orders} == {frozenset(system.name for system in systems)}
    assert len(set(orders)) == 3
    # Nobody is always first, or always after the same one.
    assert len({order[0] for order in orders}) == 3


def test_one_more_system_is_a_pyunionfs_with_these_options() -> None:
    system = all_systems(["other=transport=pyfuse3,timeout=1"])[-1]
    assert (system.name, system.options, system.unavailable) == ("other", "transport=pyfuse3,timeout=1", "")
    assert "no_such_option" in all_systems(["odd=no_such_option"])[-1].unavailable


def test_another_checkout_runs_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "unionfs").mkdir()
    (tmp_path / "unionfs/__init__.py").touch()  # else an installed package comes first
    (tmp_path / "unionfs/__main__.py").write_text("import sys\nprint(__file__, sys.argv[-1])\n")
    system = all_systems([], tmp_path)[-1]
    place = Place(tmp_path / "place")
    words = system.mount_command([tmp_path], place)
    said = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path}/unionfs/__main__.py {place.merged}\n"


def test_a_directory_without_the_code_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--before"):
        all_systems([], tmp_path)


@pytest.mark.parametrize("text", ["name", "=ro", "native=ro", "direct=ro"])
def test_a_system_without_a_new_name_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="--system"):
        all_systems([text])

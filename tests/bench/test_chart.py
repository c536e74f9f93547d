"""The bar chart, where matplotlib is installed (the extra `bench`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.reports import report

pytest.importorskip("matplotlib", reason="needs matplotlib: `make bench` installs it")


def test_the_chart_shows_ratios_to_kernel_overlayfs_and_what_failed(tmp_path: Path) -> None:
    from testing.bench import chart

    run = report(
        {"opens": (1, 2, 8, 5), "misses": (1, 1, 1, 1), "memory": (1, 1, 1, 1), "mount": (1, 1, 1, 700)},
        failed={("misses", "fuse-overlayfs"): "ENXIO"},
    )
    one, again = tmp_path / "one.svg", tmp_path / "again.svg"
    chart.draw(run, one)
    chart.draw(run, again)
    drawn = one.read_text()
    for shown in ("opens", "misses", "fuse-overlayfs", "direct", ">2.5<", ">4<", ">failed<", ">0.5<"):
        assert shown in drawn.replace(" <", "<").replace("> ", ">"), shown
    for hidden in ("memory", "mount", "700"):
        assert f">{hidden}<" not in drawn.replace(" <", "<").replace("> ", ">")
    assert drawn == again.read_text()

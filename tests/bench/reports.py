"""Reports that were never measured, for tests of what is made from one."""

from __future__ import annotations

from testing.bench.results import Report, Row, Series

SYSTEMS = ("native", "overlayfs", "fuse-overlayfs", "direct")


def report(
    values: dict[str, tuple[float, ...]], *, failed: dict[tuple[str, str], str] | None = None
) -> Report:
    """A report of one round. `values` gives for each measure a number for each of SYSTEMS."""
    made = Report({"kernel": "6.18"}, "2026-01-02 03:04 UTC", 1, False, {name: name for name in SYSTEMS}, {})
    for name, numbers in values.items():
        unit = "MiB" if name == "memory" else "s"
        row = Row(name, "names", f"the work of {name}", unit)
        row.systems = {system: Series([number]) for system, number in zip(SYSTEMS, numbers, strict=True)}
        made.rows.append(row)
    for (name, system), reason in (failed or {}).items():
        row = next(row for row in made.rows if row.name == name)
        row.systems[system].failed = reason
    return made

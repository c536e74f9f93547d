"""All workloads: importing their files registers them. Nothing here may measure."""

from __future__ import annotations

from testing.bench import work_daemon, work_data, work_names, work_programs, work_trees
from testing.bench.work import Workload, registered

_FILES = (work_trees, work_programs, work_data, work_names, work_daemon)
_GROUPS = ["trees", "programs", "data", "names", "layers", "daemon"]


def all_workloads() -> list[Workload]:
    """Every workload, by group."""
    assert all(_FILES)
    return sorted(registered(), key=lambda each: _GROUPS.index(each.group))

"""In which tier each test is: `check`, `mounts` or `rest`, one marker each, and no test in two.

`make check` runs the tests that mount no union, `make test` those and the ones that mount, `make test-all`
the rest: what is named here, by measured duration or because it needs what few machines have. A test that is
new goes where its fixtures and marks put it; only what takes long must be named.
"""

from __future__ import annotations

import re
from functools import cache

import pytest

TIERS = ("check", "mounts", "rest")

ENGINES = "needs container engines"
REGISTRIES = "starts several registries"
SYSTEMD = "boots a systemd"
DEBIAN = "needs a Debian tree, which the first run makes"
LONG = "takes many seconds"
VARIANT = "takes many seconds, and a quicker tier has another variant of it"
RANDOM = "one random run more, of a kind that a quicker tier has too"
TRANSPORT = "takes long, and is the work of the union and the daemon, which both transports call alike"

REST: dict[str, str] = {
    "tests/api/test_docs.py::test_the_tests_with_pytest": LONG,
    "tests/api/test_sample.py::test_a_run_that_is_killed": LONG,
    "tests/api/test_sample.py::test_its_types": LONG,
    "tests/api/test_sample.py::test_whatever_tests_do": LONG,
    "tests/api/test_sample.py::test_wrong_uses_are_type_errors": LONG,
    "tests/bench/test_run.py": LONG,
    "tests/cli/test_install.py": LONG,
    "tests/container/test_against_podman.py": ENGINES,
    "tests/container/test_run_user.py::test_containers_of_an_ordinary_user[0]": VARIANT,
    "tests/container/test_round_trip.py": DEBIAN,
    "tests/container/test_runtime.py": ENGINES,
    "tests/container/test_user.py": LONG,
    "tests/container/test_volumes_against_podman.py": ENGINES,
    "tests/containers/test_docs.py::test_the_command_for_podman": ENGINES,
    "tests/containers/test_engines.py": ENGINES,
    "tests/containers/test_mapped.py": ENGINES,
    "tests/crash/test_crash.py::test_killed_in_the_middle_of_a_copy_up[*-chmod]": VARIANT,
    "tests/crash/test_crash.py::test_killed_in_the_middle_of_a_copy_up[*-link]": VARIANT,
    "tests/crash/test_crash.py::test_killed_in_the_middle_of_a_copy_up[*-setxattr]": VARIANT,
    "tests/crash/test_crash.py::test_killed_in_the_middle_of_a_copy_up[*-truncate]": VARIANT,
    "tests/crash/test_crash.py::test_killed_in_the_middle_of_a_copy_up[*-utime]": VARIANT,
    "tests/crash/test_crash.py::test_nothing_is_lost[*-['*": RANDOM,
    "tests/faults/test_commands.py::test_every_call_fails": LONG,
    "tests/faults/test_union.py::test_every_call_fails": LONG,
    "tests/image/test_commit_at_random.py::test_over_the_lowers_it_is_the_union[*-more]": RANDOM,
    "tests/image/test_commit_programs.py": ENGINES,
    "tests/image/test_interop.py": ENGINES,
    "tests/image/test_killed.py": LONG,
    "tests/image/test_memory.py": LONG,
    "tests/image/test_user.py::test_ids_that_come_and_go": LONG,
    "tests/mount/test_acls.py::test_a_change_of_an_acl_does_what_it_does_on_overlayfs[btrfs-*": VARIANT,
    "tests/mount/test_aufs.py::test_fuse_overlayfs_shows_the_same_tree[*-0]": VARIANT,
    "tests/mount/test_data_fsx.py::test_every_read_shows_the_model[*-1]": RANDOM,
    "tests/mount/test_data_fsx.py::test_every_read_shows_the_model[*-2]": RANDOM,
    "tests/mount/test_data_refused.py::test_files_that_are_made_do_not_stay_open[*-cached]": VARIANT,
    "tests/mount/test_data_refused.py::test_files_that_are_made_do_not_stay_open[*-checked]": VARIANT,
    "tests/mount/test_data_refused.py::test_files_that_are_made_do_not_stay_open[*-coherent]": VARIANT,
    "tests/mount/test_data_refused.py::test_files_that_are_made_do_not_stay_open[*-passthrough]": VARIANT,
    "tests/mount/test_data_refused.py::test_files_that_are_made_do_not_stay_open[*-pyfuse3]": VARIANT,
    "tests/mount/test_data_refused.py::test_many_open_files[*-cached]": VARIANT,
    "tests/mount/test_data_refused.py::test_many_open_files[*-checked]": VARIANT,
    "tests/mount/test_data_refused.py::test_many_open_files[*-coherent]": VARIANT,
    "tests/mount/test_data_refused.py::test_many_open_files[*-passthrough]": VARIANT,
    "tests/mount/test_data_refused.py::test_many_open_files[*-pyfuse3]": VARIANT,
    "tests/mount/test_data_stress.py::test_readers_and_writers_at_random[*-cached-plain]": VARIANT,
    "tests/mount/test_data_stress.py::test_readers_and_writers_at_random[*-coherent-plain]": VARIANT,
    "tests/mount/test_data_stress.py::test_readers_and_writers_at_random[*-index+metacopy]": RANDOM,
    "tests/mount/test_full_disk.py::test_what_is_shown_is_what_is_stored[*-lower]": VARIANT,
    "tests/mount/test_full_disk.py::test_what_is_shown_is_what_is_stored[*-new]": VARIANT,
    "tests/mount/test_listings.py::test_names_numbers_and_types[*-timeout]": VARIANT,
    "tests/mount/test_mount8.py::test_every_such_word_by_itself": LONG,
    "tests/mount/test_old_readers.py::test_locks_from_before_and_after_a_copy_up*[*-checked]": VARIANT,
    "tests/mount/test_old_readers.py::test_locks_from_before_and_after_a_copy_up*[*-coherent]": VARIANT,
    "tests/mount/test_refused.py::test_a_mountpoint_whose_server_has_read_the_request_and_keeps_it": LONG,
    "tests/mount/test_set_ids.py::test_a_change_takes_set_ids_away_as_on_overlayfs[checked-*": VARIANT,
    "tests/mount/test_set_ids.py::test_a_change_takes_set_ids_away_as_on_overlayfs[coherent-*": VARIANT,
    "tests/mount/test_set_ids.py::test_a_change_takes_set_ids_away_as_on_overlayfs[passthrough-*": VARIANT,
    "tests/mount/test_set_ids.py::test_a_chown_that_leaves_both_ids_is_a_change[*-checked]": VARIANT,
    "tests/mount/test_set_ids.py::test_a_chown_that_leaves_both_ids_is_a_change[*-coherent]": VARIANT,
    "tests/mount/test_set_ids.py::test_a_chown_that_leaves_both_ids_is_a_change[*-passthrough]": VARIANT,
    "tests/mount/test_set_ids.py::test_a_chown_that_leaves_both_ids_is_a_change[*-pyfuse3]": VARIANT,
    "tests/mount/test_set_ids.py::test_writes_that_only_an_acl_allows*-checked]": VARIANT,
    "tests/mount/test_set_ids.py::test_writes_that_only_an_acl_allows*-coherent]": VARIANT,
    "tests/mount/test_set_ids.py::test_writes_that_only_an_acl_allows*-passthrough]": VARIANT,
    "tests/mount/test_set_ids.py::test_writes_that_only_an_acl_allows*-pyfuse3]": VARIANT,
    "tests/mount/test_stale_attributes.py::test_what_is_cached_is_what_is_answered[*-checked]": VARIANT,
    "tests/mount/test_stale_attributes.py::test_what_is_cached_is_what_is_answered[*-coherent]": VARIANT,
    "tests/offline/test_changes_at_random.py::test_random_unions[index]": RANDOM,
    "tests/offline/test_changes_at_random.py::test_random_unions[metacopy]": RANDOM,
    "tests/offline/test_changes_at_random.py::test_random_unions[plain]": RANDOM,
    "tests/offline/test_changes_at_random.py::test_random_unions[redirect]": RANDOM,
    "tests/offline/test_changes_of_core.py::test_random_unions[no redirect]": RANDOM,
    "tests/offline/test_changes_of_core.py::test_random_unions[redirect]": RANDOM,
    "tests/offline/test_changes_of_core.py::test_random_unions[userxattr]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_core[index, no redirect_dir]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_core[index]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_core[metacopy]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_core[no redirect_dir]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_core[redirect_dir]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_kernel[index, no redirect_dir]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_kernel[index]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_kernel[metacopy]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_kernel[no redirect_dir]": RANDOM,
    "tests/offline/test_healthy.py::test_used_by_the_kernel[redirect_dir]": RANDOM,
    "tests/oracle/test_oracle.py::test_a_side_that_differs_is_found_out": LONG,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs[*-btrfs]": RANDOM,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs[*-ext4]": RANDOM,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs[*-xfs]": RANDOM,
    "tests/oracle/test_own.py::test_same_as_kernel_overlayfs[*-ext4]": RANDOM,
    "tests/oracle/test_own.py::test_same_as_kernel_overlayfs[*-xfs]": RANDOM,
    "tests/overlay/test_listing_at_random.py::test_listings_of_random_unions[timeout-1]": RANDOM,
    "tests/overlay/test_listing_at_random.py::test_listings_of_random_unions[timeout-2]": RANDOM,
    "tests/overlay/test_listing_at_random.py::test_listings_of_random_unions[timeout-5]": RANDOM,
    "tests/programs/test_closed_modes.py": LONG,
    "tests/programs/test_debian.py": DEBIAN,
    "tests/programs/test_large.py": LONG,
    "tests/programs/test_sqlite.py::test_several_processes_on_a_lower_database[*-truncate]": VARIANT,
    "tests/programs/test_sqlite.py::test_several_processes_on_a_lower_database[pyfuse3-*": VARIANT,
    "tests/registry/test_access.py": REGISTRIES,
    "tests/registry/test_interop.py": ENGINES,
    "tests/soak/test_jobs.py": LONG,
    "tests/soak/test_run.py": LONG,
    "tests/soak/test_union.py": LONG,
    "tests/systemd/test_units.py": SYSTEMD,
    "tests/test_tiers.py::test_a_failure_says_what_runs_it_alone": LONG,
}
"""A file, a test, or some of its parameters, `*` for any; and why."""

REST_OVER_PYFUSE3: dict[str, str] = {
    "tests/api/test_user.py": TRANSPORT,
    "tests/crash/test_crash.py": TRANSPORT,
    "tests/mount/test_aufs.py": TRANSPORT,
    "tests/mount/test_auto_unmount.py": TRANSPORT,
    "tests/mount/test_bugs.py": TRANSPORT,
    "tests/mount/test_data_only.py": TRANSPORT,
    "tests/mount/test_endings.py": TRANSPORT,
    "tests/mount/test_fuse_overlayfs.py": TRANSPORT,
    "tests/mount/test_image.py": TRANSPORT,
    "tests/mount/test_layer_overlap.py": TRANSPORT,
    "tests/mount/test_layers.py": TRANSPORT,
    "tests/mount/test_life.py": TRANSPORT,
    "tests/mount/test_listings.py": TRANSPORT,
    "tests/mount/test_options.py": TRANSPORT,
    "tests/mount/test_override.py": TRANSPORT,
    "tests/mount/test_owners.py": TRANSPORT,
    "tests/mount/test_rename_copy.py": TRANSPORT,
    "tests/mount/test_switches.py": TRANSPORT,
    "tests/oracle/test_oracle.py::test_same_as_kernel_overlayfs": RANDOM,
    "tests/oracle/test_oracle.py::test_the_same_with": RANDOM,
    "tests/oracle/test_own.py": TRANSPORT,
    "tests/programs/test_archives.py": TRANSPORT,
    "tests/programs/test_build.py": TRANSPORT,
    "tests/programs/test_clients.py": TRANSPORT,
    "tests/programs/test_git.py": TRANSPORT,
    "tests/programs/test_user.py": TRANSPORT,
}
"""The same, of tests that run over `direct` in a quicker tier: here is what they do over `pyfuse3`."""


def tier_of(item: pytest.Item) -> str:
    """The one tier of a test."""
    if any(name in REST or over(item) == "pyfuse3" for name in matches(item)):
        return "rest"
    mounts = over(item) is not None or item.get_closest_marker("needs_fuse") is not None
    # A container has mounts of its own.
    return "mounts" if mounts or "box" in getattr(item, "fixturenames", ()) else "check"


def over(item: pytest.Item) -> str | None:
    """The transport of a test that mounts; None: it chooses none."""
    callspec = getattr(item, "callspec", None)
    name: str | None = None if callspec is None else callspec.params.get("transport")
    return name


def named() -> list[str]:
    """All beginnings of node ids in the tables."""
    return [*REST, *REST_OVER_PYFUSE3]


def matches(item: pytest.Item) -> list[str]:
    """Those with which this test's begins."""
    node = item.nodeid
    return [name for name in _named_in(node.partition("::")[0]) if _pattern(name).match(node)]


@cache
def _named_in(file: str) -> list[str]:
    return [name for name in named() if name.partition("::")[0] == file]


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, name.split("*"))) + r"($|[/:[\]-])")

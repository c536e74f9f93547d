"""pull, run, change, commit, push with a Debian tree, and podman pulls and runs what came of it."""

from __future__ import annotations

import pytest

from tests.containers import engines
from tests.programs import debian
from tests.support.mounts import needs_fuse, needs_root, scratch
from tests.support.registries import needs_registry
from tests.support.transports import one_transport
from tests.support.users import run_to_the_end, unshared

pytestmark = [needs_root, needs_fuse, needs_registry, one_transport]


def test_a_package_is_installed_on_the_way() -> None:
    missing = engines.missing()
    if missing is not None:
        pytest.skip(f"needs {missing}")
    try:
        tree = debian.tree()
    except debian.Unavailable as error:
        pytest.skip(str(error))
    with scratch() as place:
        module = ["tests.containers.start", "0", "0", "tests.container.round_trip"]
        run_to_the_end([*unshared(), *module, str(place), str(tree)])

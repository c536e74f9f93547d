"""`create` and `run` pull an image that the store does not have, as Docker's do."""

from __future__ import annotations

import pytest

from testing.images import directory, file, image
from tests.registry.test_commands import Run, run
from tests.support.registries import Running, needs_registry
from tests.support.stores import put
from unionfs.container import record
from unionfs.image.store import Store

__all__ = ["run"]

pytestmark = needs_registry

FIRST = image([[directory("etc"), file("etc/a", b"a")]], {"Cmd": ["one"]})
SECOND = image([[directory("etc"), file("etc/b", b"b")]], {"Cmd": ["two"]})


def test_an_image_is_pulled_where_that_is_asked_for(
    run: Run, store: Store, empty: Store, plain: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{plain.name}/missing/one"
    put(store, FIRST, f"{name}:latest")
    run("push", name)
    monkeypatch.setenv("PYUNIONFS_STORE", str(empty.root))
    status, _, said = run("create", "--pull", "never", name)
    assert (status, record.containers(empty)) == (1, [])
    assert f"there is no image {name}" in said
    status, lines, said = run("create", "--name", "first", name)
    assert (status, lines) == (0, [record.find(empty, "first").id])
    assert said.startswith(f"Unable to find image '{name}' locally\nlatest: Pulling from missing/one\n")
    assert said.endswith(f"Status: Downloaded newer image for {name}:latest\n")
    assert record.find(empty, "first").record.process.args == ("one",)

    put(store, SECOND, f"{name}:latest")
    run("push", "--store", str(store.root), name)
    _, _, said = run("create", "--name", "as-before", name)
    assert (said, record.find(empty, "as-before").record.process.args) == ("", ("one",))
    run("create", "--name", "newest", "--pull", "always", name)
    assert record.find(empty, "newest").record.process.args == ("two",)
    status, _, said = run("create", f"{plain.name}/missing/nothing")
    assert status == 1
    assert "is not in the store and cannot be pulled: " in said

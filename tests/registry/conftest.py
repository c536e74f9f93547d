"""A registry for all tests of this folder that want a plain one, and a home without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.flaky import Flaky, flaky
from tests.support.registries import Running, serving
from unionfs.image.store import Store
from unionfs.registry.connections import Options
from unionfs.registry.retry import Schedule

QUICK = Options(schedule=Schedule(tries=5, first=0.01, longest=0.05))
"""Further tries without long pauses."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials; the tests' own environment has no part."""
    for name in ("DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry without TLS and users."""
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def proxy(plain: Running) -> Iterator[Flaky]:
    """A proxy before it, which logs, and fails as it is wanted to."""
    with flaky(plain.name) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """Another store."""
    return Store(tmp_path / "empty")

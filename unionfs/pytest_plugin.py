"""pytest fixtures: a temporary writable union of a directory tree for each test.

    union           a pathlib.Path: the tree of `union_lowers`, or of the marker `union`, writable
    union_factory   the same for any trees and options, any number of times

Loaded in every run of pytest where pyunionfs is installed, so it imports little; the rest is imported with
the first union. A union is unmounted after its test whatever the test leaves behind.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import unionfs

if TYPE_CHECKING:
    from typing import Unpack

    from unionfs.api.keywords import Options, Paths, StrOrBytesPath
    from unionfs.api.union import Mount

_WHERE_MISSING = "union_where_missing"


class UnionFactory(Protocol):
    """The fixture `union_factory`: mounts `lowers`, topmost first, and returns the `pathlib.Path`.

    The default lowers are those of the fixture `union`, and none with an `image`. The keywords are those of
    `unionfs.mount`.
    """

    def __call__(
        self,
        *lowers: StrOrBytesPath,
        mountpoint: StrOrBytesPath | None = None,
        image: str | None = None,
        store: StrOrBytesPath | None = None,
        upper: StrOrBytesPath | None = None,
        work: StrOrBytesPath | None = None,
        data_lowers: Paths = (),
        tmpdir: StrOrBytesPath | None = None,
        **options: Unpack[Options],
    ) -> Path: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings of pytest.ini or pyproject.toml."""
    parser.addini(
        "union_lowers",
        "pyunionfs: lower layers of the fixture `union`, topmost first, relative to the configuration file",
        type="paths",
        default=[],
    )
    parser.addini(
        "union_tmpdir",
        "pyunionfs: directory for temporary upper layers (default: TMPDIR, else /tmp)",
        default="",
    )
    parser.addini(
        _WHERE_MISSING,
        "pyunionfs: outcome of tests that need a union, on a machine that cannot mount one: fail or skip",
        default="fail",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and check the settings."""
    config.addinivalue_line(
        "markers",
        "union(*lowers, **options): lower layers of the fixture `union` (topmost first, relative to the"
        " file of the test), or image=..., and options of unionfs.mount",
    )
    given = config.getini(_WHERE_MISSING)
    if given not in ("fail", "skip"):
        raise pytest.UsageError(f"invalid value {given!r} of {_WHERE_MISSING}: write fail or skip")


@pytest.fixture(scope="session")
def union_lowers(pytestconfig: pytest.Config) -> Sequence[StrOrBytesPath]:
    """The lower layers of `union`, topmost first: the setting `union_lowers`, unless overridden."""
    lowers: list[Path] = pytestconfig.getini("union_lowers")
    return lowers


@pytest.fixture(scope="session")
def union_options() -> Mapping[str, Any]:
    """Options of `unionfs.mount` for every union of these fixtures: none, unless overridden."""
    return {}


@pytest.fixture
def union_factory(request: pytest.FixtureRequest) -> Iterator[UnionFactory]:
    """Mounts unions, each with an upper of its own, and unmounts all after the test."""
    mounted: list[Mount] = []

    def make(*lowers: StrOrBytesPath, **options: Any) -> Path:
        union = _mount(request, lowers or _default_lowers(request, options), options)
        mounted.append(union)
        return union.path

    yield make
    _end(mounted)


@pytest.fixture
def union(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A writable union of a prepared tree, which stays unchanged: changes are removed after the test."""
    options: dict[str, Any] = {}
    # The closest marker last, so that it decides.
    for marker in reversed(list(request.node.iter_markers("union"))):
        options.update(marker.kwargs)
    try:
        mounted = _mount(request, _default_lowers(request, options), options)
    except unionfs.PyUnionFSError as error:
        # The message is enough; the traceback would hide it.
        pytest.fail(f"cannot mount the union: {error}", pytrace=False)
    yield mounted.path
    _end([mounted])


def _default_lowers(request: pytest.FixtureRequest, options: Mapping[str, Any]) -> Sequence[StrOrBytesPath]:
    """The closest marker's, else none with an image, else the fixture's."""
    for marker in request.node.iter_markers("union"):
        if marker.args:
            return [request.path.parent / os.fsdecode(lower) for lower in marker.args]
    if options.get("image") is not None:
        return ()
    lowers: Sequence[StrOrBytesPath] = request.getfixturevalue("union_lowers")
    if not lowers:
        pytest.fail(
            "the fixture `union` has no lower layers: set union_lowers in pytest's configuration, mark the"
            " test"
            ' with @pytest.mark.union("tree"), or override the fixture union_lowers',
            pytrace=False,
        )
    return lowers


def _mount(
    request: pytest.FixtureRequest, lowers: Sequence[StrOrBytesPath], options: Mapping[str, Any]
) -> Mount:
    __tracebackhide__ = True
    config = request.config
    given = {**request.getfixturevalue("union_options"), **options}
    if config.getini("union_tmpdir"):
        given.setdefault("tmpdir", (config.inipath or config.rootpath).parent / config.getini("union_tmpdir"))
    try:
        return unionfs.mount(lowers, **given)
    except unionfs.MountError:
        # Checked only now, so that it costs nothing without an error.
        if config.getini(_WHERE_MISSING) == "skip" and (reason := _reason_why_never()) is not None:
            pytest.skip(f"this machine cannot mount a union: {reason}")
        raise


def _reason_why_never() -> str | None:
    """Why even the simplest union cannot be mounted; None: the reason is in the requested one."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pyunionfs-probe-") as lower:
        try:
            with unionfs.mount(lowers=[lower], ro=True):
                return None
        except unionfs.MountError as error:
            return str(error)


def _end(mounted: list[Mount]) -> None:
    """Unmount them, the last one first. Files that a test has left open are a warning, not a failure."""
    left: list[str] = []
    for union in reversed(mounted):
        try:
            union.end("the test ends")
        except unionfs.MountError as error:
            left.append(str(error))
    for text in left:
        warnings.warn(pytest.PytestWarning(text), stacklevel=1)

"""Arrows point down: what each folder may import, no circle, and a core that knows no FUSE and no thread."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.structure.imports import circle, graph, modules

ROOT = Path(__file__).parents[2]

CORE = {"linux", "errors"}
UNION = CORE | {"overlay"}
MOUNTED = UNION | {"transport", "options", "control"}
MAY_IMPORT: Mapping[str, set[str]] = {
    "errors": set(),
    "linux": set(),
    "overlay": CORE,
    "offline": UNION,
    "image": UNION | {"offline"},
    "registry": CORE | {"image"},
    "container": UNION | {"offline", "image", "transport", "options", "control", "daemon"},
    "transport": UNION,
    "options": UNION | {"transport"},
    "control": UNION | {"transport", "options"},
    "daemon": MOUNTED,
    "supervisor": CORE | {"daemon"},
    "api": MOUNTED | {"daemon", "container"},
    "__init__": {"api", "errors"},
    "pytest_plugin": {"api", "__init__"},
    "cli": MOUNTED | {"daemon", "offline", "image", "registry", "container", "supervisor", "__init__"},
    "__main__": {"cli"},
}
"""Each folder and loose module of unionfs/, and what it may import besides itself."""

NOT_IN_CORE = {
    "asyncio",
    "concurrent",
    "multiprocessing",
    "pyfuse3",
    "queue",
    "selectors",
    "signal",
    "socket",
}
NOT_IN_CORE |= {"subprocess", "threading", "trio", "_thread"}
"""The union is called by one thread at a time and never waits: what starts a thread stays above it."""

HANDSHAKE = ("threading", "Lock")
"""What a task's worker and the state thread decide by which of them has the task; it starts nothing."""


def folder(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("package", ["unionfs", "scripts", "testing", "tests"])
def test_no_circle(package: str) -> None:
    assert " -> ".join(circle(graph(ROOT, package))) == ""


def test_a_planted_circle_is_found_and_named(tmp_path: Path) -> None:
    """Each way to write an import counts; the chain leads from a module back to itself."""
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "top.py").write_text("import planted.a\n")
    (package / "a.py").write_text("from planted import b\n")
    (package / "b.py").write_text("def late():\n    from . import c\n")
    (package / "c.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from planted.a import A\n"
    )
    chain = circle(graph(tmp_path, "planted"))
    assert chain[0] == chain[-1]
    turned = chain[:-1]
    at = turned.index("planted.a")
    assert turned[at:] + turned[:at] == ["planted.a", "planted.b", "planted.c"]
    (package / "c.py").write_text("")
    graph.cache_clear()
    assert circle(graph(tmp_path, "planted")) == []


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_arrows_point_down(name: str) -> None:
    edges = graph(ROOT, "unionfs")
    wrong = [
        f"{module} -> {other}"
        for module in sorted(edges)
        if folder(module) == name
        for other in sorted(edges[module])
        if folder(other) not in MAY_IMPORT[name] | {name}
    ]
    assert wrong == []


def test_every_folder_has_its_place() -> None:
    assert {folder(module) for module in modules(ROOT, "unionfs")} == set(MAY_IMPORT)


def top_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if (node.module, *(alias.name for alias in node.names)) == HANDSHAKE:
                continue
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("name", ["overlay", "offline"])
def test_the_core_knows_no_fuse_and_no_thread(name: str) -> None:
    wrong = {
        module: found
        for module, path in modules(ROOT, "unionfs").items()
        if folder(module) == name
        if (found := top_level_imports(path) & NOT_IN_CORE)
    }
    assert wrong == {}


def test_the_core_needs_the_standard_library_alone() -> None:
    own = {"unionfs", *sys.stdlib_module_names}
    found = {
        module: foreign
        for module, path in modules(ROOT, "unionfs").items()
        if folder(module) in ("overlay", "linux", "errors")
        if (foreign := top_level_imports(path) - own)
    }
    assert found == {}

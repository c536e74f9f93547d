"""The import graph of a source tree, by the code's own import statements; imports nothing of it.

An import counts wherever it stands: at the top, in a function, under TYPE_CHECKING. What is imported for an
annotation alone ties two modules together for a reader as any other does.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, frozenset[str]]


def modules(root: Path, package: str) -> dict[str, Path]:
    """The modules of a package below `root`, by their dotted names; a package is its `__init__.py`."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, module: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules among `known` that the file at `path` imports."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, *filter(None, [node.module])])
            # `from package import module` needs the module; every other name is the package's own.
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known else base for name in inner]
        else:
            continue
        yield from (name for name in names if name in known and name != module)


@functools.cache
def graph(root: Path, *packages: str) -> Graph:
    known = {name: path for package in packages for name, path in modules(root, package).items()}
    return {name: frozenset(imported(path, name, known)) for name, path in known.items()}


def circle(edges: Graph) -> list[str]:
    """A chain of modules that each import the next one and end where they began; empty if there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        chain: list[str] = error.args[1]
        return chain[::-1]  # graphlib names what is imported before what imports it
    return []

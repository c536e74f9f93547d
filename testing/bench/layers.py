"""The lower layers that are measured: made once a run, the same bytes every time, read by all systems.

A *stack* is a list of directories, the topmost first, as every union takes it. Native gets a plain copy of
the union of a stack. Nothing here may write to a layer after it was made.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from testing.bench.sizes import Sizes

_TEXT = (
    "static int return struct inode while union layer lower upper if else const char void size_t for break"
    " switch case error mount name entry lookup copy index redirect whiteout opaque origin data"
)
_WORDS = _TEXT.split()
NEEDLE = "needle_in_the_source"
"""A word that is in every hundredth source file."""


class Layers:
    """The stacks of one run, below `base`; each is made when it is first asked for."""

    def __init__(self, base: Path, sizes: Sizes) -> None:
        self._base = base
        self._sizes = sizes
        self._stacks: dict[str, list[Path]] = {}
        for name in ("stack", "native"):
            (base / name).mkdir()

    def stack(self, name: str) -> list[Path]:
        """The lowers of this name, topmost first."""
        if name not in self._stacks:
            # Short names: a hundred of them must fit into the 4 KiB that mount(2) takes as options.
            where = self._base / "stack" / str(len(self._stacks))
            where.mkdir()
            kind, _, argument = name.partition(" ")
            self._stacks[name] = _MAKERS[kind](where, self._sizes, argument)
            os.sync()
        return self._stacks[name]

    def native(self, name: str) -> Path:
        """A plain copy of the union of this stack, for work that does not change it."""
        copy = self._base / "native" / name.replace(" ", "-")
        if not copy.exists():
            copy_stack(self.stack(name), copy)
            os.sync()
        return copy


def copy_stack(stack: list[Path], target: Path) -> None:
    """Copy the union of layers without whiteouts to a new directory."""
    target.mkdir()
    for lower in reversed(stack):
        subprocess.run(["cp", "-a", f"{lower}/.", f"{target}/"], check=True)


def warm(stack: list[Path]) -> None:
    """Have all data and names of these directories in the kernel's caches."""
    for lower in stack:
        for _, _, files, directory in os.fwalk(lower):
            for name in files:
                if os.stat(name, dir_fd=directory).st_size:
                    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
                    while os.read(fd, 1 << 20):
                        pass
                    os.close(fd)


def source_tree(root: Path, files: int, *, seed: str = "source", part: int = 1) -> None:
    """Text files of the sizes that a program's source has, in some 1/20 as many directories.

    With `part`, only every so many files are made, with other contents: a layer over the whole tree.
    """
    draw = random.Random(f"{seed} {part}")
    for number in range(0, files, part):
        directory = root / f"part{number // 400:02}" / f"module{number // 20:03}"
        directory.mkdir(parents=True, exist_ok=True)
        size = min(200_000, int(draw.lognormvariate(8.6, 1.0)))
        lines = [f"/* file {number} of {seed} {part} */"]
        if number % 100 == 0:
            lines.append(f"int {NEEDLE}_{number};")
        length = 0
        while length < size:
            line = " ".join(draw.choices(_WORDS, k=9)) + ";"
            lines.append(line)
            length += len(line) + 1
        (directory / f"file{number:05}.c").write_text("\n".join(lines) + "\n")


def numbered_files(root: Path, count: int, *, prefix: str = "file", step: int = 1, size: int = 0) -> None:
    """Files PREFIX000000, PREFIX000001 ... of `size` bytes in one directory; of these every `step`th."""
    root.mkdir(parents=True, exist_ok=True)
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    data = b"x" * size
    for number in range(0, count, step):
        fd = os.open(f"{prefix}{number:06}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=directory)
        if size:
            os.write(fd, data)
        os.close(fd)
    os.close(directory)


def _data_file(path: Path, size: int) -> None:
    block = random.Random(path.name).randbytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(block)


def _source(where: Path, sizes: Sizes, argument: str) -> list[Path]:
    """Two layers: a source tree of so many files, and over it one with every tenth in another version."""
    files = int(getattr(sizes, argument or "files"))
    for layer, part in (("top", 10), ("base", 1)):
        source_tree(where / layer / "source", files, part=part)
    return [where / "top", where / "base"]


def _small(where: Path, _: Sizes, __: str) -> list[Path]:
    """What a container's image has: a directory with a few files, in two layers."""
    for layer, step in (("top", 10), ("base", 1)):
        numbered_files(where / layer / "d", 100, step=step, size=4096)
    return [where / "top", where / "base"]


def _big(where: Path, sizes: Sizes, _: str) -> list[Path]:
    for name, size in (("big", sizes.big), ("small", sizes.small)):
        _data_file(where / name, size)
    return [where]


def _copied(where: Path, sizes: Sizes, _: str) -> list[Path]:
    _data_file(where / "big", sizes.copied)
    return [where]


def _layers(where: Path, sizes: Sizes, argument: str) -> list[Path]:
    """So many layers with the same directory, whose files are spread over them."""
    count = int(argument)
    stack = [where / f"{number:02}" for number in range(count)]
    for number, layer in enumerate(stack):
        directory = layer / "d"
        directory.mkdir(parents=True)
        for name in range(number, sizes.layer_names, count):
            (directory / f"name{name:06}").touch()
    return stack


def _flat(where: Path, sizes: Sizes, _: str) -> list[Path]:
    numbered_files(where / "flat", sizes.flat)
    return [where]


def _inodes(where: Path, sizes: Sizes, _: str) -> list[Path]:
    """Small directories with a hundred files each."""
    for number in range(-(-sizes.inodes // 100)):
        numbered_files(where / f"{number // 100:03}" / f"{number % 100:02}", min(100, sizes.inodes))
    return [where]


def _python(where: Path, sizes: Sizes, _: str) -> list[Path]:
    """Packages of small modules, compiled, in the last of five directories that Python searches."""
    for number in range(4):
        (where / f"path{number}").mkdir()
    site = where / "path4"
    for number in range(sizes.modules):
        package = site / f"package{number // 30:03}"
        package.mkdir(parents=True, exist_ok=True)
        if number % 30 == 0:
            (package / "__init__.py").write_text('"""A package."""\n')
        functions = "\n".join(
            f"def function{each}(value):\n    return value + {each}\n" for each in range(12)
        )
        (package / f"module{number:04}.py").write_text(f'"""Module {number}."""\nimport os\n\n{functions}')
    # By content, so that a copy with other times still has valid code.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(site, quiet=1, invalidation_mode=mode)
    return [where]


def _project(where: Path, sizes: Sizes, _: str) -> list[Path]:
    """A C project with headers that are found in the last of three directories."""
    source, include = where / "src", where / "include" / "deep"
    for directory in (source, include, where / "include" / "first", where / "include" / "second"):
        directory.mkdir(parents=True)
    headers = [f"header{number:03}.h" for number in range(60)]
    for number, name in enumerate(headers):
        body = "\n".join(f"int declared_{number}_{each}(int);" for each in range(40))
        (include / name).write_text(f"#pragma once\n#include <stddef.h>\n{body}\n")
    includes = "\n".join(f'#include "{name}"' for name in headers)
    for number in range(sizes.sources):
        body = "\n".join(
            f"int function_{number}_{each}(int x) {{ return x * {each} + declared_1_2(x); }}"
            for each in range(60)
        )
        (source / f"unit{number:03}.c").write_text(f"#include <stdio.h>\n{includes}\n{body}\n")
    (where / "Makefile").write_text(
        "CFLAGS = -O1 -Iinclude/first -Iinclude/second -Iinclude/deep\n"
        "OBJECTS = $(patsubst src/%.c,%.o,$(wildcard src/*.c))\n"
        "libproject.a: $(OBJECTS)\n\tar rcs $@ $^\n"
        "%.o: src/%.c\n\t$(CC) $(CFLAGS) -c -o $@ $<\n"
    )
    return [where]


_MAKERS: dict[str, Callable[[Path, Sizes, str], list[Path]]] = {
    "source": _source,
    "small": _small,
    "big": _big,
    "copied": _copied,
    "layers": _layers,
    "flat": _flat,
    "inodes": _inodes,
    "python": _python,
    "project": _project,
}

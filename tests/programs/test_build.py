"""A compiler and make: many short-lived processes, temporary files, time stamps that decide what is built."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.conftest import Union
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [
    needs_root,
    needs_fuse,
    pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("make")), reason="needs gcc and make"),
]

UNITS = 40
MAKEFILE = """
objects := $(patsubst %.c,%.o,$(wildcard src/*.c))
program: $(objects)
\tgcc -o $@ $^
%.o: %.c src/common.h
\tgcc -O1 -pipe -c -o $@ $<
libcommon.a: $(objects)
\tar rcs $@ $^
clean:
\trm -f program libcommon.a src/*.o
"""


def make_project(where: Path) -> None:
    """A C program of UNITS units that prints the sum of their numbers."""
    (where / "src").mkdir(parents=True)
    (where / "Makefile").write_text(MAKEFILE)
    declarations = "".join(f"int unit{n}(void);\n" for n in range(UNITS))
    (where / "src/common.h").write_text(f"#define SCALE 1\n{declarations}")
    for n in range(UNITS):
        source = f'#include "common.h"\nint unit{n}(void) {{ return {n} * SCALE; }}\n'
        (where / f"src/unit{n}.c").write_text(source)
    calls = " + ".join(f"unit{n}()" for n in range(UNITS))
    main = f'#include <stdio.h>\n#include "common.h"\nint main(void) {{ printf("%d\\n", {calls}); }}\n'
    (where / "src/main.c").write_text(main)
    for path in where.rglob("*"):  # sources are older than anything built from them
        os.utime(path, (1_600_000_000, 1_600_000_000))


def make(where: Path, *targets: str) -> str:
    done = subprocess.run(
        ["make", "-j4", *targets], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_parallel_build_of_lower_sources(union: Union, space: Path) -> None:
    lower = space / "lower"
    make_project(lower / "project")
    total = sum(range(UNITS))
    with union([lower]) as merged:
        project = merged / "project"
        assert make(project, "program", "libcommon.a").count("gcc -O1") == UNITS + 1
        assert subprocess.check_output([project / "program"], text=True) == f"{total}\n"
        assert "up to date" in make(project, "program")

        with (project / "src/unit3.c").open("a") as unit:  # a copy-up must make the file newer
            unit.write("/* changed */\n")
        assert make(project, "program").count("gcc -O1") == 1

        header = (project / "src/common.h").read_text().replace("SCALE 1", "SCALE 2")
        (project / "src/common.h.new").write_text(header)
        (project / "src/common.h.new").rename(project / "src/common.h")
        assert make(project, "program").count("gcc -O1") == UNITS + 1
        assert subprocess.check_output([project / "program"], text=True) == f"{2 * total}\n"
        symbols = subprocess.check_output(["nm", project / "libcommon.a"], text=True)
        assert symbols.count(" T unit") == UNITS
    with union([lower]) as merged:  # nothing is older or newer after a remount
        project = merged / "project"
        assert "up to date" in make(project, "program")
        assert subprocess.check_output([project / "program"], text=True) == f"{2 * total}\n"
        make(project, "clean")
        assert not list(project.rglob("*.o"))
    assert "SCALE 1" in (lower / "project/src/common.h").read_text()


def test_program_can_be_replaced_while_it_runs(union: Union, space: Path) -> None:
    """Writing to a running program says ETXTBSY; unlinking and renaming over it must work."""
    lower = space / "lower"
    make_project(lower / "project")
    with union([lower]) as merged:
        project = merged / "project"
        shutil.copy2(shutil.which("sleep") or "/bin/sleep", project / "sleep")
        running = subprocess.Popen([project / "sleep", "60"])
        try:
            with pytest.raises(OSError, match="Text file busy"):
                (project / "sleep").open("r+b").close()
            shutil.copy2(shutil.which("true") or "/bin/true", project / "new")
            (project / "new").rename(project / "sleep")
            assert subprocess.run([project / "sleep", "60"]).returncode == 0
            assert running.poll() is None
        finally:
            running.kill()
            running.wait()

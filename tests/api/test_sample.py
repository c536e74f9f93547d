"""A project that uses the API and the pytest plugin: its own test run, with pyunionfs from a wheel."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.api.installed import Installed
from tests.api.rig import contents
from tests.mount.rig import eventually
from tests.support.mounts import mount_types, needs_fuse, needs_root
from tests.support.transports import one_transport

SAMPLE = Path(__file__).parent / "sample"

pytestmark = [one_transport]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the project."""
    copy = tmp_path / "sample"
    shutil.copytree(SAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def project(where: Path, test: str, ini: str = "") -> Path:
    """A project with one prepared tree and one test module."""
    (where / "tree").mkdir(parents=True)
    (where / "tree/data").write_text("prepared\n")
    (where / "pytest.ini").write_text(f"[pytest]\nunion_lowers = tree\n{ini}\n")
    (where / "test_it.py").write_text(test)
    return where


@needs_root
@needs_fuse
def test_its_tests(installed: Installed, sample: Path, place: Path) -> None:
    before = contents(sample)
    done = installed.pytest([], sample)
    assert re.search(r"= 12 passed in ", done.stdout), done.stdout
    assert "plugins: " in done.stdout
    assert "pyunionfs-" in done.stdout.partition("plugins: ")[2].splitlines()[0]
    after = {name: what for name, what in contents(sample).items() if "__pycache__" not in name}
    assert after == before


def test_its_types(installed: Installed, sample: Path) -> None:
    done = installed.mypy(["stock.py", "test_stock.py", "prepared/test_prepared.py"], sample)
    assert "no issues found in 3 source files" in done.stdout


WRONG = """
from __future__ import annotations
from pathlib import Path
import unionfs
from unionfs.pytest_plugin import UnionFactory
unionfs.mount("tree")  # wrong
unionfs.mount(b"tree")  # wrong
unionfs.mount(lowers=Path("tree"))  # wrong
unionfs.mount({"tree"})  # wrong
unionfs.mount([1])  # wrong
unionfs.mount(image=3)  # wrong
unionfs.mount(["tree"], "merged", "upper")  # wrong
unionfs.mount(["tree"], indx=True)  # wrong
unionfs.mount(["tree"], index="on")  # wrong
unionfs.mount(["tree"], timeout="soon")  # wrong
unionfs.mount(["tree"], redirect_dir="maybe")  # wrong
unionfs.mount(["tree"], uidmapping=[(0, 1)])  # wrong
unionfs.mount(["tree"], upper=3)  # wrong
unionfs.mount(["tree"]) / "etc"  # wrong
with unionfs.mount(["tree"]) as merged:
    merged.umount()  # wrong
unionfs.umount()  # wrong
unionfs.umount("merged", True)  # wrong
unionfs.mounts()[0].path = Path()  # wrong
unionfs.mounts()[0].state == "gone"  # wrong
unionfs.mounts()["merged"]  # wrong
unionfs.status()  # wrong
def test(union_factory: UnionFactory) -> str:
    union_factory("tree", nonsense=True)  # wrong
    return union_factory("tree")  # wrong
"""

RIGHT = """
from __future__ import annotations
from pathlib import Path
import unionfs
names: list[str] = ["a"]
paths: list[Path] = [Path("a")]
unionfs.mount(names, upper=b"u", work=Path("w"), timeout=1, async_=True).umount(lazy=True)
unionfs.mount(paths)
unionfs.mount(("a", b"b", Path("c")), "merged", redirect_dir="nofollow", xino="auto", xattr_permissions=2)
with unionfs.mount(lowers=names, uidmapping=[(0, 1000, 1)], max_read=4096, log_file=Path("log")) as merged:
    text: str = (merged / "file").read_text()
def options() -> unionfs.Options:
    return {"index": True, "noexec": True}
union: unionfs.Mount = unionfs.mount(names, **options())
upper: Path | None = unionfs.mounts()[0].upper
"""


def test_wrong_uses_are_type_errors(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "right.py").write_text(RIGHT)
    done = installed.mypy(["wrong.py", "right.py"], tmp_path, status=1)
    found = re.findall(r"^(\w+\.py):(\d+): error: ", done.stdout, re.MULTILINE)
    lines = enumerate(WRONG.splitlines(), start=1)
    expected = [("wrong.py", str(number)) for number, line in lines if line.endswith("  # wrong")]
    assert found == expected, done.stdout


ENDS = """
import os, signal
import pytest

def test_that_fails(union):
    held = (union / "data").open("a")
    held.write("scribbled")
    assert union is None

def test_that_leaves_a_file_open(union):
    global held
    held = (union / "data").open("a")

def test_that_stays_inside(union, monkeypatch):
    os.chdir(union)

def test_that_raises_in_a_factory(union_factory):
    first, second = union_factory(), union_factory()
    (second / "data").unlink()
    raise KeyError(str(first))

def test_that_unmounts_by_itself(union):
    import unionfs
    unionfs.umount(union)

def test_that_sees_none_of_that(union):
    assert [path.name for path in union.iterdir()] == ["data"]
    assert (union / "data").read_text() == "prepared\\n"
"""

_LEFT_OPEN = (
    r"PytestWarning: .* is busy: this process has .*/data open \(descriptor \d+\); close it before the test"
    " ends"
)


@needs_root
@needs_fuse
def test_whatever_tests_do(installed: Installed, tmp_path: Path, place: Path) -> None:
    where = project(tmp_path / "project", ENDS)
    done = installed.pytest([], where, status=1)
    assert re.search(r"= 2 failed, 4 passed, 3 warnings in ", done.stdout), done.stdout
    assert "FAILED test_it.py::test_that_fails - AssertionError" in done.stdout
    assert re.search(_LEFT_OPEN, done.stdout), done.stdout
    assert re.search(r"PytestWarning: .*this process has its working directory in /.*; leave it", done.stdout)
    assert (where / "tree/data").read_text() == "prepared\n"
    assert installed.pytest(["-W", "error"], where, status=1).stdout.count("ERROR at teardown") == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@needs_root
@needs_fuse
def test_a_run_that_is_killed(installed: Installed, tmp_path: Path, place: Path, number: int) -> None:
    test = """
import time

def test_long(union, union_factory, capfd):
    with capfd.disabled():
        print("at", union, "and at", union_factory(), "", flush=True)
    time.sleep(60)
"""
    where = project(tmp_path / "project", test)
    with subprocess.Popen(
        [installed.python, "-m", "pytest"],
        cwd=where,
        env=installed.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if " and at " in line)
        first, second = (Path(word) for word in re.findall(r"at (\S+) ", line))
        assert mount_types(first) == mount_types(second) == ["fuse.pyunionfs"]
        os.kill(process.pid, number)
        process.stdout.read()
    assert eventually(lambda: mount_types(first) == mount_types(second) == [])
    assert (where / "tree/data").read_text() == "prepared\n"


NEEDS = "def test_it(union):\n    assert union.is_dir()\n"


@needs_root
@needs_fuse
@pytest.mark.parametrize("ini", ["", "union_where_missing = skip"])
def test_where_nothing_can_be_mounted(installed: Installed, tmp_path: Path, place: Path, ini: str) -> None:
    """It fails with a clear message unless it is configured to be skipped."""
    test = "import unionfs.api.launch as launch\nlaunch._BOOT = launch._BOOT.replace(\n"
    test += (
        "'child.main', 'import unionfs.transport.mount as m; m.FUSE_DEVICE = \"/dev/gone\"; child.main')\n"
    )
    where = project(tmp_path / "project", test + NEEDS, ini)
    done = installed.pytest([], where, status=0 if ini else 1)
    assert "this system has no /dev/gone" in done.stdout
    assert ("SKIPPED" in done.stdout, "ERROR test_it.py" in done.stdout) == (bool(ini), not ini)


@needs_root
@needs_fuse
@pytest.mark.parametrize(
    "ini, test, complaint",
    [
        (
            "union_where_missing = skip\nunion_lowers = gone",
            NEEDS,
            r"lower .*/gone does not exist: create it",
        ),
        ("union_lowers =", NEEDS, "the fixture `union` has no lower layers: set union_lowers"),
        ("", "import pytest\n@pytest.mark.union(indx=1)\n" + NEEDS, "did you mean index"),
        (
            "union_where_missing = maybe",
            NEEDS,
            "invalid value 'maybe' of union_where_missing: write fail or skip",
        ),
        ("union_tmpdir = gone", NEEDS, "cannot make a temporary directory in .*/project/gone"),
    ],
)
def test_what_is_configured_wrongly(
    installed: Installed, tmp_path: Path, place: Path, ini: str, test: str, complaint: str
) -> None:
    where = project(tmp_path / "project", test)
    lines = [] if "union_lowers" in ini else ["union_lowers = tree"]
    (where / "pytest.ini").write_text("\n".join(["[pytest]", *lines, ini]))
    done = installed.pytest([], where, status=None)
    assert done.returncode in (1, 4)
    assert re.search(complaint, done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    assert "unionfs/api" not in done.stdout, "where it was noticed is of no use"


@needs_root
@needs_fuse
def test_another_place_for_what_tests_change(installed: Installed, tmp_path: Path, place: Path) -> None:
    test = "def test_it(union):\n    assert union.parent.parent.name == 'elsewhere'\n"
    where = project(tmp_path / "project", test, "union_tmpdir = elsewhere")
    (where / "elsewhere").mkdir()
    installed.pytest([], where)
    assert os.listdir(where / "elsewhere") == []


LIGHT = """
import sys

def test_it(request):
    assert request.config.pluginmanager.has_plugin("pyunionfs")
    loaded = {name for name in sys.modules if name.startswith("unionfs")}
    assert loaded == {"unionfs", "unionfs.errors", "unionfs.pytest_plugin"}
    assert not {"trio", "pyfuse3", "rich", "ctypes.util"} & set(sys.modules)
"""


def test_who_does_not_use_it_loads_nothing(installed: Installed, tmp_path: Path) -> None:
    done = installed.pytest(["-W", "error"], project(tmp_path / "project", LIGHT))
    assert "1 passed" in done.stdout

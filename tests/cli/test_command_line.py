"""The command line without a mount: which command, which exit status, and one line on standard error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import unionfs
from unionfs.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["fly"], 2, "unknown command 'fly': the commands are mount"),
        (["stauts"], 2, "unknown command 'stauts': did you mean status? the commands are mount"),
        (["mount", "/m"], 2, "one directory was given, /m"),
        (
            ["mount", "--volatile", "/l", "/u", "/w", "/m"],
            2,
            "unknown option --volatile: volatile is a mount option, write -o volatile",
        ),
        (
            ["mount", "--timeout=3", "/l", "/m"],
            2,
            "unknown option --timeout=3: timeout is a mount option, write -o timeout=3",
        ),
        (["unmount", "/proc"], 1, "is a proc mount and not pyunionfs's"),
        (["mount"], 2, "0 directories were given"),
        (["mount", "/l", "/u", "/m"], 2, "three directories"),
        (["mount", "-o", "nonsense", "/l", "/m"], 2, "unknown mount option 'nonsense'"),
        (["mount", "--nonsense", "/l", "/m"], 2, "--nonsense"),
        (["mount", "-o"], 2, "expected one argument"),
        (["mount", "--log", "x", "/l", "/m"], 2, "--log"),
        (["umount"], 2, "MERGED"),
        (["umount", "/proc"], 1, "is a proc mount and not pyunionfs's"),
        (["umount", "/nowhere/at all"], 1, "nothing is mounted on /nowhere/at all"),
        (["status", "/nowhere"], 1, "/nowhere is not a mount of pyunionfs"),
        (["status", "a", "b"], 2, "unrecognized arguments: b"),
    ],
)
def test_refusals(words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyunionfs: ")
    assert err.count("\n") == 1
    assert says in err


def test_a_newline_in_a_path_does_not_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["umount", "/no\nwhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    """And no Traceback: here the name of a command, there that of a mountpoint."""
    program = (
        "import sys; from unionfs.cli import main;"
        "main(['--version']); print('\\u6f22 \\xe9 \\udcff', flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines()[1] == b"\\u6f22 \xe9 \xff"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.EACCES, "Permission denied", "/x/y"),
            "/x/y: Permission denied; look at the modes of it",
        ),
        (OSError(errno.ENOSPC, "No space left on device", b"/x"), "/x: No space left on device; make room"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit of open files"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "Bad file descriptor"),
        (OSError("no number"), "no number"),
    ],
)
def test_what_the_system_refuses_is_told_with_the_next_step(
    error: OSError, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("unionfs.control.status_socket.list_mounts", fails)
    assert main(["status"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"pyunionfs: {says}")
    assert err.count("\n") == 1


def test_options_may_stand_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount", str(tmp_path / "l"), "-o", "ro", str(tmp_path), "-f"]) == 1
    assert f"lower {tmp_path}/l does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == f"pyunionfs {unionfs.__version__}\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in ("mount", "umount", "status"))


def test_help_of_mount_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from unionfs.options.table import OPTIONS

    with pytest.raises(SystemExit) as ended:
        main(["mount", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out for name in OPTIONS)


def test_the_version_stands_in_one_place_and_in_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "unionfs.__version__"}
    assert f"\n## [{unionfs.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_public_names_exist() -> None:
    for name in unionfs.__all__:
        assert getattr(unionfs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(unionfs, "nonsense")  # noqa: B009 (a type checker knows that there is none)


def test_refusing_loads_neither_trio_nor_pyfuse3() -> None:
    """A mount's start-up time counts, and so does that of `umount` and `status`."""
    program = (
        "import sys; from unionfs.cli import main; import unionfs.daemon.lifecycle, unionfs.control.unmount;"
        "main(['mount', '/nowhere', '/']); main(['status', '--json']); main(['umount', '/nowhere']);"
        "sys.exit(' '.join({'trio', 'pyfuse3', 'subprocess', 'rich', 'shtab'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


_MOUNTS = {"socket", "unionfs.control.status_socket", "unionfs.options.mount_options"}
_UNION = {f"unionfs.overlay.{name}" for name in ("config", "layer", "format", "work", "owners.idmap")}
_THREADS = {"threading", "concurrent.futures", "asyncio", "selectors"}
_REGISTRY = {"urllib3", "isal", "zstandard", "ssl"}


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("unionfs.cli.commit", _MOUNTS),
        # What `run` loads before it forks the union's daemon, in which no thread and no loop may have run.
        ("unionfs.cli.run", _MOUNTS | _UNION | _REGISTRY | _THREADS | {"msgspec", "argparse", "hashlib"}),
        # And what afterwards, while the daemon loads the union.
        ("unionfs.cli.run_options, unionfs.container.life", _MOUNTS | _UNION | _REGISTRY),
        ("unionfs.cli.ps", _MOUNTS | _UNION | _REGISTRY),
        ("unionfs.cli.images", _MOUNTS | _UNION | _REGISTRY),
        ("unionfs.cli.inspect", _MOUNTS | _UNION | _REGISTRY),
    ],
)
def test_a_command_loads_only_what_it_needs(modules: str, unwanted: set[str]) -> None:
    """The start is a third of a small commit, and half of a container's `run`."""
    program = f"import sys, {modules}; sys.exit(' '.join({unwanted} & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    script = f"{sys.executable} -m unionfs mount --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr

"""`pyunionfs check` as a command: its arguments, its exit status, and what it says to people and programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import command, environment, loop_fs, needs_root, scratch
from unionfs.cli import main

pytestmark = needs_root


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A union with two whiteouts over nothing, a file that is no whiteout, and litter."""
    with scratch(tmp_path) as where:
        for name in ("lower", "upper", "work", "upper/d"):
            (where / name).mkdir()
        for name in ("one", "d/two"):
            os.mknod(where / "upper" / name, 0o20000, 0)
        (where / "work/work").mkdir()
        (where / "work/work/#1").write_text("half")
        (where / "work/work/notes").write_text("precious")
        yield where


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def directories(base: Path) -> list[str]:
    return [str(base / name) for name in ("lower", "upper", "work")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "0 directories were given: give three"),
        (["/l"], "one directory was given: give three"),
        (["/l", "/u"], "2 directories were given"),
        (["/l", "/u", "/w", "/m"], "4 directories were given"),
        (["-o", "lowerdir=/l"], "missing upper layer"),
        (["-o", "lowerdir=/l,upperdir=/u,workdir=/w", "/l", "/u", "/w"], "as well as mount option lowerdir"),
        (["-o", "nonsense", "/l", "/u", "/w"], "unknown mount option 'nonsense'"),
        (["--accept-lowers", "/l", "/u", "/w"], "add --repair"),
        (["--accept-volatile", "/l", "/u", "/w"], "add --repair"),
        (["--fix", "/l", "/u", "/w"], "--fix"),
    ],
)
def test_wrong_command_lines(words: list[str], says: str, said: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words]) == 2
    out, err = said.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("pyunionfs: ")
    assert err.count("\n") == 1


def test_what_a_mount_refuses_is_refused(base: Path, said: pytest.CaptureFixture[str]) -> None:
    lower, upper, work = directories(base)
    with loop_fs("tmpfs", directory=base) as elsewhere:
        refusals = [
            ([lower, upper, str(elsewhere)], "on different filesystems"),
            ([lower, upper, upper], "are the same directory"),
            ([lower, upper, upper + "/d"], "is inside upper"),
            ([upper, upper, work], "is also the lower"),
            ([lower, upper + "/none", work], "does not exist"),
        ]
        for words, says in refusals:
            assert main(["check", "--repair", *words]) == 1
            out, err = said.readouterr()
            assert out == ""
            assert says in err
    assert (base / "upper/one").exists()


def test_for_people(base: Path, said: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *directories(base)]) == 1
    out, err = said.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"warning {base}/work/work/#1",
        "    a temporary object, left by a mount that was killed: it was not part of the union yet",
        "    next: nothing needs to be done: the next mount removes it",
        f"warning {base}/work/work/notes",
        "    no union makes such an object here, and the next mount deletes all that is here",
        "    next: move it somewhere else if you need it, else delete it",
        f"warning {base}/upper/one",
        "    a whiteout over nothing: no lower has the name there, so it hides nothing",
        "    next: remove it: nothing changes in the union",
        f"warning {base}/upper/d/two",
        "    a whiteout over nothing: no lower has the name there, so it hides nothing",
        "    next: remove it: nothing changes in the union",
        "3 names checked: 4 warnings; --repair can repair 3",
    ]
    assert main(["check", "--repair", *directories(base)]) == 1
    out = said.readouterr().out
    assert out.count("    repaired: the whiteout was removed\n") == 2
    assert out.count("    repaired: it was removed\n") == 1
    assert out.splitlines()[-1] == "3 names checked: 4 warnings; 3 repaired"
    assert (base / "work/work/notes").read_text() == "precious"
    (base / "work/work/notes").unlink()
    assert main(["check", *directories(base)]) == 0
    assert said.readouterr().out == "1 name checked: no findings\n"


def test_all_mended_is_success(base: Path, said: pytest.CaptureFixture[str]) -> None:
    (base / "work/work/notes").unlink()
    assert main(["check", "--repair", *directories(base)]) == 0
    assert "3 warnings; 3 repaired" in said.readouterr().out


def test_what_must_be_vouched_for_is_said_at_once(base: Path, said: pytest.CaptureFixture[str]) -> None:
    """What --repair alone does not mend is not promised of it, and no deletion is advised to be undone."""
    (base / "work/work/notes").unlink()
    (base / "work/work/incompat/volatile").mkdir(parents=True)
    words = directories(base)
    assert main(["check", *words]) == 1
    summary = said.readouterr().out.splitlines()[-1]
    assert summary.endswith("; --repair can repair 3; --repair --accept-volatile can repair 4")
    assert main(["check", "--repair", *words]) == 1
    summary = said.readouterr().out.splitlines()[-1]
    assert summary.endswith("; 3 repaired; --repair --accept-volatile can repair 1")
    assert main(["check", "--repair", "--accept-volatile", *words]) == 0
    assert said.readouterr().out.splitlines()[-1].endswith("; 1 repaired")


def test_a_note_is_no_failure(base: Path, said: pytest.CaptureFixture[str]) -> None:
    os.setxattr(base / "upper/d", "user.overlay.origin", b"")
    (base / "work/work/notes").unlink()
    assert main(["check", "--repair", *directories(base)]) == 0
    lines = said.readouterr().out.splitlines()[-4:]
    assert lines[0] == f"note {base}/upper/d"
    assert "marks user.overlay.*, and none has trusted.overlay.*" in lines[1]
    assert lines[2:] == [
        "    next: check with -o userxattr, if it is mounted so",
        "3 names checked: 3 warnings, 1 note; 3 repaired",
    ]


def test_each_name_advances_what_is_shown(
    base: Path, said: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, tuple[int | None, int]] = {}

    @contextmanager
    def progress(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
        shown[description] = total, 0

        def advance(n: int = 1) -> None:
            shown[description] = total, shown[description][1] + n

        yield advance

    monkeypatch.setattr("unionfs.cli.terminal.progress", progress)
    assert main(["check", "--repair", *directories(base)]) == 1
    assert "3 names checked" in said.readouterr().out
    assert shown == {f"checking {base}/upper": (None, 3), "repairing": (4, 4)}


def test_for_programs(base: Path, said: pytest.CaptureFixture[str]) -> None:
    lower, upper, work = directories(base)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    assert main(["check", "--json", "-o", options]) == 1
    answer = json.loads(said.readouterr().out)
    assert (answer["lowers"], answer["upper"], answer["work"]) == ([lower], upper, work)
    assert (answer["names"], answer["left"]) == (3, 4)
    assert answer["findings"][2] == {
        "kind": "whiteout",
        "severity": "warning",
        "path": f"{upper}/one",
        "reason": "a whiteout over nothing: no lower has the name there, so it hides nothing",
        "next_step": "remove it: nothing changes in the union",
        "repairable": True,
        "mended": None,
        "not_mended": None,
    }
    assert main(["check", "--json", "--repair", "-o", options]) == 1
    answer = json.loads(said.readouterr().out)
    assert [each["mended"] is not None for each in answer["findings"]] == [True, False, True, True]
    assert answer["left"] == 1


def test_names_cannot_reach_the_terminal_raw(base: Path, said: pytest.CaptureFixture[str]) -> None:
    os.mknod(os.fsencode(base / "upper") + b"/\x1b]0;owned\x07\n[red]\xff", 0o20000, 0)
    assert main(["check", *directories(base)]) == 1
    out = said.readouterr().out
    assert r"upper/\x1b]0;owned\x07\n[red]\udcff" in out
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_on_a_terminal(base: Path, no_color: bool) -> None:
    env = environment() | {"TERM": "xterm-256color"}
    env.pop("NO_COLOR", None)
    if no_color:
        env["NO_COLOR"] = "1"
    ours, theirs = pty.openpty()
    with subprocess.Popen(command("check", *directories(base)), stdout=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the end of a pty
                break
            if not data:
                break
            shown += data
    os.close(ours)
    assert process.returncode == 1
    assert b"whiteout over nothing" in shown
    assert (b"\x1b[" in shown) is not no_color


def test_mount_does_not_load_it() -> None:
    code = (
        "import sys, unionfs.cli.mount, unionfs.daemon.lifecycle;"
        "print([n for n in sys.modules if 'offline' in n])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"

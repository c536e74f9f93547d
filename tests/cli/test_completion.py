"""Completion, in the shells themselves: a line is typed up to some point, the shell says how it goes on."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from unionfs.cli import completion, main
from unionfs.cli.commands import COMMANDS
from unionfs.cli.overview import parsers
from unionfs.options.table import OPTIONS

PATIENCE = 20.0

FINDMNT = """
#!/bin/sh
[ "$*" = "-nlo TARGET -t fuse.pyunionfs" ] && echo /nowhere/merged && echo "/nowhere/two words"
"""

PYUNIONFS = """
#!/bin/sh
case "$1 $4" in
    "images ") printf '%s\\n' debian:12 debian:latest localhost:5000/a:1 '<none>:<none>' x:'<none>' ;;
    "ps {{.Names}}") printf '%s\\n' box bright_star ;;
esac
"""

# A line that is typed, and all that it can become, as the words after the last blank.
CASES: dict[str, list[str]] = {
    "pyunionfs ": list(COMMANDS),
    "pyunionfs umo": ["umount"],
    "pyunionfs --ver": ["--version"],
    "pyunionfs umount --l": ["--lazy"],
    "pyunionfs completion z": ["zsh"],
    "pyunionfs mount low": ["lower1", "lower2"],
    "pyunionfs mount lower1:low": ["lower1:lower1", "lower1:lower2"],
    "pyunionfs mount lower1:lower2 up": ["upper"],
    "pyunionfs mount --log-file no": ["notes"],
    "pyunionfs mount -o vol": ["volatile"],
    "pyunionfs mount -ovol": ["-ovolatile"],
    "pyunionfs mount -o ro,redirect_d": ["ro,redirect_dir="],
    "pyunionfs mount -o redirect_dir=n": ["redirect_dir=nofollow"],
    "pyunionfs mount -o ro,redirect_dir=o": ["ro,redirect_dir=on", "ro,redirect_dir=off"],
    "pyunionfs mount -o index=on,meta": ["index=on,metacopy="],
    "pyunionfs mount -o index=on,metacopy=of": ["index=on,metacopy=off"],
    "pyunionfs mount -o lowerdir=low": ["lowerdir=lower1", "lowerdir=lower2"],
    "pyunionfs mount -o ro,lowerdir+=upp": ["ro,lowerdir+=upper"],
    "pyunionfs mount -o ro,lowerdir=lower2:upp": ["ro,lowerdir=lower2:upper"],
    "pyunionfs mount -o log_file=no": ["log_file=notes"],
    "pyunionfs mount -f -o userxattr upper": ["upper"],
    "pyunionfs umount /nowhere/": ["/nowhere/merged", "/nowhere/two words"],
    "pyunionfs changes up": ["upper"],
    "pyunionfs changes --lowers lower1:up": ["lower1:upper"],
    "pyunionfs changes /nowhere/m": ["/nowhere/merged"],
    "pyunionfs check -o index=of": ["index=off"],
    "pyunionfs status /nowhere/m": ["/nowhere/merged"],
    "pyunionfs rmi deb": ["debian:12", "debian:latest"],
    "pyunionfs tag debian:1": ["debian:12"],
    "pyunionfs save localhost:5": ["localhost:5000/a:1"],
    "pyunionfs rm bo": ["box"],
    "pyunionfs inspect br": ["bright_star"],
    "pyunionfs inspect /nowhere/m": ["/nowhere/merged"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to work in, with the scripts, and programs that know mounts, images and containers."""
    home = tmp_path_factory.mktemp("completion")
    for name in ("lower1", "lower2", "upper"):
        (home / name).mkdir()
    (home / "notes").touch()
    (home / "bin").mkdir()
    (home / "bin/findmnt").write_text(FINDMNT.lstrip())
    (home / "bin/pyunionfs").write_text(PYUNIONFS.lstrip())
    for program in ("findmnt", "pyunionfs"):
        (home / "bin" / program).chmod(0o755)
    for shell in completion.SHELLS:
        (home / f".{shell}").write_text(completion.script(shell, COMMANDS))
    (home / "functions").mkdir()
    shutil.copy(home / ".zsh", home / "functions/_pyunionfs")
    return home


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": f"{home}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "200",
    }


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")


# --- bash ------------------------------------------------------------------------------------------

BASH = r"""
source "$HOME/.bash"
COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$2
shift 2
COMP_WORDS=("$@")
_pyunionfs pyunionfs
printf '%s\n' "${COMPREPLY[@]}"
"""


def bash_words(line: str) -> list[str]:
    """As bash parts a line (COMP_WORDBREAKS): at blanks, and `:` and `=` are words themselves."""
    words = [word for part in line.split(" ") for word in re.findall(r"[:=]+|[^:=]+", part) or [""]]
    return words if not words[-1] or words[-1][0] not in ":=" else [*words, ""]


@pytest.mark.parametrize("line", CASES)
def test_bash(home: Path, line: str) -> None:
    needs("bash")
    words = bash_words(line)
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", line, str(len(words) - 1), *words],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    # The answer takes the place of what comes after the last word break.
    known = re.sub(r"[^:=]*$", "", line.rpartition(" ")[2])
    assert sorted(known + found for found in done.stdout.splitlines()) == sorted(CASES[line])


# --- fish ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", CASES)
def test_fish(home: Path, line: str) -> None:
    needs("fish")
    program = f"source $HOME/.fish; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    found = {each.partition("\t")[0].rstrip("/") for each in done.stdout.splitlines()}
    # fish goes on to the values of an option at once.
    ends = {each for each in CASES[line] if each.endswith("=")}
    assert {each for each in found if not any(each.startswith(end) for end in ends)} == {*CASES[line]} - ends
    assert {end for end in ends if any(each.startswith(end) for each in found)} == ends


# --- typing ----------------------------------------------------------------------------------------

COMPINIT = "autoload -U compinit; compinit -u -D"

STARTS = {
    "bash": (["bash", "--norc"], 'eval "$(cat ~/.bash)"'),
    "zsh": (["zsh", "-f", "-i"], f'{COMPINIT}; eval "$(cat ~/.zsh)"'),
    # As it is found where `make install` puts it.
    "zsh-autoload": (["zsh", "-f", "-i"], f"fpath=(~/functions $fpath); {COMPINIT}"),
}


def typed(shell: str, home: Path, line: str, wanted: str) -> str:
    """Type a line and a tab into a shell on a terminal; what it shows, until that ends with *wanted*."""
    words, before = STARTS[shell]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        words,
        cwd=home,
        env={**environment(home), "PS1": "% "},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = ""
    deadline = time.monotonic() + PATIENCE
    try:

        def until(text: str) -> bool:
            nonlocal shown
            while text not in shown:
                if not select.select([master], [], [], max(deadline - time.monotonic(), 0))[0]:
                    return False
                shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x07|\r", "", os.read(master, 4096).decode())
            return True

        os.write(master, f"{before}; echo rea''dy\n".encode())
        assert until("ready\n"), shown
        shown = ""
        os.write(master, line.encode() + b"\t")
        until(wanted)
        return shown
    finally:
        process.kill()
        process.wait()
        os.close(master)


SINGLE = [line for line, found in CASES.items() if len(found) == 1]

TYPED = [
    *(("zsh", line) for line in SINGLE),
    # How these shells part words, and how the script is found, is seen when they are typed into only.
    *(("bash", line) for line in SINGLE if ":" in line or "=" in line),
    *(("zsh-autoload", line) for line in ("pyunionfs umo", "pyunionfs mount -o vol")),
]


@pytest.mark.parametrize(("shell", "line"), TYPED)
def test_typing(home: Path, shell: str, line: str) -> None:
    needs(STARTS[shell][0][0])
    [word] = CASES[line]
    wanted = f"{line.rpartition(' ')[0]} {word}"
    assert wanted in typed(shell, home, line, wanted)


def test_zsh_lists_options_with_what_they_do(home: Path) -> None:
    needs("zsh")
    shown = typed("zsh", home, "pyunionfs mount -o index=on,no", "execution of programs")
    assert re.search(r"noexec +-- do not permit execution of programs", shown)


# --- all of it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_command_prints_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == completion.script(shell, COMMANDS) + "\n"


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "choose from bash, zsh, fish" in capsys.readouterr().err.replace("'", "")


def test_what_every_argument_is_is_known() -> None:
    """A command that takes something new must say how that is completed."""
    for name, parser in parsers(COMMANDS).items():
        for action in parser._actions:
            if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction):
                assert isinstance(action.metavar, str), f"{name}: {action.dest} needs a metavar"
                completion.kind_of(action)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_mount_option_is_completed(home: Path, name: str) -> None:
    """In the scripts' text, which the cases above have shown to work."""
    option = OPTIONS[name]
    bash, zsh, fish = ((home / f".{shell}").read_text() for shell in completion.SHELLS)
    words = ([name] if option.flag is not None else []) + ([f"{name}="] if option.takes_value else [])
    for word in words:
        assert f" {word} " in bash.replace("'", " ")
    assert f"{name}[" in zsh
    assert f" '{name}" in fish
    for value in option.values or ():
        assert f"'{name}={value}' " in fish

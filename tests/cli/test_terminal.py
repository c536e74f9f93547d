"""What reaches a terminal, and what reaches a pipe: colours, progress, and names that try to be more."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unionfs.cli.terminal import human_size

ROOT = Path(__file__).resolve().parents[2]

COLOURED = """
from rich.text import Text
from unionfs.cli.terminal import console
console().print(Text("red", style="red"), "[bold]name[/bold] :smile: 12")
"""

PROGRESS = """
import sys
from unionfs.cli import terminal
terminal._SHORT_WORK = float(sys.argv[1])
terminal._SHOWN_EACH = 0
total = None if sys.argv[2] == "None" else int(sys.argv[2])
with terminal.progress("reading [bold]x\\x1b[2J", total) as advance:
    for _ in range(5):
        advance(100)
    print("a line of output")
sys.stdout.flush()
print("rich" in sys.modules)
"""


def in_terminal(program: str, *words: str, environment: dict[str, str] | None = None) -> tuple[str, str]:
    """Run a Python program with a terminal as standard error, and output as well if nothing else is said.

    What the terminal got, and standard output where it was a pipe (`OUT=pipe`).
    """
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"} | (environment or {})
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if env.get("OUT") == "pipe" else slave,
            stderr=slave,
        )
    finally:
        os.close(slave)
    got = b""
    try:
        while chunk := os.read(master, 65536):
            got += chunk
    except OSError:
        pass  # EIO: all who had the terminal open have gone
    finally:
        os.close(master)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, got
    return got.decode(), (out or b"").decode()


def test_a_terminal_gets_colours_and_no_markup_is_read_from_names() -> None:
    got, _ = in_terminal(COLOURED)
    assert "\x1b[31mred\x1b[0m" in got
    assert "[bold]name[/bold] :smile: 12" in got


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_no_escapes_where_none_are_wanted(setting: dict[str, str]) -> None:
    assert in_terminal(COLOURED, environment=setting)[0] == "red [bold]name[/bold] :smile: 12\r\n"


def test_a_pipe_gets_no_escapes_whatever_the_environment_says() -> None:
    env = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    done = subprocess.run([sys.executable, "-c", COLOURED], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("red [bold]name[/bold] :smile: 12\n", "")


@pytest.mark.parametrize(("total", "says"), [("500", "500/500"), ("None", "500")])
def test_progress_is_shown_on_a_terminals_standard_error(total: str, says: str) -> None:
    got, out = in_terminal(PROGRESS, "0", total, environment={"OUT": "pipe"})
    assert out == "a line of output\nTrue\n"
    assert r"reading [bold]x\x1b[2J" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got)
    assert says in got
    assert "\x1b[2J" not in got


def test_short_work_shows_no_progress_and_loads_nothing() -> None:
    assert in_terminal(PROGRESS, "1000", "500")[0] == "a line of output\r\nFalse\r\n"


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor_shows_no_progress(term: str) -> None:
    got, _ = in_terminal(PROGRESS, "0", "500", environment={"TERM": term})
    assert got == "a line of output\r\nFalse\r\n"


def test_a_pipe_shows_no_progress() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS, "0", "500"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("a line of output\nFalse\n", "")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1234567, "1.2 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (-3 << 30, "-3.0 GiB"),
        (5 << 60, "5.0 EiB"),
        (5000 << 60, "5000.0 EiB"),
    ],
)
def test_human_sizes(size: int, text: str) -> None:
    assert human_size(size) == text

"""A container's terminal, as a user at another one meets it: keys, size, job control."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.container.boxes import TIMEOUT, Box, make_tree
from tests.support.mounts import REPOSITORY, environment, needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    tree = tmp_path_factory.mktemp("box") / "tree"
    make_tree(tree)
    return Box(tree)


class Screen:
    """A terminal of 30 lines with a process on it, of which it is the controlling terminal."""

    def __init__(self, words: list[str]) -> None:
        self.master, slave = os.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            # A session whose terminal this is, as a login has it.
            ["setsid", "--ctty", "--wait", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=REPOSITORY,
            env=environment(),
        )
        os.close(slave)
        self.shown = ""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str) -> str:
        """What is shown up to and with *text*, since the last call."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} does not come, but {self.shown!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.shown += os.read(self.master, 4096).decode()
                except OSError:
                    raise AssertionError(f"{text!r} does not come, but {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def end(self) -> int:
        """The exit status, when all is read."""
        while True:
            try:
                if not os.read(self.master, 4096):
                    break
            except OSError:  # the last process on it has ended
                break
        return self.process.wait(TIMEOUT)


def test_keys_size_and_name(box: Box) -> None:
    with Screen(box.words("sh", tty=True, interactive=True)) as screen:
        screen.wait_for("# ")
        assert not termios.tcgetattr(screen.master)[3] & termios.ECHO
        screen.type("tty; stty size; ls -l /dev/console; echo $TERM; echo e'n'd\n")
        seen = screen.wait_for("\r\nend\r\n").splitlines()
        assert [seen[1], seen[2], seen[-2]] == ["/dev/pts/0", "30 100", "xterm"]
        assert seen[3].startswith("crw--w----")
        screen.resize(40, 120)
        # The command passes the size on when it gets SIGWINCH.
        screen.type("until stty size | grep -q ^40; do sleep 0.02; done; stty size; echo e'n'd\n")
        assert "\r\n40 120\r\n" in screen.wait_for("\r\nend\r\n")
        screen.type("exit 5\n")
        assert screen.end() == 5


def test_the_callers_terminal_is_as_before_afterwards(box: Box) -> None:
    script = ["sh", "-c", '"$@"; echo status $?', "sh", *box.words("sh", tty=True, interactive=True)]
    with Screen(script) as screen:
        screen.wait_for("# ")
        assert termios.tcgetattr(screen.master) != screen.before
        screen.type("\x04")  # Ctrl-D
        screen.wait_for("status 0")
        assert termios.tcgetattr(screen.master) == screen.before


def test_ctrl_c_and_job_control(box: Box) -> None:
    with Screen(box.words("sh", tty=True, interactive=True)) as screen:
        screen.wait_for("# ")
        screen.type("""sh -c "echo r'e'ady; exec sleep 60"; echo status $?\n""")
        screen.wait_for("ready")
        screen.type("\x03")
        screen.wait_for("# ")
        screen.type("""sh -c "echo r'e'ady; exec sleep 61"\n""")
        screen.wait_for("ready")
        screen.type("\x1a")  # Ctrl-Z
        screen.wait_for("Stopped")
        screen.type("jobs; kill %1; fg; echo status $?\n")
        screen.wait_for("status 143")
        screen.type("exit 6\n")
        assert screen.end() == 6


def test_ctrl_c_ends_a_program_that_has_no_handler(box: Box) -> None:
    with Screen(box.words("sh", "-c", "echo ready; exec sleep 60", tty=True, interactive=True)) as screen:
        screen.wait_for("ready")
        screen.type("\x03")
        assert screen.end() == 128 + signal.SIGINT


def test_ctrl_c_reaches_a_program_without_a_terminal_once(box: Box) -> None:
    script = "trap 'echo got' INT; echo ready; n=0; while test $n -lt 30; do sleep 0.02; n=$((n+1)); done"
    with Screen(box.words("sh", "-c", script)) as screen:
        screen.wait_for("ready")
        screen.type("\x03")
        assert screen.end() == 0


def test_much_output_is_whole(box: Box) -> None:
    script = "dd if=/dev/zero bs=1k count=300 2>/dev/null | tr '\\0' x; echo e'n'd"
    with Screen(box.words("sh", "-c", script, tty=True)) as screen:
        assert screen.wait_for("end").count("x") == 300 * 1024


def test_output_without_a_terminal_of_the_callers(box: Box) -> None:
    assert box.run("sh", "-c", "tty; test -t 1 && echo yes", tty=True) == "/dev/pts/0\nyes\n"


def test_the_terminal_belongs_to_the_programs_user(box: Box, tmp_path: Path) -> None:
    assert box.run("sh", "-c", "stat -c %U $(tty); echo x >/dev/tty", tty=True, user="ann") == "ann\nx\n"

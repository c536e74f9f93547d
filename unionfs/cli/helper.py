"""What the programs share that mount(8) and umount(8) call: their command line, and their exit status.

mount(8) passes the status on as its own, so it is one of those that its page lists, and never another.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from unionfs import __version__
from unionfs.cli.parser import Parser
from unionfs.cli.text import printable
from unionfs.errors import OptionError, PyUnionFSError, explain

WRONG_USE = 1
SYSTEM_ERROR = 2
BUG = 4
INTERRUPTED = 8
FAILED = 32


class HelperParser(Parser):
    """With the options that mount(8) and umount(8) give all their helpers."""

    def __init__(
        self, program: str, description: str, usage: str, *, examples: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__(program, description, usage=[f"{program} {usage}"], examples=examples)
        self.prog = program
        self.add_argument(
            "-V", "--version", action="version", version=f"{program} {__version__}", help="print the version"
        )
        self.add_argument("-v", dest="verbose", action="store_true", help="say what was done")
        self.add_argument(
            "-n", dest="no_mtab", action="store_true", help="accepted: mounts are listed by the kernel alone"
        )
        self.add_argument(
            "-N",
            dest="namespace",
            metavar="NAMESPACE",
            help="refused: enter the mount namespace by nsenter(1) first",
        )
        self.add_argument("-t", dest="type", metavar="TYPE", help="accepted: the type is fuse.pyunionfs")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """What the words say. OptionError: they are wrong, or ask for what this program leaves to others."""
        given = self.parse_intermixed_args(words)
        if given.namespace is not None:
            raise OptionError(
                "another mount namespace (-N) must be entered first, because the layers, Python and this"
                " program are looked for in it too: `nsenter --mount=NAMESPACE mount ...`"
            )
        return given


def end(run: Callable[[str, list[str]], int]) -> NoReturn:
    """Run a helper under the name that it was called by, and end this process."""
    program = os.path.basename(sys.argv[0])
    status = status_of(run, program, sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the clearing up of memory, which takes long.
    os._exit(status)


def status_of(run: Callable[[str, list[str]], int], program: str, words: list[str]) -> int:
    """Run a helper; the exit status. What goes wrong is one line on standard error, bugs excepted."""
    try:
        return run(program, words)
    except SystemExit:  # by --help and --version
        return 0
    except PyUnionFSError as error:
        _complain(program, str(error))
        return WRONG_USE if isinstance(error, OptionError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _complain(program, explain(error))
        return SYSTEM_ERROR
    except Exception:
        traceback.print_exc()
        return BUG


def say(given: argparse.Namespace, text: str) -> None:
    """What -v asks to be told."""
    if given.verbose:
        print(printable(text))


def _complain(program: str, text: str) -> None:
    print(f"{program}: {printable(text)}", file=sys.stderr)

"""The common part of the helpers that mount(8) and umount(8) run: command line and exit status.

mount(8) exits with the status of its helper, so it is always one of those in its manual page.
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
from unionfs.cli.standard_streams import exit_with, open_missing
from unionfs.cli.text import printable
from unionfs.errors import OptionError, PyUnionFSError, explain

WRONG_USE = 1
SYSTEM_ERROR = 2
BUG = 4
INTERRUPTED = 8
FAILED = 32


class HelperParser(Parser):
    """A parser with the options that mount(8) and umount(8) pass to every helper."""

    def __init__(
        self, program: str, description: str, usage: str, *, examples: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__(program, description, usage=[f"{program} {usage}"], examples=examples)
        self.prog = program
        self.add_argument(
            "-V", "--version", action="version", version=f"{program} {__version__}", help="print the version"
        )
        self.add_argument("-v", dest="verbose", action="store_true", help="verbose: print what was done")
        self.add_argument(
            "-n",
            dest="no_mtab",
            action="store_true",
            help="accepted, without effect: /etc/mtab is not written",
        )
        self.add_argument(
            "-N",
            dest="namespace",
            metavar="NAMESPACE",
            help="not supported: use nsenter(1) to enter a mount namespace",
        )
        self.add_argument(
            "-t", dest="type", metavar="TYPE", help="accepted, without effect: the type is fuse.pyunionfs"
        )

    def parse(self, words: list[str]) -> argparse.Namespace:
        """The parsed command line. OptionError: it is wrong, or has an option that is not supported."""
        given = self.parse_intermixed_args(words)
        if given.namespace is not None:
            raise OptionError(
                "unsupported option -N: run all of the command in the mount namespace, where layers, Python"
                " and this program are found: `nsenter --mount=NAMESPACE mount ...`"
            )
        return given


def end(run: Callable[[str, list[str]], int]) -> NoReturn:
    """Run a helper under the name that it was run by, and exit."""
    open_missing()
    program = os.path.basename(sys.argv[0])
    exit_with(status_of(run, program, sys.argv[1:]))


def status_of(run: Callable[[str, list[str]], int], program: str, words: list[str]) -> int:
    """Run a helper and return the exit status. An error is one line on standard error; a bug its
    traceback."""
    try:
        return run(program, words)
    except SystemExit:  # by --help and --version
        return 0
    except PyUnionFSError as error:
        _print_error(program, str(error))
        return WRONG_USE if isinstance(error, OptionError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _print_error(program, explain(error))
        return SYSTEM_ERROR
    except Exception:
        traceback.print_exc()
        return BUG


def report(given: argparse.Namespace, text: str) -> None:
    """Print it if -v is given."""
    if given.verbose:
        print(printable(text))


def _print_error(program: str, text: str) -> None:
    print(f"{program}: {printable(text)}", file=sys.stderr)

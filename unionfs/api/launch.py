"""Starts the daemon of a union in a process of its own: the request to it, and its answer.

The program may have threads, locks, open files and signal handlers of any kind, so nothing here forks it: a
new interpreter is started, which gets the request by a pipe (many lowers exceed the limit of an argument
list) and answers by another. The program's current directory, environment variables for Python and site hooks
such as coverage's do not affect what that interpreter imports. `child.py` is the other end.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unionfs.daemon.tempdir import TempDir
from unionfs.errors import MountError, OptionError

logger = logging.getLogger("unionfs")

_OPTION_ERROR = 2

# The package is imported from the directory of this one, whatever else is installed.
_BOOT = """
import json, sys
from importlib import util
request = json.loads(sys.stdin.buffer.read())
sys.path += [entry for entry in request["path"] if entry not in sys.path]
package = request["package"]
spec = util.spec_from_file_location("unionfs", package + "/__init__.py", submodule_search_locations=[package])
module = sys.modules["unionfs"] = util.module_from_spec(spec)
spec.loader.exec_module(module)
from unionfs.api import child
child.main(request)
"""


def launch(
    mountpoint: str, words: Sequence[str], temp_dirs: Sequence[TempDir], *, new_upper: bool, keep: bool
) -> None:
    """Mount with these words of `-o`, and return when the mount is ready.

    With `new_upper` upper's root gets the attributes of the topmost lower's. Without `keep` the daemon ends
    when this process has ended, and removes `temp_dirs` then. OptionError, MountError: it failed, with the
    daemon's message.
    """
    pidfd = -1 if keep else _this_process()
    try:
        request = {
            "path": [entry for entry in sys.path if os.path.isabs(entry)],
            "package": str(Path(__file__).parents[1]),
            "mountpoint": mountpoint,
            "options": list(words),
            "new_upper": new_upper,
            "pidfd": pidfd,
            "temp_dirs": [temp_dir.path for temp_dir in temp_dirs],
        }
        _read_answer(mountpoint, *_run(json.dumps(request).encode(), pidfd))
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _this_process() -> int:
    try:
        return os.pidfd_open(os.getpid())
    except OSError as error:
        raise MountError(
            f"cannot watch this process from the daemon: pidfd_open(2): {error.strerror}; use Linux 5.4 or"
            " later, and a sandbox that permits this call"
        ) from error


def _interpreter() -> list[str]:
    if not sys.executable or getattr(sys, "frozen", False):
        raise MountError(
            "cannot start the daemon: this program has no Python interpreter (it is frozen or embeds"
            " Python); run the command `pyunionfs mount` instead"
        )
    # Paths are bytes: both sides must decode them alike.
    flags = ["-X", "utf8"] if sys.flags.utf8_mode else []
    flags += ["-B"] if sys.dont_write_bytecode else []
    return [sys.executable, "-I", "-S", *flags, "-c", _BOOT]


def _run(request: bytes, pidfd: int) -> tuple[bytes, bytes]:
    """The answer of the new process, and its standard error."""
    try:
        process = subprocess.Popen(
            _interpreter(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if pidfd < 0 else (pidfd,),
            # All paths are absolute, and the current directory may be gone.
            cwd="/",
            # Ctrl-C at the terminal is for the program, which then unmounts.
            start_new_session=True,
        )
    except OSError as error:
        raise MountError(f"cannot start the daemon with {sys.executable}: {error.strerror}") from error
    with process:
        try:
            # The daemon closes both pipes when the mount is ready.
            return process.communicate(request)
        except BaseException:
            # Ctrl-C, for example. The daemon notices the closed pipe and unmounts, unless it was ready
            # before; at the end of file of its pipe either has happened.
            process.kill()
            assert process.stdout is not None
            process.stdout.read()
            raise


def _read_answer(mountpoint: str, answer: bytes, said: bytes) -> None:
    try:
        status, message = json.loads(answer)
    except ValueError:
        lines = os.fsdecode(said).strip().splitlines()
        raise MountError(
            f"cannot mount {mountpoint}: the daemon terminated before the mount was ready"
            + (f": {lines[-1]}" if lines else ", without a message; its log may have the reason")
        ) from None
    if status:
        raise (OptionError if status == _OPTION_ERROR else MountError)(message)
    if said:
        logger.warning("%s", os.fsdecode(said).strip())

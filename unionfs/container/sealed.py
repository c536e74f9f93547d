"""Starts the launcher as a Python whose program file is mounted read-only.

What execs in a container can be reached there as /proc/PID/exe, and an image's `#!/proc/self/exe` is this
very file. As root of the host a container could write to it, the interpreter of all Python programs, as soon
as it is not running (CVE-2019-5736, of runc). Through a read-only mount it cannot.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from unionfs.linux import mount_calls

_BOOT = """
import sys
# Not the package's own __init__, which is for programs: it would load what nothing here needs.
package = sys.modules["unionfs"] = type(sys)("unionfs")
package.__path__ = [sys.argv[1]]
from unionfs.container import launch
launch.main(int(sys.argv[2]), int(sys.argv[3]))
"""


def exec_launcher(orders: int, report: int, ignored: Iterable[signal.Signals]) -> NoReturn:
    """Become the launcher (`launch.main`), which ignores these signals, in a mount namespace of one's own.

    OSError: it could not be made.
    """
    program = os.path.realpath(sys.executable)
    tree = mount_calls.clone(program)
    mount_calls.set_attributes(tree, mount_calls.MOUNT_ATTR_RDONLY)
    for fd in (orders, report):
        os.set_inheritable(fd, True)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # -S: nothing of what is installed can slow it down or get into it.
    flags = ["-I", "-S", "-X", "utf8", *(["-B"] if sys.dont_write_bytecode else [])]
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # No variable but what an interpreter may need to find its own library.
    kept = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    os.execve(tree, [program, *flags, "-c", _BOOT, package, str(orders), str(report)], kept)

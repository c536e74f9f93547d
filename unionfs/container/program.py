"""The last steps of a process on its way to exec: user, directory, descriptors, signals, the program.

Called in the container, as its root with the default capabilities.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios

from unionfs.container import users
from unionfs.linux import namespaces, signals

TYPE_CHECKING = False  # that of typing, which takes long to load
if TYPE_CHECKING:
    from typing import NoReturn

    from unionfs.container.orders import Process


class StepError(Exception):
    """A process was not started; the message says which step failed."""

    def __init__(self, message: str, status: int = 125) -> None:
        super().__init__(message)
        self.status = status


class Step:
    """Name the step in which an OSError comes, for the length of a block."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            place = f" {os.fsdecode(error.filename)}:" if error.filename is not None else ""
            raise StepError(f"cannot {self._what}:{place} {error.strerror}") from error


def execute(process: Process, terminal: int) -> NoReturn:
    """Become the program. Raises StepError with Docker's exit statuses: 126, 127, 125 before that.

    *terminal* becomes standard input, output and error and the controlling terminal; below 0: there is none.
    """
    if os.getsid(0) != os.getpid():
        with Step("begin a session"):
            os.setsid()
    user = _find_user(process["user"])
    _set_up_descriptors(process, terminal, user.uid)
    environment = dict(process["env"])
    environment.setdefault("HOME", user.home)
    with Step("make the working directory"):
        os.makedirs(process["cwd"], 0o755, exist_ok=True)
    _become(user)
    with Step("enter the working directory"):
        os.chdir(process["cwd"])
    signals.reset_all()
    _exec(process["args"], environment)


def _find_user(words: str) -> users.User:
    try:
        return users.find(words)
    except users.UnknownUserError as error:
        raise StepError(str(error)) from error


def _set_up_descriptors(process: Process, terminal: int, uid: int) -> None:
    """Standard input, output and error, and no other descriptor after exec.

    None of them is a directory, by which the host could be reached: Python does not start with one.
    """
    with Step("set up standard input and output"):
        if terminal >= 0:
            _give(terminal, uid)
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(terminal, fd)
        elif not process["interactive"]:
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
        for fd in range(3):
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                # The program's user must be able to open /dev/stdout.
                _give(fd, uid)
        namespaces.close_on_exec_from(3)


def _give(fd: int, uid: int) -> None:
    try:
        os.fchown(fd, uid, -1)
    except OSError as error:
        if error.errno != errno.EINVAL:  # an id that does not exist here, of which `_become` tells more
            raise


def _become(user: users.User) -> None:
    with Step(f"become user {user.uid}, group {user.gid}"):
        if _may_set_groups():
            os.setgroups(user.groups)
        try:
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        except OSError as error:
            if error.errno == errno.EINVAL:
                error.strerror = (
                    "this id does not exist in the user namespace: see /etc/subuid and /etc/subgid"
                )
            raise
        # The change of ids has undone it.
        namespaces.die_with_parent(signals.SIGKILL)


def _may_set_groups() -> bool:
    """Not in a user namespace with a single group, where the kernel lets no process drop any."""
    with open("/proc/self/setgroups", encoding="utf-8") as file:
        return file.read().strip() != "deny"


def _exec(args: list[str], environment: dict[str, str]) -> NoReturn:
    """Exec, found by PATH as execvp(3) does, with the exit statuses of Docker and POSIX shells."""
    name = args[0]
    if "/" in name:
        candidates = [name]
    else:
        candidates = [os.path.join(entry or ".", name) for entry in environment.get("PATH", "").split(":")]
    denied: OSError | None = None
    for candidate in candidates:
        try:
            if os.path.isdir(candidate):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            os.execve(candidate, args, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                denied = denied or error
            elif os.path.exists(candidate):
                raise StepError(f"cannot execute {name}: its interpreter does not exist", 127) from error
    if denied is not None:
        raise StepError(f"cannot execute {name}: {denied.strerror}", 126)
    where = "no such file" if "/" in name else "executable file not found in $PATH"
    raise StepError(f"cannot execute {name}: {where}", 127)

"""Where the mounts of a case are made and its operations performed: by root here, or by an ordinary user.

An ordinary user has two places. At home, a mount namespace in which /dev/fuse and this checkout are open to
him, he mounts pyunionfs through fusermount3. In a user namespace of his own he mounts kernel overlayfs. What
acts in either has none of the capabilities that mounting takes: permissions are checked as for any user.

All ids are the same inside and outside of the user namespace, so that an id means the same on both sides.
That gives the mounter of overlayfs power over what belongs to others, but all that is in a layer is the
user's.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec, TypeVar

from testing import mounts
from testing.reach import MS_BIND, make_reachable, open_fuse_to_all, program_paths

P = ParamSpec("P")
T = TypeVar("T")

UID = 1000
GROUPS = (1000, 2000)
"""The first of them is the effective one."""

_CAP_DAC_OVERRIDE = 1
_CAP_SYS_CHROOT = 18
_CLONE_NEWNS = 0x20000
_CLONE_NEWUSER = 0x10000000
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_CAPABILITIES_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Place:
    """Here, as root."""

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something there, with the right to mount."""
        return function(*args, **kwargs)

    def enter(self) -> None:
        """Have this process act there from now on. It must have been forked for that."""

    def enter_to_act(self) -> None:
        """The same, and `rooted` works there."""

    @contextmanager
    def rooted(self) -> Iterator[None]:
        """Within this context chroot(2) is allowed, to where no mode but a parent's may forbid it."""
        yield


class Own(Place):
    """A place of the user's, held by a process that lives as long as this is open."""

    def __init__(self, prepare: Callable[[], None], *, user_namespace: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self._connection, prepare)
        self._holder = context.Process(target=_hold, args=arguments, daemon=True)
        self._holder.start()
        theirs.close()
        self._user_namespace = user_namespace
        try:
            self._receive()
            if user_namespace:
                for kind in ("uid_map", "gid_map"):
                    Path(f"/proc/{self._holder.pid}/{kind}").write_text("0 0 4294967295")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the place; its mounts go with it."""
        self._connection.close()
        self._holder.join()
        self._holder.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._connection.send((function, args, kwargs))
        answer: T = self._receive()
        return answer

    def _receive(self) -> T:  # type: ignore[type-var]  # what the function returns that was sent
        answer, error = self._connection.recv()
        if error is not None:
            raise error
        return answer  # type: ignore[no-any-return]

    def enter(self) -> None:
        self._become_user(())

    def enter_to_act(self) -> None:
        self._become_user((_CAP_SYS_CHROOT, _CAP_DAC_OVERRIDE))

    def join(self) -> None:
        """Move this process, of one thread, into the namespaces; with all capabilities there."""
        kinds = {"user": _CLONE_NEWUSER} if self._user_namespace else {}
        kinds["mnt"] = _CLONE_NEWNS
        descriptors = {kind: os.open(f"/proc/{self._holder.pid}/ns/{kind}", os.O_RDONLY) for kind in kinds}
        for kind, fd in descriptors.items():
            _check(_libc.setns(fd, kinds[kind]), "setns")
            os.close(fd)

    def _become_user(self, kept: Sequence[int]) -> None:
        self.join()
        become_user()
        _set_capabilities((), kept)

    @contextmanager
    def rooted(self) -> Iterator[None]:
        kept = (_CAP_SYS_CHROOT, _CAP_DAC_OVERRIDE)
        _set_capabilities(kept, kept)
        try:
            yield
        finally:
            _set_capabilities((), kept)


@dataclass(frozen=True)
class Places:
    """The places of a case, by what is mounted there."""

    kernel: Place
    fuse: Place


_HERE = Place()
HERE = Places(_HERE, _HERE)


@contextmanager
def own_places(needed: Sequence[Path]) -> Iterator[Places]:
    """The places of the user, which can reach these directories there, too."""
    for path in needed:
        path.chmod(0o755)
    with ExitStack() as stack:
        home = Own(lambda: _make_home(needed), user_namespace=False)
        stack.callback(home.close)
        namespace = Own(lambda: _leave_home(home), user_namespace=True)
        stack.callback(namespace.close)
        yield Places(namespace, home)


def become_user() -> None:
    """Be the user from now on. Capabilities stay permitted until others are set."""
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups(GROUPS)
    os.setresgid(*GROUPS[:1] * 3)
    os.setresuid(UID, UID, UID)
    # Else its own /proc/self/fd is closed to it.
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def _make_home(needed: Sequence[Path]) -> None:
    """What an ordinary user's machine has, and this one may lack."""
    mounts.private_mounts()
    # For the daemon's socket: /run/user/UID.
    mounts.mount("tmpfs", Path("/run"), "tmpfs", 0, "mode=755,size=16m")
    runtime = Path(f"/run/user/{UID}")
    runtime.mkdir(parents=True)
    os.chown(runtime, UID, GROUPS[0])
    open_fuse_to_all()
    make_reachable(sorted({*program_paths(), *needed}))
    try:
        pwd.getpwuid(UID)
    except KeyError:  # fusermount3 wants a name
        users = Path("/run/passwd")
        line = f"user:x:{UID}:{GROUPS[0]}::/:/bin/sh\n"
        users.write_bytes(Path("/etc/passwd").read_bytes() + line.encode())
        mounts.mount(str(users), Path("/etc/passwd"), "", MS_BIND)


def _leave_home(home: Own) -> None:
    home.join()
    become_user()
    _set_capabilities((), ())
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")


def _hold(connection: Connection, other_end: Connection, prepare: Callable[[], None]) -> None:
    other_end.close()
    try:
        prepare()
        connection.send((None, None))
    except Exception as error:
        connection.send((None, error))
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            connection.send((function(*args, **kwargs), None))
        except Exception as error:
            connection.send((None, error))


def _set_capabilities(effective: Sequence[int], permitted: Sequence[int]) -> None:
    masks = [sum(1 << number for number in numbers) for numbers in (effective, permitted)]
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    data = (ctypes.c_uint32 * 6)(*masks, 0, 0, 0, 0)
    _check(_libc.capset(header, data), "capset")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

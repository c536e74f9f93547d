"""Ordinary users, made for a test and removed after it, with or without ids of their own to hand out."""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.mounts import environment, scratch

_FIRST_ID = 700_000_000
"""Above what useradd hands out by itself."""
_IDS = 65536

Result = TypeVar("Result")
_libc = ctypes.CDLL(None, use_errno=True)
_SETRESUID, _SETRESGID, _SETGROUPS = (117, 119, 116) if os.uname().machine == "x86_64" else (147, 149, 159)
"""System call numbers, those of x86-64 and of what is newer: libc's functions change all threads."""


@contextmanager
def ordinary_user(*, subordinate_ids: bool = False) -> Iterator[pwd.struct_passwd]:
    """A user with a group of its own; with 65536 ids for its user namespaces if asked for, else with none."""
    name = f"pyunionfs{os.getpid()}"
    none = ["--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0"]
    words = ["useradd", *none, "--no-create-home", "--user-group", "--shell", "/bin/sh", name]
    subprocess.run(words, check=True)
    try:
        if subordinate_ids:
            change_ids(pwd.getpwnam(name), "add")
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=True)


def change_ids(user: pwd.struct_passwd, how: str) -> None:
    """Give a user further ids, or take them away: *how* is `add` or `del`."""
    ids = f"{_FIRST_ID}-{_FIRST_ID + _IDS - 1}"
    subprocess.run(["usermod", f"--{how}-subuids", ids, f"--{how}-subgids", ids, user.pw_name], check=True)


@contextmanager
def open_home(owner: int = 0) -> Iterator[Path]:
    """A directory that everybody can reach and whose filesystem has user.* attributes; skips without one."""
    with scratch() as where:
        os.chmod(where, 0o755)
        if not all(above.stat().st_mode & 0o001 for above in where.parents):
            pytest.skip(f"{where} cannot be reached by an ordinary user (set TMPDIR)")
        home = where / "home"
        home.mkdir()
        try:
            os.setxattr(home, "user.probe", b"")
            os.removexattr(home, "user.probe")
        except OSError as error:
            pytest.skip(f"{where} has no user.* attributes: {error}")
        os.chown(home, owner, owner)
        yield home


def become(uid: int, groups: Sequence[int] = ()) -> None:
    """Turn this process, a child that a test has forked, into an ordinary user and its group."""
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def in_thread_of(uid: int, groups: Sequence[int], action: Callable[[], Result]) -> Result:
    """Do something as an ordinary user and its group, or as root, in a thread of its own.

    Credentials are a thread's to the kernel; it is libc that gives all threads the same. That is much cheaper
    than a fork of the test runner, but descriptors, locks and the working directory are the process's.
    """

    def act() -> Result:
        if uid:
            _system_call(_SETGROUPS, len(groups), (ctypes.c_uint32 * len(groups))(*groups))
            _system_call(_SETRESGID, uid, uid, uid)
            _system_call(_SETRESUID, uid, uid, uid)
        return action()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


def _system_call(number: int, *arguments: object) -> None:
    if _libc.syscall(number, *arguments) != 0:
        raise OSError(ctypes.get_errno(), "changing the thread's credentials")


UNSHARE_USER = ["unshare", "--user", "--map-root-user", "--mount"]


@cache
def user_namespaces() -> bool:
    """Whether the kernel lets this process make one."""
    return subprocess.run([*UNSHARE_USER, "true"], capture_output=True, check=False).returncode == 0


def run_to_the_end(command: list[str]) -> str:
    """Run a program of the test suite, as some user; what it has printed. It must end well."""
    done = subprocess.run(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def as_user(user: pwd.struct_passwd, *module: str | Path) -> list[str]:
    """The command that runs a module of the test suite as `user`."""
    return [*unshared(), "tests.programs.as_user", str(user.pw_uid), str(user.pw_gid), *map(str, module)]


def unshared() -> list[str]:
    """The beginning of a command that runs a module in a mount and a process namespace of its own.

    In the latter, so that a daemon that fails to end does not outlive the test and its user.
    """
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*unshare, sys.executable, "-m"]

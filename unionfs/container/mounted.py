"""A container's union, mounted in namespaces of the process that asks for it; and calls in its root.

For forked processes: entering namespaces is for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from unionfs.container.spec import UnionSpec
from unionfs.control import unmount
from unionfs.daemon import lifecycle
from unionfs.daemon.owner_process import OwnerProcess
from unionfs.errors import PyUnionFSError, explain
from unionfs.linux import mount_calls, namespaces, user_namespace
from unionfs.options import mount_options
from unionfs.options.lists import escape


@contextmanager
def own_mount(union: UnionSpec) -> Iterator[None]:
    """Enter new namespaces, and have the union mounted there until the block ends.

    Without an upper it is read-only. An ordinary user is root in them. The union also ends with the process
    that has forked this one. Raises MountError.
    """
    owner = OwnerProcess(os.pidfd_open(os.getppid()), ())
    if os.geteuid() != 0:
        user_namespace.enter(user_namespace.id_maps())
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount_calls.mount("none", "/", "none", mount_calls.MS_REC | mount_calls.MS_PRIVATE, "")
    words = [*union.options]
    if union.upper:
        words += [f"upperdir={escape(union.upper)}", f"workdir={escape(union.work)}"]
    layers = mount_options.ImageLayers(union.name, union.lowers, union.override_stat, union.held)
    lifecycle.mount(mount_options.parse([union.merged], words, image=layers), owner)
    try:
        yield
    finally:
        unmount.umount(union.merged)


def call_in(root: str, work: Callable[[], None]) -> None:
    """Call *work* with a directory as root: of code that follows only what may lead nowhere else."""
    os.chroot(root)
    os.chdir("/")
    work()


def end_with(action: Callable[[], None], report: int) -> NoReturn:
    """In a forked process: call *action*, write to *report* what it raises, and end."""
    status = 1
    try:
        action()
        status = 0
    except PyUnionFSError as error:
        os.write(report, os.fsencode(str(error)))
    except BrokenPipeError:
        pass  # the other side has failed, and knows why
    except OSError as error:
        os.write(report, os.fsencode(explain(error)))
    finally:
        os._exit(status)

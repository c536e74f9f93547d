"""The launcher: the process that starts a container's first process, or a further one, and waits for its end.

It is a Python of its own (`sealed.py` says why), started by `runner.py` with `python -I -S`. It loads as
little as it can, and all of that before anything else. It is outside the container's pid namespace; what is
forked here goes into the container and execs the program.

    runner.py  ── order ──────────>  launcher  ── fork ──>  process 1 (init.py)  ── fork ──>  the program
               ── signal numbers ─>            <── exit status ──

The pipe of orders stays open: its end of file means that runner.py is gone, and then the container is killed.
The other one reports, before exec, `pid NUMBER` and `failed STATUS MESSAGE`, one a line; exec closes it.
"""

from __future__ import annotations

import errno
import os
import sys

from unionfs.container import capabilities, devices, pipes, supervise, terminal
from unionfs.container.init import become_init
from unionfs.container.program import Step, StepError, execute
from unionfs.container.rootfs import Rootfs
from unionfs.linux import mount_calls, namespaces, signals

TYPE_CHECKING = False  # that of typing, which takes long to load
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from unionfs.container.orders import Join, Start

FAILED = 125
"""Docker's exit status for what failed before the program was reached."""


def main(orders: int, report: int) -> NoReturn:
    """Carry out the one order of this process: never returns, ends with the exit status of the program."""
    status = FAILED
    _stop_imports()
    os.umask(0o022)
    try:
        # In the container's process list it would tell where things lie on the host.
        namespaces.set_command_line("pyunionfs-init")
        namespaces.hide_from_others()
        order: Start | Join | None = pipes.receive(orders)
        if order is None:  # the command has failed, and said so
            os._exit(FAILED)
        status = _Launcher(orders, report).run(order)
    except StepError as error:
        _report(report, f"failed {error.status} {error}")
        status = error.status
    except OSError as error:
        _report(report, f"failed {FAILED} {error.strerror}: {error.filename or 'starting the container'}")
    except Exception as error:
        _report_bug(report, error)
    finally:
        os._exit(status)


def _stop_imports() -> None:
    """Have every further import fail: in the container's root it would take a file of the container."""
    for places in (sys.meta_path, sys.path_hooks, sys.path):
        places.clear()


def _report_bug(report: int, error: Exception) -> None:
    _report(report, f"failed {FAILED} unhandled {type(error).__name__}: {error}; please report this bug")


def _report(fd: int, line: str) -> None:
    os.write(fd, os.fsencode(line.replace("\n", " ")) + b"\n")


class _Launcher:
    def __init__(self, orders: int, report: int) -> None:
        self.orders = orders
        self.report = report
        self.master = -1

    def run(self, order: Start | Join) -> int:
        """Start it, wait, and return the exit status."""
        if "first" in order:
            path = self._open_terminal_of(order["pid"]) if order["process"]["tty"] else None
            pid = self._join(order, path)
            go = None
        else:
            pid, go = self._start(order)
        # The root is mounted when this comes.
        if not os.read(self.orders, 1):
            os._exit(FAILED)
        if go is not None:
            os.write(go, b".")
            os.close(go)
        os.close(self.report)
        return supervise.wait(pid, self.orders, self.master, interactive=order["process"]["interactive"])

    def _start(self, order: Start) -> tuple[int, int]:
        """Fork the first process: its pid, and the pipe on which it waits for a byte before it goes on."""
        with Step("make the namespaces of the container"):
            namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC)
        with Step("make the terminals of the container"):
            terminals = devices.new_terminals(devices.tty_group_is_mapped())
            if order["process"]["tty"]:
                self.master = terminal.open_master(terminals)
        wait, go = os.pipe()
        pid = self._fork(lambda: self._first_process(order, terminals, wait))
        os.close(terminals)
        os.close(wait)
        _report(self.report, f"pid {pid}")
        return pid, go

    def _fork(self, child: Callable[[], None]) -> int:
        """Fork a process that ends with this one, and never returns from *child*."""
        pid = os.fork()
        if pid:
            return pid
        status = FAILED
        try:
            namespaces.die_with_parent(signals.SIGKILL)
            os.close(self.orders)
            child()
        except StepError as error:
            _report(self.report, f"failed {error.status} {error}")
            status = error.status
        except Exception as error:
            _report_bug(self.report, error)
        finally:
            os._exit(status)

    def _first_process(self, order: Start, terminals: int, wait: int) -> None:
        with Step("set the hostname"):
            namespaces.sethostname(order["hostname"])
        with Step("take up what is mounted in the container"):
            rootfs = Rootfs(order["root"], order["volumes"], order["files"])
        if not os.read(wait, 1):
            os._exit(FAILED)
        with Step("make the mount namespace"):
            namespaces.unshare(namespaces.CLONE_NEWNS)
            if order["bind_root"]:
                devices.attach_at(mount_calls.clone(order["root"], recursive=True), order["root"])
        console = None if self.master < 0 else terminal.path_of(self.master)
        with Step("make the root of the container"):
            rootfs.enter(terminals, console, read_only=order["read_only"])
        self._confine()
        slave = -1 if console is None else self._open_slave(console)
        if order["init"]:
            become_init()
        execute(order["process"], slave)

    def _join(self, order: Join, path: str | None) -> int:
        with Step("enter the container's pid namespace"):
            namespaces.setns(order["first"], namespaces.CLONE_NEWPID)

        def child() -> None:
            with Step("enter the container's namespaces"):
                every = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC
                namespaces.setns(order["first"], every)
            self._confine()
            slave = -1 if path is None else self._open_slave(path)
            execute(order["process"], slave)

        pid = self._fork(child)
        os.close(order["first"])
        _report(self.report, f"pid {pid}")
        return pid

    def _open_terminal_of(self, pid: int) -> str:
        """Make a terminal in the devpts of a running container: the path of it there."""
        with Step("make a terminal in the container"):
            root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            # No symlink: the container may have put one in the place of its directories.
            pts = mount_calls.open_in_root(root, "dev/pts", os.O_PATH | os.O_DIRECTORY)
            self.master = terminal.open_master(pts)
            os.close(pts)
            os.close(root)
            return terminal.path_of(self.master)

    def _confine(self) -> None:
        """Lose what the container may not have; what comes after this is as its root."""
        with Step("leave the session and its keyring"):
            os.setsid()
            try:
                namespaces.join_new_session_keyring()
            except OSError as error:
                if error.errno != errno.ENOSYS:  # a kernel without keyrings
                    raise
        with Step("drop capabilities"):
            capabilities.keep_default()
            namespaces.set_no_new_privs()

    def _open_slave(self, path: str) -> int:
        with Step("open the terminal"):
            return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

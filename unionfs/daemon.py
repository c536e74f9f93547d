"""The life of a mount: check, lock, go to the background, mount, serve, unmount, write out, let go.

One process serves one mount. Its state thread must never touch a path that the mount may cover once it is
mounted:
it would wait for itself. What must (looking at the mountpoint, unmounting) runs in a worker thread.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NoReturn

from unionfs import log
from unionfs.control import ControlSocket, Status, log_beside, make_directory
from unionfs.errors import MountError, PyUnionFSError
from unionfs.linux import process
from unionfs.linux.mount import MountPoint, mount_at, mount_table
from unionfs.options import MountOptions, join_lowers
from unionfs.overlay import check
from unionfs.transport.mount import check_mountpoint, open_fuse, unmount
from unionfs.transport.session import Session, SessionOptions

if TYPE_CHECKING:
    import trio

    from unionfs.overlay.super import Union

GRACE = 10.0
"""How long files that are open at SIGTERM may be used on, in seconds."""

_FIRST_ANSWER = 30.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_READY = b"+"
_FAILED = b"-"

logger = logging.getLogger(__name__)


def mount(options: MountOptions) -> int:
    """Mount, and return when the mount serves (or, in the foreground, when it has ended) with an exit status.

    MountError: it was refused, nothing is mounted and the directories are as they were.
    """
    check_mountpoint(options.mountpoint)
    check.check(options.config, options.mountpoint)
    lock = check.lock(options.config)
    try:
        if options.foreground:
            return _Life(options, lock, None).run()
        _mount_in_background(options, lock)
        return 0
    finally:
        lock.close()


def _mount_in_background(options: MountOptions, lock: check.Lock) -> None:
    """Fork the daemon, which holds the lock from now on, and wait until it serves."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _daemon(options, lock, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            answer = pipe.read()
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if answer == _READY:
        return
    _, status = os.waitpid(pid, 0)
    if answer.startswith(_FAILED):
        raise MountError(os.fsdecode(answer[1:]))
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    raise MountError(
        f"cannot mount {options.mountpoint}: the daemon {how} before it served; try again with -f"
    )


def _daemon(options: MountOptions, lock: check.Lock, writer: int) -> NoReturn:
    """What the forked child is. Never returns."""
    status = 1
    try:
        os.setsid()
        # A lock, a pipe or a directory that the caller has open is not ours to hold for the mount's life.
        process.drop_descriptors({0, 1, 2, writer, *lock.descriptors()})
        life = _Life(options, lock, writer)
        try:
            status = life.run()
        except PyUnionFSError as error:
            # Once it has been ready nobody listens, and the number may be another file's.
            if life.ready is not None:
                os.write(life.ready, _FAILED + os.fsencode(str(error)))
    finally:
        os._exit(status)


class _Life:
    """One mount, from its first descriptor to its last. `ready` is the pipe to who waits; in front, None."""

    def __init__(self, options: MountOptions, lock: check.Lock, ready: int | None) -> None:
        self.options = options
        self.lock = lock
        self.ready = ready
        self.device: tuple[int, int] | None = None
        self.started = time.time()
        self.log_place = ""
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.failure: MountError | None = None
        self.stopping = False
        self.union: Union
        self.session: Session

    def run(self) -> int:
        """Mount, serve until the end, and return the exit status."""
        options = self.options
        # A signal that comes before there is somebody to receive it waits: else it left a dead mount.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        os.chdir("/")
        os.umask(0)
        process.raise_open_file_limit()
        process.set_process_name("pyunionfs")
        directory = make_directory()
        # Random, because another container may share the directory and count its processes from 1 too.
        stem = f"{os.getpid()}-{os.urandom(4).hex()}"
        fallback = log_beside(directory, stem) if directory and self.ready is not None else None
        self.log_place = log.set_up(
            foreground=options.foreground,
            debug=options.debug,
            log_file=options.log_file,
            fallback=fallback,
        )
        control = _open_control(directory, stem)
        try:
            return self._mount_and_serve(control)
        except PyUnionFSError:
            raise
        except BaseException as error:
            logger.exception("a bug has ended this mount")
            raise MountError(
                f"cannot mount {options.mountpoint}: a bug in pyunionfs, {type(error).__name__}: {error};"
                f" its traceback went to {self.log_place}"
            ) from error
        finally:
            log.clear_away(fallback)
            # The socket goes last: who cannot see this process waits for that.
            self.lock.close()
            if control is not None:
                control.close()

    def _mount_and_serve(self, control: ControlSocket | None) -> int:
        try:
            self._open()
        except BaseException:
            self.lock.undo()
            raise
        if control is not None and self.device is not None:
            control.name_mount(self.device)
        clean = False
        try:
            try:
                clean = self._serve(control)
            finally:
                self.session.close()
        finally:
            clean = self._let_go() and clean
        if self.failure is not None:
            raise self.failure
        return 0 if clean else 1

    def _open(self) -> None:
        """Open the layers, then mount: the other way round the mount could hide a layer."""
        # Loaded here, because they are slow, and before the mount, because it may cover them.
        from unionfs.overlay.super import Union
        from unionfs.transport.pyfuse3 import Session as Pyfuse3Session

        options = self.options
        try:
            self.union = Union.open(options.config)
        except OSError as error:
            raise MountError(
                f"cannot mount {options.mountpoint}: opening the layers failed: {error}"
            ) from error
        try:
            fuse_fd = open_fuse(options.mountpoint, options.fuse)
            entry = mount_at(options.mountpoint)
            self.device = entry.device if entry is not None else None
            try:
                self.session = Pyfuse3Session(
                    self.union, fuse_fd, SessionOptions(max_read=options.fuse.max_read, debug=options.debug)
                )
            except BaseException:
                unmount(options.mountpoint, lazy=True)
                raise
        except BaseException:
            self.union.close()
            raise

    def _serve(self, control: ControlSocket | None) -> bool:
        """Answer requests until the mount is gone; False after a bug."""
        import trio

        try:
            trio.run(self._main, control)
        except BaseException:
            logger.exception(
                "a bug has ended the serving of %s, which is unmounted now", self.options.mountpoint
            )
            return False
        finally:
            # Whatever has ended it: a mount that nobody serves must not stay in anybody's way.
            self._detach()
        return True

    async def _main(self, control: ControlSocket | None) -> None:
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals, nursery)
            if control is not None:
                nursery.start_soon(self._answer_questions, control)
            nursery.start_soon(self._announce, nursery)
            await self.session.serve()
            logger.info("%s is unmounted", self.options.mountpoint)
            nursery.cancel_scope.cancel()

    async def _answer_questions(self, control: ControlSocket) -> None:
        """Serve the control socket; whatever goes wrong there, the mount goes on without."""
        try:
            await control.serve(self.status)
        except Exception:
            logger.exception("`status` no longer shows %s", self.options.mountpoint)

    async def _announce(self, nursery: trio.Nursery) -> None:
        """Tell whoever waits that the mount serves, once a stat of it has been answered by us."""
        import trio

        mountpoint = self.options.mountpoint
        served = False
        reason = f"a stat of it was not answered within {_FIRST_ANSWER:g} seconds"
        with trio.move_on_after(_FIRST_ANSWER):
            try:
                st = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
                served = (os.major(st.st_dev), os.minor(st.st_dev)) == self.device
                reason = "something else was mounted there meanwhile"
            except OSError as error:
                reason = f"a stat of it fails: {error.strerror}"
        if not served:
            self.failure = MountError(f"cannot mount {mountpoint}: {reason}")
            await trio.to_thread.run_sync(self._detach, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
            return
        logger.info("%s is mounted: %s", mountpoint, self._layers())
        if self.ready is not None and not self._leave_terminal(self.ready):
            await self._stop(nursery)

    def _leave_terminal(self, ready: int) -> bool:
        """Cut off from the command line that started us; False when it has gone without waiting for us."""
        for fd in range(3):
            os.dup2(self.null, fd)
        try:
            os.write(ready, _READY)
        except BrokenPipeError:
            logger.warning("whoever asked for the mount was killed before it was ready")
            return False
        finally:
            os.close(ready)
            self.ready = None
        return True

    async def _signals(self, nursery: trio.Nursery) -> None:
        import trio

        with trio.open_signal_receiver(*_SIGNALS) as received:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            try:
                await self._receive(received, nursery)
            finally:
                # What follows writes data out, which a repeated signal must not cut off.
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    async def _receive(self, received: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in received:
            name = signal.Signals(number).name
            if number == signal.SIGHUP and not self.options.foreground:
                continue
            if self.stopping:
                logger.warning("%s again: ending at once", name)
                nursery.cancel_scope.cancel()
                return
            logger.info("%s: unmounting %s", name, self.options.mountpoint)
            nursery.start_soon(self._stop, nursery)

    async def _stop(self, nursery: trio.Nursery) -> None:
        """Free the mountpoint now, and go on serving what is still open, for a while."""
        import trio

        self.stopping = True
        await trio.to_thread.run_sync(self._detach, abandon_on_cancel=True)
        # When nobody is inside any more the kernel ends the session and `serve` returns. Whoever only has
        # its working directory here keeps the session alive without an open file, and is not waited for.
        idle = 0
        with trio.move_on_after(GRACE) as grace:
            while idle < 5:
                await trio.sleep(0.05)
                # An open that waits for its copy-up is no handle yet.
                busy = self.session.open_handles() or self.session.under_way()
                idle = 0 if busy else idle + 1
        if grace.cancelled_caught:
            logger.warning("%d files are still open after %g seconds", self.session.open_handles(), GRACE)
        nursery.cancel_scope.cancel()

    def _detach(self) -> None:
        """Take the mount out of the tree wherever it is: it may have been moved, or bound to other places.

        Never what somebody has mounted over it.
        """
        try:
            table = mount_table()
            for entry in reversed(table):
                if entry.device == self.device:
                    self._detach_one(entry)
        except OSError as error:
            logger.error("cannot free the mountpoint: %s", error)

    def _detach_one(self, entry: MountPoint) -> None:
        # The table is read again: each unmount may take others with it, or uncover them.
        table = mount_table()
        if all(each.mount_id != entry.mount_id for each in table):
            return
        top = mount_at(entry.path, table)
        if top is None or top.mount_id != entry.mount_id:
            logger.warning("%s is covered by another mount: unmount both", entry.path)
            return
        try:
            unmount(entry.path, lazy=True)
        except (OSError, MountError) as error:
            logger.error("cannot free %s: %s", entry.path, error)

    def _let_go(self) -> bool:
        """Write out and close the union; False when data could not be written."""
        try:
            self.union.syncfs()
        except OSError as error:
            logger.error("cannot write out upper %s: %s", self.options.config.upper, error)
            return False
        finally:
            self.union.close()
        return True

    def _layers(self) -> str:
        config = self.options.config
        lowers = f"lowers {join_lowers(config.lowers)}"
        return lowers if config.upper is None else f"upper {config.upper}, work {config.work}, {lowers}"

    def status(self) -> Status:
        """What `pyunionfs status` shows."""
        config = self.options.config
        return {
            "mountpoint": self.options.mountpoint,
            "device": f"{self.device[0]}:{self.device[1]}" if self.device else "",
            "lowers": list(config.lowers),
            "upper": config.upper,
            "work": config.work,
            "options": self.options.words(),
            "pid": os.getpid(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "uptime": round(time.time() - self.started, 1),
            "memory": process.resident_memory(),
            "log": self.log_place,
            "open_handles": self.session.open_handles(),
            "requests": self.session.counts(),
            "union": self.union.stats(),
        }


def _open_control(directory: str | None, stem: str) -> ControlSocket | None:
    if directory is None:
        logger.warning("no directory for the control socket: `pyunionfs status` will not show this mount")
        return None
    try:
        return ControlSocket(directory, stem)
    except OSError as error:
        logger.warning("no control socket in %s: %s; `status` will not show this mount", directory, error)
        return None

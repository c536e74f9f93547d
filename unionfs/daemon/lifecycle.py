"""The life of a mount: check, lock, go to the background, mount, serve, unmount, sync, close.

One process serves one mount. The transport replies to requests in threads of its own; the main thread is the
daemon's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from unionfs.control import union_layers
from unionfs.control.run_directory import make_directory
from unionfs.control.status_schema import Status
from unionfs.control.status_socket import ControlSocket, log_path, remove_old_logs
from unionfs.daemon import log, other_unions
from unionfs.daemon.access_times import AccessTimes
from unionfs.daemon.answers import FAILED, READY
from unionfs.daemon.event_loop import EventLoop
from unionfs.daemon.lock_wait import acquire, adapt_options
from unionfs.daemon.owner_process import OwnerProcess
from unionfs.daemon.readiness import SIGNALS, Readiness
from unionfs.errors import MountError, PyUnionFSError, explain
from unionfs.linux import notify, process
from unionfs.linux.mount_users import may_be_in_use
from unionfs.options.mount_options import MountOptions
from unionfs.overlay.check import check
from unionfs.overlay.lock import Lock
from unionfs.transport.mount import FuseMount, check_mountpoint, open_fuse
from unionfs.transport.session import Session

if TYPE_CHECKING:
    from unionfs.overlay.super import Union

logger = logging.getLogger(__name__)


def mount(options: MountOptions, owner: OwnerProcess | None = None) -> int:
    """Mount, and return when the mount serves (or, in the foreground, when it has ended) with an exit status.

    With an `owner` the mount ends when that process ends. MountError: it was refused, nothing is mounted and
    the directories are as they were.
    """
    check_mountpoint(options.mountpoint)
    check(options.config, options.mountpoint)
    lock = acquire(options.config, options.lock_patience)
    try:
        other_unions.refuse_shared_layers(options.config)
        if options.foreground:
            other_unions.warn_of_overlaps(options)
            return _MountLifecycle(options, lock, None, owner).run()
        _mount_in_background(options, lock, owner)
        return 0
    finally:
        lock.close()


def serve_in_this_process(
    options: MountOptions, ready: int, owner: OwnerProcess | None, *, warn: bool = False
) -> int:
    """Mount, and serve until the end, in a process that the caller has forked for it; its exit status.

    The caller reads *ready* (READY, or FAILED and a message) and waits for the process. Never raises for what
    the machine refuses: that is reported there. With *warn* it prints what `mount` prints.
    """
    lifecycle = None
    try:
        check_mountpoint(options.mountpoint)
        check(options.config, options.mountpoint)
        lock = acquire(options.config, options.lock_patience)
        other_unions.refuse_shared_layers(options.config)
        if warn:
            other_unions.warn_of_overlaps(options)
        lifecycle = _MountLifecycle(options, lock, ready, owner)
        return lifecycle.run()
    except PyUnionFSError as error:
        if lifecycle is None:
            os.write(ready, FAILED + os.fsencode(str(error)))
        else:
            lifecycle.readiness.report_failure(error)
        return 1


def _mount_in_background(options: MountOptions, lock: Lock, owner: OwnerProcess | None) -> None:
    """Fork the daemon, which holds the lock from now on, and wait until it serves."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _daemon(options, lock, writer, owner)
    os.close(writer)
    try:
        other_unions.warn_of_overlaps(options, pid)
        with open(reader, "rb") as pipe:
            reply = pipe.read()
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if reply == READY:
        return
    _, status = os.waitpid(pid, 0)
    if reply.startswith(FAILED):
        raise MountError(os.fsdecode(reply[1:]))
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    raise MountError(
        f"cannot mount {options.mountpoint}: the daemon {how} before it served; try again with -f"
    )


def _daemon(options: MountOptions, lock: Lock, writer: int, owner: OwnerProcess | None) -> NoReturn:
    """The forked child. Never returns."""
    status = 1
    try:
        os.setsid()
        # A lock, a pipe or a directory that the caller has open must not stay open for the mount's life.
        kept = {0, 1, 2, writer, *lock.descriptors(), *options.held}
        process.drop_descriptors(kept if owner is None else kept.union(owner.descriptors()))
        life = _MountLifecycle(options, lock, writer, owner)
        try:
            status = life.run()
        except PyUnionFSError as error:
            life.readiness.report_failure(error)
    finally:
        os._exit(status)


class _MountLifecycle:
    """One mount, from its first descriptor to its last. `ready` is the pipe to the command that waits; in the
    foreground, None."""

    def __init__(
        self, options: MountOptions, lock: Lock, ready: int | None, owner: OwnerProcess | None
    ) -> None:
        self.options = options
        self.lock = lock
        self.owner = owner
        # In the background the service manager's process is the command, and not this one.
        self.notifier = notify.Notifier(os.environ.get(notify.VARIABLE) if options.foreground else None)
        self.readiness = Readiness(options, ready, self.notifier)
        self.transport = ""
        self.started = time.time()
        self.log_destination = ""
        self.union: Union
        self.session: Session
        self.fuse: FuseMount
        self.access_times: AccessTimes | None = None

    def run(self) -> int:
        """Mount, serve until the end, and return the exit status."""
        options = self.options
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.chdir("/")
        umask = os.umask(0)
        process.raise_open_file_limit()
        process.raise_file_size_limit()
        process.set_process_name(process.NAME)
        directory = make_directory()
        # Random, because another container may share the directory and count its processes from 1 too.
        stem = f"{os.getpid()}-{os.urandom(4).hex()}"
        fallback = None
        if directory and not options.foreground:
            fallback = log_path(directory, stem)
            remove_old_logs(directory)
        self.log_destination = log.set_up(
            foreground=options.foreground,
            debug=options.debug,
            log_file=options.log_file,
            fallback=fallback,
            umask=umask,
        )
        self.options = adapt_options(options, self.lock)
        control = _open_control(directory, stem)
        if control is not None:
            _tell_layers(control, stem, self.options)
        try:
            return self._mount_and_serve(control)
        except PyUnionFSError:
            raise
        except BaseException as error:
            logger.exception("%s: unhandled exception, not mounted any more", options.mountpoint)
            raise MountError(
                f"cannot mount {options.mountpoint}: unhandled {type(error).__name__}: {error}; please report"
                f" this bug with the traceback in {self.log_destination}"
            ) from error
        finally:
            if self.owner is not None:
                self.owner.clean_up()
            log.close(fallback)
            # The socket goes last: a client in another pid namespace waits for that.
            self.lock.close()
            if control is not None:
                control.close()
            self.notifier.close()

    def _mount_and_serve(self, control: ControlSocket | None) -> int:
        try:
            self._open()
        except BaseException:
            self.lock.undo()
            raise
        if control is not None and self.fuse.device is not None:
            control.set_device(self.fuse.device)
        clean = False
        try:
            try:
                clean = self._serve(control)
            finally:
                self.notifier.send("STOPPING=1", "STATUS=writing everything out")
                self.session.close()
        finally:
            if self.access_times is not None:
                self.access_times.close()
            clean = self._sync_and_close() and clean
        if self.readiness.failure is not None:
            raise self.readiness.failure
        return 0 if clean else 1

    def _open(self) -> None:
        """Open the layers, then mount: the other way round the mount could hide a layer."""
        # Loaded here, because they are slow, and before the mount, because it may cover them.
        from unionfs.overlay.closed import open_union
        from unionfs.transport import choose

        options = self.options
        self.transport = choose.resolve(options.transport)
        new_session = choose.load(self.transport)
        try:
            self.union = open_union(options.config)
        except OSError as error:
            raise MountError(
                f"cannot mount {options.mountpoint}: opening the layers failed: {explain(error)}"
            ) from error
        try:
            self.fuse = open_fuse(options.mountpoint, options.fuse)
            try:
                self.session = new_session(self.union, self.fuse.fd, options.session)
                upper = self.union.fs.upper
                if upper is not None and upper.clone >= 0 and self.fuse.entry is not None:
                    self.access_times = AccessTimes(upper.clone, self.fuse.entry)
            except BaseException:
                self._detach()
                raise
        except BaseException:
            self.union.close()
            raise

    def _serve(self, control: ControlSocket | None) -> bool:
        """Serve requests until the mount is gone; False after an unhandled exception."""
        options = self.options
        loop = EventLoop(
            self.session,
            options.mountpoint,
            self.fuse,
            options.foreground,
            self.owner,
            self.access_times,
        )
        try:
            loop.start()
            loop.run(self.readiness, control, self.status)
        except BaseException:
            logger.exception("%s: unhandled exception, unmounting", options.mountpoint)
            return False
        finally:
            # After any exception: callers of a mount without a daemon would get ENOTCONN.
            self._detach()
        return True

    def _detach(self) -> None:
        """Detach the mount wherever it still is, and end the guard, which would have done that."""
        self.fuse.detach()
        if self.fuse.guard is not None:
            self.fuse.guard.release()

    def _sync_and_close(self) -> bool:
        """Sync upper and close the union; False when data could not be written."""
        try:
            self.union.syncfs()
        except OSError as error:
            logger.error(
                "syncfs of upper %s failed: %s; recent changes may not be on disk",
                self.options.config.upper,
                error,
            )
            return False
        finally:
            self.union.close()
        return True

    def status(self) -> Status:
        """What `pyunionfs status` shows. Once it has been sent, the last remount is in force."""
        if self.access_times is not None:
            self.access_times.refresh()
        config = self.options.config
        device = self.fuse.device
        open_handles = self.session.open_handles()
        return {
            "mountpoint": self.options.mountpoint,
            "device": f"{device[0]}:{device[1]}" if device else "",
            "lowers": list(config.lowers),
            "data_lowers": list(config.data_lowers),
            "upper": config.upper,
            "work": config.work,
            "options": self.options.words(),
            "transport": self.transport,
            "flags": self.session.flags(),
            "passthrough_problem": self.session.passthrough_problem(),
            "pid": os.getpid(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "uptime": round(time.time() - self.started, 1),
            "memory": process.resident_memory(),
            "log": self.log_destination,
            "open_handles": 0 if open_handles is None else open_handles,
            "silent_opens": open_handles is None,
            "in_use": self._may_be_in_use() if open_handles is None else open_handles > 0,
            "requests": self.session.counts(),
            "union": self.union.stats(),
            "under_way": self.union.under_way(),
            "upper_space": self.union.space(),
        }

    def _may_be_in_use(self) -> bool:
        """Whether a file may be open, where the kernel opens them without a request."""
        entry = self.fuse.entry
        return entry is None or may_be_in_use(entry.mount_id, entry.device, process.NAME)


def _open_control(directory: str | None, stem: str) -> ControlSocket | None:
    if directory is None:
        logger.warning("control socket: no safe directory; `pyunionfs status` will not show this mount")
        return None
    try:
        return ControlSocket(directory, stem)
    except OSError as error:
        logger.warning(
            "control socket: cannot listen in %s: %s; `status` will not show this mount", directory, error
        )
        return None


def _tell_layers(control: ControlSocket, stem: str, options: MountOptions) -> None:
    """To later mounts that look for overlaps, until this process has ended: the descriptor holds a lock."""
    config = options.config
    lowers = (*config.lowers, *config.data_lowers)
    layers = union_layers.UnionLayers(options.mountpoint, config.upper, config.work, lowers)
    try:
        union_layers.write(control.directory(), stem, layers)
    except OSError as error:
        logger.warning("cannot write which layers %s has: %s; later mounts ask", options.mountpoint, error)

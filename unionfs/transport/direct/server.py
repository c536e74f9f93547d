"""Reads requests, dispatches them to handlers and sends the replies: the loop, and the worker threads.

One thread reads the device and replies in place to what needs no waiting. What must wait (a copy-up's data, a
sync, a read from the disk) goes to worker threads, which send the replies themselves. A thread that runs a
union operation holds `lock`: the union's state is touched by one thread at a time. Nothing here knows what a
request means, but for INTERRUPT.

A thread of its own, instead of trio as a guest on the same thread: that shape needs trio before the first
reply, and calls it before each read.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from unionfs.overlay.super import Union
from unionfs.overlay.wait import BackgroundJob, Owner, Task, Wait
from unionfs.transport.direct.buffer import Buffer, new_buffer
from unionfs.transport.direct.busy_poll import BusyPoll
from unionfs.transport.direct.interrupts import Interrupts
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.protocol import (
    ARGUMENTS,
    BODY,
    IN_HEADER,
    INTERRUPT_IN,
    INVAL_ENTRY_OUT,
    INVAL_INODE_OUT,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    NOTIFY_STORE,
    OPCODES,
    OUT_HEADER,
    PAGE_SIZE,
    STORE_OUT,
    Opcode,
)
from unionfs.transport.failure import errno_for_caller

log = logging.getLogger(__name__)

Reply = bytes | bytearray | tuple[bytes | bytearray | memoryview, ...] | None
"""The body of a reply, or its pieces; None is an empty one."""
Handler = Callable[[Buffer, int, int], Any]
"""Called with the request, its length and its node; returns a Reply, DEFERRED or NO_REPLY."""

DEFERRED: Final = object()
"""A worker will reply."""
NO_REPLY: Final = object()
"""The kernel expects no reply."""

BUFFER_SIZE = MAX_WRITE + PAGE_SIZE

_COPY_THREADS = 4
_SYNC_THREADS = 8
_READ_THREADS = 8
_INVALIDATOR_THREADS = 2

_DISCONNECTED = (errno.ENODEV, errno.ECONNABORTED)

_NO_REPLY_OPCODES = frozenset((Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY))
"""The kernel expects no reply to these, not even an errno."""


class Server:
    """Reads from the device and writes to it, with a table from opcode to handler.

    `lock` guards the union's state, `counters` and the requests that wait for tasks. The request thread holds
    it while a handler runs, a worker while it finishes a task.
    """

    __slots__ = (
        "_in_workers",
        "_interrupts",
        "_min_size",
        "_owners",
        "_stopped",
        "_table",
        "_waiting",
        "copiers",
        "counters",
        "debug",
        "extra_nodes",
        "fd",
        "invalidators",
        "lock",
        "nodes_of",
        "on_write_error",
        "readers",
        "syncers",
        "union",
    )

    def __init__(self, union: Union, fd: int, *, debug: bool) -> None:
        self.union = union
        self.fd = fd
        self.debug = debug
        self.lock = threading.Lock()
        self.counters = [0] * OPCODES
        self.extra_nodes: dict[int, int] = {}
        self.nodes_of: Callable[[int], list[int]] = lambda ino: [ino]
        self.on_write_error: Callable[[Buffer, int], None] = lambda request, code: None
        self._table: list[Handler | None] = [None] * OPCODES
        self._table[Opcode.INTERRUPT] = self._interrupt
        self._min_size = [BODY] * OPCODES
        for known, arguments in ARGUMENTS.items():
            self._min_size[known] += arguments.size
        self._waiting: dict[Task, list[bytes]] = {}
        self._owners: dict[Task, Owner] = {}
        self._interrupts = Interrupts(self.lock, self._waiting, self.reply_error)
        self._in_workers = 0
        self._stopped = False
        # Apart from each other: long copies must not keep reads of the disk waiting.
        self.copiers = ThreadPoolExecutor(_COPY_THREADS, "copy")
        self.syncers = ThreadPoolExecutor(_SYNC_THREADS, "sync")
        self.readers = ThreadPoolExecutor(_READ_THREADS, "read")
        # Invalidations wait for requests that any of those workers may have to reply to.
        self.invalidators = ThreadPoolExecutor(_INVALIDATOR_THREADS, "clean")

    def register(self, handlers: dict[Opcode, Handler]) -> None:
        """Dispatch these opcodes to these handlers."""
        for opcode, handler in handlers.items():
            self._table[opcode] = handler

    def pending_requests(self) -> int:
        """How many requests wait for a worker."""
        return self._in_workers + sum(map(len, self._waiting.values()))

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Read and reply until the mount is gone. OSError for what should never happen to a device."""
        readv, fd, lock, dispatch = os.readv, self.fd, self.lock, self._dispatch
        buffer = new_buffer(BUFFER_SIZE)
        buffers = [buffer]
        os.set_blocking(fd, False)
        busy_poll = BusyPoll(fd)
        while True:
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                busy_poll.wait()
                continue
            except OSError as error:
                if error.errno in _DISCONNECTED:
                    return
                # ENOENT: the request was aborted before it was copied to us.
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            if not size:
                return
            with lock:
                if self._stopped:
                    return
                dispatch(buffer, size)
            busy_poll.replied()

    def stop(self) -> None:
        """Reply to no further request, and join the workers; the caller must not hold `lock`."""
        # Before requests are no longer replied to, because an invalidation waits for replies.
        self.invalidators.shutdown(cancel_futures=True)
        with self.lock:
            self._stopped = self._interrupts.stopped = True
        for pool in (self.readers, self.syncers):
            pool.shutdown()
        self.copiers.shutdown(cancel_futures=True)
        with self.lock:
            # Copies that no worker has begun.
            while self._waiting:
                task, _ = self._waiting.popitem()
                self._finish_task(task, OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))

    def _dispatch(self, buffer: Buffer, size: int) -> None:
        """Handle one request; `lock` is held. Raises nothing (invariant 14)."""
        if size < BODY:
            log.error("read from /dev/fuse: %d bytes are shorter than a request header, ignored", size)
            return
        length, opcode, unique, node, _, _, _, _, _ = IN_HEADER.unpack_from(buffer)
        handler = None
        if opcode < OPCODES:
            self.counters[opcode] += 1
            handler = self._table[opcode]
        if self.debug:
            _log_request(opcode, buffer, size)
        try:
            if handler is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            if length != size or size < self._min_size[opcode]:
                raise OSError(errno.EINVAL, "request is shorter than its opcode or header says")
            if node in self.extra_nodes:
                node = self.extra_nodes[node]
            try:
                reply = handler(buffer, size, node)
            finally:
                fs = self.union.fs
                if fs.attrs_to_invalidate:
                    self._invalidate_attrs()
                if fs.background_jobs:
                    self._submit_background_jobs()
            if reply is None:
                self._send(OUT_HEADER.pack(16, 0, unique))
            elif reply is DEFERRED or reply is NO_REPLY:
                return
            elif type(reply) is tuple:
                self._send_pieces(unique, reply)
            else:
                self._send(OUT_HEADER.pack(16 + len(reply), 0, unique) + reply)
        except Wait as wait:
            self.defer(wait.task, self.copiers, buffer, size)
            if wait.owner is not None:
                self._owners[wait.task] = wait.owner
        except Exception as error:
            self._fail(opcode, unique, error, buffer)

    def _fail(self, opcode: int, unique: int, error: BaseException, request: Buffer | None = None) -> None:
        """Reply with the errno of a failure; any thread. With the *request*, `lock` is held."""
        code = self.errno_of(error, opcode)
        if opcode == Opcode.WRITE and request is not None:
            self.on_write_error(request, code)
        if opcode in _NO_REPLY_OPCODES:
            log.error("malformed %s ignored: %s", opcode_name(opcode), error)
        else:
            self.reply_error(unique, code)

    def errno_of(self, error: BaseException, opcode: int) -> int:
        """The errno to reply with: that of an OSError, and EIO for any other exception, which is logged."""
        if isinstance(error, OSError) and error.errno:
            return errno_for_caller(error.errno)
        log.error("%s: unhandled exception, replied EIO", opcode_name(opcode), exc_info=error)
        return errno.EIO

    # --- sending ---------------------------------------------------------------------------------

    def reply(self, unique: int, body: Reply) -> None:
        """Send a reply; any thread."""
        if body is None:
            self._send(OUT_HEADER.pack(16, 0, unique))
        else:
            self._send_pieces(unique, body if type(body) is tuple else (body,))

    def reply_error(self, unique: int, code: int) -> None:
        """Reply with an errno; any thread."""
        # fuse.ko takes 1 to 511 only, and refuses any other reply, so that the caller would wait for ever.
        self._send(OUT_HEADER.pack(16, -code if 0 < code < 512 else -errno.EIO, unique))

    def _send_pieces(self, unique: int, pieces: tuple[Any, ...]) -> None:
        size = 16
        for piece in pieces:
            size += len(piece)
        try:
            os.writev(self.fd, (OUT_HEADER.pack(size, 0, unique), *pieces))
        except OSError as error:
            self._log_send_error(error)

    def _send(self, reply: bytes) -> None:
        try:
            os.write(self.fd, reply)
        except OSError as error:
            self._log_send_error(error)

    def _log_send_error(self, error: OSError) -> None:
        # ENOENT: the caller was killed, or the connection has been aborted; the rest: it is unmounted.
        if error.errno not in (errno.ENOENT, errno.EPERM, *_DISCONNECTED):
            log.error("write to /dev/fuse failed: %s", error)

    def invalidate_attrs(self, node: int) -> None:
        """Have the kernel drop cached attributes. Takes no lock there, so it is safe anywhere."""
        self.invalidate_inode(node, -1)

    def store(self, node: int, data: memoryview | bytes) -> None:
        """Put the beginning of a file into the kernel's cache (FUSE_NOTIFY_STORE).

        Only while the kernel has no READ of the node pending: it waits for the locks of pages, which a READ
        holds until its reply.
        """
        self._notify(NOTIFY_STORE, STORE_OUT.pack(node, 0, len(data), 0), data)

    def invalidate_listing(self, node: int) -> None:
        """Have a worker invalidate a directory's cached listing."""
        # Not in this thread (invariant 13): it waits for pages that a reader of the listing may hold until
        # our reply.
        self.submit(self.readers, self.invalidate_inode, node, 0)

    def invalidate_inode(self, node: int, start: int) -> None:
        """Have the kernel drop attributes, and the pages from *start* on, if that is no less than 0.

        With pages it waits for the replies to their requests: for workers only.
        """
        self._notify(NOTIFY_INVAL_INODE, INVAL_INODE_OUT.pack(node, start, 0))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Have the kernel drop a dentry, so that it looks the name up again and may drop the inode.

        It waits for the requests that change that directory: for workers only.
        """
        self._notify(NOTIFY_INVAL_ENTRY, INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0")

    def _notify(self, kind: int, *pieces: bytes | memoryview) -> None:
        head = OUT_HEADER.pack(OUT_HEADER.size + sum(map(len, pieces)), kind, 0)
        try:
            os.writev(self.fd, (head, *pieces))
        except OSError as error:
            self._log_send_error(error)  # ENOENT: the kernel has forgotten the inode already

    def _invalidate_attrs(self) -> None:
        for ino in self.union.take_attrs_to_invalidate():
            for node in self.nodes_of(ino):
                self.invalidate_attrs(node)

    def _submit_background_jobs(self) -> None:
        """Have workers run the jobs that operations have left for the background."""
        for job in self.union.take_background_jobs():
            self.submit(self.copiers, self._run_background_job, job)

    @staticmethod
    def _run_background_job(job: BackgroundJob) -> None:
        try:
            job.run()
        except OSError as error:
            log.warning("%s", error.strerror)

    # --- what must wait --------------------------------------------------------------------------

    def reply_later(
        self, pool: ThreadPoolExecutor, opcode: int, unique: int, work: Callable[[], Reply]
    ) -> object:
        """Have a worker call *work*, without the lock, and reply with its result. Returns DEFERRED."""
        self._in_workers += 1
        self.submit(pool, self._work_and_reply, opcode, unique, work)
        return DEFERRED

    @staticmethod
    def submit(pool: ThreadPoolExecutor, work: Callable[..., None], *arguments: Any) -> None:
        try:
            pool.submit(work, *arguments)
        except RuntimeError as error:
            # No thread can be started just now (a limit on processes, say). The work is in the pool's queue
            # all the same, for a worker that there is, or the next that can be started.
            log.error("starting a worker thread failed: %s; its work stays queued for the next one", error)

    def _work_and_reply(self, opcode: int, unique: int, work: Callable[[], Reply]) -> None:
        try:
            self.reply(unique, work())
        except BaseException as error:
            self._fail(opcode, unique, error)
        finally:
            with self.lock:
                self._in_workers -= 1

    def defer(self, task: Task, pool: ThreadPoolExecutor, buffer: Buffer, size: int) -> object:
        """Run *task* once in *pool*, for all requests that need it, and handle the request again after it.

        Returns DEFERRED.
        """
        request = bytes(memoryview(buffer)[:size])
        waiting = self._waiting.get(task)
        if waiting is not None:
            waiting.append(request)
            return DEFERRED
        self._waiting[task] = [request]
        self.submit(pool, self._run_task, task)
        return DEFERRED

    def _run_task(self, task: Task) -> None:
        """A worker: run the task, finish it, handle the requests that waited. The first gets its failure."""
        failure: BaseException | None = None
        try:
            task.run()
        except BaseException as error:
            failure = error
        with self.lock:
            failure = self._finish_task(task, failure)
            requests = self._waiting.pop(task)
            if failure is not None and requests:
                request = requests.pop(0)
                _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
                self._fail(opcode, unique, failure, request)
            elif failure is not None:
                log.warning("task without a waiting request failed: %r", failure)
            for request in requests:
                if not self._stopped:
                    opcode = IN_HEADER.unpack_from(request)[1]
                    self.counters[opcode] -= 1  # it was counted when it was read
                    self._dispatch(request, len(request))
            owner = self._owners.pop(task, None)
            if owner is not None and not self._stopped:
                self._give_up(owner, task)

    def _give_up(self, owner: Owner, task: Task) -> None:
        """Undo what an operation has begun, unless it has gone on after *task*. `lock` is held."""
        following = owner.given_up(task)
        if self.union.fs.attrs_to_invalidate:
            self._invalidate_attrs()
        if following is not None:
            self._waiting[following] = []
            self._owners[following] = owner
            self.submit(self.copiers, self._run_task, following)

    def _finish_task(self, task: Task, failure: BaseException | None) -> BaseException | None:
        """Commit slow work, or clean up after its failure; returns what has failed. `lock` is held."""
        try:
            task.finish(failure)
        except BaseException as error:
            failure = failure or error
        if self.union.fs.attrs_to_invalidate:
            self._invalidate_attrs()
        return failure

    def _interrupt(self, buffer: Buffer, size: int, node: int) -> object:
        self._interrupts.add(INTERRUPT_IN.unpack_from(buffer, BODY)[0])
        return NO_REPLY


def opcode_name(number: int) -> str:
    try:
        return Opcode(number).name
    except ValueError:
        return f"opcode {number}"


def _log_request(opcode: int, buffer: Buffer, size: int) -> None:
    _, _, unique, node, uid, gid, pid, _, _ = IN_HEADER.unpack_from(buffer)
    shown = bytes(memoryview(buffer)[BODY : min(size, BODY + 64)])
    name = opcode_name(opcode)
    log.debug("%s #%d node %d, pid %d uid %d gid %d: %r", name, unique, node, pid, uid, gid, shown)

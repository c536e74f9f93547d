"""Reading requests, having them answered, and sending the answers: the loop, and what must wait.

One thread reads the device and answers what needs no waiting at once, in place. What must wait (a copy-up's
data, a sync, a read from the disk) goes to worker threads, which answer by themselves. Whoever runs a union
operation holds `lock`: the union's state is touched by one thread at a time. Nothing here knows what a
request means, but for INTERRUPT.

A thread of its own, instead of trio as a guest on the same thread: that shape needs trio before the first
answer, and asks it before each read.
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
from unionfs.overlay.wait import Chore, Owner, Task, Wait
from unionfs.transport.direct.interrupts import Interrupts
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.patience import Patience
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

Buffer = bytearray | bytes
Answer = bytes | bytearray | tuple[bytes | bytearray | memoryview, ...] | None
"""The body of an answer, or its pieces; None is an empty one."""
Handler = Callable[[Buffer, int, int], Any]
"""Called with the request, its length and its node; returns an Answer, LATER or SILENT."""

LATER: Final = object()
"""A worker will answer."""
SILENT: Final = object()
"""The kernel expects no answer."""

BUFFER_SIZE = MAX_WRITE + PAGE_SIZE

_COPIERS = 4
_SYNCERS = 8
_READERS = 8
_CLEANERS = 2

_OVER = (errno.ENODEV, errno.ECONNABORTED)

_UNANSWERED = frozenset((Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY))
"""Whatever is wrong with them, the kernel expects no answer."""


class Server:
    """The device's reading end and writing end, with a table from opcode to handler."""

    __slots__ = (
        "_interrupts",
        "_least",
        "_owners",
        "_stopped",
        "_table",
        "_waiting",
        "_working",
        "cleaners",
        "copiers",
        "counters",
        "debug",
        "fd",
        "lock",
        "nodes_of",
        "numbered",
        "readers",
        "syncers",
        "union",
        "write_failed",
    )

    def __init__(self, union: Union, fd: int, *, debug: bool) -> None:
        self.union = union
        self.fd = fd
        self.debug = debug
        self.lock = threading.Lock()
        self.counters = [0] * OPCODES
        self.numbered: dict[int, int] = {}
        self.nodes_of: Callable[[int], list[int]] = lambda ino: [ino]
        self.write_failed: Callable[[Buffer, int], None] = lambda request, code: None
        self._table: list[Handler | None] = [None] * OPCODES
        self._table[Opcode.INTERRUPT] = self._interrupt
        self._least = [BODY] * OPCODES
        for named, arguments in ARGUMENTS.items():
            self._least[named] += arguments.size
        self._waiting: dict[Task, list[bytes]] = {}
        self._owners: dict[Task, Owner] = {}
        self._interrupts = Interrupts(self.lock, self._waiting, self.refuse)
        self._working = 0
        self._stopped = False
        # Apart from each other: long copies must not keep reads of the disk waiting.
        self.copiers = ThreadPoolExecutor(_COPIERS, "copy")
        self.syncers = ThreadPoolExecutor(_SYNCERS, "sync")
        self.readers = ThreadPoolExecutor(_READERS, "read")
        # What waits for requests that any of those may have to answer.
        self.cleaners = ThreadPoolExecutor(_CLEANERS, "clean")

    def handle_by(self, handlers: dict[Opcode, Handler]) -> None:
        """Have these opcodes answered by these handlers."""
        for opcode, handler in handlers.items():
            self._table[opcode] = handler

    def under_way(self) -> int:
        """How many requests wait for a worker."""
        return self._working + sum(map(len, self._waiting.values()))

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Read and answer until the mount is gone. OSError for what should never happen to a device."""
        readv, fd, lock, answer = os.readv, self.fd, self.lock, self._answer
        buffer = bytearray(BUFFER_SIZE)
        buffers = [buffer]
        os.set_blocking(fd, False)
        patience = Patience(fd)
        while True:
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                patience.wait()
                continue
            except OSError as error:
                if error.errno in _OVER:
                    return
                # ENOENT: the request was taken back before we had it.
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            if not size:
                return
            with lock:
                if self._stopped:
                    return
                answer(buffer, size)
            patience.answered()

    def stop(self) -> None:
        """Answer no further request, and wait for the workers; the caller must not hold `lock`."""
        # While requests are answered still, for these wait for that.
        self.cleaners.shutdown(cancel_futures=True)
        with self.lock:
            self._stopped = self._interrupts.stopped = True
        for pool in (self.readers, self.syncers):
            pool.shutdown()
        self.copiers.shutdown(cancel_futures=True)
        with self.lock:
            # Copies that nobody has begun.
            while self._waiting:
                task, _ = self._waiting.popitem()
                self._finish(task, OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))

    def _answer(self, buffer: Buffer, size: int) -> None:
        """Have one request answered; `lock` is held. Raises nothing: the next request waits to be read."""
        if size < BODY:
            log.error("a request of %d bytes is shorter than a header", size)
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
            if length != size or size < self._least[opcode]:
                raise OSError(errno.EINVAL, "a request that is cut short")
            if node in self.numbered:
                node = self.numbered[node]
            try:
                answer = handler(buffer, size, node)
            finally:
                fs = self.union.fs
                if fs.stale:
                    self._forget_attributes()
                if fs.chores:
                    self._do_chores()
            if answer is None:
                self._send(OUT_HEADER.pack(16, 0, unique))
            elif answer is LATER or answer is SILENT:
                return
            elif type(answer) is tuple:
                self._send_pieces(unique, answer)
            else:
                self._send(OUT_HEADER.pack(16 + len(answer), 0, unique) + answer)
        except Wait as wait:
            self.defer(wait.task, self.copiers, buffer, size)
            if wait.owner is not None:
                self._owners[wait.task] = wait.owner
        except Exception as error:
            self._fail(opcode, unique, error, buffer)

    def _fail(self, opcode: int, unique: int, error: BaseException, request: Buffer | None = None) -> None:
        """Tell the kernel that a request has failed; any thread. With the *request*, `lock` is held."""
        code = self.errno_of(error, opcode)
        if opcode == Opcode.WRITE and request is not None:
            self.write_failed(request, code)
        if opcode in _UNANSWERED:
            log.error("%s cannot be heeded: %s", opcode_name(opcode), error)
        else:
            self.refuse(unique, code)

    def errno_of(self, error: BaseException, opcode: int) -> int:
        """What the kernel is told of a failure: its errno, and EIO for a bug, which is logged."""
        if isinstance(error, OSError) and error.errno:
            return errno_for_caller(error.errno)
        log.error("a bug has cost one %s request", opcode_name(opcode), exc_info=error)
        return errno.EIO

    # --- sending ---------------------------------------------------------------------------------

    def reply(self, unique: int, body: Answer) -> None:
        """Answer a request; any thread."""
        if body is None:
            self._send(OUT_HEADER.pack(16, 0, unique))
        else:
            self._send_pieces(unique, body if type(body) is tuple else (body,))

    def refuse(self, unique: int, code: int) -> None:
        """Answer a request by an errno; any thread."""
        # fuse.ko takes 1 to 511 only; whatever else were no answer at all.
        self._send(OUT_HEADER.pack(16, -code if 0 < code < 512 else -errno.EIO, unique))

    def _send_pieces(self, unique: int, pieces: tuple[Any, ...]) -> None:
        size = 16
        for piece in pieces:
            size += len(piece)
        try:
            os.writev(self.fd, (OUT_HEADER.pack(size, 0, unique), *pieces))
        except OSError as error:
            self._unsent(error)

    def _send(self, answer: bytes) -> None:
        try:
            os.write(self.fd, answer)
        except OSError as error:
            self._unsent(error)

    def _unsent(self, error: OSError) -> None:
        # ENOENT: whoever asked was killed, or the connection has been aborted; the rest: it is unmounted.
        if error.errno not in (errno.ENOENT, errno.EPERM, *_OVER):
            log.error("the kernel refuses an answer: %s", error)

    def invalidate_attributes(self, node: int) -> None:
        """Make the kernel ask for the attributes again. Takes no lock there, so it is safe anywhere."""
        self.invalidate(node, -1)

    def store(self, node: int, data: memoryview | bytes) -> None:
        """Put the beginning of a file into the kernel's cache (FUSE_NOTIFY_STORE).

        Only while the kernel has no READ of the node under way: it waits for the locks of pages, which a READ
        holds until it is answered.
        """
        self._notify(NOTIFY_STORE, STORE_OUT.pack(node, 0, len(data), 0), data)

    def forget_listing(self, node: int) -> None:
        """Have the kernel forget a directory's listing, soon."""
        # Not here and now: it waits for pages that a reader of the listing may hold while it waits for us.
        self.submit(self.readers, self.invalidate, node, 0)

    def invalidate(self, node: int, start: int) -> None:
        """Attributes, and the pages from *start* on, if that is no less than 0.

        With pages it waits for requests of theirs to be answered: for workers only.
        """
        self._notify(NOTIFY_INVAL_INODE, INVAL_INODE_OUT.pack(node, start, 0))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Have the kernel look a name up again, and hold the inode no longer by it.

        It waits for the requests that change that directory: for workers only.
        """
        self._notify(NOTIFY_INVAL_ENTRY, INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0")

    def _notify(self, kind: int, *pieces: bytes | memoryview) -> None:
        head = OUT_HEADER.pack(OUT_HEADER.size + sum(map(len, pieces)), kind, 0)
        try:
            os.writev(self.fd, (head, *pieces))
        except OSError as error:
            self._unsent(error)  # ENOENT: the kernel has forgotten the inode already

    def _forget_attributes(self) -> None:
        for ino in self.union.take_stale():
            for node in self.nodes_of(ino):
                self.invalidate_attributes(node)

    def _do_chores(self) -> None:
        """Have done in the background what operations have left to be done."""
        for chore in self.union.take_chores():
            self.submit(self.copiers, self._do, chore)

    @staticmethod
    def _do(chore: Chore) -> None:
        try:
            chore.run()
        except OSError as error:
            log.warning("%s", error.strerror)

    # --- what must wait --------------------------------------------------------------------------

    def later(self, pool: ThreadPoolExecutor, opcode: int, unique: int, work: Callable[[], Answer]) -> object:
        """Have *work* done by a worker, without the lock, and its result sent. Returns LATER."""
        self._working += 1
        self.submit(pool, self._work, opcode, unique, work)
        return LATER

    @staticmethod
    def submit(pool: ThreadPoolExecutor, work: Callable[..., None], *arguments: Any) -> None:
        try:
            pool.submit(work, *arguments)
        except RuntimeError as error:
            # No thread can be started just now (a limit on processes, say). The work is in the pool's queue
            # all the same, for a worker that there is, or the next that can be started.
            log.error("a worker cannot be started: %s", error)

    def _work(self, opcode: int, unique: int, work: Callable[[], Answer]) -> None:
        try:
            self.reply(unique, work())
        except BaseException as error:
            self._fail(opcode, unique, error)
        finally:
            with self.lock:
                self._working -= 1

    def defer(self, task: Task, pool: ThreadPoolExecutor, buffer: Buffer, size: int) -> object:
        """Run *task* once in *pool*, for all requests that need it, and handle the request again after it.

        Returns LATER.
        """
        request = bytes(memoryview(buffer)[:size])
        waiting = self._waiting.get(task)
        if waiting is not None:
            waiting.append(request)
            return LATER
        self._waiting[task] = [request]
        self.submit(pool, self._settle, task)
        return LATER

    def _settle(self, task: Task) -> None:
        """A worker: do the slow work, commit it, answer who waits. The first of them gets its failure."""
        failure: BaseException | None = None
        try:
            task.run()
        except BaseException as error:
            failure = error
        with self.lock:
            failure = self._finish(task, failure)
            requests = self._waiting.pop(task)
            if failure is not None and requests:
                request = requests.pop(0)
                _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
                self._fail(opcode, unique, failure, request)
            elif failure is not None:
                log.warning("slow work that nobody waits for any more has failed: %r", failure)
            for request in requests:
                if not self._stopped:
                    opcode = IN_HEADER.unpack_from(request)[1]
                    self.counters[opcode] -= 1  # it was counted when it came
                    self._answer(request, len(request))
            owner = self._owners.pop(task, None)
            if owner is not None and not self._stopped:
                self._give_up(owner, task)

    def _give_up(self, owner: Owner, task: Task) -> None:
        """Clear away what an operation has begun, unless it has gone on after *task*. `lock` is held."""
        following = owner.given_up(task)
        if self.union.fs.stale:
            self._forget_attributes()
        if following is not None:
            self._waiting[following] = []
            self._owners[following] = owner
            self.submit(self.copiers, self._settle, following)

    def _finish(self, task: Task, failure: BaseException | None) -> BaseException | None:
        """Commit slow work, or clear away after its failure; returns what has failed. `lock` is held."""
        try:
            task.finish(failure)
        except BaseException as error:
            failure = failure or error
        if self.union.fs.stale:
            self._forget_attributes()
        return failure

    def _interrupt(self, buffer: Buffer, size: int, node: int) -> object:
        self._interrupts.came(INTERRUPT_IN.unpack_from(buffer, BODY)[0])
        return SILENT


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

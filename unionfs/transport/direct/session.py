"""One mount's session on /dev/fuse: INIT, the request thread, the end.

Puts the parts together; the handlers of requests are in `inode_ops.py`, `file_ops.py` and `dir_ops.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable

from unionfs.linux.process import may_use_backing_files
from unionfs.linux.syscalls import filesystem_type
from unionfs.overlay.attr import link_counter
from unionfs.overlay.super import Union
from unionfs.transport.direct.buffer import Buffer
from unionfs.transport.direct.dir_ops import DirOps
from unionfs.transport.direct.dir_streams import SharedDirStreams
from unionfs.transport.direct.file_ops import FileOps
from unionfs.transport.direct.inode_ops import InodeOps
from unionfs.transport.direct.lower_reads import LowerPassthrough, LowerReadPolicy
from unionfs.transport.direct.negotiate import Connection, InitOptions, TooOldError, negotiate
from unionfs.transport.direct.no_open import NoOpenFiles
from unionfs.transport.direct.nodes import NodeMap
from unionfs.transport.direct.passthrough import Passthrough
from unionfs.transport.direct.protocol import INIT_OUT, KERNEL_MINOR_VERSION, KERNEL_VERSION, InitFlag, Opcode
from unionfs.transport.direct.readdirplus import ReaddirplusPolicy
from unionfs.transport.direct.replies import ReplyPacker
from unionfs.transport.direct.server import Reply, Server, opcode_name
from unionfs.transport.direct.writeback_errors import WritebackErrors
from unionfs.transport.session import SessionOptions

log = logging.getLogger(__name__)

_OVERLAYFS = 0x794C7630
_GETATTR_BEFORE_WRITE = 36
"""Linux 5.17's minor version: before 5.16 a read at the end sends GETATTR as a write does."""
_XATTR_OPCODES = (Opcode.GETXATTR, Opcode.SETXATTR, Opcode.LISTXATTR, Opcode.REMOVEXATTR)


def _unsupported(buffer: Buffer, end: int, node: int) -> Reply:
    """The kernel sends no more of these: it answers EOPNOTSUPP for xattrs, and success for a sync."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _done(buffer: Buffer, end: int, node: int) -> Reply:
    """Success without work; the kernel goes on sending these, which fail when the daemon was killed."""
    return None


class Session:
    """Serves one mounted /dev/fuse descriptor, which it owns from now on."""

    def __init__(self, union: Union, fuse_fd: int, options: SessionOptions) -> None:
        self._union = union
        self._options = options
        self._server = Server(union, fuse_fd, debug=options.debug)
        self._server.register({Opcode.INIT: self._init})
        self._connection: Connection | None = None
        self._file_ops: FileOps | None = None
        self._dir_ops: DirOps | None = None
        self._failure: BaseException | None = None
        self._reading = False
        self._passthrough_problem: str | None = None

    def start(self, ended: Callable[[], None]) -> None:
        """Serve requests in a thread of this session's own; *ended* is called when it ends."""
        self._reading = True
        threading.Thread(target=self._run, args=(ended,), name="requests", daemon=True).start()

    def _run(self, ended: Callable[[], None]) -> None:
        try:
            self._server.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._reading = False
            ended()

    def raise_failure(self) -> None:
        """Raise the exception that has ended the request thread, if one has."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop replying and close the device and all handles. The daemon unmounts."""
        self._server.stop()
        with self._server.lock:
            if self._file_ops is not None and self._dir_ops is not None:
                self._file_ops.close()
                self._dir_ops.close()
            self._close_device()

    def _close_device(self) -> None:
        """Close the device. While the request thread may read it, its descriptor must not become another
        file's: a pipe at its end takes the number, which ends the thread."""
        fd = self._server.fd
        if not self._reading:
            os.close(fd)
            return
        end, start = os.pipe2(os.O_CLOEXEC)
        os.close(start)
        os.dup2(end, fd, inheritable=False)
        os.close(end)

    # --- what `status` shows ---------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many requests of each opcode have been read."""
        counters = self._server.counters
        return {opcode_name(number): count for number, count in enumerate(counters) if count}

    def pending_requests(self) -> int:
        """How many requests wait for slow work just now."""
        with self._server.lock:
            return self._server.pending_requests()

    def open_handles(self) -> int | None:
        """How many files and directories are open; None where the kernel opens files without a request."""
        if self._file_ops is None or self._dir_ops is None:
            return 0
        if self._file_ops.no_open:
            return None
        return self._file_ops.open_handles() + self._dir_ops.open_handles()

    def flags(self) -> list[str]:
        """The flags negotiated at INIT."""
        return [] if self._connection is None else self._connection.flag_names()

    def passthrough_problem(self) -> str | None:
        """Why there is no passthrough; None where there is."""
        files = self._file_ops
        if self._passthrough_problem is None and files is not None and files.passthrough is not None:
            return files.passthrough.problem
        return self._passthrough_problem

    # --- INIT ------------------------------------------------------------------------------------

    def _init_options(self) -> InitOptions:
        options, fs = self._options, self._union.fs
        if options.passthrough == "off":
            self._passthrough_problem = "switched off by passthrough=off"
        elif not may_use_backing_files():
            self._passthrough_problem = "it needs CAP_SYS_ADMIN of the machine's root"
        # A filesystem on top of an overlay is the second in the stack, and two is the kernel's limit.
        depth = 2 if any(filesystem_type(layer.root_fd) == _OVERLAYFS for layer in fs.layers()) else 1
        return InitOptions(
            self._passthrough_problem is None,
            options.writeback and fs.layers_static,
            fs.layers_static,
            depth,
            fs.config.acl,
        )

    def _init(self, buffer: Buffer, end: int, node: int) -> Reply:
        if self._connection is not None:
            raise OSError(errno.EIO, "INIT was already negotiated")
        wanted = self._init_options()
        try:
            connection = negotiate(buffer, end, wanted)
        except TooOldError as error:
            log.error("%s", error)
            raise OSError(errno.EPROTO, str(error)) from None
        if connection is None:
            return INIT_OUT.pack(KERNEL_VERSION, KERNEL_MINOR_VERSION, *(0,) * 11)
        self._connection = connection
        flags = connection.flags
        if wanted.passthrough and InitFlag.PASSTHROUGH not in flags:
            self._passthrough_problem = "this kernel does not offer it (Linux 6.9 and later do)"
        log.debug("FUSE 7.%d: %s", connection.minor, " ".join(connection.flag_names()))
        self._build(flags, connection.minor)
        return connection.reply

    def _lower_passthrough(self) -> LowerPassthrough:
        if self._options.coherent:
            return LowerPassthrough.NONE
        on = self._options.passthrough == "on"
        return LowerPassthrough.ALL if on else LowerPassthrough.UNCHANGING

    def _build(self, flags: InitFlag, minor: int) -> None:
        server, union = self._server, self._union
        nodes = NodeMap()
        server.extra_nodes = nodes.inos
        server.nodes_of = nodes.nodes_of
        replies = ReplyPacker(nodes, union.fs.config.timeout, link_counter(union.fs))
        killpriv = InitFlag.HANDLE_KILLPRIV_V2 in flags
        writeback = InitFlag.WRITEBACK_CACHE in flags
        writeback_errors = WritebackErrors(
            server, writeback=writeback, getattr_before_write=minor >= _GETATTR_BEFORE_WRITE
        )
        replies.never_cache(writeback_errors.pending, server.invalidate_attrs)
        passthrough = None
        if InitFlag.PASSTHROUGH in flags:
            lower_reads = LowerReadPolicy(server, nodes, self._lower_passthrough())
            passthrough = Passthrough(server, nodes, lower_reads)
        # The writer is not known then: the kernel must say whether set-id bits are to be cleared.
        no_open = (
            passthrough is None and union.fs.layers_static and killpriv and InitFlag.NO_OPEN_SUPPORT in flags
        )
        file_ops = FileOps(
            server,
            replies,
            nodes,
            passthrough,
            no_open_files=NoOpenFiles(union) if no_open else None,
            writeback_errors=writeback_errors,
            writeback=writeback,
            killpriv=killpriv,
        )
        dir_streams = SharedDirStreams(union)
        no_opendir = union.fs.layers_static and InitFlag.NO_OPENDIR_SUPPORT in flags
        policy = ReaddirplusPolicy()
        dir_ops = DirOps(server, replies, file_ops, dir_streams, policy, no_opendir=no_opendir)
        inode_ops = InodeOps(
            server,
            replies,
            file_ops,
            dir_streams,
            policy,
            setxattr_ext=InitFlag.SETXATTR_EXT in flags,
            killpriv=killpriv,
            writeback=writeback,
        )
        server.register({**inode_ops.handlers(), **file_ops.handlers(), **dir_ops.handlers()})
        if not union.fs.config.fsync:
            # The kernel may hold data of its own, by passthrough that of files which cannot have it.
            server.register({Opcode.FSYNC: _done, Opcode.FSYNCDIR: _unsupported})
        if not union.fs.config.xattrs:
            server.register(dict.fromkeys(_XATTR_OPCODES, _unsupported))
        self._file_ops, self._dir_ops = file_ops, dir_ops

"""One mount's conversation with the kernel over /dev/fuse: INIT, the thread that serves, the end.

Puts the parts together; what a request means is said in the files of handlers.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable

from unionfs.linux.fs import filesystem_type
from unionfs.linux.process import may_use_backing_files
from unionfs.overlay.attr import link_counter
from unionfs.overlay.super import Union
from unionfs.transport.direct.files import Files
from unionfs.transport.direct.listings import Listings
from unionfs.transport.direct.lower_reads import LowerPassthrough, LowerReads
from unionfs.transport.direct.names import Names
from unionfs.transport.direct.negotiate import Connection, TooOldError, Wanted, negotiate
from unionfs.transport.direct.node_files import NodeFiles
from unionfs.transport.direct.nodes import Nodes
from unionfs.transport.direct.passthrough import Passthrough
from unionfs.transport.direct.protocol import INIT_OUT, KERNEL_MINOR_VERSION, KERNEL_VERSION, InitFlag, Opcode
from unionfs.transport.direct.replies import Replies
from unionfs.transport.direct.server import Answer, Buffer, Server, opcode_name
from unionfs.transport.direct.standing import StandingListings
from unionfs.transport.direct.worth import Worth
from unionfs.transport.direct.write_backs import WriteBacks
from unionfs.transport.session import SessionOptions

log = logging.getLogger(__name__)

_OVERLAYFS = 0x794C7630
_ASKS_BEFORE_WRITE = 36
"""Linux 5.17's minor version: before 5.16 a read at the end asks for attributes as a write does."""


def _left_out(union: Union) -> list[Opcode]:
    """The requests that the mount's options leave without an answer of their own."""
    opcodes = [] if union.fs.config.fsync else [Opcode.FSYNC, Opcode.FSYNCDIR]
    if not union.fs.config.xattrs:
        opcodes += [Opcode.GETXATTR, Opcode.SETXATTR, Opcode.LISTXATTR, Opcode.REMOVEXATTR]
    return opcodes


def _unsupported(buffer: Buffer, end: int, node: int) -> Answer:
    """The kernel asks no more after this: of attributes it says EOPNOTSUPP, of a sync that it is done."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class Session:
    """Serves one mounted /dev/fuse descriptor, which it owns from now on."""

    def __init__(self, union: Union, fuse_fd: int, options: SessionOptions) -> None:
        self._union = union
        self._options = options
        self._server = Server(union, fuse_fd, debug=options.debug)
        self._server.handle_by({Opcode.INIT: self._init})
        self._connection: Connection | None = None
        self._files: Files | None = None
        self._listings: Listings | None = None
        self._failure: BaseException | None = None
        self._reads = False
        self._problem: str | None = None

    def start(self, ended: Callable[[], None]) -> None:
        """Answer requests from now on, in a thread of this session's own; *ended* is called at its end."""
        self._reads = True
        threading.Thread(target=self._run, args=(ended,), name="requests", daemon=True).start()

    def _run(self, ended: Callable[[], None]) -> None:
        try:
            self._server.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._reads = False
            ended()

    def check(self) -> None:
        """Raise what has ended the serving, other than the end of the mount."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Answer nothing more and let go of all handles. Unmounting is the daemon's."""
        self._server.stop()
        with self._server.lock:
            if self._files is not None and self._listings is not None:
                self._files.close()
                self._listings.close()
            self._let_go()

    def _let_go(self) -> None:
        """Close the device. While the requests' thread may read it, its number must not become another
        file's: a pipe takes it, at whose end the thread ends."""
        fd = self._server.fd
        if not self._reads:
            os.close(fd)
            return
        end, start = os.pipe2(os.O_CLOEXEC)
        os.close(start)
        os.dup2(end, fd, inheritable=False)
        os.close(end)

    # --- what `status` shows ---------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many requests of each kind have come."""
        counters = self._server.counters
        return {opcode_name(number): count for number, count in enumerate(counters) if count}

    def under_way(self) -> int:
        """How many requests wait for slow work just now."""
        with self._server.lock:
            return self._server.under_way()

    def open_handles(self) -> int | None:
        """How many files and directories are open; None where the kernel opens files without asking."""
        if self._files is None or self._listings is None:
            return 0
        if self._files.silent:
            return None
        return self._files.open_handles() + self._listings.open_handles()

    def flags(self) -> list[str]:
        """The flags agreed on at INIT."""
        return [] if self._connection is None else self._connection.names()

    def passthrough_problem(self) -> str | None:
        """Why the kernel does not serve data by itself; None where it does."""
        files = self._files
        if self._problem is None and files is not None and files.passthrough is not None:
            return files.passthrough.problem
        return self._problem

    # --- INIT ------------------------------------------------------------------------------------

    def _wanted(self) -> Wanted:
        options, fs = self._options, self._union.fs
        if options.passthrough == "off":
            self._problem = "switched off by passthrough=off"
        elif not may_use_backing_files():
            self._problem = "it needs CAP_SYS_ADMIN of the machine's root"
        # A filesystem on top of an overlay is the second that is stacked, and two is the kernel's limit.
        depth = 2 if any(filesystem_type(layer.root_fd) == _OVERLAYFS for layer in fs.layers()) else 1
        return Wanted(self._problem is None, options.writeback and fs.trust, fs.trust, depth, fs.config.acl)

    def _init(self, buffer: Buffer, end: int, node: int) -> Answer:
        if self._connection is not None:
            raise OSError(errno.EIO, "a second INIT")
        wanted = self._wanted()
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
            self._problem = "this kernel does not offer it (Linux 6.9 and later do)"
        log.debug("FUSE 7.%d: %s", connection.minor, " ".join(connection.names()))
        self._build(flags, connection.minor)
        return connection.answer

    def _lower_passthrough(self) -> LowerPassthrough:
        if self._options.coherent:
            return LowerPassthrough.NONE
        on = self._options.passthrough == "on"
        return LowerPassthrough.ALL if on else LowerPassthrough.UNCHANGING

    def _build(self, flags: InitFlag, minor: int) -> None:
        server, union = self._server, self._union
        nodes = Nodes()
        server.numbered = nodes.inos
        server.nodes_of = nodes.of
        replies = Replies(nodes, union.fs.config.timeout, link_counter(union.fs))
        killpriv = InitFlag.HANDLE_KILLPRIV_V2 in flags
        writeback = InitFlag.WRITEBACK_CACHE in flags
        write_backs = WriteBacks(server, writeback=writeback, asked=minor >= _ASKS_BEFORE_WRITE)
        replies.keep_not(write_backs.refused, server.invalidate_attributes)
        passthrough = None
        if InitFlag.PASSTHROUGH in flags:
            lower_reads = LowerReads(server, nodes, self._lower_passthrough())
            passthrough = Passthrough(server, nodes, lower_reads)
        # Whoever writes is not known then: the kernel must say what of set-id bits is to go.
        silent = passthrough is None and union.fs.trust and killpriv and InitFlag.NO_OPEN_SUPPORT in flags
        files = Files(
            server,
            replies,
            nodes,
            passthrough,
            node_files=NodeFiles(union) if silent else None,
            write_backs=write_backs,
            writeback=writeback,
            killpriv=killpriv,
        )
        standing = StandingListings(union)
        stateless = union.fs.trust and InitFlag.NO_OPENDIR_SUPPORT in flags
        worth = Worth()
        listings = Listings(server, replies, files, standing, worth, stateless=stateless)
        names = Names(
            server,
            replies,
            files,
            standing,
            worth,
            setxattr_ext=InitFlag.SETXATTR_EXT in flags,
            killpriv=killpriv,
        )
        server.handle_by({**names.handlers(), **files.handlers(), **listings.handlers()})
        server.handle_by(dict.fromkeys(_left_out(union), _unsupported))
        self._files, self._listings = files, listings

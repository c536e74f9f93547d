"""A daemon's log (standard error, a file, or syslog), written without opening a path while it serves.

The mount may cover anything, `/etc`, `/usr` or the log's own directory, and the thread that logs is the one
that replies to requests: opening a file there would deadlock. So everything is opened before the mount, times
are in UTC (local ones make libc read /etc/localtime), and tracebacks are printed without their source lines.
Nothing here decides what is logged.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
import traceback
from io import TextIOWrapper
from types import TracebackType

from unionfs.errors import MountError

LOGGER = "unionfs"

_SYSLOG = "/dev/log"
_SYSLOG_DAEMON = 3 << 3
_SEVERITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class _Formatter(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatException(self, ei: object) -> str:
        assert isinstance(ei, tuple)
        error = ei[1]
        return format_traceback(error) if isinstance(error, BaseException) else ""


def format_traceback(error: BaseException) -> str:
    """As Python prints it, causes first, but without source lines: those would have to be read from files."""
    lines = []
    if error.__cause__ is not None:
        lines += [format_traceback(error.__cause__), "The above was the direct cause of:"]
    elif error.__context__ is not None and not error.__suppress_context__:
        lines += [format_traceback(error.__context__), "While that was handled:"]
    lines.append("Traceback (most recent call last):")
    lines += _frames(error.__traceback__)
    lines += [line.rstrip("\n") for line in traceback.format_exception_only(type(error), error)]
    if isinstance(error, BaseExceptionGroup):
        lines += [format_traceback(part) for part in error.exceptions]
    return "\n".join(lines)


def _frames(tb: TracebackType | None) -> list[str]:
    frames = []
    while tb is not None:
        code = tb.tb_frame.f_code
        frames.append(f'  File "{code.co_filename}", line {tb.tb_lineno}, in {code.co_name}')
        tb = tb.tb_next
    return frames


def _is_planted(path: str) -> bool:
    """Whether a symlink in a directory such as /tmp is another user's: may_follow_link() of the kernel.

    That sees to it only with fs.protected_symlinks.
    """
    try:
        link, parent = os.lstat(path), os.stat(os.path.dirname(path))
    except OSError:
        return True  # there is none yet; what the path is to be, opening says
    shared = parent.st_mode & stat.S_ISVTX and parent.st_mode & stat.S_IWOTH
    return bool(shared) and link.st_uid not in (os.geteuid(), parent.st_uid)


class _File(logging.FileHandler):
    """A file that is created with this mode, because the daemon's umask is 0."""

    def __init__(self, path: str, mode: int) -> None:
        self._permissions = mode
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            # A FIFO that nothing reads would be waited for.
            flags |= os.O_NONBLOCK | (os.O_NOFOLLOW if _is_planted(path) else 0)
            fd = os.open(path, flags, self._permissions)
            os.set_blocking(fd, True)
            return fd

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)


class _Syslog(logging.Handler):
    """Lines to syslog or the journal, never waiting for it: the journal may itself live on our mount."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            self._socket.connect(_SYSLOG)
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        severity = next((number for level, number in _SEVERITIES if record.levelno >= level), 7)
        prefix = f"<{_SYSLOG_DAEMON | severity}>pyunionfs[{os.getpid()}]: "
        for line in self.format(record).split("\n"):
            try:
                self._socket.send((prefix + line).encode(errors="backslashreplace"))
            except OSError:
                return  # its queue is full, or it has ended: there is no other place to log to

    def close(self) -> None:
        self._socket.close()
        super().close()


def set_up(
    *, foreground: bool, debug: bool, log_file: str | None, fallback: str | None, umask: int = 0o022
) -> str:
    """Open the log and return where it goes. `fallback` is a file for a daemon on a machine without syslog.

    `log_file` is created with the user's `umask`, `fallback` for its user alone: it has names of files.
    The latter has warnings and errors only, and `close` removes it when it is still empty.
    """
    handler: logging.Handler
    level = logging.DEBUG if debug else logging.INFO
    if log_file is not None:
        try:
            handler = _File(log_file, 0o644 & ~umask)
        except OSError as error:
            raise MountError(
                f"cannot write the log file {log_file}: {error.strerror}; give another with --log-file"
            ) from error
        where = log_file
    elif foreground:
        handler, where = logging.StreamHandler(), "standard error"
    else:
        try:
            handler, where = _Syslog(), "syslog"
        except OSError:
            if fallback is None:
                handler, where = logging.NullHandler(), "nowhere"
            else:
                handler = _File(fallback, 0o600)
                where = fallback
                level = level if debug else logging.WARNING
    plain = where == "syslog"
    handler.setFormatter(_Formatter("%(message)s" if plain else "%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger()
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(level)
    logging.captureWarnings(True)
    time.gmtime()  # lets libc read its time zone now, not under the mount
    return where


def close(fallback: str | None) -> None:
    """Close the log; remove the fallback file when nothing was written to it."""
    logging.shutdown()
    if fallback is not None and os.path.exists(fallback) and os.path.getsize(fallback) == 0:
        os.unlink(fallback)

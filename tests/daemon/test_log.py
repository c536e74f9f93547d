"""The log of a daemon: it must work while every path may lead into the mount that the same thread serves."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.daemon import log
from unionfs.errors import MountError


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Leave logging as it was: pytest has handlers of its own."""
    root, own = logging.getLogger(), logging.getLogger(log.LOGGER)
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    logging.captureWarnings(False)


def raised(nested: bool = False) -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            if nested:
                raise ValueError("outer") from inner
            raise
    except (KeyError, ValueError) as error:
        return error


def test_a_traceback_has_frames_and_causes_but_reads_no_source() -> None:
    text = log.format_traceback(raised(nested=True))
    assert text.count("Traceback (most recent call last):") == 2
    assert text.index("KeyError: 'inner'") < text.index("ValueError: outer")
    assert "in raised" in text
    assert 'raise KeyError("inner")' not in text


def test_a_group_shows_its_parts() -> None:
    text = log.format_traceback(BaseExceptionGroup("several", [raised(), OSError(5, "five")]))
    assert "KeyError: 'inner'" in text
    assert "OSError: [Errno 5] five" in text


def test_logging_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "log"
    assert log.set_up(foreground=False, debug=False, log_file=str(where), fallback=None) == str(where)
    import linecache

    def touched(*_: object) -> None:
        raise AssertionError("a source file was looked at")

    monkeypatch.setattr(linecache, "checkcache", touched)
    monkeypatch.setattr(linecache, "getlines", touched)
    try:
        raise raised()
    except KeyError:
        logging.getLogger("unionfs.x").exception("a bug in %s", "LOOKUP")
    text = where.read_text()
    assert "ERROR a bug in LOOKUP\nTraceback" in text
    assert text.split(" ")[0].endswith("Z")


def test_debug_lines_only_when_asked(tmp_path: Path) -> None:
    for debug in (False, True):
        where = tmp_path / str(debug)
        log.set_up(foreground=False, debug=debug, log_file=str(where), fallback=None)
        logging.getLogger("unionfs.x").debug("detail")
        assert ("detail" in where.read_text()) is debug


def test_a_log_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"cannot write the log file .*/none/log: No such file"):
        log.set_up(foreground=False, debug=False, log_file=str(tmp_path / "none" / "log"), fallback=None)


def test_without_syslog_warnings_go_to_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_SYSLOG", str(tmp_path / "no-syslog"))
    fallback = tmp_path / "fallback"
    assert log.set_up(foreground=False, debug=False, log_file=None, fallback=str(fallback)) == str(fallback)
    logging.getLogger("unionfs.x").info("small talk")
    log.close(str(fallback))
    assert not fallback.exists()
    log.set_up(foreground=False, debug=False, log_file=None, fallback=str(fallback))
    logging.getLogger("unionfs.x").warning("trouble")
    log.close(str(fallback))
    assert "WARNING trouble" in fallback.read_text()


def test_logs_are_not_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_SYSLOG", str(tmp_path / "no-syslog"))
    before = os.umask(0)  # as in a daemon
    try:
        log.set_up(foreground=False, debug=False, log_file=None, fallback=str(tmp_path / "fallback"))
        for umask, mode in ((0, 0o644), (0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
            given = tmp_path / oct(umask)
            log.set_up(foreground=False, debug=False, log_file=str(given), fallback=None, umask=umask)
            assert stat.S_IMODE(given.stat().st_mode) == mode
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fallback").stat().st_mode) == 0o600


def test_syslog_never_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    place = str(tmp_path / "dev-log")
    monkeypatch.setattr(log, "_SYSLOG", place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(place)
        assert log.set_up(foreground=False, debug=False, log_file=None, fallback=None) == "syslog"
        logger = logging.getLogger("unionfs.x")
        logger.error("first")
        assert server.recv(1000).startswith(b"<27>pyunionfs[")
        for _ in range(5000):  # far more than its queue takes: nobody reads
            logger.error("more")

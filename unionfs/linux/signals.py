"""signal(7), without the module `signal`, whose enumerations take longer to load than all of a launcher.

Numbers are plain integers.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

SIGKILL: int = _signal.SIGKILL
SIGCHLD: int = _signal.SIGCHLD
SIGWINCH: int = _signal.SIGWINCH

_UNCHANGEABLE = (SIGKILL, int(_signal.SIGSTOP))


def block_all() -> None:
    """Block every signal that can be blocked: it waits for `wait`."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())


def wait() -> int:
    """Wait for a blocked signal, and take it."""
    number: int = _signal.sigwaitinfo(_signal.valid_signals()).si_signo
    return number


def reset_all() -> None:
    """Default action for every signal, and none blocked: as a program expects it that is started anew."""
    for number in _signal.valid_signals():
        if number not in _UNCHANGEABLE:
            _signal.signal(number, _signal.SIG_DFL)
    unblock_all()


def unblock_all() -> None:
    """Block no signal."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())

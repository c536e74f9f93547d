"""The command line of this process, as ps(1) and /proc/PID/cmdline show it."""

from __future__ import annotations

import ctypes

_ARG_START, _ENV_END = 48, 51
"""Fields of proc_pid_stat(5), which counts them from 1."""


def replace(words: list[bytes]) -> None:
    """Show these words, cut where the memory of the first command line and environment ends.

    That memory is overwritten: nothing may use the first environment any more (`os.environ` has been set
    anew). What is longer than the first command line is one word: the kernel takes it for a title, up to the
    first NUL, where the last byte of the command line's place is none (get_mm_cmdline(), fs/proc/base.c).
    """
    with open("/proc/self/stat", "rb") as file:
        # After the name in parentheses, which may hold anything, follows the third field.
        fields = file.read().rpartition(b") ")[2].split()
    start, arg_end, _, end = map(int, fields[_ARG_START - 3 : _ENV_END - 2])
    text = b"\0".join([*words, b""])
    if len(text) <= arg_end - start:
        text = text.ljust(arg_end - start, b"\0")
    else:
        text = b" ".join(words)[: end - start - 1] + b"\0"
    ctypes.memmove(start, text, len(text))

"""What can go wrong before a mount serves, as exceptions.

    PyUnionFSError
    ├── OptionError   the command line or a mount option is wrong
    └── MountError    the machine or the directories refuse

A message is one line: what was asked, what is wrong and what to do about it. It is printed as it stands, so
it names
paths and never a Python type. What a request of a running mount gets is never one of these but an `OSError`.
"""

from __future__ import annotations


class PyUnionFSError(Exception):
    """Base of everything that this program refuses with a line for people."""


class OptionError(PyUnionFSError):
    """The command line or a mount option is unknown, malformed or contradicts another."""


class MountError(PyUnionFSError):
    """The machine or the directories cannot do what was asked, or it would lose data."""

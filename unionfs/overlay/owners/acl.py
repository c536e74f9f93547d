"""POSIX ACLs where owner and mode are not the filesystem's to keep: what it would do with both, done here.

An ACL is the value of a `system.posix_acl_*` attribute. Three of its entries are the mode's permission bits:
the owner's, the others', and the mask's, or the owning group's where there is no mask (acl(5)).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_HEADER = 4
_ENTRY = struct.Struct("<HHI")
"""Tag, permissions, id, as the kernel takes and gives them."""

USER_OBJ = 0x01
USER = 0x02
GROUP_OBJ = 0x04
GROUP = 0x08
MASK = 0x10
OTHER = 0x20

Entry = tuple[int, int, int]


def entries(value: bytes) -> Iterator[Entry]:
    """The entries as (tag, permissions, id); what is no ACL has none."""
    if len(value) < _HEADER or (len(value) - _HEADER) % _ENTRY.size:
        return iter(())
    return _ENTRY.iter_unpack(value[_HEADER:])


def rebuilt(value: bytes, changed: list[Entry]) -> bytes:
    """The same value with other entries in the place of its own; what is no ACL stays what it is."""
    if len(value) < _HEADER or (len(value) - _HEADER) % _ENTRY.size:
        return value
    return value[:_HEADER] + b"".join(_ENTRY.pack(*entry) for entry in changed)


def _shifts(found: list[Entry]) -> dict[int, int]:
    """Which entries are which bits of the mode."""
    masked = any(tag == MASK for tag, _, _ in found)
    return {USER_OBJ: 6, MASK if masked else GROUP_OBJ: 3, OTHER: 0}


def mode_of(value: bytes) -> int:
    """The permission bits that an access ACL gives its file."""
    found = list(entries(value))
    shifts = _shifts(found)
    mode = 0
    for tag, permissions, _ in found:
        if tag in shifts:
            mode |= (permissions & 7) << shifts[tag]
    return mode


def with_mode(value: bytes, mode: int) -> bytes:
    """An access ACL as it is after chmod(2)."""
    found = list(entries(value))
    shifts = _shifts(found)
    changed = [
        (tag, mode >> shifts[tag] & 7 if tag in shifts else permissions, number)
        for tag, permissions, number in found
    ]
    return rebuilt(value, changed)


def inherited(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """What a new object gets from its directory's default ACL: its mode, and its access ACL if it needs one.

    The rules are those of posix_acl_create_masq().
    """
    found = list(entries(default))
    granted = mode_of(default)
    mode &= ~0o777 | granted
    if all(tag in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in found):
        return mode, None
    return mode, with_mode(default, mode)


def grants(
    value: bytes, wanted: int, uid: int, owner: int, in_group: Callable[[int], bool], group: int
) -> bool:
    """Whether an access ACL lets a process have *wanted* (rwx bits) of a file (posix_acl_permission()).

    *owner* and *group* are the file's; *uid* and *in_group* (one of its groups?) the process's.
    """
    found = list(entries(value))
    mask = next((permissions for tag, permissions, _ in found if tag == MASK), 7)
    of_groups = []
    for tag, permissions, number in found:
        if tag == USER_OBJ and uid == owner:
            return permissions & wanted == wanted
        if tag == USER and number == uid:
            return permissions & mask & wanted == wanted
        if (tag == GROUP_OBJ and in_group(group)) or (tag == GROUP and in_group(number)):
            of_groups.append(permissions)
        if tag == OTHER and not of_groups:
            return permissions & wanted == wanted
    return any(permissions & mask & wanted == wanted for permissions in of_groups)

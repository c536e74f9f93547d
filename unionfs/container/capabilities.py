"""Docker's default set of capabilities: what a container's processes keep. Loses, never gains."""

from __future__ import annotations

import errno

from unionfs.linux import namespaces

DEFAULT = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}
"""Names and numbers, as in moby's oci/caps/defaults.go."""

MASK = sum(1 << number for number in DEFAULT.values())


def keep_default() -> None:
    """Reduce this process, and what it will exec, to the default set.

    The bounding set holds for root's programs, too; inheritable and ambient sets are empty, so that the
    programs of another user have none.
    """
    for number in range(64):
        if MASK >> number & 1:
            continue
        try:
            namespaces.drop_from_bounding_set(number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # one more than the kernel's last
    namespaces.clear_ambient_set()
    namespaces.set_capabilities(namespaces.permitted_capabilities() & MASK)

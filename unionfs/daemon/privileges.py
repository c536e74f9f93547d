"""What a daemon gives up before it serves: capabilities that no request needs, and what exec(2) could give.

Called while the process has one thread: capabilities are a thread's, and further threads inherit them. Loses,
never gains, and is no failure where a sandbox has left less.
"""

from __future__ import annotations

from unionfs.linux import namespaces

KEPT = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_LINUX_IMMUTABLE": 9,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_MKNOD": 27,
    "CAP_SETFCAP": 31,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
}
"""Names and numbers of capabilities(7); docs/security.md says what needs each."""

MASK = sum(1 << number for number in KEPT.values())


def give_up(*, may_exec_set_ids: bool) -> None:
    """Reduce this process to what serving and unmounting take.

    *may_exec_set_ids*: the unmount takes fusermount3, whose set-uid bit must count. Else no_new_privs is what
    keeps root's programs from having more than this process; the bounding set need not.
    """
    permitted = namespaces.permitted_capabilities()
    if permitted & ~MASK:
        namespaces.set_capabilities(permitted & MASK)
    if not may_exec_set_ids:
        namespaces.set_no_new_privs()

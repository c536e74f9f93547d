"""The mount options, one entry each: the table from which all else about an option is made.

An entry (`option.py`) holds an option's name, what its value is, its default, its help text, the
configuration field that it sets and its parameter in the Python API. Parsing and printing
(`mount_options.py`), help texts, man page, completion and the keywords of `unionfs.mount` read this table at
run time; `make options` writes it into docs/options.md and the types of `unionfs.Options`. What options have
to do with each other is decided in `mount_options.py`. Must hold no rule, only entries.
"""

from __future__ import annotations

from unionfs.options.kinds import (
    BYTES,
    COUNT,
    DIRECTORY,
    FILE,
    ID,
    ID_MAP,
    LABEL,
    LAYER,
    LOWERS,
    SECONDS,
    TEXT,
    Value,
)
from unionfs.options.option import Option

GROUPS = {
    "layers": "Layers",
    "union": "The union",
    "owners": "Owners and modes",
    "mount": "The mount",
    "data": "Requests and data",
    "daemon": "The daemon",
}


_ON_OFF: dict[str, Value] = {"on": True, "off": False}
_YES_NO: dict[str, Value] = {"0": False, "1": True}
_NO_YES: dict[str, Value] = {"0": True, "1": False}


def _choice(*words: str) -> dict[str, Value]:
    return {word: word for word in words}


_OPTIONS = (
    # --- layers ----------------------------------------------------------------------------------
    Option(
        "lowerdir",
        "lowerdir",
        "layers",
        "lower layers, topmost first, separated by colons; then data-only layers, each after two colons",
        LOWERS,
        "LOWER[:LOWER...][::DATA...]",
        parameter="lowers",
    ),
    Option(
        "lowerdir+",
        "lowerdir+",
        "layers",
        "one more lower layer below the others; a colon needs no escape",
        LAYER,
        "LOWER",
        repeatable=True,
        parameter="lowers",
    ),
    Option(
        "datadir+",
        "datadir+",
        "layers",
        "one more data-only lower layer; a colon needs no escape",
        LAYER,
        "DATA",
        repeatable=True,
        parameter="data_lowers",
    ),
    Option(
        "upperdir",
        "upperdir",
        "layers",
        "upper layer, which takes all changes; without it the mount is read-only",
        DIRECTORY,
        "UPPER",
        parameter="upper",
    ),
    Option(
        "workdir",
        "workdir",
        "layers",
        "work directory, an empty directory on the filesystem of upperdir",
        DIRECTORY,
        "WORK",
        parameter="work",
    ),
    Option("image", "image", "layers", "an image of the store: its layers, below all others", TEXT, "IMAGE"),
    Option("store", "store", "layers", "the store that has the image", DIRECTORY, "DIRECTORY"),
    # --- the union -------------------------------------------------------------------------------
    Option(
        "redirect_dir",
        "redirect_dir",
        "union",
        "on: create and follow redirects of renamed lower directories; off, follow: only follow them;"
        " nofollow: neither",
        values=_choice("on", "off", "follow", "nofollow"),
        default="on",
        default_note="nofollow with userxattr, follow unless whiteouts=overlay",
    ),
    Option(
        "rename_copy_bytes",
        "rename_copy_bytes",
        "union",
        "where no redirect may be created, a lower directory with up to this much data is renamed by copying;"
        " 0: EXDEV",
        COUNT,
        "BYTES",
        default="1073741824",
        default_note="0 if redirect_dir is given and not on",
    ),
    Option(
        "rename_copy_files",
        "rename_copy_files",
        "union",
        "limit of such a copy in files and directories",
        COUNT,
        "NUMBER",
        default="100000",
    ),
    Option(
        "index",
        "index",
        "union",
        "inode index: hard links of lower files are not broken on copy-up",
        values=_ON_OFF,
        default="off",
    ),
    Option(
        "metacopy",
        "metacopy",
        "union",
        "metadata-only copy-up: chmod(2) and chown(2) of a lower file copy no data",
        values=_ON_OFF,
        default="off",
    ),
    Option(
        "userxattr",
        "userxattr",
        "union",
        "overlay xattrs are user.overlay.* instead of trusted.overlay.*; always so for unprivileged mounts",
        flag=True,
    ),
    Option(
        "volatile",
        "volatile",
        "union",
        "omit all syncs to the upper filesystem; upper is not usable after a crash of the machine",
        flag=True,
    ),
    Option(
        "fsync",
        "fsync",
        "union",
        "0: fsync(2) returns without syncing",
        values=_YES_NO,
        default="1",
    ),
    Option(
        "timeout",
        "timeout",
        "union",
        "how long the kernel may cache names and attributes, for layers that change underneath; without it"
        " no limit",
        SECONDS,
        "SECONDS",
    ),
    Option(
        "xino",
        "xino",
        "union",
        "on, auto: unique, persistent inode numbers across layers; off: persistent ones for the upper"
        " filesystem only",
        values=_choice("on", "off", "auto"),
        default="auto",
    ),
    Option(
        "ino32_t",
        "ino32",
        "union",
        "32-bit inode numbers",
        flag=True,
        values=_YES_NO,
        default="0",
    ),
    Option(
        "fast_ino",
        "",
        "union",
        "accepted for fuse-overlayfs, without effect",
        flag=True,
        values=_YES_NO,
    ),
    Option(
        "static_nlink",
        "static_nlink",
        "union",
        "st_nlink of every directory is 1",
        flag=True,
    ),
    Option("noacl", "acl", "union", "no POSIX ACLs: access is decided by mode bits alone", flag=False),
    Option(
        "noxattrs",
        "xattrs",
        "union",
        "no extended attributes: calls for them fail with EOPNOTSUPP",
        flag=False,
        values=_NO_YES,
        default="0",
    ),
    Option(
        "whiteouts",
        "whiteouts",
        "union",
        "format of whiteouts in upper; overlay: character devices 0/0; aufs: .wh. files; auto: the one that"
        " upper can hold",
        values=_choice("overlay", "aufs", "auto"),
        default="overlay",
    ),
    Option(
        "uuid",
        "uuid",
        "union",
        "off: origin xattrs hold a null UUID, so that layers may be copied together to another filesystem;"
        " on, null, auto: that of the layer's filesystem",
        values=_choice("on", "off", "null", "auto"),
        default="auto",
    ),
    Option(
        "nfs_export",
        "nfs_export",
        "union",
        "on is refused: FUSE file handles are not persistent",
        values=_ON_OFF,
        default="off",
    ),
    # --- owners ----------------------------------------------------------------------------------
    Option(
        "uidmapping",
        "uid_map",
        "owners",
        "user IDs that layers hold, and those that are shown for them, as in /proc/PID/uid_map",
        ID_MAP,
        "STORED:SHOWN:LENGTH[:...]",
    ),
    Option(
        "gidmapping",
        "gid_map",
        "owners",
        "group IDs that layers hold, and those that are shown for them, as in /proc/PID/gid_map",
        ID_MAP,
        "STORED:SHOWN:LENGTH[:...]",
    ),
    Option("squash_to_root", "squash_to_root", "owners", "every file is shown as owned by root", flag=True),
    Option("squash_to_uid", "squash_uid", "owners", "user ID shown as the owner of every file", ID, "UID"),
    Option("squash_to_gid", "squash_gid", "owners", "group ID shown for every file", ID, "GID"),
    Option(
        "xattr_permissions",
        "xattr_permissions",
        "owners",
        "where upper holds owner and mode; 0: in the inode; 1: in security.fuseoverlayfs.override_stat (root"
        " only); 2: in user.containers.override_stat",
        values={"0": 0, "1": 1, "2": 2},
        default="0",
    ),
    # --- the mount -------------------------------------------------------------------------------
    Option("ro", "read_only", "mount", "mount read-only", flag=True),
    Option("rw", "read_only", "mount", "mount read-write", flag=False, default="rw"),
    Option("nodev", "nodev", "mount", "do not interpret character and block special devices", flag=True),
    Option(
        "dev",
        "nodev",
        "mount",
        "interpret character and block special devices; root only",
        flag=False,
        default="dev",
        default_note="nodev without root",
    ),
    Option(
        "nosuid",
        "nosuid",
        "mount",
        "do not honor set-user-ID and set-group-ID bits and file capabilities",
        flag=True,
    ),
    Option(
        "suid",
        "nosuid",
        "mount",
        "honor set-user-ID and set-group-ID bits and file capabilities; root only",
        flag=False,
        default="suid",
        default_note="nosuid without root",
    ),
    Option("noexec", "noexec", "mount", "do not permit execution of programs", flag=True),
    Option("exec", "noexec", "mount", "permit execution of programs", flag=False, default="exec"),
    Option("nosymfollow", "nosymfollow", "mount", "do not follow symlinks when resolving paths", flag=True),
    Option(
        "symfollow",
        "nosymfollow",
        "mount",
        "follow symlinks when resolving paths",
        flag=False,
        default="symfollow",
    ),
    Option("noatime", "access_times", "mount", "do not update access times", flag="noatime"),
    Option("strictatime", "access_times", "mount", "always update access times", flag="strictatime"),
    Option(
        "relatime",
        "access_times",
        "mount",
        "update access times relative to modification and change times",
        flag="",
        default="relatime",
    ),
    Option("atime", "access_times", "mount", "the kernel's default for access times, relatime", flag=""),
    Option("nodiratime", "nodiratime", "mount", "do not update access times of directories", flag=True),
    Option(
        "diratime",
        "nodiratime",
        "mount",
        "update access times of directories as those of files",
        flag=False,
        default="diratime",
    ),
    Option(
        "lazytime",
        "lazytime",
        "mount",
        "timestamps are updated in memory, and written with other changes of the inode",
        flag=True,
    ),
    Option(
        "nolazytime",
        "lazytime",
        "mount",
        "timestamps are written when they change",
        flag=False,
        default="nolazytime",
    ),
    Option("sync", "sync", "mount", "all I/O is synchronous", flag=True),
    Option("async", "sync", "mount", "I/O is asynchronous", flag=False, default="async"),
    Option("dirsync", "dirsync", "mount", "all changes of directories are synchronous", flag=True),
    Option(
        "allow_other", "allow_other", "mount", "permit access by other users; always so as root", flag=True
    ),
    Option(
        "default_permissions",
        "",
        "mount",
        "permissions are checked by the kernel; always so",
        flag=True,
    ),
    Option("auto_unmount", "auto_unmount", "mount", "unmount when the daemon is killed", flag=True),
    Option("fsname", "fsname", "mount", "source in the mount table", TEXT, "NAME", default="pyunionfs"),
    Option(
        "subtype",
        "subtype",
        "mount",
        "filesystem type in the mount table, as fuse.NAME",
        TEXT,
        "NAME",
        default="pyunionfs",
    ),
    Option("context", "context", "mount", "SELinux context of every file; root only", LABEL, "LABEL"),
    Option("fscontext", "fscontext", "mount", "SELinux context of the filesystem; root only", LABEL, "LABEL"),
    Option(
        "defcontext",
        "defcontext",
        "mount",
        "SELinux context of files without a label; root only",
        LABEL,
        "LABEL",
    ),
    Option(
        "rootcontext",
        "rootcontext",
        "mount",
        "SELinux context of the root directory; root only",
        LABEL,
        "LABEL",
    ),
    # --- requests and data -----------------------------------------------------------------------
    Option(
        "transport",
        "transport",
        "data",
        "direct: requests are read from /dev/fuse by the daemon itself; pyfuse3: by libfuse",
        values=_choice("auto", "direct", "pyfuse3"),
        default="auto",
    ),
    Option(
        "passthrough",
        "passthrough",
        "data",
        "FUSE passthrough, I/O on backing files in the kernel; auto: where supported and no reader would"
        " see stale data; on: required; off: not used",
        values=_choice("auto", "on", "off"),
        default="auto",
    ),
    Option(
        "coherent",
        "coherent",
        "data",
        "files opened before their copy-up show later writes, programs and large files, too; no passthrough"
        " of lower files",
        flag=True,
    ),
    Option(
        "writeback",
        "writeback",
        "data",
        "writeback cache of the kernel for small writes; direct transport without passthrough",
        flag=True,
        values=_YES_NO,
        default="1",
    ),
    Option("max_read", "max_read", "data", "maximum size of a read request", BYTES, "BYTES"),
    Option("threaded", "", "data", "accepted for fuse-overlayfs, without effect", flag=True, values=_YES_NO),
    # --- the daemon ------------------------------------------------------------------------------
    Option("debug", "debug", "daemon", "log every request", flag=True),
    Option("log_file", "log_file", "daemon", "log to this file instead of syslog", FILE, "FILE"),
    Option(
        "supervise",
        "supervise",
        "daemon",
        "off: a daemon that shares nothing with those of other mounts",
        values=_ON_OFF,
        default="on",
    ),
)

OPTIONS = {option.name: option for option in _OPTIONS}
"""By name, in the order in which they are shown."""

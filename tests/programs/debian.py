"""A real Debian or Ubuntu root filesystem as a lower layer, made once by debootstrap and kept in a cache.

It is this machine's own release from this machine's own apt sources, so it works wherever apt works: no host
name is written here. The packages that a test installs are downloaded into the tree when it is made; tests
then need no network. The cached tree is only ever a lower layer: no test may write to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.mounts import supports_layers

INSTALLED_LATER = ("git", "less", "patch")
"""What `apt-get install` finds downloaded in the tree; git has two dozen dependencies, perl among them."""

_VERSION = "1"  # of the way the tree is made; another one makes it anew
_CHROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Unavailable(Exception):
    """There is no tree on this machine; the message says why and is the reason of the skip."""


def cache_directory() -> Path:
    """Where trees are kept between runs: never in the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pyunionfs"


def chroot(root: Path, script: str, *, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a shell script with `root` as its root filesystem; output and errors come back together.

    It runs in a mount and a process namespace of its own, so that whatever it mounts or leaves running is
    gone with it and the root can be unmounted.
    """
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", str(root), "/bin/sh", "-c"]
        + [f"set -e\nmount -t proc proc /proc\n{script}"],
        env={
            "PATH": _CHROOT_PATH,
            "HOME": "/root",
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def tree() -> Path:
    """The cached tree, made now if need be. Raises Unavailable."""
    for program in ("debootstrap", "apt-get", "unshare"):
        if shutil.which(program) is None:
            raise Unavailable(f"no {program} on this machine")
    if os.geteuid() != 0:
        raise Unavailable("debootstrap needs root")
    release = _release()
    cache = cache_directory()
    target = cache / f"{release}-{_VERSION}-{'-'.join(INSTALLED_LATER)}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    if not supports_layers(cache):
        raise Unavailable(f"{cache} cannot hold devices and trusted xattrs (set XDG_CACHE_HOME)")
    making = cache / f"{target.name}.making"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():  # made by another run while we waited
            return target
        if making.exists():
            shutil.rmtree(making)
        try:
            _make(making, release)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"making a {release} tree took too long: {error}") from error
        making.rename(target)
    return target


def _release() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise Unavailable("no VERSION_CODENAME in /etc/os-release: not Debian or Ubuntu")


def _sources(release: str) -> list[tuple[str, str, str]]:
    """This machine's apt sources for its own release as (address, suite, components), by apt's own parser."""
    fields = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(CREATED_BY)"
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", fields],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[tuple[str, str], list[str]] = {}
    for line in done.stdout.splitlines():
        address, suite, codename, component, created_by = line.split("|")
        if created_by == "Packages" and re.match(rf"{release}\b", codename or suite):
            components = found.setdefault((address, suite), [])
            if component not in components:
                components.append(component)
    return [(address, suite, " ".join(components)) for (address, suite), components in found.items()]


def _make(target: Path, release: str) -> None:
    sources = _sources(release)
    mirror = next((address for address, suite, _ in sources if suite == release), None)
    if mirror is None:
        raise Unavailable(f"apt on this machine has no source for {release}; run apt-get update")
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", release, str(target), mirror],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if done.returncode != 0:
        raise Unavailable(f"debootstrap {release} failed: {' / '.join(done.stdout.splitlines()[-3:])}")
    apt = target / "etc/apt"
    lines = [f"deb {address} {suite} {components}\n" for address, suite, components in sources]
    (apt / "sources.list").write_text("".join(lines))
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    transport = [line for line in dump.splitlines() if re.match(r"Acquire::(http|https|ftp)\b.*::", line)]
    (apt / "apt.conf.d/90machine").write_text("\n".join([*transport, 'Dpkg::Use-Pty "0";', ""]))
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copyfile(Path("/") / name, target / name)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():  # for sources reached by https
        (target / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(certificates, target / "etc/ssl/certs/ca-certificates.crt")
    packages = " ".join(INSTALLED_LATER)
    done = chroot(
        target,
        f"apt-get -q update && apt-get -q install -y --no-install-recommends --download-only {packages}",
        timeout=900,
    )
    if done.returncode != 0:
        raise Unavailable(f"apt-get in the tree failed: {' / '.join(done.stdout.splitlines()[-3:])}")

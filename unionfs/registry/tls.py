"""Which certificates a registry is verified with, and which it is shown: the system's, and certs.d.

Opens no connection. Directories and names of files: containers-certs.d(5), and Docker's /etc/docker/certs.d.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from unionfs.errors import ImageError, OptionError

_SYSTEM = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def certificates(registry: str, named: Path | None) -> Path | None:
    """The directory with a registry's certificates: *named*, else the first certs.d that has one for it."""
    if named is not None:
        if not named.is_dir():
            raise OptionError(f"--cert-dir {named}: no such directory")
        return named
    for base in (Path.home() / ".config/containers/certs.d", *_SYSTEM):
        if (base / registry).is_dir():
            return base / registry
    return None


def context(directory: Path | None, *, verify: bool, client: bool) -> ssl.SSLContext:
    """TLS with the system's authorities and *directory*'s `*.crt`; with *client*, its `*.cert` and `*.key`.

    Without *verify* any certificate is taken. Raises ImageError that names a file which is no certificate.
    """
    made = ssl.create_default_context()
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    for path in sorted(directory.iterdir()) if directory is not None else ():
        try:
            if path.suffix == ".crt":
                made.load_verify_locations(path)
            elif path.suffix == ".cert" and client:
                key = path.with_suffix(".key")
                if not key.exists():
                    raise ImageError(f"{path}: its key {key.name} is missing beside it")
                made.load_cert_chain(path, key, password=_refuse_password)
        except ssl.SSLError as error:
            raise ImageError(f"{path}: cannot be used: {error.reason or error}") from None
    return made


def _refuse_password() -> bytes:
    """Without this, OpenSSL would ask for it on the terminal, from a thread."""
    return b""

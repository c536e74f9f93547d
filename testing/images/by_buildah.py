"""Images that buildah builds from a Containerfile, one layer an instruction. Its storage is private."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("buildah", "busybox")
"""What must be installed, as root; busybox statically linked."""

CONTAINERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc/kept /etc/replaced /var/tmp /root && chmod 1777 /var/tmp && chmod 700 /root \\
 && echo one > /etc/kept/one && echo two > /etc/kept/two && echo old > /etc/replaced/old \\
 && echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd && ln /etc/kept/one /etc/kept/linked
RUN rm /etc/kept/two && chown 12:34 /etc/kept/one && chmod 4711 /bin/busybox
RUN rm -r /etc/replaced && mkdir /etc/replaced && echo new > /etc/replaced/new
RUN rm -r /etc/replaced && echo file > /etc/replaced && mkfifo /var/pipe
RUN rm /etc/replaced && mkdir -p /etc/replaced/again && ln -s ../../kept /etc/replaced/again/link
COPY added /srv/
ENV GREETING="hello world"
WORKDIR /srv
LABEL org.example.kind=built
ENTRYPOINT ["/bin/busybox"]
CMD ["sh", "-c", "echo $GREETING"]
"""
"""Deletions, a directory that a directory and a file replace and back, hard links, owners, modes."""


def missing() -> str | None:
    """The reason why nothing can be built here, for a skip; None: it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"needs {', '.join(absent)}" if absent else None


def build(
    directory: Path,
    containerfile: str = CONTAINERFILE,
    files: Mapping[str, bytes] | None = None,
    *,
    name: str = "built:1",
) -> Path:
    """Build, and return the OCI layout directory `directory/layout`, where the image is called *name*.

    The build context has *files* and busybox. buildah's own storage is removed again.
    """
    context, storage, layout = directory / "context", directory / "storage", directory / "layout"
    context.mkdir(parents=True)
    shutil.copy2(shutil.which("busybox") or "busybox", context / "busybox")
    for path, content in (files or {"added/one": b"1\n", "added/deep/two": b"2\n"}).items():
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_bytes(content)
    (context / "Containerfile").write_text(containerfile)
    own = ["--root", str(storage / "root"), "--runroot", str(storage / "run"), "--storage-driver", "vfs"]
    try:
        for words in (
            ["build", "--layers", "--isolation", "chroot", "--tag", name, str(context)],
            ["push", name, f"oci:{layout}:{name}"],
        ):
            done = subprocess.run(["buildah", *own, *words], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"buildah {words[0]}: {done.stderr.strip()[-2000:]}")
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        shutil.rmtree(context)
    return layout

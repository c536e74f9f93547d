"""Images for tests and benchmarks: made byte by byte, and built by buildah."""

from __future__ import annotations

from testing.images.entries import (
    TarEntry,
    device,
    directory,
    fifo,
    file,
    hard_link,
    opaque,
    symlink,
    tar,
    whiteout,
)
from testing.images.layout import Image, compressed, digest, encode, image, make_image, write_layout
from testing.images.like_debian import debian_like

__all__ = [
    "Image",
    "TarEntry",
    "compressed",
    "debian_like",
    "device",
    "digest",
    "directory",
    "encode",
    "fifo",
    "file",
    "hard_link",
    "image",
    "make_image",
    "opaque",
    "symlink",
    "tar",
    "whiteout",
    "write_layout",
]

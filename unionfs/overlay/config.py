"""What a union is made of: the part of the mount options that concerns the union itself.

Never reads a directory and never checks: `check.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnionConfig:
    """The stack and its features; the names are kernel overlayfs's mount options.

    `lowers` are absolute paths, leftmost on top. `upper` and `work` are both given or both None (a
    read-only union). `redirect_dir` is "on", "off", "follow" or "nofollow". `timeout` is how long, in
    seconds, the kernel may keep names and attributes; None: for ever, because every change comes through
    the mount.
    """

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    redirect_dir: str = "on"
    index: bool = False
    metacopy: bool = False
    userxattr: bool = False
    volatile: bool = False
    timeout: float | None = None

    @property
    def redirect_create(self) -> bool:
        """Whether a directory rename may write a redirect."""
        return self.redirect_dir == "on"

    @property
    def offline_changes(self) -> bool:
        """Whether lowers may have changed since the upper was last mounted (ovl_allow_offline_changes())."""
        return not (self.index or self.metacopy or self.redirect_create)

    @property
    def redirect_follow(self) -> bool:
        """Whether redirects that layers hold are followed; "off" does, as overlayfs by default."""
        return self.redirect_dir != "nofollow"

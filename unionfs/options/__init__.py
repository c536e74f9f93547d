"""Mount options: the table of them, how they are parsed, and what they mean together. Mounts nothing."""

from __future__ import annotations

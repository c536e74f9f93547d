"""Power cuts: all that a disk is asked to write is recorded, and crash images are made of parts of it.

`disk` is a file served through FUSE that records writes and flushes; `record_log` says what was recorded, and
makes the image of any moment of it.
"""

from __future__ import annotations

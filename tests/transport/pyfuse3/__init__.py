"""The pyfuse3 transport without a mount."""

from __future__ import annotations

"""The direct transport with a kernel that the tests play: no mount, and no root."""

from __future__ import annotations

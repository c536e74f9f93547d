"""What tests and scripts share: mounts, the oracle, crashes, the benchmark. No part of what is installed.

Nothing here knows pytest, and nothing here imports from `tests` or `scripts`.
"""

from __future__ import annotations

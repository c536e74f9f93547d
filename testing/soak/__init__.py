"""Soak runs: hours of mixed load on several unions at once, and whether anything grows or is wrong.

`figures` are measured all along and kept by `samples`, `verdict` judges them, `report` and `plot` show them.
"""

from __future__ import annotations

"""Soak runs: hours of mixed load on several unions at once, and whether anything grows or is wrong.

`ground` makes the lowers; `jobs`, `programs` and `database` are the work, `clients` the processes that do it,
and `gate` keeps them out of a union that is unmounted. `union` mounts, kills and looks; `conductor` leads
a run. `figures` are measured all along and kept by `samples`, `verdict` judges them, `report` and `plot` show
them.
"""

from __future__ import annotations

"""The differential oracle: one random history, performed on two union mounts, must leave no difference.

Reference is kernel overlayfs. How the parts hang together: `case` is what is tried (layers, options,
operations), as plain data that can be written to a file and replayed; `layers` and `workload` make it from a
seed; `worker` performs it, in two processes that live inside the mount; `compare` runs both sides and names
the first difference; `minimise` makes it short. `places` is where the mounts are made and which user acts:
root here, or an ordinary user that mounts the union, in a user namespace if it is the kernel's (what is
forgiven there is in `own_rules`). Nothing here knows anything about how pyunionfs works inside.
"""

from __future__ import annotations

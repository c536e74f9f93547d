"""What is done to the layers of a union without mounting it: looking at them, and mending them.

May use `overlay` and `linux`, never a command, a daemon or a transport. Nothing here prints.
"""

from __future__ import annotations

"""Operations on the layers of a union without mounting it: listing changes, checking, repairing.

May use `overlay` and `linux`, never a command, a daemon or a transport. Nothing here prints.
"""

from __future__ import annotations

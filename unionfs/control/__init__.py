"""What other processes ask of a mount that serves: its status, other mount flags, its end. Loads no union."""

from __future__ import annotations

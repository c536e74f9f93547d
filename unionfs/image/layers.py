"""The layers of an image, unpacked: the face of this folder for what mounts, runs or changes images.

`layers_of` gives what is there; `ensure` (to come, with the same names as here) unpacks what is missing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from unionfs.image.digest import Readable
from unionfs.image.layer_record import Layer, find, layers_of
from unionfs.image.model import Descriptor

__all__ = ["Layer", "OpenLayer", "find", "layers_of"]


class OpenLayer(Protocol):
    """Opens the stored form of a layer, from *offset* on, wherever it comes from.

    The offset is above 0 where an earlier attempt has left that many bytes, which are hashed again: the
    source continues there (a Range request, a seek), or reads and discards so much. What it raises
    (ImageError, OSError) ends the unpacking; what came until then is kept for the next attempt. A connection
    that breaks is the source's own concern: it opens another and goes on, behind one `read`.
    """

    def __call__(self, layer: Descriptor, offset: int, /) -> AbstractContextManager[Readable]: ...

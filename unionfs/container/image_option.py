"""What the mount option `image=` stands for, found before options are parsed: the union knows no images.

For `mount` in all its forms and for `check`. Only a command line that names an image loads this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unionfs.image.lowers import image_lowers
from unionfs.image.store import Store
from unionfs.options.mount_options import ImageLayers


@contextmanager
def image_layers(image: str, store: str | None) -> Iterator[ImageLayers]:
    """The layers of an image for `mount_options.parse`, held until the block ends. Raises ImageError."""
    opened = Store(None if store is None else Path(os.path.abspath(store)))
    with image_lowers(opened, image) as lowers:
        yield ImageLayers(image, lowers.paths, lowers.override_stat, lowers.held)

"""The image that mount options name, for the commands that take `-o image=`. Loads the store only then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from unionfs.options import mount_options


@contextmanager
def named_image(option_texts: Sequence[str]) -> Iterator[mount_options.ImageLayers | None]:
    """Its layers, held until the block ends; None where no image is named. Raises ImageError."""
    named = mount_options.image_of(option_texts)
    if named is None:
        yield None
        return
    from unionfs.container.image_option import image_layers

    with image_layers(*named) as image:
        yield image

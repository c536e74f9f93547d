"""A layer of any size is unpacked in the same memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.mounts import REPOSITORY, environment

MOST_MIB = 200
"""Of a process that unpacks a layer of 10 GiB, says the goal; one of 1 GiB shows whether it grows."""

PROGRAM = """
import os, sys, tarfile
from contextlib import contextmanager
from pathlib import Path

from unionfs.image import layers
from unionfs.image.compression import Compressor
from unionfs.image.digest import Digest, Hasher
from unionfs.image.model import OCI_CONFIG, OCI_LAYER, Config, Descriptor, Manifest, RootFs
from unionfs.image.store import Store

place, size, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
blob, content = Hasher(), Hasher()
block = os.urandom(1 << 20)
with open(place / "blob", "wb") as file:
    def sink(part):
        blob.update(part)
        file.write(part)
    compressor = Compressor(sink, kind)
    def write(part):
        content.update(part)
        compressor.write(part)
    info = tarfile.TarInfo("large")
    info.size = size << 20
    write(info.tobuf())
    for number in range(size):
        write(block if number % 8 == 0 else bytes(1 << 20))
    write(bytes(1024))
    compressor.close()

@contextmanager
def opened(layer, offset):
    with open(place / "blob", "rb", buffering=0) as file:
        yield file

layer = Descriptor(OCI_LAYER, blob.digest(), blob.size)
manifest = Manifest(2, Descriptor(OCI_CONFIG, blob.digest(), 1), [layer])
config = Config("amd64", "linux", RootFs("layers", [content.digest()]))
found = layers.ensure(Store(place / "store"), manifest, config, opened)
assert found[0].size == size << 20
for line in open("/proc/self/status"):  # ru_maxrss may be that of the process that has forked this one
    if line.startswith("VmHWM:"):
        print(int(line.split()[1]) // 1024)
"""


def peak(place: Path, size: int, kind: str) -> int:
    """The most memory of a process that unpacks a layer of so many MiB."""
    place.mkdir()
    words = [sys.executable, "-c", PROGRAM, str(place), str(size), kind]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=REPOSITORY, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_does_not_grow_with_a_layer(tmp_path: Path) -> None:
    for kind in ("gzip", "zstd"):
        small, large = (peak(tmp_path / f"{kind}{size}", size, kind) for size in (64, 1024))
        assert large < MOST_MIB
        assert large - small < 40, "it grows with the layer"

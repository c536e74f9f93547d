"""The program of the sample project: it changes files in place, so that its tests need a throwaway tree."""

from __future__ import annotations

from pathlib import Path

import unionfs


def read(shop: Path) -> dict[str, int]:
    """How many there are of each thing."""
    lines = (shop / "data/stock.csv").read_text().splitlines()
    return {name: int(number) for name, number in (line.split(",") for line in lines)}


def sell(shop: Path, name: str) -> None:
    """Take one away, in place."""
    stock = read(shop)
    stock[name] -= 1
    (shop / "data/stock.csv").write_text("".join(f"{each},{number}\n" for each, number in stock.items()))


def try_out(shop: Path, name: str) -> dict[str, int]:
    """What the stock would be after a sale; nothing is sold."""
    with unionfs.mount(lowers=[shop]) as merged:
        sell(merged, name)
        return read(merged)

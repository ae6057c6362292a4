"""The named sprites of assets/sprites: pictures, names, plurals, and which of them may share a scene in which split."""

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SPRITE_DIR = Path(__file__).resolve().parents[2] / "assets" / "sprites"
SPRITE_PX = 96
ATLAS_COLUMNS, ATLAS_ROWS = 10, 10
SPLITS = ("train", "val", "test")

# Held-out combinations: kinds sit on a grid of TEST_GROUPS x VAL_GROUPS, by rank of a stable hash.
TEST_GROUPS, VAL_GROUPS = 10, 15


@dataclass(frozen=True)
class Sprite:
    """One kind of object. `mean_rgb` is the average over its opaque pixels."""

    kind: int
    name: str
    plural: str
    category: str
    test_group: int
    val_group: int
    mean_rgb: tuple[float, float, float]

    @property
    def with_article(self) -> str:
        return f"{article(self.name)} {self.name}"


def article(noun: str) -> str:
    """Return the indefinite article; of the vowel-like exceptions only those that occur are known."""
    return "an" if noun[0] in "aeio" or noun in ("umbrella", "hourglass") else "a"


@functools.cache
def load_sprites(sprite_dir: Path = SPRITE_DIR) -> tuple[Sprite, ...]:
    """Return all kinds, in the order of sprites.json; a kind's index is its identity within a run."""
    rows = json.loads((sprite_dir / "sprites.json").read_text())
    by_hash = sorted(range(len(rows)), key=lambda kind: hashlib.sha256(rows[kind]["name"].encode()).hexdigest())
    rank = {kind: place for place, kind in enumerate(by_hash)}
    return tuple(
        Sprite(
            kind,
            row["name"],
            row["plural"],
            row["category"],
            test_group=rank[kind] % TEST_GROUPS,
            val_group=rank[kind] // TEST_GROUPS % VAL_GROUPS,
            mean_rgb=mean_rgb(load_pictures(sprite_dir)[kind]),
        )
        for kind, row in enumerate(rows)
    )


@functools.cache
def drawn_kinds(number: int) -> tuple[Sprite, ...]:
    """Return all kinds, or as many as a square of the grid has cells, one of each.

    As in the whole grid, a choice of different kinds that may share a scene can be added to until a row is full.
    """
    everything = load_sprites()
    if number == len(everything):
        return everything
    side, cells = math.isqrt(number), dict[tuple[int, int], Sprite]()
    for sprite in everything:
        if max(cell := (sprite.test_group, sprite.val_group)) < side:
            cells.setdefault(cell, sprite)
    assert len(cells) == number
    return tuple(cells.values())


@functools.cache
def load_pictures(sprite_dir: Path = SPRITE_DIR) -> tuple[Image.Image, ...]:
    """Return the sprites as SPRITE_PX square RGBA pictures, in the order of sprites.json."""
    count = len(json.loads((sprite_dir / "sprites.json").read_text()))
    pictures = []
    for path in sorted(sprite_dir.glob("atlas-*.webp")):
        with Image.open(path) as atlas:
            atlas = atlas.convert("RGBA")
        for cell in range(ATLAS_COLUMNS * ATLAS_ROWS):
            row, column = divmod(cell, ATLAS_COLUMNS)
            x, y = column * SPRITE_PX, row * SPRITE_PX
            pictures.append(atlas.crop((x, y, x + SPRITE_PX, y + SPRITE_PX)))
    assert len(pictures) >= count
    return tuple(pictures[:count])


def mean_rgb(picture: Image.Image) -> tuple[float, float, float]:
    rgba = np.asarray(picture, dtype=np.float64)
    red, green, blue = rgba[rgba[..., 3] > 128][:, :3].mean(axis=0)
    return float(red), float(green), float(blue)


def pair_split(a: Sprite, b: Sprite) -> str:
    """Return the only split whose scenes may show both kinds.

    Same column of the grid: test (10 % of the pairs); else same row: val (6 %); else train. A column or a row is a
    clique, so scenes of five kinds exist in every split and not one pair of a test scene was ever seen in training.
    """
    if a.test_group == b.test_group:
        return "test"
    return "val" if a.val_group == b.val_group else "train"

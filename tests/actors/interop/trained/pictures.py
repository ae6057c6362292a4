"""Pictures that are not square, with captions: receipts, pages and photos of the scenes' objects, as WebDataset tars.

    python -m tests.actors.interop.trained.pictures data/strips        (train, val and test; whole shards are kept)

Three quarters are JPEG, the others PNG. A picture depends on its split and number alone.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.scenes.drawing import draw_thing
from jobs.scenes.scene_captions import join
from jobs.scenes.shards import add_member, jpeg_bytes
from jobs.scenes.sprites import load_sprites
from jobs.scenes.world import BACKGROUND_COLORS, CARD_MARGIN, Thing, make_thing

SPLITS = {"train": 8_000, "val": 128, "test": 500}
PER_SHARD = 1_000
KINDS = (
    "apple", "banana", "key", "owl", "fish", "house",
    "umbrella", "guitar", "book", "clover", "snowman", "pizza",
)  # fmt: skip
BACKGROUNDS = ("white", "yellow", "green", "blue", "gray")
SHAPES = ((3.0, 4.5, 4), (2.0, 3.0, 4), (1.2, 1.6, 2))  # least and largest ratio of the sides, most objects


def make_picture(split: str, index: int) -> tuple[Image.Image, str]:
    """Return a picture and its caption: objects along the longer side, from left to right or from top to bottom."""
    rng = np.random.default_rng((list(SPLITS).index(split), index))
    least, largest, most = SHAPES[int(rng.integers(len(SHAPES)))]
    short_px = int(rng.integers(48, 121))
    long_px = round(short_px * rng.uniform(least, largest))
    stands = bool(rng.random() < 0.5)
    background = str(rng.choice(BACKGROUNDS))
    image = draw_paper(rng, background, stands).resize(
        (short_px, long_px) if stands else (long_px, short_px), Image.Resampling.BICUBIC
    )
    things = place_things(rng, background, short_px, long_px, int(rng.integers(1, most + 1)))
    for thing in things:
        if stands:
            thing.x, thing.y = thing.y, thing.x
        draw_thing(image, thing, 1.0)
    return image, f"{join([thing.sprite.with_article for thing in things])} in {background}"


def draw_paper(rng: np.random.Generator, background: str, stands: bool) -> Image.Image:
    """Draw a small paper that darkens from where reading begins: Donut's encoder knows of no positions otherwise."""
    light = np.linspace(1.1, 0.65, 12)[None, :, None] * (1 + rng.normal(0.0, 0.03, (12, 12, 1)))
    paper = Image.fromarray(np.clip(np.array(BACKGROUND_COLORS[background]) * light, 0, 255).astype(np.uint8))
    return paper.transpose(Image.Transpose.TRANSPOSE) if stands else paper


def place_things(rng: np.random.Generator, background: str, short_px: int, long_px: int, count: int) -> list[Thing]:
    """Give every object a slot of its own along the longer side, which is `x` here."""
    named = {sprite.name: sprite for sprite in load_sprites()}
    slot_px = long_px / count
    things = []
    for place in range(count):
        thing = make_thing(rng, named[str(rng.choice(KINDS))], background, card_share=0.0, count=count)
        room_px = min(short_px, slot_px) - (2 * CARD_MARGIN if thing.card else 0)
        thing.side = room_px * rng.uniform(0.75, 0.9)
        free_x, free_y = slot_px - thing.footprint, short_px - thing.footprint
        thing.x = slot_px * (place + 0.5) + free_x * rng.uniform(-0.4, 0.4)
        thing.y = short_px / 2 + free_y * rng.uniform(-0.4, 0.4)
        things.append(thing)
    return things


def picture_file(split: str, index: int) -> tuple[str, bytes, str]:
    """Return suffix, bytes and caption."""
    image, caption = make_picture(split, index)
    if index % 4:
        return "jpg", jpeg_bytes(image, 90), caption
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "png", stream.getvalue(), caption


def write_shard(path: Path, split: str, first: int, stop: int) -> None:
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(first, stop):
            suffix, payload, caption = picture_file(split, index)
            add_member(tar, f"{split}-{index:06d}.{suffix}", payload)
            add_member(tar, f"{split}-{index:06d}.json", json.dumps({"captions": [caption]}).encode())
    partial.rename(path)


def main(folder: Path) -> None:
    for split, count in SPLITS.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for first in range(0, count, PER_SHARD):
            path = folder / split / f"{split}-{first // PER_SHARD:04d}.tar"
            if not path.exists():
                write_shard(path, split, first, min(first + PER_SHARD, count))
                print(path, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

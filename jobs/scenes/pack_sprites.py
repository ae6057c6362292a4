"""Packs the chosen emoji of two npm packages into assets/sprites: three WebP atlases and sprites.json.

Run once, by hand; kept so that anyone can make the same atlases again:

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emoji-datasource@16.0.0
    python -m jobs.scenes.pack_sprites lobehub-fluent-emoji-3d-1.1.0.tgz emoji-datasource-16.0.0.tgz
"""

import argparse
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from jobs.scenes.sprites import ATLAS_COLUMNS, ATLAS_ROWS, SPRITE_DIR, SPRITE_PX

WEBP_QUALITY = 88


def pack(emoji_tgz: Path, names_tgz: Path, out_dir: Path) -> list[dict[str, str]]:
    """Write the atlases and sprites.json in the order of selection.txt; return the rows of sprites.json."""
    sprites = read_selection(out_dir / "selection.txt", read_categories(names_tgz))
    images = read_images(emoji_tgz, {sprite["codepoint"] for sprite in sprites})
    per_atlas = ATLAS_COLUMNS * ATLAS_ROWS
    for first in range(0, len(sprites), per_atlas):
        atlas = Image.new("RGBA", (ATLAS_COLUMNS * SPRITE_PX, ATLAS_ROWS * SPRITE_PX))
        for cell, sprite in enumerate(sprites[first : first + per_atlas]):
            row, column = divmod(cell, ATLAS_COLUMNS)
            atlas.paste(square(images[sprite["codepoint"]]), (column * SPRITE_PX, row * SPRITE_PX))
        atlas.save(out_dir / f"atlas-{first // per_atlas}.webp", quality=WEBP_QUALITY, method=6)
    rows = ",\n".join("  " + json.dumps(sprite) for sprite in sprites)
    (out_dir / "sprites.json").write_text(f"[\n{rows}\n]\n")
    return sprites


def read_selection(path: Path, categories: dict[str, str]) -> list[dict[str, str]]:
    sprites = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        codepoint, _, words = line.partition(" ")
        name, _, plural = words.partition("|")
        name, plural = name.strip(), plural.strip()
        if not plural:
            plural = name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")
        sprites.append({"name": name, "plural": plural, "category": categories[codepoint], "codepoint": codepoint})
    assert len({sprite["name"] for sprite in sprites}) == len(sprites), "names must be unique"
    return sprites


def read_categories(names_tgz: Path) -> dict[str, str]:
    """Code point without the variation selector -> emoji-datasource's category, lower case."""
    with tarfile.open(names_tgz) as tar:
        member = tar.extractfile("package/emoji.json")
        assert member is not None
        emoji = json.load(member)
    return {e["unified"].lower().replace("-fe0f", ""): e["category"].lower() for e in emoji}


def read_images(emoji_tgz: Path, codepoints: set[str]) -> dict[str, Image.Image]:
    images = {}
    with tarfile.open(emoji_tgz) as tar:
        for member in tar:
            stem = Path(member.name).stem.replace("-fe0f", "")
            if member.name.endswith(".webp") and stem in codepoints:
                stream = tar.extractfile(member)
                assert stream is not None
                images[stem] = Image.open(io.BytesIO(stream.read())).convert("RGBA")
    return images


def square(image: Image.Image) -> Image.Image:
    """Return the visible part, centred in a square and scaled so that its longer side fills SPRITE_PX."""
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()
    assert box is not None
    part = image.crop(box)
    scale = SPRITE_PX / max(part.size)
    part = part.resize(
        (max(1, round(part.width * scale)), max(1, round(part.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", (SPRITE_PX, SPRITE_PX))
    canvas.paste(part, ((SPRITE_PX - part.width) // 2, (SPRITE_PX - part.height) // 2))
    return canvas


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji_tgz", type=Path, help="npm package @lobehub/fluent-emoji-3d")
    parser.add_argument("names_tgz", type=Path, help="npm package emoji-datasource")
    arguments = parser.parse_args()
    print(f"{len(pack(arguments.emoji_tgz, arguments.names_tgz, SPRITE_DIR))} sprites packed into {SPRITE_DIR}")

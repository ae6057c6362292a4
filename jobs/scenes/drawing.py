"""A scene to an RGB picture of any size; the same scene and size give the same pixels in every process."""

import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jobs.scenes.sprites import load_pictures
from jobs.scenes.world import BACKGROUND_COLORS, CARD_COLORS, SIDE, Plate, Scene, Thing

# (plate, letters)
PLATE_COLORS = (
    ((250, 250, 246), (16, 16, 20)),
    ((28, 34, 60), (250, 250, 246)),
    ((252, 226, 90), (30, 24, 10)),
    ((214, 234, 246), (20, 30, 90)),
)
SUPERSAMPLE = 4


def render(scene: Scene, image_size: int) -> Image.Image:
    """Draw the background, then the printed plates, then the objects from back to front."""
    scale = image_size / SIDE
    image = draw_background(scene, image_size)
    for plate in scene.sign.plates if scene.sign else ():
        draw_plate(image, plate, scale)
    for place in scene.draw_order:
        draw_thing(image, scene.things[place], scale)
    return image


def draw_background(scene: Scene, image_size: int) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(scene.texture_seed))
    base = np.array(BACKGROUND_COLORS[scene.background], dtype=np.float32)
    if scene.background_style == "solid":
        return Image.new("RGB", (image_size, image_size), BACKGROUND_COLORS[scene.background])
    if scene.background_style == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        x, y = np.meshgrid(np.linspace(-1, 1, 16, dtype=np.float32), np.linspace(-1, 1, 16, dtype=np.float32))
        light = 22.0 * (math.cos(angle) * x + math.sin(angle) * y)
    else:
        light = rng.normal(0.0, 14.0, size=(12, 12)).astype(np.float32)
    small = np.clip(base + light[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize((image_size, image_size), Image.Resampling.BICUBIC)


def draw_thing(image: Image.Image, thing: Thing, scale: float) -> None:
    if thing.card:
        card_px = max(1, round(thing.footprint * scale))
        corner = (round(thing.x * scale - card_px / 2), round(thing.y * scale - card_px / 2))
        image.paste(CARD_COLORS[thing.card], corner, card_mask(card_px))
    sprite = scaled_sprite(thing.sprite.kind, max(1, round(thing.side * scale)))
    sprite = sprite.rotate(thing.rotation_deg, resample=Image.Resampling.BICUBIC, expand=True)
    corner = (round(thing.x * scale - sprite.width / 2), round(thing.y * scale - sprite.height / 2))
    image.paste(sprite, corner, sprite)


def draw_plate(image: Image.Image, plate: Plate, scale: float) -> None:
    face, ink = PLATE_COLORS[plate.palette]
    left, top = (plate.x - plate.width / 2) * scale, (plate.y - plate.height / 2) * scale
    box = (round(left), round(top), round(left + plate.width * scale) - 1, round(top + plate.height * scale) - 1)
    draw = ImageDraw.Draw(image)
    draw.rectangle(box, fill=face, outline=ink, width=max(1, round(scale)))
    font = load_font(round(plate.font_px * scale))
    draw.text((plate.x * scale, plate.y * scale), plate.text, fill=ink, font=font, anchor="mm")


@functools.lru_cache(maxsize=4096)
def scaled_sprite(kind: int, side_px: int) -> Image.Image:
    return load_pictures()[kind].resize((side_px, side_px), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=64)
def card_mask(side_px: int) -> Image.Image:
    large = side_px * SUPERSAMPLE
    mask = Image.new("L", (large, large))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, large - 1, large - 1), radius=large // 7, fill=255)
    return mask.resize((side_px, side_px), Image.Resampling.LANCZOS)


@functools.cache
def load_font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Bold as matplotlib ships it, found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ValueError("signs are printed with a font of the matplotlib package, which is not installed")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)

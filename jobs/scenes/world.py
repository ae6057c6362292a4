"""What a scene contains and where: decided by (seed, split, index) alone, before anything is drawn.

Lengths are in units of 1/128 of the picture's side, so that one scene is the same scene at every image size.
"""

import functools
import itertools
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from jobs.scenes.config import ScenesConfig
from jobs.scenes.kinds import choose_absent, choose_sprites
from jobs.scenes.sign_words import CODE_CHARACTERS, CODE_LENGTHS, SIGN_WORDS
from jobs.scenes.sprites import SPLITS, Sprite, drawn_kinds

SIDE = 128.0
RGB = tuple[int, int, int]

CARD_COLORS: dict[str, RGB] = {
    "red": (222, 36, 36),
    "orange": (250, 136, 20),
    "yellow": (250, 222, 40),
    "green": (40, 168, 60),
    "blue": (40, 96, 226),
    "purple": (140, 56, 190),
    "white": (252, 252, 252),
    "black": (24, 24, 26),
}
BACKGROUND_COLORS: dict[str, RGB] = CARD_COLORS | {
    "pink": (250, 160, 200),
    "brown": (134, 86, 48),
    "gray": (146, 148, 152),
}

SIZE_SIDE = {"small": 26.0, "medium": 38.0, "large": 54.0}
SIZE_NAMES = ("small", "medium", "large")
SIZE_JITTER = 1.0
CARD_MARGIN = 4.0  # card around its sprite, each side
MIN_X_GAP = 9.0  # between the centres of any two objects, so that left to right is never in doubt
MAX_OCCLUSION = 0.2  # of an object's square by what is drawn over it
MIN_COLOR_DISTANCE = 110.0  # RGB distance that keeps an object visible on what is behind it
COUNT_SHARES = (0.10, 0.22, 0.28, 0.24, 0.16)  # of scenes with 1..5 objects
TRIES_PER_SIZE = 3  # layouts tried before something has to become smaller
OVERLAP_SHARE = 0.25  # of scenes in which objects may cover part of one another


class SignKind(str, Enum):
    WORD = "word"
    CODE = "code"
    NUMBER = "number"
    SUM = "sum"


@dataclass(frozen=True)
class Plate:
    """A rectangle with printed text, centred at (x, y)."""

    text: str
    x: float
    y: float
    width: float
    height: float
    font_px: float
    palette: int


@dataclass(frozen=True)
class Sign:
    """What is printed: one plate, or two plates (left, right) with a number each when the kind is SUM."""

    kind: SignKind
    plates: tuple[Plate, ...]

    @property
    def text(self) -> str:
        return " ".join(plate.text for plate in self.plates)

    @property
    def numbers(self) -> tuple[int, int]:
        left, right = self.plates
        return int(left.text), int(right.text)


@dataclass
class Thing:
    """One object: its kind, centre, drawn side, size class, rotation, and the colour of its card or None."""

    sprite: Sprite
    size: str
    side: float
    rotation_deg: float
    card: str | None
    x: float = 0.0
    y: float = 0.0

    @property
    def name(self) -> str:
        return self.sprite.name

    @property
    def footprint(self) -> float:
        return self.side + 2 * CARD_MARGIN if self.card else self.side


@dataclass(frozen=True)
class Scene:
    """`things` are in left-to-right order; `draw_order` lists their places in it, from back to front."""

    split: str
    index: int
    things: tuple[Thing, ...]
    draw_order: tuple[int, ...]
    background: str
    background_style: str
    sign: Sign | None
    absent: tuple[Sprite, ...] = field(default=())  # plausible kinds that are not shown, for questions
    texture_seed: int = 0

    def with_name(self, name: str) -> list[Thing]:
        return [thing for thing in self.things if thing.name == name]


def scene_generator(seed: int, split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """A generator of its own for every scene and purpose: any scene can be made alone, in any process and order."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, SPLITS.index(split), index, purpose))))


def compose(seed: int, split: str, index: int, config: ScenesConfig) -> Scene:
    """Compose a scene, trying layouts until everything fits; always returns."""
    rng = scene_generator(seed, split, index)
    counts = count_shares(config.max_objects)
    count = 1 + int(rng.choice(len(counts), p=counts))
    draw = rng.random()
    wants_sign, wants_sum = draw < config.sign_share, config.sign_share <= draw < config.sign_share + config.sum_share
    # The repeats that single-object scenes cannot have are made up for by the others.
    repeats = count > 1 and rng.random() < config.repeat_share / (1.0 - counts[0])
    kinds = drawn_kinds(config.kinds)
    sprites = choose_sprites(rng, split, count, repeats, kinds)
    background = str(rng.choice(list(BACKGROUND_COLORS)))
    style = str(rng.choice(["solid", "gradient", "texture"]))
    sign_kind = SignKind.SUM if wants_sum else choose_sign_kind(rng) if wants_sign else None
    things = [make_thing(rng, sprite, background, config.card_share, count) for sprite in sprites]
    for attempt in itertools.count(1):
        sign = None if sign_kind is None else place_sign(rng, sign_kind)
        if (order := place_things(rng, things, sign)) is not None:
            break
        if attempt % TRIES_PER_SIZE == 0:
            shrink_one(rng, things)
    left_to_right = sorted(things, key=lambda thing: thing.x)
    return Scene(
        split,
        index,
        things=tuple(left_to_right),
        draw_order=tuple(left_to_right.index(thing) for thing in order),
        background=background,
        background_style=style,
        sign=sign,
        absent=choose_absent(rng, split, sprites, kinds),
        texture_seed=int(rng.integers(2**31)),
    )


def count_shares(max_objects: int) -> tuple[float, ...]:
    """Shares of the scenes with 1..max_objects objects; [0] is less than 1 where there may be more than one."""
    shares = COUNT_SHARES[:max_objects]
    return tuple(share / sum(shares) for share in shares)


def color_distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return float(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5)


@functools.cache
def visible_cards(sprite: Sprite, background: str) -> tuple[str, ...]:
    """Card colours that stand out from the background and on which the sprite stands out."""
    return tuple(
        name
        for name, rgb in CARD_COLORS.items()
        if color_distance(rgb, BACKGROUND_COLORS[background]) >= MIN_COLOR_DISTANCE
        and color_distance(rgb, sprite.mean_rgb) >= 0.7 * MIN_COLOR_DISTANCE
    )


def make_thing(rng: np.random.Generator, sprite: Sprite, background: str, card_share: float, count: int) -> Thing:
    """Make a thing without a place yet. It gets a card when its colours would be lost on the background."""
    shares = np.array([0.30, 0.36, 0.34]) if count <= 3 else np.array([0.34, 0.38, 0.28])
    size = int(rng.choice(3, p=shares))
    card = None
    hidden = color_distance(sprite.mean_rgb, BACKGROUND_COLORS[background]) < 0.6 * MIN_COLOR_DISTANCE
    if rng.random() < card_share or hidden:
        cards = visible_cards(sprite, background)
        card = cards[int(rng.integers(len(cards)))]
    name = SIZE_NAMES[size]
    return Thing(sprite, name, draw_side(rng, name), rotation_deg=float(rng.integers(-20, 21)), card=card)


def draw_side(rng: np.random.Generator, size: str) -> float:
    return SIZE_SIDE[size] + float(rng.uniform(-SIZE_JITTER, SIZE_JITTER))


def shrink_one(rng: np.random.Generator, things: list[Thing]) -> None:
    """Take one of the things that are not small down a size class."""
    shrinkable = [thing for thing in things if thing.size != "small"]
    if shrinkable:
        thing = shrinkable[int(rng.integers(len(shrinkable)))]
        thing.size = SIZE_NAMES[SIZE_NAMES.index(thing.size) - 1]
        thing.side = draw_side(rng, thing.size)


def place_things(rng: np.random.Generator, things: list[Thing], sign: Sign | None) -> list[Thing] | None:
    """Give every thing a place and return them from back to front; None when they do not fit."""
    limit = MAX_OCCLUSION * 0.9 if rng.random() < OVERLAP_SHARE else 0.0
    placed: list[Thing] = []
    boxes = [(p.x, p.y, p.width / 2 + 2, p.height / 2 + 2) for p in sign.plates] if sign else []
    for thing in sorted(things, key=lambda thing: -thing.side):
        half = thing.footprint / 2 + 1
        for x, y in rng.uniform(half, SIDE - half, size=(40, 2)).tolist():
            if any(abs(x - bx) < half + bw and abs(y - by) < half + bh for bx, by, bw, bh in boxes):
                continue
            if any(abs(x - other.x) < MIN_X_GAP for other in placed):
                continue
            # A thing without a card never touches another's card: it would seem to lie on it.
            if all(occlusion(other, thing, x, y) <= (limit if thing.card or not other.card else 0) for other in placed):
                thing.x, thing.y = x, y
                placed.append(thing)
                break
        else:
            return None
    return placed if all(total_occlusion(placed, i) <= MAX_OCCLUSION for i in range(len(placed))) else None


def occlusion(back: Thing, front: Thing, x: float, y: float) -> float:
    """Share of the square of `back` (its card's, when that is touched) that `front`, put at (x, y), would cover."""
    reach = (back.footprint + front.footprint) / 2 + (0.0 if back.card is None else 1.0)
    overlap_x, overlap_y = reach - abs(back.x - x), reach - abs(back.y - y)
    if overlap_x <= 0 or overlap_y <= 0:
        return 0.0
    return min(overlap_x, front.footprint) * min(overlap_y, front.footprint) / back.side**2


def total_occlusion(placed: list[Thing], place: int) -> float:
    back = placed[place]
    return sum(occlusion(back, front, front.x, front.y) for front in placed[place + 1 :])


def choose_sign_kind(rng: np.random.Generator) -> SignKind:
    return (SignKind.WORD, SignKind.CODE, SignKind.NUMBER)[int(rng.choice(3, p=[0.45, 0.40, 0.15]))]


def place_sign(rng: np.random.Generator, kind: SignKind) -> Sign:
    """Place one plate anywhere, or two number plates side by side in any two places."""
    palette = int(rng.integers(4))
    if kind is SignKind.SUM:
        left, right = sorted(rng.uniform(16, SIDE - 16, size=2).tolist())
        if right - left < 30:
            left, right = 24.0, SIDE - 24.0
        ys = rng.uniform(16, SIDE - 16, size=2).tolist()
        numbers = rng.integers(1, 10, size=2).tolist()
        pairs = zip(numbers, (left, right), ys, strict=True)
        return Sign(kind, tuple(Plate(str(number), x, y, 22.0, 26.0, 22.0, palette) for number, x, y in pairs))
    if kind is SignKind.WORD:
        text = SIGN_WORDS[int(rng.integers(len(SIGN_WORDS)))]
    elif kind is SignKind.CODE:
        length = int(rng.choice(CODE_LENGTHS))
        text = "".join(CODE_CHARACTERS[int(c)] for c in rng.integers(len(CODE_CHARACTERS), size=length))
        if text.isdigit() or text.isalpha():  # a code mixes both
            text = text[:-1] + ("7" if text.isalpha() else "K")
    else:
        text = str(int(rng.integers(10, 1000)))
    font_px = 22.0 if len(text) <= 4 else 20.0 if len(text) <= 6 else 18.0
    width, height = 0.80 * font_px * len(text) + 10, font_px + 6
    x = float(rng.uniform(width / 2 + 1, SIDE - width / 2 - 1))
    y = float(rng.uniform(height / 2 + 1, SIDE - height / 2 - 1))
    return Sign(kind, (Plate(text, x, y, width, height, font_px, palette),))

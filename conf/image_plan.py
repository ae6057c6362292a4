"""What a checkpoint's own processor does to a decoded picture, as a value: steps that run in order on 8-bit RGB pixels.

Nothing here imports torch or Pillow: the steps are carried out by `pipeline.images.plan`, for captioning, training and
evaluation alike. What is left of a processor, scaling and normalising, is arithmetic on the numbers that travel and is
done by the encoder (`ModelConfig.pixel_mean` and `pixel_std`).
"""

from math import isqrt
from typing import Annotated, Literal

from pydantic import Field

from conf.section import Section

Pixels = Annotated[int, Field(ge=1)]
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class Resize(Section):
    """To exactly this size, whatever the aspect ratio."""

    kind: Literal["resize"] = "resize"
    height: Pixels
    width: Pixels
    filter: Filter = "bilinear"


class ResizeShortest(Section):
    """Until the shorter side has `size` pixels; the aspect ratio is kept and the longer side cut to a whole number."""

    kind: Literal["resize_shortest"] = "resize_shortest"
    size: Pixels
    filter: Filter = "bilinear"


class Thumbnail(Section):
    """Until it fits within this size; the aspect ratio is kept, and what fits already is left alone."""

    kind: Literal["thumbnail"] = "thumbnail"
    height: Pixels
    width: Pixels
    filter: Filter = "bilinear"
    reducing_gap: float | None = Field(None, description="Pillow may halve a picture first that is larger by this.")


class AlignLongAxis(Section):
    """A quarter turn where the picture lies and this size stands, or the other way round."""

    kind: Literal["align_long_axis"] = "align_long_axis"
    height: Pixels
    width: Pixels


class CropMargin(Section):
    """Without its light margin (Nougat)."""

    kind: Literal["crop_margin"] = "crop_margin"
    threshold: int = Field(200, description="Grey values below it, once stretched to 0..255, are not margin.")


class CentreCrop(Section):
    """The middle of the picture; what a smaller one lacks is black."""

    kind: Literal["centre_crop"] = "centre_crop"
    height: Pixels
    width: Pixels


class Pad(Section):
    """To this size, with pixels of one value."""

    kind: Literal["pad"] = "pad"
    height: Pixels
    width: Pixels
    value: Annotated[int, Field(ge=0, le=255)] = 0
    place: Literal["centre", "top_left"] = Field("centre", description="Where the picture stands in what is padded.")


class Header(Section):
    """The prompt, drawn above the picture (Pix2Struct, arXiv 2210.03347, section 2.3)."""

    kind: Literal["header"] = "header"
    font: str | None = Field(None, description="TrueType file of the letters; none: Pillow's built-in font.")


class Patches(Section):
    """The largest grid of square patches with the picture's aspect ratio that holds at most so many (Pix2Struct).

    The picture is resized to the grid without rounding and normalised by its own mean and deviation: float32.
    """

    kind: Literal["patches"] = "patches"
    patch: Pixels
    max_patches: Pixels


Step = Annotated[
    Resize | ResizeShortest | Thumbnail | AlignLongAxis | CropMargin | CentreCrop | Pad | Header | Patches,
    Field(discriminator="kind"),
]


_WORDS = {
    "resize": "resized to {height} x {width} ({filter})",
    "resize_shortest": "resized until the shorter side has {size} pixels ({filter})",
    "thumbnail": "made to fit {height} x {width} ({filter})",
    "align_long_axis": "turned where they lie and {height} x {width} stands, or the other way round",
    "crop_margin": "cut at their margins",
    "centre_crop": "cropped to the middle {height} x {width}",
    "pad": "padded to {height} x {width}",
    "header": "put below the prompt",
    "patches": "cut into up to {max_patches} patches of {patch} x {patch}",
}


class ImagePlan(Section):
    """Size policy of a checkpoint."""

    steps: tuple[Step, ...]
    scaled_decode: bool = Field(
        False,
        description="JPEGs may be decoded at 1/2, 1/4 or 1/8 where that leaves twice the size of the result: faster, "
        "and only exact for models that were trained this way.",
    )

    @classmethod
    def squeeze(cls, image_size: int) -> "ImagePlan":
        """Return the plan of the models that `deed train` makes from nothing: one bilinear resize to a square."""
        return cls(steps=(Resize(height=image_size, width=image_size),), scaled_decode=True)

    def drawn_in(self, font: str) -> "ImagePlan":
        """Return the same plan with another font."""
        steps = (step.model_copy(update={"font": font}) if isinstance(step, Header) else step for step in self.steps)
        return self.model_copy(update={"steps": tuple(steps)})

    @property
    def draws_prompt(self) -> bool:
        """Whether pixels depend on the prompt."""
        return any(isinstance(step, Header) for step in self.steps)

    @property
    def squeezes(self) -> bool:
        """Whether it is that of `squeeze`: turning commutes with it, so it may come first, which is cheaper."""
        only = self.steps[0] if self.scaled_decode and len(self.steps) == 1 else None
        return isinstance(only, Resize) and only.height == only.width and only.filter == "bilinear"

    @property
    def patches(self) -> Patches | None:
        """The last step, where it cuts a grid of the picture's own shape."""
        last = self.steps[-1] if self.steps else None
        return last if isinstance(last, Patches) else None

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of every result, pixels; None where they depend on the picture."""
        for step in reversed(self.steps):
            if isinstance(step, Resize | CentreCrop | Pad):
                return step.height, step.width
            if not isinstance(step, Header):
                return None
        return None

    @property
    def longest_side(self) -> int:
        """Longer side of the result, pixels; of a grid, that of a square picture. 1 where nothing bounds it."""
        if self.patches is not None:
            return isqrt(self.patches.max_patches) * self.patches.patch
        return max(self.shape or (1, 1))

    @property
    def summary(self) -> str:
        """What is done, in words for a user."""
        return ", ".join(_WORDS[step.kind].format(**step.model_dump()) for step in self.steps) or "left as they are"

    @property
    def most_bytes(self) -> int:
        """Most bytes of one result; 0 where nothing bounds it."""
        if self.patches is not None:
            return self.patches.max_patches * self.patches.patch**2 * 3 * 4
        return 0 if self.shape is None else self.shape[0] * self.shape[1] * 3

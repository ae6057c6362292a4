"""The settings of a `transformers` image processor -> what the pipeline does to a picture, and the pixel statistics.

The library's own class reads the settings, so its defaults and the spellings of older versions are its own: `size` as
one number, Donut's [width, height], `feature_extractor_type`. No code of a directory is run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isclose
from typing import Any

from conf.errors import UserError
from conf.image_plan import (
    AlignLongAxis,
    CentreCrop,
    CropMargin,
    Filter,
    Header,
    ImagePlan,
    Pad,
    Patches,
    Resize,
    ResizeShortest,
    Step,
    Thumbnail,
)

Statistics = tuple[float, float, float]
_FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
_NAMES = ("image_processor_type", "feature_extractor_type")
_NOT_SETTINGS = (*_NAMES, "processor_class", "auto_map", "tokenizer_class")
_NO_FILE = (
    "the source has no preprocessor_config.json: pictures are made ready as for its family's published checkpoints"
)
_NO_WARP = 384  # pixels from which ConvNeXT's processor does not crop


@dataclass(frozen=True)
class ProcessorPlan:
    """`mean` and `std` are of pixels in 0..1; nothing reads them where a plan ends with patches."""

    plan: ImagePlan
    mean: Statistics
    std: Statistics
    notes: tuple[str, ...] = ()  # for the user: what differs from the processor all the same


def no_image(hf: Any, processor: Mapping[str, Any]) -> ProcessorPlan:
    """Return the plan of models that read none: the smallest picture to carry through the pipeline."""
    return ProcessorPlan(ImagePlan.squeeze(32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def square_plan(processor: Mapping[str, Any], published: Mapping[str, Any], side: int) -> ProcessorPlan:
    """Return the plan for an encoder that reads squares of one size; UserError where the processor makes others."""
    read = processor_plan(processor, {**published, "size": {"height": side, "width": side}})
    if read.plan.shape != (side, side):
        height, width = read.plan.shape or (0, 0)
        raise UserError(f"the encoder reads images of {side} x {side}, the image processor makes {height} x {width}")
    return read


def processor_plan(settings: Mapping[str, Any], published: Mapping[str, Any]) -> ProcessorPlan:
    """Read the settings of an image processor; UserError for one that is unknown, or asks for what there is not.

    `published` are the settings of the family's checkpoints, for a directory without such a file, or with one that does
    not say which processor it is of.
    """
    if not settings:
        read = processor_plan(published, {})
        return replace(read, notes=(*read.notes, f"{_NO_FILE}, by a {_stem(published)}ImageProcessor"))
    if not any(settings.get(key) for key in _NAMES):
        settings = {**published, **settings}
    stem = _stem(settings)
    processor = _instance(stem, settings)
    if stem == "Pix2Struct":
        return _pix2struct(processor)
    steps = tuple(_STEPS.get(stem, _usual)(processor))
    if not processor.do_resize and not isinstance(steps[-1] if steps else None, CentreCrop | Pad):
        raise UserError("the image processor leaves pictures at their own size (do_resize is off): set a size there")
    plan = ImagePlan(steps=steps)
    if plan.shape is None:
        raise UserError(
            "the image processor makes pictures of different sizes; turn do_center_crop or do_pad on, or give a "
            "height and a width as its size"
        )
    return ProcessorPlan(plan, *_statistics(processor), _notes(stem, processor))


def _stem(settings: Mapping[str, Any]) -> str:
    """Return the processor's name in the library, without what kind of class it is."""
    name = next((str(settings[key]) for key in _NAMES if settings.get(key)), "")
    stem = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
    if stem not in _SUPPORTED:
        raise UserError(
            f"the image processor {name!r} is not supported; supported are those of {', '.join(_SUPPORTED)}"
        )
    return stem


def _instance(stem: str, settings: Mapping[str, Any]) -> Any:
    """Let the library's class complete the settings."""
    import transformers

    given = {key: value for key, value in settings.items() if key not in _NOT_SETTINGS}
    try:
        return getattr(transformers, f"{stem}ImageProcessorPil")(**given)
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"the settings of the image processor are not valid: {reason}") from None


def _usual(processor: Any) -> list[Step]:
    """Resize, then crop: what most processors do."""
    steps: list[Step] = [_resize(processor)] if processor.do_resize else []
    if processor.do_center_crop:
        steps.append(CentreCrop(height=processor.crop_size.height, width=processor.crop_size.width))
    return steps


def _resize(processor: Any) -> Step:
    size, resampling = processor.size, _filter(processor)
    if size.height and size.width:
        return Resize(height=size.height, width=size.width, filter=resampling)
    if size.shortest_edge and not size.longest_edge:
        return ResizeShortest(size=size.shortest_edge, filter=resampling)
    given = {key: value for key, value in vars(size).items() if value is not None}
    raise UserError(f"an image processor that resizes to {given} is not supported")


def _filter(processor: Any, otherwise: Filter = "bilinear") -> Filter:
    if processor.resample is None:
        return otherwise
    try:
        return _FILTERS[int(processor.resample)]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"the image processor's resample must be a number from 0 to {max(_FILTERS)}, got {processor.resample!r}"
        ) from None


def _convnext(processor: Any) -> list[Step]:
    side, resampling = processor.size.shortest_edge, _filter(processor)
    if side < _NO_WARP:
        larger = int(side / processor.crop_pct)
        return [ResizeShortest(size=larger, filter=resampling), CentreCrop(height=side, width=side)]
    return [Resize(height=side, width=side, filter=resampling)]


def _donut(processor: Any) -> list[Step]:
    gap_and_filter: dict[str, Any] = {"filter": _filter(processor, "bicubic")}
    steps = _page(processor, gap_and_filter)
    if processor.do_center_crop:
        steps.append(CentreCrop(height=processor.crop_size.height, width=processor.crop_size.width))
    return steps


def _nougat(processor: Any) -> list[Step]:
    margin: list[Step] = [CropMargin()] if processor.do_crop_margin else []
    return margin + _page(processor, {"filter": "bicubic", "reducing_gap": 2.0})


def _page(processor: Any, thumbnail: dict[str, Any]) -> list[Step]:
    """Return the steps that Donut and Nougat share."""
    size = {"height": processor.size.height, "width": processor.size.width}
    steps: list[Step] = [AlignLongAxis(**size)] if processor.do_align_long_axis else []
    if processor.do_resize:
        steps.append(ResizeShortest(size=min(size.values()), filter=_filter(processor)))
    if processor.do_thumbnail:
        steps.append(Thumbnail(**size, **thumbnail))
    if processor.do_pad:
        steps.append(Pad(**size, value=0, place="centre"))
    return steps


def _gemma3(processor: Any) -> list[Step]:
    if processor.do_pan_and_scan:
        raise UserError(
            "the source's processor adds crops of long images (do_pan_and_scan), which is not supported; set it to "
            "false in preprocessor_config.json to read whole images"
        )
    return _usual(processor)


def _pix2struct(processor: Any) -> ProcessorPlan:
    patch = processor.patch_size
    if patch.height != patch.width:
        raise UserError(f"patches of {patch.height} x {patch.width} pixels are not supported, only square ones")
    if not processor.do_normalize:
        raise UserError("a Pix2Struct without do_normalize is not supported")
    grid = Patches(patch=patch.height, max_patches=processor.max_patches)
    notes = ()
    if processor.is_vqa:
        notes = (
            "questions are drawn above the picture in the font that comes with Pillow, where the source's processor "
            "downloads Arial: name the file of one with preprocess.header_font",
        )
    steps = (Header(), grid) if processor.is_vqa else (grid,)
    return ProcessorPlan(ImagePlan(steps=steps), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), notes)


_STEPS: dict[str, Callable[[Any], list[Step]]] = {
    "ConvNext": _convnext,
    "Donut": _donut,
    "Gemma3": _gemma3,
    "Nougat": _nougat,
}
_SUPPORTED = (
    "Beit", "Bit", "Blip", "CLIP", "ConvNext", "DeiT", "Donut", "Gemma3", "LayoutLMv3", "Nougat", "Pix2Struct",
    "Siglip", "ViT",
)  # fmt: skip


def _statistics(processor: Any) -> tuple[Statistics, Statistics]:
    """Return mean and deviation with the factor folded in by which the processor makes 0..1 of pixels, or does not."""
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    if isclose(factor, 1.0, rel_tol=1e-9):
        factor = 1.0
    mean = processor.image_mean if processor.do_normalize else 0.0
    std = processor.image_std if processor.do_normalize else 1.0
    return _three("image_mean", mean, factor), _three("image_std", std, factor)


def _three(name: str, value: Any, factor: float) -> Statistics:
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    numbers = all(isinstance(one, int | float) for one in values)
    if len(values) != 3 or not numbers or (name == "image_std" and 0 in values):
        nonzero = "" if name == "image_mean" else ", none of them zero"
        raise UserError(f"the image processor's {name} must be one number or three{nonzero}, got {value!r}")
    red, green, blue = values
    return red / factor, green / factor, blue / factor


def _notes(stem: str, processor: Any) -> tuple[str, ...]:
    if stem == "LayoutLMv3" and processor.apply_ocr:
        return ("words are those that a prompt brings; the source's processor finds them by itself, with Tesseract",)
    return ()

"""From picture files to what a vision encoder reads: a processor's plan against the library's own processor.

Settings are those of published checkpoints, sizes scaled down. Both sides begin with the same decoded pixels.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actors.model.interop.image_plans import ProcessorPlan, processor_plan
from actors.parity.library import draw_headers_in
from conf.errors import UserError
from conf.image_plan import CentreCrop, Pad, Resize, ResizeShortest
from pipeline.images.decode import Upright, decode_whole
from pipeline.images.opening import Refused
from pipeline.images.plan import carry_out
from tests.picture_files import FILES, picture

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
PUBLISHED: dict[str, dict[str, Any]] = {  # (what publishes them; the size there)
    "trocr": {"feature_extractor_type": "ViTFeatureExtractor", "size": 96, "resample": 2, **HALF},  # 384
    "trocr_deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 96, "do_center_crop": False,
                   "crop_size": 56, "resample": 3, **HALF},  # trocr-small: 384
    "lines": {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 256}, **HALF},  # 96 x 512
    "vit_gpt2": {"image_processor_type": "ViTImageProcessor", "size": 56, "resample": 2, **HALF},  # 224
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 64, "crop_size": 56, "do_center_crop": True,
             "resample": 3, **IMAGENET},  # 256 and 224
    "beit": {"feature_extractor_type": "BeitFeatureExtractor", "size": 64, "crop_size": 56, "resample": 2,
             "do_center_crop": True, **HALF},
    "florence2": {"image_processor_type": "CLIPImageProcessor", "size": {"height": 192, "width": 192}, "resample": 3,
                  "crop_size": {"height": 192, "width": 192}, "do_center_crop": False, **IMAGENET},  # 768
    "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 57, "crop_size": 57, "resample": 3, **CLIP},
    "blip": {"image_processor_type": "BlipImageProcessor", "size": {"height": 96, "width": 96}, "do_pad": True,
             "size_divisor": 32, "resample": 3, "rescale_factor": 0.00392156862745098, **CLIP},  # 384
    "donut": {"image_processor_type": "DonutImageProcessor", "size": {"height": 160, "width": 120}, **HALF},
    "donut_cord": {"feature_extractor_type": "DonutFeatureExtractor", "size": [120, 160], "do_thumbnail": True,
                   "do_align_long_axis": False, "do_pad": True, "resample": 2, **HALF},  # [960, 1280]
    "donut_turned": {"feature_extractor_type": "DonutFeatureExtractor", "size": [240, 320], "resample": 2,
                     "do_align_long_axis": True, **HALF},  # [1920, 2560]
    "nougat": {"image_processor_type": "NougatImageProcessor", "do_crop_margin": True, "do_align_long_axis": False,
               "size": {"height": 224, "width": 168}, "resample": 2, **IMAGENET},  # 896 x 672
    "udop": {"image_processor_type": "LayoutLMv3ImageProcessor", "size": 56, "apply_ocr": False, "resample": 2,
             **IMAGENET},  # 224
    "gemma3": {"image_processor_type": "Gemma3ImageProcessorFast", "size": {"height": 112, "width": 112}, "resample": 2,
               "do_pan_and_scan": None, **HALF},  # 896
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 112, "width": 112}, "resample": 3,
               **HALF},  # 448
    "convnext": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 56, "crop_pct": 0.875, "resample": 3,
                 **IMAGENET},  # 224
    "convnext_large": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 384, "resample": 3, **IMAGENET},
    "pix2struct": {"image_processor_type": "Pix2StructImageProcessor", "max_patches": 128,
                   "patch_size": {"height": 16, "width": 16}, "is_vqa": False},  # 2,048
    "pix2struct_vqa": {"image_processor_type": "Pix2StructImageProcessor", "max_patches": 128, "is_vqa": True},
}  # fmt: skip
QUESTION = "What is the total of this receipt, including tax and everything that is printed in small letters below it?"


@cache
def decoded(name: str) -> Image.Image:
    """The pixels that both sides are given."""
    upright = decode_whole(picture(name))
    assert isinstance(upright, Upright)
    return upright.rgb


def ours(read: ProcessorPlan, image: Image.Image) -> np.ndarray:
    """What the encoder computes of what travels: [3, H, W]."""
    pixels = carry_out(image, read.plan, QUESTION)
    if pixels.dtype == np.float32:
        return pixels.transpose(2, 0, 1)
    mean, std = np.float32(read.mean), np.float32(read.std)
    return ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)


def theirs(settings: dict[str, Any], image: Image.Image) -> np.ndarray:
    """The same of the library's own processor, found by the name in the settings as the library finds it."""
    import transformers

    names = ("image_processor_type", "feature_extractor_type")
    name = next(settings[key] for key in names if key in settings)
    stem = name.removesuffix("Fast").removesuffix("FeatureExtractor").removesuffix("ImageProcessor")
    given = {key: value for key, value in settings.items() if key not in names}
    processor = getattr(transformers, f"{stem}ImageProcessorPil")(**given)
    if stem != "Pix2Struct":
        return np.asarray(processor(image)["pixel_values"][0])
    header = {"header_text": QUESTION} if processor.is_vqa else {}
    draw_headers_in(processor, None)
    patches = processor(image, **header)["flattened_patches"][0]
    rows, columns = int(patches[:, 0].max()), int(patches[:, 1].max())
    grid = patches[: rows * columns, 2:].reshape(rows, columns, 16, 16, 3)
    return grid.transpose(4, 0, 2, 1, 3).reshape(3, rows * 16, columns * 16)


@pytest.mark.parametrize("name", PUBLISHED)
def test_encoder_inputs_are_those_of_the_library(name: str) -> None:
    read = processor_plan(PUBLISHED[name], {})
    refused = []
    for file in FILES:
        image = decoded(file)
        try:
            mine = ours(read, image)
        except Refused:
            refused.append(file)
            continue
        other = theirs(PUBLISHED[name], image)
        assert mine.shape == other.shape, file
        assert float(np.abs(mine - other).max()) < 1e-5, file
    thin = {"donut", "donut_cord", "pix2struct_vqa"}  # nothing would be left of 3 x 500 pixels, or 1.2 GB become of it
    assert refused == (["strip.png"] if name in thin else [])


def test_shapes_are_known_before_a_picture_is_seen() -> None:
    shapes = {name: processor_plan(settings, {}).plan.shape for name, settings in PUBLISHED.items()}
    assert shapes["lines"] == (48, 256)
    assert shapes["deit"] == (56, 56)
    assert shapes["donut_cord"] == (160, 120)
    assert shapes["pix2struct"] is None
    assert processor_plan(PUBLISHED["pix2struct"], {}).plan.most_bytes == 128 * 16 * 16 * 3 * 4
    assert processor_plan(PUBLISHED["pix2struct_vqa"], {}).plan.draws_prompt


def test_a_directory_without_the_file_gets_what_is_published() -> None:
    published = {"image_processor_type": "DonutImageProcessor", "size": {"height": 64, "width": 48}}
    assert processor_plan({}, published).plan == processor_plan(published, {}).plan
    untyped = processor_plan({"size": 40}, {"image_processor_type": "ViTImageProcessor", "size": 99})
    assert untyped.plan.steps == (Resize(height=40, width=40, filter="bilinear"),)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"do_center_crop": False, "size": {"height": 50, "width": 60}},
         (Resize(height=50, width=60, filter="bicubic"),)),
        ({"do_resize": False}, (CentreCrop(height=57, width=57),)),
        ({"resample": 1, "crop_size": [40, 30]},
         (ResizeShortest(size=57, filter="lanczos"), CentreCrop(height=40, width=30))),
    ],
)  # fmt: skip
def test_what_is_turned_off_is_no_step(changes: dict[str, Any], steps: tuple[Any, ...]) -> None:
    assert processor_plan({**PUBLISHED["clip"], **changes}, {}).plan.steps == steps


@pytest.mark.parametrize(
    "changes",
    [
        {"rescale_factor": 1 / 128},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": 0.3, "image_std": 0.7},
    ],
)
def test_scaling_is_folded_into_the_statistics(changes: dict[str, Any]) -> None:
    settings = {**PUBLISHED["vit_gpt2"], **changes}
    mine, other = ours(processor_plan(settings, {}), decoded("grey.jpg")), theirs(settings, decoded("grey.jpg"))
    assert np.abs(mine - other).max() <= 1e-6 * max(1.0, float(np.abs(other).max()))


def test_donut_without_some_of_its_steps() -> None:
    for changes in ({"do_thumbnail": False, "size": [300, 100], "do_resize": False}, {"do_resize": False}):
        settings = {**PUBLISHED["donut"], **changes}
        read = processor_plan(settings, {})
        assert isinstance(read.plan.steps[-1], Pad)
        mine, other = ours(read, decoded("one_pixel.png")), theirs(settings, decoded("one_pixel.png"))
        assert float(np.abs(mine - other).max()) < 1e-5


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"image_processor_type": "Qwen2VLImageProcessor"}, "'Qwen2VLImageProcessor' is not supported"),
    "of an own kind": ({"image_processor_type": "../evil"}, "'../evil' is not supported"),
    "crops": ({**PUBLISHED["gemma3"], "do_pan_and_scan": True}, "do_pan_and_scan"),
    "no size": ({**PUBLISHED["vit_gpt2"], "do_resize": False}, "do_resize is off"),
    "any size": ({**PUBLISHED["clip"], "do_center_crop": False}, "pictures of different sizes"),
    "longest": ({**PUBLISHED["clip"], "size": {"shortest_edge": 9, "longest_edge": 20}}, "longest_edge"),
    "not a size": ({**PUBLISHED["clip"], "size": {"depth": 9}}, "settings of the image processor are not valid"),
    "long patches": ({**PUBLISHED["pix2struct"], "patch_size": {"height": 8, "width": 16}}, "only square ones"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_not_supported_is_one_sentence(mistake: str) -> None:
    settings, sentence = MISTAKES[mistake]
    with pytest.raises(UserError, match=sentence) as error:
        processor_plan(settings, {})
    assert "\n" not in str(error.value)

"""`deed bench plans`: JPEG bytes -> what a model reads, by its checkpoint's own plan and by one bilinear square.

The square is that of `deed train`: decoded at 1/2, 1/4 or 1/8 where that leaves twice its side. Times are CPU seconds,
the best of several rounds, all in turn. The last line of stdout is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conf.image_plan import ImagePlan

QUESTION = "What is the total of this receipt?"
PUBLISHED: dict[str, dict[str, Any]] = {  # image processors of published checkpoints
    "ViT-GPT2": {"image_processor_type": "ViTImageProcessor", "size": 224},
    "DeiT": {"image_processor_type": "DeiTImageProcessor", "size": 256, "crop_size": 224},
    "UDOP": {"image_processor_type": "LayoutLMv3ImageProcessor", "size": 224, "resample": 1},
    "TrOCR": {"image_processor_type": "ViTImageProcessor", "size": 384},
    "BLIP": {"image_processor_type": "BlipImageProcessor", "size": 384},
    "Florence-2": {"image_processor_type": "CLIPImageProcessor", "size": {"height": 768, "width": 768},
                   "do_center_crop": False},
    "T5Gemma 2": {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 896, "width": 896}},
    "Nougat": {"image_processor_type": "NougatImageProcessor", "size": {"height": 896, "width": 672}},
    "Donut": {"image_processor_type": "DonutImageProcessor", "size": {"height": 1280, "width": 960}},
    "Donut, 2560": {"image_processor_type": "DonutImageProcessor", "size": {"height": 2560, "width": 1920},
                    "do_align_long_axis": True},
    "Pix2Struct": {"image_processor_type": "Pix2StructImageProcessor"},
    "Pix2Struct VQA": {"image_processor_type": "Pix2StructImageProcessor", "is_vqa": True},
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench plans", description=__doc__)
    parser.add_argument("--sizes", default="640,1600,4000", help="width of the 4:3 JPEGs (default: %(default)s)")
    parser.add_argument("--images", type=int, default=4, help="different files of each size (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--models", help="some of: " + "; ".join(PUBLISHED))
    options = parser.parse_args(arguments)
    chosen = PUBLISHED if options.models is None else {name: PUBLISHED[name] for name in options.models.split(";")}
    rows = []
    for width in (int(width) for width in options.sizes.split(",")):
        from jobs.bench.bench_shards import photos

        encode = photos(width, options.images, height_px=width * 3 // 4)
        images = [encode(n) for n in range(options.images)]
        for name, settings in chosen.items():
            rows.append({"model": name, "jpeg_width_px": width, **measure(settings, images, options.rounds)})
            print(_line(rows[-1]), flush=True)
    print(json.dumps({"schema_version": 1, "load_average": os.getloadavg()[0], "rows": rows}))
    return 0


def measure(settings: Mapping[str, Any], images: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Return images for each CPU second: the square, the plan, and the plan with JPEGs decoded at a smaller scale."""
    from actors.model.interop.image_plans import processor_plan
    from conf.image_plan import ImagePlan

    exact = processor_plan(settings, {}).plan
    plans = {
        "square": ImagePlan.squeeze(exact.longest_side),
        "exact": exact,
        "scaled_decode": exact.model_copy(update={"scaled_decode": True}),
    }
    best_s = dict.fromkeys(plans, float("inf"))
    for _ in range(rounds):
        for name, plan in plans.items():
            best_s[name] = min(best_s[name], _cpu_seconds(plan, images))
    return {f"{name}_images_per_s": len(images) / seconds for name, seconds in best_s.items()}


def _cpu_seconds(plan: "ImagePlan", images: Sequence[bytes]) -> float:
    from pipeline.images.decode import Pixels, image_to_pixels

    start_s = time.process_time()
    for data in images:
        pixels = image_to_pixels(data, plan=plan, texts=(QUESTION,))
        assert isinstance(pixels, Pixels), pixels
    return time.process_time() - start_s


def _line(row: Mapping[str, Any]) -> str:
    square, exact, scaled = (row[f"{name}_images_per_s"] for name in ("square", "exact", "scaled_decode"))
    return (
        f"{row['jpeg_width_px']:>5} px  {row['model']:<15} square {square:>7.1f} images/s  exact {exact:>7.1f} "
        f"({exact / square:.2f} x)  scaled decode {scaled:>7.1f} ({scaled / square:.2f} x)"
    )

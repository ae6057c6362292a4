"""`deed bench decoders`: JPEG bytes -> model-sized pixels, by what the pipeline does and by other libraries.

Every candidate gets the same files, may use the decoder's own 1/2, 1/4, 1/8, and ends with the same resize: only the
decoder differs. One process, one thread; rounds of all candidates in turn, the best round counts. A library that is
not installed is named and left out. The last line of stdout is one JSON object.
"""

import argparse
import importlib.metadata
import io
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Decoder = Callable[[bytes, int], npt.NDArray[np.uint8]]  # (JPEG, image_size) -> image_size x image_size x 3


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench decoders", description=__doc__)
    parser.add_argument(
        "--sizes", default="256,512,1024,2048", help="pixels a side of the JPEGs (default: %(default)s)"
    )
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side of the model (default: %(default)s)")
    parser.add_argument("--images", type=int, default=32, help="different files of each size (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    decoders, absent = available()
    for name in absent:
        print(f"{name}: not installed")
    rows = []
    for size in (int(size) for size in options.sizes.split(",")):
        rows += measure(decoders, size, options.image_size, options.images, options.rounds)
        for row in rows[-len(decoders) :]:
            print(_line(row), flush=True)
    versions = {name: importlib.metadata.version(name.split()[0]) for name in decoders if name != "pipeline"}
    print(json.dumps({"schema_version": 1, "image_size": options.image_size, "versions": versions, "rows": rows}))
    return 0


def available() -> tuple[dict[str, Decoder], list[str]]:
    """(name -> decoder of what is installed, names of what is not). All are held against the first."""
    found: dict[str, Decoder] = {"pipeline": _pipeline, "pillow": _pillow, "pillow full size": _pillow_full_size}
    absent = []
    for name, make in {"simplejpeg": _simplejpeg, "PyTurboJPEG": _turbojpeg, "opencv-python-headless": _opencv}.items():
        try:
            found[name] = make()
        except (ImportError, RuntimeError, OSError):  # PyTurboJPEG needs a library of the system
            absent.append(name)
    return found, absent


def measure(
    decoders: dict[str, Decoder], size_px: int, image_size: int, num_images: int, rounds: int
) -> list[dict[str, Any]]:
    """One row for each decoder: images/s, that over the pipeline's, and how far its pixels are from the pipeline's."""
    from jobs.bench.bench_shards import photos

    encode = photos(size_px, num_images)
    images = [encode(n) for n in range(num_images)]
    expected = [decoders["pipeline"](data, image_size).astype(np.int16) for data in images]
    best_s = dict.fromkeys(decoders, float("inf"))
    for _ in range(rounds):
        for name, decode in decoders.items():
            start_s = time.perf_counter()
            for data in images:
                decode(data, image_size)
            best_s[name] = min(best_s[name], time.perf_counter() - start_s)
    return [
        {
            "decoder": name,
            "jpeg_px": size_px,
            "images_per_s": num_images / best_s[name],
            "over_pipeline": best_s["pipeline"] / best_s[name],
            "mean_difference": float(
                np.mean([np.abs(decode(data, image_size) - e).mean() for data, e in zip(images, expected, strict=True)])
            ),
        }
        for name, decode in decoders.items()
    ]


def _pipeline(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
    """Do all that preprocessing does, hash included."""
    from conf.image_plan import ImagePlan
    from pipeline.images.decode import Pixels, image_to_pixels

    pixels = image_to_pixels(data, plan=ImagePlan.squeeze(image_size))
    assert isinstance(pixels, Pixels), pixels
    return pixels.pixels_HWC


def _pillow(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("RGB", (2 * image_size, 2 * image_size))
        return _resized(image, image_size)


def _pillow_full_size(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return _resized(image, image_size)


def _simplejpeg() -> Decoder:
    import simplejpeg
    from PIL import Image

    def decode(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
        least = 2 * image_size
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if min(height, width) < least:  # a minimum that cannot be met is refused
            return _resized(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB")), image_size)
        return _resized(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", False, False, least, least)), image_size)

    return decode


def _turbojpeg() -> Decoder:
    import turbojpeg
    from PIL import Image

    decoder = turbojpeg.TurboJPEG()

    def decode(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
        width, height, *_ = decoder.decode_header(data)
        scale = next((s for s in (8, 4, 2) if min(width, height) // s >= 2 * image_size), 1)
        array = decoder.decode(data, turbojpeg.TJPF_RGB, scaling_factor=(1, scale))
        return _resized(Image.fromarray(array), image_size)

    return decode


def _opencv() -> Decoder:
    import cv2
    from PIL import Image

    cv2.setNumThreads(1)
    reduced = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

    def decode(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # OpenCV cannot tell the size beforehand
            side = min(image.size)
        scale = next((s for s in (8, 4, 2) if side // s >= 2 * image_size), 1)
        array = cv2.imdecode(np.frombuffer(data, np.uint8), reduced.get(scale, cv2.IMREAD_COLOR))
        return _resized(Image.fromarray(cv2.cvtColor(array, cv2.COLOR_BGR2RGB)), image_size)

    return decode


def _resized(image: Any, image_size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    return np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR), np.uint8)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['jpeg_px']:>5} px  {row['decoder']:<24} {row['images_per_s']:>8.0f} images/s  "
        f"{row['over_pipeline']:.2f} x pipeline  pixels differ by {row['mean_difference']:.2f} of 255"
    )

"""Scenes to WebDataset tars, byte for byte the same for the same configuration, whatever the number of processes."""

import io
import itertools
import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from jobs.scenes.config import ScenesConfig
from jobs.scenes.drawing import load_font, render
from jobs.scenes.scene_captions import captions
from jobs.scenes.scene_questions import questions
from jobs.scenes.world import SIDE, Scene, Sign, compose, scene_generator

Row = dict[str, Any]


def write_shards(config: ScenesConfig) -> Iterator[Path]:
    """Write every shard that is not there yet and yield all paths in order of completion.

    A shard appears under its name only when it is whole, so a killed run continues where it stopped.
    """
    count = -(-config.num_images // config.images_per_shard)
    folder = Path(config.out) / config.split
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(config, number) for number in range(count)]
    if config.num_workers == 1:
        yield from map(write_shard, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(config.num_workers) as pool:
        yield from pool.imap_unordered(write_shard, jobs)


def write_shard(job: tuple[ScenesConfig, int]) -> Path:
    config, number = job
    path = Path(config.out) / config.split / f"scenes-{config.split}-{number:06d}.tar"
    if path.exists():
        return path
    first = number * config.images_per_shard
    partial = path.with_suffix(f".tar.{os.getpid()}.partial")
    with partial.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(first, min(first + config.images_per_shard, config.num_images)):
            image, row = make_scene(config.seed, config.split, index, config)
            add_member(tar, f"{row['key']}.jpg", jpeg_bytes(image, config.jpeg_quality))
            add_member(tar, f"{row['key']}.json", json.dumps(row).encode())
    partial.rename(path)
    return path


def make_scene(seed: int, split: str, index: int, config: ScenesConfig) -> tuple[Image.Image, Row]:
    """Return one scene by its number: the picture and the row that goes into `key.json`. Needs no other scene."""
    scene = compose(seed, split, index, config)
    return render(scene, config.image_size), describe(scene, seed, config)


def describe(scene: Scene, seed: int, config: ScenesConfig) -> Row:
    """Texts and ground truth; lengths in pixels of this image size."""
    scale = config.image_size / SIDE
    asked = questions(scene, scene_generator(seed, scene.split, scene.index, purpose=1), config.questions)
    return {
        "key": f"{scene.split}-{scene.index:07d}",
        "captions": captions(scene),
        "qa": [{"task": q.task, "hard": q.hard, "question": q.question, "answer": q.answer} for q in asked],
        "objects": [
            {
                "name": thing.name,
                "x": round(thing.x * scale, 1),
                "y": round(thing.y * scale, 1),
                "size": thing.size,
                "side": round(thing.side * scale, 1),
                "card": thing.card,
            }
            for thing in scene.things
        ],
        "background": scene.background,
        "sign": None if scene.sign is None else describe_sign(scene.sign, scale),
        "image_size": config.image_size,
    }


def describe_sign(sign: Sign, scale: float) -> Row:
    """Return what is printed and where: a box for every plate, and where the centre of each of its characters is."""
    plates = []
    for plate in sign.plates:
        font = load_font(round(plate.font_px * scale))
        ends = [font.getlength(plate.text[:i]) for i in range(len(plate.text) + 1)]
        left = plate.x * scale - ends[-1] / 2
        plates.append({
            "text": plate.text,
            "x": round(plate.x * scale, 1),
            "y": round(plate.y * scale, 1),
            "width": round(plate.width * scale, 1),
            "height": round(plate.height * scale, 1),
            "character_x": [round(left + (a + b) / 2, 1) for a, b in itertools.pairwise(ends)],
        })  # fmt: skip
    return {"kind": sign.kind.value, "text": sign.text, "plates": plates}


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def add_member(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime 0, no owner: the same bytes at every writing
    member.size = len(payload)
    tar.addfile(member, io.BytesIO(payload))

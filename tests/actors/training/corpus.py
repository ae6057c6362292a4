"""A tiny corpus in the trainer's format: coloured squares, one caption and two questions an image."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from conf.training import TrainConfig

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


def write_corpus(
    directory: Path, num_images: int, *, per_shard: int = 16, image_size: int = 32, places: bool = True
) -> str:
    """Write shards and return their glob."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = list(COLORS)
    for shard in range(-(-num_images // per_shard)):
        with tarfile.open(directory / f"s-{shard:03d}.tar", "w") as archive:
            for i in range(shard * per_shard, min(num_images, (shard + 1) * per_shard)):
                name = names[rng.integers(len(names))]
                image = Image.new("RGB", (image_size, image_size), COLORS[name])
                buffer = io.BytesIO()
                image.save(buffer, "JPEG")
                record = {
                    "captions": [{"prompt": "describe", "text": f"a {name} square {i % 7}"}],
                    "qa": [
                        {"task": "color", "hard": False, "question": "what color is it?", "answer": name},
                        {
                            "task": "red",
                            "hard": True,
                            "question": "is it red?",
                            "answer": "yes" if name == "red" else "no",
                        },
                    ],
                    "objects": [{"name": f"{name} square", "x": 5.0 * (i % 6), "y": 20.0}],
                    "sign": {
                        "plates": [
                            {
                                "text": f"{i % 7}A",
                                "x": 8.0,
                                "y": 4.0,
                                "width": 10.0,
                                "height": 6.0,
                                "character_x": [6.0, 20.0],
                            }
                        ]
                    },
                    "image_size": image_size,
                }
                if not places:
                    del record["objects"], record["sign"]
                for extension, payload in (("jpg", buffer.getvalue()), ("json", json.dumps(record).encode())):
                    member = tarfile.TarInfo(f"k{i:05d}.{extension}")
                    member.size = len(payload)
                    archive.addfile(member, io.BytesIO(payload))
    return str(directory / "*.tar")


def tiny_config(output: Path, shards: str, **changes: object) -> TrainConfig:
    """Return a configuration that trains in well under a second per step."""
    values: dict[str, object] = {
        "output": str(output),
        "num_threads": 1,
        "device": "cpu",
        "tokenizer": {"vocab_size": 300, "num_samples": 32},
        "architecture": {
            "image_size": 32, "d_model": 32, "num_heads": 2, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 3,
            "stem_channels": [4, 8, 16], "max_positions": 32, "max_prompt_tokens": 24,
        },
        "data": {
            "train": [shards], "validation": [shards], "prompt_tokens": 40, "target_tokens": 40, "shuffle_shards": 2,
        },
        "optimizer": {"batch_images": 4, "total_steps": 12, "warmup_steps": 2, "peak_lr": 3e-3},
        "validate_every": 100, "save_every": 4, "validation_images": 8,
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})

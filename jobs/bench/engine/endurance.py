"""`deed bench engine --endurance N`: does memory grow while a tiny engine runs N sequences?

Resident memory is read at intervals. The engine must also hold no more Python objects than before: a leak that the
allocator's slack would hide is one object a sequence.
"""

import gc
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SAMPLES = 20
WARM_UP_SHARE = 0.3  # of the sequences, after which memory must stay where it is
ALLOWED_BYTES = 8_000_000
ALLOWED_OBJECTS = 1_000
_SEED = 0


def endure(num_sequences: int, command: str) -> int:
    """Exit code 1 when memory grew."""
    from conf.errors import UserError

    if num_sequences < SAMPLES:
        raise UserError(f"--endurance needs at least {SAMPLES} sequences, got {num_sequences}")
    import torch

    from jobs.bench.engine.origin import origin

    engine, contents = _tiny_engine()
    every, start_s = num_sequences // SAMPLES, time.perf_counter()
    added = done = 0
    memory: list[tuple[int, int]] = []
    objects: list[tuple[int, int]] = []
    while done < num_sequences:
        while added < num_sequences and added - done < 200:
            engine.add(_request(added, contents))
            added += 1
        before, done = done, done + len(engine.step())
        if done // every > before // every:
            gc.collect()
            memory.append((done, resident_bytes()))
            objects.append((done, len(gc.get_objects())))
            print(f"{done:>8} sequences: {memory[-1][1] / 1e6:.1f} MB, {objects[-1][1]} Python objects", flush=True)
    engine.scheduler.check_integrity()
    more_bytes, more_objects = growth(memory), growth(objects)
    grew = more_bytes > ALLOWED_BYTES or more_objects > ALLOWED_OBJECTS
    print(f"after the warm-up: {more_bytes / 1e6:+.1f} MB, {more_objects:+.0f} objects: {'GREW' if grew else 'flat'}")
    print(json.dumps({
        "schema_version": 1, **origin(command, torch.get_num_threads(), _SEED, "float32"),
        "rows_in": added, "rows_out": done,
        "wall_s": time.perf_counter() - start_s, "memory": memory, "objects": objects,
        "grown_bytes": more_bytes, "grown_objects": more_objects, "grew": grew,
    }))  # fmt: skip
    return int(grew)


def growth(samples: Sequence[tuple[int, float]]) -> float:
    """(sequences, size) -> what the size gained from the end of the warm-up to the end, by medians of a few samples."""
    total = samples[-1][0]
    settled = [size for count, size in samples if count >= WARM_UP_SHARE * total]
    few = max(1, len(settled) // 4)
    return statistics.median(settled[-few:]) - statistics.median(settled[:few])


def resident_bytes() -> int:
    import os

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _tiny_engine() -> tuple[Any, list[tuple[Any, tuple[int, ...]]]]:
    """An engine whose sequences leave at all exits, and images with prompts for it."""
    import numpy as np
    import torch

    from actors.engine.engine import Engine
    from actors.model.model import MultiExitModel
    from conf.model import DecoderConfig, ModelConfig, ScenesEncoderConfig
    from conf.schema import EngineConfig

    torch.manual_seed(_SEED)
    config = ModelConfig(
        name="tiny", image_size=32, exits=(1, 2, 3),
        encoder=ScenesEncoderConfig(
            num_layers=1, d_model=32, num_heads=2, d_ff=48, stem_channels=(4, 4, 8), max_prompt_tokens=8
        ),
        decoder=DecoderConfig(
            num_layers=3, d_model=32, num_heads=2, d_head=16, d_ff=48, d_cross=32, vocab_size=40, max_positions=16
        ),
    )  # fmt: skip
    model = MultiExitModel(config)
    with torch.no_grad():
        model.decoder.head.weight *= 2.5
    settings = EngineConfig.model_validate({
        "num_slots": 32, "thresholds": (0.3, 0.5), "generation": {"max_new_tokens": 8},
    })  # fmt: skip
    rng = np.random.default_rng(_SEED)
    contents = [
        (rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), tuple(int(x) for x in rng.integers(3, 40, 1 + i % 8)))
        for i in range(64)
    ]
    return Engine(model.eval().requires_grad_(False), settings), contents


def _request(number: int, contents: list[tuple[Any, tuple[int, ...]]]) -> Any:
    from actors.engine.request import Request

    return Request(number, *contents[number % len(contents)], max_new_tokens=1 + number % 8)

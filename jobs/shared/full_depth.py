"""`deed report RUN --ab N`: some of a run's rows decoded again, as the run did it and at full depth, in this process.

Both engines get the same pixels and prompts, read from the run's own source, and take turns after a warm-up, so that a
machine that slows down slows both. What is measured is stored beside the run: every report of it shows it from then on.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import fmean
from typing import TYPE_CHECKING, Any

from conf.engine import EngineConfig, Schedule
from conf.errors import UserError
from conf.model import ModelConfig
from conf.resolve import image_plan
from conf.schema import ModelSection, PreprocessConfig
from conf.source import PromptConfig
from pipeline.report.folder import FULL_DEPTH_SAMPLE, RunFolder
from pipeline.report.work import Work, layers_run, of_kept_tokens, work_of
from pipeline.source.prompts import limit_of, make_prompts
from pipeline.text import json_text

if TYPE_CHECKING:
    from actors.backend import Backend
    from actors.engine.request import Completion, Request
    from actors.engine.stats import EngineStats

PASSES = 3  # timed, of each engine
_COLUMNS = ("sample_id", "shard", "key", "prompt_index", "prompt", "text")


def measure_full_depth(url: str, num_rows: int, passes: int = PASSES) -> dict[str, Any]:
    """Measure, store and return the sample; UserError where the run cannot be decoded again as it was."""
    from actors.backend import load_backend
    from conf.checkpoint_info import read_checkpoint_info

    folder = RunFolder(url)
    record = folder.read_record() or {}
    config = record.get("config")
    if not config:
        raise UserError(f"{url!r} has no run.json with its configuration yet; --ab needs a run that has ended")
    engine, model = EngineConfig.from_record(config["engine"]), ModelSection.model_validate(config["model"])
    if engine.schedule is Schedule.FULL:
        raise UserError(f"{url!r} ran at full depth already: there is nothing to compare")
    info = read_checkpoint_info(model.checkpoint)
    if info.weights_sha256 != record.get("weights_sha256"):
        raise UserError(f"checkpoint {model.checkpoint!r} no longer holds the weights that {url!r} was made with")
    num_threads = model.num_threads or max(1, int(config["actors"]["num_cpus"]))
    as_run = load_backend(model, engine, num_threads)
    full = load_backend(model, engine.at_full_depth(), num_threads)
    prompt = PromptConfig.model_validate(config["source"]["prompt"])
    rows, requests = _sampled_requests(folder, as_run, num_rows, config["preprocess"], prompt, info.model)

    _decode(as_run, requests[: engine.num_slots])  # warm-up, not counted
    _decode(full, requests[: engine.num_slots])
    timed: dict[bool, list[_Pass]] = {False: [], True: []}
    for number in range(passes):
        for is_full in (False, True) if number % 2 == 0 else (True, False):
            timed[is_full].append(_decode(full if is_full else as_run, requests))
    sample = _summary(rows, timed[False], timed[True], as_run, work_of(config["engine"]), info.model.decoder.num_layers)
    sample |= {"measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"), "device": as_run.device}
    folder.storage.write(FULL_DEPTH_SAMPLE, json_text(sample, indent=2).encode())
    return sample


def _sampled_requests(
    folder: RunFolder,
    backend: "Backend",
    num_rows: int,
    preprocess: Mapping[str, Any],
    prompt: PromptConfig,
    model: ModelConfig,
) -> tuple[list[dict[str, Any]], list["Request"]]:
    """Return the sampled rows that are still in the source, and their requests."""
    from actors.engine.request import Request
    from jobs.shared.source_rows import read_samples
    from pipeline.images.decode import Pixels, image_to_pixels
    from pipeline.report.picks import Tag
    from pipeline.report.scan import scan_run

    given = {name: value for name, value in preprocess.items() if name in PreprocessConfig.model_fields}
    plan = image_plan(model, PreprocessConfig.model_validate(given))
    scan = scan_run(folder, num_examples=0, num_sampled=num_rows)
    picked = list(folder.rows(scan.results.picks[Tag.SAMPLE].picks, _COLUMNS).values())
    limits = {name: preprocess[name] for name in ("max_pixels", "max_decode_bytes") if name in preprocess}
    asked: dict[tuple[str, str], list[str]] = {}
    for row in picked:
        asked.setdefault((row["shard"], row["key"]), []).append(row["prompt"])
    pixels, fields = {}, {}
    for key, raw in read_samples(folder, set(asked)):
        decoded = image_to_pixels(raw.image or b"", plan=plan, texts=asked[key], **limits)
        if isinstance(decoded, Pixels):
            arrays = decoded.arrays if plan.draws_prompt else decoded.arrays * len(asked[key])
            pixels[key], fields[key] = dict(zip(asked[key], arrays, strict=True)), raw.fields
    rows = [row for row in picked if (row["shard"], row["key"]) in pixels]
    if not rows:
        raise UserError(f"none of the sampled rows of {folder.url!r} can be read from its source again")
    if len(rows) < len(picked):
        print(f"--ab: {len(picked) - len(rows)} of {len(picked)} rows are no longer in the source", file=sys.stderr)
    requests = [
        Request(
            i,
            pixels[row["shard"], row["key"]][row["prompt"]],
            backend.encode_prompt(row["prompt"]),
            max_new_tokens=_limit(prompt, row, fields[row["shard"], row["key"]]),
            prefix_ids=backend.encode_prefix(row["prompt"]),
        )
        for i, row in enumerate(rows)
    ]
    return rows, requests


def _limit(prompt: PromptConfig, row: Mapping[str, Any], fields: Mapping[str, Any]) -> int | None:
    """Return the row's own limit of tokens, if its source gives any."""
    if prompt.limit_field is None:
        return None
    own = make_prompts(prompt, fields)[row["prompt_index"]].own
    return limit_of(prompt, {**fields, **own})


@dataclass(frozen=True)
class _Pass:
    completions: "list[Completion]"
    stats: "EngineStats"

    @property
    def device_s(self) -> float:
        return sum(completion.device_s for completion in self.completions)

    @property
    def decoder_s(self) -> float:
        return sum(self.stats.segment_s)

    @property
    def full_depth_s(self) -> float | None:
        """What the engine makes of `decoder_s` at full depth."""
        stats = self.stats
        if stats.full_depth_s is None:
            return None
        return of_kept_tokens(stats.full_depth_s, stats.num_tokens, stats.segment_rows[0])


def _decode(backend: "Backend", requests: Sequence["Request"]) -> _Pass:
    """Return the completions of the requests, in their order, all offered to a fresh engine at once."""
    from actors.engine.drain import drain

    engine = backend.make_engine()
    return _Pass(drain(engine, requests), engine.take_stats())


def _summary(
    rows: Sequence[dict[str, Any]],
    early_passes: Sequence[_Pass],
    full_passes: Sequence[_Pass],
    backend: "Backend",
    work: Work,
    num_layers: int,
) -> dict[str, Any]:
    """Return sums over the rows (device seconds: mean of the passes), and each row with both texts."""
    early, full = early_passes[0].completions, full_passes[0].completions
    texts = [
        (backend.decode_tokens(a.token_ids), backend.decode_tokens(b.token_ids))
        for a, b in zip(early, full, strict=True)
    ]
    pairs = [(a.token_ids, b.token_ids) for a, b in zip(early, full, strict=True)]
    equal_tokens = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
    return {
        "rows": len(rows),
        "equal_texts": sum(a == b for a, b in texts),
        "equal_published": sum(row["text"] == text for row, (text, _) in zip(rows, texts, strict=True)),
        "equal_tokens": equal_tokens,
        "tokens": sum(max(len(a), len(b)) for a, b in pairs),
        "layers_computed": sum(layers_run(c.exit_layers, work, num_layers) or 0 for c in early),
        "layers_computed_full": sum(itertools.chain.from_iterable(c.exit_layers for c in full)),
        "device_s": fmean(one.device_s for one in early_passes),
        "device_s_full": fmean(one.device_s for one in full_passes),
        "passes": [
            {
                "device_s": a.device_s,
                "device_s_full": b.device_s,
                "decoder_s": a.decoder_s,
                "decoder_s_full": b.decoder_s,
                "decoder_s_estimated": a.full_depth_s,
            }
            for a, b in zip(early_passes, full_passes, strict=True)
        ],
        "samples": [
            {**{name: row[name] for name in ("sample_id", "prompt_index")}, "text": text, "text_full": text_full}
            for row, (text, text_full) in zip(rows, texts, strict=True)
        ],
    }

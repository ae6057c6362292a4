"""Read a `transformers` model directory without running any of its code: configurations, weights, tokenizer."""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.model.interop import florence2_remote
from actors.model.interop.families import family_of
from actors.model.interop.family import Family
from actors.model.interop.processor_files import PROCESSOR_FILES, read_image_processor
from actors.model.interop.tokenizer_files import TOKENIZER_SETTINGS
from actors.model.interop.weight_files import read_weights
from actors.model.layer_counts import check_layer_counts
from conf.errors import UserError
from conf.json_file import read_object
from conf.licence import travelling_texts
from conf.model_folders import instead_of

QFORMER_TOKENIZER = "qformer_tokenizer"  # a directory of InstructBLIP
_SIDE_FILES = (
    "generation_config.json", *PROCESSOR_FILES, *TOKENIZER_SETTINGS, "chat_template.jinja",
    *(f"{QFORMER_TOKENIZER}/{name}" for name in ("tokenizer.json", "vocab.txt", *TOKENIZER_SETTINGS)),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a directory holds, in the library's words. `generation` is None where there is no generation_config.json."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any] | None
    processor: dict[str, Any]  # of the image processor
    tensors: dict[str, Tensor]  # under the names they have in the files, or the library's for a layout it has not


def read_source(path: str | Path) -> Source:
    """Read a source directory; raise UserError, in one sentence, on anything that keeps it from being read."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"source {str(path)!r} is not a directory{instead_of(path)}")
    config = read_object(path / "config.json")
    if config is None:
        raise UserError(f"source {str(path)!r} has no config.json{instead_of(path)}")
    if "model_type" not in config:
        already = "; it is a checkpoint already, which every command takes as it is" if "exits" in config else ""
        raise UserError(f"the config.json of source {str(path)!r} names no model_type{already}")
    if "quantization_config" in config:
        raise UserError(f"source {str(path)!r} is quantised; convert the original weights")
    family_of(config)  # no file of a model that is not supported is looked at
    remote = florence2_remote.is_remote(config)
    config = florence2_remote.native_config(config) if remote else config
    generation = read_object(path / "generation_config.json")
    tensors = read_weights(path)
    tensors = florence2_remote.native_tensors(tensors) if remote else tensors
    check_layer_counts(config, len(tensors), f"source {str(path)!r}")
    processor = read_image_processor(path)
    return Source(path, config, generation, processor, tensors)


def side_files(folder: Path) -> list[str]:
    """Return the files of a source that are kept beside converted weights, for the way back: settings, which are read,
    and texts, which must stay with the model."""
    return [*(name for name in _SIDE_FILES if (folder / name).is_file()), *travelling_texts(folder)]


def load_tensors(source: Source, family: Family, hf: Any) -> dict[str, Tensor]:
    """Return every tensor under the library's present names: it renames what older versions wrote.

    A class of the library is called, never one the directory names.
    """
    import transformers

    try:
        model, report = getattr(transformers, family.model_class).from_pretrained(
            None, config=hf, state_dict=dict(source.tensors), output_loading_info=True,
            dtype=_dtype(source.tensors), ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"the weights of {str(source.path)!r} cannot be loaded: {reason}") from None
    if wrong := sorted(report["mismatched_keys"]):
        name, stored, wanted = wrong[0]
        raise UserError(f"source tensor {name!r} has shape {list(stored)} where the configuration says {list(wanted)}")
    if missing := sorted(name for name in report["missing_keys"] if not family.is_ignored(name)):
        raise UserError(f"the source weights lack the tensor {missing[0]!r} ({len(missing)} missing)")
    if unknown := sorted(name for name in report["unexpected_keys"] if not family.is_ignored(name)):
        raise UserError(f"the source weights hold the unknown tensor {unknown[0]!r} ({len(unknown)} unknown)")
    return dict(model.state_dict())


def _dtype(tensors: dict[str, Tensor]) -> torch.dtype:
    """Return the smallest type that holds every stored number; what config.json says of it is a wish."""
    stored = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return reduce(torch.promote_types, stored) if stored else torch.float32

"""Checkpoint directories: config.json + model.safetensors + tokenizer.json. No pickle is ever read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from actors.model.encoders import tie, tied_names
from actors.model.layer_counts import check_layer_counts
from actors.model.model import MultiExitModel
from actors.model.tokenizer import TextCodec, load_tokenizer
from conf.checkpoint_files import (
    QFORMER_TOKENIZER_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    read_model_config,
    weights_sha256,
    write_model_config,
)
from conf.encoder import ScenesEncoderConfig
from conf.errors import UserError
from conf.model import ModelConfig

_ONCE_STORED = "encoder.vision.pooler."  # of checkpoints converted when encoders still had it; nothing reads it


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to run, and what turns text into its tokens."""

    model: MultiExitModel
    codec: TextCodec
    config: ModelConfig
    sha256: str


def save_checkpoint(
    path: str | Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
    qformer_tokenizer: Tokenizer | None = None,
) -> None:
    """Write a checkpoint directory; floating-point weights are stored as `dtype`."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    ties = tied_names(config)
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in state.items()
        if name not in ties
    }
    save_file(tensors, path / WEIGHTS_FILE)
    write_model_config(path, config)
    tokenizer.save(str(path / TOKENIZER_FILE))
    if qformer_tokenizer is not None:
        qformer_tokenizer.save(str(path / QFORMER_TOKENIZER_FILE))


def load_checkpoint(path: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> Checkpoint:
    """Load a checkpoint directory in eval mode; UserError with one sentence on anything wrong with it."""
    config = read_model_config(path)
    with _opened(Path(path) / WEIGHTS_FILE) as file:
        check_layer_counts(config.model_dump(mode="json"), len(file.keys()), f"checkpoint {str(path)!r}")
    model = _without_storage(config)
    expected = dict(model.state_dict())
    weights = _read_weights(Path(path) / WEIGHTS_FILE, expected, tied_names(config))
    model.load_state_dict(
        {name: t.to(dtype) if dtype and t.is_floating_point() else t for name, t in weights.items()},
        strict=True,
        assign=True,
    )
    tie(model, config)
    model.encoder.set_pixel_statistics(config)
    model = model.to(device).eval().requires_grad_(False)
    tokenizer = load_tokenizer(Path(path) / TOKENIZER_FILE)
    from_scratch = isinstance(config.encoder, ScenesEncoderConfig)  # others bring image tokens that no text has
    if from_scratch and tokenizer.get_vocab_size() > config.decoder.vocab_size:
        raise UserError(
            f"tokenizer of checkpoint {str(path)!r} has {tokenizer.get_vocab_size()} entries, "
            f"the model only {config.decoder.vocab_size}"
        )
    qformer = load_tokenizer(Path(path) / QFORMER_TOKENIZER_FILE) if config.text.qformer else None
    return Checkpoint(model, TextCodec.of(tokenizer, config, qformer), config, weights_sha256(path))


def check_checkpoint(path: str | Path) -> None:
    """UserError in one sentence where `load_checkpoint` would have one; of the weights only the header is read."""
    config = read_model_config(path)
    load_tokenizer(Path(path) / TOKENIZER_FILE)
    if config.text.qformer:
        load_tokenizer(Path(path) / QFORMER_TOKENIZER_FILE)
    with _opened(Path(path) / WEIGHTS_FILE) as file:
        check_layer_counts(config.model_dump(mode="json"), len(file.keys()), f"checkpoint {str(path)!r}")
        expected = _without_storage(config).state_dict()
        _check_header(Path(path) / WEIGHTS_FILE, file, expected, tied_names(config))


def _without_storage(config: ModelConfig) -> MultiExitModel:
    try:
        with torch.device("meta"):
            return MultiExitModel(config)
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes that no tensor can have
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"no model can be built from the checkpoint's config.json: {reason}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {str(path)!r} are not readable safetensors: {error}") from None


def _read_weights(path: Path, expected: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, Tensor]:
    with _opened(path) as file:
        _check_header(path, file, expected, ties)
        weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in sorted(set(expected) - set(ties))}
    weights |= {copy: weights[original] for copy, original in ties.items()}
    return weights


def _check_header(path: Path, file: Any, expected: Mapping[str, Tensor], ties: Mapping[str, str]) -> None:
    """Raise UserError for the first tensor that is missing, unknown or of another shape."""
    stored, wanted = set(file.keys()), set(expected) - set(ties)
    if missing := sorted(wanted - stored):
        raise UserError(f"weights {str(path)!r} lack the tensor {missing[0]!r} ({len(missing)} missing)")
    if extra := sorted(name for name in stored - wanted if not name.startswith(_ONCE_STORED)):
        raise UserError(f"weights {str(path)!r} hold the unknown tensor {extra[0]!r} ({len(extra)} unknown)")
    for name in sorted(wanted):
        shape = list(file.get_slice(name).get_shape())
        if shape != list(expected[name].shape):
            raise UserError(
                f"tensor {name!r} in {str(path)!r} has shape {shape}, expected {list(expected[name].shape)}"
            )

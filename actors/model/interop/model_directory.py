"""Read a `transformers` model directory without running any of its code: JSON, safetensors, tokenizer.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from actors.model.layer_counts import check_layer_counts
from actors.model.tokenizer import load_tokenizer
from conf.errors import UserError
from conf.json_file import read_json
from conf.model import pickled_weights

_INDEX = "model.safetensors.index.json"
SIDE_FILES = (  # kept beside the converted weights, for the way back
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a directory holds. `generation` is None where there is no generation_config.json."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any] | None
    processor: dict[str, Any]  # of the image processor
    weight_files: tuple[str, ...]


def read_source(path: str | Path) -> Source:
    """Read a source directory; raise UserError, in one sentence, on anything that keeps it from being read."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"source {str(path)!r} is not a directory")
    config = _json(path / "config.json")
    if config is None:
        raise UserError(f"source {str(path)!r} has no config.json")
    if "quantization_config" in config:
        raise UserError(f"source {str(path)!r} is quantised; convert the original weights")
    processor = _json(path / "preprocessor_config.json") or {}
    combined = _json(path / "processor_config.json") or {}
    processor = {**combined.get("image_processor", {}), **processor}
    weight_files, num_tensors = _weight_files(path)
    check_layer_counts(config, num_tensors, f"source {str(path)!r}")
    return Source(path, config, _json(path / "generation_config.json"), processor, weight_files)


def tokenizer_settings(path: Path) -> dict[str, Any]:
    """Return tokenizer_config.json; empty where there is none, or none that can be read."""
    file = path / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        settings = read_json(file, "file")
    except UserError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = read_json(path, "file")
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} is not a JSON object")
    return content


def _weight_files(path: Path) -> tuple[tuple[str, ...], int]:
    """The safetensors files of the directory, checked to be readable, and how many tensors they hold; UserError where
    there are none."""
    num_tensors = 0
    index = _json(path / _INDEX)
    if index is not None:
        files = sorted(set(index.get("weight_map", {}).values()))
    else:
        files = ["model.safetensors"] if (path / "model.safetensors").is_file() else []
    if not files:
        if pickled := pickled_weights(path):
            raise UserError(
                f"source {str(path)!r} has its weights only as {pickled!r}, a format that can run code when it is "
                "loaded; save them as safetensors first"
            )
        raise UserError(f"source {str(path)!r} has no model.safetensors")
    for name in files:
        if Path(name).name != name:
            raise UserError(f"source {str(path)!r} names a weights file outside itself: {name!r}")
        try:
            with safe_open(path / name, framework="pt") as file:
                num_tensors += len(file.keys())
        except (SafetensorError, OSError) as error:
            raise UserError(f"weights {str(path / name)!r} are not readable safetensors: {error}") from None
    return tuple(files), num_tensors


def load_tensors(source: Source, model_class: str, hf: Any) -> dict[str, Tensor]:
    """Return every tensor under the library's present names: it renames what older versions wrote.

    A class of the library is called, never one the directory names; only safetensors are read.
    """
    import transformers

    try:
        model, report = getattr(transformers, model_class).from_pretrained(
            str(source.path), config=hf, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True, dtype="auto", ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())
        raise UserError(f"the weights of {str(source.path)!r} cannot be loaded: {reason}") from None
    if wrong := sorted(report["mismatched_keys"]):
        name, stored, wanted = wrong[0]
        raise UserError(f"source tensor {name!r} has shape {list(stored)} where the configuration says {list(wanted)}")
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"the source weights lack the tensor {missing[0]!r} ({len(missing)} missing)")
    if unknown := sorted(report["unexpected_keys"]):
        raise UserError(f"the source weights hold the unknown tensor {unknown[0]!r} ({len(unknown)} unknown)")
    return dict(model.state_dict())


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a source directory, made from its vocabulary files where it has no tokenizer.json."""
    file = path / "tokenizer.json"
    try:
        if file.is_file():
            return load_tokenizer(file)
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except UserError:
        raise
    except Exception as error:  # the library raises whatever it likes
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"source {str(path)!r} has no tokenizer that can be read: {reason}") from None

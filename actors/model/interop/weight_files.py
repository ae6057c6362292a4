"""The tensors of a model directory: safetensors, or a `.bin` of PyTorch that holds tensors alone; whole or in parts."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from conf.checkpoint_files import pickled_weights
from conf.errors import UserError
from conf.json_file import read_json
from conf.model_folders import merge_adapter

_NAMES = ("model.safetensors", "pytorch_model.bin")  # in this order; parts are listed by NAME.index.json
_LFS_POINTER = b"version https://git-lfs"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return every tensor, mapped from its file where the format allows it; UserError where one cannot be read."""
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(path):
        tensors |= _read_file(path / name)
    return tensors


def _weight_files(path: Path) -> list[str]:
    for whole in _NAMES:
        if (path / whole).is_file():
            return [whole]
        index = path / f"{whole}.index.json"
        if index.is_file():
            return _parts(path, read_json(index, "index of the weights"))
    if (adapter := merge_adapter(path)) is not None:
        raise UserError(f"source {str(path)!r} has no weights of a whole model: {adapter}")
    if other := pickled_weights(path):
        raise UserError(
            f"source {str(path)!r} has its weights only as {other!r}; what is read is {' or '.join(_NAMES)}, whole or "
            "in parts with an index"
        )
    raise UserError(f"source {str(path)!r} has no {_NAMES[0]}")


def _parts(path: Path, index: Any) -> list[str]:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise UserError(f"the index of the weights of {str(path)!r} names no files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or Path(name).suffix not in (".safetensors", ".bin"):
            raise UserError(f"source {str(path)!r} names a weights file outside itself: {name!r}")
        if not (path / name).is_file():
            raise UserError(f"source {str(path)!r} lacks the weights file {name!r} that its index names")
    return names


def _read_file(file: Path) -> dict[str, Tensor]:
    with open(file, "rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(f"weights {str(file)!r} are a pointer of Git LFS; git lfs pull fetches the file itself")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {str(file)!r} are not readable safetensors: {error}") from None


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Unpickle tensors and plain containers; anything else would be code, and is not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about pickles, for those who wrote one
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError:
        raise UserError(
            f"weights {str(file)!r} hold something besides tensors, which could run code when it is loaded; only "
            "tensors are read"
        ) from None
    except Exception as error:  # of a damaged file; which kind depends on where it is damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"weights {str(file)!r} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"weights {str(file)!r} are a {type(content).__name__}, not tensors by name")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"weights {str(file)!r} hold {name!r}, a {type(tensor).__name__}; only tensors are read")
    return dict(content)

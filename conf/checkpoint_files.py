"""The files of a checkpoint directory. Nothing here imports torch."""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from conf.errors import UserError
from conf.guarantee import FILE as GUARANTEE_FILE
from conf.json_file import read_json
from conf.model import ModelConfig
from conf.model_folders import instead_of

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
QFORMER_TOKENIZER_FILE = "qformer_tokenizer.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")


def read_model_config(checkpoint: str | Path) -> ModelConfig:
    """Return the architecture of a checkpoint directory; UserError when it is missing or not valid."""
    if is_transformers_directory(checkpoint):
        raise UserError(
            f"checkpoint {str(checkpoint)!r} is a model directory of transformers; "
            "deed convert makes a checkpoint of it"
        )
    path = Path(checkpoint) / CONFIG_FILE
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (path.parent / name).is_file():
            if name == WEIGHTS_FILE and (pickled := pickled_weights(checkpoint)):
                raise UserError(
                    f"checkpoint {str(checkpoint)!r} has its weights only as {pickled!r}, a format that can run code "
                    "when it is loaded; only safetensors are read"
                )
            raise UserError(f"checkpoint {str(checkpoint)!r} has no {name}{instead_of(checkpoint)}")
    values = read_json(path, "checkpoint config")
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise UserError(f"checkpoint config {str(path)!r} is not valid: {where}: {first['msg']}") from None


def write_model_config(checkpoint: str | Path, config: ModelConfig) -> Path:
    """Write config.json into a checkpoint directory; return its path. A guarantee that lies there is one of the
    thresholds that were there before, and goes."""
    (Path(checkpoint) / GUARANTEE_FILE).unlink(missing_ok=True)
    unsaid = {"points_lost"} if config.points_lost is None else None
    path = Path(checkpoint) / CONFIG_FILE
    path.write_text(json.dumps(config.model_dump(mode="json", exclude=unsaid), indent=2) + "\n", encoding="utf-8")
    return path


def is_transformers_directory(path: str | Path) -> bool:
    """Whether a directory holds a model of `transformers` and not a checkpoint; False where nothing can be read."""
    try:
        values = read_json(Path(path) / CONFIG_FILE, "config")
    except UserError:
        return False
    return isinstance(values, dict) and "model_type" in values


def pickled_weights(directory: str | Path) -> str | None:
    """Return the first file of weights in a format that can run code; None where there is none."""
    found = sorted(file.name for pattern in _PICKLES for file in Path(directory).glob(pattern))
    return found[0] if found else None


def weights_sha256(checkpoint: str | Path) -> str:
    """Return the SHA-256 of the weights file, which is the identity of a model in config hashes and run records."""
    digest = hashlib.sha256()
    with open(Path(checkpoint) / WEIGHTS_FILE, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

"""Folders that are named as a model and hold none: what they are, and what to name in their place."""

import re
from pathlib import Path

from conf.errors import UserError
from conf.json_file import read_object

_INNER = ("checkpoint-*", "snapshots/*")  # of the library's Trainer, and of the hub's cache
_NAME_ON_THE_HUB = r"[\w-][\w.-]*/[\w-][\w.-]*"


def instead_of(path: str | Path) -> str:
    """Return the end of a sentence about a folder without a model: what to do instead; empty where nobody can say."""
    folder = Path(path)
    if (adapter := merge_adapter(folder)) is not None:
        return f"; {adapter}"
    inner = [file.parent for pattern in _INNER for file in folder.glob(f"{pattern}/config.json")]
    if inner:
        return f"; name the model in it, {str(max(inner, key=lambda found: found.stat().st_mtime))!r}"
    if not folder.exists() and re.fullmatch(_NAME_ON_THE_HUB, str(path)):
        return f"; nothing is downloaded here, `hf download {path} --local-dir FOLDER` fetches a model of that name"
    return ""


def merge_adapter(folder: Path) -> str | None:
    """Return what to do with a folder that holds an adapter of PEFT (LoRA); None for any other folder."""
    try:
        settings = read_object(folder / "adapter_config.json")
    except UserError:
        settings = {}
    if settings is None:
        return None
    base = settings.get("base_model_name_or_path") or "its base model"
    return f"it holds an adapter (PEFT): merge it into {base} (merge_and_unload), save_pretrained, and name that folder"

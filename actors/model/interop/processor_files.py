"""The settings of a directory's image processor, in the words of the library's present version."""

import json
from pathlib import Path
from typing import Any

from conf.errors import UserError
from conf.json_file import read_object

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_TYPES = ("image_processor_type", "feature_extractor_type")  # the second until 2022


def read_image_processor(path: Path, hf: Any) -> dict[str, Any]:
    """Return the settings, empty where there is no file; UserError, in one sentence, for those that mean nothing.

    Where the file says which class of the library it was written by, old spellings (`"size": 384`) become present ones
    and what it leaves out gets that class's defaults. No class that the directory brings is run.
    """
    own, combined = (read_object(path / name) or {} for name in PROCESSOR_FILES)
    nested = combined.get("image_processor")
    settings = {**(nested if isinstance(nested, dict) else {}), **own}
    if not any(name in settings for name in _TYPES):
        if isinstance(size := settings.get("size"), int):
            settings["size"] = {"height": size, "width": size}
        return settings
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            str(path), config=getattr(hf, "encoder", hf), backend="pil", trust_remote_code=False, local_files_only=True
        )
        return dict(json.loads(json.dumps(processor.to_dict())))
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the image processor of {str(path)!r} cannot be read: {reason}") from None

"""The files of a directory that say how pictures are made ready."""

from pathlib import Path
from typing import Any

from conf.json_file import read_object

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def read_image_processor(path: Path) -> dict[str, Any]:
    """Return the settings of the image processor as they are written, empty where there is no file."""
    own, combined = (read_object(path / name) or {} for name in PROCESSOR_FILES)
    nested = combined.get("image_processor")
    return {**(nested if isinstance(nested, dict) else {}), **own}

"""Frozen configuration of `deed bench engine`. Nothing here imports torch."""

from pydantic import Field

from conf.model import Count
from conf.schema import EngineConfig, Section


class BenchConfig(Section):
    """Decode the same images with every schedule, interleaved, and compare medians."""

    checkpoint: str
    shards: tuple[str, ...] = Field(description="Labelled WebDataset shards whose images are decoded.")
    prompt: str = "describe the image in detail"
    num_images: Count = Field(256, description="Images per measurement; larger is steadier.")
    repeats: Count = Field(5, description="Measurements of every variant; ratios are taken within a round.")
    slots: tuple[Count, ...] = Field((1, 8, 32), description="Numbers of sequences in flight that are measured.")
    engine: EngineConfig = EngineConfig()
    num_threads: int | None = Field(None, description="CPU threads; none: all.")

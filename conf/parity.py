"""Configuration of `deed parity`. Nothing here imports torch."""

from conf.engine import EngineConfig
from conf.schema import PreprocessConfig
from conf.section import Section
from conf.source import SourceConfig


class ParityConfig(Section):
    """Which pictures, what is asked of them, and how long outputs are; the sections are those of `deed caption`."""

    source: SourceConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    engine: EngineConfig = EngineConfig()

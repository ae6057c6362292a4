"""From a picture file to the text: the library's own processor and `generate` against the pipeline, for every family.

Models are tiny and random, their processors have the settings of published checkpoints (zoo.py); pictures are files of
every shape and encoding (tests/picture_files.py). The comparison is that of `deed parity`.
"""

from pathlib import Path

import numpy as np
import pytest

from actors.parity.compare import Asked, Comparison, Verdict, compare
from actors.parity.library import Library
from actors.parity.ours import Ours
from actors.parity.pictures import as_the_pipeline_opens, as_users_open, opened_otherwise
from conf.checkpoint_files import read_model_config
from conf.engine import EngineConfig
from jobs.cli import main
from tests.actors.interop.zoo import ZOO, write
from tests.effort import LONG, effort
from tests.picture_files import FILES, picture

SEEDS, STEPS = effort((0,), (0, 1, 2)), 8
# What neither side takes, or only one of them: nothing is left of 3 x 500 pixels, or far too much becomes of them.
REFUSED = {kind: {"strip.png"} for kind in ("donut", "donut_turned", "nougat")}
# Seconds each, on the library's side: 12 million pixels normalised or searched for a margin at their full size.
SLOW = {"nougat": {"photo.jpg"}, "pix2struct": {"photo.jpg"}, "pix2struct_vqa": {"photo.jpg", "strip.png"}}
LEAST_TEXTS = 4  # of one model: it must look at the pictures


@pytest.mark.parametrize("kind", ZOO)
def test_a_file_becomes_the_text_of_the_library(kind: str, tmp_path: Path) -> None:
    """Both sides begin with the same decoded pixels: what is read otherwise on purpose has tests of its own."""
    files = [name for name in FILES if LONG or name not in SLOW.get(kind, ())]
    for seed in SEEDS:
        done = compared(kind, seed, files, tmp_path / str(seed))
        wrong = [c for c in done if c.verdict is not Verdict.EQUAL and c.name not in REFUSED.get(kind, ())]
        assert not wrong, f"seed {seed}: {len(wrong)} of {len(done)}, {wrong[0]}"
        refused = {c.name for c in done if c.verdict is Verdict.NOT_COMPARED}
        assert refused == REFUSED.get(kind, set()) & set(files)
        largest, texts = max(c.input_difference or 0.0 for c in done), {c.ours for c in done}
        assert largest < 1e-5
        assert len(texts) >= LEAST_TEXTS
        print(f"{kind}, seed {seed}: {len(done)} files, {len(texts)} texts, inputs within {largest:.1e}")


def compared(kind: str, seed: int, files: list[str], folder: Path, *, our_pixels: bool = True) -> list[Comparison]:
    source, converted = write(kind, folder / "source", seed), folder / "converted"
    assert main(["convert", str(source), str(converted)]) == 0
    given = ZOO[kind].decoder_prefix
    own = read_model_config(converted).text.decoder_prefix
    engine = EngineConfig.from_record({"generation": {"max_new_tokens": STEPS, "decoder_prefix": given}})
    library = Library(source, STEPS, decoder_prefix=given, own_prefix=own)
    ours = Ours.load(str(converted), engine)
    work = [Asked(name, picture(name), ZOO[kind].prompt) for name in files]
    return list(compare(library, ours, work, our_pixels=our_pixels))


def test_files_as_users_open_them_differ_on_purpose_alone(tmp_path: Path) -> None:
    for done in compared("vit_gpt2", 0, list(FILES), tmp_path, our_pixels=False):
        expected = {Verdict.EQUAL, Verdict.OPENED_OTHERWISE} if done.notes else {Verdict.EQUAL}
        assert done.verdict in expected, done


@pytest.mark.parametrize("name", FILES)
def test_ordinary_files_are_opened_as_users_open_them(name: str) -> None:
    """Within 2 of 255; what is opened otherwise on purpose is said to be."""
    data = picture(name)
    mine, theirs = as_the_pipeline_opens(data), as_users_open(data)
    if opened_otherwise(data):
        assert np.asarray(mine).shape != np.asarray(theirs).shape or (np.asarray(mine) != np.asarray(theirs)).any()
    else:
        assert np.abs(np.asarray(mine, np.int16) - np.asarray(theirs, np.int16)).max() <= 2

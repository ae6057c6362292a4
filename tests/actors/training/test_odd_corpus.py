"""Training reads an odd archive as captioning does: every member is used, or left out for the same reason."""

from collections import Counter
from pathlib import Path

import pytest

from actors.training.corpus import ImageCorpus, LabelledCorpus
from conf.image_plan import ImagePlan
from tests.odd_corpus import BESIDE, DONE, write_odd_tar


def outcome(corpus: ImageCorpus, *, labelled: bool) -> Counter[str]:
    """How many samples were used, and how many of everything else, by reason."""
    used = 0
    for shard in corpus.shards:
        if isinstance(corpus, LabelledCorpus) and labelled:
            used += sum(
                corpus.decoded(shard, sample, ImagePlan.squeeze(32)) is not None for sample in corpus.samples(shard)
            )
        else:
            raws = corpus.raw(shard)
            used += sum(
                corpus.decode(shard, raw.sample.key, raw.image or b"", ImagePlan.squeeze(32)) is not None
                for raw in raws
            )
    return Counter({DONE: used}) + Counter({part.reason: part.count for part in corpus.left_out})


@pytest.mark.parametrize("labelled", [False, True])
def test_what_goes_in_comes_out(labelled: bool, tmp_path: Path) -> None:
    fates = [fate.removeprefix("left out: ") for _, fate in write_odd_tar(tmp_path / "odd.tar") if fate != BESIDE]
    corpus = LabelledCorpus([str(tmp_path / "odd.tar")]) if labelled else ImageCorpus([str(tmp_path / "odd.tar")])
    found = outcome(corpus, labelled=labelled)
    if not labelled:  # no JSON is read
        assert found == Counter(DONE if fate == "bad_json" else fate for fate in fates)
        return
    # Without captions or questions a sample is left out before its image is decoded.
    assert found["no_labels"] > 0
    undecoded = {"empty_image", "truncated_image", "not_an_image", "too_many_pixels", DONE}
    assert found == Counter("no_labels" if fate in undecoded else fate for fate in fates)

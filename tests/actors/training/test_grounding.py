"""Grounding targets say what lies under which patch, and the heads can learn them."""

from pathlib import Path

import pytest
import torch

from actors.training.corpus import TrainingSample
from actors.training.scratch.data import Pair
from actors.training.scratch.grounding import Places
from actors.training.scratch.muon import Muon, orthogonalise
from actors.training.scratch.trainer import Trainer
from tests.actors.training.corpus import tiny_config, write_corpus

RECORD = {
    "image_size": 128,
    "objects": [
        {"name": "cat", "x": 17.0, "y": 40.0, "size": "small", "card": "red"},
        {"name": "sun hat", "x": 100.0, "y": 127.9, "size": "large", "card": None},
        {"name": "cat", "x": 120.0, "y": 0.0, "size": "small", "card": None},
    ],
    "sign": {"plates": [{"text": "AB7", "y": 70.0, "character_x": [33.0, 46.0, 62.0]}]},
}


def _pairs(*questions: str) -> list[Pair]:
    return [Pair(question, (7,) * (i + 2), (1,)) for i, question in enumerate(questions)]


def test_targets_name_the_patch_of_every_object_character_and_mention() -> None:
    sample = TrainingSample("k", b"", RECORD)
    places = Places([sample], side=8)
    assert places.names == ["cat", "sun hat"]
    pairs = _pairs("describe the image", "how many cats are there?", "is there a sun hat?", "is it catching?")
    targets = places.targets([sample], [pairs], torch.device("cpu"))
    cat, hat, red, none, unknown = 0, 1, places.cards.index("red"), places.cards.index("None"), -100
    assert targets.objects.tolist() == [
        [0, 2 * 8 + 1, cat, 0, 0, red, 1, unknown, hat],
        [0, 7 * 8 + 6, hat, 1, 2, none, 2, cat, cat],
        [0, 7, cat, 2, 0, none, 0, hat, unknown],
    ]
    a, b, seven = (places.characters.index(c) for c in "AB7")
    assert targets.characters.tolist() == [[0, 34, a, b, 0], [0, 35, seven, 3, 2]]  # A and B share a patch
    # The last token of the second and of the third prompt; of two cats, no place or size is asked for.
    assert targets.mentions.tolist() == [[0, 4, *(unknown,) * 4], [0, 8, 1, 2, none, 2]]
    assert [row.nonzero().flatten().tolist() for row in targets.mention_patches_MP] == [[7, 17], [62]]


def test_a_thing_that_is_not_there_is_nowhere() -> None:
    here, there = (
        TrainingSample("a", b"", RECORD),
        TrainingSample("b", b"", {**RECORD, "objects": RECORD["objects"][:1]}),
    )
    targets = Places([here], side=8).targets([there], [_pairs("is there a sun hat?")], torch.device("cpu"))
    assert len(targets.mentions) == 1
    assert not targets.mention_patches_MP.any()


def test_the_encoder_alone_learns_where_things_are(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "corpus", 40)
    optimizer = {"encoder_steps": 60, "encoder_batch_images": 16, "total_steps": 60, "warmup_steps": 5, "peak_lr": 5e-3}
    reports: list[dict[str, dict[str, float]]] = []
    trainer = Trainer(tiny_config(tmp_path, shards, optimizer=optimizer), reports.append)
    before = trainer.model.decoder.layers[0].qkv.weight.clone()
    trainer.run()
    losses = [report["losses"] for report in reports if "losses" in report]
    assert losses[-1]["name"] < 0.5 * losses[0]["name"]
    assert losses[-1]["stem_name"] < 0.5 * losses[0]["stem_name"]
    assert "ce_last" not in losses[-1]
    assert torch.equal(before, trainer.model.decoder.layers[0].qkv.weight)


def test_a_corpus_without_places_trains_without_grounding(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "corpus", 8, places=False)
    trainer = Trainer(tiny_config(tmp_path, shards), lambda _: None)
    assert trainer.grounding is None
    assert "objects" not in trainer.corpus.samples(trainer.corpus.shards[0])[0].record


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 48), (2, 48, 16)])
def test_orthogonalise_brings_singular_values_close_to_one(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(*shape, generator=torch.Generator().manual_seed(0))))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_muon_treats_stacked_matrices_one_by_one() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(24, 8), torch.randn(24, 8)
    fused = torch.nn.Parameter(start.clone())
    parts = [torch.nn.Parameter(part.clone()) for part in start.chunk(3)]
    for groups, parameters in (([{"params": [fused], "parts": 3}], [fused]), ([{"params": parts}], parts)):
        for parameter, grad in zip(parameters, gradient.chunk(len(parameters)), strict=True):
            parameter.grad = grad.clone()
        Muon(groups, lr=0.1).step()
    torch.testing.assert_close(fused.data, torch.cat([part.data for part in parts]))

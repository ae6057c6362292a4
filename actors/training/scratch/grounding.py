"""Training aids for corpora that say where things are: the encoder is told what lies under which patch.

Captions and answers alone teach what is where only through attention, which is slow to begin. Where the places of
objects, printed characters and named things are known, small heads on the encoder ask for them directly. The heads
are not part of a checkpoint; a corpus without places trains without them.

Shape suffixes: K objects, C characters, M mentions, N names, L tokens of a name, B images, P patches, Q prompt
tokens, S = P + Q, D width.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.model import MultiExitModel
from actors.training.corpus import TrainingSample
from actors.training.scratch.data import Pair

SIZES = ("small", "medium", "large")
_SIZE_INDEX = {size: i for i, size in enumerate(SIZES)}
ATTRIBUTES = ("order", "size", "card", "height")
MAX_ORDER = 8  # objects from the left, and characters of a plate, that are told apart
PATCH_PIXELS = 16  # of the scenes encoder: its stem has four stride-2 stages


@dataclass(frozen=True)
class GroundingTargets:
    """What is known about a batch; -100 marks the unknown. All int64 but `mention_patches_MP` (bool)."""

    objects: Tensor  # [K, 9]: image, patch, name, place from the left, size, card, place from the top, and what is
    #                          next to it: name to the left, name to the right
    characters: Tensor  # [C, 5]: image, patch, first character, second one or none, place of the first in its plate
    mentions: Tensor  # [M, 6]: image, position among the prompt tokens of the end of a prompt that names a thing; of a
    #                           thing there is one of: its place from the left, size, card, place from the top
    mention_patches_MP: Tensor  # where that thing is; nowhere: all False


class Places:
    """The vocabulary of the known places (names, card colours, characters), and samples -> GroundingTargets."""

    def __init__(self, samples: Iterable[TrainingSample], side: int) -> None:
        names, cards, characters = set(), set(), set()
        for sample in samples:
            for thing in _placed(sample):
                names.add(thing["name"])
                cards.add(str(thing.get("card")))
            for plate in _plates(sample):
                characters.update(plate["text"])
        self.names, self.cards, self.characters = sorted(names), sorted(cards), sorted(characters)
        self._name_index = {name: i for i, name in enumerate(self.names)}
        self._card_index = {card: i for i, card in enumerate(self.cards)}
        self._character_index = {character: i for i, character in enumerate(self.characters)}
        longest_first = sorted(self.names, key=len, reverse=True)
        self._mention = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})(?:e?s)?\b")
        self.side = side

    def targets(
        self, samples: Sequence[TrainingSample], pairs: Sequence[Sequence[Pair]], device: torch.device
    ) -> GroundingTargets:
        """Return the targets of a batch; `pairs` are those packed for every sample, in order."""
        objects, characters, mentions, patches = [], [], [], []
        for i, (sample, sample_pairs) in enumerate(zip(samples, pairs, strict=True)):
            scale = self.side / sample.record.get("image_size", self.side * PATCH_PIXELS)
            things = [thing for thing in _placed(sample) if thing["name"] in self._name_index]
            places: dict[str, list[int]] = {}
            attributes: dict[str, tuple[int, ...]] = {}
            for place, thing in enumerate(things):
                patch = self._patch(thing["x"] * scale, thing["y"] * scale)
                of_thing = self._attributes(things, place)
                attributes[thing["name"]] = of_thing if thing["name"] not in places else (-100,) * 4
                places.setdefault(thing["name"], []).append(patch)
                beside = (things[at]["name"] if 0 <= at < len(things) else "" for at in (place - 1, place + 1))
                neighbors = (self._name_index.get(name, -100) for name in beside)
                objects.append((i, patch, self._name_index[thing["name"]], *of_thing, *neighbors))
            characters += [(i, *row) for plate in _plates(sample) for row in self._characters(plate, scale)]
            end = -1
            for pair in sample_pairs:
                end += len(pair.prompt)
                if places and (mention := self._mention.search(pair.prompt_text)):
                    mentions.append((i, end, *attributes.get(mention[1], (-100,) * 4)))
                    patches.append([patch in places.get(mention[1], ()) for patch in range(self.side**2)])
        return GroundingTargets(
            _table(objects, 9).to(device),
            _table(characters, 5).to(device),
            _table(mentions, 6).to(device),
            torch.tensor(patches, dtype=torch.bool).reshape(-1, self.side**2).to(device),
        )

    def _attributes(self, things: Sequence[dict[str, Any]], place: int) -> tuple[int, int, int, int]:
        """(place from the left, size, card, place from the top) of one of the things, which are in order."""
        thing = things[place]
        from_top = sum(other["y"] < thing["y"] for other in things)
        card = self._card_index.get(str(thing.get("card")), -100)
        return (
            min(place, MAX_ORDER - 1), _SIZE_INDEX.get(thing.get("size"), -100), card, min(from_top, MAX_ORDER - 1)
        )  # fmt: skip

    def _characters(self, plate: dict[str, Any], scale: float) -> Iterable[tuple[int, int, int, int]]:
        """(patch, first character, second, place of the first) of every patch that has a character's centre."""
        by_patch: dict[int, list[int]] = {}
        for place, x in enumerate(plate["character_x"]):
            by_patch.setdefault(self._patch(x * scale, plate["y"] * scale), []).append(place)
        for patch, found in by_patch.items():
            index = [self._character_index.get(plate["text"][place], -100) for place in found]
            yield patch, index[0], index[1] if len(index) > 1 else len(self.characters), min(found[0], MAX_ORDER - 1)

    def _patch(self, x: float, y: float) -> int:
        column, row = (min(self.side - 1, max(0, int(value))) for value in (x, y))
        return row * self.side + column


class GroundingHead(nn.Module):
    """Heads on the stem and on the encoder's states; `loss` is the sum of their cross-entropies.

    Names go through the model's own word embeddings: as the stem made a patch, against the prompt embeddings, so that
    a question can find what it asks for; as the encoder leaves it, against the decoder's token embeddings, so that the
    decoder can say what it attends to.
    """

    def __init__(self, places: Places, name_tokens: Sequence[Sequence[int]], width: int) -> None:
        super().__init__()
        longest = max(len(tokens) for tokens in name_tokens)
        ids_NL = torch.zeros(len(name_tokens), longest, dtype=torch.int64)
        mask_NL = torch.zeros(len(name_tokens), longest)
        for row, tokens in enumerate(name_tokens):
            ids_NL[row, : len(tokens)] = torch.tensor(list(tokens))
            mask_NL[row, : len(tokens)] = 1 / len(tokens)
        self.register_buffer("ids_NL", ids_NL, persistent=False)
        self.register_buffer("mask_NL", mask_NL, persistent=False)
        self.log_scales = nn.Parameter(torch.tensor([2.0, 2.0]))
        attributes = (MAX_ORDER, len(SIZES), len(places.cards), MAX_ORDER)
        self.object_heads = nn.ModuleList(nn.Linear(width, n) for n in attributes)
        self.mention_heads = nn.ModuleList(nn.Linear(width, n) for n in attributes)
        self.neighbor_heads = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        sizes = (len(places.characters), len(places.characters) + 1)
        self.stem_character_heads = nn.ModuleList(nn.Linear(width, n) for n in sizes)
        self.character_heads = nn.ModuleList(nn.Linear(width, n) for n in (*sizes, MAX_ORDER))
        self.mention_query, self.mention_key = nn.Linear(width, width), nn.Linear(width, width)
        self.nowhere = nn.Parameter(torch.zeros(()))

    def loss(
        self, model: MultiExitModel, patches_BPD: Tensor, states_BSD: Tensor, targets: GroundingTargets
    ) -> dict[str, Tensor]:
        """Return the cross-entropies by what they ask for; what the batch has nothing of is left out."""
        losses: dict[str, Tensor] = {}
        if len(targets.objects):
            sample_K, patch_K, name_K, *attributes, left_K, right_K = targets.objects.unbind(-1)
            stem_KD, states_KD = patches_BPD[sample_K, patch_K], states_BSD[sample_K, patch_K]
            losses["stem_name"] = self._name_loss(stem_KD, model.encoder.prompt_embedding, name_K, 0)
            losses["name"] = self._name_loss(states_KD, model.decoder.embedding, name_K, 1)
            losses["neighbor"] = torch.stack([
                self._name_loss(head(states_KD), model.decoder.embedding, labels, 1)
                for head, labels in zip(self.neighbor_heads, (left_K, right_K), strict=True)
            ]).mean()  # fmt: skip
            for key, head, labels in zip(ATTRIBUTES, self.object_heads, attributes, strict=True):
                losses[key] = _cross_entropy(head(states_KD), labels)
        if len(targets.characters):
            sample_C, patch_C, first, second, place = targets.characters.unbind(-1)
            for key, states, heads, labels_of in (
                ("stem_character", patches_BPD, self.stem_character_heads, (first, second)),
                ("character", states_BSD, self.character_heads, (first, second, place)),
            ):
                at_patch = states[sample_C, patch_C]
                pairs = zip(heads, labels_of, strict=True)
                losses[key] = torch.stack([_cross_entropy(h(at_patch), labels) for h, labels in pairs]).mean()
        if len(targets.mentions):
            sample_M, position_M, *_ = targets.mentions.unbind(-1)
            states_MD = states_BSD[sample_M, targets.mention_patches_MP.shape[1] + position_M]
            losses["mention"] = self._mention_loss(states_BSD, states_MD, targets)
            losses["mentioned"] = self._mention_attributes(states_MD, targets.mentions[:, 2:])
        return losses

    def _name_loss(self, features_KD: Tensor, table: nn.Module, labels_K: Tensor, scale: int) -> Tensor:
        names_ND = (table(self.ids_NL) * self.mask_NL[..., None]).sum(1)
        cosine_KN = F.normalize(features_KD.float(), dim=-1) @ F.normalize(names_ND.float(), dim=-1).T
        return _cross_entropy(self.log_scales[scale].exp() * cosine_KN, labels_K)

    def _mention_attributes(self, states_MD: Tensor, labels_M4: Tensor) -> Tensor:
        pairs = zip(self.mention_heads, labels_M4.unbind(-1), strict=True)
        return torch.stack([_cross_entropy(head(states_MD), labels) for head, labels in pairs]).sum()

    def _mention_loss(self, states_BSD: Tensor, states_MD: Tensor, targets: GroundingTargets) -> Tensor:
        sample_M, there_MP = targets.mentions[:, 0], targets.mention_patches_MP
        num_patches = there_MP.shape[1]
        query_MD = self.mention_query(states_MD)
        key_MPD = self.mention_key(states_BSD[:, :num_patches])[sample_M]
        logits_MP = (key_MPD @ query_MD[..., None]).squeeze(-1).float() * query_MD.shape[-1] ** -0.5
        logits = torch.cat([logits_MP, self.nowhere.float().expand(len(sample_M), 1)], dim=1)
        right = torch.cat([there_MP, ~there_MP.any(1, keepdim=True)], dim=1)
        log_probability = logits.log_softmax(-1).masked_fill(~right, float("-inf")).logsumexp(-1)
        return -log_probability.mean()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the known labels; zero where none is known."""
    return F.cross_entropy(logits.float(), labels, reduction="sum") / (labels >= 0).sum().clamp(min=1)


def _plates(sample: TrainingSample) -> Sequence[dict[str, Any]]:
    """Return the signs whose characters have places."""
    sign = sample.record.get("sign")
    plates = sign.get("plates") if isinstance(sign, dict) else None
    return [p for p in plates or () if isinstance(p, dict) and {"text", "y", "character_x"} <= p.keys()]


def _placed(sample: TrainingSample) -> Sequence[dict[str, Any]]:
    """Return the objects that have a place, by their centre in pixels."""
    return [thing for thing in sample.record.get("objects", ()) if {"x", "y"} <= thing.keys()]


def _table(rows: Sequence[tuple[int, ...]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, width)

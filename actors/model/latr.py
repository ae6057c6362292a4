"""LaTr-style encoder: visual patches, question tokens and words found in the image in one T5-like stack.

Everything that has a place, patch or word, gets the same layout embeddings of its box, so that a word and the patch
under it can find each other (Biten et al., arXiv 2112.12494, section 3; sizes and the convolutional stem are ours).

Shape suffixes: B images, P patches, Q prompt tokens, S = P + Q, H heads, D width. Patches come first, so that no
position depends on the length of the longest prompt of a batch.
"""

import math

import torch
from torch import Tensor, nn

from actors.model.blocks import RMSNorm, sinusoids
from actors.model.encoder import EncoderLayer, GridEncoder, Stem
from actors.model.word_boxes import unpack
from conf.decoder import RelativeBias
from conf.encoder import LatrEncoderConfig
from conf.model import ModelConfig

BINS = 101  # of a coordinate, a width or a height, in hundredths of the image
SIDES = ("x0", "y0", "x1", "y1", "width", "height")


class BidirectionalBias(nn.Module):
    """T5's encoder bias: half of the buckets for what lies before, half for what lies after."""

    def __init__(self, config: RelativeBias, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.table = nn.Embedding(config.num_buckets, num_heads)

    def forward(self, length: int) -> Tensor:
        """Return the bias [H, S, S] over positions 0..length-1."""
        position = torch.arange(length, device=self.table.weight.device)
        relative = position[None, :] - position[:, None]
        half = self.num_buckets // 2
        exact = half // 2
        distance = relative.abs()
        log_ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (log_ratio * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(distance < exact, distance, far) + (relative > 0) * half
        bias: Tensor = self.table(bucket)
        return bias.permute(2, 0, 1)


class LatrEncoder(GridEncoder):
    """uint8 pixels and prompt tokens, some of which carry boxes -> states the decoder attends to."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.encoder
        assert isinstance(config, LatrEncoderConfig)
        self.vocab_size, self.max_prompt_tokens = model.decoder.vocab_size, config.max_prompt_tokens
        self.side = model.image_size // 2 ** (len(config.stem_channels) + 1)
        self.stem = Stem(config)
        self.stem_norm = RMSNorm(config.d_model, eps=1e-6)
        self.embedding = nn.Embedding(model.decoder.vocab_size, config.d_model)  # the decoder's
        self.layout = nn.ModuleDict({side: nn.Embedding(BINS, config.d_model) for side in SIDES})
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.bias = BidirectionalBias(config.relative_bias, config.num_heads)
        self.norm = RMSNorm(config.d_model, eps=1e-6)
        self.set_pixel_statistics(model)

    def initialise(self) -> None:
        """Start the layout tables as sines and cosines, so that near places look alike before anything is learned."""
        for table in self.layout.values():
            table.weight.data = sinusoids(*table.weight.shape) * len(SIDES) ** -0.5
        nn.init.normal_(self.bias.table.weight, std=0.02)

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """One prompt per image, right-padded -> states [B, S, D] and mask [B, S] (True = real)."""
        tokens, boxes_BQ4, has_box_BQ = unpack(prompt_ids_BQ, self.vocab_size)
        words = self.embedding(tokens)
        words = words + torch.where(has_box_BQ[..., None], self._layout(boxes_BQ4), 0.0)
        patches = self.stem_norm(self.stem(self.normal(pixels_BXYC, words.dtype))) + self._layout(
            self._patch_boxes(words.device)
        )
        x = torch.cat([patches, words], dim=1)
        mask_BS = torch.cat([prompt_mask_BQ.new_ones(patches.shape[:2]), prompt_mask_BQ], dim=1)
        bias_HSS = self.bias(x.shape[1]).to(x.dtype)
        attend_BHSS = bias_HSS[None].masked_fill(~mask_BS[:, None, None, :], float("-inf"))
        for layer in self.layers:
            x = layer(x, attend_BHSS)
        return self.norm(x), mask_BS

    def _layout(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] in thousandths -> [..., D]."""
        x0, y0, x1, y1 = (boxes // 10).unbind(-1)
        values = (x0, y0, x1, y1, (x1 - x0).clamp(min=0), (y1 - y0).clamp(min=0))
        return torch.stack([self.layout[side](value) for side, value in zip(SIDES, values, strict=True)]).sum(0)

    def _patch_boxes(self, device: torch.device) -> Tensor:
        """Return the boxes of the patches [P, 4] in thousandths, row by row."""
        edges = torch.arange(self.side + 1, device=device) * 1000 // self.side
        rows, columns = torch.meshgrid(*[torch.arange(self.side, device=device)] * 2, indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        return torch.stack([edges[columns], edges[rows], edges[columns + 1], edges[rows + 1]], dim=-1)

"""Composition: encoder + multi-exit decoder, with the packed teacher-forced pass that training uses."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actors.model.decoder import MultiExitDecoder
from actors.model.encoder import ScenesEncoder
from actors.model.encoders import make_encoder, tie
from actors.model.image_batch import Images, encode_by_shape
from actors.model.run_layer import RunLayer
from conf.model import ModelConfig


@dataclass(frozen=True)
class PackedBatch:
    """Several (prompt, target) pairs per image, packed; segment k of the decoder answers prompt k of the encoder.

    Shapes: prompt_* [B, Q]; target_* [B, T]. Segments start at 1, -1 is padding.
    `target_inputs` starts every segment with the start token, `target_labels` ends it with the end token.
    """

    pixels: Images
    prompt_ids: Tensor
    prompt_positions: Tensor
    prompt_segments: Tensor
    target_inputs: Tensor
    target_labels: Tensor
    target_positions: Tensor
    target_segments: Tensor


class MultiExitModel(nn.Module):
    """Encoder-decoder whose decoder can emit a token at every configured exit."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(config)
        self.decoder = MultiExitDecoder(
            config.decoder, config.exits, config.adapters, separate_heads=config.separate_heads, gates=config.gates
        )
        tie(self, config)

    @property
    def max_context(self) -> int:
        """Most encoder positions a request can have."""
        if not isinstance(self.encoder, ScenesEncoder):
            return int(self.encoder.max_context)
        return self.encoder.patch_positions.shape[0] + self.config.encoder.max_prompt_tokens

    def context_for(self, prompt_tokens: int) -> int:
        """Return the most encoder positions that a prompt of so many tokens leads to."""
        if self.config.text.prompt != "tokens" or not getattr(self.encoder, "reads_prompts", True):
            return self.max_context
        return self.max_context - max(0, self.config.encoder.max_prompt_tokens - prompt_tokens)

    def encode(self, images: Images, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """One prompt per image, right-padded -> states [B, S, D] and mask [B, S] (True = real)."""
        if not isinstance(self.encoder, ScenesEncoder):
            mixed = getattr(self.encoder, "encode_mixed", None)
            if mixed is not None and not isinstance(images, Tensor):
                return mixed(images, prompt_ids_BQ, prompt_mask_BQ)
            return encode_by_shape(self.encoder.encode, images, prompt_ids_BQ, prompt_mask_BQ)
        assert isinstance(images, Tensor), "its images are squares"
        positions = torch.arange(prompt_ids_BQ.shape[1], device=prompt_ids_BQ.device).expand_as(prompt_ids_BQ)
        segments = torch.where(prompt_mask_BQ, 1, -1)
        states, segments = self.encoder(self.encoder.patches(images), prompt_ids_BQ, positions, segments)
        return states, segments >= 0

    def forward(self, batch: PackedBatch, *, run_layer: RunLayer | None = None) -> list[Tensor]:
        """Return the hidden states [B, T, D] after every decoder layer, teacher-forced."""
        _, states, segments = self.encode_packed(batch)
        return self.decode_packed(batch, states, segments, run_layer=run_layer)

    @property
    def packs_prompts(self) -> bool:
        """Whether several prompts of an image can share one encoder pass."""
        return isinstance(self.encoder, ScenesEncoder)

    def encode_packed(self, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """All prompts of every image in one pass -> stem patches [B, P, D], states [B, S, D], segments [B, S]."""
        if not self.packs_prompts:
            states, mask = self.encode(batch.pixels, batch.prompt_ids, batch.prompt_segments == 1)
            return states, states, torch.where(mask, 0, -1)
        patches = self.encoder.patches(batch.pixels)
        states, segments = self.encoder(patches, batch.prompt_ids, batch.prompt_positions, batch.prompt_segments)
        return patches, states, segments

    def decode_packed(
        self, batch: PackedBatch, states: Tensor, segments: Tensor, *, run_layer: RunLayer | None = None
    ) -> list[Tensor]:
        """Teacher-forced decoder over packed targets -> hidden states [B, T, D] after every layer."""
        targets = batch.target_segments
        same = targets[:, None, :, None] == targets[:, None, None, :]
        self_mask = (
            same & torch.ones(targets.shape[1], targets.shape[1], dtype=torch.bool, device=targets.device).tril()
        )
        keys = segments[:, None, None, :]
        cross_mask = (keys == 0) | (keys == targets[:, None, :, None]) & (keys > 0)
        return self.decoder(
            batch.target_inputs, batch.target_positions, states, self_mask, cross_mask, run_layer=run_layer
        )

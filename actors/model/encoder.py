"""The scenes encoder: a convolutional stem turns the image into patches, a transformer mixes patches and prompts.

Patches never look at prompt tokens; prompt tokens look at patches and at their own prompt. So the image part of the
states is the same for every prompt, and several prompts of one image can share one pass, told apart by segment:
0 = patches, k = k-th prompt, -1 = padding.

Shape suffixes: B images, P patches, Q prompt tokens (all prompts of an image), S = P + Q, D width.
"""

import itertools

import torch
from torch import Tensor, nn

from actors.model.blocks import RMSNorm, attend, sinusoids
from actors.model.linear import linear_relu
from conf.encoder import ScenesEncoderConfig
from conf.model import ModelConfig


class Stem(nn.Module):
    """Stride-2 convolutions down to one vector per 16 x 16 pixels; [B, 3, X, Y] -> [B, P, D]."""

    def __init__(self, config: ScenesEncoderConfig) -> None:
        super().__init__()
        widths = [3, *config.stem_channels]
        stages: list[nn.Module] = []
        for i, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
            stages += [self._conv(width_in, width_out, stride=2)]
            if i > 0:  # at full resolution / 2 a second convolution costs most and brings least
                stages += [self._conv(width_out, width_out, stride=1)]
        self.stages = nn.Sequential(*stages)
        self.project = nn.Conv2d(widths[-1], config.d_model, kernel_size=3, stride=2, padding=1)

    @staticmethod
    def _conv(width_in: int, width_out: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(width_in, width_out, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.project(self.stages(pixels)).flatten(2).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer over [B, S, D]."""

    def __init__(self, config: ScenesEncoderConfig) -> None:
        super().__init__()
        d = config.d_model
        self.num_heads = config.num_heads
        self.attn_norm, self.ffn_norm = RMSNorm(d, eps=1e-6), RMSNorm(d, eps=1e-6)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.expand, self.contract = nn.Linear(d, config.d_ff, bias=False), nn.Linear(config.d_ff, d, bias=False)

    def forward(self, x_BSD: Tensor, mask_B1SS: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attn_norm(x_BSD)).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        x_BSD = x_BSD + self.out(attend(q, k, v, mask_B1SS, q.shape[-1] ** -0.5))
        return x_BSD + self.contract(linear_relu(self.expand, self.ffn_norm(x_BSD)))


def grid_positions(side: int, width: int) -> Tensor:
    """Return sines and cosines of column and row [side * side, width], from which learned positions start."""
    half = width // 2
    table = sinusoids(side, half)
    columns, rows = table.repeat(side, 1), table.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1)


class PixelEncoder(nn.Module):
    """An encoder that normalises its pixels by statistics that live in the config, not in the weights file."""

    mean: Tensor
    std: Tensor

    def set_pixel_statistics(self, model: ModelConfig) -> None:
        """Put the pixel statistics in place."""
        for name, values in (("mean", model.pixel_mean), ("std", model.pixel_std)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1) * 255, persistent=False)

    def normal(self, pixels_BXYC: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn uint8 pixels [B, X, Y, 3] into normalised ones [B, 3, X, Y]."""
        pixels = pixels_BXYC.permute(0, 3, 1, 2)  # channels-last memory, which the CPU convolutions prefer
        return ((pixels.float() - self.mean) / self.std).to(dtype)


class GridEncoder(PixelEncoder):
    """Sees a square grid of patches and reads one prompt."""

    side: int  # of the grid, in patches
    max_prompt_tokens: int

    @property
    def max_context(self) -> int:
        """Most encoder positions a request can have."""
        return self.side * self.side + self.max_prompt_tokens


class ScenesEncoder(PixelEncoder):
    """uint8 pixels and prompt tokens -> states the decoder attends to."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.encoder
        side = model.image_size // 2 ** (len(config.stem_channels) + 1)
        self.stem = Stem(config)
        # Normalised content plus positions of the same size: left of and right of must not drown in what is there.
        self.stem_norm = RMSNorm(config.d_model, eps=1e-6)
        self.patch_positions = nn.Parameter(grid_positions(side, config.d_model))
        self.prompt_embedding = nn.Embedding(model.decoder.vocab_size, config.d_model)
        self.prompt_positions = nn.Embedding(config.max_prompt_tokens, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, eps=1e-6)
        self.set_pixel_statistics(model)

    def patches(self, pixels_BHWC: Tensor) -> Tensor:
        """uint8 pixels [B, X, Y, 3] -> what the stem makes of every patch [B, P, D]."""
        patches: Tensor = self.stem_norm(self.stem(self.normal(pixels_BHWC, self.patch_positions.dtype)))
        return patches

    def forward(
        self, patches_BPD: Tensor, prompt_ids_BQ: Tensor, prompt_positions_BQ: Tensor, prompt_segments_BQ: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Patches and packed prompts [B, Q] -> states [B, S, D], segments [B, S]."""
        patches = patches_BPD + self.patch_positions
        prompts = self.prompt_embedding(prompt_ids_BQ) + self.prompt_positions(prompt_positions_BQ)
        x = torch.cat([patches, prompts.to(patches.dtype)], dim=1)
        patch_segments = prompt_segments_BQ.new_zeros(patches.shape[:2])
        segments = torch.cat([patch_segments, prompt_segments_BQ], dim=1)
        keys, queries = segments[:, None, None, :], segments[:, None, :, None]
        mask = (keys == 0) | ((keys == queries) & (keys > 0))
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x), segments

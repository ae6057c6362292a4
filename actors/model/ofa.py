"""OFA-style encoder: patches, then prompt tokens, in a BART-like stack with NormFormer norms and position scores.

Wang et al. (arXiv 2202.03052); sizes, the convolutional stem and one table of positions for both kinds are ours.

Shape suffixes: B images, P patches, Q prompt tokens, S = P + Q, H heads, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.model.encoder import GridEncoder, Stem, grid_positions
from conf.encoder import OfaEncoderConfig
from conf.model import ModelConfig


class OfaEncoderLayer(nn.Module):
    """Pre-norm layer over [B, S, D] with a norm after attention and one inside the feed-forward."""

    def __init__(self, config: OfaEncoderConfig) -> None:
        super().__init__()
        d = config.d_model
        self.num_heads, self.scale = config.num_heads, (2 * d // config.num_heads) ** -0.5
        self.attn_norm, self.out_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.ffn_norm, self.inner_norm = nn.LayerNorm(d), nn.LayerNorm(config.d_ff)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.expand, self.contract = nn.Linear(d, config.d_ff), nn.Linear(config.d_ff, d)

    def forward(self, x_BSD: Tensor, mask_BHSS: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attn_norm(x_BSD)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BHSS, scale=self.scale)
        x_BSD = x_BSD + self.out_norm(self.out(context.transpose(1, 2).flatten(2)))
        return x_BSD + self.contract(self.inner_norm(F.gelu(self.expand(self.ffn_norm(x_BSD)))))


class OfaEncoder(GridEncoder):
    """uint8 pixels and prompt tokens -> states the decoder attends to."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.encoder
        assert isinstance(config, OfaEncoderConfig)
        self.max_prompt_tokens, self.num_heads = config.max_prompt_tokens, config.num_heads
        self.side = model.image_size // 2 ** (len(config.stem_channels) + 1)
        self.stem = Stem(config)
        self.stem_norm = nn.LayerNorm(config.d_model)
        self.embedding = nn.Embedding(model.decoder.vocab_size, config.d_model)  # the decoder's
        self.embed_norm = nn.LayerNorm(config.d_model)
        self.positions = nn.Embedding(self.max_context, config.d_model)
        self.position_norm = nn.LayerNorm(config.d_model)
        self.position_query = nn.Linear(config.d_model, config.d_model)
        self.position_key = nn.Linear(config.d_model, config.d_model)
        self.layers = nn.ModuleList(OfaEncoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.set_pixel_statistics(model)

    def initialise(self) -> None:
        """Start the patch positions as sines and cosines of column and row."""
        patches = self.side * self.side
        self.positions.weight.data[:patches] = grid_positions(self.side, self.positions.embedding_dim)

    def encode(self, pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> tuple[Tensor, Tensor]:
        """One prompt per image, right-padded -> states [B, S, D] and mask [B, S] (True = real)."""
        words = self.embed_norm(self.embedding(prompt_ids_BQ))
        patches = self.stem_norm(self.stem(self.normal(pixels_BXYC, words.dtype)))
        x = torch.cat([patches, words], dim=1) + self.positions.weight[: patches.shape[1] + words.shape[1]]
        mask_BS = torch.cat([prompt_mask_BQ.new_ones(patches.shape[:2]), prompt_mask_BQ], dim=1)
        attend_BHSS = self._position_scores(x.shape[1])[None].masked_fill(~mask_BS[:, None, None, :], float("-inf"))
        for layer in self.layers:
            x = layer(x, attend_BHSS)
        return self.norm(x), mask_BS

    def _position_scores(self, length: int) -> Tensor:
        """Return the scores of positions for each other [H, S, S], which all layers share."""
        positions = self.position_norm(self.positions.weight[:length])
        q = self.position_query(positions).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        k = self.position_key(positions).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        return q @ k.mT * (2 * q.shape[-1]) ** -0.5

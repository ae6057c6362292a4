"""Architecture of a checkpoint: what `config.json` beside the weights says. Nothing here imports torch.

The decoder is one generic multi-exit decoder; every difference between families is an explicit setting, so that a
family is a set of values and not a class.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from conf.earlier_checkpoints import with_image_plan
from conf.errors import UserError
from conf.image_plan import ImagePlan
from conf.json_file import read_json
from conf.model_folders import instead_of
from conf.section import Section

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
QFORMER_TOKENIZER_FILE = "qformer_tokenizer.json"
CAPTION_TASK = "<CAPTION>"  # of models whose prompts are tasks (Florence-2)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")

Count = Annotated[int, Field(ge=1)]


class RelativeBias(Section):
    """T5 relative position bias, one table shared by all layers (Raffel et al. 2020, section 2.1)."""

    num_buckets: Count = 32
    max_distance: Count = 128


class AbsoluteBias(Section):
    """OFA: scores get the product of projected positions, in self- and cross-attention, and a table per layer."""

    max_context: Count = Field(description="Encoder positions, counted from the first.")
    num_distances: Count = Field(32, description="Distances told apart by each layer's table; larger ones are one.")


class Rope(Section):
    """Rotary positions: channel pair i of a head turns by position / factor / theta ** (2 i / d_head)."""

    theta: Annotated[float, Field(gt=0)]
    factor: Annotated[float, Field(gt=0)] = 1.0


class MergedAttention(Section):
    """A layer's own keys and those of the encoder in one softmax, from the same projections (T5Gemma 2).

    Own keys are rotated to their positions, encoder keys have none; keys and queries are normalised head by head.
    """

    num_kv_heads: Count = Field(description="Heads of keys and values, each read by equally many heads of queries.")
    sliding: tuple[bool, ...] = Field(description="By layer: whether it sees its own last `window` positions alone.")
    window: Count = Field(description="Own positions in sight of a sliding layer, the query's included.")
    full_rope: Rope
    sliding_rope: Rope
    image_end_id: int = Field(description="End of an image: its embedding is a vector of its own, and is not scaled.")


class DecoderConfig(Section):
    """Block settings of the multi-exit decoder."""

    num_layers: Count
    d_model: Count
    num_heads: Count
    d_head: Count = Field(description="Width of one head; num_heads * d_head may differ from d_model (T5).")
    d_ff: Count
    d_cross: Count = Field(description="Width of the encoder states the cross-attention reads.")
    vocab_size: Count
    norm: Literal["rms", "unit_offset_rms", "layer"] = Field(
        "rms", description="unit_offset_rms: the gain is one plus the weight, in float32 at least."
    )
    norm_eps: float = 1e-6
    pre_norm: bool = True
    final_norm: bool = True
    attn_scale: float | None = Field(None, description="Factor on q.k; none: d_head ** -0.5. T5 uses 1.")
    attn_bias: bool = False
    ffn_bias: bool = False
    ffn: Literal["relu", "gelu", "gelu_new", "gated_gelu", "gated_gelu_new"] = "gelu"
    relative_bias: RelativeBias | None = None
    relative_bias_per_layer: bool = Field(False, description="Every layer has a table of its own (UMT5).")
    absolute_bias: AbsoluteBias | None = None
    merged: MergedAttention | None = None
    sublayer_norm: bool = Field(
        False, description="Norms after both attentions and inside the feed-forward (NormFormer, arXiv 2110.09456)."
    )
    head_gains: bool = Field(False, description="A learned factor per attention head (NormFormer).")
    residual_gain: bool = Field(False, description="A learned factor per channel on the feed-forward's residual.")
    positions: Literal["none", "learned", "sinusoidal"] = "learned"
    max_positions: Count = Field(512, description="Longest output, in tokens.")
    position_offset: int = Field(0, description="Added to a position before the table is read (BART: 2).")
    embed_scale: float = 1.0
    embed_norm: bool = False
    token_types: int = Field(0, description="Rows of BERT's table of token types; the first is added to every input.")
    head_transform: Literal["relu", "gelu", "gelu_new"] | None = Field(
        None, description="A dense layer with this activation and a norm, between every exit and the head (BERT)."
    )
    head_tied: bool = True
    head_scale: float = Field(1.0, description="Factor on the head's input (tied T5: d_model ** -0.5).")
    head_bias: bool = False
    logit_softcap: float | None = Field(None, description="Logits x become c tanh(x / c).")

    @property
    def d_inner(self) -> int:
        return self.num_heads * self.d_head

    @property
    def kv_width(self) -> int:
        """Return the width of K and V of one position, side by side."""
        return 2 * (self.num_heads if self.merged is None else self.merged.num_kv_heads) * self.d_head

    @model_validator(mode="after")
    def _merged_attention_fits(self) -> "DecoderConfig":
        merged = self.merged
        if merged is not None and (len(merged.sliding) != self.num_layers or self.num_heads % merged.num_kv_heads):
            raise ValueError(
                f"merged attention of {self.num_layers} layers and {self.num_heads} heads needs one entry of `sliding` "
                f"per layer and a number of num_kv_heads that divides the heads, got {len(merged.sliding)} and "
                f"{merged.num_kv_heads}"
            )
        return self


class ScenesEncoderConfig(Section):
    """Convolutional stem and transformer over image patches and prompt tokens (jobs/train makes it)."""

    kind: Literal["scenes"] = "scenes"
    num_layers: Count
    d_model: Count
    num_heads: Count
    d_ff: Count
    stem_channels: tuple[int, ...] = Field(
        (32, 64, 128), description="Channels of the stride-2 stages before the last."
    )
    max_prompt_tokens: Count = 64


class LatrEncoderConfig(Section):
    """LaTr-style: T5 encoder over visual patches, question tokens and words found in the image, with 2-D layout.

    Our reading of arXiv 2112.12494, at the size one trains from nothing.
    """

    kind: Literal["latr"] = "latr"
    num_layers: Count
    d_model: Count
    num_heads: Count
    d_ff: Count
    stem_channels: tuple[int, ...] = (32, 64, 128)
    relative_bias: RelativeBias = RelativeBias()
    max_prompt_tokens: Count = Field(64, description="Question and words together.")


class OfaEncoderConfig(Section):
    """OFA-style: BART-like encoder over patches and prompt tokens, with NormFormer norms and position scores.

    Our reading of arXiv 2202.03052, at the size one trains from nothing.
    """

    kind: Literal["ofa"] = "ofa"
    num_layers: Count
    d_model: Count
    num_heads: Count
    d_ff: Count
    stem_channels: tuple[int, ...] = (32, 64, 128)
    max_prompt_tokens: Count = 64


class TransformersEncoderConfig(Section):
    """An encoder class of the `transformers` library, built from its own configuration (deed convert makes it)."""

    kind: Literal["transformers"] = "transformers"
    model_type: Literal[
        "t5",
        "mt5",
        "umt5",
        "bart",
        "mbart",
        "pix2struct",
        "t5gemma2",
        "udop",
        "florence2",
        "blip-2",
        "instructblip",
        "vision-encoder-decoder",
        "blip",
    ]
    hf_config: dict[str, Any] = Field(description="config.json of the source, as it was.")
    max_prompt_tokens: Count = 64


def _encoder_kind(value: Any) -> str | None:
    """Return the `kind`, which was not written before there was a choice."""
    return value.get("kind", "scenes") if isinstance(value, dict) else getattr(value, "kind", None)


EncoderConfig = Annotated[
    Annotated[ScenesEncoderConfig, Tag("scenes")]
    | Annotated[LatrEncoderConfig, Tag("latr")]
    | Annotated[OfaEncoderConfig, Tag("ofa")]
    | Annotated[TransformersEncoderConfig, Tag("transformers")],
    Discriminator(_encoder_kind),
]


class OutputStructure(Section):
    """What an output's text says besides words: places in the image, named values."""

    kind: Literal["florence2", "donut"] = Field(
        description="florence2: phrases with `<loc_52>` for boxes and polygons; donut: `<s_name>value</s_name>`."
    )
    banned_phrases: tuple[str, ...] = Field((), description="florence2: what grounding a caption leaves out.")


class ImageTokens(Section):
    """How an image stands among the tokens of a prompt: two newlines, begin, image, end, two newlines.

    All of that takes the place of the begin token of a prompt, or comes before a prompt that has none. The encoder puts
    as many image tokens as it has for the one image token here.
    """

    begin_id: int
    image_id: int
    end_id: int


class TextRules(Section):
    """How a prompt becomes what the encoder reads, and the decoder's tokens a text."""

    prompt: Literal["tokens", "bytes", "none"] = Field(
        "tokens", description="bytes: the model draws the text itself; none: the encoder reads no prompt."
    )
    words: bool = Field(False, description="Prompt tokens carry places; a prompt may bring words found in the image.")
    qformer: bool = Field(
        False, description="The prompt is also read by a Q-Former, by a tokenizer of its own (InstructBLIP)."
    )
    leading_space: bool = Field(True, description="Put a space before a text, so that a word has one spelling.")
    prefix_ids: tuple[int, ...] = Field((), description="Tokens before every prompt.")
    suffix_ids: tuple[int, ...] = Field((), description="Tokens after every prompt.")
    words_end_ids: tuple[int, ...] = Field(
        (),
        description="Tokens after the words; where there are any, they and suffix_ids have the box of the far corner.",
    )
    image: ImageTokens | None = None
    tasks: dict[str, str] = Field({}, description="Task token -> prompt that stands for it; {input} is what follows.")
    decoder_prefix: str = Field(
        "", description="What outputs begin with where engine.generation says nothing; {prompt} is the prompt in it."
    )
    keep_special_tokens: bool = Field(
        False, description="Special tokens are part of an output's text, but for those that start, end or pad it."
    )
    structure: OutputStructure | None = Field(None, description="How the column `fields` is read from an output.")


class GenerationDefaults(Section):
    """How the checkpoint's outputs are meant to be generated; engine.generation overrides what it sets."""

    forced_bos_id: int | None = Field(None, description="Token of the first step, whatever its scores.")
    forced_eos: bool = Field(
        False, description="The last allowed step emits the end token, so an output is cut one token earlier."
    )
    no_repeat_ngram: Annotated[int, Field(ge=0)] = Field(0, description="No n-gram of this size twice; 0: off.")
    repetition_penalty: Annotated[float, Field(gt=0)] = Field(1.0, description="CTRL's penalty; 1: off.")
    min_new_tokens: Annotated[int, Field(ge=0)] = Field(0, description="No end before this many tokens.")
    banned_ids: tuple[tuple[int, ...], ...] = Field((), description="Token sequences that are never said.")
    other_end_ids: tuple[int, ...] = Field((), description="Tokens that end an output as the end token does.")


class ModelConfig(Section):
    """Everything `load_checkpoint` needs besides the weights."""

    format_version: Literal[1] = 1
    name: str
    family: Literal["scenes", "t5", "bart", "bert", "gpt2", "t5gemma2", "latr", "ofa"] = "scenes"
    image_size: Count = Field(description="Side of the square input, pixels; of another input, the longer side.")
    image_plan: ImagePlan | None = Field(None, description="What becomes of a picture; none: that square.")
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    encoder: EncoderConfig
    decoder: DecoderConfig
    text: TextRules = TextRules()
    exits: tuple[int, ...] = Field(description="Layers with a trained exit, increasing; the last is the full depth.")
    untrained_exits: tuple[int, ...] = Field(
        (), description="Exits of a converted model that nothing has trained yet: their tokens are guesses."
    )
    adapters: bool = Field(True, description="An adaptation module before the shared head at every exit but the last.")
    separate_heads: bool = Field(
        False, description="A vocabulary head of its own at every exit (ablation) in place of the shared one."
    )
    gates: bool = Field(False, description="A learned gate at every exit but the last (engine.gate=classifier).")
    thresholds: tuple[float, ...] | None = Field(
        None, description="Calibrated default thresholds, one per exit but the last."
    )
    gate_thresholds: tuple[float, ...] | None = Field(
        None, description="The same for engine.gate=classifier: what the learned gates were calibrated to."
    )
    pad_id: int = 0
    start_id: int = 1
    eos_id: int = 2
    prefix_starts: bool = Field(
        False, description="A decoder prefix stands in the place of the start token (Donut); elsewhere it follows it."
    )
    generation: GenerationDefaults = GenerationDefaults()

    _earlier = model_validator(mode="before")(with_image_plan)

    @property
    def plan(self) -> ImagePlan:
        """What becomes of a decoded picture before it travels to the model."""
        return self.image_plan or ImagePlan.squeeze(self.image_size)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Return the tokens that end an output, the end token first."""
        return self.eos_id, *self.generation.other_end_ids

    def given_ids(self, prefix_ids: Sequence[int] = ()) -> tuple[int, ...]:
        """Return what the decoder is given before it says anything."""
        return given_ids(self.start_id, prefix_ids, prefix_starts=self.prefix_starts)

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if (
            list(self.exits) != sorted(set(self.exits))
            or self.exits[-1] != self.decoder.num_layers
            or self.exits[0] < 1
        ):
            raise ValueError(
                f"exits must be increasing layers that end with {self.decoder.num_layers}, got {list(self.exits)}"
            )
        for name in ("thresholds", "gate_thresholds"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.exits) - 1:
                raise ValueError(f"{name} must have {len(self.exits) - 1} values, got {len(values)}")
        return self


def given_ids(start_id: int, prefix_ids: Sequence[int], *, prefix_starts: bool) -> tuple[int, ...]:
    """Return the decoder inputs before the first step, of which there is always one."""
    return tuple(prefix_ids) if prefix_starts and prefix_ids else (start_id, *prefix_ids)


def read_model_config(checkpoint: str | Path) -> ModelConfig:
    """Return the architecture of a checkpoint directory; UserError when it is missing or not valid."""
    if is_transformers_directory(checkpoint):
        raise UserError(
            f"checkpoint {str(checkpoint)!r} is a model directory of transformers; "
            "deed convert makes a checkpoint of it"
        )
    path = Path(checkpoint) / CONFIG_FILE
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (path.parent / name).is_file():
            if name == WEIGHTS_FILE and (pickled := pickled_weights(checkpoint)):
                raise UserError(
                    f"checkpoint {str(checkpoint)!r} has its weights only as {pickled!r}, a format that can run code "
                    "when it is loaded; only safetensors are read"
                )
            raise UserError(f"checkpoint {str(checkpoint)!r} has no {name}{instead_of(checkpoint)}")
    values = read_json(path, "checkpoint config")
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise UserError(f"checkpoint config {str(path)!r} is not valid: {where}: {first['msg']}") from None


def is_transformers_directory(path: str | Path) -> bool:
    """Whether a directory holds a model of `transformers` and not a checkpoint; False where nothing can be read."""
    try:
        values = read_json(Path(path) / CONFIG_FILE, "config")
    except UserError:
        return False
    return isinstance(values, dict) and "model_type" in values


def pickled_weights(directory: str | Path) -> str | None:
    """Return the first file of weights in a format that can run code; None where there is none."""
    found = sorted(file.name for pattern in _PICKLES for file in Path(directory).glob(pattern))
    return found[0] if found else None


def weights_sha256(checkpoint: str | Path) -> str:
    """Return the SHA-256 of the weights file, which is the identity of a model in config hashes and run records."""
    digest = hashlib.sha256()
    with open(Path(checkpoint) / WEIGHTS_FILE, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def longest_prompt(max_prompt_tokens: int) -> int:
    """Return how many characters of a prompt are tokenised at most, for a model that reads so many tokens of it.

    Generous: a token of text has about four, but runs of spaces and long words have many.
    """
    return max(100_000, 64 * max_prompt_tokens)

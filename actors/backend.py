"""A loaded model as the captioner needs it, and how the real one is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from actors.engine.drain import EngineLike
from conf.engine import EngineConfig
from conf.image_plan import ImagePlan
from conf.schema import ModelSection


@dataclass(frozen=True)
class Backend:
    """`make_engine` may be called again after an engine failure."""

    make_engine: Callable[[], EngineLike]
    encode_prompt: Callable[[str], tuple[int, ...]]  # ValueError for a prompt the model cannot take
    decode_tokens: Callable[[Sequence[int]], str]
    token_texts: Callable[[Sequence[int]], list[str]]  # what each token adds
    plan: ImagePlan  # of its images
    device: str  # "cpu", or the GPU's name
    encode_prefix: Callable[[str], tuple[int, ...] | None] = lambda prompt: None  # what its output begins with
    says_prefix: bool = False  # and so does its text
    # (tokens, prompt, width and height) -> what the output says besides words, as JSON
    read_fields: Callable[[Sequence[int], str, tuple[int, int]], str | None] = lambda token_ids, prompt, size: None
    enter_thread: Callable[[], object] = lambda: None  # called once in the thread that runs the engines


def load_backend(model: ModelSection, engine: EngineConfig, num_threads: int) -> Backend:
    """Return the real thing: checkpoint and engine on the device this process has. Call it inside the actor."""
    import torch

    from actors.engine_factory import make_engine
    from actors.generation_texts import goes_on_from_prompt, prefix_ids_of, prefix_of
    from actors.model.checkpoint import load_checkpoint
    from actors.model.weights import with_weights

    cuda = model.device == "cuda" or (model.device == "auto" and torch.cuda.is_available())
    torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(model.checkpoint, device="cuda" if cuda else "cpu", dtype=getattr(torch, model.dtype))
    small = with_weights(checkpoint.model, engine.weights)  # once and here, so that the larger weights are let go
    checkpoint = replace(checkpoint, model=small)
    max_prompt_tokens = checkpoint.config.encoder.max_prompt_tokens
    keep_special = engine.generation.keep_special_tokens

    def encode_prompt(text: str) -> tuple[int, ...]:
        token_ids = checkpoint.codec.encode_prompt(text)
        if len(token_ids) > max_prompt_tokens:
            raise ValueError(f"the prompt has {len(token_ids)} tokens, the model takes {max_prompt_tokens}")
        return token_ids

    def read_fields(token_ids: Sequence[int], prompt: str, size: tuple[int, int]) -> str | None:
        if checkpoint.codec.rules.structure is None:  # most models: their prefixes need not be tokenised once more
            return None
        prefix_ids = prefix_ids_of(prompt, engine.generation, checkpoint.codec)
        return checkpoint.codec.fields((*prefix_ids, *token_ids), prompt, size)

    return Backend(
        make_engine=lambda: make_engine(checkpoint, engine),
        encode_prompt=encode_prompt,
        encode_prefix=lambda prompt: prefix_of(prompt, engine.generation, checkpoint.codec),
        says_prefix=goes_on_from_prompt(engine.generation, checkpoint.codec),
        read_fields=read_fields,
        decode_tokens=partial(checkpoint.codec.decode, keep_special=keep_special),
        token_texts=partial(checkpoint.codec.pieces, keep_special=keep_special),
        plan=checkpoint.config.plan,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        # Numbers so small cost a CPU ten times the time. It holds for a thread and those that it starts.
        enter_thread=lambda: torch.set_flush_denormal(True),
    )

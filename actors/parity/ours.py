"""The pipeline's side: its preprocessing and its engine at full depth, the functions that a job uses, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from actors.backend import Backend, load_backend
from actors.engine.drain import drain
from actors.engine.request import Request
from actors.model.model import MultiExitModel
from actors.model.tokenizer import load_tokenizer
from actors.parity.answer import Answer
from actors.parity.library import VISION_INPUTS
from actors.row_work import RowWork, request_of
from conf.checkpoint_files import TOKENIZER_FILE, read_model_config
from conf.engine import EngineConfig
from conf.model import ModelConfig
from conf.resolve import image_plan
from conf.schema import ModelSection, PreprocessConfig
from pipeline.images.decode import ImageProblem, image_to_pixels


class Problem(Exception):
    """The pipeline would make an errors row of this one; the text says why."""


@dataclass(frozen=True)
class Ours:
    """A checkpoint and its engine, and how pictures are made ready for it."""

    config: ModelConfig
    backend: Backend
    tokenizer: Tokenizer
    preprocess: PreprocessConfig

    @classmethod
    def load(
        cls, checkpoint: str, engine: EngineConfig, preprocess: PreprocessConfig | None = None, num_threads: int = 1
    ) -> "Ours":
        """UserError for what is wrong with the checkpoint, or does not fit it."""
        section = ModelSection(checkpoint=checkpoint, device="cpu")
        backend = load_backend(section, engine.at_full_depth(), num_threads)
        tokenizer = load_tokenizer(Path(checkpoint) / TOKENIZER_FILE)
        return cls(read_model_config(checkpoint), backend, tokenizer, preprocess or PreprocessConfig())

    def request(self, number: int, data: bytes, prompt: str) -> Request:
        """Return what the engine is asked of a picture file; Problem where a job would have an errors row."""
        plan, limits = image_plan(self.config, self.preprocess), self.preprocess
        pixels = image_to_pixels(
            data, plan=plan, texts=(prompt,), max_pixels=limits.max_pixels, max_decode_bytes=limits.max_decode_bytes
        )
        if isinstance(pixels, ImageProblem):
            raise Problem(pixels.message)
        work = RowWork(number, {"sample_id": str(number), "prompt": prompt}, pixels.pixels_HWC, number)
        request = request_of(self.backend, work)
        if not isinstance(request, Request):
            raise Problem(request.message)
        return request

    def token_text(self, token_id: int) -> str:
        """Return a token as the tokenizer spells it, special ones too."""
        return self.tokenizer.id_to_token(token_id) or f"token {token_id}"

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """Return what the engine says, all requests in flight together, and what its vision model was given."""
        engine = self.backend.make_engine()
        model: MultiExitModel = engine.model  # type: ignore[attr-defined]
        completions = drain(engine, requests)
        return [
            Answer(completion.token_ids, vision_inputs(model, request))
            for request, completion in zip(requests, completions, strict=True)
        ]


class _Seen(Exception):
    """Ends a forward pass once its inputs are known."""


def vision_inputs(model: MultiExitModel, request: Request) -> Tensor | None:
    """Return what the vision model of a pretrained encoder is given for a request, without running it."""
    seen: list[Tensor] = []

    def look(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = [named[name] for name in VISION_INPUTS if named.get(name) is not None]
        if not given and arguments and module is getattr(model.encoder, "vision", None):
            given = [arguments[0]]
        if given:
            seen.append(given[0][0].clone())
            raise _Seen

    hooks = [part.register_forward_pre_hook(look, with_kwargs=True) for part in model.encoder.children()]
    prompt = torch.tensor([request.prompt_ids])
    try:
        with torch.inference_mode():
            pixels = torch.from_numpy(request.pixels_HWC.copy())[None]
            model.encode(pixels, prompt, torch.ones_like(prompt, dtype=torch.bool))
    except _Seen:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen else None

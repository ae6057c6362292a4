"""The opponents' own decoding loops: `transformers` generate and CTranslate2, in static batches of all slots."""

import time
from typing import Any

import torch

from actors.engine.encoding import collate
from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.model.encoders import make_encoder
from actors.model.interop.families import FAMILIES
from conf.bench import BenchConfig, BenchModel
from conf.errors import UserError
from jobs.bench.engine.cells import OWN_LIMIT, Cell
from jobs.bench.engine.models import token_names
from jobs.bench.engine.passes import Outcome, Pass, peak_memory_bytes, percentile
from jobs.bench.engine.places import checkpoint_of, folder_of, source_of
from jobs.bench.engine.workload import ReplayedEncoder, endless, make_requests


class StaticBatches:
    """Requests in batches of `slots`; a subclass decodes one batch. Latencies are those of whole batches."""

    def __init__(self, config: BenchConfig, model: BenchModel) -> None:
        self._config, self._model_name = config, model
        self._requests: list[Request] = []

    def release(self) -> None:
        self._requests = []

    def prepare(self, cell: Cell) -> None:
        self._cell = cell

    def decode(self, batch: list[Request]) -> tuple[list[list[int]], float, int]:
        """Output tokens of every request, seconds spent encoding, decoder rows computed."""
        raise NotImplementedError

    def verify(self) -> Outcome:
        tokens, _, _, rows = self._run()
        needed = sum(self._steps(row) for row in tokens)
        return Outcome(tokens=tokens, padding=None if not rows else 1 - needed / rows)

    def _steps(self, tokens: list[int]) -> int:
        """Decoding steps behind an output: the end token takes one too."""
        return len(tokens) + (len(tokens) < (self._cell.length or OWN_LIMIT))

    def measure(self) -> Pass:
        start_s = time.perf_counter()
        tokens, latencies, encode_s, _ = self._run()
        return Pass(
            num_sequences=len(tokens),
            num_tokens=sum(map(len, tokens)),
            wall_s=time.perf_counter() - start_s,
            encode_s=encode_s,
            latency_p50_s=percentile(latencies, 0.5),
            latency_p99_s=percentile(latencies, 0.99),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _run(self) -> tuple[list[list[int]], list[float], float, int]:
        tokens: list[list[int]] = []
        latencies: list[float] = []
        encode_s, rows = 0.0, 0
        for start in range(0, len(self._requests), self._cell.slots):
            batch = self._requests[start : start + self._cell.slots]
            start_s = time.perf_counter()
            said, spent_s, computed = self.decode(batch)
            latencies += [time.perf_counter() - start_s] * len(batch)
            tokens, encode_s, rows = tokens + said, encode_s + spent_s, rows + computed
        assert len(tokens) == len(self._requests), "rows in must be rows out"
        return tokens, latencies, encode_s, rows


class TransformersGenerate(StaticBatches):
    """Greedy `generate` with its KV cache, on the library's own classes."""

    def __init__(self, config: BenchConfig, model: BenchModel) -> None:
        super().__init__(config, model)
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._dtype = getattr(torch, config.dtype)
        self._checkpoint = load_checkpoint(checkpoint_of(config, model), dtype=self._dtype)
        self._own_config = self._checkpoint.config
        self._theirs = None if model is BenchModel.SCENES else self._load(self._checkpoint)

    def _load(self, ours: Checkpoint) -> Any:
        """Return the library's model; our thin wrapper makes its encoder's inputs, and our own weights are let go."""
        import transformers

        kind = ours.config.encoder.model_type  # type: ignore[union-attr]
        theirs = getattr(transformers, FAMILIES[kind].model_class).from_pretrained(
            source_of(self._config, self._model_name), dtype=self._dtype, local_files_only=True
        )
        theirs = theirs.eval().requires_grad_(False)
        with torch.device("meta"):
            encoder = make_encoder(ours.config)
        setattr(encoder, "vision" if kind == "pix2struct" else "stack", theirs.get_encoder())
        ours.model.encoder, ours.model.decoder = encoder.eval(), torch.nn.Identity()  # type: ignore[assignment]
        return theirs

    def prepare(self, cell: Cell) -> None:
        super().prepare(cell)
        ours = self._checkpoint.model
        ours.config = self._own_config
        ours.__dict__.pop("encode", None)
        if cell.length is not None:
            endless(ours)
        self._requests = make_requests(self._config, cell, self._checkpoint)
        if cell.encoder == "replayed":
            ours.__dict__["encode"] = ReplayedEncoder(ours, self._requests)
        if self._model_name is BenchModel.SCENES and self._theirs is None:
            from jobs.bench.engine.positioned_t5 import positioned_t5

            self._theirs = positioned_t5(ours)

    @torch.inference_mode()
    def decode(self, batch: list[Request]) -> tuple[list[list[int]], float, int]:
        from transformers.modeling_outputs import BaseModelOutput

        ours, start_s = self._checkpoint.model, time.perf_counter()
        states, mask = ours.encode(*collate(batch, ours.config.pad_id))
        encode_s = time.perf_counter() - start_s
        eos = ours.config.eos_id if self._cell.length is None else None
        output = self._theirs.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask.long(),
            max_new_tokens=self._cell.length or OWN_LIMIT, do_sample=False, num_beams=1, use_cache=True,
            eos_token_id=eos, pad_token_id=ours.config.pad_id, decoder_start_token_id=ours.config.start_id,
        )[:, 1:].tolist()  # fmt: skip
        return [row[: row.index(eos)] if eos in row else row for row in output], encode_s, sum(map(len, output))


class CTranslate2(StaticBatches):
    """Its translator decodes T5. The encoder cannot be timed apart, so it counts as what one token costs."""

    def __init__(self, config: BenchConfig, model: BenchModel) -> None:
        super().__init__(config, model)
        try:
            import ctranslate2
        except ImportError:
            raise UserError("ctranslate2 is not installed (it is in the dev extra)") from None
        path = folder_of(config, model) / "ct2"
        if not path.is_dir():
            raise UserError("CTranslate2 takes the T5 text models alone")
        if config.dtype != "float32":
            raise UserError("CTranslate2 is measured in float32")
        threads = config.num_threads or torch.get_num_threads()
        self._translator = ctranslate2.Translator(
            str(path), device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
        )
        self._checkpoint = load_checkpoint(checkpoint_of(config, model))
        self._names = token_names(self._checkpoint.config.decoder.vocab_size)
        self._ids = {name: i for i, name in enumerate(self._names)}

    def prepare(self, cell: Cell) -> None:
        if cell.encoder == "replayed":
            raise UserError("CTranslate2 does not take encoder states")
        super().prepare(cell)
        self._requests = make_requests(self._config, cell, self._checkpoint)

    def decode(self, batch: list[Request]) -> tuple[list[list[int]], float, int]:
        source = [[self._names[i] for i in request.prompt_ids] for request in batch]
        return self._translate(source, self._cell.length or OWN_LIMIT), 0.0, 0

    def measure(self) -> Pass:
        """`encode_s` is the time of the same batches cut after one token, a decoder step more than the encoder."""
        timed, start_s = super().measure(), time.perf_counter()
        for start in range(0, len(self._requests), self._cell.slots):
            batch = self._requests[start : start + self._cell.slots]
            self._translate([[self._names[i] for i in request.prompt_ids] for request in batch], 1)
        first_s, length = time.perf_counter() - start_s, self._cell.length or OWN_LIMIT
        # At toy sizes one token can seem to take as long as all of them; a step is not nothing even then.
        per_step_s = max((timed.wall_s - first_s) / max(1, length - 1), 1e-2 * timed.wall_s / length)
        encode_s = min(max(0.0, first_s - per_step_s), timed.wall_s - length * per_step_s)
        return Pass(**{**timed.__dict__, "encode_s": encode_s})

    def _translate(self, source: list[list[str]], length: int) -> list[list[int]]:
        results = self._translator.translate_batch(
            source, beam_size=1, max_decoding_length=length, min_decoding_length=length, max_input_length=0
        )
        return [[self._ids[name] for name in result.hypotheses[0]] for result in results]


def make_opponent(runner: str, config: BenchConfig, model: BenchModel) -> StaticBatches:
    return {"transformers": TransformersGenerate, "ctranslate2": CTranslate2}[runner](config, model)

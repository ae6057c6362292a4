"""The training loop of one process: resumable (state.py), and the same on CPU and GPU."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from actors.model.checkpoint import save_checkpoint
from actors.model.encoders import tied_names
from actors.model.model import MultiExitModel
from actors.model.tokenizer import TextCodec, train_tokenizer
from actors.training import state
from actors.training.data import Packer, TrainingSample, expand_shards, iterate_samples, read_shard
from actors.training.grounding import PATCH_PIXELS, GroundingHead, Places
from actors.training.loss import multi_exit_loss
from actors.training.muon import Muon, native_bfloat16
from actors.training.scratch import initialise, model_config
from actors.training.workers import Workers
from conf.errors import UserError
from conf.training import OptimizerConfig, TrainConfig

REPORT_EVERY = 10  # steps
Report = Callable[[dict[str, Any]], None]


def rate_share(step: int, config: OptimizerConfig) -> float:
    """Share of the peak rate: up linearly, stay, then fall as a cosine to 1 % over the last `decay_fraction`."""
    own_steps = step - config.encoder_steps if step >= config.encoder_steps else step  # the decoder warms up anew
    warm = min(1.0, (own_steps + 1) / max(1, config.warmup_steps))
    decay_steps = config.decay_fraction * config.total_steps
    progress = max(0.0, (step - (config.total_steps - decay_steps)) / decay_steps)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Trainer:
    """Owns model, optimizer and position in the data; `run` trains to `total_steps` or until told to stop."""

    def __init__(self, config: TrainConfig, report: Report, workers: Workers | None = None) -> None:
        self.config, self.report = config, report
        self.workers = workers or Workers()
        if config.optimizer.batch_images % self.workers.count:
            raise UserError(
                f"optimizer.batch_images={config.optimizer.batch_images} must be a multiple of "
                f"{self.workers.count} workers"
            )
        self.output = Path(config.output)
        self.state_path = self.output / "state"
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if cuda else "cpu")
        automatic = config.precision == "auto" and native_bfloat16(self.device)
        self.bfloat16 = config.precision == "bfloat16" or automatic
        self.train_shards = expand_shards(config.data.train)
        self.validation_shards = expand_shards(config.data.validation)
        torch.manual_seed(config.seed)
        if self.workers.leads:
            self._tokenizer()
        self.workers.wait()
        self.tokenizer = self._tokenizer()
        self.model_config = model_config(config, self.tokenizer.get_vocab_size())
        self.model = MultiExitModel(self.model_config)
        initialise(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        codec = TextCodec(self.tokenizer, self.model_config.text)
        self.packer = Packer(codec, self.model_config, config.data, config.seed)
        grounds = config.loss.grounding_weight and self.model.packs_prompts
        self.places = self._known_places() if grounds else None
        self.grounding: GroundingHead | None = None
        if self.places is not None:
            names = [codec.encode(name) for name in self.places.names]
            self.grounding = GroundingHead(self.places, names, config.architecture.d_model).to(self.device)
        elif config.optimizer.encoder_steps:
            raise UserError(
                "optimizer.encoder_steps needs loss.grounding_weight and a corpus whose `objects` have places"
            )
        self.optimizers = self._make_optimizers()
        self.peak_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.step, self.epoch, self.epoch_images = 0, 0, 0
        self.best, self.worse = -1.0, 0  # early stopping: best validation accuracy, validations since
        self._resume()

    def _tokenizer(self) -> Tokenizer:
        path = self.state_path / "tokenizer.json"
        if path.is_file():
            return Tokenizer.from_file(str(path))
        texts: list[str] = []
        count = 0
        for shard in self.train_shards:
            for sample in read_shard(shard):
                texts += [text for pair in sample.record["captions"] for text in (pair["prompt"], pair["text"])]
                texts += [text for pair in sample.record["qa"] for text in (pair["question"], pair["answer"])]
                count += 1
            if count >= self.config.tokenizer.num_samples:
                break
        tokenizer = train_tokenizer(texts, self.config.tokenizer.vocab_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path))
        return tokenizer

    def _known_places(self) -> Places | None:
        """What the first shards say is where; a rare name that only later shards hold is not asked for."""
        shards = self.train_shards[: self.config.data.shuffle_shards]
        side = self.model_config.image_size // PATCH_PIXELS
        places = Places((sample for shard in shards for sample in read_shard(shard)), side)
        return places if places.names else None

    def _named_parameters(self) -> dict[str, torch.nn.Parameter]:
        named = dict(self.model.named_parameters())
        if self.grounding is not None:
            named |= {f"grounding.{name}": parameter for name, parameter in self.grounding.named_parameters()}
        return named

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the layers and for convolutions where configured, AdamW for everything else."""
        o = self.config.optimizer
        named = self._named_parameters()
        inner: list[dict[str, Any]] = []
        if o.muon_lr:
            inner = [
                {"params": [p], "parts": 3 if "qkv" in name else 2 if "cross_kv" in name else 1}
                for name, p in named.items()
                if (".layers." in name and p.dim() == 2) or p.dim() == 4
            ]
        taken = {id(group["params"][0]) for group in inner}
        rest = [p for p in named.values() if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": o.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=o.peak_lr, betas=(0.9, o.beta2), fused=True)
        ]
        return [*optimizers, Muon(inner, lr=o.muon_lr, weight_decay=o.weight_decay)] if inner else optimizers

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train; return True when all steps are done. The state is saved when stopped early."""
        o = self.config.optimizer
        batches = self._batches()
        window_start, window_images, window = time.perf_counter(), 0, Counter[str]()
        while self.step < o.total_steps and not self._stalled():
            samples = next(batches)
            window.update(self._train_step(samples))
            window_images += len(samples)
            if self.step % REPORT_EVERY == 0 and self.workers.leads:
                elapsed_s = time.perf_counter() - window_start
                self.report({
                    "step": self.step, "total_steps": o.total_steps, "epoch": self.epoch,
                    "images_per_s": window_images / elapsed_s, "lr": o.peak_lr * rate_share(self.step, o),
                    "losses": {key: value / REPORT_EVERY for key, value in window.items()},
                })  # fmt: skip
                window_start, window_images, window = time.perf_counter(), 0, Counter()
            if self.step % self.config.validate_every == 0 or self.step == o.total_steps:
                self._validate_and_judge()
                window_start = time.perf_counter()
            stop = self.workers.agree(should_stop(), self.device)
            if self.step % self.config.save_every == 0 or self.step == o.total_steps or stop:
                self.save_state()
            if stop:
                return False
        if self._stalled():
            self.save_state()
        if self.workers.leads:
            self.export()
        self.workers.wait()
        return True

    def _stalled(self) -> bool:
        """No validation among the last `patience` was better than the best before them."""
        return self.config.patience is not None and self.worse >= self.config.patience

    def _validate_and_judge(self) -> None:
        self.workers.average_statistics(self.model)
        if self.workers.leads:
            values = self.validate()
            self.report({"step": self.step, "validation": values})
            accuracy = values["token_accuracy_by_exit"][str(self.model_config.exits[-1])]
            self.worse = 0 if accuracy > self.best else self.worse + 1
            self.best = max(self.best, accuracy)
        stalled = self.workers.agree(self._stalled(), self.device)
        self.worse = max(self.worse, self.config.patience or 0) if stalled else self.worse

    def _batches(self) -> Iterator[list[TrainingSample]]:
        """The samples of one step at a time; a step never spans two epochs."""
        while True:
            samples = iterate_samples(
                self.train_shards,
                seed=self.config.seed,
                epoch=self.epoch,
                shuffle_shards=self.config.data.shuffle_shards,
            )
            samples = itertools.islice(samples, self.epoch_images, None)  # a resumed epoch continues where it stopped
            while True:
                batch = list(itertools.islice(samples, self._batch_images()))
                if len(batch) < self._batch_images():
                    break
                self.epoch_images += len(batch)
                yield batch
            self.epoch, self.epoch_images = self.epoch + 1, 0

    def _batch_images(self) -> int:
        o = self.config.optimizer
        return o.encoder_batch_images if self.step < o.encoder_steps else o.batch_images

    def _train_step(self, samples: list[TrainingSample]) -> dict[str, float]:
        """One optimizer step; returns the loss and its parts, weighted over the micro-batches."""
        o = self.config.optimizer
        self.model.train()
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peak_rates, strict=True):
            group["lr"] = peak * rate_share(self.step, o)
        samples = self.workers.mine(samples)
        size = -(-len(samples) // o.accumulate)
        parts: Counter[str] = Counter()
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            with self._autocast():
                loss, values = self._loss(part)
            share = len(part) / len(samples)
            (loss * share).backward()
            parts.update({"loss": float(loss.detach()) * share, **{key: float(v) * share for key, v in values.items()}})
        self.workers.average_gradients(self._named_parameters().values())
        torch.nn.utils.clip_grad_norm_(self._named_parameters().values(), o.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return dict(parts)

    def _loss(self, samples: list[TrainingSample]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pairs = self.packer.choose(samples, self.epoch)
        batch = self.packer.pack(samples, pairs, self.device)
        patches, states, segments = self.model.encode_packed(batch)
        loss, values = states.new_zeros(()), {}
        if self.grounding is not None and self.places is not None:
            targets = self.places.targets(samples, pairs, self.device)
            grounding = self.grounding.loss(self.model, patches, states, targets)
            loss = loss + self.config.loss.grounding_weight * torch.stack(list(grounding.values())).sum()
            values.update({key: value.detach() for key, value in grounding.items()})
        if self.step >= self.config.optimizer.encoder_steps:
            text_loss, losses, _ = multi_exit_loss(self.model, batch, states, segments, self.config.loss)
            loss = loss + text_loss
            values |= {"ce_first": losses[0].detach(), "ce_last": losses[-1].detach()}
        return loss, values

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Return teacher-forced token accuracy per exit on the validation images."""
        self.model.eval()
        samples: list[TrainingSample] = []
        for shard in self.validation_shards:
            samples += read_shard(shard)
            if len(samples) >= self.config.validation_images:
                break
        samples = samples[: self.config.validation_images]
        correct, tokens = [0] * len(self.model_config.exits), 0
        for start in range(0, len(samples), 64):
            part = samples[start : start + 64]
            batch = self.packer.pack(part, self.packer.choose(part, 0), self.device)
            with self._autocast():
                _, states, segments = self.model.encode_packed(batch)
                _, _, hits = multi_exit_loss(self.model, batch, states, segments, self.config.loss)
            tokens += int((batch.target_labels >= 0).sum())
            correct = [a + int(b) for a, b in zip(correct, hits, strict=True)]
        accuracy = {str(layer): hits / tokens for layer, hits in zip(self.model_config.exits, correct, strict=True)}
        return {"images": len(samples), "token_accuracy_by_exit": accuracy}

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model} | ({} if self.grounding is None else {"grounding": self.grounding})

    def _parameter_names(self) -> dict[int, str]:
        return {id(p): name for name, p in self._named_parameters().items()}

    def save_state(self) -> None:
        """Write everything a resumed run needs."""
        self.workers.average_statistics(self.model)
        if self.workers.leads:
            position = {
                "step": self.step, "epoch": self.epoch, "epoch_images": self.epoch_images,
                "best": self.best, "worse": self.worse,
            }  # fmt: skip
            ties = tied_names(self.model_config)
            state.save(self.state_path, self._modules(), ties, self.optimizers, self._parameter_names(), position)

    def _resume(self) -> None:
        position = state.load(self.state_path, self._modules(), self.optimizers, self._parameter_names(), self.device)
        if position is not None:
            self.step, self.epoch = position["step"], position["epoch"]
            self.epoch_images = position["epoch_images"]
            self.best, self.worse = position.get("best", -1.0), position.get("worse", 0)

    def export(self) -> None:
        """Write the checkpoint to ship; half precision on disk, which halves its size."""
        save_checkpoint(
            self.output / "checkpoint", self.model_config, self.model.state_dict(), self.tokenizer, torch.float16
        )

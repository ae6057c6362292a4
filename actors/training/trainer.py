"""The training loop of one process: resumable, and the same on CPU and GPU.

State is written as safetensors + JSON under `<output>/state/`, so resuming never reads a pickle.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from actors.model.checkpoint import save_checkpoint
from actors.model.model import MultiExitModel, PackedBatch
from actors.model.tokenizer import TextCodec, train_tokenizer
from actors.training.data import Packer, TrainingSample, expand_shards, iterate_samples, read_shard
from actors.training.loss import GroundingHead, multi_exit_loss
from conf.model import DecoderConfig, ModelConfig, ScenesEncoderConfig
from conf.training import OptimizerConfig, TrainConfig

Report = Callable[[dict[str, Any]], None]


def model_config(config: TrainConfig, vocab_size: int) -> ModelConfig:
    """Return the architecture that the training configuration describes."""
    a = config.architecture
    return ModelConfig(
        name=a.name,
        image_size=a.image_size,
        encoder=ScenesEncoderConfig(
            num_layers=a.encoder_layers, d_model=a.d_model, num_heads=a.num_heads, d_ff=a.d_ff,
            stem_channels=a.stem_channels, max_prompt_tokens=a.max_prompt_tokens,
        ),
        decoder=DecoderConfig(
            num_layers=a.decoder_layers, d_model=a.d_model, num_heads=a.num_heads, d_head=a.d_model // a.num_heads,
            d_ff=a.d_ff, d_cross=a.d_model, vocab_size=vocab_size, max_positions=a.max_positions, ffn="relu",
        ),
        exits=tuple(range(1, a.decoder_layers + 1)),
    )  # fmt: skip


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Warm up linearly, stay, then fall as a cosine to 1 % over the last `decay_fraction` of the steps."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = config.decay_fraction * config.total_steps
    progress = max(0.0, (step - (config.total_steps - decay_steps)) / decay_steps)
    return config.peak_lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def initialise(model: MultiExitModel) -> None:
    """Draw the weights: normal(0, 0.02) embeddings, scaled output projections so that depth does not add variance."""
    depth = model.config.decoder.num_layers
    for name, parameter in model.named_parameters():
        if name.endswith("patch_positions"):
            continue  # starts as sines and cosines of the grid
        if name.endswith(("embedding.weight", "position_table.weight", "positions.weight")):
            torch.nn.init.normal_(parameter, std=0.02)
        elif parameter.dim() == 2 and "adapters" not in name:
            std = parameter.shape[1] ** -0.5
            if name.endswith(("self_out.weight", "cross_out.weight", "contract.weight", "out.weight")):
                std *= (3 * depth) ** -0.5
            torch.nn.init.normal_(parameter, std=std)


class Trainer:
    """Owns model, optimizer and position in the data; `run` trains to `total_steps` or until told to stop."""

    def __init__(self, config: TrainConfig, report: Report) -> None:
        self.config, self.report = config, report
        self.output = Path(config.output)
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if cuda else "cpu")
        self.train_shards = expand_shards(config.data.train)
        self.validation_shards = expand_shards(config.data.validation)
        torch.manual_seed(config.seed)
        self.tokenizer = self._tokenizer()
        self.model_config = model_config(config, self.tokenizer.get_vocab_size())
        self.model = MultiExitModel(self.model_config)
        initialise(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        names = self._object_names() if config.loss.grounding_weight else []
        codec = TextCodec(self.tokenizer)
        self.grounding = GroundingHead([codec.encode(name) for name in names]).to(self.device) if names else None
        self.optimizer = self._make_optimizer()
        self.packer = Packer(codec, self.model_config, config.data, config.seed, names)
        self.step, self.epoch, self.epoch_batches = 0, 0, 0
        self._resume()

    def _tokenizer(self) -> Tokenizer:
        path = self.output / "state" / "tokenizer.json"
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

    def _object_names(self) -> list[str]:
        """The names in the first shards; a rare name that only later shards hold is not grounded."""
        shards = self.train_shards[: self.config.data.shuffle_shards]
        objects = [
            thing for shard in shards for sample in read_shard(shard) for thing in sample.record.get("objects", ())
        ]
        return sorted({thing["name"] for thing in objects})

    def _named_parameters(self) -> dict[str, torch.nn.Parameter]:
        named = dict(self.model.named_parameters())
        if self.grounding is not None:
            named |= {f"grounding.{name}": parameter for name, parameter in self.grounding.named_parameters()}
        return named

    def _make_optimizer(self) -> torch.optim.AdamW:
        parameters = self._named_parameters().values()
        matrices = [p for p in parameters if p.dim() >= 2]
        vectors = [p for p in parameters if p.dim() < 2]
        o = self.config.optimizer
        groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=o.peak_lr, betas=(0.9, o.beta2), fused=True)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train; return True when all steps are done. The state is saved when stopped early."""
        o = self.config.optimizer
        batches = self._batches()
        window_start, window_images, window_loss = time.perf_counter(), 0, 0.0
        while self.step < o.total_steps:
            samples = next(batches)
            loss, exit_losses = self._train_step(samples)
            window_images += len(samples)
            window_loss += loss
            if self.step % 10 == 0:
                elapsed_s = time.perf_counter() - window_start
                self.report({
                    "step": self.step, "total_steps": o.total_steps, "epoch": self.epoch, "loss": window_loss / 10,
                    "ce_first": exit_losses[0], "ce_last": exit_losses[-1],
                    "images_per_s": window_images / elapsed_s, "lr": learning_rate(self.step, o),
                })  # fmt: skip
                window_start, window_images, window_loss = time.perf_counter(), 0, 0.0
            if self.step % self.config.validate_every == 0 or self.step == o.total_steps:
                self.report({"step": self.step, "validation": self.validate()})
                window_start = time.perf_counter()
            stop = should_stop()
            if self.step % self.config.save_every == 0 or self.step == o.total_steps or stop:
                self.save_state()
            if stop:
                return False
        self.export()
        return True

    def _batches(self) -> Iterator[list[TrainingSample]]:
        size = self.config.optimizer.batch_images
        while True:
            samples = iterate_samples(
                self.train_shards,
                seed=self.config.seed,
                epoch=self.epoch,
                shuffle_shards=self.config.data.shuffle_shards,
            )
            batch: list[TrainingSample] = []
            skip = self.epoch_batches * size  # a resumed epoch continues where it stopped
            for i, sample in enumerate(samples):
                if i < skip:
                    continue
                batch.append(sample)
                if len(batch) == size:
                    self.epoch_batches += 1
                    yield batch
                    batch = []
            self.epoch, self.epoch_batches = self.epoch + 1, 0

    def _train_step(self, samples: list[TrainingSample]) -> tuple[float, list[float]]:
        o = self.config.optimizer
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, o)
        size = -(-len(samples) // o.accumulate)
        total, exit_losses = 0.0, [0.0] * len(self.model_config.exits)
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            batch = self.packer.pack(part, self.epoch, self.device)
            with self._autocast():
                loss, losses, _ = multi_exit_loss(self.model, batch, self.config.loss, self.grounding)
            share = len(part) / len(samples)
            (loss * share).backward()
            total += float(loss.detach()) * share
            exit_losses = [a + float(b.detach()) * share for a, b in zip(exit_losses, losses, strict=True)]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total, exit_losses

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")

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
            batch: PackedBatch = self.packer.pack(samples[start : start + 64], 0, self.device)
            with self._autocast():
                _, _, hits = multi_exit_loss(self.model, batch, self.config.loss)
            tokens += int((batch.target_labels >= 0).sum())
            correct = [a + int(b) for a, b in zip(correct, hits, strict=True)]
        accuracy = {str(layer): hits / tokens for layer, hits in zip(self.model_config.exits, correct, strict=True)}
        return {"images": len(samples), "token_accuracy_by_exit": accuracy}

    def save_state(self) -> None:
        """Write weights, optimizer moments and position; the JSON is renamed last, so a kill leaves the old state."""
        directory = self.output / "state"
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"model.{name}": t.contiguous() for name, t in self.model.state_dict().items() if "head.weight" not in name
        }
        if self.grounding is not None:
            tensors |= {f"grounding.{name}": t.contiguous() for name, t in self.grounding.state_dict().items()}
        names = {id(p): name for name, p in self._named_parameters().items()}
        for parameter, moments in self.optimizer.state.items():
            for key, value in moments.items():
                tensors[f"optimizer.{names[id(parameter)]}.{key}"] = value.contiguous()
        weights = directory / f"step-{self.step:07d}.safetensors"
        save_file(tensors, weights)
        position = {"step": self.step, "epoch": self.epoch, "epoch_batches": self.epoch_batches, "file": weights.name}
        temporary = directory / "position.json.tmp"
        temporary.write_text(json.dumps(position))
        os.replace(temporary, directory / "position.json")
        for old in directory.glob("step-*.safetensors"):
            if old != weights:
                old.unlink()

    def _resume(self) -> None:
        path = self.output / "state" / "position.json"
        if not path.is_file():
            return
        position = json.loads(path.read_text())
        tensors = load_file(path.parent / position["file"], device=str(self.device))
        state = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(state, strict=False)
        if self.grounding is not None:
            self.grounding.load_state_dict(
                {name.removeprefix("grounding."): t for name, t in tensors.items() if name.startswith("grounding.")}
            )
        for name, parameter in self._named_parameters().items():
            prefix = f"optimizer.{name}."
            moments = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            self.optimizer.state[parameter] = {
                key: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                for key, t in moments.items()
            }
        self.step, self.epoch = position["step"], position["epoch"]
        self.epoch_batches = position["epoch_batches"]

    def export(self) -> None:
        """Write the checkpoint to ship; half precision on disk, which halves its size."""
        save_checkpoint(
            self.output / "checkpoint", self.model_config, self.model.state_dict(), self.tokenizer, torch.float16
        )

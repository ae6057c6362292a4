"""Frozen training: the backbone stays, bit for bit; adapters learn to say early what the last layer says.

Stages: the model writes its own targets at full depth; adapters train by distillation; gates train on the adapters'
hits. State is safetensors and JSON under `<output>/state/`, so a killed run continues to the same weights.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from actors.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from actors.model.model import MultiExitModel
from actors.training.calibration import Recording, record, thresholds_at_risk
from actors.training.distillation import distillation_losses, features, gate_losses
from actors.training.unlabelled import Example, decode, engine_config, own_targets, pack, read_examples
from conf.errors import UserError
from conf.frozen import FrozenConfig
from conf.schema import Gate

REPORT_EVERY = 10  # steps
Report = Callable[[dict[str, Any]], None]
Targets = list[tuple[int, ...]]


@dataclass(frozen=True)
class Agreement:
    """Early exit against full depth on the held-out images, at thresholds set for one risk."""

    gate: str
    mean_depth: float
    equal_tokens: float  # share, by position
    equal_outputs: float
    thresholds: tuple[float, ...]


class FrozenTrainer:
    """Owns the model and its exits; `run` trains them or continues where it stopped."""

    def __init__(self, config: FrozenConfig, report: Report) -> None:
        self.config, self.report, self.output = config, report, Path(config.output)
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if cuda else "cpu")
        loaded = load_checkpoint(config.checkpoint, device=str(self.device))
        if len(loaded.config.exits) < 2:
            raise UserError(f"checkpoint {config.checkpoint!r} has no exit before its last layer")
        self.checkpoint = self._with_exit_modules(loaded)
        self.model = self.checkpoint.model
        examples = read_examples(config.shards, config.prompts, config.num_images, loaded.config.image_size)
        held_out = min(config.validation_images, len(examples) // 2)
        self.examples, self.validation = examples[held_out:], examples[:held_out]
        self.targets, self.validation_targets = self._targets()
        self.step, self.best, self.worse = 0, math.inf, 0
        self.optimizers = {
            "adapters": torch.optim.AdamW(self._parameters("adapters"), lr=config.optimizer.peak_lr, weight_decay=0.0)
        }
        if config.optimizer.gate_steps:
            self.optimizers["gates"] = torch.optim.AdamW(
                self._parameters("gates"), lr=config.optimizer.gate_lr, weight_decay=0.0
            )
        self._resume()

    def _with_exit_modules(self, loaded: Checkpoint) -> Checkpoint:
        """The same weights in a model that has adapters and, where wanted, gates; only those may change."""
        gates = self.config.optimizer.gate_steps > 0
        config = loaded.config.model_copy(update={"adapters": True, "gates": gates or loaded.config.gates})
        model = MultiExitModel(config).to(self.device)
        report = model.load_state_dict(loaded.model.state_dict(), strict=False)
        strangers = [name for name in report.missing_keys if ".adapters." not in name and ".gates." not in name]
        assert not strangers, strangers
        model.requires_grad_(False).eval()  # eval: running statistics and dropout of the backbone do not move either
        return Checkpoint(model, loaded.codec, config, loaded.sha256)

    def _parameters(self, stage: str) -> list[torch.nn.Parameter]:
        return list(getattr(self.model.decoder, stage).parameters())

    @property
    def num_trained(self) -> int:
        """Values that may change."""
        return sum(parameter.numel() for stage in self.optimizers for parameter in self._parameters(stage))

    def _targets(self) -> tuple[Targets, Targets]:
        """Full-depth outputs of training and validation images; written once, as they cost a pass over the images."""
        path = self.output / "state" / "targets.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            groups = [
                own_targets(self.checkpoint, examples, self.config.num_slots, self.config.max_new_tokens)
                for examples in (self.examples, self.validation)
            ]
            _write_json(path, groups)
        training, validation = json.loads(path.read_text())
        if (len(training), len(validation)) != (len(self.examples), len(self.validation)):
            raise UserError(f"output {str(self.output)!r} holds a run over other images; name another output")
        return [tuple(t) for t in training], [tuple(t) for t in validation]

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train; return True when all stages are done. The state is saved when stopped early."""
        self._remember("before")
        for stage in self.optimizers:
            if not self._run_stage(stage, should_stop):
                return False
        self._finish()
        return True

    def _run_stage(self, stage: str, should_stop: Callable[[], bool]) -> bool:
        first, end = self._span(stage)
        if self.step == first:
            self.best, self.worse = math.inf, 0
        losses_of = distillation_losses if stage == "adapters" else gate_losses
        parameters, optimizer = self._parameters(stage), self.optimizers[stage]
        for parameter in parameters:
            parameter.requires_grad_(True)
        while first <= self.step < end:
            for group in optimizer.param_groups:
                group["lr"] = self._rate(stage, self.step - first, end - first)
            values: dict[int, float] = {}
            for indices in self._micro_batches(self.step):
                batch = self._pack(self.examples, self.targets, indices)
                losses = losses_of(self.model, features(self.model, batch))
                share = 1 / self.config.optimizer.accumulate
                (torch.stack(list(losses.values())).mean() * share).backward()
                values = {k: values.get(k, 0.0) + float(v.detach()) * share for k, v in losses.items()}
            torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if self.step % REPORT_EVERY == 0 or self.step == end:
                self.report({"stage": stage, "step": self.step, "total_steps": end, "losses": _by_exit(values)})
            if (self.step - first) % self.config.validate_every == 0 and self._no_better(stage, losses_of):
                self.step = end  # stop early
            if self.step % self.config.save_every == 0 or self.step == end or should_stop():
                self.save_state()
                if self.step < end and should_stop():
                    return False
        for parameter in parameters:
            parameter.requires_grad_(False)
        return True

    def _span(self, stage: str) -> tuple[int, int]:
        o = self.config.optimizer
        return (0, o.adapter_steps) if stage == "adapters" else (o.adapter_steps, o.adapter_steps + o.gate_steps)

    def _rate(self, stage: str, step: int, steps: int) -> float:
        o = self.config.optimizer
        peak = o.peak_lr if stage == "adapters" else o.gate_lr
        return peak * min(1.0, (step + 1) / max(1, o.warmup_steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    def _micro_batches(self, step: int) -> Iterator[Sequence[int]]:
        """The images of a step, a function of (seed, step) alone."""
        size, count = self.config.optimizer.batch_images, len(self.examples)
        epoch, place = divmod(step * size, count)
        order = np.concatenate([
            np.random.default_rng((self.config.seed, epoch + i)).permutation(count) for i in range(2 + size // count)
        ])  # fmt: skip
        chosen = order[place : place + size].tolist()
        part = -(-len(chosen) // self.config.optimizer.accumulate)
        yield from (chosen[i : i + part] for i in range(0, len(chosen), part))

    def _pack(self, examples: Sequence[Example], targets: Targets, indices: Sequence[int]) -> Any:
        return pack(self.checkpoint, [examples[i] for i in indices], [targets[i] for i in indices], self.device)

    def _validation_batches(self) -> Iterator[Any]:
        size = self.config.optimizer.batch_images
        for start in range(0, len(self.validation), size):
            indices = range(start, min(start + size, len(self.validation)))
            yield self._pack(self.validation, self.validation_targets, indices)

    @torch.no_grad()
    def _no_better(self, stage: str, losses_of: Callable[..., dict[int, torch.Tensor]]) -> bool:
        """Validate; True when patience has run out."""
        rows = [losses_of(self.model, features(self.model, batch)) for batch in self._validation_batches()]
        means = {layer: sum(float(row[layer]) for row in rows) / len(rows) for layer in rows[0]}
        self.report({"stage": stage, "step": self.step, "validation": _by_exit(means)})
        mean = sum(means.values()) / len(means)
        self.worse = 0 if mean < self.best else self.worse + 1
        self.best = min(self.best, mean)
        return self.config.patience is not None and self.worse >= self.config.patience

    def agreement(self, gate: Gate) -> Agreement:
        """Set thresholds on the held-out images, then decode them early and compare with full depth."""
        config = self.checkpoint.config
        recording = record(self.model, self._validation_batches())
        if gate is Gate.CLASSIFIER:
            recording = self._gate_recording(recording)
        thresholds = thresholds_at_risk(recording, self.config.risk)
        engine = engine_config(
            self.config.num_slots, self.config.max_new_tokens, gate=gate, exits=config.exits, thresholds=thresholds
        )
        completions = decode(self.checkpoint, self.validation, engine)
        depths = [layer for completion in completions for layer in completion.exit_layers]
        said = [completion.token_ids for completion in completions]
        full = [tuple(t for t in target if t != config.eos_id) for target in self.validation_targets]
        longest = sum(max(len(a), len(b)) for a, b in zip(said, full, strict=True))
        equal = sum(x == y for a, b in zip(said, full, strict=True) for x, y in zip(a, b, strict=False))
        same = sum(a == b for a, b in zip(said, full, strict=True))
        return Agreement(
            gate.value, sum(depths) / len(depths), equal / max(1, longest), same / len(said), tuple(thresholds)
        )

    @torch.no_grad()
    def _gate_recording(self, recording: Recording) -> Recording:
        rows = []
        for batch in self._validation_batches():
            hidden = features(self.model, batch).hidden
            columns = [self.model.decoder.gate_logit(layer, h).float().sigmoid() for layer, h in hidden.items()]
            rows.append(torch.stack([*columns, torch.ones_like(columns[0])], dim=1).cpu().numpy())
        return Recording(np.concatenate(rows), recording.agrees_NE, recording.correct_NE)

    def _remember(self, when: str) -> list[Agreement]:
        """The agreement table of a moment, measured once per run."""
        path = self.output / "state" / f"agreement-{when}.json"
        if not path.is_file():
            gates = [Gate.SOFTMAX_MAX, *([Gate.CLASSIFIER] if when == "after" and "gates" in self.optimizers else [])]
            _write_json(path, [asdict(self.agreement(gate)) for gate in gates])
        rows = [Agreement(**{**row, "thresholds": tuple(row["thresholds"])}) for row in json.loads(path.read_text())]
        self.report({"agreement": when, "rows": [asdict(row) for row in rows]})
        return rows

    def _finish(self) -> None:
        """Check that full depth says what it said, then write the checkpoint with its thresholds."""
        again = own_targets(self.checkpoint, self.validation, self.config.num_slots, self.config.max_new_tokens)
        changed = sum(a != b for a, b in zip(again, self.validation_targets, strict=True))
        assert not changed, f"full depth changed on {changed} of {len(again)} images"
        self.report({"full_depth_unchanged": len(again)})
        softmax, *gated = self._remember("after")
        config = self.checkpoint.config.model_copy(update={
            "thresholds": softmax.thresholds,
            "gate_thresholds": gated[0].thresholds if gated else None,
            "untrained_exits": (),
        })  # fmt: skip
        state = self.model.state_dict()
        dtype = load_checkpoint(self.config.checkpoint, dtype=None).model.decoder.embedding.weight.dtype
        path = self.output / "checkpoint"
        save_checkpoint(path, config, state, self.checkpoint.codec.tokenizer, dtype)
        if (source := Path(self.config.checkpoint) / "source").is_dir():
            shutil.copytree(source, path / "source", dirs_exist_ok=True)

    def save_state(self) -> None:
        """Write exits, optimizer moments and position; the JSON is renamed last, so a kill leaves the old state."""
        directory = self.output / "state"
        tensors: dict[str, torch.Tensor] = {}
        for stage, optimizer in self.optimizers.items():
            for name, parameter in getattr(self.model.decoder, stage).named_parameters():
                tensors[f"{stage}.{name}"] = parameter.detach()
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"{stage}.{name}.moment.{key}"] = value
        file = directory / f"exits-{self.step:07d}.safetensors"
        save_file(tensors, file)
        _write_json(
            directory / "position.json",
            {"step": self.step, "best": self.best, "worse": self.worse, "file": file.name},
        )
        for old in directory.glob("exits-*.safetensors"):
            if old != file:
                old.unlink()

    def _resume(self) -> None:
        path = self.output / "state" / "position.json"
        if not path.is_file():
            return
        position = json.loads(path.read_text())
        tensors = load_file(path.parent / position["file"], device=str(self.device))
        for stage, optimizer in self.optimizers.items():
            for name, parameter in getattr(self.model.decoder, stage).named_parameters():
                key = f"{stage}.{name}"
                parameter.data.copy_(tensors[key])
                moments = {k.removeprefix(f"{key}.moment."): t for k, t in tensors.items()
                           if k.startswith(f"{key}.moment.")}  # fmt: skip
                if moments:
                    optimizer.state[parameter] = moments
        self.step, self.best, self.worse = position["step"], position["best"], position["worse"]


def _by_exit(values: dict[int, float]) -> dict[str, float]:
    return {f"exit_{layer}": value for layer, value in values.items()}


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)

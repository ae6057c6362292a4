"""Frozen training: the backbone stays, bit for bit; adapters learn to say early what the last layer says.

Stages: the model writes its own targets at full depth; adapters train by distillation; gates train on the adapters'
hits. The state (state.py) lets a killed run continue to the same weights.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.generation_texts import prefix_ids_of
from actors.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from actors.model.model import MultiExitModel
from actors.training import state
from actors.training.corpus import ImageCorpus
from actors.training.device import choose_device
from actors.training.frozen.agreement import Agreement, measure
from actors.training.frozen.distillation import distillation_losses, features, gate_losses
from actors.training.frozen.unlabelled import Corpus, Targets, digest, own_targets, read_examples
from actors.training.workers import Workers
from conf.checkpoint_info import read_checkpoint_info
from conf.engine import Gate, GenerationConfig
from conf.errors import UserError
from conf.frozen import FrozenConfig

REPORT_EVERY = 10  # steps
Report = Callable[[dict[str, Any]], None]


class FrozenTrainer:
    """Owns the model and its exits; `run` trains them or continues where it stopped."""

    def __init__(self, config: FrozenConfig, report: Report, workers: Workers | None = None) -> None:
        self.config, self.report, self.output = config, report, Path(config.output)
        self.workers = workers or Workers()
        self.workers.check(config.optimizer.batch_images)
        self.machine = choose_device(config.device, config.precision, config.num_threads)
        self.device = self.machine.device
        loaded = load_checkpoint(config.checkpoint, device=str(self.device))
        if len(loaded.config.exits) < 2:
            raise UserError(f"checkpoint {config.checkpoint!r} has no exit before its last layer")
        self.checkpoint = self._with_exit_modules(loaded)
        self.model = self.checkpoint.model
        self.training, self.validation, self.test = self._corpora()
        self.step, self.best, self.worse = 0, math.inf, 0
        o = config.optimizer
        rates = {"adapters": o.peak_lr} | ({"gates": o.gate_lr} if o.gate_steps else {})
        self.optimizers = {
            stage: torch.optim.AdamW(self._parameters(stage), lr=rate, weight_decay=0.0)
            for stage, rate in rates.items()
        }
        self._resume()

    def _with_exit_modules(self, loaded: Checkpoint) -> Checkpoint:
        """Return the same weights in a model that has adapters and, where wanted, gates; only those may change."""
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
    def opening(self) -> str:
        """What is about to be trained, in one line."""
        trained = sum(parameter.numel() for stage in self.optimizers for parameter in self._parameters(stage))
        return (
            f"{trained / 1e3:.1f} k values train, exits {list(self.checkpoint.config.exits)}, "
            f"on {self.device}, {len(self.training.examples)} images to learn from, "
            f"{len(self.validation.examples)} to choose thresholds by, {len(self.test.examples)} to report on, "
            f"from step {self.step}"
        )

    def _corpora(self) -> tuple[Corpus, Corpus, Corpus]:
        """Return the images to learn from, to choose by, and to report on."""
        config = self.config
        corpus = ImageCorpus(config.shards)
        prefix = GenerationConfig(decoder_prefix=config.decoder_prefix)
        examples = read_examples(
            corpus, config.prompts, config.num_images, self.checkpoint.config.plan,
            lambda prompt: prefix_ids_of(prompt, prefix, self.checkpoint.codec),
        )  # fmt: skip
        self.left_out = corpus.left_out
        if len(examples) < 3:
            raise UserError(f"frozen training needs at least 3 readable images, got {len(examples)}")
        test = min(config.test_images, len(examples) // 2)
        validation = min(config.validation_images, (len(examples) - test) // 2)
        info = read_checkpoint_info(config.checkpoint)
        run = [info.weights_sha256, info.architecture_sha256, config.max_new_tokens, test, validation, digest(examples)]
        path = self.output / "state" / "targets.json"
        if not self.workers.agree(path.is_file(), self.device):
            mine = own_targets(self.checkpoint, self.workers.mine(examples), config.num_slots, config.max_new_tokens)
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = [path.with_name(f"targets-{rank}.json") for rank in range(self.workers.count)]
            _write_json(parts[self.workers.rank], mine)
            self.workers.wait()
            if self.workers.leads:
                shares = [json.loads(part.read_text()) for part in parts]
                together = [shares[i % len(shares)][i // len(shares)] for i in range(len(examples))]
                _write_json(path, {"run": run, "targets": together})
                for part in parts:
                    part.unlink()
            self.workers.wait()
        content = json.loads(path.read_text())
        if content["run"] != run:
            raise UserError(
                f"output {str(self.output)!r} holds a run of another checkpoint, over other images or with another "
                "max_new_tokens; name another output"
            )
        targets: Targets = [tuple(t) for t in content["targets"]]
        bounds = (test + validation, len(examples)), (test, test + validation), (0, test)
        training, to_choose, to_report = (Corpus(examples[a:b], targets[a:b]) for a, b in bounds)
        return training, to_choose, to_report

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train; return True when all stages are done. The state is saved when stopped early."""
        if self.workers.leads:
            self._remember("before", lambda: load_checkpoint(self.config.checkpoint, device=str(self.device)))
        self.workers.wait()
        for stage in self.optimizers:
            if not self._run_stage(stage, should_stop):
                return False
        if self.workers.leads:
            self._finish()
        self.workers.wait()
        return True

    def _run_stage(self, stage: str, should_stop: Callable[[], bool]) -> bool:
        first, end = self._span(stage)
        if self.step == first:
            self.best, self.worse = math.inf, 0
        parameters = self._parameters(stage)
        for parameter in parameters:
            parameter.requires_grad_(True)
        while first <= self.step < end:
            values = self._train_step(stage, self._rate(stage, self.step - first, end - first))
            self.step += 1
            if self.workers.leads and (self.step % REPORT_EVERY == 0 or self.step == end):
                self.report({"stage": stage, "step": self.step, "total_steps": end, "losses": values})
            if (self.step - first) % self.config.validate_every == 0:
                over = self.workers.agree(self.workers.leads and self._no_better(stage), self.device)
                self.step = end if over else self.step
            stop = self.workers.agree(should_stop(), self.device)
            if self.step % self.config.save_every == 0 or self.step == end or stop:
                self.save_state()
            if stop and self.step < end:
                return False
        for parameter in parameters:
            parameter.requires_grad_(False)
        return True

    def _train_step(self, stage: str, rate: float) -> dict[str, float]:
        """Take one optimizer step; return the loss of every exit, mean over the step's tokens."""
        optimizer = self.optimizers[stage]
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = self._images_of(self.step)
        mine = self.workers.mine(chosen)
        size = -(-len(mine) // self.config.optimizer.accumulate)
        sums: Counter[str] = Counter()
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            share = self.workers.count * self.training.num_tokens(part) / self.training.num_tokens(chosen)
            losses = self._losses(stage, self.training.pack(self.checkpoint, part, self.device))
            (torch.stack(list(losses.values())).mean() * share).backward()
            sums.update({f"exit_{layer}": float(loss.detach()) * share for layer, loss in losses.items()})
        self.workers.average_gradients(self._parameters(stage))
        torch.nn.utils.clip_grad_norm_(self._parameters(stage), self.config.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return self.workers.average_numbers(sums, self.device)

    def _losses(self, stage: str, batch: Any) -> dict[int, torch.Tensor]:
        losses_of = distillation_losses if stage == "adapters" else gate_losses
        with self.machine.autocast():
            return losses_of(self.model, features(self.model, batch))

    def _span(self, stage: str) -> tuple[int, int]:
        o = self.config.optimizer
        return (0, o.adapter_steps) if stage == "adapters" else (o.adapter_steps, o.adapter_steps + o.gate_steps)

    def _rate(self, stage: str, step: int, steps: int) -> float:
        o = self.config.optimizer
        peak = o.peak_lr if stage == "adapters" else o.gate_lr
        return peak * min(1.0, (step + 1) / max(1, o.warmup_steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    def _images_of(self, step: int) -> list[int]:
        """Return the training images of a step, a function of (seed, step) alone."""
        size, count = self.config.optimizer.batch_images, len(self.training.examples)
        epoch, place = divmod(step * size, count)
        order = np.concatenate([
            np.random.default_rng((self.config.seed, epoch + i)).permutation(count) for i in range(2 + size // count)
        ])  # fmt: skip
        chosen: list[int] = order[place : place + size].tolist()
        return chosen

    @torch.no_grad()
    def _no_better(self, stage: str) -> bool:
        """Validate; return True when patience has run out."""
        batches = self.validation.batches(self.checkpoint, self.config.optimizer.batch_images, self.device)
        rows = [self._losses(stage, batch) for batch in batches]
        means = {f"exit_{layer}": sum(float(row[layer]) for row in rows) / len(rows) for layer in rows[0]}
        self.report({"stage": stage, "step": self.step, "validation": means})
        mean = sum(means.values()) / len(means)
        self.worse = 0 if mean < self.best else self.worse + 1
        self.best = min(self.best, mean)
        return self.config.patience is not None and self.worse >= self.config.patience

    def _remember(self, when: str, checkpoint: Callable[[], Checkpoint]) -> list[Agreement]:
        """Return the agreement table of a moment, measured once per run and risk."""
        path = self.output / "state" / f"agreement-{when}.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
        if content.get("risk") != self.config.risk:
            measured = checkpoint()
            gates = [Gate.SOFTMAX_MAX, *([Gate.CLASSIFIER] if when == "after" and "gates" in self.optimizers else [])]
            corpora = {"choose_on": self.validation, "report_on": self.test}
            rows = [asdict(measure(measured, gate, self.config, **corpora)) for gate in gates]
            content = {"risk": self.config.risk, "rows": rows}
            _write_json(path, content)
        self.report({"agreement": when, "step": self._last_step(when), "rows": content["rows"]})
        return [Agreement(**{**row, "thresholds": tuple(row["thresholds"])}) for row in content["rows"]]

    def _last_step(self, when: str) -> int:
        return 0 if when == "before" else self._span(list(self.optimizers)[-1])[1]

    def _finish(self) -> None:
        """Write the checkpoint as it will be shipped, read it back, check that its full depth says what it said."""
        path, partial = self.output / "checkpoint", self.output / "checkpoint.partial"
        stored = load_checkpoint(self.config.checkpoint, dtype=None).model.decoder.embedding.weight.dtype
        weights, codec = self.model.state_dict(), self.checkpoint.codec
        trained = self.checkpoint.config.model_copy(update={
            "untrained_exits": (), "thresholds": None, "gate_thresholds": None,
        })  # fmt: skip
        save_checkpoint(partial, trained, weights, codec.tokenizer, stored, codec.qformer_tokenizer)
        shipped = load_checkpoint(partial, device=str(self.device))
        again = own_targets(shipped, self.test.examples, self.config.num_slots, self.config.max_new_tokens)
        changed = sum(a != b for a, b in zip(again, self.test.targets, strict=True))
        assert not changed, f"full depth changed on {changed} of {len(again)} images"
        self.report({"full_depth_unchanged": len(again)})
        softmax, *gated = self._remember("after", lambda: shipped)
        thresholds = {
            "thresholds": softmax.thresholds, "gate_thresholds": gated[0].thresholds if gated else None,
        }  # fmt: skip
        final = trained.model_copy(update=thresholds)
        save_checkpoint(partial, final, weights, codec.tokenizer, stored, codec.qformer_tokenizer)
        if (source := Path(self.config.checkpoint) / "source").is_dir():
            shutil.copytree(source, partial / "source", dirs_exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {stage: getattr(self.model.decoder, stage) for stage in self.optimizers}

    def _parameter_names(self) -> dict[int, str]:
        modules = self._modules().items()
        return {id(p): f"{stage}.{name}" for stage, module in modules for name, p in module.named_parameters()}

    def _stages(self) -> dict[str, list[int]]:
        return {stage: list(self._span(stage)) for stage in self.optimizers}

    def save_state(self) -> None:
        """Write everything a resumed run needs."""
        if self.workers.leads:
            position = {"step": self.step, "best": self.best, "worse": self.worse, "stages": self._stages()}
            optimizers = list(self.optimizers.values())
            state.save(self.output / "state", self._modules(), (), optimizers, self._parameter_names(), position)

    def _resume(self) -> None:
        directory, optimizers = self.output / "state", list(self.optimizers.values())
        position = state.read_position(directory)
        if position is None:
            return
        if position["stages"] != self._stages():
            raise UserError(
                f"output {str(self.output)!r} holds a run of the stages {position['stages']} instead of "
                f"{self._stages()} (first and last step); name another output"
            )
        state.load(directory, self._modules(), optimizers, self._parameter_names(), self.device)
        self.step, self.best, self.worse = position["step"], position["best"], position["worse"]


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)

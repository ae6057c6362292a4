"""Training from a checkpoint: every exit learns what is right, or what the model's own last layer says (DEED).

Stages: the main one trains what the configuration names (parts.py); gates learn when an exit is right. A run that is
killed goes on to the same weights: the order of the data, the layers that are skipped and the rates are functions of
the seed and the step. What becomes of the model is measured before and after on held-out rows (finish.py).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.model.checkpoint import load_checkpoint
from actors.training import state
from actors.training.device import choose_device
from actors.training.packing import Sharing, num_tokens, pack
from actors.training.pretrained.agreement import engine_config
from actors.training.pretrained.averages import Averages
from actors.training.pretrained.clock import Clock
from actors.training.pretrained.exits import shipped_state, with_exits
from actors.training.pretrained.facts import data_facts, hardware_facts, model_facts, source_facts, training_facts
from actors.training.pretrained.finish import Finish
from actors.training.pretrained.held_out import HeldOut, pairs_of
from actors.training.pretrained.objective import GateObjective, Objective
from actors.training.pretrained.parts import Part, gates_of, optimizer_groups, parts_of, rate_share
from actors.training.pretrained.record import TrainingRecord
from actors.training.pretrained.run_identity import check_same_run, run_identity
from actors.training.pretrained.spelling import learn_spelling
from actors.training.rows.loader import Batch, Loader, Position
from actors.training.rows.row_source import RowSource
from actors.training.rows.targets import Targets
from actors.training.workers import Workers
from conf.errors import UserError
from conf.pretrained import PretrainedConfig
from pipeline.source.left_out import as_dicts
from pipeline.source.plan import Shard

REPORT_EVERY = 10  # steps
MAIN, GATES = "exits", "gates"
Report = Callable[[dict[str, Any]], None]


class PretrainedTrainer:
    """Owns the model and its exits; `run` trains them or continues where it stopped.

    `runs` has, for each task without labels, the output of a run whose texts are learned; `known` are the shards as
    those runs name them. After `run`, `marked` is a sentence where the last exit lost more than it may.
    """

    def __init__(
        self, config: PretrainedConfig, report: Report, workers: Workers | None = None,
        runs: Sequence[str | None] | None = None, known: Sequence[Shard] = (),
    ) -> None:  # fmt: skip
        self.config, self.report, self.output = config, report, Path(config.output)
        self.workers = workers or Workers()
        self.workers.check(config.optimizer.batch_images)
        self.machine = choose_device(config.device, config.precision, config.num_threads)
        self.device = self.machine.device
        loaded = load_checkpoint(config.checkpoint, device=str(self.device))
        self.checkpoint = with_exits(loaded, config, self.device)
        self.model, self.sharing = self.checkpoint.model, Sharing.of(self.checkpoint.model)
        self.runs = tuple(task.target.run for task in config.all_tasks) if runs is None else tuple(runs)
        prefix = config.decoder_prefix
        self.targets = Targets(self.checkpoint, config.all_tasks, self.runs, config.max_new_tokens, prefix)
        self.source = RowSource(config, self.checkpoint.config.plan, known)
        self.validation, self.test = self._hold_out()
        self.finish = Finish(self.checkpoint, config, self.targets, self.validation, self.test, report)
        self.stages = self._stages()
        self.parameters = {name: p for parts in self.stages.values() for q in parts for name, p in q.parameters.items()}
        self.names = {id(parameter): name for name, parameter in self.parameters.items()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.optimizers = {
            stage: torch.optim.AdamW(optimizer_groups(parts, config.optimizer), betas=(0.9, config.optimizer.beta2))
            for stage, parts in self.stages.items()
        }
        main = {n: p for part in self.stages.get(MAIN, ()) for n, p in part.parameters.items()}
        self.averages = Averages(main, config.optimizer.ema)
        moves_encoder = any(part.name == "encoder" for part in self.stages.get(MAIN, ()))
        self.objectives: dict[str, Objective | GateObjective] = {
            MAIN: Objective(self.model, config, moves_encoder=moves_encoder), GATES: GateObjective(self.model)
        }  # fmt: skip
        share = config.optimizer.batch_images // self.workers.count
        self.loader = Loader(
            self.source, self.places.training, self.targets.label, config.loading, batch_images=share,
            rows_per_image=config.prompts_per_image, rank=self.workers.rank, count=self.workers.count,
        )  # fmt: skip
        self.step, self.best, self.worse, self.position = 0, math.inf, 0, Position()
        self.marked: str | None = None
        self.window = Counter[str]()
        self.spent_s, self.done = 0.0, 0  # seconds of training, and steps: fewer than `step` where patience ran out
        self._resume()

    def _hold_out(self) -> tuple[HeldOut, HeldOut]:
        config, plan = self.config, self.checkpoint.config.plan
        self.places = self.source.split(config.validation_images, config.test_images)
        parts = [
            HeldOut.of(
                self.source.readable(places, self.targets.label), config.prompts_per_image, plan, config.preprocess
            )
            for places in (self.places.validation, self.places.test)
        ]
        if not all(map(len, parts)):
            raise self.source.nothing("images that can be held out (at least 4 usable images are needed)")
        if any(task.target.has_labels for task in config.all_tasks):
            learn_spelling(self.targets, self.checkpoint, parts[0], engine_config(config, self.checkpoint))
            parts = [part.labelled(self.targets) for part in parts]
        return parts[0], parts[1]

    def _stages(self) -> dict[str, list[Part]]:
        o = self.config.optimizer
        stages = {MAIN: parts_of(self.model, self.config)} if o.total_steps else {}
        return stages | ({GATES: gates_of(self.model, self.config)} if o.gate_steps else {})

    @property
    def opening(self) -> str:
        """What is about to be trained, in one line."""
        trained = ", ".join(
            f"{part.name} {sum(p.numel() for p in part.parameters.values()) / 1e6:.2f} M"
            for parts in self.stages.values()
            for part in parts
        )
        return (
            f"values that train: {trained}; exits {list(self.checkpoint.config.exits)}, on {self.device}, "
            f"{len(self.places.training)} images to learn from, {len(self.validation)} to choose by, "
            f"{len(self.test)} to report on, from step {self.step} of {self._span(list(self.stages)[-1])[1]}"
        )

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train; return True when all stages are done. The state is saved when stopped early."""
        done, self.marked = self.finish.earlier()
        if self.workers.agree(done, self.device):
            return True
        if self.workers.leads:
            self.finish.before()
        self.workers.wait()
        for stage in self.stages:
            if not self._run_stage(stage, should_stop):
                return False
        self._report_left_out()
        if self.workers.leads:
            self.marked = self.finish.after(self._shipped(), self._record())
        self.workers.wait()
        return True

    def _run_stage(self, stage: str, should_stop: Callable[[], bool]) -> bool:
        first, end = self._span(stage)
        if self.step == first:
            self.best, self.worse = math.inf, 0
        trained = [p for part in self.stages[stage] for p in part.parameters.values()]
        for parameter in trained:
            parameter.requires_grad_(True)
        batches = self.loader.batches(self.position) if first <= self.step < end else iter(())
        clock = Clock(self.loader, self.step)
        while first <= self.step < end:
            self.window.update(self._train_step(stage, next(batches)))
            self.step, self.done = self.step + 1, self.done + 1
            if self.step % REPORT_EVERY == 0 or self.step == end:
                self._report_losses(stage, end, clock)
            if (self.step - first) % self.config.validate_every == 0 or self.step == end:
                over = self.workers.agree(self.workers.leads and self._no_better(stage), self.device)
                self.step = end if over else self.step
                clock.restart(self.step)
            stop = self.workers.agree(should_stop(), self.device)
            if self.step % self.config.save_every == 0 or self.step == end or stop:
                self.spent_s += clock.take_s()
                self.save_state()
            if stop and self.step < end:
                return False
        for parameter in trained:
            parameter.requires_grad_(False)
        if stage == MAIN and self.step == end:
            self.averages.settle()  # the mean is the model from here on: gates learn on what is shipped
        return True

    def _train_step(self, stage: str, batch: Batch) -> dict[str, float]:
        """Take one optimizer step; return its losses, means over the target tokens of the whole step."""
        o, optimizer = self.config.optimizer, self.optimizers[stage]
        first, end = self._span(stage)
        share = rate_share(self.step - first, end - first, o.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        images = [pairs_of(image, self.targets) for image in batch.images]
        step_tokens = sum(count for [count] in self.workers.gather([num_tokens(images)], self.device))
        size = -(-len(images) // o.accumulate)
        sums: Counter[str] = Counter()
        for number, start in enumerate(range(0, len(images), size)):
            part = images[start : start + size]
            weight = self.workers.count * num_tokens(part) / step_tokens
            with self.machine.autocast():
                packed = pack(self.checkpoint.config, part, self.device, self.sharing)
                loss, values = self.objectives[stage](packed, seed=(self.step, number, self.workers.rank))
            (loss * weight).backward()
            sums.update({name: float(value) * weight for name, value in values.items()})
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if not all(map(math.isfinite, sums.values())):
            raise UserError(f"the loss is not finite at step {self.step}; lower the rates, or use precision=float32")
        self.workers.average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, o.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if stage == MAIN:
            self.averages.update()
        self.position = batch.after
        return self.workers.average_numbers(sums, self.device)

    @torch.no_grad()
    def _no_better(self, stage: str) -> bool:
        """Validate; return True when patience has run out."""
        with self.averages.in_place():
            means = self._validate(stage)
        self.report({"stage": stage, "step": self.step, "validation": means})
        mean = sum(means.values()) / len(means)
        self.worse = 0 if mean < self.best else self.worse + 1
        self.best = min(self.best, mean)
        return self.config.patience is not None and self.worse >= self.config.patience

    def _validate(self, stage: str) -> dict[str, float]:
        sums, tokens = Counter[str](), 0
        for batch in self.validation.batches(self.checkpoint, self.targets, 16, self.device):
            count = int((batch.target_labels >= 0).sum())
            with self.machine.autocast():
                _, values = self.objectives[stage](batch)
            sums.update({name: value * count for name, value in values.items()})
            tokens += count
        return {name: value / tokens for name, value in sums.items()}

    def _report_losses(self, stage: str, end: int, clock: "Clock") -> None:
        elapsed_s, waited_s, steps = clock.lap(self.step)
        since = min((self.step - 1) % REPORT_EVERY + 1, self.step - self._span(stage)[0])  # an earlier start's too
        if self.workers.leads:
            self.report({
                "stage": stage, "step": self.step, "total_steps": end,
                "losses": {name: value / since for name, value in self.window.items()},
                "images_per_s": steps * self.config.optimizer.batch_images / elapsed_s, "waiting": waited_s / elapsed_s,
            })  # fmt: skip
        self.window.clear()

    def _report_left_out(self) -> None:
        if self.workers.leads and self.source.left_out:
            self.report({"step": self.step, "left_out": as_dicts(self.source.left_out)})

    def _span(self, stage: str) -> tuple[int, int]:
        o = self.config.optimizer
        return (0, o.total_steps) if stage == MAIN else (o.total_steps, o.total_steps + o.gate_steps)

    def _shipped(self) -> dict[str, torch.Tensor]:
        with self.averages.in_place():
            return shipped_state(self.model)

    def _record(self) -> TrainingRecord:
        """Return what the model card says of this run; what is measured is not in it yet."""
        trained = sum(p.numel() for p in self.parameters.values())
        rates = {part.name: part.peak_lr for parts in self.stages.values() for part in parts}
        return TrainingRecord(
            model=model_facts(self.checkpoint, trained),
            source=source_facts(self.config.checkpoint),
            data=data_facts(
                self.config, self.runs, self.checkpoint.sha256, self.source.left_out,
                training=(len(self.places.training), None),
                validation=(len(self.validation), len(self.validation.rows)),
                test=(len(self.test), len(self.test.rows)),
            ),
            training=training_facts(self.config, steps=self.done, bfloat16=self.machine.bfloat16, rates=rates),
            hardware=hardware_facts(self.device, self.workers.count, self.spent_s),
        )  # fmt: skip

    def save_state(self) -> None:
        """Write everything a resumed run needs."""
        places = self.workers.gather((self.position.epoch, self.position.taken), self.device)
        if not self.workers.leads:
            return
        tensors = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.averages.values.items()}
        position = {
            "step": self.step, "best": self.best, "worse": self.worse, "places": places, "spent_s": self.spent_s,
            "done": self.done, "window": self.window, "run": run_identity(self.config, self.checkpoint, self.source),
        }  # fmt: skip
        state.save(self.output / "state", tensors, list(self.optimizers.values()), self.names, position)

    def _resume(self) -> None:
        saved = state.read_position(self.output / "state")
        if saved is None:
            return
        check_same_run(saved, run_identity(self.config, self.checkpoint, self.source), self.output, self.workers.count)
        loaded = state.load(self.output / "state", list(self.optimizers.values()), self.names, self.device)
        assert loaded is not None
        position, tensors = loaded
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
            for name, value in self.averages.values.items():
                value.copy_(tensors[f"average.{name}"])
        self.step, self.best, self.worse = position["step"], position["best"], position["worse"]
        self.position = Position(*position["places"][self.workers.rank])
        self.spent_s, self.done, self.window = position["spent_s"], position["done"], Counter(position["window"])

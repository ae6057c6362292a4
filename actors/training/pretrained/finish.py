"""What becomes of a model: measured before and after on held-out rows, guarded, written, with a card."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.engine.request import Completion
from actors.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from actors.training.pretrained.agreement import Agreement, Saved, engine_config, measure, measure_saved
from actors.training.pretrained.card import write_card
from actors.training.pretrained.exit_table import exit_table
from actors.training.pretrained.exits import with_exits
from actors.training.pretrained.held_out import HeldOut, quality
from actors.training.pretrained.record import EarlyExitFacts, GuardFacts, SavingFacts, TrainingRecord
from actors.training.rows.targets import Targets
from conf.engine import Gate
from conf.pretrained import PretrainedConfig

_BATCH_IMAGES = 16
_FINISHED_FILE = Path("state") / "finished.json"
Report = Callable[[dict[str, Any]], None]
Points = dict[str, float]  # by what they measure, 0 to 100


def mark_in_run(output: Path) -> str | None:
    """Return the sentence that a finished run ended with where its checkpoint is marked."""
    path = output / _FINISHED_FILE
    return json.loads(path.read_text())["marked"] if path.is_file() else None


class Finish:
    """Measures a checkpoint before it is trained, and writes and measures what training has made of it."""

    def __init__(
        self, checkpoint: Checkpoint, config: PretrainedConfig, targets: Targets, validation: HeldOut, test: HeldOut,
        report: Report,
    ) -> None:  # fmt: skip
        self.config, self.targets, self.report = config, targets, report
        self.validation, self.test = validation, test
        self.untrained, self.output = checkpoint, Path(config.output)
        self._before: dict[str, Any] = {}
        self._device = str(next(checkpoint.model.parameters()).device)

    def earlier(self) -> tuple[bool, str | None]:
        """Return whether an earlier start has ended with this very checkpoint, and the sentence it ended with.

        What was put into the checkpoint since, thresholds for one, is then left alone.
        """
        content = json.loads(self._finished.read_text()) if self._finished.is_file() else {}
        done = content.get("measured") == self._judged() and (self.output / "checkpoint").is_dir()
        return done, content["marked"] if done else None

    @property
    def _finished(self) -> Path:
        return self.output / _FINISHED_FILE

    def _judged(self) -> dict[str, Any]:
        return {**self._measured(), "max_points_lost": self.config.max_points_lost}

    def before(self) -> None:
        """Measure what the original says, how well, and how far its exits agree with it: once, as long as what
        that depends on stays as it is."""
        path = self.output / "state" / "before.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
        measured = self._measured()
        if content.get("measured") != measured:
            original = load_checkpoint(self.config.checkpoint, device=self._device)
            full = self._full(original)
            texts = self._texts(full)
            untrained = with_exits(original, self.config, torch.device(self._device))
            row, _ = self._measure(untrained, Gate.SOFTMAX_MAX, full)
            content = {
                "measured": measured, "texts": texts, "points": self._points(texts, texts), "rows": [asdict(row)],
            }  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_json(path, content)
        self.report({"agreement": "before", "step": 0, "rows": content["rows"]})
        self._before = content

    def _measured(self) -> dict[str, Any]:
        """Return what the original's numbers depend on; the last bits of a sum differ between devices and slots."""
        names = {"risk", "exits", "adapters", "max_new_tokens", "decoder_prefix", "num_slots"}
        asked = [(row.row_id, row.prompt, row.targets) for part in (self.validation, self.test) for row in part.rows]
        rows = hashlib.sha256(repr((asked, len(self.test))).encode("utf-8", "surrogatepass")).hexdigest()
        settings = self.config.model_dump(mode="json", include=names)
        measured = {**settings, "checkpoint": self.untrained.sha256, "device": self._device, "rows": rows}
        return dict(json.loads(json.dumps(measured)))  # as it is read back

    def after(self, weights: Mapping[str, Tensor], record: TrainingRecord) -> str | None:
        """Write the checkpoint as it is shipped, read it back, measure it and write its card; return a sentence if it
        lost too much. `record` has what is known of the run itself."""
        path, partial, steps = self.output / "checkpoint", self.output / "checkpoint.partial", record.training.steps
        shutil.rmtree(partial, ignore_errors=True)
        self._save(partial, weights, {})
        shipped = load_checkpoint(partial, device=self._device)
        full = self._full(shipped)
        guard = self._guarded(self._texts(full))
        self.report({"step": steps, "guard": {**guard.model_dump(), "marked": guard.marked}})
        gates = [Gate.SOFTMAX_MAX, *([Gate.CLASSIFIER] if shipped.config.gates else [])]
        measured = [self._measure(shipped, gate, full) for gate in gates]
        rows = [row for row, _ in measured]
        self.report({"agreement": "after", "step": steps, "rows": [asdict(row) for row in rows]})
        saved = measure_saved(shipped, self.config, self.targets, self.test, rows[0].thresholds)
        self.report({"step": steps, "saved": asdict(saved)})
        batches = self.test.batches(shipped, self.targets, _BATCH_IMAGES, torch.device(self._device))
        early = tuple(self._early_facts(row, self._texts(said), guard.after) for row, said in measured)
        whole = record.model_copy(update={
            "exits": exit_table(shipped.model, batches), "early": early, "guard": guard, "saving": _saving(saved),
        })  # fmt: skip
        self._save(partial, weights, {
            "thresholds": rows[0].thresholds, "gate_thresholds": rows[1].thresholds if len(rows) > 1 else None,
            "points_lost": round(guard.lost, 2) if guard.marked else self.untrained.config.points_lost,
        })  # fmt: skip
        if (source := Path(self.config.checkpoint) / "source").is_dir():
            shutil.copytree(source, partial / "source", dirs_exist_ok=True)
        write_card(partial, whole)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        marked = self._said_of(guard.lost) if guard.marked else None
        self._finished.parent.mkdir(parents=True, exist_ok=True)
        _write_json(self._finished, {"measured": self._judged(), "marked": marked})
        return marked

    def _guarded(self, texts: list[str]) -> GuardFacts:
        """Compare full depth on the test images with the original; frozen, they must say the same."""
        before = self._before["points"]
        points = self._points(texts, self._before["texts"])
        if self.config.is_frozen:
            changed = sum(a != b for a, b in zip(texts, self._before["texts"], strict=True))
            assert not changed, f"full depth changed on {changed} of {len(texts)} rows"
        lost = max(before[name] - points[name] for name in points)
        return GuardFacts(before=before, after=points, lost=lost, allowed=self.config.max_points_lost)

    def _early_facts(self, row: Agreement, texts: list[str], full: Points) -> EarlyExitFacts:
        values = asdict(row)
        del values["num_images"]
        early = self._points(texts, self._before["texts"])
        return EarlyExitFacts(**values, risk=self.config.risk, full=full, early=early)

    def _save(self, folder: Path, weights: Mapping[str, Tensor], changes: Mapping[str, Any]) -> None:
        codec = self.untrained.codec
        config = self.untrained.config.model_copy(update=dict(changes))
        save_checkpoint(folder, config, weights, codec.tokenizer, self._dtype(), codec.qformer_tokenizer)

    def _dtype(self) -> torch.dtype:
        """As the source is stored; bfloat16 is too coarse for what training adds to weights that moved."""
        stored = load_checkpoint(self.config.checkpoint, dtype=None).model.decoder.embedding.weight.dtype
        return torch.float32 if stored is torch.bfloat16 and not self.config.is_frozen else stored

    def _full(self, checkpoint: Checkpoint) -> list[Completion]:
        engine = self.test.engine(checkpoint, self.targets, engine_config(self.config, checkpoint))
        return self.test.said(engine, self.targets)

    def _texts(self, completions: list[Completion]) -> list[str]:
        return [self.untrained.codec.decode(completion.token_ids) for completion in completions]

    def _points(self, texts: list[str], own: list[str]) -> Points:
        labelled = [task.target.has_labels for task in self.config.all_tasks]
        return quality(self.test.rows, texts, labelled, own)

    def _measure(
        self, checkpoint: Checkpoint, gate: Gate, full: list[Completion]
    ) -> tuple[Agreement, list[Completion]]:
        return measure(
            checkpoint, gate, self.config, self.targets, choose_on=self.validation, report_on=self.test, full=full
        )

    def _said_of(self, lost: float) -> str:
        return (
            f"full depth lost {lost:.2f} points on {len(self.test)} held-out images, more than "
            f"max_points_lost={self.config.max_points_lost:g}: the checkpoint is written and marked; fewer steps, "
            "lower rates, loss.weights=coefficient or mode=frozen lose less"
        )


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def _saving(saved: Saved) -> SavingFacts:
    return SavingFacts(**asdict(saved))

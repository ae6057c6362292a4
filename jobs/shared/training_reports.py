"""What training says while it goes on: a line for people, and its numbers into the log (training_log.py)."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs.shared.training_log import TrainingLog
from pipeline.source.left_out import from_dicts, sentence


class TrainReport:
    """Prints and logs what training from nothing reports."""

    def __init__(self, output: Path) -> None:
        self.log = TrainingLog(output)
        self._left_out, self._eta = _LeftOutLine(), _Eta()

    def __call__(self, values: dict[str, Any]) -> None:
        if "left_out" in values:
            self.log.append(self._left_out.rows(values), values)
            return
        step, kind = values["step"], "validation" if "validation" in values else "losses"
        numbers = values[kind]["token_accuracy_by_exit"] if kind == "validation" else values[kind]
        self.log.append([("train", step, kind, name, value) for name, value in numbers.items()], values)
        if kind == "validation":
            shown = "  ".join(f"{layer}: {value:.1%}" for layer, value in numbers.items())
            print(f"step {step:>6}  validation token accuracy by exit  {shown}", flush=True)
            return
        print(
            f"step {step:>6}/{values['total_steps']}  {_in_words(numbers)}  {values['images_per_s']:.1f} images/s  "
            f"lr {values['lr']:.2e}  {self._eta(step, values['total_steps'])}",
            flush=True,
        )


class PretrainedReport:
    """Prints and logs what training from a checkpoint reports."""

    def __init__(self, output: Path) -> None:
        self.log = TrainingLog(output)
        self._eta = _Eta()
        left_out = _LeftOutLine()
        self._kinds: dict[str, Callable[[dict[str, Any]], Rows]] = {
            "losses": self._losses, "validation": self._validation, "agreement": self._agreement,
            "guard": self._guard, "saved": self._saved, "left_out": left_out.rows,
        }  # fmt: skip

    def __call__(self, values: dict[str, Any]) -> None:
        (kind,) = self._kinds.keys() & values.keys()
        self.log.append(self._kinds[kind](values), values)

    def _losses(self, values: dict[str, Any]) -> "Rows":
        step, total, losses = values["step"], values["total_steps"], values["losses"]
        print(
            f"{values['stage']} step {step:>6}/{total}  {_in_words(losses)}  {values['images_per_s']:.1f} images/s  "
            f"waiting {values['waiting']:.0%}  {self._eta(step, total)}",
            flush=True,
        )
        return [(values["stage"], step, "losses", name, value) for name, value in losses.items()]

    def _validation(self, values: dict[str, Any]) -> "Rows":
        stage, step, numbers = values["stage"], values["step"], values["validation"]
        print(f"{stage} step {step:>6}  validation  {_in_words(numbers)}", flush=True)
        return [(stage, step, "validation", name, value) for name, value in numbers.items()]

    def _agreement(self, values: dict[str, Any]) -> "Rows":
        when, step, rows = values["agreement"], values["step"], values["rows"]
        for row in rows:
            print(
                f"{when:<7} gate {row['gate']:<12} mean depth {row['mean_depth']:.2f} "
                f"(computed {row['computed_depth']:.2f})  equal to full depth: tokens {row['equal_tokens']:.1%}, "
                f"outputs {row['equal_outputs']:.1%} of {row['num_images']}",
                flush=True,
            )
        names = ("mean_depth", "computed_depth", "equal_tokens", "equal_outputs")
        return [(row["gate"], step, when, name, row[name]) for row in rows for name in names]

    def _guard(self, values: dict[str, Any]) -> "Rows":
        guard, step = values["guard"], values["step"]
        for what, before in guard["before"].items():
            print(f"full depth, {what}: {before:.2f} points before, {guard['after'][what]:.2f} after", flush=True)
        lost = guard["lost"]
        change = f"{'gained' if lost < 0 else 'lost'} {abs(lost):.2f}"
        print(f"full depth {change} points; it may lose {guard['allowed']:.2f}", flush=True)
        points = [
            ("guard", step, when, what, value) for when in ("before", "after") for what, value in guard[when].items()
        ]
        return [*points, *(("guard", step, "points", name, guard[name]) for name in ("lost", "allowed"))]

    def _saved(self, values: dict[str, Any]) -> "Rows":
        saved = values["saved"]
        early_ms, full_ms = saved["single_early_ms"], saved["single_full_ms"]
        early_per_s, full_per_s = saved["early_per_s"], saved["full_per_s"]
        print(
            f"decoder, one text at a time: {early_ms:.1f} ms with early exit, {full_ms:.1f} ms at full depth "
            f"({early_ms / full_ms - 1:+.0%}); {saved['slots']} at a time: {early_per_s:.1f} texts/s, {full_per_s:.1f} "
            f"at full depth ({early_per_s / full_per_s:.2f} times)",
            flush=True,
        )
        return [("saved", values["step"], "after", name, value) for name, value in saved.items()]


Rows = list[tuple[str, int, str, str, float]]  # stage, step, kind, name, value


class _LeftOutLine:
    """Says what is left out when that changes."""

    def __init__(self) -> None:
        self._said: list[dict[str, Any]] = []

    def rows(self, values: dict[str, Any]) -> Rows:
        parts = values["left_out"]
        if parts != self._said:
            print(sentence(from_dicts(parts), "not trained on"), file=sys.stderr)
        self._said = parts
        return [("train", values["step"], "left_out", part["reason"], part["count"]) for part in parts]


class _Eta:
    """How long the steps that are left take, by those that this process has done."""

    def __init__(self) -> None:
        self._started, self._first_step = time.monotonic(), -1

    def __call__(self, step: int, total_steps: int) -> str:
        if self._first_step < 0:
            self._first_step = step
        done = step - self._first_step
        return f"{(time.monotonic() - self._started) / done * (total_steps - step) / 60:.0f} min left" if done else ""


def _in_words(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())

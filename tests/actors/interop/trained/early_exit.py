"""What each way of training the exits makes of a model that `train` trained on small scenes: tables of docs/models.md.

    python -m tests.actors.interop.trained.early_exit runs/pix2struct8 runs/pix2struct8-exits
    python -m tests.actors.interop.trained.early_exit runs/bart8 runs/bart8-exits

It runs commands of `deed`, each printed as one can type it: convert, train in each way, calibrate, evaluate. What has
an output is not run again, so that a run that was stopped goes on. Last it prints the table, which is also
FOLDER/table.md; `deed bench exits` (docs/models.md) has the times.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXITS = (1, 2, 4, 8)
CONVERTED, FROZEN, LABELS, OWN_TEXTS = "converted", "frozen", "labels", "own texts"
QUESTIONS = {"list_field": "qa", "template": "{question}"}
WITHOUT_LABELS = ["target={}", f"tasks={json.dumps([{'prompt': QUESTIONS}])}"]
VARIANTS = {
    LABELS: [],
    OWN_TEXTS: WITHOUT_LABELS,
    "labels, coefficient 0.1": ["loss.weights=coefficient"],
    "labels, head kept": ["loss.stop_head_gradient=true"],
    "labels, soft": ["loss.soft=0.5"],
    "labels, decoder alone": ["parts=decoder"],
}
DEFAULT = (CONVERTED, LABELS, OWN_TEXTS, FROZEN)


def folder_of(way: str, output: Path) -> Path:
    return output / way.replace(",", "").replace(" ", "-")


def settings(way: str, output: Path, own_images: int) -> list[str]:
    """Return what `deed train` is told beside its configuration.

    Texts are written of whole shards before anything is learned from them, so fewer images are used without labels.
    """
    if way == OWN_TEXTS:
        return [*VARIANTS[way], f"max_images={own_images}"]
    if way != FROZEN:
        return VARIANTS[way]
    own = folder_of(OWN_TEXTS, output)  # the same texts of the same images
    asked = {"prompt": QUESTIONS, "target": {"run": f"{own}/targets-1"}}
    return [
        "mode=frozen", "parts=decoder", json_setting("target", {"run": f"{own}/targets"}),
        json_setting("tasks", [asked]), f"max_images={own_images}", "optimizer.total_steps=500",
    ]  # fmt: skip


def json_setting(name: str, value: Any) -> str:
    return f"{name}={json.dumps(value)}"


def run(arguments: Sequence[str], right: Sequence[int] = (0,)) -> None:
    """Run a command of `deed`; its exit code must be one of `right`."""
    print(f"\n$ deed {shlex.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=False).returncode
    if code not in right:
        raise SystemExit(f"exit code {code}")


def set_each(values: Sequence[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def measure(way: str, source: Path, output: Path, steps: int, own_images: int) -> Path:
    """Train a model in one way, choose its thresholds and score it; return the file of its scores."""
    folder = folder_of(way, output)
    scores, checkpoint = folder / "scores.json", folder if way == CONVERTED else folder / "checkpoint"
    if scores.exists():
        return scores
    if way == CONVERTED:
        if not (folder / "config.json").exists():
            run(["convert", str(source), str(folder), "--exits", ",".join(map(str, EXITS))])
    else:
        told = [f"optimizer.total_steps={steps}", *settings(way, output, own_images)]
        named = ["--checkpoint", str(folder_of(CONVERTED, output)), "--out", str(folder)]
        run(["train", "--config", "conf/scenes-small-train.yaml", *named, *set_each(told)], right=(0, 8))
        run(
            ["calibrate", "--config", "conf/scenes-small-calibrate.yaml", "--checkpoint", str(checkpoint)], right=(0, 1)
        )
    config = ["--config", "conf/scenes-small-evaluate.yaml", "--checkpoint", str(checkpoint)]
    run(["evaluate", *config, "--out", str(scores)])
    return scores


def row(way: str, scores: Path) -> str:
    """Return a row of the table: captions by F1 of object names, answers by exact match."""
    rows = {each["label"]: each for each in json.loads(scores.read_text())["rows"]}

    def quality(label: str) -> str:
        each = rows.get(label)
        return "" if each is None else f"{100 * each['caption_f1']:.1f}, {100 * each['answer_exact']:.1f}"

    early = rows.get("early exit")
    depth = ["", ""] if early is None else [f"{early['mean_depth']:.2f}", f"{early['computed_depth']:.2f}"]
    alone = [quality(f"exit {layer} alone") for layer in EXITS[:-1]]
    return " | ".join(["", way, quality("full depth"), *alone, quality("early exit"), *depth, ""]).strip()


def table(source: Path, output: Path, ways: Sequence[str], steps: int, own_images: int) -> str:
    head = ["", "full depth: F1, exact", *(f"exit {layer} alone" for layer in EXITS[:-1]), "early exit"]
    lines = [" | ".join(["", *head, "mean depth", "layers computed", ""]).strip(), "|---" * (len(head) + 2) + "|"]
    return "\n".join([*lines, *(row(way, measure(way, source, output, steps, own_images)) for way in ways)])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that `train` wrote")
    parser.add_argument("output", type=Path)
    parser.add_argument("--ways", nargs="+", choices=(CONVERTED, FROZEN, *VARIANTS), default=DEFAULT)
    parser.add_argument("--steps", type=int, default=2_000, help="of deep supervision")
    parser.add_argument("--own-images", type=int, default=5_000, help="that own texts are learned of, at least")
    options = parser.parse_args(arguments)
    shown = table(options.model, options.output, options.ways, options.steps, options.own_images)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "table.md").write_text(shown + "\n")
    print(shown)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The model card: README.md of a trained checkpoint, with the front matter that model hubs read.

It says what training.json has, for people; what is not known is not mentioned.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from actors.training.pretrained.card_facts import code, facts_of, link_from
from actors.training.pretrained.record import RECORD_FILE, TrainingRecord
from conf.licence import CARD_FILE, OTHER
from conf.resolve import NEVER
from pipeline.report.number_formats import count, number, share
from pipeline.report.safe_text import markdown

_PROJECT = "deed-pipeline"
_NAME_ON_A_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PAPER = "[DEED](https://arxiv.org/abs/2311.08623)"
_DEPTHS = (
    "*Depth* is where tokens left, *computed* how deep their positions were computed in the end: a token that goes "
    "deep makes the earlier ones of its output catch up. Quality is in points."
)


def write_card(folder: Path, record: TrainingRecord, *, plain: bool = False) -> None:
    """Write README.md and training.json into a checkpoint folder.

    `plain`: the folder holds the model without its exits, for the library it came from; it gets README.md alone, which
    says nothing of exits.
    """
    (folder / CARD_FILE).write_text(render_card(record, plain=plain), encoding="utf-8")
    if not plain:
        (folder / RECORD_FILE).write_text(record.to_json(), encoding="utf-8")


def render_card(record: TrainingRecord, *, plain: bool = False) -> str:
    """Return the page."""
    parts = [_front_matter(record, plain), f"# {markdown(record.model.name)}"]
    if (guard := record.guard) is not None and guard.marked:
        parts.append(_paragraph(
            f"**Full depth of this checkpoint lost {_points(guard.lost)} points in training, more than the "
            f"{_points(guard.allowed)} allowed.** What it lost is under "
            "[Full depth before and after](#full-depth-before-and-after)."
        ))  # fmt: skip
    parts += [_paragraph(_summary(record, plain)), _table(["", ""], facts_of(record, plain))]
    if not plain:
        parts += [*_exits(record), *_early_exit(record)]
    parts += _guard(record)
    if not plain:
        parts += [*_saving(record), *_use(record)]
    return "\n\n".join(parts) + "\n"


def _front_matter(record: TrainingRecord, plain: bool) -> str:
    source, values = record.source, dict[str, Any]()
    if source.licence is not None:
        values["license"] = source.licence
        if source.licence_name is not None:
            values["license_name"] = source.licence_name
        if source.licence == OTHER and source.licence_link is not None:
            values["license_link"] = link_from(source.licence_link, plain)
    if source.base_model is not None and _NAME_ON_A_HUB.fullmatch(source.base_model):
        values["base_model"] = source.base_model
    values |= {"pipeline_tag": "image-to-text", "library_name": "transformers" if plain else _PROJECT}
    if not plain:
        values["tags"] = ["early-exit"]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)}---"


def _summary(record: TrainingRecord, plain: bool) -> str:
    training, exits = record.training, record.model.exits
    base = code(record.source.base_model, in_table=False) if record.source.base_model else "A pretrained model"
    if plain:
        return (
            f"{base}, trained to say early what it says in the end ({_PAPER}); the exits themselves are not part of "
            "these files."
        )
    layers = _listed([str(layer) for layer in exits])
    how = (
        "Only the exits were trained; every weight of the model itself is as it was, and so is what full depth says."
        if training.mode == "frozen"
        else "Trained by deep supervision: every exit learned to say the targets, not the last one alone."
    )
    return (
        f"{base} with exits after layers {layers} of its decoder: a token that is sure enough leaves early ({_PAPER}). "
        f"{how}"
    )


def _exits(record: TrainingRecord) -> Iterator[str]:
    if not record.exits:
        return
    yield "## Exit by exit"
    yield _paragraph(
        f"Each exit alone on the {count(record.data.test_images)} images to report on, teacher-forced: the share of "
        "target tokens that it gets right, the share of which it says what full depth says, its loss in nats a token."
    )
    rows = [
        [str(exit.layer), _said(exit.right, share), _said(exit.agrees, share), _said(exit.loss, number)]
        for exit in record.exits
    ]
    yield _table(["exit after layer", "right", "equal to full depth", "loss"], rows)


def _early_exit(record: TrainingRecord) -> Iterator[str]:
    if not record.early:
        return
    rows_of, exits, layers = record.early, record.model.exits, _layers(record.model.decoder_layers)
    yield "## Early exit"
    yield _paragraph(f"The same images, decoded by the engine with the thresholds that training has set. {_DEPTHS}")
    one = len(rows_of) == 1
    rows = [
        ["thresholds", "", *(_thresholds(exits, row.thresholds) for row in rows_of)],
        ["set for a risk of", "", *(share(row.risk) for row in rows_of)],
        ["depth", layers, *(_said(row.mean_depth, _layers) for row in rows_of)],
        ["computed", layers, *(_said(row.computed_depth, _layers) for row in rows_of)],
        ["outputs equal to full depth's", "", *(_said(row.equal_outputs, share) for row in rows_of)],
        ["tokens equal to full depth's", "", *(_said(row.equal_tokens, share) for row in rows_of)],
    ]
    full = {name: value for row in rows_of for name, value in row.full.items()}
    rows += [
        [markdown(name), _points(value), *(_said(row.early.get(name), _points) for row in rows_of)]
        for name, value in full.items()
    ]
    head = ["early exit" if one else f"early exit, {markdown(row.gate)}" for row in rows_of]
    yield _table(["", "full depth", *head], [row for row in rows if any(row[2:])])


def _said(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def _thresholds(exits: Sequence[int], thresholds: Sequence[float]) -> str:
    said = (
        f"layer {layer}: {'never' if threshold > NEVER else number(threshold)}"
        for layer, threshold in zip(exits, thresholds, strict=False)
    )
    return ", ".join(said)


def _layers(value: float) -> str:
    return f"{value:.2f} layers"


def _guard(record: TrainingRecord) -> Iterator[str]:
    if (guard := record.guard) is None:
        return
    yield "## Full depth before and after"
    verdict = (
        f"**{_points(guard.lost)} were lost, more than the {_points(guard.allowed)} allowed.**"
        if guard.marked
        else f"{_points(guard.lost) if guard.lost > 0 else 'None'} were lost; {_points(guard.allowed)} were allowed."
    )
    yield _paragraph(f"Points on the {count(record.data.test_images)} images to report on. {verdict}")
    names = [name for name in guard.before if name in guard.after]
    rows = [[markdown(name), _points(guard.before[name]), _points(guard.after[name])] for name in names]
    yield _table(["", "before", "after"], rows)


def _saving(record: TrainingRecord) -> Iterator[str]:
    if (saving := record.saving) is None:
        return
    saved, factor = 1 - saving.single_early_ms / saving.single_full_ms, saving.early_per_s / saving.full_per_s
    yield "## Time on this machine"
    device = saving.device or record.hardware.device
    where = "" if device is None else f" on {markdown(device)}"
    yield f"The decoder alone, in the same engine{where}. Other machines and other images differ."
    early, full = (number(saving.single_early_ms), number(saving.single_full_ms))
    rows = [["one sequence at a time, ms a text", full, early, _saved(saved)]]
    early, full = (number(saving.early_per_s), number(saving.full_per_s))
    rows.append([f"{count(saving.slots)} at a time, texts a second", full, early, f"{factor:.2f} times as many"])
    yield _table(["", "full depth", "early exit", ""], rows)


def _saved(value: float) -> str:
    return f"{share(value)} saved" if value >= 0 else f"{share(-value)} more"


def _use(record: TrainingRecord) -> Iterator[str]:
    yield "## Use"
    yield "```\ndeed caption ./photos --checkpoint THIS_FOLDER --out runs/yours\n```"
    yield "`--set engine.schedule=full` runs it at full depth."


def _points(value: float) -> str:
    return f"{value:.2f}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the table without columns that have nothing in any row."""
    body = [list(row) for row in rows]
    kept = [0, *(n for n in range(1, len(head)) if any(row[n] for row in body))]
    lines = [[line[n] for n in kept] for line in (list(head), *body)]
    first, *others = ("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines)
    return "\n".join([first, "|" + "---|" * len(kept), *others])


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)

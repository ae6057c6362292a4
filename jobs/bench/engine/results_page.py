"""The results file -> a page of tables and a chart. The latest row of a cell and variant counts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from conf.errors import UserError
from jobs.bench.engine.result_rows import COLUMNS, Row, row_of
from jobs.bench.engine.variants import VARIANTS


def render(results: Path, document: Path) -> int:
    """Write the page, and the chart beside it under the same name."""
    if not results.is_file():
        raise UserError(f"there are no results at {str(results)!r}; run deed bench engine first")
    rows = latest(row_of(json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines())
    if not rows:
        raise UserError(f"{str(results)!r} holds no results")
    document.parent.mkdir(parents=True, exist_ok=True)
    chart = document.with_suffix(".svg")
    draw(rows, chart)
    document.write_text("\n".join(page(rows, chart.name)) + "\n", encoding="utf-8")
    print(f"{document} and {chart}, {len(rows)} rows")
    return 0


def latest(rows: Iterable[Row]) -> list[Row]:
    """Return one row per cell and variant, the last one written, in the order of first appearance."""
    kept: dict[tuple[object, ...], Row] = {}
    for row in rows:
        kept[(*cell_of(row), row.variant)] = row
    return list(kept.values())


def cell_of(row: Row) -> tuple[object, ...]:
    return (row.model, row.distribution, row.encoder, row.length, row.slots, row.dtype)


def page(rows: Sequence[Row], chart: str) -> list[str]:
    machines = sorted({f"{row.hardware['cpu']}, {row.hardware['threads']} threads" for row in rows})
    versions = sorted({", ".join(f"{name} {v}" for name, v in row.versions.items() if v) for row in rows})
    lines = [
        "# The engine, measured",
        "",
        f"Machine: {'; '.join(machines)}. Software: {'; '.join(versions)}. Commits: "
        f"{', '.join(sorted({str(row.commit) for row in rows}))}. "
        f"Seed {', '.join(sorted({str(row.seed) for row in rows}))}.",
        "Made by `deed bench engine --render`; every row is in the results file with its command.",
        "",
        f"![Decoding against full depth]({chart})",
        "",
        "* A *ratio* is time of `full` / time of the variant, taken within a round: the median over rounds, and the",
        "  smallest and largest. *decode* leaves the encoder out. With the encoder replayed only decoding is compared.",
        "* The *bound* is what an engine would reach whose visits are all full, that computes only what the exits of",
        "  its tokens need (with just-in-time features the suffix maximum of depths), whose Python costs nothing, and",
        "  whose tensors cost per floor and position what full depth's were measured to cost. Ragged visits read a",
        "  sequence's past once for several positions, which full depth does not, and so can do better than that.",
        "* *depth* is layers per token, *computed* the same with pending positions; *rows a visit* is by segment.",
        "* *oracle*: share of replayed tokens that teacher-forced full-depth features give at the same exit. Scripted",
        "  exits of random weights say what they say, so that they are not compared with full depth.",
        "* CTranslate2 has no encoder time of its own: it is estimated from outputs of one token.",
        "",
    ]
    cells = list(dict.fromkeys(cell_of(row) for row in rows))
    for cell in cells:
        members = [row for row in rows if cell_of(row) == cell]
        members.sort(key=lambda row: list(VARIANTS).index(row.variant))
        lines += [f"## {members[0].title}", "", *markdown(members), ""]
    lines += ["Variants: " + "; ".join(f"`{name}`: {variant.summary}" for name, variant in VARIANTS.items()) + "."]
    return lines


def markdown(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(column.head for column in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(c.text(row) for c in COLUMNS) + " |" for row in rows if row.skipped is None]
    skipped = [f"`{row.variant}`: {row.skipped}" for row in rows if row.skipped is not None]
    return [*lines, *(["", "Left out: " + "; ".join(skipped) + "."] if skipped else [])]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Decoding against full depth by slots: one panel for each model, distribution and length; ticks mark the bound."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    drawn = [row for row in rows if row.skipped is None and row.decode_ratio is not None]
    panels = list(dict.fromkeys((r.model, r.distribution, r.length, r.encoder) for r in drawn))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(5 * columns, 3.4 * lines), squeeze=False)
    colors = {name: pyplot.get_cmap("tab20")(i) for i, name in enumerate(VARIANTS)}
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        members = [r for r in drawn if (r.model, r.distribution, r.length, r.encoder) == panel]
        slots = sorted({row.slots for row in members})
        for name in VARIANTS:
            own = sorted((r for r in members if r.variant == name), key=lambda row: row.slots)
            if own:
                axis.plot([slots.index(r.slots) for r in own], [r.decode_ratio for r in own], "o-", ms=4,
                          color=colors[name], label=name)  # fmt: skip
            if name == "pool":
                axis.plot([slots.index(r.slots) for r in own], [r.decode_bound for r in own], "_", ms=18,
                          color="black", label="bound of pool")  # fmt: skip
        axis.set_xticks(range(len(slots)), [str(count) for count in slots])
        axis.axhline(1, color="grey", lw=0.7)
        axis.set(title=members[0].title.replace(f", {members[0].slots} slots", ""), xlabel="slots", ylim=(0, None))
        axis.title.set_size(9)
        axis.set_ylabel("decoding against full depth")
        axis.legend(fontsize=6, ncol=2)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

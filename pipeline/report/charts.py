"""Numbers -> inline SVG without text, so that it stretches to any width; the labels around it are HTML.

Every function returns markup of a <figure>; values come in as numbers and labels are escaped here.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from pipeline.report.number_formats import number, seconds, share
from pipeline.report.report_schema import Quantiles

_PLOT = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{label}">{shapes}</svg>')
_LINES = Markup("").join(
    Markup('<line class="grid" x1="0" x2="100" y1="{y}" y2="{y}"/>').format(y=y) for y in (0, 25, 50, 75, 100)
)
_LAST_TICK = {"x": 97.0, "top": 96.0}  # percent from where a label would stick out
Tick = tuple[float, str]  # percent from the left (or from the bottom), label


def latency_chart(latency: Quantiles, title: str) -> Markup:
    """Columns over a logarithmic axis, with the percentiles marked."""
    if not latency.histogram:
        return Markup("")
    low, high = latency.histogram[0][0], latency.histogram[-1][1]
    most = max(rows for *_, rows in latency.histogram)
    width = 100 / len(latency.histogram)

    def x_of(value: float) -> float:
        return 100 * math.log(value / low) / math.log(high / low)

    shapes = [
        _rect("column", i * width + width * 0.06, width * 0.88, 100 * rows / most)
        for i, (*_, rows) in enumerate(latency.histogram)
    ]
    marks = [(n, value) for n in ("p50", "p90", "p99") if (value := getattr(latency, n)) and low < value < high]
    for _, value in marks:
        shapes.append(Markup('<line class="mark" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="100"/>').format(x=x_of(value)))
    label = f"{title}: " + ", ".join(f"{name} {seconds(value)}" for name, value in marks)
    return _figure(title, label, shapes, x=_log_ticks(low, high), top=[(x_of(value), name) for name, value in marks])


def depth_by_position_chart(
    points: Sequence[tuple[int, float, int]], computed: Sequence[float | None], num_layers: int, title: str
) -> Markup:
    """Return the layers tokens left at over their positions, and above them the layers computed, as a broken line."""
    if len(points) < 2:
        return Markup("")
    last = points[-1][0]
    line = [(100 * position / last, 100 * depth / num_layers) for position, depth, _ in points]
    known = [(x, 100 * depth / num_layers) for (x, _), depth in zip(line, computed, strict=True) if depth is not None]
    ticks = [(100 * position / last, f"{position + 1}") for position in _round_steps(last)]
    layers = [(100 * layer / num_layers, f"{layer}") for layer in sorted({0, num_layers // 2, num_layers})]
    label = (
        f"{title}: {number(points[0][1])} layers at the first token, {number(points[-1][1])} at token {last + 1}; "
        f"computed: {number(computed[0])} and {number(computed[-1])}"
    )
    return _figure(
        title,
        label,
        [*_area(line), *([_line(known, "broken")] if known else [])],
        x=ticks,
        y=layers,
        x_title="token",
        y_title="layers",
    )


def timeline_chart(timeline: Sequence[tuple[float, float]], title: str) -> Markup:
    """Images finished per second over the time engines ran."""
    most = max((rate for _, rate in timeline), default=0.0)
    if not most:
        return Markup("")
    end = timeline[-1][0] + timeline[0][0]  # points are the middles of equally long bins
    line = [(100 * moment / end, 100 * rate / most) for moment, rate in timeline]
    ticks = [(part, seconds(end * part / 100)) for part in (0, 50, 100)]
    label = f"{title}: at most {number(most)} per second, over {seconds(end)}"
    return _figure(title, label, _area(line), x=ticks, y=[(0, "0"), (100, number(most))])


def stacked_bar(parts: Sequence[tuple[str, float]], title: str) -> Markup:
    """Return one bar of parts; colours follow the order, names and numbers belong into a table beside it."""
    whole = sum(value for _, value in parts)
    if not whole:
        return Markup("")
    shapes, x = [], 0.0
    for i, (name, value) in enumerate(parts):
        width = 100 * value / whole
        shapes.append(_rect(f"part part-{i % 8}", x, width, 100, f"{name} {share(value / whole)}"))
        x += width
    label = f"{title}: " + ", ".join(f"{name} {share(value / whole)}" for name, value in parts)
    plot = _PLOT.format(label=label, shapes=Markup("").join(shapes))
    return Markup('<figure class="chart stacked"><div class="plot">{}</div></figure>').format(plot)


def profile(shades: Sequence[int | None], heights: Sequence[float]) -> Markup:
    """Return the depth of each token of one text as small columns; decoration, so hidden from screen readers."""
    width = 100 / max(1, len(heights))
    columns = Markup("").join(
        _rect(f"shade-{shade}", i * width, width * 0.85, 100 * height)
        for i, (shade, height) in enumerate(zip(shades, heights, strict=True))
        if shade is not None
    )
    svg = '<svg class="profile" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    return Markup(svg).format(columns)


def _figure(
    title: str,
    label: str,
    shapes: Sequence[Markup],
    *,
    x: Sequence[Tick],
    y: Sequence[Tick] = (),
    top: Sequence[Tick] = (),
    x_title: str = "",
    y_title: str = "",
) -> Markup:
    plot = _PLOT.format(label=label, shapes=_LINES + Markup("").join(shapes))
    parts = [Markup("<figcaption>{}</figcaption>").format(title)]
    parts.append(Markup('<div class="plot">{}{}{}{}</div>').format(
        plot, _ticks("x", "left", x), _ticks("y", "bottom", y), _ticks("top", "left", top)
    ))  # fmt: skip
    if x_title or y_title:
        parts.append(Markup('<div class="axes"><span>{}</span><span>{}</span></div>').format(y_title, x_title))
    classes = "chart has-y" if y else "chart"
    return Markup('<figure class="{}">{}</figure>').format(classes, Markup("").join(parts))


def _ticks(axis: str, side: str, ticks: Sequence[Tick]) -> Markup:
    return Markup("").join(
        Markup('<span class="tick {}{}" style="{}:{:.2f}%">{}</span>').format(
            axis, " last" if axis != "y" and at > _LAST_TICK[axis] else "", Markup(side), at, escape(text)
        )
        for at, text in ticks
    )


def _rect(classes: str, x: float, width: float, height: float, tip: str = "") -> Markup:
    rect = Markup('<rect class="{}" x="{:.3f}" y="{:.2f}" width="{:.3f}" height="{:.2f}">{}</rect>')
    return rect.format(classes, x, 100 - height, width, height, Markup("<title>{}</title>").format(tip) if tip else "")


def _area(line: Sequence[tuple[float, float]]) -> list[Markup]:
    area = f"{line[0][0]:.2f},100 {_points(line)} {line[-1][0]:.2f},100"
    return [Markup('<polygon class="area" points="{}"/>').format(area), _line(line)]


def _line(line: Sequence[tuple[float, float]], classes: str = "whole") -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(classes, _points(line))


def _points(line: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in line)


def _log_ticks(low: float, high: float) -> list[Tick]:
    """1, 2, 5, 10, .. within the axis, fewer where they would touch."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [(100 * math.log(v / low) / math.log(high / low), seconds(v)) for v in values if low <= v <= high]


def _round_steps(last: int) -> list[int]:
    """Return the positions to label: the first, and every 5th, 10th, 20th, .. after it."""
    step = next((s for s in (1, 2, 5, 10, 20, 50) if last / s <= 8), 100)
    return [0, *range(step - 1 if step > 1 else 1, last + 1, step)]

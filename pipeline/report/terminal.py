"""The summary a person reads at the end of a run: what came out, how fast, how deep, how good, and where it is."""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.report.audit import Audit
from pipeline.report.number_formats import count, hours, money, number, seconds, share
from pipeline.report.report_schema import Outcome, RunNumbers, is_full_depth
from pipeline.report.safe_text import visible
from pipeline.report.time_saved import time_saved
from pipeline.source.left_out import in_words

_BAR_WIDTH = 32
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MOST_ERRORS = 8
_LABEL_WIDTH = 9


def print_summary(numbers: RunNumbers, console: Console) -> None:
    """Print the summary; nothing in it is taken for markup."""
    console.print(summary(numbers, ascii_only=console.options.ascii_only))


def summary(run: RunNumbers, *, ascii_only: bool = False) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", min_width=_LABEL_WIDTH, no_wrap=True)
    rows.add_column()
    for label, content in _rows(run, ascii_only):
        rows.add_row(label, content)
    return Group(Text(), _headline(run.outcome, run.identity.url), Text(), Padding(rows, (0, 0, 1, 1)))


def _rows(run: RunNumbers, ascii_only: bool) -> Iterator[tuple[str, RenderableType]]:
    yield "speed", _speed(run)
    yield "latency", _latency(run)
    if run.exits.num_steps:
        if not is_full_depth(run):
            yield "saved", _saved(run)
        yield "depth", _depth(run)
        yield "", _depth_bars(run, ascii_only)
    if run.audit is not None:
        yield "audit", _audit(run.audit)
    if run.quality is not None:
        yield "quality", _quality(run)
    if run.cost.total is not None:
        yield "cost", _cost(run)
    if run.errors:
        yield "errors", _errors(run)
    if run.outcome.left_out:
        yield "left out", Text("\n").join(Text(visible(in_words(part), 160)) for part in run.outcome.left_out)
    yield "files", _files(run.identity.url)


def _headline(outcome: Outcome, url: str) -> Text:
    style = {"complete": "bold green", "running": "bold yellow"}.get(outcome.status, "bold red")
    text = Text.assemble((f" {visible(outcome.status).replace('_', ' ')} ", f"{style} reverse"), "  ")
    failed = f"{count(outcome.rows_error)} failed"
    text.append(f"{count(outcome.rows_read)} read = {count(outcome.rows_ok)} done + {failed}", style="bold")
    shards = f"{count(outcome.shards_published)} of {count(outcome.shards)} shards"
    text.append(f"   {shards}   {visible(url)}", style="dim")
    if outcome.shard_errors:
        text.append(
            f"\n{count(outcome.shard_errors)} shards had something wrong as a whole, see errors", style="yellow"
        )
    if outcome.message:
        text.append(f"\n{visible(outcome.message)}", style="yellow")
    for check in outcome.checks:
        if check.ok is False:
            text.append(f"\ncounts do not reconcile: {check.name}: {check.detail}", style="bold red")
    return text


def _speed(run: RunNumbers) -> Text:
    speed, busy = run.speed, run.device_time.utilization
    text = Text(f"{number(speed.images_per_s)} images/s", style="bold")
    details = [f"over {seconds(speed.wall_s)}"]
    if speed.images_per_s_steady is not None:
        details.append(f"{number(speed.images_per_s_steady)} once warm")
    if speed.num_actors is not None:
        engines = f"{speed.num_actors} engine{'' if speed.num_actors == 1 else 's'}"
        details.append(engines if busy is None else f"{engines}, busy {share(busy)} of the time")
    return text.append("  " + ", ".join(details), style="not bold dim")


def _latency(run: RunNumbers) -> Text:
    whole, first = run.latency["e2e_s"], run.latency["ttft_s"]
    text = Text()
    for name, value in (("p50", whole.p50), ("p90", whole.p90), ("p99", whole.p99)):
        text.append(f"{name} ", style="dim").append(f"{seconds(value)}  ", style="bold")
    return text.append(f" waiting in the engine included; first token p50 {seconds(first.p50)}", style="dim")


def _saved(run: RunNumbers) -> Text:
    saved = time_saved(run)
    if saved.device.value is None:
        return Text(f"{saved.device.text}: {saved.device.note}")
    text = Text(f"{saved.device.text} of full depth's time", style="bold green")
    text.append(f"  {saved.decoder.text} of the decoder's", style="not bold green")
    return text.append(f"  {saved.device.note}", style="not bold dim")


def _depth(run: RunNumbers) -> Text:
    exits = run.exits
    left, computed = number(exits.mean_depth), number(exits.computed_depth)
    text = Text(f"tokens left at layer {left} of {count(exits.num_layers)}, {computed} layers computed", style="bold")
    return text.append("  a token that goes deep makes earlier ones catch up", style="not bold dim")


def _depth_bars(run: RunNumbers, ascii_only: bool) -> Table:
    bars = Table.grid(padding=(0, 1))
    bars.add_column(justify="right", style="dim")
    bars.add_column(min_width=_BAR_WIDTH)
    bars.add_column(justify="right")
    bars.add_column(justify="right", style="dim")
    most = max(depth.share for depth in run.exits.histogram)
    for depth in run.exits.histogram:
        filled = bar(depth.share / most if most else 0.0, ascii_only=ascii_only)
        bars.add_row(
            f"layer {depth.layer}", Text(filled, style="cyan"), share(depth.share), f"{count(depth.steps)} steps"
        )
    return bars


def bar(fraction: float, width: int = _BAR_WIDTH, *, ascii_only: bool = False) -> str:
    """Return a bar of eighths of a character; anything above nothing is visible."""
    eighths = round(fraction * width * 8) or (1 if fraction > 0 else 0)
    if ascii_only:
        return "#" * (-(-eighths // 8))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _audit(audit: Audit) -> Text:
    text = Text(f"{share(audit.mean_loss)} lost for leaving early", style="bold")
    if audit.low is not None:
        text.append(f"  {share(audit.low)} to {share(audit.high)}", style="not bold")
    if audit.promise is not None:
        text.append(f"  at most {share(audit.promise.risk)} promised", style="not bold")
        if audit.promise.alarm is not None:
            text.append(", and broken", style="bold red")
    cost = f"{count(audit.images)} images at full depth too, {share(audit.device_share)} of the engines' time"
    return text.append(f"  {cost}", style="not bold dim")


def _quality(run: RunNumbers) -> Text:
    assert run.quality is not None
    text = Text()
    for kind in dict.fromkeys(score.kind for score in run.quality.scores):
        scores = [score for score in run.quality.scores if score.kind is kind]
        text.append("\n" if text else "")
        for score in scores:
            text.append(f"{score.name} ", style="dim").append(f"{score.value:.3f}  ", style="bold")
        text.append(f" {count(scores[0].num_rows)} {kind.value}s against references", style="dim")
    return text


def _cost(run: RunNumbers) -> Text:
    cost = run.cost
    text = Text(f"{money(cost.per_1000_images, cost.currency)} per 1,000 images", style="bold")
    where = visible(cost.source or "source unknown") + (f", {visible(cost.date)}" if cost.date else "")
    price = f"{money(cost.price_per_hour, cost.currency)} an hour ({where})"
    allocated = hours(run.device_time.allocated_s)
    return text.append(
        f"  {money(cost.total, cost.currency)} in all, {price}, {allocated} reserved", style="not bold dim"
    )


def _errors(run: RunNumbers) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold red")
    table.add_column(no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for kind in run.errors[:_MOST_ERRORS]:
        table.add_row(count(kind.count), Text(visible(kind.error_type, 40)), Text(visible(kind.message or "", 160)))
    rest: Sequence[object] = run.errors[_MOST_ERRORS:]
    if rest:
        table.add_row("", f"and {len(rest)} more kinds", "")
    return table


def _files(url: str) -> Text:
    lines = (("results", "results/*.parquet"), ("errors", "errors/*.parquet"), ("the run", "run.json"))
    return Text("\n").join(
        Text.assemble((f"{name:<8}", "dim"), visible(f"{url.rstrip('/')}/{path}")) for name, path in lines
    )

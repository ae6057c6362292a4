"""Numbers -> labelled facts by section, the same for every form of the report; what is unknown is said so."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from pipeline.report.audit import Promise
from pipeline.report.compare import Comparison
from pipeline.report.number_formats import UNKNOWN, count, hours, money, number, seconds, share, size
from pipeline.report.report_schema import RunNumbers, is_full_depth
from pipeline.report.time_saved import MEASURE, time_saved

NOT_MEASURED = "not measured"


class Better(str, Enum):
    """Which direction is an improvement, where one is."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Fact:
    label: str
    text: str  # the value, formatted
    note: str = ""
    value: float | None = None  # for comparing runs; None where that makes no sense
    better: Better | None = None
    is_share: bool = False  # changes are told in points, not relative
    is_estimate: bool = False  # not to be compared with what was measured


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    lead: str  # one sentence that says what the section is about
    facts: tuple[Fact, ...]


def sections_of(run: RunNumbers) -> tuple[Section, ...]:
    return tuple(Section(name, title, lead, tuple(facts(run))) for name, title, lead, facts in _SECTIONS)


def _outcome(run: RunNumbers) -> Iterator[Fact]:
    outcome = run.outcome
    failed = outcome.rows_error / outcome.rows_read if outcome.rows_read else None
    shards = f"{count(outcome.shards_published)} of {count(outcome.shards)}"
    yield Fact("status", outcome.status.replace("_", " "), outcome.message or "")
    yield Fact("shards published", shards)
    yield Fact("rows read", count(outcome.rows_read), _samples(run), outcome.rows_read)
    yield Fact("rows done", count(outcome.rows_ok), "", outcome.rows_ok, Better.HIGHER)
    yield Fact("rows failed", count(outcome.rows_error), _of(share(failed), "read"), outcome.rows_error, Better.LOWER)
    if outcome.shard_errors:
        yield Fact(
            "damaged shards", count(outcome.shard_errors), "the rows that could be read were", outcome.shard_errors
        )
    yield _part("cut at the length limit", outcome.rows_truncated, outcome.rows_ok)
    yield _part("repeating themselves", outcome.rows_looped, outcome.rows_ok)
    yield Fact("failed rows tried more than once", count(outcome.rows_retried))
    for part in outcome.left_out:
        label = f"left out: {part.reason.replace('_', ' ')}"
        more = ", ..." if part.count > len(part.examples) else ""
        yield Fact(label, count(part.count), f"no input rows: {', '.join(part.examples)}{more}", part.count)
    invocations = run.identity.num_invocations
    if invocations is not None and invocations > 1:
        yield Fact("starts of the command", count(invocations), "each continued where the one before stopped")


def _samples(run: RunNumbers) -> str:
    samples = run.outcome.samples
    return "" if samples is None or samples == run.outcome.rows_read else f"of {count(samples)} images"


def _of(text: str, whole: str) -> str:
    return "" if text == UNKNOWN else f"{text} of those {whole}"


def _part(label: str, rows: int, whole: int) -> Fact:
    return Fact(label, count(rows), _of(share(rows / whole), "done") if whole else "", rows, Better.LOWER)


def _cost(run: RunNumbers) -> Iterator[Fact]:
    cost, time = run.cost, run.device_time
    currency = cost.currency
    if cost.price_per_hour is None:
        price, note = UNKNOWN, "set cost.price_per_hour, cost.source and cost.date to get money"
    else:
        price, note = (
            f"{money(cost.price_per_hour, currency)} an hour",
            ", ".join((cost.source or "source unknown", cost.date or "date unknown")),
        )
    yield _better("per 1,000 images", money(cost.per_1000_images, currency), cost.per_1000_images, Better.LOWER)
    yield _better("per million tokens", money(cost.per_million_tokens, currency), cost.per_million_tokens, Better.LOWER)
    yield _better("in all", money(cost.total, currency), cost.total, Better.LOWER)
    failed = run.outcome.rows_error
    if failed:
        of_all = f"{count(failed)} of {count(run.outcome.rows_read)} rows read, at the same cost each; inside the total"
        yield _better(
            "of that, for failed rows", money(cost.failed_rows, currency), cost.failed_rows, Better.LOWER, of_all
        )
    yield Fact("price of all reserved hardware", price, note, cost.price_per_hour)
    error = cost.device_s_per_image_error
    interval = "" if error is None else f"± {seconds(error)} (95 %)"
    per_image = cost.device_s_per_image
    yield _better("device time per image", seconds(per_image), per_image, Better.LOWER, interval)
    yield _better(
        "device time reserved", hours(time.allocated_s), time.allocated_s, Better.LOWER, "one device per engine"
    )
    yield _better("device time busy", hours(time.busy_s), time.busy_s, Better.LOWER)
    wasted_s = time.unattributed_s
    if run.audit is not None:
        note = f"{share(run.audit.device_share)} of the busy time; full depth beside early exit"
        yield _better("of that, for the audit", seconds(run.audit.device_s), run.audit.device_s, Better.LOWER, note)
    if wasted_s is not None and time.busy_s and wasted_s > 0.001 * time.busy_s:
        note = "engines at work on rows that failed or ran twice"
        yield _better("device time for no result", hours(wasted_s), wasted_s, Better.LOWER, note)
    yield _higher_share("utilization", time.utilization, "busy / reserved")
    yield _better("starting the models", hours(time.load_s), time.load_s, Better.LOWER, "inside the total")
    energy = run.identity.energy or {}
    watt_hours = energy.get("wh")
    yield Fact("energy", UNKNOWN if watt_hours is None else f"{number(watt_hours)} Wh", str(energy.get("source") or ""))


def reconciliation(run: RunNumbers) -> str:
    """Return the line that shows whether device time adds up."""
    time = run.device_time
    if time.allocated_s is None or time.idle_s is None or time.gap is None:
        return "Device time cannot be reconciled: " + (
            "the run has not ended." if time.allocated_s is None else "there are no engine statistics."
        )
    audit = f" + {seconds(time.audit_s)} for the audit" if time.audit_s else ""
    rows, idle = f"{seconds(time.attributed_s)} charged to rows{audit}", f"{seconds(time.idle_s)} idle"
    parts = f"{rows} + {idle} + {seconds(time.load_s)} loading"
    line = f"{parts} = {seconds(time.allocated_s)} reserved, {share(time.gap)} apart."
    if time.closes:
        return line
    if time.idle_s < 0:
        return f"{line} This does not add up: engines report more work than time was reserved."
    return (
        f"{line} This does not add up: {seconds(time.unattributed_s)} of work belong to rows that failed or ran twice."
    )


def _speed(run: RunNumbers) -> Iterator[Fact]:
    speed = run.speed
    yield _better(
        "images per second", number(speed.images_per_s), speed.images_per_s, Better.HIGHER, "start-up included"
    )
    steady = speed.images_per_s_steady
    yield _better("once warm", number(steady), steady, Better.HIGHER, "between the first and the last engine window")
    yield _better("per engine", number(speed.images_per_s_per_actor), speed.images_per_s_per_actor, Better.HIGHER)
    yield _better("tokens per second", number(speed.tokens_per_s), speed.tokens_per_s, Better.HIGHER)
    yield Fact(
        "tokens per image",
        number(run.tokens.mean),
        f"p50 {count(run.tokens.p50)}, p99 {count(run.tokens.p99)}",
        run.tokens.mean,
    )
    yield _better("wall time", seconds(speed.wall_s), speed.wall_s, Better.LOWER)
    yield Fact(
        "engines", count(speed.num_actors), ", ".join(run.identity.devices) or "device unknown", speed.num_actors
    )
    yield _higher_share("slots in use", speed.occupancy, "mean while busy")
    yield Fact(
        "decoder's share of the work",
        share(speed.decoder_share),
        "the most that early exit could ever save",
        speed.decoder_share,
    )
    yield Fact("attention caches", size(speed.kv_cache_bytes), "per engine", speed.kv_cache_bytes)


def _latency(run: RunNumbers) -> Iterator[Fact]:
    whole, first = run.latency["e2e_s"], run.latency["ttft_s"]
    for name in ("p50", "p90", "p99"):
        value = getattr(whole, name)
        yield _better(name, seconds(value), value, Better.LOWER)
    yield _better("first token, p50", seconds(first.p50), first.p50, Better.LOWER)


def _exits(run: RunNumbers) -> Iterator[Fact]:
    exits, full = run.exits, run.against_full_depth
    saved = time_saved(run)
    for label, saving in (("time saved against full depth", saved.device), ("decoder time saved", saved.decoder)):
        estimate = saving.is_estimate
        yield Fact(label, saving.text, saving.note, saving.value, Better.HIGHER, is_share=True, is_estimate=estimate)
    left, computed = (_of_layers(depth, exits.num_layers) for depth in (exits.mean_depth, exits.computed_depth))
    yield _better("mean depth", left, exits.mean_depth, Better.LOWER, f"layer a token leaves at; computed: {computed}")
    note = "a token, earlier ones that catch up with a deep one included"
    yield _better("layers computed", computed, exits.computed_depth, Better.LOWER, note)
    yield _higher_share("layers not computed", exits.layers_saved, "of those of full depth; that is not time")
    if is_full_depth(run):
        yield Fact("texts equal to full depth", "all", "this run is the full depth")
    elif full is None:
        yield _higher_share("texts equal to full depth", None, MEASURE, NOT_MEASURED)
    else:
        yield _higher_share("layers not computed, same rows", full.layers_saved, "of full depth's", NOT_MEASURED)
        yield _higher_share("texts equal to full depth", full.equal_texts, interval_of(full))
        if full.equal_tokens is not None:
            yield _higher_share("tokens equal to full depth", full.equal_tokens, "at equal positions")
    forced = run.speed.involuntary_exits
    yield _better("tokens forced out by batching", count(forced), forced, Better.LOWER)


def _audit(run: RunNumbers) -> Iterator[Fact]:
    audit = run.audit
    if audit is None:
        return
    promise = audit.promise
    if promise is not None:
        yield Fact("promised", f"at most {share(promise.risk)}", promised_in_words(promise))
    interval = "" if audit.low is None else f"{share(audit.low)} to {share(audit.high)} (95 %)"
    yield _better("observed", share(audit.mean_loss), audit.mean_loss, Better.LOWER, interval)
    yield Fact("images audited", count(audit.images), f"{share(audit.fraction)} of all, by a hash of their ids")
    if promise is not None and promise.images_to_see_double is not None:
        note = f"about {count(promise.images_to_see_double)} in all on average, for {share(2 * promise.risk)}"
        yield Fact("more images to see a rate twice as bad", count(promise.images_missing), note)
    if promise is not None and promise.alarm is None:
        bet = f"a bet against the promise is worth {number(promise.wealth)} times its stake"
        yield Fact("alarm", "none", f"{bet}, {number(promise.alarm_wealth)} would raise it")
    elif promise is not None and promise.alarm is not None:
        yield Fact(
            "alarm", f"after {count(promise.alarm['images'])} audited images", "the promise is broken, see warnings"
        )
        if promise.on_broken_promise == "full_depth":
            before, since = count(promise.alarm["rows"]), count(audit.rows_after_fallback)
            note = (
                f"{before} rows were done by then; {count(audit.images_after_fallback)} images audited since, none lost"
            )
            yield Fact("rows at full depth since", since, note)
    note = f"{share(audit.device_share)} of the engines' busy time"
    yield _better("device time of the audit", seconds(audit.device_s), audit.device_s, Better.LOWER, note)


def promised_in_words(promise: Promise) -> str:
    """Return what the promise is about, and how sure it is."""
    sure = "in expectation" if promise.level is None else f"with probability {promise.level:g}"
    return (
        f"mean loss of an image ({promise.loss.replace('_', ' ')}), {sure}; {share(promise.observed)} when calibrated"
    )


def _of_layers(depth: float | None, num_layers: int | None) -> str:
    return UNKNOWN if depth is None else f"{number(depth)} of {count(num_layers)}"


def interval_of(comparison: Comparison) -> str:
    return f"{share(comparison.equal_low)} to {share(comparison.equal_high)} with 95 % confidence"


def _quality(run: RunNumbers) -> Iterator[Fact]:
    if run.quality is None:
        return
    for score in run.quality.scores:
        rows = f"{count(score.num_rows)} {score.kind.value}s"
        interval = "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f} (95 %)"
        note = ", ".join(part for part in (rows, interval, score.note) if part)
        yield Fact(f"{score.name} ({score.kind.value}s)", f"{score.value:.3f}", note, score.value, Better.HIGHER)


def _better(label: str, text: str, value: float | None, better: Better, note: str = "") -> Fact:
    return Fact(label, text, note, value, better)


def _higher_share(label: str, value: float | None, note: str = "", unknown: str = UNKNOWN) -> Fact:
    return Fact(label, unknown if value is None else share(value), note, value, Better.HIGHER, is_share=True)


# fmt: off
_SECTIONS: tuple[tuple[str, str, str, Callable[[RunNumbers], Iterator[Fact]]], ...] = (
    ("outcome", "Outcome",    "What was read, what came out of it, and whether the counts agree.",        _outcome),
    ("cost",    "Cost",       "Money and device time; rows that are done pay for those that failed.",     _cost),
    ("speed",   "Speed",      "How fast rows went through, and what the engines did meanwhile.",          _speed),
    ("latency", "Latency",    "From entering the engine to the last token, waiting for a slot included.", _latency),
    ("exits",   "Early exit", "The time that leaving early saved, the depth tokens left at, what changed.", _exits),
    ("audit",   "Audit",      "Some images at full depth too: what leaving early changed, what was promised.", _audit),
    ("quality", "Quality",    "A fair sample of the texts against the references in the source.",         _quality),
)
# fmt: on

"""A checkpoint and a source -> a proposal: ask every layer about full depth's texts, measure costs, search."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone

import torch

from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint, load_checkpoint
from actors.model.weights import with_weights
from actors.training.exits.asked import Asked, ask, targets_of
from actors.training.exits.choice import Choice, Plan, Rows
from actors.training.exits.every_layer import open_every_layer
from actors.training.exits.measure import FULL, Measured, leaving_at, measure, repeated, timed
from actors.training.exits.proposal import Checked, LayerFacts, Proposal
from actors.training.rows.row_source import RowSource
from conf.engine import EngineConfig
from conf.errors import UserError
from conf.exits import ExitsConfig
from conf.resolve import exits_that_can_fire
from pipeline.output.run_record import cpu_model

_ALONE_TEXTS, _TEXTS_PER_SLOT = 12, 5  # that costs are measured on
_SHOWN = 5  # sets in the table


def propose(config: ExitsConfig, engine: EngineConfig, report: Callable[[str], None]) -> Proposal:
    """Return the proposal; `engine` is the configuration's with room for outputs, `report` takes lines for the user.

    UserError where the model has no layer to leave at, or the source too few rows.
    """
    torch.set_num_threads(config.num_threads)
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    loaded = load_checkpoint(config.checkpoint, device="cuda" if cuda else "cpu", dtype=getattr(torch, config.dtype))
    candidates = candidates_of(config, loaded.config.decoder.num_layers)
    source = RowSource(config, loaded.config.plan)
    asked = ask(source, targets_of(config, loaded, engine), engine)
    choose_on, report_on = asked.halves()
    opened = open_every_layer(loaded)
    by, on = choose_on.record(opened), report_on.record(opened)
    report(f"{asked.num_rows} rows of {len(asked.images)} images, {by.num_tokens + on.num_tokens} tokens recorded")

    generation = engine.generation.model_copy(update={"max_prefix_tokens": asked.longest_prefix})
    ways = {n: engine.model_copy(update={"num_slots": n, "generation": generation}) for n in (1, engine.num_slots)}
    packed = replace(opened, model=with_weights(opened.model, engine.weights))
    requests, costs = list(choose_on.requests()), []
    for slots, way in ways.items():
        report(f"measuring what decoding costs at {slots} slot{'s' if slots > 1 else ''}")
        costs.append(measure(packed, way, by.recording, config.risk, _some(requests, slots), config.rounds))
    alone, together = costs[0], costs[-1]
    choice = Choice(by, on, risk=config.risk, alone=alone, together=together, best_for=config.best_for)
    usable = [layer for layer in loaded.config.exits if layer in candidates]
    to_use = choice.best_to_use(usable, loaded.config.untrained_exits)
    return Proposal(
        checkpoint=loaded,
        config=config,
        device=torch.cuda.get_device_name() if cuda else cpu_model() or "cpu",
        date_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        num_rows=(choose_on.num_rows, report_on.num_rows),
        num_tokens=(by.num_tokens, on.num_tokens),
        left_out=source.left_out,
        layers=_layer_facts(on, loaded),
        alone=alone,
        together=together,
        table=tuple(choice.best(candidates, _SHOWN)),
        current=_current(choice, loaded),
        to_use=to_use,
        checked=tuple(
            _check(packed, way, to_use, measured, report_on, on, config.rounds)
            for way, measured in zip(ways.values(), costs, strict=True)
            if to_use.exits
        ),
    )


def candidates_of(config: ExitsConfig, num_layers: int) -> tuple[int, ...]:
    """Return the layers that may become exits; UserError where there are none."""
    if num_layers < 2:
        raise UserError(f"the decoder of {config.checkpoint!r} has one layer: there is none to leave before it")
    every = tuple(range(1, num_layers))
    if config.candidates is None:
        return every
    if not set(config.candidates) <= set(every):
        raise UserError(f"candidates must be layers from 1 to {num_layers - 1}, got {list(config.candidates)}")
    return tuple(sorted(set(config.candidates)))


def _some(requests: Sequence[Request], slots: int) -> list[Request]:
    """Return what is decoded to measure: a few texts one by one, or enough for visits to be full."""
    return list(requests[:_ALONE_TEXTS]) if slots == 1 else repeated(requests, _TEXTS_PER_SLOT * slots)


def _check(
    packed: Checkpoint, way: EngineConfig, plan: Plan, measured: Measured, asked: Asked, rows: Rows, rounds: int
) -> Checked:
    """Decode rows that nothing was chosen by with a plan and at full depth, and predict the time of those rows."""
    early = leaving_at(way, (*plan.exits, rows.num_layers), plan.thresholds)
    requests = list(asked.requests())
    passes = timed(packed, {FULL: way.at_full_depth(), "early": early}, _some(requests, way.num_slots), rounds)
    left_at = passes["early"].left_at
    assert left_at <= {*plan.exits, rows.num_layers}, f"tokens left at {sorted(left_at)}"
    same = rows.first(_ALONE_TEXTS) if way.num_slots == 1 else rows
    predicted = same.share_of_time(same.layer_N(plan.exits, plan.thresholds), plan.exits, measured)
    return Checked(way.num_slots, predicted, passes["early"].token_s / passes[FULL].token_s)


def _current(choice: Choice, checkpoint: Checkpoint) -> Plan | None:
    """Return what the checkpoint's own thresholds do; None where it has none."""
    config = checkpoint.config
    if config.thresholds is None:
        return None
    exits = exits_that_can_fire(config.exits, config.thresholds)
    own = dict(zip(config.exits, config.thresholds, strict=False))
    return choice.plan(exits, tuple(own[layer] for layer in exits))


def _layer_facts(rows: Rows, checkpoint: Checkpoint) -> tuple[LayerFacts, ...]:
    config, recording = checkpoint.config, rows.recording
    states = dict.fromkeys(config.exits, "trained") | dict.fromkeys(config.untrained_exits, "untrained")
    return tuple(
        LayerFacts(
            layer,
            states.get(layer, "no exit"),
            float(recording.confidence_NE[:, layer - 1].mean()),
            float(recording.agrees_NE[:, layer - 1].mean()),
        )
        for layer in range(1, rows.num_layers)
    )

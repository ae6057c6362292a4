"""Which layers should be exits, and the evidence for it, as CHECKPOINT/exits.json has it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.model.checkpoint import Checkpoint
from actors.training.exits.choice import Plan
from actors.training.exits.measure import Measured
from actors.training.thresholds import CLOSED, write_thresholds
from conf.errors import UserError
from conf.exits import ExitsConfig
from pipeline.source.left_out import as_dicts
from pipeline.source.plan import LeftOut

EXITS_FILE = "exits.json"


@dataclass(frozen=True)
class LayerFacts:
    """What one layer says, of the rows to report on."""

    layer: int
    state: str  # trained, untrained, or no exit of the checkpoint
    mean_confidence: float
    agrees: float  # share of all tokens that full depth says too


@dataclass(frozen=True)
class Checked:
    """What a set takes in the engine, as a share of full depth's time: predicted for the same texts, and measured."""

    num_slots: int
    predicted: float
    measured: float


@dataclass(frozen=True)
class Proposal:
    """Which layers should be exits, and why. Plans hold exits before full depth."""

    checkpoint: Checkpoint
    config: ExitsConfig
    device: str
    date_utc: str
    num_rows: tuple[int, int]  # chosen by, reported on
    num_tokens: tuple[int, int]
    left_out: tuple[LeftOut, ...]
    layers: tuple[LayerFacts, ...]
    alone: Measured
    together: Measured
    table: tuple[Plan, ...]  # the best sets of all layers, the best first
    current: Plan | None  # the checkpoint's own exits and thresholds
    to_use: Plan  # the best set of exits that the checkpoint has trained, or that agree untrained
    checked: tuple[Checked, ...]  # `to_use`, where it leaves early at all

    @property
    def chosen(self) -> Plan:
        return self.table[0]

    def guessing(self, plan: Plan) -> list[int]:
        """Return the exits of a plan that nothing has trained."""
        return [fact.layer for fact in self.layers if fact.layer in plan.exits and fact.state != "trained"]

    def as_dict(self) -> dict[str, Any]:
        """Return the evidence as JSON has it: seconds, shares of full depth's time, layers per token."""
        halves = ("chosen_by", "reported_on")
        return {
            "schema_version": 1,
            "date_utc": self.date_utc,
            "device": self.device,
            "num_threads": self.config.num_threads,
            "weights_sha256": self.checkpoint.sha256,
            "sources": list(self.config.source.paths),
            "risk": self.config.risk,
            "best_for": self.config.best_for,
            "rows": dict(zip(halves, self.num_rows, strict=True)),
            "tokens": dict(zip(halves, self.num_tokens, strict=True)),
            "left_out": as_dicts(self.left_out),
            "costs": [measured.as_dict() for measured in (self.alone, self.together)],
            "layers": [asdict(fact) for fact in self.layers],
            "table": [asdict(plan) for plan in self.table],
            "current": None if self.current is None else asdict(self.current),
            "chosen": asdict(self.chosen),
            "to_use": asdict(self.to_use),
            "checked": [asdict(each) for each in self.checked],
        }


def write_evidence(proposal: Proposal, folder: Path, *, written: bool) -> Path:
    """Write the evidence beside the weights; `written`: whether thresholds were. UserError where nothing can be."""
    path = folder / EXITS_FILE
    try:
        path.write_text(json.dumps({**proposal.as_dict(), "thresholds_written": written}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from None
    return path


def write_exits(proposal: Proposal, folder: Path) -> Path:
    """Put the thresholds of `to_use` into the checkpoint's configuration, with which all other exits are closed."""
    plan = proposal.to_use
    assert plan.exits, "there is nothing to write"
    chosen = dict(zip(plan.exits, plan.thresholds, strict=True))
    exits = proposal.checkpoint.config.exits[:-1]
    return write_thresholds(proposal.checkpoint, folder, tuple(chosen.get(layer, CLOSED) for layer in exits))

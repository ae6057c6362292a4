"""A configuration -> the cells to measure. Pure Python."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from conf.bench import BenchConfig, BenchModel, Distribution
from conf.errors import UserError
from jobs.bench.engine.variants import FULL, VARIANTS

OWN_LIMIT = 64  # most output tokens where the checkpoint ends its outputs itself


@dataclass(frozen=True)
class Cell:
    """What is measured side by side: one model, one workload, one number of slots, some variants."""

    model: BenchModel
    distribution: Distribution
    encoder: str  # run | replayed
    slots: int
    length: int | None  # output tokens; None: as long as the model makes them
    variants: tuple[str, ...]
    rounds: int
    num_sequences: int

    @property
    def key(self) -> tuple[object, ...]:
        return (self.model, self.distribution, self.encoder, self.slots, self.length)

    @property
    def title(self) -> str:
        return title(self.model.value, self.distribution.value, self.length, self.slots, self.encoder)


def title(
    model: str, distribution: str, length: int | None, slots: int, encoder: str, dtype: str = "float32"
) -> str:  # fmt: skip
    """Return what a cell is called, in documents too."""
    depths = "its own exits" if distribution == Distribution.OWN.value else f"{distribution} depths"
    tokens = "own lengths" if length is None else f"{length} tokens"
    replayed = ", encoder replayed" if encoder == "replayed" else ""
    return f"{model}: {depths}, {tokens}, {slots} slots{replayed}" + ("" if dtype == "float32" else f", {dtype}")


def plan(config: BenchConfig) -> list[Cell]:
    """Cells in the order of their models; two sweeps that meet in a cell share it. UserError where none is left."""
    cells: dict[tuple[object, ...], Cell] = {}
    for sweep in config.sweeps:
        for model in _kept(sweep.models, config.models):
            for distribution in _kept(sweep.distributions, config.distributions):
                own = distribution is Distribution.OWN
                if own and model is not BenchModel.SCENES:
                    continue  # random weights have no depths of their own
                for slots in _kept(sweep.slots, config.slots):
                    for length in (None,) if own else _kept(sweep.lengths, config.lengths):
                        cell = Cell(
                            model, distribution, sweep.encoder, slots, length,
                            _variants(sweep.variants, config.variants), config.rounds or sweep.rounds,
                            max(sweep.min_sequences, slots * sweep.sequences_per_slot),
                        )  # fmt: skip
                        cells[cell.key] = _merged(cells.get(cell.key), cell)
    if not cells:
        raise UserError("no sweep holds what models, distributions, slots and lengths ask for")
    order = list(BenchModel)
    return sorted(cells.values(), key=lambda cell: order.index(cell.model))


def _kept(values: Sequence, wanted: Sequence | None) -> Sequence:  # type: ignore[type-arg]
    return values if wanted is None else [value for value in values if value in wanted]


def _variants(names: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    for name in (*names, *(wanted or ())):
        if name not in VARIANTS:
            raise UserError(f"there is no variant {name!r}; choose from {', '.join(VARIANTS)}")
    kept = {FULL, *_kept(names, wanted)}
    return tuple(name for name in VARIANTS if name in kept)


def _merged(there: Cell | None, cell: Cell) -> Cell:
    if there is None:
        return cell
    together = {*there.variants, *cell.variants}
    return replace(
        there,
        variants=tuple(name for name in VARIANTS if name in together),
        rounds=max(there.rounds, cell.rounds),
        num_sequences=max(there.num_sequences, cell.num_sequences),
    )

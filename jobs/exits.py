"""`deed exits SOURCE ... --checkpoint DIR`: propose which layers should be exits, by what they cost on this device and
how often they say what full depth says.

Half of the rows are for choosing, the other half for the numbers in the table. The evidence goes to DIR/exits.json; the
checkpoint's thresholds change only with --write.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import UserError
from jobs.shared.row_arguments import add_row_arguments, row_config, say_what_is_left_out

if TYPE_CHECKING:
    from actors.training.exits.choice import Plan
    from actors.training.exits.proposal import Proposal


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed exits", description=__doc__)
    add_row_arguments(parser, "conf/exits.yaml")
    parser.add_argument("--images", type=int, metavar="N", help="images to look at (default: 200)")
    parser.add_argument("--write", action="store_true", help="put the thresholds into the checkpoint's config.json")
    options = parser.parse_args(arguments)
    if options.images is not None:
        options.set = [f"max_images={options.images}", *options.set]

    from conf.checkpoint_files import read_model_config
    from conf.exits import ExitsConfig
    from jobs.shared.converted_checkpoint import with_room_for_outputs

    config = row_config(options, ExitsConfig)
    folder = Path(config.checkpoint)
    engine = with_room_for_outputs(config.engine, read_model_config(folder), folder)

    from actors.training.exits.proposal import write_evidence, write_exits
    from actors.training.exits.propose import propose

    proposal = propose(config, engine, lambda line: print(line, flush=True))
    say_what_is_left_out(proposal.left_out, "not looked at")
    print("\n".join(lines(proposal)))
    saves = _saves(proposal, proposal.to_use)
    print(f"evidence: {write_evidence(proposal, folder, written=options.write and saves)}")
    if options.write:
        if not saves:
            raise UserError(f"no exit that {config.checkpoint!r} has saves time yet; nothing is written")
        if guessing := proposal.guessing(proposal.to_use):
            print(f"exits {guessing} are untrained; on rows that nothing was chosen by they keep the risk")
        print(f"thresholds written to {write_exits(proposal, folder)}: tokens leave at {_layers(proposal.to_use)}")
    print(f"next: {next_command(proposal, written=options.write)}")
    return 0


def lines(proposal: "Proposal") -> list[str]:
    """The tables for the terminal: what every layer says, what sets of exits would do, and what that rests on."""
    depth = proposal.checkpoint.config.decoder.num_layers
    slots = proposal.together.num_slots
    found = ["", f"{'layer':>5} {'':<9} {'sure':>6} {'= full depth':>13}"]
    found += [
        f"{fact.layer:>5} {fact.state:<9} {fact.mean_confidence:>6.1%} {fact.agrees:>13.1%}" for fact in proposal.layers
    ]
    times = f"{'time alone':>10} {f'at {slots} slots':>12}"
    found += ["", f"{'exits':<24} {'depth':>6} {'computed':>8} {'tokens =':>9} {times}  thresholds"]
    found.append(f"{'full depth':<24} {depth:>6.2f} {depth:>8.2f} {1:>9.1%} {1:>10.0%} {1:>12.0%}")
    rows = [("as it is: ", proposal.current)] if proposal.current is not None else []
    found += [_row(name, plan) for name, plan in [*rows, *(("", plan) for plan in proposal.table if plan.exits)]]
    if proposal.to_use.exits != proposal.chosen.exits and proposal.to_use.exits:
        found.append(_row("today: ", proposal.to_use))
    goal = "one sequence a visit" if proposal.config.best_for == "latency" else f"{slots} slots"
    found += ["", f"least time at {goal}, risk {proposal.config.risk:g}: {_layers(proposal.chosen)}"]
    found += [
        f"the engine at {check.num_slots} slot{'s' if check.num_slots > 1 else ''}, leaving at "
        f"{_layers(proposal.to_use)}: {check.measured:.0%} of full depth's time, {check.predicted:.0%} predicted"
        for check in proposal.checked
    ]
    if guessing := proposal.guessing(proposal.chosen):
        found.append(
            f"exits {guessing} are guesses until trained, and training moves what agrees: "
            f"deed train --set exits={_with_last(proposal.chosen, depth)}"
        )
    return found


def _row(name: str, plan: "Plan") -> str:
    thresholds = " ".join(f"{threshold:.3f}" for threshold in plan.thresholds)
    shown = name + (" ".join(map(str, plan.exits)) or "none")
    return (
        f"{shown:<24} {plan.mean_depth:>6.2f} {plan.computed_depth:>8.2f} {plan.equal_tokens:>9.1%} "
        f"{plan.time_alone:>10.0%} {plan.time_together:>12.0%}  {thresholds}".rstrip()
    )


def next_command(proposal: "Proposal", *, written: bool) -> str:
    """What to type now."""
    checkpoint, depth = proposal.config.checkpoint, proposal.checkpoint.config.decoder.num_layers
    if written:
        return f"deed caption SOURCE --checkpoint {checkpoint} --out runs/mine"
    if proposal.guessing(proposal.chosen):
        exits = _with_last(proposal.chosen, depth)
        return f"deed train SOURCE --checkpoint {checkpoint} --out runs/trained --set exits={exits}"
    if _saves(proposal, proposal.to_use):
        return "the same command with --write"
    return f"deed caption SOURCE --checkpoint {checkpoint} --out runs/mine --set engine.schedule=full"


def _saves(proposal: "Proposal", plan: "Plan") -> bool:
    latency = proposal.config.best_for == "latency"
    return bool(plan.exits) and (plan.time_alone if latency else plan.time_together) < 1


def _layers(plan: "Plan") -> str:
    return "layers " + ", ".join(map(str, plan.exits)) if plan.exits else "full depth alone"


def _with_last(plan: "Plan", depth: int) -> str:
    return "[" + ",".join(map(str, (*plan.exits, depth))) + "]"

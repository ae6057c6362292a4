"""`deed bench gates`: how well every gate predicts that an exit's token is wrong, that is, not what full depth says.

Rows come from any source; full depth says its texts of them, and every exit is asked about their tokens. AUROC is the
chance that a right token is surer than a wrong one. Thresholds are set on half of the images and reported on the other
half, beside the oracle, which leaves at the earliest exit that is right, and chance, which lets as many tokens leave at
every exit, any of them. The last line of stdout is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import UserError
from jobs.shared.row_arguments import add_row_arguments, row_config, say_what_is_left_out

if TYPE_CHECKING:
    from actors.model.checkpoint import Checkpoint
    from actors.training.exits.asked import Asked
    from conf.exits import ExitsConfig

RISKS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_POINTS = 200  # of a drawn curve


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench gates", description=__doc__)
    add_row_arguments(parser, "conf/exits.yaml", "folder for gates.json and gates.svg")
    parser.add_argument("--risks", default=",".join(map(str, RISKS)), help="per exit (default: %(default)s)")
    options = parser.parse_args(arguments)
    folder, options.out = options.out, None
    risks = _numbers(options.risks)

    from conf.exits import ExitsConfig

    config = row_config(options, ExitsConfig)
    result, curves = _measured(config, risks)
    print("\n".join(lines(result)))
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "gates.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw(result, curves, Path(folder) / "gates.svg")
    print(json.dumps(result))
    return 0


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 <= number <= 1 for number in numbers):
        raise UserError(f"--risks takes shares from 0 to 1 with commas between them, got {text!r}")
    return sorted(numbers)


def _asked(config: "ExitsConfig") -> "tuple[Asked, Checkpoint]":
    """Return the rows with full depth's texts of them, and the checkpoint."""
    import torch

    from actors.model.checkpoint import load_checkpoint
    from actors.training.exits.asked import ask, targets_of
    from actors.training.rows.row_source import RowSource
    from actors.training.thresholds import check_exits
    from conf.checkpoint_files import read_model_config
    from jobs.shared.converted_checkpoint import with_room_for_outputs

    torch.set_num_threads(config.num_threads)
    checkpoint = load_checkpoint(config.checkpoint)
    check_exits(checkpoint.config.exits, checkpoint.config, config.checkpoint)
    source = RowSource(config, checkpoint.config.plan)
    engine = with_room_for_outputs(config.engine, read_model_config(config.checkpoint), config.checkpoint)
    asked = ask(source, targets_of(config, checkpoint, engine), engine)
    say_what_is_left_out(source.left_out, "not looked at")
    return asked, checkpoint


def _measured(config: "ExitsConfig", risks: Sequence[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what goes into the JSON, and by exit and gate the risk at every coverage, for the plot."""
    from dataclasses import asdict

    import numpy as np

    from actors.training.gates.prediction import (
        auroc,
        best_risk_coverage,
        leaving_at_risk,
        leaving_at_the_first_right,
        risk_coverage,
    )
    from actors.training.gates.recording import gates_of, record_gates

    asked, checkpoint = _asked(config)
    exits = checkpoint.config.exits
    gates = gates_of(checkpoint.model)
    chosen_by, reported_on = (
        record_gates(checkpoint.model, half.batches(checkpoint), gates) for half in asked.halves()
    )
    texts = asked.halves()[1].texts(checkpoint.config)
    agrees_NE = next(iter(reported_on.values())).agrees_NE
    result: dict[str, Any] = {
        "schema_version": 1,
        "weights_sha256": checkpoint.sha256,
        "source": list(config.source.paths),
        "rows": asked.num_rows,
        "tokens": len(agrees_NE),
        "exits": list(exits),
        "right": {layer: float(agrees_NE[:, column].mean()) for column, layer in enumerate(exits[:-1])},
        "oracle": asdict(leaving_at_the_first_right(agrees_NE, texts, exits)),
        "gates": {},
    }
    curves: dict[str, Any] = {layer: {} for layer in exits[:-1]}
    for gate, recording in reported_on.items():
        by_exit = {}
        for column, layer in enumerate(exits[:-1]):
            sure_N, right_N = recording.confidence_NE[:, column], agrees_NE[:, column]
            curve_N = risk_coverage(sure_N, right_N)
            curves[layer][gate.value], curves[layer]["oracle"] = curve_N, best_risk_coverage(right_N)
            by_exit[layer] = {"auroc": auroc(sure_N, right_N), "area_under_risk_coverage": float(np.mean(curve_N))}
        result["gates"][gate.value] = {
            "exits": by_exit,
            "at_risk": {
                f"{risk:g}": asdict(leaving_at_risk(chosen_by[gate], recording, texts, exits, risk)) for risk in risks
            },
        }
    return result, curves


def lines(result: dict[str, Any]) -> list[str]:
    """Return the tables for the terminal."""
    exits = list(result["right"])
    found = [f"{result['rows']} rows, {result['tokens']} tokens to report on, exits {result['exits']}", ""]
    found.append(f"{'AUROC of a right token':<24}" + "".join(f"{f'exit {layer}':>9}" for layer in exits))
    for name, gate in result["gates"].items():
        found.append(f"{name:<24}" + "".join(f"{gate['exits'][layer]['auroc']:>9.3f}" for layer in exits))
    found.append(f"{'right without a gate':<24}" + "".join(f"{result['right'][layer]:>9.1%}" for layer in exits))
    found += ["", f"{'':<24} {'depth':>6} {'computed':>8} {'wrong':>7} {'at random':>9}"]
    found.append(_leaving("oracle", result["oracle"]))
    for name, gate in result["gates"].items():
        found += [_leaving(f"{name}, risk {risk}", leaving) for risk, leaving in gate["at_risk"].items()]
    return found


def _leaving(name: str, leaving: dict[str, float]) -> str:
    return (
        f"{name:<24} {leaving['mean_depth']:>6.2f} {leaving['computed_depth']:>8.2f} {leaving['wrong']:>7.2%} "
        f"{leaving['wrong_at_random']:>9.2%}"
    )


def draw(result: dict[str, Any], curves: dict[str, Any], path: Path) -> None:
    """Draw the risk at every coverage, a panel for each exit, and what depth costs in wrong tokens."""
    import matplotlib
    import numpy as np

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "gates"  # the same numbers, the same file
    columns = min(3, len(curves) + 1)
    height = -(-(len(curves) + 1) // columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(4 * columns, 3.4 * height), squeeze=False)
    for axis, (layer, by_gate) in zip(axes.flat, curves.items(), strict=False):
        for name, curve_N in by_gate.items():
            at = np.unique(np.linspace(0, len(curve_N) - 1, _POINTS).astype(int))
            style = {"color": "black", "ls": ":"} if name == "oracle" else {"ls": "--" if "diff" in name else "-"}
            axis.plot((at + 1) / len(curve_N), curve_N[at], label=name, **style)
        axis.axhline(1 - result["right"][layer], color="grey", lw=0.8, label="random")
        axis.set(title=f"exit {layer}", xlabel="share of tokens that leave", ylabel="share of them that is wrong")
        axis.set(xlim=(0, 1), ylim=(0, None))
    last, *unused = axes.flat[len(curves) :]
    for axis in unused:
        axis.set_visible(False)
    for name, gate in result["gates"].items():
        points = list(gate["at_risk"].values())
        (line,) = last.plot([p["mean_depth"] for p in points], [p["wrong"] for p in points], "o-", ms=3, label=name)
        last.plot(
            [p["mean_depth"] for p in points], [p["wrong_at_random"] for p in points], ":", color=line.get_color()
        )
    last.plot([result["oracle"]["mean_depth"]], [0], "k*", label="oracle")
    last.set(title="all exits; dotted: random, as many", xlabel="mean depth", ylabel="wrong tokens", ylim=(0, None))
    for axis in axes.flat[: len(curves) + 1]:
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

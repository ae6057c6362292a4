"""`deed bench WHAT`: measurements that can be repeated; the last line of stdout is one JSON object."""

import importlib
import sys
from collections.abc import Sequence

from conf.errors import UserError

# what -> (module with main(arguments) -> exit code, one line for the list)
BENCHES = {
    "engine":   ("jobs.bench.engine",   "the same images through every schedule, against full depth"),
    "pipeline": ("jobs.bench.pipeline", "the data plane alone, with an engine that answers at once"),
    "decoders": ("jobs.bench.decoders", "JPEG decoder libraries against what preprocessing does"),
    "exits":    ("jobs.bench.early_exit", "trained checkpoints with early exit against full depth and the library"),
    "gates":    ("jobs.bench.gates",    "how well every gate predicts that an exit's token is wrong"),
    "plans":    ("jobs.bench.image_plans", "a checkpoint's own image processing against one bilinear square"),
    "guarantee": ("jobs.bench.guarantee", "how often promises of deed calibrate are broken, over many draws"),
    "chaos":    ("jobs.bench.chaos",    "a run whose processes are killed and whose storage fails, rerun to its end"),
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {summary}" for name, (_, summary) in BENCHES.items()]
        shown = "usage: deed bench WHAT [options]\n\n" + "\n".join(lines)
        print(shown + "\n\n`deed bench WHAT --help` shows its options.", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    what, *rest = arguments
    if what not in BENCHES:
        raise UserError(f"there is no bench {what!r}; choose from {', '.join(BENCHES)}")
    return int(importlib.import_module(BENCHES[what][0]).main(rest) or 0)

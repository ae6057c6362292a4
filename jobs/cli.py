"""`deed COMMAND ...`: finds the command, turns what one sentence explains into that sentence and its exit code.

Commands are imported only when they are called, so that every --help answers at once.
"""

import importlib
import io
import sys
from collections.abc import Sequence

from conf.errors import Explained

# command -> (module:function(arguments) -> exit code, one line for the list)
COMMANDS = {
    "demo":      ("jobs.demo:main",      "caption the demo shards with the shipped checkpoint and show a summary"),
    "caption":   ("jobs.caption:main",   "caption or question every image of a source, on Ray"),
    "vqa":       ("jobs.vqa:main",       "answer questions about images: each run answers only what is new"),
    "train":     ("jobs.train:main",     "give a model exits, by labels or by its own texts; or train one anew"),
    "convert":   ("jobs.convert:main",   "turn a transformers model directory into a multi-exit checkpoint, or back"),
    "parity":    ("jobs.parity:main",    "compare a conversion with the library's own model on a few of your pictures"),
    "calibrate": ("jobs.calibrate:main", "choose the exit thresholds of a checkpoint"),
    "exits":     ("jobs.exits:main",     "propose which layers should be exits, by cost and agreement measured here"),
    "evaluate":  ("jobs.evaluate:main",  "score a checkpoint on a source that says what is right"),
    "bench":     ("jobs.bench:main",     "measure the engine or the data plane on this machine, or try to break a run"),
    "plan":      ("jobs.plan:main",      "what a run would do, how long and at what price; starts nothing"),
    "submit":    ("jobs.submit:main",    "run one of these commands on a Ray cluster and end with its exit code"),
    "status":    ("jobs.status:main",    "how far a running, dead or finished run is, and what to do next"),
    "export":    ("jobs.export:main",    "write results as caption files, WebDataset, COCO, VQA, JSONL, CSV, images"),
    "report":    ("jobs.report:main",    "turn the tables of a run into a report"),
    "scenes":    ("jobs.scenes:main",    "make the synthetic corpus that the shipped checkpoint is trained on"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 success, 1 crash, 2 a user's mistake, 3 too many errors, 4 another run holds the output, 5 the
    output takes no more, 6 another run has taken it over, 7 deed parity has found a difference, 8 deed train has made a
    model worse than it may."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that no terminal can show is no reason to stop
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"deed: unknown command {name!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module_name, _, function = COMMANDS[name][0].partition(":")
    try:
        return int(getattr(importlib.import_module(module_name), function)(rest) or 0)
    except Explained as error:
        print(f"deed {name}: {error}", file=sys.stderr)
        return error.exit_code


def usage() -> str:
    lines = [f"  {name:<10} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "usage: deed COMMAND [options]\n\n" + "\n".join(lines) + "\n\n`deed COMMAND --help` shows its options."


if __name__ == "__main__":
    sys.exit(main())

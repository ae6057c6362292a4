"""`deed vqa`: answer questions about images; each run under the same output answers only what is new."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobs.shared.job_arguments import add_source_arguments, source_config
from jobs.shared.log_modes import JobLog, LogMode, add_log_argument

if TYPE_CHECKING:
    from conf.schema import JobConfig
    from conf.vqa import VqaConfig
    from pipeline.output.lease import Lease
    from pipeline.output.storage import Storage
    from pipeline.run import CaptionerSpec
    from pipeline.vqa.ticks import Tick

SUCCESS = 0


def main(arguments: Sequence[str]) -> int:
    options = make_parser().parse_args(arguments)
    return run_ticks(vqa_config(options), log_mode=LogMode(options.log))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deed vqa", description=__doc__)
    add_source_arguments(parser, "conf/vqa.yaml")
    parser.add_argument(
        "--ask", action="append", metavar="QUESTION", help="a question about every image; may be given several times"
    )
    parser.add_argument("--questions", metavar="FILE", help="a text file or URL with one question a line")
    add_log_argument(parser)
    return parser


def vqa_config(options: argparse.Namespace) -> "VqaConfig":
    """The configuration that the parsed arguments ask for; UserError if they do not say what to read, ask or write."""
    from conf.errors import UserError
    from conf.vqa import VqaConfig

    asks = options.ask or options.questions or any(override.startswith("questions") for override in options.set)
    if not all(question.strip() for question in options.ask or ()):
        raise UserError("--ask is empty: there is no question in it")
    if options.config is None and not asks:
        raise UserError('say what to ask, for example --ask "how many people are there?", or --questions FILE')
    return source_config(options, VqaConfig, {"questions.ask": options.ask, "questions.file": options.questions})


def run_ticks(
    config: "VqaConfig",
    make_spec: "Callable[[JobConfig], CaptionerSpec] | None" = None,
    log_mode: LogMode = LogMode.PROGRESS,
) -> int:
    """Finish the tick that was interrupted, if one was, then do a new one if anything is new; gives the exit code.

    With `output.retry_errors` the failed rows of every tick are tried again first.
    """
    from conf.schema import RetryErrors
    from jobs.caption import with_checkpoint
    from pipeline.output.lease import Lease
    from pipeline.output.ledger import STATE, remove_temporaries
    from pipeline.output.settings import check_settings, content_settings, save_settings
    from pipeline.output.storage import Storage
    from pipeline.source.questions import Questions
    from pipeline.vqa.ticks import TICKS, load_ticks, plan_tick

    root, questions = Storage(config.output.path), Questions.resolve(config.questions)
    settings = content_settings(*with_checkpoint(config))
    check_settings(root, settings)  # early, so that a mistake is told at once; what counts is checked under the lease
    with Lease(root) as lease:
        root = lease.storage
        remove_temporaries(root, (STATE, TICKS))
        check_settings(root, settings)
        ticks, worst = load_ticks(root), SUCCESS
        all_again = config.output.retry_errors is not RetryErrors.NONE
        for tick in (tick for tick in ticks if all_again or not tick.is_complete(root)):
            worst = max(worst, run_tick(config, root, tick, make_spec, log_mode))
            if not tick.is_complete(root):
                return worst
        lease.check()
        if (new := plan_tick(config, questions, ticks)) is None:
            JobLog(log_mode, config.cost, config.output.path).say("deed vqa: nothing new")
        else:
            save_settings(root, settings)  # not before: a mistake in the first questions is not held on to
            new.save(root)
            worst = max(worst, run_tick(config, root, new, make_spec, log_mode))
            if not new.is_complete(root):
                return worst
            ticks.append(new)
        return max(worst, relabel_ticks(config, root, ticks, make_spec, log_mode, lease))


def run_tick(
    config: "VqaConfig",
    root: "Storage",
    tick: "Tick",
    make_spec: "Callable[[JobConfig], CaptionerSpec] | None",
    log_mode: LogMode,
) -> int:
    """Do what is left of one tick; gives the exit code."""
    from jobs.caption import run_job
    from pipeline.source.left_out import from_dicts, sentence
    from pipeline.vqa.ticks import TickReader, tick_config

    reader = TickReader.of(config, root, tick, _max_prompt_tokens(config))
    code, record = run_job(tick_config(config, tick), make_spec, reader, "deed vqa", log_mode)
    if record is not None:
        counts = record["counts"]
        log = JobLog(log_mode, config.cost, config.output.path)
        log.say(f"deed vqa: tick {tick.number}: {counts['rows_ok']} answers, {counts['rows_error']} errors")
        if said := sentence(from_dicts(record["left_out"])):
            log.say(f"deed vqa: {said}")
    return code


def relabel_ticks(
    config: "VqaConfig",
    root: "Storage",
    ticks: "Sequence[Tick]",
    make_spec: "Callable[[JobConfig], CaptionerSpec] | None",
    log_mode: LogMode,
    lease: "Lease",
) -> int:
    """Give the uncertain answers of ticks that have not been gone through yet again, at full depth; the exit code."""
    from jobs.caption import run_job
    from pipeline.vqa.relabel import (
        RelabelReader,
        due,
        load_changes,
        relabel_config,
        replace_answers,
        save_changes,
        uncertain_shards,
    )

    limit = config.relabel_below
    if limit is None:
        return SUCCESS
    worst = SUCCESS
    for tick in due(root, ticks):
        changes = load_changes(root, tick)
        if changes is None:
            shards = uncertain_shards(root, tick, limit)
            if shards:
                reader = RelabelReader.over(config, root, tick, shards, limit, _max_prompt_tokens(config))
                code, record = run_job(relabel_config(config, tick), make_spec, reader, "deed vqa", log_mode)
                worst = max(worst, code)
                if record is None:
                    return worst
            lease.check()
            changes = save_changes(root, tick, shards, limit)
        lease.check()
        replace_answers(root, tick, changes)
        JobLog(log_mode, config.cost, config.output.path).say(
            f"deed vqa: tick {tick.number}: {changes.uncertain} uncertain answers, {changes.answered} given again at "
            f"full depth, {changes.changed} changed"
        )
    return worst


def _max_prompt_tokens(config: "VqaConfig") -> int:
    from conf.checkpoint_files import read_model_config

    return read_model_config(config.model.checkpoint).encoder.max_prompt_tokens


if __name__ == "__main__":
    from jobs.cli import main as deed

    sys.exit(deed(["vqa", *sys.argv[1:]]))

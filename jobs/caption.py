"""`deed caption`: caption or question every image of a source; rerunning the same command continues it."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from jobs.shared.job_arguments import add_job_arguments, job_config
from jobs.shared.log_modes import JobLog, LogMode, add_log_argument
from jobs.shared.sidecar_arguments import add_sidecar_flag, asked_sidecars, say_what_is_missing

if TYPE_CHECKING:
    from conf.checkpoint_info import CheckpointInfo
    from conf.schema import JobConfig
    from pipeline.exports import SidecarOptions
    from pipeline.run import CaptionerSpec
    from pipeline.source.readers import Reader

SUCCESS, ROWS_FAILED = 0, 3  # too many, all of them, or those of shards that are gone


class Stopped(BaseException):
    """A signal asks us to end; what is committed stays, the rest is for the next run."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed caption", description=__doc__)
    add_job_arguments(parser)
    add_log_argument(parser)
    add_sidecar_flag(parser)
    options = parser.parse_args(arguments)
    config = job_config(options)
    sidecars = asked_sidecars(options, config)
    return run_and_summarise(config, LogMode(options.log), references=False, sidecars=sidecars)


def run_and_summarise(
    config: "JobConfig",
    log_mode: LogMode,
    *,
    references: bool = True,
    sidecars: "SidecarOptions | None" = None,
) -> int:
    """Run the job, then print its summary; with `references`, scored against those in the source, if it has any; with
    `sidecars`, captions are written beside the images."""
    code, record = run_job(config, log_mode=log_mode)
    if record is not None and sidecars is not None:
        write_sidecars(config, sidecars, log_mode)
    if record is not None and log_mode is LogMode.PROGRESS:
        from jobs.shared.summary import show_summary

        show_summary(config.output.path, references=references)
    return code


def write_sidecars(config: "JobConfig", sidecars: "SidecarOptions", log_mode: LogMode) -> None:
    from pipeline.exports import Form, Options, export
    from pipeline.exports.rows import Published

    exported = export(Published(config.output.path), Form.TXT, None, Options(sidecars=sidecars))
    say_what_is_missing(exported, "deed caption")
    JobLog(log_mode, config.cost, config.output.path).say(f"deed caption: {exported.summary}")


def run_job(
    config: "JobConfig",
    make_spec: "Callable[[JobConfig], CaptionerSpec] | None" = None,
    reader: "Reader | None" = None,
    command: str = "deed caption",
    log_mode: LogMode = LogMode.PROGRESS,
) -> tuple[int, dict[str, Any] | None]:
    """Run one captioning job; gives the exit code and, on success, run.json's content."""
    from conf.errors import Explained, OutputLost, PromiseBroken, UserError
    from conf.promise import run_warnings

    config, info = with_checkpoint(config)

    from pipeline.output.run_record import TooManyErrors
    from pipeline.run import run

    spec = (make_spec or captioner_spec)(config)
    for warning in run_warnings(config, info):
        print(f"{command}: warning: {warning}", file=sys.stderr)
    log = JobLog(log_mode, config.cost, config.output.path)
    try:
        with raise_on_signals(), log.session() as on_progress:
            record = run(config, info, spec, on_progress, reader)
        code, message = (SUCCESS, None) if record["status"] == "complete" else (ROWS_FAILED, record["message"])
        log.finished(code, record, message)
        if message is not None:
            print(f"{command}: {message}", file=sys.stderr)
        return code, record
    except TooManyErrors as error:
        code, message = ROWS_FAILED, f"stopped, {error}"
    except Stopped as stop:
        code, message = stop.exit_code, f"stopped by {stop}; {config.output.to_continue}"
    except UserError as error:
        log.finished(error.exit_code, None, str(error))
        raise
    except PromiseBroken as error:
        code, message = error.exit_code, f"stopped, {error}"
    except OutputLost as error:
        code, message = error.exit_code, f"stopped, {error}"
    except Explained as error:
        code, message = error.exit_code, f"stopped, {error}, then {config.output.to_continue}"
    log.finished(code, None, message)
    print(f"{command}: {message}", file=sys.stderr)
    return code, None


def with_checkpoint(config: "JobConfig") -> "tuple[JobConfig, CheckpointInfo]":
    """The configuration with what the checkpoint says filled in; UserError where the two do not fit."""
    from conf.checkpoint_info import read_checkpoint_info
    from conf.promise import as_guaranteed, guarantee_of, with_promise
    from conf.resolve import image_plan, resolve, rows_of_chunk
    from pipeline.images.header import check_font

    check_font(config.preprocess.header_font)
    info, guarantee = read_checkpoint_info(config.model.checkpoint), guarantee_of(config.model)
    engine, generation = as_guaranteed(config, info, guarantee), config.engine.generation
    if generation.has_texts or info.model.text.decoder_prefix:
        from actors.generation_texts import tokenized_for

        ids = tokenized_for(generation, info.model, config.model.checkpoint)
        engine = engine.model_copy(update={"generation": ids})
    engine = resolve(info.model, engine).settings.model_copy(update={"generation": generation})
    chunk_rows = rows_of_chunk(config.source, image_plan(info.model, config.preprocess))
    source = config.source.model_copy(update={"chunk_rows": chunk_rows})
    return with_promise(config.model_copy(update={"engine": engine, "source": source}), info, guarantee)


def captioner_spec(config: "JobConfig") -> "CaptionerSpec":
    """Return the real actor class with the real model; UserError where its weights are not what its config says."""
    from actors.backend import load_backend
    from actors.captioner import Captioner
    from actors.model.checkpoint import check_checkpoint
    from pipeline.run import CaptionerSpec

    check_checkpoint(config.model.checkpoint)
    num_threads = config.model.num_threads or max(1, int(config.actors.num_cpus))
    return CaptionerSpec(Captioner, partial(load_backend, config.model, config.engine, num_threads))


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one Stopped in the main thread; a second one while stopping changes nothing."""

    def stop(signal_number: int, _: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise Stopped(signal_number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from jobs.cli import main as deed

    sys.exit(deed(["caption", *sys.argv[1:]]))

"""What is done for one row around the engine, step by step; whatever a step raises costs this row and no other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from actors.backend import Backend
from actors.engine.request import Completion, FinishReason, Request
from actors.engine_thread import Outcome, RequestFailure
from pipeline.ops.duplicates import Answer
from pipeline.unexpected_errors import UNEXPECTED, describe_unexpected, one_line

Columns = dict[str, Any]


@dataclass(slots=True)
class RowWork:
    """A prepared row on its way: `columns` are those that its outcome gives."""

    position: int  # in its chunk
    row: dict[str, Any]
    pixels_HWC: npt.NDArray[Any]
    request_id: int
    prompt_ids: tuple[int, ...] = ()
    prefix_ids: tuple[int, ...] | None = None
    request: Request | None = None
    completion: Completion | None = None
    full_depth: bool = False  # the run has fallen back to it
    columns: Columns = field(default_factory=dict)


class BadPrompt(Exception):
    """The model cannot take this prompt; the text says why."""


def encode_prompt(backend: Backend, work: RowWork) -> None:
    try:
        work.prompt_ids = backend.encode_prompt(work.row["prompt"])
    except ValueError as error:
        raise BadPrompt(one_line(error)) from None


def encode_prefix(backend: Backend, work: RowWork) -> None:
    try:
        work.prefix_ids = backend.encode_prefix(work.row["prompt"])
    except ValueError as error:
        raise BadPrompt(one_line(error)) from None


def build_request(backend: Backend, work: RowWork) -> None:
    limit = work.row.get("max_new_tokens")
    work.request = Request(
        work.request_id, work.pixels_HWC, work.prompt_ids, max_new_tokens=limit, prefix_ids=work.prefix_ids,
        full_depth=work.full_depth,
    )  # fmt: skip


def decode_text(backend: Backend, work: RowWork) -> None:
    assert work.completion is not None
    work.columns["text"] = text_of(backend, work, work.completion)


def text_of(backend: Backend, work: RowWork, done: Completion) -> str:
    """Return the text of a completion of this row."""
    begun = (work.prefix_ids or ()) if backend.says_prefix else ()
    return backend.decode_tokens((*begun, *done.token_ids))


def read_fields(backend: Backend, work: RowWork) -> None:
    assert work.completion is not None
    size = (work.row["width"], work.row["height"])
    work.columns["fields"] = backend.read_fields(work.completion.token_ids, work.row["prompt"], size)


def split_tokens(backend: Backend, work: RowWork) -> None:
    assert work.completion is not None
    texts = backend.token_texts(work.completion.token_ids)
    if work.completion.finish_reason is FinishReason.EOS:
        texts.append("")
    work.columns["token_texts"] = texts


def describe(backend: Backend, work: RowWork) -> None:
    done = work.completion
    assert done is not None
    work.columns |= {
        "num_tokens": len(done.token_ids),
        "finish_reason": done.finish_reason.value,
        "mean_confidence": _mean(done.confidences),
        "min_confidence": min(done.confidences, default=None),
        "mean_depth": _mean(done.exit_layers),
        "exit_layers": done.exit_layers,
        "confidences": done.confidences,
        "token_ids": done.token_ids,
        "queue_wait_s": done.admitted_s - done.enqueued_s,
        "encode_s": done.encode_s,
        "ttft_s": done.first_token_s - done.enqueued_s,
        "decode_s": done.finished_s - done.encoded_s,
        "e2e_s": done.finished_s - done.enqueued_s,
        "device_s": done.device_s,
    }


Step = Callable[[Backend, RowWork], None]
BEFORE_ENGINE: tuple[Step, ...] = (encode_prompt, encode_prefix, build_request)
AFTER_ENGINE: tuple[Step, ...] = (decode_text, read_fields, split_tokens, describe)


def request_of(backend: Backend, work: RowWork) -> Request | RequestFailure:
    """Return what the engine is asked for this row, or why it cannot be asked."""
    failure = _take(BEFORE_ENGINE, backend, work)
    if failure is not None:
        return failure
    assert work.request is not None
    return work.request


def columns_of(backend: Backend, work: RowWork, outcome: Outcome | Answer) -> Columns:
    """Return the columns that a row gets from its outcome: those of a result, or of an error."""
    if isinstance(outcome, Answer):
        return outcome.columns
    if isinstance(outcome, RequestFailure):
        return failed_columns(work.row, outcome)
    work.completion = outcome
    failure = _take(AFTER_ENGINE, backend, work)
    return work.columns if failure is None else failed_columns(work.row, failure)


def failed_columns(row: dict[str, Any], failure: RequestFailure) -> Columns:
    message = f"{row['sample_id']}: {failure.message}"
    return {
        "stage": "engine", "error_type": failure.error_type, "message": message, "attempts": failure.attempts
    }  # fmt: skip


def _take(steps: Sequence[Step], backend: Backend, work: RowWork) -> RequestFailure | None:
    for step in steps:
        try:
            step(backend, work)
        except BadPrompt as error:
            return RequestFailure("bad_prompt", str(error), attempts=1)
        except Exception as error:
            return RequestFailure(UNEXPECTED, describe_unexpected(step.__name__, error), attempts=1)
    return None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

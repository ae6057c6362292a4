"""The exact Arrow schema of every table the job writes. Seconds and bytes; unknown is null; strings never null-typed.

One results row and one errors row never share a (sample_id, prompt_index): every input row is in exactly one of them.
The lists exit_layers, confidences and token_texts have one entry per decoding step; a final end-of-sequence step counts
as a step and its text is empty, so num_steps is num_tokens or num_tokens + 1. token_ids has one entry per token.

A column that earlier versions did not write is null in their rows (`with_columns_of`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.text import encodable

SOURCE_PREFIX = "src_"  # passthrough columns, so that no source column can collide with ours
IN_ORDER = [("row", "ascending"), ("prompt_index", "ascending")]  # of the source: what tables of a chunk are sorted by

# fmt: off
_ANSWER = [                                         # what the model said, and how sure it was
    ("text",            pa.string()),               # what it answered
    ("fields",          pa.string()),               # JSON: boxes in pixels, or named values; null: the model has none
    ("num_tokens",      pa.int32()),                # tokens of the answer, end-of-sequence not counted
    ("finish_reason",   pa.string()),               # eos, length or loop
    ("mean_confidence", pa.float32()),              # over steps, at the exit taken
    ("min_confidence",  pa.float32()),              # of the least certain step
    ("mean_depth",      pa.float32()),              # decoder layers per step
    ("exit_layers",     pa.list_(pa.uint8())),      # decoder layers of each step
    ("confidences",     pa.list_(pa.float32())),    # confidence of each step
    ("token_texts",     pa.list_(pa.string())),     # text each step added; joined they are `text`, up to outer spaces
    ("token_ids",       pa.list_(pa.int32())),      # tokens of the answer, without what it began with and the end token
]

_RESULTS = [
    ("sample_id",       pa.string()),               # shard/key, the stable identity
    ("shard",           pa.string()),               # shard name, also the file's name
    ("key",             pa.string()),               # key inside the shard
    ("prompt_index",    pa.int32()),                # which of the sample's prompts, 0 where there is one
    ("prompt",          pa.string()),               # what the model was asked
    *_ANSWER,
    ("queue_wait_s",    pa.float32()),              # from entering the engine to getting a slot
    ("encode_s",        pa.float32()),              # its share of its encoder batch
    ("ttft_s",          pa.float32()),              # from entering the engine to the first token
    ("decode_s",        pa.float32()),              # from the end of encoding to the last token
    ("e2e_s",           pa.float32()),              # from entering the engine to the last token
    ("device_s",        pa.float32()),              # share of the engine's busy time attributed to this row
    ("width",           pa.int32()),                # original image, after EXIF orientation
    ("height",          pa.int32()),
    ("sha256",          pa.string()),               # of the image file's bytes
    ("duplicate_of",    pa.string()),               # sample_id of the row whose answer was copied; null: its own answer
    ("audit_loss",      pa.float32()),              # 0 to 1, how much full depth's text differs; null: not audited
    ("audit_text",      pa.string()),               # that text
    ("audit_device_s",  pa.float32()),              # what it took of the engine's busy time, not part of device_s
    ("fallback",        pa.bool_()),                # true: at full depth, as a promise was broken; null: it was not
]

_FAILURE = [                                        # null in a row that has not failed
    ("stage",           pa.string()),               # read, preprocess or engine
    ("error_type",      pa.string()),               # a short fixed word, for counting
    ("message",         pa.string()),               # one line for a person, with what was wrong and where
    ("attempts",        pa.int32()),                # times it was tried
]

_ERRORS = [
    ("sample_id",       pa.string()),               # shard/key; the shard's name for errors of a whole shard
    ("shard",           pa.string()),
    ("key",             pa.string()),               # null for errors of a whole shard
    ("prompt_index",    pa.int32()),                # null where the sample failed before it had prompts
    ("prompt",          pa.string()),               # null likewise
    *_FAILURE,
    ("width",           pa.int32()),                # null where the header could not be read
    ("height",          pa.int32()),
]

ENGINE_STATS = pa.schema([
    ("invocation",      pa.string()),               # which start of the command
    ("actor",           pa.string()),               # which engine
    ("device",          pa.string()),               # cpu, or the GPU's name
    ("start_utc",       pa.timestamp("us", "UTC")), # of the window
    ("end_utc",         pa.timestamp("us", "UTC")),
    ("busy_s",          pa.float64()),              # engine working
    ("encode_s",        pa.float64()),              # of that, in the encoder, or waiting for it where it has a thread
    ("decode_s",        pa.float64()),              # of that, in decoder segments
    ("gate_s",          pa.float64()),              # of that, computing confidences
    ("host_s",          pa.float64()),              # of that, outside the device
    ("num_steps",       pa.int64()),                # units of engine work
    ("num_tokens",      pa.int64()),                # decoding steps, end-of-sequence included
    ("num_completed",   pa.int64()),                # requests finished
    ("occupancy",       pa.float64()),              # mean share of slots in use
    ("segment_visits",  pa.list_(pa.int64())),      # per segment: times it ran
    ("segment_rows",    pa.list_(pa.int64())),      # per segment: sequences in those runs
    ("segment_positions", pa.list_(pa.int64())),    # per segment: positions computed, pending ones included
    ("segment_s",       pa.list_(pa.float64())),    # per segment: seconds
    ("full_depth_s",    pa.float64()),              # what all segment_s would be at full depth, by samples; null: none
    ("kv_cache_bytes",  pa.int64()),                # memory of the attention caches
    ("involuntary_exits", pa.int64()),              # tokens forced out by batching; always 0
    ("overlapped_s",    pa.float64()),              # in the encoder beside the decoder, not part of busy_s
    ("num_drafted",     pa.int64()),                # lossless: tokens that early exits drafted
    ("num_accepted",    pa.int64()),                # of those, confirmed by full depth
    ("num_audited",     pa.int64()),                # gate=shortlist: its tokens checked against the whole vocabulary
    ("num_audited_same", pa.int64()),               # of those, the same token
    ("model_load_s",    pa.float64()),              # start of this actor's model; in its first window, else null
])

SUMMARY = pa.schema([                               # what travels to the driver for each committed chunk
    ("shard",           pa.string()),
    ("chunk",           pa.int32()),
    ("num_chunks",      pa.int32()),                # of the shard
    ("num_rows",        pa.int64()),
    ("num_errors",      pa.int64()),                # of those rows
    ("num_layers_run",  pa.int64()),                # decoder layers that steps left at, summed
    ("num_layers_caught_up", pa.int64()),           # layers computed where deep steps make earlier ones catch up
    ("num_steps",       pa.int64()),
    ("error_types",     pa.string()),               # JSON, "stage/error_type" -> rows
    ("actor",           pa.string()),
    ("audit",           pa.string()),               # JSON of pipeline.promise.losses.Audited; null: nothing is audited
])

_STAGING = [                                        # results and errors of one chunk in one file, plus bookkeeping
    *_RESULTS,
    *_FAILURE,                                      # stage null marks a result
    ("row",             pa.int64()),                # position in the shard
    ("num_prompts",     pa.int32()),                # rows this sample must end up with
]

_PREPARED = [                                       # what preprocessing hands to the engine, pixels beside it
    ("row",             pa.int64()),
    ("sample_id",       pa.string()),
    ("key",             pa.string()),
    ("prompt_index",    pa.int32()),
    ("num_prompts",     pa.int32()),
    ("prompt",          pa.string()),
    ("max_new_tokens",  pa.int32()),                # its own limit; null: the engine's
    ("pixel_index",     pa.int32()),                # which image of the chunk; null marks an error
    ("width",           pa.int32()),
    ("height",          pa.int32()),
    ("sha256",          pa.string()),
    *_FAILURE,                                      # attempts: at reading; null where that was not what failed
]
# fmt: on
ANSWER = tuple(name for name, _ in _ANSWER)  # what a copied row gets, and what an answer given again replaces


Passthrough = Sequence[str | pa.Field]  # what is copied from the source; a bare name is a column of text


def results_schema(passthrough: Passthrough = ()) -> pa.Schema:
    return pa.schema(_RESULTS + _source_columns(passthrough))


def errors_schema(passthrough: Passthrough = ()) -> pa.Schema:
    return pa.schema(_ERRORS + _source_columns(passthrough))


def staging_schema(passthrough: Passthrough = ()) -> pa.Schema:
    return pa.schema(_STAGING + _source_columns(passthrough))


def prepared_schema(passthrough: Passthrough = ()) -> pa.Schema:
    return pa.schema(_PREPARED + _source_columns(passthrough))


def _source_columns(passthrough: Passthrough) -> list[tuple[str, pa.DataType]]:
    fields = (pa.field(own, pa.string()) if isinstance(own, str) else own for own in passthrough)
    return [(SOURCE_PREFIX + field.name, field.type) for field in fields]


def with_columns_of(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """Return the table with every column of the schema, null where an earlier version wrote none, then its others."""
    missing = {
        field.name: pa.nulls(table.num_rows, field.type) for field in schema if field.name not in table.schema.names
    }
    if not missing:
        return table
    names = [*schema.names, *(name for name in table.schema.names if name not in schema.names)]
    columns = [missing[name] if name in missing else table[name] for name in names]
    return pa.table(columns, names).replace_schema_metadata(table.schema.metadata)


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows -> table; what a row does not have is null. A text that UTF-8 cannot hold is escaped here at the latest:
    whatever names and texts are in the rows, none of them fails."""
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except UnicodeEncodeError:
        return pa.Table.from_pylist([encodable(dict(row)) for row in rows], schema=schema)

"""The output of a captioning run at full depth, written without Ray: as much of it as training reads."""

from pathlib import Path
from typing import Any

from actors.engine.request import Completion
from actors.model.checkpoint import load_checkpoint
from actors.training.pretrained.agreement import engine_config
from actors.training.pretrained.held_out import HeldOut
from actors.training.rows.row import Row
from actors.training.rows.row_source import RowSource
from actors.training.rows.targets import Targets
from conf.pretrained import PretrainedConfig
from pipeline.output.publish import RESULTS, published_name
from pipeline.output.storage import Storage
from pipeline.tables import results_schema, to_table


def write_own_run(config: PretrainedConfig, folder: Path) -> str:
    """Write what the checkpoint says of every row of the source's first task; return the folder."""
    checkpoint = load_checkpoint(config.checkpoint)
    labelled = config.model_copy(update={"target": config.target.model_copy(update={"field": "auto"})})
    source = RowSource(config, checkpoint.config.plan)
    targets = Targets(checkpoint, labelled.all_tasks[:1], (None,), config.max_new_tokens, config.decoder_prefix)
    images = source.readable(source.places)
    rows = HeldOut.of(images, 99, checkpoint.config.plan, config.preprocess)
    said = rows.said(rows.engine(checkpoint, targets, engine_config(config, checkpoint)), targets)
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row, completion in zip(rows.rows, said, strict=True):
        by_shard.setdefault(row.shard, []).append(
            _result(row, completion, checkpoint.codec.decode(completion.token_ids))
        )
    storage = Storage(str(folder))
    for shard, results in by_shard.items():
        storage.write_table(published_name(RESULTS, shard), to_table(results, results_schema()))
    storage.write_json("run.json", {"status": "complete", "weights_sha256": checkpoint.sha256})
    return str(folder)


def _result(row: Row, completion: Completion, text: str) -> dict[str, Any]:
    return {
        "sample_id": row.sample_id, "shard": row.shard, "key": row.key, "prompt_index": row.prompt_index,
        "prompt": row.prompt, "text": text, "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason.value,
    }  # fmt: skip

"""What is learned of every row, as tokens: its labels, or what a model has said of it at full depth in a run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.generation_texts import prefix_ids_of
from actors.model.checkpoint import Checkpoint
from actors.training.rows.row import Row
from actors.training.rows.row_source import NO_TEXT
from actors.training.rows.target_runs import finished_record
from conf.engine import GenerationConfig
from conf.rows import TaskConfig
from pipeline.report.folder import RunFolder

_COLUMNS = ("shard", "key", "prompt_index", "prompt", "text", "token_ids", "finish_reason")
TOO_LONG = "prompts_too_long"  # the reason of rows that leave no room for an output
BAD_PROMPT = "bad_prompt"  # of rows whose prompt no run can ask either: ValueError of the codec
_ENDED = "eos"
Said = Mapping[tuple[str, str, int], tuple[str, tuple[int, ...]]]  # shard, key, prompt -> prompt, tokens


class Targets:
    """Tasks -> the targets of their rows. `label` is what RowSource.read takes.

    `runs` has, for each task without labels, the output of a run over the same source; None for the others.
    """

    def __init__(
        self, checkpoint: Checkpoint, tasks: Sequence[TaskConfig], runs: Sequence[str | None], max_new_tokens: int,
        decoder_prefix: str = "",
    ) -> None:  # fmt: skip
        self.checkpoint, self.max_new_tokens = checkpoint, max_new_tokens
        self.generation = GenerationConfig(decoder_prefix=decoder_prefix)
        self.leading_space = False  # whether the model begins its texts with one: pretrained/spelling.py finds out
        self.said: list[Said | None] = [None if run is None else read_said(run, checkpoint) for run in runs]
        for task, run in zip(tasks, runs, strict=True):
            assert task.target.has_labels == (run is None), "a task has labels or a run"

    def prefix_ids(self, row: Row) -> tuple[int, ...]:
        """Return what the output of a row is given to begin with."""
        return prefix_ids_of(row.prompt, self.generation, self.checkpoint.codec)

    def prompt_ids(self, row: Row) -> tuple[int, ...]:
        """Return what the encoder reads of the prompt of a row."""
        return self.checkpoint.codec.encode_prompt(row.prompt, self.checkpoint.config.encoder.max_prompt_tokens)

    def room(self, row: Row) -> int:
        """Return how long an output of the row may be, tokens; none where its prompt is too long for the model.

        ValueError where the prompt holds what no prompt may.
        """
        config, codec = self.checkpoint.config, self.checkpoint.codec
        whole = () if codec.rules.prompt == "none" else codec.encode_prompt(row.prompt)  # as a run would ask it, uncut
        if len(whole) > config.encoder.max_prompt_tokens:
            return 0
        return min(self.max_new_tokens, config.decoder.max_positions - len(self.prefix_ids(row)))

    def label(self, row: Row) -> Row | str:
        """Return the row with what may be learned of it, or why there is nothing."""
        if (problem := self.problem(row)) is not None:
            return problem
        said, room, eos = self.said[row.task], self.room(row), self.checkpoint.config.eos_id
        if said is None:
            assert row.reference is not None
            space = " " if self.leading_space else ""
            texts = [self._as_said(row, self.checkpoint.codec.encode(space + text)) for text in row.reference.texts]
            return replace(row, targets=tuple((*ids, eos)[:room] for ids in texts))
        prompt, ids = said.get((row.shard, row.key, row.prompt_index), (None, ()))
        if prompt != row.prompt or not ids:
            return NO_TEXT
        return replace(row, targets=(self._as_said(row, ids)[:room],))

    def problem(self, row: Row) -> str | None:
        """Return why nothing can be asked of the model for a row; None where something can."""
        try:
            return None if self.room(row) >= 1 else TOO_LONG
        except ValueError:
            return BAD_PROMPT

    def _as_said(self, row: Row, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens of a text with the one that an engine forces first, where it does (Processors.apply).

        It is what the decoder reads before the text, in the library's training too.
        """
        config = self.checkpoint.config
        forced = config.generation.forced_bos_id
        if forced is None or ids[:1] == (forced,) or len(config.given_ids(self.prefix_ids(row))) > 1:
            return ids
        return forced, *ids


def read_said(run: str, checkpoint: Checkpoint) -> Said:
    """Return what a run has said of its rows, end tokens included where the model ended by itself.

    Tokens are taken as they are where the run's model was this one; those of another are encoded anew from its texts.
    UserError where the folder holds no finished run.
    """
    folder, record = RunFolder(run), finished_record(run)
    same = record.get("weights_sha256") == checkpoint.sha256
    codec, eos = checkpoint.codec, checkpoint.config.eos_id
    said: dict[tuple[str, str, int], tuple[str, tuple[int, ...]]] = {}
    for name in folder.results:
        for batch in folder.batches(name, _COLUMNS):
            for row in batch.to_pylist():
                ids = tuple(row["token_ids"]) if same else codec.encode(row["text"] or "")
                ended = (eos,) if row["finish_reason"] == _ENDED else ()
                said[row["shard"], row["key"], row["prompt_index"]] = row["prompt"], (*ids, *ended)
    return said

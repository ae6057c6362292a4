"""python -m tests.integration.vqa_job ROOT STEP_S QUESTION...: `deed vqa` with the fake engine."""

import sys
from functools import partial
from pathlib import Path

from conf.vqa import VqaConfig
from jobs.vqa import run_ticks
from tests.integration.corpus import fake_spec, make_config


def vqa_config(root: Path, questions: list[str], **source: object) -> VqaConfig:
    job = make_config(root, source={"chunk_rows": 8, **source}).model_dump(mode="json")
    return VqaConfig.model_validate({**job, "questions": {"ask": questions}})


if __name__ == "__main__":
    config = vqa_config(Path(sys.argv[1]), sys.argv[3:])
    sys.exit(run_ticks(config, partial(fake_spec, step_s=float(sys.argv[2]))))

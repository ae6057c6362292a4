"""What `deed bench chaos` starts, kills and starts again: python -m jobs.bench.chaos_job IN OUT PIDS STEP_S PX ACT."""

import sys
from functools import partial


def main(source: str, out: str, pid_folder: str, step_s: float, image_size: int, act: str) -> int:
    """`act`: resume, retry (failed rows too) or overwrite."""
    from actors.captioner import Captioner
    from conf.schema import JobConfig
    from jobs.bench.null_engine import make_null_backend, null_info
    from pipeline.run import CaptionerSpec, run

    config = JobConfig.model_validate(
        {
            "source": {"paths": [f"{source}/*.tar"], "chunk_rows": 16},
            "model": {"checkpoint": "none"},
            "actors": {"num_actors": 2, "num_cpus": 0.5},
            "preprocess": {"num_cpus": 0.5},
            "output": {
                "path": out,
                "max_error_fraction": 1.0,
                "on_existing": "overwrite" if act == "overwrite" else "resume",
                "retry_errors": "all" if act == "retry" else "none",
            },
        }
    )
    backend = partial(make_null_backend, image_size, step_s=step_s, pid_folder=pid_folder)
    record = run(config, null_info(image_size), CaptionerSpec(Captioner, backend))
    print(record["counts"], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]), sys.argv[6]))

"""python -m tests.integration.fake_job ROOT STEP_S: `deed caption` with the fake engine, to be killed."""

import sys
from functools import partial
from pathlib import Path

from jobs.caption import run_job
from tests.integration.corpus import fake_spec, make_config

if __name__ == "__main__":
    root, step_s = Path(sys.argv[1]), float(sys.argv[2])
    code, record = run_job(make_config(root), partial(fake_spec, step_s=step_s, log=str(root / "executed")))
    print(code, record and record["counts"])
    sys.exit(code)

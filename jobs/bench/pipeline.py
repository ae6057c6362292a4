"""`deed bench pipeline`: the data plane with an engine that answers at once, against a plain loop over the same images.

For each number of rows: a whole run with its wall time, steady rate, peak memory and how right its forecast was. Then
a plain multiprocess loop (tar, JPEG, pixels) with as many processes as the run had CPUs; the cost of each stage in a
single process; and, from these, what one billion images would take. The last line of stdout is one JSON object.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

_IMAGE_SIZE = 224
_BILLION = 1_000_000_000
_SAMPLE_S = 0.5


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="deed bench pipeline", description=__doc__)
    parser.add_argument("--rows", default="10000", help="images of a run; several with commas, to see how it scales")
    parser.add_argument("--rows-per-shard", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side of the JPEGs (default: %(default)s)")
    parser.add_argument("--chunk-rows", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--folder", default="runs/bench-pipeline", help="working folder, emptied first")
    parser.add_argument("--keep-shards", action="store_true", help="use the shards of an earlier bench in the folder")
    options = parser.parse_args(arguments)
    sizes = sorted(int(size) for size in options.rows.split(","))
    folder = Path(options.folder).absolute()

    from jobs.bench.bench_shards import photos, write_shards

    num_shards = max(1, sizes[-1] // options.rows_per_shard)
    if not (options.keep_shards and len(list((folder / "in").glob("*.tar"))) == num_shards):
        shutil.rmtree(folder, ignore_errors=True)
        write_shards(folder / "in", num_shards, options.rows_per_shard, photos(options.size))
    shards = sorted((folder / "in").glob("*.tar"))
    shard_bytes = sum(path.stat().st_size for path in shards) / len(shards)

    runs = []
    for size in sizes:
        used = shards[: max(1, size // options.rows_per_shard)]
        # In a process of its own: what one run leaves behind is not the next one's memory.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            runs.append(process.submit(measure_run, folder, [str(path) for path in used], options.chunk_rows).result())
        print(_line(runs[-1]), flush=True)
    processes = os.cpu_count() or 1
    first = shards[: max(1, sizes[0] // options.rows_per_shard)]  # the loop has no start-up that more would hide
    loop = measure_loop([str(path) for path in first], processes)
    print(f"plain loop, {processes} processes: {loop['rows_per_s']:.0f} rows/s")
    stages = measure_stages(folder, shards[0], options.chunk_rows)
    print("one process, seconds per 1000 rows: " + ", ".join(f"{name} {1000 * s:.2f}" for name, s in stages.items()))
    best = runs[-1]
    plan = project(runs, stages, options.rows_per_shard, options.chunk_rows, shard_bytes)
    print("\n".join(plan["arithmetic"]))
    ceiling = best["steady_rows_per_s"] / loop["rows_per_s"]
    print(f"data plane / plain loop: {ceiling:.2f}")
    summary = {"schema_version": 1, "image_px": options.size, "chunk_rows": options.chunk_rows, "cpus": processes}
    result = {"runs": runs, "plain_loop": loop, "stage_s_per_row": stages, "ceiling": ceiling, "projection": plan}
    print(json.dumps({**summary, **result}))
    return 0


def measure_run(folder: Path, paths: list[str], chunk_rows: int) -> dict[str, Any]:
    """One run with the null engine; rates of the whole run and without its first quarter, in which processes start and
    fill their caches; peak memory, and its forecast after a tenth."""
    from actors.captioner import Captioner
    from conf.schema import JobConfig
    from jobs.bench.null_engine import make_null_backend, null_info
    from jobs.shared.quiet import without_ray_noise
    from pipeline.run import CaptionerSpec, run

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    config = JobConfig.model_validate(
        {
            "source": {"paths": paths, "chunk_rows": chunk_rows},
            "model": {"checkpoint": "none"},
            "actors": {"num_actors": 1, "num_cpus": 0},
            "output": {"path": str(out)},
        }
    )
    seen: list[tuple[float, float, float | None, int]] = []
    start_s = time.monotonic()
    with Memory() as memory, without_ray_noise():
        spec = CaptionerSpec(Captioner, partial(make_null_backend, _IMAGE_SIZE))
        record = run(
            config, null_info(_IMAGE_SIZE), spec,
            lambda p: seen.append((time.monotonic(), p.fraction, p.eta_s, p.num_rows)),
        )  # fmt: skip
    wall_s = time.monotonic() - start_s
    rows, counts = record["counts"]["rows_read"], record["counts"]
    assert counts["rows_ok"] == rows, f"every row must be answered: {counts}"
    warm = [entry for entry in seen if entry[3] > 0]
    quarter, last = next(entry for entry in warm if entry[3] >= rows / 4), warm[-1]
    steady_s = last[0] - quarter[0]
    tenth = next((entry for entry in warm if entry[1] >= 0.1 and entry[2]), None)
    return {
        "rows": rows,
        "wall_s": wall_s,
        "rows_per_s": rows / wall_s,
        "steady_rows_per_s": (last[3] - quarter[3]) / steady_s if steady_s > 0 else rows / wall_s,
        "mb_per_s": sum(os.path.getsize(path) for path in paths) / 1e6 / wall_s,
        "eta_after_a_tenth_over_truth": _ratio(tenth[2], last[0] - tenth[0]) if tenth else None,
        "driver_peak_bytes": memory.driver_bytes,
        "workers_peak_bytes": memory.workers_bytes,
    }


def _ratio(forecast_s: float | None, truth_s: float) -> float | None:
    return forecast_s / truth_s if forecast_s is not None and truth_s > 0 else None


class Memory:
    """Peak resident bytes of this process and of its largest Ray worker, sampled while the context lasts."""

    def __enter__(self) -> "Memory":
        self.driver_bytes = self.workers_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        from jobs.bench.chaos import ray_workers

        while not self._stop.wait(_SAMPLE_S):
            self.driver_bytes = max(self.driver_bytes, _resident(os.getpid()))
            self.workers_bytes = max(self.workers_bytes, *map(_resident, ray_workers(os.getpid())), 0)


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")  # without shared pages


def measure_loop(paths: list[str], processes: int) -> dict[str, Any]:
    """The same images, shard by shard, in a pool of processes: nothing but tar, decoding and resizing."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_warm_up, range(processes))
        start_s = time.monotonic()
        rows = sum(pool.imap_unordered(decode_shard, paths))
        wall_s = time.monotonic() - start_s
    return {"rows": rows, "processes": processes, "wall_s": wall_s, "rows_per_s": rows / wall_s}


def _warm_up(_: int) -> None:
    import pipeline.images.decode  # noqa: F401


def decode_shard(path: str) -> int:
    import tarfile

    from conf.image_plan import ImagePlan
    from pipeline.images.decode import Pixels, image_to_pixels

    count = 0
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            pixels = image_to_pixels(stream.read(), plan=ImagePlan.squeeze(_IMAGE_SIZE))
            assert isinstance(pixels, Pixels)
            count += 1
    return count


def measure_stages(folder: Path, path: Path, chunk_rows: int) -> dict[str, float]:
    """Measure the seconds per row of each stage over one shard, in this process, without Ray."""
    import pyarrow as pa

    from conf.image_plan import ImagePlan
    from conf.source import PromptConfig
    from pipeline.chunk import from_ipc
    from pipeline.output.publish import publish_shard
    from pipeline.output.staging import rows_table, stage_chunk
    from pipeline.output.storage import Storage
    from pipeline.source.plan import Shard
    from pipeline.source.readers.webdataset import WebDatasetReader
    from pipeline.stages import IndexShard, PrepareChunk, shard_task

    storage, reader = Storage(str(folder / "stages")), WebDatasetReader((str(path),), fields=())
    shard = Shard("s", str(path), path.stat().st_size)
    task = pa.Table.from_pylist([shard_task(shard, ())])
    tasks, index_s = _timed(lambda: list(IndexShard(reader, storage, chunk_rows)(task)))
    plan = ImagePlan.squeeze(_IMAGE_SIZE)
    prepare = PrepareChunk(reader, PromptConfig(), None, (), plan, 64_000_000)
    chunks, prepare_s = _timed(lambda: [chunk for table in tasks for chunk in prepare(table)])
    rows = [(chunk["chunk"][0].as_py(), from_ipc(chunk["rows"][0].as_buffer()).to_pylist()) for chunk in chunks]
    done = [(chunk, [{**row, "text": "mean 1", "shard": "s"} for row in part]) for chunk, part in rows]
    _, stage_s = _timed(lambda: [stage_chunk(storage, "s", chunk, rows_table(part)) for chunk, part in done])
    publication, publish_s = _timed(lambda: publish_shard(storage, "s"))
    assert publication.counts is not None
    total = publication.counts.num_rows
    named = {"index": index_s, "read_and_decode": prepare_s, "stage": stage_s, "audit_and_publish": publish_s}
    return {name: seconds / total for name, seconds in named.items()}


def project(
    runs: list[dict[str, Any]], stages: dict[str, float], rows_per_shard: int, chunk_rows: int, shard_bytes: float
) -> dict[str, Any]:
    """Project one billion images in shards like these: files, requests, driver memory and CPU, with the arithmetic."""
    from pipeline.driver import MOST_SHARDS_A_PASS

    run, num_shards = runs[-1], _BILLION // rows_per_shard
    more_shards = (run["rows"] - runs[0]["rows"]) / rows_per_shard
    grown_bytes = (run["driver_peak_bytes"] - runs[0]["driver_peak_bytes"]) / more_shards if more_shards else None
    chunks = math.ceil(rows_per_shard / chunk_rows)
    book_bytes = measure_book()
    cpu_s = sum(stages.values())
    # index: a read and a PUT; chunk: a range GET and a PUT; publication: index and chunks read, listed and deleted,
    # a look whether results are there and whether the output is still this run's, 2 PUTs
    days = _BILLION / run["steady_rows_per_s"] / 86400
    requests = 2 + 2 * chunks + (1 + chunks) + 1 + (1 + chunks) + 2 + 2
    return {
        "images": _BILLION,
        "shards": num_shards,
        "published_files": 2 * num_shards,
        "object_store_requests": requests * num_shards,
        "source_bytes": shard_bytes * num_shards,
        "driver_book_bytes": book_bytes * num_shards,
        "driver_grown_bytes_per_shard": grown_bytes,
        "cpu_hours": cpu_s * _BILLION / 3600,
        "arithmetic": [
            f"one billion images / {rows_per_shard} per shard = {num_shards:,} shards of {shard_bytes / 1e6:.1f} MB",
            f"{num_shards:,} shards x 2 = {2 * num_shards:,} published files (results and errors)",
            f"{requests} requests per shard of {chunks} chunks x {num_shards:,} = {requests * num_shards / 1e6:,.0f} M",
            f"{book_bytes:.0f} bytes in the driver a shard x {num_shards:,} = {book_bytes * num_shards / 1e9:.1f} GB",
            "what else the driver keeps of a shard is known from runs of two sizes"
            if grown_bytes is None
            else f"{grown_bytes / 1e3:.0f} KB more at the driver's peak a shard (of these runs) x at most "
            f"{MOST_SHARDS_A_PASS:,} shards in one dataset = {grown_bytes * MOST_SHARDS_A_PASS / 1e6:.0f} MB",
            f"{1e3 * cpu_s:.2f} ms of CPU per image x one billion = {cpu_s * _BILLION / 3600:,.0f} CPU hours "
            f"(at the {run['steady_rows_per_s']:.0f} rows/s measured here: {days:,.0f} days)",
            "larger shards are fewer files: 10,000 rows per shard make a tenth of the files and of the driver's memory",
        ],
    }


def measure_book(num_shards: int = 20_000) -> float:
    """Measure the bytes of driver memory that one shard costs: its description, its ledger entry, its task."""
    import tracemalloc

    from pipeline.output.ledger import Ledger
    from pipeline.source.plan import Shard
    from pipeline.stages import shard_task

    tracemalloc.start()
    shards = [Shard(f"bench-{n:07d}", f"s3://bucket/some/folder/bench-{n:07d}.tar", 1) for n in range(num_shards)]
    ledger = Ledger(shard.name for shard in shards)
    tasks = [shard_task(shard, ()) for shard in shards]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ledger.open) == len(tasks)
    return used / num_shards


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start_s = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start_s


def _line(run: dict[str, Any]) -> str:
    eta = run["eta_after_a_tenth_over_truth"]
    return (
        f"{run['rows']} rows: {run['wall_s']:.1f} s, {run['rows_per_s']:.0f} rows/s "
        f"({run['steady_rows_per_s']:.0f} without its first quarter, {run['mb_per_s']:.1f} MB/s), "
        f"peak {run['driver_peak_bytes'] / 1e6:.0f} MB in the driver, "
        f"{run['workers_peak_bytes'] / 1e6:.0f} MB in the largest worker, "
        f"forecast after a tenth {'unknown' if eta is None else f'{eta:.2f} of the truth'}"
    )

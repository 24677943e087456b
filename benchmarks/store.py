"""The store at the paper's size: 50,000 x 50,000 masks and 50,000 x 10,000 margins, synthetic.

Written by tasks from several processes as a study would, then opened, listed, read in blocks and
checked by a process of its own, whose peak memory is told. Nothing is trained. The files are in
the page cache when they are read. A chunk is a task's rows and a store has seven arrays, so the
number of files, and with it all that lists or opens them, falls with the models a task.

    python benchmarks/store.py --quick --out store.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from mdhelpers.base.places import cores, machine
from mdhelpers.training.store import ModelStore

N_TRAIN, N_TEST, N_EPOCHS = 50_000, 10_000, 24
AIM = 2.0  # GB


@lru_cache(maxsize=1)
def noise(rows: int) -> dict[str, np.ndarray]:
    """One task's arrays; masks and margins are noise, the hardest to compress."""
    rng = np.random.default_rng(rows)
    return {
        "masks": rng.random((rows, N_TRAIN), np.float32) < 0.5,
        "margins": rng.normal(2, 3, (rows, N_TEST)).astype(np.float32),
        "accuracy": rng.random(rows, np.float32),
        "losses": rng.random((rows, N_EPOCHS), np.float32),
        "seconds": rng.random(rows, np.float32),
        "slots": np.arange(rows, dtype=np.int32),
    }


def write_tasks(path: Path, tasks: range) -> None:
    """What one training process writes, without the training."""
    store = ModelStore.open(path)
    for task in tasks:
        rows = store.task_rows(task)
        index = np.arange(rows.start, rows.stop, dtype=np.uint64)
        arrays = {k: v[: len(index)] for k, v in noise(store.rows_per_task).items()}
        arrays["margins"] = np.roll(arrays["margins"], task, axis=1)
        store.write_task(task, arrays | {"seeds": np.stack([index, index], axis=1)})


def write(path: Path, *, n_models: int, rows: int, dtype: str) -> dict:
    """Make a store and fill it from as many processes as there are cores."""
    shapes = {"n_models": n_models, "n_train": N_TRAIN, "n_test": N_TEST, "n_epochs": N_EPOCHS}
    store = ModelStore.create(path, {"data": "noise"}, shapes | {"rows": rows}, margins_dtype=dtype)
    workers = cores()
    parts = [range(worker, store.n_tasks, workers) for worker in range(workers)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(warm_up, [rows] * workers))
        start = time.perf_counter()
        list(pool.map(write_tasks, [path] * workers, parts))
        seconds = time.perf_counter() - start
    sizes = store.folder.sizes()
    size = sum(sizes.values()) / 1e9
    return {
        "models a task": rows,
        "margins": dtype,
        "models": n_models,
        "files": len(sizes),
        "GB": size,
        "models written a second": n_models / seconds,
        "MB written a second": 1e3 * size / seconds,
    }


def warm_up(rows: int) -> None:
    noise(rows)
    time.sleep(0.5)  # so that each process of the pool takes one


def read(path: Path) -> dict:
    """Seconds of each way to read a store, and this process's peak memory before and after."""
    at_rest = peak_memory()
    found: dict[str, float] = {}

    def timed(what: str, call):
        start = time.perf_counter()
        value = call()
        found[what] = time.perf_counter() - start
        return value

    store = timed("open, s", lambda: ModelStore.open(path, read_only=True))
    done = timed("list done tasks, s", store.done_tasks)
    timed("list all files, s", store.folder.sizes)
    some = timed("all x 256 margins, s", lambda: store.read_margins(columns=slice(0, 256)))
    rows = np.sort(np.random.default_rng(0).permutation(store.n_models)[:1000])
    timed("1000 x all margins, s", lambda: store.read_margins(slice(0, 1000)))
    timed("1000 scattered x all, s", lambda: store.read_margins(rows))
    packed = timed("all masks as bits, s", lambda: store.read_masks(packed=True))
    bad = timed("check every chunk, s", store.check)
    assert len(done) == store.n_tasks
    assert bad == []
    assert some.shape == (store.n_models, 256)
    assert packed.shape == (store.n_models, N_TRAIN // 8)
    del some, packed
    return found | {"GB at rest": at_rest, "GB at most": peak_memory()}


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(folder: Path, *, n_models: int, rows: int, dtype: str) -> dict:
    path = folder / f"{rows}_{dtype}.zarr"
    written = write(path, n_models=n_models, rows=rows, dtype=dtype)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return written | pool.submit(read, path).result()


def print_table(rows: list[dict]) -> None:
    for what in rows[0]:
        values = (r[what] for r in rows)
        shown = (v if isinstance(v, int | str) else f"{v:.3g}" for v in values)
        print(f"{what:26}" + "".join(f"{value:>12}" for value in shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the models")
    parser.add_argument("--folder", type=Path, help="where to write 2.5 GB, removed again")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    n_models = 5_000 if options.quick else 50_000
    print(f"{cores()} cores; {n_models} models" + (", a tenth" if options.quick else ""))
    rows = []
    for stack, dtype in ((8, "float32"), (32, "float32"), (32, "float16")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows.append(measure(Path(folder), n_models=n_models, rows=stack, dtype=dtype))
    print_table(rows)
    peak = max(r["GB at most"] for r in rows)
    what = f"peak memory of a reader of {n_models} models, GB"
    bars = [{"what": what, "value": peak, "aim": AIM, "met": peak <= AIM}]
    print(f"{what}: {peak:.2f} (aim: at most {AIM:g})")
    if options.out:
        found = {"machine": machine(), "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

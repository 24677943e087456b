"""Work of the lasso's dense engine, which is what runs on a GPU: time, products, share of the peak.

On a CUDA device: 50,000 models, 50,000 training and 10,000 test examples (synthetic), 50 penalties
with validation and refit, and fast_l1 on some of the test examples where it is installed. Without
one the same code runs at sizes that fit, its operations and steps are counted, and from these
counts follows what the large case would take on a device of a given speed: an extrapolation, and
labelled as such.

    python benchmarks/regression_gpu.py --quick --out regression_gpu.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mdhelpers.base.places import machine
from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.engines.estimators import FitOptions, fit_lasso
from mdhelpers.method.engines.lasso import Engine
from mdhelpers.method.engines.moments import Moments, PackedMasks

LARGE = (50_000, 50_000, 10_000)
WARM_UP = (200, 200, 64)
SMALL = ((500, 500, 128), (1000, 1000, 128), (2000, 2000, 128))
OPTIONS = FitOptions(n_lams=50, lam_floor_ratio=0.01, tol=1e-5)
FAST_L1_TESTS = 200
H200_TFLOPS = 67.0  # float32 without tensor cores, by the data sheet of the SXM version


def draw(n_models: int, n_train: int, n_test: int, device: str):
    """Packed masks of exactly half, and margins of which a mask explains 30%: weights in 1/rank."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = 1 / torch.arange(1.0, n_train + 1, device=device)
    weights = torch.empty(n_test, n_train, device=device)
    for row in weights:
        order = torch.randperm(n_train, generator=generator, device=device)
        signs = torch.randint(0, 2, (n_train,), generator=generator, device=device) * 2 - 1
        row.copy_((sizes * signs)[order])
    bits, signal = [], []
    for low in range(0, n_models, 1024):
        n = min(1024, n_models - low)
        noise = torch.rand(n, n_train, generator=generator, device=device)
        masks = noise < noise.median(1, keepdim=True).values
        bits.append(np.packbits(masks.cpu().numpy(), axis=1))
        signal.append((masks.float() @ weights.T).cpu())
    signal = torch.cat(signal)
    noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(1))
    margins = signal + noise * signal.std(0) * (0.7 / 0.3) ** 0.5
    return PackedMasks(np.concatenate(bits), n_train), margins.numpy()


def peak_flops(device: str, n: int = 2048) -> float:
    """Measured rate of a float32 product of n x n matrices, in operations a second."""
    left = torch.randn(n, n, device=device)
    best = np.inf
    for _ in range(4):
        start = time.perf_counter()
        (left @ left).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def measure(size: tuple[int, int, int], device: str) -> dict:
    """Fit by the dense engine; time, memory, counted operations."""
    masks, margins = draw(*size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    moments = Moments(masks, device=device)
    start = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        fit = fit_lasso(moments, margins, OPTIONS, engine=Engine(kind="proximal"))
    seconds = time.perf_counter() - start
    n_models, n_train, n_test = size
    flops = counter.get_total_flops()
    # What does not go through G: X'y twice, scores of the validation models at each penalty.
    beside = (
        2 * 2 * n_models * n_train * n_test + OPTIONS.n_lams * 0.2 * n_models * n_train * n_test
    )
    gram = 2 * n_models * n_train**2 if device == "cuda" else 0
    row = dict(zip(("models", "training examples", "tests"), size, strict=True))
    row |= {"seconds": seconds, "operations": flops, "share of peak": flops / seconds}
    row["share of peak"] /= peak_flops(device)
    row["products with G a test"] = (flops - beside - gram) / (2 * n_train**2 * n_test)
    row["nonzero"] = float((fit.weights != 0).mean())
    if device == "cuda":
        row["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def beside_fast_l1(size: tuple[int, int, int], device: str) -> dict | None:
    """Seconds a test example by both, on a slice; None where fast_l1 cannot run."""
    masks, margins = draw(size[0], size[1], FAST_L1_TESTS, device)
    seconds = {}
    try:
        for method in ("lasso", "fast_l1"):
            start = time.perf_counter()
            fit_datamodels(masks, margins, method=method, options=OPTIONS, device=device)
            seconds[method] = (time.perf_counter() - start) / FAST_L1_TESTS
    except ValueError as error:
        print(error)
        return None
    return {"seconds": seconds, "ratio": seconds["fast_l1"] / seconds["lasso"]}


def extrapolate(rows: list[dict]) -> dict:
    """The large case from the counts of the largest that ran, at a stated speed."""
    n_models, n_train, n_test = LARGE
    products = max(row["products with G a test"] for row in rows)
    solving = products * 2 * n_train**2 * n_test
    counting = 2 * n_models * n_train**2 * 1.2  # all models, and the fitting nine tenths from them
    crossing = 2 * 2 * n_models * n_train * n_test
    scoring = OPTIONS.n_lams * 2 * 0.1 * n_models * n_train * n_test
    total, share = solving + counting + crossing + scoring, rows[-1]["share of peak"]
    return {
        "label": "An extrapolation and no measurement",
        "operations": total,
        "products": products,
        "assumed_tflops": H200_TFLOPS,
        "minutes_at_peak": total / H200_TFLOPS / 1e12 / 60,
        "minutes_at_share": total / H200_TFLOPS / 1e12 / 60 / share,
        "GB": 4 * (n_train**2 + 12 * 2048 * n_train) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = (LARGE,) if device == "cuda" and not options.quick else SMALL[: 2 + (not options.quick)]
    rows, found, bars = [], {}, []

    def tell() -> None:
        """Write what is known so far: a large run may be cut short."""
        report = {"machine": machine(), "rows": rows, "beside": found, "bars": bars}
        if options.out:
            options.out.write_text(json.dumps(report, indent=2))

    measure(WARM_UP, device)
    for size in sizes:
        rows.append(measure(size, device))
        print({k: f"{v:.4g}" for k, v in rows[-1].items()}, flush=True)
        tell()
    if device == "cuda":
        if sizes == (LARGE,):
            minutes = rows[-1]["seconds"] / 60
            bars.append({"what": "minutes", "value": minutes, "aim": 5, "met": minutes <= 5})
            tell()
        if found := beside_fast_l1(sizes[-1], device):
            ratio = found["ratio"]
            what = f"fast_l1 over ours, {sizes[-1][0]} models, {sizes[-1][1]} training images"
            bars.append({"what": what, "value": ratio, "aim": 50, "met": ratio >= 50})
    else:
        found = extrapolate(rows)
    print(json.dumps(found, indent=2))
    tell()


if __name__ == "__main__":
    main()

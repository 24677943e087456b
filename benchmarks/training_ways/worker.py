"""What the processes of the other ways share; they import no more of mdhelpers than they use."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait

import numpy as np
import torch
from torch import nn

from mdhelpers.training.algorithms import NetworkSpec

DATA: list[tuple[np.ndarray, np.ndarray]] = []  # images and labels: training's, then the test's


def start_worker(threads: int, data: list[tuple[np.ndarray, np.ndarray]]) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    DATA[:] = data


def end_with_parent() -> None:
    """End this process when its parent is gone, even if that was killed."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def train_one(train: Callable, spec: NetworkSpec, rows: np.ndarray, seed: int) -> tuple:
    """The accuracy of one model and the seconds of a core that it took."""
    start = time.process_time()
    return train(spec, rows, seed), time.process_time() - start


def matmul_rate(seconds: float = 0.4, side: int = 1024) -> float:
    """Floating-point operations in a second of one core, in fp32 matrix products."""
    a, b = torch.randn(2, side, side)
    out, n = a @ b, 0
    start = time.thread_time()
    while (taken := time.thread_time() - start) < seconds:
        torch.mm(a, b, out=out)
        n += 1
    return n * 2 * side**3 / taken


def operations(model: nn.Module, size: tuple[int, int]) -> tuple[float, float]:
    """Floating-point operations an image: of a training step, of evaluation."""
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(1, 3, *size)  # one model, since torch miscounts grouped convolutions
    with FlopCounterMode(display=False) as step:
        model(images).sum().backward()
    with FlopCounterMode(display=False) as evaluation, torch.no_grad():
        model(images)
    return step.get_total_flops(), evaluation.get_total_flops()

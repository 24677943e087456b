"""Results do not depend on the cores that there are."""

import hashlib
import threading

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from mdhelpers.analyses.neighbours import embed_rows
from mdhelpers.base.threads import one_thread, spread
from mdhelpers.clip.encoders import embed_images, embed_texts
from mdhelpers.clip.small_clip import new_encoder
from mdhelpers.data.scenes import random_scenes
from mdhelpers.method.comparison import compare
from mdhelpers.method.crossfit import cross_fitted_gaps
from mdhelpers.method.datamodels import Fitter, fit_datamodels
from mdhelpers.runs.run import Run


def digest(*arrays) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def everything() -> list[str]:
    rng, fits, given = np.random.default_rng(0), [], []
    for _ in range(2):
        masks = rng.random((300, 240)) < 0.5
        weights = rng.normal(size=(500, 240)) * (rng.random((500, 240)) < 0.1)
        margins = (masks @ weights.T + rng.normal(size=(300, 500))).astype(np.float32)
        given.append(Fitter(masks, margins, method="ridge", seed=0))
        fits.append(fit_datamodels(masks, margins, method="ridge"))
    found = compare(*fits, n_directions=4, seed=0)
    gaps = cross_fitted_gaps(*given, 300, comparison=found, n_directions=4, n_splits=1, seed=0)
    encoder, images = new_encoder(16), random_scenes(60, size=16, seed=0).images
    return [
        digest(fits[0].weights),
        digest(found.one_minus_two.directions, found.cosines),
        digest(gaps.directions.select_dtypes("number").to_numpy()),
        digest(embed_rows(fits[0].weights)),
        digest(embed_images(encoder, images), embed_texts(encoder, ["a boat", "a red ring"] * 9)),
    ]


@pytest.fixture
def threads():
    """Set the threads of torch and of BLAS, as another number of cores would."""
    before = torch.get_num_threads()

    def set_to(n: int):
        torch.set_num_threads(n)
        return threadpool_limits(n)

    yield set_to
    torch.set_num_threads(before)


def test_a_stage_computes_the_same_bits_on_any_number_of_cores(tmp_path, threads):
    results = []
    torch.manual_seed(0)
    for n in (1, 2, 3):
        with threads(n), Run("s", runs_dir=tmp_path).stage("04_pca", {}).working():
            torch.manual_seed(0)
            results.append(everything())
    assert results[0] == results[1] == results[2]


def test_one_thread_is_for_torch_and_all_libraries_and_for_a_while(threads):
    with threads(2):
        with one_thread():
            assert torch.get_num_threads() == 1
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        assert torch.get_num_threads() == 2


def test_work_that_is_spread_keeps_its_order_and_takes_one_thread_each(threads):
    seen = set()

    def work(item: int) -> tuple[int, int]:
        seen.add(threading.get_ident())
        return item, torch.get_num_threads()

    with threads(2):
        assert list(spread(work, range(40), at_once=3)) == [(i, 1) for i in range(40)]
    assert threading.get_ident() not in seen

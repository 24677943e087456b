import numpy as np
import pytest

from mdhelpers.beton import ffcv_problem, read_beton, write_beton
from mdhelpers.scenes import make_scenes


@pytest.mark.slow
@pytest.mark.skipif(bool(ffcv_problem()), reason=ffcv_problem() or "-")
@pytest.mark.filterwarnings("ignore")  # ffcv's own, of numba and torch
def test_ffcv_reads_back_the_same_pixels(tmp_path):
    split = make_scenes(n_train=30, n_test=6, seed=0).train
    images, labels = read_beton(write_beton(split, tmp_path / "train.beton"), batch_size=8)
    assert np.array_equal(images, split.images)
    assert np.array_equal(labels, split.labels)


def test_without_ffcv_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ffcv", None)
    split = make_scenes(n_train=6, n_test=6, seed=0).train
    with pytest.raises(ImportError, match="apt-get install libopencv-dev"):
        write_beton(split, tmp_path / "train.beton")

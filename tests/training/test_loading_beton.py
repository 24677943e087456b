import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mdhelpers.data.datasets import Split
from mdhelpers.data.scenes import make_scenes
from mdhelpers.training.loading import SMART_BYTES, ffcv_problem, read_beton, write_beton

needs_ffcv = pytest.mark.skipif(bool(ffcv_problem()), reason=ffcv_problem() or "-")


@pytest.fixture(scope="module")
def split() -> Split:
    return make_scenes(n_train=30, n_test=6, seed=0).train


def stored_modes(path) -> set[int]:
    """0: jpg, 1: raw; as ffcv's field writes them."""
    from ffcv.reader import Reader

    return set(Reader(str(path)).metadata["f0"]["mode"].tolist())


def stored_bytes(path) -> int:
    """What the images take, without the rest of ffcv's last page."""
    from ffcv.reader import Reader

    return int(Reader(str(path)).alloc_table["size"].sum())


@pytest.mark.slow
@needs_ffcv
@pytest.mark.filterwarnings("ignore")  # ffcv's own, of numba and torch
def test_ffcv_reads_back_the_same_pixels(tmp_path, split):
    images, labels = read_beton(write_beton(split, tmp_path / "train.beton"), batch_size=8)
    assert np.array_equal(images, split.images)
    assert np.array_equal(labels, split.labels)
    assert [file.name for file in tmp_path.iterdir()] == ["train.beton"]


@pytest.mark.slow
@needs_ffcv
@pytest.mark.filterwarnings("ignore")
def test_jpg_is_smaller_and_close(tmp_path, split):
    smooth = np.repeat(np.repeat(split.images, 8, axis=1), 8, axis=2)
    large = Split(smooth, split.labels, split.metadata)
    raw = write_beton(large, tmp_path / "raw.beton")
    jpg = write_beton(large, tmp_path / "jpg.beton", write_mode="jpg")
    assert stored_modes(raw) == {1}
    assert stored_modes(jpg) == {0}
    assert stored_bytes(jpg) < stored_bytes(raw) / 2
    images, _ = read_beton(jpg)
    difference = np.abs(images.astype(int) - smooth)
    assert 0 < difference.mean() < 6


@needs_ffcv
@pytest.mark.filterwarnings("ignore")
def test_smart_compresses_large_images_only(tmp_path, split):
    assert split.images[0].nbytes <= SMART_BYTES
    small = write_beton(split, tmp_path / "small.beton", write_mode="smart")
    big = np.zeros((4, 112, 112, 3), np.uint8)
    large = Split(big, np.arange(4), pd.DataFrame(index=range(4)))
    assert stored_modes(small) == {1}
    written = write_beton(large, tmp_path / "large.beton", write_mode="smart")
    assert stored_modes(written) == {0}


@needs_ffcv
@pytest.mark.filterwarnings("ignore")
def test_images_above_the_largest_side_are_shrunk(tmp_path, split):
    from ffcv.reader import Reader

    path = write_beton(split, tmp_path / "train.beton", max_resolution=12)
    metadata = Reader(str(path)).metadata["f0"]
    assert (metadata["height"] == 12).all()
    assert (metadata["width"] == 12).all()


def test_an_unknown_write_mode_is_refused_with_the_nearest(tmp_path, split):
    with pytest.raises(ValueError, match="unknown write_mode 'jpeg'; did you mean 'jpg'"):
        write_beton(split, tmp_path / "train.beton", write_mode="jpeg")
    with pytest.raises(ValueError, match="max_resolution is 0"):
        write_beton(split, tmp_path / "train.beton", max_resolution=0)


@pytest.mark.slow
@needs_ffcv
def test_torch_keeps_its_threads_when_ffcv_is_imported():
    code = (
        "import torch; torch.set_num_threads(3); "
        "from mdhelpers.training.loading import ffcv_problem; "
        "ffcv_problem(); import sys; assert 'ffcv' in sys.modules; print(torch.get_num_threads())"
    )
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


@pytest.mark.slow
@needs_ffcv
@pytest.mark.filterwarnings("ignore")
def test_torch_keeps_its_threads_when_a_file_is_read(tmp_path, split):
    path = write_beton(split, tmp_path / "train.beton")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        read_beton(path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_without_ffcv_the_message_says_how_to_get_it(tmp_path, monkeypatch, split):
    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(ImportError, match="apt-get install libopencv-dev"):
        write_beton(split, tmp_path / "train.beton")

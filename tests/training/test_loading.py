import itertools
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdhelpers.data.datasets import Split, save_dataset, shrunk
from mdhelpers.data.scenes import make_scenes
from mdhelpers.training import loading
from mdhelpers.training.algorithms import AugmentationSpec
from mdhelpers.training.augmentation import Augmenter
from mdhelpers.training.loading import (
    STORED_BETON,
    FFCVSource,
    MemorySource,
    ffcv_problem,
    open_source,
    write_beton,
)

needs_ffcv = pytest.mark.skipif(bool(ffcv_problem()), reason=ffcv_problem() or "-")
N = 60
ignore_ffcvs_warnings = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data():
    return make_scenes(n_train=N, n_test=6, seed=0)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    save_dataset(data, folder)
    return folder


@pytest.fixture(scope="module")
def file(data, tmp_path_factory):
    """A lossless .beton, written once."""
    return write_beton(data.train, tmp_path_factory.mktemp("beton") / "train.beton")


@pytest.fixture
def both(folder, file, monkeypatch):
    """Both sources of the same images; ffcv's chunks hold 16, so that batches cut across them."""
    monkeypatch.setattr(loading, "CHUNK_BYTES", 1)
    return open_source(folder, "memory", "cpu"), FFCVSource(file)


def asked(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, N, n))


@pytest.mark.parametrize("loader", ["memory", pytest.param("ffcv", marks=needs_ffcv)])
@ignore_ffcvs_warnings
def test_larger_images_have_files_of_their_own(data, tmp_path, loader):
    small = shrunk(data, 16)
    save_dataset(small, tmp_path)
    if loader == "ffcv":
        write_beton(small.train, tmp_path / "train.beton")
        write_beton(replace(small.train, images=small.train.stored), tmp_path / STORED_BETON)
    usual, larger = (open_source(tmp_path, loader, "cpu", stored=s) for s in (False, True))
    assert (usual.size, larger.size) == ((16, 16), data.size)
    index = asked(20)
    assert np.array_equal(larger.gather(index).numpy(), data.train.images[index.numpy()])
    assert np.array_equal(usual.gather(index).numpy(), small.train.images[index.numpy()])


def test_memory_hands_over_what_was_asked_for(data, folder):
    source = open_source(folder, "memory", "cpu")
    index, bounds = asked(50), [0, 7, 30, 50]
    assert (len(source), source.size) == (N, data.size)
    batches = list(source.epoch(index, bounds))
    assert [len(batch) for batch in batches] == [7, 23, 20]
    want = data.train.images[index.numpy()]
    assert np.array_equal(torch.cat(batches).numpy(), want)
    assert np.array_equal(source.gather(index).numpy(), want)


@pytest.mark.slow
@needs_ffcv
@ignore_ffcvs_warnings
def test_ffcv_hands_over_the_same_bits_in_the_same_order(both):
    memory, ffcv = both
    assert (len(ffcv), ffcv.size) == (len(memory), memory.size)
    for seed, bounds in enumerate([[0, 200], [0, 1, 50, 50, 117, 200], [30, 60, 90]]):
        index = asked(200, seed)
        assert len(index.unique()) < len(index)
        for got, want in zip(ffcv.epoch(index, bounds), memory.epoch(index, bounds), strict=True):
            assert torch.equal(got, want)
    assert torch.equal(ffcv.gather(index), memory.gather(index))
    assert torch.equal(ffcv.gather(index[:0]), memory.gather(index[:0]))


@pytest.mark.slow
@needs_ffcv
@ignore_ffcvs_warnings
def test_the_same_seed_gives_the_same_augmented_bits_from_both(both):
    spec = AugmentationSpec(shift=2, flip=True, crop=0.5, jitter=0.3, cutout=6)
    epochs = []
    for source in (*both, both[1]):
        augmenter = Augmenter(spec, source.size)
        rng = np.random.default_rng(5)
        draws = {k: torch.from_numpy(v) for k, v in augmenter.draw(80, rng).items()}
        bounds = [0, 32, 56, 80]
        batches = zip(source.epoch(asked(80), bounds), itertools.pairwise(bounds), strict=True)
        epochs.append(
            [
                augmenter.stacked(images, {k: v[a:b] for k, v in draws.items()}, 8)
                for images, (a, b) in batches
            ]
        )
    for memory, ffcv, again in zip(*epochs, strict=True):
        assert torch.equal(memory, ffcv)
        assert torch.equal(memory, again)


@pytest.mark.slow
@needs_ffcv
@ignore_ffcvs_warnings
def test_one_loader_serves_every_source_of_a_file(both, file):
    both[1].gather(asked(5))
    made = loading._kept_loader.cache_info().misses
    for _ in range(2):
        FFCVSource(file).gather(asked(9))
    assert loading._kept_loader.cache_info().misses == made


@pytest.mark.slow
@needs_ffcv
@ignore_ffcvs_warnings
def test_an_epoch_left_half_way_leaves_no_thread_and_the_next_one_is_whole(both):
    memory, ffcv = both
    index, bounds = asked(200), list(range(0, 201, 10))
    running = threading.active_count()
    for stop in (0, 1, 19):
        batches = ffcv.epoch(index, bounds)
        for _ in range(stop):
            next(batches)
        batches.close()
    assert threading.active_count() == running
    assert torch.equal(torch.cat(list(ffcv.epoch(index, bounds))), memory.gather(index))


@pytest.mark.slow
@needs_ffcv
@ignore_ffcvs_warnings
def test_numpys_and_torchs_global_state_stay_as_they_were(data, tmp_path):
    source = FFCVSource(write_beton(data.train, tmp_path / "train.beton"))
    np.random.seed(1)  # noqa: NPY002
    before, threads = np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    source.gather(asked(5))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@needs_ffcv
@ignore_ffcvs_warnings
@pytest.mark.parametrize("write_mode", ["raw", "jpg"])
def test_the_file_is_compared_with_the_data(data, folder, tmp_path, write_mode):
    here = shutil.copytree(folder, tmp_path / "data")
    write_beton(data.train, here / "train.beton", write_mode=write_mode)
    assert len(open_source(here, "ffcv", "cpu")) == N
    other = make_scenes(n_train=N, n_test=6, seed=1).train
    write_beton(replace(data.train, images=other.images), here / "train.beton")
    with pytest.raises(ValueError, match="other images than the data; run notebook 01"):
        open_source(here, "ffcv", "cpu")


@needs_ffcv
@ignore_ffcvs_warnings
def test_a_file_of_another_length_size_or_labels_is_refused(data, folder, tmp_path):
    here = shutil.copytree(folder, tmp_path / "data")
    fewer = replace(data.train, images=data.train.images[:20], labels=data.train.labels[:20])
    write_beton(fewer, here / "train.beton")
    with pytest.raises(ValueError, match="holds 20 images of 24 × 24 pixels, but the data are 60"):
        open_source(here, "ffcv", "cpu")
    small = replace(data.train, images=np.ascontiguousarray(data.train.images[:, :16, :16]))
    write_beton(small, here / "train.beton")
    with pytest.raises(ValueError, match="60 images of 16 × 16 pixels, but the data are 60 of 24"):
        open_source(here, "ffcv", "cpu")
    write_beton(replace(data.train, labels=data.train.labels[::-1]), here / "train.beton")
    with pytest.raises(ValueError, match="other labels than the data"):
        open_source(here, "ffcv", "cpu")


@needs_ffcv
@ignore_ffcvs_warnings
def test_a_damaged_file_is_refused(file, tmp_path):
    path, whole = tmp_path / "train.beton", file.read_bytes()
    for content in (b"", b"not a beton" * 100, whole[: len(whole) // 2], whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a complete \.beton"):
            FFCVSource(path)
    header = bytearray(whole)
    header[16:24] = bytes(8)  # as ffcv leaves it until all images are written
    path.write_bytes(header)
    with pytest.raises(ValueError, match=r"is not a complete \.beton"):
        FFCVSource(path)


@needs_ffcv
@ignore_ffcvs_warnings
def test_images_of_several_sizes_are_refused(data, tmp_path):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    class Pairs:
        def __len__(self):
            return N

        def __getitem__(self, i):
            return np.ascontiguousarray(data.train.images[i, : 10 + i % 2]), 0

    fields = {"image": RGBImageField("raw"), "label": IntField()}
    path = tmp_path / "ragged.beton"
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pairs())
    with pytest.raises(ValueError, match="images of 2 sizes"):
        FFCVSource(path)


@needs_ffcv
@ignore_ffcvs_warnings
def test_a_missing_file_says_how_to_make_it(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="write_beton: true, or train with loader: memory"):
        open_source(folder, "ffcv", "cpu")
    with pytest.raises(FileNotFoundError, match="run notebook 01_data_prep first"):
        open_source(tmp_path, "memory", "cpu")


def test_an_unknown_loader_is_refused_with_the_nearest(folder):
    with pytest.raises(ValueError, match="unknown loader 'fcv'; did you mean 'ffcv'"):
        open_source(folder, "fcv", "cpu")


@needs_ffcv
@ignore_ffcvs_warnings
def test_images_that_are_not_there_are_refused(both):
    for source in both:  # ffcv itself would read past the end of its file
        with pytest.raises(IndexError):
            source.gather(torch.tensor([3, N]))
        with pytest.raises(ValueError, match="bounds of batches must rise from 0 to at most 4"):
            source.epoch(asked(4), [0, 2, 5])
    with pytest.raises(IndexError, match="asked for images -1 to 3"):
        both[1].gather(torch.tensor([3, -1]))


@needs_ffcv
@ignore_ffcvs_warnings
def test_an_error_in_ffcvs_thread_is_raised_here(both, monkeypatch):
    from ffcv.loader.epoch_iterator import EpochIterator

    monkeypatch.setattr(EpochIterator, "run", lambda _: None)  # a thread that ends at once
    with pytest.raises(RuntimeError, match="ffcv stopped reading"):
        both[1].gather(asked(3))


def test_images_must_be_uint8():
    with pytest.raises(ValueError, match=r"must be \(n, height, width, 3\) uint8"):
        MemorySource(torch.zeros(2, 8, 8, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@needs_ffcv
@ignore_ffcvs_warnings
def test_ffcv_brings_the_same_bits_to_the_gpu(data, file):
    source = FFCVSource(file, "cuda")
    batches = torch.cat(list(source.epoch(asked(100).cuda(), [0, 33, 100])))
    assert batches.device.type == "cuda"
    assert np.array_equal(batches.cpu().numpy(), data.train.images[asked(100).numpy()])


# FFCV's files


needs_ffcv = pytest.mark.skipif(bool(ffcv_problem()), reason=ffcv_problem() or "-")


@pytest.fixture(scope="module")
def split() -> Split:
    return make_scenes(n_train=30, n_test=6, seed=0).train


def stored_modes(path) -> set[int]:
    """0: jpg, 1: raw; as ffcv's field writes them."""
    from ffcv.reader import Reader

    return set(Reader(str(path)).metadata["f0"]["mode"].tolist())


def read_beton(path):
    source = FFCVSource(path)
    return source.gather(torch.arange(len(source))).numpy(), source.labels


def stored_bytes(path) -> int:
    """What the images take, without the rest of ffcv's last page."""
    from ffcv.reader import Reader

    return int(Reader(str(path)).alloc_table["size"].sum())


@pytest.mark.slow
@needs_ffcv
@pytest.mark.filterwarnings("ignore")  # ffcv's own, of numba and torch
def test_ffcv_reads_back_the_same_pixels(tmp_path, split):
    images, labels = read_beton(write_beton(split, tmp_path / "train.beton"))
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


def test_an_unknown_write_mode_is_refused_with_the_nearest(tmp_path, split):
    with pytest.raises(ValueError, match="unknown write_mode 'jpeg'; did you mean 'jpg'"):
        write_beton(split, tmp_path / "train.beton", write_mode="jpeg")


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


def test_auto_reads_from_disk_where_images_are_large_for_the_memory(monkeypatch):
    monkeypatch.setattr(loading, "ffcv_problem", lambda: "")
    choose = loading.choose_loader
    assert choose(1e9, 8, 16e9) == choose(1e15, 8, None) == "memory"
    assert choose(1.1e9, 8, 16e9) == choose(1e12, 1, 16e9) == "ffcv"


def test_without_ffcv_large_images_are_warned_of_and_larger_ones_refused(monkeypatch):
    monkeypatch.setattr(loading, "ffcv_problem", lambda: "ffcv cannot be imported")
    with pytest.warns(UserWarning, match=r"12\.0 GB in 4 processes, and 16\.0 GB are there"):
        assert loading.choose_loader(3e9, 4, 16e9) == "memory"
    with pytest.raises(ValueError, match="ffcv cannot be imported; or give fewer workers"):
        loading.choose_loader(5e9, 4, 16e9)
    assert loading.choose_loader(1e9, 4, 16e9) == "memory"

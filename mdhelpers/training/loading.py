"""Where training images come from: a tensor in memory, or FFCV's file for what does not fit there.

Both hand over uint8 batches on the training device, in exactly the order asked for. All
augmentation follows in torch (`mdhelpers.training.augmentation`): ffcv's own ignores the seed.

For small images a tensor in memory is as fast; ``.beton``, which is written and read back here,
earns its place where images are large: `choose_loader` says when. FFCV needs Debian's
libopencv-dev, libturbojpeg0-dev and pkg-config to install.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F

from mdhelpers.base.records import written
from mdhelpers.base.specs import unknown_word
from mdhelpers.data.datasets import Split

LoaderName = Literal["memory", "ffcv"]
STORED_BETON = "train_stored.beton"
CHUNK_BYTES = 4 << 20  # ffcv holds five chunks; one of this size hides the cost of asking for it
MOST_SHARE = 0.5  # of the memory, for the images of all processes that share it
N_COMPARED = 8
LARGEST_DIFFERENCE = 8  # grey levels of a 4 × 4 thumbnail; JPEG at quality 90 changes it by 1 or 2


class MemorySource:
    """Images that lie on the training device, (n, height, width, 3) uint8."""

    def __init__(self, images: torch.Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"images must be (n, height, width, 3) uint8, got {tuple(images.shape)} "
                f"{images.dtype}"
            )
        self.images, self.device = images, images.device
        self.size = tuple(images.shape[1:3])

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        """Images ``index`` (m,) int64, duplicates allowed: (m, height, width, 3) uint8."""
        return self.images.index_select(0, index.to(self.device))

    def epoch(self, index: torch.Tensor, bounds: Sequence[int]) -> Iterator[torch.Tensor]:
        """One batch after the other: ``index[bounds[i] : bounds[i + 1]]`` for each i."""
        _check_bounds(bounds, len(index))
        index = index.to(self.device)
        return (self.gather(index[start:stop]) for start, stop in itertools.pairwise(bounds))


class FFCVSource:
    """Images of a ``.beton`` file, read and decoded by ffcv in a thread, ahead of training.

    Parameters
    ----------
    path
        A file that `write_beton` wrote. In mode ``raw`` its images are
        the data's to the bit.
    device
        Where batches go. There is one ffcv Loader a process and file, because each new one
        compiles for 1 to 16 seconds; it is kept and given new indices. It decodes with as many
        threads as torch has when it is made: set that to 1 in processes that share a machine.

    Raises
    ------
    ImportError
        When FFCV is not installed, saying how to install it.
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is not a complete ``.beton`` of images of one size.

    """

    def __init__(self, path: Path | str, device: str | torch.device = "cpu"):
        self.path, self.device = Path(path), torch.device(device)
        self.size, self.labels = read_header(self.path)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        """Images ``index`` (m,) int64, duplicates allowed: (m, height, width, 3) uint8."""
        (images,) = self.epoch(index, [0, len(index)])
        return images

    def epoch(self, index: torch.Tensor, bounds: Sequence[int]) -> Iterator[torch.Tensor]:
        """One batch after the other: ``index[bounds[i] : bounds[i + 1]]`` for each i.

        Later batches are decoded while the caller works on one. An image that a batch holds
        several times, for several models of a stack, is decoded once.
        """
        _check_bounds(bounds, len(index))
        asked = index.cpu().numpy()
        if len(asked) and not 0 <= asked.min() <= asked.max() < len(self):
            raise IndexError(
                f"asked for images {asked.min()} to {asked.max()}, but {self.path} holds "
                f"{len(self)}"
            )
        pieces = [
            np.unique(asked[start:stop], return_inverse=True)
            for start, stop in itertools.pairwise(bounds)
        ]
        return self._batches(pieces)

    def _batches(self, pieces: list) -> Iterator[torch.Tensor]:
        order = np.concatenate([unique for unique, _ in pieces]).astype(np.uint64)
        stamp, threads = self.path.stat().st_mtime_ns, torch.get_num_threads()
        loader = _kept_loader(str(self.path), self.size, threads, stamp)
        with closing(_chunks(loader, order)) as chunks:
            recut = _recut(chunks, [len(unique) for unique, _ in pieces], self.size)
            for images, (_, places) in zip(recut, pieces, strict=True):
                images = images.to(self.device, non_blocking=True)
                yield images.index_select(0, torch.from_numpy(places).to(self.device))


def are_large(n_bytes: float, n_copies: int, room: float | None) -> bool:
    """Whether images in so many processes take more than half of the memory that these share."""
    return room is not None and n_bytes * n_copies > MOST_SHARE * room


def choose_loader(n_bytes: float, n_copies: int, room: float | None) -> LoaderName:
    """What ``loader: auto`` stands for: a tensor in memory, or FFCV where images are large for it.

    Parameters
    ----------
    n_bytes
        Of the training images.
    n_copies
        Processes that share the memory, of which each has a copy.
    room
        Bytes of memory, of the machine or of the card; None where nobody knows.

    Raises
    ------
    ValueError
        Where the images do not fit and FFCV cannot be used.

    Warns
    -----
    UserWarning
        Where they fit, but take more than half.

    """
    if not are_large(n_bytes, n_copies, room):
        return "memory"
    if not (problem := ffcv_problem()):
        return "ffcv"
    taken = n_bytes * n_copies
    said = (
        f"training images take {taken / 1e9:.1f} GB in {n_copies} processes, and "
        f"{room / 1e9:.1f} GB are there. FFCV would read them from disk, but {problem}"
    )
    if taken > room:
        raise ValueError(f"{said}; or give fewer workers, or a smaller dataset.size")
    warnings.warn(said, stacklevel=2)
    return "memory"


def open_source(
    folder: Path, loader: LoaderName, device: str | torch.device, *, stored: bool = False
) -> MemorySource | FFCVSource:
    """The training images of ``folder``, as `mdhelpers.data.datasets.save_dataset` left them.

    Parameters
    ----------
    folder
        The run's ``data``; for ``ffcv`` it holds ``train.beton`` too.
    loader
        ``memory`` or ``ffcv``.
    device
        Where batches go.
    stored
        Whether the larger images are meant, which crops are cut from (``dataset.stored``).

    Raises
    ------
    FileNotFoundError
        When the images, or FFCV's file, are not there.
    ValueError
        For another loader, or a ``.beton`` that was made from other data.

    """
    if loader not in get_args(LoaderName):
        raise ValueError(unknown_word(str(loader), get_args(LoaderName), "loader"))
    name, beton = ("train_stored", STORED_BETON) if stored else ("train_images", "train.beton")
    file = folder / f"{name}.npy"
    for name in (file.name, "train_labels.npy"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"no {name} in {folder}; run notebook 01_data_prep first")
    if loader == "memory":
        return MemorySource(torch.from_numpy(np.load(file)).to(device))
    source = FFCVSource(folder / beton, device)
    images = np.load(file, mmap_mode="r")
    _check_same(source, images, np.load(folder / "train_labels.npy"))
    return source


def _check_same(source: FFCVSource, images: np.ndarray, labels: np.ndarray) -> None:
    """Refuse a file made from other images: by size, labels, and the looks of a few images."""
    again = "; run notebook 01_data_prep again with write_beton: true"
    found, expected = (len(source), *source.size), images.shape[:3]
    if found != expected:
        raise ValueError(
            f"{source.path} holds {found[0]} images of {found[1]} × {found[2]} pixels, but the "
            f"data are {expected[0]} of {expected[1]} × {expected[2]}{again}"
        )
    if not np.array_equal(source.labels, labels):
        raise ValueError(f"{source.path} has other labels than the data{again}")
    some = np.linspace(0, len(images) - 1, min(N_COMPARED, len(images))).astype(int)
    looks = [
        F.adaptive_avg_pool2d(batch.permute(0, 3, 1, 2).float(), 4)
        for batch in (source.gather(torch.from_numpy(some)).cpu(), torch.from_numpy(images[some]))
    ]
    if (looks[0] - looks[1]).abs().max() > LARGEST_DIFFERENCE:
        raise ValueError(f"{source.path} has other images than the data{again}")


def read_header(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    """The images' height and width, and the labels (n,) int64, of a ``.beton`` file."""
    if problem := ffcv_problem():
        raise ImportError(problem)
    if not path.exists():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; run notebook 01_data_prep with write_beton: true, "
            f"or train with loader: memory"
        )
    from ffcv.reader import Reader

    try:
        reader = Reader(str(path))
        images, labels = (
            reader.metadata[f"f{reader.field_names.index(name)}"] for name in ("image", "label")
        )
        # ffcv writes the address of its table last
        written = len(reader.alloc_table) if reader.header["alloc_table_ptr"] else 0
        if not 0 < written == reader.num_samples:
            raise ValueError(f"{written} of {reader.num_samples} images are there")
    except (AssertionError, IndexError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a complete .beton of images and labels ({error})"
        ) from error
    sizes = np.unique(np.stack([images["height"], images["width"]]), axis=1).T
    if len(sizes) != 1:
        raise ValueError(f"{path} holds images of {len(sizes)} sizes; resize them to one")
    height, width = sizes[0].tolist()
    return (height, width), labels.reshape(-1).astype(np.int64)


@lru_cache(maxsize=2)
def _kept_loader(path: str, size: tuple[int, int], threads: int, _stamp: int):
    """The process's one Loader of a file; ``_stamp`` makes a new one when the file changed."""
    import numba
    from ffcv.fields.decoders import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    with torch_threads_kept():
        return Loader(
            path,
            batch_size=max(16, CHUNK_BYTES // (3 * math.prod(size))),
            num_workers=min(threads, numba.config.NUMBA_NUM_THREADS),
            order=OrderOption.SEQUENTIAL,
            seed=0,  # without one, ffcv draws it from numpy's global generator
            drop_last=False,
            pipelines={"image": [SimpleRGBImageDecoder()], "label": None},
        )


def _chunks(loader, order: np.ndarray) -> Iterator[torch.Tensor]:
    """Images ``order`` in pieces of ffcv's batch size; each lasts until the next is asked for."""
    from ffcv.loader.epoch_iterator import EpochIterator

    if not len(order):
        return
    reader = EpochIterator(loader, order)  # as `iter(loader)` does, with an order of our own
    try:
        for _ in range(math.ceil(len(order) / loader.batch_size)):
            while reader.output_queue.empty():  # a plain `next` waits for ever on a dead thread
                if not reader.is_alive() and reader.output_queue.empty():
                    raise RuntimeError(f"ffcv stopped reading {loader.fname}; its error is above")
                time.sleep(1e-4)
            yield torch.from_numpy(next(reader)[0])
    finally:
        reader.terminate_event.set()
        while reader.is_alive():  # it may be waiting for room in its queue
            if not reader.output_queue.empty():
                reader.output_queue.get()
            reader.join(1e-3)


def _recut(
    chunks: Iterator[torch.Tensor], lengths: list[int], size: tuple[int, int]
) -> Iterator[torch.Tensor]:
    """The same images in batches of the lengths asked for, copied out of ffcv's buffers."""
    rest = torch.empty(0, *size, 3, dtype=torch.uint8)
    for length in lengths:
        batch = torch.empty(
            length, *size, 3, dtype=torch.uint8, pin_memory=torch.cuda.is_available()
        )
        filled = 0
        while filled < length:
            rest = rest if len(rest) else next(chunks)
            part = rest[: length - filled]
            batch[filled : filled + len(part)] = part
            rest, filled = rest[len(part) :], filled + len(part)
        yield batch


def _check_bounds(bounds: Sequence[int], n: int) -> None:
    if len(bounds) < 2 or bounds[0] < 0 or bounds[-1] > n or (np.diff(bounds) < 0).any():
        raise ValueError(
            f"bounds of batches must rise from 0 to at most {n}, the images asked for; got "
            f"{list(map(int, bounds))}"
        )


WriteMode = Literal["raw", "jpg"]
PAGE_BYTES = 1 << 23  # ffcv's own; its writer waits for ever on an image larger than a page


@contextmanager
def torch_threads_kept():
    """Undo what ffcv does to torch's thread count when it is imported or makes a Loader."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ffcv_problem() -> str:
    """Why FFCV cannot be used here, or an empty string."""
    try:
        with torch_threads_kept():
            import ffcv  # noqa: F401
    except ImportError as error:
        return (
            f"ffcv cannot be imported ({error}); install its system libraries with `apt-get "
            f"install libopencv-dev libturbojpeg0-dev pkg-config g++` and run `make` again"
        )
    return ""


class _Rows:
    """Indexed access to (image, label) pairs, as FFCV's writer asks for."""

    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int):
        return np.ascontiguousarray(self.split.images[index]), int(self.split.labels[index])


def write_beton(split: Split, path: Path, *, write_mode: WriteMode = "raw") -> Path:
    """Write images and labels to ``path``, which appears when it is complete.

    Parameters
    ----------
    split
        What to write.
    path
        The file, usually ``train.beton`` or ``test.beton``.
    write_mode
        ``raw`` keeps every bit; ``jpg`` is a tenth of the size for photographs, loses a little and
        must be decoded at each reading.

    Raises
    ------
    ImportError
        When FFCV is not installed, saying how to install it.
    ValueError
        For an unknown write mode.

    """
    if write_mode not in get_args(WriteMode):
        raise ValueError(unknown_word(str(write_mode), get_args(WriteMode), "write_mode"))
    if problem := ffcv_problem():
        raise ImportError(problem)
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    largest = int(np.prod(split.images.shape[1:]))
    page = max(PAGE_BYTES, 1 << (largest - 1).bit_length())
    fields = {"image": RGBImageField(write_mode), "label": IntField()}
    with written(path) as unfinished:
        writer = DatasetWriter(str(unfinished), fields, page_size=page, num_workers=1)
        writer.from_indexed_dataset(_Rows(split))
    return path

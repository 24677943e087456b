"""FFCV's file format for large images: write a data set to ``.beton``, read it back.

For small images a uint8 tensor in memory is as fast; ``.beton`` earns its place where images are
large. FFCV needs Debian's libopencv-dev, libturbojpeg0-dev and pkg-config to install.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from mdhelpers.datasets import Split
from mdhelpers.records import written
from mdhelpers.specs import unknown_word

WriteMode = Literal["raw", "jpg", "smart"]
SMART_BYTES = 3 * 96 * 96  # `smart` compresses images that are larger than 96 × 96
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


def write_beton(
    split: Split,
    path: Path,
    *,
    write_mode: WriteMode = "raw",
    max_resolution: int | None = None,
) -> Path:
    """Write images and labels to ``path``, which appears when it is complete.

    Parameters
    ----------
    split
        What to write.
    path
        The file, usually ``train.beton`` or ``test.beton``.
    write_mode
        ``raw`` keeps every bit; ``jpg`` is a tenth of the size for photographs, loses a little and
        must be decoded at each reading; ``smart`` is ``jpg`` for images above 96 × 96 pixels.
    max_resolution
        Shrink images whose longer side is above this many pixels. Training on such a file needs
        data of the same size: see `mdhelpers.loading.open_source`.

    Raises
    ------
    ImportError
        When FFCV is not installed, saying how to install it.
    ValueError
        For an unknown write mode or a resolution below 1.

    """
    if write_mode not in get_args(WriteMode):
        raise ValueError(unknown_word(str(write_mode), get_args(WriteMode), "write_mode"))
    if max_resolution is not None and max_resolution < 1:
        raise ValueError(f"max_resolution is {max_resolution}; give a number of pixels, or None")
    if problem := ffcv_problem():
        raise ImportError(problem)
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image = RGBImageField(write_mode, max_resolution, smart_threshold=SMART_BYTES)
    largest = int(np.prod(split.images.shape[1:]))
    page = max(PAGE_BYTES, 1 << (largest - 1).bit_length())
    fields = {"image": image, "label": IntField()}
    with written(path) as unfinished:
        writer = DatasetWriter(str(unfinished), fields, page_size=page, num_workers=1)
        writer.from_indexed_dataset(_Rows(split))
    return path


def read_beton(path: Path, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """All images (n, height, width, 3) uint8 and labels (n,) int64 of a ``.beton`` file."""
    if problem := ffcv_problem():
        raise ImportError(problem)
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    with torch_threads_kept():
        loader = Loader(
            str(path),
            batch_size=batch_size,
            num_workers=1,
            order=OrderOption.SEQUENTIAL,
            seed=0,
            drop_last=False,
            pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
        )
        batches = [(images.copy(), labels.copy()) for images, labels in loader]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    return images, labels.reshape(-1).astype(np.int64)

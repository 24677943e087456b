"""FFCV's file format for large images: write a data set to ``.beton``, read it back.

For small images a uint8 tensor in memory is as fast; ``.beton`` earns its place where images are
large. FFCV needs Debian's libopencv-dev, libturbojpeg0-dev and pkg-config to install.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdhelpers.datasets import Split


def ffcv_problem() -> str:
    """Why FFCV cannot be used here, or an empty string."""
    try:
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


def write_beton(split: Split, path: Path) -> Path:
    """Write images, losslessly, and labels to ``path``.

    Raises
    ------
    ImportError
        When FFCV is not installed, saying how to install it.

    """
    if problem := ffcv_problem():
        raise ImportError(problem)
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(_Rows(split))
    return path


def read_beton(path: Path, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """All images (n, height, width, 3) uint8 and labels (n,) int64 of a ``.beton`` file."""
    if problem := ffcv_problem():
        raise ImportError(problem)
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(path),
        batch_size=batch_size,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
    )
    batches = [(images.copy(), labels.copy()) for images, labels in loader]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    return images, labels.reshape(-1).astype(np.int64)

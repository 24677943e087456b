"""Embeddings of images and captions, kept by what they were made of.

A large CLIP takes minutes for what another step, or a page, has embedded before. The name of a kept
file is a digest of the encoder's weights and of the contents that were embedded, so that whatever
changes is embedded anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import safe_open

from mdhelpers.base.arrays import write_tensors
from mdhelpers.base.records import digest
from mdhelpers.clip.encoders import Encoder, embed_images, embed_texts, weights_digest

WORTH_KEEPING_S = 2.0  # what is made quicker than this is not kept


def embeddings(
    encoder: Encoder, images: np.ndarray, captions: list[str], *, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """`embed_images` and `embed_texts`, of which ``folder`` keeps what took long.

    Files that are damaged, or hold something else, count for nothing; where the folder cannot be
    written to, nothing is kept.

    Parameters
    ----------
    encoder
        Any CLIP.
    images
        (n, H, W, 3) uint8.
    captions
        The n_captions captions.
    folder
        Where embeddings are kept, for all runs that share it.

    Returns
    -------
    images : (n, width) float32
    texts : (n_captions, width) float32

    """
    about = [encoder.name, list(encoder.image_size), list(encoder.mean), list(encoder.std)]
    about.append(weights_digest(encoder.model.state_dict()))
    content = _content(images)
    seen_key = digest([*about, "images", list(images.shape), content])
    read_key = digest([*about, "captions", list(captions)])
    seen = _kept(folder, seen_key, len(images), lambda: embed_images(encoder, images))
    read = _kept(folder, read_key, len(captions), lambda: embed_texts(encoder, captions))
    return seen, read


def _kept(folder: Path, key: str, n: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    path = folder / f"embeddings_{key[:32]}.safetensors"
    with suppress(Exception):  # none yet, or the library's many kinds for a damaged one
        with safe_open(path, framework="numpy") as file:
            found, about = file.get_tensor("embeddings"), file.metadata()
        if about == {"key": key, "content": _content(found)} and len(found) == n:
            return found
    start = time.monotonic()
    made = make()
    if time.monotonic() - start >= WORTH_KEEPING_S:
        with suppress(Exception):  # a full disk, for which the library has kinds of its own too
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {"embeddings": made}, {"key": key, "content": _content(made)})
    return made


def _content(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()

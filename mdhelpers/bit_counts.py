"""Counts of models that saw both of two training examples, from bits, compiled.

A pair's count is the number of ones in the conjunction of two columns of bits: 64 models an
instruction, or 512 where the processor counts bits in vectors, and exact by nature. On one core it
was 20 times as fast as the product of the masks as floats.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from mdhelpers.compiled import compiled

__all__ = ["add_pairs", "pack_columns"]

_TILE = 64


@intrinsic
def _ones(_, word):
    def generate(_, builder, _signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(word), generate


def pack_columns(masks: np.ndarray, words: np.ndarray, first: int) -> None:
    """Write masks (n_models, n_train) into bits of ``words`` (n_train, n), from model ``first`` on.

    ``first`` is a multiple of 8; bits beyond the masks stay as they are.
    """
    packed = np.packbits(np.ascontiguousarray(masks.T), axis=1)
    words.view(np.uint8)[:, first // 8 : first // 8 + packed.shape[1]] = packed


@compiled(nogil=True)
def add_pairs(words, sign, counts):
    """``counts[i, j] += sign * |models in both i and j|`` for all pairs of rows of ``words``.

    Parameters
    ----------
    words : ndarray, shape (n_train, n_words), uint64
    sign : float
        1 to add models, -1 to take them away.
    counts : ndarray, shape (n_train, n_train), float32
        Symmetric; exact below 2**24.
    """
    n_train, n_words = words.shape
    for low in range(0, n_train, _TILE):
        for left in range(low, n_train, _TILE):
            for i in range(low, min(low + _TILE, n_train)):
                for j in range(max(left, i), min(left + _TILE, n_train)):
                    both = np.uint64(0)
                    for k in range(n_words):
                        both += _ones(words[i, k] & words[j, k])
                    counts[i, j] += sign * both
                    if i != j:
                        counts[j, i] = counts[i, j]

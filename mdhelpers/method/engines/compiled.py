"""What numba compiles: counts of pairs from bits, and the lasso by coordinate descent.

*Counts.* How many models saw both of two training examples is the number of ones in the conjunction
of two columns of bits: 64 models an instruction, or 512 where the processor counts bits in vectors,
and exact by nature. On one core it was 20 times as fast as the product of the masks as floats.

*The lasso on a CPU*, the engine under :mod:`mdhelpers.method.engines.lasso` where numba is
installed. One target at a time, its arrays small enough for the caches. At each penalty of the path

- the *working set* takes in the columns whose gradient, extrapolated along the path, says that they
  will have weight; their part of the Gram matrix is kept in a contiguous block of its own;
- coordinate descent on that block runs until the duality gap within the set is small;
- the full gradient is formed afresh from the weights, so that rounding does not add up along the
  path, and from it the true gap. While that is too large, the columns that violate optimality
  join the set and descent goes on, so that nothing is taken on trust.

*The cache* of what was compiled saves seconds at each start and decides nothing. An installation
that is read-only, used by someone without a home that can be written, has no place for it: then one
is made among the temporary files, and where that fails too, everything is compiled anew.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic


def compiled(**options) -> Callable:
    """`numba.njit` with these options, cached where possible."""

    def decorate(function: Callable) -> Callable:
        for place in (numba.config.CACHE_DIR, private_folder):
            try:
                numba.config.CACHE_DIR = place() if callable(place) else place
                return numba.njit(cache=True, **options)(function)
            except (RuntimeError, OSError):  # cannot cache: no place can be written
                continue
        return numba.njit(**options)(function)

    return decorate


def private_folder() -> str:
    """A folder of this user's alone among the temporary files; an OSError where there can be none.

    numba unpickles what lies in its cache, so that a folder which others can write would let them
    run code.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"mdhelpers-numba-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    others = about.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not stat.S_ISDIR(about.st_mode) or (os.name == "posix" and (about.st_uid != user or others)):
        raise OSError(f"{folder} is not this user's own")
    return str(folder)


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


class Scored(NamedTuple):
    """Models that score the penalties; of length 0 where there is nothing to choose.

    ``masks`` (n_train, n_valid), ``means`` (n_train, n_slots), ``scale`` (n_train,), ``slots``
    (n_valid,) int64, and ``targets`` (n_targets, n_valid) standardised as the fitting models'.
    """

    masks: np.ndarray
    means: np.ndarray
    scale: np.ndarray
    slots: np.ndarray
    targets: np.ndarray


class Rules(NamedTuple):
    """Where paths begin and stop.

    ``first`` is 1 where zero weights solve the first penalty, else 0. A path is left after
    ``patience`` penalties without a better error, and at the ``n_lams``-th unless its error is the
    best, but not before the index in ``reach`` (n_targets,). ``tol`` is relative to the variance.
    """

    first: int
    n_lams: int
    patience: int
    reach: np.ndarray
    tol: float
    max_sweeps: int


class Found(NamedTuple):
    """What is found for each target.

    ``weights`` (n_targets, n_train) hold the start and then the best, ``errors`` and ``gaps``
    (n_targets, n_lams) and ``index`` (n_targets,) are those of
    :class:`mdhelpers.method.engines.problem.Path`.
    """

    weights: np.ndarray
    errors: np.ndarray
    gaps: np.ndarray
    index: np.ndarray


class Target(NamedTuple):
    cross: np.ndarray
    variance: float
    lams: np.ndarray
    margins: np.ndarray
    reach: int
    weights: np.ndarray
    errors: np.ndarray
    gaps: np.ndarray


class Set(NamedTuple):
    """A working set: its columns in order of arrival, and what is known of each.

    ``past`` (2, n_past, n_train) holds weights and slopes after the last sweeps.
    """

    columns: np.ndarray
    inside: np.ndarray
    block: np.ndarray
    weights: np.ndarray
    slopes: np.ndarray
    cross: np.ndarray
    past: np.ndarray


class Gradients(NamedTuple):
    """Full gradients of the last two solutions, and room for the sums that make one."""

    now: np.ndarray
    before: np.ndarray
    sums: np.ndarray


_GROUP = 8
_PAST = 5
_ROOM = 0.7
_CHUNK = 1024
_CAUTION = 0.05
_RETRIES = 12

# All in one file, since numba's cache of a function is renewed when its own file changes only.
# Not full fastmath: infinity and NaN keep their meaning.
_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
# Inlined, so that there is one function: else the process that compiles links the helpers as they
# were compiled alone, one that reads the cache as they were within `follow`, and bits differ.
_jit = numba.njit(inline="always", **_OPTIONS)


@compiled(**_OPTIONS)
def follow(gram, cross, variance, lams, validation, rules, found):
    """Follow the paths of all targets; the last column of ``lams`` (n_targets, n) is the floor.

    Shapes are those of :class:`mdhelpers.method.engines.problem.LassoProblem`; all of one floating
    type.
    """
    n_train = len(gram)
    vector = np.zeros(n_train, gram.dtype)
    gradients = Gradients(vector.copy(), vector.copy(), np.zeros(_CHUNK))
    capacity = int(_ROOM * n_train)
    chosen = Set(
        np.zeros(n_train, np.int64),
        np.zeros(n_train, np.bool_),
        np.empty((capacity, capacity), gram.dtype),  # memory is taken as it is first written
        vector.copy(),
        vector.copy(),
        vector.copy(),
        np.zeros((2, _PAST + 1, n_train), gram.dtype),
    )
    for t in range(len(cross)):
        target = Target(
            cross[t],
            variance[t],
            lams[t],
            validation.targets[t],
            rules.reach[t],
            found.weights[t],
            found.errors[t],
            found.gaps[t],
        )
        found.index[t] = _follow_one(gram, target, validation, rules, chosen, gradients)


@_jit
def _follow_one(gram, target, validation, rules, chosen, gradients):
    """Follow one path; gives the index of its best penalty."""
    block, n = _begin(gram, target, chosen, gradients)
    lams, best = target.lams, np.int64(0)
    for k in range(len(lams)):
        if k < rules.first or target.variance == 0:
            target.gaps[k] = 0
        else:
            now, before = lams[max(k - 1, 0)], lams[max(k - 2, 0)]
            wanted = _select(chosen, n, gradients, before, now, lams[k])
            gradients.before[:] = gradients.now
            block, n = _with_columns(gram, block, chosen, n, wanted)
            block, n = _solve(gram, block, chosen, n, target, k, gradients, rules)
        target.errors[k] = _error(chosen, n, validation, target.margins)
        if k == 0 or target.errors[k] < target.errors[best]:
            best = k
            _spread(chosen, n, target.weights)
        if target.variance == 0 or _stops(k, best, rules, target.reach):
            break
    return best


@_jit
def _solve(gram, block, chosen, n, target, k, gradients, rules):
    """Solve at the ``k``-th penalty, taking in columns until the full gap is small."""
    lam, tol = target.lams[k], rules.tol * target.variance
    for tries in range(_RETRIES):
        _load(chosen, n, target.cross, gradients.now)
        sweeps = _descend(block, chosen, n, target, lam, 0.9 * tol / 2**tries, rules.max_sweeps)
        _refresh(gram, target.cross, chosen, n, gradients)
        _load(chosen, n, target.cross, gradients.now)
        top = _largest(gradients.now, len(gram))
        target.gaps[k] = _gap(chosen, n, lam, target.variance, top)
        if target.gaps[k] <= tol or sweeps == rules.max_sweeps:
            break
        wanted = _select(chosen, n, gradients, lam, lam, lam)
        block, n = _with_columns(gram, block, chosen, n, wanted)
    return block, n


@_jit
def _stops(last, best, rules, reach):
    if last < reach:
        return False
    return last - best >= rules.patience or (last == rules.n_lams - 1 and best < last)


@_jit
def _begin(gram, target, chosen, gradients):
    """Empty the working set, or fill it with the columns of a start; their full gradient."""
    chosen.inside[:] = False
    n = np.int64(0)
    for j in range(len(gram)):
        if target.weights[j] != 0:
            chosen.columns[n] = j
            chosen.inside[j] = True
            n += 1
    block, n = _with_columns(gram, chosen.block, chosen, np.int64(0), n)
    for i in range(n):
        chosen.weights[i] = target.weights[chosen.columns[i]]
    _refresh(gram, target.cross, chosen, n, gradients)
    return block, n


@_jit
def _select(chosen, n, gradients, before, now, ahead):
    """Columns that violate optimality at penalty ``now`` or, it seems, will at ``ahead``.

    Gradients are extrapolated from the penalty ``before``; where there is none (``before`` is not
    above ``now``) the strong rule decides. Returns the size of the working set with them.
    """
    reach = (now - ahead) / (before - now) if before > now else 0.0
    bound = (1 - _CAUTION) * ahead if before > now else 2 * ahead - now
    for j in range(len(chosen.inside)):
        g = gradients.now[j]
        if not chosen.inside[j] and (
            abs(g) >= now or abs(g + reach * (g - gradients.before[j])) >= bound
        ):
            chosen.inside[j] = True
            chosen.columns[n] = j
            n += 1
    return n


@_jit
def _with_columns(gram, block, chosen, n, wanted):
    """Block and size of the working set once columns ``n`` to ``wanted`` are in it."""
    if wanted > len(block):
        return gram, _take_all(chosen, n)
    _admit(gram, block, chosen, n, wanted)
    return block, wanted


@_jit
def _admit(gram, block, chosen, n, wanted):
    """Copy the part of the Gram matrix that belongs to columns ``n`` to ``wanted``."""
    columns = chosen.columns
    for p in range(n, wanted):
        row, part = gram[columns[p]], block[p]
        chosen.weights[p] = 0
        for i in range(wanted):
            part[i] = row[columns[i]]
    for i in range(n):
        part = block[i]
        for p in range(n, wanted):
            part[p] = block[p, i]


@_jit
def _take_all(chosen, n):
    """Make all columns the working set, in their own order: the Gram matrix is then its block."""
    n_train = len(chosen.inside)
    weights = np.zeros_like(chosen.weights)
    for i in range(n):
        weights[chosen.columns[i]] = chosen.weights[i]
    for j in range(n_train):
        chosen.weights[j] = weights[j]
        chosen.columns[j] = j
        chosen.inside[j] = True
    return n_train


@_jit
def _load(chosen, n, cross, gradient):
    for i in range(n):
        chosen.slopes[i] = gradient[chosen.columns[i]]
        chosen.cross[i] = cross[chosen.columns[i]]


@_jit
def _descend(block, chosen, n, target, lam, tol, max_sweeps):
    """Sweep until the gap within the working set is small, or steps are of the size of rounding.

    Returns the number of sweeps.
    """
    picked, steps = np.zeros(_GROUP, np.int64), np.zeros(_GROUP, chosen.weights.dtype)
    rounding = 4 * np.finfo(chosen.weights.dtype).eps
    for sweep in range(max_sweeps):
        step = _sweep(block, chosen, n, lam, picked, steps)
        gap = _gap(chosen, n, lam, target.variance, _largest(chosen.slopes, n))
        if gap <= tol or step <= rounding * _largest(chosen.weights, n):
            return sweep + 1
        place = sweep % (_PAST + 1)
        chosen.past[0, place, :n] = chosen.weights[:n]
        chosen.past[1, place, :n] = chosen.slopes[:n]
        if place == _PAST:
            _extrapolate(chosen, n, lam, _shares(chosen.past[0], n))
    return max_sweeps


@_jit
def _shares(past, n):
    """Shares, with a sum of one, of the last sweeps in Anderson's extrapolation of their limit."""
    products = np.zeros((_PAST, _PAST))
    for a in range(_PAST):
        for b in range(a + 1):
            total = 0.0
            for i in range(n):
                total += (past[a + 1, i] - past[a, i]) * (past[b + 1, i] - past[b, i])
            products[a, b] = total
            products[b, a] = total
    ridge = 1e-8 * np.trace(products) + 1e-300
    shares = np.linalg.solve(products + ridge * np.eye(_PAST), np.ones(_PAST))
    return shares / shares.sum()


@_jit
def _extrapolate(chosen, n, lam, shares):
    """Mix the last sweeps' weights, and their slopes alike, if that lowers the objective."""
    past = chosen.past
    before, after = 0.0, 0.0
    for i in range(n):
        weight, slope = 0.0, 0.0
        for a in range(_PAST):
            weight += shares[a] * past[0, a + 1, i]
            slope += shares[a] * past[1, a + 1, i]
        past[0, 0, i] = weight
        past[1, 0, i] = slope
        after += lam * abs(weight) - weight * (chosen.cross[i] + slope) / 2
        weight, slope = chosen.weights[i], chosen.slopes[i]
        before += lam * abs(weight) - weight * (chosen.cross[i] + slope) / 2
    if after < before:
        chosen.weights[:n] = past[0, 0, :n]
        chosen.slopes[:n] = past[1, 0, :n]


@_jit
def _sweep(block, chosen, n, lam, picked, steps):
    """Coordinate descent once through the working set; returns the largest step.

    Slopes follow after each group of columns, all at once.
    """
    weights, slopes = chosen.weights, chosen.slopes
    i, largest = 0, lam - lam
    while i < n:
        size = 0
        while i < n and size < _GROUP:
            if weights[i] != 0 or abs(slopes[i]) > lam:
                picked[size] = i
                size += 1
            i += 1
        for a in range(size):
            p = picked[a]
            row = block[p]
            z = slopes[p] + weights[p] * row[p]
            for b in range(a):
                z -= steps[b] * row[picked[b]]
            new = _shrink(z, lam) / row[p] if row[p] > 0 else lam - lam
            steps[a] = new - weights[p]
            weights[p] = new
            largest = max(largest, abs(steps[a]))
        if size:
            steps[size:] = 0
            picked[size:] = picked[0]
            _subtract(block, picked, steps, slopes, n)
    return largest


@_jit
def _shrink(z, threshold):
    if z > threshold:
        return z - threshold
    if z < -threshold:
        return z + threshold
    return z - z


@_jit
def _subtract(block, picked, steps, slopes, n):
    """``slopes[:n] -= steps @ block[picked, :n]``."""
    for a in range(0, _GROUP, 4):
        s0, s1, s2, s3 = steps[a], steps[a + 1], steps[a + 2], steps[a + 3]
        r0, r1 = block[picked[a]], block[picked[a + 1]]
        r2, r3 = block[picked[a + 2]], block[picked[a + 3]]
        for q in range(n):
            slopes[q] -= (s0 * r0[q] + s1 * r1[q]) + (s2 * r2[q] + s3 * r3[q])


@_jit
def _gap(chosen, n, lam, variance, largest):
    """Duality gap of the weights if no gradient is larger than ``largest``."""
    fitted, correlated, length = 0.0, 0.0, 0.0
    for i in range(n):
        fitted += np.float64(chosen.weights[i]) * chosen.cross[i]
        correlated += np.float64(chosen.weights[i]) * chosen.slopes[i]
        length += abs(chosen.weights[i])
    squared = max(variance - fitted - correlated, 0.0)
    scale = min(1.0, lam / max(largest, 1e-30))
    return squared / 2 + lam * length - scale * (variance - fitted) + scale * scale * squared / 2


@_jit
def _largest(values, n):
    top = values[0] - values[0]
    for i in range(n):
        top = max(top, abs(values[i]))
    return top


@_jit
def _error(chosen, n, validation, margins):
    """Mean squared error of the current weights on the validation models."""
    n_valid = len(validation.slots)
    predicted = np.zeros(n_valid, chosen.weights.dtype)
    shift = np.zeros(validation.means.shape[1], chosen.weights.dtype)
    for i in range(n if n_valid else 0):
        if chosen.weights[i] != 0:
            column = chosen.columns[i]
            weight = chosen.weights[i] / validation.scale[column]
            seen, means = validation.masks[column], validation.means[column]
            for v in range(n_valid):
                predicted[v] += weight * seen[v]
            for s in range(len(shift)):
                shift[s] += weight * means[s]
    total = 0.0
    for v in range(n_valid):
        total += (margins[v] - predicted[v] + shift[validation.slots[v]]) ** 2
    return total / max(n_valid, 1)


@_jit
def _refresh(gram, cross, chosen, n, gradients):
    """Full gradient, ``cross - weights @ gram[columns]``."""
    rows = np.zeros(n + _GROUP, np.int64)
    weights = np.zeros(n + _GROUP, cross.dtype)
    n_rows = 0
    for i in range(n):
        if chosen.weights[i] != 0:
            rows[n_rows] = chosen.columns[i]
            weights[n_rows] = chosen.weights[i]
            n_rows += 1
    sums = gradients.sums
    for low in range(0, len(cross), _CHUNK):
        high = min(low + _CHUNK, len(cross))
        sums[:] = 0
        for a in range(0, n_rows, _GROUP):
            _add_rows(gram, rows[a : a + _GROUP], weights[a : a + _GROUP], low, high, sums)
        for q in range(high - low):
            gradients.now[low + q] = cross[low + q] - sums[q]


@_jit
def _add_rows(gram, rows, weights, low, high, sums):
    """``sums += weights @ gram[rows, low:high]`` for ``_GROUP`` rows."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    w4, w5, w6, w7 = weights[4], weights[5], weights[6], weights[7]
    r0, r1, r2 = gram[rows[0], low:high], gram[rows[1], low:high], gram[rows[2], low:high]
    r3, r4, r5 = gram[rows[3], low:high], gram[rows[4], low:high], gram[rows[5], low:high]
    r6, r7 = gram[rows[6], low:high], gram[rows[7], low:high]
    for q in range(high - low):
        first = (w0 * r0[q] + w1 * r1[q]) + (w2 * r2[q] + w3 * r3[q])
        second = (w4 * r4[q] + w5 * r5[q]) + (w6 * r6[q] + w7 * r7[q])
        sums[q] += first + second


@_jit
def _spread(chosen, n, weights):
    """Write the working set's weights out over all columns."""
    weights[:] = 0
    for i in range(n):
        weights[chosen.columns[i]] = chosen.weights[i]
